#!/usr/bin/env bash
# Starts HAProxy with the file that router-config writes, whatever state that file is in.
#
# HAProxy is always started with -f on that one path, because `reload` on the master CLI reads the path again:
# a fallback under another name would be reloaded for ever. So when the file is missing or HAProxy refuses it,
# the fallback is copied into its place: the last good configuration, else one that answers 503 to everything.
# A refused file is kept beside it as haproxy.cfg.refused.
set -euo pipefail

state_dir=${STATE_DIR:-/var/lib/colossus/router}
socket=${MASTER_SOCKET:-$state_dir/run/master.sock}
config=$state_dir/haproxy.cfg
# HAProxy reads this one from the environment: see unconfigured.cfg.
export HTTP_BIND=${HTTP_BIND:-:${HTTP_PORT:-80}}

log() { echo "colossus-haproxy: $*"; }

# Whether haproxy -c takes the file $1; what it says is in `verdict`.
accepted() {
  verdict="no such file, or empty"
  [ -s "$1" ] && verdict=$(haproxy -c -f "$1" 2>&1)
}

# Puts a copy of $1 at $config unless a file is there by now: router-config may have renamed a new one into
# place since we looked, and that one must win. `ln` fails where `mv` would overwrite.
install_config() {
  local copy
  copy=$(mktemp "$state_dir/.haproxy.cfg.XXXXXX")
  cat "$1" >"$copy"
  chmod 660 "$copy"
  ln "$copy" "$config" 2>/dev/null || log "router-config wrote $config meanwhile"
  rm -f "$copy"
}

umask 007
mkdir -p "$(dirname "$socket")"

if accepted "$config"; then
  log "starting with $config"
else
  if [ -e "$config" ]; then
    log "$config is refused by haproxy -c:"
    printf "%s\n" "$verdict"
    mv -f "$config" "$config.refused"
  else
    log "$config does not exist yet"
  fi
  if accepted "$config.last-good"; then
    log "starting with the last good configuration, $config.last-good"
    install_config "$config.last-good"
  else
    log "no last good configuration: answering 503 until router-config writes one"
    install_config /colossus/unconfigured.cfg
  fi
fi

# A socket left over by a killed master needs no care: HAProxy binds a new one and renames it over the old.
exec haproxy -W -db -S "$socket,mode,660,gid,65532,level,admin" -f "$config"
