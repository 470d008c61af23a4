#!/usr/bin/env bash
# Builds every image of the platform (make images): our services, static and alone FROM scratch, and haproxy, consul
# and etcd on a public image where that can be pulled, else on Debian's packages.
#
# What has not changed is not built again: cargo and Docker's layer cache see to that. Whether a public image can be
# pulled is decided once, when an image is first built, and kept with it in a label; REBUILD=1 decides anew and
# builds without cache.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$here/../lib.sh"

DEBIAN=${DEBIAN_BASE:-debian:trixie-slim}
HAPROXY_BASE=${HAPROXY_BASE:-haproxy:3.0}
CONSUL_BASE=${CONSUL_BASE:-hashicorp/consul:1.20}
# etcd's own images are in registries that a file here shall not name: give one in ETCD_BASE to use it.
ETCD_BASE=${ETCD_BASE:-}
# Every service has a file here that ends its Dockerfile.
if [ -z "${SERVICES:-}" ]; then
  SERVICES=$(cd "$here/service" && for file in *.dockerfile; do echo "${file%.dockerfile}"; done)
fi
read -ra services <<<"${SERVICES//$'\n'/ }"

# The classic builder says on every build that it will go one day; on engines without BuildKit it is all there is.
docker_build() {
  docker build ${REBUILD:+--no-cache} "$@" 2> >(grep -v -e 'DEPRECATED: The legacy builder' -e 'BuildKit' -e 'buildx' -e '^ *$' >&2)
}

have_image() { docker image inspect "$1" >/dev/null 2>&1; }

# A registry that cannot be reached must not hold up anybody for long.
pull() { echo "pulling $1"; timeout "${PULL_TIMEOUT:-180}" docker pull -q "$1"; }

base_image() {
  have_image "$DEBIAN" || pull "$DEBIAN" || "$here/base/debian.sh" "$DEBIAN"
}

certificates() {
  docker_build -t colossus/certs -f "$here/base/Dockerfile.certs" --build-arg "DEBIAN=$DEBIAN" "$here/base"
}

# third_party NAME PUBLIC: builds colossus/NAME on PUBLIC, or on Debian's package.
third_party() {
  local name=$1 public=$2 base
  base=$(docker image inspect -f '{{index .Config.Labels "dev.colossus.base"}}' "colossus/$name" 2>/dev/null) || base=
  if [ -n "${REBUILD:-}" ] || [ -z "$base" ] || ! have_image "$base"; then
    base=colossus/$name-base
    if [ -n "$public" ] && { have_image "$public" || pull "$public"; }; then
      base=$public
    fi
  fi
  if [ "$base" = "colossus/$name-base" ]; then
    docker_build -t "$base" -f "$here/$name/Dockerfile.debian" --build-arg "DEBIAN=$DEBIAN" "$here/$name"
  fi
  docker_build -t "colossus/$name" -f "$here/$name/Dockerfile" --build-arg "BASE=$base" "$here"
}

compile() {
  local packages=() name
  for name in "${services[@]}"; do
    packages+=(-p "$name")
  done
  # shellcheck disable=SC2153 # set by lib.sh
  cd "$ROOT"
  # With an explicit --target the flags hold for our binaries only, not for build scripts and macros.
  RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
    cargo build --release --locked --target "$triple" "${packages[@]}"
}

# stage NAME: the context of one service's image: a few files, never the whole target directory.
stage() {
  local name=$1 context=$TARGET/images/$1 root
  root=$context/rootfs
  rm -rf "$context"
  mkdir -p "$root/etc" "$context/owned/var/lib/colossus" "$context/owned/run/colossus"
  echo 'colossus:x:65532:65532:colossus:/:/sbin/nologin' >"$root/etc/passwd"
  echo 'colossus:x:65532:' >"$root/etc/group"
  case $name in
    router-config)
      # Shared with HAProxy: see haproxy/Dockerfile.
      mkdir "$context/owned/var/lib/colossus/router"
      chmod 2770 "$context/owned/var/lib/colossus/router"
      ;;
    consul-bootstrapper)
      # Shared with Consul: see consul/entrypoint.sh.
      mkdir "$context/owned/var/lib/colossus/consul" "$context/owned/run/colossus/consul"
      chmod 700 "$context/owned/var/lib/colossus/consul"
      chmod 755 "$context/owned/run/colossus/consul"
      ;;
  esac
  chmod 755 "$root/etc" "$context/owned/var/lib/colossus" "$context/owned/run/colossus"
  chmod 644 "$root/etc/"*
  # A tar, so that owners and modes are ours whoever builds, and with fixed times, so that the cache holds.
  tar -C "$root" -cf "$context/rootfs.tar" --sort=name --mtime=@0 --numeric-owner --owner=0 --group=0 etc
  tar -C "$context/owned" -rf "$context/rootfs.tar" --sort=name --mtime=@0 --numeric-owner --owner=65532 --group=65532 var/lib/colossus run/colossus
  rm -rf "$root" "$context/owned"
  cp "$TARGET/$triple/release/$name" "$context/$name"
  cat "$here/service/Dockerfile" "$here/service/$name.dockerfile" >"$context/Dockerfile"
}

service_images() {
  local name tags
  for name in "${services[@]}"; do
    stage "$name"
    tags=(-t "colossus/$name:latest")
    [ -z "$revision" ] || tags+=(-t "colossus/$name:$revision")
    docker_build "${tags[@]}" --build-arg "BINARY=$name" --build-arg "VERSION=$version" \
      --build-arg "REVISION=${revision:-unknown}" "$TARGET/images/$name"
  done
}

need_docker
need_rust
need_protoc
need_disk

# One at a time: two would write into each other's contexts and logs.
exec 9>"$LOGS/images.lock"
if have flock && ! flock -n 9; then
  say "waiting for another build of the images to end ..."
  flock 9
fi

triple=$(cd "$ROOT" && rustc -vV | sed -n 's/^host: //p')
version=$(sed -n 's/^version *= *"\(.*\)"/\1/p' "$ROOT/Cargo.toml" | head -n 1)
revision=
if have git && revision=$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null); then
  [ -z "$(git -C "$ROOT" status --porcelain 2>/dev/null)" ] || revision+=-dirty
fi

start_step services-build "compiling ${services[*]}" compile
step base-image "base image $DEBIAN" base_image
# Mostly waiting for packages: side by side.
start_step certificates "image colossus/certs" certificates
start_step haproxy-image "image colossus/haproxy" third_party haproxy "$HAPROXY_BASE"
start_step consul-image "image colossus/consul" third_party consul "$CONSUL_BASE"
start_step etcd-image "image colossus/etcd" third_party etcd "$ETCD_BASE"
for name in certificates haproxy-image consul-image etcd-image services-build; do
  finish_step "$name"
done
step services-images "images of ${services[*]}" service_images
