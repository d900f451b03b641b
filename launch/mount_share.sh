#!/usr/bin/env bash
# Start-up script of the hosts of a TPU slice (startup_script in definitions.py), run as
# root whenever one boots: mounts the file system that all of them share, on which the
# checkout with its Python, the data and the work directories lie.
set -euo pipefail

# Of a Filestore instance, or any NFS server, in the network of the slice.
server=10.0.0.2
share=/shared
place=/mnt/shared

command -v mount.nfs >/dev/null || {
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y nfs-common
}
mkdir -p "$place"
mountpoint -q "$place" || mount -t nfs "$server:$share" "$place"
