"""Adversarial training and evaluation at large perturbations, in JAX."""

__version__ = "0.1.0"
