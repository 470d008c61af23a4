#!/bin/sh
# Starts Consul, in one of two ways:
#
# - One machine (CONSUL_PERMIT is not set): as the only server, with its ports from the environment, so that a second
#   platform runs beside the first. The node is named as the host is; its data survives in a volume, and it does not
#   leave the cluster when it is stopped: it comes back as itself.
# - Managed (CONSUL_PERMIT names a file): as consul-bootstrapper decides. It writes Consul's configuration and, when
#   this host may run Consul, the permit. Consul runs only while the permit is there and says what it said at the
#   start, so never after a boot before it is decided what it may be: the permit lies in a directory that a boot empties.
#
# Exit codes: Consul's own when it ends by itself; 0 when the permit changed or went, or on SIGTERM and SIGINT; 64 for
# a setting that makes no sense.
#
# Consul on a port below 1024 (DNS on 53): `--user 0:65532 --cap-add NET_BIND_SERVICE --cap-add SETUID --cap-add SETGID`.
# Docker gives a user other than root no capability to use, and no-new-privileges voids those of files. So it starts
# as root without any other right and becomes 65532 here, with NET_BIND_SERVICE kept (as an ambient capability).
set -eu

state=${DATA_DIR:-/var/lib/colossus/consul}

log() { echo "colossus-consul: $*" >&2; }

become_unprivileged() {
  set -- --reuid 65532 --regid 65532 --clear-groups -- "$0" "$@"
  # Bit 10 of the bounding set is NET_BIND_SERVICE: whether the container was given it.
  if [ $(((0x$(sed -n 's/^CapBnd:[[:space:]]*//p' /proc/self/status) >> 10) & 1)) -eq 1 ]; then
    set -- --inh-caps +net_bind_service --ambient-caps +net_bind_service "$@"
  fi
  exec setpriv "$@"
}

one_machine() {
  # Flags that newer versions know and open ports by default.
  optional=
  if consul agent -help 2>&1 | grep -q -- '-grpc-tls-port'; then
    optional="-grpc-tls-port=-1"
  fi
  # shellcheck disable=SC2086 # no flag, or one word
  exec consul agent -server -bootstrap-expect=1 -ui \
    -node="$(cat /proc/sys/kernel/hostname)" \
    -data-dir="$state" \
    -bind=127.0.0.1 -client=127.0.0.1 \
    -http-port="${CONSUL_PORT:-8500}" \
    -dns-port="${CONSUL_DNS_PORT:-8600}" \
    -server-port="${CONSUL_SERVER_PORT:-8300}" \
    -serf-lan-port="${CONSUL_SERF_PORT:-8301}" \
    -serf-wan-port=-1 -grpc-port=-1 $optional \
    -hcl='leave_on_terminate = false skip_leave_on_interrupt = true disable_update_check = true performance { raft_multiplier = 1 }' \
    "$@"
}

# Takes what the permit says into `permit`: nothing when it is missing, empty or cannot be read. The shell reads it
# itself: a program for that every second would cost more than all the rest.
read_permit() {
  permit=
  [ -f "$CONSUL_PERMIT" ] && [ -r "$CONSUL_PERMIT" ] || return 0
  while IFS= read -r line || [ -n "$line" ]; do
    permit="$permit$line
"
  done 2>/dev/null <"$CONSUL_PERMIT" || permit=
}

# Waits $1 seconds, or until a signal comes. `sleep` alone would hold up the trap until it has ended.
pause() {
  sleep "$1" &
  wait $! || true
}

# The signal $1 came. Before Consul runs there is only the waiting to end; then it is Consul's to act on.
on_signal() {
  if [ -n "$consul" ]; then
    # A reload is no end.
    [ "$1" = HUP ] || stopping=$1
    kill -s "$1" "$consul" 2>/dev/null || true
  elif [ "$1" != HUP ]; then
    log "SIG$1 while waiting: ending"
    exit 0
  fi
}

# Says what is waited for: when that changes, and every five minutes.
say_waiting() {
  if [ "$1" != "$waiting_for" ] || [ "$polls" -ge 1500 ]; then
    log "waiting for $1"
    waiting_for=$1
    polls=0
  fi
  polls=$((polls + 1))
}

wait_for_permit() {
  waiting_for=
  polls=0
  while :; do
    read_permit
    if [ -z "$permit" ]; then
      say_waiting "the permit $CONSUL_PERMIT, which consul-bootstrapper writes"
    elif [ ! -s "$config" ] || [ ! -r "$config" ]; then
      say_waiting "the configuration $config: the permit is there, but it is missing, empty or not readable"
    else
      return 0
    fi
    pause 0.2
  done
}

# Stops Consul when the permit does not say any more what it said when Consul was started.
heed_permit() {
  read_permit
  [ "$permit" != "$permitted" ] || return 0
  if [ -n "$permit" ]; then
    log "the permit $CONSUL_PERMIT has changed: stopping Consul"
  else
    log "the permit $CONSUL_PERMIT is gone: stopping Consul"
  fi
  stopping=permit
  kill -s TERM "$consul" 2>/dev/null || true
}

managed() {
  case $CONSUL_PERMIT in
    /*) ;;
    *)
      log "CONSUL_PERMIT=$CONSUL_PERMIT is no absolute path: name the file that consul-bootstrapper writes," \
        "as /run/colossus/consul/permit"
      exit 64
      ;;
  esac
  config=$state/config/colossus.json
  consul=
  stopping=
  for signal in TERM INT QUIT HUP; do
    # shellcheck disable=SC2064 # each signal its own trap
    trap "on_signal $signal" "$signal"
  done

  wait_for_permit
  permitted=$permit
  # Of two settings Consul takes the later one: the operator's.
  if [ -d /etc/colossus/consul.d ]; then
    set -- -config-dir /etc/colossus/consul.d "$@"
  fi
  set -- -config-dir "$state/config" "$@"
  log "permitted: starting consul agent $*"
  consul agent "$@" &
  consul=$!

  # The `wait` in `pause` takes notice of Consul's end, too; then there is no such process any more.
  stopping_polls=0
  while kill -0 "$consul" 2>/dev/null; do
    if [ -z "$stopping" ]; then
      pause 1
      heed_permit
    else
      # Who stops the container sees to its own deadline. Without a permit there is nobody else to.
      if [ "$stopping" = permit ] && [ "$stopping_polls" -eq 150 ]; then
        log "Consul has not ended within 30 s: killing it"
        kill -s KILL "$consul" 2>/dev/null || true
      fi
      pause 0.2
      stopping_polls=$((stopping_polls + 1))
    fi
  done

  code=0
  wait "$consul" || code=$?
  if [ -n "$stopping" ]; then
    log "Consul has ended with $code, as it was told to ($stopping)"
    exit 0
  fi
  log "Consul has ended by itself with $code"
  exit "$code"
}

if [ "$(id -u)" -eq 0 ]; then
  become_unprivileged "$@"
fi
# A snapshot is a temporary file first, as large as all of Consul's data; the root file system is read-only. What goes
# wrong here, Consul says better.
export TMPDIR="$state/tmp"
rm -rf "$TMPDIR" && mkdir -p "$TMPDIR" || true
if [ -n "${CONSUL_PERMIT:-}" ]; then
  managed "$@"
else
  one_machine "$@"
fi
