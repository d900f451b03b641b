"""Experiments on the distribution of the input: what they train, what is printed."""

import numpy as np
import pytest

from experiments.input_distribution import claims, figure4, table1, table3
from experiments.input_distribution.cases import Case, UnboundedLinf
from experiments.input_distribution.comparing import shown
from experiments.input_distribution.families import cifar_paper, mnist, mnist_paper
from experiments.input_distribution.figure5 import correlation_note
from experiments.input_distribution.figure6 import FreeL2, scale_of, spheres
from experiments.input_distribution.published import (
    TABLE2,
    TABLE3,
    TABLE4,
    TABLE5,
    TABLE7,
    WIDTHS4,
    WIDTHS5,
)
from experiments.input_distribution.variants import CIFAR, MNIST
from experiments.workspace import Workspace
from jaxrobust.training import NullReporter


def test_tables_of_the_paper_agree_with_each_other():
    one, four = WIDTHS4.index(1), WIDTHS5.index(4)
    for variant in MNIST:
        standard, clean, robust, _ = TABLE2[variant]
        assert TABLE4["standard"][variant][1][one] == standard
        assert TABLE4["clean"][variant][1][one] == clean
        assert TABLE4["robust"][variant][1][one] == robust
    for variant in CIFAR:
        standard, clean, robust, _ = TABLE3[variant]
        assert TABLE5["standard"][variant][1][four] == standard
        assert TABLE5["clean"][variant][1][four] == clean
        assert TABLE5["robust"][variant][1][four] == robust
    for variant, (bounded, _) in TABLE7.items():
        assert bounded == (TABLE2 | TABLE3)[variant][2]


@pytest.mark.parametrize("size", figure4.SIZES[:-1])
def test_models_of_fewer_images_have_as_many_steps(size):
    family = mnist()

    def steps(case, count):
        phases = family.recipe_of(case, *family.robust).phases
        return sum(phase.epochs for phase in phases) * (count // family.batch_size)

    full = steps(Case(), 60_000)
    assert steps(Case(train_size=size), size) == pytest.approx(full, rel=0.05)


def test_presets_of_the_paper_take_its_numbers_of_steps():
    (phase,) = mnist_paper().robust
    assert phase.epochs * (60_000 // 50) == pytest.approx(100_000, rel=0.01)
    assert phase.objective.attack.num_steps_at(0.3) == 40
    (phase,) = cifar_paper().robust
    assert phase.epochs * (50_000 // 128) == pytest.approx(80_000, rel=0.01)
    first, second = phase.optimizer.milestones
    assert first * 390 == pytest.approx(40_000, rel=0.01)
    assert second * 390 == pytest.approx(60_000, rel=0.01)


def test_an_attack_without_the_box_leaves_it():
    inside, outside = np.zeros((1, 2, 2, 1), np.float32), -0.2
    threat = UnboundedLinf(0.3)
    moved = np.asarray(threat.project(inside + outside, inside))
    np.testing.assert_allclose(moved, outside)
    assert np.all(np.asarray(FreeL2(1.0).project(inside + outside, inside)) < 0)


def test_spheres_have_their_radii_in_the_middle_of_the_pixel_range():
    data = spheres(50, 0.3, 200, 0)
    away = (data.images.reshape(200, 50).astype(np.float64) - 0.5) / scale_of(0.3)
    radii = np.linalg.norm(away, axis=1)
    np.testing.assert_allclose(radii, 1 + 0.3 * data.labels, rtol=1e-5)
    assert data.images.min() >= 0 and data.images.max() <= 1


def test_means_and_deviations_are_those_of_numpy():
    shares = [0.9, 0.92, 0.97]
    text = shown([{"share": share} for share in shares], "share")
    assert text == f"{100 * np.mean(shares):.1f} ± {100 * np.std(shares, ddof=1):.1f} %"


def test_a_perfect_order_has_a_rank_correlation_of_one():
    rows = [{"distance": x, "robust_accuracy": x**3} for x in np.arange(1.0, 10)]
    assert "9 variants: 1.00, 95 % bootstrap interval 1.00 to 1.00" in (
        correlation_note(rows)
    )
    assert "too few" in correlation_note(rows[:3])


@pytest.mark.slow
def test_levels_that_train_together_are_what_they_are_alone(tmp_path):
    import dataclasses

    together = table3.PRESETS["smoke"]
    alone = dataclasses.replace(together, is_together=False)
    rows = []
    for name, config in (("together", together), ("alone", alone)):
        workspace = Workspace(tmp_path / name, reporter=NullReporter)
        rows.append(config.rows(config.cases, workspace))
    for one, other in zip(*rows, strict=True):
        for field in ("standard_accuracy", "clean_accuracy", "robust_accuracy"):
            # Steps that make the variant themselves round otherwise.
            assert one[field] == pytest.approx(other[field], abs=0.03)
        assert one["training_loss"] == pytest.approx(other["training_loss"], rel=1e-3)


@pytest.mark.slow
def test_scaled_images_are_as_far_apart_as_smoothed_ones(tmp_path):
    from jaxrobust.data import apply_variant, load_arrays
    from jaxrobust.data.statistics import inter_class_distance

    workspace = Workspace(tmp_path, reporter=NullReporter)
    (row,) = table1.run(table1.PRESETS["smoke"], workspace)["rows"]
    test = load_arrays("digits", "test")
    for model in row["models"]:
        changed = apply_variant(test, model["variant"])
        found = inter_class_distance(changed).value
        assert found == pytest.approx(row["distance"], rel=2e-3)


class TestClaims:
    """The paper's own numbers as results: a rule that its numbers break is wrong."""

    @staticmethod
    def table2(variants=MNIST):
        rows = []
        for variant in variants:
            standard, clean, robust, _ = TABLE2[variant]
            outside = TABLE7[variant][1] if variant in TABLE7 else robust
            shares = {
                "standard_accuracy": standard / 100,
                "clean_accuracy": clean / 100,
                "robust_accuracy": robust / 100,
                "robust_without_box": outside / 100,
                "width": 1,
            }
            rows.append({"variant": variant, "models": [shares]})
        return rows

    @staticmethod
    def table4(columns):
        return [
            {
                "variant": variant,
                "width": WIDTHS4[column],
                "standard_train_accuracy": TABLE4["standard"][variant][0][column] / 100,
                "robust_accuracy": TABLE4["robust"][variant][1][column] / 100,
            }
            for variant in MNIST
            for column in columns
        ]

    def test_those_of_table_2_hold(self):
        rows = self.table2()
        assert claims.flat(rows).verdict == "held"
        assert claims.box(rows).verdict == "held"
        found = claims.pairs(rows)
        assert len(found) == 8 and {each.verdict for each in found} == {"held"}

    def test_they_do_not_hold_the_other_way_round(self):
        rows = self.table2()
        for row in rows:
            (model,) = row["models"]
            model["robust_accuracy"] = 1.8 - model["robust_accuracy"]
            model["standard_accuracy"] = model["robust_accuracy"]
        assert claims.flat(rows).verdict == "not held"
        assert {each.verdict for each in claims.pairs(rows)} == {"not held"}

    def test_numbers_nearer_than_seeds_decide_nothing(self):
        rows = self.table2(MNIST[:2])
        for row, gap in zip(rows, (0.0, 0.05), strict=True):
            (model,) = row["models"]
            row["models"] = [
                model | {"robust_accuracy": model["robust_accuracy"] + each}
                for each in (-gap, 0, gap)
            ]
        (found,) = claims.pairs(rows)
        assert found.verdict == "not decided"

    def test_those_of_widths_are_what_table_4_says(self):
        fits, rises, levels = claims.widths(self.table4(range(3)))
        assert (fits.verdict, rises.verdict) == ("held", "held")
        assert levels.verdict == "not decided"
        fits, rises, levels = claims.widths(self.table4(range(6)))
        # Table 4 itself: smooth 7 and 8 still gain at twice the width.
        assert levels.verdict == "not held" and "smooth 8" in levels.here

    def test_those_of_levels_are_what_table_3_says(self):
        rows = [
            {
                "variant": variant,
                "models": [
                    {
                        "clean_accuracy": TABLE3[variant][1] / 100,
                        "robust_accuracy": TABLE3[variant][2] / 100,
                    }
                ],
            }
            for variant in CIFAR
        ]
        rises, meets, early = claims.saturated(rows)
        # 79.9 at 128, 79.7 at 256: the paper's curve is not quite rising.
        assert (rises.verdict, meets.verdict, early.verdict) == (
            *("not held", "held", "held"),
        )

    def test_missing_models_decide_nothing(self):
        found = [
            *claims.saturated([]),
            *claims.widths([]),
            *claims.sizes([]),
            *claims.edges([]),
            claims.predicts([]),
            claims.saturation_apart([]),
        ]
        assert {each.verdict for each in found} == {"not decided"}

    def test_those_of_sizes(self):
        rows = [
            {"variant": variant, "train_size": size, "robust_accuracy": share}
            for variant, shares in (
                ("binary", (0.9, 0.95, 0.955)),
                ("original", (0.5, 0.85, 0.9)),
            )
            for size, share in zip((1000, 27_000, None), shares, strict=True)
        ]
        plateau, fewer = claims.sizes(rows)
        assert (plateau.verdict, fewer.verdict) == ("not held", "held")
        assert fewer.here == "5.5, 40.0 points"

    def test_those_of_distances(self):
        apart = dict(
            zip(MNIST, (8.6, 7.3, 7.1, 6.6, 6.4, 6.1, 6, 5.9, 5.8), strict=True)
        )
        falls, furthest, nearer = claims.distances(apart)
        assert (falls.verdict, furthest.verdict, nearer.verdict) == (
            *("held", "held", "not held"),
        )
