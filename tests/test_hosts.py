import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrobust import hosts
from jaxrobust.hosts import Cluster, HostOptions, cluster_from, watch

EXPLICIT = {
    "JAXROBUST_COORDINATOR": "node1:1234",
    "JAXROBUST_NUM_PROCESSES": "4",
    "JAXROBUST_PROCESS_ID": "2",
}
# Variables of a task that srun started, seen on a cluster of two nodes.
SLURM = {
    "SLURM_JOB_ID": "11",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NODELIST": "n[1-3,7]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
}
# Those of the batch script itself: it is one process of no step.
BATCH = {
    "SLURM_JOB_ID": "11",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_NODELIST": "n[1-3,7]",
    "SLURM_TASKS_PER_NODE": "1(x4)",
}
OMPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
TPU = {"TPU_WORKER_HOSTNAMES": "t0,t1,t2,t3", "TPU_WORKER_ID": "3"}
# As set for the pods of a Kubernetes Indexed Job.
INDEXED = {
    "JAXROBUST_COORDINATOR": "job-0-0.job:1234",
    "JAXROBUST_NUM_PROCESSES": "2",
    "JOB_COMPLETION_INDEX": "1",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (EXPLICIT, Cluster("explicit", "node1:1234", 4, 2)),
        (INDEXED, Cluster("explicit", "job-0-0.job:1234", 2, 1)),
        (EXPLICIT | {"JOB_COMPLETION_INDEX": "1"},
         Cluster("explicit", "node1:1234", 4, 2)),
        (EXPLICIT | SLURM, Cluster("explicit", "node1:1234", 4, 2)),
        (EXPLICIT | {"JAXROBUST_COORDINATOR": "[fd00::1]:1234"},
         Cluster("explicit", "[fd00::1]:1234", 4, 2)),
        ({"JAXROBUST_NUM_PROCESSES": "1"}, None),
        (INDEXED | {"JAXROBUST_NUM_PROCESSES": "1", "JOB_COMPLETION_INDEX": "0"}, None),
        ({name: "" for name in EXPLICIT}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, None),
        (SLURM, Cluster("slurm", "n1:20177", 4, 3)),
        (BATCH, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        (SLURM | {"JAXROBUST_CLUSTER": "none"}, None),
        (SLURM | {"JAXROBUST_CLUSTER": "slurm"}, Cluster("slurm", "n1:20177", 4, 3)),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x12),1", "SLURM_LOCALID": "1"},
         Cluster("slurm", "n1:20177", 4, 3, (1,))),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "4", "CUDA_VISIBLE_DEVICES": "3"},
         Cluster("slurm", "n1:20177", 4, 3)),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "4", "ROCR_VISIBLE_DEVICES": "3"},
         Cluster("slurm", "n1:20177", 4, 3)),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "4", "HIP_VISIBLE_DEVICES": "3"},
         Cluster("slurm", "n1:20177", 4, 3)),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "4", "HIP_VISIBLE_DEVICES": "0,1,2,3"},
         Cluster("slurm", "n1:20177", 4, 3, (0,))),
        # srun --mpi=pmi2 sets the variables of both
        (SLURM | {"PMI_SIZE": "4", "PMI_RANK": "3"},
         Cluster("slurm", "n1:20177", 4, 3)),
        (EXPLICIT | {"WORLD_SIZE": "8", "RANK": "2"},
         Cluster("explicit", "node1:1234", 4, 2)),
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, None),
        ({"WORLD_SIZE": "1", "RANK": "0"}, None),
        # names that anybody may use for something else
        ({"NUM_PROCESSES": "8"}, None),
        ({"WORLD_SIZE": "8"}, None),
        ({"WORLD_SIZE": "large", "RANK": "high"}, None),
        ({"JAX_COORDINATOR_ADDRESS": "n:1", "JAX_NUM_PROCESSES": "1"}, None),
        ({"PMI_SIZE": "4", "PMI_RANK": "1", "JAXROBUST_CLUSTER": "none"}, None),
        ({"PMI_SIZE": "4", "PMI_RANK": "1", "JAXROBUST_NUM_PROCESSES": "1"}, None),
        (OMPI, Cluster("ompi", None, 2, 1)),
        # mpirun starts its daemons with srun
        (SLURM | OMPI, Cluster("ompi", None, 2, 1)),
        (OMPI | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, None),
        (OMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                 "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
         Cluster("ompi", None, 2, 1, (1,))),
        (TPU, Cluster("tpu")),
        (TPU | {"TPU_WORKER_HOSTNAMES": "t0", "TPU_WORKER_ID": "0"}, None),
        (TPU | {"TPU_WORKER_HOSTNAMES": "t0", "MEGASCALE_NUM_SLICES": "2"},
         Cluster("tpu")),
        ({"JAXROBUST_CLUSTER": "tpu"}, Cluster("tpu")),
    ],
)  # fmt: skip
def test_a_process_knows_its_job_by_its_variables(environment, expected):
    assert cluster_from(environment) == expected


def test_options_come_before_variables():
    options = HostOptions(coordinator="node9:99", num_processes=3, process_id=0)
    expected = Cluster("explicit", "node9:99", 3, 0)
    assert cluster_from(EXPLICIT, options) == expected
    assert cluster_from(SLURM, options) == expected
    assert cluster_from(EXPLICIT, HostOptions(process_id=1)).process_id == 1


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[1-3,7]", "n1"),
        ("n[001,007-015],m2", "n001"),
        ("m2,n[1-3]", "m2"),
        ("rack[0-1]n[2-3]", "rack0n2"),
        ("n[1-3]-ib.cluster,m", "n1-ib.cluster"),
    ],
)
def test_the_first_host_of_a_node_list(nodes, first):
    cluster = cluster_from(SLURM | {"SLURM_STEP_NODELIST": nodes})
    assert cluster.coordinator.rpartition(":")[0] == first


def test_jobs_and_steps_on_one_node_use_different_ports():
    def port(job, step):
        variables = {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}
        return int(cluster_from(SLURM | variables).coordinator.rpartition(":")[2])

    ports = {port(job, step) for job in range(100, 150) for step in range(4)}
    assert len(ports) == 200
    assert 20000 <= min(ports) and max(ports) < 32000


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAXROBUST_PROCESS_ID": "1"},
         "`JAXROBUST_COORDINATOR`, `JAXROBUST_NUM_PROCESSES` must be set too, got '"
         "JAXROBUST_PROCESS_ID=1"),
        ({"JAXROBUST_NUM_PROCESSES": "2", "JAXROBUST_PROCESS_ID": "1"},
         "`JAXROBUST_COORDINATOR` must be set too"),
        ({"JAXROBUST_COORDINATOR": "n:1", "JAXROBUST_NUM_PROCESSES": "2"},
         "`JAXROBUST_PROCESS_ID` must be set too"),
        (EXPLICIT | {"JAXROBUST_COORDINATOR": "node1"}, "host:port, got .node1."),
        (EXPLICIT | {"JAXROBUST_COORDINATOR": "node1:http"}, "must be host:port"),
        (EXPLICIT | {"JAXROBUST_COORDINATOR": "node1:70000"}, "must be host:port"),
        (EXPLICIT | {"JAXROBUST_COORDINATOR": ":7000"}, "must be host:port"),
        (EXPLICIT | {"JAXROBUST_NUM_PROCESSES": "two"},
         "`JAXROBUST_NUM_PROCESSES` must be a whole number, got 'two'"),
        (EXPLICIT | {"JAXROBUST_NUM_PROCESSES": "0"}, "must be at least 1, got 0"),
        (EXPLICIT | {"JAXROBUST_PROCESS_ID": "-1"}, "must be a whole number, got '-1'"),
        (EXPLICIT | {"JAXROBUST_PROCESS_ID": "4"},
         r"`JAXROBUST_PROCESS_ID` must be in \[0, 3\], got 4"),
        (EXPLICIT | {"JAXROBUST_NUM_PROCESSES": "1"}, r"must be in \[0, 0\], got 2"),
        (SLURM | {"SLURM_PROCID": "4"}, r"`SLURM_PROCID` must be in \[0, "),
        (SLURM | {"SLURM_PROCID": ""}, "`SLURM_PROCID` must be set"),
        (SLURM | {"SLURM_STEP_NODELIST": ""}, "`SLURM_STEP_NODELIST` must be a list"),
        ({name: value for name, value in OMPI.items() if "hnp" not in name},
         "`JAXROBUST_COORDINATOR` must be set with this version of Open MPI"),
        ({"JAXROBUST_CLUSTER": "slrum"}, "must be one of auto, none, slurm"),
        (BATCH | {"JAXROBUST_CLUSTER": "slurm"}, "start the process with srun"),
        ({"JAXROBUST_CLUSTER": "ompi"}, "start the process with mpirun"),
        # Launchers that are not known: each process would believe that it is alone.
        ({"JAX_COORDINATOR_ADDRESS": "n1:1234", "JAX_NUM_PROCESSES": "2",
          "JAX_PROCESS_ID": "1"},
         r"a job of jax\.distributed, got 'JAX_NUM_PROCESSES=2'; set it to "
         r"host:port of process 0, JAXROBUST_NUM_PROCESSES to \$JAX_NUM_PROCESSES and "
         r"JAXROBUST_PROCESS_ID to \$JAX_PROCESS_ID; or set JAXROBUST_CLUSTER=none"),
        ({"JAX_COORDINATOR_ADDRESS": "n1:1234"},
         "`JAXROBUST_COORDINATOR` must be set in a process of several, got '"
         "JAX_COORDINATOR_ADDRESS=n1:1234"),
        ({"PMI_SIZE": "4", "PMI_RANK": "1"}, "MPICH or Intel MPI, got 'PMI_SIZE=4"),
        ({"MV2_COMM_WORLD_SIZE": "4"}, "MVAPICH, got 'MV2_COMM_WORLD_SIZE=4"),
        ({"WORLD_SIZE": "4", "RANK": "1"}, "torchrun, got 'WORLD_SIZE=4"),
        ({"NUM_PROCESSES": "4", "PROCESS_ID": "1"}, "Kubeflow, got 'NUM_PROCESSES"),
        ({"FLUX_JOB_SIZE": "4", "FLUX_TASK_RANK": "1"}, "Flux, got 'FLUX_JOB_SIZE"),
        # mpiexec of MPICH in a SLURM job: srun started a daemon on each node only
        (SLURM | {"PMI_SIZE": "16", "PMI_RANK": "9"}, "got 'PMI_SIZE=16"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "PMI_SIZE": "2", "PMI_RANK": "1"},
         "got 'PMI_SIZE=2"),
        ({"PMI_SIZE": "4", "JAXROBUST_CLUSTER": "auto"}, "got 'PMI_SIZE=4"),
    ],
)  # fmt: skip
def test_incomplete_and_wrong_settings_are_refused(environment, message):
    with pytest.raises(ValueError, match=message):
        cluster_from(environment)


def test_one_process_is_left_alone(monkeypatch):
    monkeypatch.setattr(watch._State, "hosts", None)
    handler = signal.getsignal(signal.SIGABRT)
    assert hosts.initialize(environment={}) == hosts.Hosts(0, 1, "single")
    assert hosts.is_primary()
    assert signal.getsignal(signal.SIGABRT) is handler
    with pytest.raises(ValueError, match="Gloo"), hosts.lost_hosts_as_errors():
        raise ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")


def test_periods_must_be_positive(monkeypatch):
    monkeypatch.setattr(watch._State, "hosts", None)
    variables = EXPLICIT | {"JAXROBUST_HEARTBEAT_SECONDS": "0"}
    with pytest.raises(ValueError, match="`JAXROBUST_HEARTBEAT_SECONDS` must be at"):
        hosts.initialize(environment=variables)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("UNKNOWN: Gloo all-reduce failed: [pair.cc:547] Connection closed by peer",
         "a reduction over all processes was cut off"),
        ("INTERNAL: Barrier failed because: UNAVAILABLE: Task 3 heartbeat timeout.",
         "process 3 was not heard of any more"),
        ("UNAVAILABLE: tasks are unhealthy (stopped sending heartbeats):\n12\nThe",
         "process 12 was not heard of any more"),
        ("UNAVAILABLE: Socket closed\nmore", "the connection to process 0 was closed"),
        ("INTERNAL: NCCL operation failed: remote process exited\nmore",
         "INTERNAL: NCCL operation failed: remote process exited"),
    ],
)  # fmt: skip
def test_errors_of_a_lost_peer_get_a_name(text, cause, monkeypatch):
    for name in ("is_lost", "exit_code"):
        monkeypatch.setattr(watch._State, name, getattr(watch._State, name))
    monkeypatch.setattr(watch._State, "is_reported", watch.threading.Event())
    monkeypatch.setattr(watch._State, "hosts", hosts.Hosts(1, 4, "explicit"))
    with (
        pytest.raises(
            hosts.HostLostError, match="the last checkpoint is kept"
        ) as found,
        hosts.lost_hosts_as_errors(),
    ):
        raise ValueError(text)
    assert cause in str(found.value)
    with pytest.raises(ValueError, match="`epsilon`"), hosts.lost_hosts_as_errors():
        raise ValueError("`epsilon` must be non-negative")


PROGRAM = Path(__file__).with_name("hosts_program.py")


def start_two(*arguments: str, heartbeat: int = 5, wait: int = 60):
    """Two processes of one job on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {
        "JAXROBUST_COORDINATOR": f"127.0.0.1:{port}",
        "JAXROBUST_NUM_PROCESSES": "2",
        "JAXROBUST_HEARTBEAT_SECONDS": str(heartbeat),
        "JAXROBUST_START_SECONDS": str(wait),
    }
    return [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            env=os.environ | variables | {"JAXROBUST_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]


def ends(processes):
    """(exit code, stdout, stderr) of each; the time is only against a hang."""
    found = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=120)
            found.append((process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return found


def test_two_processes_compute_together_and_end_well():
    for number, (code, out, err) in enumerate(ends(start_two("clean"))):
        assert code == 0, err
        assert f"process {number} of 2, sum 3.0" in out
        assert "received 1" in out, "jax took SIGTERM from its handler"
        assert "jaxrobust" not in err
        assert ("primary" in out) == (number == 0)


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    "work", ["collective", pytest.param("compute", marks=pytest.mark.slow)]
)
def test_a_killed_process_stops_the_other_with_a_message(work, victim):
    found = ends(start_two(work, str(victim)))
    assert found[victim][0] == -signal.SIGKILL
    code, _, err = found[1 - victim]
    assert code == 1
    assert "another process of this job stopped" in err
    assert "start the job again, on any number of hosts, to go on" in err


def test_a_process_that_fails_does_not_wait_for_the_other():
    failed, survivor = ends(start_two("fail", "0"))
    assert failed[0] == 3 and "failing" in failed[2]
    assert survivor[0] == 1
    assert "another process of this job stopped" in survivor[2]


def test_a_job_that_never_comes_together_says_so():
    processes = start_two("clean", wait=2)
    processes[0].kill()
    _, (code, _, err) = ends(processes)
    assert code == 1
    assert "not all 2 processes of this job came to 127.0.0.1:" in err
    assert "JAXROBUST_START_SECONDS" in err
