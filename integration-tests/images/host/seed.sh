#!/bin/sh
# Hosts come into being with the platform's images, by copying: a `docker load` on each would take longer than all
# the rest.
#
# seed.sh load CONTENT: reads images (docker save) and leaves in /var an engine's data with them, what they are, and no
# engine running.
# seed.sh copy: copies /seed, which is such a /var, into every directory of /nodes, side by side.
set -eu

load() {
  for mount in /sys/fs/cgroup /sys/fs/cgroup/*; do
    if grep -q " $mount " /proc/mounts; then
      mount -o remount,bind,rw "$mount"
    fi
  done
  dockerd --bridge none --iptables=false --ip6tables=false --log-level error --pidfile /run/docker.pid &
  tries=300
  until docker version >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { echo 'the engine does not answer' >&2; exit 1; }
    sleep 0.1
  done
  docker load
  kill -TERM "$(cat /run/docker.pid)"
  wait
  # Each engine that grows from this is one of its own.
  rm -rf /var/lib/docker/network /var/lib/docker/engine-id /var/lib/docker/containerd
  printf '%s' "$1" >/var/.seed-complete
}

copy() {
  copies=
  for node in /nodes/*; do
    cp -a --reflink=auto /seed/. "$node/" &
    copies="$copies $!"
  done
  for copy in $copies; do
    wait "$copy"
  done
}

"$@"
