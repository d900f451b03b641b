"""Meshes of simulated devices against one device, and what their programs send."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import SingleDeviceSharding

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


@pytest.mark.slow
def test_any_mesh_trains_the_weights_of_one_device(found):
    assert found["moved"] > 0.1
    assert {"linear 2x1", "linear 4x2", "linear 1x8", "resnet 2x4"} <= set(
        found["differences"]
    )
    # Members that are only placed elsewhere are the same to the bit.
    assert found["differences"].pop("linear 2x1") == 0
    for name, difference in found["differences"].items():
        assert difference < 1e-5, name


@pytest.mark.slow
def test_any_mesh_measures_held_out_images_as_one_device(found):
    measured = found["measured"]
    assert len(measured) == 6 and found["measured on 4x2"] == measured
    assert any(robust < clean for clean, robust in measured)


@pytest.mark.slow
def test_members_under_pmap_have_the_same_weights(found):
    assert found["differences"]["linear pmap"] < 1e-5
    assert found["differences"]["resnet pmap"] < 1e-5


@pytest.mark.slow
def test_members_do_not_communicate(found):
    assert found["collectives"]["members alone"] == []


@pytest.mark.slow
def test_each_device_gathers_and_augments_its_own_rows_alone(found):
    # Of 16 images on four devices; nowhere all of them.
    assert 4 in found["batch sizes"] and 16 not in found["batch sizes"]


@pytest.mark.slow
def test_sharing_batches_needs_the_mean_of_gradients_and_the_sums_alone(found):
    kinds, scopes = zip(*found["collectives"]["both"], strict=True)
    assert set(kinds) == {"all-reduce"} and len(scopes) == 2
    assert any("transpose" in scope for scope in scopes)


@pytest.mark.slow
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


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device as a topology of several slices describes it."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "chip"


CHIPS = [Chip(number, slice_index=number // 4) for number in range(8)]


@pytest.mark.parametrize("member, data", [(2, 4), (4, 2), (8, 1)])
def test_members_go_across_slices_and_batches_stay_inside(member, data):
    mesh = Placement(MeshConfig(member=member, data=data), CHIPS).mesh
    assert dict(mesh.shape) == {"member": member, "data": data}
    slices = [{chip.slice_index for chip in row} for row in mesh.devices]
    half = member // 2
    assert slices == [{0}] * half + [{1}] * half
    assert sorted(chip.id for chip in mesh.devices.flat) == list(range(8))


def test_a_batch_is_divided_among_slices_where_members_are_too_few():
    mesh = Placement(MeshConfig(data=8), CHIPS).mesh
    assert [chip.slice_index for chip in mesh.devices[0]] == [0] * 4 + [1] * 4


@pytest.mark.parametrize("member, data", [(2, 3), (3, 2), (1, 5), (7, 1)])
def test_a_mesh_that_slices_do_not_divide_is_refused(member, data):
    with pytest.raises(ValueError, match=rf"2 equal parts.*got {member} x {data}"):
        Placement(MeshConfig(member=member, data=data), CHIPS)


def test_the_first_devices_of_those_given_are_used():
    mesh = Placement(MeshConfig(member=2, data=2), CHIPS).mesh
    assert [chip.id for chip in mesh.devices.flat] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"at most as many .*\(8\), got 4 x 4"):
        Placement(MeshConfig(member=4, data=4), CHIPS)


def test_a_device_that_was_given_holds_the_arrays():
    (device,) = jax.devices()[:1]
    placement = Placement(devices=[device])
    sharding = placement.sharding(is_member_axis=True)
    assert sharding == SingleDeviceSharding(device) and placement.platform == "cpu"
    assert placement.put(np.ones(3), is_member_axis=True).sharding == sharding
    assert Placement().sharding(is_member_axis=True) is None


@pytest.mark.parametrize("name", ["member", "data"])
def test_an_axis_has_at_least_one_device(name):
    with pytest.raises(ValueError, match=rf"`mesh.{name}` must be at least 1, got 0"):
        MeshConfig(**{name: 0})
