/* golden_lines.h - reads the golden lines of tests/golden/methods_*.txt and makes their inputs: tests/tools/methods_torch.py says how.
 * SPDX-License-Identifier: MIT
 *
 * Tolerance: a line carries for each number S, u = 2^-24 times its condition in the inputs (how far it moves when each input moves by
 * about one rounding; measured in double).  The library rounds an input's contribution a bounded number of times: the division by T, the
 * subtraction of the maximum, the exponential (2 ulp), the normaliser and its logarithm (2), a quotient or a difference, the product
 * with the row's coefficient and the store, sums of floats in trees or in blocks: GOLDEN_ROUNDINGS = 16 of them.  Each is an error that
 * moving an input would have caused too, so the result is within 16 S, and within a few u of its own size for what happens after
 * the last sum.  One thing no input could cause: a probability near 1 is held to u, though it moves by less; a gradient that is a
 * difference of probabilities, times T^2 / (T rows), carries 4 u of what they were before. */
#ifndef GOLDEN_LINES_H
#define GOLDEN_LINES_H
#include "kdtest.h"
#include "kdtest_file.h"
#include <math.h>
#include <stdlib.h>

#define GOLDEN_ROUNDINGS 16
#define GOLDEN_PROBE 1000u
#define GOLDEN_U 0x1p-24

/* Top 24 bits of the hash of (seed, stream, i). */
static inline uint32_t golden_bits(uint64_t seed, uint64_t stream, uint64_t i)
{
    uint64_t z = seed * UINT64_C(0x9E3779B97F4A7C15) + stream * UINT64_C(0xD1B54A32D192ED03) + (i + 1) * UINT64_C(0x8CB92BA72F3D8DD7);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    z ^= z >> 31;
    return (uint32_t)(z >> 40);
}
static inline double golden_uniform(uint64_t seed, uint64_t stream, uint64_t i)
{
    return (double)golden_bits(seed, stream, i) * 0x1p-23 - 1;
}
/* malloc'd: n numbers of a stream in [-scale, scale), scale a power of two. */
static inline float *golden_floats(uint64_t seed, uint64_t stream, size_t n, double scale)
{
    float *v = malloc((n ? n : 1) * sizeof *v);
    for (size_t i = 0; v && i < n; i++) v[i] = (float)(golden_uniform(seed, stream, i) * scale);
    return v;
}
static inline int32_t *golden_integers(uint64_t seed, uint64_t stream, size_t n, size_t below)
{
    int32_t *v = malloc((n ? n : 1) * sizeof *v);
    for (size_t i = 0; v && i < n; i++) v[i] = (int32_t)(golden_bits(seed, stream, i) % below);
    return v;
}

/* ---- a line: words, cut in place ------------------------------------------------------------------------------------------- */
typedef struct golden_line { size_t number; char *words[64]; size_t count; char text[4096]; } golden_line;

/* The next line of *at that is not a comment; 0 at the end. */
static inline int golden_next(const char **at, golden_line *l)
{
    for (;;) {
        const char *end = strchr(*at, '\n');
        if (!**at) return 0;
        const size_t n = end ? (size_t)(end - *at) : strlen(*at);
        const char *from = *at;
        *at += n + (end ? 1 : 0);
        l->number++;
        if (!n || *from == '#') continue;
        if (!CHECK_MSG(n < sizeof l->text, "line %zu is too long", l->number)) return 0;
        memcpy(l->text, from, n);
        l->text[n] = 0;
        l->count = 0;
        for (char *w = l->text; w && *w && l->count < 64;) {
            l->words[l->count++] = w;
            w = strchr(w, ' ');
            if (w) *w++ = 0;
        }
        return 1;
    }
}
/* The text behind key=, or NULL. */
static inline const char *golden_text(const golden_line *l, const char *key)
{
    const size_t n = strlen(key);
    for (size_t i = 1; i < l->count; i++)
        if (!strncmp(l->words[i], key, n) && l->words[i][n] == '=') return l->words[i] + n + 1;
    return NULL;
}
static inline double golden_number(const golden_line *l, const char *key, double otherwise)
{
    const char *t = golden_text(l, key);
    return t ? strtod(t, NULL) : otherwise;
}
static inline size_t golden_size(const golden_line *l, const char *key, size_t otherwise)
{
    const char *t = golden_text(l, key);
    return t ? (size_t)strtoull(t, NULL, 10) : otherwise;
}

/* ---- comparing ------------------------------------------------------------------------------------------------------------- */
/* One number V~S at *t, moved behind it (and a comma); `size` is what the roundings behind the last sum are relative to. */
static inline int golden_compare(const golden_line *l, const char *what, const char **t, double got, double size)
{
    char *end;
    const double want = strtod(*t, &end), moved = *end == '~' ? strtod(end + 1, &end) : 0;
    *t = *end == ',' ? end + 1 : end;
    const double tolerance = GOLDEN_ROUNDINGS * moved + 4 * GOLDEN_U * (size > fabs(want) ? size : fabs(want)) + 1e-37;
    return CHECK_MSG(fabs(got - want) <= tolerance, "line %zu, %s: %s is %.9g, want %.9g within %.2g", l->number, l->words[0],
                     what, got, want, tolerance);
}
static inline int golden_value(const golden_line *l, double got)
{
    const char *t = golden_text(l, "value");
    return t && golden_compare(l, "value", &t, got, 0);
}
/* The gradient of the input `name` (key grad.NAME), the `which`-th of those with gradients. */
static inline int golden_grad(const golden_line *l, const char *name, size_t which, const float *grad, size_t n)
{
    char key[64];
    snprintf(key, sizeof key, "grad.%s", name);
    const char *t = golden_text(l, key);
    const uint64_t seed = golden_size(l, "seed", 0);
    double squares = 0, dot = 0;
    if (!CHECK_MSG(t && grad, "line %zu: no %s", l->number, key)) return 0;
    for (size_t i = 0; i < n; i++) {
        squares += (double)grad[i] * (double)grad[i];
        dot += (double)grad[i] * golden_uniform(seed, GOLDEN_PROBE + which, i);
    }
    snprintf(key, sizeof key, "norm of grad.%s", name);
    const double T = golden_text(l, "classes") ? golden_number(l, "T", 0) : 0, norm = sqrt(squares);
    const double before = T > 0 ? (golden_size(l, "temperature_squared", 1) ? T : 1 / T) / sqrt(golden_number(l, "rows", 1)) : 0;
    const int ok = golden_compare(l, key, &t, norm, before);
    snprintf(key, sizeof key, "probe of grad.%s", name);
    return golden_compare(l, key, &t, dot, norm > before ? norm : before) && ok;
}
#endif
