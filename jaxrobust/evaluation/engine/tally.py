"""How far an evaluation is: a value that says which attacks are wanted next.

In a stage every example faces a fixed sequence, radius by radius in ascending order and
at each radius turn by turn (restarts, or target classes), and one number says all about
it: how many it withstands before the first that breaks it. A later stage only sees the
pairs of example and radius that are still robust. All functions here are pure.
"""

from typing import NamedTuple

import numpy as np

from jaxrobust.evaluation.engine.plan import Plan

__all__ = [
    "Bucket",
    "Items",
    "Tally",
    "after_bucket",
    "after_rounds",
    "attacks_to_face",
    "closed",
    "items_ahead",
    "next_items",
    "opened",
    "present_round",
]


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
        num_unconfirmed: those of them that took for their success what the judgement
            at the highest precision did not, `(stages,)`.
        images: that broke the examples, at the smallest radius by now, `(examples,
            *pixels)`; `(0,)` where they are not kept.
        image_stage: number of the stage that each one is from, -1 for none; `(0,)`
            where they are not kept.
        image_place: place among the attacks of that stage, `(examples,)` or `(0,)`.
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
    num_unconfirmed: np.ndarray
    images: np.ndarray
    image_stage: np.ndarray
    image_place: np.ndarray

    @classmethod
    def begun(
        cls, is_correct: np.ndarray, plan: Plan, image_shape: tuple[int, ...]
    ) -> "Tally":
        """The tally before the first attack.

        Args:
            is_correct: right on the clean image, `(examples,)`.
            plan: of the evaluation.
            image_shape: of one image.
        """
        count, num_stages = len(is_correct), len(plan.stages)
        num_robust = np.zeros((num_stages + 1, count), np.int32)
        num_robust[0] = np.where(is_correct, len(plan.epsilons), 0)
        kept = count if plan.keeps_images else 0
        nothing = np.zeros(0, int)
        tally = cls(
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
            num_unconfirmed=np.zeros(num_stages, int),
            images=np.zeros((kept, *image_shape) if kept else (0,), np.float32),
            image_stage=np.full(kept, -1),
            image_place=np.full(kept, -1),
        )
        return opened(tally, plan)


class Items(NamedTuple):
    """Attacks to be made at once.

    Attributes:
        examples: numbers of the examples.
        turns: which of its attacks each one faces.
        num_sent: how many attacks of the round each example of all was sent to, with
            these, `(examples,)`.
    """

    examples: np.ndarray
    turns: np.ndarray
    num_sent: np.ndarray


class Bucket(NamedTuple):
    """What came of attacks that were made at once, without padding.

    Attributes:
        is_broken: whether one broke its example.
        is_finite: whether all gradients were finite.
        is_unconfirmed: whether only the attack itself takes it for broken.
        images: that were found; None where they are not kept.
    """

    is_broken: np.ndarray
    is_finite: np.ndarray
    is_unconfirmed: np.ndarray
    images: np.ndarray | None


def next_items(num_sent: np.ndarray, limit: np.ndarray, size: int) -> Items:
    """Up to `size` items.

    Those least far come first. If there are fewer examples than places, they face
    several of their attacks at once: the places would be padding otherwise, and an
    attack after one that succeeds changes no answer.

    Args:
        num_sent: attacks that each example was sent to, `(examples,)`.
        limit: how many it has to face as far as is known, `(examples,)`.
        size: places in the bucket.
    """
    examples, turns, num_sent = np.zeros(0, int), np.zeros(0, int), num_sent.copy()
    while (room := size - len(examples)) and (num_sent < limit).any():
        waiting = np.flatnonzero(num_sent < limit)
        group = waiting[np.argsort(num_sent[waiting], kind="stable")][:room]
        examples = np.concatenate([examples, group])
        turns = np.concatenate([turns, num_sent[group]])
        num_sent[group] += 1
    return Items(examples, turns, num_sent)


def items_ahead(items: Items, tally: Tally, plan: Plan, size: int) -> Items | None:
    """What follows items, whatever comes of them; None if that depends on it.

    An attack that succeeds takes later ones from its own example only. So the next
    items are known where no example is in both: they come before all that such an
    example may still face. With bisection what comes of an example moves it to the
    front or to the back.

    Args:
        items: that are on their way.
        tally: before them.
        plan: of the evaluation.
        size: places in a bucket.
    """
    if plan.search == "bisect":
        return None
    after = next_items(items.num_sent, attacks_to_face(tally, plan), size)
    if plan.is_compact and np.isin(after.examples, items.examples).any():
        return None
    return after if len(after.examples) else None


def attacks_to_face(tally: Tally, plan: Plan) -> np.ndarray:
    """Attacks of the present stage that each example has to face, `(examples,)`."""
    if plan.is_compact:
        return tally.num_withstood
    num_turns = len(plan.epsilons) * plan.num_turns(int(tally.stage))
    return np.full(len(tally.is_correct), num_turns)


def present_round(
    low: np.ndarray, high: np.ndarray, plan: Plan
) -> tuple[np.ndarray, np.ndarray]:
    """The radii that the next round attacks, from the first to before the last."""
    if plan.search == "every":
        return low, high
    middle = (low + high) // 2
    return middle, np.minimum(middle + 1, high)


def opened(tally: Tally, plan: Plan) -> Tally:
    """The tally at the beginning of its present stage, if there is one."""
    index, count = int(tally.stage), len(tally.is_correct)
    num_turns = plan.num_turns(index) if index < len(plan.stages) else 0
    begun = tally._replace(
        low=np.zeros(count, int),
        high=tally.num_robust[index].astype(int),
        is_bad=np.zeros((count, len(plan.epsilons) * num_turns), bool),
    )
    return _with_round(begun, plan, num_turns)


def _with_round(tally: Tally, plan: Plan, num_turns: int) -> Tally:
    first, last = present_round(tally.low, tally.high, plan)
    return tally._replace(num_sent=first * num_turns, num_withstood=last * num_turns)


def after_bucket(tally: Tally, plan: Plan, items: Items, bucket: Bucket) -> Tally:
    """The tally after attacks; the one that is given is not changed.

    Args:
        tally: before them.
        plan: of the evaluation.
        items: the attacks.
        bucket: what came of them.
    """
    number, broken = int(tally.stage), bucket.is_broken
    examples, turns, num_sent = items
    num_withstood, is_bad = tally.num_withstood.copy(), tally.is_bad.copy()
    np.minimum.at(num_withstood, examples[broken], turns[broken])
    is_bad[examples, turns] = ~bucket.is_finite
    num_attacks = tally.num_attacks.copy()
    num_attacks[number] += len(examples)
    num_unconfirmed = tally.num_unconfirmed.copy()
    num_unconfirmed[number] += np.sum(bucket.is_unconfirmed)
    if bucket.images is not None and broken.any():
        moved = bucket.images[broken]
        tally = _with_images(tally, plan, examples[broken], turns[broken], moved)
    return tally._replace(
        num_withstood=num_withstood,
        num_sent=num_sent,
        is_bad=is_bad,
        num_attacks=num_attacks,
        num_unconfirmed=num_unconfirmed,
    )


def _with_images(
    tally: Tally, plan: Plan, examples: np.ndarray, turns: np.ndarray, moved: np.ndarray
) -> Tally:
    """The tally with images that break an example at a smaller radius than before."""
    number = int(tally.stage)
    num_turns = plan.num_turns(number)
    images = tally.images.copy()
    stages, places = tally.image_stage.copy(), tally.image_place.copy()
    # At the radii of this stage nothing before it broke the example.
    is_wanted = turns < tally.num_robust[number][examples] * num_turns
    for index in np.flatnonzero(is_wanted):
        example, place = examples[index], turns[index]
        if stages[example] < number or place < places[example]:
            images[example] = moved[index]
            stages[example], places[example] = number, place
    return tally._replace(images=images, image_stage=stages, image_place=places)


def after_rounds(tally: Tally, plan: Plan) -> Tally:
    """The tally with the next round of each example whose present one is over."""
    num_turns = plan.num_turns(int(tally.stage))
    is_over = tally.num_sent >= attacks_to_face(tally, plan)
    first, last = present_round(tally.low, tally.high, plan)
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


def closed(tally: Tally, plan: Plan) -> Tally:
    """The tally after the present stage."""
    index = int(tally.stage)
    num_turns = plan.num_turns(index)
    limit = tally.num_robust[index].astype(int) * num_turns
    # Attacks at radii at which an earlier stage broke the example do not count.
    is_counted = np.arange(tally.is_bad.shape[1]) < limit[:, None]
    num_robust, num_bad = tally.num_robust.copy(), tally.num_bad.copy()
    num_robust[index + 1] = tally.low
    num_bad[index] = np.sum(tally.is_bad & is_counted)
    over = tally._replace(
        num_robust=num_robust, num_bad=num_bad, stage=np.asarray(index + 1)
    )
    return opened(over, plan)
