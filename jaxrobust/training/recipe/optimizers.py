"""Optimizers: transformations of Optax, built of numbers that may be traced.

One of ours is a function of the settings and a line in `OPTIMIZERS`; a user's own one
is any `(learning_rate, weight_decay) -> optax.GradientTransformation`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import optax

from jaxrobust.arguments import require, require_in
from jaxrobust.pytrees import Pytree, static
from jaxrobust.references import function_of, name_of, require_function
from jaxrobust.training.recipe.schedules import (
    RATE_SCHEDULES,
    RateSchedule,
    rate_factors,
)

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

    name: str | Callable[..., optax.GradientTransformation] = static(default="adam")
    """adam, adamw, or sgd with momentum; or one of your own, path.py:NAME or
    package.module:NAME (in Python also a function at the top of a module), a function
    of learning rate and weight decay that returns an Optax transformation."""
    learning_rate: float = 0.001
    """Step length, before what follows changes it."""
    schedule: str | RateSchedule = static(default="constant")
    """How it goes over the steps of the phase. linear: down to 0. cosine: down to 0 as
    half a cosine. cyclic: up from 0 until the middle, and down to 0. Or one of your
    own, path.py:NAME or package.module:NAME (in Python also a function at the top of a
    module), from an array of shares of the phase that are done to factors."""
    warmup_epochs: float = static(default=0)
    """Epochs of the phase, or parts of one, in which it grows from 0 to what it is."""
    milestones: tuple[int, ...] = static(default=())
    """Epochs of the phase after which it is multiplied by `decay`."""
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
        require_function(self.name, OPTIMIZERS, what="optimizer.name")
        require_function(self.schedule, RATE_SCHEDULES, what="schedule")
        remedy = "it counts epochs of the phase; 0 switches it off"
        require_in("warmup_epochs", self.warmup_epochs, "[0, inf)", remedy)
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

    def learning_rates(self, epoch: int, epochs: int, num_batches: int) -> np.ndarray:
        """Learning rate in each step of an epoch of the phase, `(num_batches,)`.

        A step has the rate of its middle, so that none is 0.

        Args:
            epoch: counted from 1.
            epochs: of the phase.
            num_batches: in an epoch.
        """
        done = epoch - 1 + (np.arange(num_batches) + 0.5) / num_batches
        passed = sum(epoch > milestone for milestone in self.milestones)
        rates = self.learning_rate * self.decay**passed * np.ones(num_batches)
        rates *= rate_factors(self.schedule, done / epochs)
        if self.warmup_epochs:
            # In this order, since a quotient by next to nothing overflows.
            rates *= np.minimum(done, self.warmup_epochs) / self.warmup_epochs
        return rates

    def at(self, epoch: int, epochs: int, num_batches: int) -> "OptimizerConfig":
        """These settings with the rates of an epoch, see `learning_rates`."""
        rates = self.learning_rates(epoch, epochs, num_batches)
        return dataclasses.replace(self.unscheduled(), learning_rate=rates)

    def unscheduled(self) -> "OptimizerConfig":
        """These settings with the learning rate as it is given, in every step."""
        plain = OptimizerConfig()
        names = ("schedule", "warmup_epochs", "milestones", "decay")
        changes = {name: getattr(plain, name) for name in names}
        return dataclasses.replace(self, **changes)

    def build(self) -> optax.GradientTransformation:
        """The transformation.

        Raises:
            ValueError: if an optimizer of the user's own cannot be found.
            TypeError: if it builds something else.
        """
        clip = optax.identity()
        if self.clip_norm is not None:
            clip = optax.clip_by_global_norm(self.clip_norm)
        if isinstance(self.name, str) and self.name in OPTIMIZERS:
            return optax.chain(clip, *OPTIMIZERS[self.name](self))
        return optax.chain(clip, self._own())

    def _own(self) -> optax.GradientTransformation:
        maker = function_of(self.name, {}, what="optimizer.name")
        rule = maker(self.learning_rate, self.weight_decay)
        if not isinstance(rule, optax.GradientTransformation):
            raise TypeError(
                "`optimizer.name` must name a function of learning rate and weight "
                f"decay that returns an optax.GradientTransformation, got "
                f"{name_of(self.name)!r}, which returns a {type(rule).__name__}."
            )
        return rule
