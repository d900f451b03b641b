import json
import shlex
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.attacks.builders import settings_of
from jaxrobust.cli import chosen, evaluate, main
from jaxrobust.evaluation import wilson_interval
from jaxrobust.interop import load_exported, read_header
from jaxrobust.training import load_run

FAST = ["--model", "linear", "--train-size", "96", "--batch-size", "32"]
FAST += ["--attack.step-size", "0.05"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cli") / "base"
    flags = ["--epsilon", "0.05", "0.1", "--epochs", "2", "1", "--run-dir"]
    assert main(["train", *FAST, *flags, str(directory)]) == 0
    return directory


def test_train_makes_a_chain_of_radii(run_dir):
    run = load_run(run_dir)
    assert [record["epsilon"] for record in run.records] == [0.05, 0.05, 0.1]
    assert run.is_complete


def test_extend_goes_on_from_a_run_and_leaves_it_alone(run_dir, tmp_path, capsys):
    before = (run_dir / "metrics.jsonl").read_bytes()
    target = tmp_path / "more"
    flags = ["--epsilon", "0.2", "--epochs", "1", "--run-dir", str(target)]
    assert main(["extend", str(run_dir), *flags]) == 0
    run = load_run(target)
    assert [record["epsilon"] for record in run.records] == [0.2]
    assert run.config.phases[0].carry == "optimizer"
    assert run.config.phases[0].objective.attack.step_size == 0.05
    assert (run_dir / "metrics.jsonl").read_bytes() == before
    assert f"next: jaxrobust evaluate {target}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "radii"),
    [
        (["standard", "--epochs", "2"], [0.0, 0.0]),
        (["iterative", "--epsilon", "0.1", "--increment", "0.05"], [0.05, 0.1]),
        (["iterative", "--epsilon", "0.1", "--increment", "0.1", "--hold-epochs", "1"],
         [0.1, 0.1]),
        (["adversarial", "--epsilon", "0.1", "--epsilon-schedule", "linear",
          "--epsilon-start", "0", "--ramp-epochs", "2", "--epochs", "2"], [0.0, 0.1]),
        (["adversarial", "--epsilon", "0.1", "--epsilon-schedule", "linear",
          "--epsilon-start", "0", "--epochs", "4"], [0.0, 0.1, 0.1, 0.1]),
        # Of 3 steps the last one, at two thirds of a ramp whose last three quarters
        # are a line.
        (["adversarial", "--epsilon", "0.1", "--epsilon-schedule", "smooth",
          "--epsilon-start", "0", "--ramp-epochs", "2", "--epsilon-every", "step",
          "--epochs", "2"], [pytest.approx((1 + 16 * 5 / 12) / 130), 0.1]),
    ],
)  # fmt: skip
def test_the_other_recipes(recipe, radii, tmp_path):
    target = tmp_path / "run"
    assert main(["train", "--recipe", *recipe, *FAST, "--run-dir", str(target)]) == 0
    assert [record["epsilon"] for record in load_run(target).records] == radii


def test_evaluate_prints_and_writes_accuracies(run_dir, tmp_path, capsys):
    output = tmp_path / "numbers.json"
    flags = [
        "--epsilon",
        "0.05",
        "0.1",
        "--set",
        "num_steps",
        "5",
        "--set",
        "num_restarts",
        "1",
    ]
    assert main(["evaluate", str(run_dir), *flags, "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    (row,) = record["rows"]
    assert list(row["robust_accuracy"]) == ["0.05", "0.1"]
    assert row["robust_accuracy"]["0.05"] <= row["clean_accuracy"]
    shown = capsys.readouterr().out
    assert "| model | clean | ε = 0.05 | ε = 0.1 |" in shown
    assert f"{100 * row['clean_accuracy']:.1f} %" in shown
    before = output.read_bytes()
    assert main(["evaluate", str(run_dir), *flags, "--output", str(output)]) == 2
    assert output.read_bytes() == before


STANDARD = [
    "--attack",
    "standard",
    "--epsilon",
    "0.05",
    "0.1",
    "--set",
    "num_steps",
    "4",
]
STANDARD += ["--set", "num_queries", "9", "--set", "num_targets", "2"]
STANDARD += ["--num-images", "40"]


@pytest.mark.slow
def test_evaluate_runs_the_ensemble(run_dir, tmp_path, capsys):
    output = tmp_path / "numbers.json"
    assert main(["evaluate", str(run_dir), *STANDARD, "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    assert record["settings"]["num_images"] == 40 and "jax" in record["versions"]
    assert record["attacks"]["square"]["build"]["num_queries"] == 9
    (row,) = record["rows"]
    assert row["num_images"] == 40
    correct = round(40 * row["clean_accuracy"])
    assert row["clean_interval"] == pytest.approx(wilson_interval(correct, 40))
    names = [attack["name"] for attack in row["attacks"]]
    assert names == ["apgd-ce", "apgd-t", "fab-t", "square"]
    for radius, (lower, upper) in row["robust_interval"].items():
        left = [attack["robust_accuracy"][radius] for attack in row["attacks"]]
        assert left == sorted(left, reverse=True)
        assert lower < row["robust_accuracy"][radius] == left[-1] < upper
    shown = capsys.readouterr().out
    assert "| after | ε = 0.05 | ε = 0.1 | attacks |" in shown
    lower, upper = (100 * end for end in row["clean_interval"])
    assert f" % [{lower:.1f}, {upper:.1f}] |" in shown
    # What was kept on the way is of no more use.
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.json"]


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(["--set", "num_steps", "4"], id="pgd"),
        pytest.param(
            ["--attack", "apgd-ce", "square", *STANDARD[2:-5]],
            id="standard",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_interrupted_evaluation_goes_on(
    attack, run_dir, tmp_path, monkeypatch, capsys
):
    command = ["evaluate", str(run_dir), *attack, "--batch-size", "20"]
    command += ["--num-images", "40"]
    expected, output = tmp_path / "expected.json", tmp_path / "numbers.json"
    seen = []

    def show(self, names, progress):
        del self, names
        seen.append(progress)
        if len(seen) == stop_at:
            # As a scheduler does, ahead of the end of an allocation.
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(evaluate.EvaluationLine, "show", show)
    stop_at = None
    assert main([*command, "--output", str(expected)]) == 0
    num_buckets = len(seen)
    seen.clear()
    stop_at = 3
    assert main([*command, "--output", str(output)]) == 75
    kept = tmp_path / "numbers.json.journal"
    assert f"goes on from what is kept in {kept}" in capsys.readouterr().err
    assert not output.exists() and [each.name for each in kept.iterdir()] == ["0.npz"]
    # Of another evaluation, it is refused; of this one, nothing is done twice.
    assert main([*command, "--seed", "1", "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "seed: 0, now 1" in error
    stop_at = None
    assert main([*command, "--output", str(output)]) == 0
    assert len(seen) == num_buckets
    assert output.read_bytes() == expected.read_bytes()
    assert not kept.exists()


def test_a_journal_of_ones_own_stays_and_nothing_is_kept_without(
    run_dir, tmp_path, monkeypatch, capsys
):
    command = ["evaluate", str(run_dir), "--set", "num_steps", "2", "--num-images", "9"]
    kept = tmp_path / "kept"
    assert main([*command, "--journal", str(kept)]) == 0
    first = capsys.readouterr().out

    def show(self, names, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate.EvaluationLine, "show", show)
    # Finished, it attacks nothing more.
    assert main([*command, "--journal", str(kept)]) == 0
    assert capsys.readouterr().out == first
    assert main(command) == 1
    assert "with --output or --journal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epsilon", "8"], "so 8/255 rather than 8"),
        (["--norm", "l2", "--epsilon", "9"], "must be in [0, 8] in l2"),
        (["--num-images", "0"], "`--num-images` must be in [1, "),
        (["--num-images", "5000"], "leave it out for all"),
        (["--set", "num_steps", "-1"], "`num_steps` must be at least 0"),
        (
            ["--set", "num_queries", "9"],
            "`set` must be a setting of an attack, got 'nu",
        ),
        (
            ["--set", "num_steps", "few"],
            "`set` must be a number for num_steps, got 'few",
        ),
        (["--set", "num_steps", "1.5"], "must be a whole number for num_steps"),
        (
            ["--set", "square.num_queries", "1"],
            "`set` must be one of pgd, got 'square'",
        ),
        (
            ["--set", "loss", "hinge"],
            "`loss` must be one of cross_entropy, margin, dlr",
        ),
        (
            ["--attack", "standard", "--set", "num_steps", "none"],
            "got 'apgd-ce', which",
        ),
        (["--attack", "apgd"], "`attack` must be one of standard, pgd, fgsm, "),
        (["--attack", "pgd", "pgd"], "`attack` must be different attacks, got 'pgd'"),
        (
            ["--attack", "gone.py:own"],
            "`attack` must name a Python file, got 'gone.py'",
        ),
        (["--save-images", "images"], "`save_images` must be a name that ends in .npz"),
    ],
)
def test_evaluate_refuses_wrong_flags_in_a_line(flags, message, run_dir, capsys):
    assert main(["evaluate", str(run_dir), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxrobust: ") and error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize("flag", ["--attack.step-size", "--optimizer.learning-rate"])
def test_extend_takes_a_zero_for_a_zero(flag, run_dir, tmp_path, capsys):
    target = tmp_path / "more"
    flags = ["--epsilon", "0.2", flag, "0", "--run-dir", str(target)]
    assert main(["extend", str(run_dir), *flags]) == 2
    assert "must be in (0, inf), got 0.0" in capsys.readouterr().err
    assert not target.exists()


def test_the_same_setting_has_the_same_flag_in_train_sweep_and_extend(
    tmp_path, run_dir
):
    flags = ["--attack.step-size", "1/20", "--attack.num-steps", "3"]
    flags += ["--optimizer.learning-rate", "1/500"]
    made = [
        chosen(["train", *flags]).phases()[0],
        chosen(["sweep", *flags]).config().base.phases[0],
    ]
    for phase in made:
        assert phase.objective.attack == PGD(step_size=0.05, num_steps=3)
        assert phase.optimizer.learning_rate == 0.002
    target = ["--epsilon", "0.2", "--epochs", "1", "--run-dir", str(tmp_path / "more")]
    assert main(["extend", str(run_dir), *flags, *target]) == 0
    (phase,) = load_run(tmp_path / "more").config.phases
    assert phase.objective.attack == PGD(step_size=0.05, num_steps=3)
    assert phase.optimizer.learning_rate == 0.002


def test_the_next_command_is_one_that_a_shell_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = []
    for name in ("a run; $(date)", "-x"):
        assert main(["train", *FAST, "--epochs", "1", f"--run-dir={name}"]) == 0
        (line,) = [
            line.removeprefix("next: ")
            for line in capsys.readouterr().out.splitlines()
            if line.startswith("next: ")
        ]
        said.append(shlex.split(line))
        assert chosen(said[-1][1:]).runs == (Path(name),)
    assert [len(words) for words in said] == [3, 3]


def test_numbers_may_be_fractions_wherever_a_number_is_read():
    radius = ["--epsilon", "8/255"]
    assert chosen(["train", *radius, "1/10"]).epsilon == (8 / 255, 0.1)
    iterative = chosen(["train", *radius, "--increment", "1/255"])
    assert iterative.increment == 1 / 255
    extend = chosen(["extend", "run", *radius, "--attack.step-size", "2/255"])
    assert (extend.epsilon, extend.step_size) == (8 / 255, 2 / 255)
    words = ["evaluate", "run", "--epsilon", "0", "8/255"]
    command = chosen([*words, "--set", "step_size", "1/255"])
    assert command.settings.epsilons == (0, 8 / 255)
    assert settings_of(command.settings.builders()["pgd"])["step_size"] == 1 / 255
    report = chosen(["report", "run", "--epsilon", "4/255", "8/255"])
    assert report.config.epsilons == (4 / 255, 8 / 255)
    for command in (["concentration"], ["compare", "run"]):
        assert chosen(["limits", *command, *radius]).epsilon == 8 / 255
    optimum = chosen(["limits", "optimum", "--epsilon", "8/255", "1.5"])
    assert optimum.epsilon == (8 / 255, 1.5)
    theory = chosen(["limits", "theory", "gaussians", "--epsilon", "1/4"])
    assert theory.epsilons == (0.25,)


def test_a_sweep_takes_fractions_and_what_lies_evenly_between_them():
    flags = ["--epsilon", "1/255:8/255:8", "1/2"]
    flags += ["--sweep", "objective.attack.step_size", "2/255"]
    config = chosen(["sweep", *flags]).config()
    # Each as Python has it, or no other command would name the same radius.
    assert config.epsilon == (*(count / 255 for count in range(1, 9)), 0.5)
    assert config.over == {"objective.attack.step_size": (2 / 255,)}
    config = chosen(["sweep", "--epsilon", "0.1:0.5:5", "1e-3:0.009:3"]).config()
    assert config.epsilon == (0.1, 0.2, 0.3, 0.4, 0.5, 0.001, 0.005, 0.009)


@pytest.mark.parametrize("text", ["8/0", "8/", "/255", "1/2/3", "8:255", "nan/1"])
def test_what_is_no_number_is_refused_with_an_example(text, capsys):
    for flags in (["extend", "run", "--epsilon"], ["evaluate", "run", "--epsilon"]):
        with pytest.raises(SystemExit) as exit_info:
            main([*flags, text])
        assert exit_info.value.code == 2
        shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert f"parsing {flags[-1]}" in shown and f"'{text}'" in shown
        assert "8/255" in shown
    assert main(["sweep", "--epsilon", text.replace(":", "/0:")]) == 2
    assert "such as 0.1 or 8/255" in capsys.readouterr().err


ADDRESSES = [
    ["train", "--run-dir", "gs://bucket/run"],
    ["train", "--data-dir", "s3://bucket/data"],
    ["train", "--profile", "gs://bucket/trace"],
    ["train", "--dataset", "gs://bucket/mine"],
    ["sweep", "--start-from", "runs/here", "gs://bucket/run"],
    ["extend", "gs://bucket/run", "--epsilon", "0.2"],
    ["evaluate", "gs://bucket/run"],
    ["evaluate", "runs/here", "--output", "gs://bucket/numbers.json"],
    ["evaluate", "runs/here", "--journal", "hdfs://host/kept"],
    ["report", "runs/here", "gs://bucket/run"],
    ["report", "runs/here", "--output", "gs://bucket/report"],
    ["export", "runs/here", "--output", "gs://bucket/model"],
    ["launch", "local", "gs://bucket/jobs.py:mine"],
    ["data", "list", "--data-dir", "gs://bucket/data"],
    ["data", "prepare", "mnist", "--data-dir", "gs://bucket/data"],
    ["limits", "theory", "facets", "--output", "gs://bucket/limits"],
    ["limits", "optimum", "--dataset", "gs://bucket/data"],
    ["limits", "compare", "gs://bucket/run"],
]


@pytest.mark.parametrize("arguments", ADDRESSES, ids=lambda words: " ".join(words))
def test_an_address_is_refused_where_a_path_is_wanted(
    arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "must be a path of the local file system, got '" in error
    assert "mount the bucket" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_report_writes_a_page(run_dir, tmp_path, capsys):
    output = tmp_path / "report"
    command = ["report", str(run_dir), "--parts", "training", "--output", str(output)]
    assert main(command) == 0
    page = (output / "report.html").read_text()
    assert "<h1>Robustness of base</h1>" in page
    loss = load_run(run_dir).records[-1]["loss"]
    assert f"<td>{loss:.4f}</td>" in page and page.count("data:image/") == 3
    assert f"written: {output / 'report.html'}" in capsys.readouterr().out
    assert main([*command, "--seed", "1"]) == 2


def test_export_writes_a_model_that_answers_as_the_run_does(run_dir, tmp_path, capsys):
    output = tmp_path / "model"
    arguments = ["export", str(run_dir), "--output", str(output)]
    assert main([*arguments, "--platforms", "cpu"]) == 0
    assert f"written: {output}, 8 x 8 x 1 to 10 classes" in capsys.readouterr().out
    images = jax.random.uniform(jax.random.key(0), (3, 8, 8, 1))
    np.testing.assert_allclose(
        load_exported(output)(images), load_run(run_dir).logits_fn(images), atol=1e-5
    )
    assert read_header(output)["run"] == run_dir.name
    before = output.read_bytes()
    assert main(arguments) == 2
    assert "must be a new file" in capsys.readouterr().err
    assert output.read_bytes() == before
    other = ["export", str(run_dir), "--output", str(tmp_path / "other")]
    assert main([*other, "--platforms", "cpu", "quantum"]) == 2
    error = capsys.readouterr().err
    assert "must be among cpu, cuda, rocm, tpu, got 'quantum'" in error
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "command", [["evaluate", "--set", "num_steps", "1"], ["export"]]
)
@pytest.mark.parametrize("place", ["file/in/it", "n" * 300])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    place, command, run_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("something else")
    for work in ("cli.evaluate.evaluate_models", "interop.exporting.export.export"):
        monkeypatch.setattr(f"jaxrobust.{work}", lambda *_, **__: pytest.fail("begun"))
    assert main([*command, str(run_dir), "--output", place]) == 1
    error = capsys.readouterr().err
    assert error.startswith("jaxrobust: ") and error.count("\n") == 1
    assert place[:50] in error and "; choose" in error
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_the_directory_of_an_output_is_made(run_dir, tmp_path):
    output = tmp_path / "new" / "one" / "numbers.json"
    flags = ["--set", "num_steps", "1", "--num-images", "9", "--output", str(output)]
    assert main(["evaluate", str(run_dir), *flags]) == 0
    assert json.loads(output.read_text())["rows"]


def test_data_list_says_what_is_ready(tmp_path, capsys):
    assert main(["data", "list", "--data-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    states = {line.split()[1]: line.split()[0] for line in lines}
    assert states["digits"] == "ready" and states["mnist"] == "missing"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--recipe", "standard", "--epsilon", "0.1"], "`--epsilon` must not"),
        (["train", "--recipe", "iterative", "--epochs", "3"], "`--epochs` must not be"),
        (
            ["train", "--recipe", "iterative", "--epsilon", "0.1", "0.2"],
            "several radii",
        ),
        (["train", "--recipe", "standard", "--epochs", "1", "2"], "several --epochs"),
        (["train", "--ramp-epochs", "3"], "with a constant radius"),
        (
            ["train", "--recipe", "iterative", "--epsilon-schedule", "linear"],
            "with iterative training",
        ),
        (
            [
                *("train", "--epsilon-schedule", "linear"),
                *("--epochs", "3", "--ramp-epochs", "4"),
            ],
            "`--ramp-epochs` must be at most 3 in 3 epochs",
        ),
        (["train", "--epsilon-schedule", "lin"], "did you mean 'linear'"),
        (["train", "--epsilon", "0.1", "0.2", "--epochs", "1"], "as many numbers"),
        (["train", "--epsilon", "-0.1"], "must be in [0, inf), got -0.1"),
        (["train", "--epsilon", "8"], "so 8/255 rather than 8"),
        (["train", "--epsilon", "1e30"], "must be in [0, 1] in linf"),
        (["train", "--norm", "l2", "--epsilon", "9"], "must be in [0, 8] in l2"),
        (["sweep", "--epsilon", "0.1", "8"], "so 8/255 rather than 8"),
        (["train", "--dataset", "mnits"], "did you mean 'mnist'"),
        (["train", "--dataset", "mnist", "--data-dir", "."], "data prepare mnist"),
        (["train", "--batch-size", "5000"], "`batch_size` must be at most"),
        (["train", "--variant", "inverted"], "inverted"),
        (["train", "--model", "lenet"], "large enough for a window of 6 pixels"),
        (["extend", "nowhere", "--epsilon", "0.1"], "has no config.json"),
        (["evaluate", "nowhere"], "has no config.json"),
        (["evaluate"], "`runs` must name at least one"),
        (["report"], "`runs` must name at least one"),
        (["data", "prepare", "nothing"], "nothing"),
        (["sweep", "--epsilon", "a"], "`--epsilon` must be numbers"),
        (["sweep", "--epsilon", "0.1:0.3"], "`--epsilon` must be numbers"),
        (["sweep", "--epsilon", "0.1", "0.1"], "`members` must differ"),
        (["sweep", "--part", "4/4"], "`part` must be an index"),
        (["sweep", "--mesh.data", "3"], "at most as many devices"),
        (
            ["sweep", "--epsilon", "0.1", "0.4", "--warm-start.rule", "above"],
            "`threshold` must be one of",
        ),
        (["launch", "slurm", "nothing", "--dry-run"], "go to the checkout"),
        (["train", "--validation", "2"], "`validation.share` must be in (0, 1)"),
        (["train", "--validation-every", "2"], "left out without --validation"),
        (["train", "--set", "averaging.decay", "0.9"], "`number` must be one of"),
        (
            ["train", "--averaging", "swa", "--set", "averaging.start_epoch", "31"],
            "`averaging.start_epoch` must be in [1, 30], got 31",
        ),
        (["train", "--micro-batches", "3"], "a divisor of the batch size (128)"),
    ],
)
def test_wrong_usage_is_refused_and_leaves_nothing(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxrobust: ") and message in error
    assert list(tmp_path.iterdir()) == []


def test_a_used_run_directory_is_refused(run_dir, capsys):
    flags = ["--epsilon", "0.05", "0.1", "--epochs", "2", "1", "--run-dir"]
    assert main(["train", *FAST, *flags, str(run_dir)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", *FAST, *flags, str(run_dir), "--resume"]) == 0


def test_a_loss_that_is_not_finite_fails_with_1(tmp_path, capsys):
    flags = ["--optimizer.learning-rate", "1e38", "--epochs", "3"]
    target = ["--run-dir", str(tmp_path / "run")]
    assert main(["train", *FAST, *flags, *target]) == 1
    assert "the last good checkpoint is kept" in capsys.readouterr().err


def test_a_sweep_makes_a_run_of_every_member(tmp_path, capsys):
    target = tmp_path / "sweep"
    flags = ["--epsilon", "0.05:0.1:2", "0.2", "--epochs", "1"]
    flags += ["--warm-start.rule", "above", "--warm-start.threshold", "0.1"]
    assert main(["sweep", *FAST, *flags, "--run-dir", str(target)]) == 0
    assert "3 members" in capsys.readouterr().out
    members = sorted(path.name for path in target.iterdir() if path.is_dir())
    assert members == ["epsilon0.05", "epsilon0.1", "epsilon0.2"]
    last = load_run(target / "epsilon0.2")
    assert last.is_complete and last.records[0]["phase"] == "extended"
    attack = [
        "--epsilon",
        "0.1",
        "--set",
        "num_steps",
        "5",
        "--set",
        "num_restarts",
        "1",
    ]
    paths = [str(target / name) for name in members]
    assert main(["evaluate", *paths, *attack]) == 0


def test_a_sweep_with_a_failure_reports_it_and_fails_with_1(tmp_path, capsys):
    flags = ["--sweep", "optimizer.learning_rate", "1e38", "0.001", "--epochs", "1"]
    target = ["--run-dir", str(tmp_path / "sweep")]
    assert main(["sweep", *FAST, "--epsilon", "0.1", *flags, *target]) == 1
    out = capsys.readouterr().out
    assert "failed: epsilon0.1-learning_rate1e+38: the loss became" in out
    assert load_run(tmp_path / "sweep/epsilon0.1-learning_rate0.001").is_complete


def test_unknown_flags_are_refused_with_2():
    with pytest.raises(SystemExit) as exit_info:
        main(["train", "--epsilom", "0.1"])
    assert exit_info.value.code == 2


@pytest.mark.parametrize(
    "command",
    ["train", "sweep", "extend", "evaluate", "certify", "report", "launch", "data"],
)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([command, "--help"])
    assert exit_info.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: jaxrobust" in shown
    if command in ("train", "extend", "evaluate", "certify"):
        assert "units of [0, 1] pixels" in " ".join(shown.replace("│", " ").split())
