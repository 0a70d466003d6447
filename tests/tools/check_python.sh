#!/bin/sh
# check_python.sh [test_file ..] - the tests of the Python package on every Python from 3.9 on that is here: in PATH, in pyenv, in uv, and
# those named in PYTHONS (a virtual environment with NumPy and PyTorch, say).  What is not here is told and passed over.
# The library is the one of the tree (KD_OUT), or LIBKD_PATH.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
LIBKD_PATH=${LIBKD_PATH:-$PWD/${KD_OUT:-lib}}
PYTHONDONTWRITEBYTECODE=1
export LIBKD_PATH PYTHONDONTWRITEBYTECODE
failed=0 ran=0

describe='import sys; print("%d.%d.%d" % sys.version_info[:3])'
modules='
import importlib.util as u
print(" with " + " and ".join(m for m in ("numpy", "torch") if u.find_spec(m)) if any(u.find_spec(m) for m in ("numpy", "torch")) else "")'

# one: run the tests with this interpreter, one line of outcome
one() {
    python=$1
    shift
    ran=$((ran + 1))
    log=$(mktemp)
    for file in ${*:-tests/python/test_*.py}; do
        "$python" "$file" 2>"$log.one" >&2 || failed=$((failed + 1))
        cat "$log.one" >>"$log"
    done
    awk -v name="python $("$python" -c "$describe")$("$python" -c "$modules")" '
        /^Ran [0-9]+ tests/ { total += $2 }
        /^(OK|FAILED)/ {
            if (match($0, /skipped=[0-9]+/)) skipped += substr($0, RSTART + 8, RLENGTH - 8)
            if (match($0, /failures=[0-9]+/)) bad += substr($0, RSTART + 9, RLENGTH - 9)
            if (match($0, /errors=[0-9]+/)) bad += substr($0, RSTART + 7, RLENGTH - 7)
        }
        END { printf "%-32s %d passed, %d failed, %d skipped\n", name ":", total - bad - skipped, bad, skipped }' "$log"
    grep -q '^FAILED\|^Traceback' "$log" && cat "$log"
    rm -f "$log" "$log.one"
}

# find MINOR: an interpreter of Python 3.MINOR, or nothing
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
    if [ -n "$python" ]; then one "$python" "$@"; else printf '%-32s not here, passed over\n' "python 3.$minor:"; fi
done
for python in $PYTHONS; do one "$python" "$@"; done
[ $ran -gt 0 ] || echo "no Python from 3.9 on"
[ $failed -eq 0 ]
