/* fuzz.h - what the fuzz targets share.  A target eats any bytes; a crash, a sanitizer's report or a trap is a finding.
 * `make fuzz` drives them with libFuzzer; test_replay.c runs their corpus, and mutations of it, in `make check`.
 * SPDX-License-Identifier: MIT */
#ifndef KD_FUZZ_H
#define KD_FUZZ_H
#include "base/base.h"
#include "kd.h"

#define KD_FUZZ_TARGETS(X) X(json) X(safetensors) X(npy) X(idx) X(csv) X(model) X(checkpoint) X(ppm) X(randaugment)
#define X(name) int kdfuzz_##name(const uint8_t *data, size_t size);
KD_FUZZ_TARGETS(X)
#undef X

/* Until fuzz_end, the path "mem" is a file of these bytes, and saving to "mem" replaces them; as a folder it has one class with one
 * image, this file. */
void fuzz_begin(const uint8_t *data, size_t size);
void fuzz_end(void);
/* The bytes of "mem" now. */
const uint8_t *fuzz_bytes(size_t *size);
/* Trap unless it holds: what no input may break. */
#define FUZZ_MUST(cond) do { if (!(cond)) __builtin_trap(); } while (0)
#endif
