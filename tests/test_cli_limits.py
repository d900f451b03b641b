"""The command `jaxrobust limits`: files, tables, refusals."""

import json

import pytest

from jaxrobust.cli import main

DIGITS = ["--data", "digits", "--train-size", "200"]


def results(directory):
    found = json.loads((directory / "results.json").read_text())
    assert found["versions"]["jaxrobust"]
    return found


def test_theory_prints_and_writes(tmp_path, capsys):
    flags = ["--num-features", "11", "--output", str(tmp_path / "out")]
    assert main(["limits", "theory", "bernoulli", *flags]) == 0
    assert "| epsilon | robust error |" in capsys.readouterr().out
    found = results(tmp_path / "out")
    assert found["config"]["num_features"] == 11
    assert len(found["columns"]["robust error"]) == len(found["values"])
    assert found["logarithms"].keys() == found["columns"].keys()
    # Logarithms have a figure of their own.
    for name in ("theory", "logarithms"):
        assert (tmp_path / "out" / f"{name}.svg").read_text().startswith("<?xml")
    facets = tmp_path / "facets"
    assert main(["limits", "theory", "facets", "--output", str(facets)]) == 0
    assert sorted(path.name for path in facets.iterdir()) == [
        "results.json",
        "theory.svg",
    ]
    # Nothing is written over.
    assert main(["limits", "theory", "cube", *flags[2:]]) == 2
    assert "which has one" in capsys.readouterr().err


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_concentration_prints_and_writes(norm, tmp_path, capsys):
    flags = ["--norm", norm, "--epsilon", "0.1", "--alpha", "0.05"]
    flags += ["--num-regions", "3", "--num-restarts", "2", "--output", str(tmp_path)]
    assert main(["limits", "concentration", *DIGITS, *flags]) == 0
    said = capsys.readouterr().out
    assert "vacuous" in said and "adversarial risk, test" in said
    assert ("| half-space, best |" in said) == (norm == "l2")
    # Only what was started several times has a deviation.
    assert ("±" in said) == (norm == "linf")
    found = results(tmp_path)
    assert found["num_train"] == 200
    methods = ["hyperrectangles"] if norm == "linf" else ["balls"] + 2 * ["half-space"]
    assert [row["method"] for row in found["rows"]] == methods
    for row in found["rows"]:
        assert row["train"]["mean"]["risk"] >= 0.05
        means = row["test"]["mean"]
        assert means["risk"] <= means["adversarial_risk"] <= 1
    assert (tmp_path / "concentration.svg").exists()


def test_optimum_prints_and_writes(tmp_path, capsys):
    flags = ["--epsilons", "0.1", "0.5", "--output", str(tmp_path)]
    assert main(["limits", "optimum", *DIGITS, *flags]) == 0
    assert "200 training images" in capsys.readouterr().out
    first, last = results(tmp_path)["rows"]
    # At 1/2 every image can be made gray, so the most frequent class is all there is.
    assert first["robust_error"] == 0.0 and last["robust_error"] > 0.85
    assert first["is_optimal"] and last["lower_bound"] <= last["robust_error"]


def test_optimum_of_two_classes_asks_about_their_images_alone(tmp_path):
    flags = ["--classes", "3", "7", "--epsilons", "0.5", "--train-size", "100"]
    assert main(["limits", "optimum", *flags, "--output", str(tmp_path)]) == 0
    (row,) = results(tmp_path)["rows"]
    # The classes are about as frequent, and all balls meet in gray.
    assert 0.4 < row["robust_error"] < 0.5 and row["is_optimal"]
    assert row["num_conflicts"] == round(
        row["robust_error"] * (1 - row["robust_error"]) * 100**2
    )


def test_compare_prints_and_writes(tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--model", "linear", "--train-size", "96", "--batch-size", "32"]
    flags += ["--epsilon", "0.05", "--epochs", "1", "--run-dir", str(run)]
    assert main(["train", *flags]) == 0
    flags = ["--epsilon", "0.05", "--num-steps", "5", "--num-restarts", "1"]
    flags += ["--num-images", "60", "--train-size", "100", "--num-regions", "2"]
    flags += ["--norm", "l2", "--num-optimum", "50", "--output", str(tmp_path / "out")]
    assert main(["limits", "compare", str(run), *flags]) == 0
    assert "| concentration |" in capsys.readouterr().out
    names = [row["name"] for row in results(tmp_path / "out")["rows"]]
    assert names == ["model", "concentration", "finite optimum"]


def test_a_class_that_does_not_occur_is_refused(tmp_path, capsys):
    flags = ["--classes", "3", "12", "--output", str(tmp_path)]
    assert main(["limits", "optimum", *flags]) == 2
    assert "`classes` must be among 0, 1, 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--alpha", "1.5"], "`alpha` must be in (0, 1), got 1.5"),
        (["--alpha", "0"], "`alpha` must be in (0, 1), got 0"),
        (["--epsilon", "-0.1"], "`epsilon` must be finite and non-negative"),
        (["--num-regions", "500"], "500"),
        (["--train-size", "0"], "`--train-size` must be in [1, 1437]"),
        (["--data", "nothing"], "nothing"),
    ],
)
def test_bad_flags_are_refused(flags, message, tmp_path, capsys):
    output = ["--output", str(tmp_path / "out")]
    assert main(["limits", "concentration", *DIGITS, *flags, *output]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()
