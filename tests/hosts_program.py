"""One of two processes that add up numbers together, for test_hosts.py."""

import os
import signal
import sys

from jaxrobust import hosts

WORK, *REST = sys.argv[1:]
SPECIAL = int(REST[0]) if REST else -1

# Before the job is joined, as commands that train do it.
received = []
signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
here = hosts.initialize()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

mesh = jax.make_mesh((jax.device_count(),), ("data",))
mine = jnp.full(jax.local_device_count(), float(here.process_id + 1))
rows = NamedSharding(mesh, PartitionSpec("data"))
numbers = jax.make_array_from_process_local_data(rows, mine)
total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))
print(
    f"process {jax.process_index()} of {here.num_processes}, sum {total(numbers)}",
    "primary" if hosts.is_primary() else "",
    flush=True,
)


def work() -> int:
    if WORK == "clean":
        os.kill(os.getpid(), signal.SIGTERM)
        print(f"received {len(received)}", flush=True)
        return 0
    number = 0
    while True:
        number += 1
        if WORK == "collective":
            total(numbers).block_until_ready()
        else:
            sum(range(1000))
        if number == 50 and here.process_id == SPECIAL:
            if WORK == "fail":
                print("failing", file=sys.stderr)
                return 3
            os.kill(os.getpid(), signal.SIGKILL)


try:
    with hosts.lost_hosts_as_errors():
        code = work()
except hosts.HostLostError as error:
    print(f"program: {error}", file=sys.stderr)
    code = 1
sys.exit(hosts.leave(code))
