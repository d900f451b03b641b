"""The command line as a process: storage, streams and platforms that are not there."""

import os
import subprocess
import sys

import pytest

from jaxrobust.training import load_run

FAST = ["--model", "linear", "--train-size", "96", "--batch-size", "32"]
FAST += ["--epsilon", "0.1", "--epochs", "1"]


def jaxrobust(*arguments, shell='exec "$@"', variables=(), **options):
    """The finished process of a command, which a line for the shell starts."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    command = [sys.executable, "-m", "jaxrobust", *map(str, arguments)]
    return subprocess.run(
        ["bash", "-c", shell, "bash", *command],
        env={**os.environ, **dict(variables)},
        check=False,
        **streams,
    )


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run whose training told a pipe that nobody read any more."""
    directory = tmp_path_factory.mktemp("processes") / "run"
    reader, writer = os.pipe()
    os.close(reader)
    done = jaxrobust("train", *FAST, "--run-dir", directory, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    return directory


@pytest.mark.slow
def test_training_outlives_the_reader_of_its_output(run_dir):
    assert load_run(run_dir).is_complete


@pytest.mark.slow
def test_a_limit_on_files_is_a_failure_in_one_line(tmp_path):
    # Of Orbax, in threads of its own: it tells of it three times.
    target = tmp_path / "run"
    done = jaxrobust(
        *("train", *FAST, "--run-dir", target),
        shell='ulimit -f 2; exec "$@"',
        variables={"JAX_ENABLE_COMPILATION_CACHE": "false"},
    )
    assert done.returncode == 1
    text = done.stderr.decode()
    assert text.startswith(f"jaxrobust: {target}") and text.count("\n") == 1
    assert text.endswith("raise the limit on the size of files (ulimit -f).\n")


EVALUATE = ["--set", "num_steps", "1", "--num-images", "20"]


@pytest.mark.slow
def test_an_encoding_without_greek_letters_costs_no_result(run_dir, tmp_path):
    output = tmp_path / "numbers.json"
    ascii = {"PYTHONIOENCODING": "ascii"}
    command = ["evaluate", run_dir, *EVALUATE, "--output", output]
    done = jaxrobust(*command, variables=ascii)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"| model | clean | ? = 0.3 |" in done.stdout and output.exists()


def test_what_is_only_printed_must_arrive():
    with open("/dev/full", "wb") as full:
        done = jaxrobust("data", "list", stdout=full)
    assert done.returncode == 1
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("jaxrobust: standard output: No space left on device; ")


def test_what_is_written_need_not_be_printed(tmp_path):
    with open("/dev/full", "wb") as full:
        command = ["limits", "theory", "facets", "--output", tmp_path]
        done = jaxrobust(*command, stdout=full)
    assert done.returncode == 0 and (tmp_path / "results.json").exists()
    (line,) = done.stderr.decode().splitlines()
    assert "standard output cannot be written" in line


@pytest.mark.slow
def test_closed_descriptors_are_no_failure_and_no_files(run_dir, tmp_path):
    output = tmp_path / "numbers.json"
    command = ["evaluate", run_dir, *EVALUATE, "--output", output]
    done = jaxrobust(*command, shell='exec "$@" >&- 2>&-')
    # A file that is opened next would have got the number of one of them.
    assert done.returncode == 0
    assert output.read_bytes().startswith(b"{") and output.read_bytes()[-2:] == b"}\n"


def test_help_may_be_read_in_part():
    reader, writer = os.pipe()
    os.close(reader)
    done = jaxrobust("--help", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["quantum", "rocm"])
@pytest.mark.slow
def test_a_platform_that_is_not_here_is_named_in_a_line(name, run_dir):
    variables = {"JAX_PLATFORMS": name}
    done = jaxrobust("evaluate", run_dir, *EVALUATE, variables=variables)
    assert done.returncode == 1
    text = done.stderr.decode()
    assert text.startswith("jaxrobust: `JAX_PLATFORMS` must name") and name in text
    assert text.count("\n") == 1


LINES = """
import sys
from jaxrobust.cli.streams import lasting_streams
with lasting_streams():
    print("one")
    sys.stdin.readline()
    print("two")
"""


def test_a_redirected_log_has_its_lines_when_they_are_printed():
    process = subprocess.Popen(
        [sys.executable, "-c", LINES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    assert process.stdout.readline() == "one\n"
    rest, _ = process.communicate("go on\n")
    assert (process.returncode, rest) == (0, "two\n")


LATE = """
import logging, sys
from jaxrobust.cli.streams import lasting_streams

class Late:
    def __init__(self):
        self.itself = self
    def __del__(self, log=logging.getLogger("asyncio")):
        log.error("late")

with lasting_streams():
    logging.basicConfig()
    logging.error("in time")
    late = Late()
    print("the message", file=sys.stderr)
"""


def test_nothing_is_logged_behind_the_message_of_how_a_program_ended():
    done = subprocess.run(
        [sys.executable, "-c", LATE], capture_output=True, text=True, check=True
    )
    assert done.stderr == "ERROR:root:in time\nthe message\n"
