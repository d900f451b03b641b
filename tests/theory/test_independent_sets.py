import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from jaxrobust.theory import (
    CliqueCover,
    certified_bound,
    maximum_independent_set,
)
from jaxrobust.theory.independent_sets import flows, hard
from jaxrobust.theory.independent_sets import heaviest as heaviest_set


def heaviest(count, edges, weights):
    """Over all sets of vertices."""
    chosen = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
    is_free = np.ones(len(chosen), bool)
    for first, second in edges:
        is_free &= chosen[:, first] + chosen[:, second] < 2
    return (chosen[is_free] @ weights).max()


def random_graph(rng, count, share):
    first, second = np.triu_indices(count, 1)
    kept = rng.uniform(size=len(first)) < share
    return np.stack([first[kept], second[kept]], axis=1)


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 12),
    share=st.floats(0, 1),
    kind=st.sampled_from(["equal", "whole", "any"]),
)
def test_the_set_is_the_heaviest_of_all(seed, count, share, kind):
    rng = np.random.default_rng(seed)
    edges = random_graph(rng, count, share)
    weights = {
        "equal": np.full(count, 0.3),
        "whole": rng.integers(0, 5, count) / 7,
        "any": rng.exponential(size=count),
    }[kind]
    found = maximum_independent_set(rng.permuted(edges, axis=1), weights)
    expected = heaviest(count, edges, weights)
    assert found.is_optimal
    assert found.weight == pytest.approx(expected, rel=1e-6)
    assert found.weight == pytest.approx(weights[found.is_chosen].sum())
    assert not found.is_chosen[edges].all(axis=1).any()
    assert found.weight <= found.upper_bound <= expected + 1e-6 * weights.sum()
    bound = certified_bound(found.certificate, edges, weights)
    assert bound >= expected - 1e-9


@pytest.mark.parametrize("kind", ["equal", "whole"])
def test_larger_graphs_agree_with_an_integer_program_of_edges(kind):
    for seed, share in enumerate([0.04, 0.06, 0.08, 0.1, 0.15, 0.2]):
        rng = np.random.default_rng(seed)
        parts = rng.integers(0, 6, 60)
        edges = random_graph(rng, 60, share)
        edges = edges[parts[edges[:, 0]] != parts[edges[:, 1]]]
        weights = np.ones(60) if kind == "equal" else rng.integers(1, 99, 60) / 8
        rows = np.zeros((len(edges), 60))
        rows[np.arange(len(edges))[:, None], edges] = 1
        plain = optimize.milp(
            -weights,
            integrality=np.ones(60),
            bounds=optimize.Bounds(0, 1),
            constraints=optimize.LinearConstraint(rows, -np.inf, 1),
            options={"mip_rel_gap": 0.0},
        )
        found = maximum_independent_set(edges, weights, parts)
        assert found.is_optimal
        assert found.weight == pytest.approx(-plain.fun)
        assert found.upper_bound == pytest.approx(-plain.fun)
        assert not found.is_chosen[edges].all(axis=1).any()


@pytest.mark.parametrize("kind", ["equal", "any"])
def test_two_parts_or_no_parts_named_agree(kind):
    # With parts it is a flow, without them an integer program.
    rng = np.random.default_rng(5)
    for share in (0.05, 0.15, 0.4):
        sides = np.arange(60) % 2
        edges = random_graph(rng, 60, share)
        edges = edges[sides[edges[:, 0]] != sides[edges[:, 1]]]
        weights = np.ones(60) if kind == "equal" else rng.exponential(size=60)
        flow = maximum_independent_set(edges, weights, sides)
        program = maximum_independent_set(edges, weights)
        assert flow.is_optimal and program.is_optimal
        assert flow.weight == pytest.approx(program.weight, rel=1e-6)
        bound = certified_bound(flow.certificate, edges, weights)
        assert bound == pytest.approx(flow.weight, rel=1e-6)


def two_parts(rng, count, num_edges):
    sides = rng.integers(0, 2, count)
    edges = rng.integers(0, count, (num_edges, 2))
    return sides, edges[sides[edges[:, 0]] != sides[edges[:, 1]]]


def test_weights_of_many_vertices_without_a_common_unit_are_proven_optimal():
    rng = np.random.default_rng(0)
    sides, edges = two_parts(rng, 8000, 40_000)
    weights = rng.dirichlet(np.ones(8000))
    found = maximum_independent_set(edges, weights, sides)
    assert found.is_optimal and 0.5 < found.weight < 0.8
    assert found.upper_bound - found.weight < 1e-8
    assert certified_bound(found.certificate, edges, weights) - found.weight < 1e-8


@pytest.mark.parametrize("most_units", [2**30, 2**12])
def test_flows_in_several_rounds_are_those_of_all_sets(most_units, monkeypatch):
    # The smaller the flows, the more rounds they take.
    for module in (flows, hard, heaviest_set):
        monkeypatch.setattr(module, "MOST_UNITS", most_units)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        sides, edges = two_parts(rng, 12, 40)
        weights = rng.exponential(size=12) ** 3
        found = maximum_independent_set(edges, weights, sides)
        assert found.is_optimal
        assert found.weight == pytest.approx(heaviest(12, edges, weights), rel=1e-11)
        assert found.upper_bound == pytest.approx(found.weight, rel=1e-11)
        bound = certified_bound(found.certificate, edges, weights)
        assert bound == pytest.approx(found.weight, rel=1e-11)


def test_optimal_means_that_weight_and_bound_agree_to_a_millionth():
    rng = np.random.default_rng(2)
    parts = np.arange(150) % 6
    edges = random_graph(rng, 150, 0.05)
    edges = edges[parts[edges[:, 0]] != parts[edges[:, 1]]]
    weights = rng.exponential(size=150)
    gaps = []
    for time_limit in (1e-6, 60.0):
        found = maximum_independent_set(edges, weights, parts, time_limit=time_limit)
        gaps.append((found.upper_bound - found.weight) / weights.sum())
        assert found.is_optimal == (gaps[-1] <= 1e-6)
    assert gaps[0] > 1e-3 and gaps[1] <= 1e-6


def test_components_too_large_for_a_table_have_the_bound_of_the_relaxation():
    # An odd ring reaches that bound; a chain of triangles, of which at most a third can
    # be chosen, does not.
    ring = np.arange(8193)
    edges = np.stack([ring, (ring + 1) % 8193], axis=1)
    parts = np.where(ring == 8192, 2, ring % 2)
    found = maximum_independent_set(edges, np.ones(8193), parts)
    assert found.weight == found.upper_bound == 4096 and found.is_optimal
    first = np.arange(0, 8193, 3)
    pairs = [(first, first + 1), (first + 1, first + 2), (first, first + 2)]
    pairs.append((first[:-1] + 2, first[1:]))
    edges = np.concatenate([np.stack(pair, axis=1) for pair in pairs])
    found = maximum_independent_set(edges, np.ones(8193), np.arange(8193) % 3)
    assert found.weight == found.is_chosen.sum() == 2731
    assert not found.is_chosen[edges].all(axis=1).any()
    assert found.upper_bound == 4096 and not found.is_optimal
    assert certified_bound(found.certificate, edges, np.ones(8193)) >= 4096


@pytest.mark.parametrize(
    ("name", "edges", "size"),
    [
        # The linear program alone proves 5/2 for a pentagon, and 5 for Petersen's.
        ("pentagon", [(i, (i + 1) % 5) for i in range(5)], 2),
        (
            "petersen",
            [(i, (i + 1) % 5) for i in range(5)]
            + [(i, i + 5) for i in range(5)]
            + [(5 + i, 5 + (i + 2) % 5) for i in range(5)],
            4,
        ),
        ("complete", [(i, j) for j in range(7) for i in range(j)], 1),
    ],
)
def test_graphs_of_a_textbook(name, edges, size):
    edges = np.array(edges)
    found = maximum_independent_set(edges, np.ones(edges.max() + 1))
    assert found.weight == found.upper_bound == size
    assert found.is_optimal
    if name == "complete":
        cliques, amounts = found.certificate
        assert np.sort(cliques).tolist() == [[*range(7)]] and amounts.tolist() == [1]


def test_several_components_are_solved_together():
    pentagon = np.array([(i, (i + 1) % 5) for i in range(5)])
    edges = np.concatenate([pentagon, pentagon + 5, [[10, 11]], [[12, 13], [13, 14]]])
    found = maximum_independent_set(edges, np.ones(16))
    assert found.weight == found.upper_bound == 2 + 2 + 1 + 2 + 1
    assert found.is_chosen[[12, 14, 15]].all()


def test_out_of_time_it_still_bounds_and_claims_no_optimum():
    rng = np.random.default_rng(0)
    parts = np.arange(400) % 20
    edges = random_graph(rng, 400, 0.1)
    edges = edges[parts[edges[:, 0]] != parts[edges[:, 1]]]
    started = time.monotonic()
    found = maximum_independent_set(edges, np.ones(400), parts, time_limit=0.5)
    assert time.monotonic() - started < 5
    assert not found.is_optimal
    assert 20 <= found.weight < found.upper_bound <= 200
    assert found.weight == found.is_chosen.sum()
    assert not found.is_chosen[edges].all(axis=1).any()
    assert certified_bound(found.certificate, edges, np.ones(400)) >= found.weight


def test_a_proof_of_nothing_is_refused():
    edges, weights = np.array([[0, 1], [2, 1]]), np.ones(3)
    good = CliqueCover(np.array([[1, 2, -1]]), np.array([1.0]))
    assert certified_bound(good, edges, weights) == 2
    stranger = CliqueCover(np.array([[0, 1, 2]]), np.array([1.0]))
    with pytest.raises(ValueError, match=r"got \(0, 2\), which is no edge"):
        certified_bound(stranger, edges, weights)
    with pytest.raises(ValueError, match=r"`amounts` must be in \[0, inf\)"):
        certified_bound(good._replace(amounts=np.array([-1.0])), edges, weights)


@pytest.mark.parametrize(
    ("edges", "weights", "settings", "message"),
    [
        ([[0, 0]], [1, 1], {}, r"two different vertices, got \(0, 0\)"),
        ([[0, 2]], [1, 1], {}, r"in \[0, 2\), got \(0, 2\)"),
        ([[-1, 0]], [1, 1], {}, r"in \[0, 2\), got \(-1, 0\)"),
        ([[0.0, 1.0]], [1, 1], {}, "must be of integers, got .float64"),
        ([[0, 1, 1]], [1, 1], {}, r"of shape \(edges, 2\), got \(1, 3\)"),
        ([[0, 1]], [1, -1], {}, r"`weights` must be in \[0, inf\)"),
        ([[0, 1]], [1, math.nan], {}, r"`weights` must be in \[0, inf\)"),
        ([], [], {}, "one or more vertices"),
        ([[0, 1]], [1, 1], {"parts": np.array([4, 4])}, r"the same for \(0, 1\)"),
        ([[0, 1]], [1, 1], {"parts": np.array([4])}, r"of shape \(2,\), got \(1,\)"),
        ([[0, 1]], [1, 1], {"time_limit": -3}, r"must be in \(0, inf\], got -3"),
    ],
)
def test_graphs_that_are_none_are_refused(edges, weights, settings, message):
    with pytest.raises(ValueError, match=message):
        maximum_independent_set(np.array(edges), np.array(weights), **settings)
