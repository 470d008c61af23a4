#!/bin/sh
# Starts Consul as the only server of a one-machine platform.
#
# Every port can be set, so that a second platform runs beside the first. The node is named as the host is; its
# data survives in a volume, and it does not leave the cluster when it is stopped: it comes back as itself.
set -eu

# Flags that newer versions know and open ports by default.
optional=
if consul agent -help 2>&1 | grep -q -- '-grpc-tls-port'; then
  optional="-grpc-tls-port=-1"
fi

# shellcheck disable=SC2086 # no flag, or one word
exec consul agent -server -bootstrap-expect=1 -ui \
  -node="$(cat /proc/sys/kernel/hostname)" \
  -data-dir="${DATA_DIR:-/var/lib/colossus/consul}" \
  -bind=127.0.0.1 -client=127.0.0.1 \
  -http-port="${CONSUL_PORT:-8500}" \
  -dns-port="${CONSUL_DNS_PORT:-8600}" \
  -server-port="${CONSUL_SERVER_PORT:-8300}" \
  -serf-lan-port="${CONSUL_SERF_PORT:-8301}" \
  -serf-wan-port=-1 -grpc-port=-1 $optional \
  -hcl='leave_on_terminate = false skip_leave_on_interrupt = true disable_update_check = true performance { raft_multiplier = 1 }' \
  "$@"
