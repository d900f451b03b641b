"""The engine of every evaluation: stages of attacks, packed into buckets of one size.

A stage is one kind of attack. In it every example faces a fixed sequence, radius by
radius in ascending order and at each radius turn by turn (restarts, or target classes),
and one number says all about it: how many it withstands before the first that breaks
it. A later stage only sees the pairs of example and radius that are still robust.

The attacks that are still wanted are packed into buckets, which may mix radii and
turns, so one program serves all of a stage. What an attack draws depends on the seed,
the stage, the turn and the example alone, so packing changes no answer, and neither
does the order of the stages.

Between two buckets everything that decides the next ones is a `Tally`, a value that
can be kept on disk: there an evaluation can stop, report and go on.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks import Attack
from jaxrobust.data import Dataset, as_float
from jaxrobust.evaluation.journal import Journal
from jaxrobust.evaluation.preflight import (
    require_finite,
    require_independent,
)
from jaxrobust.evaluation.programs import (
    Data,
    Placement,
    attack_program,
    bucket_size,
    clean_program,
    counting_program,
    placement,
)
from jaxrobust.evaluation.sharing import shared_program
from jaxrobust.keeping import fingerprint
from jaxrobust.threat import require_epsilon, require_images
from jaxrobust.types import LogitsFn, Params

__all__ = ["Plan", "Progress", "Search", "Stage", "Tally", "run_plan"]

Search = Literal["every", "bisect"]


class Stage(NamedTuple):
    """One kind of attack, and how often it is run at each radius.

    Attributes:
        name: for reports, such as "apgd-t".
        num_turns: attacks on each example at each radius, at least 1.
        build: `(threat, turn) -> attack`, both traced: the turn, in [0, num_turns), is
            the number of a restart or the rank of a target class. With `num_steps` it
            is called as `(threat, turn, num_steps)`. The attack sees batches of one
            image, mapped.
        num_steps: a number, or the number at each radius, that `build` is given
            traced; so stages that differ in it alone share a program. None for none.
        stream: what is folded into the seed, so that stages draw differently; 0 takes
            the seed as it is, None a number made of the name. The place in the list
            plays no part, so adding a stage changes no other one.
        num_passes: forward passes that one attack takes, roughly, a gradient counted
            as two more; only chooses the size of a bucket. 0 if unknown.
    """

    name: str
    num_turns: int
    build: Callable[..., Attack]
    num_steps: int | Callable[[float], int] | None = None
    stream: int | None = None
    num_passes: int = 0


class Plan(NamedTuple):
    """What an evaluation does, apart from models and data.

    Attributes:
        stages: in the order in which they are run.
        epsilons: radii in ascending order, each once, in units of [0, 1] pixels.
        norm: of the ball.
        seed: of everything random.
        batch_size: images attacked at once, rounded up to a multiple of the local
            devices; None for as many as keep the device busy for some seconds.
        is_compact: whether attacks that cannot change the answer are left out.
        search: "every" radius in ascending order, up to the first that breaks the
            example; or "bisect", from the middle of the radii in question, where what
            withstands one radius counts as withstanding the smaller ones.
        is_shared: whether a later call with the same functions may use the compiled
            programs of this one; only if the model is a function of its weights.
    """

    stages: tuple[Stage, ...]
    epsilons: tuple[float, ...]
    norm: str
    seed: int
    batch_size: int | None
    is_compact: bool = True
    search: Search = "every"
    is_shared: bool = False


class Tally(NamedTuple):
    """How far the evaluation of one model is, between two buckets.

    Attributes:
        is_correct: right on the clean image, `(examples,)`.
        num_robust: radii withstood, `(stages + 1, examples)`: before the first stage,
            and after each finished one; 0 in the rows of those to come.
        stage: number of finished stages.
        low: radii withstood in the present stage, as far as is known, `(examples,)`.
        high: radii that may be withstood in it; the stage is over where both agree.
        num_withstood: place, among the attacks of the present stage, of the first that
            breaks the example in the present round, or of the first after the round,
            `(examples,)`.
        num_sent: place of the next attack in the present round, `(examples,)`.
        is_bad: which of them met a gradient that is not finite, `(examples, turns)`.
        num_bad: of those, the ones that count, by finished stage, `(stages,)`.
        num_attacks: attacks made, by stage, `(stages,)`.
    """

    is_correct: np.ndarray
    num_robust: np.ndarray
    stage: np.ndarray
    low: np.ndarray
    high: np.ndarray
    num_withstood: np.ndarray
    num_sent: np.ndarray
    is_bad: np.ndarray
    num_bad: np.ndarray
    num_attacks: np.ndarray


class Progress(NamedTuple):
    """What can be told after a bucket.

    Attributes:
        model: number of the model, from 0.
        stage: name of the stage.
        num_done: attacks made in the stage.
        num_left: attacks that it has still to make, at most.
        robust_accuracy: by radius, as far as is known: it can only fall.
    """

    model: int
    stage: str
    num_done: int
    num_left: int
    robust_accuracy: dict[float, float]


class _Programs(NamedTuple):
    """The compiled functions of a plan, and what a bucket of each stage holds."""

    clean: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
    attacked: tuple[Callable[..., tuple[jax.Array, jax.Array]], ...]
    sizes: tuple[int, ...]
    clean_size: int
    placement: Placement


def _programs(
    apply: Callable[[Any], LogitsFn], weights: Params, dataset: Dataset, plan: Plan
) -> _Programs:
    where = placement()
    shared = partial(shared_program, is_shared=plan.is_shared)
    devices = tuple(jax.local_devices())

    def steps_of(stage: Stage) -> str:
        if stage.num_steps is None:
            return "none"
        return "each" if callable(stage.num_steps) else "one"

    def whole(size: int) -> int:
        size = min(size, len(dataset))
        return size + -size % where.num_devices

    if plan.batch_size is not None:
        sizes = [plan.batch_size] * (1 + len(plan.stages))
    else:
        cost = shared(counting_program, apply)(weights, dataset.images)
        sizes = [
            bucket_size(passes, cost, where.platform) * where.num_devices
            for passes in (1, *(stage.num_passes for stage in plan.stages))
        ]
    return _Programs(
        shared(clean_program, apply, num_classes=dataset.num_classes, devices=devices),
        tuple(
            shared(
                attack_program,
                apply,
                stage.build,
                norm=plan.norm,
                steps=steps_of(stage),
                devices=devices,
            )
            for stage in plan.stages
        ),
        tuple(whole(size) for size in sizes[1:]),
        # Each device sees two images at least, so that one can be beside another.
        max(whole(sizes[0]), 2 * where.num_devices),
        where,
    )


def _next_items(
    num_sent: np.ndarray, limit: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Up to `size` items: examples, and which of its attacks each one faces.

    Those least far come first. If there are fewer examples than places, they face
    several of their attacks at once: the places would be padding otherwise, and an
    attack after one that succeeds changes no answer.

    Args:
        num_sent: attacks that each example was sent to, `(examples,)`; counted on.
        limit: how many it has to face as far as is known, `(examples,)`.
        size: places in the bucket.
    """
    examples, turns = np.zeros(0, int), np.zeros(0, int)
    while (room := size - len(examples)) and (num_sent < limit).any():
        waiting = np.flatnonzero(num_sent < limit)
        group = waiting[np.argsort(num_sent[waiting], kind="stable")][:room]
        examples = np.concatenate([examples, group])
        turns = np.concatenate([turns, num_sent[group]])
        num_sent[group] += 1
    return examples, turns


def _limit(tally: Tally, plan: Plan) -> np.ndarray:
    """Attacks of the present stage that each example has to face, `(examples,)`."""
    if plan.is_compact:
        return tally.num_withstood
    num_turns = len(plan.epsilons) * plan.stages[int(tally.stage)].num_turns
    return np.full(len(tally.is_correct), num_turns)


def _round(
    low: np.ndarray, high: np.ndarray, plan: Plan
) -> tuple[np.ndarray, np.ndarray]:
    """The radii that the next round attacks, from the first to before the last."""
    if plan.search == "every":
        return low, high
    middle = (low + high) // 2
    return middle, np.minimum(middle + 1, high)


def _opened(tally: Tally, plan: Plan) -> Tally:
    """The tally at the beginning of its present stage, if there is one."""
    index, count = int(tally.stage), len(tally.is_correct)
    num_turns = plan.stages[index].num_turns if index < len(plan.stages) else 0
    opened = tally._replace(
        low=np.zeros(count, int),
        high=tally.num_robust[index].astype(int),
        is_bad=np.zeros((count, len(plan.epsilons) * num_turns), bool),
    )
    return _with_round(opened, plan, num_turns)


def _with_round(tally: Tally, plan: Plan, num_turns: int) -> Tally:
    first, last = _round(tally.low, tally.high, plan)
    return tally._replace(num_sent=first * num_turns, num_withstood=last * num_turns)


def _after_rounds(tally: Tally, plan: Plan) -> Tally:
    """The tally with the next round of each example whose present one is over."""
    num_turns = plan.stages[int(tally.stage)].num_turns
    is_over = tally.num_sent >= _limit(tally, plan)
    first, last = _round(tally.low, tally.high, plan)
    withstood = tally.num_withstood // num_turns
    # The attack that breaks an example counts, those of the round after it do not.
    places = np.arange(tally.is_bad.shape[1])
    is_late = places > tally.num_withstood[:, None]
    is_late &= (places < last[:, None] * num_turns) & is_over[:, None]
    learned = tally._replace(
        low=np.where(is_over & (withstood > first), withstood, tally.low),
        high=np.where(is_over & (withstood < last), withstood, tally.high),
        is_bad=tally.is_bad & ~is_late,
    )
    begun = _with_round(learned, plan, num_turns)
    return begun._replace(
        num_sent=np.where(is_over, begun.num_sent, tally.num_sent),
        num_withstood=np.where(is_over, begun.num_withstood, tally.num_withstood),
    )


def _closed(tally: Tally, plan: Plan) -> Tally:
    """The tally after the present stage."""
    index = int(tally.stage)
    num_turns = plan.stages[index].num_turns
    limit = tally.num_robust[index].astype(int) * num_turns
    # Attacks at radii at which an earlier stage broke the example do not count.
    is_counted = np.arange(tally.is_bad.shape[1]) < limit[:, None]
    num_robust, num_bad = tally.num_robust.copy(), tally.num_bad.copy()
    num_robust[index + 1] = tally.low
    num_bad[index] = np.sum(tally.is_bad & is_counted)
    closed = tally._replace(
        num_robust=num_robust, num_bad=num_bad, stage=np.asarray(index + 1)
    )
    return _opened(closed, plan)


def _first_tally(
    programs: _Programs, weights: Params, data: Data, plan: Plan, model: str
) -> Tally:
    """The clean images, all of them."""
    count, size = len(data[1]), programs.clean_size
    is_correct, is_finite = np.zeros(count, bool), np.zeros(count, bool)
    nobody = np.zeros(size, bool)
    for start in range(0, count, size):
        group = np.arange(start, min(start + size, count))
        found = programs.clean(weights, data, np.resize(group, size), nobody)
        for flags, part in zip((is_correct, is_finite), found, strict=False):
            flags[group] = np.asarray(part)[: len(group)]
    require_finite(is_finite, model)
    first = np.resize(np.arange(min(size, count)), size)
    require_independent(
        lambda is_stranger: programs.clean(weights, data, first, is_stranger)[2],
        size,
        model,
    )
    num_stages = len(plan.stages)
    num_robust = np.zeros((num_stages + 1, count), np.int32)
    num_robust[0] = np.where(is_correct, len(plan.epsilons), 0)
    nothing = np.zeros(0, int)
    tally = Tally(
        is_correct,
        num_robust,
        stage=np.asarray(0),
        low=nothing,
        high=nothing,
        num_withstood=nothing,
        num_sent=nothing,
        is_bad=np.zeros((0, 0), bool),
        num_bad=np.zeros(num_stages, int),
        num_attacks=np.zeros(num_stages, int),
    )
    return _opened(tally, plan)


def _buckets(
    programs: _Programs, weights: Params, data: Data, plan: Plan, tally: Tally
) -> Iterator[Tally]:
    """The tally after each bucket and each stage; what is given is never changed."""
    place = programs.placement.place
    # Not the configured generator: under `vmap` "rbg" would draw for the bucket.
    seed_key = jax.random.key(plan.seed, impl="threefry2x32")
    while (number := int(tally.stage)) < len(plan.stages):
        stage, size = plan.stages[number], programs.sizes[number]
        stream = stage.stream
        if stream is None:
            stream = zlib.crc32(stage.name.encode())
        base_key = place(jax.random.fold_in(seed_key, stream) if stream else seed_key)
        each_epsilon = np.repeat(np.array(plan.epsilons, np.float32), stage.num_turns)
        steps_at = stage.num_steps
        if callable(steps_at):
            steps = [steps_at(radius) for radius in plan.epsilons]
            steps = np.repeat(np.array(steps, np.int32), stage.num_turns)
        else:
            steps = np.asarray(steps_at or 0, np.int32)
        while True:
            if plan.search == "bisect":
                # Each example for itself, so that only the last bucket has room left.
                tally = _after_rounds(tally, plan)
            num_sent = tally.num_sent.copy()
            examples, turns = _next_items(num_sent, _limit(tally, plan), size)
            count = len(examples)
            if not count:
                break
            padded = np.resize(turns, size)
            is_broken, is_finite = programs.attacked[number](
                base_key,
                weights,
                data,
                np.resize(examples, size),
                padded % stage.num_turns,
                each_epsilon[padded],
                steps[padded] if steps.ndim else steps[()],
            )
            broken = np.asarray(is_broken)[:count]
            num_withstood, is_bad = tally.num_withstood.copy(), tally.is_bad.copy()
            np.minimum.at(num_withstood, examples[broken], turns[broken])
            is_bad[examples, turns] = ~np.asarray(is_finite)[:count]
            num_attacks = tally.num_attacks.copy()
            num_attacks[number] += count
            tally = tally._replace(
                num_withstood=num_withstood,
                num_sent=num_sent,
                is_bad=is_bad,
                num_attacks=num_attacks,
            )
            yield tally
        tally = _closed(_after_rounds(tally, plan), plan)
        yield tally


class _Teller:
    """Says each finished radius of each stage once, in ascending order."""

    def __init__(self, plan: Plan, model: str, say: Callable[[str], None]) -> None:
        self.plan, self.model, self.say = plan, model, say
        self.stage, self.num_said = 0, 0

    def hear(self, tally: Tally) -> None:
        while self.stage < int(tally.stage):
            self._catch_up(len(self.plan.epsilons), tally.num_robust[self.stage + 1])
            self.stage, self.num_said = self.stage + 1, 0
        if self.stage == len(self.plan.stages):
            return
        num_turns = self.plan.stages[self.stage].num_turns
        is_open = tally.num_sent < _limit(tally, self.plan)
        # Bisection finishes all radii together.
        if self.plan.search == "every" and is_open.any():
            num_done = int(tally.num_sent[is_open].min()) // num_turns
            self._catch_up(num_done, tally.num_withstood // num_turns)

    def _catch_up(self, num_done: int, num_robust: np.ndarray) -> None:
        stages = self.plan.stages
        name = f"{stages[self.stage].name}, " if len(stages) > 1 else ""
        while self.num_said < num_done:
            radius = self.plan.epsilons[self.num_said]
            self.num_said += 1
            share = np.mean(num_robust >= self.num_said)
            self.say(
                f"{self.model}{name}epsilon {radius:g}: robust accuracy {share:.2%}"
            )


def _progress(index: int, tally: Tally, plan: Plan) -> Progress:
    number = min(int(tally.stage), len(plan.stages) - 1)
    is_over = int(tally.stage) == len(plan.stages)
    if is_over:
        num_robust, left = tally.num_robust[-1], 0
    else:
        num_turns = plan.stages[number].num_turns
        _, last = _round(tally.low, tally.high, plan)
        withstood = tally.num_withstood // num_turns
        num_robust = np.where(withstood < last, withstood, tally.high)
        left = int(np.sum(np.maximum(_limit(tally, plan) - tally.num_sent, 0)))
        if plan.search == "bisect":
            # Each further round halves what is in question.
            rounds = np.ceil(np.log2(np.maximum(tally.high - tally.low, 1)))
            left += int(np.sum(rounds)) * num_turns
    shares = {
        radius: float(np.mean(num_robust > place))
        for place, radius in enumerate(plan.epsilons)
    }
    done = int(tally.num_attacks[number])
    return Progress(index, plan.stages[number].name, done, left, shares)


def _weights_or_answers(
    apply: Callable[[Any], LogitsFn], weights: Params, dataset: Dataset
) -> str:
    """What tells a model from another one: its weights, or what it answers."""
    if jax.tree.leaves(weights):
        return fingerprint(weights)
    logits = jax.jit(lambda images: apply(weights)(as_float(images)))
    return fingerprint(np.asarray(logits(dataset.images[:32])))


def run_plan(
    apply: Callable[[Any], LogitsFn],
    weights: Sequence[Params],
    dataset: Dataset,
    plan: Plan,
    *,
    journal: Path | str | None = None,
    settings: Any = None,
    report: Callable[[str], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> list[Tally]:
    """Run the stages of a plan on every example, for each of several models.

    Args:
        apply: from the weights of one model to the model in evaluation mode.
        weights: pytrees of arrays of the same shapes.
        dataset: examples; each counts exactly once.
        plan: stages, radii and the rest.
        journal: file in which progress is kept, so that the same call goes on after
            it was killed, with the same answer; None to keep none.
        settings: JSON-like, what else decides the answer; compared on going on.
        report: told each finished radius of each stage.
        progress: told how far the evaluation is, after each bucket.

    Returns:
        The finished tally of each model.

    Raises:
        ValueError: if the radii are in another unit than the images, images lie
            outside the pixel range, a model has another number of classes than the
            data, answers with something not finite or by what else is in a batch; or if
            the journal is damaged or that of another evaluation.
        InUseError: if another process uses the journal.
    """
    num_pixels = int(np.prod(dataset.images.shape[1:]))
    for radius in plan.epsilons:
        require_epsilon(plan.norm, radius, num_pixels)
    require_images(dataset.images, (0.0, 1.0))
    programs = _programs(apply, weights[0], dataset, plan)
    examples = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
    data = programs.placement.place(examples)
    say = report or (lambda _: None)
    book = None
    if journal is not None:
        header = {
            "settings": settings,
            "epsilons": list(plan.epsilons),
            "norm": plan.norm,
            "seed": plan.seed,
            "stages": [
                {"name": each.name, "num_turns": each.num_turns, "bucket": size}
                for each, size in zip(plan.stages, programs.sizes, strict=True)
            ],
            "data": dataset.fingerprint,
            "models": [_weights_or_answers(apply, tree, dataset) for tree in weights],
        }
        book = Journal(journal, header)
    with book or nullcontext():
        tallies = [] if book is None else _unpacked(book.read())
        try:
            for index, tally in _finished(programs, weights, data, plan, tallies, say):
                if progress is not None:
                    progress(_progress(index, tally, plan))
                if book is not None:
                    book.offer(partial(_packed, tallies))
        finally:
            # Also after Ctrl-C: a tally is replaced as a whole, never half done.
            if book is not None and tallies:
                book.write(_packed(tallies))
    return tallies


def _finished(
    programs: _Programs,
    weights: Sequence[Params],
    data: Data,
    plan: Plan,
    tallies: list[Tally],
    say: Callable[[str], None],
) -> Iterator[tuple[int, Tally]]:
    """Finish the tallies in place; gives the number and tally after each bucket."""
    for index, tree in enumerate(weights):
        model = f"model {index + 1} of {len(weights)}, " if len(weights) > 1 else ""
        teller = _Teller(plan, model, say)
        if index < len(tallies) and int(tallies[index].stage) == len(plan.stages):
            teller.hear(tallies[index])
            continue
        placed = programs.placement.place(tree)
        if index == len(tallies):
            tallies.append(_first_tally(programs, placed, data, plan, model))
        teller.hear(tallies[index])
        for tally in _buckets(programs, placed, data, plan, tallies[index]):
            tallies[index] = tally
            teller.hear(tally)
            yield index, tally


def _packed(tallies: Sequence[Tally]) -> dict[str, np.ndarray]:
    return {
        f"{index}.{name}": value
        for index, tally in enumerate(tallies)
        for name, value in tally._asdict().items()
    }


def _unpacked(arrays: dict[str, np.ndarray] | None) -> list[Tally]:
    arrays = arrays or {}
    count = len({name.split(".")[0] for name in arrays})
    return [
        Tally(**{name: arrays[f"{index}.{name}"] for name in Tally._fields})
        for index in range(count)
    ]
