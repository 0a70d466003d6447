#!/bin/sh
# Runs the test programs given, two at a time, and sums their closing lines.
# A program ends with "name: N passed, N failed, N skipped"; one that dies counts as a failure.
out=$KD_OBJ/tests/log
rm -rf "$out" && mkdir -p "$out"
printf '%s\n' "$@" | xargs -P "${KD_JOBS:-2}" -I{} sh -c '
    name=$(basename {})
    {} >"'"$out"'/$name.log" 2>&1 </dev/null
    code=$?
    if ! tail -n 1 "'"$out"'/$name.log" | grep -q "passed, .* failed, .* skipped$" || { [ $code -ne 0 ] && tail -n 1 "'"$out"'/$name.log" | grep -q ", 0 failed,"; }; then
        echo "$name: 0 passed, 1 failed, 0 skipped (exit $code)" | tee -a "'"$out"'/$name.log" >/dev/null
    fi
    if [ $code -ne 0 ]; then tail -n 30 "'"$out"'/$name.log"; else tail -n 1 "'"$out"'/$name.log"; fi'
for log in "$out"/*.log; do tail -n 1 "$log"; done | awk '
    { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p += $(i-1); if ($i ~ /^failed/) f += $(i-1); if ($i ~ /^skipped/) s += $(i-1) } }
    END { printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 }'
