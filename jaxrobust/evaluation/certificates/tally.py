"""How far a certification is: a value that can be kept on disk, and what is next.

One method follows the other, each on what those before it left. A proof at a radius is
one at every smaller radius, whose ball lies inside. So a method asks of an example the
largest radius in question first, and goes to the next smaller one where it proves
nothing.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["Bucket", "Tally", "after_bucket", "next_bucket"]


class Tally(NamedTuple):
    """How far the certification of one model is, between two buckets.

    Attributes:
        is_correct: right on the clean image, `(examples,)`.
        num_certified: how many radii, the smallest ones, each method proves of each
            example by itself, `(methods, examples)`.
        num_open: how many radii each method has not been asked about yet; those that an
            earlier method proved need not be, `(methods, examples)`.
        num_bounds: images bounded by each method at one radius, `(methods,)`.
        seconds: that it took, with compiling, `(methods,)`.
    """

    is_correct: np.ndarray
    num_certified: np.ndarray
    num_open: np.ndarray
    num_bounds: np.ndarray
    seconds: np.ndarray

    @classmethod
    def begun(
        cls, is_correct: np.ndarray, num_methods: int, num_epsilons: int
    ) -> "Tally":
        """The tally before the first bound; what is lost without an attack is over."""
        shape = num_methods, len(is_correct)
        return cls(
            is_correct,
            num_certified=np.zeros(shape, np.int32),
            num_open=np.where(is_correct, num_epsilons, 0) * np.ones(shape, np.int32),
            num_bounds=np.zeros(num_methods, int),
            seconds=np.zeros(num_methods),
        )

    @property
    def is_waiting(self) -> np.ndarray:
        """Where a radius is open that no method has proven, `(methods, examples)`."""
        return self.num_open > self.num_certified.max(axis=0)[None]


class Bucket(NamedTuple):
    """Examples to be bounded at once.

    Attributes:
        method: number of the method.
        place: of the radius, in ascending order.
        examples: their numbers.
    """

    method: int
    place: int
    examples: np.ndarray


def next_bucket(tally: Tally, sizes: tuple[int, ...]) -> Bucket | None:
    """What is to be bounded next; None if nothing is left.

    Args:
        tally: of the model.
        sizes: how many examples a bucket of each method may have.
    """
    is_waiting = tally.is_waiting
    if not is_waiting.any():
        return None
    method = int(np.argmax(is_waiting.any(axis=1)))
    open_here = np.where(is_waiting[method], tally.num_open[method], 0)
    examples = np.flatnonzero(open_here == open_here.max())[: sizes[method]]
    return Bucket(method, int(open_here.max()) - 1, examples)


def after_bucket(
    tally: Tally, bucket: Bucket, is_proven: np.ndarray, seconds: float
) -> Tally:
    """The tally after a bucket; the one that is given is not changed.

    Args:
        tally: before it.
        bucket: that was bounded.
        is_proven: for each of its examples.
        seconds: that it took.
    """
    method, place, examples = bucket
    num_certified, num_open = tally.num_certified.copy(), tally.num_open.copy()
    num_bounds, spent = tally.num_bounds.copy(), tally.seconds.copy()
    num_certified[method, examples[is_proven]] = place + 1
    num_open[method, examples] = place
    num_bounds[method] += len(examples)
    spent[method] += seconds
    return tally._replace(
        num_certified=num_certified,
        num_open=num_open,
        num_bounds=num_bounds,
        seconds=spent,
    )
