"""Models that are proven or attacked, judged by both: rows of the experiments here."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from experiments.judging import ByEnsemble, ByPGD
from experiments.workspace import Setting, Workspace
from jaxrobust import plots
from jaxrobust.bounds import linear_margins
from jaxrobust.data import Dataset, apply_variant, load_arrays, subset
from jaxrobust.evaluation import certify_models, evaluate_models
from jaxrobust.evaluation.certificates.methods import DEFAULT
from jaxrobust.limits import best_possible
from jaxrobust.networks import ModelConfig
from jaxrobust.report import percent
from jaxrobust.training import (
    EpsilonSchedule,
    OptimizerConfig,
    Phase,
    Run,
    TrainConfig,
    applied,
)
from jaxrobust.training.recipe.config_json import config_to_json
from jaxrobust.training.recipe.objectives import IBP, Objective

__all__ = [
    "Config",
    "Trained",
    "accuracy_table",
    "bracketed",
    "note",
    "ramp",
    "rows_of",
]


DUAL = partial(linear_margins, slopes="dual", intermediate="linear")
"""The bounds of Wong & Kolter, 2018, cut by the pixel range."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """How a model is trained, and the radius at which it is judged."""

    title: str
    """In words."""
    epsilon: float
    """Radius at the end of training, in units of [0, 1] pixels, in l_inf."""
    phases: tuple[Phase, ...]
    dataset: str | None = None
    """Another one than that of the experiment."""
    model: ModelConfig | None = None
    """Another network than that of the experiment."""
    variant: str = "original"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Setting):
    """The models, and how they are judged."""

    models: tuple[Trained, ...]
    evaluation: ByPGD
    ensemble: ByEnsemble = ByEnsemble()
    ensemble_size: int
    """Test images that the ensemble attacks."""
    test_size: int | None = None
    """Test images; None for all."""
    num_dual: int = 0
    """Test images that the dual network of Wong & Kolter bounds, too."""
    radii: tuple[float, ...] = ()
    """Of the figure: certified, attacked by PGD, and the optimum of any function."""
    methods: tuple[str, ...] = DEFAULT
    """What certifies."""
    augmentation: str | None = None
    """Random changes of the training images."""

    def recipe_of(self, model: Trained, workspace: Workspace) -> TrainConfig:
        """What to do for a model."""
        return dataclasses.replace(
            self.recipe(workspace, *model.phases),
            dataset=model.dataset or self.dataset,
            model=model.model or self.model,
            variant=model.variant,
            augmentation=self.augmentation,
        )

    def test_images(self, model: Trained, workspace: Workspace) -> Dataset:
        """What a model is judged on."""
        dataset = model.dataset or self.dataset
        test = load_arrays(dataset, "test", data_dir=workspace.data_dir)
        size = self.test_size
        test = test if size is None or size >= len(test) else subset(test, size)
        return apply_variant(test, model.variant)


def ramp(
    start: float,
    end: float,
    epochs: int,
    *,
    ramp_epochs: int | None = None,
    milestones: Sequence[int] | None = None,
    carry: Literal["weights", "optimizer"] = "weights",
    objective: Objective | None = None,
) -> Phase:
    """A phase of training by interval bounds, as Shi et al. train.

    Args:
        start: radius at its beginning.
        end: radius at its end.
        epochs: length.
        ramp_epochs: in which the radius rises, slowly at first; by default half of
            them, none where it does not rise.
        milestones: epochs after which the learning rate falls to a fifth; by default
            three quarters and nine tenths.
        carry: what is taken over from the phase before.
        objective: what is minimized; by default the loss of interval bounds alone.
    """
    if milestones is None:
        milestones = sorted({3 * epochs // 4, 9 * epochs // 10} - {0})
    optimizer = OptimizerConfig(
        learning_rate=5e-4, milestones=tuple(milestones), decay=0.2, clip_norm=10.0
    )
    length = epochs // 2 if ramp_epochs is None else ramp_epochs
    schedule = EpsilonSchedule(
        kind="smooth", start=start, end=end, ramp_epochs=length + 1, every="step"
    )
    return Phase(
        name="certified",
        epochs=epochs,
        epsilon=EpsilonSchedule(end=end) if start == end else schedule,
        objective=objective or IBP(),
        optimizer=optimizer,
        carry=carry,
    )


def _judged(
    run: Run, epsilon: float, config: Config, workspace: Workspace, test: Dataset
) -> dict[str, Any]:
    """Shares of test images: right, left by PGD and by the ensemble, and certified."""
    seed, pgd = workspace.seed, config.evaluation
    size = min(config.ensemble_size, len(test))
    part = subset(test, size)
    radii = tuple(sorted({epsilon, *config.radii}))
    own = radii.index(epsilon)
    # The same function for all models, so that they share programs.
    model = (applied(run.network), [run.weights])
    (proof,) = certify_models(*model, test, radii, methods=config.methods)
    (proof_of_part,) = certify_models(*model, part, radii, methods=config.methods)
    options: dict[str, Any] = {"batch_size": pgd.batch_size, "seed": seed}
    (weak,) = evaluate_models(*model, test, pgd.attacks, (epsilon,), **options)
    (strong,) = evaluate_models(
        *model,
        part,
        config.ensemble.attacks,
        (epsilon,),
        seed=seed,
        journal=workspace.models / f"{run.directory.name}-ensemble.npz",
    )
    found = {
        "clean_accuracy": weak.clean_accuracy,
        "robust_accuracy": float(weak.robust_accuracy[0]),
        "certified_accuracy": float(proof.certified_accuracy[own]),
        "ensemble_accuracy": float(strong.robust_accuracy[0]),
        "certified_on_the_same": float(proof_of_part.certified_accuracy[own]),
        "num_test": len(test),
        "num_ensemble": size,
        "num_broken": sum(
            int(np.sum(proven.is_certified[own] & ~attacked.at(epsilon)))
            for proven, attacked in ((proof, weak), (proof_of_part, strong))
        ),
    }
    if config.radii:
        (attacked,) = evaluate_models(*model, part, pgd.attacks, radii, **options)
        found["curve"] = {
            "epsilons": list(radii),
            "certified": proof.certified_accuracy.tolist(),
            "certified_on_the_same": proof_of_part.certified_accuracy.tolist(),
            "attacked": attacked.robust_accuracy.tolist(),
        }
    if not config.num_dual:
        return found
    few = subset(test, min(config.num_dual, len(test)))
    (by_intervals,) = certify_models(*model, few, (epsilon,))
    (by_dual,) = certify_models(*model, few, (epsilon,), methods={"dual": DUAL})
    return found | {
        "certified_by_dual": float(by_dual.certified_accuracy[0]),
        "certified_by_intervals_of_these": float(by_intervals.certified_accuracy[0]),
        "num_dual": len(few),
    }


def _named(model: ModelConfig) -> str:
    width = model.widen_factor
    return model.name if width == 1 else f"{model.name} x{width:g}"


def rows_of(config: Config, workspace: Workspace) -> list[dict[str, Any]]:
    """Train every model, attack it and certify it: a row of each that is known."""
    rows = []
    # Data and settings are checked before any training.
    for each in config.models:
        config.recipe_of(each, workspace)
        config.test_images(each, workspace)
    for each in config.models:
        recipe = config.recipe_of(each, workspace)
        judged = [config_to_json(config.evaluation), config_to_json(config.ensemble)]
        key = [
            config_to_json(recipe, has_defaults=False),
            [*judged, config.ensemble_size, config.test_size, config.num_dual],
            [config.radii, config.methods],
        ]

        def compute(each: Trained = each, recipe: TrainConfig = recipe) -> Any:
            run = workspace.model(
                "certified", recipe, checkpoint_every=config.checkpoint_every
            )
            workspace.say(f"--- judging {each.title}")
            test = config.test_images(each, workspace)
            return {
                "network": _named(recipe.model),
                "epochs": len(run.records),
                **_judged(run, each.epsilon, config, workspace, test),
            }

        row = workspace.row("certified", key, compute)
        if row is not None:
            rows.append({"title": each.title, "epsilon": each.epsilon, **row})
    if not rows:
        raise ValueError(
            "`--shown-only` must be left out until a row is known, got it with none "
            f"in {str(workspace.models)!r}; compute one first."
        )
    return rows


def note(config: Config, rows: Sequence[Mapping[str, Any]]) -> str:
    """What the numbers of the table are."""
    first = rows[0]
    text = (
        f"Shares of {first['num_test']:,} test images of {config.dataset}, in percent, "
        f"in l_inf. Attacked by PGD with {config.evaluation.text}, and the first "
        f"{first['num_ensemble']:,} by the ensemble ({config.ensemble.text}); behind "
        f"it what is certified of these. Certified by {', '.join(config.methods)}, "
        "rounded outwards."
    )
    broken = sum(row["num_broken"] for row in rows)
    text += f" Certified images that an attack breaks: {broken or 'none'}."
    if len(rows) < len(config.models):
        text += f" {len(rows)} of {len(config.models)} models are trained so far."
    return text


def accuracy_table(
    rows: Sequence[Mapping[str, Any]], published: Mapping[str, str] | None = None
) -> list[list[str]]:
    """Cells of the accuracies.

    Args:
        rows: as `rows_of` makes them.
        published: certified accuracies of others by title and radius, "TITLE, 0.3".
    """
    header = ["training", "network", "epsilon", "epochs", "clean", "PGD", "certified"]
    header += ["ensemble (certified of the same)"]
    lines = []
    for row in rows:
        strong = percent(row["ensemble_accuracy"])
        cells = [
            *(row["title"], row["network"]),
            *(f"{row['epsilon']:.3g}", str(row["epochs"])),
            *(percent(row["clean_accuracy"]), percent(row["robust_accuracy"])),
            percent(row["certified_accuracy"]),
            f"{strong} ({percent(row['certified_on_the_same'])})",
        ]
        if published is not None:
            cells.append(published.get(f"{row['title']}, {row['epsilon']:.3g}", ""))
        lines.append(cells)
    if published is not None:
        header.append("certified by others, in %")
    return [header, *lines]


def bracketed(
    title: str,
    config: Config,
    workspace: Workspace,
    published: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train every model, attack it and certify it: the result of an experiment.

    Args:
        title: of the report.
        config: what to do.
        workspace: where.
        published: see `accuracy_table`.
    """
    rows = rows_of(config, workspace)
    found: dict[str, Any] = {
        "title": title,
        "rows": rows,
        "notes": [note(config, rows)],
        "tables": {"Accuracy": accuracy_table(rows, published)},
    }
    if config.radii:
        optimum = _optimum(config, workspace)
        found["notes"].append(
            f"The figure: the first {rows[0]['num_ensemble']:,} test images; the upper "
            "end of each band is what PGD leaves, the lower one what is certified; "
            "above the line of the optimum is no function of the image."
        )
        drawn = workspace.save_figure("bracket", _draw(rows, config, optimum))
        found["figures"] = {"Certified and attacked, by radius": drawn}
    return found


def _optimum(config: Config, workspace: Workspace) -> list[float]:
    """Of the images that the ensemble attacks: the largest share that is robust."""
    test = config.test_images(config.models[0], workspace)
    part = subset(test, min(config.ensemble_size, len(test)))

    def compute(epsilon: float) -> float:
        found = best_possible(part, epsilon=epsilon, num_examples=len(part))
        return 1 - found.lower_bound

    key = [config.dataset, config.variant, config.test_size, len(part)]
    return [
        workspace.cached("optimum", [*key, radius], partial(compute, radius))
        for radius in config.radii
    ]


def _draw(
    rows: Sequence[Mapping[str, Any]], config: Config, optimum: Sequence[float]
) -> plots.Figure:
    """A band for each model, between what is certified and what PGD leaves."""
    lines, bands = [], {}
    for row in rows:
        curve, label = row["curve"], f"{row['title']}, {row['epsilon']:.3g}"
        lower, upper = (
            [100 * share for share in curve[name]]
            for name in ("certified_on_the_same", "attacked")
        )
        lines.append(plots.Curve(label, curve["epsilons"], upper))
        bands[label] = lower, upper
    shares = [100 * share for share in optimum]
    lines.append(plots.Curve("optimum", config.radii, shares))
    return plots.curves(
        lines, xlabel="radius in l_inf", ylabel="accuracy (%)", bands=bands
    )
