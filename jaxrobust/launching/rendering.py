"""From a definition to the text that its target takes."""

import json
import re
import shlex
from functools import partial
from pathlib import Path, PurePosixPath

import jinja2

from jaxrobust.launching.definition import Definition, Target

__all__ = ["FILE_NAMES", "render", "variables"]

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
    flags = {"XLA_FLAGS": " ".join(definition.all_xla_flags)}
    return {
        # What a process said before it was killed must be in its log.
        "PYTHONUNBUFFERED": "1",
        **(simulated if definition.simulate_devices else {}),
        **(flags if definition.all_xla_flags else {}),
        **definition.environment,
    }


def _sbatch_quote(value: object) -> str:
    """A value as sbatch reads it in a comment of the script.

    It knows both kinds of quotes, but a backslash takes the next character as it is
    even between them.
    """
    text = str(value)
    if re.fullmatch(r"[\w@%+=:,./-]+", text, re.ASCII):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _sbatch_option(option: str) -> str:
    """An option of sbatch, such as `--name=value`, with its value quoted."""
    name, separator, value = option.partition("=")
    return name + separator + (_sbatch_quote(value) if separator else "")


def _tpu_place(definition: Definition) -> list[str]:
    """Words that name the place of a slice to gcloud."""
    tpu = definition.tpu
    if tpu is None:
        return []
    project = [f"--project={tpu.project}"] if tpu.project else []
    return [f"--zone={tpu.zone}", *project]


def _tpu_options(definition: Definition, directory: Path) -> list[str]:
    """Words that say to gcloud what slice to create."""
    tpu = definition.tpu
    if tpu is None:
        return []
    words = [f"--accelerator-type={tpu.accelerator_type}", f"--version={tpu.version}"]
    words += ["--spot"] if tpu.is_spot else []
    if tpu.data_disk:
        # A disk that is written has a single host.
        mode = "read-write" if definition.hosts == 1 else "read-only"
        words.append(f"--data-disk=source={tpu.data_disk.source},mode={mode}")
    if tpu.startup_script:
        path = directory / tpu.startup_script
        words.append(f"--metadata-from-file=startup-script={path}")
    for name in ("network", "subnetwork", "service_account"):
        value = getattr(tpu, name)
        words += [f"--{name.replace('_', '-')}={value}"] if value else []
    return [*words, *tpu.options]


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

    Returns:
        A script of bash, or, for Kubernetes, a manifest; every value is quoted but the
        lines of `setup`, which are bash.

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
    environment.filters["sbatch_option"] = _sbatch_option
    return environment.get_template(FILE_NAMES[target] + ".j2").render(
        job=definition,
        directory=str(directory),
        workdir=workdir,
        start_from=[str(root / each) for each in definition.start_from],
        variables=variables(definition),
        limits=_limits(definition),
        local_script=str(Path(__file__).with_name("local.sh")),
        tpu_place=_tpu_place(definition),
        tpu_options=_tpu_options(definition, directory),
        command=lambda part=None: definition.words(workdir, part),
    )
