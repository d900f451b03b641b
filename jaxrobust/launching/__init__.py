"""Jobs on several devices: definitions, and what each target takes."""

from jaxrobust.launching.definition import (
    Definition,
    Kubernetes,
    Slurm,
    Target,
    Tpu,
)
from jaxrobust.launching.rendering import render
from jaxrobust.launching.submission import check, launch, load_definition

__all__ = [
    "Definition",
    "Kubernetes",
    "Slurm",
    "Target",
    "Tpu",
    "check",
    "launch",
    "load_definition",
    "render",
]
