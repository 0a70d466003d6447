#!/bin/sh
# cross.sh: the library for other machines and C libraries, built, and run where an emulator is there: examples/embed.c must print what
# it prints here, linked with the library and as one file.  What lacks its tools counts as skipped.  Logs are in lib/cross.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
MAKE=${MAKE:-make}
logs=$PWD/lib/cross
rm -rf "$logs" && mkdir -p "$logs"
unset MAKEFLAGS MFLAGS MAKELEVEL
export WINEDEBUG=-all WINEPREFIX="${WINEPREFIX:-$logs/wine}"
passed=0 failed=0 skipped=0

have() { for t; do command -v "$t" >/dev/null 2>&1 || return 1; done; }
skip() { printf '%-24s skipped: no %s\n' "$1" "$2"; skipped=$((skipped + 1)); }
# item NAME COMMAND...
item() {
    label=$1
    shift
    if "$@" >"$logs/$label.log" 2>&1; then
        printf '%-24s ok\n' "$label"
        passed=$((passed + 1))
    else
        printf '%-24s FAILED (lib/cross/%s.log)\n' "$label" "$label"
        tail -n 20 "$logs/$label.log"
        failed=$((failed + 1))
    fi
}

# same RUN PROGRAM: prints what it prints here, and leaves nothing but the file it saved.  Its name is not ASCII.
same() {
    folder=$logs/run
    rm -rf "$folder" && mkdir -p "$folder" && (cd "$folder" && $1 "$2") | tr -d '\r' >"$folder.out"
    diff "$logs/here.out" "$folder.out" && [ "$(ls "$folder" | wc -l)" = 1 ] && cmp "$logs/here.safetensors" "$folder"/*.safetensors
}

# machine NAME CC RUN [MAKE-ARGUMENT...]: the library, the examples, and the one file without a flag
machine() {
    name=$1 cc=$2 run=$3
    shift 3
    if ! have "$cc"; then
        skip "$name" "$cc"
        return
    fi
    item "$name" $MAKE -j2 CONFIG="cross-$name" CC="$cc" CFLAGS='-O2 -Werror' "$@" all
    item "$name-examples" $MAKE -j2 CONFIG="cross-$name" CC="$cc" CFLAGS=-O2 "$@" examples
    pthread=-pthread
    case $cc in *mingw*) pthread= ;; esac
    item "$name-one-file" "$cc" -O2 -DKD_SINGLE -Ilib/amalgamation examples/embed.c -o "$logs/$name.exe" -lm $pthread
    if [ "$run" ] && ! have "${run%% *}"; then
        skip "$name-run" "${run%% *}"
        return
    fi
    program=$PWD/lib/obj/cross-$name/examples/embed
    [ -f "$program" ] || program=$program.exe
    item "$name-run" same "$run" "$program"
    item "$name-one-file-run" same "$run" "$logs/$name.exe"
}

$MAKE -j2 amalgamation all examples >"$logs/here.log" 2>&1 || { cat "$logs/here.log"; exit 1; }
(cd "$logs" && ../examples/embed here.safetensors >here.out 2>here.err) || { cat "$logs/here.err"; exit 1; }

machine aarch64 aarch64-linux-gnu-gcc 'qemu-aarch64 -L /usr/aarch64-linux-gnu' AR=aarch64-linux-gnu-ar
machine arm arm-linux-gnueabihf-gcc 'qemu-arm -L /usr/arm-linux-gnueabihf' AR=arm-linux-gnueabihf-ar
wine=$(command -v wine || command -v wine64 || echo /usr/lib/wine/wine64)
# (isfinite of MinGW's headers converts)
machine windows x86_64-w64-mingw32-gcc "$wine" AR=x86_64-w64-mingw32-ar CFLAGS='-O2 -Werror -Wno-float-conversion'
machine musl musl-gcc ''
if have musl-gcc; then
    item musl-tests $MAKE -j2 CONFIG=cross-musl CC=musl-gcc CFLAGS=-O2 check
else
    skip musl-tests musl-gcc
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
