"""Adversarial training and evaluation at large perturbations, in JAX.

`jaxrobust.train` trains in one call; everything else is in the subpackages. They are
imported when they are first used: importing `jaxrobust` alone imports nothing, not even
jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "attacks",
    "bounds",
    "compilation",
    "concentration",
    "convolutions",
    "data",
    "evaluation",
    "hosts",
    "interop",
    "keeping",
    "keys",
    "launching",
    "limits",
    "losses",
    "networks",
    "plots",
    "precision",
    "pytrees",
    "report",
    "theory",
    "threat",
    "train",
    "training",
    "types",
]

if TYPE_CHECKING:
    from jaxrobust import (
        attacks,
        bounds,
        compilation,
        concentration,
        convolutions,
        data,
        evaluation,
        hosts,
        interop,
        keeping,
        keys,
        launching,
        limits,
        losses,
        networks,
        plots,
        precision,
        pytrees,
        report,
        theory,
        threat,
        training,
        types,
    )
    from jaxrobust.simple import train
else:
    # Type checkers must not see it: to them, every name would be there.
    def __getattr__(name: str) -> Any:
        if name == "train":
            return importlib.import_module("jaxrobust.simple").train
        if name in __all__:
            return importlib.import_module(f"jaxrobust.{name}")
        raise AttributeError(f"module 'jaxrobust' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
