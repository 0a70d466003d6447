/* kern_limits.c - loops that do nothing but one thing.  Compiled once per instruction set.
 * SPDX-License-Identifier: MIT */
#include "kern_limits.h"
#include "simd/simd.h"

/* Independent chains enough for two units of latency four; fewer where a vector is several registers. */
#if defined KD_ISA_avx512
enum { CHAINS = 12 };
#else
enum { CHAINS = 6 };
#endif

static float multiply_add(size_t rounds)
{
    static volatile float step = 1.0f;   /* lanes that the compiler cannot know to be equal, or it computes one of them */
    kd_f32x16 s[CHAINS];
    const kd_f32x16 a = v_set1(0.5f), b = v_set1(0.25f);
    float lanes[16];
    for (int i = 0; i < 16; i++) lanes[i] = (float)i * step;
    V_UNROLL(12)
    for (int i = 0; i < CHAINS; i++) s[i] = v_add(v_load(lanes), v_set1((float)i));
    for (size_t r = 0; r < rounds * (12 / CHAINS); r++) {
        V_UNROLL(12)
        for (int i = 0; i < CHAINS; i++) s[i] = v_fma(s[i], a, b);
    }
    V_UNROLL(12)
    for (int i = 1; i < CHAINS; i++) s[0] = v_add(s[0], s[i]);
    return v_sum(s[0]);
}

static float read(const float *x, size_t n)
{
    kd_f32x16 s[4] = { v_zero(), v_zero(), v_zero(), v_zero() };
    for (size_t i = 0; i < n; i += 64)
        V_UNROLL(4)
        for (size_t j = 0; j < 4; j++) s[j] = v_add(s[j], v_load(x + i + 16 * j));
    return v_sum(v_add(v_add(s[0], s[1]), v_add(s[2], s[3])));
}

static void write(float *y, size_t n)
{
    for (size_t i = 0; i < n; i += 16) v_store(y + i, v_set1(1.0f));
}

static void copy(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += 16) v_store(y + i, v_load(x + i));
}

static void update(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += 16) v_store(y + i, v_add(v_load(y + i), v_load(x + i)));
}

static float exponentials(const float *x, size_t n)
{
    kd_f32x16 s[4] = { v_zero(), v_zero(), v_zero(), v_zero() };
    for (size_t i = 0; i < n; i += 64)
        V_UNROLL(4)
        for (size_t j = 0; j < 4; j++) s[j] = v_add(s[j], v_exp(v_load(x + i + 16 * j)));
    return v_sum(v_add(v_add(s[0], s[1]), v_add(s[2], s[3])));
}

static void add(float *y, const float *a, const float *b, size_t n, int stream)
{
    if (stream) {
        for (size_t i = 0; i < n; i += 16) v_stream(y + i, v_add(v_load(a + i), v_load(b + i)));
        v_stream_end();
    } else {
        for (size_t i = 0; i < n; i += 16) v_store(y + i, v_add(v_load(a + i), v_load(b + i)));
    }
}

extern const kd__limit_loops KD_CAT3(kd__limit_loops, _, KD_ISA);
const kd__limit_loops KD_CAT3(kd__limit_loops, _, KD_ISA) = { multiply_add, read, write, copy, update, exponentials, add };
