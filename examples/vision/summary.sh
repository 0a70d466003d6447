#!/bin/sh
# The table of a queue's results as Markdown: summary.sh OUT > docs/results/cifar100.md
# SPDX-License-Identifier: MIT
# What has not finished is listed as not run.  Published, ResNet-56 -> ResNet-20, 240 epochs: RepDistiller's README; DKD, and KD with
# standardised logits, from the README of the latter; ReviewKD and DIST from their papers.
set -eu
out=$1
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
last() { tail -n 1 "$1" | sed 's/,[a-z_]*=[0-9.]*//g'; }   # the commas in a transformer's name part no fields
cat <<END
# CIFAR-100: what the methods are worth on two cores

Made by \`examples/vision/summary.sh\`, $(date -u +%Y-%m-%d), ${cpu:-unknown CPU}.  The queue is one command; killed, it goes on where it
was.  A run takes 8 minutes or more on one core:

    make examples
    sh examples/vision/queue.sh lib/examples/distill_vision examples/recipes/cifar100.runs cifar100:FOLDER RUNS 2
    sh examples/vision/summary.sh RUNS > docs/results/cifar100.md

FOLDER holds the binary records train.bin and test.bin.  The protocol is the literature's, shortened
(\`examples/recipes/cifar_short.recipe\`): teacher ResNet-20, 40 epochs, seed 500; student ResNet-8, 15 epochs, one rise and fall of the
learning rate (.1), batch 64, decay 5e-4, Nesterov, crop and flip.  The transformers: \`vit_short.recipe\`, 8 epochs of AdamW; soft and
hard are DeiT's, through a second head on a token of its own, taught by the same teacher.  Accuracy is that of the last epoch on the
10,000 test images, in percent, mean +- standard error over the seeds; the difference is paired with the student alone of the same
seed; "best epoch" chose by the test images.  Minutes are of the quickest seed, on one thread of a machine that did other work beside it.

END
if [ -f "$out/teacher/result.csv" ]; then
  last "$out/teacher/result.csv" | awk -F, '{
    printf "Teacher: %s, %s parameters, top-1 %s, top-5 %s ", $1, $11, $6, $7
    printf "(%d epochs; weights %s).\n\n", $5, $13 }'
fi
for f in "$out"/alone-[0-9]*/curves.csv; do [ ! -f "$f" ] || tail -n 1 "$f"; done | awk -F, '{ n++; train += $3; test += $4 } END {
  if (n) {
    printf "In these few epochs ResNet-8 does not fit its training images: alone it ends with a cross-entropy of %.3f\n", train / n
    printf "on them, augmented, and %.3f on the test images.  What holds a student back from fitting too well has little\n", test / n
    print "to do here and takes part of its capacity; what says more about each image than its label has more to give than in"
    print "240 epochs.  So an order of methods here need not be the published one, and is not evidence against it.  (In the"
    print "full protocol RKD is below the student alone in three of RepDistiller\047s thirteen pairs, CC in two.)\n" } }'
for f in "$out"/*-[0-9]*/result.csv; do
  [ -f "$f" ] || continue
  run=$(basename "$(dirname "$f")")
  printf '%s,%s,%s\n' "${run%-*}" "$(last "$f")" "$(cat "$(dirname "$f")/code.txt" 2>/dev/null || echo -)"
done > "$out/results.txt"
awk -F, -v queue="$out/queue.txt" '
  BEGIN {
    n = split("alone 69.06 kd 70.66 at 70.55 rkd 69.61 cc 69.63 dkd 71.97 crd 71.16 lskd 71.43 fitnet 69.21 sp 69.67 " \
      "pkt 70.34 reviewkd 71.89 dist 71.75", p, " ")
    for (i = 1; i < n; i += 2) published[p[i]] = p[i + 1]
    while ((getline line < queue) > 0) {
      split(line, w, " "); name = w[1]; sub(/-[0-9]+$/, "", name)
      if (!(name in rank)) { order[++kinds] = name; rank[name] = kinds }
      wanted[name]++
    }
  }
  { runs[$1]++; k = runs[$1]; top[$1, k] = $7; five[$1] += $8; best[$1] += $9; agree[$1] += $10
    if (k == 1 || $13 < spent[$1]) spent[$1] = $13
    seed[$1, k] = $5
    size[$1] = $12; at[$1, $5] = $7; code[$15] = 1 }
  function error(name, list,   i, m, s, c) {
    c = runs[name]; m = 0; for (i = 1; i <= c; i++) m += list[name, i] / c
    s = 0; for (i = 1; i <= c; i++) s += (list[name, i] - m) ^ 2
    mean = m; return c > 1 ? sqrt(s / (c - 1) / c) : 0 }
  function row(name,   i, e, base, d, s, c, note) {
    if (!runs[name]) { printf "| %s | not run | | | | | | | |\n", name; return }
    e = error(name, top); note = mean
    printf "| %s | %d of %d | %.2f%s | ", name, runs[name], wanted[name], mean, (runs[name] > 1 ? sprintf(" +- %.2f", e) : "")
    base = name ~ /^vit/ ? "vit" : "alone"; c = 0; d = 0
    for (i = 1; i <= runs[name]; i++)
      if ((base, seed[name, i]) in at) { diff[++c] = top[name, i] - at[base, seed[name, i]]; d += diff[c] }
    if (c && name != base) {
      d /= c; s = 0; for (i = 1; i <= c; i++) s += (diff[i] - d) ^ 2
      printf "%+.2f%s", d, (c > 1 ? sprintf(" +- %.2f", sqrt(s / (c - 1) / c)) : "")
    }
    printf " | %.2f | %.2f | %s | %.0f | %s |\n", five[name] / runs[name], best[name] / runs[name],
      agree[name] == agree[name] + 0 && name != base ? sprintf("%.1f", agree[name] / runs[name]) : "",
        spent[name] / 60, name in published ? published[name] : ""
    means[name] = note }
  function in_order(line, of,   left, name, m, done) {   # the largest first, of those that have run and been published
    for (name in means) left += (name in published)
    while (left-- > 0) {
      m = ""
      for (name in means) if ((name in published) && !(name in done) && (m == "" || of[name] > of[m])) m = name
      done[m] = 1; line = line " " m (left ? "," : ".")
    }
    return line }
  END {
    print "| method | seeds | top-1 | difference | top-5 | best epoch | agreement | minutes | published (56 -> 20) |"
    print "|---|---|---|---|---|---|---|---|---|"
    for (i = 1; i <= kinds; i++) row(order[i])
    print ""
    print in_order("Order here:", means)
    print in_order("Order published, of the same:", published)
    line = "Code:"; for (c in code) line = line " " c
    print "\n" line "."
  }' "$out/results.txt"
