import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxrobust import launching

SCRIPT = Path(launching.__file__).with_name("local.sh")

# One process of a job: notes that it is there, then does as its number says.
PROGRAM = """
import os, pathlib, signal, sys, time
number = int(os.environ["JAXROBUST_PROCESS_ID"])
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
names = ["JAXROBUST_COORDINATOR", "JAXROBUST_NUM_PROCESSES", "JAXROBUST_PROCESS_ID"]
line = "|".join([*map(os.environ.get, names), *sys.argv[3:]])
os.write(1, (line + "\\n").encode())
pathlib.Path(sys.argv[1], str(number)).touch()
ends = dict(each.split("=") for each in sys.argv[2].split(","))
end = ends[str(number)]
while end == "wait" and not stopped:
    time.sleep(0.02)
while end == "hang":
    time.sleep(0.02)
if end == "later":
    time.sleep(0.5)
    pathlib.Path(sys.argv[1], "saved").touch()
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(75 if end in ("wait", "later") else int(end))
"""


def start(directory: Path, count: int, ends: str, *arguments: str, **variables: str):
    words = [sys.executable, "-c", PROGRAM, str(directory), ends, *arguments]
    return subprocess.Popen(
        ["bash", str(SCRIPT), str(count), *words],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    """(exit code, stdout, stderr); the time is only against a hang."""
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


def test_all_processes_get_their_numbers_and_one_coordinator(tmp_path):
    code, out, err = end(start(tmp_path, 3, "0=0,1=0,2=0", "a b", "$c'"))
    assert (code, err) == (0, ""), out
    lines = sorted(line.split("|") for line in out.splitlines())
    assert [line[1:] for line in lines] == [
        ["3", str(number), "a b", "$c'"] for number in range(3)
    ]
    (coordinator,) = {line[0] for line in lines}
    host, _, port = coordinator.partition(":")
    assert host == "127.0.0.1" and 20000 <= int(port) < 32000


def test_a_given_coordinator_is_kept(tmp_path):
    process = start(tmp_path, 1, "0=0", JAXROBUST_COORDINATOR="127.0.0.1:999")
    assert end(process)[1].startswith("127.0.0.1:999|")


@pytest.mark.parametrize(("how", "expected"), [("3", 3), ("kill", 137)])
def test_a_failure_stops_the_others(how, expected, tmp_path):
    code, _, err = end(start(tmp_path, 3, f"0=wait,1={how},2=wait"))
    assert code == expected
    assert f"process 1 of 3 ended with exit code {expected}; the others are" in err


def test_a_process_that_does_not_stop_is_killed(tmp_path):
    process = start(tmp_path, 2, "0=hang,1=3", JAXROBUST_GRACE_SECONDS="1")
    assert end(process)[0] == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_processes(number, tmp_path):
    process = start(tmp_path, 2, "0=wait,1=wait")
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    code, _, err = end(process)
    assert code == 75
    assert "the others are stopped" not in err


def test_an_interrupted_process_does_not_cut_the_others_off(tmp_path):
    code, _, err = end(start(tmp_path, 2, "0=75,1=later"))
    assert code == 75 and err == ""
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize("words", [[], ["2"], ["0", "true"], ["two", "true"]])
def test_wrong_usage_is_refused(words):
    done = subprocess.run(["bash", SCRIPT, *words], capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert "usage:" in done.stderr or "must be a number from 1" in done.stderr
