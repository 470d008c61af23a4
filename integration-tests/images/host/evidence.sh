#!/bin/sh
# Writes what can be known of this host to stdout, as a tar. With `disk` only what lies on its disk: then the host
# itself is off or frozen, and this runs beside it.
set -u
out=$(mktemp -d)
cd "$out" || exit 1
PLATFORM='etcd consul-bootstrapper consul haproxy router-config registrator vip-keeper@1 registry keepalived'

# file NAME COMMAND...: what a command says, within a bounded time.
file() {
  name=$1
  shift
  { timeout 10 "$@" || echo "--- '$*' ended with $?"; } >"$name" 2>&1
}

journals() {
  file journal.txt journalctl --no-pager -o short-precise -n 5000 "$@"
  for unit in docker $PLATFORM; do
    file "journal-$unit.txt" journalctl --no-pager -o short-precise -n 5000 -u "$unit.service" "$@"
    grep -q -v -e '^-- ' "journal-$unit.txt" || rm "journal-$unit.txt"
  done
}

etcd_state() {
  for command in 'endpoint status --cluster -w table' 'endpoint health --cluster -w table' 'member list -w table' \
    'alarm list' 'get --prefix /colossus'; do
    echo "--- etcdctl $command"
    # shellcheck disable=SC2086 # words
    docker exec -e ETCDCTL_API=3 etcd etcdctl --command-timeout=3s $command
  done
}

consul_state() {
  for command in 'members -detailed' 'operator raft list-peers' 'operator raft list-peers -stale' 'operator autopilot get-config' info; do
    echo "--- consul $command"
    # shellcheck disable=SC2086 # words
    docker exec consul consul $command
  done
  for path in status/leader agent/services catalog/nodes catalog/services operator/autopilot/health; do
    echo "--- /v1/$path"
    curl -sS -m 3 "http://127.0.0.1:8500/v1/$path"
    echo
  done
}

network() {
  for command in 'ip addr' 'ip route' 'ip neigh' 'nft list ruleset' 'ss -tanp'; do
    echo "--- $command"
    $command
  done
}

machine() {
  for command in uptime 'df -h' 'free -m' 'systemctl --failed' 'cat /etc/colossus/environment' 'find /run/colossus /var/lib/colossus -maxdepth 3 -ls'; do
    echo "--- $command"
    $command
  done
}

# Functions are unknown to `timeout`; their commands have bounds of their own, or cannot hang.
if [ "${1:-}" = disk ]; then
  journals --directory /var/log/journal
else
  journals
  file units.txt systemctl list-units --all --no-pager --type service,target,timer
  file docker-ps.txt docker ps -a --no-trunc
  file haproxy-stats.csv curl -sS -m 3 'http://127.0.0.1:8404/;csv'
  for admin in 9101:registrator 9102:router-config 9103:consul-bootstrapper 9104:vip-keeper; do
    for path in status metrics; do
      file "${admin#*:}-$path.txt" curl -sS -m 3 "http://127.0.0.1:${admin%%:*}/$path"
    done
  done
  etcd_state >etcd.txt 2>&1
  consul_state >consul.txt 2>&1
  network >network.txt 2>&1
  machine >machine.txt 2>&1
fi
cp /var/lib/colossus/router/haproxy.cfg* . 2>/dev/null
cp /var/lib/colossus/consul/config/colossus.json consul-config.json 2>/dev/null
tar -cf - .
cd / && rm -rf "$out"
