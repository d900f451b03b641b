#!/usr/bin/env bash
# The processes of one job on this machine: local.sh NUM_PROCESSES COMMAND [ARGUMENT...]
#
# Each runs COMMAND with the variables of jaxrobust/hosts.py. SIGTERM and SIGINT are
# passed on as SIGTERM. When one fails, the others are told to stop, and after
# JAXROBUST_GRACE_SECONDS (60) killed. The exit code is that of the first that failed.
# Needs bash 5.1.
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
killer=
# Whoever hangs must not keep the machine.
limit_time() {
  [[ -z "$killer" ]] || return 0
  (
    sleep "${JAXROBUST_GRACE_SECONDS:-60}"
    for process in "${!number_of[@]}"; do
      kill -KILL -- "-$process" 2>/dev/null || true
    done
  ) >/dev/null 2>&1 &
  killer=$!
}
stop_all() {
  local process
  for process in "${!number_of[@]}"; do
    kill -TERM "$process" 2>/dev/null || true
  done
  limit_time
}
trap stop_all TERM INT HUP

while ((${#number_of[@]} > 0)); do
  status=0
  wait -n -p ended "${!number_of[@]}" 2>/dev/null || status=$?
  # A signal ends the wait too, with no process.
  [[ -n "${ended:-}" ]] || continue
  number=${number_of[$ended]}
  unset "number_of[$ended]"
  if ((status != 0 && code == 0)); then
    code=$status
    if ((status == 75)); then
      # All were interrupted and end by themselves; a signal now would cut them off.
      limit_time
    else
      echo "local.sh: process $number of $num_processes ended with exit code $status;" \
        "the others are stopped" >&2
      stop_all
    fi
  fi
done
if [[ -n "$killer" ]]; then
  kill -KILL -- "-$killer" 2>/dev/null || true
fi
exit "$code"
