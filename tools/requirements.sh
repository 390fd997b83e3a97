#!/bin/sh
# Pins every dependency, with hashes, for Python 3.11 to 3.13 on every platform.
#
# Called by the Makefile:  tools/requirements.sh           writes requirements/*.txt
#                          tools/requirements.sh --check   fails when they are not current
#
# Versions that still fit are kept; delete a file, or a line of it, to have newer ones. The runtime
# and the build are pinned within the versions of the development set, so that tests see what users get.
set -eu

cd "$(dirname "$0")/.."
uv=$(pwd)/.venv/bin/uv

pin() {
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --custom-compile-command 'make requirements' \
        --output-file "$@" >/dev/null
}

pin_all() {
    pin requirements/dev.txt --extra dev --extra postgresql pyproject.toml requirements/build.in
    pin requirements/runtime.txt --constraint requirements/dev.txt pyproject.toml
    pin requirements/build.txt --constraint requirements/dev.txt requirements/build.in
}

case ${1:-} in
    '') pin_all ;;
    --check)
        scratch=$(mktemp -d)
        trap 'rm -rf "$scratch"' EXIT
        cp -r pyproject.toml requirements "$scratch"
        (cd "$scratch" && pin_all)
        if ! diff -ru requirements "$scratch/requirements" >&2; then
            echo 'requirements/ is not current: run make requirements and commit the result' >&2
            exit 1
        fi
        ;;
    *) echo 'usage: tools/requirements.sh [--check]' >&2; exit 2 ;;
esac
