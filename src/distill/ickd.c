/* ickd.c - inter-channel correlation (Liu, Huang, Lin, Xie, Wang, Chang, Liang 2021, arXiv 2202.03680).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs of 1 / (B C) sum_b |N(S^T S) - N(T^T T)|^2
 *     S, T [H W, C]: a sample's map; N: each row of the matrix of channels over max(its length, 1e-12)
 * Gradient: through the rows' lengths to the matrix, then S (G + G^T).
 * Divides by: samples times channels (B C); THIRD: B^2 C.
 * Detached: the teacher.
 * Taps: one or more pairs of maps {height, width, channels} of equal height and width, behind the last ReLU.
 * Adapters: s0, s1, ..: 0, a 1x1 convolution without bias to the teacher's channels; 1, batch norm; for each pair whose
 *     channels differ.
 * Defaults: weight 2.5.
 * Forms: CODE: above.  THIRD: divided by B^2 C, as one toolkit's benchmark has it.  There is no PAPER form.
 * Traps: THIRD's weight depends on the batch.  The sums are over positions, so equal maps of any scale give the same matrix.  A
 *     channel that is 0 throughout has a row of zeros and no gradient through it.  This method is a known case of a published
 *     number that others could not reach.
 * Published: ImageNet ResNet34 -> 18 72.19; a re-run elsewhere 68.34.
 * Cost: 3 C^2 floats of scratch a thread, and the adapters. */
#include "distill/feature.h"

static void defaults(kd_loss_feature_desc *d) { d->weight = 2.5f; }

static kd_status check(kd_loss_feature_desc *d)
{
    if (d->form == KD_FORM_PAPER) return kd__fail(KD_ERR_ARG, "form %u: it has CODE and THIRD", (unsigned)d->form);
    return kd__same_size_pairs(d);
}

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    for (size_t i = 0; i < d->student_count; i++)
        if (kd__pair_adapted(d, i)) kd__conv1x1_bn(root, i, d->student[i].size[2], d->teacher[i].size[2]);
}

/* The channels' matrix of row r, rows of length 1; gram [n, n] is room. */
static bool correlations(const kd__core *c, size_t i, size_t r, float *gram, float *out, float *length)
{
    const size_t n = c->in[i]->shape[3], hw = c->in[i]->shape[1] * c->in[i]->shape[2];
    const float *x = c->x[i] + r * hw * n;
    const kd__gemm_args g = { .m = n, .n = n, .k = hw, .a = x, .a_stride = n, .a_transposed = true, .b = x, .b_stride = n,
                              .c = gram, .c_stride = n };
    if (kd__gemm(c->ctx, &g) != KD_OK) return false;
    c->kernels->l2_normalize_rows_f32(n, n, gram, 1e-12f, out, length);
    return true;
}

static bool row(const kd__core *c, size_t r, void *scratch, double *value)
{
    const kd__pair *pair = c->user;
    const kd__kernels *k = c->kernels;
    const size_t n = c->in[0]->shape[3], hw = c->in[0]->shape[1] * c->in[0]->shape[2];
    const double rows = (double)c->in[0]->shape[0];
    const double factor = 1 / (rows * (double)n * (pair->loss->desc.form == KD_FORM_THIRD ? rows : 1));
    float *g = scratch, *s = g + n * n, *t = s + n * n, *length = t + n * n;
    if (!correlations(c, 1, r, g, t, length) || !correlations(c, 0, r, g, s, length)) return false;
    k->binary_f32(KD_BINARY_SUB, t, n, (kd__operand){ s, n, 1 }, (kd__operand){ t, n, 1 }, n, n);
    k->dot_f32(value, t, t, n * n);
    *value *= factor;
    if (!c->grad[0]) return true;
    k->unary_f32(KD_UNARY_SCALE_ADD, t, t, n * n, (float)(2 * factor), 0);
    for (size_t i = 0; i < n; i++)
        if (length[i] < 1e-12f) memset(t + i * n, 0, n * sizeof *t);
    k->l2_normalize_backward_rows_f32(n, n, t, s, length, 1e-12f, g, 0);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) g[i * n + j] = g[j * n + i] = g[i * n + j] + g[j * n + i];
    return kd__gemm(c->ctx, &(kd__gemm_args){ .m = hw, .n = n, .k = n, .a = c->x[0] + r * hw * n, .a_stride = n, .b = g,
                                              .b_stride = n, .c = c->grad[0] + r * hw * n, .c_stride = n }) == KD_OK;
}

static kd_status core(const kd__core *c, double *value)
{
    const size_t n = c->in[0]->shape[3];
    return kd__core_rows(c, c->in[0]->shape[0], (3 * n + 1) * n * sizeof(float), row, value);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    return kd__each_pair(loss, tape, in, kd__adapt_channels, core);
}

const kd__feature_method kd__feature_ICKD = {
    .formula = "1/(B C) sum |N(S^T S) - N(T^T T)|^2, N: rows of length 1", .defaults = defaults, .check = check,
    .adapters = adapters, .apply = apply, .forms = 3
};
