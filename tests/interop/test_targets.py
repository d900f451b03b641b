"""Programs exported here, for the platforms on which they shall run."""

import re
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxrobust.attacks import PGD
from jaxrobust.evaluation.engine.builders import numbers_by_radius, taken_apart
from jaxrobust.evaluation.engine.plan import Plan, Stage
from jaxrobust.evaluation.engine.programs import attack_program
from jaxrobust.interop import export_model, load_exported
from jaxrobust.networks import ModelConfig, network_of
from jaxrobust.threat import LinfBall
from jaxrobust.training import Placement, adversarial, bind, make_trainer
from jaxrobust.training.step.members import MemberProgram

SHAPE, SIZE = (8, 8, 1), 8
NETWORK = network_of(ModelConfig(name="lenet-small", widen_factor=0.0625), 10)
WINDOWS = {"cpu": set(), "cuda": {1}, "rocm": {1}, "tpu": {2}}
"""Strides of the convolutions that each platform shall compute, forward."""


def strides(program: str) -> set[int]:
    """Of the convolutions of a program; those of gradients have none."""
    assert "stablehlo" in program
    if "stablehlo.convolution" not in program:
        return set()
    found = re.findall(r"stablehlo\.convolution.*?window = {(.*?)}", program)
    assert found
    shown = [re.search(r"stride = \[(\d+), \d+\]", window) for window in found]
    dilated = ["lhs_dilate" in window or "rhs_dilate" in window for window in found]
    return {
        int(stride[1]) if stride else 1
        for stride, is_gradient in zip(shown, dilated, strict=True)
        if not is_gradient
    }


def exported(function, arguments, platform):
    return export.export(function, platforms=[platform])(*arguments).mlir_module()


@pytest.fixture(scope="module")
def variables():
    return jax.jit(NETWORK.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))


def training(mapping):
    trainer = make_trainer(NETWORK, batch_size=SIZE)
    count = 1 if mapping == "one" else 2
    program = MemberProgram(trainer, count, Placement(), mapping)
    settings = adversarial(0.1, 1, attack=PGD(num_steps=2)).at(1, 2)
    return program._run, program.shapes(settings, SHAPE, 2 * SIZE, jnp.uint8)


def evaluation(variables):
    plan = Plan((Stage("pgd", PGD(num_steps=2)),), (0.1,), LinfBall, 10)
    builds = plan.builds(0)
    parts = taken_apart(builds[0])
    varies, numbers = numbers_by_radius(builds)
    assert not any(varies)
    program = attack_program(
        lambda: lambda weights: bind(NETWORK, weights),
        *(lambda function=function: function for function in parts.functions),
        structure=parts.structure,
        varies=varies,
        threat=LinfBall,
        keeps_images=False,
        matmul_precision="default",
        is_judged_again=True,
        devices=tuple(jax.local_devices()),
    )
    places = np.zeros(SIZE, np.int32)
    data = (np.zeros((4, *SHAPE), np.uint8), np.zeros(4, np.int32))
    shared = [jnp.asarray(number) for number in numbers]
    radii = np.full(SIZE, np.float32(0.1))
    key = jax.random.key(0)
    return program, (key, variables, data, places, places, radii, shared, [])


@pytest.mark.parametrize(
    "name",
    [
        *("one", "evaluation"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("loop", "vmap")),
    ],
)
def test_a_program_has_the_formulation_of_the_platform_it_is_for(name, variables):
    made = evaluation(variables) if name == "evaluation" else training(name)
    found = {platform: strides(exported(*made, platform)) for platform in WINDOWS}
    assert found == WINDOWS


def test_an_exported_model_has_the_formulations_of_its_platforms(variables, tmp_path):
    logits_fn = bind(NETWORK, variables)
    for platforms in (("cuda",), ("tpu",), tuple(WINDOWS)):
        path = tmp_path / "-".join(platforms)
        export_model(logits_fn, path, image_shape=SHAPE, platforms=platforms)
        with zipfile.ZipFile(path) as archive:
            content = bytearray(archive.read("model.stablehlo"))
        program = export.deserialize(content)
        expected = set().union(*(WINDOWS[platform] for platform in platforms))
        assert strides(program.mlir_module()) == expected
        has_convolutions = "stablehlo.convolution" in program.vjp().mlir_module()
        assert has_convolutions == bool(expected)
    images = jax.random.uniform(jax.random.key(1), (3, *SHAPE))
    np.testing.assert_allclose(load_exported(path)(images), logits_fn(images), 1e-5)
