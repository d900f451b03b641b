import dataclasses
import os
import re
from pathlib import Path

import pytest

from jaxrobust.launching import (
    Definition,
    Tpu,
    check,
    experiment,
    launch,
    load_definition,
)
from jaxrobust.training import MeshConfig

ROOT = Path(__file__).resolve().parents[2]

FILE = """
from jaxrobust.launching import Definition, experiment
from jaxrobust.training import MeshConfig
job = Definition(
    name="job",
    command=experiment("paper/item", preset="smoke"),
    workdir="runs/job",
    devices_per_host=2,
    mesh=MeshConfig(data=2),
)
other = 3
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A directory with one definition and one experiment of its own."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "definitions.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(directory: Path, name: str, text: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text("#!/bin/sh\n" + text)
    (directory / name).chmod(0o755)


def test_a_definition_is_found_by_name_and_by_file(checkout):
    assert "smoke" in load_definition("job").command
    other = checkout / "more definitions.py"
    other.write_text(FILE.replace("smoke", "cpu"))
    assert "cpu" in load_definition(f"{other}:job").command


def test_the_example_of_the_readme_is_a_job(tmp_path, monkeypatch, capsys):
    text = (ROOT / "launch" / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mine.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    assert launch("slurm", "mine.py:job", dry_run=True) == 0
    script = capsys.readouterr().out
    assert "\nmodule load cuda\nsource .venv/bin/activate\n" in script
    assert f"--mesh.data 8 --run-dir {tmp_path}/runs/mine " in script


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "jobb",
            "must be one of job in launch/definitions.py, got 'jobb'; did you mean",
        ),
        ("other", "must be one of job in .*, got 'other'; choose one of these"),
        ("nowhere.py:job", "got 'nowhere.py'; it is no Python file here"),
        ("launch:job", "got 'launch'; it is no Python file here"),
    ],
)
def test_a_definition_that_is_not_there_is_refused(name, message, checkout):
    with pytest.raises(ValueError, match=message):
        load_definition(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("workdir=", "work_dir="),
            "`Definition` must be made of the fields name, comm",
        ),
        (
            ("data=2", "dta=2"),
            r"`MeshConfig` must be made of the fields member, data, got .*dta",
        ),
        (
            ('    workdir="runs/job",\n', ""),
            "`Definition` must be made of .*missing .*workdir",
        ),
        (
            (', preset="smoke"', ""),
            "`experiment` must be made of the fields item, preset, .*missing .*preset",
        ),
    ],
)
def test_an_unknown_field_is_refused_with_those_there_are(change, message, checkout):
    (checkout / "launch" / "definitions.py").write_text(FILE.replace(*change))
    with pytest.raises(ValueError, match=message):
        load_definition("job")


def test_an_error_of_the_file_itself_is_not_hidden(checkout):
    (checkout / "launch" / "definitions.py").write_text("1 + ''")
    with pytest.raises(TypeError, match="unsupported operand"):
        load_definition("job")


def runs(item: str, preset: str = "smoke", **settings):
    """The change of a definition that makes it run an experiment."""
    return {"command": experiment(item, preset=preset, **settings)}


SWEEP = Definition(
    name="job",
    command=experiment("large_perturbations/table1", preset="smoke"),
    workdir="runs/job",
    devices_per_host=2,
    mesh=MeshConfig(data=2),
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            runs("large_perturbations/table1", "smok"),
            "`preset` must be one of smoke, .*, got 'smok'",
        ),
        (
            runs("large_perturbations/table9"),
            "of .*large_perturbations/table1",
        ),
        (runs("elsewhere/table1"), "of .*large_perturbations.*, got 'elsewh"),
        (
            runs("runner/main"),
            "`experiment` must be one of .*, got 'runner/main",
        ),
        ({"start_from": ("runs/none",)}, "`start_from` must be directories that exist"),
        (
            {"devices_per_host": 3, "mesh": MeshConfig(data=3)},
            r"divisible by the 3 devices of the data axis, got 32; use 30 or 33",
        ),
        (
            runs("large_perturbations/table1", batch_size=15),
            r"divisible by the 2 devices of the data axis, got 15; use 14 or 16",
        ),
    ],
)
def test_what_is_not_there_is_refused_before_submission(changes, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    check(SWEEP, "slurm")
    with pytest.raises(ValueError, match=message):
        check(dataclasses.replace(SWEEP, **changes), "slurm")


def test_experiments_are_looked_for_where_the_hosts_have_this_directory(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check(SWEEP, "kubernetes")
    with pytest.raises(ValueError, match=r"got 'large_pert.*'; go to the checkout"):
        check(SWEEP, "slurm")


def test_a_program_is_looked_for_on_this_machine():
    job = Definition(name="job", command=("no-such-program",), workdir="w")
    check(job, "slurm")
    with pytest.raises(ValueError, match="`command` must be a program that is inst"):
        check(job, "local")


def test_a_start_up_script_is_looked_for():
    tpu = Tpu(
        zone="z",
        accelerator_type="v4-8",
        version="v",
        checkout="/code",
        startup_script="no-such.sh",
    )
    job = Definition(name="job", command=("true",), workdir="w", tpu=tpu)
    check(job, "local")
    with pytest.raises(ValueError, match="must be a file on this machine, got 'no-s"):
        check(job, "tpu")


def test_a_dry_run_prints_and_leaves_nothing(checkout, capsys):
    assert launch("slurm", "job", dry_run=True) == 0
    assert "#SBATCH --job-name=job" in capsys.readouterr().out
    assert [path.name for path in checkout.iterdir()] == ["launch"]


def test_a_target_without_its_program_is_refused(checkout, monkeypatch):
    monkeypatch.setattr("jaxrobust.launching.submission.check", lambda *job: None)
    monkeypatch.setenv("PATH", str(checkout / "empty"))
    with pytest.raises(ValueError, match="whose program sbatch is installed here"):
        launch("slurm", "job", dry_run=False)
    assert not (checkout / "runs").exists()


def test_a_job_is_written_beside_its_work_directory_and_submitted(
    checkout, monkeypatch, capfd
):
    monkeypatch.setattr("jaxrobust.launching.submission.check", lambda *job: None)
    programs = checkout / "programs"
    program(programs, "sbatch", 'echo "submitted $@"; exit 5')
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    assert launch("slurm", "job", dry_run=False) == 5
    path = checkout / "runs" / "job.slurm.sbatch"
    assert f"submitted {path}" in capfd.readouterr().out
    assert "#SBATCH --job-name=job" in path.read_text()


def test_the_whole_runs_when_all_parts_of_an_array_are_done(
    checkout, monkeypatch, capfd
):
    monkeypatch.setattr("jaxrobust.launching.submission.check", lambda *job: None)
    (checkout / "launch" / "definitions.py").write_text(
        FILE.replace("workdir=", "parts=2, workdir=")
    )
    programs = checkout / "programs"
    log = checkout / "log"
    program(programs, "sbatch", f'echo "$@" >>{log}; echo "17;cluster"')
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    assert launch("slurm", "job", dry_run=False) == 0
    runs = checkout / "runs"
    assert log.read_text().splitlines() == [
        f"--parsable {runs}/job.slurm.sbatch",
        f"--dependency=afterok:17 {runs}/whole-job.slurm.sbatch",
    ]
    assert "--array=0-1" in (runs / "job.slurm.sbatch").read_text()
    assert "--array" not in (runs / "whole-job.slurm.sbatch").read_text()
