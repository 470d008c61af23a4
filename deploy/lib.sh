#!/usr/bin/env bash
# What the scripts of this directory share: settings and their checks, steps with their times, what a machine needs.
# Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
LOGS=$TARGET/log
if ! { mkdir -p "$LOGS" && [ -w "$LOGS" ]; }; then
  echo "error: cannot write to $LOGS (made by another user?)" >&2
  echo "  do:  run this as that user, or name another place: CARGO_TARGET_DIR=/path make ..." >&2
  exit 1
fi

# --- Saying things -------------------------------------------------------------------------------------------------

now_ms() { local now=${EPOCHREALTIME/[.,]/}; echo $((now / 1000)); }

# When the first of our scripts began: one that is called by another counts on.
export COLOSSUS_BEGAN=${COLOSSUS_BEGAN:-$(now_ms)}

seconds() { printf '%d.%d' $(($1 / 1000)) $(($1 % 1000 / 100)); }

say() { printf '[%6ss] %s\n' "$(seconds $(($(now_ms) - COLOSSUS_BEGAN)))" "$*"; }

# die CODE WHAT MEND: ends the script. 64 is bad usage (EX_USAGE), 1 is everything else.
die() {
  printf 'error: %s\n' "$2" >&2
  [ -z "${3:-}" ] || printf '  do:  %s\n' "$3" >&2
  exit "$1"
}

have() { command -v "$1" >/dev/null 2>&1; }

# --- Steps ---------------------------------------------------------------------------------------------------------

declare -A STEP_PID STEP_WHAT STEP_BEGAN

# start_step LOG WHAT COMMAND...: runs COMMAND beside us, its output in target/log/LOG.log.
start_step() {
  local log=$1 what=$2
  shift 2
  say "$what ..."
  STEP_WHAT[$log]=$what
  STEP_BEGAN[$log]=$(now_ms)
  rm -f "$LOGS/$log.end"
  (
    trap 'echo "$? $(now_ms)" >"$LOGS/$log.end"' EXIT
    set -euo pipefail
    "$@"
  ) </dev/null >"$LOGS/$log.log" 2>&1 &
  STEP_PID[$log]=$!
}

# finish_step LOG: waits for it; shows the end of its output and ends the script if it failed.
finish_step() {
  local log=$1 pid=${STEP_PID[$1]} what=${STEP_WHAT[$1]} code=1 ended took
  local next=$((STEP_BEGAN[$log] + 15000))
  # Asked for, not waited for: bash may have reaped it, and something should move while it lasts.
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.05
    if [ "$(now_ms)" -ge "$next" ]; then
      say "  still $what: $(tail -n 1 "$LOGS/$log.log" | tr -d '\r' | cut -c 1-90)"
      next=$((next + 15000))
    fi
  done
  unset "STEP_PID[$log]"
  ended=$(now_ms)
  if [ -e "$LOGS/$log.end" ]; then
    read -r code ended <"$LOGS/$log.end"
  fi
  took=$(seconds $((ended - STEP_BEGAN[$log])))
  if [ "$code" -ne 0 ]; then
    say "FAILED after ${took}s: $what"
    tail -n 25 "$LOGS/$log.log" | sed 's/^/    /' >&2
    die 1 "$what failed" "see all of it in ${LOGS#"$ROOT"/}/$log.log"
  fi
  say "  done in ${took}s: $what"
}

step() {
  start_step "$@"
  finish_step "$1"
}

# What still runs when the script ends must end with it.
end_steps() {
  local pid
  for pid in "${STEP_PID[@]}"; do
    end_tree "$pid" 2>/dev/null
  done
}

# Ends a process of ours and everything it has started.
end_tree() {
  local child children=()
  read -ra children <"/proc/$1/task/$1/children" || true
  for child in "${children[@]}"; do
    end_tree "$child"
  done
  kill -TERM "$1" 2>/dev/null || true
}
trap end_steps EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Logs of what is done to one platform, apart from those of another that starts at the same time.
logs_of_project() {
  LOGS=$LOGS/$PROJECT
  mkdir -p "$LOGS"
}

# --- Settings ------------------------------------------------------------------------------------------------------

# All may be given to make (make up HTTP_PORT=8080) or in the environment. What derives from another setting does so
# to let a second platform run beside the first with few of them.
settings() {
  export PROJECT=${PROJECT:-colossus}
  export DOMAIN=${DOMAIN:-cluster.local}
  export HTTP_PORT=${HTTP_PORT:-80}
  export CONSUL_PORT=${CONSUL_PORT:-8500}
  export ETCD_PORT=${ETCD_PORT:-2379}
  export REGISTRATOR_ADMIN_PORT=${REGISTRATOR_ADMIN_PORT:-9101}
  export ROUTER_ADMIN_PORT=${ROUTER_ADMIN_PORT:-9102}
  export HAPROXY_STATS_PORT=${HAPROXY_STATS_PORT:-8404}

  [[ $PROJECT =~ ^[a-z0-9][a-z0-9_-]{0,40}$ ]] \
    || die 64 "PROJECT=$PROJECT is not a project name" "use small letters, digits, - and _, beginning with a letter or digit"
  local label='[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?'
  [[ $DOMAIN =~ ^$label(\.$label)*$ && ${#DOMAIN} -le 200 ]] \
    || die 64 "DOMAIN=$DOMAIN is not a domain name" "use labels of small letters, digits and -, with dots between, for example DOMAIN=cluster.local"
  local name
  for name in CONSUL_PORT ETCD_PORT; do
    check_port "$name"
  done

  export CONSUL_DNS_PORT=${CONSUL_DNS_PORT:-$((CONSUL_PORT + 100))}
  export CONSUL_SERVER_PORT=${CONSUL_SERVER_PORT:-$((CONSUL_PORT - 200))}
  export CONSUL_SERF_PORT=${CONSUL_SERF_PORT:-$((CONSUL_PORT - 199))}
  export ETCD_PEER_PORT=${ETCD_PEER_PORT:-$((ETCD_PORT + 1))}

  local -A seen=()
  for name in "${PORTS[@]}"; do
    check_port "$name"
    [ -z "${seen[${!name}]:-}" ] \
      || die 64 "$name and ${seen[${!name}]} are both ${!name}" "give each its own port, for example: make up $name=$((10000 + ${!name} % 50000))"
    seen[${!name}]=$name
  done

  if [ -n "${HOST_IP:-}" ]; then
    [[ $HOST_IP =~ ^([0-9]{1,3}\.){3}[0-9]{1,3}$ ]] \
      || die 64 "HOST_IP=$HOST_IP is not an IPv4 address" "leave it out: the gateway of Docker's bridge is used"
  fi
}

PORTS=(HTTP_PORT CONSUL_PORT CONSUL_DNS_PORT CONSUL_SERVER_PORT CONSUL_SERF_PORT ETCD_PORT ETCD_PEER_PORT
  REGISTRATOR_ADMIN_PORT ROUTER_ADMIN_PORT HAPROXY_STATS_PORT)

check_port() {
  [[ ${!1} =~ ^[1-9][0-9]{0,4}$ && ${!1} -le 65535 ]] \
    || die 64 "$1=${!1} is not a port" "use a number from 1 to 65535, for example: make up $1=8080"
}

# --- What the machine needs ----------------------------------------------------------------------------------------

# as_root COMMAND...: as root, if we are or can become it without a question.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif have sudo && sudo -n true 2>/dev/null; then
    sudo -n "$@"
  else
    return 1
  fi
}

# apt_install PACKAGE...: fails where there is no apt or no right to use it.
apt_install() {
  have apt-get && as_root true || return 1
  local log=$LOGS/apt.log
  say "installing $* ..."
  {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" \
      || { as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; }
  } >"$log" 2>&1 || { tail -n 5 "$log" >&2; return 1; }
  hash -r
}

need_docker() {
  have docker || die 1 "Docker is missing" \
    "install Docker Engine (your distribution packages it), start it, and run this again"
  local answer
  if ! answer=$(timeout 20 docker version --format '{{.Server.Version}}' 2>&1); then
    case $answer in
      *"permission denied"*)
        die 1 "no right to use Docker's socket" \
          "add yourself to its group (sudo usermod -aG docker $(id -un)), log in again, or run this as root" ;;
      *)
        printf '%s\n' "$answer" | sed '/^ *$/d' | tail -n 1 | sed 's/^/  docker says: /' >&2
        die 1 "Docker's daemon does not answer${DOCKER_HOST:+ at DOCKER_HOST=$DOCKER_HOST}" \
          "start it (systemctl start docker)${DOCKER_HOST:+, or unset DOCKER_HOST}, and run this again" ;;
    esac
  fi
  case ${DOCKER_HOST:-unix://} in
    unix://*) ;;
    *) die 1 "DOCKER_HOST=$DOCKER_HOST is another machine" "run this on the machine whose containers it is for" ;;
  esac
  local host=${DOCKER_HOST:-unix:///var/run/docker.sock}
  export DOCKER_SOCKET=${DOCKER_SOCKET:-${host#unix://}}
  [ -S "$DOCKER_SOCKET" ] || die 1 "Docker answers, but $DOCKER_SOCKET is not its socket" "name it: make up DOCKER_SOCKET=/path/to/docker.sock"
}

# Sets COMPOSE to the command to use, either of the two.
need_compose() {
  find_compose && return
  apt_install docker-compose-plugin >/dev/null 2>&1 || apt_install docker-compose-v2 >/dev/null 2>&1 \
    || apt_install docker-compose || true
  find_compose || die 1 "docker compose is missing" \
    "install one of the packages docker-compose-plugin, docker-compose-v2 or docker-compose (apt-get install docker-compose)"
}

# shellcheck disable=SC2034 # COMPOSE is for who sources this
find_compose() {
  if docker compose version >/dev/null 2>&1; then
    COMPOSE=(docker compose)
  elif have docker-compose && docker-compose version >/dev/null 2>&1; then
    COMPOSE=(docker-compose)
  else
    return 1
  fi
}

need_rust() {
  if ! have cargo && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
  fi
  have cargo || die 1 "Rust is missing (no cargo in PATH)" \
    "install Rust $(rust_version) with rustup, and run this again in a new shell"
  local answer
  answer=$(cd "$ROOT" && rustc --version 2>&1) || {
    printf '%s\n' "$answer" | tail -n 3 | sed 's/^/  rustc says: /' >&2
    die 1 "Rust $(rust_version), which rust-toolchain.toml names, cannot be used" "rustup toolchain install $(rust_version)"
  }
  # Rust links with it, and one dependency compiles C.
  have cc || apt_install build-essential || die 1 "a C compiler is missing (no cc in PATH)" \
    "install the package build-essential (or gcc and the C library's headers)"
}

# The etcd client's build generates code with it, and needs the definitions that Debian keeps in a package apart.
need_protoc() {
  protoc_works || apt_install protobuf-compiler libprotobuf-dev || true
  protoc_works || die 1 "protoc is missing, or the definitions that belong to it (google/protobuf/*.proto)" \
    "install the packages protobuf-compiler and libprotobuf-dev, or name another protoc: PROTOC=/path/to/protoc make ..."
}

# need_program NAME PACKAGE
need_program() {
  have "$1" || apt_install "$2" || true
  have "$1" || die 1 "the program $1 is missing" "install the package $2"
}

protoc_works() {
  local place works
  place=$(mktemp -d) || return 1
  echo 'syntax = "proto3"; import "google/protobuf/descriptor.proto"; extend google.protobuf.FileOptions { string probe = 50000; }' >"$place/probe.proto"
  "${PROTOC:-protoc}" -I "$place" --descriptor_set_out=/dev/null "$place/probe.proto" >/dev/null 2>&1 && works=0 || works=1
  rm -rf "$place"
  return "$works"
}

rust_version() { sed -n 's/^channel *= *"\(.*\)"/\1/p' "$ROOT/rust-toolchain.toml"; }

need_disk() {
  local place name free
  for name in "$(docker info --format '{{.DockerRootDir}}' 2>/dev/null)" "$TARGET"; do
    place=$name
    while [ ! -d "$place" ] && [ "$place" != / ] && [ -n "$place" ]; do
      place=$(dirname "$place")
    done
    free=$(df -Pk "${place:-/}" 2>/dev/null | awk 'NR == 2 { print int($4 / 1024) }')
    [ "${free:-9999}" -ge "${MIN_DISK_MB:-3000}" ] || die 1 "only $free MB free for $name" \
      "free some: 3 GB are needed (docker system df shows what Docker holds)"
  done
}

# --- Containers and ports ------------------------------------------------------------------------------------------

# container SERVICE: the ID of this project's container for it, running or not.
container() {
  docker ps -aq --no-trunc --filter "label=com.docker.compose.project=$PROJECT" \
    --filter "label=com.docker.compose.service=$1" | head -n 1
}

# Succeeds when something listens on TCP port $1. Prints the sockets' inodes.
listeners() {
  awk -v port="$(printf '%04X' "$1")" '
    $4 == "0A" { split($2, at, ":"); if (at[2] == port) { print $10; found = 1 } }
    END { exit !found }' /proc/net/tcp /proc/net/tcp6 2>/dev/null
}

# owner INODE...: the process that holds one of the sockets, as "name (pid N)", if we may see it.
owner() {
  local inode held pid
  for inode in "$@"; do
    held=$(find /proc/[0-9]*/fd -lname "socket:\[$inode\]" 2>/dev/null | head -n 1) || true
    [ -n "$held" ] || continue
    pid=${held#/proc/}
    pid=${pid%%/*}
    echo "$(cat "/proc/$pid/comm" 2>/dev/null) (pid $pid)"
    return
  done
  echo "another process"
}

# Ends the script if a port is taken by anything but this project's own containers.
check_ports_free() {
  local name port inodes by all
  all=$(docker ps --filter label=dev.colossus.ports \
    --format '{{.Label "com.docker.compose.project"}} {{.Label "dev.colossus.ports"}} ')
  for name in "${PORTS[@]}"; do
    port=${!name}
    inodes=$(listeners "$port") || continue
    by=$(awk -v port="$port" '{ for (i = 2; i <= NF; i++) if ($i == port) { print $1; exit } }' <<<"$all")
    [ "$by" = "$PROJECT" ] && continue
    # shellcheck disable=SC2086 # a list of numbers
    if [ -n "$by" ]; then
      by="the platform '$by' (make down PROJECT=$by ends it)"
    else
      by=$(owner $inodes)
    fi
    die 1 "port $port ($name) is in use by $by" "stop it, or use another port: make up $name=$(free_port "$port")"
  done
}

# A port that is free now, near 10000 above the one that is not.
free_port() {
  local port=$(($1 < 1024 ? $1 + 8000 : $1 % 50000 + 10000)) tries=50
  while listeners "$port" >/dev/null && [ $((tries -= 1)) -gt 0 ]; do
    port=$((port + 1))
  done
  echo "$port"
}

# http_status PORT PATH HOST: the status of GET on the loopback address, or nothing. Needs no curl.
http_status() {
  # shellcheck disable=SC2016 # expanded by the inner bash
  timeout 3 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1"
    printf "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" "$2" "$3" >&3
    read -r _ status _ <&3; echo "$status"' http "$@" 2>/dev/null
}
