#!/usr/bin/env bash
# examples.sh [NAME...]: builds the images of units that are no part of the platform itself: the image registry, and the
# examples nginx, php-fpm and paas-monitor. `make up` does without them, so `make images` does not build them.
#
# The registry stands on the image that REGISTRY_BASE names (registry:2, for example), all else on Debian's packages.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$here/../lib.sh"

ALL=(registry nginx php-fpm paas-monitor)
DEBIAN=${DEBIAN_BASE:-debian:trixie-slim}
TAG=${TAG:-latest}

base_image() { docker image inspect "$DEBIAN" >/dev/null 2>&1 || docker pull -q "$DEBIAN" || "$here/base/debian.sh" "$DEBIAN"; }

image() {
  local name=$1 base=${REGISTRY_BASE:-colossus/registry-base}
  if [ "$name" != registry ]; then
    docker build -t "colossus/$name:$TAG" --build-arg "DEBIAN=$DEBIAN" "$here/$name"
    return
  fi
  if [ -z "${REGISTRY_BASE:-}" ]; then
    docker build -t "$base" -f "$here/$name/Dockerfile.debian" --build-arg "DEBIAN=$DEBIAN" "$here/$name"
  fi
  docker build -t "colossus/$name:$TAG" -f "$here/$name/Dockerfile" --build-arg "BASE=$base" "$here"
}

names=("$@")
[ $# -gt 0 ] || names=("${ALL[@]}")
for name in "${names[@]}"; do
  case " ${ALL[*]} " in
    *" $name "*) ;;
    *) die 64 "there is no image $name here" "use some of: ${ALL[*]} (make images builds the platform's)" ;;
  esac
done

need_docker
step base-image "base image $DEBIAN" base_image
for name in "${names[@]}"; do
  step "$name-image" "image colossus/$name:$TAG" image "$name"
done
