import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrobust.keeping import (
    describe_failure,
    open_whole,
    require_local,
    require_writable,
    write_whole,
)


def test_a_file_is_whole_or_what_it_was(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_whole(path, "old")
    with pytest.raises(ZeroDivisionError), open_whole(path) as file:
        file.write(b"half")
        1 / 0  # noqa: B018
    assert path.read_text() == "old"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


LIMITED = """
import resource, sys
from jaxrobust.keeping import describe_failure, write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_whole(sys.argv[1], "x" * 1001)
except OSError as error:
    raise SystemExit(describe_failure(error))
"""


def test_a_disk_that_takes_no_more_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True
    )
    assert done.returncode == 1 and "ulimit -f" in done.stderr
    # The system does not say which file it was.
    assert done.stderr.startswith(str(path))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_that_came_meanwhile_is_left_alone_if_it_is_to_be(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "first", is_new=True)
    with pytest.raises(FileExistsError) as error:
        write_whole(path, "second", is_new=True)
    assert str(path) in describe_failure(error.value)
    assert "choose another name" in describe_failure(error.value)
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_whether_a_file_can_be_written_is_known_beforehand(tmp_path):
    path = tmp_path / "new" / "a.txt"
    require_writable(path)
    assert list(path.parent.iterdir()) == []
    path.write_text("mine")
    require_writable(path)
    assert path.read_text() == "mine" and list(path.parent.iterdir()) == [path]
    for wrong in (path / "b.txt", path.parent, path.with_name("x" * 300)):
        with pytest.raises(OSError) as error:
            require_writable(wrong)
        assert str(wrong) in describe_failure(error.value)
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with open_whole(path) as one, open_whole(path) as other:
        one.write(b"one")
        other.write(b"the other")
    assert path.read_bytes() in (b"one", b"the other")


@pytest.mark.parametrize("name", ["x" * 250, "\N{SNOWMAN}" * 83], ids=["x", "snowman"])
def test_long_names_are_no_longer_under_way(name, tmp_path):
    path = tmp_path / name
    write_whole(path, "as long as a name may nearly be")
    assert path.exists()


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some room"),
        (errno.EACCES, "permission"),
        (errno.EXDEV, "same command again"),
    ],
)
def test_failures_name_the_place_the_reason_and_a_remedy(number, remedy):
    text = describe_failure(OSError(number, os.strerror(number), "/some/place"))
    assert text.startswith(f"/some/place: {os.strerror(number)}; ") and remedy in text
    assert "\n" not in text


@pytest.mark.parametrize("path", ["gs://bucket/run", "s3://a", Path("gs://bucket/run")])
def test_addresses_are_no_paths(path):
    with pytest.raises(ValueError, match=r"`output` must be a path .*mount the bucket"):
        require_local("output", path)


@pytest.mark.parametrize(
    "path", [None, "runs/a", "C:/runs", "a:b", "./gs:/x", Path("a")]
)
def test_paths_are_paths(path):
    require_local("output", path)
