"""The tables of the READMEs are those of the committed results."""

import json

import pytest

from experiments import tables

RESULTS = sorted(tables.ROOT.glob("experiments/*/results/*.json"))
FIELDS = {
    *("experiment", "preset", "config", "seed", "versions", "device", "revision"),
    *("seconds", "rows"),
}


@pytest.mark.parametrize("name", tables.READMES)
def test_readme_tables_are_up_to_date(name):
    text = (tables.ROOT / name).read_text()
    assert tables.updated(text) == text


def test_a_changed_number_is_noticed():
    text = (tables.ROOT / "README.md").read_text()
    start = text.index("<!-- results:")
    digit = next(
        i for i in range(text.index("|", start), len(text)) if text[i].isdigit()
    )
    other = str((int(text[digit]) + 1) % 10)
    changed = text[:digit] + other + text[digit + 1 :]
    assert tables.updated(changed) == text


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_results_files_have_every_field(path):
    result = json.loads(path.read_text())
    assert set(result) >= FIELDS
    assert path.stem == f"{result['experiment'].split('/')[1]}-{result['preset']}"
    assert result["rows"] and all(isinstance(row, dict) for row in result["rows"])


def test_there_are_results():
    assert len(RESULTS) >= 1
