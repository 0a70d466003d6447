#!/bin/sh
# embed.sh: the ways to embed the library.  As one file by each compiler and level: it must hit the hashes; without threads, without
# files: nothing of them is asked of the system, and what does not need them passes its tests.  Logs are in lib/embed.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
MAKE=${MAKE:-make}
logs=$PWD/lib/embed
rm -rf "$logs" && mkdir -p "$logs"
unset MAKEFLAGS MFLAGS MAKELEVEL
passed=0 failed=0 skipped=0

have() { command -v "$1" >/dev/null 2>&1; }
# item NAME COMMAND...
item() {
    label=$1
    shift
    if "$@" >"$logs/$label.log" 2>&1; then
        printf '%-24s ok\n' "$label"
        passed=$((passed + 1))
    else
        printf '%-24s FAILED (lib/embed/%s.log)\n' "$label" "$label"
        tail -n 20 "$logs/$label.log"
        failed=$((failed + 1))
    fi
}

tests=lib/obj/release/tests
$MAKE -j2 amalgamation examples $tests/golden/test_hashes >"$logs/build.log" 2>&1 || { cat "$logs/build.log"; exit 1; }

# hashes COMPILER FLAG...
hashes() {
    "$@" -Werror -c lib/amalgamation/kd.c -o "$logs/kd.o" &&
        cc $tests/golden/test_hashes.o $tests/kit/*.o $tests/ref/*.o $tests/kernels/kern_*.o "$logs/kd.o" -o "$logs/hashes" -lm -pthread &&
        "$logs/hashes"
}
# single FLAG...: all static in one program, which prints what the library's prints
single() {
    (cd "$logs" && ../examples/embed one.safetensors >library.out) &&
        cc -O2 -Wall -Wextra -Werror -DKD_SINGLE -DKD_STATIC "$@" -Ilib/amalgamation examples/embed.c -o "$logs/single" -lm &&
        (cd "$logs" && ./single one.safetensors >single.out) && diff "$logs/library.out" "$logs/single.out"
}
# without NAME PATTERN FLAGS TEST...: the library built with the flags asks for nothing that matches, and passes the tests
without() {
    config=embed-$1 pattern=$2 flags=$3
    shift 3
    programs=$(for t; do echo "lib/obj/$config/tests/$t"; done)
    $MAKE -j2 CONFIG="$config" CPPFLAGS="$flags" "lib/obj/$config/libkd.a" $programs || return 1
    if nm -u "lib/obj/$config/libkd.a" | awk 'NF == 2 { print $2 }' | grep -E "$pattern"; then return 1; fi
    KD_OBJ=lib/obj/$config KD_OUT=lib/obj/$config sh tests/tools/run.sh $programs
}

for cc in gcc clang; do
    for level in -O2 -O3; do
        if have $cc; then
            item "one-file-$cc$level" hashes $cc $level
        else
            printf '%-24s skipped: no %s\n' "one-file-$cc$level" $cc
            skipped=$((skipped + 1))
        fi
    done
done
item one-file-native hashes cc -O2 -march=native
item single single -pthread
item single-bare single -DKD_NO_THREADS -DKD_NO_IO
says_why() { "$logs/single" "$logs/none" 2>&1 | grep 'not saved: .*none: this libkd has no files (KD_NO_IO)' && [ ! -e "$logs/none" ]; }
item single-bare-says-why says_why

threads='^(pthread_|sem_|thrd_|mtx_|sched_|__tls)'
files='^(open|openat|fopen|fdopen|close|read|pread|write|pwrite|rename|unlink|fsync|stat|lstat|fstat|flock|fcntl|realpath)(64|at|at64)?$'
files="$files|^(opendir|readdir|readdir64|closedir)\$"
plain='unit/test_tensor unit/test_tape unit/test_distill unit/test_layers unit/test_model unit/test_model_run unit/test_optimizer
    unit/test_ema unit/test_zoo unit/test_loader unit/test_chain unit/test_schedule unit/test_kernels_public golden/test_hashes'
item no-threads without no-threads "$threads" -DKD_NO_THREADS $plain unit/test_npy unit/test_idx unit/test_safetensors unit/test_model_file
item no-io without no-io "$files" -DKD_NO_IO $plain unit/test_context unit/test_error
item no-threads-no-io without bare "$threads|$files" '-DKD_NO_THREADS -DKD_NO_IO' $plain
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
