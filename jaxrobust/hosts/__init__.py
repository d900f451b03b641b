"""Jobs of several processes: who this one is, who died, what they tell each other."""

from jaxrobust.hosts.clusters import Cluster, HostOptions, cluster_from
from jaxrobust.hosts.watch import (
    HostLostError,
    Hosts,
    initialize,
    is_loss,
    is_primary,
    leave,
    lost_hosts_as_errors,
)

__all__ = [
    "Cluster",
    "HostLostError",
    "HostOptions",
    "Hosts",
    "cluster_from",
    "initialize",
    "is_loss",
    "is_primary",
    "leave",
    "lost_hosts_as_errors",
]
