"""Attacks made of attacks, and models that draw anew at every evaluation."""

import itertools
from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import io_callback

from jaxrobust.arguments import require, require_count
from jaxrobust.attacks.base import (
    Attack,
    AttackResult,
    better,
    checked,
    judge,
    nothing_found,
)
from jaxrobust.losses import margin
from jaxrobust.types import Images, Labels, Logits, LogitsFn, PRNGKey, Scalar

__all__ = [
    "aimed",
    "over_targets",
    "randomized",
    "transferred_from",
    "with_restarts",
    "worst_of",
]

Aim = Callable[[Labels], Attack]


def with_restarts(attack: Attack, num_restarts: int) -> Attack:
    """The strongest result of several runs of one attack, example by example.

    Args:
        attack: a randomized attack; run one after another, in one compiled loop.
        num_restarts: number of runs in all, at least 1.

    Raises:
        ValueError: if `num_restarts` is below 1.
    """
    require_count("num_restarts", num_restarts, "1 runs the attack once")

    @checked(None, has_fixed_length=True)
    def restarted(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        def body(index: jax.Array, best: AttackResult) -> AttackResult:
            run_key = jax.random.fold_in(key, index)
            return better(best, attack(run_key, logits_fn, images, labels))

        return lax.fori_loop(0, num_restarts, body, nothing_found(images))

    return restarted


def worst_of(*attacks: Attack) -> Attack:
    """The strongest result of several attacks, example by example.

    Success comes first. Among results alike in success the higher loss counts, and the
    earlier attack where they tie; losses of different kinds are compared as they are,
    so that this choice means something only for attacks that climb the same loss.

    Args:
        attacks: at least one; each draws from its own part of the key.

    Raises:
        ValueError: if there is no attack.
    """
    remedy = "give `worst_of(pgd(...), fab(...))`"
    require(bool(attacks), "attacks", "one or more attacks", attacks, remedy)

    @checked(None, has_fixed_length=True)
    def worst(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        found = (
            attack(jax.random.fold_in(key, index), logits_fn, images, labels)
            for index, attack in enumerate(attacks)
        )
        return reduce(better, found)

    return worst


def _wrong_classes(logits: Logits, labels: Labels) -> Labels:
    """Wrong classes of each example, the likeliest first: `(batch, classes - 1)`."""
    is_label = jnp.arange(logits.shape[-1])[None] == labels[:, None]
    # The label comes last whatever its logit, and so does what is no number.
    height = jnp.where(is_label, -jnp.inf, jnp.nan_to_num(logits.astype(jnp.float32)))
    order = jnp.argsort(height, axis=-1, descending=True, stable=True)
    return order[:, :-1].astype(jnp.int32)


def _check_rank(rank: Scalar, num_wrong: int) -> None:
    remedy = "0 aims at the likeliest of the wrong classes"
    require_count("rank", rank, remedy, least=0, most=num_wrong - 1)


def aimed(aim: Aim, rank: Scalar) -> Attack:
    """An untargeted attack that runs a targeted one at a wrong class of each example.

    Args:
        aim: from the targets to an attack, such as
            `lambda targets: auto_pgd(threat, loss=targeted_dlr(targets))`.
        rank: place of the target among the wrong classes, ordered by the logits of the
            clean image: 0 is the likeliest. May be traced; must then be in range.

    Raises:
        ValueError: when it is run, if a rank known to Python is not below the number of
            wrong classes.
    """

    @checked(None, has_fixed_length=True)
    def attack(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        targets = _wrong_classes(logits_fn(images), labels)
        _check_rank(rank, targets.shape[1])
        return aim(targets[:, rank])(key, logits_fn, images, labels)

    return attack


def over_targets(aim: Aim, num_targets: int) -> Attack:
    """The strongest result over several targets of each example: LP-C7.

    The targets are the wrong classes that are likeliest at the clean image. They are
    taken one after another in one compiled loop.

    Args:
        aim: from the targets to an attack; see `aimed`.
        num_targets: how many targets, at least 1; if there are fewer wrong classes,
            all of them.

    Raises:
        ValueError: if `num_targets` is below 1.

    References:
        Gowal et al., 2019, arXiv:1910.09338.
    """
    remedy = "the number of classes less one takes every wrong class"
    require_count("num_targets", num_targets, remedy)

    @checked(None, has_fixed_length=True)
    def attack(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        targets = _wrong_classes(logits_fn(images), labels)

        def body(rank: jax.Array, best: AttackResult) -> AttackResult:
            rank_key = jax.random.fold_in(key, rank)
            found = aim(targets[:, rank])(rank_key, logits_fn, images, labels)
            return better(best, found)

        count = min(num_targets, targets.shape[1])
        return lax.fori_loop(0, count, body, nothing_found(images))

    return attack


def transferred_from(
    attack: Attack, source_fn: LogitsFn, *, targeted: bool = False
) -> Attack:
    """Images made on another model and judged on the one under attack.

    With an independently trained model this is the transfer of LP-C11, with the model
    from which training went on it is the "semi-black-box" of LP-C12. Of the model
    under attack one evaluation is asked for, and no gradient.

    Args:
        attack: what is run on the other model.
        source_fn: the other model, images to logits.
        targeted: the labels are targets, for the judgement too.

    Returns:
        An attack; its `loss` is the margin on the model under attack, and
        `is_gradient_finite` tells of the gradients of the other model.
    """

    @checked(None, has_fixed_length=True)
    def transferred(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        found = attack(key, source_fn, images, labels)
        logits = logits_fn(found.images)
        height = margin(logits, labels)
        return found._replace(
            loss=-height if targeted else height,
            is_adversarial=judge(logits, labels, targeted=targeted),
        )

    return transferred


def _fingerprint(images: Images) -> jax.Array:
    """A number that differs between different batches, as good as always."""
    bits = lax.bitcast_convert_type(images.astype(jnp.float32), jnp.uint32).reshape(-1)
    odd = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
    mixed = (bits ^ (bits >> 15)) * (odd * jnp.uint32(2654435761))
    return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)


def randomized(apply: Callable[[PRNGKey, Images], Logits], key: PRNGKey) -> LogitsFn:
    """A model with randomness as a logits function that draws anew at every evaluation.

    Every evaluation, also inside a compiled loop, is counted on the host, and the count
    is folded into the key; so is a fingerprint of the images, so that examples which
    are mapped one by one do not share a draw. The same call of an attack therefore does
    not repeat itself, as it does not on such a model in life; to repeat a run, build
    the function again.

    This is the only function of the package that is not pure. It works under `jit`,
    `vmap`, `grad` and `lax` loops, and asks the host at each evaluation.

    Args:
        apply: `(key, images) -> logits`.
        key: of all draws.
    """
    counter = itertools.count()

    def next_count() -> np.ndarray:
        return np.asarray(next(counter) % 2**32, np.uint32)

    ask = partial(io_callback, next_count, jax.ShapeDtypeStruct((), jnp.uint32))

    def logits_fn(images: Images) -> Logits:
        drawn = jax.random.fold_in(key, ask())
        mark = _fingerprint(lax.stop_gradient(images))
        return apply(jax.random.fold_in(drawn, mark), images)

    return logits_fn
