"""Certified accuracy on CIFAR-10: what is proven beside what attacks leave.

    python -m experiments certified/cifar10 --preset cpu

At a small radius the loss that bounds prove is mixed with the one that an attack finds
(MTL-IBP), or is taken of small boxes round what an attack finds (SABR); at a large one
interval bounds alone do as well.

Presets:
    smoke: digits, a few epochs; shows that the program runs.
    cpu: 10,000 images of CIFAR-10 (JPEG 75), CNN-5 of half the width; for 2 cores.
    paper: all images, CNN-7; wants an accelerator.

Differs from the papers: CIFAR-10 is at hand as JPEG of quality 75, pixels are not
standardized, and what certifies are interval bounds and linear bounds between them,
rather than a complete verifier.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.certified.models import (
    Config,
    Trained,
    accuracy_table,
    bracketed,
    ramp,
)
from experiments.judging import ByEnsemble, ByPGD
from experiments.workspace import Workspace
from jaxrobust.attacks import PGD
from jaxrobust.networks import ModelConfig
from jaxrobust.training.recipe.objectives import IBP, MTLIBP, SABR

SMALL, LARGE = 2 / 255, 8 / 255

PUBLISHED = {
    f"interval bounds, {SMALL:.3g}": "53.97 (by CROWN-IBP, Zhang et al.)",
    f"interval bounds, {LARGE:.3g}": "34.97 (Shi et al.)",
}
"""Certified accuracies of wider networks: Zhang et al., 2020, arXiv:1906.06316; Shi et
al., 2021, arXiv:2103.17268."""


def _models(epochs: int) -> tuple[Trained, ...]:
    attack = PGD(step_size=SMALL / 4, num_steps=8)
    mixed = MTLIBP(alpha=0.01, attack=attack)
    small_boxes = SABR(ratio=0.1, attack=attack)
    found = (
        ("interval bounds", SMALL, IBP()),
        ("MTL-IBP", SMALL, mixed),
        ("SABR", SMALL, small_boxes),
        ("interval bounds", LARGE, IBP()),
    )
    return tuple(
        Trained(
            title=title,
            epsilon=epsilon,
            phases=(ramp(0.0, epsilon, epochs, objective=objective),),
        )
        for title, epsilon, objective in found
    )


_PGD = ByPGD(attack=PGD(step_size=SMALL / 4, num_steps=40), num_restarts=1)

PRESETS = {
    "smoke": Config(
        dataset="digits",
        model=ModelConfig(name="cnn4", widen_factor=0.25),
        batch_size=64,
        models=_models(2)[1:],
        evaluation=dataclasses.replace(_PGD, attack=PGD(step_size=0.01, num_steps=5)),
        ensemble=ByEnsemble(num_steps=3, num_targets=2, num_queries=10),
        ensemble_size=40,
        test_size=100,
        methods=("interval", "crown-ibp"),
    ),
    "cpu": Config(
        dataset="cifar10",
        model=ModelConfig(name="cnn5", widen_factor=0.5),
        train_size=10_000,
        batch_size=128,
        models=_models(40),
        augmentation="crop-flip",
        evaluation=_PGD,
        ensemble_size=200,
        test_size=1000,
        methods=("interval", "crown-ibp"),
    ),
    "paper": Config(
        dataset="cifar10",
        model=ModelConfig(name="cnn7"),
        batch_size=128,
        models=_models(160),
        augmentation="crop-flip",
        evaluation=_PGD,
        ensemble_size=10_000,
        methods=("interval", "crown-ibp", "crown"),
    ),
}


def _published(dataset: str) -> Mapping[str, str] | None:
    return PUBLISHED if dataset == "cifar10" else None


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Train every model, attack it and certify it."""
    published = _published(config.dataset)
    return bracketed("Certified accuracy on CIFAR-10", config, workspace, published)


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracies, also from a committed results file."""
    return accuracy_table(result["rows"], _published(result["config"]["dataset"]))
