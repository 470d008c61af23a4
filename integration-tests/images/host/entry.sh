#!/bin/sh
# What firmware and boot loader are to a machine: makes of a container a place where systemd can be PID 1.
set -eu

# In a container the control groups are mounted read-only: one file system with v2, one for each controller with v1.
for mount in /sys/fs/cgroup /sys/fs/cgroup/*; do
  if grep -q " $mount " /proc/mounts; then
    mount -o remount,bind,rw "$mount"
  fi
done

# Newer engines give a container another MAC address at each start. A machine keeps its own, and the test bed cuts
# cables by it. Older engines derive it from the IP address, as is done here.
ip -o -4 addr show scope global | while read -r _ link _ address _; do
  address=${address%/*}
  # shellcheck disable=SC2046 # four numbers
  mac=$(printf '02:42:%02x:%02x:%02x:%02x' $(echo "$address" | tr . ' '))
  if [ "$(cat "/sys/class/net/$link/address")" != "$mac" ]; then
    ip link set dev "$link" address "$mac"
    arping -q -U -c 1 -I "$link" "$address" || true
  fi
done

# The journal tells boots apart by this, and containers see that of the machine below.
cat /proc/sys/kernel/random/uuid >/run/boot-id
mount --bind -o ro /run/boot-id /proc/sys/kernel/random/boot_id

# Each machine has its own, from its first start on.
if [ ! -s /etc/machine-id ]; then
  tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
fi

# A cable that is cut stays cut while the machine is switched off and on.
if [ -s /test-bed/cuts.nft ]; then
  nft -f /test-bed/cuts.nft
fi

exec /sbin/init
