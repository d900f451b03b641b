"""A failure that depends on the company of a test can be replayed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

AWKWARD = """
import pytest

@pytest.mark.parametrize("name", ["b c", "a::b", "[x]", "ä", "@a", "-k"])
def test_{}(name):
    pass

class TestMore:
    def test_that_stands_last(self):
        pass
"""


@pytest.fixture
def run(tmp_path):
    """Runs pytest with this project's `conftest.py` on two files with odd names."""
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").touch()
    for name in ("first", "second"):
        (tmp_path / f"test_{name}.py").write_text(AWKWARD.format(name))

    def run(*arguments):
        environment = os.environ | {"JAXROBUST_TESTS_ORDER": str(tmp_path / "order")}
        command = [sys.executable, "-m", "pytest", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


@pytest.mark.slow
def test_what_a_worker_ran_can_be_run_again_in_its_order(run, tmp_path):
    done = run("-n", "2", "--dist", "load", "test_second.py", "test_first.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"in order: order{os.sep}*.txt" in done.stdout
    one, other = (tmp_path / f"order/gw{worker}.txt" for worker in range(2))
    mine, others = one.read_text().splitlines(), other.read_text().splitlines()
    # Each test ran in one of the workers, and each worker ran some.
    assert len(set(mine + others)) == len(mine) + len(others) == 14
    assert mine and others
    again = run("@order/gw0.txt")
    assert again.returncode == 0, again.stdout + again.stderr
    assert (tmp_path / "order/alone.txt").read_text().splitlines() == mine
    # So it can be done once more.
    assert one.read_text().splitlines() == mine
