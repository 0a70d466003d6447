/* kdsvd.c - singular vectors of feature maps (Lee, Kim, Song 2018, arXiv 1807.06819), the first of each map.
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = 1 / B sum_b sum over neighbouring taps (i, i + 1) of sum_{c, c'} (R_s[c, c'] - R_t[c, c'])^2
 *     R[c, c'] = exp(-(v_{i+1}[c'] - v_i[c])^2 / 8), v_i: a right singular vector of tap i as a matrix [height width, channels]
 *     teacher: the first one, its entry of largest magnitude made positive; student: of the first four the one with the largest
 *     |cos| to the teacher's, with the sign of that cosine; ties go to the first
 * Gradient: w = d loss / d v goes on to the map X as (X y) v^T + (X v) y^T, y = sum_m v_m (v_m . w) / (l - l_m) over the other
 *     vectors, l = squared singular values; terms with |l - l_m| <= 1e-10 of the largest are left out.
 * Divides by: rows (B).
 * Detached: the teacher, the choice of the vector, its sign.
 * Taps: two to eight pairs of maps, each pair with the same channels; sizes need not agree.
 * Defaults: weight 1 (CIFAR-100, the three stages' maps).
 * Forms: one.
 * Traps: an SVD's signs are arbitrary, and with them the public code's value (one flip makes 0.13 of 0.10): here they are fixed.
 *     Equal singular values make its gradient infinite, and it puts 0 for whatever is not finite; here that part alone, along a
 *     vector that is not determined, is 0.  Vectors of singular value 0 (1e-5 of the largest) are not chosen; a map of zeros has
 *     the vector (1, 0, ..) and no gradient.  One port reshapes the map to [channels height, width] first: another method.
 * Published: no figure that the common CIFAR-100 protocol has for all pairs.
 * Cost: an eigen-decomposition of min(height width, channels)^2 doubles for each map and side, by Jacobi rotations; for each
 *     thread about channels min(height width, channels) doubles a tap. */
#include "distill/feature.h"
#include <math.h>

enum { SVD_KEPT = 4, SVD_BLOCK = 256, SVD_SWEEPS = 40 };
static const double svd_equal = 1e-10;   /* of the largest eigenvalue */

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 2, 1u << 3));
    if (d->student_count > 8) return kd__fail(KD_ERR_ARG, "%zu pairs of taps, it takes at most 8", d->student_count);
    for (size_t i = 0; i < d->student_count; i++)
        if (d->student[i].size[2] != d->teacher[i].size[2]) return kd__feature_misfit(d, i, "they must have the same channels");
    return KD_OK;
}

static double svd_dot(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* a, b = c a - s b, s a + c b */
static void svd_turn(double *a, double *b, size_t n, double c, double s)
{
    for (size_t i = 0; i < n; i++) {
        const double x = a[i], y = b[i];
        a[i] = c * x - s * y;
        b[i] = s * x + c * y;
    }
}

/* The positive semidefinite a [n, n] becomes diagonal; rows of v its eigenvectors.  Cyclic Jacobi. */
static void svd_jacobi(double *a, double *v, size_t n)
{
    double trace = 0;
    memset(v, 0, n * n * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i * n + i] = 1, trace += a[i * n + i];
    for (size_t sweep = 0, turned = 1; turned && sweep < SVD_SWEEPS; sweep++) {
        turned = 0;
        for (size_t p = 0; p + 1 < n; p++)
            for (size_t q = p + 1; q < n; q++) {
                const double pp = a[p * n + p], qq = a[q * n + q], pq = a[p * n + q];
                if (fabs(pq) <= 0x1p-60 * trace || fabs(pq) <= 0x1p-54 * sqrt(fabs(pp * qq))) continue;
                const double theta = (qq - pp) / (2 * pq), t = (theta < 0 ? -1 : 1) / (fabs(theta) + sqrt(theta * theta + 1));
                const double c = 1 / sqrt(t * t + 1), s = t * c;
                svd_turn(a + p * n, a + q * n, n, c, s);
                svd_turn(v + p * n, v + q * n, n, c, s);
                a[p * n + p] = pp - t * pq;
                a[q * n + q] = qq + t * pq;
                a[p * n + q] = a[q * n + p] = 0;
                for (size_t k = 0; k < n; k++)
                    if (k != p && k != q) a[k * n + p] = a[p * n + k], a[k * n + q] = a[q * n + k];
                turned = 1;
            }
    }
}

/* Of a map x [pixels, channels]: eigenvalues of X^T X, falling, and their vectors, rows of `vector`; how many are not 0. */
typedef struct svd_map { const float *x; size_t pixels, channels, count; double *value, *vector; } svd_map;

static size_t svd_rank(const svd_map *m) { return KD_MIN(m->pixels, m->channels); }

/* room: 2 rank^2.  The smaller of X^T X and X X^T is decomposed. */
static void svd_decompose(svd_map *m, double *room)
{
    const size_t n = svd_rank(m), c = m->channels;
    double *a = room, *v = room + n * n;
    memset(a, 0, n * n * sizeof *a);
    for (size_t p = 0; p < m->pixels && c == n; p++)
        for (size_t i = 0; i < n; i++) {
            const double x = (double)m->x[p * c + i];
            for (size_t j = i; j < n; j++) a[i * n + j] += x * (double)m->x[p * c + j];
        }
    for (size_t i = 0; i < n && c != n; i++)
        for (size_t j = i; j < n; j++)
            for (size_t k = 0; k < c; k++) a[i * n + j] += (double)m->x[i * c + k] * (double)m->x[j * c + k];
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) a[i * n + j] = a[j * n + i];
    double most = 0, before = INFINITY, trace = 0;
    for (size_t i = 0; i < n; i++) trace += a[i * n + i];
    if (isfinite(trace)) svd_jacobi(a, v, n);
    for (size_t i = 0; i < n; i++) most = KD_MAX(most, a[i * n + i]);
    for (m->count = 0; m->count < n && isfinite(trace); m->count++) {   /* the next largest; equal ones in their order */
        size_t best = n;
        for (size_t i = 0; i < n; i++)
            if (a[i * n + i] <= before && (best == n || a[i * n + i] > a[best * n + best])) best = i;
        if (best == n || !(a[best * n + best] > svd_equal * most)) break;
        double *to = m->vector + m->count * c;
        before = m->value[m->count] = a[best * n + best];
        a[best * n + best] = INFINITY;   /* taken */
        if (c == n) memcpy(to, v + best * n, n * sizeof *to);
        else memset(to, 0, c * sizeof *to);
        for (size_t p = 0; p < n && c != n; p++)
            for (size_t k = 0; k < c; k++) to[k] += v[best * n + p] * (double)m->x[p * c + k];
        double length = sqrt(svd_dot(to, to, c));
        for (size_t k = 0; k < c; k++) to[k] /= length;
    }
    if (m->count) return;
    m->value[0] = 0;   /* zeros */
    memset(m->vector, 0, c * sizeof(double));
    m->vector[0] = isfinite(trace) ? 1 : NAN;
}

/* The teacher's vector with its sign. */
static void svd_teacher(const svd_map *m, double *v)
{
    size_t top = 0;
    for (size_t k = 1; k < m->channels; k++)
        if (fabs(m->vector[k]) > fabs(m->vector[top])) top = k;
    for (size_t k = 0; k < m->channels; k++) v[k] = m->vector[top] < 0 ? -m->vector[k] : m->vector[k];
}

/* The student's; returns which it is. */
static size_t svd_student(const svd_map *m, const double *teacher, double *v)
{
    size_t best = 0;
    double cosine = svd_dot(m->vector, teacher, m->channels);
    for (size_t i = 1; i < m->count && i < SVD_KEPT; i++) {
        double dot = svd_dot(m->vector + i * m->channels, teacher, m->channels);
        if (fabs(dot) > fabs(cosine)) best = i, cosine = dot;
    }
    for (size_t k = 0; k < m->channels; k++) v[k] = (cosine < 0 ? -1 : 1) * m->vector[best * m->channels + k];
    return best;
}

/* A tap of a row: the student's decomposition, both vectors, the gradient of the student's. */
typedef struct svd_tap { svd_map s; size_t chosen; double *vs, *vt, *grad, *y; } svd_tap;

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

static void svd_backward(const svd_tap *tap, float *out)
{
    const svd_map *m = &tap->s;
    const size_t c = m->channels;
    const double own = m->value[tap->chosen], least = svd_equal * m->value[0];
    memset(out, 0, m->pixels * c * sizeof *out);
    if (!m->count) return;
    for (size_t k = 0; k < c; k++) tap->y[k] = tap->grad[k] / own;   /* vectors whose eigenvalue is 0: all but the others */
    for (size_t i = 0; i < m->count; i++) {
        const double *v = m->vector + i * c, dot = svd_dot(v, tap->grad, c), gap = own - m->value[i];
        const double by = (fabs(gap) > least ? dot / gap : 0) - dot / own;
        for (size_t k = 0; k < c; k++) tap->y[k] += by * v[k];
    }
    for (size_t p = 0; p < m->pixels; p++) {
        double xy = 0, xv = 0;
        for (size_t k = 0; k < c; k++) xy += (double)m->x[p * c + k] * tap->y[k], xv += (double)m->x[p * c + k] * tap->vs[k];
        for (size_t k = 0; k < c; k++) out[p * c + k] = (float)(xy * tap->vs[k] + xv * tap->y[k]);
    }
}

static svd_map svd_map_of(const kd__core *c, size_t in, size_t b)
{
    const size_t *shape = c->in[in]->shape, each = shape[1] * shape[2] * shape[3];
    return (svd_map){ .x = c->x[in] + b * each, .pixels = shape[1] * shape[2], .channels = shape[3] };
}

static bool row(const kd__core *c, size_t b, void *scratch, double *value)
{
    const size_t taps = c->count / 2;
    svd_tap tap[8];
    double *room = scratch;
    for (size_t i = 0; i < taps; i++) {
        svd_map t = svd_map_of(c, taps + i, b), s = svd_map_of(c, i, b);
        const size_t n = s.channels, rank = svd_rank(&s);
        tap[i] = (svd_tap){ .s = s, .vs = room, .vt = room + n, .grad = room + 2 * n, .y = room + 3 * n };
        tap[i].s.value = room + 4 * n;
        tap[i].s.vector = room + 4 * n + rank;
        room += 4 * n + rank + rank * n;
        t.value = room, t.vector = room + svd_rank(&t);   /* gone again when the student's turn comes */
        svd_decompose(&t, t.vector + svd_rank(&t) * n);
        svd_teacher(&t, tap[i].vt);
        svd_decompose(&tap[i].s, room);
        tap[i].chosen = svd_student(&tap[i].s, tap[i].vt, tap[i].vs);
        memset(tap[i].grad, 0, n * sizeof(double));
    }
    for (size_t i = 0; i + 1 < taps; i++) *value += svd_relations(c, &tap[i], &tap[i + 1], 1 / (double)c->in[0]->shape[0]);
    for (size_t i = 0; i < taps; i++)
        if (c->grad[i]) svd_backward(&tap[i], c->grad[i] + b * tap[i].s.pixels * tap[i].s.channels);
    return true;
}

static kd_status core(const kd__core *c, double *value)
{
    const size_t taps = c->count / 2;
    size_t kept = 0, room = 0;
    for (size_t i = 0; i < taps; i++) {
        const svd_map s = svd_map_of(c, i, 0), t = svd_map_of(c, taps + i, 0);
        const size_t n = s.channels, rs = svd_rank(&s), rt = svd_rank(&t);
        kept += 4 * n + rs + rs * n;
        room = KD_MAX(room, KD_MAX(2 * rs * rs, rt + rt * n + 2 * rt * rt));
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
