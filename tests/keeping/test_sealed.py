import json

import numpy as np
import pytest

from jaxrobust.keeping import (
    DamagedFileError,
    Kept,
    read_arrays,
    read_json,
    write_arrays,
    write_json,
)

RECORD = {"rate": 0.1, "names": ["a", "b"], "none": None, "deep": {"flag": True}}
ARRAYS = {"x": np.arange(6.0).reshape(2, 3), "y": np.zeros(0, np.int8)}


def test_a_record_comes_back_as_it_was_and_says_that_it_is_sealed(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json(path, RECORD)
    assert read_json(path, must_be_sealed=True) == RECORD
    assert len(json.loads(path.read_text())["checksum"]) == 10


def flipped(content: bytes, index: int, bit: int) -> bytes:
    return content[:index] + bytes([content[index] ^ 1 << bit]) + content[index + 1 :]


@pytest.mark.parametrize("must_be_sealed", [True, False])
def test_no_flipped_bit_changes_a_record(must_be_sealed, tmp_path):
    path = tmp_path / "a.json"
    write_json(path, RECORD)
    whole = path.read_bytes()
    num_refused = 0
    for index in range(len(whole)):
        for bit in range(8):
            path.write_bytes(flipped(whole, index, bit))
            try:
                assert read_json(path, must_be_sealed=must_be_sealed) == RECORD
            except DamagedFileError as error:
                num_refused += 1
                assert str(path) in str(error)
    assert num_refused > 7 * len(whole)  # blanks may become others, and no more


def test_no_flipped_bit_changes_arrays(tmp_path):
    path = tmp_path / "a.npz"
    write_arrays(path, ARRAYS, {"what": "it is"})
    arrays, header = read_arrays(path)
    assert header == {"what": "it is"} and arrays.keys() == ARRAYS.keys()
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(flipped(whole, index, index % 8))
        try:
            found, about = read_arrays(path)
        except DamagedFileError as error:
            assert str(path) in str(error)
            continue
        assert about == header
        for name, array in ARRAYS.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1', "\xff", "3"])
def test_what_is_no_record_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(DamagedFileError, match=r"a\.json' is damaged: it .*; restore"):
        read_json(path)


def test_a_file_of_an_older_version_has_no_checksum(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(RECORD))
    assert read_json(path) == RECORD
    with pytest.raises(DamagedFileError, match="it has no checksum"):
        read_json(path, must_be_sealed=True)


class Counting:
    def __init__(self, value):
        self.value, self.count = value, 0

    def __call__(self):
        self.count += 1
        return self.value


@pytest.mark.parametrize(
    ("method", "value"), [("numbers", {"a": 1.5}), ("arrays", ARRAYS)]
)
def test_results_are_computed_once_for_a_key_and_again_if_damaged(
    tmp_path, method, value
):
    compute, kept = Counting(value), getattr(Kept(tmp_path), method)
    for key in ("one", "one", "two"):
        found = kept("name", {"key": key}, compute)
        assert found.keys() == value.keys()
    assert compute.count == 2
    path = next(tmp_path.iterdir())
    path.write_bytes(flipped(path.read_bytes(), path.stat().st_size // 2, 3))
    with pytest.warns(UserWarning, match=rf"{path.name}.*computed again"):
        kept("name", {"key": "one"}, compute)
        kept("name", {"key": "two"}, compute)
    kept("name", {"key": "one"}, compute)
    assert compute.count == 3
