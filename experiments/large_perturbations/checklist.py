"""The paper's checklist on the models of Table 1, and on cases to be told.

    python -m experiments large_perturbations/checklist --preset smoke

The models trained at large perturbations are checked with all that
`jaxrobust.evaluation.checklist` asks; the base that their weights started from is the
model of items 9, 11 and 12. The list itself is checked on models that hide their
weakness, on attacks that are broken, and on honest models, whose truth is known.

Presets:
    smoke: binarized digits, a few epochs, a few questions; shows that it runs.
    cases: the cases, seeds 0 to 4, without the models of Table 1; about 15 minutes on 2
        busy cores.
    cpu: the models of .4 of `table1 --preset cpu`, on 200 MNIST test images.
    paper: the models of .4 and .5 of `table1 --preset paper`, with 2000 steps and 1e8
        samples of brute force for each image; wants accelerators, and days.

Differs from the paper: budgets are in the configuration, those of `cpu` far smaller;
the smoothing of "changes little" into thresholds is ours, and each says why.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.large_perturbations import table1
from experiments.workspace import Setting, Workspace
from jaxrobust.attacks import (
    PGD,
    Attack,
    AttackResult,
    judge,
    pgd,
    randomized,
    with_restarts,
)
from jaxrobust.attacks.settings import in_proportion
from jaxrobust.data import Dataset, apply_variant, as_float, load_arrays
from jaxrobust.evaluation import Checklist, ChecklistConfig, checklist
from jaxrobust.evaluation.checklist import QUESTIONS
from jaxrobust.losses import margin
from jaxrobust.networks import ModelConfig
from jaxrobust.threat import ThreatModel
from jaxrobust.training import (
    OptimizerConfig,
    adversarial,
    standard,
)
from jaxrobust.types import Images, Labels, LogitsFn, PRNGKey

# --- models and attacks whose truth is known -----------------------------------------


def nearest_mean(dataset: Dataset, seed: int, sharpness: float = 5.0) -> LogitsFn:
    """A linear classifier in closed form: half of the images' nearest class mean.

    The worst perturbation towards each class is known exactly, and so the robustness.

    Args:
        dataset: a random half of it is used.
        seed: of the half.
        sharpness: multiplies the logits. At 1 the softmax is so flat that the gradient
            of the cross-entropy mixes all classes, and PGD misses 6 of 100 images that
            fall: an attack too weak, as the checklist finds out. At 10 it saturates
            within a ball of .4.
    """
    chosen = np.random.default_rng(seed).permutation(len(dataset))[: len(dataset) // 2]
    images = np.asarray(as_float(dataset.images[chosen])).reshape(len(chosen), -1)
    labels = dataset.labels[chosen]
    means = np.stack(
        [images[labels == label].mean(axis=0) for label in range(dataset.num_classes)]
    )
    weights = jnp.asarray(2 * sharpness * means.T, jnp.float32)
    offset = jnp.asarray(-sharpness * np.sum(means**2, axis=1), jnp.float32)

    def logits_fn(images: Images) -> jax.Array:
        return images.reshape(images.shape[0], -1) @ weights + offset[None]

    return logits_fn


def quantized(logits_fn: LogitsFn, levels: int = 3) -> LogitsFn:
    """A model that rounds its input, so that every gradient is 0."""
    return lambda images: logits_fn(jnp.round(images * levels) / levels)


def saturated(logits_fn: LogitsFn, factor: float = 1000.0) -> LogitsFn:
    """A model whose logits are so large that the softmax rounds to 0 and 1."""
    return lambda images: factor * logits_fn(images)


def probabilities(logits_fn: LogitsFn, factor: float = 100.0) -> LogitsFn:
    """A model that gives probabilities for logits."""
    return lambda images: jax.nn.softmax(factor * logits_fn(images))


def noisy(logits_fn: LogitsFn, seed: int, scale: float = 0.3) -> LogitsFn:
    """A model that adds new noise to its input at every call."""

    def apply(key: PRNGKey, images: Images) -> jax.Array:
        return logits_fn(images + scale * jax.random.normal(key, images.shape))

    return randomized(apply, jax.random.key(seed))


def wrong_sign(threat: ThreatModel) -> Attack:
    """Descends where it should climb."""

    def minus(logits: jax.Array, labels: Labels) -> jax.Array:
        return -margin(logits, labels)

    return pgd(threat, step_size=0.01, num_steps=40, loss=minus)


def tiny_steps(threat: ThreatModel) -> Attack:
    """As epsilon in the wrong unit gives: steps that add up to far less than it."""
    return pgd(threat, step_size=0.01 / 255, num_steps=40, random_start=False)


def forgetful(threat: ThreatModel) -> Attack:
    """Searches well, and hands back the clean images."""
    search = pgd(threat, step_size=0.01, num_steps=40)

    def attack(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        found = search(key, logits_fn, images, labels)
        return found._replace(
            images=images, is_adversarial=judge(logits_fn(images), labels)
        )

    return attack


class Case(NamedTuple):
    """A model, an attack on it, and what the checklist has to say.

    Attributes:
        expected: the right verdict.
        start: the honest model it is made of.
        disguise: `(logits_fn, seed) -> logits_fn`; None leaves it as it is.
        attack: to be judged, beside the PGD of all cases; None for that PGD.
        epsilon: radius, if not that of all cases.
    """

    expected: str
    start: str = "linear"
    disguise: Callable[[LogitsFn, int], LogitsFn] | None = None
    attack: Callable[[ThreatModel], Attack] | None = None
    epsilon: float | None = None


LINEAR, PLAIN, HONEST, SINGLE = "linear", "plain", "honest", "single step"

CASES: dict[str, Case] = {
    "honest linear": Case("pass"),
    "honest, adversarially trained": Case("pass", HONEST),
    "honest, undefended": Case("pass", PLAIN),
    "quantized linear": Case("fail", LINEAR, lambda fn, _: quantized(fn)),
    "quantized network": Case("fail", PLAIN, lambda fn, _: quantized(fn)),
    "saturated linear": Case("fail", LINEAR, lambda fn, _: saturated(fn)),
    "saturated network": Case("fail", PLAIN, lambda fn, _: saturated(fn)),
    "probabilities": Case("fail", LINEAR, lambda fn, _: probabilities(fn)),
    "stochastic linear": Case("fail", LINEAR, noisy),
    "stochastic network": Case("fail", PLAIN, noisy),
    "FGSM-trained": Case("fail", SINGLE, epsilon=0.3),
    "attack of the wrong sign": Case("fail", attack=wrong_sign),
    "attack of tiny steps": Case("fail", attack=tiny_steps),
    "attack that returns clean images": Case("fail", attack=forgetful),
    "wrong sign, adversarially trained": Case("fail", HONEST, attack=wrong_sign),
    "tiny steps, adversarially trained": Case("fail", HONEST, attack=tiny_steps),
}

_CASE_PGD = PGD(step_size=0.01, num_steps=40)

CASE_CHECKS = ChecklistConfig(
    attack=with_restarts(_CASE_PGD, 2),
    reference=_CASE_PGD,
    epsilon=0.1,
    num_images=100,
    long_steps=400,
    num_radii=4,
    brute_force_samples=1000,
    zoo_steps=20,
    num_queries=300,
)

_ADAM = OptimizerConfig(learning_rate=0.003)
_DIGITS = Setting(
    dataset="digits",
    model=ModelConfig(name="lenet-small", widen_factor=0.25),
    batch_size=32,
    checkpoint_every=1000,
)
_PHASES = {
    PLAIN: standard(15, optimizer=_ADAM),
    HONEST: adversarial(
        0.1, 20, attack=PGD(step_size=0.05, num_steps=4), optimizer=_ADAM
    ),
    # From the clean image, by one step of the whole radius: catastrophic overfitting.
    SINGLE: adversarial(
        0.3,
        60,
        attack=PGD(step_size=0.3, num_steps=1, random_start=False),
        optimizer=_ADAM,
    ),
}


def case_model(workspace: Workspace, start: str, seed: int) -> LogitsFn:
    """The honest model that a case is made of."""
    if start == LINEAR:
        return nearest_mean(load_arrays("digits", "train"), seed)
    recipe = _DIGITS.recipe(workspace, _PHASES[start])
    recipe = dataclasses.replace(recipe, seed=seed)
    name = f"case-{start.replace(' ', '-')}"
    return workspace.model(name, recipe, checkpoint_every=1000).logits_fn


def check_case(
    case: Case,
    model: LogitsFn,
    seed: int,
    *,
    config: ChecklistConfig = CASE_CHECKS,
    only: Sequence[str] | None = None,
) -> Checklist:
    """What the checklist says of a case made of this model."""
    config = dataclasses.replace(config, seed=seed)
    if case.epsilon is not None:
        radii = {"epsilon": case.epsilon, "made_for": config.epsilon}
        attack, reference = (
            in_proportion(build, **radii) for build in (config.attack, _CASE_PGD)
        )
        config = dataclasses.replace(
            config, epsilon=case.epsilon, attack=attack, reference=reference
        )
    if case.attack is not None:
        config = dataclasses.replace(config, attack=with_restarts(case.attack, 2))
    logits_fn = model if case.disguise is None else case.disguise(model, seed)
    test = load_arrays("digits", "test")
    return checklist(logits_fn, test, config, only=only)


# --- the experiment ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(table1.Config):
    """The models of Table 1 to check, the budgets, and the cases."""

    roles: dict[str, float]
    """Models to check, and the radius of each."""
    checks: ChecklistConfig
    only: tuple[str, ...] | None = None
    """Questions asked; None for all."""
    cases: tuple[str, ...] = tuple(CASES)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the cases: of their training, their noise and the attacks."""


def _config(preset: str, **settings: Any) -> Config:
    return Config(**vars(table1.PRESETS[preset]), **settings)


_CPU_CHECKS = ChecklistConfig(
    attack=with_restarts(PGD(num_steps=100), 2),
    num_images=200,
    long_steps=1000,
    brute_force_samples=5000,
    zoo_steps=20,
    num_queries=1000,
)

PRESETS = {
    "smoke": _config(
        "smoke",
        roles={table1.EXTENDED: 0.1},
        checks=ChecklistConfig(
            attack=PGD(step_size=0.02, num_steps=10),
            num_images=40,
            batch_size=40,
            many_restarts=2,
            long_steps=20,
            brute_force_samples=64,
        ),
        only=(
            *("single_step", "unbounded", "random_offset", "monotone", "brute_force"),
            *("larger_minimum", "transfer", "semi_black_box", "logits", "gradients"),
        ),
        cases=("honest linear", "quantized linear"),
        seeds=(0,),
    ),
    "cases": _config("smoke", roles={}, checks=CASE_CHECKS),
    "cpu": _config(
        "cpu",
        roles={table1.EXTENDED: 0.4, table1.IAT: 0.4},
        checks=_CPU_CHECKS,
        cases=(),
    ),
    "paper": _config(
        "paper",
        roles={table1.EXTENDED: 0.4, table1.FURTHER: 0.5},
        checks=ChecklistConfig(
            attack=with_restarts(PGD(num_steps=200), 5),
            num_images=1000,
            long_steps=2000,
            brute_force_samples=100_000_000,
            num_queries=5000,
        ),
        cases=(),
    ),
}


def _check_models(config: Config, workspace: Workspace) -> list[dict[str, Any]]:
    if not config.roles:
        return []
    runs = table1.trained(config, workspace, table1.BASE, *config.roles)
    base = runs[table1.BASE]
    test = load_arrays(config.dataset, "test", data_dir=workspace.data_dir)
    test = apply_variant(test, config.variant)
    rows = []
    for role, epsilon in config.roles.items():
        settings = dataclasses.replace(
            config.checks, epsilon=epsilon, seed=workspace.seed
        )

        def compute(
            role: str = role, settings: ChecklistConfig = settings
        ) -> list[dict[str, Any]]:
            found = checklist(
                runs[role].logits_fn,
                test,
                settings,
                base_fn=base.logits_fn,
                report=workspace.say,
                only=config.only,
            )
            for check in found.checks:
                workspace.say(f"{check.source} {check.name}: {check.verdict}")
            overall = {"name": "all", "verdict": found.verdict}
            return [overall, *found.as_rows()]

        key = [
            *(runs[role].directory.name, base.directory.name),
            *(dataclasses.asdict(settings), config.only),
        ]
        workspace.say(f"--- checking {role} at epsilon {epsilon:g}")
        for row in workspace.cached("checklist", key, compute):
            model = f"{role}, ε = {epsilon:g}"
            rows.append({"model": model, "seed": workspace.seed, **row})
    return rows


def _check_cases(config: Config, workspace: Workspace) -> list[dict[str, Any]]:
    """A row for each case, with what was found for each seed."""
    rows = []
    for name in config.cases:
        case, seeds = CASES[name], []
        for seed in config.seeds:

            def compute(
                name: str = name, case: Case = case, seed: int = seed
            ) -> dict[str, Any]:
                model = case_model(workspace, case.start, seed)
                found = check_case(case, model, seed)
                workspace.say(f"{name}, seed {seed}: {found.verdict}")
                failed = [check.name for check in found.failed]
                return {"verdict": found.verdict, "failed": failed}

            key = [name, seed, dataclasses.asdict(CASE_CHECKS), len(QUESTIONS)]
            found = workspace.cached("case", key, compute)
            seeds.append({"seed": seed, **found})
        rows.append({"model": name, "expected": case.expected, "seeds": seeds})
    return rows


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Check the models of Table 1, then the cases."""
    load_arrays(config.dataset, "test", data_dir=workspace.data_dir)
    models = _check_models(config, workspace)
    cases = _check_cases(config, workspace)
    told = [
        each["verdict"] == row["expected"] for row in cases for each in row["seeds"]
    ]
    failed = [
        row for row in models if row["verdict"] == "fail" and row["name"] != "all"
    ]
    notes = [
        '"fail" says that the accuracy under the attack overstates the robustness; '
        '"inconclusive" that the question could not be answered.',
    ]
    if cases:
        notes.append(
            f"The checklist tells {sum(told)} of {len(told)} cases rightly: models "
            "that hide their gradients, broken attacks, and honest models."
        )
    notes += [
        f"{row['model']}: {row['source']} {row['name']} fails at {row['threshold']}: "
        f"{_numbers(row)}."
        for row in failed
    ]
    tables = {}
    if models:
        tables["Checks"] = results_table({"rows": models})
        tables["Reasons of the thresholds"] = _reasons(models)
    if cases:
        tables["Cases"] = results_table({"rows": cases})
    return {
        "title": "The check-list for large perturbations",
        "rows": [*models, *cases],
        "notes": notes,
        "tables": tables,
    }


def _numbers(row: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} {value:.4g}" for name, value in row["measured"].items())


def _reasons(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    found = {
        (row["source"], row["question"]): row["reason"]
        for row in rows
        if "reason" in row
    }
    cells = [[source, text, reason] for (source, text), reason in found.items()]
    return [["source", "question", "reason"], *cells]


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the verdicts, also from a committed results file."""
    header = ["model", "check", "verdict", "measured", "fails at"]
    return [header, *map(_cells, result["rows"])]


def _cells(row: Mapping[str, Any]) -> list[str]:
    if "expected" in row:
        return _case_cells(row)
    if row["name"] == "all":
        return [row["model"], "all", row["verdict"], "", ""]
    name = f"{row['source']} {row['name']}"
    return [row["model"], name, row["verdict"], _numbers(row), row["threshold"]]


def _case_cells(row: Mapping[str, Any]) -> list[str]:
    """A line for all seeds of a case."""
    seeds, expected = row["seeds"], row["expected"]
    told = sum(each["verdict"] == expected for each in seeds)
    first, *others = (set(each["failed"]) for each in seeds)
    always, ever = first.intersection(*others), first.union(*others)
    measured = f"fails with every seed: {', '.join(sorted(always)) or 'none'}"
    if ever - always:
        measured += f"; with some: {', '.join(sorted(ever - always))}"
    verdict = f"{expected} with {told} of {len(seeds)} seeds"
    return [row["model"], "all", verdict, measured, f"expected: {expected}"]
