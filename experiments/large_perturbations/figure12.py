"""Figure 12: the robust error of two product-Bernoulli classes.

    python -m experiments large_perturbations/figure12 --preset cpu

50 coordinates agree with the label with probability .8 each, and an adversary flips at
most epsilon of them. The smallest robust error of any classifier by epsilon, and that
of each threshold rule for some epsilons, in closed form; beside it the share of a
sample on which the best rule fails.

Presets:
    smoke: 10 coordinates, a small sample.
    cpu, paper: the paper's 50 coordinates and advantage .3; seconds on 2 cores. `paper`
        has a larger sample.

Differs from the paper: it does not say what the axes of its figure are. Constant
classifiers count, so the error ends at 1/2; the printed formula goes above it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.formulas import compared, formula_table
from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.theory import bernoulli

results_table = formula_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The two classes, and what is shown of them."""

    num_features: int = 50
    advantage: float = 0.3
    largest_budget: int = 25
    curves: tuple[int, ...] = (0, 5, 10, 13, 15, 16)
    """Budgets whose threshold rules are drawn."""
    num_examples: int = 200_000


PRESETS = {
    "smoke": Config(
        num_features=10, largest_budget=5, curves=(0, 2, 3), num_examples=2000
    ),
    "cpu": Config(),
    "paper": Config(num_examples=2_000_000),
}


def _agreeing(config: Config, seed: int) -> np.ndarray:
    """How many coordinates agree with the label, for each example."""
    size = min(config.num_examples, 100_000)
    counts = []
    for index in range(-(-config.num_examples // size)):
        key = jax.random.fold_in(jax.random.key(seed), index)
        points, labels = bernoulli.sample(
            key, size, num_features=config.num_features, advantage=config.advantage
        )
        counts.append(np.sum(np.asarray(points) == np.asarray(labels)[:, None], axis=1))
    return np.concatenate(counts)


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Compute the errors, and try the best rules on a sample."""
    setting = config.num_features, config.advantage

    def compute() -> dict[str, Any]:
        budgets = np.arange(config.largest_budget + 1)
        errors = np.asarray(bernoulli.l0_threshold_errors(*setting, budgets))
        best = np.asarray(bernoulli.l0_error(*setting, budgets))
        agreeing = _agreeing(config, workspace.seed)
        is_one = np.arange(len(agreeing)) % 2 == 0
        rows = []
        for budget in budgets.tolist():
            rule = int(np.argmin(errors[budget]))
            # A point of class +1 is lost from the rule's threshold downwards, one of
            # class -1, whose agreeing coordinates are -1, from the other side.
            limit = np.where(is_one, rule, config.num_features - rule - 1)
            is_lost = agreeing <= limit + budget
            name = f"threshold {rule}"
            if best[budget] == 0.5:
                is_lost, name = is_one, "a constant"
            row = compared(f"ε = {budget}, {name}", "Theorem 4", best[budget], is_lost)
            rows.append(row | {"epsilon": budget})
        curves = {str(each): errors[each].tolist() for each in config.curves}
        return {"rows": rows, "curves": curves}

    found = workspace.cached(
        "errors", [dataclasses.asdict(config), workspace.seed], compute
    )
    rows = found["rows"]
    budgets = [row["epsilon"] for row in rows]
    smallest = plots.curves(
        [plots.Curve("best classifier", budgets, [row["formula"] for row in rows])],
        xlabel="ε (coordinates that may be flipped)",
        ylabel="robust error",
        levels={"constant classifiers": 0.5},
        log=True,
    )
    rules = plots.curves(
        [
            plots.Curve(f"ε = {budget}", range(len(errors)), errors)
            for budget, errors in found["curves"].items()
        ],
        xlabel="threshold s of the rule",
        ylabel="robust error",
        levels={"constant classifiers": 0.5},
    )
    useful = [row["epsilon"] for row in rows if row["formula"] < 0.5]
    return {
        "title": "Robust error of two product-Bernoulli classes",
        "rows": rows,
        "curves": found["curves"],
        "notes": [
            f"{config.num_features} coordinates, advantage {config.advantage:g}, "
            f"{config.num_examples:,} examples, intervals of 99.9 %. Up to ε = "
            f"{max(useful)} a threshold is better than a constant."
        ],
        "tables": {"Smallest robust error": formula_table({"rows": rows})},
        "figures": {
            "Figure 12: smallest robust error": workspace.save_figure(
                "figure12", smallest
            ),
            "Figure 12: threshold rules": workspace.save_figure(
                "figure12-rules", rules
            ),
        },
    }
