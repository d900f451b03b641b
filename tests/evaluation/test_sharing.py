"""Programs are found again by the functions they are made of, and go with them."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from jaxrobust.attacks import PGD, pgd, transferred_from, with_restarts
from jaxrobust.data import Dataset
from jaxrobust.evaluation import (
    ChecklistConfig,
    check_model,
    checklist,
    evaluate,
    evaluate_models,
    labelled_by_model,
    minimal_epsilons,
    standard_ensemble,
)
from jaxrobust.evaluation.engine import sharing
from jaxrobust.evaluation.engine.programs import placement
from jaxrobust.evaluation.weight_space import loss_along_line
from jaxrobust.networks import ModelConfig, network_of
from jaxrobust.training import applied

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(4, 3)).astype(np.float32)
DATA = Dataset(
    name="test",
    title="test",
    images=RNG.uniform(size=(6, 2, 2, 1)).astype(np.float32),
    labels=np.arange(6, dtype=np.int32) % 3,
    num_classes=3,
)
PLAIN = {
    "attacks": PGD(num_steps=1, step_size=0.05),
    "epsilons": [0.1],
    "batch_size": 6,
}
CHECKLIST = ChecklistConfig(
    attack=PGD(num_steps=1), epsilon=0.1, long_steps=2, num_images=6, num_queries=2
)


class Thing:
    """What a user's function holds on to: a model of gigabytes, say."""


def apply_with(thing):
    def apply(weights):
        return logits_of(thing, weights)

    return apply


def logits_of(thing, weights):
    assert isinstance(thing, Thing)

    def logits_fn(images):
        # With a derivative of its own, for which jax keeps functions.
        return jax.nn.relu(images.reshape(len(images), -1) @ weights)

    return logits_fn


def ensemble():
    return standard_ensemble(num_steps=1, num_queries=2, stages=("apgd-ce", "square"))


def attack_with(thing):
    def build(threat):
        assert isinstance(thing, Thing)
        return pgd(threat, step_size=0.05, num_steps=1)

    return build


CALLS = {
    "evaluate_models": lambda thing: evaluate_models(
        apply_with(thing), [WEIGHTS], DATA, **PLAIN
    ),
    "evaluate": lambda thing: evaluate(logits_of(thing, WEIGHTS), DATA, **PLAIN),
    "evaluate, attack": lambda thing: evaluate_models(
        KEPT, [WEIGHTS], DATA, with_restarts(attack_with(thing), 2), [0.1]
    ),
    "evaluate, transferred": lambda thing: evaluate_models(
        KEPT,
        [WEIGHTS],
        DATA,
        transferred_from(PGD(num_steps=1), logits_of(thing, WEIGHTS)),
        [0.1],
    ),
    "evaluate, images": lambda thing: evaluate_models(
        apply_with(thing), [WEIGHTS], DATA, **PLAIN, keep_images=True
    ),
    "evaluate, ensemble": lambda thing: evaluate_models(
        apply_with(thing), [WEIGHTS], DATA, ensemble(), [0.1]
    ),
    "minimal_epsilons": lambda thing: minimal_epsilons(
        logits_of(thing, WEIGHTS),
        DATA,
        attack=lambda threat: pgd(threat, step_size=0.1, num_steps=1),
    ),
    "labelled_by_model": lambda thing: labelled_by_model(
        logits_of(thing, WEIGHTS), DATA
    ),
    "check_model": lambda thing: check_model(logits_of(thing, WEIGHTS), DATA),
    "checklist": lambda thing: checklist(
        logits_of(thing, WEIGHTS), DATA, CHECKLIST, only=("single_step",)
    ),
    "loss_along_line": lambda thing: loss_along_line(
        apply_with(thing), WEIGHTS, -WEIGHTS, DATA.images, DATA.labels, alphas=3
    ),
    "loss_along_line, attack": lambda thing: loss_along_line(
        KEPT,
        *(WEIGHTS, -WEIGHTS, DATA.images, DATA.labels),
        alphas=3,
        epsilons=(0.1,),
        attack=attack_with(thing),
    ),
}

KEPT = apply_with(Thing())


@pytest.mark.parametrize("name", CALLS)
def test_nothing_of_a_function_is_left_when_it_is_gone(name):
    thing = Thing()
    gone, kept = weakref.ref(thing), set(sharing._PROGRAMS)
    CALLS[name](thing)
    del thing
    gc.collect()
    assert gone() is None
    if "KEPT" not in CALLS[name].__code__.co_names:
        assert set(sharing._PROGRAMS) <= kept


class Model:
    """A model whose method is the function, and a new object at each look."""

    def __init__(self):
        self.num_traced = 0

    def apply(self, weights):
        self.num_traced += 1
        return logits_of(Thing(), weights)


@pytest.mark.parametrize(
    "ask",
    [
        lambda apply, weights: evaluate_models(apply, [weights], DATA, **PLAIN),
        # Equal builders are one, and so are those whose numbers differ.
        lambda apply, weights: evaluate_models(
            apply,
            [weights],
            DATA,
            with_restarts(PGD(num_steps=1, step_size=float(weights[0, 0] ** 2)), 2),
            [0.1],
        ),
        lambda apply, weights: evaluate_models(
            apply, [weights], DATA, ensemble(), [0.1]
        ),
        lambda apply, weights: loss_along_line(
            apply, weights, -weights, DATA.images, DATA.labels, alphas=3
        ),
    ],
)
def test_the_same_function_is_compiled_for_once(ask):
    model, other = Model(), Model()
    ask(model.apply, WEIGHTS)
    num_traced = model.num_traced
    ask(model.apply, 2 * WEIGHTS)
    assert 0 < num_traced == model.num_traced
    # Equal or not, another one is another one.
    ask(other.apply, WEIGHTS)
    assert other.num_traced == num_traced == model.num_traced


def test_equal_networks_share_their_programs():
    images = jnp.zeros((1, 2, 2, 1))
    first, second = (network_of(ModelConfig(name="linear"), 3) for _ in range(2))
    assert first is not second and applied(first) is applied(second)
    assert applied(first) is not applied(first, "bfloat16")
    params = first.init(jax.random.key(0), images).params
    evaluate_models(applied(first), [(params, {})], DATA, **PLAIN)
    num_programs = len(sharing._PROGRAMS)
    evaluate_models(applied(second), [(params, {})], DATA, **PLAIN)
    assert len(sharing._PROGRAMS) == num_programs


def test_what_cannot_be_referred_to_weakly_is_compiled_for_by_itself():
    class Slotted:
        __slots__ = ()

        def __call__(self, weights):
            return logits_of(Thing(), weights)

    (expected,) = evaluate_models(KEPT, [WEIGHTS], DATA, **PLAIN)
    kept = set(sharing._PROGRAMS)
    (found,) = evaluate_models(Slotted(), [WEIGHTS], DATA, **PLAIN)
    np.testing.assert_array_equal(found.is_robust, expected.is_robust)
    assert set(sharing._PROGRAMS) == kept


def test_programs_are_compiled_for_the_devices_that_are_given():
    (device,) = jax.devices()[:1]
    where = placement([device])
    assert where.num_devices == 1 and where.platform == "cpu"
    assert where.whole == where.parts == SingleDeviceSharding(device)
    shape = jax.ShapeDtypeStruct((3,), jnp.float32, sharding=where.parts)
    compiled = where.divide(lambda x: 2 * x, True).lower(shape).compile()
    assert compiled.output_shardings == where.parts
