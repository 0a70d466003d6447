/* kern_distill.c - Hinton's loss and its gradient, fused: hard labels, teacher's logits, KL(p || q).
 * SPDX-License-Identifier: MIT
 *
 * With a = e^((s - ms)/T), b = e^((t - mt)/T), a1 = e^(s - ms), ms and mt the row maxima:
 *     Zs = sum a,  Zt = sum b,  Z1 = sum a1,  D = sum b ((t - mt) - (s - ms))
 *     KL = D / (T Zt) + log(Zs / Zt)                       two logs a row, none a logit
 *     CE = log Z1 - (s[y] - ms)
 *     gradient = A a1 + B a - E b, A = hard/Z1, B = soft/(T Zs), E = soft/(T Zt);  then gradient[y] -= hard
 * Every logit is read from memory once: a and b wait in scratch for the gradient.  a1 is a, a^2 or a^4 when T is 1, 2 or 4.
 *
 * Differences are taken as s/2 - ms/2, which cannot overflow, so the same code serves logits of any size at any T; -inf
 * (a mask) is held at the smallest float, so that 0 * (t - s) is 0.
 *
 * Three shapes: to 32 classes sixteen rows at once, a row a lane; to 4096 one row at a time; above, blocks of 4096
 * with a running maximum in every lane (on-line softmax), so that nothing crosses lanes inside a row; blocks add in double. */
#include "kernels/distill_row.h"
#include "kernels/kernels.h"

#define FLOAT_MAX 0x1.fffffep127f
#define LOG2_E    0x1.715476p0f

/* The exponential of half a difference: c = 2 log2(e) / T, low = -127 / c. */
typedef struct scale { kd_f32x16 c, low; } scale;

V_FN scale scale_of(float temperature)
{
    float c = 2 * LOG2_E / temperature;
    return (scale){ v_set1(c), v_set1(-127.0f / c) };
}

/* 2^(c x), x <= 0: 0 from 2^-127 down; NaN passes.  Adding 1.5 * 2^23 + 127 rounds c x to a whole number and leaves it, biased,
 * in the low bits.  Relative error (7 + c |x|) 2^-24. */
V_FN kd_f32x16 exp_half(kd_f32x16 x, scale s)
{
    kd_f32x16 magic = v_set1(0x1.8p23f + 127.0f);
    x = v_max(s.low, x);
    kd_f32x16 t = v_fma(x, s.c, magic), power = v_from_bits(vi_shl(v_bits(t), 23));
    kd_f32x16 r = v_fms(x, s.c, v_sub(t, magic));
    kd_f32x16 p = v_fma(r, v_set1(0x1.5bba14p-10f), v_set1(0x1.3cea88p-7f));
    p = v_fma(p, r, v_set1(0x1.c6b752p-5f));
    p = v_fma(p, r, v_set1(0x1.ebf9bcp-3f));
    p = v_fma(p, r, v_set1(0x1.62e42ap-1f));
    p = v_fma(p, r, v_set1(1.0f));
    return v_mul(p, power);
}

/* (logit - top) / 2, not below the smallest float; NaN passes. */
V_FN kd_f32x16 half_difference(kd_f32x16 logit, kd_f32x16 half_top)
{
    return v_max(v_set1(-FLOAT_MAX), v_fma(logit, v_set1(0.5f), v_neg(half_top)));
}

/* e^(s - ms) from a = e^((s - ms)/T); `power` is a constant where this is called, 0: from the difference itself. */
V_FN kd_f32x16 at_one(int power, kd_f32x16 a, kd_f32x16 x, scale one)
{
    if (power == 1) return a;
    if (power == 2) return v_mul(a, a);
    if (power == 4) return v_mul(v_mul(a, a), v_mul(a, a));
    return exp_half(x, one);
}

/* Sixteen rows' sums; from them the values.  Rows not in a term hold ones and zeros. */
typedef struct sums { float zs[16], zt[16], z1[16], d[16], ce[16]; } sums;   /* ce: ms - s[y] */

V_FN void sums_clear(sums *z)
{
    v_store(z->zs, v_set1(1.0f)), v_store(z->zt, v_set1(1.0f)), v_store(z->z1, v_set1(1.0f));
    v_store(z->d, v_zero()), v_store(z->ce, v_zero());
}

/* hard = log Z1 + (ms - s[y]);  soft = max(0, 2 d / (T Zt) + log(Zs / Zt)), d from half differences */
V_FN void values(const sums *z, float temperature, kd_f32x16 *hard, kd_f32x16 *soft)
{
    kd_f32x16 rt = v_div(v_set1(1.0f), v_load(z->zt));
    kd_f32x16 kl = v_fma(v_mul(v_load(z->d), rt), v_set1(2.0f / temperature), v_log(v_mul(v_load(z->zs), rt)));
    *soft = v_max(v_zero(), kl);
    *hard = v_add(v_log(v_load(z->z1)), v_load(z->ce));
}

/* Is there a class that the teacher gives mass and the student's mask forbids?  Then KL is infinite. */
static int impossible(const float *student, const float *teacher, size_t n, float top, float temperature)
{
    scale s = scale_of(temperature);
    kd_f32x16 half_top = v_set1(0.5f * top);
    for (size_t i = 0; i < n; i += 16) {
        size_t k = n - i < 16 ? n - i : 16;
        kd_f32x16 b = exp_half(half_difference(v_load_n(teacher + i, k, -INF), half_top), s);
        if (vm_any(vm_and(v_eq(v_load_n(student + i, k, 0.0f), v_set1(-INF)), v_gt(b, v_zero())))) return 1;
    }
    return 0;
}

V_FN int has_label(const kd__distill_args *a, size_t r) { return a->labels && a->hard_coef[r] != 0.0f; }

/* ---- to 32 classes: sixteen rows, a row a lane ------------------------------------------------------------ */
/* columns[16 c + r] = row r's class c; `rows` of them exist, the last one stands in for the others. */
V_FN void columns_in(const float *first, size_t stride, size_t rows, size_t classes, float *columns)
{
    for (size_t c = 0; c < classes; c += 16) {
        size_t n = classes - c < 16 ? classes - c : 16;
        kd_f32x16 v[16];
        V_UNROLL(16)
        for (size_t r = 0; r < 16; r++) v[r] = v_load_n(first + (r < rows ? r : rows - 1) * stride + c, n, 0.0f);
        v_transpose16(v);
        V_UNROLL(16)
        for (size_t k = 0; k < 16; k++) v_store(columns + 16 * (c + k), v[k]);
    }
}

V_FN void columns_out(const float *columns, float *first, size_t stride, size_t rows, size_t classes)
{
    for (size_t c = 0; c < classes; c += 16) {
        size_t n = classes - c < 16 ? classes - c : 16;
        kd_f32x16 v[16];
        V_UNROLL(16)
        for (size_t k = 0; k < 16; k++) v[k] = v_load(columns + 16 * (c + k));
        v_transpose16(v);
        for (size_t r = 0; r < rows; r++) v_store_n(first + r * stride + c, v[r], n);
    }
}

/* rows, 1 to 16 of them, from r0 */
V_FN void transposed(const kd__distill_args *a, size_t r0, size_t rows, const int power, const int soft)
{
    float s[16 * KD_DISTILL_TRANSPOSED], t[16 * KD_DISTILL_TRANSPOSED], e[16 * KD_DISTILL_TRANSPOSED];
    float hard_coef[16] = { 0 }, soft_coef[16] = { 0 }, label_logit[16] = { 0 }, hard[16], divergence[16], top[16], least[16], blank[16];
    const float *student = a->student + r0 * a->student_stride, *teacher = soft ? a->teacher + r0 * a->teacher_stride : NULL;
    scale at_t = scale_of(a->temperature), one = scale_of(1.0f);
    kd_f32x16 zero = v_zero(), none = v_set1(-INF), ms = none, mt = none, low = zero, zs = zero, zt = zero, z1 = zero, d = zero;
    size_t classes = a->classes;
    sums z;

    memcpy(hard_coef, a->hard_coef + r0, rows * sizeof *hard_coef);
    if (soft) memcpy(soft_coef, a->soft_coef + r0, rows * sizeof *soft_coef);
    for (size_t r = 0; r < rows; r++)
        if (has_label(a, r0 + r)) label_logit[r] = student[r * a->student_stride + (size_t)a->labels[r0 + r]];
    columns_in(student, a->student_stride, rows, classes, s);
    if (soft) columns_in(teacher, a->teacher_stride, rows, classes, t);

    for (size_t c = 0; c < classes; c++) {
        ms = v_max(ms, v_load(s + 16 * c));
        low = v_min(low, v_load(s + 16 * c));
        if (soft) mt = v_max(mt, v_load(t + 16 * c));
    }
    kd_f32x16 half_s = v_mul(v_set1(0.5f), v_select(v_eq(ms, none), zero, ms));
    kd_f32x16 half_t = v_mul(v_set1(0.5f), v_select(v_eq(mt, none), zero, mt));
    for (size_t c = 0; c < classes; c++) {
        kd_f32x16 x = half_difference(v_load(s + 16 * c), half_s), a1;
        if (soft) {
            kd_f32x16 u = half_difference(v_load(t + 16 * c), half_t), b = exp_half(u, at_t), at = exp_half(x, at_t);
            zs = v_add(zs, at);
            zt = v_add(zt, b);
            d = v_fma(b, v_sub(u, x), d);
            a1 = at_one(power, at, x, one);
            v_store(e + 16 * c, at);
            v_store(t + 16 * c, b);
        } else {
            a1 = exp_half(x, one);
            v_store(e + 16 * c, a1);
        }
        z1 = v_add(z1, a1);
    }

    /* A row that is -inf throughout has a sum of exactly 0: a NaN in it would show. */
    kd_m16 blank_s = v_eq(z1, zero), blank_t = soft ? v_eq(zt, zero) : v_eq(zero, zero);
    kd_f32x16 hc = v_load(hard_coef), sc = v_load(soft_coef), unit = v_set1(1.0f);
    kd_m16 in_hard = vm_not(vm_or(v_eq(hc, zero), blank_s));
    kd_m16 in_soft = vm_not(vm_or(v_eq(sc, zero), vm_or(blank_s, blank_t)));
    v_store(z.zs, soft ? zs : unit);
    v_store(z.zt, soft ? zt : unit);
    v_store(z.z1, z1);
    v_store(z.d, d);
    v_store(z.ce, v_sub(ms, v_load(label_logit)));
    kd_f32x16 ce, kl;
    values(&z, a->temperature, &ce, &kl);
    v_store(hard, v_select(in_hard, ce, zero));
    v_store(divergence, v_select(in_soft, kl, zero));
    v_store(top, mt);
    v_store(least, low);
    for (size_t r = 0; soft && r < rows; r++)
        if (least[r] == -INF && divergence[r] > 0.0f &&
            impossible(student + r * a->student_stride, teacher + r * a->teacher_stride, classes, top[r], a->temperature))
            divergence[r] = INF;
    memcpy(a->hard + r0, hard, rows * sizeof *hard);
    memcpy(a->soft + r0, divergence, rows * sizeof *divergence);
    kd_m16 looked = vm_or(vm_not(v_eq(hc, zero)), vm_not(v_eq(sc, zero)));
    v_store(blank, v_select(vm_or(vm_and(looked, blank_s), vm_and(vm_not(v_eq(sc, zero)), blank_t)), unit, zero));
    for (size_t r = 0; r < rows; r++) *a->masked += blank[r] > 0;
    if (!a->grad) return;

    kd_f32x16 A = v_div(hc, z1), B = zero, E = zero;
    if (soft) {
        kd_f32x16 per_t = v_div(sc, v_set1(a->temperature));
        B = v_div(per_t, zs);
        E = v_div(per_t, zt);
    }
    for (size_t c = 0; c < classes; c++) {
        kd_f32x16 at = v_load(e + 16 * c), g = zero;
        if (soft) {
            kd_f32x16 x = power ? zero : half_difference(v_load(s + 16 * c), half_s);
            g = v_select(in_soft, v_fma(B, at, v_neg(v_mul(E, v_load(t + 16 * c)))), zero);
            at = at_one(power, at, x, one);
        }
        v_store(s + 16 * c, v_select(in_hard, v_fma(A, at, g), g));
    }
    columns_out(s, a->grad + r0 * a->grad_stride, a->grad_stride, rows, classes);
    for (size_t r = 0; r < rows; r++)
        if (has_label(a, r0 + r) && hard[r] == hard[r] && blank[r] == 0)
            a->grad[(r0 + r) * a->grad_stride + (size_t)a->labels[r0 + r]] -= hard_coef[r];
}

/* ---- to 4096 classes: a row at a time ---------------------------------------------------------------------------- */
/* Sums of one block and its exponentials into scratch: part of a row whose lanes share, or have each, a top. */
typedef struct lanes { kd_f32x16 zs, zt, z1, d; } lanes;

V_FN void block_step(lanes *z, kd_f32x16 x, kd_f32x16 u, scale at_t, scale one, float *ea, float *eb, const int power, const int soft)
{
    if (soft) {
        kd_f32x16 a = exp_half(x, at_t), b = exp_half(u, at_t);
        z->zs = v_add(z->zs, a);
        z->zt = v_add(z->zt, b);
        z->d = v_fma(b, v_sub(u, x), z->d);
        z->z1 = v_add(z->z1, at_one(power, a, x, one));
        v_store(ea, a);
        v_store(eb, b);
    } else {
        kd_f32x16 a = exp_half(x, one);
        z->z1 = v_add(z->z1, a);
        v_store(ea, a);
    }
}

/* Bytes from a block to the one after the next, which is fetched meanwhile; past a row's end lies the next row. */
#define AHEAD (2 * KD_DISTILL_BLOCK * sizeof(float))

V_FN void block_sums(lanes *z, const float *s, const float *t, size_t n, kd_f32x16 half_s, kd_f32x16 half_t, scale at_t, scale one,
                     float *ea, float *eb, const int power, const int soft, const int ahead)
{
    kd_f32x16 u = v_zero();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        if (ahead) v_prefetch((const void *)((uintptr_t)(s + i) + AHEAD));
        if (ahead && soft) v_prefetch((const void *)((uintptr_t)(t + i) + AHEAD));
        if (soft) u = half_difference(v_load(t + i), half_t);
        block_step(z, half_difference(v_load(s + i), half_s), u, at_t, one, ea + i, eb + i, power, soft);
    }
    if (i < n) {   /* lanes past the end hold the mask: they add exact zeros */
        if (soft) u = half_difference(v_load_n(t + i, n - i, -INF), half_t);
        block_step(z, half_difference(v_load_n(s + i, n - i, -INF), half_s), u, at_t, one, ea + i, eb + i, power, soft);
    }
}

typedef struct coefficients { kd_f32x16 a1, a, b; } coefficients;   /* A, B, E above */

V_FN kd_f32x16 gradient_step(coefficients c, kd_f32x16 logit, kd_f32x16 half_s, scale one, const float *ea, const float *eb,
                             const int power, const int soft)
{
    kd_f32x16 a = v_load(ea);
    if (!soft) return v_mul(c.a1, a);
    kd_f32x16 a1 = at_one(power, a, power ? a : half_difference(logit, half_s), one);
    return v_fma(c.a1, a1, v_fma(c.a, a, v_neg(v_mul(c.b, v_load(eb)))));
}

V_FN void block_gradient(float *g, const float *s, size_t n, kd_f32x16 half_s, scale one, coefficients c, const float *ea, const float *eb,
                         const int power, const int soft, const int stream)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        kd_f32x16 w = gradient_step(c, soft && !power ? v_load(s + i) : half_s, half_s, one, ea + i, eb + i, power, soft);
        if (stream) v_stream(g + i, w);
        else v_store(g + i, w);
    }
    if (i < n) {
        kd_f32x16 logit = soft && !power ? v_load_n(s + i, n - i, -INF) : half_s;
        v_store_n(g + i, gradient_step(c, logit, half_s, one, ea + i, eb + i, power, soft), n - i);
    }
}

typedef struct totals { float zs, zt, z1, d; } totals;   /* of a row */

/* A row's sums into lane k of z, and from them the coefficients of its gradient. */
V_FN void row_sums(const kd__distill_args *a, const row *w, totals sum, float ms, float mt, int has_mask, sums *z, size_t k,
                   float coef[3], const int soft)
{
    z->ce[k] = w->label >= 0 ? ms - w->s[w->label] : 0.0f;
    z->z1[k] = sum.z1;
    coef[0] = w->hc / z->z1[k], coef[1] = coef[2] = 0.0f;
    if (!soft) return;
    z->zs[k] = sum.zs;
    z->zt[k] = sum.zt;
    z->d[k] = sum.d;
    if (has_mask && impossible(w->s, w->t, a->classes, mt, a->temperature)) z->d[k] = INF;
    coef[1] = w->sc / a->temperature / z->zs[k];
    coef[2] = w->sc / a->temperature / z->zt[k];
}

typedef struct maxima { float s, t, low; } maxima;   /* a row's maxima, and the student's minimum */

V_FN maxima row_maxima(const kd__distill_args *a, const row *w)
{
    maxima top = { 0, 0, 0 };
    float unused;
    if (w->hc != 0.0f || w->sc != 0.0f) top.s = row_extremes(w->s, a->classes, &top.low);
    if (w->sc != 0.0f) top.t = row_extremes(w->t, a->classes, &unused);
    return top;
}

V_FN void mid_sums(const kd__distill_args *a, const row *w, maxima top, sums *z, size_t k, float coef[3], const int power, const int soft)
{
    lanes l = { v_zero(), v_zero(), v_zero(), v_zero() };
    block_sums(&l, w->s, w->t, a->classes, v_set1(0.5f * top.s), v_set1(0.5f * top.t), scale_of(a->temperature), scale_of(1.0f), w->ea,
               w->eb, power, soft, 0);
    totals sum = { 0, 0, v_sum(l.z1), 0 };
    if (soft) sum.zs = v_sum(l.zs), sum.zt = v_sum(l.zt), sum.d = v_sum(l.d);
    row_sums(a, w, sum, top.s, top.t, top.low == -INF, z, k, coef, soft);
}

V_FN void mid_gradient(const kd__distill_args *a, const row *w, maxima top, const float coef[3], const int power, const int soft)
{
    coefficients c = { v_set1(coef[0]), v_set1(coef[1]), v_set1(coef[2]) };
    block_gradient(w->g, w->s, a->classes, v_set1(0.5f * top.s), scale_of(1.0f), c, w->ea, w->eb, power, soft, 0);
}

/* ---- more classes: blocks, a running maximum in every lane ------------------------------------------------------------ */
V_FN kd_f32x16 lane_extremes(kd_f32x16 top, kd_f32x16 *low, const float *x, size_t n)
{
    kd_f32x16 m1 = top, l0 = *low, l1 = l0;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        kd_f32x16 a = v_load(x + i), b = v_load(x + i + 16);
        top = v_max(top, a), l0 = v_min(l0, a);
        m1 = v_max(m1, b), l1 = v_min(l1, b);
    }
    for (; i < n; i += 16) {
        size_t k = n - i < 16 ? n - i : 16;
        top = v_max(top, v_load_n(x + i, k, -INF)), l0 = v_min(l0, v_load_n(x + i, k, INF));
    }
    *low = v_min(l0, l1);
    return v_max(top, m1);
}

/* Half of a top, 0 for lanes that have seen nothing but -inf. */
V_FN kd_f32x16 half_of(kd_f32x16 top) { return v_mul(v_set1(0.5f), v_select(v_eq(top, v_set1(-INF)), v_zero(), top)); }

/* The factor that brings sums relative to the top `from` to the top `to`; 0 from a lane that has seen only -inf. */
V_FN kd_f32x16 rescale(kd_f32x16 from, kd_f32x16 to, scale s)
{
    return v_select(v_eq(from, v_set1(-INF)), v_zero(), exp_half(half_difference(from, half_of(to)), s));
}

/* Zs, Zt, Z1, D from tops (ms, mt) to (ns, nt):  D' = ft (D + Zt ((mt - nt) - (ms - ns)))  in half differences. */
V_FN void lanes_move(lanes *z, kd_f32x16 ms, kd_f32x16 mt, kd_f32x16 ns, kd_f32x16 nt, scale at_t, scale one, const int power,
                     const int soft)
{
    if (!soft) {
        z->z1 = v_mul(z->z1, rescale(ms, ns, one));
        return;
    }
    kd_f32x16 fs = rescale(ms, ns, at_t), ft = rescale(mt, nt, at_t);
    kd_f32x16 ds = half_difference(ms, half_of(ns)), dt = half_difference(mt, half_of(nt));
    kd_f32x16 moved = v_fma(z->zt, v_sub(dt, ds), z->d);
    z->d = v_select(v_eq(ft, v_zero()), v_zero(), v_mul(ft, moved));
    z->zs = v_mul(z->zs, fs);
    z->zt = v_mul(z->zt, ft);
    z->z1 = v_mul(z->z1, power ? at_one(power, fs, fs, one) : rescale(ms, ns, one));
}

/* What a row remembers of each block: the tops of its lanes, and their sums relative to these. */
V_FN void block_keep(float *kept, kd_f32x16 ms, kd_f32x16 mt, const lanes *l)
{
    v_store(kept, ms), v_store(kept + 16, mt);
    v_store(kept + 32, l->zs), v_store(kept + 48, l->zt), v_store(kept + 64, l->z1), v_store(kept + 80, l->d);
}

/* The sums of a row: blocks in float, brought to the row's tops and added in double, so that however many classes cost no digit. */
V_FN totals add_blocks(const float *kept, size_t count, kd_f32x16 end_s, kd_f32x16 end_t, scale at_t, scale one, const int power,
                       const int soft)
{
    kd_f64x16 zs = vd_set1(0), zt = zs, z1 = zs, d = zs;
    for (size_t b = 0; b < count; b++, kept += KD_DISTILL_KEPT) {
        lanes l = { v_load(kept + 32), v_load(kept + 48), v_load(kept + 64), v_load(kept + 80) };
        lanes_move(&l, v_load(kept), v_load(kept + 16), end_s, end_t, at_t, one, power, soft);
        z1 = vd_add(z1, vd_from_f32(l.z1));
        if (!soft) continue;
        zs = vd_add(zs, vd_from_f32(l.zs));
        zt = vd_add(zt, vd_from_f32(l.zt));
        d = vd_add(d, vd_from_f32(l.d));
    }
    return (totals){ (float)vd_sum(zs), (float)vd_sum(zt), (float)vd_sum(z1), (float)vd_sum(d) };
}

V_FN void row_long(const kd__distill_args *a, const row *w, sums *z, size_t k, const int power, const int soft, const int stream)
{
    scale at_t = scale_of(a->temperature), one = scale_of(1.0f);
    kd_f32x16 ms = v_set1(-INF), mt = ms, low = v_set1(INF), unused = low;
    float *blocks = w->eb + (a->classes + 15) / 16 * 16, coef[3];
    size_t n = a->classes;

    for (size_t o = 0, b = 0; o < n; o += KD_DISTILL_BLOCK, b++) {
        size_t len = n - o < KD_DISTILL_BLOCK ? n - o : KD_DISTILL_BLOCK;
        lanes l = { v_zero(), v_zero(), v_zero(), v_zero() };
        ms = lane_extremes(ms, &low, w->s + o, len);
        if (soft) mt = lane_extremes(mt, &unused, w->t + o, len);
        block_sums(&l, w->s + o, soft ? w->t + o : NULL, len, half_of(ms), half_of(mt), at_t, one, w->ea + o, w->eb + o, power, soft,
                   1);
        block_keep(blocks + KD_DISTILL_KEPT * b, ms, mt, &l);
    }
    float top_s = v_hmax(ms), top_t = soft ? v_hmax(mt) : 0.0f;
    kd_f32x16 end_s = v_set1(top_s), end_t = v_set1(top_t);
    totals sum = add_blocks(blocks, (n + KD_DISTILL_BLOCK - 1) / KD_DISTILL_BLOCK, end_s, end_t, at_t, one, power, soft);
    row_sums(a, w, sum, top_s, top_t, v_hmin(low) == -INF, z, k, coef, soft);
    if (!w->g) return;
    for (size_t o = 0, b = 0; o < n; o += KD_DISTILL_BLOCK, b++) {
        size_t len = n - o < KD_DISTILL_BLOCK ? n - o : KD_DISTILL_BLOCK;
        kd_f32x16 bs = v_load(blocks + KD_DISTILL_KEPT * b), bt = v_load(blocks + KD_DISTILL_KEPT * b + 16);
        kd_f32x16 fs = rescale(bs, end_s, soft ? at_t : one), ft = soft ? rescale(bt, end_t, at_t) : v_zero();
        kd_f32x16 f1 = !soft ? fs : power ? at_one(power, fs, fs, one) : rescale(bs, end_s, one);
        if (soft && !power) f1 = v_set1(1.0f);
        coefficients c = { v_mul(v_set1(coef[0]), f1), v_mul(v_set1(coef[1]), fs), v_mul(v_set1(coef[2]), ft) };
        block_gradient(w->g + o, w->s + o, len, soft && !power ? v_set1(0.5f * top_s) : half_of(bs), one, c, w->ea + o, w->eb + o, power,
                       soft, stream);
    }
}

/* ---- all of it ------------------------------------------------------------------------------------------------------------ */
V_FN void clear(const row *w, size_t n)
{
    if (w->g) memset(w->g, 0, n * sizeof *w->g);
}

/* A row's sums, the next row's maxima, the row's gradient: what the maxima compute hides how long folding and dividing take. */
V_FN void mid_rows(const kd__distill_args *a, size_t r0, size_t rows, sums *z, uint32_t *in_hard, uint32_t *in_soft, const int power)
{
    row next = row_begin(a, r0);
    maxima next_top = row_maxima(a, &next);
    for (size_t k = 0; k < rows; k++) {
        row w = next;
        maxima top = next_top;
        float coef[3];
        int soft = w.sc != 0.0f, idle = !soft && w.hc == 0.0f;
        *in_hard |= (uint32_t)(w.hc != 0.0f) << k;
        *in_soft |= (uint32_t)soft << k;
        if (soft) mid_sums(a, &w, top, z, k, coef, power, 1);
        else if (!idle) mid_sums(a, &w, top, z, k, coef, power, 0);
        if (k + 1 < rows) {
            next = row_begin(a, r0 + k + 1);
            next_top = row_maxima(a, &next);
        }
        if (idle) clear(&w, a->classes);
        else if (w.g && soft) mid_gradient(a, &w, top, coef, power, 1);
        else if (w.g) mid_gradient(a, &w, top, coef, power, 0);
        if (w.g && w.label >= 0) w.g[w.label] -= w.hc;
    }
}

V_FN void long_rows(const kd__distill_args *a, size_t r0, size_t rows, sums *z, uint32_t *in_hard, uint32_t *in_soft, const int power)
{
    for (size_t k = 0; k < rows; k++) {
        row w = row_begin(a, r0 + k);
        int stream = a->stream && w.g && ((uintptr_t)w.g & 63u) == 0;
        *in_hard |= (uint32_t)(w.hc != 0.0f) << k;
        *in_soft |= (uint32_t)(w.sc != 0.0f) << k;
        if (w.hc == 0.0f && w.sc == 0.0f) clear(&w, a->classes);
        else if (w.sc == 0.0f) row_long(a, &w, z, k, power, 0, 0);
        else if (stream) row_long(a, &w, z, k, power, 1, 1);
        else row_long(a, &w, z, k, power, 1, 0);
        if (stream) v_stream_end();
        if (w.g && w.label >= 0) w.g[w.label] -= w.hc;
    }
}

/* Up to sixteen rows, then their logarithms together. */
V_FN void row_group(const kd__distill_args *a, size_t r0, size_t rows, const int power)
{
    float hard[16], divergence[16];
    uint32_t in_hard = 0, in_soft = 0;
    sums z;
    sums_clear(&z);
    if (a->classes <= KD_DISTILL_BLOCK) mid_rows(a, r0, rows, &z, &in_hard, &in_soft, power);
    else long_rows(a, r0, rows, &z, &in_hard, &in_soft, power);
    kd_f32x16 ce, kl;
    values(&z, a->temperature, &ce, &kl);
    v_store(hard, ce);
    v_store(divergence, kl);
    for (size_t k = 0; k < rows; k++) {
        a->hard[r0 + k] = in_hard >> k & 1u ? hard[k] : 0.0f;
        a->soft[r0 + k] = in_soft >> k & 1u ? divergence[k] : 0.0f;
    }
}

static void all_rows(const kd__distill_args *a, const int power)
{
    for (size_t r = 0; r < a->rows; r += 16) {
        size_t rows = a->rows - r < 16 ? a->rows - r : 16;
        if (a->classes > KD_DISTILL_TRANSPOSED) row_group(a, r, rows, power);
        else if (a->teacher) transposed(a, r, rows, power, 1);
        else transposed(a, r, rows, power, 0);
    }
}

void KD_K(distill_f32)(const kd__distill_args *a)
{
    if (a->temperature == 4.0f) all_rows(a, 4);
    else if (a->temperature == 2.0f) all_rows(a, 2);
    else if (a->temperature == 1.0f) all_rows(a, 1);
    else all_rows(a, 0);
}
