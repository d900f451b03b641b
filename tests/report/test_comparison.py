import dataclasses
import html
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.cli import main
from jaxrobust.data import as_float, load_arrays, subset
from jaxrobust.evaluation import checklist, wilson_interval
from jaxrobust.keeping import InUseError
from jaxrobust.report import ReportConfig, assessment, write_report

pytestmark = pytest.mark.slow

FILES = ("report.html", "report.json")

# The smallest that has something to go on with: the journal and two kinds of parts.
QUICK = ["--parts", "accuracy", "training", "--attack", "pgd", "--num-images", "30"]
QUICK += ["--num-steps", "4", "--set", "num_steps", "4", "--set", "num_restarts", "1"]
QUICK += ["--num-strength-images", "3"]


def contents(output: Path) -> dict[str, bytes]:
    files = [output / name for name in FILES]
    files += sorted((output / "figures").iterdir())
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def exact_flags(run, images: np.ndarray, labels: np.ndarray, epsilons) -> np.ndarray:
    """Which images a linear model is truly robust at, one radius for each or for all.

    The margin towards each class is linear, so its least value over the box of pixels
    is a sum of the least values of each pixel.
    """
    shape = images.shape[1:]
    basis = np.eye(int(np.prod(shape)), dtype=np.float32).reshape(-1, *shape)
    offset = np.asarray(run.logits_fn(jnp.zeros((1, *shape))), np.float64)
    weights = np.asarray(run.logits_fn(jnp.asarray(basis)), np.float64) - offset
    flat = images.reshape(len(images), -1).astype(np.float64)
    radii = np.broadcast_to(epsilons, len(flat))[:, None]
    low, high = np.clip(flat - radii, 0, 1), np.clip(flat + radii, 0, 1)
    found = np.ones(len(flat), bool)
    for other in range(weights.shape[1]):
        slopes = (weights[:, labels] - weights[:, [other]]).T
        least = np.where(slopes > 0, slopes * low, slopes * high).sum(axis=1)
        least += offset[0, labels] - offset[0, other]
        found &= (least > 0) | (labels == other)
    return found


@pytest.fixture(scope="module")
def images_and_labels():
    data = subset(load_arrays("digits", "test"), 40)
    return np.asarray(as_float(jnp.asarray(data.images))), data.labels


def test_accuracies_are_those_counted_by_hand(report, runs, images_and_labels):
    images, labels = images_and_labels
    for run, row in zip(runs, report.record["runs"], strict=True):
        found = row["accuracy"]
        predicted = np.asarray(run.logits_fn(jnp.asarray(images))).argmax(axis=1)
        is_right = predicted == labels
        np.testing.assert_array_equal(found["images"]["is_clean_correct"], is_right)
        assert found["clean_accuracy"] == np.mean(is_right)
        assert list(found["robust_accuracy"]) == ["0.05", "0.1"]
        for radius, share in found["robust_accuracy"].items():
            truth = exact_flags(run, images, labels, float(radius))
            stands = np.array(found["images"]["broken_by"][radius]) == -1
            # No attack breaks what cannot be broken; a short one may miss an image.
            assert not np.any(truth & ~stands)
            assert 0 <= np.sum(stands) - np.sum(truth) <= 1
            assert share == np.mean(stands)
            ends = wilson_interval(int(stands.sum()), 40)
            assert found["robust_interval"][radius] == pytest.approx(ends)
            assert f"{100 * share:.1f}" in report.page


def test_classes_and_both_definitions_add_up(report):
    for row in report.record["runs"]:
        found, radius = row["accuracy"], f"{row['epsilon']:g}"
        flags = np.array(found["images"]["broken_by"][radius])
        classes = found["classes"].values()
        assert sum(each["num_correct"] for each in classes) == np.sum(flags != -2)
        assert sum(each["num_broken"] for each in classes) == np.sum(flags >= 0)
        both = found["under_attack"][radius]
        assert both["all"] == found["robust_accuracy"][radius]
        assert both["among_correct"] == np.sum(flags == -1) / np.sum(flags != -2)


def test_curves_and_smallest_perturbations_do_not_contradict_the_truth(
    report, runs, images_and_labels
):
    images, labels = images_and_labels
    data = subset(subset(load_arrays("digits", "test"), 40), 9)
    few = np.asarray(as_float(jnp.asarray(data.images)))
    for run, row in zip(runs, report.record["runs"], strict=True):
        curve = row["curve"]
        assert curve["epsilons"][0] == 0 and {0.05, 0.1} <= set(curve["epsilons"])
        assert curve["robust_accuracy"] == sorted(curve["robust_accuracy"])[::-1]
        for radius, share in zip(
            curve["epsilons"], curve["robust_accuracy"], strict=True
        ):
            assert share >= np.mean(exact_flags(run, images, labels, radius))
        smallest = np.array(row["smallest"]["epsilons"])
        wider = smallest * 1.001 + 1e-6
        assert not exact_flags(run, few, data.labels, wider).any()
        assert row["smallest"]["median"] == np.sort(smallest)[4]


def test_a_run_is_judged_where_it_was_trained_last_and_checked_beside_its_base(report):
    first, second = report.record["runs"]
    assert (first["epsilon"], second["epsilon"]) == (0.05, 0.1)
    assert first["checklist"]["base"] is None
    assert first["checklist"]["sources"] == [second["name"]]
    assert second["checklist"]["base"] == "base"
    for row in (first, second):
        assert {"Shaeiri 2020, item 1", "Shaeiri 2020, item 9"} <= {
            check["source"] for check in row["checklist"]["checks"]
        }
        for check in row["checklist"]["checks"]:
            assert check["question"] in report.page and check["reason"] in report.page


def test_the_page_holds_everything_itself(report):
    page = (report.output / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert not re.search(r"https?://|@import|url\(", page)
    names = report.record["figures"]
    assert page.count("<img") == page.count('src="data:image/') == len(names) > 5


def test_names_of_runs_cannot_become_markup(report, run_dirs):
    page = (report.output / "report.html").read_text()
    assert "<i>" not in page and html.escape(run_dirs[1].name) in page


def test_every_figure_is_there_in_both_formats(report):
    for name in report.record["figures"]:
        png = (report.output / "figures" / f"{name}.png").read_bytes()
        svg = (report.output / "figures" / f"{name}.svg").read_text()
        assert png.startswith(b"\x89PNG") and "<svg" in svg
    assert len(list((report.output / "figures").iterdir())) == 2 * len(
        report.record["figures"]
    )


def test_the_command_in_the_report_is_the_one_that_made_it(report):
    words = shlex.split(report.record["command"])
    assert words[:2] == ["jaxrobust", "report"]
    assert sorted(words[1:]) == sorted(report.command)
    assert report.record["command"] in report.page


def test_the_same_command_writes_the_same_bytes(report, capsys):
    before = contents(report.output)
    assert main([*report.command, "--output", str(report.output)]) == 0
    assert contents(report.output) == before
    shown = capsys.readouterr().out
    assert "base: accuracy (apgd-ce, apgd-t), 40 images, kept" in shown
    assert "base: how good each attack is, kept" in shown
    assert "robust accuracy" not in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "1"], "settings.seed: 0, now 1"),
        (["--num-images", "39"], "settings.num_images: 40, now 39"),
    ],
)
def test_another_command_is_refused_in_a_used_directory(
    change, message, report, capsys
):
    before = contents(report.output)
    assert main([*report.command, *change, "--output", str(report.output)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert contents(report.output) == before


@pytest.fixture(scope="module")
def quick(run_dirs, tmp_path_factory):
    """A command, and the files that it writes undisturbed."""
    command = ["report", str(run_dirs[1]), *QUICK]
    output = tmp_path_factory.mktemp("quick") / "report"
    assert main([*command, "--output", str(output)]) == 0
    return command, contents(output)


@pytest.mark.slow
def test_a_killed_report_goes_on_to_the_same_bytes(quick, tmp_path):
    command, expected = quick
    output = tmp_path / "killed"
    words = [sys.executable, "-m", "jaxrobust", *command, "--output", str(output)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if ": robustness" in line:
                os.kill(process.pid, signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL
    assert not any((output / name).exists() for name in FILES)
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    assert ": accuracy (pgd), 30 images, kept" in done.stdout
    assert contents(output) == expected


def test_a_part_that_was_changed_is_not_believed(quick, tmp_path):
    command, expected = quick
    output = tmp_path / "report"
    assert main([*command, "--output", str(output)]) == 0
    (part,) = output.glob("parts/1-accuracy-*.json")
    text = part.read_text()
    part.write_text(re.sub(r'"clean_accuracy": [\d.]+', '"clean_accuracy": 1.0', text))
    assert part.read_text() != text
    with pytest.warns(UserWarning, match=f"{part}' is damaged: its checksum does not"):
        assert main([*command, "--output", str(output)]) == 0
    assert contents(output) == expected


def test_two_processes_cannot_write_one_report(quick, runs, tmp_path):
    output = tmp_path / "report"
    words = [sys.executable, "-m", "jaxrobust", *quick[0], "--output", str(output)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert ": accuracy" in process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        before = {path: path.read_bytes() for path in output.rglob("*.*")}
        holder = rf"process {process.pid} on .* has been using since 2"
        with pytest.raises(InUseError, match=f"got '{output}', .*{holder}"):
            write_report(runs[1:], output, ReportConfig(parts=("training",)))
        assert {path: path.read_bytes() for path in output.rglob("*.*")} == before
    finally:
        process.kill()
        process.communicate()


def test_an_interrupted_report_says_how_to_go_on(quick, tmp_path, monkeypatch, capsys):
    command, expected = quick
    output = tmp_path / "report"

    def interrupt(*arguments):
        # As a scheduler does, ahead of the end of an allocation.
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(assessment, "_predictions", interrupt)
        assert main([*command, "--output", str(output)]) == 75
    error = capsys.readouterr().err
    assert f"the same command goes on from what is kept in {output}" in error
    assert not (output / "report.html").exists()
    assert main([*command, "--output", str(output)]) == 0
    assert ": accuracy (pgd), 30 images, kept" in capsys.readouterr().out
    assert contents(output) == expected


def test_runs_on_different_data_stand_side_by_side(runs, tmp_path, monkeypatch):
    smallest = {"num_images": 1, "epsilons": [0.1], "quantiles": dict.fromkeys(
        ("0.1", "0.25", "0.5", "0.75", "0.9"), 0.1
    )}  # fmt: skip
    monkeypatch.setattr(assessment, "_smallest", lambda *arguments: smallest)
    config = ReportConfig(parts=("curve",), num_images=12, num_steps=2)
    # As if it had been trained on them.
    binary = runs[1]._replace(
        config=dataclasses.replace(runs[1].config, variant="binary"),
        problem=runs[1].problem._replace(title="digits (8x8) (binarized)"),
    )
    write_report([runs[0], binary], tmp_path / "report", config)
    record = json.loads((tmp_path / "report/report.json").read_text())
    # Each at the radii of the runs on its own data.
    first, second = (row["curve"]["epsilons"] for row in record["runs"])
    assert 0.05 in first and 0.15 not in first
    assert 0.15 in second
    assert set(record["figures"]) == {
        *("accuracy-curve-data1", "accuracy-curve-data2"),
        *("smallest-perturbations-data1", "smallest-perturbations-data2"),
    }
    page = (tmp_path / "report/report.html").read_text()
    assert "<td>-</td>" in page and "<td>digits (8x8) (binarized)</td>" in page


def test_what_is_certified_stands_beside_what_attacks_left(
    run_dirs, runs, images_and_labels, tmp_path, monkeypatch
):
    few = {"single_step", "certified"}
    monkeypatch.setattr(assessment, "checklist", partial(checklist, only=few))
    command = ["report", *map(str, run_dirs), *QUICK, "--certify", "interval"]
    command += ["--parts", "accuracy", "checklist", "--num-images", "40"]
    command += ["--num-checklist-images", "12", "--output"]
    assert main([*command, str(tmp_path / "once")]) == 0
    record = json.loads((tmp_path / "once" / "report.json").read_text())
    images, labels = images_and_labels
    for run, row in zip(runs, record["runs"], strict=True):
        proven, attacked = row["certified"], row["accuracy"]["robust_accuracy"]
        for radius, share in proven["certified_accuracy"].items():
            # Of a linear model all that is true can be proven.
            truth = exact_flags(run, images, labels, float(radius))
            found = np.array(proven["images"]["certified_by"][radius]) == 0
            np.testing.assert_array_equal(found, truth)
            assert share == truth.mean() <= attacked[radius]
        assert set(proven["num_broken"].values()) == {0}
        asked = row["checklist"]["checks"][-1]
        assert (asked["name"], asked["verdict"]) == ("certified", "pass")
        assert asked["measured"]["attacks"] >= 2
    page = html.unescape((tmp_path / "once" / "report.html").read_text())
    assert "base, attacked" in page and "base, certified" in page
    assert "The truth lies between certified and robust." in page
    assert "images by the first method that proves them" in page
    # The same bytes again, from what is kept and from nothing.
    before = contents(tmp_path / "once")
    assert main([*command, str(tmp_path / "once")]) == 0
    assert main([*command, str(tmp_path / "twice")]) == 0
    assert before == contents(tmp_path / "once") == contents(tmp_path / "twice")
