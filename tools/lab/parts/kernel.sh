#!/bin/bash
# The lab kernel: Debian's user-mode Linux, a kernel that runs as an ordinary process, and a small
# root file system for it with storage tools.
#
#   kernel.sh install   makes them: about a minute, 41 MB fetched for the kernel, 600 MB kept
#   kernel.sh check     says what is missing
#   kernel.sh path      prints the directory with `linux` and `root`
#
# They lie in the user's cache directory, below a name made of the distribution, the kernel's
# version and the text of this script: another of these makes another, and the older one goes.
set -euo pipefail

packages=(
    # block storage and its transports
    lvm2 thin-provisioning-tools targetcli-fb python3-rtslib-fb open-iscsi multipath-tools
    sg3-utils lsscsi cryptsetup-bin nvme-cli nfs-kernel-server nfs-common rpcbind qemu-utils
    # file systems
    e2fsprogs xfsprogs btrfs-progs
    # what a machine has
    udev dbus kmod procps iproute2 iputils-ping util-linux mount socat ca-certificates
    # an interpreter, where the host's own is the distribution's
    python3
)

# shellcheck disable=SC1091
. /etc/os-release
release=${VERSION_CODENAME:-$ID}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/cinder-csi/lab
text=$(sha256sum <"${BASH_SOURCE[0]}" | cut -c 1-12)

say() { printf 'lab: %s\n' "$*" >&2; }

# The newest finished one of this script; its name has the versions.
made() {
    local found
    found=$(ls -td "$cache/kernel-$release-"*"-$text" 2>/dev/null | head -n 1)
    [ -n "$found" ] && [ -e "$found/complete" ] && printf '%s\n' "$found"
}

check() {
    made >/dev/null && return 0
    say 'the lab kernel and its root file system are not there'
    return 1
}

install() {
    if ! command -v apt-get >/dev/null; then
        say 'the lab kernel is made from Debian packages; there is no apt-get here'
        return 1
    elif [ "$(id -u)" != 0 ]; then
        say 'needs root: sudo make lab-setup'
        return 1
    fi
    if made >/dev/null; then
        return 0
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || say 'apt-get update failed; going on with the lists that are here'
    command -v mmdebstrap >/dev/null && command -v ip >/dev/null ||
        apt-get install -y -qq --no-install-recommends mmdebstrap iproute2 >/dev/null

    local version making
    version=$(apt-cache show --no-all-versions user-mode-linux | sed -n 's/^Version: //p')
    making=$cache/making
    rm -rf "$making"
    mkdir -p "$making"
    say "fetching the kernel, $version"
    (cd "$making" && apt-get download -qq -o APT::Sandbox::User=root user-mode-linux)
    dpkg -x "$making"/user-mode-linux_*.deb "$making/package"
    say 'making its root file system'
    { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
        mmdebstrap --quiet --variant=minbase --mode=root --aptopt='APT::Install-Recommends "false"' \
            --include="$(IFS=,; echo "${packages[*]}")" "$release" "$making/root" - >&2
    mkdir -p "$making/root/lib/modules"
    mv "$making"/package/usr/lib/uml/modules/* "$making/root/lib/modules/"
    chroot "$making/root" depmod "$(ls "$making/root/lib/modules")"
    mv "$making/package/usr/bin/linux.uml" "$making/linux"
    cat >"$making/root/lab-init" <<'END'
#!/bin/sh
# Hands over to the script that the command line names by lab.init; it lies on the host.
mount -t proc proc /proc
for word in $(cat /proc/cmdline); do
    case $word in lab.init=*) init=${word#*=} ;; esac
done
mount -t hostfs -o "ro,${init%/*}" none /media
exec /bin/sh "/media/${init##*/}"
END
    chmod 755 "$making/root/lab-init"
    chroot "$making/root" dpkg-query --show >"$making/versions"
    rm -rf "$making/package" "$making"/*.deb
    touch "$making/complete"

    rm -rf "$cache"/kernel-*
    mv "$making" "$cache/kernel-$release-$version-$text"
    say "$(du -sh "$cache/kernel-$release-$version-$text" | tr '\t' ' ')"
}

case ${1:-} in
    install) install ;;
    check) check ;;
    path) made ;;
    *) say "usage: kernel.sh install|check|path"; exit 2 ;;
esac
