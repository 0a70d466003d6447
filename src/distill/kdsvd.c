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
 *     for each thread 2 min(height width, channels)^2 doubles a tap, twice that of the largest, and one map. */
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

/* x, y = c x - s y, s x + c y */
static void svd_turn(double *x, double *y, size_t n, double c, double s)
{
    size_t i = 0;
    for (; i + 2 <= n; i += 2) {
        const svd_f64x2 p = *(const svd_loose *)(x + i), q = *(const svd_loose *)(y + i);
        *(svd_loose *)(x + i) = c * p - s * q;
        *(svd_loose *)(y + i) = s * p + c * q;
    }
    for (; i < n; i++) {
        const double p = x[i], q = y[i];
        x[i] = c * p - s * q;
        y[i] = s * p + c * q;
    }
}

/* Of a map X [pixels, channels]: eigenvalues l of the smaller of X^T X and X X^T [n, n], falling, the first `count` not 0.
 * Householder's reflections Q, in the rows of `q` right of the diagonal and in `beta`, make it tridiagonal; rows of `z` are
 * eigenvectors of that one, so that Q z are the matrix's. */
typedef struct svd_map {
    const float *x;
    size_t   pixels, channels, n, count;
    double  *q, *beta, *l, *z;
    size_t  *order;   /* of the rows of z */
} svd_map;

static size_t svd_doubles(const svd_map *m) { return 2 * m->n * m->n + 3 * m->n; }

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

/* Eigenvalues and vectors of the tridiagonal matrix by implicit QL steps. */
static void svd_diagonal(svd_map *m, double *side)
{
    const size_t n = m->n;
    double *l = m->l, least = 0;
    memset(m->z, 0, n * n * sizeof *m->z);
    for (size_t i = 0; i < n; i++) {
        m->z[i * n + i] = 1;
        least = KD_MAX(least, fabs(l[i]) + fabs(side[i]));
    }
    least *= 0x1p-53;
    for (size_t first = 0; first < n; first++)
        for (size_t step = 0; step < SVD_STEPS; step++) {
            size_t last = first;
            while (last + 1 < n && fabs(side[last]) > least) last++;
            if (last == first) break;
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
                svd_turn(m->z + i * n, m->z + (i + 1) * n, n, c, s);
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

/* room: svd_room doubles. */
static size_t svd_room(const svd_map *m) { return m->channels == m->n ? (m->channels * m->pixels + 1) / 2 + 2 * m->n : 2 * m->n; }

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

/* Right singular vector i; room: n. */
static void svd_vector(const svd_map *m, size_t i, double *room, double *v)
{
    const size_t n = m->n, c = m->channels;
    if (!m->count) {   /* zeros, or not numbers */
        memset(v, 0, c * sizeof *v);
        v[0] = m->l[0] + 1;
        return;
    }
    double *u = c == n ? v : room;
    memcpy(u, m->z + m->order[i] * n, n * sizeof *u);
    svd_outward(m, u);
    if (c == n) return;
    memset(v, 0, c * sizeof *v);
    for (size_t p = 0; p < n; p++)
        for (size_t k = 0; k < c; k++) v[k] += u[p] * (double)m->x[p * c + k];
    const double length = sqrt(svd_dot(v, v, c));
    for (size_t k = 0; k < c; k++) v[k] /= length;
}

/* The teacher's vector with its sign. */
static void svd_teacher(const svd_map *m, double *room, double *v)
{
    size_t top = 0;
    svd_vector(m, 0, room, v);
    for (size_t k = 1; k < m->channels; k++)
        if (fabs(v[k]) > fabs(v[top])) top = k;
    const bool turn = v[top] < 0;
    for (size_t k = 0; k < m->channels && turn; k++) v[k] = -v[k];
}

/* The student's; returns which it is.  other: room for another. */
static size_t svd_student(const svd_map *m, const double *teacher, double *room, double *other, double *v)
{
    const size_t c = m->channels;
    size_t best = 0;
    svd_vector(m, 0, room, v);
    double cosine = svd_dot(v, teacher, c);
    for (size_t i = 1; i < m->count && i < SVD_KEPT; i++) {
        svd_vector(m, i, room, other);
        double dot = svd_dot(other, teacher, c);
        if (!(fabs(dot) > fabs(cosine))) continue;
        best = i, cosine = dot;
        memcpy(v, other, c * sizeof *v);
    }
    for (size_t k = 0; k < c && cosine < 0; k++) v[k] = -v[k];
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

/* room: channels + 2 n doubles */
static void svd_backward(const kd__core *core, const svd_tap *tap, double *room, float *out)
{
    const svd_map *m = &tap->s;
    const kd__kernels *kernels = core->kernels;
    const size_t c = m->channels, n = m->n;
    memset(out, 0, m->pixels * c * sizeof *out);
    if (!m->count) return;
    const double own = m->l[tap->chosen], least = svd_equal * m->l[0], scale = 1 / sqrt(m->l[0]);
    double *in = room + c, *sum = in + n;
    for (size_t p = 0; p < n && c != n; p++) {
        in[p] = 0;
        for (size_t k = 0; k < c; k++) in[p] += (double)m->x[p * c + k] * tap->grad[k];
    }
    if (c == n) memcpy(in, tap->grad, n * sizeof *in);
    svd_inward(m, in);
    memset(sum, 0, n * sizeof *sum);
    for (size_t i = 0; i < m->count; i++) {
        const double *z = m->z + m->order[i] * n, dot = svd_dot(z, in, n) / (c == n ? 1 : m->l[i]), gap = own - m->l[i];
        svd_add(sum, (fabs(gap) > least ? dot / gap : 0) - dot / own, z, 0, z, n);
    }
    svd_outward(m, sum);
    for (size_t k = 0; k < c; k++) room[k] = tap->grad[k] / own + (c == n ? sum[k] : 0);   /* first as if all other l were 0 */
    for (size_t p = 0; p < n && c != n; p++)
        for (size_t k = 0; k < c; k++) room[k] += sum[p] * (double)m->x[p * c + k];
    float *y = (float *)(void *)room, *v = y + c;   /* y by the root of the largest l: in range if X is */
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
    m->q = at, m->z = at + n * n, m->l = m->z + n * n, m->beta = m->l + n, m->order = (size_t *)(void *)(m->beta + n);
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
        tap[i].chosen = svd_student(&s, tap[i].vt, room, tap[i].grad, tap[i].vs);
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
        room = KD_MAX(room, s.channels + 2 * s.n);
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
