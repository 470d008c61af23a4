#!/bin/sh
# Starts nginx with the names of this instance in its answers. nginx reads no environment, so its file is made here.
set -eu
# What is no name is left out: the result is text in nginx's configuration, and in JSON.
clean() { printf '%s' "$1" | tr -cd 'A-Za-z0-9._ -' | cut -c 1-64; }
sed -e "s/@NODE@/$(clean "${NODE_NAME:-unknown}")/" -e "s/@RELEASE@/$(clean "${RELEASE:-v1}")/" \
  -e "s/@MESSAGE@/$(clean "${MESSAGE:-Hello World}")/" /colossus/nginx.conf >/tmp/nginx.conf
exec nginx -c /tmp/nginx.conf -e /dev/stderr -g 'daemon off;'
