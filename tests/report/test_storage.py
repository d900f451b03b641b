import json

import numpy as np
import pytest

from jaxrobust.keeping import plain, read_json
from jaxrobust.report.storage import Storage


def test_what_json_does_not_know_becomes_plain():
    value = {0: (np.float32(0.5), float("inf")), "b": np.array([1, 2]), "c": None}
    found = plain(value)
    assert found == {"0": [0.5, None], "b": [1, 2], "c": None}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_result_is_computed_once_for_each_key(tmp_path):
    storage = Storage(tmp_path / "report", {})
    storage.begin()
    calls = []

    def compute():
        calls.append(1)
        return {"value": (1, float("nan"))}

    first = storage.numbers("a", {"seed": 0}, compute)
    assert first == {"value": [1, None]}
    assert storage.numbers("a", {"seed": 0}, compute) == first and len(calls) == 1
    storage.numbers("a", {"seed": 1}, compute)
    assert len(calls) == 2


def test_a_result_that_was_being_written_counts_as_none(tmp_path):
    storage = Storage(tmp_path / "report", {})
    storage.begin()
    path = storage.path("a", 0, ".json")
    path.with_name(path.name + ".0123.part").write_text('{"val')
    assert storage.numbers("a", 0, lambda: 3) == 3


@pytest.mark.parametrize("content", [b"", b'{"value": 4}', b'{"value": 4, "check'])
def test_a_result_that_is_damaged_is_computed_again(content, tmp_path):
    storage = Storage(tmp_path / "report", {})
    storage.begin()
    assert storage.numbers("a", 0, lambda: 3) == 3
    path = storage.path("a", 0, ".json")
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=f"'{path}' is damaged: .* computed again"):
        assert storage.numbers("a", 0, lambda: 3) == 3
    assert storage.numbers("a", 0, lambda: pytest.fail("computed again")) == 3


def test_arrays_that_are_not_those_written_are_computed_again(tmp_path):
    storage = Storage(tmp_path / "report", {})
    storage.begin()
    storage.arrays("a", 0, lambda: {"x": np.zeros(3)})
    path = storage.path("a", 0, ".npz")
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {"x": np.ones(3)})
    with pytest.warns(UserWarning, match="checksum of its arrays does not fit"):
        found = storage.arrays("a", 0, lambda: {"x": np.zeros(3)})
    np.testing.assert_array_equal(found["x"], np.zeros(3))


def test_arrays_come_back_as_they_were(tmp_path):
    storage = Storage(tmp_path / "report", {})
    storage.begin()
    values = {"x": np.arange(6, dtype=np.int32).reshape(2, 3)}
    storage.arrays("a", 0, lambda: values)
    found = storage.arrays("a", 0, lambda: {})
    np.testing.assert_array_equal(found["x"], values["x"])
    assert found["x"].dtype == np.int32


def test_settings_that_differ_are_named(tmp_path):
    Storage(tmp_path / "report", {"seed": 0, "runs": [1, 2]}).begin()
    Storage(tmp_path / "report", {"seed": 0, "runs": [1, 2]}).begin()
    with pytest.raises(ValueError, match="differs in seed: 0, now 1; choose another"):
        Storage(tmp_path / "report", {"seed": 1, "runs": [1, 2]})


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="`output` must be a new or empty directory"):
        Storage(tmp_path, {})
    with pytest.raises(ValueError, match="`output` must be a new or empty directory"):
        Storage(tmp_path / "letter.txt", {})


def test_a_begin_that_was_killed_leaves_a_free_directory(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/settings.json.0123.part").write_text("{")
    Storage(tmp_path, {"seed": 0}).begin()
    assert read_json(tmp_path / "parts/settings.json") == {"seed": 0}


def test_damaged_settings_are_refused(tmp_path):
    Storage(tmp_path, {"seed": 0}).begin()
    path = tmp_path / "parts/settings.json"
    for content in ("{", path.read_text().replace('"seed": 0', '"seed": 1')):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"{path}' is damaged: .*; choose another"):
            Storage(tmp_path, {"seed": 1})
