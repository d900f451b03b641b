"""How examples reach the device: all at once, or a stretch of each epoch at a time.

What is trained on, and in which order, is the same to the bit. A stretch is made ready
by another thread while the device works on the one before.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import numpy as np

from jaxrobust.data import Dataset
from jaxrobust.keys import wrapped
from jaxrobust.training.step.members import MemberProgram, Summary
from jaxrobust.training.step.memory import device_memory
from jaxrobust.training.step.programs import Programs

__all__ = ["Feed", "Resident", "Stream", "feed_for", "stretch_for"]

STRETCH_BYTES = 64 * 2**20
"""Size of a member's stretch, if a few batches are not more."""

LEAST_BATCHES = 4
"""Batches of a stretch, however large they are."""


class Feed(Protocol):
    """Gives a program its examples."""

    def take(
        self,
        program: MemberProgram,
        states: Any,
        batches: np.ndarray,
        stops: list[int],
        active: Sequence[int],
    ) -> tuple[tuple[Any, ...], list[int]]:
        """The examples of the next slice, and where it has to stop for want of more."""
        ...

    def prefetch(
        self, program: MemberProgram, stops: list[int], active: Sequence[int]
    ) -> None:
        """The slice is under way: make the next one's examples ready."""
        ...


class Resident:
    """All examples stay on the device."""

    def __init__(self, dataset: Dataset, programs: Programs):
        arrays = (np.asarray(dataset.images), np.asarray(dataset.labels, np.int32))
        self._arrays = programs.placement.put(arrays, is_member_axis=False)

    def take(self, program, states, batches, stops, active):
        """All examples; nothing stops early."""
        del program, states, batches, active
        return self._arrays, stops

    def prefetch(self, program, stops, active):
        """Nothing to do."""
        del program, stops, active


class Stream:
    """Examples stay on the host, in memory or mapped from a file.

    Args:
        dataset: the examples.
        programs: whose members are fed.
        stretch: batches that are sent at once.
    """

    def __init__(self, dataset: Dataset, programs: Programs, stretch: int):
        self.dataset = dataset
        self.placement = programs.placement
        self.batch_size = programs.config.batch_size
        self.num_batches = len(dataset.labels) // self.batch_size
        self.stretch = stretch
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._ready: tuple[Any, Future[Any]] | None = None
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def _order(self, program: MemberProgram, summary: Summary, index: int):
        epoch = int(summary.epoch[index])
        known = self._orders.get(index)
        if known is None or known[0] != epoch:
            key = wrapped(summary.key[index])
            order = program.trainer.order(key, epoch, len(self.dataset.labels))
            self._orders[index] = (epoch, np.asarray(order))
        return self._orders[index][1]

    def _send(self, orders: list[np.ndarray], firsts: list[int]) -> tuple[Any, ...]:
        def chosen(member: int) -> np.ndarray:
            # The last stretch of an epoch is filled up; what fills it is not reached.
            positions = firsts[member] * self.batch_size + np.arange(
                self.stretch * self.batch_size
            )
            return orders[member][np.minimum(positions, len(orders[member]) - 1)]

        def stacked(array: Any, dtype: Any) -> jax.Array:
            def rows(members: range) -> np.ndarray:
                return np.stack(
                    [np.asarray(array[chosen(member)], dtype) for member in members]
                )

            sharding = self.placement.sharding(is_member_axis=True)
            if sharding is None:
                return jax.numpy.asarray(rows(range(len(firsts))))
            size = self.stretch * self.batch_size
            shape = (len(firsts), size, *array.shape[1:])
            return jax.make_array_from_callback(
                shape,
                sharding,
                lambda index: rows(range(len(firsts))[(index or (slice(None),))[0]]),
            )

        images, labels = self.dataset.images, self.dataset.labels
        return (
            stacked(images, images.dtype),
            stacked(labels, np.int32),
            self.placement.put(np.asarray(firsts, np.int32), is_member_axis=True),
        )

    def take(self, program, states, batches, stops, active):
        """The stretches that begin at the members' batches."""
        summary = program.summary(states)
        firsts = [int(batch) for batch in batches]
        first = active[0]
        orders = []
        for index in range(program.count):
            source = index if index in active else first
            orders.append(self._order(program, summary, source))
        key = (tuple(firsts), tuple(int(epoch) for epoch in summary.epoch))
        if self._ready is not None and self._ready[0] == key:
            data = self._ready[1].result()
        else:
            data = self._send(orders, firsts)
        self._ready = None
        self._current = (orders, key[1])
        pairs = zip(stops, firsts, strict=True)
        ends = [min(stop, begin + self.stretch) for stop, begin in pairs]
        return data, ends

    def prefetch(self, program, stops, active):
        """Send what follows in the same epoch; a new epoch's order is not known yet."""
        del program
        orders, epochs = self._current
        if any(stops[index] >= self.num_batches for index in active):
            return
        key = (tuple(stops), epochs)
        self._ready = (key, self._pool.submit(self._send, orders, list(stops)))


def stretch_for(
    dataset: Dataset, batch_size: int, *, stream: bool | None = None
) -> int | None:
    """Batches that a member is sent at once; None if all examples stay on the device.

    Args:
        dataset: the examples.
        batch_size: of the members.
        stream: whether to stream; None if the data would take more than half of the
            device's free memory.
    """
    if stream is None:
        free = device_memory()
        stream = free is not None and dataset.images.nbytes > free / 2
    if not stream:
        return None
    batch_bytes = max(dataset.images[:1].nbytes * batch_size, 1)
    return min(
        max(LEAST_BATCHES, STRETCH_BYTES // batch_bytes),
        len(dataset.labels) // batch_size,
    )


def feed_for(dataset: Dataset, programs: Programs, *, stream: bool | None) -> Feed:
    """The feed of a data set; see `stretch_for`."""
    stretch = stretch_for(dataset, programs.config.batch_size, stream=stream)
    if stretch is None:
        return Resident(dataset, programs)
    return Stream(dataset, programs, stretch)
