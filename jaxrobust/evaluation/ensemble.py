"""The standard ensemble: different strong attacks, each on what the others left.

AutoAttack's order (Croce & Hein, 2020, arXiv:2003.01690): Auto-PGD on the
cross-entropy, targeted Auto-PGD on the difference of logits ratio, targeted FAB, and
Square, which needs no gradient. Anything that one of them breaks is broken.
"""

from collections.abc import Sequence
from functools import partial

from jaxrobust.arguments import require, require_count
from jaxrobust.attacks import (
    AttackBuilder,
    auto_pgd,
    fab,
    over_targets,
    square,
    with_restarts,
)

__all__ = ["STAGES", "standard_ensemble"]

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square", "apgd-dlr", "fab")
"""Names of attacks; the first four are the standard, in its order."""


def standard_ensemble(
    *,
    num_steps: int = 100,
    num_targets: int = 9,
    num_queries: int = 5000,
    num_restarts: int = 1,
    stages: Sequence[str] = STAGES[:4],
) -> dict[str, AttackBuilder]:
    """The attacks of the standard ensemble, for `evaluate`; the defaults are its own.

    Args:
        num_steps: of Auto-PGD and FAB, at least 1.
        num_targets: target classes of apgd-t and fab-t, the likeliest first; at most
            all wrong ones are taken.
        num_queries: squares that Square tries; those that would change nothing cost no
            pass.
        num_restarts: runs of each attack, for each target.
        stages: attacks in the order in which they are run: apgd-ce, apgd-t, fab-t,
            square, apgd-dlr, fab.

    Returns:
        Builders by name.

    Raises:
        ValueError: for a count or a stage out of range.

    References:
        Croce & Hein, 2020, arXiv:2003.01690, Section 5.
    """
    counts = {
        "num_steps": num_steps,
        "num_targets": num_targets,
        "num_queries": num_queries,
        "num_restarts": num_restarts,
    }
    for name, value in counts.items():
        require_count(name, value, "leave out a stage to do without it")
    for name in stages:
        rule = f"among {', '.join(STAGES)}"
        require(name in STAGES, "stages", rule, name, "choose some of these")
    require(
        len(set(stages)) == len(stages) > 0,
        "stages",
        "at least one attack, each named once",
        tuple(stages),
        "use num_restarts to run them more often",
    )
    climb = partial(auto_pgd, num_steps=num_steps)
    climb_ratio = partial(auto_pgd, num_steps=num_steps, loss="dlr")
    # The first run starts at the image; further ones must draw, or they repeat it.
    boundary = partial(fab, num_steps=num_steps, random_start=num_restarts > 1)
    builds: dict[str, AttackBuilder] = {
        "apgd-ce": climb,
        "apgd-t": over_targets(climb_ratio, num_targets),
        "fab-t": over_targets(boundary, num_targets),
        "square": partial(square, num_queries=num_queries),
        "apgd-dlr": climb_ratio,
        "fab": boundary,
    }
    return {name: with_restarts(builds[name], num_restarts) for name in stages}
