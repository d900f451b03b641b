"""Warm starts for noise: models differ in deviations alone, tables say what is."""

import dataclasses

import numpy as np
import pytest

from experiments.certified import noise
from experiments.workspace import Workspace
from jaxrobust.training import NullReporter
from jaxrobust.training.recipe.objectives import Gaussian


@pytest.mark.parametrize("preset", noise.PRESETS)
def test_models_differ_in_the_deviations_of_their_phases_alone(preset, tmp_path):
    config = noise.PRESETS[preset]
    workspace = Workspace(tmp_path, reporter=NullReporter)
    recipes = [config.recipe_of(each, 7, workspace) for each in config.sigmas]

    def without(recipe):
        phases = [
            dataclasses.replace(phase, objective=Gaussian()) for phase in recipe.phases
        ]
        return dataclasses.replace(recipe, phases=tuple(phases))

    assert all(without(each) == without(recipes[0]) for each in recipes)
    found = [[phase.objective.sigma for phase in each.phases] for each in recipes]
    assert found == [list(each) for each in config.sigmas]
    assert len({tuple(each) for each in found}) == len(found)
    # Each chain has one from scratch that ends where it does, and grows.
    ends = {each[-1] for each in found if len(set(each)) == 1}
    assert {each[-1] for each in found} == ends
    assert all(each == sorted(each) for each in found)
    assert [each.carry for each in recipes[0].phases] == [
        *("weights", "optimizer", "optimizer")
    ]


def made_up(sigmas, radii):
    """A row of two seeds with these certified radii."""
    models = [
        {
            "certified_accuracy": {
                f"{radius:g}": float(np.mean(np.array(each) > radius))
                for radius in noise.RADII
            },
            "average_certified_radius": float(np.mean(each)),
            "radii": each,
        }
        for each in radii
    ]
    return {"model": noise._title(sigmas), "models": models}


def test_the_table_has_means_and_deviations_of_the_seeds():
    rows = [
        made_up((1.0, 1.0), [[0.0, 0.3, 0.6, 1.1], [0.0, 0.0, 0.6, 1.4]]),
        made_up((0.5, 1.0), [[2.6, 0.3, 0.6, 1.1], [0.0, 0.0, 0.0, 0.0]]),
    ]
    header, first, second = noise.results_table({"rows": rows})
    # Means .5 and .5; .75 and .5 at 0, .5 and .25 at .75, .25 and .25 at 1.
    named = dict(zip(header, first, strict=True))
    assert named["deviation"] == "1 from scratch"
    assert named["ACR"] == "0.500 ± 0.000"
    assert named["r = 0"] == "62.5 ± 17.7" and named["r = 1"] == "25.0 ± 0.0"
    named = dict(zip(header, second, strict=True))
    assert named["deviation"] == "0.5 → 1"
    assert named["r = 2.5"] == "12.5 ± 17.7"


@pytest.mark.slow
def test_rows_are_known_again_and_certificates_lie_below_their_limit(tmp_path):
    config = dataclasses.replace(noise.PRESETS["smoke"], num_seeds=1)
    config = dataclasses.replace(config, sigmas=config.sigmas[:1])
    workspace = Workspace(tmp_path, reporter=NullReporter)
    (row,) = noise.run(config, workspace)["rows"]
    again = Workspace(tmp_path, reporter=NullReporter, is_shown_only=True)
    assert noise.run(config, again)["rows"] == [row]
    (model,) = row["models"]
    assert model["num_images"] == config.test_size == len(model["radii"])
    # All of 100 draws, a bound of .001^(1/100), and the deviation of the end.
    assert 0 <= max(model["radii"]) <= 0.5 * 1.502
    other = dataclasses.replace(config, learning_rate=0.1)
    with pytest.raises(ValueError, match="`--shown-only` must be left out until"):
        noise.run(other, again)
