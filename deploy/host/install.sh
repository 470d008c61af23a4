#!/usr/bin/env bash
# Makes this host one of a Colossus cluster, with plain systemd: Docker, settings, units, images, start.
#
# Can be run again at any time: what is as it should be is left alone, and only services whose unit, settings or image
# have changed are restarted, one after the other. Everything that can be known to be wrong is said before anything is
# changed. Exit codes: 0 done, 64 wrong usage or settings (nothing was changed), 1 anything else.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

SETTINGS=/etc/colossus/environment
UNITS=/etc/systemd/system
# What is to be restarted and why, kept for the next run when this one is broken off. A boot restarts everything.
PENDING=/run/colossus/install.pending
MARK='# Part of Colossus'
# In the order in which they are started.
PLATFORM=(etcd consul-bootstrapper consul haproxy router-config registrator vip-keeper@1)

usage() {
  cat <<END
usage: install.sh [--environment FILE] [--images FILE.tar]... [--only UNIT,...] [--with UNIT,...] [--dns] [--no-start]
       install.sh --uninstall

  --environment FILE   settings for $SETTINGS; the same file on every host
                       (without it the ones that are there are used; environment.example shows them all)
  --images FILE.tar    load these images first (made with: docker save colossus/etcd ... -o FILE.tar)
  --only UNIT,...      of the platform's services only these: ${PLATFORM[*]}
  --with UNIT,...      these units, too, for example registry or example-web@1
  --dns                let this host resolve names that end in .consul (systemd-resolved), or say what to put where
  --no-start           put everything in place, start nothing
  --uninstall          stop the platform on this host and remove its units; settings, data and images stay
  --help               this
END
}

say() { printf '%s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# die CODE WHAT [MEND]
die() {
  printf 'error: %s\n' "$2" >&2
  [ -z "${3:-}" ] || printf '  do:  %s\n' "$3" >&2
  exit "$1"
}

have() { command -v "$1" >/dev/null 2>&1; }

# --- The command line ------------------------------------------------------------------------------------------------

environment='' start=1 uninstall='' dns='' images=() only=() with=()

# value_of OPTION [VALUE]: the value, which must be there.
value_of() { [ -n "${2:-}" ] || die 64 "$1 needs a value" "see install.sh --help"; }

while [ $# -gt 0 ]; do
  case $1 in
    --environment) value_of "$@"; environment=$2; shift ;;
    --images) value_of "$@"; images+=("$2"); shift ;;
    --only) value_of "$@"; IFS=', ' read -ra only <<<"$2"; shift ;;
    --with) value_of "$@"; IFS=', ' read -ra with <<<"$2"; shift ;;
    --dns) dns=1 ;;
    --no-start) start='' ;;
    --uninstall) uninstall=1 ;;
    -h | --help) usage; exit ;;
    *) usage >&2; die 64 "unknown argument $1" ;;
  esac
  shift
done

for unit in "${only[@]}"; do
  case " ${PLATFORM[*]} " in
    *" $unit "*) ;;
    *) die 64 "--only $unit: there is no such service of the platform" "use some of: ${PLATFORM[*]}" ;;
  esac
done

# In the project's tree, or copied to the host beside this directory.
source=
for place in "$here/../../fleet-units" "$here/../fleet-units" "$here/fleet-units"; do
  if [ -f "$place/etcd.service" ]; then
    source=$(cd "$place" && pwd)
    break
  fi
done
[ -n "$source" ] || die 1 "the units are missing" "copy the project's directory fleet-units beside $here"

# template UNIT: its file, which for x@1 is x@.service.
template() {
  case $1 in
    *@*) echo "${1%%@*}@.service" ;;
    *) echo "$1.service" ;;
  esac
}

with=("${with[@]%.service}")
for unit in "${with[@]}"; do
  [ -f "$source/$(template "$unit")" ] || die 64 "--with $unit: there is no $(template "$unit") in $source" \
    "use one of: $(cd "$source" && printf '%s ' *.service)"
  case $unit in
    *@) die 64 "--with $unit: this is a template, an instance is missing" "give it a name: --with ${unit}1" ;;
  esac
done

[ "$(id -u)" -eq 0 ] || die 1 "this needs root" "run it with sudo"
{ have systemctl && [ -d /run/systemd/system ]; } \
  || die 1 "this host is not run by systemd (no /run/systemd/system)" \
    "use a host with systemd, or run the platform of one machine: make up"

# --- Uninstall -------------------------------------------------------------------------------------------------------

ours() { [ -f "$1" ] && grep -q "^$MARK" "$1"; }

if [ -n "$uninstall" ]; then
  # What was linked and is no part of it goes with it: a link to a unit that is gone is of no use.
  systemctl disable --now colossus.target >/dev/null 2>&1 || true
  removed=0
  for file in "$UNITS"/*.service "$UNITS/colossus.target"; do
    if ours "$file"; then
      unit=$(basename "$file")
      case $unit in
        *@.service) unit="${unit%.service}*" ;;
      esac
      systemctl stop "$unit" 2>/dev/null || true
      systemctl reset-failed "$unit" 2>/dev/null || true
      rm -f "$file"
      removed=$((removed + 1))
    fi
  done
  rm -rf --one-file-system "$UNITS/colossus.target.wants"
  if ours /etc/systemd/resolved.conf.d/colossus.conf; then
    rm -f /etc/systemd/resolved.conf.d/colossus.conf
    systemctl try-restart systemd-resolved
  fi
  systemctl daemon-reload
  say "removed $removed units of Colossus"
  say "left alone: $SETTINGS, /var/lib/colossus (the data), and the images (docker images 'colossus/*')"
  exit
fi

# --- Settings --------------------------------------------------------------------------------------------------------

if [ -n "$environment" ]; then
  [ -r "$environment" ] || die 64 "--environment $environment: cannot be read" "name the file with the settings"
  wanted=$environment
else
  [ -r "$SETTINGS" ] || die 64 "there are no settings: $SETTINGS does not exist" \
    "fill in $here/environment.example and give it: install.sh --environment FILE"
  wanted=$SETTINGS
fi

# read_settings FILE [lenient]: fills `read` with what the file says. A wrong line ends it, or is passed over.
read_settings() {
  local line value number=0
  read=()
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    line=${line#"${line%%[![:space:]]*}"}
    line=${line%"${line##*[![:space:]]}"}
    case $line in '' | '#'* | ';'*) continue ;; esac
    [[ $line =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || [ -n "${2:-}" ] \
      || die 64 "$1, line $number: \"$line\" is not NAME=VALUE" "write one setting a line, without export and without blanks around ="
    value=${line#*=}
    case $value in
      \"*\") value=${value#\"} value=${value%\"} ;;
      \'*\') value=${value#\'} value=${value%\'} ;;
    esac
    read[${line%%=*}]=$value
  done <"$1"
}

declare -A read=() setting=() before=()
if [ -r "$SETTINGS" ]; then
  read_settings "$SETTINGS" lenient
  for name in "${!read[@]}"; do before[$name]=${read[$name]}; done
fi
read_settings "$wanted"
for name in "${!read[@]}"; do setting[$name]=${read[$name]}; done

# bad NAME WHY MEND
bad() { die 64 "$wanted: $1=${setting[$1]}: $2" "$3"; }

matches() { [[ ${setting[$1]:-} =~ $2 ]]; }

label='[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?'
host='(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)'

cluster=${setting[COLOSSUS_ETCD_CLUSTER]:-}
endpoints=${setting[ETCD_ENDPOINTS]:-}
[ -n "$cluster$endpoints" ] || die 64 "$wanted: COLOSSUS_ETCD_CLUSTER is missing" \
  "name the hosts that run etcd: COLOSSUS_ETCD_CLUSTER=n1=http://192.0.2.11:2380,n2=http://192.0.2.12:2380,n3=http://192.0.2.13:2380"

members=()
if [ -n "$cluster" ]; then
  # etcd listens on addresses, not on names.
  member_url='https?://([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9a-fA-F:.]+\]):[1-9][0-9]{0,4}'
  IFS=',' read -ra members <<<"$cluster"
  declare -A seen=()
  derived=()
  for member in "${members[@]}"; do
    [[ $member =~ ^[A-Za-z0-9._-]+=$member_url$ ]] \
      || bad COLOSSUS_ETCD_CLUSTER "\"$member\" is not NAME=http://IP:2380" \
        "write members with commas between and without blanks, NAME being the host's name, without its domain"
    for part in "${member%%=*}" "${member#*=}"; do
      [ -z "${seen[$part]:-}" ] || bad COLOSSUS_ETCD_CLUSTER "$part is there twice" "name each host once"
      seen[$part]=1
    done
    url=${member#*=}
    derived+=("${url%:*}:2379")
  done
  case ${#members[@]} in
    1) warn "COLOSSUS_ETCD_CLUSTER has one member: its loss stops every change" ;;
    2 | 4 | 6) warn "COLOSSUS_ETCD_CLUSTER has ${#members[@]} members: these survive no more losses than $((${#members[@]} - 1)) would" ;;
  esac
  [ -n "$endpoints" ] || endpoints=$(IFS=','; echo "${derived[*]}")
fi
IFS=',' read -ra list <<<"$endpoints"
for endpoint in "${list[@]}"; do
  [[ $endpoint =~ ^(https?://)?$host:[1-9][0-9]{0,4}$ ]] \
    || die 64 "$wanted: ETCD_ENDPOINTS: \"$endpoint\" is not http://ADDRESS:2379" "write endpoints with commas between"
done

if [ -n "${setting[COLOSSUS_DOMAIN]:-}" ]; then
  matches COLOSSUS_DOMAIN "^$label(\.$label)*$" || bad COLOSSUS_DOMAIN "it is not a domain name" \
    "use labels of small letters, digits and -, with dots between, for example cluster.local"
fi
if [ -n "${setting[COLOSSUS_CONSUL_SERVERS]:-}" ]; then
  matches COLOSSUS_CONSUL_SERVERS '^[1357]$' || bad COLOSSUS_CONSUL_SERVERS "it is not 1, 3, 5 or 7" "3 is usual"
fi
if [ -n "${setting[COLOSSUS_CONSUL_ROLE]:-}" ]; then
  matches COLOSSUS_CONSUL_ROLE '^(auto|server|client)$' || bad COLOSSUS_CONSUL_ROLE "it is not a role" "use auto, server or client"
fi
if [ -n "${setting[COLOSSUS_PULL]:-}" ]; then
  matches COLOSSUS_PULL '^(never|missing|always)$' || bad COLOSSUS_PULL "Docker knows no such way" "use never, missing or always"
fi
if [ -n "${setting[COLOSSUS_NODE]:-}" ]; then
  matches COLOSSUS_NODE "^$label$" || bad COLOSSUS_NODE "it is not a host name" "use small letters, digits and -"
  warn "COLOSSUS_NODE is set: this file is not the same for every host. The host's own name is the default"
fi
# An empty value is not "not set" to who reads the environment.
for name in "${!setting[@]}"; do
  case $name in
    COLOSSUS_* | ETCD_* | CONSUL_* | ROUTER_* | REGISTRATOR_*)
      [ -n "${setting[$name]}" ] || bad "$name" "it is empty" "give it a value, or put a # before it" ;;
  esac
done

node=${setting[COLOSSUS_NODE]:-}
if [ -z "$node" ]; then
  node=$(cat /proc/sys/kernel/hostname)
  node=${node%%.*}
fi
addresses=$(ip -o addr 2>/dev/null | awk '{ sub("/.*", "", $4); print $4 }') || addresses=
if [ -n "${setting[COLOSSUS_IP]:-}" ] && [ -n "$addresses" ] && ! grep -qxF "${setting[COLOSSUS_IP]}" <<<"$addresses"; then
  bad COLOSSUS_IP "this host does not have this address" "leave it out: the address of the interface with the default route is used"
fi
is_member=
for member in "${members[@]}"; do
  address=${member#*=*://}
  address=${address%:*}
  address=${address#\[}
  address=${address%\]}
  if [ "${member%%=*}" = "$node" ] || grep -qxF "$address" <<<"$addresses"; then
    is_member=1
  fi
done

for file in "${images[@]}"; do
  [ -r "$file" ] || die 64 "--images $file: cannot be read" "make it with: docker save colossus/etcd ... -o $file"
done

vips=${setting[COLOSSUS_VIPS]:-}
IFS=',' read -ra list <<<"$vips"
for vip in "${list[@]}"; do
  [[ $vip =~ ^([a-z0-9][a-z0-9._-]*=)?[0-9a-fA-F.:]+(@[^/:[:space:]]{1,15})?$ ]] \
    || bad COLOSSUS_VIPS "\"$vip\" is not [NAME=]ADDRESS[@INTERFACE]" "write addresses without a prefix length, with commas between"
done

# What this host shall run. Without members there is an etcd elsewhere; without an address, nothing to keep.
selected=()
for unit in "${PLATFORM[@]}"; do
  case " ${only[*]:-${PLATFORM[*]}} " in
    *" $unit "*) ;;
    *) continue ;;
  esac
  case $unit in
    etcd) [ ${#members[@]} -gt 0 ] || continue ;;
    vip-keeper@1)
      if [ -z "$vips" ]; then
        [ ${#only[@]} -eq 0 ] || die 64 "--only $unit: $wanted has no COLOSSUS_VIPS" "give the virtual IP there: COLOSSUS_VIPS=192.0.2.100"
        continue
      fi
      ;;
  esac
  selected+=("$unit")
done
selected+=("${with[@]}")

# Which files are put in place: all, or with --only just these. fleet links its units where ours would hide them.
files=()
if [ ${#only[@]} -eq 0 ]; then
  for file in "$source"/*.service; do
    files+=("$(basename "$file")")
  done
else
  for unit in "${selected[@]}"; do
    files+=("$(template "$unit")")
    # And the other half of a pair: nginx@1 wants php-fpm@1.
    while read -r other; do
      files+=("${other/@%i/@}")
    done < <(sed -n 's/^Wants=//p' "$source/$(template "$unit")" | tr ' ' '\n' | grep '@%i\.service$')
  done
  for unit in "${PLATFORM[@]}"; do
    case " ${selected[*]} " in
      *" $unit "*) ;;
      *) ! ours "$UNITS/$(template "$unit")" || die 1 "$unit is installed here, and --only does not name it" \
        "run install.sh --uninstall first, or name it" ;;
    esac
  done
fi

# Somebody else's unit of the same name is not overwritten; one of a package would be hidden by ours.
for unit in "${files[@]}"; do
  if [ -e "$UNITS/$unit" ] && ! ours "$UNITS/$unit"; then
    die 1 "$UNITS/$unit is not of Colossus" "move it away if this host shall run Colossus"
  fi
  for place in /lib/systemd/system /usr/lib/systemd/system; do
    [ ! -e "$place/$unit" ] || die 1 "a package on this host has its own $unit" \
      "remove the package ($(dpkg -S "$place/$unit" 2>/dev/null | cut -d: -f1 | head -n 1 || true)): here it runs in a container"
  done
done

# --- Docker ----------------------------------------------------------------------------------------------------------

if ! have docker; then
  have apt-get || die 1 "Docker is missing, and this host has no apt to install it with" "install Docker Engine 20.10 or newer"
  say "installing Docker from this host's package sources ..."
  log=$(mktemp)
  # The package has the name of a registry's host: apt takes a pattern for it.
  if ! { DEBIAN_FRONTEND=noninteractive apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends '^docker[.]io$' iptables ca-certificates; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    die 1 "Docker could not be installed" "see all of it in $log"
  fi
  rm -f "$log"
fi
[ -x /usr/bin/docker ] || die 1 "docker is at $(command -v docker), and the units run /usr/bin/docker" "ln -s $(command -v docker) /usr/bin/docker"
systemctl enable --now docker.service >/dev/null 2>&1 || die 1 "Docker does not start" "see why: journalctl -u docker"
version=$(timeout 60 docker version --format '{{.Server.Version}}' 2>/dev/null) || die 1 "Docker does not answer" "see why: journalctl -u docker"
if [[ $version =~ ^([0-9]+)\.([0-9]+) ]] && [ "$((BASH_REMATCH[1] * 100 + 10#${BASH_REMATCH[2]}))" -lt 2010 ]; then
  die 1 "Docker is $version, which is too old" "install 20.10 or newer"
fi

for file in "${images[@]}"; do
  say "loading $file ..."
  docker load -q -i "$file" >/dev/null || die 1 "$file could not be loaded" "make it again with docker save"
done

prefix=${setting[COLOSSUS_IMAGES]:-colossus} tag=${setting[COLOSSUS_TAG]:-latest}
image() { echo "$prefix/${1%%@*}:$tag"; }
present() { docker image inspect "$1" >/dev/null 2>&1; }
missing=()
for unit in "${selected[@]}"; do
  case ${setting[COLOSSUS_PULL]:-never} in
    never) present "$(image "$unit")" || missing+=("$(image "$unit")") ;;
    # While all still runs: an image that its unit has to pull keeps the service away for that long. And a registry on
    # these hosts answers through HAProxy.
    *)
      if [ "${setting[COLOSSUS_PULL]}" = always ] || ! present "$(image "$unit")"; then
        say "pulling $(image "$unit") ..."
        docker pull -q "$(image "$unit")" >/dev/null \
          || die 1 "$(image "$unit") could not be pulled" "see whether the registry answers, and whether it has the image"
      fi
      ;;
  esac
done
[ ${#missing[@]} -eq 0 ] || die 1 "images are missing: ${missing[*]}" \
  "bring them (install.sh --images FILE.tar), or let Docker pull them: COLOSSUS_IMAGES=REGISTRY/colossus and COLOSSUS_PULL=missing"

# --- Files -----------------------------------------------------------------------------------------------------------

# put TARGET MODE: writes what it reads there, as a whole, if it differs. Succeeds when it has written.
put() {
  local next
  mkdir -p "$(dirname "$1")"
  next=$(mktemp "$1.XXXXXX")
  cat >"$next"
  chmod "$2" "$next"
  if cmp -s "$next" "$1"; then
    rm -f "$next"
    return 1
  fi
  mv -f "$next" "$1"
  say "wrote $1"
}

# Where containers reach this host, and where Consul shall answer their DNS.
bridge=$(docker network inspect bridge -f '{{range .IPAM.Config}}{{.Gateway}} {{end}}' 2>/dev/null \
  | tr ' ' '\n' | grep -m 1 -E '^[0-9.]+$') || bridge=172.17.0.1

declare -A changed=()
if [ -r "$PENDING" ]; then
  while read -r unit why; do changed[$unit]=$why; done <"$PENDING"
fi
settings_text() {
  cat "$wanted"
  [ -n "${setting[ETCD_ENDPOINTS]:-}" ] || printf '\n# Added by install.sh: follows from COLOSSUS_ETCD_CLUSTER.\nETCD_ENDPOINTS=%s\n' "$endpoints"
  [ -z "$dns" ] || [ -n "${setting[COLOSSUS_DNS]:-}" ] || printf '\n# Added by install.sh --dns.\nCOLOSSUS_DNS=%s\n' "$bridge"
}
# Read before it is written, since it may be the same file. Only root and the service manager need to read it.
text=$(settings_text)
if put "$SETTINGS" 600 <<<"$text"; then
  read_settings "$SETTINGS"
  for name in "${!read[@]}" "${!before[@]}"; do
    [ "${read[$name]-unset}" != "${before[$name]-unset}" ] || continue
    for unit in "${selected[@]}"; do
      ! grep -qw -- "$name" "$source/$(template "$unit")" || changed[$unit]=settings
    done
  done
fi
for file in "${files[@]}"; do
  if put "$UNITS/$file" 644 <"$source/$file"; then
    for unit in "${selected[@]}"; do
      [ "$(template "$unit")" != "$file" ] || changed[$unit]=unit
    done
  fi
done
put "$UNITS/colossus.target" 644 <"$here/colossus.target" || true

systemctl daemon-reload
systemctl -q add-wants colossus.target "${selected[@]/%/.service}"
systemctl -q enable colossus.target

# --- Names -----------------------------------------------------------------------------------------------------------

if [ -n "$dns" ]; then
  server=${setting[COLOSSUS_DNS]:-$bridge}
  server=${server%%,*}
  port=${setting[COLOSSUS_DNS_PORT]:-53}
  if systemctl -q is-active systemd-resolved; then
    if put /etc/systemd/resolved.conf.d/colossus.conf 644 <<END
$MARK. Names that end in .consul are Consul's; it signs none of them.
[Resolve]
DNS=$server:$port
Domains=~consul
DNSSEC=false
END
    then
      systemctl restart systemd-resolved
    fi
  else
    say "systemd-resolved does not run here, so nothing was changed. With another resolver of this host:"
    say "  dnsmasq:  server=/consul/$server#$port"
    say "  unbound:  stub-zone: name: consul, stub-addr: $server@$port"
  fi
  say "for containers, in /etc/docker/daemon.json:  \"dns\": [\"$server\"], \"dns-search\": [\"service.consul\"]"
  say "or for one:  docker run --dns $server --dns-search service.consul ..."
fi

# --- Start -----------------------------------------------------------------------------------------------------------

[ ${#members[@]} -eq 0 ] || [ -n "$is_member" ] \
  || say "this host ($node) is not named in COLOSSUS_ETCD_CLUSTER: it runs no etcd of its own"

keep_pending() {
  local unit
  mkdir -p "${PENDING%/*}"
  for unit in "${!changed[@]}"; do echo "$unit ${changed[$unit]}"; done >"$PENDING"
}
keep_pending

if [ -z "$start" ]; then
  say "all is in place. Start it with: systemctl start colossus.target"
  exit
fi

# The image that a running service was made from.
container() { case $1 in vip-keeper@*) echo vip-keeper ;; *) echo "${1/@/-}" ;; esac; }
running_image() { docker inspect -f '{{.Image}}' "$(container "$1")" 2>/dev/null; }

# Before the target starts the others: what is new has nothing to be restarted for.
restart=()
for unit in "${selected[@]}"; do
  if systemctl -q is-active "$unit.service"; then
    if [ -z "${changed[$unit]:-}" ] && runs=$(running_image "$unit") \
      && [ "$runs" != "$(docker image inspect -f '{{.Id}}' "$(image "$unit")" 2>/dev/null)" ]; then
      changed[$unit]=image
    fi
    [ -z "${changed[$unit]:-}" ] || restart+=("$unit")
  fi
done
systemctl start colossus.target

# Whether a service that runs does its work: what its container's health check asks.
healthy() {
  case $1 in
    etcd) docker exec etcd /colossus/probe.sh 2381 /health '"health": *"true"' ;;
    consul) docker exec consul /colossus/probe.sh 8500 /v1/status/leader '^"[0-9]' ;;
    haproxy) docker exec haproxy /colossus/probe.sh 80 / '^HTTP/1' ;;
    consul-bootstrapper | registrator | router-config | vip-keeper@*)
      docker exec "$(container "$1")" "/bin/$(container "$1")" healthcheck ;;
    *) systemctl is-active "$1.service" ;;
  esac >/dev/null 2>&1
}

# One that was well is waited for, so that hosts can be done one after the other without ever losing a majority.
unwell=()
for unit in "${restart[@]}"; do
  say "restarting $unit: its ${changed[$unit]} changed"
  was_healthy=
  ! healthy "$unit" || was_healthy=1
  systemctl restart "$unit.service"
  tries=120
  until [ -z "$was_healthy" ] || healthy "$unit"; do
    tries=$((tries - 1))
    if [ "$tries" -eq 0 ]; then
      unwell+=("$unit")
      break
    fi
    sleep 0.5
  done
  unset "changed[$unit]"
  keep_pending
done
rm -f "$PENDING"
[ ${#unwell[@]} -eq 0 ] || die 1 "not well a minute after the restart: ${unwell[*]}" \
  "see why (journalctl -u ${unwell[0]}) before you go on with another host"
say "started: ${selected[*]}"
case " ${selected[*]} " in
  *" consul-bootstrapper "*) unit=consul-bootstrapper ;;
  *) unit=${selected[0]} ;;
esac
say "look at it:  systemctl list-dependencies colossus.target;  journalctl -u $unit -f"
