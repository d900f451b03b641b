"""MC-A1 against plain implementations, and against mixtures with a known answer."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.concentration import (
    Hyperrectangles,
    SortedPoints,
    Visit,
    cover,
    estimate_linf,
    hyperrectangles,
    search_quantile,
    sort_by_density,
    visit,
)
from jaxrobust.concentration.hyperrectangles import cluster
from jaxrobust.concentration.regions import Risks
from jaxrobust.data.points import Columns, unit_values


def plain_k_means(points, starts):
    """Facts MC-A1, step 3, as it is written there."""
    centers, labels, num_rounds, before = starts.astype(float), None, 0, None
    while num_rounds < 30:
        distances = np.abs(points[:, None] - centers).sum(axis=2)
        labels = distances.argmin(axis=1)
        for label in range(len(centers)):
            members = points[labels == label]
            centers[label] = members.mean(axis=0) if len(members) else np.inf
        num_rounds += 1
        if labels.sum() == before:
            break
        before = labels.sum()
    return labels, centers, num_rounds


@settings(max_examples=20)
@given(
    count=st.integers(1, 150),
    is_clustered=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_k_means_is_the_plain_one(count, is_clustered, seed):
    rng = np.random.default_rng(seed)
    points = rng.random((150, 6)).astype(np.float32)
    if is_clustered:
        points[:, 0] += rng.integers(0, 4, 150)
    # Two starts in one call; one of them has centers that nothing is nearest to.
    starts = rng.random((2, 4, 6)).astype(np.float32)
    starts[1, 2] = 50
    found = cluster(Columns.of(points, 64), count, starts)
    for index, start in enumerate(starts):
        labels, centers, num_rounds = plain_k_means(points[:count], start)
        np.testing.assert_array_equal(found.labels[index], labels)
        np.testing.assert_allclose(found.centers[index], centers, rtol=1e-5)
        assert found.num_rounds[index] == num_rounds
    assert np.isinf(found.centers[1, 2]).all()


def test_k_means_ends_after_thirty_rounds(monkeypatch):
    # A line of points, at whose end both centers begin.
    points = np.sort(np.random.default_rng(0).random((400, 1)), axis=0)
    points = points.astype(np.float32)
    starts = points[None, :2]
    _, _, num_rounds = plain_k_means(points, starts[0])
    found = cluster(Columns.of(points), 400, starts)
    assert found.num_rounds[0] == num_rounds > 5
    monkeypatch.setattr(hyperrectangles, "MAX_ROUNDS", 3)
    hyperrectangles._k_means.clear_cache()
    assert cluster(Columns.of(points), 400, starts).num_rounds[0] == 3
    hyperrectangles._k_means.clear_cache()


def cubes(size, seed):
    """Nine in ten points in three small cubes of half-width .02, the rest elsewhere.

    The rest is .2 away at least from the center of every cube, all around.
    """
    rng = np.random.default_rng(seed)
    centers = np.array([[0.2, 0.2, 0.2], [0.8, 0.2, 0.8], [0.5, 0.8, 0.5]])
    near = centers[rng.integers(0, 3, size)] + rng.uniform(-0.02, 0.02, (size, 3))
    far = rng.random((size, 3))
    gaps = np.abs(far[:, None] - centers).max(axis=2).min(axis=1)
    far = far[gaps > 0.2][: size // 10]
    points = np.concatenate([near[: size - len(far)], far])
    return rng.permutation(points).astype(np.float32)


TRAIN, TEST = cubes(2000, 0), cubes(1000, 1)


@pytest.fixture(scope="module")
def points():
    return sort_by_density(TRAIN, TEST, num_neighbors=10)


def test_points_are_sorted_by_density(points):
    distances = np.abs(TRAIN[:, None] - TRAIN).sum(axis=2)
    kth = np.sort(distances, axis=1)[:, 9]
    order = np.argsort(kth, kind="stable")
    np.testing.assert_allclose(
        np.sort(points.train, axis=0), np.sort(TRAIN, axis=0), rtol=0
    )
    found = np.abs(points.train[:, None] - TRAIN).sum(axis=2)
    np.testing.assert_allclose(np.sort(found, axis=1)[:, 9], kth[order], rtol=1e-5)
    assert points.test_columns.size == 1000


def test_rectangles_are_centered_at_means_and_hold_their_points(points):
    (found,) = cover(points, 0.9, 3, seed=0)
    dense = points.train[:1800]
    assert found.contains(dense).all() and len(found.centers) == 3
    nearest = np.abs(dense[:, None] - found.centers).sum(axis=2).argmin(axis=1)
    for label in range(3):
        members = dense[nearest == label].astype(float)
        np.testing.assert_allclose(
            found.centers[label], members.mean(axis=0), rtol=1e-5
        )
        widths = np.abs(members - members.mean(axis=0)).max(axis=0)
        np.testing.assert_allclose(found.half_widths[label], widths, atol=1e-6)


def test_restarts_differ_and_the_seed_decides_them(points):
    one = cover(points, 0.95, 3, seed=3, num_restarts=3)
    again = cover(points, 0.95, 3, seed=3, num_restarts=3)
    other = cover(points, 0.95, 3, seed=4)[0]
    for left, right in zip(one, again, strict=True):
        np.testing.assert_array_equal(left.centers, right.centers)
    centers = [each.centers.tobytes() for each in (*one, other)]
    assert len(set(centers)) == 4
    # A restart does not depend on how many there are.
    (alone,) = cover(points, 0.95, 3, seed=3)
    np.testing.assert_array_equal(alone.centers, one[0].centers)


def test_few_points_have_few_rectangles(points):
    (nothing,) = cover(points, 0.0, 3)
    assert nothing.centers.shape == (0, 3)
    (two,) = cover(points, 2 / 2000, 3)
    assert len(two.centers) <= 2 and not two.half_widths.any()


def test_the_known_answer_of_separated_cubes():
    # Three boxes cover nine tenths, and what is far stays far when they grow by .1: a
    # region of risk .1 does not grow at all.
    settings = {"epsilon": 0.1, "alpha": 0.09, "num_neighbors": 10}
    found = estimate_linf(TRAIN, TEST, num_rectangles=3, **settings)
    for split in ("train", "test"):
        # Some starts put two centers into one cube, most do not.
        risk, adversarial_risk = np.median(getattr(found, split), axis=0)
        assert risk == pytest.approx(0.1, abs=0.003)
        assert adversarial_risk == pytest.approx(0.1, abs=0.006)
    assert 0.8 < found.quantile <= 0.9
    # One box round two of the cubes holds most of what is far, so none leaves enough.
    with pytest.raises(ValueError, match="the largest found on the training points is"):
        estimate_linf(TRAIN, TEST, num_rectangles=1, **settings)
    # Among several, the best is taken.
    several = estimate_linf(TRAIN, TEST, num_rectangles=(1, 3), **settings)
    assert several.num_regions == 3 and several.quantile == found.quantile
    assert several.test == found.test and len(several.visits) == 16
    assert several.guarantee == found.guarantee
    more = estimate_linf(TRAIN, TEST, num_rectangles=(3, 4), **settings)
    assert more.num_regions == 3 and more.guarantee is not None
    assert more.guarantee.num_regions == 4


def test_the_search_halves_the_interval(points):
    alpha, epsilon = 0.05, 0.02
    visits = search_quantile(points, 3, epsilon=epsilon, alpha=alpha)
    lower, upper = 0.0, 1.0
    for each in visits:
        assert each.quantile == (lower + upper) / 2
        (rectangles,) = cover(points, each.quantile, 3)
        assert each.train == rectangles.risks(points.train, epsilon)
        assert each.test == rectangles.risks(TEST, epsilon)
        assert each.is_feasible == (each.train.risk >= alpha)
        if each.is_feasible:
            lower = each.quantile
        else:
            upper = each.quantile
    assert len(visits) == 8 and upper - lower <= 0.005
    assert {each.is_feasible for each in visits} == {True, False}


def test_the_rule_of_the_code_asks_for_the_risk_on_both_splits(points, monkeypatch):
    # Risks by quantile: the test risk is below alpha where the training risk is not.
    def risks(self, columns, epsilon):
        quantile = float(self.centers[0, 0])
        shift = 0.0 if columns is points.train_columns else 0.1
        risk = 1 - quantile - shift
        # The longer, the better on the training points; not so on the test points.
        adversarial = risk + (0.2 if shift == 0 else (quantile - 0.5) ** 2 + 0.3)
        return Risks(risk, adversarial)

    def fake_cover(points, quantile, number, *, num_restarts=1, **_):
        return [Hyperrectangles(np.full((1, 3), quantile), None)] * num_restarts

    monkeypatch.setattr(hyperrectangles, "cover", fake_cover)
    monkeypatch.setattr(Hyperrectangles, "risks", risks)
    options = {"epsilon": 0.1, "alpha": 0.2, "num_rectangles": 2}
    paper = estimate_linf(points, **options)
    code = estimate_linf(points, **options, rule="train and test")
    # The largest q that leaves a risk of .2, on the training points or on both.
    assert paper.quantile == pytest.approx(0.8, abs=0.005) and paper.quantile <= 0.8
    visited = [each for each in code.visits if each.quantile <= 0.7]
    best = min(visited, key=lambda each: each.test.adversarial_risk)
    assert code.quantile == best.quantile <= 0.7
    assert max(each.quantile for each in visited) == pytest.approx(0.7, abs=0.005)
    assert code.settings["rule"] == "train and test"
    assert code.num_feasible == paper.num_feasible == 10


FEW = {"epsilon": 0.1, "alpha": 0.09, "num_rectangles": 3}


def test_restarts_below_the_risk_are_reported_and_counted(points):
    # As in the paper: of other starts than the lucky one of the search.
    found = estimate_linf(points, **FEW)
    is_enough = [each.risk >= 0.09 for each in found.train]
    assert len(is_enough) == 10 and found.num_feasible == sum(is_enough) < 10
    assert found.as_row()["num_feasible"] == found.num_feasible
    assert found.as_row()["settings"]["feasible_only"] is False
    # The rule of the search is that of the restarts.
    both = estimate_linf(points, **FEW, rule="train and test")
    pairs = zip(both.train, both.test, strict=True)
    count = sum(min(train.risk, test.risk) >= 0.09 for train, test in pairs)
    assert both.num_feasible == count


def test_feasible_restarts_replace_the_others(points):
    # The first so many of all that have the risk, in their order.
    every = estimate_linf(points, **FEW, num_restarts=40)
    pairs = zip(every.regions, every.train, strict=True)
    expected = [region for region, risks in pairs if risks.risk >= 0.09][:10]
    found = estimate_linf(points, **FEW, feasible_only=True)
    assert found.num_feasible == len(found.regions) == len(found.train) == 10
    for region, other in zip(found.regions, expected, strict=True):
        np.testing.assert_array_equal(region.centers, other.centers)
    assert found.mean("train").risk >= 0.09
    assert min(each.risk for each in found.train) >= 0.09
    assert found.settings["feasible_only"] is True


@pytest.mark.parametrize("num_lucky", [0, 2])
def test_with_few_feasible_restarts_there_are_few(points, num_lucky, monkeypatch):
    made = []

    def unlucky(points, quantile, number, *, seed=0, num_restarts=1, first_restart=0):
        numbers = range(first_restart, first_restart + num_restarts)
        made.extend(seed * 100 + each for each in numbers)
        # The search finds the risk whatever q, and so do the last restarts.
        is_lucky = [seed == 0 or each >= 20 - num_lucky for each in numbers]
        return [
            Hyperrectangles(np.zeros((1, 3)), np.full((1, 3), 0.0 if lucky else 9.0))
            for lucky in is_lucky
        ]

    monkeypatch.setattr(hyperrectangles, "cover", unlucky)
    found = estimate_linf(points, **FEW, num_restarts=5, feasible_only=True)
    # Four times as many as wanted, and then what the search itself had found.
    assert made[8:28] == list(range(100, 120)) and made[28:] == [0] * (not num_lucky)
    assert found.num_feasible == len(found.train) == max(num_lucky, 1)
    assert found.train[0].risk >= 0.09
    default = estimate_linf(points, **FEW, num_restarts=5)
    assert default.num_feasible == 0 and len(default.train) == 5


def test_means_and_deviations_are_those_of_the_restarts(points):
    found = estimate_linf(points, epsilon=0.1, alpha=0.09, num_rectangles=3)
    assert len(found.train) == len(found.test) == len(found.regions) == 10
    risks = [each.risks(TEST, 0.1) for each in found.regions]
    assert tuple(risks) == found.test
    values = np.array(risks)
    assert values[:, 1].std() > 0
    np.testing.assert_allclose(found.mean("test"), values.mean(axis=0))
    np.testing.assert_allclose(found.sd("test"), values.std(axis=0, ddof=0))
    row = json.loads(json.dumps(found.as_row()))
    assert row["test"]["mean"]["adversarial_risk"] == found.mean("test")[1]
    assert row["train"]["sd"]["risk"] == found.sd("train")[0]
    assert len(row["test"]["restarts"]) == 10
    assert row["quantile"] == found.quantile and row["num_regions"] == 3
    assert row["guarantee"]["is_vacuous"] and row["guarantee"]["min_samples"] == 81
    assert np.mean(~found.regions[0].contains(TEST, 0.1)) == found.test[0].risk


@pytest.mark.parametrize("rule", ["train", "train and test"])
@pytest.mark.parametrize("size", [7, 10, 30, 49, 1000])
def test_a_risk_of_exactly_alpha_is_enough(size, rule):
    images = np.zeros((size, 2), np.uint8)
    box = Hyperrectangles(np.zeros((1, 2)), np.zeros((1, 2)))
    about = {"quantile": 0.5, "num_rectangles": 1, "rule": rule}
    for number in range(1, size, max(1, size // 20)):
        images[-number:] = 255
        points = SortedPoints(images, Columns.of(images), Columns.of(images))
        alpha = number / size
        found = visit(points, box, 0.0, alpha, **about)
        assert found.train == found.test == (alpha, alpha)
        assert found.is_feasible
        # A share that was reached by another way, such as 1 - .9.
        assert visit(points, box, 0.0, 1 - (size - number) / size, **about).is_feasible
        assert not visit(points, box, 0.0, alpha + 0.5 / size, **about).is_feasible


def test_labels_bytes_and_shapes_do_not_matter():
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (90, 4, 4, 1)).astype(np.uint8)
    settings = {"epsilon": 0.3, "alpha": 0.1, "num_rectangles": 2, "num_restarts": 1}
    one = estimate_linf(images[:60], images[60:], **settings)
    floats = unit_values(images)
    other = estimate_linf(floats[:60], floats[60:].reshape(30, 16), **settings)
    assert one.as_row() == other.as_row()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0.0}, r"`alpha` must be in \(0, 1\), got 0.0; .*0.05 for 5 %"),
        ({"alpha": 1.0}, "got 1.0"),
        ({"epsilon": -0.1}, r"`epsilon` must be in \[0, inf\), got -0.1"),
        ({"epsilon": float("nan")}, "got nan"),
        ({"num_rectangles": 0}, "`num_rectangles` must be at least 1, got 0"),
        ({"num_rectangles": ()}, r"got \(\)"),
        ({"num_rectangles": (3, 2001)}, r"must be in \[1, 2000\], got 2001"),
        ({"num_restarts": 0}, "`num_restarts` must be at least 1"),
        ({"num_neighbors": 2001}, r"`num_neighbors` must be in \[1, 2000\], got 2001"),
        ({"rule": "test"}, "`rule` must be one of train, train and test, got 'test'"),
        ({"test": None}, "`test` must hold the test images"),
        ({"test": TEST[:, :2]}, r"of shape \(images, 3\), got \(\d+, 2\)"),
    ],
)
def test_what_cannot_be_estimated_is_refused(changes, message):
    arguments = {"train": TRAIN, "test": TEST, "epsilon": 0.6, "alpha": 0.1}
    arguments |= {"num_neighbors": 10, "num_restarts": 1} | changes
    # Before the search, which may take an hour.
    arguments["progress"] = lambda *_: pytest.fail("searched first")
    with pytest.raises(ValueError, match=message):
        estimate_linf(**arguments)


def test_a_risk_that_nothing_leaves_is_refused(points):
    message = "`alpha` must be a risk that some rectangles leave, got 0.99"
    with pytest.raises(ValueError, match=message):
        estimate_linf(points, epsilon=0.1, alpha=0.99, num_rectangles=3)


def test_a_visit_says_all_about_itself(points):
    first = search_quantile(points, 3, epsilon=0.0, alpha=0.2)[0]
    assert isinstance(first, Visit) and first.num_regions == 3
    # Without expansion both risks are one.
    assert first.train.risk == first.train.adversarial_risk
