import dataclasses

import pytest

from jaxrobust.launching import Definition, Kubernetes, Slurm, Tpu
from jaxrobust.training import MeshConfig

JOB = Definition(
    name="job",
    experiment="large_perturbations/sweep",
    preset="smoke",
    workdir="runs/job",
    hosts=2,
    devices_per_host=4,
    mesh=MeshConfig(member=4, data=2),
)
KUBERNETES = Kubernetes(image="image", volume_claim="claim")
TPU = Tpu(zone="z", accelerator_type="v4-16", version="v", checkout="/code")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Job"}, "`name` must be lower-case letters"),
        ({"name": "j" * 41}, "`name` must be lower-case letters"),
        ({"name": "job-"}, "`name` must be lower-case letters"),
        ({"experiment": "sweep"}, "`experiment` must be PAPER/ITEM, got 'sweep'"),
        ({"experiment": "a/b; rm"}, "`experiment` must be PAPER/ITEM"),
        ({"hosts": 0}, "`hosts` must be at least 1, got 0"),
        ({"parts": 0}, "`parts` must be at least 1"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"max_restarts": -1}, "`max_restarts` must be at least 0"),
        ({"environment": {"A B": "1"}}, "`environment` must be names of letters"),
        ({"environment": {"A": "1\n2"}}, "`environment.A` must be one line"),
        ({"workdir": "a\nb"}, "`workdir` must be one line of printable characters"),
        ({"slurm": Slurm(partition="a\n#SBATCH -x")}, "`slurm.partition` must be one"),
        ({"start_from": ("a\tb",)}, "`start_from` must be one line"),
        ({"workdir": "gs://bucket/runs"}, "`workdir` must be a directory, got 'gs:"),
        ({"slurm": Slurm(hosts_per_node=3)}, r"a divisor of `hosts` \(2\), got 3"),
        ({"slurm": Slurm(hosts_per_node=2)}, "must be 1 if a process has several"),
        ({"slurm": Slurm(stop_seconds=0)}, "`slurm.stop_seconds` must be at least 1"),
        ({"batch_size_per_host": 0}, "`batch_size_per_host` must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(JOB, **changes)


def test_a_mesh_that_does_not_fit_is_refused_with_those_that_do():
    message = r"exactly .* \(8\), got 3 x 2 .*use one of 1 x 8, 2 x 4, 4 x 2, 8 x 1"
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(JOB, mesh=MeshConfig(member=3, data=2))


def test_a_batch_that_cannot_be_split_is_refused_with_sizes_that_can():
    mesh = MeshConfig(member=1, data=8)
    with pytest.raises(ValueError, match=r"by the 8 devices .*got 20; use 16 or 24\."):
        dataclasses.replace(JOB, mesh=mesh, batch_size_per_host=10)
    with pytest.raises(ValueError, match=r"got 2; use 8\."):
        dataclasses.replace(JOB, mesh=mesh, batch_size_per_host=1)
    job = dataclasses.replace(JOB, mesh=mesh, batch_size_per_host=12)
    assert job.batch_size == 24


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        ("cloud", {}, "`target` must be one of local, slurm, kubernetes, tpu"),
        ("kubernetes", {}, "`kubernetes` must be set in the definition 'job'"),
        ("tpu", {}, "`tpu` must be set in the definition 'job'"),
        ("local", {}, "`hosts` must be 1 on one machine unless devices are simulated"),
        (
            "slurm",
            {"workdir": "a\\b"},
            "`workdir` must be without a backslash on slurm",
        ),
        (
            "kubernetes",
            {"kubernetes": KUBERNETES, "workdir": "/tmp/job"},
            "`workdir` must be below the volume at /data on kubernetes",
        ),
        (
            "kubernetes",
            {"kubernetes": KUBERNETES, "workdir": "../job"},
            "`workdir` must be below the volume",
        ),
        (
            "kubernetes",
            {"kubernetes": KUBERNETES, "start_from": ("/base",)},
            "`start_from` must be below the volume",
        ),
    ],
)
def test_a_target_that_does_not_fit_is_refused(target, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(JOB, **changes).check_target(target)


def test_a_target_that_fits_is_taken():
    job = dataclasses.replace(JOB, kubernetes=KUBERNETES, tpu=TPU)
    for target in ("slurm", "kubernetes", "tpu"):
        job.check_target(target)
    dataclasses.replace(JOB, simulate_devices=True).check_target("local")
