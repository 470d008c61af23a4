#!/usr/bin/env bash
# cluster.sh [up]: starts several hosts on this machine with the platform on them (make cluster), and returns when all
# is ready. cluster.sh down: ends them (make cluster-down).
#
# The hosts are containers with systemd, a Docker engine and an address each; integration-tests/src/cluster makes them.
# Can be run again at any time: what runs and has not changed is left alone, what is missing or was built anew is
# brought to the hosts.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"

export CLUSTER=${CLUSTER:-colossus}
[[ $CLUSTER =~ ^[a-z][a-z0-9-]{0,39}$ ]] \
  || die 64 "CLUSTER=$CLUSTER is not a name for a cluster" "use up to 40 small letters, digits and -, beginning with a letter"
# Where integration-tests/src/cluster/settings.rs writes it.
environment=$TARGET/cluster.env other=
if [ "$CLUSTER" != colossus ]; then
  environment=$TARGET/cluster-$CLUSTER.env other=" CLUSTER=$CLUSTER"
fi

check_settings() {
  export NODES=${NODES:-3} DOMAIN=${DOMAIN:-cluster.local}
  [[ $NODES =~ ^[1-9]$ ]] || die 64 "NODES=$NODES is not a number from 1 to 9" "three are usual: make cluster NODES=3"
  [[ ${CLUSTER_SUBNET:-10.0.0.0/24} =~ ^[0-9]+(\.[0-9]+){2}\.0/24$ ]] \
    || die 64 "CLUSTER_SUBNET=$CLUSTER_SUBNET is not a network A.B.C.0/24" "for example: make cluster CLUSTER_SUBNET=10.213.7.0/24"
  local label='[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?'
  [[ $DOMAIN =~ ^$label(\.$label)*$ && ${#DOMAIN} -le 200 ]] \
    || die 64 "DOMAIN=$DOMAIN is not a domain name" "use labels of small letters, digits and -, with dots between, for example DOMAIN=cluster.local"
}

# With the flags, target and features of the images' own programs: what they have in common is compiled once. Cargo
# takes a library's features from all packages that are named.
compile() {
  local packages=() service
  for service in "$here"/images/service/*.dockerfile; do
    service=$(basename "$service" .dockerfile)
    packages+=(-p "$service")
  done
  cd "$ROOT"
  RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
    cargo build --release --locked --target "$triple" "${packages[@]}" -p integration-tests --bin cluster
}

up() {
  check_settings
  need_docker
  need_rust
  need_disk
  [ -n "${SKIP_IMAGES:-}" ] || "$here/images/build.sh"
  triple=$(cd "$ROOT" && rustc -vV | sed -n 's/^host: //p')
  step host-image "image of the hosts" "$ROOT/integration-tests/images/host/build.sh"
  step cluster-build "compiling what makes the hosts" compile
  COLOSSUS_ROOT=$ROOT CARGO_TARGET_DIR=$TARGET "$TARGET/$triple/release/cluster" up
  say "ready"

  local node=$CLUSTER-n$((NODES < 2 ? 1 : 2)) file=${environment#"$PWD"/}
  cat <<END

  Start something on a host:   docker exec $node docker run -d -p 80 -e SERVICE_NAME=example colossus/example-web
  Ask any host for it:         . $([[ $file = /* ]] || echo ./)$file
                               curl -H "Host: example.\$DOMAIN" http://\$N1_IP/
  Be on a host:                docker exec -it $node bash
  What it is doing:            docker exec $node journalctl -f
  Cut its power, and back on:  docker kill $node; docker start $node
  End it all:                  make cluster-down$other
END
}

# Goes by labels, so it also clears up what a broken start has left, and needs nothing that was built.
down() {
  need_docker
  LOGS=$LOGS/$CLUSTER
  mkdir -p "$LOGS"
  local label=label=colossus.cluster=$CLUSTER hosts disks networks
  mapfile -t hosts < <(docker ps -aq --filter "$label")
  mapfile -t disks < <(docker volume ls -q --filter "$label")
  mapfile -t networks < <(docker network ls -q --filter "$label")
  [ "${#hosts[@]}" -eq 0 ] || step cluster-hosts "removing hosts" docker rm -f -v "${hosts[@]}"
  [ "${#disks[@]}" -eq 0 ] || step cluster-disks "removing their disks" docker volume rm "${disks[@]}"
  [ "${#networks[@]}" -eq 0 ] || step cluster-network "removing their network" docker network rm "${networks[@]}"
  rm -f "$environment"
  say "the cluster '$CLUSTER' is gone: ${#hosts[@]} hosts, ${#disks[@]} disks, ${#networks[@]} networks removed; images stay"
}

case ${1:-up} in
  up) up ;;
  down) down ;;
  *) die 64 "cluster.sh $1: there is no such command" "use up or down" ;;
esac
