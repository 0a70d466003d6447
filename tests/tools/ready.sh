#!/bin/sh
# ready.sh: everything a reviewer would ask, one line each: "ok", "FAILED" or "skipped".  Logs are in lib/ready.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
MAKE=${MAKE:-make}
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
logs=lib/ready
rm -rf "$logs" && mkdir -p "$logs"
unset MAKEFLAGS MFLAGS MAKELEVEL
failed=0

have() { for t; do command -v "$t" >/dev/null 2>&1 || return 1; done; }

# item NAME COMMAND...
item() {
    name=$1
    shift
    if env KD_JOBS="$jobs" "$@" >"$logs/$name.log" 2>&1; then
        word=ok
    else
        word=FAILED
        failed=1
    fi
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$logs/$name.log" | tail -n 1)
    printf '%-8s %-14s %s\n' "$word" "$name" "$line"
}
skip() { printf '%-8s %-14s %s\n' skipped "$1" "$2"; }

build="$MAKE -j$jobs"
if have gcc; then item gcc-Werror $build CONFIG=gcc-werror CC=gcc CFLAGS='-O2 -Werror' all tests; else skip gcc-Werror "no gcc"; fi
if have clang; then item clang-Werror $build CONFIG=clang CC=clang CFLAGS='-O3 -g -Werror' all tests; else skip clang-Werror "no clang"; fi
item lint $build lint
item check $build check
if have python3; then item python $build check-python; else skip python "no python3"; fi
item asan-ubsan $build CONFIG=asan check
item tsan $build CONFIG=tsan check
if have mpicc mpirun; then item mpi $build check-mpi; else skip mpi "no mpicc or no mpirun"; fi
item images $build check-images
if have aarch64-linux-gnu-gcc qemu-aarch64; then
    item neon KD_RUN='qemu-aarch64 -L /usr/aarch64-linux-gnu' \
        $build CONFIG=neon CC=aarch64-linux-gnu-gcc AR=aarch64-linux-gnu-ar NM=aarch64-linux-gnu-nm check
else
    skip neon "no aarch64-linux-gnu-gcc or no qemu-aarch64"
fi
if [ "$(uname -m)" = x86_64 ] && have qemu-x86_64; then
    item x86-models sh tests/tools/x86_models.sh
else
    skip x86-models "no qemu-x86_64, or no x86-64"
fi
item embed $MAKE check-embed
item cross $MAKE check-cross
item examples $build examples
item install sh tests/tools/install_matrix.sh
if have abidiff readelf; then item abidiff sh tests/tools/abidiff.sh; else skip abidiff "no abidiff"; fi
item reproduce sh tests/tools/reproduce.sh
exit $failed
