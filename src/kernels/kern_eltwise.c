/* kern_eltwise.c - elementwise functions of one operand, and their gradients.
 * SPDX-License-Identifier: MIT */
#define KD_MATH_HERE 1
#include "kernels/kernels.h"
#include "simd/simd.h"

#define SQRT_2_PI    0x1.988454p-1f    /* sqrt(2/pi)   */
#define TWO_RSQRT_PI 0x1.20dd76p0f     /* 2/sqrt(pi)   */
#define GELU_CUBIC   0.044715f

/* x held where squares and products with it stay finite and an infinite x gives the limit; NaN passes. */
V_FN kd_f32x16 held(kd_f32x16 x) { return v_min(v_set1(1e12f), v_max(v_set1(-1e12f), x)); }

V_FN kd_f32x16 gelu_tanh_argument(kd_f32x16 x)
{
    return v_mul(x, v_fma(v_mul(x, x), v_set1(SQRT_2_PI * GELU_CUBIC), v_set1(SQRT_2_PI)));
}

/* Phi(x) - 1/2 and gelu'(x) - 1/2 are odd and end at 1/2: t R(2 t^2 - 1), t = x / reach held to [-1, 1], no exponential in it.
 * Minimax fits, within 2^-26 and 2^-23; in floats R(1) is 1/2 exactly, so that the limits are 0 and 1. */
#define PHI_REACH   5.6f
#define SLOPE_REACH 6.0f
static const float phi_curve[] = {
    0x1.6a02f2p-1f, -0x1.698fb4p-2f, 0x1.0d6876p-2f, -0x1.b7c608p-3f, 0x1.6ea014p-3f, -0x1.2dce04p-3f, 0x1.e0c004p-4f,
    -0x1.68fac4p-4f, 0x1.f59408p-5f, -0x1.5bee36p-5f, 0x1.f02186p-6f, -0x1.01722ep-6f, 0x1.121464p-8f, -0x1.eb905ep-9f,
    0x1.3b6292p-8f, -0x1.d46434p-10f
};
static const float slope_curve[] = {
    0x1.6a2e96p-1f, -0x1.6c99eep-2f, 0x1.1af6fcp-2f, -0x1.0457dep-2f, 0x1.12245ep-2f, -0x1.383108p-2f, 0x1.6455f6p-2f,
    -0x1.9059fep-2f, 0x1.b21f22p-2f, -0x1.8120fap-2f, 0x1.0789ecp-2f, -0x1.05af98p-2f, 0x1.3f959ap-2f, -0x1.3c66c8p-3f,
    -0x1.071fe0p-5f, -0x1.1060a8p-6f, 0x1.53c1e2p-4f, -0x1.1c966ap-5f
};
/* t, and R at it.  terms and reach are constants. */
V_FN kd_f32x16 odd_curve(kd_f32x16 x, float reach, const float *c, int terms, kd_f32x16 *t)
{
    *t = v_min(v_set1(1.0f), v_max(v_set1(-1.0f), v_mul(x, v_set1(1.0f / reach))));   /* NaN passes */
    kd_f32x16 u = v_fma(v_add(*t, *t), *t, v_set1(-1.0f)), r = v_set1(c[terms - 1]);
    V_UNROLL(18)
    for (int k = terms - 2; k >= 0; k--) r = v_fma(r, u, v_set1(c[k]));
    return r;
}
#define ODD_CURVE(x, reach, c, t) odd_curve(x, reach, c, (int)(sizeof c / sizeof *c), t)

/* `op` is a constant wherever this is called: the switch is gone after inlining. */
V_FN kd_f32x16 unary_value(uint32_t op, kd_f32x16 x, kd_f32x16 a, kd_f32x16 b)
{
    kd_f32x16 half = v_set1(0.5f), h, t;
    switch (op) {
    case KD_UNARY_EXP: return v_exp(x);
    case KD_UNARY_LOG: return v_log(x);
    case KD_UNARY_LOG1P: return v_log1p(x);
    case KD_UNARY_SQRT: return v_sqrt(x);
    case KD_UNARY_RSQRT: return v_rsqrt(x);
    case KD_UNARY_SQUARE: return v_mul(x, x);
    case KD_UNARY_ABS: return v_abs(x);
    case KD_UNARY_NEG: return v_neg(x);
    case KD_UNARY_RELU: return v_max(v_zero(), x);
    case KD_UNARY_LEAKY_RELU: return v_select(v_gt(x, v_zero()), x, v_mul(a, x));
    case KD_UNARY_GELU_ERF:
        x = v_max(v_set1(-1e12f), x);
        h = ODD_CURVE(x, PHI_REACH, phi_curve, &t);
        return v_fma(x, v_mul(h, t), v_mul(half, x));
    case KD_UNARY_GELU_TANH:
        x = v_max(v_set1(-1e12f), x);
        h = v_mul(half, x);
        return v_fma(h, v_tanh(gelu_tanh_argument(x)), h);
    case KD_UNARY_SILU:
        x = v_max(v_set1(-1e12f), x);
        return v_mul(x, v_sigmoid(x));
    case KD_UNARY_SIGMOID: return v_sigmoid(x);
    case KD_UNARY_TANH: return v_tanh(x);
    case KD_UNARY_ERF: return v_erf(x);
    case KD_UNARY_SOFTPLUS: return v_add(v_max(v_zero(), x), v_log1p(v_exp(v_neg(v_abs(x)))));
    case KD_UNARY_CLAMP: return v_min(b, v_max(a, x));
    default: return v_fma(a, x, b);   /* SCALE_ADD */
    }
}

/* grad_out times the derivative; s is what KD_UNARY_OPS says is saved. */
V_FN kd_f32x16 unary_gradient(uint32_t op, kd_f32x16 g, kd_f32x16 s, kd_f32x16 a, kd_f32x16 b)
{
    kd_f32x16 one = v_set1(1.0f), half = v_set1(0.5f), t;
    switch (op) {
    case KD_UNARY_EXP: return v_mul(g, s);
    case KD_UNARY_LOG: return v_div(g, s);
    case KD_UNARY_LOG1P: return v_div(g, v_add(one, s));
    case KD_UNARY_SQRT: return v_div(v_mul(half, g), s);
    case KD_UNARY_RSQRT: return v_mul(v_mul(v_set1(-0.5f), g), v_mul(s, v_mul(s, s)));
    case KD_UNARY_SQUARE: return v_mul(g, v_add(s, s));
    case KD_UNARY_ABS:
        t = v_from_bits(vi_xor(v_bits(g), vi_and(v_bits(s), vi_set1(INT32_MIN))));
        return v_select(v_eq(s, v_zero()), v_zero(), t);
    case KD_UNARY_NEG: return v_neg(g);
    case KD_UNARY_RELU: return v_select(v_le(s, v_zero()), v_zero(), g);
    case KD_UNARY_LEAKY_RELU: return v_select(v_gt(s, v_zero()), g, v_mul(a, g));
    case KD_UNARY_GELU_ERF: {   /* Phi(x) + x phi(x) */
        kd_f32x16 r = ODD_CURVE(s, SLOPE_REACH, slope_curve, &t);
        return v_mul(g, v_fma(r, t, half));
    }
    case KD_UNARY_GELU_TANH: {   /* (1 + t) / 2 + x (1 - t^2) u' / 2 */
        kd_f32x16 x = held(s), slope = v_fma(v_mul(x, x), v_set1(3.0f * SQRT_2_PI * GELU_CUBIC), v_set1(SQRT_2_PI));
        t = v_tanh(gelu_tanh_argument(x));
        kd_f32x16 side = v_mul(v_mul(half, x), v_mul(v_fnma(t, t, one), slope));
        return v_mul(g, v_add(v_fma(half, t, half), side));
    }
    case KD_UNARY_SILU: {   /* s + x s (1 - s) */
        kd_f32x16 x = held(s);
        t = v_sigmoid(x);
        return v_mul(g, v_mul(t, v_fma(x, v_sub(one, t), one)));
    }
    case KD_UNARY_SIGMOID: return v_mul(g, v_mul(s, v_sub(one, s)));
    case KD_UNARY_TANH: return v_mul(g, v_fnma(s, s, one));
    case KD_UNARY_ERF: return v_mul(v_mul(g, v_set1(TWO_RSQRT_PI)), v_exp(v_neg(v_mul(s, s))));
    case KD_UNARY_SOFTPLUS: return v_mul(g, v_sigmoid(s));
    case KD_UNARY_CLAMP: return v_select(vm_or(v_lt(s, a), v_gt(s, b)), v_zero(), g);
    case KD_UNARY_SCALE_ADD: return v_mul(a, g);
    default: return g;
    }
}

/* Over whole vectors.  The end of an array comes here again, as a vector of its own: one copy of each function. */
V_FN void unary_loop(uint32_t op, float *out, const float *in, size_t n, float a, float b)
{
    kd_f32x16 va = v_set1(a), vb = v_set1(b);
    for (size_t i = 0; i < n; i += 16) v_store(out + i, unary_value(op, v_load(in + i), va, vb));
}

V_FN void unary_backward_loop(uint32_t op, float *grad_in, const float *grad_out, const float *saved, size_t n,
                              float a, float b, int accumulate)
{
    kd_f32x16 va = v_set1(a), vb = v_set1(b), g, s = va;
    const int reads = kd__unary_saves(op) != KD_UNARY_SAVES_NONE;
    for (size_t i = 0; i < n; i += 16) {
        if (reads) s = v_load(saved + i);
        g = unary_gradient(op, v_load(grad_out + i), s, va, vb);
        if (accumulate) g = v_add(v_load(grad_in + i), g);
        v_store(grad_in + i, g);
    }
}

V_CALL void unary_whole(uint32_t op, float *out, const float *in, size_t n, float a, float b)
{
    switch (op) {
#define UNARY_CASE(name, saved) \
    case KD_UNARY_##name: unary_loop(KD_UNARY_##name, out, in, n, a, b); break;
        KD_UNARY_OPS(UNARY_CASE)
#undef UNARY_CASE
    default: break;
    }
}

V_CALL void unary_backward_whole(uint32_t op, float *grad_in, const float *grad_out, const float *saved, size_t n, float a, float b,
                                 int accumulate)
{
    switch (op) {
#define UNARY_CASE(name, save)                                                                          \
    case KD_UNARY_##name:                                                                               \
        unary_backward_loop(KD_UNARY_##name, grad_in, grad_out, saved, n, a, b, accumulate);            \
        break;
        KD_UNARY_OPS(UNARY_CASE)
#undef UNARY_CASE
    default: break;
    }
}

void KD_K(unary_f32)(uint32_t op, float *out, const float *in, size_t n, float a, float b)
{
    const size_t rest = n % 16, whole = n - rest;
    float end[16];
    if (whole) unary_whole(op, out, in, whole, a, b);
    if (!rest) return;
    v_store(end, v_load_n(in + whole, rest, 1.0f));
    unary_whole(op, end, end, 16, a, b);
    v_store_n(out + whole, v_load(end), rest);
}

void KD_K(unary_backward_f32)(uint32_t op, float *grad_in, const float *grad_out, const float *saved, size_t n,
                              float a, float b, int accumulate)
{
    const size_t rest = n % 16, whole = n - rest;
    const int reads = kd__unary_saves(op) != KD_UNARY_SAVES_NONE;
    float end[16] = { 0 }, g[16], s[16] = { 0 };
    if (whole) unary_backward_whole(op, grad_in, grad_out, saved, whole, a, b, accumulate);
    if (!rest) return;
    v_store(g, v_load_n(grad_out + whole, rest, 0.0f));
    if (reads) v_store(s, v_load_n(saved + whole, rest, 1.0f));
    if (accumulate) v_store(end, v_load_n(grad_in + whole, rest, 0.0f));
    unary_backward_whole(op, end, g, s, 16, a, b, accumulate);
    v_store_n(grad_in + whole, v_load(end), rest);
}
