"""PGD: ours and foolbox's on the same weights, robust accuracy and seconds.

    python -m experiments benchmarks/peer_attack --preset cpu

A MNIST network trained at epsilon .2 is attacked by both libraries on the same test
images with the same number and length of steps, once from random starts. The two should
agree up to the luck of the starts. Needs the extra `benchmark` (foolbox).

Presets:
    smoke: digits, a few steps, to show that it runs.
    cpu: 1,000 MNIST test images, 100 steps; about 3 minutes on 2 cores.
"""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.judging import ByPGD
from experiments.workspace import Workspace
from jaxrobust.attacks import PGD
from jaxrobust.data import as_float, load_arrays, subset
from jaxrobust.evaluation import evaluate
from jaxrobust.networks import ModelConfig
from jaxrobust.training import TrainConfig, chain
from jaxrobust.types import Images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Model, images and attack."""

    dataset: str
    model: ModelConfig
    train_size: int
    epochs: tuple[int, int]
    num_images: int
    evaluation: ByPGD


PRESETS = {
    "smoke": Config(
        dataset="digits",
        model=ModelConfig(name="lenet-small", widen_factor=0.125),
        train_size=1000,
        epochs=(1, 1),
        num_images=100,
        evaluation=ByPGD(epsilons=(0.1,), attack=PGD(num_steps=5), num_restarts=1),
    ),
    "cpu": Config(
        dataset="mnist",
        model=ModelConfig(name="lenet", widen_factor=0.25),
        train_size=20_000,
        epochs=(3, 3),
        num_images=1000,
        evaluation=ByPGD(
            epsilons=(0.1, 0.2, 0.25),
            attack=PGD(num_steps=100),
            num_restarts=1,
            batch_size=1000,
        ),
    ),
}


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Attack with both."""
    try:
        import foolbox
        from foolbox.models.jax import JAXModel
    except ImportError as error:
        raise ImportError(
            "`foolbox` must be installed for this benchmark; "
            'install it with `pip install "jaxrobust[benchmark]"`.'
        ) from error
    test = load_arrays(config.dataset, "test", data_dir=workspace.data_dir)
    test = subset(test, config.num_images)
    recipe = TrainConfig(
        dataset=config.dataset,
        train_size=config.train_size,
        model=config.model,
        phases=chain((0.1, 0.2), config.epochs, attack=PGD(step_size=0.05)),
        seed=workspace.seed,
    )
    model = workspace.model("model", recipe)
    images, labels = as_float(jnp.asarray(test.images)), jnp.asarray(test.labels)
    # Passing the weights as constants is what foolbox's own JAX example does.
    peer_model: Any = JAXModel(jax.jit(model.logits_fn), bounds=(0, 1))
    settings = config.evaluation

    def ours(epsilon: float) -> float:
        found = evaluate(
            model.logits_fn,
            test,
            settings.attacks,
            [epsilon],
            batch_size=settings.batch_size,
            seed=workspace.seed,
        )
        return float(found.robust_accuracy[0])

    def theirs(epsilon: float) -> float:
        peer_attack = foolbox.attacks.LinfPGD(
            abs_stepsize=settings.attack.step_size,
            steps=settings.attack.num_steps_at(epsilon),
            random_start=True,
        )

        def attack(batch: Images, answers: jax.Array) -> np.ndarray:
            return np.asarray(
                peer_attack(peer_model, batch, answers, epsilons=epsilon)[2]
            )

        return float(1 - np.mean(attack(images, labels)))

    rows = []
    for epsilon in settings.epsilons:
        accuracy, seconds = {}, {}
        for name, side in (("ours", ours), ("theirs", theirs)):
            began = time.perf_counter()
            accuracy[name] = side(epsilon)
            seconds[name] = time.perf_counter() - began
            workspace.seconds += seconds[name]
        what = f"PGD-{settings.attack.num_steps_at(epsilon)}, epsilon {epsilon:g}"
        rows.append(
            {
                "what": f"{what}, robust accuracy",
                **accuracy,
                "unit": "share of images",
                "ratio": accuracy["theirs"] / max(accuracy["ours"], 1e-9),
            }
        )
        rows.append(
            {
                "what": f"{what}, compilation included",
                **seconds,
                "unit": "seconds",
                "ratio": seconds["theirs"] / seconds["ours"],
            }
        )
    return {
        "title": "PGD against foolbox",
        "rows": rows,
        "notes": [f"foolbox {foolbox.__version__}; data: {test.title}."],
        "tables": {"Robust accuracy and time": results_table({"rows": rows})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the comparison, also from a committed results file."""
    header = ["what", "jaxrobust", "foolbox", "unit", "ratio"]
    lines = [
        [
            row["what"],
            *(f"{row[side]:.3f}" for side in ("ours", "theirs")),
            row["unit"],
            f"{row['ratio']:.2f}",
        ]
        for row in result["rows"]
    ]
    return [header, *lines]
