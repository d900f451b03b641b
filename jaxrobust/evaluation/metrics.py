"""Numbers made of what an evaluation found: intervals, curves, smallest radii."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arguments import (
    require,
    require_choice,
    require_count,
    require_in,
    require_shape,
)
from jaxrobust.attacks import Attack, fab
from jaxrobust.data import Dataset, as_float
from jaxrobust.evaluation.preflight import among_strangers, require_independent
from jaxrobust.evaluation.robustness import (
    Evaluation,
    EvaluationConfig,
    evaluate,
)
from jaxrobust.threat import THREATS, ThreatModel
from jaxrobust.types import Images, LogitsFn

__all__ = [
    "ClassSuccess",
    "Interval",
    "MinimalEpsilons",
    "accuracy_curve",
    "accuracy_under_attack",
    "labelled_by_model",
    "minimal_epsilons",
    "robustness_wrt_predictions",
    "success_by_class",
    "wilson_interval",
]

Interval = tuple[float, float]


def wilson_interval(
    successes: int, trials: int, *, confidence: float = 0.95
) -> Interval:
    r"""The Wilson score interval of a share.

    The shares :math:`p` with :math:`|k/n - p| \le z \sqrt{p (1 - p) / n}`. Unlike the
    usual interval it lies in [0, 1] and has a length even for a share of 0 or 1.

    Args:
        successes: how often it happened, in [0, trials].
        trials: how often it could, at least 1.
        confidence: in (0, 1).

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        ValueError: for a number out of range.

    References:
        Wilson, 1927, Journal of the American Statistical Association 22.
    """
    require_count("trials", trials, "count one example at least")
    remedy = "count the same examples as in `trials`"
    require_count("successes", successes, remedy, least=0, most=trials)
    require_in("confidence", confidence, "(0, 1)", "0.95 is usual")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, squared = successes / trials, z * z / trials
    center = (share + squared / 2) / (1 + squared)
    half = z * math.sqrt(share * (1 - share) / trials + squared / (4 * trials))
    half /= 1 + squared
    # The ends are exact there, but rounding would miss them.
    lower = 0.0 if successes == 0 else max(center - half, 0.0)
    upper = 1.0 if successes == trials else min(center + half, 1.0)
    return lower, upper


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
    attack: Callable[[ThreatModel], Attack] = fab,
    batch_size: int = 100,
    seed: int = 0,
) -> MinimalEpsilons:
    """The smallest perturbation of each example that an attack finds.

    The attack gets a ball that holds every image, and the norm of what it found counts;
    so it should look for small perturbations, as `fab` does.

    Args:
        logits_fn: model in evaluation mode; images in [0, 1] to logits.
        dataset: examples; each counts exactly once.
        norm: linf or l2.
        attack: from the threat model to the attack.
        batch_size: images attacked at once, at least 1.
        seed: of what the attack draws; its answer to an example depends on the example
            and the seed alone.

    Raises:
        ValueError: for an unknown norm, a batch size below 1, or a model whose answers
            depend on the other images of the batch.
    """
    require_choice("norm", norm, tuple(THREATS))
    require_count("batch_size", batch_size, "100 is usual")
    num_pixels = int(np.prod(dataset.images.shape[1:]))
    # A hair more than the diagonal, which a norm known up to rounding may exceed.
    radius = 1.0 if norm == "linf" else math.sqrt(num_pixels) * 1.001
    threat = THREATS[norm](radius)
    base_key = jax.random.key(seed, impl="threefry2x32")

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

    answer = jax.jit(lambda images: logits_fn(as_float(images)))
    few = jnp.asarray(dataset.images[np.resize(np.arange(len(dataset)), 8)])
    require_independent(
        lambda is_stranger: answer(among_strangers(few, is_stranger, few[0])), 8
    )
    program = jax.jit(jax.vmap(smallest))
    count, size = len(dataset), min(batch_size, len(dataset))
    found = np.zeros(count)
    for start in range(0, count, size):
        group = np.arange(start, min(start + size, count))
        chosen = np.resize(group, size)
        images = as_float(jnp.asarray(dataset.images[chosen]))
        values, _ = program(chosen, images, dataset.labels[chosen])
        found[group] = np.asarray(values)[: len(group)]
    return MinimalEpsilons(found)


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
    stands = _flags_at(evaluation, epsilon)
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
    """Share of examples still classified rightly under attack, in [0, 1]: SW-A3.

    Args:
        evaluation: what the attack found.
        epsilon: one of its radii.
        among_correct: False is definition (ii), over all examples, where one lost on
            the clean image counts as lost; it is that of tables. True is (i), among
            those right on the clean image; NaN if there are none.

    Raises:
        ValueError: for another radius.
    """
    stands = _flags_at(evaluation, epsilon)
    if not among_correct:
        return float(np.mean(stands))
    right = evaluation.is_clean_correct
    return float(np.mean(stands[right])) if right.any() else math.nan


def _flags_at(evaluation: Evaluation, epsilon: float) -> np.ndarray:
    rule = f"one of {', '.join(f'{radius:g}' for radius in evaluation.is_robust)}"
    is_known = epsilon in evaluation.is_robust
    require(is_known, "epsilon", rule, epsilon, "evaluate at that radius too")
    return evaluation.is_robust[epsilon]


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

    @jax.jit
    def predict(images: Images) -> tuple[jax.Array, jax.Array]:
        logits = logits_fn(as_float(images))
        return logits, jnp.argmax(logits, axis=-1)

    size = max(min(batch_size, len(dataset)), 2)
    first = jnp.asarray(dataset.images[np.resize(np.arange(len(dataset)), size)])
    require_independent(
        lambda is_stranger: predict(among_strangers(first, is_stranger, first[0]))[0],
        size,
    )
    labels = np.zeros(len(dataset), np.int32)
    for start in range(0, len(dataset), size):
        group = np.arange(start, min(start + size, len(dataset)))
        _, found = predict(dataset.images[np.resize(group, size)])
        labels[group] = np.asarray(found)[: len(group)]
    return dataclasses.replace(dataset, labels=labels)


def robustness_wrt_predictions(
    logits_fn: LogitsFn,
    dataset: Dataset,
    config: EvaluationConfig,
) -> Evaluation:
    """Which predictions an attack cannot change, right or wrong ones: SN-A1.

    The attack maximizes the loss of the clean prediction, which takes the place of the
    label; so the result's clean accuracy is 1, and its `robust_accuracy` the share of
    examples whose prediction stays.

    Args:
        logits_fn: model in evaluation mode; images in [0, 1] to logits.
        dataset: examples; each counts exactly once, its label not at all.
        config: radii, attack and restarts.
    """
    predicted = labelled_by_model(logits_fn, dataset, batch_size=config.batch_size)
    return evaluate(logits_fn, predicted, config)
