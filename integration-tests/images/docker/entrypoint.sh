#!/bin/sh
# Runs dockerd, and again whenever it ends: killing it is restarting it. Its PID is in /run/docker.pid.
#
# The tests hold it back with /run/hold, as a host holds back a service that was stopped.
set -eu

# In a container the control groups are mounted read-only.
for mount in /sys/fs/cgroup /sys/fs/cgroup/*; do
  if grep -q " $mount " /proc/mounts; then
    mount -o remount,bind,rw "$mount"
  fi
done

while :; do
  if [ ! -e /run/hold ]; then
    # What a killed one leaves behind would keep the next from starting.
    rm -f /run/docker.pid /run/docker/containerd/containerd.pid
    dockerd --host unix:///shared/docker.sock --pidfile /run/docker.pid --log-level warn || true
  fi
  sleep 0.1
done
