/* kdsvd.c - singular vectors of feature maps (Lee, Kim, Song 2018, arXiv 1807.06819), the first of each map.
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = 1 / B sum_b sum over neighbouring taps (i, i + 1) of sum_{c, c'} (R_s[c, c'] - R_t[c, c'])^2
 *     R[c, c'] = exp(-(v_{i+1}[c'] - v_i[c])^2 / 8), v_i: a right singular vector of tap i as a matrix [height width, channels]
 *     teacher: the first one, its entry of largest magnitude made positive; student: of the first four the one with the largest
 *     |cos| to the teacher's, with the sign of that cosine; ties go to the first
 * Gradient: w = d loss / d v goes on to the map X as (X y) v^T + (X v) y^T, y = sum_m v_m (v_m . w) / (l - l_m) over the
 *     other vectors, l = squared singular values; terms with |l - l_m| <= 1e-10 of the largest are left out.
 * Divides by: rows (B).
 * Detached: the teacher, the choice of the vector, its sign.
 * Taps: two to eight pairs of maps, each pair with the same channels; sizes need not agree.
 * Defaults: weight 1 (CIFAR-100, the three stages' maps).
 * Forms: one.
 * Traps: an SVD's signs are arbitrary, and with them the public code's value (one flip makes 0.13 of 0.10): here they are
 *     fixed.  Equal singular values make its gradient infinite, and it puts 0 for whatever is not finite; here that part
 *     alone, along a vector that is not determined, is 0.  Vectors of singular value 0 (1e-5 of the largest) are not
 *     chosen; a map of zeros has the vector (1, 0, ..) and no gradient.  One port reshapes the map to [channels height,
 *     width] first: another method.
 * Published: none under the common CIFAR-100 protocol.
 * Cost: an eigen-decomposition of min(height width, channels)^2 doubles for each map and side, through a tridiagonal one;
 *     for each thread 7 min(height width, channels)^2 doubles a tap and for the largest one again, and one map. */
#include "distill/feature.h"
#include <math.h>

enum { SVD_KEPT = 4, SVD_BLOCK = 256, SVD_STEPS = 60 };
static const double svd_equal = 1e-10;   /* of the largest eigenvalue */

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 2, 1u << 3));
    if (d->student_count > 8) return kd__fail(KD_ERR_ARG, "%zu pairs of taps, it takes at most 8", d->student_count);
    for (size_t i = 0; i < d->student_count; i++)
        if (d->student[i].size[2] != d->teacher[i].size[2]) return kd__feature_misfit(d, i, "they must have the same channels");
    return KD_OK;
}

/* Two at once, in registers that every machine has: the same bits everywhere. */
typedef __attribute__((vector_size(16))) double svd_f64x2;
typedef __attribute__((vector_size(16), aligned(8), may_alias)) double svd_loose;

static double svd_dot(const double *a, const double *b, size_t n)
{
    svd_f64x2 sum[4] = { { 0 } };
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t k = 0; k < 4; k++) sum[k] += *(const svd_loose *)(a + i + 2 * k) * *(const svd_loose *)(b + i + 2 * k);
    sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    for (; i < n; i++) sum[0][0] += a[i] * b[i];
    return sum[0][0] + sum[0][1];
}

/* x += a y + b z */
static void svd_add(double *x, double a, const double *y, double b, const double *z, size_t n)
{
    size_t i = 0;
    for (; i + 2 <= n; i += 2)
        *(svd_loose *)(x + i) += a * *(const svd_loose *)(y + i) + b * *(const svd_loose *)(z + i);
    for (; i < n; i++) x[i] += a * y[i] + b * z[i];
}

/* Rows i and i + 1 become c i - s (i + 1) and s i + c (i + 1). */
typedef struct svd_turn { double c, s; size_t i; } svd_turn;

/* Of a map X [pixels, channels]: eigenvalues l of the smaller of X^T X and X X^T [n, n], falling, the first `count` not 0.
 * Householder's reflections Q, in the rows of `q` right of the diagonal and in `beta`, make it tridiagonal, `turned` rotations,
 * whose product is Z, that one diagonal: rows of Z Q^T are eigenvectors.  Z is never formed. */
typedef struct svd_map {
    const float *x;
    size_t    pixels, channels, n, count;
    double   *q, *beta, *l;
    svd_turn *turn;
    size_t    turned;
    size_t   *order;   /* eigenvalues in the order of Z's rows */
} svd_map;

/* QL steps take less than two for each of n eigenvalues, of n / 2 rotations in the mean. */
static size_t svd_turns(size_t n) { return 2 * n * n + SVD_STEPS; }
static size_t svd_doubles(const svd_map *m)
{
    return m->n * m->n + 3 * m->n + svd_turns(m->n) * (sizeof(svd_turn) / sizeof(double));
}

/* Four columns x [n, 4] at once: x = Z x. */
static void svd_forth(const svd_map *m, double *x)
{
    for (const svd_turn *t = m->turn; t < m->turn + m->turned; t++)
        for (size_t k = 0; k < 4; k += 2) {
            svd_loose *a = (svd_loose *)(x + 4 * t->i + k), *b = a + 2;
            const svd_f64x2 p = *a, q = *b;
            *a = t->c * p - t->s * q;
            *b = t->s * p + t->c * q;
        }
}

/* x = Z^T x */
static void svd_back(const svd_map *m, double *x)
{
    for (const svd_turn *t = m->turn + m->turned; t-- > m->turn;)
        for (size_t k = 0; k < 4; k += 2) {
            svd_loose *a = (svd_loose *)(x + 4 * t->i + k), *b = a + 2;
            const svd_f64x2 p = *a, q = *b;
            *a = t->c * p + t->s * q;
            *b = t->c * q - t->s * p;
        }
}

/* v = Q v */
static void svd_outward(const svd_map *m, double *v)
{
    for (size_t k = m->n; k-- > 0;) {
        const double *h = m->q + k * m->n + k + 1;
        const size_t left = m->n - k - 1;
        if (m->beta[k] > 0) svd_add(v + k + 1, -m->beta[k] * svd_dot(h, v + k + 1, left), h, 0, h, left);
    }
}

/* v = Q^T v */
static void svd_inward(const svd_map *m, double *v)
{
    for (size_t k = 0; k < m->n; k++) {
        const double *h = m->q + k * m->n + k + 1;
        const size_t left = m->n - k - 1;
        if (m->beta[k] > 0) svd_add(v + k + 1, -m->beta[k] * svd_dot(h, v + k + 1, left), h, 0, h, left);
    }
}

/* m->q becomes tridiagonal: diagonal into m->l, what is beside it into `side`. */
static void svd_tridiagonal(svd_map *m, double *side, double *p)
{
    const size_t n = m->n;
    for (size_t k = 0; k < n; k++) {
        double *h = m->q + k * n + k + 1, rest = 0;
        const size_t left = n - k - 1;
        m->l[k] = m->q[k * n + k];
        m->beta[k] = 0;
        side[k] = left ? h[0] : 0;
        if (left > 1) rest = svd_dot(h + 1, h + 1, left - 1);
        if (!(rest > 0)) continue;
        const double length = sqrt(h[0] * h[0] + rest);
        side[k] = h[0] > 0 ? -length : length;
        h[0] -= side[k];
        m->beta[k] = 2 / (h[0] * h[0] + rest);
        for (size_t i = 0; i < left; i++) p[i] = m->beta[k] * svd_dot(m->q + (k + 1 + i) * n + k + 1, h, left);
        svd_add(p, -m->beta[k] / 2 * svd_dot(p, h, left), h, 0, h, left);
        for (size_t i = 0; i < left; i++) svd_add(m->q + (k + 1 + i) * n + k + 1, -h[i], p, -p[i], h, left);
    }
}

/* Eigenvalues of the tridiagonal matrix by implicit QL steps. */
static void svd_diagonal(svd_map *m, double *side)
{
    const size_t n = m->n;
    double *l = m->l, least = 0;
    m->turned = 0;
    for (size_t i = 0; i < n; i++) least = KD_MAX(least, fabs(l[i]) + fabs(side[i]));
    least *= 0x1p-53;
    for (size_t first = 0; first < n; first++)
        for (size_t step = 0; step < SVD_STEPS; step++) {
            size_t last = first;
            while (last + 1 < n && fabs(side[last]) > least) last++;
            if (last == first || m->turned + (last - first) > svd_turns(n)) break;
            const double half = (l[first + 1] - l[first]) / (2 * side[first]), root = sqrt(half * half + 1);
            double g = l[last] - l[first] + side[first] / (half < 0 ? half - root : half + root), s = 1, c = 1, lost = 0;
            size_t i = last;
            while (i-- > first) {
                const double f = s * side[i], b = c * side[i], r = sqrt(f * f + g * g);
                side[i + 1] = r;
                if (!(r > 0)) break;   /* it fell apart here */
                s = f / r, c = g / r;
                g = l[i + 1] - lost;
                const double t = (l[i] - g) * s + 2 * c * b;
                lost = s * t;
                l[i + 1] = g + lost;
                g = c * t - b;
                m->turn[m->turned++] = (svd_turn){ c, s, i };
            }
            if (i + 1 > first && i < last) {
                l[i + 1] -= lost;
            } else {
                l[first] -= lost;
                side[first] = g;
            }
            side[last] = 0;
        }
}

/* Doubles for what decomposes a map and what takes vectors and gradients from it. */
static size_t svd_room(const svd_map *m)
{
    const size_t turned = m->channels == m->n ? (m->channels * m->pixels + 1) / 2 + 2 * m->n : 2 * m->n;
    return KD_MAX(turned, 6 * m->n + 4 * m->channels);   /* of vectors, of backward */
}

static void svd_decompose(const kd__core *core, svd_map *m, double *room)
{
    const size_t n = m->n;
    double most = 0, before = INFINITY, trace = 0;
    const float *rows = m->x;
    if (m->channels == n) {   /* X^T X */
        float *turned = (float *)(void *)(room + 2 * n);
        core->kernels->copy2d_f32(turned, (ptrdiff_t)m->pixels, 1, m->x, 1, (ptrdiff_t)n, n, m->pixels, 0);
        rows = turned;
    }
    kd__gram_f64(core->ctx, rows, n, m->channels == n ? m->pixels : m->channels, m->q, n);
    for (size_t i = 0; i < n; i++) trace += m->q[i * n + i];
    m->count = 0;
    if (isfinite(trace)) {
        svd_tridiagonal(m, room, room + n);
        svd_diagonal(m, room);
    } else {
        m->l[0] = NAN;
        return;
    }
    for (size_t i = 0; i < n; i++) most = KD_MAX(most, m->l[i]);
    for (; m->count < n; m->count++) {   /* the next largest; equal ones in their order */
        size_t best = n;
        for (size_t i = 0; i < n; i++)
            if (m->l[i] <= before && (best == n || m->l[i] > m->l[best])) best = i;
        if (best == n || !(m->l[best] > svd_equal * most)) break;
        m->order[m->count] = best;
        before = room[m->count] = m->l[best];
        m->l[best] = INFINITY;   /* taken */
    }
    memcpy(m->l, room, m->count * sizeof *room);
    if (!m->count) m->l[0] = 0;
}

/* The first `count` right singular vectors, at most 4, into out [4, channels]; returns how many there are.  room: 5 n. */
static size_t svd_vectors(const svd_map *m, size_t count, double *room, double *out)
{
    const size_t n = m->n, c = m->channels;
    double *u = room + 4 * n;
    count = KD_MIN(count, m->count);
    if (!count) {   /* zeros, or not numbers */
        memset(out, 0, c * sizeof *out);
        out[0] = m->l[0] + 1;
        return 1;
    }
    memset(room, 0, 4 * n * sizeof *room);
    for (size_t i = 0; i < count; i++) room[4 * m->order[i] + i] = 1;
    svd_back(m, room);
    for (size_t i = 0; i < count; i++) {
        double *v = out + i * c;
        for (size_t k = 0; k < n; k++) u[k] = room[4 * k + i];
        svd_outward(m, u);
        if (c == n) memcpy(v, u, n * sizeof *v);
        else memset(v, 0, c * sizeof *v);
        for (size_t p = 0; p < n && c != n; p++)
            for (size_t k = 0; k < c; k++) v[k] += u[p] * (double)m->x[p * c + k];
        const double length = sqrt(svd_dot(v, v, c));
        for (size_t k = 0; k < c; k++) v[k] /= length;
    }
    return count;
}

/* The teacher's vector with its sign.  room: 5 n, then 4 channels, as the next. */
static void svd_teacher(const svd_map *m, double *room, double *v)
{
    const double *first = room + 5 * m->n;
    size_t top = 0;
    svd_vectors(m, 1, room, room + 5 * m->n);
    for (size_t k = 1; k < m->channels; k++)
        if (fabs(first[k]) > fabs(first[top])) top = k;
    for (size_t k = 0; k < m->channels; k++) v[k] = first[top] < 0 ? -first[k] : first[k];
}

/* The student's; returns which it is. */
static size_t svd_student(const svd_map *m, const double *teacher, double *room, double *v)
{
    const double *all = room + 5 * m->n;
    const size_t c = m->channels, count = svd_vectors(m, SVD_KEPT, room, room + 5 * m->n);
    size_t best = 0;
    double cosine = svd_dot(all, teacher, c);
    for (size_t i = 1; i < count; i++) {
        const double dot = svd_dot(all + i * c, teacher, c);
        if (fabs(dot) > fabs(cosine)) best = i, cosine = dot;
    }
    for (size_t k = 0; k < c; k++) v[k] = cosine < 0 ? -all[best * c + k] : all[best * c + k];
    return best;
}

/* A tap of a row: the student's decomposition, both vectors, the gradient of the student's. */
typedef struct svd_tap { svd_map s; size_t chosen; double *vs, *vt, *grad; } svd_tap;

/* exp(-(b - a)^2 / 8) for the entries of b. */
static void svd_relation(const kd__kernels *k, double a, const double *b, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) out[i] = (float)(-(b[i] - a) * (b[i] - a) / 8);
    k->unary_f32(KD_UNARY_EXP, out, out, n, 0, 0);
}

static double svd_relations(const kd__core *c, const svd_tap *one, const svd_tap *two, double by)
{
    const size_t n = two->s.channels;
    float rs[SVD_BLOCK], rt[SVD_BLOCK];
    double value = 0;
    for (size_t a = 0; a < one->s.channels; a++)
        for (size_t from = 0; from < n; from += SVD_BLOCK) {
            const size_t count = KD_MIN(n - from, (size_t)SVD_BLOCK);
            svd_relation(c->kernels, one->vs[a], two->vs + from, count, rs);
            svd_relation(c->kernels, one->vt[a], two->vt + from, count, rt);
            for (size_t i = 0; i < count; i++) {
                const double d = (double)rs[i] - (double)rt[i], x = two->vs[from + i] - one->vs[a];
                const double g = -by * d * (double)rs[i] * x / 2;
                value += by * d * d;
                two->grad[from + i] += g;
                one->grad[a] -= g;
            }
        }
    return value;
}

/* room: 2 channels + 6 n doubles */
static void svd_backward(const kd__core *core, const svd_tap *tap, double *room, float *out)
{
    const svd_map *m = &tap->s;
    const kd__kernels *kernels = core->kernels;
    const size_t c = m->channels, n = m->n;
    memset(out, 0, m->pixels * c * sizeof *out);
    if (!m->count) return;
    const double own = m->l[tap->chosen], least = svd_equal * m->l[0], scale = 1 / sqrt(m->l[0]);
    double *in = room + c, *column = in + n, *sum = column + 4 * n;   /* one column of four is used */
    for (size_t p = 0; p < n && c != n; p++) {
        in[p] = 0;
        for (size_t k = 0; k < c; k++) in[p] += (double)m->x[p * c + k] * tap->grad[k];
    }
    if (c == n) memcpy(in, tap->grad, n * sizeof *in);
    svd_inward(m, in);
    memset(column, 0, 4 * n * sizeof *column);
    for (size_t k = 0; k < n; k++) column[4 * k] = in[k];
    svd_forth(m, column);
    memset(sum, 0, n * sizeof *sum);
    for (size_t i = 0; i < m->count; i++) {
        const double dot = column[4 * m->order[i]] / (c == n ? 1 : m->l[i]), gap = own - m->l[i];
        sum[m->order[i]] = (fabs(gap) > least ? dot / gap : 0) - dot / own;
    }
    for (size_t k = 0; k < n; k++) column[4 * k] = sum[k];
    svd_back(m, column);
    for (size_t k = 0; k < n; k++) sum[k] = column[4 * k];
    svd_outward(m, sum);
    for (size_t k = 0; k < c; k++) room[k] = tap->grad[k] / own + (c == n ? sum[k] : 0);   /* first as if all other l were 0 */
    for (size_t p = 0; p < n && c != n; p++)
        for (size_t k = 0; k < c; k++) room[k] += sum[p] * (double)m->x[p * c + k];
    float *y = (float *)(void *)(room + c + 6 * n), *v = y + c;   /* y by the root of the largest l: in range if X is */
    for (size_t k = 0; k < c; k++) y[k] = (float)(room[k] / scale);
    for (size_t k = 0; k < c; k++) v[k] = (float)tap->vs[k];
    for (size_t p = 0; p < m->pixels; p++) {
        double xy, xv;
        kernels->dot_f32(&xy, m->x + p * c, y, c);
        kernels->dot_f32(&xv, m->x + p * c, v, c);
        kernels->axpy_f32(out + p * c, v, c, (float)(xy * scale));
        kernels->axpy_f32(out + p * c, y, c, (float)(xv * scale));
    }
}

static svd_map svd_map_of(const kd__core *c, size_t in, size_t b)
{
    const size_t *shape = c->in[in]->shape, pixels = shape[1] * shape[2], each = pixels * shape[3];
    return (svd_map){ .x = c->x[in] + b * each, .pixels = pixels, .channels = shape[3], .n = KD_MIN(pixels, shape[3]) };
}

static double *svd_place(svd_map *m, double *at)
{
    const size_t n = m->n;
    m->q = at, m->l = at + n * n, m->beta = m->l + n, m->order = (size_t *)(void *)(m->beta + n);
    m->turn = (svd_turn *)(void *)(m->beta + 2 * n);
    return at + svd_doubles(m);
}

static bool row(const kd__core *c, size_t b, void *scratch, double *value)
{
    const size_t taps = c->count / 2;
    svd_tap tap[8];
    double *room = scratch;
    for (size_t i = 0; i < taps; i++) {
        svd_map t = svd_map_of(c, taps + i, b), s = svd_map_of(c, i, b);
        const size_t n = s.channels;
        tap[i] = (svd_tap){ .vs = room, .vt = room + n, .grad = room + 2 * n };
        room = svd_place(&s, room + 3 * n);
        double *rest = svd_place(&t, room);   /* gone again when the student's turn comes */
        svd_decompose(c, &t, rest);
        svd_teacher(&t, rest, tap[i].vt);
        svd_decompose(c, &s, room);
        tap[i].chosen = svd_student(&s, tap[i].vt, room, tap[i].vs);
        memset(tap[i].grad, 0, n * sizeof(double));
        tap[i].s = s;
    }
    for (size_t i = 0; i + 1 < taps; i++) *value += svd_relations(c, &tap[i], &tap[i + 1], 1 / (double)c->in[0]->shape[0]);
    for (size_t i = 0; i < taps; i++)
        if (c->grad[i]) svd_backward(c, &tap[i], room, c->grad[i] + b * tap[i].s.pixels * tap[i].s.channels);
    return true;
}

static kd_status core(const kd__core *c, double *value)
{
    const size_t taps = c->count / 2;
    size_t kept = 0, room = 0;
    for (size_t i = 0; i < taps; i++) {
        const svd_map s = svd_map_of(c, i, 0), t = svd_map_of(c, taps + i, 0);
        kept += 3 * s.channels + svd_doubles(&s);
        room = KD_MAX(room, KD_MAX(svd_room(&s), svd_doubles(&t) + svd_room(&t)));
    }
    return kd__core_rows(c, c->in[0]->shape[0], (kept + room) * sizeof(double), row, value);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    const size_t taps = loss->desc.student_count;
    kd_tensor *all[16];
    for (size_t i = 0; i < taps; i++) all[i] = in->student[i], all[taps + i] = in->teacher[i];
    return kd__core_run(tape, "kdsvd", all, 2 * taps, core, NULL);
}

const kd__feature_method kd__feature_KDSVD = {
    .formula = "sum over neighbouring taps of |R_s - R_t|^2 / B, R = exp(-(v' - v)^2 / 8) of singular vectors", .check = check,
    .apply = apply
};
