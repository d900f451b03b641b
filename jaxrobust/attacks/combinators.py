"""Attacks made of attacks, and models that draw anew at every evaluation."""

import dataclasses
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
    AttackBuilder,
    AttackResult,
    better,
    checked,
    judge,
    nothing_found,
)
from jaxrobust.attacks.builders import (
    builder_name,
    num_passes,
    num_turns,
    settled,
    turn_of,
)
from jaxrobust.losses import margin
from jaxrobust.pytrees import Pytree, static
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Images, Labels, Logits, LogitsFn, PRNGKey, Scalar

__all__ = [
    "Aim",
    "aimed",
    "over_targets",
    "randomized",
    "restarts_of",
    "transferred_from",
    "with_restarts",
    "worst_of",
]

Aim = Callable[..., Attack]
"""What can be steered: `(threat, targets=targets) -> attack`, such as `pgd`, `auto_pgd`
or `fab` with their settings given by `functools.partial`."""


def _strongest(attack_at: Callable[[jax.Array], Attack], count: int) -> Attack:
    """The strongest result of attacks that differ by a number, in one compiled loop."""

    @checked(None, has_fixed_length=True)
    def strongest(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        def body(index: jax.Array, best: AttackResult) -> AttackResult:
            run_key = jax.random.fold_in(key, index)
            return better(best, attack_at(index)(run_key, logits_fn, images, labels))

        return lax.fori_loop(0, count, body, nothing_found(images))

    return strongest


@dataclasses.dataclass(frozen=True)
class _Restarts(Pytree):
    build: AttackBuilder
    num_restarts: int = static()

    def __post_init__(self):
        require_count("num_restarts", self.num_restarts, "1 runs the attack once")

    def __call__(self, threat: ThreatModel) -> Attack:
        attack = self.build(threat)
        return _strongest(lambda _: attack, self.num_restarts)

    def num_turns(self, num_classes: int) -> int:
        return self.num_restarts * num_turns(self.build, num_classes)

    def turn(self, index: Scalar) -> AttackBuilder:
        return turn_of(self.build, index)

    def at(self, epsilon: float) -> "_Restarts":
        return dataclasses.replace(self, build=settled(self.build, epsilon))

    def num_passes(self, num_classes: int) -> int:
        return num_passes(self.build, num_classes)

    @property
    def builder_name(self) -> str:
        return builder_name(self.build)


def with_restarts(build: AttackBuilder, num_restarts: int) -> AttackBuilder:
    """The strongest result of several runs of one attack, example by example.

    Args:
        build: builds a randomized attack.
        num_restarts: number of runs in all, at least 1; one after another.

    Returns:
        A builder, of which an evaluation runs each restart only on what the earlier
        ones left.

    Raises:
        ValueError: if `num_restarts` is below 1.
    """
    return _Restarts(build, num_restarts)


def restarts_of(build: AttackBuilder) -> tuple[AttackBuilder, int]:
    """What `with_restarts` was given; a builder that runs once is itself, and 1."""
    if isinstance(build, _Restarts):
        inner, count = restarts_of(build.build)
        return inner, count * build.num_restarts
    return build, 1


@dataclasses.dataclass(frozen=True)
class _Worst(Pytree):
    builds: tuple[AttackBuilder, ...]

    def __call__(self, threat: ThreatModel) -> Attack:
        attacks = [build(threat) for build in self.builds]

        @checked(None, has_fixed_length=True)
        def worst(
            key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
        ) -> AttackResult:
            results = (
                attack(jax.random.fold_in(key, index), logits_fn, images, labels)
                for index, attack in enumerate(attacks)
            )
            return reduce(better, results)

        return worst

    def at(self, epsilon: float) -> "_Worst":
        return _Worst(tuple(settled(build, epsilon) for build in self.builds))

    def num_passes(self, num_classes: int) -> int:
        return sum(
            num_turns(build, num_classes) * num_passes(build, num_classes)
            for build in self.builds
        )

    @property
    def builder_name(self) -> str:
        return "worst-of-" + "-".join(map(builder_name, self.builds))


def worst_of(*builds: AttackBuilder) -> AttackBuilder:
    """The strongest result of several attacks, example by example.

    Success comes first. Among results alike in success the higher loss counts, and the
    earlier attack where they tie; losses of different kinds are compared as they are,
    so that this choice means something only for attacks that climb the same loss.

    All attacks are run on every example. An evaluation of a list of them, which tells
    the same broken from unbroken, runs each only on what the earlier ones left.

    Args:
        builds: at least one; each attack draws from its own part of the key.

    Raises:
        ValueError: if there is no attack.
    """
    remedy = "give `worst_of(PGD(num_steps=100), fab)`"
    require(bool(builds), "builds", "one builder or more", builds, remedy)
    return _Worst(builds)


def _wrong_classes(logits: Logits, labels: Labels) -> Labels:
    """Wrong classes of each example, the likeliest first: `(batch, classes - 1)`."""
    is_label = jnp.arange(logits.shape[-1])[None] == labels[:, None]
    # The label comes last whatever its logit, and so does what is no number.
    height = jnp.where(is_label, -jnp.inf, jnp.nan_to_num(logits.astype(jnp.float32)))
    order = jnp.argsort(height, axis=-1, descending=True, stable=True)
    return order[:, :-1].astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class _Aimed(Pytree):
    """A search at the target of one rank, counted modulo the number of targets."""

    aim: Aim
    rank: Scalar
    num_targets: int | None = static()

    def __call__(self, threat: ThreatModel) -> Attack:
        @checked(None, has_fixed_length=True)
        def attack(
            key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
        ) -> AttackResult:
            targets = _wrong_classes(logits_fn(images), labels)
            rank, num_wrong = self.rank, targets.shape[1]
            if self.num_targets is not None:
                rank = jnp.asarray(rank) % min(self.num_targets, num_wrong)
            remedy = "0 aims at the likeliest of the wrong classes"
            require_count("rank", rank, remedy, least=0, most=num_wrong - 1)
            search = self.aim(threat, targets=targets[:, rank])
            return search(key, logits_fn, images, labels)

        return attack

    def at(self, epsilon: float) -> "_Aimed":
        return dataclasses.replace(self, aim=settled(self.aim, epsilon))

    def num_passes(self, num_classes: int) -> int:
        return num_passes(self.aim, num_classes, targets="one for each image")

    @property
    def builder_name(self) -> str:
        return f"{builder_name(self.aim)}-t"


def aimed(aim: Aim, rank: Scalar) -> AttackBuilder:
    """An attack that is steered at one wrong class of each example.

    Args:
        aim: what can be steered, such as `partial(auto_pgd, loss="dlr")`.
        rank: place of the target among the wrong classes, ordered by the logits of the
            clean image: 0 is the likeliest. May be traced; must then be in range.

    Raises:
        ValueError: when it is run, if a rank known to Python is not below the number of
            wrong classes.
    """
    return _Aimed(aim, rank, None)


@dataclasses.dataclass(frozen=True)
class _OverTargets(Pytree):
    aim: Aim
    num_targets: int = static()

    def __post_init__(self):
        remedy = "the number of classes less one takes every wrong class"
        require_count("num_targets", self.num_targets, remedy)

    def __call__(self, threat: ThreatModel) -> Attack:
        @checked(None, has_fixed_length=True)
        def attack(
            key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
        ) -> AttackResult:
            targets = _wrong_classes(logits_fn(images), labels)

            def at_rank(rank: jax.Array) -> Attack:
                return self.aim(threat, targets=targets[:, rank])

            count = min(self.num_targets, targets.shape[1])
            return _strongest(at_rank, count)(key, logits_fn, images, labels)

        return attack

    def num_turns(self, num_classes: int) -> int:
        return min(self.num_targets, num_classes - 1)

    def turn(self, index: Scalar) -> AttackBuilder:
        return _Aimed(self.aim, index, self.num_targets)

    def at(self, epsilon: float) -> "_OverTargets":
        return dataclasses.replace(self, aim=settled(self.aim, epsilon))

    def num_passes(self, num_classes: int) -> int:
        return num_passes(self.turn(0), num_classes)

    @property
    def builder_name(self) -> str:
        return builder_name(self.turn(0))


def over_targets(aim: Aim, num_targets: int) -> AttackBuilder:
    """The strongest result over several targets of each example.

    The targets are the wrong classes that are likeliest at the clean image. They are
    taken one after another in one compiled loop.

    Args:
        aim: what can be steered, such as `partial(auto_pgd, loss="dlr")`.
        num_targets: how many targets, at least 1; if there are fewer wrong classes,
            all of them.

    Returns:
        A builder, of which an evaluation runs each target only on what the earlier ones
        left.

    Raises:
        ValueError: if `num_targets` is below 1.

    References:
        Gowal et al., 2019, arXiv:1910.09338.
    """
    return _OverTargets(aim, num_targets)


@dataclasses.dataclass(frozen=True)
class _Transferred(Pytree):
    build: AttackBuilder
    source_fn: LogitsFn

    def __call__(self, threat: ThreatModel) -> Attack:
        attack = self.build(threat)

        @checked(None, has_fixed_length=True)
        def transferred(
            key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
        ) -> AttackResult:
            found = attack(key, self.source_fn, images, labels)
            logits = logits_fn(found.images)
            return found._replace(
                loss=margin(logits, labels), is_adversarial=judge(logits, labels)
            )

        return transferred

    def num_turns(self, num_classes: int) -> int:
        return num_turns(self.build, num_classes)

    def turn(self, index: Scalar) -> "_Transferred":
        return dataclasses.replace(self, build=turn_of(self.build, index))

    def at(self, epsilon: float) -> "_Transferred":
        return dataclasses.replace(self, build=settled(self.build, epsilon))

    def num_passes(self, num_classes: int) -> int:
        return num_passes(self.build, num_classes)

    @property
    def builder_name(self) -> str:
        return f"{builder_name(self.build)}-transferred"


def transferred_from(build: AttackBuilder, source_fn: LogitsFn) -> AttackBuilder:
    """Images made on another model and judged on the one under attack.

    The other model may be one that was trained independently, or the one from which
    training of the model under attack went on. Of the model under attack one evaluation
    is asked for, and no gradient.

    Args:
        build: builds what is run on the other model.
        source_fn: the other model, images to logits.

    Returns:
        A builder; the attack's `loss` is the margin on the model under attack, and
        `is_gradient_finite` tells of the gradients of the other model.
    """
    return _Transferred(build, source_fn)


def _fingerprint(images: Images) -> jax.Array:
    """A number that differs between different batches, almost surely."""
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
