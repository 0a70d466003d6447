#!/bin/sh
# check_python.sh [test_file ..] - the tests of the Python package on every Python from 3.9 on that is here: in PATH, in pyenv, in uv,
# and those named in PYTHONS (a virtual environment with NumPy and PyTorch, say).  What is not here is told and passed over.
# The library is the one of the tree (KD_OUT), or LIBKD_PATH.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
LIBKD_PATH=${LIBKD_PATH:-$PWD/${KD_OUT:-lib}}
export LIBKD_PATH
failed=0 ran=0
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT

# one PYTHON [test_file ..]
one() {
    ran=$((ran + 1))
    log=$(mktemp)
    "$@" >"$log" 2>&1
    status=$?
    if [ $status -eq 0 ]; then
        tail -n 1 "$log" | tee -a "$lines"
    else
        tee -a "$lines" <"$log"
        echo "$1: exit status $status"
        failed=$((failed + 1))
    fi
    rm -f "$log"
}

# find_python MINOR: an interpreter of Python 3.MINOR, or nothing
find_python() {
    command -v "python3.$1" >/dev/null && "python3.$1" -c '' 2>/dev/null && { command -v "python3.$1"; return; }
    for p in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$1".*/bin/python; do
        [ -x "$p" ] && { echo "$p"; return; }
    done
    command -v uv >/dev/null && uv python find --offline "3.$1" 2>/dev/null
    return 0
}

for minor in 9 10 11 12 13 14 15; do
    python=$(find_python $minor)
    if [ -n "$python" ]; then one "$python" tests/python/run.py "$@"; else printf '%-40s not here, passed over\n' "python 3.$minor:"; fi
done
for python in $PYTHONS; do one "$python" tests/python/run.py "$@"; done
[ $ran -gt 0 ] || echo "no Python from 3.9 on"
awk '/^python .* passed, / { sub(/^.*: +/, ""); passed += $1; failed += $3; skipped += $5 }
     END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$lines"
[ $failed -eq 0 ]
