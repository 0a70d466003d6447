/* state.h - numbers into and out of the little-endian states that checkpoints hold.
 * SPDX-License-Identifier: MIT */
#ifndef KD__STATE_H
#define KD__STATE_H
#include "base/base.h"

/* Where the next number goes; put_ and get_ move it on. */
static inline void kd__state_put_u64(uint8_t **at, uint64_t v)
{
    for (int i = 0; i < 8; i++) (*at)[i] = (uint8_t)(v >> 8 * i);
    *at += 8;
}
static inline uint64_t kd__state_get_u64(const uint8_t **at)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++) v |= (uint64_t)(*at)[i] << 8 * i;
    *at += 8;
    return v;
}
static inline void kd__state_put_f64(uint8_t **at, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    kd__state_put_u64(at, bits);
}
static inline double kd__state_get_f64(const uint8_t **at)
{
    uint64_t bits = kd__state_get_u64(at);
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static inline void kd__state_order_f32(void *data, size_t n)   /* between this machine's order and the file's */
{
    if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) return;
    uint8_t *p = data;
    for (size_t i = 0; i < n; i++, p += 4) {
        uint32_t v;
        memcpy(&v, p, 4);
        v = __builtin_bswap32(v);
        memcpy(p, &v, 4);
    }
}
static inline void kd__state_put_f32(uint8_t **at, const float *x, size_t n)
{
    if (n) memcpy(*at, x, n * sizeof *x);
    kd__state_order_f32(*at, n);
    *at += n * sizeof *x;
}
static inline void kd__state_get_f32(const uint8_t **at, float *x, size_t n)
{
    if (n) memcpy(x, *at, n * sizeof *x);
    kd__state_order_f32(x, n);
    *at += n * sizeof *x;
}
#endif
