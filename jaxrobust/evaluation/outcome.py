"""What an evaluation found: flags for each example, and the numbers made of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxrobust.arguments import require
from jaxrobust.evaluation.intervals import Interval, wilson_interval
from jaxrobust.precision import MatmulPrecision

__all__ = ["CLEAN_WRONG", "ROBUST", "AttackRow", "Evaluation", "Row", "place_of"]

CLEAN_WRONG, ROBUST = -2, -1
"""In the place of an attack: the clean image is lost, and no attack broke it."""


def place_of(epsilon: float, epsilons: Sequence[float], verb: str) -> int:
    """Where a radius stands among those that there are.

    Args:
        epsilon: one of them, up to the rounding of float64.
        epsilons: in the order asked for.
        verb: what to do for there to be another one, such as "evaluate".

    Raises:
        ValueError: for another radius.
    """
    is_near = np.isclose(epsilons, epsilon, rtol=1e-12, atol=0)
    rule = f"one of {', '.join(f'{radius:g}' for radius in epsilons)}"
    require(is_near.any(), "epsilon", rule, epsilon, f"{verb} at that radius too")
    return int(np.argmax(is_near))


@dataclasses.dataclass(frozen=True)
class AttackRow:
    """What one attack of an evaluation did; `dataclasses.asdict` makes it JSON.

    Attributes:
        name: of the attack.
        robust_accuracy: by radius as printed, the share in [0, 1] that this attack and
            those before it left.
        num_attacks: runs of it on one image at one radius.
        num_passes: images sent through the model, about, a gradient counted as two
            more; 0 if it is not known.
        num_bad_gradients: runs that met a gradient that is not finite.
        num_unconfirmed: runs whose image breaks the model at the attack's precision of
            matrix products, but not at the highest, which counts.
    """

    name: str
    robust_accuracy: dict[str, float]
    num_attacks: int
    num_passes: int
    num_bad_gradients: int
    num_unconfirmed: int


@dataclasses.dataclass(frozen=True)
class Row:
    """An evaluation as one row of a table; `dataclasses.asdict` makes it JSON.

    Attributes:
        num_images: examples, each counted once.
        clean_accuracy: share in [0, 1].
        clean_interval: its 95 % Wilson interval.
        robust_accuracy: by radius as printed, such as "0.4".
        robust_interval: by radius as printed.
        num_bad_gradients: attacks whose outcome is not to be trusted.
        matmul_precision: of the attacks' matrix products; images were judged at
            "highest".
        attacks: in the order in which they were run.
    """

    num_images: int
    clean_accuracy: float
    clean_interval: Interval
    robust_accuracy: dict[str, float]
    robust_interval: dict[str, Interval]
    num_bad_gradients: int
    matmul_precision: MatmulPrecision
    attacks: tuple[AttackRow, ...]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Evaluation:
    """Which examples withstand all attacks, and which attack broke the others.

    Attributes:
        epsilons: radii in the order asked for, in units of [0, 1] pixels.
        is_clean_correct: right on the clean image, `(examples,)`.
        is_robust: `(radii, examples)`; a subset of `is_clean_correct` that never grows
            with the radius.
        attacks: names, in the order in which they were run.
        broken_by: `(radii, examples)`: the place in `attacks` of the first that broke
            the example there or at a smaller radius; -1 if none did, -2 if the model is
            wrong on the clean image.
        num_attacks: by attack, its runs on one image at one radius.
        num_passes: by attack, images sent through the model, about, a gradient counted
            as two more; 0 where it is not known.
        num_bad_gradients: by attack, the runs, up to the first that breaks an example,
            that met a gradient that is not finite: their outcome is not to be trusted.
        matmul_precision: of the attacks' matrix products. Whether an image is
            classified rightly was asked at "highest".
        num_unconfirmed: by attack, its runs whose image breaks the model at that
            precision but not at "highest", so that it does not count. Many of them say
            that the attacks should search at "highest" too. () if there are none.
        images: `(examples, *pixels)`, the one that broke each example at the smallest
            radius, and the clean one where none did; None if they were not asked for.
        image_epsilon: `(examples,)`, the radius of each image; 0 where the clean one is
            lost, inf where none broke the example. None without images.
        image_attack: `(examples,)`, the place in `attacks` of the one that made it, -1
            and -2 as in `broken_by`. None without images.
    """

    epsilons: tuple[float, ...]
    is_clean_correct: np.ndarray
    is_robust: np.ndarray
    attacks: tuple[str, ...]
    broken_by: np.ndarray
    num_attacks: tuple[int, ...]
    num_passes: tuple[int, ...]
    num_bad_gradients: tuple[int, ...]
    matmul_precision: MatmulPrecision = "default"
    num_unconfirmed: tuple[int, ...] = ()
    images: np.ndarray | None = None
    image_epsilon: np.ndarray | None = None
    image_attack: np.ndarray | None = None

    def __repr__(self) -> str:
        accuracies = [f"clean {self.clean_accuracy:.2%}"]
        accuracies += [
            f"{radius:g}: {share:.2%}"
            for radius, share in zip(self.epsilons, self.robust_accuracy, strict=True)
        ]
        text = f"{self.num_examples:,} examples: {', '.join(accuracies)}"
        text += f"; {', '.join(self.attacks)}"
        if num_bad := sum(self.num_bad_gradients):
            text += f"; {num_bad:,} attacks with bad gradients"
        if self.matmul_precision != "default":
            text += f"; attacks at matmul precision {self.matmul_precision}"
        if num_unconfirmed := sum(self.num_unconfirmed):
            text += f"; {num_unconfirmed:,} not confirmed at highest"
        return f"{type(self).__name__}({text})"

    @property
    def num_examples(self) -> int:
        """Number of examples, each counted once."""
        return len(self.is_clean_correct)

    @property
    def clean_accuracy(self) -> float:
        """Share of clean images classified rightly, in [0, 1]."""
        return float(np.mean(self.is_clean_correct))

    @property
    def robust_accuracy(self) -> np.ndarray:
        """Share of images still classified rightly, in [0, 1], `(radii,)`."""
        return np.mean(self.is_robust, axis=1)

    @property
    def robust_accuracy_after(self) -> np.ndarray:
        """What each attack and those before it left, in [0, 1], `(attacks, radii)`."""
        places = np.arange(len(self.attacks))[:, None, None]
        stands = (self.broken_by == ROBUST) | (self.broken_by > places)
        return np.mean(stands, axis=2)

    def at(self, epsilon: float) -> np.ndarray:
        """Which examples withstand all attacks at a radius, `(examples,)`.

        Raises:
            ValueError: for a radius that was not evaluated.
        """
        return self.is_robust[place_of(epsilon, self.epsilons, "evaluate")]

    def row(self) -> Row:
        """The accuracies and counts, of plain types."""
        printed = [f"{radius:g}" for radius in self.epsilons]

        def by_radius(shares: Sequence[float] | np.ndarray) -> dict[str, float]:
            return dict(zip(printed, map(float, shares), strict=True))

        def interval(flags: np.ndarray) -> Interval:
            return wilson_interval(int(flags.sum()), self.num_examples)

        return Row(
            self.num_examples,
            self.clean_accuracy,
            interval(self.is_clean_correct),
            by_radius(self.robust_accuracy),
            dict(zip(printed, map(interval, self.is_robust), strict=True)),
            sum(self.num_bad_gradients),
            self.matmul_precision,
            tuple(
                AttackRow(name, by_radius(shares), *counts)
                for name, shares, *counts in zip(
                    self.attacks,
                    self.robust_accuracy_after,
                    self.num_attacks,
                    self.num_passes,
                    self.num_bad_gradients,
                    self.num_unconfirmed or (0,) * len(self.attacks),
                    strict=True,
                )
            ),
        )
