#!/bin/sh
# Makes .venv, the project's own Python environment, and installs everything pinned into it.
#
# Called by the Makefile:  tools/setup.sh runtime   for `make demo`
#                          tools/setup.sh dev       for `make test`; has all of runtime too
#
# Does nothing when the environment is up to date. PYTHON=/path/to/python3 chooses the interpreter;
# without it the system's own comes first, because what version managers build runs slower: the
# driver took an eighth more CPU with it.
# Where it is root on Debian or Ubuntu it installs what the system lacks; elsewhere it says what to do.
set -eu

mode=${1:?usage: tools/setup.sh runtime|dev}
cd "$(dirname "$0")/.."
here=$(pwd -P)
stamp=.venv/.installed

say() { printf '%s\n' "setup: $*" >&2; }

is_supported() {
    [ "$("$1" -c 'import sys; print((3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null)" = True ]
}

makes_environments() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

# Prints the interpreter to use. A name may be a version manager's shim that runs nothing, so each
# candidate has to prove itself.
find_python() {
    candidates=${PYTHON:-/usr/bin/python3 python3 python3.13 python3.12 python3.11}
    for test in makes_environments true; do  # one that needs no package first
        for candidate in $candidates; do
            if is_supported "$candidate" && $test "$candidate"; then
                "$candidate" -c 'import sys; print(sys.executable)'
                return
            fi
        done
    done
    if [ -n "${PYTHON:-}" ]; then
        say "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13."
    else
        say "no Python 3.11, 3.12 or 3.13 found; python3 is $(python3 -V 2>/dev/null || echo absent)."
        say "Install one and say where it is: make PYTHON=/path/to/python3.12 ..."
    fi
    return 1
}

# Installs Debian packages, or tells how. Fails when they are still missing afterwards.
install_packages() {
    if ! command -v apt-get >/dev/null; then
        say "install the equivalents of these Debian packages: $*"
        return 1
    elif [ "$(id -u)" != 0 ]; then
        say "run this first: sudo apt-get install -y $*"
        return 1
    fi
    say "installing Debian packages: $*"
    case " $* " in
        *' postgresql '*)
            # No server of the system's own: the package would make one and start it.
            mkdir -p /etc/postgresql-common/createcluster.d
            echo 'create_main_cluster = false' \
                >/etc/postgresql-common/createcluster.d/cinder-csi-tests.conf
            ;;
    esac
    apt-get update -qq </dev/null &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
            </dev/null >/dev/null
}

# The packages of the programs that a node runs, and that the tests need, and this system lacks.
missing_programs() {
    PATH=$PATH:/usr/sbin:/sbin
    [ "$mode" = dev ] && traced=strace:strace || traced=
    for pair in $traced mkfs.xfs:xfsprogs xfs_growfs:xfsprogs mkfs.ext4:e2fsprogs resize2fs:e2fsprogs \
        mount:mount losetup:mount blkid:util-linux wipefs:util-linux; do
        command -v "${pair%%:*}" >/dev/null || printf '%s\n' "${pair##*:}"
    done | sort -u | tr '\n' ' '
    # The server is off the path in Debian. Tests start one of their own.
    if [ "$mode" = dev ] && ! command -v initdb >/dev/null &&
        ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
        printf 'postgresql '
    fi
}

# What the environment is made from: another checkout, interpreter, pin or protocol makes another.
fingerprint() {
    {
        printf '%s\n' "$here" "$python"
        "$python" -V
        cat pyproject.toml setup.py requirements/*.txt tools/setup.sh tools/generate_protocol.py \
            proto/*/v1/*.proto
    } | sha256sum | cut -d ' ' -f 1
}

make_environment() {
    if ! makes_environments "$python"; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        install_packages "python$version-venv"
    fi
    build='import sys; print(sys.version, sys.base_prefix)'
    if [ "$(.venv/bin/python -c "$build" 2>&1)" != "$("$python" -c "$build")" ]; then
        say "making .venv with $("$python" -V) ($python)"
        "$python" -m venv --clear .venv
    fi
}

install_python_packages() {
    if ! .venv/bin/uv --version >/dev/null 2>&1; then
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
            -r requirements/build.txt
    fi
    case $mode in
        runtime) set -- requirements/runtime.txt requirements/build.txt ;;
        dev) set -- requirements/dev.txt ;;
    esac
    .venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes --compile-bytecode "$@"
    .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation \
        --editable .
}

case $mode in
    runtime | dev) ;;
    *) say "unknown mode '$mode': runtime or dev"; exit 2 ;;
esac

packages=$(missing_programs)
if [ -n "$packages" ]; then
    # shellcheck disable=SC2086  # a list of words
    install_packages $packages ||
        say "going on; a node cannot make or mount filesystems without them, and tests are skipped"
fi

python=$(find_python)
wanted=$(fingerprint)
installed=$(cat "$stamp" 2>/dev/null || true)
if [ "$installed" = "$mode $wanted" ] || [ "$installed" = "dev $wanted" ]; then
    exit 0
fi

make_environment
rm -f "$stamp"
say "installing the pinned Python packages ($mode)"
install_python_packages
printf '%s\n' "$mode $wanted" >"$stamp"
