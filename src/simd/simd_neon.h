/* simd_neon.h - the alphabet on AArch64 NEON: four q registers, lanes 0-3, 4-7, 8-11, 12-15.
 * SPDX-License-Identifier: MIT */
#if !defined __aarch64__ || !defined __ARM_NEON
#error "simd_neon.h needs AArch64 with NEON"
#endif
#include <arm_neon.h>

typedef struct { float32x4_t q[4]; } kd_f32x16;
typedef struct { int32x4_t q[4]; } kd_i32x16;
typedef struct { uint32x4_t q[4]; } kd_m16;           /* a lane is all ones or zero */
typedef struct { float64x2_t q[8]; } kd_f64x16;
#define NEON1(type, name, from, f)                                                                       \
    V_FN type name(from a) { return (type){ { f(a.q[0]), f(a.q[1]), f(a.q[2]), f(a.q[3]) } }; }
#define NEON2(type, name, from, f)                                                                       \
    V_FN type name(from a, from b)                                                                       \
    {                                                                                                    \
        return (type){ { f(a.q[0], b.q[0]), f(a.q[1], b.q[1]), f(a.q[2], b.q[2]), f(a.q[3], b.q[3]) } }; \
    }

NEON2(kd_m16, vm_and, kd_m16, vandq_u32)
NEON2(kd_m16, vm_or, kd_m16, vorrq_u32)
NEON1(kd_m16, vm_not, kd_m16, vmvnq_u32)
V_FN int vm_any(kd_m16 a)
{
    return vmaxvq_u32(vorrq_u32(vorrq_u32(a.q[0], a.q[1]), vorrq_u32(a.q[2], a.q[3]))) != 0;
}
V_FN int vm_all(kd_m16 a)
{
    return vminvq_u32(vandq_u32(vandq_u32(a.q[0], a.q[1]), vandq_u32(a.q[2], a.q[3]))) != 0;
}

V_FN kd_f32x16 v_set1(float x)
{
    float32x4_t v = vdupq_n_f32(x);
    return (kd_f32x16){ { v, v, v, v } };
}
V_FN kd_f32x16 v_load(const float *p)
{
    return (kd_f32x16){ { vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12) } };
}
V_FN void v_store(float *p, kd_f32x16 a)
{
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, a.q[i]);
}
V_FN kd_f32x16 v_load_n(const float *p, size_t n, float fill)
{
    float t[16];
    v_store(t, v_set1(fill));
    memcpy(t, p, n * sizeof *t);
    return v_load(t);
}
V_FN void v_store_n(float *p, kd_f32x16 a, size_t n)
{
    float t[16];
    v_store(t, a);
    memcpy(p, t, n * sizeof *t);
}
/* Past the cache where the CPU can; p on 64 bytes.  v_stream_end() once after the last. */
V_FN void v_stream(float *p, kd_f32x16 a) { v_store(p, a); }
V_FN void v_stream_end(void) { }

NEON2(kd_f32x16, v_add, kd_f32x16, vaddq_f32)
NEON2(kd_f32x16, v_sub, kd_f32x16, vsubq_f32)
NEON2(kd_f32x16, v_mul, kd_f32x16, vmulq_f32)
NEON2(kd_f32x16, v_div, kd_f32x16, vdivq_f32)
V_FN kd_f32x16 v_fma(kd_f32x16 a, kd_f32x16 b, kd_f32x16 c)
{
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) c.q[i] = vfmaq_f32(c.q[i], a.q[i], b.q[i]);
    return c;
}
V_FN kd_f32x16 v_fnma(kd_f32x16 a, kd_f32x16 b, kd_f32x16 c)
{
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) c.q[i] = vfmsq_f32(c.q[i], a.q[i], b.q[i]);
    return c;
}
/* Not vmaxq: that one returns NaN when either is, and +0 of two zeros. */
V_FN float32x4_t neon_max(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
V_FN float32x4_t neon_min(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
NEON2(kd_f32x16, v_max, kd_f32x16, neon_max)
NEON2(kd_f32x16, v_min, kd_f32x16, neon_min)
NEON1(kd_f32x16, v_sqrt, kd_f32x16, vsqrtq_f32)
NEON1(kd_f32x16, v_abs, kd_f32x16, vabsq_f32)
NEON1(kd_f32x16, v_neg, kd_f32x16, vnegq_f32)
V_FN kd_f32x16 v_fms(kd_f32x16 a, kd_f32x16 b, kd_f32x16 c) { return v_fma(a, b, v_neg(c)); }
NEON1(kd_f32x16, v_round, kd_f32x16, vrndnq_f32)   /* to nearest, ties to even */
NEON1(kd_f32x16, v_floor, kd_f32x16, vrndmq_f32)

NEON2(kd_m16, v_lt, kd_f32x16, vcltq_f32)
NEON2(kd_m16, v_le, kd_f32x16, vcleq_f32)
NEON2(kd_m16, v_gt, kd_f32x16, vcgtq_f32)
NEON2(kd_m16, v_eq, kd_f32x16, vceqq_f32)
V_FN kd_m16 v_nle(kd_f32x16 a, kd_f32x16 b) { return vm_not(v_le(a, b)); }   /* a > b, or one is NaN */
V_FN kd_m16 v_isnan(kd_f32x16 a) { return vm_not(v_eq(a, a)); }
V_FN kd_f32x16 v_select(kd_m16 m, kd_f32x16 a, kd_f32x16 b)
{
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) b.q[i] = vbslq_f32(m.q[i], a.q[i], b.q[i]);
    return b;
}
V_FN kd_f32x16 v_keep(kd_m16 m, kd_f32x16 a)
{
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) a.q[i] = vreinterpretq_f32_u32(vandq_u32(m.q[i], vreinterpretq_u32_f32(a.q[i])));
    return a;
}

V_FN kd_i32x16 vi_set1(int32_t x)
{
    int32x4_t v = vdupq_n_s32(x);
    return (kd_i32x16){ { v, v, v, v } };
}
V_FN kd_i32x16 vi_load(const int32_t *p)
{
    return (kd_i32x16){ { vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12) } };
}
V_FN void vi_store(int32_t *p, kd_i32x16 a)
{
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) vst1q_s32(p + 4 * i, a.q[i]);
}
V_FN kd_i32x16 vi_load_n(const int32_t *p, size_t n, int32_t fill)
{
    int32_t t[16];
    vi_store(t, vi_set1(fill));
    memcpy(t, p, n * sizeof *t);
    return vi_load(t);
}
V_FN void vi_store_n(int32_t *p, kd_i32x16 a, size_t n)
{
    int32_t t[16];
    vi_store(t, a);
    memcpy(p, t, n * sizeof *t);
}
V_FN kd_i32x16 vi_iota(void)
{
    static const int32_t lanes[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    return vi_load(lanes);
}
V_FN kd_i32x16 vi_load_u8(const uint8_t *p)
{
    uint8x16_t b = vld1q_u8(p);
    uint16x8_t l = vmovl_u8(vget_low_u8(b)), h = vmovl_u8(vget_high_u8(b));
    return (kd_i32x16){ { vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(l))), vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(l))),
                          vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(h))), vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(h))) } };
}
NEON2(kd_i32x16, vi_add, kd_i32x16, vaddq_s32)
NEON2(kd_i32x16, vi_sub, kd_i32x16, vsubq_s32)
NEON2(kd_i32x16, vi_mul, kd_i32x16, vmulq_s32)
/* The high half of the product of two unsigned numbers. */
V_FN int32x4_t neon_mulhi_u(int32x4_t a, int32x4_t b)
{
    uint32x4_t x = vreinterpretq_u32_s32(a), y = vreinterpretq_u32_s32(b);
    uint64x2_t low = vmull_u32(vget_low_u32(x), vget_low_u32(y)), high = vmull_high_u32(x, y);
    return vreinterpretq_s32_u32(vuzp2q_u32(vreinterpretq_u32_u64(low), vreinterpretq_u32_u64(high)));
}
NEON2(kd_i32x16, vi_mulhi_u, kd_i32x16, neon_mulhi_u)
NEON2(kd_i32x16, vi_and, kd_i32x16, vandq_s32)
NEON2(kd_i32x16, vi_or, kd_i32x16, vorrq_s32)
NEON2(kd_i32x16, vi_xor, kd_i32x16, veorq_s32)
NEON2(kd_m16, vi_eq, kd_i32x16, vceqq_s32)
NEON2(kd_m16, vi_gt, kd_i32x16, vcgtq_s32)
V_FN kd_i32x16 vi_shl(kd_i32x16 a, int n)
{
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) a.q[i] = vshlq_s32(a.q[i], vdupq_n_s32(n));
    return a;
}
V_FN kd_i32x16 vi_shr(kd_i32x16 a, int n)
{
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) a.q[i] = vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a.q[i]), vdupq_n_s32(-n)));
    return a;
}
V_FN kd_i32x16 vi_sar(kd_i32x16 a, int n)
{
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) a.q[i] = vshlq_s32(a.q[i], vdupq_n_s32(-n));
    return a;
}
V_FN kd_i32x16 vi_select(kd_m16 m, kd_i32x16 a, kd_i32x16 b)
{
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) b.q[i] = vbslq_s32(m.q[i], a.q[i], b.q[i]);
    return b;
}
V_FN kd_m16 vm_first(size_t n) { return vi_gt(vi_set1((int32_t)n), vi_iota()); }   /* lanes below n */

NEON1(kd_i32x16, v_cvt_i32, kd_f32x16, vcvtnq_s32_f32)   /* nearest even; in range only */
NEON1(kd_f32x16, vi_cvt_f32, kd_i32x16, vcvtq_f32_s32)
NEON1(kd_i32x16, v_bits, kd_f32x16, vreinterpretq_s32_f32)
NEON1(kd_f32x16, v_from_bits, kd_i32x16, vreinterpretq_f32_s32)

#define NEON_FOLD(name, op, op_scalar)                                                        \
    V_FN float name(kd_f32x16 a)                                                              \
    {                                                                                         \
        float32x4_t q = op(op(a.q[0], a.q[2]), op(a.q[1], a.q[3]));                           \
        q = op(q, vextq_f32(q, q, 2));                                                        \
        float x = vgetq_lane_f32(q, 0), y = vgetq_lane_f32(q, 1);                             \
        return op_scalar;                                                                     \
    }
NEON_FOLD(v_sum, vaddq_f32, x + y)
NEON_FOLD(v_hmax, neon_max, x > y ? x : y)
NEON_FOLD(v_hmin, neon_min, x < y ? x : y)
/* The tree over sixteen vectors at once: lane r of the result is what v_sum, v_hmax make of p[16 r .. 16 r + 16). */
#define NEON_ROWS(name, op)                                                                                          \
    V_FN kd_f32x16 name(const float *p)                                                                              \
    {                                                                                                                \
        kd_f32x16 r;                                                                                                 \
        for (int g = 0; g < 4; g++) {                                                                                \
            float32x4_t a[4];                                                                                        \
            V_UNROLL(4)                                                                                              \
            for (int i = 0; i < 4; i++) {                                                                            \
                kd_f32x16 v = v_load(p + 64 * g + 16 * i);                                                           \
                a[i] = op(op(v.q[0], v.q[2]), op(v.q[1], v.q[3]));                                                   \
            }                                                                                                        \
            float32x4_t b = op(vcombine_f32(vget_low_f32(a[0]), vget_low_f32(a[1])),                                 \
                               vcombine_f32(vget_high_f32(a[0]), vget_high_f32(a[1])));                              \
            float32x4_t c = op(vcombine_f32(vget_low_f32(a[2]), vget_low_f32(a[3])),                                 \
                               vcombine_f32(vget_high_f32(a[2]), vget_high_f32(a[3])));                              \
            r.q[g] = op(vuzp1q_f32(b, c), vuzp2q_f32(b, c));                                                         \
        }                                                                                                            \
        return r;                                                                                                    \
    }
NEON_ROWS(v_sum_rows, vaddq_f32)
NEON_ROWS(v_hmax_rows, neon_max)
#undef NEON_ROWS

V_FN kd_f64x16 vd_set1(double x)
{
    float64x2_t v = vdupq_n_f64(x);
    return (kd_f64x16){ { v, v, v, v, v, v, v, v } };
}
V_FN kd_f64x16 vd_load(const double *p)
{
    kd_f64x16 r;
    V_UNROLL(8)
    for (int i = 0; i < 8; i++) r.q[i] = vld1q_f64(p + 2 * i);
    return r;
}
V_FN void vd_store(double *p, kd_f64x16 a)
{
    V_UNROLL(8)
    for (int i = 0; i < 8; i++) vst1q_f64(p + 2 * i, a.q[i]);
}
V_FN kd_f64x16 vd_from_f32(kd_f32x16 a)
{
    kd_f64x16 r;
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) {
        r.q[2 * i]     = vcvt_f64_f32(vget_low_f32(a.q[i]));
        r.q[2 * i + 1] = vcvt_high_f64_f32(a.q[i]);
    }
    return r;
}
V_FN kd_f32x16 vd_to_f32(kd_f64x16 a)
{
    kd_f32x16 r;
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) r.q[i] = vcvt_high_f32_f64(vcvt_f32_f64(a.q[2 * i]), a.q[2 * i + 1]);
    return r;
}
V_FN kd_f64x16 vd_add(kd_f64x16 a, kd_f64x16 b)
{
    V_UNROLL(8)
    for (int i = 0; i < 8; i++) a.q[i] = vaddq_f64(a.q[i], b.q[i]);
    return a;
}
V_FN kd_f64x16 vd_mul(kd_f64x16 a, kd_f64x16 b)
{
    V_UNROLL(8)
    for (int i = 0; i < 8; i++) a.q[i] = vmulq_f64(a.q[i], b.q[i]);
    return a;
}
/* sum + a * b; the product of two floats is exact in double, so this rounds once. */
V_FN kd_f64x16 vd_mac_f32(kd_f64x16 sum, kd_f32x16 a, kd_f32x16 b)
{
    kd_f64x16 x = vd_from_f32(a), y = vd_from_f32(b);
    V_UNROLL(8)
    for (int i = 0; i < 8; i++) sum.q[i] = vfmaq_f64(sum.q[i], x.q[i], y.q[i]);
    return sum;
}
V_FN double vd_sum(kd_f64x16 a)
{
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) a.q[i] = vaddq_f64(a.q[i], a.q[i + 4]);
    float64x2_t s = vaddq_f64(vaddq_f64(a.q[0], a.q[2]), vaddq_f64(a.q[1], a.q[3]));
    return vgetq_lane_f64(s, 0) + vgetq_lane_f64(s, 1);
}

V_FN void neon_transpose4(float32x4_t r[4])
{
    float32x4_t a = vtrn1q_f32(r[0], r[1]), b = vtrn2q_f32(r[0], r[1]);
    float32x4_t c = vtrn1q_f32(r[2], r[3]), d = vtrn2q_f32(r[2], r[3]);
#define NEON_PAIR(f, x, y) vreinterpretq_f32_f64(f(vreinterpretq_f64_f32(x), vreinterpretq_f64_f32(y)))
    r[0] = NEON_PAIR(vtrn1q_f64, a, c);
    r[1] = NEON_PAIR(vtrn1q_f64, b, d);
    r[2] = NEON_PAIR(vtrn2q_f64, a, c);
    r[3] = NEON_PAIR(vtrn2q_f64, b, d);
#undef NEON_PAIR
}
/* r[i] lane j <-> r[j] lane i. */
V_FN void v_transpose16(kd_f32x16 r[16])
{
    for (int i = 0; i < 4; i++)
        for (int j = i; j < 4; j++) {   /* blocks of four rows and four columns, (i, j) with (j, i) */
            float32x4_t a[4], b[4];
            V_UNROLL(4)
            for (int k = 0; k < 4; k++) {
                a[k] = r[4 * i + k].q[j];
                b[k] = r[4 * j + k].q[i];
            }
            neon_transpose4(a);
            neon_transpose4(b);
            V_UNROLL(4)
            for (int k = 0; k < 4; k++) {
                r[4 * j + k].q[i] = a[k];
                r[4 * i + k].q[j] = b[k];
            }
        }
}
/* Four rows' quads: lane 4 i + k is p[i * step + k], k < n <= 4; the others 0. */
V_FN kd_f32x16 v_load_quads(const float *p, size_t step, size_t n)
{
    float t[16] = { 0 };
    for (size_t i = 0; i < 4; i++) memcpy(t + 4 * i, p + i * step, n * sizeof *t);
    return v_load(t);
}
V_FN void v_store_quads(float *p, size_t step, kd_f32x16 a, size_t n)
{
    float t[16];
    v_store(t, a);
    for (size_t i = 0; i < 4; i++) memcpy(p + i * step, t + 4 * i, n * sizeof *t);
}
/* r[i] lane 4 q + k <-> r[k] lane 4 q + i. */
V_FN void v_transpose_quads(kd_f32x16 r[4])
{
    V_UNROLL(4)
    for (int q = 0; q < 4; q++) {
        float32x4_t a[4] = { r[0].q[q], r[1].q[q], r[2].q[q], r[3].q[q] };
        neon_transpose4(a);
        V_UNROLL(4)
        for (int i = 0; i < 4; i++) r[i].q[q] = a[i];
    }
}
#undef NEON1
#undef NEON2
#undef NEON_FOLD
