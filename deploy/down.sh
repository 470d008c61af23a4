#!/usr/bin/env bash
# Ends the one-machine platform (make down): its containers, volumes and networks. Images stay (make clean-images),
# and so do containers that others started.
#
# Goes by the labels that compose puts on everything, so it needs neither compose nor the settings that the platform
# was started with, and also clears up what a broken start has left.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"

PROJECT=${PROJECT:-colossus}
[[ $PROJECT =~ ^[a-z0-9][a-z0-9_-]{0,40}$ ]] \
  || die 64 "PROJECT=$PROJECT is not a project name" "use small letters, digits, - and _, beginning with a letter or digit"
need_docker
logs_of_project
label=label=com.docker.compose.project=$PROJECT

mapfile -t containers < <(docker ps -a --filter "$label" --format '{{.Names}}')
if [ "${#containers[@]}" -gt 0 ]; then
  # Stopped together: each has its own time to end. A policy of restarting does not bring back what was stopped.
  step down-stop "stopping ${containers[*]}" docker stop "${containers[@]}"
  step down-remove "removing them" docker rm -f -v "${containers[@]}"
fi

mapfile -t volumes < <(docker volume ls -q --filter "$label")
if [ "${#volumes[@]}" -gt 0 ]; then
  step down-volumes "removing volumes ${volumes[*]}" docker volume rm "${volumes[@]}"
fi

mapfile -t networks < <(docker network ls -q --filter "$label")
if [ "${#networks[@]}" -gt 0 ]; then
  step down-networks "removing networks ${networks[*]}" docker network rm "${networks[@]}"
fi

say "'$PROJECT' is gone: ${#containers[@]} containers, ${#volumes[@]} volumes, ${#networks[@]} networks removed; images stay"
