"""The checklist tells models that hide, attacks that fail and honest models apart."""

import dataclasses
import json
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.large_perturbations.checklist import (
    CASE_CHECKS,
    CASES,
    HONEST,
    LINEAR,
    SINGLE,
    case_model,
    check_case,
    nearest_mean,
)
from experiments.workspace import Workspace
from jaxrobust.attacks import (
    PGD,
    AttackResult,
    auto_pgd,
    judge,
    with_restarts,
    worst_of,
)
from jaxrobust.data import Dataset, as_float, load_arrays, subset
from jaxrobust.evaluation import Check, Checklist, ChecklistConfig, checklist
from jaxrobust.evaluation.checklist import QUESTIONS
from jaxrobust.training import NullReporter

CASE_PGD = CASE_CHECKS.reference
TINY = ChecklistConfig(
    epsilon=0.1,
    attack=PGD(step_size=0.02, num_steps=20),
    num_images=40,
    batch_size=40,
    many_restarts=2,
    long_steps=40,
    brute_force_samples=64,
    zoo_steps=2,
    num_queries=20,
)


def dataset_of(images, labels, num_classes=2):
    return Dataset(
        name="test",
        title="test",
        images=np.asarray(images, np.float32),
        labels=np.asarray(labels, np.int32),
        num_classes=num_classes,
    )


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """The models of the cases, each made once."""
    workspace = Workspace(tmp_path_factory.mktemp("models"), reporter=NullReporter)
    made = {}

    def model_of(start, seed=0):
        if (start, seed) not in made:
            made[start, seed] = case_model(workspace, start, seed)
        return made[start, seed]

    return model_of


# Of each case, what has to be among the reasons. Cases of the same kind on a network,
# and all seeds, are in the results of the experiment.
SIGNS = {
    "honest linear": (),
    "honest, adversarially trained": (),
    "quantized linear": ("unbounded", "gradients", "brute_force", "black_box"),
    "saturated linear": ("unbounded", "gradients", "targeted", "black_box"),
    "probabilities": ("logits", "unbounded"),
    "stochastic linear": ("deterministic", "smooth", "restarts", "keeps_the_rules"),
    "FGSM-trained": ("no_single_step_mask",),
    "attack of the wrong sign": ("single_step", "converged", "ends_best"),
    "attack of tiny steps": ("more_steps", "converged", "uses_budget"),
    "attack that returns clean images": ("single_step", "uses_budget", "unbounded"),
}


# Questions whose attacks are compiled for others too.
CHEAP = (
    *("single_step", "unbounded", "random_offset", "more_steps", "monotone"),
    *("logits", "gradients", "smooth", "converged", "ends_best", "uses_budget"),
    *("keeps_the_rules", "no_single_step_mask"),
)

EVERYTHING = {
    *("honest linear", "honest, adversarially trained", "quantized linear"),
}


@pytest.mark.parametrize("name", SIGNS)
@pytest.mark.slow
def test_every_case_is_told_rightly_and_for_its_reasons(name, model_of):
    case = CASES[name]
    only = None if name in EVERYTHING else (*CHEAP, *SIGNS[name])
    found = check_case(case, model_of(case.start), 0, only=only)
    assert found.verdict == case.expected
    assert set(SIGNS[name]) <= {check.name for check in found.failed}
    if only is None:
        names = [each.name for each in QUESTIONS]
        assert [check.name for check in found.checks] == names
    for check in found.checks:
        assert check.reason and check.threshold and check.question.endswith("?")


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "name",
    ["honest linear", "quantized linear", "attack of the wrong sign"],
)
def test_cheap_questions_tell_them_apart_with_every_seed(name, seed, model_of):
    case = CASES[name]
    found = check_case(case, model_of(LINEAR, seed), seed, only=CHEAP)
    assert found.verdict == case.expected
    assert len(found.checks) == len(CHEAP)


def exact_accuracy(dataset, seed, epsilon):
    """Worst case of `nearest_mean` in the ball and the pixel range, by NumPy.

    Towards each class every pixel goes to the end of its range that helps it most.
    """
    train = load_arrays("digits", "train")
    chosen = np.random.default_rng(seed).permutation(len(train))[: len(train) // 2]
    pixels = np.asarray(as_float(train.images[chosen]), np.float64)
    pixels = pixels.reshape(len(chosen), -1)
    labels = train.labels[chosen]
    means = np.stack([pixels[labels == label].mean(0) for label in range(10)])
    images = np.asarray(as_float(dataset.images), np.float64).reshape(len(dataset), -1)
    low, high = np.maximum(images - epsilon, 0), np.minimum(images + epsilon, 1)
    stands = np.ones(len(images), bool)
    for target in range(10):
        slope = 2 * (means[target] - means[dataset.labels])
        offset = np.sum(means[dataset.labels] ** 2, 1) - np.sum(means[target] ** 2)
        worst = np.where(slope > 0, slope * high, slope * low).sum(1) + offset
        stands &= (worst < 0) | (dataset.labels == target)
    return stands.mean()


def test_accuracies_are_those_of_the_closed_form():
    test = load_arrays("digits", "test")
    config = dataclasses.replace(CASE_CHECKS, attack=with_restarts(CASE_PGD, 3))
    model = nearest_mean(load_arrays("digits", "train"), 0)
    found = checklist(model, test, config, only=["Shaeiri 2020, item 6", "targeted"])
    chosen = subset(test, config.num_images)
    measured = found["monotone"].measured
    for radius in (0.0, 0.05, 0.1, 0.4):
        exact = exact_accuracy(chosen, 0, radius)
        assert exact - 1e-6 <= measured[f"accuracy at {radius:g}"] <= exact + 0.021
    aimed = found["targeted"].measured["accuracy, PGD aimed at every class"]
    assert aimed == pytest.approx(exact_accuracy(chosen, 0, 0.1), abs=0.0101)


def test_a_flat_softmax_lets_cross_entropy_miss_what_the_margin_finds():
    # The linear model at its own scale: honest, but too hard for PGD on cross-entropy.
    test = load_arrays("digits", "test")
    model = nearest_mean(load_arrays("digits", "train"), 0, 1.0)
    config = dataclasses.replace(CASE_CHECKS, attack=CASE_PGD)
    found = checklist(model, test, config, only=["zoo", "gradients"])
    assert found.verdict == "fail"
    assert found["zoo"].verdict == "fail" and found["gradients"].verdict == "pass"
    attack = dataclasses.replace(CASE_PGD, loss="margin")
    with_margin = dataclasses.replace(config, attack=attack, reference=None)
    assert checklist(model, test, with_margin, only=["zoo"]).verdict == "pass"


@pytest.mark.slow
def test_a_network_is_checked_with_its_base(model_of):
    # Not trained from one another, but of growing radii all the same.
    model, base = model_of(HONEST), model_of(LINEAR)
    only = ("larger_minimum", "transfer", "Shaeiri 2020, item 12")
    config = dataclasses.replace(CASE_CHECKS, many_restarts=3)
    test = load_arrays("digits", "test")
    alone = checklist(model, test, config, only=only)
    for check in alone.checks:
        assert check.verdict == "inconclusive" and "No base model given" in check.reason
    assert alone.verdict == "pass"
    found = checklist(model, test, config, base_fn=base, only=only)
    assert found["semi_black_box"].verdict == found["transfer"].verdict == "pass"
    # One more restart can only break more.
    moved, chosen = (
        found[name].measured[f"accuracy, {text}"]
        for name, text in (
            ("transfer", "transfer"),
            ("semi_black_box", "transfer from the base"),
        )
    )
    assert chosen <= moved < 0.99
    source = checklist(
        model, test, config, source_fns={"a": base}, only=["Shaeiri 2020, item 11"]
    )
    assert source["transfer"].measured == found["transfer"].measured
    # A weak attack is beaten by images that were made elsewhere.
    case = CASES["attack of tiny steps"]
    weak = checklist(
        model,
        test,
        dataclasses.replace(config, attack=with_restarts(case.attack, 2)),
        base_fn=base,
        only=["Shaeiri 2020, item 11"],
    )
    assert weak["transfer"].verdict == "fail"
    assert model_of(SINGLE) is not model


def two_pixel_problem():
    """Labels that both pixels tell: the first by .4 on either side, the other by .2."""
    labels = np.arange(40) % 2
    first, second = np.where(labels, 0.9, 0.1), np.where(labels, 0.7, 0.3)
    dataset = dataset_of(np.stack([first, second], 1).reshape(40, 2, 1, 1), labels)

    def reads(pixel):
        def logits_fn(images):
            score = 10 * (images[:, pixel, 0, 0] - 0.5)
            return jnp.stack([-score, score], axis=1)

        return logits_fn

    return reads(0), reads(1), dataset


def test_the_smallest_radius_that_breaks_everything_is_found():
    robust, weak, dataset = two_pixel_problem()
    found = checklist(
        robust, dataset, TINY, base_fn=weak, only=["Shaeiri 2020, item 9"]
    )
    check = found["larger_minimum"]
    assert check.verdict == "pass"
    resolution = 1 / 128
    checked, base = check.measured.values()
    assert 0.4 <= checked <= 0.4 + 2 * resolution
    assert 0.2 <= base <= 0.2 + 2 * resolution
    swapped = checklist(
        weak, dataset, TINY, base_fn=robust, only=["Shaeiri 2020, item 9"]
    )
    assert swapped.verdict == "fail"
    same = checklist(weak, dataset, TINY, base_fn=weak, only=["Shaeiri 2020, item 9"])
    assert (
        same["Shaeiri 2020, item 9"].verdict == "inconclusive"
        and same.verdict == "pass"
    )


def by_pixel(*, is_upside_down=False):
    """An attack that breaks an image if its first pixel says so at this radius."""

    def build(threat):
        def attack(key, logits_fn, images, labels):
            del key
            limit = images[:, 0, 0, 0]
            limit = 1 - limit if is_upside_down else limit
            falls = (
                (limit > threat.epsilon)
                if is_upside_down
                else limit <= (threat.epsilon + 1e-6)
            )
            moved = images.at[:, 1, 0, 0].set(jnp.where(falls, 1.0, 0.0))
            loss = jnp.zeros(len(labels))
            found = judge(logits_fn(moved), labels)
            return AttackResult(moved, loss, found, jnp.ones(len(labels), bool))

        return attack

    return build


def flag_model(images):
    """Wrong if the second pixel is lit; has gradients, so that PGD may try."""
    score = 10 * (images[:, 1, 0, 0] - 0.5) + 0.0 * images[:, 0, 0, 0]
    return jnp.stack([-score, score], axis=1)


def test_accuracy_by_radius_is_counted_and_a_rise_is_found():
    # Twenty images, of which 5 fall at .05, 5 at .1 and the rest at 1.
    limits = np.repeat([0.05, 0.1, 1.0, 1.0], 5)
    images = np.stack([limits, np.zeros(20)], 1).reshape(20, 2, 1, 1)
    dataset = dataset_of(images, np.zeros(20))
    config = dataclasses.replace(TINY, num_images=20, num_radii=4, attack=by_pixel())
    found = checklist(flag_model, dataset, config, only=["Shaeiri 2020, item 6"])
    assert found["monotone"].measured == {
        **{"accuracy at 0": 1.0, "accuracy at 0.05": 0.75, "accuracy at 0.1": 0.5},
        **{"accuracy at 0.4": 0.5, "accuracy at 0.7": 0.5, "accuracy at 1": 0.0},
        "largest rise": 0.0,
    }
    assert found.verdict == "pass"
    worse = dataclasses.replace(config, attack=by_pixel(is_upside_down=True))
    found = checklist(flag_model, dataset, worse, only=["Shaeiri 2020, item 6"])
    assert found["monotone"].verdict == "fail"
    # 1 - .05 and 1 - .1 are above .7, and nothing is above 1.
    assert found["monotone"].measured["accuracy at 0.7"] == 0.5
    assert found["monotone"].measured["largest rise"] == 10.0


def test_the_threshold_is_a_count_of_paired_outcomes():
    # FGSM breaks all 20 at .6, the attack the first 19 or 18: one may be missed.
    images = np.zeros((20, 2, 1, 1))
    config = dataclasses.replace(
        TINY, num_images=20, epsilon=0.6, attack=by_pixel(), reference=PGD(num_steps=20)
    )
    for missed, verdict in ((1, "pass"), (2, "fail")):
        images[:, 0, 0, 0] = np.where(np.arange(20) < missed, 0.9, 0.1)
        found = checklist(
            flag_model,
            dataset_of(images, np.zeros(20)),
            config,
            only=["single_step"],
        )
        check = found["single_step"]
        assert check.measured == {
            "accuracy, the attack": pytest.approx(missed / 20),
            "accuracy, FGSM": 0.0,
            "broken by FGSM only": missed,
            "broken by the attack only": 0.0,
        }
        assert check.verdict == verdict


@pytest.mark.slow
def test_an_attack_that_is_no_pgd_is_asked_by_its_own_settings():
    robust, _, dataset = two_pixel_problem()
    build = partial(auto_pgd, num_steps=3)
    config = dataclasses.replace(TINY, attack=build, epsilon=0.45)
    only = ["random_offset", "more_steps", "targeted"]
    found = checklist(robust, dataset, config, only=only)
    told = [
        *("the attack from the clean image", "the attack with 40 steps"),
        "the attack aimed at every class",
    ]
    for name, text in zip(only, told, strict=True):
        # All fall at .4, whoever looks for them.
        assert found[name].measured == {
            "accuracy, the attack": 0.0,
            f"accuracy, {text}": 0.0,
            f"broken by {text} only": 0.0,
            "broken by the attack only": 0.0,
        }


def test_restarts_and_steps_are_those_of_the_builder():
    robust, _, dataset = two_pixel_problem()
    # Two steps of a quarter of the radius: too short, but in proportion at all radii.
    half = PGD(step_size=0.025, num_steps=2, random_start=False)
    config = dataclasses.replace(TINY, attack=worst_of(half), num_radii=2)
    measured = checklist(robust, dataset, config, only=["monotone"])[
        "monotone"
    ].measured
    # They get to half of each radius, so that .4 falls from .8 on only.
    assert measured["accuracy at 0.55"] == 1.0 and measured["accuracy at 1"] == 0.0
    said = []
    config = dataclasses.replace(TINY, attack=with_restarts(by_pixel(), 3))
    checklist(robust, dataset, config, only=["single_step"], report=said.append)
    runs = [line for line in said if line.startswith("the attack")]
    assert runs == [f"the attack checked 0.1 {index}" for index in range(3)]


def test_a_model_that_is_wrong_everywhere_is_left_open():
    robust, _, dataset = two_pixel_problem()
    found = checklist(lambda x: -robust(x), dataset, TINY)
    assert found.verdict == "inconclusive"
    assert "right on 0 clean images only" in found.checks[0].reason


def test_the_twelve_are_numbered_as_in_the_paper():
    sources = [question.source for question in QUESTIONS]
    assert sources[:12] == [f"Shaeiri 2020, item {n}" for n in range(1, 13)]
    names = [question.name for question in QUESTIONS]
    assert len(set(names)) == len(names)
    assert names[7] == "brute_force" and names[9] == "zoo"


def check_of(verdict, is_needed=True):
    return Check("a", "b", "c?", verdict, {"d": 1.0}, "e", "f", is_needed)


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "fail"], "fail"),
    ],
)
def test_one_failure_decides(checks, verdict):
    assert Checklist(tuple(check_of(each) for each in checks)).verdict == verdict


def test_what_was_not_asked_leaves_nothing_open_and_all_is_written():
    found = Checklist((check_of("pass"), check_of("inconclusive", False)))
    assert found.verdict == "pass"
    record = json.loads(found.to_json())
    assert record["verdict"] == "pass" and record["checks"] == found.as_rows()
    assert found["b"].measured == {"d": 1.0}
    with pytest.raises(KeyError, match="`name` must be one of a, a, got 'z'"):
        found["z"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": -0.1}, r"`epsilon` must be in \(0, 1\)"),
        ({"epsilon": 0.0}, r"`epsilon` must be in \(0, 1\), got 0\.0"),
        ({"epsilon": 8.0}, r"`epsilon` must be in \(0, 1\), got 8\.0; .*8/255 rather"),
        ({"norm": "l7"}, "`norm` must be one of linf, l2"),
        ({"norm": "l1"}, r"got 'l1'; .* in l1, `--attack apgd-ce fmn pdpgd"),
        ({"attack": "pgd"}, "`attack` must be a function from a threat model to an"),
        ({"reference": print}, "`reference` must be a PGD, or None"),
        ({"num_radii": 1}, "`num_radii` must be at least 2"),
        ({"tolerance": 1.0}, r"`tolerance` must be in \[0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ChecklistConfig(**settings)


def test_questions_that_there_are_not_are_refused():
    robust, _, dataset = two_pixel_problem()
    with pytest.raises(
        ValueError, match=r"got \['Shaeiri 2020, item 13'\]; choose from single_step"
    ):
        checklist(robust, dataset, TINY, only=["Shaeiri 2020, item 13"])
