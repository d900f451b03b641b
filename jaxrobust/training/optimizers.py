"""Optimizers: transformations of Optax, built of numbers that may be traced.

One of ours is a function of the settings and a line in `OPTIMIZERS`; a user's own one
is any `(learning_rate, weight_decay) -> optax.GradientTransformation`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

from jaxrobust.arguments import require, require_choice, require_in
from jaxrobust.pytrees import Pytree, static
from jaxrobust.references import is_reference, resolve

__all__ = ["OPTIMIZERS", "OptimizerConfig"]

Steps = tuple[optax.GradientTransformation, ...]


def _adam(settings: "OptimizerConfig") -> Steps:
    decay = optax.add_decayed_weights(settings.weight_decay)
    return decay, optax.adam(settings.learning_rate)


def _adamw(settings: "OptimizerConfig") -> Steps:
    rate, decay = settings.learning_rate, settings.weight_decay
    return (optax.adamw(rate, weight_decay=decay),)


def _sgd(settings: "OptimizerConfig") -> Steps:
    decay = optax.add_decayed_weights(settings.weight_decay)
    return decay, optax.sgd(settings.learning_rate, momentum=settings.momentum)


OPTIMIZERS: dict[str, Callable[["OptimizerConfig"], Steps]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
}
"""What is done to a gradient, in order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Pytree):
    """The Optax optimizer of a phase. Numbers are leaves: none of them recompiles.

    Raises:
        ValueError: for an unknown name or a number out of range.
    """

    name: str = static(default="adam")
    """adam, adamw, or sgd with momentum; or one of your own, path.py:NAME or
    package.module:NAME, a function of learning rate and weight decay that returns an
    Optax transformation."""
    learning_rate: float = 0.001
    """Step length before any milestone."""
    milestones: tuple[int, ...] = static(default=())
    """Epochs of the phase after which the learning rate is multiplied by `decay`."""
    decay: float = 0.1
    """Factor at each milestone."""
    momentum: float = 0.9
    """Of sgd; others ignore it."""
    weight_decay: float = 0.0
    """adam and sgd: L2 term added to the gradient, wd * weights, as in PyTorch's SGD.
    adamw: decay of the weights themselves, multiplied by the learning rate."""
    clip_norm: float | None = None
    """Largest global norm of a gradient; None for no clipping."""

    def __post_init__(self):
        if not is_reference(self.name):
            require_choice("optimizer.name", self.name, tuple(OPTIMIZERS))
        for field in ("learning_rate", "decay"):
            require_in(field, getattr(self, field), "(0, inf)", "try 0.001")
        for field in ("momentum", "weight_decay"):
            require_in(field, getattr(self, field), "[0, inf)", "0 switches it off")
        if self.clip_norm is not None:
            remedy = "None switches clipping off"
            require_in("clip_norm", self.clip_norm, "(0, inf)", remedy)
        require(
            list(self.milestones) == sorted(set(self.milestones)),
            "milestones",
            "increasing",
            self.milestones,
            "list each epoch once, in order",
        )

    def learning_rate_at(self, epoch: int) -> float:
        """Learning rate in an epoch of the phase, counted from 1."""
        passed = sum(epoch > milestone for milestone in self.milestones)
        return self.learning_rate * self.decay**passed

    def at(self, epoch: int) -> "OptimizerConfig":
        """These settings with the learning rate of an epoch, and no schedule."""
        rate = self.learning_rate_at(epoch)
        return dataclasses.replace(self, learning_rate=rate, milestones=(), decay=1.0)

    def build(self) -> optax.GradientTransformation:
        """The transformation.

        Raises:
            ValueError: if an optimizer of the user's own cannot be found.
            TypeError: if it builds something else.
        """
        if self.name in OPTIMIZERS:
            steps = OPTIMIZERS[self.name](self)
        else:
            steps = (_own(self.name, self.learning_rate, self.weight_decay),)
        clip = optax.identity()
        if self.clip_norm is not None:
            clip = optax.clip_by_global_norm(self.clip_norm)
        return optax.chain(clip, *steps)


def _own(name: str, *numbers: Any) -> optax.GradientTransformation:
    rule = resolve(name, what="optimizer.name").value(*numbers)
    if not isinstance(rule, optax.GradientTransformation):
        raise TypeError(
            f"`optimizer.name` must name a function of learning rate and weight decay "
            f"that returns an optax.GradientTransformation, got {name!r}, which "
            f"returns a {type(rule).__name__}."
        )
    return rule
