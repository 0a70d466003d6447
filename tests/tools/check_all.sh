#!/bin/sh
# check_all.sh: the long tests in every way this machine has.  A way whose tools are missing counts as one skipped.
# Logs are in lib/check-all.  The last line sums everything; the exit status is 0 when nothing failed.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
MAKE=${MAKE:-make}
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
logs=lib/check-all
rm -rf "$logs" && mkdir -p "$logs"
unset MAKEFLAGS MFLAGS MAKELEVEL

have() { for t; do command -v "$t" >/dev/null 2>&1 || return 1; done; }

# way NAME [VARIABLE=value ...] MAKE-ARGUMENT...
way() {
    name=$1
    shift
    log=$logs/$name.log
    env KD_JOBS="$jobs" "$@" >"$log" 2>&1
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -n 1)
    [ -n "$line" ] || line="0 passed, 1 failed, 0 skipped"
    printf '%-16s %s\n' "$name" "$line" | tee -a "$logs/summary"
}
skip() { printf '%-16s 0 passed, 0 failed, 1 skipped (%s)\n' "$1" "$2" | tee -a "$logs/summary"; }

build="$MAKE -j$jobs"
way long KD_TEST_FULL=1 $build check
way isa-scalar KD_ISA=scalar $build check
case $(uname -m) in x86_64) way isa-avx2 KD_ISA=avx2 $build check ;; esac
way asan $build CONFIG=asan check
way tsan $build CONFIG=tsan check
if have clang; then
    way clang $build CONFIG=clang CC=clang CFLAGS='-O3 -g -Werror' check
    way msan $build CONFIG=msan CC=clang check
else
    skip clang "no clang"
    skip msan "no clang"
fi
way gcc-O2 $build CONFIG=O2 CFLAGS='-O2 -Werror' check
if have mpicc mpirun; then way mpi $build check-mpi; else skip mpi "no mpicc or no mpirun"; fi
way images $build check-images
if have valgrind; then
    # what touches raw memory, without the long loops
    $build tests >"$logs/valgrind-build.log" 2>&1
    grind='valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite'
    units=lib/obj/release/tests/unit
    way valgrind KD_OBJ=lib/obj/release KD_OUT=lib KD_RUN="$grind" sh tests/tools/run.sh $units/test_error \
        $units/test_arena $units/test_file $units/test_context
else
    skip valgrind "no valgrind"
fi
if have aarch64-linux-gnu-gcc qemu-aarch64; then
    way neon KD_RUN='qemu-aarch64 -L /usr/aarch64-linux-gnu' \
        $build CONFIG=neon CC=aarch64-linux-gnu-gcc AR=aarch64-linux-gnu-ar NM=aarch64-linux-gnu-nm check
else
    skip neon "no aarch64-linux-gnu-gcc or no qemu-aarch64"
fi
if [ "$(uname -m)" = x86_64 ] && have qemu-x86_64; then
    way x86-models sh tests/tools/x86_models.sh
else
    skip x86-models "no qemu-x86_64, or no x86-64"
fi
awk '{ p += $2; f += $4; s += $6 } END { printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 }' "$logs/summary"
