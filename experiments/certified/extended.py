"""Extended certified training: from a model that is certified at a smaller radius.

    python -m experiments certified/extended --preset cpu

Shaeiri et al. (2020) train at a large radius from the weights of a smaller one, and
find that adversarial training succeeds there which fails from random weights. Does the
same hold for training by interval bounds? All models end at the same radius after as
many epochs: at that radius from the first step on; raised to it over half of them; by a
chain of radii, each held; by a chain with short ramps between its radii; and
extended in few epochs from a model of the radius before.

Presets:
    smoke: digits, a few epochs; shows that the program runs.
    cpu: MNIST to .4 with the narrow network CNN-4, 24 epochs; for 2 cores.
    paper: CNN-7, 70 epochs; wants an accelerator.

There is no such table in a paper. A phase begins with fresh moments of the optimizer
unless it is said to carry them; statistics of batch normalization are taken over.
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


def _chain(radii: Sequence[float], epochs: int, **options: Any) -> Trained:
    """Phases of the same length, each from the radius before to its own."""
    length = epochs // len(radii)
    phases = [
        ramp(
            before,
            radius,
            length,
            # The learning rate falls at the end only.
            milestones=None if radius == radii[-1] else (),
            **options,
        )
        for before, radius in zip((0.0, *radii[:-1]), radii, strict=True)
    ]
    steps = " → ".join(f"{radius:g}" for radius in radii)
    carried = ", moments carried" if options.get("carry") == "optimizer" else ""
    title = f"short ramps {steps}{carried}"
    return Trained(title=title, epsilon=radii[-1], phases=tuple(phases))


def models(radii: Sequence[float], epochs: int) -> tuple[Trained, ...]:
    """The ways to the last radius, all of as many epochs.

    Args:
        radii: of the chains; their number must divide the epochs.
        epochs: of each model, by which are counted those of models begun from, too.
    """
    end, length = radii[-1], epochs // len(radii)
    steps = " → ".join(f"{radius:g}" for radius in radii)
    held = [
        ramp(radius, radius, length, milestones=None if radius == end else ())
        for radius in radii
    ]
    extended = (
        ramp(0.0, radii[-2], epochs - length),
        ramp(radii[-2], end, length),
    )
    return (
        Trained(title="at once", epsilon=end, phases=(ramp(end, end, epochs),)),
        Trained(title="one ramp", epsilon=end, phases=(ramp(0.0, end, epochs),)),
        Trained(title=f"held {steps}", epsilon=end, phases=tuple(held)),
        _chain(radii, epochs),
        _chain(radii, epochs, carry="optimizer"),
        Trained(
            title=f"extended from {radii[-2]:g} in {length} epochs",
            epsilon=end,
            phases=extended,
        ),
    )


PRESETS = {
    "smoke": Config(
        dataset="digits",
        model=ModelConfig(name="cnn4", widen_factor=0.25),
        batch_size=64,
        models=models((0.02, 0.05), 4)[::3],
        evaluation=ByPGD(attack=PGD(step_size=0.02, num_steps=5), num_restarts=1),
        ensemble=ByEnsemble(num_steps=3, num_targets=2, num_queries=10),
        ensemble_size=40,
        test_size=100,
    ),
    "cpu": Config(
        dataset="mnist",
        model=ModelConfig(name="cnn4"),
        batch_size=256,
        models=models((0.1, 0.2, 0.3, 0.4), 24),
        evaluation=ByPGD(attack=PGD(step_size=0.01, num_steps=40), num_restarts=1),
        ensemble_size=200,
    ),
    "paper": Config(
        dataset="mnist",
        model=ModelConfig(name="cnn7"),
        batch_size=256,
        models=models((0.1, 0.2, 0.3, 0.4), 72),
        evaluation=ByPGD(attack=PGD(step_size=0.01, num_steps=200)),
        ensemble_size=10_000,
    ),
}


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Train every model, attack it and certify it."""
    return bracketed("Extended certified training", config, workspace)


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracies, also from a committed results file."""
    return accuracy_table(result["rows"])
