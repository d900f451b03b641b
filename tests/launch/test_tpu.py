"""The script of a TPU slice, really run, with a gcloud that notes what it is told.

Whatever way the script ends, a slice that may still be there must not go unsaid.
"""

import dataclasses
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from jaxrobust.launching import DataDisk, Definition, Tpu, render

DISK = DataDisk(source="projects/p/zones/z/disks/d", mount_path="/mnt/disk")
JOB = Definition(
    name="job",
    command=("echo", "trained in", "{workdir}"),
    workdir="/mnt/runs/job",
    hosts=2,
    max_restarts=1,
    tpu=Tpu(
        zone="z one",
        project="p $X",
        accelerator_type="v4-16",
        version="v",
        checkout="/code",
        startup_script="start.sh",
        start_seconds=1,
    ),
)
DELETION = (
    "gcloud compute tpus tpu-vm delete job '--zone=z one' '--project=p $X' --quiet"
)
LOUD = "IS PAID FOR until it is deleted:"

# Does what the file of the same name says, such as `create`; then `state` is what
# `describe` says. `ssh` runs --command as a worker's shell does.
GCLOUD = """#!/usr/bin/env bash
cd "$PLACE"
{ printf '%s\\0' "${@:4}"; printf '\\1'; } >>calls
if [ -f "$4" ]; then source "./$4"; fi
case "$4" in
  describe) cat state 2>/dev/null ;;
  create) echo READY >state ;;
  delete) rm -f state ;;
  ssh) for word in "$@"; do case "$word" in
    --command=*) cd /; bash -c "${word#--command=}"; exit ;;
  esac; done ;;
esac
"""


class Cloud:
    """A directory with a gcloud and what a worker would have."""

    def __init__(self, place: Path):
        self.place = place
        programs = place / "programs"
        programs.mkdir()
        sudo = '#!/bin/sh\necho "$@" >>"$PLACE/sudo"\n[ ! -f "$PLACE/broken" ]\n'
        no = "#!/bin/sh\nexit 1\n"
        for name, text in {"gcloud": GCLOUD, "sudo": sudo, "mountpoint": no}.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PLACE": str(place),
        }

    def does(self, command: str, text: str) -> None:
        """From now on, `gcloud ... COMMAND` does this first."""
        (self.place / command).write_text(text)

    def start(self, **tpu) -> subprocess.Popen:
        tpu = {"checkout": str(self.place)} | tpu
        job = dataclasses.replace(JOB, tpu=dataclasses.replace(JOB.tpu, **tpu))
        path = self.place / "script.sh"
        path.write_text(render("tpu", job, directory=self.place))
        return subprocess.Popen(
            ["bash", path],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **tpu) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)."""
        return self.end(self.start(**tpu))

    def end(self, process) -> tuple[int, str, str]:
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        return process.returncode, out, err

    def calls(self, command: str | None = None) -> list[list[str]]:
        calls = (self.place / "calls").read_text().split("\1")[:-1]
        words = [call.split("\0")[:-1] for call in calls]
        return [call for call in words if command in (None, call[0])]


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def is_said(err: str) -> bool:
    """Whether the last lines say how to delete the slice."""
    return LOUD in err and DELETION in err.partition(LOUD)[2]


def test_a_job_that_is_done_leaves_no_slice_and_nothing_to_say(cloud):
    code, out, err = cloud.run()
    assert (code, out) == (0, "trained in /mnt/runs/job\n"), err
    commands = [call[0] for call in cloud.calls()]
    assert commands == ["describe", "create", "ssh", "delete"]
    assert not (cloud.place / "state").exists()
    assert LOUD not in err
    # But whoever loses sight of the script has read it at the beginning.
    assert f"paid for until it is deleted: {DELETION}\n" in err


def test_the_slice_is_created_with_what_it_needs(cloud):
    code, _, err = cloud.run(
        data_disk=DISK,
        network="n $X",
        subnetwork="s",
        service_account="a@b",
        is_spot=False,
        options=("--internal-ips", "--description=it's"),
        ssh_options=("--internal-ip",),
    )
    assert code == 0, err
    (create,) = cloud.calls("create")
    assert create[1:] == [
        "job",
        "--zone=z one",
        "--project=p $X",
        "--quiet",
        "--accelerator-type=v4-16",
        "--version=v",
        "--data-disk=source=projects/p/zones/z/disks/d,mode=read-only",
        f"--metadata-from-file=startup-script={cloud.place}/start.sh",
        "--network=n $X",
        "--subnetwork=s",
        "--service-account=a@b",
        "--internal-ips",
        "--description=it's",
    ]
    (ssh,) = cloud.calls("ssh")
    assert ssh[4:7] == ["--quiet", "--worker=all", "--internal-ip"]
    assert (cloud.place / "sudo").read_text().splitlines() == [
        "mkdir -p /mnt/disk",
        "mount -o ro,noload /dev/sdb /mnt/disk",
    ]


@pytest.mark.parametrize(
    ("command", "text", "expected"),
    [
        ("create", "exit 7", 7),
        ("create", "echo READY >state; kill -KILL $$", 137),
        ("ssh", "exit 2", 2),
        ("ssh", "exit 3", 3),
        ("delete", "exit 9", 9),
    ],
)
def test_a_step_that_fails_leaves_no_slice_unsaid(command, text, expected, cloud):
    cloud.does(command, text)
    code, _, err = cloud.run()
    assert code == expected
    assert is_said(err)
    assert len(cloud.calls("ssh")) == {"create": 0, "delete": 1}.get(
        command, 2 if expected == 3 else 1
    )


@pytest.mark.parametrize(
    ("state", "command"),
    [("CREATING", "create"), ("READY", "ssh"), ("PREEMPTED", "delete")],
)
def test_a_slice_of_before_is_not_left_unsaid(state, command, cloud):
    (cloud.place / "state").write_text(state)
    cloud.does(command, "exit 2")
    code, _, err = cloud.run()
    assert code == 2 and is_said(err)


@pytest.mark.parametrize(
    ("tpu", "is_broken", "message"),
    [
        ({"data_disk": DISK}, True, "data disk projects/p/zones/z/disks/d was not mou"),
        ({"checkout": "/no such"}, False, "/no such is missing: neither the data disk"),
    ],
)
def test_a_host_without_its_checkout_is_told_and_not_tried_again(
    tpu, is_broken, message, cloud
):
    if is_broken:
        (cloud.place / "broken").touch()
    code, out, err = cloud.run(**tpu)
    assert (code, out) == (2, "")
    assert message in err and is_said(err)
    assert len(cloud.calls("ssh")) == 1


def test_a_set_up_line_that_fails_is_a_failure(cloud):
    code, out, err = cloud.run(setup=("echo before", "false", "echo after"))
    assert (code, out) == (1, "before\n" * 2)
    assert "1 restarts were not enough" in err and is_said(err)


@pytest.mark.parametrize("command", ["create", "ssh", "delete"])
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGHUP, 129),
        (signal.SIGINT, 130),
        (signal.SIGPIPE, 141),
        (signal.SIGTERM, 143),
    ],
)
def test_a_signal_ends_the_script_at_once_and_not_unsaid(
    command, number, expected, cloud
):
    cloud.does(command, "touch reached; exec sleep 100")
    process = cloud.start()
    deadline = time.monotonic() + 60
    while not (cloud.place / "reached").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    code, _, err = cloud.end(process)
    assert code == expected
    assert is_said(err)


def test_a_slice_that_was_taken_away_is_replaced(cloud):
    cloud.does(
        "ssh", "[ -f taken ] || { touch taken; echo PREEMPTED >state; exit 255; }"
    )
    code, out, err = cloud.run()
    assert (code, out) == (0, "trained in /mnt/runs/job\n"), err
    assert [call[0] for call in cloud.calls() if call[0] != "describe"] == [
        *("create", "ssh", "delete"),
        *("create", "ssh", "delete"),
    ]
    assert LOUD not in err
