"""What users name is found, run once, and refused in words where it is not there."""

import hashlib
import sys

import pytest

from jaxrobust.references import is_reference, name_of, resolve

FILE = """
import dataclasses
import beside

@dataclasses.dataclass
class Own:
    number: int = beside.NUMBER

ran = beside.count()
"""


@pytest.fixture(name="file")
def _file(tmp_path):
    (tmp_path / "beside.py").write_text(
        "NUMBER, runs = 3, []\ndef count():\n    runs.append(1)\n    return len(runs)\n"
    )
    path = tmp_path / "own.py"
    path.write_text(FILE)
    yield path
    sys.modules.pop("beside", None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("own.py:Net", True),
        ("a/b c/own.py:Net", True),
        ("C:/own.py:Net", True),
        ("package.module:Net", True),
        ("lenet", False),
        ("own.py:", False),
        (":Net", False),
        ("own.py:Net()", False),
    ],
)
def test_names_are_told_from_references(name, expected):
    assert is_reference(name) is expected


def test_a_file_is_run_once_and_imports_what_lies_beside_it(file):
    first = resolve(f"{file}:Own", what="model")
    again = resolve(f"{file.parent}/../{file.parent.name}/own.py:Own", what="model")
    assert first.value is again.value and first.value().number == 3
    assert resolve(f"{file}:ran", what="model").value == 1
    assert first.sha256 == hashlib.sha256(FILE.encode()).hexdigest()
    assert str(file.parent) not in sys.path


def test_a_file_that_changed_is_run_again(file):
    before = resolve(f"{file}:Own", what="model")
    file.write_text(FILE.replace("beside.NUMBER", "4"))
    after = resolve(f"{file}:Own", what="model")
    assert (before.value().number, after.value().number) == (3, 4)
    assert before.sha256 != after.sha256


def test_a_module_is_found_in_the_current_directory(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    assert resolve("beside:NUMBER", what="model").value == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenet", "`model` must be path/to/file.py:NAME or package.module:NAME"),
        ("nowhere.py:Net", "'nowhere.py', which is no Python file here"),
        ("no_such_package.of:Net", "a module that can be imported, got 'no_such_"),
        ("jaxrobust.no_such:Net", "a module that can be imported, got 'jaxrobust.no"),
        ("jaxrobust.references:resolv", "got 'resolv'; did you mean 'resolve'"),
    ],
)
def test_what_is_not_there_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        resolve(name, what="model")


def test_a_file_that_fails_says_so_itself_and_is_forgotten(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("import no_such_package_of_any_kind\n")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_package_of_any_kind"):
            resolve(f"{path}:Net", what="model")


def test_what_was_resolved_keeps_the_name_that_it_was_given(file):
    own = resolve(f"{file}:Own", what="model").value
    assert name_of(own) == f"{file}:Own"
    assert name_of(is_reference) == "jaxrobust.references:is_reference"
    assert resolve(name_of(is_reference), what="model").value is is_reference
