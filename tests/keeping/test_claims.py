import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jaxrobust.keeping import InUseError, UnclaimedWarning, claimed
from jaxrobust.keeping.claims import fcntl

HOLD = """
import sys, time
from jaxrobust.keeping import claimed
with claimed(sys.argv[1], what="run_dir"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_claim_keeps_others_away_until_its_holder_dies(tmp_path, holder):
    path = tmp_path / "run"
    host = rf"process {holder.pid} on {os.uname().nodename} .* since \d{{4}}-"
    with pytest.raises(InUseError, match=rf"`run_dir` must not be in use.*{host}"):
        with claimed(path, what="run_dir"):
            pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with claimed(path, what="run_dir"):
        assert not path.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_is_waited_for_as_long_as_asked(tmp_path, holder):
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(InUseError):
        with claimed(tmp_path / "run", what="run_dir", wait=0.2):
            pass
    holder.send_signal(signal.SIGKILL)
    with claimed(tmp_path / "run", what="run_dir", wait=30):
        pass


def test_a_claim_ends_with_its_block_also_by_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            with claimed(tmp_path / "new" / "run", what="run_dir"):
                with pytest.raises(InUseError, match=f"process {os.getpid()} on"):
                    with claimed(tmp_path / "new" / "run", what="run_dir"):
                        pass
                1 / 0  # noqa: B018


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UnclaimedWarning, match="no other one writes there"):
        with claimed(tmp_path / "run", what="run_dir"):
            pass


def test_where_a_file_system_is_mounted_the_claim_lies_in_it(tmp_path):
    """Beside it, it would be a file of this machine, or could not be written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system may be mounted here: {error}")
    try:
        with claimed(disk, what="run_dir"):
            assert list(tmp_path.iterdir()) == [disk]
            with pytest.raises(InUseError), claimed(disk, what="run_dir"):
                pass
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


CLAIM_AS_ANYBODY = """
import os, sys
from jaxrobust.keeping import InUseError, claimed
if os.getuid() == 0:
    os.setuid(65534)
with claimed(sys.argv[1], what="run_dir"):
    print(os.listdir(sys.argv[1]))
    try:
        with claimed(sys.argv[1], what="run_dir"):
            pass
    except InUseError:
        print("in use")
"""


def test_where_nothing_may_be_written_beside_it_the_claim_lies_in_it():
    # Not `tmp_path`, whose parents are of one user only.
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent) / "run"
        path.mkdir()
        path.chmod(0o777)
        os.chmod(parent, 0o555)
        try:
            done = subprocess.run(
                [sys.executable, "-c", CLAIM_AS_ANYBODY, str(path)],
                capture_output=True,
                text=True,
            )
        finally:
            os.chmod(parent, 0o755)
    assert done.stdout == "['.lock']\nin use\n", done.stderr


def test_directories_that_a_claim_made_go_with_it_unless_they_are_used(tmp_path):
    path = tmp_path / "new" / "runs" / "run"
    with claimed(path, what="run_dir"):
        assert path.parent.is_dir()
    assert list(tmp_path.iterdir()) == []
    with claimed(path, what="run_dir"):
        path.mkdir()
    assert path.is_dir()
    path.rmdir()
    with claimed(path, what="run_dir"):
        pass
    assert path.parent.is_dir()  # it was there before


def test_a_lock_that_is_removed_while_it_is_taken_is_taken_again(tmp_path, monkeypatch):
    flock, removed = fcntl.flock, []

    def late(descriptor, operation):
        if not removed:
            removed.extend(tmp_path.glob("*.lock"))
            removed[0].unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with claimed(tmp_path / "run", what="run_dir"):
        assert removed == list(tmp_path.glob("*.lock"))
        with pytest.raises(InUseError):
            with claimed(tmp_path / "run", what="run_dir"):
                pass
