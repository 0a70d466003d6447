/* simd_math.h - functions of sixteen floats, written once over the alphabet; never libm's.
 *
 * Worst error over all 2^32 floats (tests/kernels/test_simd_math.c measures it), in units of the last place:
 *
 *   v_exp      1.02    subnormal results rounded too; 0 below -103.98, inf above 88.73
 *   v_log      0.94    subnormal x too; 0 -> -inf, x < 0 -> NaN
 *   v_log1p    1.44    -1 -> -inf, x < -1 -> NaN
 *   v_tanh     1.34
 *   v_sigmoid  2.41    subnormal results to 2^-149
 *   v_erf      1.02
 *   v_rsqrt    1.50    1/sqrt by one square root and one division
 *
 * NaN gives NaN, and the infinities give their limits.  Polynomials are minimax fits with coefficients
 * rounded to float (error of the fit alone below 5e-9 relative).
 * SPDX-License-Identifier: MIT */

/* In plain C one copy serves all kernels of the library, where the build says so: it is in the file that defines KD_MATH_HERE. */
#if defined KD_ISA_scalar && defined KD_ONE_MATH
#define v_exp_low KD_K(v_exp_low)
#define v_log     KD_K(v_log)
#define v_log1p   KD_K(v_log1p)
#define v_tanh    KD_K(v_tanh)
#define v_sigmoid KD_K(v_sigmoid)
#define v_erf     KD_K(v_erf)
kd_f32x16 v_exp_low(kd_f32x16 x, kd_f32x16 low);
kd_f32x16 v_log(kd_f32x16 x), v_log1p(kd_f32x16 x), v_tanh(kd_f32x16 x), v_sigmoid(kd_f32x16 x), v_erf(kd_f32x16 x);
#define V_MATH
#else
#define V_MATH V_FN
#define KD_MATH_HERE 1
#endif

#ifdef KD_MATH_HERE
/* 2^n for whole n in [-126, 127]. */
V_FN kd_f32x16 v_pow2i(kd_i32x16 n) { return v_from_bits(vi_shl(vi_add(n, vi_set1(127)), 23)); }

/* e^(x + low), |low| far below |x|: for arguments that are a product or quotient, with what its rounding lost.
 * e^x = 2^n e^r, n = round(x / ln 2), |r| <= ln 2 / 2.  Adding 1.5 * 2^23 rounds to whole n and leaves n in
 * the low bits.  The power is multiplied in two halves, so that n may leave the range of exponents. */
V_MATH kd_f32x16 v_exp_low(kd_f32x16 x, kd_f32x16 low)
{
    x = v_min(v_set1(89.0f), v_max(v_set1(-104.0f), x));         /* limits first: NaN passes */
    kd_f32x16 magic = v_set1(0x1.8p23f), t = v_fma(x, v_set1(0x1.715476p0f), magic), k = v_sub(t, magic);
    kd_f32x16 r = v_fma(k, v_set1(-0x1.62e43p-1f), x);           /* ln 2 in two parts; this step is exact */
    r = v_add(v_fma(k, v_set1(0x1.05c610p-29f), r), low);
    kd_f32x16 q = v_fma(v_set1(0x1.6ac752p-10f), r, v_set1(0x1.123de0p-7f));
    q = v_fma(q, r, v_set1(0x1.555858p-5f));
    q = v_fma(q, r, v_set1(0x1.55548cp-3f));
    q = v_fma(q, r, v_set1(0x1.fffffcp-2f));
    kd_f32x16 p = v_add(v_fma(v_mul(r, r), q, r), v_set1(1.0f));
#ifdef V_SCALE2
    return v_scale2(p, k);
#else
    kd_i32x16 n = vi_sub(v_bits(t), v_bits(magic)), half = vi_sar(n, 1);
    return v_mul(v_mul(p, v_pow2i(half)), v_pow2i(vi_sub(n, half)));
#endif
}
V_FN kd_f32x16 v_exp(kd_f32x16 x) { return v_exp_low(x, v_zero()); }

/* log x = k ln 2 + log(1 + f), x = 2^k (1 + f), 2/3 <= 1 + f < 4/3. */
V_MATH kd_f32x16 v_log(kd_f32x16 x)
{
    kd_m16 small = v_lt(x, v_set1(0x1p-126f));
    kd_i32x16 i = v_bits(v_select(small, v_mul(x, v_set1(0x1p23f)), x));
    kd_i32x16 e = vi_sar(vi_sub(i, vi_set1(0x3f2aaaab)), 23);
    kd_f32x16 k = v_sub(vi_cvt_f32(e), v_select(small, v_set1(23.0f), v_zero()));
    kd_f32x16 f = v_sub(v_from_bits(vi_sub(i, vi_shl(e, 23))), v_set1(1.0f)), f2 = v_mul(f, f);
    kd_f32x16 q = v_fma(v_set1(-0x1.080442p-3f), f, v_set1(0x1.1e656ap-3f));
    q = v_fma(q, f, v_set1(-0x1.f311d6p-4f));
    q = v_fma(q, f, v_set1(0x1.1ed718p-3f));
    q = v_fma(q, f, v_set1(-0x1.559dccp-3f));
    q = v_fma(q, f, v_set1(0x1.99d038p-3f));
    q = v_fma(q, f, v_set1(-0x1.fffef0p-3f));
    q = v_fma(q, f, v_set1(0x1.555506p-2f));
    q = v_fma(q, f, v_set1(-0.5f));
    kd_f32x16 r = v_fma(k, v_set1(0x1.62e43p-1f), v_fma(q, f2, f));
    r = v_select(v_lt(x, v_set1(__builtin_inff())), r, x);       /* inf and NaN */
    r = v_select(v_lt(x, v_zero()), v_set1(__builtin_nanf("")), r);
    return v_select(v_eq(x, v_zero()), v_set1(-__builtin_inff()), r);
}

/* log(1 + x): what rounding 1 + x lost is put back as lost / (1 + x). */
V_MATH kd_f32x16 v_log1p(kd_f32x16 x)
{
    kd_f32x16 one = v_set1(1.0f), u = v_add(one, x);
    kd_f32x16 lost = v_select(v_gt(x, one), v_sub(one, v_sub(u, x)), v_sub(x, v_sub(u, one)));
    kd_f32x16 whole = v_log(u), r = v_add(whole, v_div(lost, u));
    r = v_select(vm_and(v_gt(u, v_zero()), v_lt(u, v_set1(__builtin_inff()))), r, whole);
    return v_select(v_eq(u, one), x, r);                         /* tiny x, and the sign of zero */
}

/* x + x^3 P(x^2) near zero, else 1 - 2 / (e^2|x| + 1). */
V_MATH kd_f32x16 v_tanh(kd_f32x16 x)
{
    kd_f32x16 a = v_abs(x), y = v_mul(x, x), one = v_set1(1.0f);
    kd_f32x16 p = v_fma(v_set1(-0x1.750ce4p-8f), y, v_set1(0x1.51f8cep-6f));
    p = v_fma(p, y, v_set1(-0x1.b835a4p-5f));
    p = v_fma(p, y, v_set1(0x1.1106f6p-3f));
    p = v_fma(p, y, v_set1(-0x1.555532p-2f));
    kd_f32x16 near = v_fma(v_mul(x, y), p, x);
    kd_f32x16 far = v_sub(one, v_div(v_set1(2.0f), v_add(v_exp(v_add(a, a)), one)));
    return v_copysign(v_select(v_lt(a, v_set1(0.625f)), near, far), x);
}

/* 1 / (1 + e^-x), from e^-|x| so that nothing overflows. */
V_MATH kd_f32x16 v_sigmoid(kd_f32x16 x)
{
    kd_f32x16 one = v_set1(1.0f), e = v_exp(v_neg(v_abs(x)));
    return v_div(v_select(v_lt(x, v_zero()), e, one), v_add(one, e));
}

/* x + x P(x^2) below 1, else 1 - e^-(t + t Q(t)), which is 1 from 3.93 on. */
V_MATH kd_f32x16 v_erf(kd_f32x16 x)
{
    kd_f32x16 a = v_abs(x), y = v_mul(x, x), t = v_min(v_set1(3.93f), a);
    kd_f32x16 p = v_fma(v_set1(0x1.4771fep-14f), y, v_set1(-0x1.a3515ep-11f));
    p = v_fma(p, y, v_set1(0x1.53f224p-8f));
    p = v_fma(p, y, v_set1(-0x1.b7f71ap-6f));
    p = v_fma(p, y, v_set1(0x1.ce2ce6p-4f));
    p = v_fma(p, y, v_set1(-0x1.81273ep-2f));
    p = v_fma(p, y, v_set1(0x1.06eba8p-3f));
    kd_f32x16 near = v_fma(x, p, x);
    kd_f32x16 q = v_fma(v_set1(-0x1.c0a2a4p-13f), t, v_set1(0x1.a55372p-9f));
    q = v_fma(q, t, v_set1(-0x1.7700bep-6f));
    q = v_fma(q, t, v_set1(0x1.af2464p-4f));
    q = v_fma(q, t, v_set1(0x1.457d20p-1f));
    q = v_fma(q, t, v_set1(0x1.07323cp-3f));
    kd_f32x16 far = v_sub(v_set1(1.0f), v_exp(v_neg(v_fma(q, t, t))));
    return v_select(v_lt(a, v_set1(1.0f)), near, v_copysign(far, x));
}

#else
V_FN kd_f32x16 v_exp(kd_f32x16 x) { return v_exp_low(x, v_zero()); }
#endif

V_FN kd_f32x16 v_rsqrt(kd_f32x16 x) { return v_div(v_set1(1.0f), v_sqrt(x)); }
