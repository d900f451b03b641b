"""A job of one's own: a network of one's own, trained wherever there are two hosts."""

from jaxrobust.launching import Definition, Kubernetes, Slurm, Tpu

TRAIN = "jaxrobust train --model own_linen.py:Net --epsilon 0.05 --epochs 2 --resume"
SMALL = "--train-size 96 --batch-size 32 --attack.step-size 0.05"
PLACE = ("--mesh.data", "{mesh.data}", "--run-dir", "{workdir}")

job = Definition(
    name="own-job",
    command=(*TRAIN.split(), *SMALL.split(), *PLACE),
    hosts=2,
    simulate_devices=True,
    workdir="runs/own-job",
    slurm=Slurm(setup=("source .venv/bin/activate",), options=("--mail-type=FAIL",)),
    kubernetes=Kubernetes(
        image="own:1",
        volume_claim="runs",
        queue="team",
        tolerations=({"key": "nvidia.com/gpu", "operator": "Exists"},),
    ),
    tpu=Tpu(
        zone="us-west4-a",
        accelerator_type="v5litepod-8",
        version="v2-alpha-tpuv5-lite",
        checkout="/mnt/shared/own",
        startup_script="mount_shared.sh",
    ),
)
