#!/bin/sh
# check_images.sh: distill_vision with IMAGES=1.  PNG and JPEG of every kind against the specification and Pillow, whole, cut and
# damaged, under the address sanitizer too.  Skipped without libpng, libjpeg-turbo, or a PEERS_PYTHON with numpy and Pillow.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
MAKE=${MAKE:-make} CC=${CC:-cc} KD_OUT=${KD_OUT:-lib}
python=${PEERS_PYTHON:-python3}
work=$KD_OUT/check-images
rm -rf "$work" && mkdir -p "$work"
skip() {
    echo "skipped  $1"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}
printf '#include <stdio.h>\n#include <jpeglib.h>\n#include <png.h>\nint main(void) { return 0; }\n' >"$work/have.c"
$CC "$work/have.c" -lpng -ljpeg -o "$work/have" 2>"$work/have.log" ||
    skip "no libpng or no libjpeg (Debian: libpng-dev, libjpeg62-turbo-dev)"
"$python" -c 'import numpy, PIL.Image' 2>/dev/null || skip "$python has no numpy or no Pillow"

decoder() {
    out=$1
    shift
    $CC -std=c11 -Wall -Wextra -Werror -O1 -g -DKD_IMAGES=1 "$@" -Iinclude tests/tools/decode_pictures.c examples/vision/pictures.c \
        examples/vision/recipe.c "$KD_OUT/libkd.a" -lpng -ljpeg -lm -pthread -o "$out"
}
{
    decoder "$work/decode" && decoder "$work/decode-asan" -fsanitize=address,undefined -fno-sanitize-recover=all &&
        $MAKE --no-print-directory IMAGES=1 "$KD_OUT/examples/distill_vision" && cp "$KD_OUT/examples/distill_vision" "$work/"
} >"$work/build.log" 2>&1 || {
    cat "$work/build.log"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
}
exec "$python" tests/tools/check_images.py "$work" "$work/decode" "$work/decode-asan" "$work/distill_vision"
