"""Runs a plan: the attacks that are wanted next, packed into buckets of one size.

The attacks that are still wanted are packed into buckets, which may mix radii and
turns, so one program serves all of a stage. What an attack draws depends on the seed,
the name of the stage, the turn and the example alone, so packing changes no answer, and
neither does the order of the stages.

Between two buckets everything that decides the next ones is a `Tally`, a value that
can be kept on disk: there an evaluation can stop, report and go on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arguments import require
from jaxrobust.attacks.builders import described
from jaxrobust.data import Dataset
from jaxrobust.evaluation.engine.builders import numbers_by_radius, taken_apart
from jaxrobust.evaluation.engine.clean import clean_flags, weights_or_answers
from jaxrobust.evaluation.engine.journal import Journal
from jaxrobust.evaluation.engine.plan import Plan
from jaxrobust.evaluation.engine.programs import (
    Data,
    Placement,
    attack_program,
    clean_program,
    counting_program,
    placement,
)
from jaxrobust.evaluation.engine.sharing import shared_program
from jaxrobust.evaluation.engine.sizes import bucket_size
from jaxrobust.evaluation.engine.tally import (
    Bucket,
    Items,
    Tally,
    after_bucket,
    after_rounds,
    attacks_to_face,
    closed,
    items_ahead,
    next_items,
)
from jaxrobust.evaluation.engine.telling import Progress, Teller, progress_of
from jaxrobust.keys import seeded
from jaxrobust.threat import norm_name, require_images
from jaxrobust.types import LogitsFn, Params

__all__ = ["run_plan"]


class _Attack(NamedTuple):
    """The compiled attacks of a stage, and the numbers that they are given.

    Attributes:
        program: see `attack_program`.
        shared: numbers that are the same at every radius.
        varying: numbers that follow the radius, each `(radii, ...)`.
        size: items in a bucket.
    """

    program: Callable[..., tuple[jax.Array, ...]]
    shared: list[np.ndarray]
    varying: list[np.ndarray]
    size: int


class _Programs(NamedTuple):
    """The compiled functions of a plan."""

    clean: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
    attacks: tuple[_Attack, ...]
    clean_size: int
    placement: Placement


def _programs(
    apply: Callable[[Any], LogitsFn], weights: Params, dataset: Dataset, plan: Plan
) -> _Programs:
    where = placement()
    shared = partial(shared_program, is_shared=plan.is_shared)
    devices = tuple(jax.local_devices())
    numbers = range(len(plan.stages))

    def whole(size: int) -> int:
        size = min(size, len(dataset))
        return size + -size % where.num_devices

    if plan.batch_size is not None:
        sizes = [plan.batch_size] * (1 + len(plan.stages))
    else:
        cost = shared(counting_program, apply)(weights, dataset.images)
        sizes = [
            bucket_size(passes, cost, where.platform, where.kind) * where.num_devices
            for passes in (1, *map(plan.num_passes, numbers))
        ]

    def attack(number: int) -> _Attack:
        builds = plan.builds(number)
        parts = taken_apart(builds[0])
        varies, values = numbers_by_radius(builds)
        program = shared(
            attack_program,
            apply,
            *parts.functions,
            structure=parts.structure,
            varies=varies,
            threat=plan.threat,
            keeps_images=plan.keeps_images,
            matmul_precision=plan.matmul_precision,
            is_judged_again=plan.is_judged_again(where.platform),
            devices=devices,
        )
        groups = ([], [])
        for is_varying, value in zip(varies, values, strict=True):
            groups[is_varying].append(value)
        return _Attack(program, *groups, whole(sizes[1 + number]))

    return _Programs(
        shared(clean_program, apply, num_classes=dataset.num_classes, devices=devices),
        tuple(map(attack, numbers)),
        # Each device sees two images at least, so that one can be beside another.
        max(whole(sizes[0]), 2 * where.num_devices),
        where,
    )


def _first_tally(
    programs: _Programs, weights: Params, data: Data, plan: Plan, model: str
) -> Tally:
    """The clean images, all of them."""
    size = programs.clean_size
    is_correct = clean_flags(programs.clean, size, weights, data, model)
    return Tally.begun(is_correct, plan, data[0].shape[1:])


def _sent(
    attack: _Attack, plan: Plan, num_turns: int, fixed: tuple[Any, ...], items: Items
) -> Sequence[jax.Array]:
    """What the device will answer to items; it may still be working on it.

    Args:
        attack: of the stage.
        plan: of the evaluation.
        num_turns: of the stage at each radius.
        fixed: key, weights and data, the same for all items of the stage.
        items: to be attacked.
    """
    padded = np.resize(items.turns, attack.size)
    radius = padded // num_turns
    return attack.program(
        *fixed,
        np.resize(items.examples, attack.size),
        padded % num_turns,
        np.array(plan.epsilons, np.float32)[radius],
        attack.shared,
        [values[radius] for values in attack.varying],
    )


def _received(
    answers: Sequence[jax.Array], plan: Plan, number: int, items: Items
) -> Bucket:
    """What came of the items of a stage, once the device is done with them."""
    parts = [np.asarray(answer)[: len(items.examples)] for answer in answers]
    is_broken, is_finite, is_inside, is_unconfirmed, *images = parts
    radii = np.array(plan.epsilons, np.float32)[items.turns // plan.num_turns(number)]
    name = plan.stages[number].name
    _require_inside(name, is_broken & ~is_inside, items.examples, radii)
    return Bucket(is_broken, is_finite, is_unconfirmed, images[0] if images else None)


def _buckets(
    programs: _Programs, weights: Params, data: Data, plan: Plan, tally: Tally
) -> Iterator[Tally]:
    """The tally after each bucket and each stage; what is given is never changed.

    Where the next bucket does not depend on what comes of the present one, it is sent
    before this one is waited for, so that the device has no pause. No tally knows of it
    before it has come back: if it is given up, it is made again.
    """
    seed_key = seeded(plan.seed)
    while (number := int(tally.stage)) < len(plan.stages):
        attack, num_turns = programs.attacks[number], plan.num_turns(number)
        stream = plan.stages[number].stream
        base_key = jax.random.fold_in(seed_key, stream) if stream else seed_key
        fixed = programs.placement.place(base_key), weights, data
        send = partial(_sent, attack, plan, num_turns, fixed)
        ahead = None
        while True:
            if plan.search == "bisect":
                # Each example for itself, so that only the last bucket has room left.
                tally = after_rounds(tally, plan)
            if ahead is None:
                limit = attacks_to_face(tally, plan)
                items = next_items(tally.num_sent, limit, attack.size)
                if not len(items.examples):
                    break
                answers = send(items)
            else:
                items, answers = ahead
            following = items_ahead(items, tally, plan, attack.size)
            ahead = None if following is None else (following, send(following))
            bucket = _received(answers, plan, number, items)
            tally = after_bucket(tally, plan, items, bucket)
            yield tally
        tally = closed(after_rounds(tally, plan), plan)
        yield tally


def _require_inside(
    attack: str, is_outside: np.ndarray, examples: np.ndarray, epsilons: np.ndarray
) -> None:
    """Refuse an attack whose successes are none of the threat model.

    Raises:
        ValueError: if any image lies outside the ball or the pixel range.
    """
    first = int(np.argmax(is_outside))
    require(
        not np.any(is_outside),
        "attacks",
        "searches that end inside the ball and the pixel range",
        attack,
        f"which leaves them in {np.sum(is_outside)} of {is_outside.size} runs, such as "
        f"that on example {examples[first]} at epsilon {epsilons[first]:g}; end an "
        "attack of your own with `threat.project(images, clean)`",
    )


def run_plan(
    apply: Callable[[Any], LogitsFn],
    weights: Sequence[Params],
    dataset: Dataset,
    plan: Plan,
    *,
    journal: Path | str | None = None,
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
        report: told each finished radius of each stage.
        progress: told how far the evaluation is, after each bucket.

    Returns:
        The finished tally of each model.

    Raises:
        ValueError: if the radii are in another unit than the images, images lie
            outside the pixel range, a model has another number of classes than the
            data, answers with something not finite or by what else is in a batch; if an
            attack succeeds outside the ball or the pixel range; or if the journal is
            damaged or that of another evaluation.
        InUseError: if another process uses the journal.
    """
    for radius in plan.epsilons:
        plan.threat.require_epsilon(radius, dataset.images.shape[1:])
    require_images(dataset.images, (0.0, 1.0))
    programs = _programs(apply, weights[0], dataset, plan)
    examples = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
    data = programs.placement.place(examples)
    say = report or (lambda _: None)
    book = None
    if journal is not None:
        header = {
            "epsilons": list(plan.epsilons),
            "norm": norm_name(plan.threat),
            "seed": plan.seed,
            "search": plan.search,
            "keeps_images": plan.keeps_images,
            "matmul_precision": plan.matmul_precision,
            "attacks": [
                {
                    "name": stage.name,
                    "settings": described(stage.build),
                    "num_turns": plan.num_turns(number),
                    "bucket": programs.attacks[number].size,
                }
                for number, stage in enumerate(plan.stages)
            ],
            "data": dataset.fingerprint,
            "models": [weights_or_answers(apply, tree, dataset) for tree in weights],
        }
        book = Journal(journal, header)
    with book or nullcontext():
        tallies = [] if book is None else _unpacked(book.read())
        try:
            for index, tally in _finished(programs, weights, data, plan, tallies, say):
                if progress is not None:
                    progress(progress_of(index, tally, plan))
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
        teller = Teller(plan, model, say)
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
