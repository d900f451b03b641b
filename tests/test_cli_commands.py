"""The commands by name: what they import, say and are called."""

import inspect
import json
import re
import subprocess
import sys

import pytest

import jaxrobust
from jaxrobust.attacks import ATTACKS
from jaxrobust.cli import chosen, main
from jaxrobust.cli.attacking import AttackChoice
from jaxrobust.cli.certify import CertificationSettings
from jaxrobust.cli.commands import COMMANDS, Group
from jaxrobust.cli.common import Common
from jaxrobust.cli.evaluate import EvaluationSettings
from jaxrobust.evaluation import METHODS
from jaxrobust.networks.catalogue import MODELS
from jaxrobust.report.subjects import ReportConfig
from jaxrobust.threat import THREATS
from jaxrobust.training.recipe.averaging import AVERAGES
from jaxrobust.training.recipe.objectives import OBJECTIVES
from jaxrobust.training.recipe.optimizers import OPTIMIZERS, OptimizerConfig
from jaxrobust.training.recipe.schedules import (
    RADIUS_SCHEDULES,
    RATE_SCHEDULES,
    EpsilonSchedule,
)

NUMERIC = ("jax", "numpy", "flax", "optax", "orbax", "matplotlib", "scipy", "sklearn")
NUMERIC += ("tensorflow_datasets", "PIL", "jinja2", "chex")
HEAVY = (*NUMERIC, "tyro", "rich")
LIGHT = """
import sys
from jaxrobust.cli import main

try:
    code = main(sys.argv[1:])
except SystemExit as exit:
    code = exit.code
loaded = sorted({name.partition(".")[0] for name in sys.modules} & {*%s})
assert not loaded, loaded
sys.exit(code)
"""


def light(*words, without=HEAVY):
    """A finished process that may import nothing heavy."""
    command = [sys.executable, "-c", LIGHT % (without,), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def entries(node=COMMANDS, words=()):
    """Words and entry of every command."""
    if not isinstance(node, Group):
        return [(words, node)]
    return [
        found
        for name, inner in node.commands.items()
        for found in entries(inner, (*words, name))
    ]


def test_help_and_version_import_nothing_but_the_names_of_the_commands():
    done = light("--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"jaxrobust {jaxrobust.__version__}\n"
    done = light("--help")
    assert done.returncode == 0, done.stderr
    assert "usage: jaxrobust" in done.stdout
    done = light("limits", "-h")
    assert done.returncode == 0 and "  compare " in done.stdout, done.stderr


@pytest.mark.parametrize(
    "words",
    [("launch",), ("data", "list"), ("data", "prepare"), ("data", "describe")],
)
def test_help_of_commands_without_settings_of_training_does_without_jax(words):
    done = light(*words, "--help", without=NUMERIC)
    assert done.returncode == 0, done.stderr
    assert "usage: jaxrobust" in done.stdout and "--quiet" in done.stdout


def test_help_has_every_command_with_the_first_sentence_of_its_class(capsys):
    for words, entry in entries():
        with pytest.raises(SystemExit) as exit_info:
            main([*words[:-1], "--help"])
        assert exit_info.value.code == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert f" {words[-1]} {' '.join(entry.describe().split())}" in shown
        assert len(entry.describe()) > 20
        if entry.summary is None:
            docstring = entry.load().__doc__
            first = " ".join(docstring.partition("\n\n")[0].split())
            assert " ".join(entry.describe().split()) == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "got 'trian'; did you mean 'train'?"),
        (["limits", "concentrate"], "did you mean 'concentration'?"),
        ([], "must be one of train, sweep, extend"),
        (["--quiet"], "must be one of train, sweep, extend"),
        (["data"], "the word after `jaxrobust data` must be one of list, prepare"),
    ],
)
def test_a_word_that_is_no_command_is_refused_with_the_nearest(words, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


FLAGS = {
    "advantage": "of each feature over chance",
    "alpha": "least measure of a set",
    "attack": "which attack",
    "augmentation": "random changes of pixels in training",
    "averaging": "an average of the weights",
    "batch-size": "images at once",
    "carry": "what is taken over from the weights that are started from",
    "certify": "what proves, beside attacks",
    "checkpoint": "which weights of a run",
    "checkpoint-every": "epochs between checkpoints",
    "classes": "labels that are told apart",
    "config": "settings from a file",
    "data-dir": "where prepared data sets lie",
    "dataset": "which data",
    "dimension": "number of coordinates",
    "distance": "between the means of the classes",
    "distances": "from the ball to the polytope",
    "dry-run": "nothing is submitted",
    "edges": "of a graph",
    "epochs": "length of training",
    "epsilon": "radius or radii, in units of [0, 1] pixels",
    "epsilon-every": "stays the same for an epoch",
    "epsilon-schedule": "how the radius comes to --epsilon",
    "epsilon-start": "where such a schedule starts",
    "hold-epochs": "epochs at the last radius of an iterative run",
    "increment": "growth of the radius of an iterative run",
    "is-bounded": "pixels stay in [0, 1]",
    "journal": "where progress of an evaluation is kept",
    "matmul-precision": "of matrix products, in JAX's words",
    "max-centers": "centers of balls that are drawn",
    "memory-limit": "GiB of a device",
    "method": "what proves",
    "micro-batches": "parts of a batch, one after another",
    "mode": "grid or list",
    "model": "network",
    "norm": "of the ball",
    "num-checklist-images": "images of a checklist",
    "num-classes": "of the data",
    "num-features": "number of coordinates that are features",
    "num-images": "test images that are attacked, or certified",
    "num-kmeans-restarts": "starts of k-means",
    "num-minimal-images": "images whose smallest perturbation is sought",
    "num-neighbors": "by whose distance density is measured",
    "num-optimum": "training examples of an optimum",
    "num-pictures": "images that are shown",
    "num-points": "along a side of a loss surface",
    "num-regions": "rectangles or balls",
    "num-steps": "of what a report runs beside its attacks",
    "num-strength-images": "images on which attacks are compared",
    "num-vertices": "of a graph",
    "objective": "what training minimizes",
    "output": "where the results go",
    "part": "of the members of a sweep, such as 0/4",
    "parts": "of a report",
    "platforms": "on which an exported model shall run",
    "precision": "of the forward pass",
    "profile": "where a trace goes",
    "quiet": "results, warnings and errors only",
    "ramp-epochs": "epochs until a schedule of the radius arrives",
    "ratios": "of the radius to the strength of the weak features",
    "recipe": "standard, adversarial or iterative",
    "reliability": "of the strong feature",
    "resume": "go on from the newest checkpoint",
    "rule": "what selects a region",
    "run-dir": "where a run goes",
    "search": "every radius or bisection",
    "save-images": "file for images that broke the examples",
    "seed": "of everything random",
    "set": "a number of the phases, by name",
    "sigma": "deviation of the classes",
    "slack": "of the training risk of balls",
    "split": "of the data",
    "start-from": "runs to start from",
    "stop-at-jump": "end an iterative run at a jump of the loss",
    "stream": "send examples as they are needed",
    "strength": "of the weak features",
    "sweep": "values of a number of the phases, by name",
    "tensorboard": "write scalars for it, too",
    "time-limit": "seconds for an integer program",
    "train-size": "training examples that are used",
    "trust-code": "run the code that files name",
    "validation": "share of training examples that is held out",
    "validation-every": "epochs between looks at it",
    "variant": "transform of the images",
    "widen-factor": "multiplies widths of the network",
}
"""What a flag means, in every command that has it."""
INSIDE = {
    "attack": {"direction", "keep", "loss", "num-steps", "random-start", "step-size"},
    "optimizer": {
        *("clip-norm", "decay", "learning-rate", "milestones", "momentum", "name"),
        *("schedule", "warmup-epochs", "weight-decay"),
    },
    "mesh": {"data", "member"},
    "host": {"coordinator", "num-processes", "process-id"},
    "warm-start": {"carry", "epochs", "rule", "threshold"},
}
"""Of a part: --PART.NAME. Those of the attack in training's objective; an evaluation
says what it attacks with by flags of its own."""


def flags_of(words, capsys):
    """The flags that the help of a command, or of those in its union, tells of."""
    with pytest.raises(SystemExit):
        chosen([*words, "--help"])
    shown = capsys.readouterr().out
    inner = re.search(r"^usage: .*\{([\w,-]+)\}$", shown, re.MULTILINE)
    if inner is None:
        return set(re.findall(r"^[│ ]{1,3}--([a-z][\w.-]*)", shown, re.MULTILINE))
    names = inner[1].split(",")
    return set().union(*(flags_of((*words, name), capsys) for name in names))


def test_a_flag_has_one_spelling_and_one_meaning(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # wider, parts stand beside each other
    flags = {words: flags_of(words, capsys) for words, _ in entries()}
    expected = {*FLAGS} | {f"{part}.{name}" for part in INSIDE for name in INSIDE[part]}
    assert set().union(*flags.values()) == expected
    assert all("quiet" in names for names in flags.values())
    # Singular, however many values a flag takes.
    assert {name for name in FLAGS if f"{name}s" in FLAGS} == {"distance", "part"}
    assert {words for words, names in flags.items() if "epsilon" in names} > {
        *[(name,) for name in ("train", "sweep", "extend", "evaluate", "report")],
        ("certify",),
    }


NAMED = [
    (AttackChoice, ATTACKS),
    *((kind, METHODS) for kind in (CertificationSettings, EvaluationSettings)),
    (ReportConfig, METHODS),
    (Common, MODELS),
    (Common, OBJECTIVES),
    (Common, AVERAGES),
    *((kind, THREATS) for kind in (Common, EvaluationSettings, ReportConfig)),
    (OptimizerConfig, OPTIMIZERS),
    (OptimizerConfig, RATE_SCHEDULES),
    (EpsilonSchedule, RADIUS_SCHEDULES),
]
"""Settings whose help lists the names of a table, and the table."""


@pytest.mark.parametrize(("settings", "table"), NAMED)
def test_help_lists_every_name_of_a_table(settings, table):
    words = set(re.findall(r"[\w-]+", inspect.getsource(settings)))
    assert not set(table) - words, "write them into the help"


FAST = ["--model", "linear", "--train-size", "96", "--batch-size", "32"]
FAST += ["--attack.num-steps", "1", "--epochs", "1", "--epsilon", "0.1"]


ATTACK = ["--set", "num_steps", "1", "--set", "num_restarts", "1", "--num-images", "20"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("commands") / "run"
    assert main(["train", *FAST, "--quiet", "--run-dir", str(directory)]) == 0
    return directory


def test_quiet_training_says_where_the_run_is(run_dir, capfd):
    command = ["train", *FAST, "--resume", "--run-dir", str(run_dir)]
    assert main([*command, "--quiet"]) == 0
    assert capfd.readouterr() == (f"done: {run_dir}, 1 epochs\n", "")
    assert main(command) == 0
    assert "next: jaxrobust evaluate" in capfd.readouterr().out


def test_quiet_evaluation_prints_its_table(run_dir, capfd):
    assert main(["evaluate", str(run_dir), *ATTACK, "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("Robust accuracy in linf, pixels in [0, 1]:\n\n| model |")
    assert err == ""
    # An error is said as ever.
    assert main(["evaluate", str(run_dir), "--num-images", "0", "--quiet"]) == 2
    assert capfd.readouterr().err.startswith("jaxrobust: ")


@pytest.mark.slow
def test_an_evaluation_is_in_the_norm_of_the_training(run_dir, tmp_path, capfd):
    other, output = tmp_path / "l2", tmp_path / "found.json"
    command = ["train", *FAST, "--norm", "l2", "--quiet", "--run-dir", str(other)]
    assert main(command) == 0
    command = ["evaluate", *ATTACK, "--epsilon", "0.1", "--quiet", str(other)]
    assert main([*command, "--output", str(output)]) == 0
    assert "Robust accuracy in l2" in capfd.readouterr().out
    assert json.loads(output.read_text())["settings"]["norm"] == "l2"
    assert main([*command, str(run_dir)]) == 2
    expected = "`norm` must be given for runs trained in l2 and in linf"
    assert expected in capfd.readouterr().err
    assert main([*command, str(run_dir), "--norm", "l1"]) == 0
    assert "Robust accuracy in l1" in capfd.readouterr().out


@pytest.mark.slow
def test_quiet_sweeps_and_reports_say_where_they_are(run_dir, tmp_path, capfd):
    sweep = ["--run-dir", str(tmp_path / "sweep"), "--seed", "0", "1"]
    assert main(["sweep", *FAST, *sweep, "--quiet"]) == 0
    assert capfd.readouterr() == (f"done: {tmp_path / 'sweep'}, 2 members\n", "")
    report = ["--parts", "training", "--output", str(tmp_path / "report")]
    assert main(["report", str(run_dir), *report, "--quiet"]) == 0
    page = tmp_path / "report" / "report.html"
    assert capfd.readouterr().out == f"written: {page}\n"
