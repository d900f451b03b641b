"""Objectives beside each other: passes are those made, budgets and epochs agree."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.objectives import catastrophic_overfitting
from experiments.objectives.equal_passes import PRESETS, passes_of
from experiments.objectives.single_layer import SingleLayer
from jaxrobust.attacks import PGD
from jaxrobust.networks import ModelConfig, Network, Variables, network_of
from jaxrobust.threat import LinfBall
from jaxrobust.training import Adversarial, Model
from jaxrobust.training.recipe.objectives import AWP, NFGSM, GradAlign, Trades

EPSILON = 0.2
SHAPE = (3, 2, 2, 1)
ATTACK = PGD(step_size=0.1, num_steps=3)


def counting_network(done):
    """A linear classifier; every pass that is really made adds to `done`."""

    def noted(name, value):
        def note(like):
            done[name] += 1
            return np.zeros_like(like)

        # Computed, so that passes which nothing depends on are left out, as they are.
        zeros = jax.pure_callback(note, jax.typeof(value), value)
        return value + zeros

    @jax.custom_vjp
    def counted(logits):
        return noted("forward", logits)

    counted.defvjp(
        lambda logits: (noted("forward", logits), None),
        lambda _, cotangent: (noted("backward", cotangent),),
    )

    def init(key, images):
        weights = jax.random.normal(key, (images[0].size, 3))
        return Variables({"weights": weights}, {})

    def apply(variables, images, *, train, key):
        flat = images.reshape(len(images), -1)
        return counted(flat @ variables.params["weights"]), variables

    return Network(init, apply)


@pytest.mark.parametrize(
    "objective",
    [
        Adversarial(attack=ATTACK),
        Trades(attack=ATTACK),
        NFGSM(),
        AWP(objective=Adversarial(attack=ATTACK)),
        AWP(objective=Trades(attack=ATTACK)),
    ],
    ids=lambda objective: type(getattr(objective, "objective", objective)).__name__,
)
def test_a_step_makes_as_many_passes_as_are_counted(objective):
    done = {"forward": 0, "backward": 0}
    network = counting_network(done)
    images = jax.random.uniform(jax.random.key(1), SHAPE)
    labels = jnp.arange(3)
    variables = network.init(jax.random.key(2), images)

    def loss(params):
        model = Model(network, Variables(params, variables.state), "float32")
        key = jax.random.key(3)
        return objective(key, model, LinfBall(EPSILON), images, labels)[0]

    jax.block_until_ready(jax.jit(jax.value_and_grad(loss))(variables.params))
    # Calls of the host are never merged; see the next test.
    twice = isinstance(getattr(objective, "objective", objective), Trades)
    found = (done["forward"] - twice, done["backward"])
    assert found == passes_of(objective, EPSILON)


class Apart(Trades):
    """TRADES whose search has images of its own, with their own clean answer."""

    def search(self, key, model, threat, images, labels):
        return super().search(key, model, threat, jnp.sin(images), labels)


def test_the_clean_answer_of_trades_is_computed_once():
    network = network_of(ModelConfig(name="linear"), 10)
    images = jnp.full((4, 16, 16, 1), 0.3)
    variables = network.init(jax.random.key(2), images)

    def flops(function):
        # Images are arguments, lest the compiler knows the answer.
        compiled = jax.jit(function).lower(variables.params, images).compile()
        found = compiled.cost_analysis()
        assert found is not None
        return found["flops"]

    def cost(kind):
        def loss(params, images):
            model = Model(network, Variables(params, {}))
            arguments = (LinfBall(EPSILON), images, jnp.arange(4))
            return kind(attack=ATTACK)(jax.random.key(3), model, *arguments)[0]

        return flops(jax.grad(loss))

    def forward(params, images):
        return Model(network, Variables(params, {})).logits(images)

    saved = cost(Apart) - cost(Trades)
    assert saved == pytest.approx(flops(forward), rel=0.1)


def test_an_objective_whose_passes_are_not_known_is_refused():
    with pytest.raises(TypeError, match="`objective` must be one whose passes are"):
        passes_of(GradAlign(), EPSILON)


@pytest.mark.parametrize("preset", ["digits", "cpu", "paper"])
def test_all_objectives_have_the_same_passes(preset):
    config = PRESETS[preset]
    used = {
        config.epochs(each.objective) * passes_of(each.objective, config.epsilon).both
        for each in config.objectives
    }
    assert used == {config.budget}


def test_what_has_collapsed_is_told_from_what_is_weak():
    row = {"fgsm_accuracy": [0.3, 0.3, 0.3], "pgd_accuracy": [0.0, 0.14, 0.16]}
    assert catastrophic_overfitting._num_fallen(row) == 2


def test_the_single_layer_has_the_parameters_of_the_paper():
    """3x3 windows of 3 channels, and 32x32 maps into 10 classes."""
    network = SingleLayer(num_filters=4)
    shapes = jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.float32)
    )
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert count == (27 + 1) * 4 + (32 * 32 * 4 + 1) * 10
