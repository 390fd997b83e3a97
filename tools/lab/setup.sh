#!/bin/bash
# Installs what the lab (tests/lab, `make lab`) needs, part by part.
#
#   tools/lab/setup.sh           installs what is missing; called by `make lab-setup`
#   tools/lab/setup.sh --check   installs nothing; names what is missing and fails; called by `make lab`
#
# A part is a script in parts/ that takes the same two verbs, `install` and `check`. It keeps what it
# makes in the user's cache directory, keyed by versions, and does nothing when that is up to date.
set -uo pipefail
cd "$(dirname "$0")" || exit 1

verb=install
[ "${1:-}" = --check ] && verb=check

failed=()
for part in parts/*.sh; do
    bash "$part" "$verb" </dev/null || failed+=("$(basename "$part" .sh)")
done
[ ${#failed[@]} -eq 0 ] && exit 0
if [ "$verb" = check ]; then
    echo "lab: not set up: ${failed[*]}; run: make lab-setup" >&2
else
    echo "lab: could not be set up: ${failed[*]}" >&2
fi
exit 1
