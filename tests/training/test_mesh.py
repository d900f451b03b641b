"""Meshes of simulated devices against one device, and what their programs send."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrobust.training import MeshConfig, Placement


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    script = Path(__file__).with_name("on_devices.py")
    root = script.parents[2]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path_factory.mktemp("mesh"))],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_any_mesh_trains_the_weights_of_one_device(found):
    assert found["moved"] > 0.1
    assert {"linear 2x1", "linear 4x2", "linear 1x8", "resnet 2x4"} <= set(
        found["differences"]
    )
    # Members that are only placed elsewhere are the same to the bit.
    assert found["differences"].pop("linear 2x1") == 0
    for name, difference in found["differences"].items():
        assert difference < 1e-5, name


def test_any_mesh_measures_held_out_images_as_one_device(found):
    measured = found["measured"]
    assert len(measured) == 6 and found["measured on 4x2"] == measured
    assert any(robust < clean for clean, robust in measured)


def test_members_under_pmap_have_the_same_weights(found):
    assert found["differences"]["linear pmap"] < 1e-5
    assert found["differences"]["resnet pmap"] < 1e-5


def test_members_do_not_communicate(found):
    assert found["collectives"]["members alone"] == []


def test_sharing_batches_needs_the_mean_of_gradients_and_the_sums_alone(found):
    kinds, scopes = zip(*found["collectives"]["both"], strict=True)
    assert set(kinds) == {"all-reduce"} and len(scopes) == 2
    assert any("transpose" in scope for scope in scopes)


def test_batch_norm_adds_its_statistics_and_nothing_else(found):
    kinds, scopes = zip(*found["collectives"]["batch norm"], strict=True)
    assert set(kinds) == {"all-reduce"}
    # Each layer forwards, and backwards together with gradients or alone; and the sums.
    assert sum("norm" in scope for scope in scopes) == len(scopes) - 1
    # In the loops of members and of batches, not in the attack's, which repeats the
    # forward pass.
    assert {scope.count("while/body") for scope in scopes} == {2}


@given(st.integers(1, 40), st.integers(1, 16))
def test_a_batch_that_does_not_divide_is_refused_with_those_that_would(size, data):
    mesh = MeshConfig(data=data)
    if size % data == 0:
        mesh.check_batch_size(size)
        return
    with pytest.raises(ValueError, match=rf"divisible by the {data} devices") as error:
        mesh.check_batch_size(size)
    named = [
        int(word) for word in str(error.value).split("; use ")[1][:-1].split(" or ")
    ]
    assert all(each % data == 0 and abs(each - size) < data for each in named)


def test_a_mesh_larger_than_the_machine_is_refused():
    with pytest.raises(ValueError, match=r"at most as many .*\(1\), got 4 x 2"):
        Placement(MeshConfig(member=4, data=2))


def test_several_processes_leave_no_device_idle():
    mesh = MeshConfig(member=2)
    mesh.check_devices(4)
    with pytest.raises(ValueError, match=r"exactly .*use one of 1 x 4, 2 x 2, 4 x 1"):
        mesh.check_devices(4, is_exact=True)


@pytest.mark.parametrize("name", ["member", "data"])
def test_an_axis_has_at_least_one_device(name):
    with pytest.raises(ValueError, match=rf"`mesh.{name}` must be at least 1, got 0"):
        MeshConfig(**{name: 0})
