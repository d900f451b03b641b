"""Exit codes and last lines, whatever ends a command."""

import errno
import json

import jax
import pytest

from jaxrobust.cli.ending import execute
from jaxrobust.keeping import InUseError
from jaxrobust.references import MODULES
from jaxrobust.threat import LinfBall
from jaxrobust.training import EpsilonSchedule, Interrupted


def within(package, code):
    """A command whose innermost Python code belongs to a package."""
    program = compile(code, "<some file>", "exec")
    return lambda: exec(program, {"__package__": package, "__name__": package})


def ending(command, capsys):
    code = execute("program", command)
    text = capsys.readouterr().err
    assert text.startswith("program: ") and text.count("\n") == 1
    return code, text.removeprefix("program: ").rstrip()


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    "command",
    [
        lambda: EpsilonSchedule(end=-1.0),
        lambda: LinfBall(float("nan")),
        within("jaxrobust.data", "raise ValueError('too many')"),
        within("experiments.large_perturbations", "raise TypeError('no number')"),
        within(f"{MODULES}.own", "raise ValueError('not on Mondays')"),
        # An extra that is not installed.
        within("jaxrobust.interop", "import no_such_package_of_any_kind"),
    ],
)
def test_what_the_library_refuses_is_wrong_usage(command, capsys):
    assert ending(command, capsys)[0] == 2


@pytest.mark.parametrize(
    "command",
    [
        lambda: json.loads("no JSON"),
        lambda: jax.numpy.zeros((2, 3)) @ jax.numpy.zeros((2, 3)),
        within("orbax.checkpoint", "raise ValueError('RESOURCE_EXHAUSTED: disk')"),
        within("torch", "raise ImportError('libcudart.so')"),
        # Mistakes of ours, which say nothing to a user.
        within("jaxrobust.data", "int('x')"),
        within("jaxrobust.data", "one, two = [1]"),
        within("jaxrobust.data", "len(1)"),
        within("jaxrobust.data", "{}['missing']"),
    ],
)
def test_what_others_raise_is_a_fault_with_its_traceback(command):
    with pytest.raises(Exception) as caught:
        execute("program", command)
    assert "please report" in "".join(caught.value.__notes__)


FULL = OSError(errno.ENOSPC, "No space left on device", "runs/a/config.json")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FULL, "runs/a/config.json: No space left on device; free some room there"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "ask for"),
        (InUseError("`run_dir` must not be in use"), "`run_dir` must not be in use"),
        (MemoryError("Unable to allocate 9 GiB"), "out of memory: Unable to allocate"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore"),
            "out of memory: RESOURCE_EXHAUSTED: Out of memory; take smaller batches",
        ),
    ],
)
def test_what_fails_around_the_library_is_a_failure_in_a_line(error, text, capsys):
    code, said = ending(raising(error), capsys)
    assert code == 1 and text in said


def test_an_interruption_with_the_state_saved_is_75(capsys):
    assert ending(raising(Interrupted("saved")), capsys) == (75, "saved")
    assert ending(raising(KeyboardInterrupt()), capsys) == (1, "interrupted")
