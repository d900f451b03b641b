"""Questions of a checklist and their answers: named predicates on the evidence."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from jaxrobust.evaluation.evidence import Evidence

__all__ = ["Check", "Judgement", "Question", "Verdict"]

Verdict = Literal["pass", "fail", "inconclusive"]


class Check(NamedTuple):
    """One answered question.

    Attributes:
        name: of the question.
        source: where it is from, such as "Shaeiri 2020, item 8".
        question: what is asked, so that the answer "yes" is a pass.
        verdict: "pass", "fail", or "inconclusive" if it cannot be said.
        measured: the numbers the verdict rests on; counts are of images.
        threshold: what would fail.
        reason: why the threshold is there, or why nothing can be said.
        is_needed: whether an "inconclusive" leaves the whole in doubt; False where
            the caller gave nothing to ask about, such as no base model.
    """

    name: str
    source: str
    question: str
    verdict: Verdict
    measured: dict[str, float]
    threshold: str
    reason: str
    is_needed: bool = True


class Judgement(NamedTuple):
    """What a question's predicate answers: the last fields of a `Check`."""

    verdict: Verdict
    measured: dict[str, float]
    threshold: str
    reason: str
    is_needed: bool = True


class Question(NamedTuple):
    """A named predicate on the evidence."""

    name: str
    source: str
    text: str
    decide: Callable[[Evidence], Judgement]

    def ask(self, evidence: Evidence) -> Check:
        """The answer, with the question beside it."""
        return Check(self.name, self.source, self.text, *self.decide(evidence))
