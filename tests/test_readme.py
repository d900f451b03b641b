"""The README tells the truth: its example runs, its commands exist."""

import re
import subprocess
from pathlib import Path

import pytest

from jaxrobust.cli import chosen, main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
(EVALUATION,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_the_sweep_runs(tmp_path, monkeypatch, capsys):
    *_, code = EXAMPLES
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    losses = eval(capsys.readouterr().out)
    assert len(losses) == 4 and all(0 < loss < 2.4 for loss in losses.values())


@pytest.mark.slow
def test_the_example_runs_and_is_ten_lines_long(tmp_path, monkeypatch, capsys):
    code, _, _, attack, checks, _ = EXAMPLES
    statements = [line for line in code.splitlines() if line and line[0] not in " )"]
    assert len([line for line in statements if "import" not in line]) <= 10
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    accuracy = float(capsys.readouterr().out.removeprefix("robust accuracy "))
    assert 0.2 < accuracy < 0.9
    # Goes on from there.
    exec(compile(attack, "README.md", "exec"), names)
    robust, tried = capsys.readouterr().out.split(maxsplit=1)
    assert 0.2 < float(robust) < 0.95
    assert len(eval(tried)) == 3 and set(eval(tried)) > {"corner"}
    exec(compile(checks, "README.md", "exec"), names)
    verdict, answers = capsys.readouterr().out.split(maxsplit=1)
    assert verdict in ("pass", "fail", "inconclusive")
    assert set(eval(answers)) == {"single_step", "unbounded", "gradients", "logits"}


@pytest.mark.slow
def test_own_networks_and_objectives_train(tmp_path, monkeypatch, capsys):
    _, network, objective, *_ = EXAMPLES
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(network, "README.md", "exec"), names)
    *progress, said = capsys.readouterr().out.splitlines()
    said = said.removeprefix("accuracy under attack ")
    assert len(progress) == 6
    assert 0.2 < float(said) < 0.95
    # Goes on from there.
    exec(compile(objective, "README.md", "exec"), names)
    assert eval(capsys.readouterr().out) == [
        "weight0.2",
        "weight0.8",
    ]


COMMANDS = re.findall(r"^jaxrobust (\w+)(.*)$", README, re.MULTILINE)


@pytest.mark.parametrize(("command", "flags"), COMMANDS)
def test_commands_and_flags_exist(command, flags, capsys):
    # Commands of commands: the words before the first flag or path.
    nested = re.match(r"(?: [a-z][a-z-]*(?= |$))*", flags).group().split()
    words = [command, *(nested if command in ("data", "limits") else [])]
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    shown = capsys.readouterr().out
    for flag in re.findall(r"--[\w.-]+", flags):
        assert flag in shown


def test_there_are_commands():
    assert {command for command, _ in COMMANDS} >= {
        *("train", "extend", "evaluate", "sweep", "launch"),
    }


def test_pictures_and_links_are_in_the_repository():
    for readme in (ROOT / "README.md", *ROOT.glob("experiments/**/README.md")):
        for target in re.findall(r"\]\(([^)]+)\)", readme.read_text()):
            if target.startswith("http"):
                continue
            path, _, anchor = target.partition("#")
            assert (readme.parent / path).exists()
            if anchor:
                lines = (readme.parent / path).read_text().lower().splitlines()
                heading = anchor.replace("-", " ")
                assert any(line.strip("# ") == heading for line in lines)


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    extraction = re.search(r'command="\$\((.*)\)"', script)
    done = subprocess.run(
        ["bash", "-c", extraction[1]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.startswith("python3 -m venv") and "pytest" in done.stdout


def test_the_settings_of_an_evaluation_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evaluation.toml").write_text(EVALUATION)
    _, command = EVALUATION.partition("\n")[0].split(": jaxrobust ")
    settings = chosen(command.split()).configured().settings
    assert settings.epsilons == (0.1, 0.2, 0.3)
    assert settings.builders()["pgd"].build.num_steps == 100
