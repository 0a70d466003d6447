#!/bin/sh
# gen_reference.sh [DIR]: docs/reference/*.md and docs/man/*.3 (or below DIR) from the comments in include/kd/*.h.
# A comment stands for every declaration below it, down to the next comment or empty line; "/* ---- title: text ---- */" begins a
# section; lines indented by two and more are kept as they are.  A symbol or field without a comment is an error.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
out=${1:-docs}
mkdir -p "$out/reference" "$out/man" || exit 1
rm -f "$out"/man/*.3
LC_ALL=C exec awk -v out="$out" -f tests/tools/gen_reference.awk \
    include/kd/base.h include/kd/tensor.h include/kd/tape.h include/kd/model.h include/kd/distill.h \
    include/kd/optimizer.h include/kd/data.h include/kd/io.h include/kd/kernels.h
