#!/usr/bin/env bash
# debian.sh IMAGE: makes the Debian base image with debootstrap and names it as the public image is named.
#
# For machines that reach Debian's packages but no image registry. The mirror is the one this machine already
# uses, if it runs Debian, else debootstrap's own default.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../../lib.sh
. "$here/../../lib.sh"

image=${1:?the name of the image}
suite=${image#*:}
suite=${suite%-slim}

have debootstrap || apt_install debootstrap debian-archive-keyring \
  || die 1 "$image cannot be pulled, and debootstrap, which could make it, is missing" \
    "install the package debootstrap, or bring the image: docker load < $image.tar"
[ -e "/usr/share/debootstrap/scripts/$suite" ] \
  || die 1 "the debootstrap of this machine is too old to know $suite" \
    "install a newer package debootstrap, or bring the image: docker load < $image.tar"
as_root true || die 1 "$image cannot be pulled, and making it with debootstrap needs root" \
  "run 'make images' once as root, or bring the image: docker load < $image.tar"

mirror=
if have apt-get; then
  # One line per package index that apt uses: where it is, and whose it is.
  # shellcheck disable=SC2016 # apt expands them
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(LABEL)' 'Created-By: Packages' 2>/dev/null \
    | awk '$2 == "Debian" && $3 == "Debian" && $1 ~ /^http/ { print $1; exit }')
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/colossus-debian.XXXXXX")
trap 'as_root rm -rf --one-file-system "$work"' EXIT

# shellcheck disable=SC2086 # no mirror, or one word
as_root debootstrap --variant=minbase "$suite" "$work/root" $mirror

# What the public slim image leaves out, too: packages fetched, lists, manuals, translations. Licences stay.
as_root find "$work/root/usr/share/doc" -type f ! -name copyright -delete
as_root tar -C "$work/root" --numeric-owner -c \
  --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./var/log/*' \
  --exclude='./usr/share/man/*' --exclude='./usr/share/info/*' --exclude='./usr/share/locale/*' --exclude='./dev/*' \
  . | docker import --change 'CMD ["bash"]' - "$image"
