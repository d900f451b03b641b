#!/usr/bin/env bash
# Whether jobs survive SLURM: a cluster of this one machine, a job, an interruption.
#
#   launch/check_slurm.sh            in a checkout, with a Python that has jaxrobust
#
# Sets up munged, slurmctld and slurmd in a temporary directory (as root on Debian it
# installs them first if they are missing) and launches `digits_smoke` as two processes,
# three times: told to stop by SIGTERM, it must save, be requeued, go on from there and
# end well; taken away by `scontrol requeue`, likewise, with the same numbers; and
# cancelled, it must stay away. Then a job as a user has it: `jaxrobust train` with a
# network of her own, a set-up line and options that are full of quotes, interrupted, too.
# Nothing is left behind. A few minutes on two cores.
# Variables: PYTHON (python).
set -euo pipefail

cd "$(dirname "$0")/.."
: "${PYTHON:=python}"
if ! python="$(command -v "$PYTHON")"; then
  echo "check_slurm.sh: PYTHON must be a program, got '$PYTHON'" >&2
  exit 2
fi

say() { printf '== %s\n' "$*"; }
fail() {
  printf 'check_slurm.sh: %s\n' "$*" >&2
  tail -n 40 "$place"/*/*.log "$place"/slurm*.log >&2 || true
  exit 1
}

# wait_for WHAT COMMAND...: until it succeeds, ten minutes at most.
wait_for() {
  local what="$1" end=$((SECONDS + 600))
  shift
  while ((SECONDS < end)); do
    ! "$@" || return 0
    # Often: the training is short, and must be met in its middle.
    sleep 0.2
  done
  fail "$what did not come"
}

if ! command -v slurmctld slurmd munged sbatch >/dev/null; then
  if [[ "$(id -u)" != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "check_slurm.sh: slurm-wlm and munge must be installed" >&2
    exit 1
  fi
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y slurm-wlm munge
fi

place="$(mktemp -d)"
chmod 755 "$place"
# First of all, so that nothing below ever speaks to another cluster.
export SLURM_CONF="$place/slurm.conf"
is_empty() { [[ -z "$(squeue --noheader 2>/dev/null)" ]]; }
clean_up() {
  local second daemon process
  if [[ -s "$place/slurmctld.pid" ]]; then
    scancel --user="$(id -un)" 2>/dev/null || true
    for ((second = 0; second < 40; second++)); do
      ! is_empty || break
      sleep 1
    done
  fi
  for daemon in slurmd slurmctld munged; do
    # Only those that were started here, which may write until they have ended.
    [[ -s "$place/$daemon.pid" ]] || continue
    process="$(<"$place/$daemon.pid")"
    kill "$process" 2>/dev/null || true
    for ((second = 0; second < 10; second++)); do
      kill -0 "$process" 2>/dev/null || break
      sleep 1
    done
  done
  rm -rf "$place"
}
trap clean_up EXIT

user="$(id -un)"
node="$(hostname -s)"
cat >"$SLURM_CONF" <<CONF
ClusterName=check
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# A requeued job waits until its old credential is void, by default two minutes.
AuthInfo=socket=$place/munge.socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
# Two CPUs, whatever the machine has.
SlurmdParameters=config_overrides
KillWait=30
MinJobAge=3600
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd.log
NodeName=$node NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=check Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF
mkdir "$place/state" "$place/spool"

head -c 1024 /dev/urandom >"$place/munge.key"
chmod 400 "$place/munge.key"
munged --force --key-file="$place/munge.key" --socket="$place/munge.socket" \
  --pid-file="$place/munged.pid" --log-file="$place/munged.log" --seed-file="$place/munged.seed"
slurmctld
slurmd
is_ready() { [[ "$(sinfo --noheader --format=%t 2>/dev/null)" == idle ]]; }
wait_for "the node" is_ready
sinfo --version

cat >"$place/jobs.py" <<'JOBS'
"""Jobs of two processes on one node, each in a directory of its own."""

import dataclasses
import os
import sys

from jaxrobust.launching import Definition, Slurm, experiment
from launch.definitions import digits_smoke

PLACE = os.environ["PLACE"]
signalled, requeued, cancelled = (
    dataclasses.replace(
        digits_smoke,
        workdir=f"{PLACE}/{name}/work",
        command=experiment(
            "large_perturbations/sweep",
            preset="smoke",
            # More steps, so that an epoch is not over before it can be interrupted.
            batch_size=8,
            python=sys.executable,
        ),
        slurm=dataclasses.replace(digits_smoke.slurm, hosts_per_node=2),
    )
    for name in ("signalled", "requeued", "cancelled")
)

OWN = (
    f"{sys.executable} -m jaxrobust train --model {PLACE}/own.py:Net --epsilon 0.1"
    " --epochs 4 --train-size 256 --batch-size 4 --attack.step-size 0.05 --resume"
)
own = Definition(
    name="own",
    command=(*OWN.split(), "--mesh.data", "{mesh.data}", "--run-dir", "{workdir}"),
    workdir=f"{PLACE}/own/work",
    hosts=2,
    simulate_devices=True,
    slurm=Slurm(
        time_limit="00:10:00",
        hosts_per_node=2,
        options=(f"--comment={os.environ['COMMENT']}",),
        setup=('test -z "$UNSET" && echo "set up in $PWD"', "export ADDED='of set-up'"),
        container=("env", "WRAPPED=yes"),
    ),
)
JOBS
cat >"$place/own.py" <<'OWN'
"""A network of a user's own, which says what its process was given."""

import os

from flax import linen as nn

print("own network:", os.environ["WRAPPED"], os.environ["ADDED"], flush=True)


class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images, train):
        units = nn.Dense(32)(images.reshape(images.shape[0], -1))
        return nn.Dense(self.num_classes)(nn.relu(units))
OWN
# shellcheck disable=SC2016 # not to be expanded by anybody
export COMMENT='it'\''s "50 %" $HOME $(id) `id` # ; & \\ end'
export PLACE="$place"
# What the programs of a job compile, the next start finds; here as everywhere.
export JAX_COMPILATION_CACHE_DIR="$place/compilations"

# submit NAME: launch it, and set `job` to its number.
submit() {
  local answer
  answer="$("$python" -c '
import sys
from jaxrobust.launching import launch
sys.exit(launch("slurm", sys.argv[1], dry_run=False))
' "$place/jobs.py:$1")"
  job="${answer##* }"
  log="$place/$1/work.slurm-$job.log"
  say "$1: job $job"
}
field() { scontrol show job "$job" | sed -n "s/.*\<$1=\([^ ]*\).*/\1/p"; }
# A whole line of it, behind which scontrol leaves a space.
line_of() { scontrol show job "$job" | sed -n "s/^ *$1=\(.*[^ ]\) *$/\1/p"; }
has_trained() { [[ -n "$(find "$place/$1" -name metrics.jsonl -size +0 2>/dev/null)" ]]; }
is_state() { [[ "$(field JobState)" == "$1" ]]; }
is_over() { [[ "$(field JobState)" =~ ^(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL)$ ]]; }
has_restarted_or_ended() { [[ "$(field Restarts)" != 0 ]] || is_over; }
expect() { grep -q -- "$1" "$log" || fail "the log of job $job does not say: $1"; }
ends_well() {
  wait_for "the restart of job $job" has_restarted_or_ended
  [[ "$(field Restarts)" == 1 ]] || fail "job $job ended before it was interrupted"
  wait_for "the end of job $job" is_over
  say "job $job: $(field JobState), exit code $(field ExitCode), restarts $(field Restarts)"
  grep -E "stopped by|interrupted|REQUEUE|resuming|^report|^done" "$log" | sed "s#$place/##g"
  is_state COMPLETED || fail "job $job did not end well"
  expect "resuming .* at step"
}

submit signalled
wait_for "training" has_trained signalled
scancel --signal=TERM "$job"
say "sent SIGTERM to the steps of job $job, as before its time limit"
ends_well
expect "interrupted with its state saved"

submit requeued
wait_for "training" has_trained requeued
scontrol requeue "$job"
say "requeued job $job, as for a preemption"
ends_well

submit cancelled
wait_for "training" has_trained cancelled
scancel "$job"
say "cancelled job $job"
wait_for "the end of job $job" is_over
# Time enough for a restart, if there were one.
sleep 15
say "job $job: $(field JobState), restarts $(field Restarts)"
is_state CANCELLED || fail "the cancelled job $job came back"

"$python" - "$place/signalled/work" "$place/requeued/work" <<'SAME'
import json
import pathlib
import sys

first, second = (
    [
        {name: value for name, value in row.items() if name != "training_seconds"}
        for row in json.loads(pathlib.Path(each, "results.json").read_text())["rows"]
    ]
    for each in sys.argv[1:]
)
if first != second:
    sys.exit(f"check_slurm.sh: the interrupted jobs differ:\n{first}\n{second}")
SAME
say "both interrupted jobs have the same results"

submit own
[[ "$(line_of Comment)" == "$COMMENT" ]] || fail "the comment is $(line_of Comment)"
wait_for "training" has_trained own
scancel --signal=TERM "$job"
say "sent SIGTERM to the steps of job $job, which trains a user's own network"
ends_well
expect "interrupted with its state saved"
expect "set up in $PWD"
expect "own network: yes of set-up"
epochs="$(wc -l <"$place/own/work/metrics.jsonl")"
((epochs == 4)) || fail "the own job has $epochs epochs instead of 4"
say "own job: $epochs epochs"
tail -n 8 "$place"/signalled/work.slurm-*.log | sed "s#$place/##g"
say "passed"
