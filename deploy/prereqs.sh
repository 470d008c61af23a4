#!/usr/bin/env bash
# Checks what `make test` and `make bench` need, and installs what is missing where it can.
#   prereqs.sh [PROGRAM...]: and these programs, whose Debian packages have their names.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"

need_docker
need_compose
need_rust
need_protoc
need_disk
# The tests of vip-keeper make network namespaces, and look at what the kernel keeps.
need_program ip iproute2
need_program nft nftables
for program in "$@"; do
  need_program "$program" "$program"
done
for tool in fmt clippy; do
  (cd "$ROOT" && cargo "$tool" --version >/dev/null 2>&1) \
    || die 1 "cargo $tool is missing" "rustup component add rustfmt clippy"
done
