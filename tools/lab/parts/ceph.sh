#!/bin/bash
# Ceph: the daemons, commands and Python bindings of the distribution, for tests/lab/ceph.
#
#   ceph.sh install   installs them (Debian packages, as root; 250 MB); starts nothing
#   ceph.sh check     says what is missing
set -euo pipefail

packages=(ceph-mon ceph-mgr ceph-osd ceph-common python3-rados python3-rbd)

say() { printf 'lab: %s\n' "$*" >&2; }

missing() {
    local package
    for package in "${packages[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            printf '%s ' "$package"
    done
}

case ${1:-} in
    check)
        absent=$(missing)
        [ -z "$absent" ] || { say "ceph: not installed: $absent"; exit 1; }
        ;;
    install)
        absent=$(missing)
        [ -n "$absent" ] || exit 0
        [ "$(id -u)" = 0 ] || { say "ceph: run this first: sudo apt-get install -y $absent"; exit 1; }
        say "installing Debian packages: $absent"
        apt-get update -qq
        # shellcheck disable=SC2086  # a list of words
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $absent \
            >/dev/null
        ;;
    *)
        sed -n 2,5p "$0" >&2
        exit 2
        ;;
esac
