"""A job of a user's own, written for every platform, and run on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from jaxrobust.launching import launch

HERE = Path(__file__).parent
WORDS = "jaxrobust train --model own_linen.py:Net --epsilon 0.05 --epochs 2 --resume"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty directory with the user's two files."""
    for name in ("own_job.py", "own_linen.py"):
        shutil.copy(HERE / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("target", ["local", "slurm", "kubernetes", "tpu"])
def test_one_definition_is_a_job_on_every_platform(target, place, capsys):
    assert launch(target, "own_job.py:job", dry_run=True) == 0
    text = capsys.readouterr().out
    root = {"kubernetes": "/data", "tpu": "/mnt/shared/own"}.get(target, str(place))
    own_words = f"--mesh.data 2 --run-dir {root}/runs/own-job"
    if target == "kubernetes":
        (job,) = yaml.safe_load(text)["spec"]["replicatedJobs"]
        pod = job["template"]["spec"]["template"]["spec"]
        text = " ".join(pod["containers"][0]["command"])
        assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert WORDS in text and own_words in text
    hatch = {
        "slurm": "\n#SBATCH --mail-type=FAIL\n",
        "tpu": f"--metadata-from-file=startup-script={place}/mount_shared.sh",
    }
    assert hatch.get(target, "") in text


@pytest.mark.slow
def test_it_runs_on_this_machine_is_stopped_and_goes_on(place):
    path = place / "own_job.py"
    path.write_text(path.read_text().replace("--epochs 2", "--epochs 60"))
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = [sys.executable, "-m", "jaxrobust", "launch", "local", "own_job.py:job"]
    # The processes shall find their devices by the definition alone.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    } | {"PATH": programs, "PYTHONPATH": str(HERE.parents[1])}
    metrics = place / "runs" / "own-job" / "metrics.jsonl"

    def epochs() -> list[int]:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return [json.loads(line)["epoch"] for line in lines]

    process = subprocess.Popen(words, env=environment)
    deadline = time.monotonic() + 300
    while not epochs() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 75
    assert 0 < len(epochs()) < 60
    assert subprocess.run(words, env=environment, timeout=300).returncode == 0
    assert epochs() == list(range(1, 61))
    config = json.loads(metrics.with_name("config.json").read_text())
    assert "own_linen.py:Net" in json.dumps(config)
