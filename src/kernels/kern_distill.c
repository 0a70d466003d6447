/* kern_distill.c - the distillation losses and their gradients, fused: every option through the same few passes.
 * SPDX-License-Identifier: MIT
 *
 * Hard term, y[c] = weight[c] ((1 - smoothing) soft label + smoothing / classes), k = weight[l] (1 - smoothing) for a label l:
 *     CE = (k + sum y) log Z1 - sum y x - k x[l],  x = s - ms,  Z1 = sum e^x       gradient  (k + sum y) e^x / Z1 - y - k at l
 * Soft term, a = e^(x/T), u = t - mt, b = e^(u/T), Zs, Zt their sums; q = a/Zs, p = b/Zt:
 *     KL(p || q) = D / (T Zt) + log(Zs/Zt),   D = sum b (u - x)                    gradient  (q - p) / T
 *     KL(q || p) = R / Zs - log(Zs/Zt),       R = sum a w,  w = (x - u)/T          gradient  q (w - R/Zs) / T
 *     JS = beta sum p log(p/m) + (1 - beta) J, J = sum q w,  w = log(q/m),         gradient  (1 - beta) q (w - J) / T
 *          m = beta p + (1 - beta) q
 *     CE with the teacher's argmax: one more label.
 * A teacher given as log-probabilities is not renormalised: p = b e^mt.  Of probabilities the logarithms are taken first.
 * Two logarithms a row and none a logit, but for Jensen-Shannon; every logit read from memory once: what the gradient needs,
 * a and b or w, waits in scratch.  e^x is a, a^2 or a^4 when T is 1, 2 or 4.
 *
 * Differences are taken as z = s/2 - ms/2, which cannot overflow, so one code serves logits of any size at any T.  A product
 * with 0 is left out by a mask: -inf (a mask) costs nothing, and mass where the other side is impossible gives exactly +inf.
 *
 * Inside a pass nothing crosses lanes: each has its top, its sums, its coefficients.  Around the passes stand three structures.
 * To 32 classes: sixteen rows transposed, a row a lane.  To 4096: a row's lanes share its top, and fold at its end (sixteen rows
 * at once while they fit the first cache, else a row at a time with the next one's maxima behind the folds).  Above: blocks
 * of 4096 with a running top in every lane (on-line softmax), nothing folds inside a row; blocks add in double. */
#include "base/base.h"
#include "kd/distill.h"
#include "kernels/distill_args.h"
#include "kernels/kernels.h"
#include "simd/simd.h"

#define INF       __builtin_inff()
#define FLOAT_MAX 0x1.fffffep127f
#define LOG2_E    0x1.715476p0f
#ifdef KD_ISA_scalar
#define V_PASS static
#else
#define V_PASS static __attribute__((noinline))   /* a call for a block of logits costs nothing */
#endif

enum { PLAIN, FORWARD, REVERSE, JS };      /* the soft term; PLAIN: none, or of a hard teacher */
enum { NONE, OWN, SQUARE, FOURTH };        /* e^x: not wanted beside a, its own exponential, a^2, a^4 */

/* What a pass leaves in a row's lanes, and what it is given there. */
enum { TOP_S, TOP_T, ZS, ZT, Z1, D, MASS, INNER, JP, JQ, CA, CB, CE, CY, LANES };

typedef struct pass {
    size_t rows, n;                          /* rows of n numbers each */
    const float *const *s, *const *t;        /* [rows] logits of student and teacher */
    const float *const *y;                   /* the targets beside the label, or NULL */
    float *const *g;
    float   *a, *b, *a1;                     /* for the gradient; row k's at k * step */
    size_t   step, ahead;                    /* ahead: bytes to what is fetched meanwhile; 0: nothing */
    int      kind, from, stream;
    float    student, teacher;               /* k: e^(x / T) = 2^(k z) */
    float    lambda, unit_s, unit_t, beta;   /* the teacher's z in the student's units; both in units of a logarithm */
    _Alignas(64) float lane[LANES][16][16];
} pass;
_Static_assert(sizeof(pass) <= KD_DISTILL_PASS * sizeof(float), "room for a pass in the scratch");

static float scale_of(float temperature) { return 2 * LOG2_E / temperature; }

/* A factor k, and the z from which 2^(k z) counts. */
typedef struct rate { kd_f32x16 k, least; } rate;
V_FN rate rate_of(float k) { return (rate){ v_set1(k), v_set1(-126.5f / k) }; }

/* 2^(k z), z <= 0: 0 from 2^-126.5 down, where *above is not set; NaN passes.  Adding 1.5 * 2^23 + 127 rounds k z to a whole
 * number and leaves it, biased, in the low bits.  Relative error (7 + k |z|) 2^-24. */
V_FN kd_f32x16 exp_above(kd_f32x16 z, rate by, kd_m16 *above)
{
    kd_f32x16 magic = v_set1(0x1.8p23f + 127.0f), t = v_fma(z, by.k, magic), r = v_sub(magic, t);
    r = v_fma(z, by.k, r);
    kd_f32x16 q = v_fma(r, v_set1(0x1.5bba14p-10f), v_set1(0x1.3cea88p-7f));
    q = v_fma(q, r, v_set1(0x1.c6b752p-5f));
    q = v_fma(q, r, v_set1(0x1.ebf9bcp-3f));
    q = v_fma(q, r, v_set1(0x1.62e42ap-1f));
    q = v_fma(q, r, v_set1(1.0f));
    *above = v_nle(z, by.least);
    return v_keep(*above, v_mul(q, v_from_bits(vi_shl(v_bits(t), 23))));
}
V_FN kd_f32x16 exp_of(kd_f32x16 z, float k)
{
    kd_m16 above;
    return exp_above(z, rate_of(k), &above);
}

/* Half of a top, 0 of one that is -inf. */
V_FN kd_f32x16 half_of(kd_f32x16 top) { return v_mul(v_set1(0.5f), v_select(v_eq(top, v_set1(-INF)), v_zero(), top)); }
V_FN kd_f32x16 below(kd_f32x16 logit, kd_f32x16 half_top) { return v_fms(logit, v_set1(0.5f), half_top); }
/* In units of a logarithm, not below -2^108: differences of two, and sums of a million, stay finite. */
V_FN kd_f32x16 log_units(kd_f32x16 z, kd_f32x16 unit) { return v_max(v_set1(-0x1p108f), v_mul(z, unit)); }
V_FN kd_f32x16 row_load(const float *p, size_t i, size_t n)
{
    return i + 16 <= n ? v_load(p + i) : v_load_n(p + i, n - i, -INF);
}

/* ---- the passes ----------------------------------------------------------------------------------------------- */
V_FN kd_f32x16 lane_top(const float *x, size_t n)
{
    kd_f32x16 m0 = v_set1(-INF), m1 = m0;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        m0 = v_max(m0, v_load(x + i));
        m1 = v_max(m1, v_load(x + i + 16));
    }
    for (; i < n; i += 16) m0 = v_max(m0, row_load(x, i, n));
    return v_max(m0, m1);
}
V_PASS void pass_tops(pass *p)
{
    for (size_t k = 0; k < p->rows; k++) {
        v_store(p->lane[TOP_S][k], lane_top(p->s[k], p->n));
        if (p->kind != PLAIN) v_store(p->lane[TOP_T][k], lane_top(p->t[k], p->n));
    }
}

/* Exponentials to scratch, and their sums. */
V_FN void sum_rows(pass *p, const int kind, const int from, const int alike)
{
    const kd_f32x16 zero = v_zero(), none = v_set1(-INF);
    const kd_f32x16 lambda = v_set1(p->lambda), unit_s = v_set1(p->unit_s), unit_t = v_set1(p->unit_t);
    const rate student = rate_of(p->student), teacher = rate_of(p->teacher);   /* stores might change what p points to */
    size_t n = p->n, ahead = p->ahead;
    for (size_t k = 0; k < p->rows; k++) {
        const float *s = p->s[k], *t = kind == PLAIN ? s : p->t[k];
        float *ea = p->a + k * p->step, *eb = p->b + k * p->step, *ec = p->a1 + k * p->step;
        kd_f32x16 half_s = half_of(v_load(p->lane[TOP_S][k])), half_t = kind == PLAIN ? zero : half_of(v_load(p->lane[TOP_T][k]));
        kd_f32x16 zs = zero, zt = zero, z1 = zero, d = zero;
        for (size_t i = 0; i < n; i += 16) {
            kd_f32x16 z[2], e[2];   /* of student and teacher */
            kd_m16 above[2];
            z[0] = below(row_load(s, i, n), half_s);
            v_prefetch((const void *)((uintptr_t)(s + i) + ahead));
            if (kind != PLAIN) {
                z[1] = below(row_load(t, i, n), half_t);
                v_prefetch((const void *)((uintptr_t)(t + i) + ahead));
            }
            e[0] = exp_above(z[0], student, &above[0]);
            if (kind != PLAIN) e[1] = exp_above(z[1], teacher, &above[1]);
            zs = v_add(zs, e[0]);
            v_store(ea + i, e[0]);
            if (kind != PLAIN) zt = v_add(zt, e[1]);
            if (kind == FORWARD) {
                kd_f32x16 w = alike ? v_sub(z[1], z[0]) : v_fms(z[1], lambda, z[0]);
                d = v_fma(e[1], v_keep(above[1], w), d);
                v_store(eb + i, e[1]);
            }
            if (kind == REVERSE) {   /* a teacher's -inf under mass of the student is +inf, as it is; any other w is finite */
                kd_f32x16 w = v_sub(log_units(z[0], unit_s), log_units(z[1], unit_t));
                w = v_keep(above[0], v_select(v_eq(z[1], none), v_set1(INF), w));
                d = v_fma(e[0], w, d);
                v_store(eb + i, w);
            }
            if (from == OWN) {
                kd_f32x16 e1 = exp_of(z[0], scale_of(1.0f));
                z1 = v_add(z1, e1);
                v_store(ec + i, e1);
            } else if (from != NONE) {
                kd_f32x16 root = from == FOURTH ? v_mul(e[0], e[0]) : e[0];
                z1 = v_fma(root, root, z1);
            }
        }
        v_store(p->lane[ZS][k], zs);
        v_store(p->lane[ZT][k], zt);
        v_store(p->lane[Z1][k], z1);
        v_store(p->lane[D][k], d);
    }
}

/* Constants where most of the time goes; any other combination asks again for each vector. */
#ifdef KD_ISA_scalar
V_PASS void pass_sums(pass *p) { sum_rows(p, p->kind, p->from, 0); }
#else
V_PASS void pass_sums(pass *p)
{
    if (p->kind == PLAIN) sum_rows(p, PLAIN, NONE, 0);
    else if (p->kind == REVERSE) sum_rows(p, REVERSE, p->from, 0);
    else if (p->from == FOURTH && p->lambda == 1.0f) sum_rows(p, FORWARD, FOURTH, 1);
    else if (p->from == NONE) sum_rows(p, FORWARD, NONE, 0);
    else sum_rows(p, FORWARD, p->from, 0);
}
#endif

/* MASS = sum y, INNER = sum y x / 2: halves cannot overflow */
V_PASS void pass_targets(pass *p)
{
    for (size_t k = 0; k < p->rows; k++) {
        kd_f32x16 top = v_load(p->lane[TOP_S][k]), half = v_set1(0.5f), mass = v_zero(), inner = mass;
        top = v_mul(half, v_select(v_eq(top, v_set1(-INF)), v_zero(), top));
        for (size_t i = 0; i < p->n; i += 16) {
            size_t w = p->n - i < 16 ? p->n - i : 16;
            kd_f32x16 y = v_load_n(p->y[k] + i, w, 0.0f), x = v_fms(v_load_n(p->s[k] + i, w, 0.0f), half, top);
            mass = v_add(mass, y);
            inner = v_fma(y, v_keep(vm_not(v_eq(y, v_zero())), x), inner);
        }
        v_store(p->lane[MASS][k], mass);
        v_store(p->lane[INNER][k], inner);
    }
}

/* Jensen-Shannon's second pass: q = a CA, p = b CB, log q = x + CE, log p = u + CY; w = log(q/m) takes the place of b. */
V_PASS void pass_js(pass *p)
{
    kd_f32x16 unit_s = v_set1(p->unit_s), unit_t = v_set1(p->unit_t), beta = v_set1(p->beta), rest = v_set1(1.0f - p->beta);
    for (size_t k = 0; k < p->rows; k++) {
        float *ea = p->a + k * p->step, *eb = p->b + k * p->step;
        kd_f32x16 half_s = half_of(v_load(p->lane[TOP_S][k])), half_t = half_of(v_load(p->lane[TOP_T][k]));
        kd_f32x16 ca = v_load(p->lane[CA][k]), cb = v_load(p->lane[CB][k]);
        kd_f32x16 ce = v_load(p->lane[CE][k]), cy = v_load(p->lane[CY][k]);
        kd_f32x16 jp = v_zero(), jq = jp, zero = jp;
        for (size_t i = 0; i < p->n; i += 16) {
            kd_f32x16 x = below(row_load(p->s[k], i, p->n), half_s), u = below(row_load(p->t[k], i, p->n), half_t);
            kd_f32x16 q = v_mul(v_load(ea + i), ca), m = v_mul(v_load(eb + i), cb), v = m;
            m = v_log(v_fma(beta, m, v_mul(rest, q)));
            kd_f32x16 w = v_keep(v_gt(q, zero), v_sub(v_add(log_units(x, unit_s), ce), m));
            jq = v_fma(q, w, jq);
            jp = v_fma(v, v_keep(v_gt(v, zero), v_sub(v_add(log_units(u, unit_t), cy), m)), jp);
            v_store(eb + i, w);
        }
        v_store(p->lane[JP][k], jp);
        v_store(p->lane[JQ][k], jq);
    }
}

/* forward: CA e^x + CB a + CE b;  reverse and Jensen-Shannon: CA e^x + CB a (w - CE);  both + CY y */
V_FN void gradient_rows(const pass *p, const int kind, const int from, const int targets, const int stream)
{
    size_t n = p->n;
    for (size_t k = 0; k < p->rows; k++) {
        const float *ea = p->a + k * p->step, *eb = p->b + k * p->step, *ec = p->a1 + k * p->step, *y = targets ? p->y[k] : NULL;
        float *g = p->g[k];
        kd_f32x16 ca = v_load(p->lane[CA][k]), cb = v_load(p->lane[CB][k]);
        kd_f32x16 ce = v_load(p->lane[CE][k]), cy = v_load(p->lane[CY][k]);
        for (size_t i = 0; i < n; i += 16) {
            kd_f32x16 a = v_load(ea + i), w = v_mul(ca, a), a2 = v_mul(a, a);
            if (kind == FORWARD) w = v_fma(cb, a, v_mul(ce, v_load(eb + i)));
            if (kind == REVERSE) {
                kd_f32x16 turn = v_sub(v_load(eb + i), ce), share = v_mul(cb, a);
                w = from == NONE ? v_fma(share, turn, w) : v_mul(share, turn);
            }
            if (from == OWN) w = v_fma(ca, v_load(ec + i), w);
            if (from == SQUARE) w = v_fma(ca, a2, w);
            if (from == FOURTH) w = v_fma(ca, v_mul(a2, a2), w);
            if (targets) w = v_fma(cy, i + 16 <= n ? v_load(y + i) : v_load_n(y + i, n - i, 0.0f), w);
            if (i + 16 > n) v_store_n(g + i, w, n - i);
            else if (stream) v_stream(g + i, w);
            else v_store(g + i, w);
        }
    }
}
#ifdef KD_ISA_scalar
V_PASS void pass_gradient(const pass *p) { gradient_rows(p, p->kind, p->from, p->y != NULL, p->stream); }
#else
V_PASS void pass_gradient(const pass *p)
{
    if (p->y) gradient_rows(p, p->kind, p->from, 1, p->stream);
    else if (p->kind == REVERSE) gradient_rows(p, REVERSE, p->from, 0, p->stream);
    else if (p->kind == PLAIN && !p->stream) gradient_rows(p, PLAIN, NONE, 0, 0);
    else if (p->kind == PLAIN) gradient_rows(p, PLAIN, NONE, 0, 1);
    else if (p->from != FOURTH) gradient_rows(p, FORWARD, p->from, 0, p->stream);
    else if (p->stream) gradient_rows(p, FORWARD, FOURTH, 0, 1);
    else gradient_rows(p, FORWARD, FOURTH, 0, 0);
}
#endif

/* ---- sixteen rows' numbers, a row a lane ---------------------------------------------------------------------- */
typedef struct group {
    const kd__distill_args *args;
    pass    *p;
    int      kind, tempered;                /* tempered: the teacher's numbers are logits */
    size_t   count, row[16], label[16], best[16];
    const float *s[16], *t[16], *y[16];
    float   *g[16];
    _Alignas(64) float hard[16], soft[16];            /* the coefficients of the two terms, 0: not in it */
    float    weight[16], label_logit[16];   /* k above, and s[l] */
    float    best_logit[16], blank_t[16];   /* of a hard teacher */
    float    top_s[16], top_t[16], zs[16], zt[16], z1[16], d[16], mass[16], inner[16], jp[16], jq[16];
    float    ca[16], cb[16], ce[16], cy[16], ct[16];   /* ct: of the hard teacher's class */
    const float *pass_s[16], *pass_t[16], *pass_y[16];   /* what a pass goes over: rows, or columns of all of them */
    float   *pass_g[16];
    int      folds, spread;                 /* folds: a row's lanes share its numbers; spread: targets beside the label */
    float   *shared, *target_rows, *log_rows, *kept, *columns;   /* scratch */
} group;

/* Sixteen rows one after the other. */
V_FN int adjacent(const group *w) { return w->count == 16 && w->row[15] - w->row[0] == 15; }

/* Of sixteen rows; called, not inlined. */
V_PASS kd_f32x16 log_of(kd_f32x16 x) { return v_log(x); }
V_PASS kd_f32x16 called_exp(kd_f32x16 x) { return v_exp(x); }

/* Which rows are in a term and have something to look at. */
typedef struct members { kd_m16 hard, soft, blank; } members;
V_FN members members_of(const group *w)
{
    kd_f32x16 zero = v_zero();
    kd_m16 hard = vm_not(v_eq(v_load(w->hard), zero)), soft = vm_not(v_eq(v_load(w->soft), zero));
    kd_m16 blank_s = v_eq(v_load(w->zs), zero);   /* -inf throughout: a sum of exactly 0; a NaN would show */
    kd_m16 blank_t = w->kind == PLAIN ? v_eq(v_load(w->blank_t), v_set1(1.0f)) : v_eq(v_load(w->zt), zero);
    members m = { vm_and(hard, vm_not(blank_s)), vm_and(soft, vm_not(vm_or(blank_s, blank_t))),
                  vm_or(vm_and(vm_or(hard, soft), blank_s), vm_and(soft, blank_t)) };
    return m;
}

/* Zt as a factor and log Zt as a term of a teacher that is normalised by its sum, or not at all. */
V_FN kd_f32x16 teacher_factor(const group *w)
{
    return w->tempered ? v_div(v_set1(1.0f), v_load(w->zt)) : called_exp(v_load(w->top_t));
}
V_PASS void coefficients(group *w)
{
    const pass *p = w->p;
    members in = members_of(w);
    kd_f32x16 one = v_set1(1.0f), rs = v_div(one, v_load(w->zs)), r1 = p->from == NONE ? rs : v_div(one, v_load(w->z1));
    kd_f32x16 hard = v_keep(in.hard, v_load(w->hard)), soft = v_keep(in.soft, v_load(w->soft));
    if (w->kind == PLAIN) soft = v_add(soft, v_keep(in.soft, v_load(w->blank_t)));   /* NaN where a hard teacher has one */
    kd_f32x16 share = v_add(v_load(w->weight), v_load(w->mass)), ca, cb = v_zero(), ce = cb;
    if (w->kind == PLAIN) {
        ca = v_fma(hard, share, soft);
        ca = v_keep(vm_or(in.hard, in.soft), v_mul(ca, r1));
    } else {
        kd_f32x16 per_t = v_mul(soft, v_set1(1.0f / w->args->temperature));
        ca = v_keep(in.hard, v_mul(v_mul(hard, share), r1));
        cb = v_keep(in.soft, v_mul(per_t, rs));
        if (w->kind == FORWARD) {
            kd_f32x16 rt = teacher_factor(w);
            ce = v_keep(in.soft, v_neg(v_mul(per_t, rt)));
            if (!w->tempered) cb = v_keep(in.soft, v_mul(v_mul(rt, v_load(w->zt)), cb));
        } else if (w->kind == REVERSE) {
            ce = v_keep(in.soft, v_mul(v_load(w->d), rs));
        } else {
            cb = v_mul(v_set1(1.0f - p->beta), cb);
            ce = v_keep(in.soft, v_load(w->jq));
        }
        if (p->from == NONE && w->kind == FORWARD) cb = v_add(cb, ca);
    }
    v_store(w->ca, ca), v_store(w->cb, cb), v_store(w->ce, ce), v_store(w->cy, v_neg(hard));
    v_store(w->ct, w->args->hard_teacher ? v_neg(soft) : v_zero());
}

/* The terms' values, once the sums are known: of sixteen rows together, for the logarithms. */
V_PASS void values(const group *w)
{
    const kd__distill_args *a = w->args;
    members in = members_of(w);
    float hard[16], soft[16], blank[16];
    kd_f32x16 zs = v_load(w->zs), k = v_load(w->weight), top = v_load(w->top_s), d = v_load(w->d), kl;
    int alone = w->kind == JS || !w->tempered;   /* log Zs by itself, not as a ratio */
    kd_f32x16 log_zs = alone ? log_of(zs) : v_zero(), log_z1 = log_of(w->p->from == NONE ? zs : v_load(w->z1));
    kd_f32x16 ce = v_fma(v_add(k, v_load(w->mass)), log_z1, v_mul(k, v_sub(top, v_load(w->label_logit))));
    ce = v_fnma(v_set1(2.0f), v_load(w->inner), ce);
    if (w->kind == PLAIN) {
        kl = v_add(log_z1, v_sub(top, v_load(w->best_logit)));
    } else if (w->kind == JS) {
        kl = v_fma(v_set1(w->p->beta), v_load(w->jp), v_mul(v_set1(1.0f - w->p->beta), v_load(w->jq)));
    } else {
        kd_f32x16 rt = teacher_factor(w);
        kd_f32x16 log_ratio = w->tempered ? log_of(v_mul(zs, rt)) : v_add(log_zs, v_load(w->top_t));
        if (w->kind == REVERSE) {
            kl = v_sub(v_div(d, zs), log_ratio);
        } else {
            if (!w->tempered) log_ratio = v_mul(log_ratio, v_mul(rt, v_load(w->zt)));
            kl = v_fma(v_mul(d, rt), v_set1(w->p->unit_s), log_ratio);
        }
    }
    if (w->kind == JS) {   /* what rounding the logarithms of Zs and Zt moved every log q and log p by; w - J has none of it */
        kd_f32x16 log_zt = w->tempered ? log_of(v_load(w->zt)) : v_zero();
        v_store(hard, log_zs), v_store(soft, log_zt);
        for (size_t i = 0; i < w->count; i++) {
            double by = (double)w->p->beta, lost = 0;
            if (w->zs[i] > 0) lost = (1 - by) * ((double)hard[i] - kd__fixed_log((double)w->zs[i]));
            if (w->tempered && w->zt[i] > 0) lost += by * ((double)soft[i] - kd__fixed_log((double)w->zt[i]));
            blank[i] = (float)lost;
        }
        for (size_t i = w->count; i < 16; i++) blank[i] = 0.0f;
        kl = v_add(kl, v_load(blank));
    }
    if (w->tempered) kl = v_max(v_zero(), kl);
    ce = v_keep(in.hard, ce), kl = v_keep(in.soft, kl);
    if (adjacent(w)) {
        v_store(a->hard + w->row[0], ce);
        v_store(a->soft + w->row[0], kl);
    } else {
        v_store(hard, ce), v_store(soft, kl);
        for (size_t i = 0; i < w->count; i++) a->hard[w->row[i]] = hard[i], a->soft[w->row[i]] = soft[i];
    }
    if (!vm_any(in.blank)) return;
    v_store(blank, v_keep(in.blank, v_set1(1.0f)));
    for (size_t i = 0; i < w->count; i++) *a->masked += blank[i] > 0;
}

/* The first largest of n numbers; a NaN or +inf anywhere makes *value NaN. */
V_PASS size_t first_maximum(const float *x, size_t n, float *value)
{
    kd_f32x16 m = v_set1(v_hmax(lane_top(x, n)));
    kd_m16 poison = v_eq(m, v_set1(INF));
    size_t best = n;   /* none yet */
    *value = -INF;
    for (size_t i = 0; i < n; i += 16) {
        kd_f32x16 v = row_load(x, i, n);
        kd_m16 here = v_eq(v, m);
        poison = vm_or(poison, v_isnan(v));
        if (best == n && vm_any(here)) {
            best = i + (size_t)v_hmin(v_select(here, vi_cvt_f32(vi_iota()), v_set1(16.0f)));
            *value = x[best < n ? best : 0];
        }
    }
    if (vm_any(poison)) *value = __builtin_nanf("");
    return best < n ? best : 0;
}

/* Row r as number k of the group; a row outside both terms is done with at once. */
V_PASS void group_add(group *w, size_t r)
{
    const kd__distill_args *a = w->args;
    float hc = a->hard_coef[r], sc = a->soft_coef[r], *g = a->grad ? a->grad + r * a->grad_stride : NULL;
    if (hc == 0.0f && sc == 0.0f) {
        a->hard[r] = a->soft[r] = 0.0f;
        if (g) memset(g, 0, a->classes * sizeof *g);
        return;
    }
    size_t k = w->count++;
    w->row[k] = r;
    w->hard[k] = hc, w->soft[k] = sc;
    w->s[k] = a->student + r * a->student_stride;
    w->t[k] = a->teacher && sc != 0.0f ? a->teacher + r * a->teacher_stride : w->s[k];   /* something to look at */
    w->y[k] = a->soft_labels && hc != 0.0f ? a->soft_labels + r * a->soft_label_stride : NULL;
    w->g[k] = g;
    int given = a->labels && hc != 0.0f;
    size_t l = w->label[k] = given ? (size_t)a->labels[r] : 0;
    w->weight[k] = given ? (1.0f - a->smoothing) * (a->class_weights ? a->class_weights[l] : 1.0f) : 0.0f;
    w->label_logit[k] = given ? w->s[k][l] : 0.0f;
    if (!a->hard_teacher || sc == 0.0f) return;
    w->best[k] = first_maximum(w->t[k], a->classes, &w->best_logit[k]);
    if (w->best_logit[k] == w->best_logit[k]) {
        w->blank_t[k] = w->best_logit[k] == -INF;
        w->best_logit[k] = w->s[k][w->best[k]];
    } else {
        w->blank_t[k] = w->best_logit[k];
    }
}

V_FN void group_clear(group *w)
{
    w->count = 0;
    memset(w->hard, 0, sizeof w->hard), memset(w->soft, 0, sizeof w->soft);
}

/* The next sixteen rows at once, if there are as many and all are in every term the batch has, with plain labels. */
V_FN int group_fill(group *w, size_t r)
{
    const kd__distill_args *a = w->args;
    if (a->rows - r < 16 || !a->labels || !a->grad || a->soft_labels || a->class_weights || a->hard_teacher) return 0;
    kd_f32x16 hard = v_load(a->hard_coef + r), soft = v_load(a->soft_coef + r), zero = v_zero();
    if (vm_any(vm_or(v_eq(hard, zero), a->teacher ? v_eq(soft, zero) : v_lt(zero, zero)))) return 0;
    const float *s = a->student + r * a->student_stride, *t = a->teacher ? a->teacher + r * a->teacher_stride : s;
    float *g = a->grad + r * a->grad_stride;
    size_t s_step = a->student_stride, t_step = a->teacher ? a->teacher_stride : s_step, g_step = a->grad_stride;
    v_store(w->hard, hard), v_store(w->soft, soft);
    v_store(w->weight, v_set1(1.0f - a->smoothing));
    for (size_t k = 0; k < 16; k++, s += s_step, t += t_step, g += g_step) {
        size_t l = (size_t)a->labels[r + k];
        w->row[k] = r + k;
        w->s[k] = s, w->t[k] = t, w->g[k] = g;
        w->label[k] = l;
        w->label_logit[k] = s[l];
    }
    memset(w->y, 0, sizeof w->y);
    w->count = 16;
    return 1;
}

/* After its gradient is written: what only the label's class gets. */
V_PASS void group_labels(const group *w, size_t k0, size_t k1)
{
    for (size_t k = k0; k < k1; k++)
        if (w->weight[k] != 0.0f) w->g[k][w->label[k]] += w->cy[k] * w->weight[k];
    for (size_t k = k0; w->args->hard_teacher && k < k1; k++)
        if (w->ct[k] != 0.0f) w->g[k][w->best[k]] += w->ct[k];
}

/* ---- what a row is given beside its logits --------------------------------------------------------------------- */
/* y = weight[c] ((1 - smoothing) label[c] + smoothing / classes); label NULL: 0 */
static void target_row(const kd__distill_args *a, float *y, const float *label)
{
    for (size_t c = 0; c < a->classes; c++) {
        float v = a->smoothing / (float)a->classes + (label ? (1.0f - a->smoothing) * label[c] : 0.0f);
        y[c] = a->class_weights ? v * a->class_weights[c] : v;
    }
}

static void log_row(float *out, const float *p, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        size_t k = n - i < 16 ? n - i : 16;
        v_store_n(out + i, v_log(v_load_n(p + i, k, 1.0f)), k);
    }
}

/* Rows k0 .. k0 + p->rows of the group before the passes. */
V_PASS void rows_ready(group *w, size_t k0)
{
    const kd__distill_args *a = w->args;
    pass *p = w->p;
    for (size_t k = k0, slot = 0; slot < p->rows; k++, slot++) {
        w->pass_s[slot] = w->s[k], w->pass_t[slot] = w->t[k], w->pass_g[slot] = w->g[k];
        if (a->teacher_form == KD_TEACHER_PROBS && w->kind != PLAIN && w->soft[k] != 0.0f) {
            log_row(w->log_rows + slot * p->step, w->t[k], a->classes);
            w->pass_t[slot] = w->log_rows + slot * p->step;
        }
    }
}
V_PASS void targets_ready(group *w, size_t k0)
{
    const kd__distill_args *a = w->args;
    for (size_t k = k0, slot = 0; slot < w->p->rows; k++, slot++) {
        const float *y = w->y[k];
        if (y && (a->smoothing > 0.0f || a->class_weights)) {
            target_row(a, w->target_rows + slot * w->p->step, y);
            y = w->target_rows + slot * w->p->step;
        }
        w->pass_y[slot] = y ? y : w->shared;
    }
}

/* ---- between lanes and rows ------------------------------------------------------------------------------------ */
V_PASS void lanes_in(group *w, int which, const float *rows, size_t k0)
{
    pass *p = w->p;
    if (!w->folds) v_store(p->lane[which][0], v_load(rows));
    else for (size_t k = 0; k < p->rows; k++) v_store(p->lane[which][k], v_set1(rows[k0 + k]));
}
V_PASS void lanes_out(const group *w, int which, float *rows, size_t k0)
{
    const pass *p = w->p;
    kd_f32x16 first = v_load(p->lane[which][0]);
    int top = which == TOP_S || which == TOP_T;
    if (!w->folds) v_store(rows, first);
    else if (p->rows == 1) rows[k0] = top ? v_hmax(first) : v_sum(first);
    else v_store(rows, top ? v_hmax_rows(p->lane[which][0]) : v_sum_rows(p->lane[which][0]));
}
V_PASS void coefficients_in(group *w, size_t k0)
{
    lanes_in(w, CA, w->ca, k0), lanes_in(w, CB, w->cb, k0), lanes_in(w, CE, w->ce, k0), lanes_in(w, CY, w->cy, k0);
}

/* q = a / Zs, log q = x - log Zs, and the teacher's */
V_PASS void js_coefficients(group *w)
{
    kd_f32x16 zs = v_load(w->zs);
    v_store(w->ca, v_div(v_set1(1.0f), zs));
    v_store(w->cb, teacher_factor(w));
    v_store(w->ce, v_neg(log_of(zs)));
    v_store(w->cy, w->tempered ? v_neg(log_of(v_load(w->zt))) : v_load(w->top_t));
}

/* ---- to 4096 classes: sums, coefficients, gradient ------------------------------------------------------------- */
V_PASS void rows_tops(group *w, size_t k0)
{
    pass_tops(w->p);
    lanes_out(w, TOP_S, w->top_s, k0);
    if (w->kind != PLAIN) lanes_out(w, TOP_T, w->top_t, k0);
}
V_PASS void rows_sums(group *w, size_t k0)
{
    pass *p = w->p;
    lanes_in(w, TOP_S, w->top_s, k0);
    if (w->kind != PLAIN) lanes_in(w, TOP_T, w->top_t, k0);
    p->kind = w->kind == JS ? FORWARD : w->kind;
    pass_sums(p);
    lanes_out(w, ZS, w->zs, k0);
    if (w->kind != PLAIN) lanes_out(w, ZT, w->zt, k0), lanes_out(w, D, w->d, k0);
    if (p->from != NONE) lanes_out(w, Z1, w->z1, k0);
    if (w->spread) {
        pass_targets(p);
        lanes_out(w, MASS, w->mass, k0), lanes_out(w, INNER, w->inner, k0);
    }
    if (w->kind == JS) {
        js_coefficients(w);
        coefficients_in(w, k0);
        pass_js(p);
        lanes_out(w, JP, w->jp, k0), lanes_out(w, JQ, w->jq, k0);
    }
    coefficients(w);
}
V_PASS void rows_gradient(group *w, size_t k0)
{
    coefficients_in(w, k0);
    w->p->kind = w->kind == JS ? REVERSE : w->kind;
    pass_gradient(w->p);
}

/* columns[16 c + r] = row r's class c.  Four classes at a time, the last four again where they do not divide by four. */
V_FN size_t last_quad(size_t c, size_t classes) { return c + 4 <= classes ? c : classes - 4; }
V_PASS void columns_in(const float *first, size_t stride, size_t classes, float *columns)
{
    kd_f32x16 v[4];
    for (size_t i = 0; classes >= 4 && i < classes; i += 4) {
        size_t c = last_quad(i, classes);
        V_UNROLL(4)
        for (size_t r = 0; r < 4; r++) v[r] = v_load_quads(first + r * stride + c, 4 * stride, 4);
        v_transpose_quads(v);
        V_UNROLL(4)
        for (size_t k = 0; k < 4; k++) v_store(columns + 16 * (c + k), v[k]);
    }
    if (classes >= 4) return;
    for (size_t r = 0; r < 4; r++) v[r] = v_load_quads(first + r * stride, 4 * stride, classes);
    v_transpose_quads(v);
    for (size_t k = 0; k < classes; k++) v_store(columns + 16 * k, v[k]);
}
V_PASS void columns_out(const float *columns, float *first, size_t stride, size_t classes)
{
    kd_f32x16 v[4];
    for (size_t i = 0; classes >= 4 && i < classes; i += 4) {
        size_t c = last_quad(i, classes);
        V_UNROLL(4)
        for (size_t k = 0; k < 4; k++) v[k] = v_load(columns + 16 * (c + k));
        v_transpose_quads(v);
        V_UNROLL(4)
        for (size_t r = 0; r < 4; r++) v_store_quads(first + r * stride + c, 4 * stride, v[r], 4);
    }
    if (classes >= 4) return;
    for (size_t k = 0; k < 4; k++) v[k] = v_load(columns + 16 * k);
    v_transpose_quads(v);
    for (size_t r = 0; r < 4; r++) v_store_quads(first + r * stride, 4 * stride, v[r], classes);
}

/* Sixteen rows, a row a lane.  Where they do not lie one after the other, by a copy that does. */
enum { COLUMN = 16 * KD_DISTILL_TRANSPOSED };
V_PASS const float *columns_of(group *w, const float *const *rows, int direct, size_t stride, float *columns)
{
    size_t classes = w->args->classes;
    float *packed = w->columns + 3 * COLUMN;
    if (!direct) {
        for (size_t k = 0; k < 16; k++) memcpy(packed + k * classes, rows[k < w->count ? k : 0], classes * sizeof *packed);
        columns_in(packed, classes, classes, columns);
    } else {
        columns_in(rows[0], stride, classes, columns);
    }
    return columns;
}
V_PASS void transposed(group *w)
{
    const kd__distill_args *a = w->args;
    pass *p = w->p;
    float *packed = w->columns + 3 * COLUMN;
    int direct = adjacent(w) && (w->kind == PLAIN || !vm_any(v_eq(v_load(w->soft), v_zero())));
    int direct_t = direct && a->teacher_form != KD_TEACHER_PROBS;
    p->rows = direct && (direct_t || w->kind == PLAIN) ? 1 : 16;   /* direct: from the first on, by stride */
    rows_ready(w, 0);
    p->rows = 16;
    if (w->spread) targets_ready(w, 0);
    p->rows = 1, p->n = 16 * a->classes;
    w->pass_s[0] = columns_of(w, w->pass_s, direct, a->student_stride, w->columns);
    if (w->kind != PLAIN) w->pass_t[0] = columns_of(w, w->pass_t, direct_t, a->teacher_stride, w->columns + COLUMN);
    if (w->spread) w->pass_y[0] = columns_of(w, w->pass_y, 0, 0, w->columns + 2 * COLUMN);
    rows_tops(w, 0);
    rows_sums(w, 0);
    if (a->grad) {
        float *gradient = w->columns;   /* the student's logits are no longer needed */
        w->pass_g[0] = gradient;
        rows_gradient(w, 0);
        if (direct) {
            columns_out(gradient, w->g[0], a->grad_stride, a->classes);
        } else {
            columns_out(gradient, packed, a->classes, a->classes);
            for (size_t k = 0; k < w->count; k++) memcpy(w->g[k], packed + k * a->classes, a->classes * sizeof *packed);
        }
        group_labels(w, 0, w->count);
    }
    values(w);
}

/* All of them together while what waits for the gradient fits the first cache; else one, with the next one's tops between its
 * sums and its gradient: what they compute hides how long folds and divisions take. */
V_PASS void rows(group *w)
{
    pass *p = w->p;
    size_t each = w->args->classes <= KD_DISTILL_PANEL ? w->count : 1;
    p->rows = each;
    p->ahead = (each == 1 ? 2 : 16) * w->args->student_stride * sizeof(float);   /* the next rows' tops are looked at meanwhile */
    if (each > 1 && each < 16) memset(p->lane, 0, sizeof p->lane);   /* the fold looks at sixteen */
    rows_ready(w, 0);
    rows_tops(w, 0);
    for (size_t k = 0; k < w->count; k += each) {
        if (w->spread) targets_ready(w, k);
        rows_sums(w, k);
        if (k + each < w->count) {
            rows_ready(w, k + each);
            rows_tops(w, k + each);
        }
        if (!w->args->grad) continue;
        w->pass_g[0] = w->g[k];
        rows_gradient(w, k);
        group_labels(w, k, k + each);
    }
    values(w);
}

/* ---- more classes: blocks, a running top in every lane --------------------------------------------------------- */
/* The factor that brings sums relative to the top `from` to the top `to`; 0 from a lane that has seen only -inf. */
V_PASS kd_f32x16 rescale(kd_f32x16 from, kd_f32x16 to, float k)
{
    return v_select(v_eq(from, v_set1(-INF)), v_zero(), exp_of(v_max(v_set1(-FLOAT_MAX), below(from, half_of(to))), k));
}

/* The factors from a block's tops to the row's, and what a difference of logarithms gains. */
typedef struct shift { kd_f32x16 a, b, a1, d; } shift;
V_PASS shift shift_of(const group *w, const float *kept, kd_f32x16 end_s, kd_f32x16 end_t)
{
    const pass *p = w->p;
    kd_f32x16 ms = v_load(kept + 16 * TOP_S), mt = v_load(kept + 16 * TOP_T), limit = v_set1(-FLOAT_MAX);
    shift f = { rescale(ms, end_s, p->student), v_zero(), v_zero(), v_zero() };
    if (p->from == OWN) f.a1 = rescale(ms, end_s, scale_of(1.0f));
    if (p->from == SQUARE) f.a1 = v_mul(f.a, f.a);
    if (p->from == FOURTH) f.a1 = v_mul(v_mul(f.a, f.a), v_mul(f.a, f.a));
    if (w->kind == PLAIN) {
        f.a1 = f.a;
        return f;
    }
    kd_f32x16 ds = v_max(limit, below(ms, half_of(end_s)));
    kd_f32x16 dt = v_max(limit, below(mt, half_of(end_t)));
    f.b = rescale(mt, end_t, p->teacher);
    f.d = w->kind == REVERSE ? v_sub(log_units(ds, v_set1(p->unit_s)), log_units(dt, v_set1(p->unit_t)))
                             : v_fms(dt, v_set1(p->lambda), ds);
    return f;
}

/* The sums of a row: blocks in float, brought to the row's tops and added in double, so that however many classes cost no digit.
 * D' = factor (D + Z shift) */
V_PASS void add_blocks(group *w, size_t k, size_t count)
{
    kd_f64x16 zs = vd_set1(0), zt = zs, z1 = zs, d = zs;
    kd_f32x16 end_s = v_set1(w->top_s[k]), end_t = v_set1(w->top_t[k]);
    const float *kept = w->kept;
    for (size_t b = 0; b < count; b++, kept += KD_DISTILL_KEPT) {
        shift f = shift_of(w, kept, end_s, end_t);
        kd_f32x16 block_zs = v_load(kept + 16 * ZS), block_zt = v_load(kept + 16 * ZT);
        kd_f32x16 factor = w->kind == REVERSE ? f.a : f.b, z = w->kind == REVERSE ? block_zs : block_zt;
        kd_f32x16 moved = v_mul(factor, v_fma(z, f.d, v_load(kept + 16 * D)));
        zs = vd_add(zs, vd_from_f32(v_mul(block_zs, f.a)));
        zt = vd_add(zt, vd_from_f32(v_mul(block_zt, f.b)));
        z1 = vd_add(z1, vd_from_f32(v_mul(v_load(kept + 16 * Z1), f.a1)));
        d = vd_add(d, vd_from_f32(v_select(v_eq(factor, v_zero()), v_zero(), moved)));
    }
    w->zs[k] = (float)vd_sum(zs), w->zt[k] = (float)vd_sum(zt), w->z1[k] = (float)vd_sum(z1), w->d[k] = (float)vd_sum(d);
}

/* The passes over block b of row k of the group. */
V_FN void block_at(group *w, const float *s, const float *t, const float *y, float *g, size_t o)
{
    size_t left = w->args->classes - o;
    w->p->n = left < KD_DISTILL_BLOCK ? left : KD_DISTILL_BLOCK;
    w->pass_s[0] = s + o, w->pass_t[0] = t + o;
    if (y) w->pass_y[0] = y + o;
    if (g) w->pass_g[0] = g + o;
}

/* A block's gradient.  Streamed, the part before the first whole line goes apart, and the lanes turn by as much. */
V_PASS void block_gradient(group *w, int stream)
{
    pass *p = w->p;
    size_t head = stream ? (64 - ((uintptr_t)w->pass_g[0] & 63u)) / 4 % 16 : 0, n = p->n;
    p->stream = 0;
    if (head) {
        p->n = head < n ? head : n;
        pass_gradient(p);
        for (int which = CA; which <= CY; which++) {
            float twice[32];
            v_store(twice, v_load(p->lane[which][0])), v_store(twice + 16, v_load(p->lane[which][0]));
            v_store(p->lane[which][0], v_load(twice + head));
        }
        w->pass_g[0] += head;
        if (w->spread) w->pass_y[0] += head;
        p->a += head, p->b += head, p->a1 += head;
    }
    p->n = head < n ? n - head : 0;
    p->stream = stream;
    pass_gradient(p);
    p->n = n, p->stream = 0;
    p->a -= head, p->b -= head, p->a1 -= head;
}

V_PASS void row_long(group *w, size_t k)
{
    const kd__distill_args *args = w->args;
    pass *p = w->p;
    float *a = p->a, *b = p->b, *a1 = p->a1;
    size_t classes = args->classes, blocks = (classes + KD_DISTILL_BLOCK - 1) / KD_DISTILL_BLOCK;
    kd_f32x16 ms = v_set1(-INF), mt = ms;
    p->rows = 1;
    rows_ready(w, k);
    if (w->spread) targets_ready(w, k);
    const float *s = w->pass_s[0], *t = w->pass_t[0], *y = w->spread ? w->pass_y[0] : NULL;
    p->kind = w->kind == JS ? FORWARD : w->kind;
    p->ahead = 2 * KD_DISTILL_BLOCK * sizeof(float);   /* past a row's end lies the next row */
    for (size_t i = 0; i < blocks; i++) {
        size_t o = i * KD_DISTILL_BLOCK;
        block_at(w, s, t, NULL, NULL, o);
        p->a = a + o, p->b = b + o, p->a1 = a1 + o;
        pass_tops(p);
        ms = v_max(ms, v_load(p->lane[TOP_S][0]));
        v_store(p->lane[TOP_S][0], ms);
        if (w->kind != PLAIN) {
            mt = v_max(mt, v_load(p->lane[TOP_T][0]));
            v_store(p->lane[TOP_T][0], mt);
        }
        pass_sums(p);
        float *kept = w->kept + KD_DISTILL_KEPT * i;
        for (int which = TOP_S; which <= D; which++) v_store(kept + 16 * which, v_load(p->lane[which][0]));
    }
    w->top_s[k] = v_hmax(ms), w->top_t[k] = w->kind == PLAIN ? 0.0f : v_hmax(mt);
    add_blocks(w, k, blocks);

    kd_f32x16 end_s = v_set1(w->top_s[k]), end_t = v_set1(w->top_t[k]);
    kd_f64x16 first = vd_set1(0), second = first;
    v_store(p->lane[TOP_S][0], end_s), v_store(p->lane[TOP_T][0], end_t);
    for (size_t i = 0; w->spread && i < blocks; i++) {
        block_at(w, s, t, y, NULL, i * KD_DISTILL_BLOCK);
        pass_targets(p);
        first = vd_add(first, vd_from_f32(v_load(p->lane[MASS][0])));
        second = vd_add(second, vd_from_f32(v_load(p->lane[INNER][0])));
    }
    if (w->spread) w->mass[k] = (float)vd_sum(first), w->inner[k] = (float)vd_sum(second);
    if (w->kind == JS) {
        js_coefficients(w);
        first = second = vd_set1(0);
        coefficients_in(w, k);
        kd_f32x16 ca = v_load(p->lane[CA][0]), cb = v_load(p->lane[CB][0]);
        for (size_t i = 0; i < blocks; i++) {
            size_t o = i * KD_DISTILL_BLOCK;
            shift f = shift_of(w, w->kept + KD_DISTILL_KEPT * i, end_s, end_t);
            block_at(w, s, t, NULL, NULL, o);
            p->a = a + o, p->b = b + o;
            v_store(p->lane[CA][0], v_mul(ca, f.a)), v_store(p->lane[CB][0], v_mul(cb, f.b));
            pass_js(p);
            first = vd_add(first, vd_from_f32(v_load(p->lane[JP][0])));
            second = vd_add(second, vd_from_f32(v_load(p->lane[JQ][0])));
        }
        w->jp[k] = (float)vd_sum(first), w->jq[k] = (float)vd_sum(second);
    }
    coefficients(w);
    p->kind = w->kind == JS ? REVERSE : w->kind;
    for (size_t i = 0; w->g[k] && i < blocks; i++) {
        size_t o = i * KD_DISTILL_BLOCK;
        shift f = shift_of(w, w->kept + KD_DISTILL_KEPT * i, end_s, end_t);
        block_at(w, s, t, y, w->g[k], o);
        p->a = a + o, p->b = b + o, p->a1 = a1 + o;
        coefficients_in(w, k);
        kd_f32x16 ce = v_load(p->lane[CE][0]);
        v_store(p->lane[CA][0], v_mul(v_load(p->lane[CA][0]), p->from == NONE ? f.a : f.a1));
        v_store(p->lane[CB][0], v_mul(v_load(p->lane[CB][0]), f.a));
        v_store(p->lane[CE][0], w->kind == FORWARD ? v_mul(ce, f.b) : w->kind == REVERSE ? v_sub(ce, f.d) : ce);
        block_gradient(w, args->stream);
    }
    p->a = a, p->b = b, p->a1 = a1;
    if (args->stream) v_stream_end();
    if (w->g[k]) group_labels(w, k, k + 1);
}

/* ---- all of it ------------------------------------------------------------------------------------------------- */
void KD_K(distill_f32)(const kd__distill_args *a)
{
    group w;
    pass *p = (pass *)(void *)a->scratch;
    int hard = a->labels || a->soft_labels, logs = a->teacher_form == KD_TEACHER_LOG_PROBS || a->teacher_form == KD_TEACHER_PROBS;
    size_t classes = a->classes, step = KD_DISTILL_STEP(classes), held = classes <= KD_DISTILL_PANEL ? 16 * step : step;
    float t = a->temperature;
    memset(&w, 0, sizeof w);
    w.args = a, w.p = p;
    w.kind = !a->teacher || a->hard_teacher ? PLAIN : a->direction == KD_DIRECTION_JS ? JS :
             a->direction == KD_DIRECTION_REVERSE ? REVERSE : FORWARD;
    if (w.kind == PLAIN) t = 1.0f, logs = 0;
    w.tempered = !logs;
    w.folds = classes > KD_DISTILL_TRANSPOSED;
    w.spread = a->soft_labels || (hard && a->smoothing > 0.0f);
    p->s = w.pass_s, p->t = w.pass_t, p->y = w.spread ? w.pass_y : NULL, p->g = w.pass_g;
    p->n = classes, p->step = step, p->ahead = 0, p->stream = 0;
    p->kind = w.kind, p->from = !hard || t == 1.0f ? NONE : t == 2.0f ? SQUARE : t == 4.0f ? FOURTH : OWN;
    p->student = scale_of(t), p->teacher = scale_of(logs ? 1.0f : t);
    p->lambda = logs ? t : 1.0f, p->unit_s = 2.0f / t, p->unit_t = logs ? 2.0f : 2.0f / t;
    p->beta = a->js_beta;
    p->a = a->scratch + KD_DISTILL_PASS, p->b = p->a + held, p->a1 = p->b + held;
    w.target_rows = p->a1 + held, w.log_rows = w.target_rows + held;
    w.shared = w.log_rows + held, w.kept = w.columns = w.shared + step;
    if (w.spread) target_row(a, w.shared, NULL);

    for (size_t r = 0; r < a->rows;) {
        if (group_fill(&w, r)) {
            r += 16;
        } else {
            group_clear(&w);
            for (; r < a->rows && w.count < 16; r++) group_add(&w, r);
            if (!w.count) continue;
        }
        if (!w.folds) {
            transposed(&w);
        } else if (classes <= KD_DISTILL_BLOCK) {
            rows(&w);
        } else {
            for (size_t k = 0; k < w.count; k++) row_long(&w, k);
            values(&w);
        }
    }
}
