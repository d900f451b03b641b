"""Matrix products have the precision that the settings say, and judgements the highest.

A CPU cannot show a difference, so the programs are looked at before they are compiled,
and a model that rounds unless it is asked at the highest stands for an accelerator.
"""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxrobust.attacks import PGD, AttackResult
from jaxrobust.cli import main
from jaxrobust.cli.evaluate import Evaluate
from jaxrobust.data import Dataset
from jaxrobust.evaluation import (
    ChecklistConfig,
    JournalError,
    evaluate,
    evaluate_models,
    labelled_by_model,
    minimal_epsilons,
    robustness,
)
from jaxrobust.evaluation.engine import run as engine
from jaxrobust.evaluation.engine.builders import taken_apart
from jaxrobust.evaluation.engine.programs import attack_program
from jaxrobust.evaluation.evidence import Evidence
from jaxrobust.networks import Network, Variables
from jaxrobust.precision import (
    PrecisionWarning,
    at_precision,
    precision_note,
)
from jaxrobust.report import ReportConfig, accuracy_table, interval_table
from jaxrobust.threat import LinfBall
from jaxrobust.training import (
    Placement,
    TrainConfig,
    Validation,
    adversarial,
    bind,
    load_run,
)
from jaxrobust.training.recipe.config import settings_of
from jaxrobust.training.recipe.config_json import config_from_json, config_to_json
from jaxrobust.training.recipe.problem import Problem
from jaxrobust.training.step.programs import Programs

PRODUCTS = ("dot_general", "conv_general_dilated")
LOOPS = ("while", "scan")


def products(jaxpr, is_in_loop=False):
    """Precision of each product of a program, in order, and whether it is in a loop."""
    found = []
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in PRODUCTS:
            both = equation.params["precision"] or ("unsaid", "unsaid")
            assert both[0] == both[1]
            found.append((str(both[0]).rpartition(".")[2].lower(), is_in_loop))
        for inner in jax.tree.leaves([*equation.params.values()], is_leaf=is_jaxpr):
            if is_jaxpr(inner):
                inner = getattr(inner, "jaxpr", inner)
                found += products(inner, is_in_loop or name in LOOPS)
    return found


def is_jaxpr(value):
    return isinstance(value, Jaxpr | ClosedJaxpr)


@jax.custom_vjp
def squared(maps, weights):
    return (maps @ weights) ** 2


squared.defvjp(
    lambda maps, weights: (squared(maps, weights), (maps, weights)),
    # A product that no product of the forward pass is transposed to.
    lambda kept, change: (change @ kept[1].T, kept[0].T @ change),
)


def network():
    """A convolution, a matrix product inside a `jit`, one with gradients of its own."""

    def init(key, images):
        del images
        shapes = {"conv": (3, 3, 1, 2), "own": (32, 5), "last": (5, 3)}
        names = zip(jax.random.split(key, 3), shapes.items(), strict=True)
        params = {name: jax.random.normal(key, shape) for key, (name, shape) in names}
        return Variables(params, {})

    def apply(variables, images, *, train, key):
        del train, key
        weights = variables.params
        maps = jax.lax.conv_general_dilated(
            *(images, weights["conv"], (1, 1), "SAME"),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        maps = squared(maps.reshape(len(images), -1), weights["own"])
        return jax.jit(jnp.matmul)(maps, weights["last"]), variables

    return Network(init, apply)


NETWORK = network()
FORWARD = 3
"""Products of one forward pass."""
OTHER = {"default": "high", "high": "highest", "highest": "high"}
"""What is said outside, which is to make no difference."""


@pytest.mark.parametrize("precision", ["default", "high", "highest"])
def test_every_product_of_training_has_the_declared_precision(precision, monkeypatch):
    config = TrainConfig(
        batch_size=4,
        phases=(adversarial(0.1, 1, attack=PGD(num_steps=2)),),
        validation=Validation(share=0.5),
        matmul_precision=precision,
    )
    programs = Programs([config], Problem("own", (4, 4, 1), 3), Placement(), 1)
    # Not that of the catalogue, whose formulation depends on the machine.
    monkeypatch.setattr(Programs, "network", NETWORK)
    shapes = programs.program.shapes(settings_of(config, 0, 1, 2), (4, 4, 1), 8, "f4")
    with jax.default_matmul_precision(OTHER[precision]):
        traced = programs.program._run.trace(*shapes)
        found = products(traced.jaxpr.jaxpr)
    # The attack's step, forward and for the image; then with those of the weights.
    assert len(found) > 4 * FORWARD and {each for each, _ in found} == {precision}

    images = np.zeros((4, 4, 4, 1), np.float32)
    held_out = Dataset.of(images, np.arange(4) % 3, name="held out")
    validator = programs.validator(held_out, config.validation)
    states, settings, *_ = shapes
    due = jax.ShapeDtypeStruct((1,), bool)
    asked = (settings.threat, settings.variant)
    asked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1,), leaf.dtype), asked)
    traced = validator._count.trace(states, asked, due, validator._chunk(0))
    found = products(traced.jaxpr.jaxpr)
    assert len(found) > 3 * FORWARD and {each for each, _ in found} == {precision}


def products_of_attack(precision, is_judged_again):
    """Those of the program that attacks four images by PGD."""
    images = jnp.zeros((4, 4, 4, 1))
    weights = NETWORK.init(jax.random.key(0), images)
    parts = taken_apart(PGD(num_steps=3))
    program = attack_program(
        lambda: lambda weights: bind(NETWORK, weights),
        *(lambda function=function: function for function in parts.functions),
        structure=parts.structure,
        varies=(False,) * len(parts.numbers),
        threat=LinfBall,
        keeps_images=False,
        matmul_precision=precision,
        is_judged_again=is_judged_again,
        devices=tuple(jax.local_devices()),
    )
    items = jnp.zeros(4, int)
    data = (images, jnp.zeros(4, int))
    numbers = [jnp.asarray(number) for number in parts.numbers]
    arguments = (jax.random.key(0), weights, data, items, items, jnp.full(4, 0.1))
    traced = program.trace(*arguments, numbers, [])
    return products(traced.jaxpr.jaxpr)


@pytest.mark.parametrize("precision", ["default", "high"])
def test_steps_have_the_declared_precision_and_the_judgement_the_highest(precision):
    # No precision is said outside, or another one: it makes no difference.
    found = products_of_attack(precision, True)
    with jax.default_matmul_precision(OTHER[precision]):
        assert products_of_attack(precision, True) == found
    attack, judgement = found[:-FORWARD], found[-FORWARD:]
    assert {each for each, _ in attack} == {precision}
    assert sum(is_in_loop for _, is_in_loop in attack) >= 2 * FORWARD
    # One forward pass, once, after the loop.
    assert judgement == [("highest", False)] * FORWARD
    # Without it not a product more than the attack makes.
    assert products_of_attack(precision, False) == attack


def test_an_attack_at_the_highest_or_on_a_cpu_is_not_judged_again():
    plan = engine.Plan((), (), LinfBall, num_classes=2)
    assert plan.matmul_precision == "default"
    assert plan.is_judged_again("tpu") and plan.is_judged_again("gpu")
    assert not plan.is_judged_again("cpu")
    assert not plan._replace(matmul_precision="highest").is_judged_again("tpu")


@pytest.mark.exact
def test_on_a_cpu_all_precisions_are_the_same_numbers():
    sizes = {"maps": (8, 12, 12, 8), "kernel": (3, 3, 8, 16), "matrix": (2304, 64)}
    keys = jax.random.split(jax.random.key(0), len(sizes))
    arrays = [
        jax.random.normal(key, shape)
        for key, shape in zip(keys, sizes.values(), strict=True)
    ]

    def both(maps, kernel, matrix):
        def loss(*arrays):
            maps, kernel, matrix = arrays
            maps = jax.lax.conv_general_dilated(
                *(maps, kernel, (1, 1), "SAME"),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            return jnp.sum(jnp.tanh(maps.reshape(8, -1) @ matrix))

        return jax.value_and_grad(loss, (0, 1, 2))(maps, kernel, matrix)

    default, highest = (
        jax.tree.leaves(jax.jit(at_precision(precision, both))(*arrays))
        for precision in ("default", "highest")
    )
    for one, other in zip(default, highest, strict=True):
        np.testing.assert_array_equal(one, other)


# A model on something like an accelerator: it looks at what products are asked for.

RNG = np.random.default_rng(5)
PIXELS = RNG.uniform(0.2, 0.8, (60, 2, 2, 1)).astype(np.float32)
WEIGHTS = RNG.normal(size=4).astype(np.float32)
OFFSET = np.float32(np.median(PIXELS.reshape(60, 4) @ WEIGHTS))


def rounded(values):
    """With four bits, so that it can be seen in a few images."""
    if jax.config.jax_default_matmul_precision == "highest":
        return values
    return jax.lax.reduce_precision(values, exponent_bits=8, mantissa_bits=4)


def apply(weights):
    def logits_fn(images):
        terms = images.reshape(len(images), 4) * weights[None]
        score = jnp.sum(terms, axis=1) - OFFSET
        # Rounded in value, not in the gradient.
        score += jax.lax.stop_gradient(rounded(score + 1) - 1 - score)
        return jnp.stack([score, -score], axis=1)

    return logits_fn


def scores(images):
    """Exact ones, by numpy in double precision."""
    flat = np.asarray(images, float).reshape(len(images), 4)
    return flat @ WEIGHTS.astype(float) - OFFSET


DATA = Dataset.of(PIXELS, (scores(PIXELS) < 0).astype(int), name="line")


@pytest.fixture
def accelerator(monkeypatch):
    """Evaluations take the machine for one whose precisions differ."""
    place = engine.placement
    monkeypatch.setattr(engine, "placement", lambda: place()._replace(platform="tpu"))


def found_by(attack, epsilon, **settings):
    (found,) = evaluate_models(
        *(apply, [jnp.asarray(WEIGHTS)], DATA, attack, [epsilon]),
        batch_size=20,
        keep_images=True,
        **settings,
    )
    return found


def climbed(distance):
    """To a score of so much on the wrong side; says what the rounded model says."""

    def build(_):
        def attack(key, logits_fn, images, labels):
            del key
            sign = jnp.where(labels == 0, 1.0, -1.0)
            score = logits_fn(images)[:, 0]
            terms = images.reshape(len(images), 4) * WEIGHTS[None]
            exact = jnp.sum(terms, axis=1) - OFFSET
            step = (exact + sign * distance) / jnp.sum(jnp.asarray(WEIGHTS) ** 2)
            moved = images - (step[:, None] * WEIGHTS[None]).reshape(images.shape)
            wrong = jnp.argmax(logits_fn(moved), axis=1) != labels
            return AttackResult(moved, score, wrong, jnp.ones(len(labels), bool))

        return attack

    return build


def test_only_what_breaks_the_exact_model_counts(accelerator):
    # Just over the boundary, and just before it: the rounded model cannot tell.
    over = found_by(climbed(0.004), 0.9)
    assert over.is_clean_correct.all() and not over.is_robust.any()
    wrong = (scores(over.images) < 0) != DATA.labels
    assert wrong.all() and over.num_unconfirmed == (0,)

    before = found_by(climbed(-0.004), 0.9)
    assert before.is_robust.all() and before.num_unconfirmed[0] > 10
    assert "not confirmed at highest" in repr(before)
    (row,) = before.row().attacks
    assert row.num_unconfirmed == before.num_unconfirmed[0]
    # At the highest the attack is not deceived, so there is nothing to confirm.
    exact = found_by(climbed(-0.004), 0.9, matmul_precision="highest")
    assert exact.is_robust.all() and exact.num_unconfirmed == (0,)
    assert exact.row().matmul_precision == "highest"
    assert "matmul precision highest" in repr(exact)


def test_without_the_judgement_rounding_would_decide(accelerator, monkeypatch):
    monkeypatch.setattr(engine.Plan, "is_judged_again", lambda self, platform: False)
    monkeypatch.setattr(robustness, "check_adversarial", lambda *_, **__: None)
    assert not found_by(climbed(-0.004), 0.9).is_robust.all()


class Spy:
    """A model that notes at which precision it is traced."""

    def __init__(self):
        self.seen = []

    def __call__(self, images):
        self.seen.append(jax.config.jax_default_matmul_precision)
        return apply(WEIGHTS)(images)


def test_smallest_radii_and_predictions_are_judged_at_the_highest():
    spy = Spy()
    minimal_epsilons(spy, DATA, batch_size=60, attack=PGD(num_steps=2))
    labelled_by_model(spy, DATA)
    assert len(spy.seen) > 3 and set(spy.seen) == {"highest"}


@pytest.mark.slow
def test_a_checklist_searches_at_its_precision_and_judges_at_the_highest():
    spy = Spy()
    attack = PGD(step_size=0.05, num_steps=2)
    config = ChecklistConfig(attack=attack, matmul_precision="high")
    evidence = Evidence(spy, DATA, config)
    assert evidence.is_right.any() and set(spy.seen) == {"highest"}
    spy.seen.clear()
    evidence.gradients(evidence.images)
    evidence.climb(evidence.images, attack, epsilon=0.1)
    evidence.run("own", attack)
    assert len(spy.seen) >= 3 and set(spy.seen) <= {"high", "highest"}
    assert spy.seen.count("highest") <= 1  # what `run` found, judged


def test_an_unknown_precision_is_refused_before_anything_is_computed():
    said = r"`matmul_precision` must be one of default, high, highest, got 'fastest'; "
    for make in (TrainConfig, ReportConfig, ChecklistConfig):
        with pytest.raises(ValueError, match=said):
            make(matmul_precision="fastest")
    with pytest.raises(ValueError, match=said):
        evaluate(Spy(), DATA, PGD(), [0.1], matmul_precision="fastest")


def test_a_configuration_keeps_it_and_an_older_one_means_the_default():
    config = TrainConfig(matmul_precision="high")
    record = config_to_json(config)
    assert config_from_json(TrainConfig, record) == config
    del record["matmul_precision"]
    assert config_from_json(TrainConfig, record) == TrainConfig()
    # What recipes are hashed by says nothing of the default.
    assert "matmul_precision" not in config_to_json(TrainConfig(), has_defaults=False)


def test_a_journal_of_another_precision_is_refused(tmp_path):
    attack, journal = PGD(num_steps=1), tmp_path / "journal.npz"
    first = found_by(attack, 0.1, journal=journal)
    again = found_by(attack, 0.1, journal=journal)
    np.testing.assert_array_equal(first.is_robust, again.is_robust)
    with pytest.raises(JournalError, match="differs in matmul_precision"):
        found_by(attack, 0.1, journal=journal, matmul_precision="high")


def test_results_of_different_precisions_side_by_side_are_warned_of():
    row = {"clean_accuracy": 0.9, "clean_interval": (0.8, 1.0)}
    row |= {"robust_accuracy": {"0.3": 0.5}, "robust_interval": {"0.3": (0.4, 0.6)}}
    older = {"model": "older", **row}
    fast = {"model": "a", **row, "matmul_precision": "default"}
    exact = {"model": "a", **row, "matmul_precision": "highest"}
    for make in (accuracy_table, interval_table):
        make([older, fast, {**fast, "model": "b"}])
        with pytest.warns(PrecisionWarning, match="a at 'default'; a at 'highest'"):
            make([older, fast, exact])


def test_runs_trained_at_different_precisions_are_warned_of(tmp_path, capsys):
    runs = [
        SimpleNamespace(directory=tmp_path / name, config=TrainConfig(**settings))
        for name, settings in (("a", {}), ("b", {"matmul_precision": "highest"}))
    ]
    command = Evaluate(runs=())
    command.warn_of_precisions(runs[:1] * 2)
    assert capsys.readouterr().err == ""
    command.warn_of_precisions(runs)
    said = capsys.readouterr().err
    assert said.startswith("warning: the runs were trained at different precisions")
    assert said.endswith("a at 'default'; b at 'highest'\n")
    assert precision_note("trained", [("a", "high"), ("b", None)]) is None


@pytest.mark.slow
def test_commands_record_it_from_training_to_the_report(tmp_path, capsys):
    fast = ["--model", "linear", "--train-size", "96", "--batch-size", "32"]
    fast += ["--attack.num-steps", "1", "--epochs", "1", "--epsilon", "0.1"]
    names = [str(tmp_path / name) for name in ("base", "exact", "extended")]
    base, exact, extended = names
    assert main(["train", *fast, "--run-dir", base]) == 0
    exactly = ["--matmul-precision", "highest"]
    assert main(["train", *fast, *exactly, "--run-dir", exact]) == 0
    assert main(["extend", exact, "--epsilon", "0.2", "--run-dir", extended]) == 0
    kept = [load_run(name).config.matmul_precision for name in names]
    assert kept == ["default", "highest", "highest"]
    # On a CPU they are the same numbers.
    trained = [load_run(name).weights for name in names[:2]]
    for one, other in zip(*map(jax.tree.leaves, trained), strict=True):
        np.testing.assert_array_equal(one, other)
    changed = str(tmp_path / "changed")
    config = ["--config", f"{exact}/config.json", "--matmul-precision", "high"]
    assert main(["train", *config, "--run-dir", changed]) == 0
    assert load_run(changed).config.matmul_precision == "high"

    output = tmp_path / "found.json"
    few = ["--set", "num_steps", "1", "--set", "num_restarts", "1"]
    capsys.readouterr()
    command = ["evaluate", base, exact, *few, "--num-images", "20"]
    command += ["--matmul-precision", "high", "--output", str(output)]
    assert main(command) == 0
    assert "base at 'default'; exact at 'highest'" in capsys.readouterr().err
    found = json.loads(output.read_text())
    assert found["settings"]["matmul_precision"] == "high"
    assert found["judged_at"] == "highest"
    assert {row["matmul_precision"] for row in found["rows"]} == {"high"}

    report = ["--parts", "training", "--output", str(tmp_path / "report")]
    assert main(["report", base, exact, *report, *exactly]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "The runs were trained at different precisions" in page
    record = json.loads((tmp_path / "report" / "report.json").read_text())
    assert record["settings"]["matmul_precision"] == "highest"
    assert "--matmul-precision highest" in record["command"]
