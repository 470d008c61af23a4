#!/bin/sh
# Starts etcd as the only member of a one-machine platform. Its ports can be set, so that a second platform runs
# beside the first; its data survives in a volume.
set -eu

client=http://127.0.0.1:${ETCD_PORT:-2379}
peer=http://127.0.0.1:${ETCD_PEER_PORT:-2380}

exec etcd --name colossus \
  --data-dir "${DATA_DIR:-/var/lib/colossus/etcd}" \
  --listen-client-urls "$client" --advertise-client-urls "$client" \
  --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
  --initial-cluster "colossus=$peer" \
  --auto-compaction-mode periodic --auto-compaction-retention 1h \
  --logger zap --log-level warn "$@"
