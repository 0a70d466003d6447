/* probe.h - what golden values are compared with: tensors by their dot product with hashed numbers.
 * SPDX-License-Identifier: MIT */
#ifndef PROBE_H
#define PROBE_H
#include "kdtest.h"
#include <math.h>

#define U 0x1p-24
/* The dot product, and the sum of absolute terms. */
typedef struct probe { const char *name; double dot, magnitude; } probe;

/* As numbers() in tests/tools/golden_numbers.py. */
static inline double number(uint32_t stream, uint32_t i)
{
    uint32_t x = i * 2654435761u + stream * 40503u + 12345u;
    x = (x ^ x >> 16) * 0x45d9f3bu;
    x = (x ^ x >> 15) * 0x45d9f3bu;
    x ^= x >> 16;
    return (double)(x >> 8) * 0x1p-24 - 0.5;
}

/* v [n] is what `want` says, within what `chain` roundings may do. */
static inline void check_probe(const probe *want, const float *v, size_t n, uint32_t stream, int chain)
{
    double dot = 0, magnitude = 0;
    for (uint32_t i = 0; v && i < n; i++) {
        dot += (double)v[i] * number(stream, i);
        magnitude += fabs((double)v[i] * number(stream, i));
    }
    CHECK_MSG(v && fabs(dot - want->dot) <= chain * U * want->magnitude, "%s: %.9g, want %.9g within %.2g", want->name, dot, want->dot,
              chain * U * want->magnitude);
    CHECK_MSG(fabs(magnitude - want->magnitude) <= chain * U * want->magnitude, "%s: magnitude %.9g, want %.9g", want->name, magnitude,
              want->magnitude);
}
#endif
