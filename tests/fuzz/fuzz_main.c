/* fuzz_main.c - libFuzzer's way in: compiled once per target with KD_FUZZ_TARGET=kdfuzz_json, ..
 * SPDX-License-Identifier: MIT */
#include "fuzz.h"

#ifdef KD_FUZZ_TARGET
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return KD_FUZZ_TARGET(data, size); }
#endif
