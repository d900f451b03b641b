"""The variants of MNIST and CIFAR-10 in the tables of Ding et al."""

__all__ = ["BINARY", "CIFAR", "MNIST", "ORIGINAL", "SATURATED", "titled"]

ORIGINAL, BINARY = "original", "binary"

MNIST = (BINARY, ORIGINAL, *(f"smooth({size})" for size in range(2, 9)))
"""In the order of Table 2."""

SATURATED = (1, 1.5, 1.75, 2, 2.25, 2.5, 3, 4, 8, 16, 64, 128, 256, float("inf"))
"""Levels of Table 3; 2 is the original."""

CIFAR = tuple(f"saturate({level:g})" for level in SATURATED)
"""In the order of Table 3."""


def titled(variant: str) -> str:
    """The name of a variant in tables: "smooth 3" for "smooth(3)"."""
    if variant == "saturate(2)":
        return ORIGINAL
    for old, new in (("(", " "), (")", ""), ("binary", "binarized"), ("+", ", ")):
        variant = variant.replace(old, new)
    return variant
