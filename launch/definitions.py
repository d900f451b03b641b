"""The jobs of this repository that want several devices.

    jaxrobust launch slurm mnist_sweep_slurm --dry-run

`command` is what runs: an experiment here, or any words, such as ("jaxrobust", "train",
"--run-dir", "{workdir}", "--resume"). What belongs to a cluster (partition,
image, claim, zone) stands here once; change it to that of yours, or copy the file and
name the copy: path/file.py:NAME.
"""

import dataclasses

from jaxrobust.launching import (
    GPU_FLAGS,
    Definition,
    Kubernetes,
    Slurm,
    Tpu,
    experiment,
)
from jaxrobust.training import MeshConfig

KUBERNETES = Kubernetes(
    image="jaxrobust:0.1.0",
    volume_claim="jaxrobust-runs",
    node_selector={"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    cpus_per_host=16,
    memory_per_host="64Gi",
)
TPU = Tpu(
    zone="us-west4-a",
    accelerator_type="v5litepod-16",
    version="v2-alpha-tpuv5-lite",
    # It mounts what the hosts share; the address of the server stands there.
    startup_script="launch/mount_share.sh",
    checkout="/mnt/shared/jaxrobust",
    setup=("source .venv/bin/activate",),
)

mnist_sweep_local = Definition(
    name="mnist-sweep",
    command=experiment("large_perturbations/sweep", preset="paper"),
    # Eight devices made of CPU cores. Without this line: the accelerators of the
    # machine, of which there must be eight.
    simulate_devices=True,
    devices_per_host=8,
    mesh=MeshConfig(member=4, data=2),
    workdir="runs/mnist-sweep",
    slurm=Slurm(cpus_per_host=16, memory_per_host="64G"),
    kubernetes=KUBERNETES,
    tpu=TPU,
)

mnist_sweep_slurm = dataclasses.replace(
    mnist_sweep_local,
    simulate_devices=False,
    hosts=2,
    devices_per_host=4,
    xla_flags=GPU_FLAGS,
    slurm=Slurm(
        partition="gpu", cpus_per_host=16, memory_per_host="64G", time_limit="12:00:00"
    ),
)

mnist_sweep_kubernetes = dataclasses.replace(
    mnist_sweep_slurm,
    # On the volume, where `jaxrobust data prepare` has put it.
    environment={"TFDS_DATA_DIR": "/data/tensorflow_datasets"},
)

# v5litepod-16 has four hosts with four chips each.
mnist_sweep_tpu = dataclasses.replace(
    mnist_sweep_slurm,
    hosts=4,
    xla_flags=(),
    mesh=MeshConfig(member=4, data=4),
    environment={"TFDS_DATA_DIR": "/mnt/shared/tensorflow_datasets"},
)

# Fourteen levels of saturation as members of one program, two on each row of devices.
cifar_levels_slurm = dataclasses.replace(
    mnist_sweep_slurm,
    name="cifar-levels",
    command=experiment("input_distribution/table3", preset="paper"),
    mesh=MeshConfig(member=2, data=4),
    workdir="runs/cifar-levels",
)

# Batches of 256 divided among the GPUs of a machine; the radius rises in every step.
certified_mnist_slurm = dataclasses.replace(
    mnist_sweep_slurm,
    name="certified-mnist",
    command=experiment("certified/mnist", preset="paper"),
    hosts=1,
    mesh=MeshConfig(data=4),
    workdir="runs/certified-mnist",
)

# Two processes with two simulated devices each: shows in a minute that a cluster works.
digits_smoke = Definition(
    name="digits-smoke",
    command=experiment("large_perturbations/sweep", preset="smoke"),
    simulate_devices=True,
    hosts=2,
    devices_per_host=2,
    mesh=MeshConfig(member=2, data=2),
    workdir="runs/digits-smoke",
    slurm=Slurm(time_limit="00:10:00", stop_seconds=60),
    kubernetes=dataclasses.replace(
        KUBERNETES, node_selector={}, cpus_per_host=2, memory_per_host="4Gi"
    ),
    tpu=TPU,
)
