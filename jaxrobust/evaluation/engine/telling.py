"""What can be said of an evaluation while it goes on."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrobust.evaluation.engine.plan import Plan
from jaxrobust.evaluation.engine.tally import Tally, attacks_to_face, present_round

__all__ = ["Progress", "Teller", "progress_of"]


class Progress(NamedTuple):
    """What can be told after a bucket.

    Attributes:
        model: number of the model, from 0.
        attack: name of the present attack.
        num_done: attacks made under that name.
        num_left: attacks under that name that are still to be made, at most.
        epsilons: radii in ascending order.
        robust_accuracy: at each of them, as far as is known: it can only fall.
    """

    model: int
    attack: str
    num_done: int
    num_left: int
    epsilons: tuple[float, ...]
    robust_accuracy: tuple[float, ...]


def progress_of(index: int, tally: Tally, plan: Plan) -> Progress:
    """How far the evaluation of a model is.

    Args:
        index: number of the model.
        tally: of it.
        plan: of the evaluation.
    """
    number = min(int(tally.stage), len(plan.stages) - 1)
    is_over = int(tally.stage) == len(plan.stages)
    if is_over:
        num_robust, left = tally.num_robust[-1], 0
    else:
        num_turns = plan.num_turns(number)
        _, last = present_round(tally.low, tally.high, plan)
        withstood = tally.num_withstood // num_turns
        num_robust = np.where(withstood < last, withstood, tally.high)
        waiting = attacks_to_face(tally, plan) - tally.num_sent
        left = int(np.sum(np.maximum(waiting, 0)))
        if plan.search == "bisect":
            # Each further round halves what is in question.
            rounds = np.ceil(np.log2(np.maximum(tally.high - tally.low, 1)))
            left += int(np.sum(rounds)) * num_turns
    shares = (float(np.mean(num_robust > place)) for place in range(len(plan.epsilons)))
    name, done = plan.stages[number].name, int(tally.num_attacks[number])
    return Progress(index, name, done, left, plan.epsilons, tuple(shares))


class Teller:
    """Says each finished radius of each stage once, in ascending order.

    Args:
        plan: of the evaluation.
        model: what comes before each line.
        say: is told the lines.
    """

    def __init__(self, plan: Plan, model: str, say: Callable[[str], None]) -> None:
        self.plan, self.model, self.say = plan, model, say
        self.stage, self.num_said = 0, 0

    def hear(self, tally: Tally) -> None:
        """Say what is new in a tally."""
        while self.stage < int(tally.stage):
            self._catch_up(len(self.plan.epsilons), tally.num_robust[self.stage + 1])
            self.stage, self.num_said = self.stage + 1, 0
        if self.stage == len(self.plan.stages):
            return
        num_turns = self.plan.num_turns(self.stage)
        is_open = tally.num_sent < attacks_to_face(tally, self.plan)
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
