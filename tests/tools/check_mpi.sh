#!/bin/sh
# check_mpi.sh: the distributed examples.  examples/mpi/distill_mpi on 1, 2 and 4 ranks: the same losses to 1e-6, the same bits
# from run to run, on one rank the bits of the build without MPI, an error on one rank ends all.  Then examples/python/ddp_torch.py,
# where PEERS_PYTHON has torch.  What is not installed counts as skipped.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
MAKE=${MAKE:-make} MPICC=${MPICC:-mpicc} CC=${CC:-cc} MPIRUN=${MPIRUN:-mpirun} KD_OUT=${KD_OUT:-lib}
logs=$KD_OUT/check-mpi
rm -rf "$logs" && mkdir -p "$logs"
example=$KD_OUT/examples/mpi/distill_mpi
passed=0 failed=0 skipped=0

# result NAME STATUS
result() {
    if [ "$2" = 0 ]; then passed=$((passed + 1)) word=ok; else failed=$((failed + 1)) word=FAILED; fi
    printf '%-8s %s\n' "$word" "$1"
}
skip() {
    skipped=$((skipped + 1))
    printf '%-8s %s\n' skipped "$1"
}

# ranks N ARGUMENT...: the example on N ranks, more than there are CPUs and as root if need be
ranks() {
    n=$1
    shift
    if "$MPIRUN" --version 2>/dev/null | grep -qi 'open.mpi'; then
        OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "$MPIRUN" --oversubscribe -n "$n" "$example" "$@"
    else
        "$MPIRUN" -n "$n" "$example" "$@"
    fi
}

# same A B: the same student and losses
same() { cmp "$logs/$1/student.safetensors" "$logs/$2/student.safetensors" && cmp "$logs/$1/losses.txt" "$logs/$2/losses.txt"; }

# close A B COUNT: as many lines, the same in both, their numbers within 1e-6
close() {
    paste "$1" "$2" | awk -v want="$3" '
        { d = $2 - $4; if (d < 0) d = -d; if (!(d <= 1e-6) || $1 != $3) bad++; if (d > most) most = d }
        END { printf "%d losses, at most %.2g apart\n", NR, most; exit bad > 0 || NR != want }'
}

if command -v "$MPICC" >/dev/null 2>&1 && command -v "$MPIRUN" >/dev/null 2>&1; then
    $MAKE --no-print-directory examples-mpi MPICC="$MPICC" >"$logs/build.log" 2>&1
    result "builds" $?
    mkdir -p "$logs/plain"
    $CC -std=c11 -Wall -Wextra -Werror -DKD_MPI_STUB -Iinclude examples/mpi/distill_mpi.c "$KD_OUT/libkd.a" -lm -pthread \
        -o "$logs/plain/plain" && "$logs/plain/plain" --out "$logs/plain" >"$logs/plain/log"
    result "runs without MPI" $?
    for n in 1 2 4; do
        for run in a b; do
            mkdir -p "$logs/$n$run"
            ranks $n --out "$logs/$n$run" >"$logs/$n$run/log" 2>&1
            result "$n ranks, run $run: $(tail -n 1 "$logs/$n$run/log")" $?
        done
        same ${n}a ${n}b
        result "$n ranks: the same bits from run to run" $?
        text=$(close "$logs/plain/losses.txt" "$logs/${n}a/losses.txt" 460)
        result "$n ranks against none: $text" $?
    done
    same plain 1a
    result "1 rank: the bits of the build without MPI" $?
    KD_NUM_THREADS=3 ranks 2 --out "$logs/2b" >"$logs/2b/log" 2>&1 && same 2a 2b
    result "2 ranks of 3 threads: the same bits" $?
    mkdir -p "$logs/uneven1" "$logs/uneven4"   # 205 rows for 4 ranks, and 2 in the last batch
    ranks 1 --batch 205 --epochs 3 --out "$logs/uneven1" >"$logs/uneven1/log" 2>&1 &&
        ranks 4 --batch 205 --epochs 3 --out "$logs/uneven4" >"$logs/uneven4/log" 2>&1
    result "4 ranks, batches of 205 rows and 2" $?
    text=$(close "$logs/uneven1/losses.txt" "$logs/uneven4/losses.txt" 48)
    result "4 ranks, batches of 205 rows and 2: $text" $?
    ! ranks 2 --data /nonexistent --out "$logs/2b" >"$logs/abort.log" 2>&1 && grep -q 'rank [01]: .*nonexistent' "$logs/abort.log"
    result "an error ends all ranks: $(grep -m 1 '^rank' "$logs/abort.log")" $?
else
    skip "distill_mpi: no $MPICC or no $MPIRUN"
fi

python=${PEERS_PYTHON:-python3}
export PYTHONPATH=src/python LIBKD_PATH="$PWD/$KD_OUT/libkd.so"
if ! "$python" -c 'import torch.distributed' 2>/dev/null; then
    skip "ddp_torch.py: $python has no torch"
elif ! "$python" -c 'import libkd.torch' 2>/dev/null; then
    skip "ddp_torch.py: $python cannot import libkd.torch"
else
    timeout 300 "$python" examples/python/ddp_torch.py >"$logs/ddp.log" 2>&1
    result "ddp_torch.py: $(tail -n 1 "$logs/ddp.log")" $?
fi
echo "$passed passed, $failed failed, $skipped skipped"
exit $((failed > 0))
