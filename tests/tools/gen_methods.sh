#!/bin/sh
# gen_methods.sh [DIR]: docs/methods/*.md (or DIR/methods) from src/distill/methods.def and the first comments of the methods' files.
# A section begins with its word and a colon at the start of a line.  Lines of the formula indented by four and more stay as they
# are; so do lines of other sections indented by eight and more; the rest is joined.  A method without one of the sections is an error.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
out=${1:-docs}/methods
mkdir -p "$out" || exit 1
for page in "$out"/*.md; do   # results.md is `make methods`'s
  case $page in */results.md) ;; *) rm -f "$page" ;; esac
done
LC_ALL=C exec awk -v out="$out" -f tests/tools/gen_methods.awk src/distill/methods.def
