"""How models of the experiments on input distributions are trained and judged."""

from typing import Any

from experiments.input_distribution.cases import Family
from experiments.judging import ByEnsemble, ByPGD
from jaxrobust.attacks import PGD
from jaxrobust.networks import ModelConfig
from jaxrobust.training import OptimizerConfig, adversarial, chain, standard

__all__ = ["cifar", "cifar_paper", "digits", "mnist", "mnist_paper"]


def mnist(**changes: Any) -> Family:
    """MNIST on 2 cores: a chain of radii, which needs fewer epochs than .3 at once."""
    attack = PGD(step_size=0.05)
    fields: dict[str, Any] = {
        "dataset": "mnist",
        "model": ModelConfig(name="lenet-same"),
        "standard": (standard(3),),
        "robust": chain((0.1, 0.2, 0.3), (1, 1, 4), attack=attack),
        "evaluation": ByPGD(attack=PGD(step_size=0.01, num_steps=40), num_restarts=1),
    }
    return Family(**(fields | changes))


def digits(**changes: Any) -> Family:
    """A family that is trained in seconds."""
    optimizer = OptimizerConfig(learning_rate=0.003)
    attack = PGD(step_size=0.05)
    fields: dict[str, Any] = {
        "dataset": "digits",
        "model": ModelConfig(name="lenet-small"),
        "batch_size": 64,
        "standard": (standard(2, optimizer=optimizer),),
        "robust": (adversarial(0.1, 2, attack=attack, optimizer=optimizer),),
        "evaluation": ByPGD(
            attack=PGD(step_size=0.05, num_steps=5), num_restarts=1, epsilons=(0.1,)
        ),
        "ensemble": ByEnsemble(num_steps=3, num_targets=2, num_queries=10),
        "ensemble_size": 40,
        "judged_train_size": 100,
        "test_size": 100,
        "full_size": 1437,
        "checkpoint_every": 10,
    }
    return Family(**(fields | changes))


def mnist_paper(**changes: Any) -> Family:
    """The settings of the paper: 100,000 steps of 50 images."""
    optimizer = OptimizerConfig(learning_rate=1e-4)
    attack = PGD(step_size=0.01, num_steps=40)
    epochs = 84
    fields: dict[str, Any] = {
        "dataset": "mnist",
        "model": ModelConfig(name="lenet-same"),
        "batch_size": 50,
        "standard": (standard(epochs, optimizer=optimizer),),
        "robust": (adversarial(0.3, epochs, attack=attack, optimizer=optimizer),),
        "evaluation": ByPGD(attack=attack, num_restarts=1),
        "judged_train_size": 60_000,
        "ensemble": ByEnsemble(),
        "ensemble_size": 10_000,
    }
    return Family(**(fields | changes))


def cifar(**changes: Any) -> Family:
    """CIFAR-10 on 2 cores: as many steps as one epoch of all images has."""
    optimizer = OptimizerConfig(
        name="sgd", learning_rate=0.05, weight_decay=2e-4, schedule="cosine"
    )
    evaluation = ByPGD(
        attack=PGD(step_size=2 / 255, num_steps=10),
        num_restarts=1,
        epsilons=(8 / 255,),
    )

    attack = PGD(step_size=2 / 255, num_steps=7)
    fields: dict[str, Any] = {
        "dataset": "cifar10",
        "model": ModelConfig(name="wrn28"),
        "standard": (standard(1, optimizer=optimizer),),
        "robust": (adversarial(8 / 255, 1, attack=attack, optimizer=optimizer),),
        "augmentation": "crop-flip",
        "evaluation": evaluation,
        "judged_train_size": 1000,
        "test_size": 1000,
        "full_size": 50_000,
    }
    return Family(**(fields | changes))


def cifar_paper(**changes: Any) -> Family:
    """The settings of the paper: 80,000 steps of 128 images."""
    optimizer = OptimizerConfig(
        name="sgd", learning_rate=0.1, weight_decay=2e-4, milestones=(103, 154)
    )
    attack = PGD(step_size=2 / 255, num_steps=10)
    fields: dict[str, Any] = {
        "standard": (standard(205, optimizer=optimizer),),
        "robust": (adversarial(8 / 255, 205, attack=attack, optimizer=optimizer),),
        "judged_train_size": 50_000,
        "test_size": None,
        "ensemble_size": 10_000,
    }
    return cifar(**(fields | changes))
