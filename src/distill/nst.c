/* nst.c - neuron selectivity transfer (Huang, Wang 2017, arXiv 1707.01219).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs of 1 / B sum_b [ mean k(t_i, t_j) + mean k(s_i, s_j) - 2 mean k(s_i, t_j) ], means over all channels i, j
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
 * Cost: min(H W, c_s + c_t)^2 + 2 H W (c_s + c_t) floats of scratch a thread. */
#include "distill/feature.h"
#include <math.h>

static void defaults(kd_loss_feature_desc *d) { d->weight = 50; }
static kd_status check(kd_loss_feature_desc *d) { return kd__feature_pairs(d, 1, 1u << 3); }

typedef struct nst_size { size_t hw, s, t, all; bool by_channels; } nst_size;

static nst_size size_of(const kd__core *c)
{
    nst_size z = { c->in[0]->shape[1] * c->in[0]->shape[2], c->in[0]->shape[3], c->in[1]->shape[3], 0, false };
    z.all = z.s + z.t;
    z.by_channels = z.all <= z.hw;
    return z;
}

/* Channels over their length and sqrt(their number): columns of x, whose rows are `stride` apart; length: becomes that factor. */
static void unit_channels(const float *from, size_t hw, size_t channels, float *x, size_t stride, double *length)
{
    memset(length, 0, channels * sizeof *length);
    for (size_t p = 0; p < hw; p++)
        for (size_t k = 0; k < channels; k++) length[k] += (double)from[p * channels + k] * (double)from[p * channels + k];
    for (size_t k = 0; k < channels; k++) length[k] = 1 / (KD_MAX(sqrt(length[k]), 1e-12) * sqrt((double)channels));
    for (size_t p = 0; p < hw; p++)
        for (size_t k = 0; k < channels; k++) x[p * stride + k] = (float)((double)from[p * channels + k] * length[k]);
}

/* dx [hw, s]: by the columns of x; share: 1 / (length sqrt(s)).  out: by the student's map. */
static void through_lengths(const nst_size *z, const float *x, const float *dx, const double *share, double *along, float *out)
{
    const double longest = 1 / (1e-12 * sqrt((double)z->s));   /* the share of what is shorter: a constant */
    memset(along, 0, z->s * sizeof *along);
    for (size_t p = 0; p < z->hw; p++)
        for (size_t k = 0; k < z->s; k++) along[k] += (double)x[p * z->all + k] * (double)dx[p * z->s + k];
    for (size_t k = 0; k < z->s; k++) along[k] *= share[k] < longest ? (double)z->s : 0;   /* x . x = 1 / s */
    for (size_t p = 0; p < z->hw; p++)
        for (size_t k = 0; k < z->s; k++)
            out[p * z->s + k] = (float)(((double)dx[p * z->s + k] - (double)x[p * z->all + k] * along[k]) * share[k]);
}

/* A channel that is 0 has no gradient. */
static void silence(const nst_size *z, const float *from, const double *share, float *out)
{
    const double longest = 1 / (1e-12 * sqrt((double)z->s));
    for (size_t k = 0; k < z->s; k++) {
        bool zero = share[k] >= longest;
        for (size_t p = 0; zero && p < z->hw; p++) zero = from[p * z->s + k] == 0;
        for (size_t p = 0; zero && p < z->hw; p++) out[p * z->s + k] = 0;
    }
}

static bool row(const kd__core *c, size_t r, void *scratch, double *value)
{
    const nst_size z = size_of(c);
    const kd__kernels *kernels = c->kernels;
    const float *s = c->x[0] + r * z.hw * z.s;
    const size_t side = z.by_channels ? z.all : z.hw;
    double *share = scratch, *along = share + z.all;
    float *x = (float *)(along + z.s), *m = x + z.hw * z.all, *dx = m + side * side;   /* dx [hw, s]; before that [hw, all] */
    unit_channels(s, z.hw, z.s, x, z.all, share);
    unit_channels(c->x[1] + r * z.hw * z.t, z.hw, z.t, x + z.s, z.all, share + z.s);
    kd__gemm_args g = { .m = side, .n = side, .k = z.by_channels ? z.hw : z.all, .a = x, .a_stride = z.all, .b = x, .b_stride = z.all,
                        .a_transposed = z.by_channels, .b_transposed = !z.by_channels, .c = m, .c_stride = side };
    if (!z.by_channels) {   /* the teacher's columns with a minus */
        for (size_t p = 0; p < z.hw; p++) {
            memcpy(dx + p * z.all, x + p * z.all, z.s * sizeof *dx);
            kernels->unary_f32(KD_UNARY_NEG, dx + p * z.all + z.s, x + p * z.all + z.s, z.t, 0, 0);
        }
        g.a = dx;
    }
    if (kd__gemm(c->ctx, &g) != KD_OK) return false;
    const double n = (double)c->in[0]->shape[0];
    for (size_t i = 0; i < side; i++) {
        double plus = 0, minus = 0;
        float *at = m + i * side;
        const bool teacher = z.by_channels && i >= z.s;
        if (z.by_channels) kernels->dot_f32(&minus, at + z.s, at + z.s, z.t);
        kernels->dot_f32(&plus, at, at, z.by_channels ? z.s : side);
        *value += (teacher ? minus - plus : plus - minus) / n;
        if (teacher) kernels->unary_f32(KD_UNARY_NEG, at, at, z.s, 0, 0);
    }
    if (!c->grad[0]) return true;
    kd__gemm_args back = { .m = z.hw, .n = z.s, .c = dx, .c_stride = z.s };
    if (z.by_channels) back.k = z.all, back.a = x, back.a_stride = z.all, back.b = m, back.b_stride = side;
    else back.k = z.hw, back.a = m, back.a_stride = side, back.b = x, back.b_stride = z.all;
    if (kd__gemm(c->ctx, &back) != KD_OK) return false;
    float *out = c->grad[0] + r * z.hw * z.s;
    through_lengths(&z, x, dx, share, along, out);
    kernels->unary_f32(KD_UNARY_SCALE_ADD, out, out, z.hw * z.s, (float)(4 / n), 0);
    silence(&z, s, share, out);
    return true;
}

static kd_status core(const kd__core *c, double *value)
{
    const nst_size z = size_of(c);
    const size_t side = z.by_channels ? z.all : z.hw, floats = 2 * z.hw * z.all + side * side;
    return kd__core_rows(c, c->in[0]->shape[0], (z.all + z.s) * sizeof(double) + floats * sizeof(float), row, value);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    return kd__each_pair(loss, tape, in, kd__match_maps, core);
}

const kd__feature_method kd__feature_NST = {
    .formula = "1/B sum |S S^T/c_s - T T^T/c_t|^2, S, T: each channel's map of length 1", .defaults = defaults, .check = check,
    .apply = apply
};
