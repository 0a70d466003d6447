/* nst.c - neuron selectivity transfer (Huang, Wang 2017, arXiv 1707.01219).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs of 1 / B sum_b [ mean k(t_i, t_j) + mean k(s_i, s_j) - 2 mean k(s_i, t_j) ], means over all i, j
 *     k(a, b) = (a . b)^2; s_i, t_j: a channel's map over positions, over max(its length, 1e-12)
 *     that is 1 / B sum_b |S S^T / c_s - T T^T / c_t|^2, S [H W, c_s], T [H W, c_t]: the squared maximum mean discrepancy
 * Gradient: 4 / (B c_s) (S S^T / c_s - T T^T / c_t) S, through the channels' lengths.
 * Divides by: samples (B), and the channels in each mean.
 * Detached: the teacher.
 * Taps: one or more pairs of maps {height, width, channels}; channels may differ.  Where heights or widths differ the larger
 *     map is average-pooled to the smaller one.
 * Defaults: weight 50 (CIFAR-100, maps of the three stages).
 * Forms: one.
 * Traps: written as it stands, the kernel needs c_s c_t H W numbers a sample; the public code builds them.  Here it is a
 *     product of matrices of H W x H W or of channels x channels, whichever is smaller.  The teacher's own term is a constant,
 *     kept so that equal maps give 0 (some ports leave it out: their values are lower, gradients equal).  A channel that is 0
 *     throughout stays 0 and has no gradient.
 * Published: CIFAR-100 WRN-40-2 -> 16-2 73.68 (student 73.26), ResNet32x4 -> 8x4 73.30.
 * Cost: min(H W, max(c_s, c_t))^2 + H W (c_s + c_t + max(c_s, c_t)) floats of scratch a thread. */
#include "distill/feature.h"
#include <math.h>

static void defaults(kd_loss_feature_desc *d) { d->weight = 50; }
static kd_status check(kd_loss_feature_desc *d) { return kd__feature_pairs(d, 1, 1u << 3); }

typedef struct nst_size { size_t hw, s, t, side; bool by_channels; } nst_size;   /* side: of the largest matrix of products */

static nst_size size_of(const kd__core *c)
{
    nst_size z = { c->in[0]->shape[1] * c->in[0]->shape[2], c->in[0]->shape[3], c->in[1]->shape[3], 0, false };
    z.by_channels = z.s + z.t <= z.hw;
    z.side = z.by_channels ? KD_MAX(z.s, z.t) : z.hw;
    return z;
}

/* out [channels] = sum over positions of a b; room, zero: floats for each channel, 2 and 1. */
static void column_dots(const kd__kernels *k, size_t hw, size_t channels, const float *a, const float *b, float *room,
                        const float *zero, double *out)
{
    memset(out, 0, channels * sizeof *out);
    for (size_t p = 0; p < hw; p += 256) {   /* more would cost the kernel's sums precision */
        const size_t rows = KD_MIN(hw - p, 256u), at = p * channels;
        k->norm_columns_dots_f32(rows, channels, a + at, b + at, zero, room, room + channels, NULL);
        for (size_t i = 0; i < channels; i++) out[i] += (double)room[channels + i];
    }
}

/* x = the channels over max(length, 1e-12) and sqrt(their number); share: that factor; length: of each. */
static void unit_channels(const kd__kernels *k, size_t hw, size_t channels, const float *from, float *room, const float *zero,
                          double *length, float *share, float *x)
{
    column_dots(k, hw, channels, from, from, room, zero, length);
    for (size_t i = 0; i < channels; i++) {
        length[i] = sqrt(length[i]);
        share[i] = (float)(1 / (KD_MAX(length[i], 1e-12) * sqrt((double)channels)));
    }
    k->norm_columns_apply_f32(hw, channels, from, NULL, share, zero, NULL, 0, x);
}

/* c [m, n] (= or, with `add`, +=) op(a) op(b): a is [m, k] or, transposed, [k, m], and so b. */
static bool product(const kd__core *c, size_t m, size_t n, size_t k, const float *a, bool ta, const float *b, bool tb, float *to,
                    bool add)
{
    return kd__gemm(c->ctx, &(kd__gemm_args){ .m = m, .n = n, .k = k, .a = a, .a_stride = ta ? m : k, .a_transposed = ta, .b = b,
                                              .b_stride = tb ? k : n, .b_transposed = tb, .c = to, .c_stride = n,
                                              .accumulate = add }) == KD_OK;
}

static double square(const kd__core *c, const float *m, size_t n)
{
    double sum;
    c->kernels->dot_f32(&sum, m, m, n);
    return sum;
}

/* *value = |X X^T - Y Y^T|^2 of x [hw, s] and y [hw, t], dx a quarter of its gradient; NULL: not wanted.  m: side^2, room: hw t. */
static bool discrepancy(const kd__core *c, const nst_size *z, const float *x, const float *y, float *m, float *room,
                        double *value, float *dx)
{
    if (!z->by_channels) {
        c->kernels->unary_f32(KD_UNARY_NEG, room, y, z->hw * z->t, 0, 0);
        if (!product(c, z->hw, z->hw, z->s, x, false, x, true, m, false) ||
            !product(c, z->hw, z->hw, z->t, room, false, y, true, m, true))
            return false;
        *value = square(c, m, z->hw * z->hw);
        return !dx || product(c, z->hw, z->s, z->hw, m, false, x, false, dx, false);
    }
    if (!product(c, z->t, z->t, z->hw, y, true, y, false, m, false)) return false;
    *value = square(c, m, z->t * z->t);
    if (!product(c, z->s, z->s, z->hw, x, true, x, false, m, false)) return false;
    *value += square(c, m, z->s * z->s);
    if (dx && !product(c, z->hw, z->s, z->s, x, false, m, false, dx, false)) return false;
    if (!product(c, z->t, z->s, z->hw, y, true, x, false, m, false)) return false;
    *value -= 2 * square(c, m, z->t * z->s);
    if (!dx) return true;
    c->kernels->unary_f32(KD_UNARY_NEG, m, m, z->t * z->s, 0, 0);
    return product(c, z->hw, z->s, z->t, y, false, m, false, dx, true);
}

/* A channel that is 0 has no gradient. */
static void silence(const nst_size *z, const float *from, const double *length, float *out)
{
    for (size_t k = 0; k < z->s; k++) {
        bool zero = length[k] < 1e-12;
        for (size_t p = 0; zero && p < z->hw; p++) zero = from[p * z->s + k] == 0;
        for (size_t p = 0; zero && p < z->hw; p++) out[p * z->s + k] = 0;
    }
}

static bool row(const kd__core *c, size_t r, void *scratch, double *value)
{
    const nst_size z = size_of(c);
    const kd__kernels *k = c->kernels;
    const size_t most = KD_MAX(z.s, z.t);
    const float *s = c->x[0] + r * z.hw * z.s;
    const double n = (double)c->in[0]->shape[0];
    double *length = scratch, *along = length + most;
    float *zero = (float *)(along + most), *share = zero + most, *pull = share + most, *two = pull + most;
    float *x = two + 2 * most, *y = x + z.hw * z.s, *room = y + z.hw * z.t, *m = room + z.hw * most;
    memset(zero, 0, most * sizeof *zero);
    unit_channels(k, z.hw, z.t, c->x[1] + r * z.hw * z.t, two, zero, length, share, y);
    unit_channels(k, z.hw, z.s, s, two, zero, length, share, x);
    float *dx = c->grad[0] ? c->grad[0] + r * z.hw * z.s : NULL;
    if (!discrepancy(c, &z, x, y, m, room, value, dx)) return false;
    *value /= n;
    if (!dx) return true;
    column_dots(k, z.hw, z.s, dx, x, two, zero, along);
    for (size_t i = 0; i < z.s; i++) {   /* x . x = 1 / s */
        share[i] = (float)(4 / n * (double)share[i]);
        pull[i] = length[i] < 1e-12 ? 0 : (float)(along[i] * (double)z.s * (double)share[i]);
    }
    memcpy(room, dx, z.hw * z.s * sizeof *room);
    k->norm_columns_backward_f32(z.hw, z.s, room, x, zero, share, pull, zero, NULL, dx, 0);
    silence(&z, s, length, dx);
    return true;
}

static kd_status core(const kd__core *c, double *value)
{
    const nst_size z = size_of(c);
    const size_t most = KD_MAX(z.s, z.t), floats = 6 * most + z.hw * (z.s + z.t + most) + z.side * z.side;
    return kd__core_rows(c, c->in[0]->shape[0], 2 * most * sizeof(double) + floats * sizeof(float), row, value);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    return kd__each_pair(loss, tape, in, kd__match_maps, core);
}

const kd__feature_method kd__feature_NST = {
    .formula = "1/B sum |S S^T/c_s - T T^T/c_t|^2, S, T: each channel's map of length 1", .defaults = defaults, .check = check,
    .apply = apply
};
