import itertools

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jaxrobust.theory import (
    hardness_gadget,
    independent_set_of_packing,
    maximum_independent_set,
    maximum_packing,
    optimal_robust_classifier,
    packing_graph,
    packing_of_predictions,
    predictions_of_packing,
)

METRICS = {"linf": "chebyshev", "l2": "euclidean", "l1": "cityblock"}


def all_graphs(count):
    """One graph of each kind: of those that only differ in names, the first."""
    pairs = list(itertools.combinations(range(count), 2))
    place = {pair: index for index, pair in enumerate(pairs)}
    codes = np.arange(2 ** len(pairs))
    bits = (codes[:, None] >> np.arange(len(pairs))) & 1
    least = codes.copy()
    for order in itertools.permutations(range(count)):
        moved = [place[tuple(sorted((order[a], order[b])))] for a, b in pairs]
        least = np.minimum(least, bits @ (1 << np.array(moved, int)))
    for code in np.flatnonzero(least == codes):
        edges = [pair for pair, bit in zip(pairs, bits[code], strict=True) if bit]
        yield np.array(edges, int).reshape(-1, 2)


GRAPHS = [(count, edges) for count in range(1, 6) for edges in all_graphs(count)]


def steps_between(count, edges):
    """Lengths of shortest paths, by Floyd and Warshall."""
    steps = np.where(np.eye(count), 0.0, np.inf)
    for a, b in edges:
        steps[a, b] = steps[b, a] = 1
    for k in range(count):
        steps = np.minimum(steps, steps[:, [k]] + steps[[k]])
    return steps


def largest(count, is_together):
    """The size of the largest set that is fine in pairs, over all sets."""
    sets = itertools.chain.from_iterable(
        itertools.combinations(range(count), size) for size in range(count, 0, -1)
    )
    for vertices in sets:
        if all(is_together[a, b] for a, b in itertools.combinations(vertices, 2)):
            return len(vertices)


def packing_size(count, edges):
    return largest(count, steps_between(count, edges) >= 3)


def independent_size(count, edges):
    return largest(count, steps_between(count, edges) != 1)


def test_there_are_as_many_graphs_as_known():
    # Sequence A000088: graphs of 1 to 5 vertices without names.
    counts = np.bincount([count for count, _ in GRAPHS])[1:]
    assert counts.tolist() == [1, 2, 4, 11, 34]


@pytest.mark.parametrize("norm", [*METRICS, "l0"])
def test_every_small_graph_gives_its_packing(norm):
    rng = np.random.default_rng(0)
    epsilon = None if norm == "l0" else 0.3
    for count, edges in GRAPHS:
        if count < 3:
            continue
        names = rng.permutation(count)
        edges = rng.permuted(names[edges], axis=1)
        gadget = hardness_gadget(count, edges, norm=norm, epsilon=epsilon)
        found = optimal_robust_classifier(
            gadget.points,
            gadget.labels,
            norm=gadget.norm,
            epsilon=gadget.epsilon,
            reach="support",
        )
        size = packing_size(count, edges)
        assert found.is_optimal
        assert found.robust_error == pytest.approx(1 - size / count)
        # And back: what the classifier says of the points is the packing.
        predictions = found.classifier(gadget.points)
        is_packed = packing_of_predictions(count, edges, predictions)
        assert is_packed.sum() == size
        again = predictions_of_packing(count, edges, is_packed)
        assert packing_of_predictions(count, edges, again).sum() == size


def test_the_integer_program_packs_every_small_graph():
    for count, edges in GRAPHS:
        found = maximum_packing(count, edges)
        assert found.is_optimal
        assert found.weight == found.upper_bound == packing_size(count, edges)
        steps = steps_between(count, edges)[np.ix_(found.is_chosen, found.is_chosen)]
        assert (steps + 9 * np.eye(len(steps)) >= 3).all()


def test_every_small_graph_of_classifiers_is_judged_as_the_adversary_would():
    # All classifiers of all graphs of three vertices, by the definition of the error.
    for count, edges in GRAPHS:
        if count != 3:
            continue
        gadget = hardness_gadget(count, edges, norm="l2")
        distance = cdist(gadget.points, gadget.points)
        for predictions in itertools.product(range(3), repeat=3):
            expected = [
                all(predictions[j] == i for j in range(3) if distance[i, j] <= 1 + 1e-9)
                for i in range(3)
            ]
            found = packing_of_predictions(count, edges, np.array(predictions))
            assert found.tolist() == expected


def test_independent_sets_come_back_from_packings():
    for count, edges in GRAPHS:
        new_count, new_edges = packing_graph(count, edges)
        found = maximum_packing(new_count, new_edges)
        is_chosen = independent_set_of_packing(count, edges, found.is_chosen)
        assert found.is_optimal
        assert is_chosen.sum() == found.weight == independent_size(count, edges)
        # What is left out is the smallest vertex cover.
        assert not is_chosen[edges].all(axis=1).any()
        assert maximum_independent_set(edges, np.ones(count)).weight == found.weight


def test_a_packing_of_a_middle_stands_for_an_end_of_it():
    # The vertex without edges, and the middle of the second edge.
    edges = np.array([[0, 1], [1, 2]])
    chosen = independent_set_of_packing(4, edges, [0, 0, 0, 1, 0, 1])
    assert chosen.tolist() == [False, True, False, True]


def test_the_whole_way_from_a_vertex_cover_to_a_classifier():
    # A pentagon needs three vertices to touch all edges.
    edges = np.array([(i, (i + 1) % 5) for i in range(5)])
    new_count, new_edges = packing_graph(5, edges)
    gadget = hardness_gadget(new_count, new_edges)
    found = optimal_robust_classifier(
        gadget.points, gadget.labels, epsilon=gadget.epsilon, reach="support"
    )
    assert found.robust_error == pytest.approx(1 - 2 / 10)
    predictions = found.classifier(gadget.points)
    is_packed = packing_of_predictions(new_count, new_edges, predictions)
    is_cover = ~independent_set_of_packing(5, edges, is_packed)
    assert is_cover.sum() == 3 and is_cover[edges].any(axis=1).all()


@pytest.mark.parametrize(
    ("count", "edges", "size"),
    # LP-V5.
    [
        (4, [(0, 1), (1, 2), (2, 3)], 2),
        (3, [(0, 1), (1, 2), (0, 2)], 1),
        (4, [], 4),
    ],
)
def test_golden_graphs(count, edges, size):
    edges = np.array(edges, int).reshape(-1, 2)
    gadget = hardness_gadget(count, edges, norm="l2", epsilon=2.0)
    found = optimal_robust_classifier(
        gadget.points, gadget.labels, norm="l2", epsilon=2.0, reach="support"
    )
    assert found.is_robust.sum() == size
    assert found.robust_error == pytest.approx(1 - size / count)


@pytest.mark.parametrize("norm", METRICS)
@pytest.mark.parametrize("count", [3, 5, 9])
def test_distances_are_those_of_the_lemma(norm, count):
    rng = np.random.default_rng(count)
    first, second = np.triu_indices(count, 1)
    kept = rng.uniform(size=len(first)) < 0.5
    edges = np.stack([first[kept], second[kept]], axis=1)
    gadget = hardness_gadget(count, edges, norm=norm, epsilon=0.25)
    assert gadget.points.shape == (count, count * (count - 1) // 2)
    distance = cdist(gadget.points, gadget.points, METRICS[norm])[first, second]
    power = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    free = 2 * count - 4
    apart = 2.0 if norm == "linf" else ((free + 2**power) / free) ** (1 / power)
    np.testing.assert_allclose(distance[kept], 0.25, rtol=1e-12)
    np.testing.assert_allclose(distance[~kept], 0.25 * apart, rtol=1e-12)
    # In the whole space all balls meet, so only a constant classifier is left.
    found = optimal_robust_classifier(
        gadget.points, gadget.labels, norm=norm, epsilon=0.25
    )
    assert found.robust_error == pytest.approx(1 - 1 / count)


@pytest.mark.parametrize("count", [3, 5, 9])
def test_distances_are_those_of_the_remark_on_l0(count):
    rng = np.random.default_rng(count)
    first, second = np.triu_indices(count, 1)
    kept = rng.uniform(size=len(first)) < 0.5
    edges = np.stack([second[kept], first[kept]], axis=1)
    gadget = hardness_gadget(count, edges, norm="l0")
    assert gadget.points.shape == (count, len(first))
    distance = (gadget.points[first] != gadget.points[second]).sum(axis=1)
    assert gadget.epsilon == len(first) - 1
    assert np.all(distance == np.where(kept, gadget.epsilon, gadget.epsilon + 1))
    # In the whole space all balls meet here, too.
    found = optimal_robust_classifier(
        gadget.points, gadget.labels, norm="l0", epsilon=gadget.epsilon
    )
    assert found.robust_error == pytest.approx(1 - 1 / count)


def test_entries_are_those_of_the_remark_on_l0():
    # The points 0 and 2 have the smaller of 2 and 8 in the coordinate of theirs.
    points = hardness_gadget(3, np.array([[2, 0]]), norm="l0").points
    assert points.tolist() == [[1, 2, 3], [4, 5, 6], [7, 2, 9]]


def test_signs_are_those_of_the_lemma():
    # The coordinate of the pair (0, 1), which is no edge, and of (0, 2), which is one.
    points = hardness_gadget(3, np.array([[2, 0]]), norm="linf").points
    assert points.tolist() == [[-1, 1, 0], [1, 0, -1], [0, 1, 1]]


GRAPH = np.array([[0, 1], [1, 2]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hardness_gadget(3, [[1, 1]]), r"different vertices, got \(1, 1\)"),
        (lambda: hardness_gadget(3, [[0, 3]]), r"in \[0, 3\), got \(0, 3\)"),
        (lambda: hardness_gadget(3, [[0, -1]]), r"in \[0, 3\), got \(0, -1\)"),
        (
            lambda: hardness_gadget(3, [[0, 1], [1, 0]]),
            r"different pairs, .*, got \(0, 1\)",
        ),
        (lambda: hardness_gadget(3, [[0.5, 1]]), "must be of integers, got .float64"),
        (lambda: hardness_gadget(3, [0, 1]), r"shape \(edges, 2\), got .*\(2,\)"),
        (lambda: hardness_gadget(2, [[0, 1]]), "at least 3, got 2; add vertices"),
        (lambda: hardness_gadget(3, GRAPH, norm="l7"), "linf, l2, l1, l0, got 'l7'"),
        (
            lambda: hardness_gadget(3, GRAPH, norm="l0", epsilon=1.0),
            "`epsilon` must be 2 with norm l0 and 3 vertices, got 1.0; leave it out",
        ),
        (
            lambda: hardness_gadget(3, GRAPH, epsilon=0.0),
            r"must be in \(0, inf\), got 0\.0",
        ),
        (
            lambda: hardness_gadget(3, GRAPH, epsilon=np.inf),
            r"must be in \(0, inf\), got inf",
        ),
        (lambda: maximum_packing(0, []), "`num_vertices` must be at least 1, got 0"),
        (
            lambda: maximum_packing(3, GRAPH, time_limit=0),
            r"`time_limit` must be in \(0, inf\], got 0",
        ),
        (lambda: packing_graph(2, GRAPH), r"in \[0, 2\), got \(1, 2\)"),
        (
            lambda: predictions_of_packing(3, GRAPH, [1, 0, 1]),
            "disjoint, got 0 and 2, which meet at 1; leave one out",
        ),
        (lambda: predictions_of_packing(3, GRAPH, [1, 0]), r"\(3,\), got \(2,\)"),
        (lambda: packing_of_predictions(3, GRAPH, [0]), r"\(3,\), got \(1,\)"),
        (
            lambda: independent_set_of_packing(3, GRAPH, [1, 0, 0]),
            r"of shape \(5,\), got \(3,\)",
        ),
        # Two joined vertices, a middle and an end of it, and two middles.
        (
            lambda: independent_set_of_packing(2, [[0, 1]], [1, 1, 0]),
            "disjoint, got 0 and 1, which meet at 2; leave one out",
        ),
        (
            lambda: independent_set_of_packing(3, GRAPH, [1, 0, 0, 1, 0]),
            "disjoint, got 0 and 3, which meet at",
        ),
        (
            lambda: independent_set_of_packing(3, GRAPH, [0, 0, 0, 1, 1]),
            "disjoint, got 3 and 4, which meet at",
        ),
    ],
)
def test_what_is_no_graph_or_packing_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
