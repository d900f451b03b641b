"""Jobs on several devices: definitions, and what each target takes."""

from jaxrobust.launching.commands import experiment
from jaxrobust.launching.definition import GPU_FLAGS, Definition, Target
from jaxrobust.launching.kubernetes import Kubernetes
from jaxrobust.launching.rendering import render
from jaxrobust.launching.slurm import Slurm
from jaxrobust.launching.submission import check, launch, load_definition
from jaxrobust.launching.tpu import DataDisk, Tpu

__all__ = [
    "GPU_FLAGS",
    "DataDisk",
    "Definition",
    "Kubernetes",
    "Slurm",
    "Target",
    "Tpu",
    "check",
    "experiment",
    "launch",
    "load_definition",
    "render",
]
