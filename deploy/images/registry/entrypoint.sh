#!/bin/sh
# Starts the registry, which is called docker-registry by Debian and registry by everybody else.
set -eu
if command -v docker-registry >/dev/null; then
  exec docker-registry serve "${REGISTRY_CONFIG:-/colossus/config.yml}"
fi
exec registry serve "${REGISTRY_CONFIG:-/colossus/config.yml}"
