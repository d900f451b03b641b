"""What an attack costs, measured: images sent through the model and back."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks.base import Attack
from jaxrobust.keys import seeded
from jaxrobust.types import Images, Labels, Logits, LogitsFn, PRNGKey

__all__ = ["Passes", "count_passes"]


class Passes(NamedTuple):
    """Evaluations of a model, per example.

    Attributes:
        forward: images sent through the model.
        backward: gradients sent back; an image whose K logits are all differentiated
            counts K times.
    """

    forward: float
    backward: float


class _Tally:
    """Counts on the host; callbacks may come from several threads."""

    def __init__(self) -> None:
        self.calls: dict[str, list[int]] = {"forward": [], "backward": []}

    def count(self, kind: str, value: jax.Array) -> None:
        """Has `value` counted when it is computed, once for each mapped copy of it."""

        def note(value: np.ndarray, *, size: int) -> None:
            del value
            self.calls[kind].append(int(size))

        size = value.shape[0]
        # Depends on the array, or a `vmap` over it would count only once.
        jax.debug.callback(note, value.reshape(-1)[0], size=size)


def _counted(logits_fn: LogitsFn, tally: _Tally) -> LogitsFn:
    @jax.custom_vjp
    def counted(images: Images) -> Logits:
        tally.count("forward", images)
        return logits_fn(images)

    def forward(images: Images):
        tally.count("forward", images)
        return jax.vjp(logits_fn, images)

    def backward(pull, cotangent: Logits):
        tally.count("backward", cotangent)
        return pull(cotangent)

    counted.defvjp(forward, backward)
    return counted


def count_passes(
    attack: Attack,
    logits_fn: LogitsFn,
    images: Images,
    labels: Labels,
    *,
    key: PRNGKey | None = None,
) -> Passes:
    """Run an attack and count what it asks of the model.

    The model is wrapped so that every evaluation reports to the host, inside compiled
    loops and under `vmap` too. The attack runs on the whole batch, which is meant to be
    small.

    Args:
        attack: what to measure.
        logits_fn: the model; every number of it may be cheap, only counts matter.
        images: clean images, at least one.
        labels: their labels.
        key: of the attack; None for that of seed 0.

    Returns:
        Mean numbers per example.
    """
    tally = _Tally()
    key = seeded(0) if key is None else key
    counted = _counted(logits_fn, tally)
    jax.block_until_ready(
        jax.jit(lambda key, images, labels: attack(key, counted, images, labels))(
            key, jnp.asarray(images), jnp.asarray(labels)
        )
    )
    jax.effects_barrier()
    total = {kind: sum(sizes) / len(images) for kind, sizes in tally.calls.items()}
    return Passes(**total)
