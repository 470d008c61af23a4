#!/usr/bin/env bash
# Checks what `make test` and `make bench` need, and installs what is missing where it can.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"

need_docker
need_compose
need_rust
need_protoc
need_disk
for tool in fmt clippy; do
  (cd "$ROOT" && cargo "$tool" --version >/dev/null 2>&1) \
    || die 1 "cargo $tool is missing" "rustup component add rustfmt clippy"
done
