import dataclasses

import jax
import numpy as np
import pytest

from jaxrobust.report import ReportConfig, write_report
from jaxrobust.report.subjects import subjects
from jaxrobust.training import standard

SMALL = ReportConfig(num_images=10)


def changed(run, **fields):
    """A run whose last phase was another one."""
    phases = (dataclasses.replace(run.config.phases[-1], **fields),)
    return run._replace(config=dataclasses.replace(run.config, phases=phases))


@pytest.fixture
def clean_run(runs, tmp_path):
    """A run that was trained without an adversary."""
    config = dataclasses.replace(runs[0].config, phases=(standard(1),))
    records = [{**runs[0].records[-1], "epsilon": 0.0}]
    directory = tmp_path / "clean"
    return runs[0]._replace(config=config, records=records, directory=directory)


def test_runs_on_the_same_data_share_radii(runs):
    first, second = subjects(runs, SMALL)
    assert first.epsilons == second.epsilons == (0.05, 0.1)
    assert set(first.curve_epsilons) >= {0.05, 0.1, 0.15}
    assert len(first.dataset) == 10 and first.dataset is second.dataset


def test_a_run_without_an_adversary_is_judged_where_the_others_are(clean_run, runs):
    found = subjects([clean_run, runs[1]], SMALL)[0]
    assert found.epsilon == 0.1
    assert found.reason.endswith("the largest that another run here was trained at")
    (alone,) = subjects([clean_run], SMALL)
    assert alone.epsilon == 0.3 and "the usual one" in alone.reason


def test_radii_that_are_asked_for_come_first(runs):
    config = dataclasses.replace(SMALL, epsilons=(0.2, 0.1))
    first, second = subjects(runs, config)
    assert first.epsilons == (0.1, 0.2)
    assert (first.epsilon, first.reason) == (0.2, "the largest that was asked for")
    assert second.epsilon == 0.1


def test_a_radius_with_many_digits_is_the_one_it_was_trained_at(runs):
    records = [{**runs[0].records[-1], "epsilon": 8 / 255}]
    config = dataclasses.replace(SMALL, epsilons=(8 / 255, 0.1))
    (found,) = subjects([runs[0]._replace(records=records)], config)
    assert (found.epsilon, found.epsilons) == (0.0313725, (0.0313725, 0.1))


def test_an_epoch_whose_weights_were_dropped_does_not_count(runs):
    records = [*runs[0].records, {"epsilon": 0.4, "is_jump": True}]
    (found,) = subjects([runs[0]._replace(records=records)], SMALL)
    assert found.epsilon == 0.05


def test_runs_of_the_same_name_are_told_apart(runs, tmp_path):
    twins = [runs[0]._replace(directory=tmp_path / name / "run") for name in "ab"]
    assert [each.name for each in subjects(twins, SMALL)] == ["a/run", "b/run"]


def test_a_base_that_is_gone_is_done_without(runs, tmp_path):
    moved = changed(runs[1], start_from=str(tmp_path / "gone"))
    first, second = subjects([runs[0], moved], SMALL)
    assert second.base is None and list(second.sources) == [first.name]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilons": (8.0,)}, "so 8/255 rather than 8"),
        ({"epsilons": (1.0,)}, "must be below 1 in linf"),
        ({"num_images": 5000}, r"`num_images` must be in \[1, "),
        ({"norm": "l2"}, "`epsilons` must be given with --norm l2"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_written(
    fields, message, runs, tmp_path
):
    with pytest.raises(ValueError, match=message):
        write_report(runs, tmp_path / "report", ReportConfig(**fields))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilons": (0.0,)}, r"`epsilons` must be in \(0, inf\), got 0\.0"),
        ({"epsilons": ()}, "`epsilons` must be at least one radius"),
        ({"parts": ()}, "`parts` must be some of accuracy, curve"),
        ({"parts": ("all",)}, "`parts` must be some of accuracy, curve"),
        ({"num_points": 10}, "`num_points` must be odd, got 10"),
        ({"num_steps": 0}, "`num_steps` must be at least 1, got 0"),
        ({"certify": ("intervall",)}, "did you mean 'interval'"),
        (
            {"certify": ("interval",), "parts": ("curve",)},
            "`certify` must be left out without the part accuracy",
        ),
    ],
)
def test_wrong_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ReportConfig(**fields)


def test_runs_trained_in_different_norms_need_one(runs):
    other = changed(runs[0], norm="l2")
    with pytest.raises(ValueError, match="`norm` must be given for runs trained in"):
        subjects([other, runs[1]], SMALL)


def test_a_run_without_epochs_has_no_training_to_show(runs):
    empty = runs[0]._replace(records=[])
    with pytest.raises(ValueError, match="must have epochs to show"):
        subjects([empty], SMALL)
    config = dataclasses.replace(SMALL, parts=("accuracy",))
    assert subjects([empty], config)[0].epsilon == 0.05


def test_a_model_that_answers_with_nan_is_refused_by_name(runs, tmp_path):
    state = runs[0].state
    params = jax.tree.map(lambda x: x + np.nan, state.weights.params)
    state = state._replace(weights=state.weights._replace(params=params))
    broken = runs[0]._replace(state=state)
    with pytest.raises(ValueError, match=r"base: `logits_fn` must return finite"):
        write_report([broken], tmp_path / "report", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_no_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`runs` must be one run or more"):
        write_report([], tmp_path / "report")
