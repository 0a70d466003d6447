#!/bin/sh
# queue.sh PROGRAM RUNS DATA OUT JOBS: the runs of a list, one after the other, JOBS at once, each on one thread, as in
#     sh examples/vision/queue.sh lib/examples/distill_vision examples/recipes/cifar100.runs cifar100:PATH FOLDER 2
# Killed at any moment, it goes on where it was.  Each run has the folder OUT/NAME-SEED; the teacher OUT/teacher.
# SPDX-License-Identifier: MIT
set -eu
program=$1 runs=$2 data=$3 out=$4 jobs=${5:-2}
recipe=examples/recipes/cifar_short.recipe
mkdir -p "$out"
if [ -f "$out/queue.pid" ] && kill -0 "$(cat "$out/queue.pid")" 2>/dev/null; then
  echo "queue.sh: process $(cat "$out/queue.pid") works in $out" >&2; exit 1
fi
echo $$ > "$out/queue.pid"
trap 'rm -f "$out/queue.pid"' EXIT
code=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)

sed '/^\[teacher\]/d' "$recipe" > "$out/teacher.recipe"   # the section's lines come last and win
if [ ! -f "$out/teacher/result.csv" ]; then
  echo "teacher"
  "$program" --data "$data" --student resnet20 --method alone --seed 500 --recipe "$out/teacher.recipe" --time 0 \
    --out "$out/teacher" >> "$out/teacher.log" 2>&1
  echo "$code" > "$out/teacher/code.txt"
fi

# NAME-SEED STUDENT METHOD SEED OPTIONS.., in the order of running
awk '/^#/ || !NF { next }
     /^---/ { flush(); next }
     { n++; name[n] = $1; student[n] = $2; method[n] = $3; seeds[n] = $4
       $1 = $2 = $3 = $4 = ""; gsub(/ +/, " "); sub(/ $/, ""); options[n] = $0 }   # " --set .." or nothing
     function flush(  i, k, list) {
       for (k = 1; k <= 99; k++) for (i = 1; i <= n; i++)
         if (k <= split(seeds[i], list, ",")) print name[i] "-" list[k], student[i], method[i], list[k] options[i]
       n = 0 }
     END { flush() }' "$runs" > "$out/queue.txt"
# no blank ends a line there: xargs would join it with the next
export PROGRAM="$program" DATA="$data" OUT="$out" RECIPE="$recipe" CODE="$code"
xargs -P "$jobs" -L 1 sh -c '
  run=$0 student=$1 method=$2 seed=$3; shift 3
  folder=$OUT/$run
  [ ! -f "$folder/result.csv" ] || exit 0
  case $method in alone) teacher= ;; *) teacher="--teacher resnet20:$OUT/teacher/last.safetensors" ;; esac
  echo "$run"
  if "$PROGRAM" --data "$DATA" --student "$student" --method "$method" --seed "$seed" --recipe "$RECIPE" --threads 1 --time 0 \
       --out "$folder" $teacher "$@" >> "$OUT/$run.log" 2>&1
  then echo "$CODE" > "$folder/code.txt"
  else echo "$run failed: $(tail -n 1 "$OUT/$run.log")"
  fi' < "$out/queue.txt"
