"""From a definition in a file to a job that runs."""

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, cast

from jaxrobust.arguments import require, require_choice
from jaxrobust.launching.commands import experiment, option, subject
from jaxrobust.launching.definition import Definition, Target
from jaxrobust.launching.kubernetes import Kubernetes
from jaxrobust.launching.rendering import FILE_NAMES, render
from jaxrobust.launching.slurm import Slurm
from jaxrobust.launching.tpu import DataDisk, Tpu
from jaxrobust.references import importable_from, run
from jaxrobust.training import MeshConfig

__all__ = ["check", "definitions_in", "launch", "load_definition"]

DEFINITIONS = Path("launch/definitions.py")
COMMANDS: dict[Target, tuple[str, ...]] = {
    "local": ("bash",),
    "slurm": ("sbatch",),
    "kubernetes": ("kubectl", "apply", "-f"),
    "tpu": ("bash",),
}
TOOLS: dict[Target, str] = {
    "local": "bash",
    "slurm": "sbatch",
    "kubernetes": "kubectl",
    "tpu": "gcloud",
}


def launch(target: str, definition: str, *, dry_run: bool) -> int:
    """Start the job of a definition.

    Args:
        target: local, slurm, kubernetes or tpu.
        definition: `path/file.py:NAME`, or the name of one in launch/definitions.py.
        dry_run: only print what would be submitted.

    Returns:
        The exit code of the program that submits the job, or, for local and tpu, that
        runs it.

    Raises:
        ValueError: for a definition that cannot be found, does not fit the target, or
            asks for what is not there.
    """
    job = load_definition(definition)
    target = cast(Target, target)
    text = render(target, job)
    if dry_run:
        print(text, end="")
        return 0
    check(job, target)
    tool = TOOLS[target]
    require(
        shutil.which(tool) is not None,
        "target",
        f"one whose program {tool} is installed here",
        target,
        "launch from a machine that has it, or print the job with --dry-run",
    )
    if target in ("local", "slurm"):
        workdir = Path(job.workdir).absolute()
        path = workdir.with_name(f"{workdir.name}.{FILE_NAMES[target]}")
    else:
        path = Path("runs").absolute() / f"{job.name}.{FILE_NAMES[target]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"written: {path}", flush=True)
    if target == "slurm" and job.parts > 1:
        return _submit_array(job, path)
    return _run([*COMMANDS[target], str(path)])


def _submit_array(job: Definition, path: Path) -> int:
    """Submit the parts, and the whole to run when all of them are done."""
    submit = ["sbatch", "--parsable", str(path)]
    done = subprocess.run(submit, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return done.returncode
    array = done.stdout.strip().partition(";")[0]
    print(f"submitted: array {array} of {job.parts} parts", flush=True)
    whole = path.with_name(f"whole-{path.name}")
    whole.write_text(render("slurm", dataclasses.replace(job, parts=1)))
    return _run(["sbatch", f"--dependency=afterok:{array}", str(whole)])


def load_definition(name: str) -> Definition:
    """The definition of a name.

    Args:
        name: `path/file.py:NAME`, or NAME for one in launch/definitions.py.

    Raises:
        ValueError: if there is no such file or name, or it has an unknown field.
    """
    file, separator, name = name.rpartition(":")
    path = Path(file) if separator else DEFINITIONS
    known = definitions_in(path)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}" if close else "choose one of these"
    rule = f"one of {', '.join(known) or 'none'} in {path}"
    require(name in known, "definition", rule, name, hint)
    return known[name]


def definitions_in(path: Path) -> dict[str, Definition]:
    """The definitions of a Python file, by name.

    Raises:
        ValueError: if it is no Python file, or gives a definition an unknown field.
    """
    require(
        path.is_file() and path.suffix == ".py",
        "definition",
        f"NAME in {DEFINITIONS} or path/file.py:NAME",
        str(path),
        "it is no Python file here, so go to the checkout, or name the file",
    )
    try:
        module = run(path, what="definition")
    except TypeError as error:
        raise _unknown_field(error) from error
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, Definition)
    }


def _unknown_field(error: TypeError) -> Exception:
    """A better message if the error is a field that a definition does not have."""
    call = re.match(r"(\w+)(?:\.__init__)?\(\) (?:got an unexp|missing)", str(error))
    kinds = (Definition, Slurm, Kubernetes, Tpu, DataDisk, MeshConfig, experiment)
    names = {kind.__name__: kind for kind in kinds}
    kind = names.get(call[1]) if call else None
    if kind is None:
        return error
    fields = ", ".join(inspect.signature(kind).parameters)
    return ValueError(
        f"`{kind.__name__}` must be made of the fields {fields}, got an error "
        f"({str(error).partition('() ')[2]}); correct the definition."
    )


def check(definition: Definition, target: Target) -> None:
    """Refuse a job that would fail for a reason that can be seen from here.

    The runs to start from, and the program, are looked for only where this machine has
    what the hosts have; elsewhere the job looks for them. So is the experiment, if that
    is what runs, unless there are experiments in the current directory.

    Raises:
        ValueError: with what is missing.
    """
    if target in ("local", "slurm"):
        for path in definition.start_from:
            require(
                Path(path).is_dir(),
                "start_from",
                "directories that exist",
                path,
                "run what it comes from first, or correct the path",
            )
    program = definition.command[0]
    require(
        target != "local" or shutil.which(program) is not None,
        "command",
        "a program that is installed here",
        program,
        "activate the environment that has it, or name it by its path",
    )
    script = definition.tpu and definition.tpu.startup_script
    require(
        target != "tpu" or script is None or Path(script).is_file(),
        "tpu.startup_script",
        "a file on this machine",
        script,
        "correct the path, which begins in the current directory",
    )
    item = subject(definition.command)
    if item is not None:
        _check_experiment(definition, item, is_here=target in ("local", "slurm"))


def _check_experiment(definition: Definition, item: str, *, is_here: bool) -> None:
    """Refuse an experiment, preset or batch that there is not."""
    presets = _presets(item)
    require(
        presets is not None or not is_here,
        "command",
        "an experiment that can be imported from the current directory",
        item,
        "go to the checkout",
    )
    if presets is None:
        return
    name = option(definition.command, "--preset") or ""
    require_choice("preset", name, tuple(presets))
    setting = getattr(presets[name], "setting", presets[name])
    batch_size = option(definition.command, "--batch-size")
    if batch_size is None:
        batch_size = getattr(setting, "batch_size", None)
    if batch_size is not None:
        definition.full_mesh.check_batch_size(int(batch_size))


def _presets(item: str) -> Mapping[str, Any] | None:
    """The configurations of an experiment; None if there are no experiments here."""
    paper, _, module_name = item.partition("/")
    with importable_from(Path.cwd()):
        if importlib.util.find_spec("experiments") is None:
            return None
        papers = _submodules(importlib.import_module("experiments"))
        items = (
            _submodules(importlib.import_module(f"experiments.{paper}"))
            if paper in papers
            else []
        )
        known = [f"{paper}/{name}" for name in items]
        require_choice("experiment", item, known or papers)
        module = importlib.import_module(f"experiments.{paper}.{module_name}")
    presets = getattr(module, "PRESETS", None)
    if not isinstance(presets, Mapping):
        raise ValueError(
            f"`experiment` must be a module with PRESETS, got {item!r}; choose another."
        )
    return presets


def _submodules(package: ModuleType) -> list[str]:
    """Names of what is in a package; nothing for a module."""
    path = getattr(package, "__path__", ())
    return sorted(module.name for module in pkgutil.iter_modules(path))


def _run(arguments: list[str]) -> int:
    """Run a program and pass a SIGTERM on to it; Ctrl-C reaches it by itself."""
    process = subprocess.Popen(arguments)

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        process.send_signal(number)

    try:
        before = signal.signal(signal.SIGTERM, forward)
    except ValueError:  # not in the main thread
        return process.wait()
    try:
        while True:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                continue
            return code if code >= 0 else 128 - code
    finally:
        signal.signal(signal.SIGTERM, before)
