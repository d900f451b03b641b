import dataclasses

import pytest

from jaxrobust.launching import (
    DataDisk,
    Definition,
    Kubernetes,
    Slurm,
    Tpu,
    experiment,
)
from jaxrobust.training import MeshConfig

JOB = Definition(
    name="job",
    command=experiment("large_perturbations/sweep", preset="smoke"),
    workdir="runs/job",
    hosts=2,
    devices_per_host=4,
    mesh=MeshConfig(member=4, data=2),
)
KUBERNETES = Kubernetes(image="image", volume_claim="claim")
SLICE = {"zone": "z", "accelerator_type": "v4-16", "version": "v", "checkout": "/c/x"}
TPU = Tpu(**SLICE, startup_script="start.sh")
DISK = DataDisk(source="projects/p/zones/z/disks/d", mount_path="/c")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Job"}, "`name` must be lower-case letters"),
        ({"name": "j" * 41}, "`name` must be lower-case letters"),
        ({"name": "job-"}, "`name` must be lower-case letters"),
        (
            {"command": "jaxrobust train"},
            "`command` must be a tuple of words, got",
        ),
        ({"command": ["jaxrobust"]}, "`command` must be a tuple of words, got"),
        ({"command": ()}, r"`command` must be a program to run, got \(\)"),
        ({"command": ("", "x")}, "`command` must be a program to run"),
        ({"command": ("a\nb",)}, "`command` must be one line of printable"),
        (
            {"command": ("a", "--to={work_dir}")},
            r"placeholders are among .*, got '\{work_dir\}'; did you mean \{workdir\}",
        ),
        ({"command": ("a", "{workdir}")}, "`mesh` must be left out where no word"),
        ({"start_from": "runs/base"}, "`start_from` must be a tuple of words"),
        ({"hosts": 0}, "`hosts` must be at least 1, got 0"),
        ({"parts": 0}, "`parts` must be at least 1"),
        ({"max_restarts": -1}, "`max_restarts` must be at least 0"),
        ({"environment": {"A B": "1"}}, "`environment` must be names of letters"),
        ({"environment": {"A": "1\n2"}}, "`environment.A` must be one line"),
        ({"xla_flags": ("xla_a",)}, "`xla_flags` must be flags --xla_NAME=VALUE, got"),
        ({"xla_flags": ("--xla_a=1 2",)}, "`xla_flags` must be flags --xla_NAME=VAL"),
        (
            {"is_deterministic": True, "environment": {"XLA_FLAGS": "--xla_a=1"}},
            "`environment` must be without XLA_FLAGS where `xla_flags` or `is_det",
        ),
        ({"workdir": "a\nb"}, "`workdir` must be one line of printable characters"),
        ({"slurm": Slurm(partition="a\n#SBATCH -x")}, "`slurm.partition` must be one"),
        ({"start_from": ("a\tb",)}, "`start_from` must be one line"),
        ({"workdir": "gs://bucket/runs"}, "`workdir` must be a directory, got 'gs:"),
        ({"slurm": Slurm(hosts_per_node=3)}, r"a divisor of `hosts` \(2\), got 3"),
        ({"slurm": Slurm(hosts_per_node=2)}, "must be 1 if a process has several"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(JOB, **changes)


def test_a_mesh_that_does_not_fit_is_refused_with_those_that_do():
    message = r"exactly .* \(8\), got 3 x 2 .*use one of 1 x 8, 2 x 4, 4 x 2, 8 x 1"
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(JOB, mesh=MeshConfig(member=3, data=2))


def test_without_a_mesh_all_devices_share_each_batch():
    job = dataclasses.replace(JOB, mesh=None)
    assert job.full_mesh == MeshConfig(member=1, data=8)
    assert job.words("w")[-4:] == ["--mesh.member", "1", "--mesh.data", "8"]


def test_only_placeholders_are_filled_in():
    words = (
        "{workdir}/a",
        "--n={hosts}",
        "{{workdir}}",
        '{"a": {"b": 1}}',
        "{}",
        "{A}",
    )
    job = dataclasses.replace(JOB, command=words, mesh=None, parts=3)
    filled = ["/w/a", "--n=2", "{workdir}", '{"a": {"b": 1}}', "{}", "{A}"]
    assert job.words("/w") == filled
    assert job.words("/w", 1) == [*filled, "--part", "1/3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"item": "sweep"}, "`experiment` must be PAPER/ITEM, got 'sweep'"),
        ({"item": "a/b; rm"}, "`experiment` must be PAPER/ITEM"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
    ],
)
def test_an_experiment_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        experiment(**{"item": "paper/item", "preset": "smoke"} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stop_seconds": 0}, "`slurm.stop_seconds` must be at least 1"),
        ({"hosts_per_node": 0}, "`slurm.hosts_per_node` must be at least 1"),
        ({"options": "--x"}, "`slurm.options` must be a tuple of words, got '--x'"),
        ({"options": ("-p gpu",)}, "`slurm.options` must be options such as --name"),
        ({"options": ("--x y",)}, "`slurm.options` must be options such as --name"),
        ({"options": ("--qos=q",)}, "got '--qos=q'; qos is said by slurm.qos"),
        ({"options": ("--no-requeue",)}, "no-requeue is said by max_restarts"),
        ({"srun_options": ("--wait=9",)}, "`slurm.srun_options` must be what"),
        ({"setup": "module load a"}, "`slurm.setup` must be a tuple of words"),
        ({"container": "apptainer exec"}, "`slurm.container` must be a tuple of words"),
        ({"gres": "gpu:2", "gpu_type": "a"}, r"left out beside slurm.gres \(gpu:2\)"),
    ],
)
def test_slurm_refuses_what_it_cannot_take(arguments, message):
    with pytest.raises(ValueError, match=message):
        Slurm(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stop_seconds": 0}, "`kubernetes.stop_seconds` must be at least 1"),
        ({"port": 70000}, r"`kubernetes.port` must be in \[1, 65535\], got 70000"),
        ({"tolerations": {"key": "a"}}, "`kubernetes.tolerations` must be a tuple of"),
        ({"tolerations": ("a",)}, "`kubernetes.tolerations` must be a mapping"),
        ({"tolerations": ({"keys": "a"},)}, "must be one of key, operator, .*'keys'"),
        ({"env_from": ({"secret": "a"},)}, "must be one of secretRef, configMapRef"),
        (
            {"image_pull_secrets": "a"},
            "`kubernetes.image_pull_secrets` must be",
        ),
        (
            {"security_context": {"a": {1}}},
            "must be a mapping of texts, numbers",
        ),
        ({"queue": "a b"}, "`kubernetes.queue` must be at most 63 letters.*'a b'"),
        ({"priority_class": ""}, "`kubernetes.priority_class` must be at most 63"),
        ({"labels": {"a": "b c"}}, "`kubernetes.labels` must be at most 63 letters"),
        ({"labels": {"a": 1}}, "`kubernetes.labels` must be texts, got 1; quote it"),
        (
            {"labels": {"kueue.x-k8s.io/queue-name": "q"}},
            "queue-name is said by kubernetes.queue",
        ),
        ({"node_selector": {"a b": "c"}}, "`kubernetes.node_selector` must be at most"),
        ({"annotations": {"a": 1}}, "`kubernetes.annotations` must be texts"),
        ({"pod": {"tolerations": []}}, "is said by kubernetes.tolerations"),
        ({"container": {"env": []}}, "env is said by environment"),
    ],
)
def test_kubernetes_refuses_what_it_cannot_take(arguments, message):
    with pytest.raises(ValueError, match=message):
        Kubernetes(image="image", volume_claim="claim", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`tpu.checkout` must be brought to the hosts of a new slice"),
        ({"data_disk": DISK, "checkout": "x"}, "`tpu.checkout` must be an absolute"),
        ({"startup_script": "a,b.sh"}, "`tpu.startup_script` must be a path without a"),
        (
            {"data_disk": DISK, "start_seconds": 0},
            "`tpu.start_seconds` must be at",
        ),
        ({"data_disk": DISK, "options": ("--spot",)}, "spot is said by tpu.is_spot"),
        ({"data_disk": DISK, "options": ("-x",)}, "`tpu.options` must be options such"),
        (
            {"data_disk": DISK, "ssh_options": ("--worker=1",)},
            "said by hosts",
        ),
        ({"data_disk": DISK, "setup": "a"}, "`tpu.setup` must be a tuple of words"),
    ],
)
def test_a_slice_refuses_what_it_cannot_take(arguments, message):
    with pytest.raises(ValueError, match=message):
        Tpu(**SLICE | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "d"}, "`tpu.data_disk.source` must be projects/PROJECT/zones/ZONE"),
        ({"source": "projects/p/zones/z/disks/d,mode=x"}, "must be projects/PROJECT"),
        ({"mount_path": "c"}, "`tpu.data_disk.mount_path` must be an absolute path"),
        ({"device": "sdb"}, "`tpu.data_disk.device` must be an absolute path"),
    ],
)
def test_a_disk_that_is_not_named_in_full_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(DISK, **arguments)


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
        (
            "tpu",
            {"tpu": Tpu(**SLICE, data_disk=DISK)},
            "`workdir` must be outside the data disk at /c, .*got '/c/x/runs/job'",
        ),
    ],
)
def test_a_target_that_does_not_fit_is_refused(target, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(JOB, **changes).check_target(target)


def test_a_single_host_writes_on_its_data_disk():
    slice_ = Tpu(**SLICE, data_disk=DISK)
    job = dataclasses.replace(JOB, hosts=1, devices_per_host=8, tpu=slice_)
    job.check_target("tpu")


def test_a_target_that_fits_is_taken():
    job = dataclasses.replace(JOB, kubernetes=KUBERNETES, tpu=TPU)
    for target in ("slurm", "kubernetes", "tpu"):
        job.check_target(target)
    dataclasses.replace(JOB, simulate_devices=True).check_target("local")
