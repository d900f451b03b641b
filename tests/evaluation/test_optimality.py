"""Optimality of attacks, by hand and by its rules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrobust.evaluation import area_under_accuracy, optimality

INF = np.inf


def test_the_area_is_that_of_the_staircase():
    # All four right up to .2, three up to .4, two to the end at 1.
    found = np.array([0.2, 0.4, INF, 1.0])
    expected = 0.2 * 1 + 0.2 * 0.75 + 0.6 * 0.5
    assert area_under_accuracy(found, widest=1.0) == pytest.approx(expected)
    grid = np.linspace(0, 1, 100_001)
    curve = [np.mean(found > epsilon) for epsilon in grid[::100]]
    assert np.mean(curve) == pytest.approx(expected, abs=1e-3)


def test_optimality_by_hand():
    found = optimality(
        {"good": np.array([0, 0.2, 0.4]), "poor": np.array([0, 0.6, 0.3])}, widest=1.0
    )
    # Areas .2 and .3, of the best .5 / 3, and room of 2 / 3 - .5 / 3 = .5.
    assert found["good"] == pytest.approx(1 - (0.6 - 0.5) / 3 / 0.5)
    assert found["poor"] == pytest.approx(1 - (0.9 - 0.5) / 3 / 0.5)


numbers = st.lists(
    st.tuples(*2 * [st.floats(0.01, 2.0) | st.just(INF)]), min_size=1, max_size=9
)


@given(numbers, st.integers(0, 3))
def test_the_best_of_all_has_one_and_an_attack_that_finds_nothing_none(pairs, num_lost):
    first, second = (
        np.concatenate([np.zeros(num_lost), column]) for column in np.transpose(pairs)
    )
    nothing = np.where(first == 0, 0, INF)
    attacks = {"a": first, "b": second, "best": np.minimum(first, second)}
    found = optimality(attacks | {"nothing": nothing}, widest=1.0)
    assert found["best"] == pytest.approx(1)
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in found.values())
    if np.any((attacks["best"] > 0) & (attacks["best"] < 1)):
        assert found["nothing"] == pytest.approx(0)
    else:
        assert set(found.values()) == {1.0}


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        ({}, "`distances` must be those of one attack or more"),
        ({"a": [0.1], "b": [0.1, 0.2]}, "must be of the same examples"),
        ({"a": [0.0], "b": [0.1]}, "must be 0 for the same lost images"),
        ({"a": [-0.1]}, r"`distances` must be in \[0, inf\], got -0\.1"),
        ({"a": [np.nan]}, r"`distances` must be in \[0, inf\], got nan"),
    ],
)
def test_wrong_distances_are_refused(distances, message):
    with pytest.raises(ValueError, match=message):
        optimality({n: np.array(each) for n, each in distances.items()}, widest=1.0)
