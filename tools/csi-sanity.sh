#!/bin/sh
# Prints the path of csi-sanity, the conformance test of CSI, and builds it first where it is absent.
#
# Called by tests/sanity. It is built from source, by Go, into the user's cache directory, so once for all
# checkouts. Exit code 3: there is no Go that can build it.
set -eu

version=5.6.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/cinder-csi-driver/csi-sanity-$version
binary=$cache/csi-sanity

if [ ! -x "$binary" ]; then
    # From 1.21 on, Go fetches by itself the newer toolchain that a module asks for.
    case $(go env GOVERSION 2>/dev/null || true) in
        '' | go1.[0-9] | go1.[0-9].* | go1.1[0-9] | go1.1[0-9].* | go1.20 | go1.20.*)
            echo "csi-sanity $version has to be built by Go 1.21 or newer; here is: $(
                go version 2>/dev/null || echo 'no Go'
            )" >&2
            exit 3
            ;;
    esac
    mkdir -p "$cache"
    partial=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    GOBIN=$partial GOFLAGS= go install "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@v$version" >&2
    mv "$partial/csi-sanity" "$binary"
fi
printf '%s\n' "$binary"
