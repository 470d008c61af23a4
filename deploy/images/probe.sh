#!/bin/sh
# probe.sh PORT PATH PATTERN: succeeds when the answer to GET http://127.0.0.1:PORT/PATH matches PATTERN within 3 s.
#
# The health check of the images that are not ours: it needs only what their bases have, bash (Debian) or
# wget (Alpine), and costs a fraction of starting the program's own client every few seconds.
set -eu
port=$1 path=$2 pattern=$3

if command -v bash >/dev/null; then
  # shellcheck disable=SC2016 # expanded by the inner bash
  timeout 3 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1"
    printf "GET %s HTTP/1.0\r\nHost: health.invalid\r\n\r\n" "$2" >&3
    cat <&3' probe "$port" "$path" 2>/dev/null | grep -q "$pattern"
else
  wget -q -T 3 -O - "http://127.0.0.1:$port$path" | grep -q "$pattern"
fi
