"""Models trained on variants of a data set, one row for each.

The tables and figures on MNIST and CIFAR-10 ask different questions about the same
models, so they share these rows: the first experiment that needs one computes it.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from experiments.input_distribution.variants import ORIGINAL, titled
from experiments.judging import ByEnsemble, ByPGD
from experiments.runner import PartDone
from experiments.workspace import Setting, Workspace
from jaxrobust.data import (
    Dataset,
    Split,
    apply_variant,
    load_arrays,
    subset,
    variant_of,
)
from jaxrobust.evaluation import evaluate, robustness_wrt_predictions
from jaxrobust.evaluation.metrics import labelled_by_model
from jaxrobust.pytrees import static
from jaxrobust.threat import LinfBall
from jaxrobust.training import Member, Phase, Run, TrainConfig
from jaxrobust.training.recipe.config_json import config_to_json

F = TypeVar("F", bound="Family")

__all__ = ["Case", "Family", "UnboundedLinf", "asking", "require_known"]


@dataclasses.dataclass(frozen=True)
class UnboundedLinf(LinfBall):
    """The l_inf ball, pixels below 0 and above 1 included."""

    bounds: tuple[float, float] | None = static(default=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One model of a family: what differs between them."""

    variant: str = ORIGINAL
    width: float = 1.0
    """Factor of the network's width."""
    train_size: int | None = None
    """Training images; None for all."""
    seed: int = 0
    has_ensemble: bool = False
    """Whether the standard ensemble judges it, too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family(Setting):
    """How models are trained on the variants of a data set, and how they are judged.

    The variant, the width, the number of training images and the seed are those of a
    case.
    """

    augmentation: str | None = None
    """Random changes of the training images."""
    standard: tuple[Phase, ...]
    """Training on clean images."""
    robust: tuple[Phase, ...]
    """Adversarial training."""
    evaluation: ByPGD
    """PGD, at one radius."""
    ensemble: ByEnsemble = ByEnsemble()
    """The standard ensemble, for cases that have it."""
    ensemble_size: int = 1000
    """Test images that the ensemble attacks."""
    judged_train_size: int = 10_000
    """Training images that are judged: the first ones of each class."""
    test_size: int | None = None
    """Test images; None for all."""
    full_size: int = 60_000
    """Training images of the whole data set."""
    is_together: bool = False
    """Whether models that differ in the level of their variant or in their seed train
    as members of one program, rather than one after another; roundings differ."""

    @property
    def epsilon(self) -> float:
        """The radius at which models are judged."""
        (epsilon,) = self.evaluation.epsilons
        return epsilon

    def images(self, case: Case, split: Split, workspace: Workspace) -> Dataset:
        """Examples that a case is judged on; those of training are what it has seen."""
        size = self.test_size
        data = load_arrays(self.dataset, split, data_dir=workspace.data_dir)
        if split == "train":
            data = data if case.train_size is None else subset(data, case.train_size)
            size = self.judged_train_size
        data = data if size is None or size >= len(data) else subset(data, size)
        return apply_variant(data, case.variant)

    def recipe_of(self, case: Case, *phases: Phase) -> TrainConfig:
        """What to do for a model of a case, in as many steps for any number of images.

        Ding et al. do not say whether they kept epochs or steps; with as many epochs,
        models of few images would hardly have been trained.
        """
        model = dataclasses.replace(self.model, widen_factor=case.width)
        if case.train_size is not None:
            full = self.full_size // self.batch_size
            mine = case.train_size // self.batch_size
            phases = tuple(
                dataclasses.replace(each, epochs=round(each.epochs * full / mine))
                for each in phases
            )
        return TrainConfig(
            dataset=self.dataset,
            variant=case.variant,
            train_size=case.train_size,
            model=model,
            phases=phases,
            batch_size=self.batch_size,
            augmentation=self.augmentation,
            seed=case.seed,
        )

    def recipes(self, case: Case) -> dict[str, TrainConfig]:
        """What to do for the models of a case, by the kind of training."""
        return {
            "standard": self.recipe_of(case, *self.standard),
            "robust": self.recipe_of(case, *self.robust),
        }

    def row(
        self, case: Case, cases: Sequence[Case], workspace: Workspace
    ) -> dict[str, Any] | None:
        """What is known of a case; None if it is not, and nothing is to be computed.

        Args:
            case: the one.
            cases: all that are asked for, some of which may train together with it.
            workspace: where to work.
        """
        judged = ["evaluation", "judged_train_size", "test_size"]
        if case.has_ensemble:
            judged += ["ensemble", "ensemble_size"]
        settings = config_to_json(self)
        recipes = self.recipes(case)
        key = [
            [config_to_json(each, has_defaults=False) for each in recipes.values()],
            {name: settings[name] for name in judged},
        ]

        def compute() -> dict[str, Any]:
            if self.is_together:
                runs = self._among(case, cases, workspace)
            else:
                options = {"checkpoint_every": self.checkpoint_every}
                runs = {
                    kind: workspace.model(kind, recipe, **options)
                    for kind, recipe in recipes.items()
                }
            workspace.say(f"--- judging {titled(case.variant)}")
            judged = self._judged(case, runs, workspace)
            return {**dataclasses.asdict(case), **judged}

        return workspace.row("case", key, compute)

    def _among(
        self, case: Case, cases: Sequence[Case], workspace: Workspace
    ) -> dict[str, Run]:
        """The models of a case, trained with those that its program can train, too."""

        def shared(each: Case) -> tuple[Any, ...]:
            form = jax.tree.structure(variant_of(each.variant))
            return form, each.width, each.train_size

        together = [each for each in cases if shared(each) == shared(case)]
        names = [
            re.sub(r"\W+", "-", f"{each.variant}-seed{each.seed}") for each in together
        ]
        runs = {}
        for kind in self.recipes(case):
            members = [
                Member(name=name, config=self.recipes(each)[kind])
                for name, each in zip(names, together, strict=True)
            ]
            found = workspace.sweep(
                kind, members, checkpoint_every=self.checkpoint_every
            )
            if workspace.part is not None:
                continue
            name = names[together.index(case)]
            if name in found.failures:
                raise ValueError(
                    f"`variants` must be trainable, got {titled(case.variant)}: "
                    f"{found.failures[name]}"
                )
            runs[kind] = found.runs[name]
        if workspace.part is not None:
            raise PartDone("its members are trained; judge them without --part")
        return runs

    def rows(self, cases: Sequence[Case], workspace: Workspace) -> list[dict[str, Any]]:
        """The rows of cases that are known, in their order, at least one."""
        return require_known(self.known(cases, workspace), workspace)

    def known(
        self, cases: Sequence[Case], workspace: Workspace
    ) -> list[dict[str, Any]]:
        """The rows of cases that are known, in their order: all that are computed."""
        # Data and settings are checked before any training.
        for variant in dict.fromkeys(case.variant for case in cases):
            variant_of(variant)
        self.images(cases[0], "test", workspace)
        rows = [self.row(case, cases, workspace) for case in cases]
        return [row for row in rows if row is not None]

    def _judged(
        self, case: Case, runs: Mapping[str, Run], workspace: Workspace
    ) -> dict[str, Any]:
        """Shares of examples, and what PGD changes with the pixel range left out."""
        pgd, seed = self.evaluation, case.seed
        test = self.images(case, "test", workspace)
        train = self.images(case, "train", workspace)
        options: dict[str, Any] = {"batch_size": pgd.batch_size, "seed": seed}
        attacked = (pgd.attacks, pgd.epsilons)

        def clean(run: Run, data: Dataset) -> float:
            predicted = labelled_by_model(run.logits_fn, data).labels
            return float(np.mean(predicted == data.labels))

        standard, robust = runs["standard"], runs["robust"].logits_fn
        on_test = evaluate(robust, test, *attacked, **options)
        on_train = evaluate(robust, train, *attacked, **options)
        stays = robustness_wrt_predictions(robust, test, *attacked, **options)
        outside = evaluate(robust, test, *attacked, norm=UnboundedLinf, **options)
        found = {
            "standard_accuracy": clean(standard, test),
            "standard_train_accuracy": clean(standard, train),
            "clean_accuracy": on_test.clean_accuracy,
            "clean_train_accuracy": on_train.clean_accuracy,
            "robust_accuracy": float(on_test.robust_accuracy[0]),
            "robust_train_accuracy": float(on_train.robust_accuracy[0]),
            "robust_predictions": float(stays.robust_accuracy[0]),
            "robust_without_box": float(outside.robust_accuracy[0]),
            "num_test": len(test),
            "num_train_judged": len(train),
            "training_loss": runs["robust"].records[-1]["loss"],
        }
        if not case.has_ensemble:
            return found
        size = min(self.ensemble_size, len(test))
        strong = evaluate(
            robust,
            subset(test, size),
            self.ensemble.attacks,
            pgd.epsilons,
            seed=seed,
            journal=workspace.models / f"{runs['robust'].directory.name}-ensemble.npz",
        )
        weak = evaluate(robust, subset(test, size), *attacked, **options)
        return found | {
            "ensemble_accuracy": float(strong.robust_accuracy[0]),
            "pgd_on_the_same": float(weak.robust_accuracy[0]),
            "num_ensemble": size,
        }


def require_known(
    rows: list[dict[str, Any]], workspace: Workspace
) -> list[dict[str, Any]]:
    """The rows, refused if there are none, as where nothing is to be computed.

    Raises:
        ValueError: if none is known yet.
    """
    if not rows:
        raise ValueError(
            "`--shown-only` must be left out until a row is known, got it with "
            f"none in {str(workspace.models)!r}; compute one first."
        )
    return rows


def asking(kind: type[F], family: Family, **fields: Any) -> F:
    """A family with what an experiment asks of it.

    Args:
        kind: the family's subclass of the experiment.
        family: how models are trained and judged.
        **fields: those that the subclass adds, and changes.
    """
    names = [field.name for field in dataclasses.fields(Family)]
    return kind(**({name: getattr(family, name) for name in names} | fields))
