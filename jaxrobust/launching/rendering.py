"""From a definition to the text that its target takes."""

import json
import re
import shlex
from functools import partial
from pathlib import Path, PurePosixPath

import jinja2

from jaxrobust.launching.definition import Definition, Target

__all__ = ["FILE_NAMES", "command", "render", "variables"]

FILE_NAMES: dict[Target, str] = {
    "local": "local.sh",
    "slurm": "slurm.sbatch",
    "kubernetes": "kubernetes.yaml",
    "tpu": "tpu_pod.sh",
}
"""What a rendered definition is called; its template has `.j2` after it."""


def variables(definition: Definition) -> dict[str, str]:
    """The environment of each process, without what the target sets itself."""
    simulated = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(definition.devices_per_host),
    }
    return {
        # What a process said before it was killed must be in its log.
        "PYTHONUNBUFFERED": "1",
        **(simulated if definition.simulate_devices else {}),
        **definition.environment,
    }


def command(definition: Definition, workdir: str, part: int | None = None) -> list[str]:
    """What each process runs; the same command goes on where it stopped.

    Args:
        definition: of the job.
        workdir: as the process sees it.
        part: in [0, definition.parts); None leaves the option out.
    """
    module = "experiments." + definition.experiment.replace("/", ".")
    options = {
        "--preset": definition.preset,
        "--seed": definition.seed,
        "--workdir": workdir,
        "--mesh.member": definition.mesh.member,
        "--mesh.data": definition.mesh.data,
        "--batch-size": definition.batch_size,
        "--part": None if part is None else f"{part}/{definition.parts}",
    }
    words = [definition.python, "-m", module]
    for name, value in options.items():
        words += [] if value is None else [name, str(value)]
    return words


def _sbatch_quote(value: object) -> str:
    """A value as sbatch reads it in a comment of the script.

    It knows both kinds of quotes, but a backslash takes the next character as it is
    even between them.
    """
    text = str(value)
    if re.fullmatch(r"[\w@%+=:,./-]+", text, re.ASCII):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _limits(definition: Definition) -> dict[str, str | int]:
    """What a pod gets of a node."""
    cluster = definition.kubernetes
    if cluster is None:
        return {}
    wanted = {
        cluster.accelerator: (
            None if definition.simulate_devices else definition.devices_per_host
        ),
        "cpu": cluster.cpus_per_host,
        "memory": cluster.memory_per_host,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def render(
    target: Target, definition: Definition, *, directory: Path | None = None
) -> str:
    """The text of a job.

    Args:
        target: one that the definition fits.
        definition: of the job.
        directory: of the code on this machine; by default the current one.

    Raises:
        ValueError: if the definition does not fit the target.
    """
    definition.check_target(target)
    directory = (directory or Path.cwd()).absolute()
    root = PurePosixPath(definition.root(target, str(directory)))
    workdir = str(root / definition.workdir)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxrobust.launching"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    # A JSON value is a YAML value, but YAML does not join the escapes of surrogates.
    environment.filters["yaml"] = partial(json.dumps, ensure_ascii=False)
    environment.filters["sh"] = lambda value: shlex.quote(str(value))
    environment.filters["words"] = shlex.join
    environment.filters["sbatch"] = _sbatch_quote
    return environment.get_template(FILE_NAMES[target] + ".j2").render(
        job=definition,
        directory=str(directory),
        workdir=workdir,
        start_from=[str(root / each) for each in definition.start_from],
        variables=variables(definition),
        limits=_limits(definition),
        command=lambda part=None: command(definition, workdir, part),
    )
