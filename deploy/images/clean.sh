#!/usr/bin/env bash
# Removes every image of the platform (make clean-images). The base image stays: it may be others', too.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$here/../lib.sh"

need_docker
# Copies of the images, kept for the hosts of make cluster.
mapfile -t seeds < <(docker volume ls -q --filter label=colossus.seed)
if [ "${#seeds[@]}" -gt 0 ]; then
  printf 'removing volume %s\n' "${seeds[@]}"
  docker volume rm "${seeds[@]}" >/dev/null
fi
mapfile -t images < <(docker images --format '{{.Repository}}:{{.Tag}}' 'colossus/*')
if [ "${#images[@]}" -eq 0 ]; then
  echo "no image of the platform is left"
  exit
fi
printf 'removing %s\n' "${images[@]}"
docker rmi "${images[@]}" >"$LOGS/clean-images.log" 2>&1 \
  || die 1 "$(grep -i error "$LOGS/clean-images.log" | head -n 3)" "remove the containers that use them first: make down, make cluster-down"
