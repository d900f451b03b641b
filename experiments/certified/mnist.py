"""Certified accuracy on MNIST: what is proven beside what attacks leave.

    python -m experiments certified/mnist --preset cpu

Networks trained by interval bounds at radii .1, .3 and .4 in l_inf, and the same
network trained against PGD. Each true robust accuracy lies between what is certified
and what the ensemble leaves.

Presets:
    smoke: digits, a few epochs; shows that the program runs.
    cpu: MNIST, the narrow network CNN-4, at .4 CNN-5; for 2 cores.
    paper: CNN-7, as Shi et al. (2021); wants an accelerator.

Trained as Shi et al., but for `cpu`'s networks: the radius rises in every step, slowly
at first; their initial weights and regularizers; the loss is the proven one alone.
Differs from them: the radius is raised from the first epoch on, rather than from the
second; checkpoints are the last ones. All test images are certified.
"""

from collections.abc import Mapping, Sequence
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
from jaxrobust.training import chain

ATTACK = PGD(step_size=0.05)

RADII = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
"""Of the figure."""

PROVEN, ATTACKED = "interval bounds", "PGD"

PUBLISHED = {
    f"{PROVEN}, 0.1": "97.75 (Zhang et al.), 98.22 (Mueller et al.)",
    f"{PROVEN}, 0.3": "91.79 (Gowal et al.), 93.32 (Zhang et al.)",
    f"{PROVEN}, 0.4": "84.99 (Gowal et al.), 89.02 (Shi et al.)",
}
"""Certified accuracies of wider networks: Gowal et al., 2018, in Zhang et al., 2020,
arXiv:1906.06316; Mueller et al., 2023, arXiv:2210.04871; Shi et al., 2021,
arXiv:2103.17268."""


def proven(epsilon: float, epochs: int, model: ModelConfig | None = None) -> Trained:
    """Training by interval bounds; the radius rises in two sevenths of the epochs."""
    phases = (ramp(0.0, epsilon, epochs, ramp_epochs=2 * epochs // 7),)
    return Trained(title=PROVEN, epsilon=epsilon, phases=phases, model=model)


def attacked(
    radii: Sequence[float], epochs: Sequence[int], model: ModelConfig | None = None
) -> Trained:
    """Adversarial training by a chain of radii."""
    phases = chain(tuple(radii), tuple(epochs), attack=ATTACK)
    return Trained(title=ATTACKED, epsilon=radii[-1], phases=phases, model=model)


def _models(
    epochs: int, chained: Sequence[int], largest: ModelConfig | None = None
) -> tuple[Trained, ...]:
    """By bounds and by PGD, the networks of .4 being other ones if asked for."""
    radii = (0.1, 0.2, 0.3, 0.4)
    return (
        proven(0.1, epochs),
        proven(0.3, epochs),
        proven(0.4, epochs, largest),
        attacked(radii[:1], chained[:1]),
        attacked(radii[:3], chained[:3]),
        attacked(radii, chained, largest),
    )


PRESETS = {
    "smoke": Config(
        dataset="digits",
        model=ModelConfig(name="cnn4", widen_factor=0.25),
        batch_size=64,
        models=(proven(0.05, 4), attacked((0.05,), (2,))),
        evaluation=ByPGD(
            attack=PGD(step_size=0.02, num_steps=5), num_restarts=1, epsilons=(0.05,)
        ),
        ensemble=ByEnsemble(num_steps=3, num_targets=2, num_queries=10),
        ensemble_size=40,
        test_size=100,
        radii=(0.02, 0.05),
    ),
    "cpu": Config(
        dataset="mnist",
        model=ModelConfig(name="cnn4"),
        batch_size=256,
        models=_models(60, (2, 2, 4, 4), ModelConfig(name="cnn5")),
        evaluation=ByPGD(attack=PGD(step_size=0.01, num_steps=100), num_restarts=1),
        ensemble_size=500,
        radii=RADII,
    ),
    "paper": Config(
        dataset="mnist",
        model=ModelConfig(name="cnn7"),
        batch_size=256,
        models=_models(70, (20, 10, 10, 10)),
        evaluation=ByPGD(attack=PGD(step_size=0.01, num_steps=200)),
        ensemble_size=10_000,
        radii=RADII,
    ),
}


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Train every model, attack it and certify it."""
    return bracketed("Certified accuracy on MNIST", config, workspace, PUBLISHED)


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracies, also from a committed results file."""
    return accuracy_table(result["rows"], PUBLISHED)
