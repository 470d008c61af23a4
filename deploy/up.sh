#!/usr/bin/env bash
# Starts the one-machine platform (make up) and returns when it is ready.
#
# Can be run again at any time: what runs and has not changed is left alone. Everything that can be known to fail is
# checked before anything is built or started.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"

# The services of the compose file, in the order in which they become ready.
PARTS=${PARTS:-etcd consul haproxy registrator router-config}
read -ra parts <<<"$PARTS"

compose() {
  "${COMPOSE[@]}" -f "$here/compose.yml" -p "$PROJECT" "$@"
}

# The address of this host that its containers' published ports answer at and that never leaves the machine.
bridge_gateway() {
  docker network inspect bridge -f '{{range .IPAM.Config}}{{.Gateway}} {{end}}' 2>/dev/null \
    | tr ' ' '\n' | grep -m 1 -E '^[0-9.]+$' || echo 172.17.0.1
}

# healthy SERVICE: runs the container's own health check now, instead of waiting for its next turn.
healthy() {
  local id check
  id=$(container "$1")
  [ -n "$id" ] || { echo "it has no container"; return 1; }
  mapfile -t check < <(docker inspect -f '{{range .Config.Healthcheck.Test}}{{println .}}{{end}}' "$id" | sed '/^$/d')
  timeout 10 docker exec "$id" "${check[@]:1}"
}

# wait_ready SERVICE: until it is healthy, at most READY_TIMEOUT seconds.
wait_ready() {
  local deadline=$(($(now_ms) + ${READY_TIMEOUT:-90} * 1000)) id said last=
  until said=$(healthy "$1" 2>&1); do
    [ "$said" = "$last" ] || echo "$said"
    last=$said
    if [ "$(now_ms)" -gt "$deadline" ]; then
      id=$(container "$1")
      [ -z "$id" ] || docker logs --tail 15 "$id" 2>&1
      echo "$1 is not ready after ${READY_TIMEOUT:-90}s"
      return 1
    fi
    sleep 0.2
  done
}

# Until HAProxy runs with what router-config wrote: a host that nobody has is then 404.
wait_routing() {
  local deadline=$(($(now_ms) + ${READY_TIMEOUT:-90} * 1000)) status=
  until [ "$status" = 404 ]; do
    if [ "$(now_ms)" -gt "$deadline" ]; then
      echo "HAProxy answers '${status:-nothing}' to a host that nobody has, not 404: router-config has not configured it"
      docker logs --tail 15 "$(container router-config)" 2>&1
      return 1
    fi
    sleep 0.1
    status=$(http_status "$HTTP_PORT" / "unknown-host.$DOMAIN") || status=
  done
}

settings
need_docker
need_compose
if [ -z "${SKIP_IMAGES:-}" ]; then
  need_rust
  need_protoc
  need_disk
fi
check_ports_free
HOST_IP=${HOST_IP:-$(bridge_gateway)}
DOCKER_GID=$(stat -Lc %g "$DOCKER_SOCKET")
export HOST_IP DOCKER_GID

[ -n "${SKIP_IMAGES:-}" ] || "$here/images/build.sh"
logs_of_project
step compose-up "starting ${parts[*]}" compose up -d --no-build --remove-orphans "${parts[@]}"
for part in "${parts[@]}"; do
  step "ready-$part" "$part ready" wait_ready "$part"
done
case " $PARTS " in
  *" router-config "*) step ready-routing "a request through HAProxy" wait_routing ;;
esac

other=
[ "$PROJECT" = colossus ] || other=" PROJECT=$PROJECT"
port=
[ "$HTTP_PORT" = 80 ] || port=":$HTTP_PORT"
say "ready"
cat <<END

  Start something:   docker run -d -p 80 -e SERVICE_NAME=example colossus/example-web
  Ask it:            curl -H 'Host: example.$DOMAIN' http://127.0.0.1$port/

  What registers:    http://127.0.0.1:$REGISTRATOR_ADMIN_PORT/status
  What routes:       http://127.0.0.1:$ROUTER_ADMIN_PORT/status
  HAProxy:           http://127.0.0.1:$HAPROXY_STATS_PORT/
  Consul:            http://127.0.0.1:$CONSUL_PORT/ui/
  etcd:              http://127.0.0.1:$ETCD_PORT

  End it all:        make down$other
END
