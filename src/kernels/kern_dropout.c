/* kern_dropout.c - dropout straight from the random stream, forward and backward alike: no mask is kept, the stream is
 * drawn again.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "simd/simd.h"

enum { BLOCK = 64 };   /* numbers: sixteen counters give four each */

/* Numbers 4 first .. 4 first + 63 of the stream `key`: Philox4x32-10 over sixteen counters at once (src/base/rng.c). */
V_FN void draw(int32_t out[BLOCK], uint64_t key, uint64_t first)
{
    const kd_i32x16 m0 = vi_set1((int32_t)0xd2511f53u), m1 = vi_set1((int32_t)0xcd9e8d57u);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    kd_i32x16 c0 = vi_add(vi_set1((int32_t)first), vi_iota()), c1, c2 = vi_zero(), c3 = vi_zero();
    const kd_i32x16 high = vi_set1((int32_t)(first >> 32)), carried = vi_set1((int32_t)((first >> 32) + 1));
    /* a lane whose low word wrapped is below `first`, unsigned */
    const kd_i32x16 sign = vi_set1(INT32_MIN);
    c1 = vi_select(vi_gt(vi_xor(vi_set1((int32_t)first), sign), vi_xor(c0, sign)), carried, high);
    V_UNROLL(10)
    for (int round = 0; round < 10; round++, k0 += 0x9e3779b9u, k1 += 0xbb67ae85u) {
        const kd_i32x16 h0 = vi_mulhi_u(m0, c0), l0 = vi_mul(m0, c0), h1 = vi_mulhi_u(m1, c2), l1 = vi_mul(m1, c2);
        c0 = vi_xor(vi_xor(h1, c1), vi_set1((int32_t)k0));
        c2 = vi_xor(vi_xor(h0, c3), vi_set1((int32_t)k1));
        c1 = l1;
        c3 = l0;
    }
    int32_t word[4][16];
    vi_store(word[0], c0);
    vi_store(word[1], c1);
    vi_store(word[2], c2);
    vi_store(word[3], c3);
    for (size_t l = 0; l < 16; l++)
        for (size_t w = 0; w < 4; w++) out[4 * l + w] = word[w][l];
}

/* Sixteen elements; w their numbers. */
V_FN kd_f32x16 dropped(kd_f32x16 x, kd_i32x16 w, kd_i32x16 threshold, kd_f32x16 scale)
{
    return v_select(vi_gt(threshold, vi_shr(w, 8)), v_zero(), v_mul(x, scale));
}

void KD_K(dropout_f32)(float *out, const float *in, size_t n, uint64_t key, uint64_t index, uint32_t threshold, float scale,
                       int accumulate)
{
    const kd_i32x16 limit = vi_set1((int32_t)threshold);
    const kd_f32x16 factor = v_set1(scale);
    int32_t word[BLOCK];
    for (size_t i = 0; i < n; i += BLOCK) {
        draw(word, key, (index + i) / 4);
        for (size_t k = 0; k < BLOCK && i + k < n; k += 16) {
            const size_t at = i + k, left = n - at < 16 ? n - at : 16;
            if (left == 16) {
                kd_f32x16 y = dropped(v_load(in + at), vi_load(word + k), limit, factor);
                v_store(out + at, accumulate ? v_add(v_load(out + at), y) : y);
            } else {
                kd_f32x16 y = dropped(v_load_n(in + at, left, 0.0f), vi_load(word + k), limit, factor);
                v_store_n(out + at, accumulate ? v_add(v_load_n(out + at, left, 0.0f), y) : y, left);
            }
        }
    }
}
