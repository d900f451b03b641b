"""What was proven: flags for each example, and the numbers made of them."""

import dataclasses

import numpy as np

from jaxrobust.arguments import require
from jaxrobust.evaluation.intervals import Interval, wilson_interval
from jaxrobust.evaluation.outcome import CLEAN_WRONG, Evaluation, place_of

__all__ = [
    "UNPROVEN",
    "Certification",
    "CertifiedRow",
    "MethodRow",
    "broken_certificates",
    "broken_note",
]

UNPROVEN = -1
"""In the place of a method: none of them proved anything."""


@dataclasses.dataclass(frozen=True)
class MethodRow:
    """What one method proved; `dataclasses.asdict` makes it JSON.

    Attributes:
        name: of the method.
        num_certified: by radius as printed, examples that it was the first to prove.
        num_bounds: images that it bounded, at one radius each.
        seconds: that it took, with compiling.
    """

    name: str
    num_certified: dict[str, int]
    num_bounds: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class CertifiedRow:
    """A certification as one row of a table; `dataclasses.asdict` makes it JSON.

    Attributes:
        num_images: examples, each counted once.
        clean_accuracy: share in [0, 1].
        clean_interval: its 95 % Wilson interval.
        certified_accuracy: by radius as printed, such as "0.4".
        certified_interval: by radius as printed.
        methods: in the order in which they were asked.
    """

    num_images: int
    clean_accuracy: float
    clean_interval: Interval
    certified_accuracy: dict[str, float]
    certified_interval: dict[str, Interval]
    methods: tuple[MethodRow, ...]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Certification:
    """Which examples are certified, and which method proved it.

    An example is certified at a radius if the clean image is classified rightly, and
    bounds prove that every image of the ball is.

    Attributes:
        epsilons: radii in the order asked for, in units of [0, 1] pixels.
        norm: of the ball.
        is_clean_correct: right on the clean image, `(examples,)`.
        methods: names, in the order in which they were asked.
        proven_epsilon: `(methods, examples)`: the largest radius at which the bounds of
            the method itself prove the example; minus infinity where they prove none
            that it was asked about. A method is not asked about radii that an earlier
            one proved. A proof at a radius is one at every smaller radius, whose ball
            lies inside.
        num_bounds: by method, images bounded at one radius.
        seconds: by method, with compiling.
    """

    epsilons: tuple[float, ...]
    norm: str
    is_clean_correct: np.ndarray
    methods: tuple[str, ...]
    proven_epsilon: np.ndarray
    num_bounds: tuple[int, ...]
    seconds: tuple[float, ...]

    def __repr__(self) -> str:
        accuracies = [f"clean {self.clean_accuracy:.2%}"]
        accuracies += [
            f"{radius:g}: {share:.2%}"
            for radius, share in zip(
                self.epsilons, self.certified_accuracy, strict=True
            )
        ]
        text = f"{self.num_examples:,} examples: {', '.join(accuracies)} in {self.norm}"
        return f"{type(self).__name__}({text}; {', '.join(self.methods)})"

    @property
    def num_examples(self) -> int:
        """Number of examples, each counted once."""
        return len(self.is_clean_correct)

    @property
    def clean_accuracy(self) -> float:
        """Share of clean images classified rightly, in [0, 1]."""
        return float(np.mean(self.is_clean_correct))

    @property
    def is_certified(self) -> np.ndarray:
        """`(radii, examples)`; a subset of `is_clean_correct`.

        It never grows with the radius.
        """
        return self.certified_by >= 0

    @property
    def certified_by(self) -> np.ndarray:
        """`(radii, examples)`: the place in `methods` of the first that proves it.

        -1 if none does, -2 if the model is wrong on the clean image.
        """
        radii = np.array(self.epsilons)[:, None, None]
        proves = self.proven_epsilon[None] >= radii
        found = np.where(proves.any(axis=1), np.argmax(proves, axis=1), UNPROVEN)
        return np.where(self.is_clean_correct, found, CLEAN_WRONG)

    @property
    def certified_accuracy(self) -> np.ndarray:
        """Share of all images that are certified, in [0, 1], `(radii,)`."""
        return np.mean(self.is_certified, axis=1)

    def at(self, epsilon: float) -> np.ndarray:
        """Which examples are certified at a radius, `(examples,)`.

        Raises:
            ValueError: for a radius that was not asked about.
        """
        return self.is_certified[place_of(epsilon, self.epsilons, "certify")]

    def proves(self, epsilon: float, norm: str) -> np.ndarray:
        """Which examples are certified at any radius, `(examples,)`.

        Args:
            epsilon: what is certified at a larger radius is certified here.
            norm: of the ball.

        Raises:
            ValueError: for another norm.
        """
        remedy = "certify in that norm"
        require(norm == self.norm, "norm", f"{self.norm}, as certified", norm, remedy)
        return self.is_clean_correct & (self.proven_epsilon.max(axis=0) >= epsilon)

    def row(self) -> CertifiedRow:
        """The accuracies and counts, of plain types."""
        printed = [f"{radius:g}" for radius in self.epsilons]
        flags, by = self.is_certified, self.certified_by

        def interval(flags: np.ndarray) -> Interval:
            return wilson_interval(int(flags.sum()), self.num_examples)

        def counts(method: int) -> dict[str, int]:
            found = np.sum(by == method, axis=1)
            return dict(zip(printed, map(int, found), strict=True))

        return CertifiedRow(
            self.num_examples,
            self.clean_accuracy,
            interval(self.is_clean_correct),
            dict(zip(printed, map(float, self.certified_accuracy), strict=True)),
            dict(zip(printed, map(interval, flags), strict=True)),
            tuple(
                MethodRow(name, counts(place), num_bounds, seconds)
                for place, (name, num_bounds, seconds) in enumerate(
                    zip(self.methods, self.num_bounds, self.seconds, strict=True)
                )
            ),
        )


def broken_certificates(
    certification: Certification, evaluation: Evaluation
) -> np.ndarray:
    """Which examples are certified at a radius and broken there by an attack.

    There is none unless bounds that prove are wrong, or an attack left the ball.

    Args:
        certification: of a model on some examples.
        evaluation: of the same model, on the same examples and in the same norm.

    Returns:
        `(radii, examples)`, at the radii of the certification, each of which the
        evaluation must have.

    Raises:
        ValueError: for other examples or radii.
    """
    ours, theirs = certification.is_clean_correct, evaluation.is_clean_correct
    remedy = "evaluate the model that was certified, on the same examples"
    rule = "of the same model and examples"
    is_same = np.array_equal(ours, theirs)
    require(is_same, "evaluation", rule, evaluation, remedy)
    stands = np.stack([evaluation.at(radius) for radius in certification.epsilons])
    return certification.is_certified & ~stands


def broken_note(count: int, epsilon: str) -> str:
    """What to say of certified images that an attack broke.

    Args:
        count: of them, at least one.
        epsilon: radius as printed.
    """
    return (
        f"{count} images that are certified at epsilon {epsilon} were broken there by "
        "an attack: bounds that prove are wrong, or an attack left the ball. Neither "
        "number is to be believed before that is found."
    )
