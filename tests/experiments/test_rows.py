"""Rows that experiments share: computed once, kept, taken from committed results."""

import json

import pytest

from experiments import runner
from experiments.__main__ import main as command
from experiments.workspace import Workspace
from jaxrobust.training import NullReporter, TrainConfig


def workspace_of(tmp_path, name, **options):
    return Workspace(
        tmp_path / name,
        models=tmp_path / "models",
        reporter=NullReporter,
        **options,
    )


def never():
    pytest.fail("computed again")


def test_a_row_is_computed_once_for_all_experiments(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.workspace.revision", lambda: "aaa")
    first = workspace_of(tmp_path, "first").row("case", [1], lambda: {"share": 0.25})
    assert first["share"] == 0.25 and first["revision"] == "aaa"
    monkeypatch.setattr("experiments.workspace.revision", lambda: "bbb")
    other = workspace_of(tmp_path, "other")
    assert other.row("case", [1], never) == first
    # Its code and time are those of who computed it.
    assert other.revisions() == ["aaa"] and other.seconds == first["seconds"]
    second = other.row("case", [2], lambda: {"share": 0.5})
    assert second["key"] != first["key"] and second["revision"] == "bbb"


def test_time_of_training_counts_once(tmp_path):
    workspace = workspace_of(tmp_path, "work")

    def compute():
        # As of a model that was trained before the process began.
        workspace.seconds += 100
        return {"share": 1.0}

    assert workspace.row("case", [1], compute)["seconds"] == pytest.approx(100, abs=1)
    assert workspace.seconds == pytest.approx(100, abs=1)


def test_committed_rows_are_taken_if_they_are_of_the_same_settings(tmp_path):
    done = workspace_of(tmp_path / "there", "work").row("case", [1], lambda: {"a": 1})
    here = workspace_of(tmp_path / "here", "work", committed=[done])
    assert here.row("case", [1], never) == done
    assert here.row("case", [2], lambda: {"a": 2})["a"] == 2


def test_where_nothing_is_to_be_computed_rows_are_known_or_left_out(tmp_path):
    known = workspace_of(tmp_path, "work").row("case", [1], lambda: {"a": 1})
    shown = workspace_of(tmp_path, "shown", is_shown_only=True)
    assert shown.row("case", [1], never) == known
    assert shown.row("case", [2], never) is None
    with pytest.raises(ValueError, match="`--shown-only` must be left out where base"):
        shown.model("base", TrainConfig())


def test_committed_rows_are_found_wherever_results_hold_them(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    results = tmp_path / "paper" / "results"
    results.mkdir(parents=True)
    rows = [{"key": "a", "x": 1}, {"variant": "v", "models": [{"key": "b"}, {}]}]
    (results / "item-cpu.json").write_text(json.dumps({"rows": rows}))
    (results / "other-cpu.json").write_text(json.dumps({"rows": [{"y": 2}]}))
    found = runner._committed("paper/item")
    assert [each["key"] for each in found] == ["a", "b"]


def test_a_table_without_a_row_is_refused_in_a_line(tmp_path, capsys):
    where = ["--workdir", str(tmp_path / "work"), "--models", str(tmp_path / "models")]
    name = "input_distribution/table2"
    assert command([name, "--preset", "smoke", "--shown-only", *where]) == 2
    assert "`--shown-only` must be left out until a row is" in capsys.readouterr().err
