/* kern_distill_general.c - the distillation loss with every option: direction, the teacher's form, soft labels, smoothing, class
 * weights, the teacher's argmax.  A row at a time, log-probabilities in scratch, sums in double.
 * SPDX-License-Identifier: MIT
 *
 * Hard term, target[c] = weight[c] ((1 - smoothing) label[c] + smoothing / classes):
 *     CE = sum target (log Z1 - x),  x = s - ms;          gradient  q sum(target) - target,  q = softmax(s)
 * Soft term, q = softmax(s / T):
 *     KL(p || q) = sum p (log p - log q)                   gradient  (q sum(p) - p) / T
 *     KL(q || p) = sum q (log q - log p)                   gradient  q ((log q - log p) - KL) / T
 *     JS = sum beta p (log p - log m) + (1 - beta) q (log q - log m),  m = beta p + (1 - beta) q
 *                                                          gradient  (1 - beta) q ((log q - log m) - sum q (log q - log m)) / T
 * A factor 0 takes its product out, whatever the logarithm beside it is. */
#include "kd/distill.h"
#include "kernels/distill_row.h"
#include "kernels/kernels.h"

V_FN float log_of(float x)
{
    float out[16];
    v_store(out, v_log(v_set1(x)));
    return out[0];
}

V_FN size_t width(size_t n, size_t i) { return n - i < 16 ? n - i : 16; }

/* a b, 0 where a is 0 */
V_FN kd_f32x16 product(kd_f32x16 a, kd_f32x16 b) { return v_select(v_eq(a, v_zero()), v_zero(), v_mul(a, b)); }

/* (logit - top) * factor; factor = 2/T on half the difference, so that nothing overflows on the way */
V_FN kd_f32x16 scaled(kd_f32x16 logit, float top, float factor)
{
    return v_mul(v_fma(logit, v_set1(0.5f), v_set1(-0.5f * top)), v_set1(factor));
}

/* log softmax(x / T) to out.  A finite logit has a finite logarithm, however far down; -inf stays. */
V_FN void log_softmax_row(float *out, const float *x, size_t n, float top, float temperature)
{
    float factor = 2.0f / temperature;
    kd_f64x16 sum = vd_set1(0.0);
    for (size_t i = 0; i < n; i += 16)
        sum = vd_add(sum, vd_from_f32(v_exp(scaled(v_load_n(x + i, width(n, i), -INF), top, factor))));
    kd_f32x16 log_sum = v_set1(log_of((float)vd_sum(sum)));
    for (size_t i = 0; i < n; i += 16) {
        size_t k = width(n, i);
        kd_f32x16 logit = v_load_n(x + i, k, -INF), floor = v_select(v_eq(logit, v_set1(-INF)), logit, v_set1(-0x1.fffffep127f));
        v_store_n(out + i, v_max(floor, v_sub(scaled(logit, top, factor), log_sum)), k);
    }
}

/* target[i .. i + 16) of the hard term without the part of a hard label, which `hard_label` adds */
V_FN kd_f32x16 spread_target(const kd__distill_args *a, size_t r, size_t i, size_t k)
{
    kd_f32x16 t = v_set1(a->smoothing / (float)a->classes);
    if (a->soft_labels)
        t = v_fma(v_set1(1.0f - a->smoothing), v_load_n(a->soft_labels + r * a->soft_label_stride + i, k, 0.0f), t);
    return a->class_weights ? v_mul(t, v_load_n(a->class_weights + i, k, 0.0f)) : t;
}

V_FN float hard_label(const kd__distill_args *a, int32_t label)
{
    return (1.0f - a->smoothing) * (a->class_weights ? a->class_weights[label] : 1.0f);
}

/* The first largest entry; a NaN or +inf anywhere makes *poison NaN. */
static size_t first_maximum(const float *x, size_t n, float *poison)
{
    size_t best = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(x[i] < INF)) *poison = __builtin_nanf("");
        if (x[i] > x[best]) best = i;
    }
    return best;
}

/* log p and log q of the row in w->eb and w->ea; its p at i */
V_FN kd_f32x16 teacher_mass(const kd__distill_args *a, const row *w, size_t i, size_t k)
{
    if (a->teacher_form == KD_TEACHER_PROBS) return v_load_n(w->t + i, k, 0.0f);
    return v_exp(v_load_n(w->eb + i, k, -INF));
}

static void log_rows(const kd__distill_args *a, const row *w, float top_s)
{
    size_t n = a->classes;
    float unused;
    log_softmax_row(w->ea, w->s, n, top_s, a->temperature);
    if (a->teacher_form == KD_TEACHER_LOGITS) {
        log_softmax_row(w->eb, w->t, n, row_extremes(w->t, n, &unused), a->temperature);
    } else if (a->teacher_form == KD_TEACHER_LOG_PROBS) {
        memcpy(w->eb, w->t, n * sizeof *w->eb);
    } else {
        for (size_t i = 0; i < n; i += 16) v_store_n(w->eb + i, v_log(v_load_n(w->t + i, width(n, i), 1.0f)), width(n, i));
    }
}

/* D and what its gradient needs beside the row: sum p (forward), D (reverse), sum q (log q - log m) (Jensen-Shannon). */
static double divergence(const kd__distill_args *a, const row *w, double *needed)
{
    kd_f64x16 sum = vd_set1(0.0), other = sum;
    for (size_t i = 0; i < a->classes; i += 16) {
        size_t k = width(a->classes, i);
        kd_f32x16 log_q = v_load_n(w->ea + i, k, -INF), log_p = v_load_n(w->eb + i, k, -INF), p = teacher_mass(a, w, i, k), q, v;
        if (a->direction == KD_DIRECTION_FORWARD) {
            v = product(p, v_sub(log_p, log_q));
            other = vd_add(other, vd_from_f32(p));
        } else if (a->direction == KD_DIRECTION_REVERSE) {
            v = product(v_exp(log_q), v_sub(log_q, log_p));
        } else {
            q = v_exp(log_q);
            kd_f32x16 log_m = v_log(v_fma(v_set1(a->js_beta), p, v_mul(v_set1(1.0f - a->js_beta), q)));
            kd_f32x16 side = product(q, v_sub(log_q, log_m));
            v = v_fma(v_set1(a->js_beta), product(p, v_sub(log_p, log_m)), v_mul(v_set1(1.0f - a->js_beta), side));
            other = vd_add(other, vd_from_f32(side));
        }
        sum = vd_add(sum, vd_from_f32(v));
    }
    double d = vd_sum(sum);
    *needed = a->direction == KD_DIRECTION_REVERSE ? d : vd_sum(other);
    return d;
}

/* d D / d s[i .. i + 16) times T */
V_FN kd_f32x16 divergence_slope(const kd__distill_args *a, const row *w, size_t i, size_t k, kd_f32x16 needed)
{
    kd_f32x16 log_q = v_load_n(w->ea + i, k, -INF), log_p = v_load_n(w->eb + i, k, -INF), q = v_exp(log_q);
    kd_f32x16 p = teacher_mass(a, w, i, k);
    if (a->direction == KD_DIRECTION_FORWARD) return v_fms(q, needed, p);
    if (a->direction == KD_DIRECTION_REVERSE) return product(q, v_sub(v_sub(log_q, log_p), needed));
    kd_f32x16 rest = v_set1(1.0f - a->js_beta);
    kd_f32x16 log_m = v_log(v_fma(v_set1(a->js_beta), p, v_mul(rest, q)));
    return v_mul(rest, product(q, v_sub(v_sub(log_q, log_m), needed)));
}

static void general_row(const kd__distill_args *a, size_t r)
{
    row w = row_begin(a, r);
    size_t n = a->classes, best = 0;
    int spread = a->soft_labels || a->smoothing > 0.0f, soft = w.sc != 0.0f && !a->hard_teacher;
    float low, top, log_z1 = 0, poison = 0;
    double needed = 0, target_sum = 0, ce = 0, d = 0;

    a->hard[r] = a->soft[r] = 0.0f;
    if (w.hc == 0.0f && w.sc == 0.0f) {
        if (w.g) memset(w.g, 0, n * sizeof *w.g);
        return;
    }
    top = row_extremes(w.s, n, &low);
    if (w.hc != 0.0f || a->hard_teacher) {
        kd_f64x16 sum = vd_set1(0.0);
        for (size_t i = 0; i < n; i += 16)
            sum = vd_add(sum, vd_from_f32(v_exp(scaled(v_load_n(w.s + i, width(n, i), -INF), top, 2.0f))));
        log_z1 = log_of((float)vd_sum(sum));
    }
    if (w.hc != 0.0f) {
        kd_f64x16 mass = vd_set1(0.0), value = mass;
        for (size_t i = 0; spread && i < n; i += 16) {
            size_t k = width(n, i);
            kd_f32x16 t = spread_target(a, r, i, k);
            if (k < 16) t = v_select(vm_first(k), t, v_zero());
            mass = vd_add(mass, vd_from_f32(t));
            value = vd_add(value, vd_from_f32(product(t, v_sub(v_set1(log_z1), scaled(v_load_n(w.s + i, k, 0.0f), top, 2.0f)))));
        }
        target_sum = vd_sum(mass), ce = vd_sum(value);
        if (w.label >= 0) {
            double t = hard_label(a, w.label);
            target_sum += t;
            if (t != 0) ce += t * ((double)log_z1 - ((double)w.s[w.label] - (double)top));
        }
        a->hard[r] = (float)ce;
    }
    if (soft) {
        log_rows(a, &w, top);
        d = divergence(a, &w, &needed);
        if (a->teacher_form == KD_TEACHER_LOGITS) d = d < 0 ? 0 : d;
        a->soft[r] = (float)d;
    } else if (w.sc != 0.0f) {
        best = first_maximum(w.t, n, &poison);
        d = (double)log_z1 - ((double)w.s[best] - (double)top) + (double)poison;
        a->soft[r] = (float)d;
    }
    if (!w.g) return;

    kd_f32x16 hc = v_set1(w.hc), sum = v_set1((float)target_sum), extra = v_set1((float)needed);
    kd_f32x16 per_t = v_set1(w.sc / a->temperature), argmax_weight = v_set1(w.sc + poison), log_z = v_set1(log_z1);
    for (size_t i = 0; i < n; i += 16) {
        size_t k = width(n, i);
        kd_f32x16 g = soft ? v_mul(per_t, divergence_slope(a, &w, i, k, extra)) : v_zero();
        if (w.hc != 0.0f || a->hard_teacher) {
            kd_f32x16 q = v_exp(v_sub(scaled(v_load_n(w.s + i, k, -INF), top, 2.0f), log_z));
            if (w.hc != 0.0f) {
                kd_f32x16 t = spread ? spread_target(a, r, i, k) : v_zero();
                g = v_fma(hc, v_fms(q, sum, t), g);
            }
            if (w.sc != 0.0f && a->hard_teacher) g = v_fma(argmax_weight, q, g);
        }
        v_store_n(w.g + i, g, k);
    }
    if (w.label >= 0) w.g[w.label] -= w.hc * hard_label(a, w.label);
    if (w.sc != 0.0f && a->hard_teacher) w.g[best] -= w.sc;
}

void KD_K(distill_general_f32)(const kd__distill_args *a)
{
    for (size_t r = 0; r < a->rows; r++) general_row(a, r);
}
