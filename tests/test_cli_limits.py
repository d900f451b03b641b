"""The command `jaxrobust limits`: files, tables, refusals."""

import json
import signal

import numpy as np
import pytest

from jaxrobust.cli import main
from jaxrobust.cli.limits import compare, examples, optimum
from jaxrobust.concentration.storage import rows_in
from jaxrobust.keeping import claimed
from jaxrobust.theory import RobustOptimum
from jaxrobust.theory.independent_sets import CliqueCover

DIGITS = ["--dataset", "digits", "--train-size", "200"]


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
    assert "must be a directory without" in capsys.readouterr().err


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_concentration_prints_and_writes(norm, tmp_path, capsys):
    flags = ["--norm", norm, "--epsilon", "0.1", "--alpha", "0.05"]
    flags += [
        "--num-regions",
        "3",
        "--num-kmeans-restarts",
        "2",
        "--output",
        str(tmp_path),
    ]
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


def test_concentration_of_few_images_takes_fewer_neighbors(tmp_path):
    flags = ["--train-size", "40", "--num-neighbors", "10", "--num-regions", "2"]
    flags += ["--epsilon", "0.1", "--alpha", "0.05", "--output", str(tmp_path)]
    assert main(["limits", "concentration", *flags]) == 0
    (row,) = results(tmp_path)["rows"]
    assert row["settings"]["num_neighbors"] == 10


def test_optimum_prints_and_writes(tmp_path, capsys):
    flags = ["--epsilon", "0.1", "0.5", "--output", str(tmp_path)]
    assert main(["limits", "optimum", *DIGITS, *flags]) == 0
    assert "200 training images" in capsys.readouterr().out
    first, last = results(tmp_path)["rows"]
    # At 1/2 every image can be made gray, so the most frequent class is all there is.
    assert first["robust_error"] == 0.0 and last["robust_error"] > 0.85
    assert first["is_optimal"] and last["lower_bound"] <= last["robust_error"]


def test_optimum_of_two_classes_asks_about_their_images_alone(tmp_path):
    flags = ["--classes", "3", "7", "--epsilon", "0.5", "--train-size", "100"]
    assert main(["limits", "optimum", *flags, "--output", str(tmp_path)]) == 0
    (row,) = results(tmp_path)["rows"]
    # The classes are about as frequent, and all balls meet in gray.
    assert 0.4 < row["robust_error"] < 0.5 and row["is_optimal"]
    assert row["num_conflicts"] == round(
        row["robust_error"] * (1 - row["robust_error"]) * 100**2
    )


@pytest.fixture
def solved_at_once(monkeypatch):
    """Every radius is solved at once: the data sets and radii asked about."""
    asked = []

    def best_possible(dataset, *, epsilon, **_):
        asked.append((dataset, epsilon))
        nothing = CliqueCover(np.zeros((0, 2), int), np.zeros(0))
        return RobustOptimum(0.5, 0.5, True, np.ones(1), 0, nothing, lambda x: x)

    monkeypatch.setattr("jaxrobust.cli.limits.optimum.best_possible", best_possible)
    return asked


@pytest.mark.parametrize(
    ("flags", "size"),
    [
        ([], 1437),
        (["--classes", "3", "7"], 289),
        (["--train-size", "None"], 1437),
        (["--train-size", "100"], 100),
    ],
)
def test_optimum_takes_no_more_examples_than_there_are(
    flags, size, tmp_path, solved_at_once
):
    assert main(["limits", "optimum", *flags, "--output", str(tmp_path)]) == 0
    assert [radius for _, radius in solved_at_once] == [0.1, 0.2, 0.3, 0.4]
    assert {len(dataset) for dataset, _ in solved_at_once} == {size}
    assert results(tmp_path)["num_train"] == size


def test_optimum_refuses_a_number_of_examples_that_there_are_not(
    tmp_path, capsys, solved_at_once
):
    flags = ["--train-size", "2000", "--output", str(tmp_path)]
    assert main(["limits", "optimum", *flags]) == 2
    assert "`--train-size` must be in [1, 1437]" in capsys.readouterr().err
    assert not solved_at_once


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epsilon"], "`--epsilon` must be one radius or more, got ()"),
        (["--epsilon", "0.1", "-0.2"], "in [0, inf), got -0.2"),
        (["--epsilon", "0.1", "nan"], "in [0, inf), got nan"),
        (["--time-limit", "0"], "`time_limit` must be in (0, inf], got 0"),
    ],
)
def test_optimum_checks_every_flag_before_it_solves(
    flags, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "jaxrobust.cli.limits.optimum.best_possible",
        lambda *_, **__: pytest.fail("solved before everything was checked"),
    )
    output = ["--output", str(tmp_path / "out")]
    assert main(["limits", "optimum", *DIGITS, *flags, *output]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_optimum_goes_on_with_the_radii_that_are_missing(
    tmp_path, capsys, monkeypatch, solved_at_once
):
    solve = optimum.best_possible

    def interrupted(dataset, *, epsilon, **settings):
        if epsilon == 0.3:
            signal.raise_signal(signal.SIGINT)
        return solve(dataset, epsilon=epsilon, **settings)

    monkeypatch.setattr(optimum, "best_possible", interrupted)
    command = ["limits", "optimum", *DIGITS, "--output", str(tmp_path), "--epsilon"]
    assert main([*command, "0.3"]) == 1
    assert "goes on" not in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main([*command, "0.1", "0.2", "0.3"]) == 75
    (kept,) = tmp_path.iterdir()
    assert f"the same command goes on from what is kept in {kept}" in (
        capsys.readouterr().err
    )
    monkeypatch.setattr(optimum, "best_possible", solve)
    solved_at_once.clear()
    assert main([*command, "0.1", "0.2", "0.3"]) == 0
    assert [radius for _, radius in solved_at_once] == [0.3]
    rows = results(tmp_path)["rows"]
    assert [row["epsilon"] for row in rows] == [0.1, 0.2, 0.3]
    assert not kept.exists()


def test_a_kept_radius_is_that_of_the_same_settings_and_undamaged(
    tmp_path, monkeypatch, solved_at_once
):
    solve = optimum.best_possible

    def asked_for(*flags):
        """The radii solved for before the last one, which is interrupted."""

        def interrupted(dataset, *, epsilon, **settings):
            if epsilon == 0.3:
                raise KeyboardInterrupt
            return solve(dataset, epsilon=epsilon, **settings)

        solved_at_once.clear()
        monkeypatch.setattr(optimum, "best_possible", interrupted)
        command = ["limits", "optimum", *DIGITS, *flags, "--output", str(tmp_path)]
        assert main([*command, "--epsilon", "0.1", "0.2", "0.3"]) == 75
        return [radius for _, radius in solved_at_once]

    assert asked_for() == [0.1, 0.2]
    assert asked_for() == []
    assert asked_for("--norm", "l2") == [0.1, 0.2]
    for path in tmp_path.glob("radii/epsilon0.2-*.json"):
        path.write_bytes(path.read_bytes().replace(b"0.5", b"0.4"))
    with pytest.warns(UserWarning, match=r"epsilon0\.2-.* is damaged"):
        assert asked_for() == [0.2]


def test_an_output_in_use_is_refused(tmp_path, capsys, solved_at_once):
    with claimed(tmp_path / "results.json", what="output"):
        output = ["--output", str(tmp_path)]
        assert main(["limits", "optimum", *DIGITS, *output]) == 1
    assert "`output` must not be in use by another process" in capsys.readouterr().err
    assert not solved_at_once


def test_results_that_another_process_wrote_meanwhile_are_kept(
    tmp_path, capsys, monkeypatch, solved_at_once
):
    asked = optimum.Optimum.examples

    def late(self):
        # While this one loads its data the other one ends.
        (tmp_path / "results.json").write_text("other")
        return asked(self)

    monkeypatch.setattr(optimum.Optimum, "examples", late)
    assert main(["limits", "optimum", *DIGITS, "--output", str(tmp_path)]) == 2
    assert "must be a directory without" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text() == "other" and not solved_at_once


@pytest.mark.parametrize("name", ["file", "file/in/it"])
def test_an_output_that_is_a_file_is_refused_at_once(
    name, tmp_path, capsys, solved_at_once
):
    (tmp_path / "file").write_text("something else")
    output = ["--output", str(tmp_path / name)]
    assert main(["limits", "optimum", *DIGITS, *output]) == 2
    said = capsys.readouterr().err
    assert "`output` must be a directory" in said and "is a file" in said
    assert not solved_at_once
    assert (tmp_path / "file").read_text() == "something else"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a small run."""
    run = tmp_path_factory.mktemp("trained") / "run"
    flags = ["--model", "linear", "--train-size", "96", "--batch-size", "32"]
    flags += ["--epsilon", "0.05", "--epochs", "1", "--run-dir", str(run)]
    assert main(["train", *flags]) == 0
    return run


COMPARED = [
    "--epsilon",
    "0.05",
    "--set",
    "num_steps",
    "5",
    "--set",
    "num_restarts",
    "1",
]
COMPARED += ["--num-images", "60", "--train-size", "100"]


def test_compare_prints_and_writes(trained, tmp_path, capsys):
    flags = [*COMPARED, "--num-regions", "2", "--norm", "l2", "--num-optimum", "50"]
    flags += ["--output", str(tmp_path / "out")]
    assert main(["limits", "compare", str(trained), *flags]) == 0
    assert "| concentration |" in capsys.readouterr().out
    names = [row["name"] for row in results(tmp_path / "out")["rows"]]
    assert names == ["model", "concentration", "finite optimum"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-regions", "-1"], "`num_regions` must be at least 1, got -1"),
        (["--num-regions", "0"], "`num_regions` must be at least 1, got 0"),
        (["--num-regions", "101"], "`num_regions` must be in [1, 100]"),
        (["--num-optimum", "-5"], "`num_optimum` must be at least 0, got -5"),
        (["--time-limit", "0"], "`time_limit` must be in (0, inf], got 0"),
        (["--epsilon", "nan"], "`epsilon` must be in [0, inf), got nan"),
    ],
)
def test_compare_checks_every_flag_before_it_evaluates(
    flags, message, trained, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "jaxrobust.cli.limits.compare.evaluate",
        lambda *_, **__: pytest.fail("evaluated before everything was checked"),
    )
    output = ["--output", str(tmp_path / "out")]
    assert main(["limits", "compare", str(trained), *COMPARED, *flags, *output]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_compare_says_that_work_is_kept_only_if_it_is(
    trained, tmp_path, capsys, monkeypatch
):
    command = ["limits", "compare", str(trained), *COMPARED, "--num-regions", "2"]
    command += ["--num-optimum", "0", "--output", str(tmp_path)]

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compare, "evaluate", interrupt)
        assert main(command) == 1
    assert capsys.readouterr().err == "jaxrobust: interrupted\n"
    with monkeypatch.context() as patch:
        # Told when the first distances are found.
        patch.setattr(examples.NeighborLine, "__call__", interrupt)
        assert main(command) == 75
    attacks, kept = tmp_path / "attacks.npz", tmp_path / "neighbors"
    said = capsys.readouterr().err
    assert f"goes on from what is kept in {attacks} and {kept}" in said
    assert rows_in(kept) > 0
    # The attacks are not made again: their outcomes are in the journal.
    with monkeypatch.context() as patch:
        patch.setattr("jaxrobust.evaluation.engine.run._buckets", interrupt)
        assert main(command) == 0
    assert not attacks.exists()


def test_a_search_that_was_interrupted_at_once_has_kept_nothing(
    tmp_path, capsys, monkeypatch
):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxrobust.data.distances.Space.block", interrupt)
    output = ["--output", str(tmp_path)]
    assert main(["limits", "concentration", *DIGITS, *output]) == 1
    assert capsys.readouterr().err == "jaxrobust: interrupted\n"


def test_a_class_that_does_not_occur_is_refused(tmp_path, capsys):
    flags = ["--classes", "3", "12", "--output", str(tmp_path)]
    assert main(["limits", "optimum", *flags]) == 2
    assert "`classes` must be among 0, 1, 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--alpha", "1.5"], "`alpha` must be in (0, 1), got 1.5"),
        (["--alpha", "0"], "`alpha` must be in (0, 1), got 0"),
        (["--epsilon", "-0.1"], "`epsilon` must be in [0, inf)"),
        (["--num-regions", "500"], "`--num-regions` must be in [1, 200]"),
        (["--num-regions", "0"], "`--num-regions` must be in [1, 200]"),
        (["--num-neighbors", "201"], "`--num-neighbors` must be in [1, 200]"),
        (["--num-neighbors", "0"], "`--num-neighbors` must be in [1, 200]"),
        (["--train-size", "40"], "`--num-neighbors` must be in [1, 40]"),
        (["--train-size", "0"], "`--train-size` must be in [1, 1437]"),
        (["--dataset", "nothing"], "nothing"),
    ],
)
def test_bad_flags_are_refused(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "jaxrobust.data.distances.Space.block",
        lambda *_: pytest.fail("searched before everything was checked"),
    )
    output = ["--output", str(tmp_path / "out")]
    assert main(["limits", "concentration", *DIGITS, *flags, *output]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()
