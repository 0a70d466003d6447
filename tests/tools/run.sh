#!/bin/sh
# run.sh PROGRAM...: runs test programs, two at a time (KD_JOBS), and sums their closing lines.
# A program ends with "name: N passed, N failed, N skipped"; one that dies counts as a failure.
# KD_RUN goes in front of each: an emulator, valgrind.
# SPDX-License-Identifier: MIT
out=$KD_OBJ/tests/log
rm -rf "$out" && mkdir -p "$out"
export out
printf '%s\n' "$@" | xargs -P "${KD_JOBS:-2}" -I{} sh -c '
    log=$out/$(basename "$1").log
    $KD_RUN "$1" >"$log" 2>&1 </dev/null
    code=$?
    last=$(tail -n 1 "$log")
    case $last in
    *": "*" passed, 0 failed, "*" skipped") good=$((code == 0)) ;;
    *": "*" passed, "*" failed, "*" skipped") good=1 ;;
    *) good=0 ;;
    esac
    [ $good = 1 ] || { echo; echo "$(basename "$1"): 0 passed, 1 failed, 0 skipped (exit $code)"; } >>"$log"
    if [ $code -ne 0 ]; then tail -n 30 "$log"; else echo "$last"; fi' run {}
cat "$out"/*.log 2>/dev/null | awk '
    /^[a-z0-9_]+: [0-9]+ passed, [0-9]+ failed, [0-9]+ skipped/ { p += $2; f += $4; s += $6; programs++ }
    END {
        if (!programs) f++
        printf "%d passed, %d failed, %d skipped\n", p, f, s
        exit f > 0
    }'
