#!/bin/sh
# compression.sh PROGRAM DATA RUNS NAME..: what distillation saves, as Markdown, from finished runs of queue.sh:
#     sh examples/vision/compression.sh lib/examples/distill_vision cifar100:FOLDER RUNS alone-1 kd-1 > docs/results/compression.md
# SPDX-License-Identifier: MIT
# The teacher is RUNS/teacher, a student RUNS/NAME; the networks' names are those of their settings.txt.  Nothing is written in RUNS.
set -eu
program=$1 data=$2 runs=$3
shift 3
seconds=${SECONDS_EACH:-5}
network() { sed -n 's/^student = //p' "$runs/$1/settings.txt"; }
set -- "$@" end
while [ "$1" != end ]; do
  name=$1
  shift
  set -- "$@" --compare "$(network "$name"):$runs/$name/last.safetensors"
done
shift
cpu=$(lscpu 2>/dev/null | awk -F': *' '
  /^Model name/ { name = $2 } /^CPU family/ { family = $2 } /^Model:/ { model = $2 } /^L2 cache/ { l2 = $2 } /^L3 cache/ { l3 = $2 }
  /^Flags/ { isa = / avx512f / ? "AVX-512" : / avx2 / ? "AVX2" : "no AVX2" }
  END { print name ", family " family " model " model ", " isa ", L2 " l2 ", L3 " l3 }')
code=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
cat <<END
# What distillation saves

Made on $(date -u +%Y-%m-%d) from finished runs of [the queue](cifar100.md), with the code of $code, on
${cpu:-an unknown CPU}:

    make examples
    sh examples/vision/compression.sh lib/examples/distill_vision cifar100:FOLDER RUNS alone-1 kd-1 > docs/results/compression.md

Multiply-adds are those of one image in convolutions, matrix products and attention.  A latency is the median of the passes in
$seconds seconds (at most 1,000) after 3 for warming up: one thread, weights frozen and packed, nothing recorded.  "As the teacher" is how
often a network gives the teacher's answer, right or wrong; accuracy kept is its top-1 as a part of the teacher's.

END
"$program" --data "$data" --threads 1 --time "$seconds" --teacher "$(network teacher):$runs/teacher/last.safetensors" "$@" | sed 1,2d
