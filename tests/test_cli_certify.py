"""`jaxrobust certify`, and the bracket of `jaxrobust evaluate --certify`."""

import json
import signal

import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.cli import certify, main
from jaxrobust.evaluation import wilson_interval
from jaxrobust.training import load_run, load_run_data

FAST = ["--model", "linear", "--train-size", "200", "--batch-size", "32", "--epochs"]
FAST += ["6", "--attack.num-steps", "2", "--epsilon", "0.05", "--quiet"]
RADII = ["--epsilon", "0.02", "0.08", "--num-images", "60"]
ATTACK = ["--set", "num_steps", "3", "--set", "num_restarts", "1"]

OWN = """
from jaxrobust.bounds import interval_margins


def twice(logits_fn, threat, images, labels):
    return interval_margins(logits_fn, threat, images, labels)


def lie(logits_fn, threat, images, labels):
    return 1.0 + 0.0 * logits_fn(images)
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("certify") / "base"
    assert main(["train", *FAST, "--run-dir", str(directory)]) == 0
    return directory


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(OWN)
    return path


@pytest.fixture(scope="module")
def proven(run_dir):
    """Share of 60 images certified at each radius: the model is linear."""
    run = load_run(run_dir)
    chosen = data.subset(load_run_data(run, "test"), 60)
    images = np.asarray(data.as_float(chosen.images), np.float64).reshape(60, -1)
    unit = np.eye(64, dtype=np.float32).reshape(64, 8, 8, 1)
    zero = np.asarray(run.logits_fn(np.zeros((1, 8, 8, 1), np.float32)), np.float64)
    weights = np.asarray(run.logits_fn(unit), np.float64) - zero
    rows, labels = np.arange(60), chosen.labels
    apart = weights.T[labels][:, None] - weights.T[None]
    offset = zero[0, labels][:, None] - zero

    def share(epsilon):
        ends = np.maximum(images - epsilon, 0), np.minimum(images + epsilon, 1)
        low, high = (apart * end[:, None] for end in ends)
        margins = np.minimum(low, high).sum(axis=2) + offset
        margins[rows, labels] = np.inf
        assert np.abs(margins).min() > 1e-4
        return (margins > 0).all(axis=1).mean()

    return {str(radius): share(radius) for radius in (0.02, 0.08)}


def test_certify_prints_and_writes_what_is_proven(
    run_dir, own, proven, tmp_path, capsys
):
    output = tmp_path / "proven.json"
    command = ["certify", str(run_dir), *RADII, "--output", str(output)]
    assert main([*command, "--method", "interval", f"{own}:twice"]) == 0
    record = json.loads(output.read_text())
    (row,) = record["rows"]
    assert row["certified_accuracy"] == pytest.approx(proven)
    assert 0 < proven["0.08"] < proven["0.02"] < row["clean_accuracy"] < 1
    interval = wilson_interval(round(60 * proven["0.08"]), 60)
    assert row["certified_interval"]["0.08"] == pytest.approx(interval)
    first, second = row["methods"]
    assert [first["name"], second["name"]] == ["interval", "twice"]
    # The second one, asked about what the first left, has nothing to add.
    assert set(second["num_certified"].values()) == {0} != second["num_bounds"]
    assert first["num_certified"]["0.02"] == round(60 * proven["0.02"])
    assert record["settings"]["norm"] == "linf"
    assert record["methods"]["interval"]["function"].endswith("interval_margins")
    shown = capsys.readouterr().out
    assert "Certified accuracy in linf, pixels in [0, 1]:\n\n| model | clean |" in shown
    assert f"{100 * proven['0.02']:.1f} %" in shown
    count = first["num_certified"]
    assert f"| interval | {count['0.02']} | {count['0.08']} |" in shown
    assert "| first proven by | ε = 0.02 | ε = 0.08 | bounds | seconds |" in shown
    assert not (tmp_path / "proven.json.journal").exists()
    # The same again by what was written, but for the seconds; never over a file.
    again = tmp_path / "again.json"
    config = ["certify", str(run_dir), "--config", str(output), "--trust-code"]
    assert main([*config, "--method", "interval", "--output", str(again)]) == 0
    found = json.loads(again.read_text())["rows"][0]
    assert found["certified_accuracy"] == row["certified_accuracy"]
    assert [each["name"] for each in found["methods"]] == ["interval"]
    assert main(command) == 2
    assert "`output` must be a new file" in capsys.readouterr().err


def test_evaluate_shows_what_is_proven_beside_what_attacks_left(
    run_dir, own, proven, tmp_path, capsys
):
    output = tmp_path / "numbers.json"
    command = ["evaluate", str(run_dir), *RADII, *ATTACK]
    flags = ["--certify", "interval", "--output", str(output)]
    assert main([*command, *flags]) == 0
    (row,) = json.loads(output.read_text())["rows"]
    below, above = row["certified"]["certified_accuracy"], row["robust_accuracy"]
    assert below == pytest.approx(proven)
    assert all(below[radius] <= above[radius] for radius in proven)
    assert row["certified"]["num_broken"] == {"0.02": 0, "0.08": 0}
    lines = capsys.readouterr().out.splitlines()
    attacked, certified = (
        next(line for line in lines if line.startswith(f"| base, {word} |"))
        for word in ("attacked", "certified")
    )
    assert f"{100 * above['0.08']:.1f} %" in attacked
    assert f"{100 * below['0.08']:.1f} %" in certified
    assert "The truth lies between what is certified and what attacks left." in lines
    # Without the flag nothing says so.
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "| base |" in shown and "certified" not in shown
    # What proves too much is told by the attacks, and by the exit code.
    lying = tmp_path / "lying.json"
    flags = ["--certify", f"{own}:lie", "--output", str(lying)]
    assert main([*command, *flags]) == 1
    (row,) = json.loads(lying.read_text())["rows"]
    broken = row["clean_accuracy"] - row["robust_accuracy"]["0.08"]
    assert row["certified"]["num_broken"]["0.08"] == round(60 * broken) > 0
    error = capsys.readouterr().err
    assert f"base: {round(60 * broken)} images that are certified at epsilon 0" in error


def test_interrupted_it_goes_on(run_dir, tmp_path, monkeypatch, capsys):
    command = ["certify", str(run_dir), *RADII, "--batch-size", "16"]
    expected, output = tmp_path / "expected.json", tmp_path / "proven.json"
    seen = []

    def show(self, names, progress):
        assert names == ["base"]
        seen.append(progress)
        if len(seen) == stop_at:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(certify.CertificationLine, "show", show)
    stop_at = None
    assert main([*command, "--output", str(expected)]) == 0
    num_buckets = len(seen)
    seen.clear()
    stop_at = 2
    assert main([*command, "--output", str(output)]) == 75
    kept = tmp_path / "proven.json.journal"
    assert f"goes on from what is kept in {kept}" in capsys.readouterr().err
    assert not output.exists() and [each.name for each in kept.iterdir()] == ["0.npz"]
    stop_at = None
    assert main([*command, "--output", str(output)]) == 0
    assert len(seen) == num_buckets > 3 and not kept.exists()

    def numbers(path):
        (row,) = json.loads(path.read_text())["rows"]
        for method in row["methods"]:
            del method["seconds"]
        return row

    assert numbers(output) == numbers(expected)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "intervals"], "got 'intervals'; did you mean 'interval'?"),
        (["--method", "own.py:gone"], "`methods` must name a Python file, got 'own"),
        (["--method", "interval", "interval"], "`methods` must be different methods"),
        (["--epsilon", "8"], "so 8/255 rather than 8"),
        (["--norm", "l0", "--epsilon", "1"], "bound this model in l0, got 'interval'"),
        (["--num-images", "0"], "`--num-images` must be in [1, "),
        (["--batch-size", "0"], "`batch_size` must be"),
    ],
)
def test_wrong_flags_are_refused_in_a_line(flags, message, run_dir, capsys):
    assert main(["certify", str(run_dir), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_a_run_there_is_nothing_to_certify(capsys):
    assert main(["certify"]) == 2
    assert "`runs` must name at least one" in capsys.readouterr().err
