"""Numbers made of what an evaluation found: intervals, curves, smallest radii."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arguments import require_count, require_shape
from jaxrobust.attacks import AttackBuilder, fab
from jaxrobust.data import Dataset, as_float
from jaxrobust.evaluation.intervals import Interval, wilson_interval
from jaxrobust.evaluation.outcome import Evaluation
from jaxrobust.evaluation.preflight import among_strangers, require_independent
from jaxrobust.evaluation.robustness import Attacks, evaluate
from jaxrobust.keys import seeded
from jaxrobust.precision import JUDGED, at_precision
from jaxrobust.threat import threat_of
from jaxrobust.types import Images, LogitsFn

__all__ = [
    "ClassSuccess",
    "MinimalEpsilons",
    "accuracy_curve",
    "accuracy_under_attack",
    "labelled_by_model",
    "minimal_epsilons",
    "robustness_wrt_predictions",
    "success_by_class",
]


def accuracy_curve(
    minimal_epsilons: np.ndarray, epsilons: Sequence[float]
) -> np.ndarray:
    """Robust accuracy at each radius, in [0, 1], from the smallest that break.

    Args:
        minimal_epsilons: `(examples,)`; 0 where the clean image is lost, inf where
            nothing was found.
        epsilons: radii, in the same unit. At its own smallest radius an example is
            broken, since balls are closed.
    """
    smallest = np.asarray(minimal_epsilons)
    return np.array([np.mean(smallest > epsilon) for epsilon in epsilons])


@dataclasses.dataclass(frozen=True)
class MinimalEpsilons:
    """How far each example is from the nearest mistake that an attack found.

    Attributes:
        epsilons: `(examples,)`, in the norm asked for and units of [0, 1] pixels; 0
            where the clean image is lost, inf where nothing was found. An upper bound
            of the true distance.
    """

    epsilons: np.ndarray

    def __repr__(self) -> str:
        num_left = int(np.sum(np.isinf(self.epsilons)))
        text = f"{len(self.epsilons):,} examples: median {self.median:.4g}"
        return f"MinimalEpsilons({text}, {num_left:,} not broken)"

    @property
    def median(self) -> float:
        """Over all examples, also those lost on the clean image; may be inf."""
        return float(np.quantile(self.epsilons, 0.5, method="lower"))

    def curve(self, epsilons: Sequence[float]) -> np.ndarray:
        """Robust accuracy at each radius, in [0, 1]."""
        return accuracy_curve(self.epsilons, epsilons)


def minimal_epsilons(
    logits_fn: LogitsFn,
    dataset: Dataset,
    *,
    norm: str = "linf",
    attack: AttackBuilder = fab,
    batch_size: int = 100,
    seed: int = 0,
) -> MinimalEpsilons:
    """The smallest perturbation of each example that an attack finds.

    The attack gets a ball that holds every image, and the norm of what it found counts;
    so it should look for small perturbations, as `fab` does. All of it is computed with
    the highest precision of matrix products.

    Args:
        logits_fn: model in evaluation mode; images in [0, 1] to logits.
        dataset: examples; each counts exactly once.
        norm: linf or l2.
        attack: builds the attack from the threat model.
        batch_size: images attacked at once, at least 1.
        seed: of what the attack draws; its answer to an example depends on the example
            and the seed alone.

    Raises:
        ValueError: for an unknown norm, a batch size below 1, or a model whose answers
            depend on the other images of the batch.
    """
    kind = threat_of(norm)
    require_count("batch_size", batch_size, "100 is usual")
    # A hair more than the diameter, which a norm known up to rounding may exceed.
    threat = kind(kind.diameter(dataset.images.shape[1:]) * 1.001)
    base_key = seeded(seed)

    def smallest(
        index: jax.Array, image: jax.Array, label: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        clean, labels = image[None], label[None]
        key = jax.random.fold_in(base_key, index)
        found = attack(threat)(key, logits_fn, clean, labels)
        is_wrong = jnp.argmax(logits_fn(clean), axis=-1)[0] != label
        distance = threat.norm(found.images - clean)[0]
        distance = jnp.where(found.is_adversarial[0], distance, jnp.inf)
        return jnp.where(is_wrong, 0.0, distance), found.is_gradient_finite[0]

    answer = jax.jit(at_precision(JUDGED, lambda images: logits_fn(as_float(images))))
    few = jnp.asarray(dataset.images[np.resize(np.arange(len(dataset)), 8)])
    require_independent(
        lambda is_stranger: answer(among_strangers(few, is_stranger, few[0])), 8
    )
    # The nearest image lies at the boundary, which the last bits of the logits decide.
    program = jax.jit(at_precision(JUDGED, jax.vmap(smallest)))
    count, size = len(dataset), min(batch_size, len(dataset))
    distances = np.zeros(count)
    for start in range(0, count, size):
        group = np.arange(start, min(start + size, count))
        chosen = np.resize(group, size)
        images = as_float(jnp.asarray(dataset.images[chosen]))
        values, _ = program(chosen, images, dataset.labels[chosen])
        distances[group] = np.asarray(values)[: len(group)]
    return MinimalEpsilons(distances)


@dataclasses.dataclass(frozen=True)
class ClassSuccess:
    """What an attack did to the examples of one class that the model got right.

    Attributes:
        num_correct: examples that were right on the clean image.
        num_broken: those of them that the attack broke.
    """

    num_correct: int
    num_broken: int

    @property
    def share(self) -> float:
        """Success of the attack, in [0, 1]; NaN if there was nothing to break."""
        return self.num_broken / self.num_correct if self.num_correct else math.nan

    def interval(self, confidence: float = 0.95) -> Interval:
        """Wilson interval of the share; all of [0, 1] if there was nothing to break."""
        if not self.num_correct:
            return 0.0, 1.0
        return wilson_interval(self.num_broken, self.num_correct, confidence=confidence)


def success_by_class(
    evaluation: Evaluation, labels: np.ndarray, epsilon: float
) -> dict[int, ClassSuccess]:
    """Success of the attack at a radius, for each class that occurs.

    Args:
        evaluation: of the examples that the labels belong to.
        labels: `(examples,)`, true classes.
        epsilon: one of the radii of the evaluation.

    Raises:
        ValueError: for another radius, or another number of labels.
    """
    stands = evaluation.at(epsilon)
    remedy = "give the labels of the data set evaluated"
    require_shape("labels", labels, (evaluation.num_examples,), remedy)
    right = evaluation.is_clean_correct
    return {
        int(label): ClassSuccess(
            int(np.sum(right & (labels == label))),
            int(np.sum(right & ~stands & (labels == label))),
        )
        for label in np.unique(labels)
    }


def accuracy_under_attack(
    evaluation: Evaluation, epsilon: float, *, among_correct: bool = False
) -> float:
    """Share of examples still classified rightly under attack, in [0, 1].

    Args:
        evaluation: what the attack found.
        epsilon: one of its radii.
        among_correct: False is definition (ii), over all examples, where one lost on
            the clean image counts as lost; it is that of tables. True is (i), among
            those right on the clean image; NaN if there are none.

    Raises:
        ValueError: for another radius.

    References:
        Wen et al., 2020, arXiv:2011.07478, which defines it in both ways.
    """
    stands = evaluation.at(epsilon)
    if not among_correct:
        return float(np.mean(stands))
    right = evaluation.is_clean_correct
    return float(np.mean(stands[right])) if right.any() else math.nan


def labelled_by_model(
    logits_fn: LogitsFn, dataset: Dataset, *, batch_size: int = 250
) -> Dataset:
    """The data set with the predictions of a model in place of the labels.

    Args:
        logits_fn: model in evaluation mode; images in [0, 1] to logits.
        dataset: examples; their labels do not count.
        batch_size: images seen at once, at least 2 in fact, which changes no answer.

    Raises:
        ValueError: for a model whose answers depend on the other images of the batch.
    """

    def answered(images: Images) -> tuple[jax.Array, jax.Array]:
        logits = logits_fn(as_float(images))
        return logits, jnp.argmax(logits, axis=-1)

    predict = jax.jit(at_precision(JUDGED, answered))
    size = max(min(batch_size, len(dataset)), 2)
    first = jnp.asarray(dataset.images[np.resize(np.arange(len(dataset)), size)])
    require_independent(
        lambda is_stranger: predict(among_strangers(first, is_stranger, first[0]))[0],
        size,
    )
    labels = np.zeros(len(dataset), np.int32)
    for start in range(0, len(dataset), size):
        group = np.arange(start, min(start + size, len(dataset)))
        _, predicted = predict(dataset.images[np.resize(group, size)])
        labels[group] = np.asarray(predicted)[: len(group)]
    return dataclasses.replace(dataset, labels=labels)


def robustness_wrt_predictions(
    logits_fn: LogitsFn,
    dataset: Dataset,
    attacks: Attacks,
    epsilons: Sequence[float],
    **options: Any,
) -> Evaluation:
    """Which predictions attacks cannot change, right or wrong ones.

    The attacks maximize the loss of the clean prediction, which takes the place of the
    label; so the result's clean accuracy is 1, and its `robust_accuracy` the share of
    examples whose prediction stays.

    Args:
        logits_fn: model in evaluation mode; images in [0, 1] to logits.
        dataset: examples; each counts exactly once, its label not at all.
        attacks: see `evaluate`.
        epsilons: radii, in units of [0, 1] pixels.
        **options: see `evaluate`.
    """
    predicted = labelled_by_model(logits_fn, dataset)
    return evaluate(logits_fn, predicted, attacks, epsilons, **options)
