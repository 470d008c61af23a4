#!/usr/bin/env bash
# Builds colossus/test-host, the image of the test bed's hosts. What has not changed is not built again.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../../../deploy/lib.sh
. "$here/../../../deploy/lib.sh"

BASE=${HOST_BASE:-debian:bookworm-slim}

need_docker
# Two that build the base at once would do it twice.
exec 9>"$LOGS/host-image.lock"
! have flock || flock 9

docker image inspect "$BASE" >/dev/null 2>&1 \
  || { echo "pulling $BASE"; timeout "${PULL_TIMEOUT:-180}" docker pull -q "$BASE"; } \
  || "$ROOT/deploy/images/base/debian.sh" "$BASE"
docker build -t colossus/test-host --build-arg "DEBIAN=$BASE" "$here" \
  2> >(grep -v -e 'DEPRECATED: The legacy builder' -e 'BuildKit' -e 'buildx' -e '^ *$' >&2)
