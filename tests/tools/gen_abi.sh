#!/bin/sh
# gen_abi.sh [DIR]: what programs rely on, as text, into DIR (docs/abi): functions and types as the headers declare them, sizes,
# offsets and values as the compiler (KD_CC) sees them.  `make abi` runs it on purpose; `make check` compares (test_abi.c).
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
dir=${1:-docs/abi}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
set -e
headers() { awk -v want="$1" -f tests/tools/headers.awk include/kd/*.h; }
mkdir -p "$dir"
headers functions >"$work/functions"
headers types >"$work/types"
headers program >"$work/program.c"
${KD_CC:-cc} -std=c11 -Iinclude "$work/program.c" -o "$work/program"
$KD_RUN "$work/program" >"$work/values"
LC_ALL=C sort "$work/functions" | cut -f 2 >"$dir/functions.txt"
LC_ALL=C sort "$work/types" >"$dir/types.txt"
grep '^KD_' "$work/values" | LC_ALL=C sort >"$dir/constants.txt"
grep -v '^KD_' "$work/values" >"$dir/structs.txt"
