"""The commands of this library, as small as can be, and what they leave undisturbed.

For trials of what happens to them when they are disturbed; see `trials`.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import TRAINING, Operation, command
from experiments.disturbances import Sign, appears
from jaxrobust.data import load_arrays
from jaxrobust.interop import load_exported
from jaxrobust.keeping import fingerprint
from jaxrobust.training import CheckpointWarning, load_run

__all__ = ["ATTACKS", "OPERATIONS", "READERS"]

ATTACKS = (
    *("--num-images", "40", "--epsilon", "0.1", "0.2", "--batch-size", "10"),
    *("--set", "num_steps", "5", "--set", "num_restarts", "2"),
)

EXPERIMENT = """
import dataclasses

from experiments.runner import main
from experiments.workspace import Setting
from jaxrobust.attacks import PGD
from jaxrobust.data import load_arrays, subset
from jaxrobust.evaluation import evaluate
from jaxrobust.networks import ModelConfig
from jaxrobust.training import adversarial

SETTING = Setting(
    dataset="digits", train_size=256, model=ModelConfig(name="linear"), batch_size=64
)


def run(config, workspace):
    phase = adversarial(0.1, 2, attack=PGD(step_size=0.05, num_steps=2))
    model = config.train(workspace, "base", phase)

    def compute():
        images = subset(load_arrays("digits", "test"), 40)
        found = evaluate(model.logits_fn, images, PGD(num_steps=5), [0.1])
        return dataclasses.asdict(found.row())

    row = workspace.cached("accuracy", model.directory.name, compute)
    return {
        "title": "One model",
        "rows": [row],
        "tables": {"Accuracy": [["clean"], [str(row["clean_accuracy"])]]},
    }


raise SystemExit(main("benchmarks/one", {"one": SETTING}, run, description=""))
"""


def _result_of_run(directory: Path) -> Any:
    """All that a run promises to be the same after any interruption."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        run = load_run(directory)
    state = run.state._replace(key=jax.random.key_data(run.state.key))
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    return {
        "weights": fingerprint(state.weights),
        "state": fingerprint(state),
        "is_complete": run.is_complete,
        "records": [[each["epoch"], each["loss"]] for each in run.records],
        "metrics.jsonl": [[each["epoch"], each["loss"]] for each in logged],
    }


def _result_of_sweep(directory: Path) -> Any:
    found = {}
    for path in sorted(directory.glob("*/config.json")):
        failure = path.with_name("failure.json")
        if failure.exists():
            found[path.parent.name] = json.loads(failure.read_text())["reason"]
        else:
            found[path.parent.name] = _result_of_run(path.parent)
    return found


def _record_of(path: Path) -> Any:
    """All that a results file says, but for the time that it took."""

    def timeless(value: Any) -> Any:
        if isinstance(value, list):
            return [timeless(each) for each in value]
        if isinstance(value, dict):
            return {
                name: timeless(each)
                for name, each in value.items()
                if name not in ("seconds", "checksum")
            }
        return value

    return timeless(json.loads(path.read_text()))


def _bytes_of_report(directory: Path) -> Any:
    names = ("report.html", "report.json")
    contents = [(directory / name).read_bytes() for name in names]
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    return dict(zip(names, digests, strict=True))


def _logits_of(path: Path) -> Any:
    images = load_arrays("digits", "test").images[:16].astype(np.float32) / 255
    return fingerprint(load_exported(path)(jnp.asarray(images)))


def _checkpoint_signs(run: str, *steps: int, whose: str = "") -> tuple[Sign, ...]:
    signs = []
    for step in steps:
        temporary = rf"{run}/checkpoints/{step}\.orbax-checkpoint-tmp.*"
        signs += [
            appears(f"{whose}checkpoint {step} begun", temporary),
            appears(f"{whose}checkpoint {step} under way", rf"{temporary}/.*/.*"),
            appears(f"{whose}checkpoint {step} named", rf"{run}/checkpoints/{step}"),
        ]
    return tuple(signs)


def _run_kinds(where: str, state: str, *names: str) -> tuple[tuple[str, str, str], ...]:
    """Files of a run; all kinds, if none is named."""
    named = "" if where == "disk/out" else f"{where.removeprefix('disk/out/')}: "
    step = rf"{where}/checkpoints/\d+"
    patterns = {
        "config": rf"{where}/config\.json",
        "metrics": rf"{where}/metrics\.jsonl",
        "arrays": rf"{step}/state/(ocdbt\.process_0/)?d/.*",
        "metadata of arrays": rf"{step}/state/_METADATA",
        "progress": rf"{step}/progress/metadata",
    }
    return tuple(
        (f"{named}{name}", state, patterns[name]) for name in names or patterns
    )


SOURCE_KINDS = _run_kinds("source", "complete", "config", "arrays", "progress")

RUN_PHASES = (
    appears("claimed", r"out\.lock"),
    appears("directory made", "out"),
    appears("config under way", r"out/config\.json\..*\.part"),
    appears("config written", r"out/config\.json"),
    *_checkpoint_signs("out", 0),
    appears("epoch logged", r"out/metrics\.jsonl", num_lines=1),
    *_checkpoint_signs("out", 4),
)

JOURNAL_KIND = ("journal", "half", r"disk/out.*\.journal/.*\.npz")

_EVALUATE_PHASES = (
    appears("claimed", r"out\.json\.journal/.*\.lock"),
    appears("journal under way", r"out\.json\.journal/.*\.part"),
    appears("journal written", r"out\.json\.journal/[^/]*\.npz"),
    appears("results under way", r"out\.json\..*part", num_lines=1),
)


def _limits(variant: str, words: Sequence[str], **fields: Any) -> Operation:
    settings: dict[str, Any] = {
        "name": "limits",
        "variant": variant,
        "words": command("limits", *words, "--output", "disk/out"),
        "result": lambda path: _record_of(path / "results.json"),
        "final": "disk/out/results.json",
        "half": ("disk/out/results.json",),
    }
    phases = (
        appears("claimed", r"out/results\.json\.lock"),
        *fields.pop("phases", ()),
        appears("figure", r"out/.*\.svg"),
        appears("results under way", r"out/results\.json\..*part", num_lines=1),
    )
    return Operation(phases=phases, **(settings | fields))


OPERATIONS = (
    Operation(
        name="train",
        words=command(
            *("train", *TRAINING, "--epsilon", "0.1", "--epochs", "3"),
            *("--run-dir", "disk/out"),
        ),
        again=("--resume",),
        result=_result_of_run,
        phases=(*RUN_PHASES, *_checkpoint_signs("out", 12)),
        half=appears("second checkpoint", r"out/checkpoints/4"),
        kinds=(*_run_kinds("disk/out", "half"), *_run_kinds("disk/out", "complete")),
        num_batches=4,
    ),
    Operation(
        name="extend",
        words=command(
            *("extend", "source", "--epsilon", "0.2", "--epochs", "2"),
            *("--run-dir", "disk/out"),
        ),
        again=("--resume",),
        result=_result_of_run,
        phases=(RUN_PHASES[0], RUN_PHASES[2], *_checkpoint_signs("out", 0)),
        half=appears("first checkpoint", r"out/checkpoints/\d+"),
        kinds=(*_run_kinds("disk/out", "half", "config", "arrays"), *SOURCE_KINDS),
    ),
    Operation(
        name="sweep",
        words=command(
            *("sweep", *TRAINING, "--epsilon", "0.05", "0.1", "0.2", "--epochs", "2"),
            *("--warm-start.rule", "above", "--warm-start.threshold", "0.1"),
            *("--warm-start.epochs", "1", "--run-dir", "disk/out"),
        ),
        again=("--resume",),
        result=_result_of_sweep,
        phases=(
            appears("claimed", r"out\.lock"),
            appears("table under way", r"out/sweep\.json\..*\.part"),
            appears("table written", r"out/sweep\.json"),
            appears("member's config", r"out/epsilon0.1/config\.json"),
            *_checkpoint_signs("out/epsilon0.1", 0, 4),
            appears("second wave's config", r"out/epsilon0.2/config\.json"),
            *_checkpoint_signs("out/epsilon0.2", 4, whose="second wave's "),
        ),
        half=appears("second wave's config", r"out/epsilon0.2/config\.json"),
        kinds=(
            ("table", "half", r"disk/out/sweep\.json"),
            *_run_kinds("disk/out/epsilon0.1", "half", "config", "arrays", "progress"),
            ("table", "complete", r"disk/out/sweep\.json"),
        ),
    ),
    Operation(
        name="sweep",
        variant="that fails",
        words=command(
            *("sweep", *TRAINING, "--epochs", "2"),
            *("--sweep", "optimizer.learning_rate", "0.001", "1e38"),
            *("--run-dir", "disk/out"),
        ),
        again=("--resume",),
        result=_result_of_sweep,
        code=1,
        phases=(appears("failure", r"out/.*/failure\.json.*"),),
        half=appears("failure", r"out/.*/failure\.json"),
        kinds=(("failure", "complete", r"disk/out/.*/failure\.json"),),
    ),
    Operation(
        name="evaluate",
        words=command("evaluate", "source", *ATTACKS, "--output", "disk/out.json"),
        result=_record_of,
        output="disk/out.json",
        final="disk/out.json",
        phases=_EVALUATE_PHASES,
        half=appears("journal", r"out\.json\.journal/[^/]*\.npz"),
        kinds=(JOURNAL_KIND, *SOURCE_KINDS),
    ),
    Operation(
        name="evaluate",
        variant="standard",
        words=command(
            *("evaluate", "source", "--attack", "standard", "--num-images", "20"),
            *("--epsilon", "0.1", "--set", "num_steps", "3", "--set", "num_queries"),
            *("20", "--set", "num_targets", "2", "--output", "disk/out.json"),
        ),
        result=_record_of,
        output="disk/out.json",
        final="disk/out.json",
        phases=_EVALUATE_PHASES[2:3],
        half=appears("journal", r"out\.json\.journal/[^/]*\.npz"),
        kinds=(JOURNAL_KIND,),
    ),
    Operation(
        name="report",
        words=command(
            *("report", "source", "--parts", "accuracy", "pictures", "training"),
            *("--attack", "pgd", "--set", "num_steps", "2", "--num-steps", "2"),
            *("--num-images", "20", "--num-strength-images", "2"),
            *("--num-pictures", "2", "--num-points", "5", "--output", "disk/out"),
        ),
        result=_bytes_of_report,
        phases=(
            appears("claimed", r"out\.lock"),
            appears("settings under way", r"out/parts/settings\.json\..*\.part"),
            appears("settings", r"out/parts/settings\.json"),
            appears("journal", r"out/parts/.*journal.*\.npz"),
            appears("part under way", r"out/parts/.*accuracy.*\.json\..*\.part"),
            appears("accuracy", r"out/parts/.*accuracy.*\.json"),
            appears("arrays", r"out/parts/.*pictures.*\.npz"),
            appears("figures", r"out/figures/.*"),
            appears("numbers", r"out/report\.json"),
            appears("page under way", r"out/report\.html\..*\.part"),
        ),
        half=appears("accuracy", r"out/parts/.*accuracy.*\.json"),
        kinds=(
            ("settings", "complete", r"disk/out/parts/settings\.json"),
            ("numbers", "complete", r"disk/out/parts/[^/]*accuracy-[^/]*\.json"),
            ("journal", "complete", r"disk/out/parts/[^/]*journal[^/]*\.npz"),
            ("arrays", "complete", r"disk/out/parts/[^/]*pictures[^/]*\.npz"),
            *SOURCE_KINDS,
        ),
    ),
    _limits(
        "theory",
        ("theory", "gaussians"),
    ),
    _limits(
        "optimum",
        ("optimum", "--train-size", "300", "--epsilon", "0.3", "0.35", "0.4"),
        phases=(
            appears("radii under way", r"out/radii/.*\.json\..*part"),
            appears("radii", r"out/radii/.*\.json"),
        ),
        half=appears("radii", r"out/radii/.*\.json"),
        kinds=(("radii", "half", r"disk/out/radii/.*\.json"),),
    ),
    _limits(
        "concentration",
        (
            *("concentration", "--train-size", "100", "--num-neighbors", "5"),
            *("--num-regions", "2", "--num-kmeans-restarts", "2"),
        ),
        phases=(
            appears("neighbors claimed", r"out/neighbors/.*\.lock"),
            appears("neighbors begun", r"out/neighbors/.*/distances\.npy"),
            appears("neighbors", r"out/neighbors/.*/header\.json"),
        ),
        kinds=(
            ("neighbors", "half", r"disk/out/neighbors/.*\.npy"),
            ("neighbors' header", "half", r"disk/out/neighbors/.*/header\.json"),
            ("neighbors' count", "half", r"disk/out/neighbors/.*/done\.json"),
        ),
    ),
    _limits(
        "compare",
        (
            *("compare", "source", "--epsilon", "0.1", "--set", "num_steps", "5"),
            *(
                "--set",
                "num_restarts",
                "1",
                "--num-images",
                "40",
                "--train-size",
                "100",
            ),
            *("--num-regions", "2", "--num-optimum", "50"),
        ),
        phases=(
            appears("journal under way", r"out/attacks\.npz\..*part"),
            appears("journal", r"out/attacks\.npz"),
        ),
        half=appears("journal", r"out/attacks\.npz"),
        kinds=(("journal", "half", r"disk/out/attacks\.npz"), *SOURCE_KINDS),
    ),
    Operation(
        name="export",
        words=command("export", "source", "--output", "disk/out.jaxrobust"),
        result=_logits_of,
        output="disk/out.jaxrobust",
        final="disk/out.jaxrobust",
        phases=(
            appears("file under way", r"out\.jaxrobust\..*part"),
            appears("file", r"out\.jaxrobust"),
        ),
        half=("disk/out.jaxrobust",),
        kinds=SOURCE_KINDS,
    ),
    Operation(
        name="experiments",
        words=(
            *("-c", EXPERIMENT, "--preset", "one", "--workdir", "disk/out"),
            *("--models", "disk/models"),
        ),
        result=lambda path: _record_of(path / "results.json")["rows"],
        phases=(
            appears("claimed", r"out/results\.json\.lock"),
            appears("models' record", r"models/base-[^/]*\.json"),
            appears("model's config", r"models/base-[^/]*/config\.json"),
            *_checkpoint_signs("models/base-[^/]*", 0),
            appears("model", r"models/base-[^/]*/checkpoints/8"),
            appears("value under way", r"out/accuracy-.*\.json\..*part"),
            appears("value", r"out/accuracy-.*\.json"),
            appears("results under way", r"out/results\.json\..*part", num_lines=1),
            appears("results", r"out/results\.json"),
            appears("page under way", r"out/report\.html\..*part"),
        ),
        half=appears("value", r"out/accuracy-.*\.json"),
        kinds=(
            ("value", "complete", r"disk/out/accuracy-.*\.json"),
            ("code", "complete", r"disk/out/code\.json"),
            ("models' record", "complete", r"disk/models/base-[^/]*\.json"),
            ("model's config", "complete", r"disk/models/base-[^/]*/config\.json"),
        ),
    ),
)

READERS = {
    "evaluate": command("evaluate", "disk/out", *ATTACKS),
    "export": command("export", "disk/out", "--output", "read.jaxrobust"),
    "extend": command(
        *("extend", "disk/out", "--epsilon", "0.2", "--epochs", "1"),
        *("--run-dir", "read"),
    ),
}
"""Commands that read a run, and may do so while another one writes it."""
