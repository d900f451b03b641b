"""Clean and robust accuracy over every example, for any list of radii.

An example is robust at a radius if the model is right on the clean image and no
restart of the attack changes that. Examples that are already lost are not attacked
again: the rest is packed into batches of the same size, so nothing recompiles.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks import Attack, judge, num_steps_for, pgd
from jaxrobust.attacks.base import Keep
from jaxrobust.data import Dataset, as_float
from jaxrobust.losses import LossName
from jaxrobust.threat import THREATS
from jaxrobust.types import LogitsFn

__all__ = ["Evaluation", "EvaluationConfig", "evaluate"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The PGD evaluation; the default is LP-T1's (200 steps) with restarts.

    Raises:
        ValueError: for a radius, step size or count out of range.
    """

    epsilons: tuple[float, ...] = (0.3,)
    """Radii, in units of [0, 1] pixels."""
    norm: str = "linf"
    """Norm of the ball: linf or l2."""
    step_size: float = 0.01
    """Length of a step, in the same unit."""
    num_steps: int | None = 200
    """Steps of each restart; None takes floor(2.5 * epsilon / step_size)."""
    num_restarts: int = 5
    """Random starts for each example."""
    loss: LossName = "cross_entropy"
    """What the attack climbs."""
    keep: Keep = "last"
    """Iterate that counts."""
    batch_size: int = 250
    """Images attacked at once."""
    seed: int = 0
    """Of the random starts."""

    def __post_init__(self):
        for epsilon in self.epsilons:
            THREATS["linf"](epsilon)
        checks = (
            ("norm", self.norm in THREATS, f"one of {', '.join(THREATS)}"),
            ("step_size", self.step_size > 0, "positive"),
            (
                "num_steps",
                self.num_steps is None or self.num_steps >= 1,
                "at least 1 or None",
            ),
            ("num_restarts", self.num_restarts >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
        )
        for name, is_right, rule in checks:
            if not is_right:
                raise ValueError(
                    f"`{name}` must be {rule}, got {getattr(self, name)!r}; "
                    "see the help of `jaxrobust evaluate`."
                )

    def num_steps_at(self, epsilon: float) -> int:
        """Number of steps at a radius."""
        if self.num_steps is not None:
            return self.num_steps
        return int(num_steps_for(epsilon, self.step_size))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Which examples a model gets right, cleanly and under attack.

    Attributes:
        is_clean_correct: `(examples,)`.
        is_robust: for each radius, `(examples,)`; never more than `is_clean_correct`.
        num_bad_gradients: examples, summed over radii and restarts, whose attack met
            a gradient that is not finite: their robustness is not to be trusted.
    """

    is_clean_correct: np.ndarray
    is_robust: dict[float, np.ndarray]
    num_bad_gradients: int = 0

    @property
    def num_examples(self) -> int:
        """Number of examples, each counted once."""
        return len(self.is_clean_correct)

    @property
    def clean_accuracy(self) -> float:
        """Share of clean images classified rightly, in [0, 1]."""
        return float(np.mean(self.is_clean_correct))

    @property
    def robust_accuracy(self) -> dict[float, float]:
        """Share of images still classified rightly at each radius, in [0, 1]."""
        return {radius: float(np.mean(flag)) for radius, flag in self.is_robust.items()}

    def as_row(self) -> dict[str, Any]:
        """The accuracies with radii as printed, such as "0.4"."""
        robust = {f"{key:g}": value for key, value in self.robust_accuracy.items()}
        return {"clean_accuracy": self.clean_accuracy, "robust_accuracy": robust}


def _padded(indices: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Groups of exactly `size` indices, and how many of each are not padding."""
    for start in range(0, len(indices), size):
        group = indices[start : start + size]
        yield np.resize(group, size), len(group)


def evaluate(
    logits_fn: LogitsFn,
    dataset: Dataset,
    config: EvaluationConfig,
    *,
    attack_for: Callable[[jax.Array, jax.Array], Attack] | None = None,
    report: Callable[[str], None] | None = None,
) -> Evaluation:
    """Attack every example of a data set.

    Args:
        logits_fn: model in evaluation mode; images in [0, 1] to logits.
        dataset: examples; each counts exactly once.
        config: radii, attack and restarts.
        attack_for: `(epsilon, num_steps) -> attack`, both traced; None for the PGD of
            the configuration.
        report: told each finished radius.

    Returns:
        Flags for each example.

    Raises:
        ValueError: if the data set is empty.
    """
    if not len(dataset.labels):
        raise ValueError(
            f"`dataset` must hold examples, got none in {dataset.title!r}; "
            "choose another split."
        )

    def plain_pgd(epsilon: jax.Array, num_steps: jax.Array) -> Attack:
        return pgd(
            THREATS[config.norm](epsilon),
            step_size=config.step_size,
            num_steps=num_steps,
            loss=config.loss,
            keep=config.keep,
        )

    attack_of: Callable[[Any, Any], Attack] = attack_for or plain_pgd
    images, labels = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)

    @jax.jit
    def clean(chosen: jax.Array) -> jax.Array:
        return ~judge(logits_fn(as_float(images[chosen])), labels[chosen])

    @jax.jit
    def attacked(
        key: jax.Array, chosen: jax.Array, epsilon: jax.Array, num_steps: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        search = attack_of(epsilon, num_steps)
        found = search(key, logits_fn, as_float(images[chosen]), labels[chosen])
        return ~found.is_adversarial, found.is_gradient_finite

    size = min(config.batch_size, len(dataset.labels))
    is_correct = np.zeros(len(dataset.labels), bool)
    for chosen, count in _padded(np.arange(len(is_correct)), size):
        is_correct[chosen[:count]] = np.asarray(clean(jnp.asarray(chosen)))[:count]

    is_robust: dict[float, np.ndarray] = {}
    num_bad = 0
    base_key = jax.random.key(config.seed)
    for epsilon in config.epsilons:
        robust = is_correct.copy()
        num_steps = config.num_steps_at(epsilon)
        for restart in range(config.num_restarts):
            restart_key = jax.random.fold_in(base_key, restart)
            for index, (chosen, count) in enumerate(
                _padded(np.flatnonzero(robust), size)
            ):
                stays, is_finite = attacked(
                    jax.random.fold_in(restart_key, index),
                    jnp.asarray(chosen),
                    jnp.float32(epsilon),
                    jnp.int32(num_steps),
                )
                robust[chosen[:count]] = np.asarray(stays)[:count]
                num_bad += int(np.sum(~np.asarray(is_finite)[:count]))
        is_robust[epsilon] = robust
        if report is not None:
            report(f"epsilon {epsilon:g}: robust accuracy {np.mean(robust):.2%}")
    return Evaluation(is_correct, is_robust, num_bad)
