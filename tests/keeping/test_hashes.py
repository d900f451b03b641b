import jax.numpy as jnp
import numpy as np

from jaxrobust.keeping import difference, fingerprint, mark
from jaxrobust.keeping.hashes import BLOCK


def test_fingerprints_tell_values_types_shapes_and_names_apart():
    trees = [
        {"a": np.zeros(2)},
        {"b": np.zeros(2)},
        {"a": np.zeros(2, np.float32)},
        {"a": np.zeros((2, 1))},
        {"a": np.array([0, 1e-30])},
        [np.zeros(2)],
        {"a": np.zeros(1), "b": np.zeros(1)},
    ]
    assert len({fingerprint(tree) for tree in trees}) == len(trees)
    assert fingerprint({"a": jnp.ones(2)}) == fingerprint({"a": np.ones(2, "float32")})


def test_fingerprints_do_not_depend_on_how_an_array_lies_in_memory(tmp_path):
    array = np.arange(3 * BLOCK // 4 + 6, dtype=np.int16).reshape(-1, 2)
    np.save(tmp_path / "a.npy", array)
    others = [
        array.astype(">i2"),
        np.asfortranarray(array),
        np.repeat(array, 2, axis=1)[:, ::2],
        np.load(tmp_path / "a.npy", mmap_mode="r"),
    ]
    assert {fingerprint(other) for other in others} == {fingerprint(array)}
    array[-1, -1] += 1
    assert fingerprint(array) != fingerprint(others[0])


def test_marks_depend_on_values_and_not_on_their_order():
    assert mark({"a": 1, "b": [2, 3]}) == mark({"b": (2, 3), "a": 1})
    assert mark({"a": 1}) != mark({"a": 1.5}) != mark({"b": 1})


def test_differences_name_the_place_and_both_values():
    before = {"a": {"b": [1, 2]}, "c": 3, "only": None}
    now = {"a": {"b": [1, 4]}, "c": [3], "new": 5}
    assert difference(before, now) == [
        "a.b[1]: 2, now 4",
        "c: 3, now [3]",
        "new: None, now 5",
    ]
    assert difference([1], [1, 2], "x") == ["x: 1 entries, now 2"]
    assert difference(now, now) == []
