#!/usr/bin/env bash
# The processes of one job on this machine: local.sh NUM_PROCESSES COMMAND [ARGUMENT...]
#
# Each runs COMMAND with the variables of jaxrobust/hosts/clusters.py. SIGTERM and SIGINT are
# passed on as SIGTERM. When one fails, the others are told to stop, and after
# JAXROBUST_GRACE_SECONDS (60) killed. The exit code is that of the first that failed.
set -euo pipefail

: "${2:?usage: local.sh NUM_PROCESSES COMMAND [ARGUMENT...]}"
if [[ ! "$1" =~ ^[1-9][0-9]{0,3}$ ]]; then
  echo "local.sh: NUM_PROCESSES must be a number from 1, got '$1'" >&2
  exit 2
fi
num_processes=$1
shift

# No process may get a port that a server on this machine uses already.
if [[ -z "${JAXROBUST_COORDINATOR:-}" ]]; then
  port=$((20000 + RANDOM % 12000))
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    port=$((20000 + RANDOM % 12000))
  done
  JAXROBUST_COORDINATOR="127.0.0.1:$port"
fi
export JAXROBUST_COORDINATOR JAXROBUST_NUM_PROCESSES=$num_processes

# Groups of their own, or Ctrl-C would reach the processes twice: from the terminal and
# from here; the second signal kills.
set -m
declare -A number_of
for ((number = 0; number < num_processes; number++)); do
  JAXROBUST_PROCESS_ID=$number "$@" </dev/null &
  number_of[$!]=$number
done

code=0
# SECONDS at which whoever is left is killed: a process that hangs must not keep the
# machine.
deadline=
limit_time() {
  : "${deadline:=$((SECONDS + ${JAXROBUST_GRACE_SECONDS:-60}))}"
}
stop_all() {
  local each
  for each in "${!number_of[@]}"; do
    kill -TERM "$each" 2>/dev/null || true
  done
  limit_time
}
trap stop_all TERM INT HUP

while ((${#number_of[@]} > 0)); do
  # `wait -n` would be simpler, but bash 5.2 loses processes that were killed before.
  for process in "${!number_of[@]}"; do
    if [[ -n "$deadline" ]] && ((SECONDS >= deadline)); then
      kill -KILL -- "-$process" 2>/dev/null || true
    fi
    ! kill -0 "$process" 2>/dev/null || continue
    status=0
    wait "$process" || status=$?
    number=${number_of[$process]}
    unset "number_of[$process]"
    ((status != 0 && code == 0)) || continue
    code=$status
    if ((status == 75)); then
      # All were interrupted and end by themselves; a signal now would cut them off.
      limit_time
    else
      echo "local.sh: process $number of $num_processes ended with exit code $status;" \
        "the others are stopped" >&2
      stop_all
    fi
  done
  sleep 0.1
done
exit "$code"
