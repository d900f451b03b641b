import numpy as np
import pytest

from jaxrobust.keeping import Kept


def never():
    raise AssertionError("computed again")


def test_a_result_is_computed_once_for_each_key(tmp_path):
    kept = Kept(tmp_path / "new")
    value = {"share": np.float32(0.5), "pair": (1, float("inf"))}
    plain = {"share": 0.5, "pair": [1, None]}
    # The same when it was just computed as when it is read.
    assert kept.numbers("a", {"seed": 0}, lambda: value) == plain
    assert kept.numbers("a", {"seed": 0}, never) == plain
    assert kept.numbers("a", {"seed": 1}, lambda: 3) == 3
    assert kept.numbers("b", {"seed": 0}, lambda: 4) == 4
    kept.arrays("a", 0, lambda: {"x": [[1, 2]]})
    found = kept.arrays("a", 0, never)["x"]
    np.testing.assert_array_equal(found, [[1, 2]])


def test_only_the_writer_writes(tmp_path):
    other = Kept(tmp_path, is_writer=False)
    for value in (1, 2):
        assert other.numbers("a", 0, lambda value=value: value) == value
        found = other.arrays("a", 0, lambda value=value: {"x": np.array(value)})
        assert found["x"] == value
    assert list(tmp_path.iterdir()) == []
    # It reads what the writer wrote.
    Kept(tmp_path).numbers("a", 0, lambda: 3)
    assert other.numbers("a", 0, never) == 3


@pytest.mark.parametrize("share", [0, 0.3, 0.6])
def test_a_damaged_result_is_computed_again_and_named(share, tmp_path):
    kept = Kept(tmp_path)
    asks = (
        (".json", lambda compute: kept.numbers("a", 0, compute)),
        (".npz", lambda compute: kept.arrays("a", 0, compute)["x"]),
    )
    for suffix, ask in asks:
        value = {"x": np.arange(3)}
        first = ask(lambda value=value: value)
        path = kept.path("a", 0, suffix)
        content = bytearray(path.read_bytes())
        content[int(share * len(content))] ^= 1
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=f"'{path}' is damaged: .* computed again"):
            again = ask(lambda value=value: value)
        assert str(again) == str(first) == str(ask(never))
