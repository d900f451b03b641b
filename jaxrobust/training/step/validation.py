"""Clean and robust accuracy of members on held-out examples, in one program."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from jaxrobust.attacks import judge, pgd
from jaxrobust.data import Dataset, as_float
from jaxrobust.networks import Network
from jaxrobust.precision import MatmulPrecision, at_precision
from jaxrobust.threat import ThreatModel
from jaxrobust.training.recipe.model import bind
from jaxrobust.training.recipe.phases import Settings
from jaxrobust.training.step.members import MemberProgram
from jaxrobust.training.step.trainer import TrainState

__all__ = ["Judged", "Validator"]

CHUNK_BYTES = 64 * 2**20
"""Size of the images that are sent at once, if a batch is not more."""


class Judged(NamedTuple):
    """Accuracy of a member on what was held out, in [0, 1].

    Attributes:
        clean: with clean images.
        robust: under PGD.
    """

    clean: float
    robust: float


class _Batches(NamedTuple):
    """Held-out examples, `(batches, batch, ...)`; the last batch is filled up."""

    images: Any
    labels: Any
    is_real: Any


class Validator:
    """Judges the weights of members that train together.

    Args:
        program: of the members.
        network: of the members, in the formulation of their program.
        held_out: examples, on the host; each counts exactly once.
        batch_size: images attacked at once.
        num_steps: of PGD.
        matmul_precision: of the products of the attack and of the judgement.
    """

    def __init__(
        self,
        program: MemberProgram,
        network: Network,
        held_out: Dataset,
        batch_size: int,
        num_steps: int,
        matmul_precision: MatmulPrecision,
    ):
        self.program, self.network = program, network
        self.num_steps, self.held_out = num_steps, held_out
        self.batch_size = batch_size
        batch_bytes = max(held_out.images[:1].nbytes * batch_size, 1)
        self.num_batches = min(
            max(1, CHUNK_BYTES // batch_bytes), -(-len(held_out) // batch_size)
        )
        everywhere = program.placement.sharding(is_member_axis=False)
        options: dict[str, Any] = (
            {} if everywhere is None else {"out_shardings": everywhere}
        )
        count = at_precision(matmul_precision, self._count_members)
        count = program.over_members(count, 3, 1)
        self._count = jax.jit(count, **options)

    def __call__(
        self, states: TrainState, settings: Sequence[Settings], is_due: Sequence[bool]
    ) -> list[Judged]:
        """Accuracies of the members that are due; zeros for the others.

        Args:
            states: stacked.
            settings: of each member, at the last step of its epoch.
            is_due: of each member.
        """
        placement = self.program.placement
        asked = [(setting.threat, setting.variant) for setting in settings]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *asked)
        asked, due = placement.put((stacked, np.asarray(is_due)), is_member_axis=True)
        counts = np.zeros((self.program.count, 2), np.int64)
        size = self.num_batches * self.batch_size
        for first in range(0, len(self.held_out), size):
            batches = placement.put(self._chunk(first), is_member_axis=False)
            counts += np.asarray(self._count(states, asked, due, batches))
        shares = counts / len(self.held_out)
        return [Judged(float(clean), float(robust)) for clean, robust in shares]

    def _chunk(self, first: int) -> _Batches:
        size = self.num_batches * self.batch_size
        places = first + np.arange(size)
        is_real = places < len(self.held_out)
        places = np.minimum(places, len(self.held_out) - 1)
        arrays = (self.held_out.images[places], self.held_out.labels[places], is_real)
        shape = (self.num_batches, self.batch_size)
        images, labels, is_real = (
            np.asarray(array).reshape(shape + array.shape[1:]) for array in arrays
        )
        return _Batches(images, labels.astype(np.int32), is_real)

    def _count_members(
        self, states: TrainState, asked: Any, is_due: Any, batches: _Batches
    ) -> Int[Array, "members 2"]:
        def count(state: TrainState, asked: Any, is_due: Array) -> Array:
            threat, variant = asked
            return lax.cond(
                is_due,
                lambda: self._count_one(state, threat, variant, batches),
                lambda: jnp.zeros(2, jnp.int32),
            )

        return self.program.mapped(count, (states, asked, is_due))

    def _count_one(
        self, state: TrainState, threat: ThreatModel, variant: Any, batches: _Batches
    ) -> Int[Array, "2"]:
        """Examples that are right, with clean images and under attack."""
        weights = state.weights
        kept = weights.variables if weights.average is None else weights.average
        logits_fn = bind(self.network, kept)
        attack = pgd(
            threat,
            step_size=2.5 * threat.epsilon / self.num_steps,
            num_steps=jnp.where(threat.epsilon > 0, self.num_steps, 0),
            keep="best",
        )
        # The same random starts at every look: less noise between epochs. The steps of
        # training fold in 0 and 1.
        key = jax.random.fold_in(state.key, 2)

        def batch(counts: Array, item: Any) -> tuple[Array, None]:
            key, batch = item
            images, labels, is_real = self.program.placement.share(batch)
            images = as_float(images if variant is None else variant(images))
            is_clean = ~judge(logits_fn(images), labels)
            found = attack(key, logits_fn, images, labels)
            is_robust = is_clean & ~found.is_adversarial
            flags = jnp.stack([is_clean, is_robust], axis=1) & is_real[:, None]
            return counts + jnp.sum(flags, axis=0, dtype=jnp.int32), None

        keys = jax.random.split(key, self.num_batches)
        return lax.scan(batch, jnp.zeros(2, jnp.int32), (keys, tuple(batches)))[0]
