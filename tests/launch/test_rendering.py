import dataclasses
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrobust.launching import Definition, Kubernetes, Slurm, Tpu, render
from jaxrobust.launching.definition import TARGETS
from jaxrobust.launching.rendering import command
from jaxrobust.launching.submission import definitions_in
from jaxrobust.training import MeshConfig

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = Path(__file__).with_name("schemas")
COMMITTED = definitions_in(ROOT / "launch" / "definitions.py")

FULL = Definition(
    name="everything",
    experiment="large_perturbations/sweep",
    preset="smoke",
    seed=3,
    hosts=2,
    devices_per_host=2,
    mesh=MeshConfig(member=2, data=2),
    batch_size_per_host=16,
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
    ),
    kubernetes=Kubernetes(
        image="registry/image:1",
        volume_claim="claim",
        namespace="team",
        service_account="runner",
        node_selector={"type": "yes"},
        cpus_per_host=4,
        memory_per_host="8Gi",
    ),
    tpu=Tpu(
        zone="z one",
        accelerator_type="v4-16",
        version="v",
        checkout="/the code",
        project="p $X",
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
    assert "experiments.large_perturbations.sweep" in text


@pytest.mark.parametrize(("target", "name"), SCRIPTS)
def test_scripts_are_valid(target, name, tmp_path):
    path = tmp_path / "script.sh"
    path.write_text(render(target, JOBS[name]))
    subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    # SC1003, SC2016: a \ or $ in single quotes is meant as it stands, in a value.
    words = ["shellcheck", "--exclude=SC1003,SC2016", str(path)]
    checked = subprocess.run(words, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.sh")), ids=str)
def test_committed_scripts_are_valid(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.stat().st_mode & stat.S_IXUSR
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    checked = subprocess.run(["shellcheck", path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def manifest_schema() -> dict:
    kubernetes = json.loads((SCHEMAS / "kubernetes-1.31.json").read_text())
    jobset = json.loads((SCHEMAS / "jobset-v1alpha2.json").read_text())
    return jobset | {"$defs": kubernetes["$defs"]}


@pytest.mark.parametrize("name", JOBS)
def test_manifests_follow_the_published_schemas(name):
    found = list(yaml.safe_load_all(render("kubernetes", JOBS[name])))
    assert len(found) == JOBS[name].parts
    for manifest in found:
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
    given_variables = {each["name"]: each["value"] for each in container["env"]}
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
        # On a worker, --command is run by its shell.
        "gcloud": '#!/usr/bin/env bash\nfor each in "$@"; do case "$each" in'
        ' --command=*) bash -c "${each#--command=}";; esac; done\n',
    }
    for name, text in stubs.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (directory / "launch").mkdir(exist_ok=True)
    (directory / "launch" / "local.sh").write_text(note)
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
@given(workdir=TEXT, preset=TEXT, note=TEXT)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_values_reach_the_program_as_they_are(target, workdir, preset, note, tmp_path):
    job = dataclasses.replace(
        FULL,
        workdir="w" + workdir.replace("/", "").replace("\\", ""),
        preset=preset,
        environment={"NOTE": note},
        start_from=(),
        tpu=dataclasses.replace(FULL.tpu, checkout=str(tmp_path)),
    )
    root = "/data" if target == "kubernetes" else str(tmp_path)
    expected = command(job, f"{root}/{job.workdir}")
    if target == "kubernetes":
        manifest = yaml.safe_load(render(target, job))
        (replicated,) = manifest["spec"]["replicatedJobs"]
        pod = replicated["template"]["spec"]["template"]["spec"]
        # Kubernetes takes $$ for $.
        words = [each.replace("$$", "$") for each in pod["containers"][0]["command"]]
        assert words == expected
        values = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
        assert values["NOTE"].replace("$$", "$") == note
        return
    done, words = run_script(target, job, tmp_path)
    assert done.returncode == 0, done.stderr
    begin = {"local": ["2"], "slurm": ["--kill-on-bad-exit=0", "--wait=60"], "tpu": []}[
        target
    ]
    if target == "tpu":
        expected = expected[1:]  # the program itself notes its arguments
    assert words == [*begin, *expected, f"NOTE={note}", str(tmp_path)]


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
        FULL, parts=2, workdir="w", start_from=(), environment={}, tpu=tpu
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
