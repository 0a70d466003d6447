#!/bin/sh
# x86_models.sh: the release build's tests of dispatch, kernels and hashes on processors that this one is not, by qemu-x86_64.  An
# instruction that a model lacks ends the program, and counts as failed; so does a level other than the one that it should have.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
tests=lib/obj/release/tests
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
for model in Conroe:scalar Nehalem:scalar Westmere:scalar SandyBridge:scalar Haswell:avx2; do
    name=${model%:*}
    echo "$name"
    # qemu loads whole vectors where a mask says less, and would fault beside a guard page
    KD_TEST_LEVEL=${model#*:} KD_TEST_ISA=${model#*:} KD_TEST_GUARDS=0 KD_OBJ=$PWD/lib/obj/model-$name KD_RUN="qemu-x86_64 -cpu $name" \
        sh tests/tools/run.sh $tests/unit/test_context $tests/golden/test_kernel_bits $tests/golden/test_hashes $tests/kernels/checkkd
done | tee "$log" | sed '/^[0-9]* passed,/d'
awk '/^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/ { p += $1; f += $3; s += $5; n++ }
    END { if (n != 5) f++; printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 }' "$log"
