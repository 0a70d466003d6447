/* kern_distill_general.c - the distillation loss of a row, with every option; kern_distill.c has the fast path.
 *
 * All in log space.  With y = (x - max x) / T and lp the teacher's log-probabilities up to a constant,
 *     log q = y - log Zq,   log p = lp - log Zp,   Zq = sum e^y,   Zp = sum e^lp (1 where p is used as it is),
 * sums run in double over differences of y and lp, and the logarithms of the normalisers are added once, in double.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "kd/distill.h"
#include "simd/simd.h"

#define LARGEST 3.402823466e38f
#define INF     __builtin_inff()
#define NAN_F   __builtin_nanf("")

/* One row, padded to whole vectors in scratch: y and x1 hold -inf, lp -inf and p 0 past the classes. */
typedef struct row_state {
    const kd__distill_args *args;
    size_t n, padded;      /* classes; rounded up to 16 */
    float *y;              /* (x - max) / T                    */
    float *e;              /* e^y, then q                      */
    float *lp, *p;
    double log_zq;         /* log sum e^y                      */
    double log_zp;         /* of the teacher; 0 in probability forms */
    double p_sum;          /* sum of p                         */
} row_state;

V_FN kd_f32x16 take(const float *x, size_t i, size_t n, float fill)
{
    return n - i < 16 ? v_load_n(x + i, n - i, fill) : v_load(x + i);
}
V_FN void put(float *x, kd_f32x16 v, size_t i, size_t n)
{
    if (n - i < 16) v_store_n(x + i, v, n - i);
    else v_store(x + i, v);
}

typedef struct row_scan { float max; int bad; } row_scan;   /* bad: NaN or +inf somewhere */

V_FN row_scan scan(const float *x, size_t n)
{
    kd_f32x16 m = v_set1(-INF);
    kd_m16 bad = vm_first(0);
    for (size_t i = 0; i < n; i += 16) {
        kd_f32x16 v = take(x, i, n, -INF);
        m = v_max(m, v);
        bad = vm_or(bad, vm_not(v_lt(v, v_set1(INF))));
    }
    return (row_scan){ v_hmax(m), vm_any(bad) };
}

/* out = (x - max) / t, past the end -inf.  Halves where the difference could overflow and be divided back. */
V_FN void centre(float *out, const float *x, size_t n, float max, float t)
{
    const int halves = t >= 1.0f;
    kd_f32x16 m = v_set1(halves ? 0.5f * max : max), d = v_set1(halves ? 0.5f * t : t);
    for (size_t i = 0; i < n; i += 16) {
        kd_f32x16 v = take(x, i, n, -INF);
        v = halves ? v_fma(v_set1(0.5f), v, v_neg(m)) : v_sub(v, m);
        v_store(out + i, v_div(v, d));
    }
}

/* e = e^y; the sum. */
V_FN double exponentials(float *e, const float *y, size_t padded)
{
    kd_f64x16 sum = vd_set1(0);
    for (size_t i = 0; i < padded; i += 16) {
        kd_f32x16 v = v_exp(v_load(y + i));
        v_store(e + i, v);
        sum = vd_add(sum, vd_from_f32(v));
    }
    return vd_sum(sum);
}

V_FN void scale_row(float *x, size_t padded, float s)
{
    kd_f32x16 vs = v_set1(s);
    for (size_t i = 0; i < padded; i += 16) v_store(x + i, v_mul(v_load(x + i), vs));
}

V_FN void fill_gradient(float *grad, size_t n, float value)
{
    kd_f32x16 v = v_set1(value);
    for (size_t i = 0; i < n; i += 16) put(grad, v, i, n);
}

V_FN void add_constant(float *grad, size_t n, float value)
{
    kd_f32x16 v = v_set1(value);
    for (size_t i = 0; i < n; i += 16) put(grad, v_add(take(grad, i, n, 0.0f), v), i, n);
}

/* lp, p, log_zp and p_sum of the teacher. */
V_FN void read_teacher(row_state *s, const float *t, float max)
{
    const kd__distill_args *a = s->args;
    kd_f64x16 sum = vd_set1(0);
    s->log_zp = 0;
    if (a->teacher_form == KD_TEACHER_LOGITS) {
        centre(s->lp, t, s->n, max, a->temperature);
        double z = exponentials(s->p, s->lp, s->padded);
        s->log_zp = log_f64(z);
        scale_row(s->p, s->padded, (float)(1.0 / z));
        s->p_sum = 1.0;
        return;
    }
    for (size_t i = 0; i < s->n; i += 16) {
        kd_f32x16 v = take(t, i, s->n, a->teacher_form == KD_TEACHER_PROBS ? 0.0f : -INF), p = v, lp = v;
        if (a->teacher_form == KD_TEACHER_PROBS) lp = v_log(v);
        else p = v_exp(v);
        v_store(s->p + i, p);
        v_store(s->lp + i, lp);
        sum = vd_add(sum, vd_from_f32(p));
    }
    s->p_sum = vd_sum(sum);
}

/* KL(p || q) = sum p (lp - y) + P (log Zq - log Zp), P = sum p;  d / d x = (P q - p) / T. */
V_FN double forward_kl(const row_state *s, float *grad, float scale)
{
    kd_f64x16 sum = vd_set1(0);
    kd_f32x16 zero = v_zero(), p_sum = v_set1((float)s->p_sum), k = v_set1(scale);
    for (size_t i = 0; i < s->n; i += 16) {
        kd_f32x16 p = v_load(s->p + i);
        kd_f32x16 d = v_sub(v_load(s->lp + i), v_load(s->y + i));
        sum = vd_mac_f32(sum, p, v_select(v_eq(p, zero), zero, d));
        if (grad) put(grad, v_mul(k, v_fms(p_sum, v_load(s->e + i), p)), i, s->n);
    }
    return vd_sum(sum) + s->p_sum * (s->log_zq - s->log_zp);
}

/* KL(q || p) = S + log Zp - log Zq, S = sum q (y - lp);  d / d x = q (y - lp - S) / T.
 * Where p = 0 < q the value is +inf, and the gradient that of the sum without those classes. */
V_FN double reverse_kl(const row_state *s, float *grad, float scale)
{
    kd_f64x16 sum = vd_set1(0), mass = vd_set1(0);
    kd_f32x16 zero = v_zero(), k = v_set1(scale);
    kd_m16 infinite = vm_first(0);
    for (size_t i = 0; i < s->n; i += 16) {
        kd_f32x16 q = v_load(s->e + i), lp = v_load(s->lp + i);
        kd_m16 off = v_eq(q, zero), lost = vm_and(vm_not(off), v_eq(lp, v_set1(-INF)));
        kd_f32x16 d = v_select(vm_or(off, lost), zero, v_sub(v_load(s->y + i), lp));
        infinite = vm_or(infinite, lost);
        sum = vd_mac_f32(sum, q, d);
        mass = vd_add(mass, vd_from_f32(v_select(lost, q, zero)));
    }
    double sq = vd_sum(sum), lost_mass = vd_sum(mass), log_ratio = s->log_zp - s->log_zq;
    double value = vm_any(infinite) ? (double)INF : sq + log_ratio;
    if (!grad) return value;
    /* kept classes: q (d + log_ratio - L - (Q - 1)), lost ones: -q (L + Q); L = sq + log_ratio Q, Q the mass kept */
    double kept = 1.0 - lost_mass, finite = sq + log_ratio * kept;
    kd_f32x16 shift = v_set1((float)(log_ratio - finite + lost_mass)), other = v_set1((float)-(finite + kept));
    for (size_t i = 0; i < s->n; i += 16) {
        kd_f32x16 q = v_load(s->e + i), lp = v_load(s->lp + i);
        kd_f32x16 d = v_add(v_sub(v_load(s->y + i), lp), shift);
        d = v_select(v_eq(lp, v_set1(-INF)), other, d);
        put(grad, v_mul(k, v_select(v_eq(q, zero), zero, v_mul(q, d))), i, s->n);
    }
    return value;
}

/* log(1 + e^x) */
V_FN kd_f32x16 softplus(kd_f32x16 x) { return v_add(v_max(v_zero(), x), v_log1p(v_exp(v_neg(v_abs(x))))); }

/* b KL(p || m) + (1 - b) KL(q || m), m = b p + (1 - b) q.  With t = log(b p / ((1 - b) q)):
 *     log q - log m = -log(1 - b) - log(1 + e^t),   log p - log m = -log b - log(1 + e^-t)
 * d / d x = q (h - sum q h) / T,  h = (1 - b) (log q - log m). */
V_FN double jensen_shannon(const row_state *s, float *grad, float scale)
{
    double b = (double)s->args->js_beta, log_b = log_f64(b), log_c = log_f64(1.0 - b);
    kd_f32x16 zero = v_zero(), shift = v_set1((float)(log_b - log_c + (s->log_zq - s->log_zp)));
    kd_f64x16 p_side = vd_set1(0), q_side = vd_set1(0);
    for (size_t i = 0; i < s->n; i += 16) {
        kd_f32x16 p = v_load(s->p + i), q = v_load(s->e + i);
        kd_f32x16 t = v_add(v_sub(v_load(s->lp + i), v_load(s->y + i)), shift);
        kd_f32x16 up = softplus(t), down = softplus(v_neg(t));
        p_side = vd_mac_f32(p_side, p, v_select(v_eq(p, zero), zero, down));
        up = v_select(v_eq(q, zero), zero, up);
        q_side = vd_mac_f32(q_side, q, up);
        if (grad) v_store(s->y + i, up);   /* y is not needed again */
    }
    double ps = vd_sum(p_side), qs = vd_sum(q_side);
    if (grad) {
        kd_f32x16 k = v_set1(scale * (1.0f - s->args->js_beta)), mean = v_set1((float)qs);
        for (size_t i = 0; i < s->n; i += 16)
            put(grad, v_mul(k, v_mul(v_load(s->e + i), v_sub(mean, v_load(s->y + i)))), i, s->n);
    }
    return b * (-log_b * s->p_sum - ps) + (1.0 - b) * (-log_c - qs);
}

/* The soft term of one row; its gradient replaces what is in grad. */
V_FN float soft_row(row_state *s, size_t r, const float *x, row_scan xs, float *grad)
{
    const kd__distill_args *a = s->args;
    const float *t = a->teacher + r * a->teacher_row;
    row_scan ts = scan(t, s->n);
    const float empty = a->teacher_form == KD_TEACHER_PROBS ? 0.0f : -INF;
    int masked = (xs.max == -INF) | (ts.max == empty && !ts.bad) << 1;
    if (a->masked) a->masked[r] = (uint8_t)masked;
    if (xs.bad || ts.bad || masked) {
        float value = xs.bad || ts.bad ? NAN_F : a->masked_value;
        if (grad) fill_gradient(grad, s->n, value);
        return value;
    }
    centre(s->y, x, s->n, xs.max, a->temperature);
    double zq = exponentials(s->e, s->y, s->padded), value;
    s->log_zq = log_f64(zq);
    scale_row(s->e, s->padded, (float)(1.0 / zq));
    read_teacher(s, t, ts.max);
    float scale = grad ? a->soft_scale[r] / a->temperature : 0.0f;
    if (a->direction == KD_DIRECTION_FORWARD) value = forward_kl(s, grad, scale);
    else if (a->direction == KD_DIRECTION_REVERSE) value = reverse_kl(s, grad, scale);
    else value = jensen_shannon(s, grad, scale);
    /* rounding must not make a divergence negative; one of unnormalised p may be */
    if (a->teacher_form == KD_TEACHER_LOGITS && value < 0) value = 0;
    return (float)value;
}

/* w_c y_c of classes i .. i + 15, 0 past the end: the class distribution, smoothed and weighted. */
V_FN kd_f32x16 hard_target(const row_state *s, const float *soft_labels, int32_t label, size_t i)
{
    const kd__distill_args *a = s->args;
    kd_f32x16 y;
    if (soft_labels) {
        y = take(soft_labels, i, s->n, 0.0f);
    } else {
        kd_i32x16 c = vi_add(vi_iota(), vi_set1((int32_t)i));
        y = v_select(vi_eq(c, vi_set1(label)), v_set1(1.0f), v_zero());
    }
    if (a->label_smoothing != 0) {
        kd_f32x16 floor = v_set1(a->label_smoothing / (float)s->n);
        y = v_fma(v_set1(1.0f - a->label_smoothing), y, floor);
        y = v_select(vm_first(s->n - i < 16 ? s->n - i : 16), y, v_zero());
    }
    return a->class_weights ? v_mul(y, take(a->class_weights, i, s->n, 0.0f)) : y;
}

/* The hard term: sum y (log Z - x), d / d x = (sum y) q - y; added to what is in grad. */
V_FN float hard_row(row_state *s, size_t r, const float *x, row_scan xs, float *grad)
{
    const kd__distill_args *a = s->args;
    const float *labels = a->soft_labels ? a->soft_labels + r * a->soft_label_row : NULL;
    const int32_t label = labels ? 0 : a->labels[r];
    int masked = xs.max == -INF;
    if (a->masked && masked) a->masked[r] |= 1;
    if (xs.bad || masked) {
        float value = xs.bad ? NAN_F : a->masked_value;
        if (grad) add_constant(grad, s->n, value);
        return value;
    }
    centre(s->y, x, s->n, xs.max, 1.0f);
    double z = exponentials(s->e, s->y, s->padded), log_z = log_f64(z);
    kd_f64x16 dots = vd_set1(0), masses = vd_set1(0);
    kd_f32x16 zero = v_zero();
    for (size_t i = 0; i < s->n; i += 16) {
        kd_f32x16 y = hard_target(s, labels, label, i);
        masses = vd_add(masses, vd_from_f32(y));
        dots = vd_mac_f32(dots, y, v_select(v_eq(y, zero), zero, v_load(s->y + i)));
    }
    double mass = vd_sum(masses);
    if (grad) {
        kd_f32x16 k = v_set1(a->hard_scale[r]), share = v_set1((float)(mass / z));
        for (size_t i = 0; i < s->n; i += 16) {
            kd_f32x16 d = v_fms(share, v_load(s->e + i), hard_target(s, labels, label, i));
            put(grad, v_add(take(grad, i, s->n, 0.0f), v_mul(k, d)), i, s->n);
        }
    }
    return (float)(mass * log_z - vd_sum(dots));
}

void KD_K(distill_general_f32)(const kd__distill_args *args)
{
    const size_t n = args->classes, padded = (n + 15) / 16 * 16;
    float *at = args->scratch;
    row_state s = { .args = args, .n = n, .padded = padded };
    s.y = at;
    s.e = at + padded;
    s.lp = at + 2 * padded;
    s.p = at + 3 * padded;
    for (size_t r = 0; r < args->rows; r++) {
        const float *x = args->student + r * args->student_row;
        float *grad = args->grad ? args->grad + r * args->grad_row : NULL;
        const int32_t mark = args->labels ? args->labels[r] : 0;
        const int hard_on = (args->labels || args->soft_labels) && mark >= 0;
        const int soft_on = args->teacher && mark != KD_ROW_IGNORED;
        float hard = 0, soft = 0;
        if (args->masked) args->masked[r] = 0;
        row_scan xs = { 0, 0 };
        if (soft_on || hard_on) xs = scan(x, n);
        if (hard_on && grad == x) {   /* what the soft term writes would be what the hard term reads */
            float *copy = at + 4 * padded;
            for (size_t i = 0; i < n; i += 16) v_store(copy + i, take(x, i, n, 0.0f));
            x = copy;
        }
        if (soft_on) soft = soft_row(&s, r, x, xs, grad);
        else if (grad) fill_gradient(grad, n, 0.0f);
        if (hard_on) hard = hard_row(&s, r, x, xs, grad);
        if (args->hard) args->hard[r] = hard;
        if (args->soft) args->soft[r] = soft;
    }
}
