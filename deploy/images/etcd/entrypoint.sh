#!/bin/sh
# Starts etcd, in one of two ways:
#
# - One machine (COLOSSUS_ETCD_CLUSTER is not set): as the only member, answering on the loopback address, with its
#   ports from the environment, so that a second platform runs beside the first.
# - A cluster (COLOSSUS_ETCD_CLUSTER=n1=http://10.0.0.11:2380,n2=http://10.0.0.12:2380,...): as the member of that list
#   that this host is. The list is the same on every host. A member is found by its name (COLOSSUS_NODE, else the first
#   label of the host's name), else by its address.
#
# Its data survives in a volume. Exit codes: etcd's own; 64 for a setting that makes no sense; 78 when this host is no
# member, which no restart mends.
#
# What neither decides is etcd's own business: an ETCD_* variable that it knows, as ETCD_QUOTA_BACKEND_BYTES, goes to
# it as it is.
set -eu

data=${DATA_DIR:-/var/lib/colossus/etcd}
certs=/etc/colossus/etcd
cluster=${COLOSSUS_ETCD_CLUSTER:-}
port=${ETCD_PORT:-2379}
peer_port=${ETCD_PEER_PORT:-2380}
health_port=${ETCD_HEALTH_PORT:-2381}
cluster_state=${ETCD_INITIAL_CLUSTER_STATE:-new}
cluster_token=${ETCD_INITIAL_CLUSTER_TOKEN:-colossus}
# Hosts of one network: a lost leader is replaced within a second.
heartbeat=${ETCD_HEARTBEAT_INTERVAL:-100}
election=${ETCD_ELECTION_TIMEOUT:-500}
compaction_mode=${ETCD_AUTO_COMPACTION_MODE:-periodic}
compaction_retention=${ETCD_AUTO_COMPACTION_RETENTION:-1h}
log_level=${ETCD_LOG_LEVEL:-warn}
# etcd warns of a variable that it does not know, and refuses one beside the flag of the same name.
unset ETCD_PORT ETCD_PEER_PORT ETCD_HEALTH_PORT ETCD_ENDPOINTS ETCD_INITIAL_CLUSTER_STATE ETCD_INITIAL_CLUSTER_TOKEN \
  ETCD_HEARTBEAT_INTERVAL ETCD_ELECTION_TIMEOUT ETCD_AUTO_COMPACTION_MODE ETCD_AUTO_COMPACTION_RETENTION \
  ETCD_LOG_LEVEL ETCD_LOGGER

log() { echo "colossus-etcd: $*" >&2; }

# bad MEND WHAT...: a setting that makes no sense, and what to do.
bad() {
  mend=$1
  shift
  log "$*"
  log "  do: $mend"
  exit 64
}

check_cluster_state() {
  case $cluster_state in
    new | existing) ;;
    *)
      bad "leave it out, or set 'existing' for a member that was added to a running cluster" \
        "ETCD_INITIAL_CLUSTER_STATE=$cluster_state is neither new nor existing"
      ;;
  esac
}

is_port() {
  case $1 in
    '' | *[!0-9]* | ??????*) return 1 ;;
  esac
  [ "$1" -ge 1 ] && [ "$1" -le 65535 ]
}

check_port() {
  is_port "$2" || bad "a number from 1 to 65535" "$1=$2 is no port"
}

is_ipv4() {
  case $1 in
    *[!0-9.]* | .* | *. | *..* | *.*.*.*.*) return 1 ;;
    *.*.*.*) ;;
    *) return 1 ;;
  esac
  octets=$1.
  while [ -n "$octets" ]; do
    octet=${octets%%.*}
    octets=${octets#*.}
    case $octet in
      0 | [1-9] | [1-9][0-9] | [1-9][0-9][0-9]) [ "$octet" -le 255 ] || return 1 ;;
      *) return 1 ;;
    esac
  done
}

# An IPv6 address, roughly: etcd parses it again.
is_ipv6() {
  case $1 in
    \[*:*:*\]) ;;
    *) return 1 ;;
  esac
  inner=${1#\[}
  inner=${inner%\]}
  case $inner in
    *[!0-9a-fA-F:.]*) return 1 ;;
  esac
}

# The addresses of this host, one a line: IPv4 from the kernel's routing table, since an image need not have `ip`.
# IPv6 members are found by name only.
addresses_of_host() {
  awk '$1 == "|--" { address = $2 } $1 == "/32" && $3 == "LOCAL" { print address }' /proc/net/fib_trie 2>/dev/null | sort -u
}

refuse_list() {
  bad "COLOSSUS_ETCD_CLUSTER=n1=http://10.0.0.11:2380,n2=http://10.0.0.12:2380,n3=http://10.0.0.13:2380" \
    "COLOSSUS_ETCD_CLUSTER=$cluster: $*"
}

# Takes the entry $1 apart into `name`, `address` and `url`, and sets `scheme` for all.
parse_entry() {
  [ -n "$1" ] || refuse_list "an empty entry (two commas, or one at an end)"
  name=${1%%=*}
  url=${1#*=}
  [ "$name" != "$1" ] || refuse_list "'$1' is not NAME=URL"
  case $name in
    '' | *[!A-Za-z0-9._-]*) refuse_list "'$name' is no name: letters, digits, '.', '_' and '-'" ;;
  esac
  case $url in
    http://*) entry_scheme=http ;;
    https://*) entry_scheme=https ;;
    *) refuse_list "the URL of $name, '$url', does not begin with http:// or https://" ;;
  esac
  [ "${scheme:=$entry_scheme}" = "$entry_scheme" ] || refuse_list "some URLs are http, some https"
  authority=${url#*://}
  address=${authority%:*}
  if [ "$address" = "$authority" ] || ! is_port "${authority##*:}"; then
    refuse_list "the URL of $name, '$url', does not end with a port: no path, and 2380 as a rule"
  fi
  # etcd listens there, and it listens on addresses only.
  is_ipv4 "$address" || is_ipv6 "$address" \
    || refuse_list "the URL of $name, '$url', has no IP address ('$address'): names cannot be listened on"
}

# Reads the whole list; sets `by_name` and `by_address` to the entries that may be this host.
read_list() {
  node=${COLOSSUS_NODE:-}
  if [ -z "$node" ]; then
    node=$(cat /proc/sys/kernel/hostname)
    node=${node%%.*}
  fi
  addresses=$(addresses_of_host | tr '\n' ' ')
  by_name=
  by_address=
  by_address_count=0
  names=,
  authorities=,
  scheme=
  rest=$cluster,
  while [ -n "$rest" ]; do
    entry=${rest%%,*}
    rest=${rest#*,}
    parse_entry "$entry"
    case $names in *",$name,"*) refuse_list "two members are named $name" ;; esac
    case $authorities in *",$authority,"*) refuse_list "two members have the URL $url" ;; esac
    names=$names$name,
    authorities=$authorities$authority,
    [ "$name" != "$node" ] || by_name=$entry
    case " $addresses" in
      *" $address "*)
        by_address=$entry
        by_address_count=$((by_address_count + 1))
        ;;
    esac
  done
  members=${names#,}
  members=${members%,}
}

# Takes apart the entry of this host.
find_member() {
  if [ -n "$by_name" ]; then
    parse_entry "$by_name"
    case " $addresses" in *" $address "*) return 0 ;; esac
    # A host that is another member by its address would start that one's member under a wrong name.
    [ -z "$by_address" ] || refuse_list "this host is named $node, but has the address of '$by_address'"
    case $address in
      \[*) ;;
      *) log "$address is no address of this host: etcd will hardly be able to listen there" ;;
    esac
  elif [ "$by_address_count" -gt 1 ]; then
    refuse_list "this host, $node, has the addresses of several members, and the name of none"
  elif [ -n "$by_address" ]; then
    parse_entry "$by_address"
  else
    log "this host, $node, is no member: COLOSSUS_ETCD_CLUSTER=$cluster has neither its name" \
      "nor one of its addresses (${addresses% })"
    log "  do: nothing, if it shall run no etcd; else add it there, or set COLOSSUS_NODE to its name in the list"
    exit 78
  fi
}

check_certificates() {
  for file in ca cert key; do
    [ -r "$certs/$file.pem" ] \
      || bad "put ca.pem, cert.pem and key.pem there, readable for user 65532, or use http:// URLs" \
        "COLOSSUS_ETCD_CLUSTER has https:// URLs, and $certs/$file.pem is missing or not readable"
  done
}

start_member() {
  check_port ETCD_PORT "$port"
  check_port ETCD_HEALTH_PORT "$health_port"
  check_cluster_state
  read_list
  find_member

  client=$scheme://$address:$port
  listen=$client
  loopback=$scheme://127.0.0.1:$port
  [ "$client" = "$loopback" ] || listen=$listen,$loopback
  if [ "$scheme" = https ]; then
    check_certificates
    set -- --trusted-ca-file "$certs/ca.pem" --cert-file "$certs/cert.pem" --key-file "$certs/key.pem" \
      --client-cert-auth \
      --peer-trusted-ca-file "$certs/ca.pem" --peer-cert-file "$certs/cert.pem" --peer-key-file "$certs/key.pem" \
      --peer-client-cert-auth "$@"
  fi
  if [ -d "$data/member" ]; then
    log "member $name of $members: data is there, going on with it"
  else
    log "member $name of $members: no data yet, cluster state '$cluster_state'"
  fi
  # /health and /metrics are without keys and without a certificate, for this host only.
  exec etcd --name "$name" --data-dir "$data" \
    --listen-client-urls "$listen" --advertise-client-urls "$client" \
    --listen-peer-urls "$url" --initial-advertise-peer-urls "$url" \
    --initial-cluster "$cluster" --initial-cluster-state "$cluster_state" --initial-cluster-token "$cluster_token" \
    --heartbeat-interval "$heartbeat" --election-timeout "$election" \
    --listen-metrics-urls "http://127.0.0.1:$health_port" \
    "$@"
}

start_only_member() {
  client=http://127.0.0.1:$port
  peer=http://127.0.0.1:$peer_port
  exec etcd --name colossus --data-dir "$data" \
    --listen-client-urls "$client" --advertise-client-urls "$client" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
    --initial-cluster "colossus=$peer" \
    "$@"
}

set -- --auto-compaction-mode "$compaction_mode" --auto-compaction-retention "$compaction_retention" \
  --logger zap --log-level "$log_level" "$@"
# fleet speaks etcd's version 2, which nothing else here does.
case ${COLOSSUS_FLEET:-} in
  1) set -- --enable-v2=true "$@" ;;
  '' | 0) ;;
  *) bad "1 where units are run by fleet, else leave it out" "COLOSSUS_FLEET=$COLOSSUS_FLEET is neither 0 nor 1" ;;
esac
if [ -n "$cluster" ]; then
  start_member "$@"
else
  start_only_member "$@"
fi
