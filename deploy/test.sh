#!/usr/bin/env bash
# Everything that must hold (make test): format, lints, documentation, unit tests, then the images and the
# integration tests, which run the real programs.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"

"$here/prereqs.sh"
# prereqs.sh may have found cargo outside PATH, as we do here.
need_rust
cd "$ROOT"

documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps; }

step test-fmt "format" cargo fmt --all --check
step test-clippy "lints" cargo clippy --locked --workspace --all-targets -- -D warnings
step test-doc "documentation" documentation
# From here on, what the tests say is what one wants to see.
say "unit tests"
cargo test --locked --workspace --exclude integration-tests
"$here/images/build.sh"
step test-docker "image of a Docker engine to be killed" \
  docker build -t colossus/test-docker "$ROOT/integration-tests/images/docker"
step test-dns "image of name servers" docker build -t colossus/test-dns "$ROOT/integration-tests/images/dns"
step test-host "image of the hosts of the test bed" "$ROOT/integration-tests/images/host/build.sh"
say "integration tests"
cargo test --locked -p integration-tests
say "all tests passed"
