/* cosine.c - cosine of hidden states (Sanh, Debut, Chaumond, Wolf 2019, DistilBERT, arXiv 1910.01108).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs of taps of  sum_r m_r (1 - cos(s_r, t_r)) / sum_r m_r
 *     r: the tokens of all samples; m: the mask, 1 without one; cos = s . t / sqrt((|s|^2 + 1e-12) (|t|^2 + 1e-12))
 * Gradient: -(m_r / sum m) (t_r / root - cos s_r / (|s_r|^2 + 1e-12)).
 * Divides by: the sum of the mask: valid tokens.
 * Detached: the teacher.
 * Taps: one or more pairs of {width} or {tokens, width}, of equal shapes.
 * Defaults: weight 1 (with 5 for the soft labels at T = 2 and 2 for the masked-language loss).
 * Forms: one.
 * Traps: the public recipe has two sets of weights, 5 / 2 / 1 and three times 0.33.  Padding must be masked: a mean over it
 *     teaches nothing.  A mask of zeros throughout gives 0.  Student and teacher must have the same width.
 * Published: none for this term alone.
 * Cost: one double a token. */
#include "distill/feature.h"
#include <math.h>

enum { COSINE_BLOCK = 64 };   /* tokens a task */

static kd_status check(kd_loss_feature_desc *d) { return kd__feature_equal_pairs(d, 1, 1u << 1 | 1u << 2); }

typedef struct cosine_job { const kd__core *c; size_t width; double scale, *value; } cosine_job;

static void cosine_rows(size_t begin, size_t end, void *arg)
{
    const cosine_job *job = arg;
    const kd__kernels *k = job->c->kernels;
    for (size_t r = begin; r < end; r++) {
        const float *s = job->c->x[0] + r * job->width, *t = job->c->x[1] + r * job->width;
        float *grad = job->c->grad[0] ? job->c->grad[0] + r * job->width : NULL;
        double weight = job->scale * (job->c->x[2] ? (double)job->c->x[2][r] : 1), st, ss, tt;
        job->value[r] = 0;
        if (grad) memset(grad, 0, job->width * sizeof *grad);
        if (weight == 0) continue;   /* whatever stands in padding */
        k->dot_f32(&st, s, t, job->width);
        k->dot_f32(&ss, s, s, job->width);
        k->dot_f32(&tt, t, t, job->width);
        double root = sqrt((ss + 1e-12) * (tt + 1e-12)), cosine = st / root;
        job->value[r] = weight * (1 - cosine);
        if (!grad) continue;
        k->axpy_f32(grad, t, job->width, (float)(-weight / root));
        k->axpy_f32(grad, s, job->width, (float)(weight * cosine / (ss + 1e-12)));
    }
}

static kd_status core(const kd__core *c, double *value)
{
    const size_t width = c->in[0]->shape[c->in[0]->rank - 1], rows = c->in[0]->count / width;
    double sum = (double)rows;
    if (c->x[2]) c->kernels->sum_f32(&sum, c->x[2], rows);
    cosine_job job = { c, width, sum == 0 ? 0 : 1 / sum, kd__scratch_get(c->ctx, rows * sizeof(double)) };
    if (!job.value) return kd__fail(KD_ERR_NOMEM, "cosine: out of memory");
    kd__parallel_range(c->ctx, rows, COSINE_BLOCK, cosine_rows, &job);
    *value = 0;
    for (size_t r = 0; r < rows; r++) *value += job.value[r];
    kd__scratch_put(c->ctx, job.value);
    return KD_OK;
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    return kd__core_pairs(loss, tape, in, core);
}

const kd__feature_method kd__feature_COSINE = {
    .formula = "mean over valid tokens of 1 - cos(s, t)", .check = check, .apply = apply
};
