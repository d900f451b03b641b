"""Our PGD against foolbox's, on the same weights and images."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.data import DataError, as_float, load_arrays, subset
from jaxrobust.evaluation import evaluate
from jaxrobust.networks import ModelConfig
from jaxrobust.training import TrainConfig, adversarial, train

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    foolbox = pytest.importorskip("foolbox")


@pytest.mark.mnist
@pytest.mark.slow
def test_robust_accuracy_on_mnist_agrees_with_foolbox(tmp_path):
    try:
        test = subset(load_arrays("mnist", "test"), 1000)
    except DataError as error:
        pytest.skip(str(error))
    config = TrainConfig(
        dataset="mnist",
        train_size=4000,
        model=ModelConfig(name="lenet", widen_factor=0.125),
        phases=(adversarial(0.1, 2, attack=PGD(step_size=0.05)),),
    )
    model = train(config, tmp_path / "run")
    found = evaluate(model.logits_fn, test, PGD(num_steps=30), [0.1], batch_size=1000)
    (ours,) = found.robust_accuracy
    peer_model = foolbox.models.JAXModel(jax.jit(model.logits_fn), bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.01, steps=30, random_start=True)
    images, labels = as_float(test.images), jnp.asarray(test.labels)
    *_, is_adversarial = attack(peer_model, images, labels, epsilons=0.1)
    theirs = 1 - np.mean(np.asarray(is_adversarial))
    # Both lie away from 0 and 1, or agreement would mean nothing.
    assert 0.3 < theirs < 0.95
    assert abs(ours - theirs) <= 0.005
