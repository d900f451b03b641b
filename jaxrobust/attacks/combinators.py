"""Attacks made of attacks."""

import jax
from jax import lax

from jaxrobust.attacks.base import Attack, AttackResult, better, nothing_found
from jaxrobust.types import Images, Labels, LogitsFn, PRNGKey

__all__ = ["with_restarts"]


def with_restarts(attack: Attack, num_restarts: int) -> Attack:
    """The strongest result of several runs of one attack, example by example.

    Args:
        attack: a randomized attack; run one after another, in one compiled loop.
        num_restarts: number of runs in all, at least 1.

    Raises:
        ValueError: if `num_restarts` is below 1.
    """
    if num_restarts < 1:
        raise ValueError(
            f"`num_restarts` must be at least 1, got {num_restarts!r}; "
            "1 runs the attack once."
        )

    def restarted(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        def body(index: jax.Array, best: AttackResult) -> AttackResult:
            run_key = jax.random.fold_in(key, index)
            return better(best, attack(run_key, logits_fn, images, labels))

        return lax.fori_loop(0, num_restarts, body, nothing_found(images))

    return restarted
