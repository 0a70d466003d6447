/* vid.c - variational information distillation (Ahn, Hu, Damianou, Lawrence, Dai 2019, arXiv 1904.05835).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs of taps of mean ((m - t)^2 / v + log v) / 2
 *     m = regressor(s): three 1x1 convolutions (linear layers for {width} and {tokens, width}) without bias, ReLU between
 *     v[c] = log(1 + e^r[c]) + 1e-5, r trained, one for each channel of the teacher
 * Gradient: (m - t) / v through the regressor; (1 / v - (m - t)^2 / v^2) / 2 through v to r.
 * Divides by: elements of the teacher's tap, its batch included.
 * Detached: the teacher.
 * Taps: one or more pairs of maps, vectors or tokens, of the same kind on both sides.  Of two maps the larger is
 *     average-pooled to the other's height and width.
 * Adapters: s0, s1, ..: log_scale [channels], which is r; regressor.0, .2, .4 with `width` channels between (0: the
 *     teacher's).
 * Defaults: weight 1; v begins as 5.
 * Forms: one.
 * Traps: a widely used port keeps r in a plain list, so that the variances are never trained, saved or moved with the
 *     model: here they are parameters like the others.  log(1 + e^r) computed as written overflows from r = 89 on; here it
 *     does not.  Another port adds 1e-6 and not 1e-5.  The value may be negative: log v is a density's.
 * Published: CIFAR-100 ResNet32x4 -> 8x4 73.09, WRN-40-2 -> 16-2 74.11.
 * Cost: the regressors; two blocks of 128 positions as scratch a thread. */
#include "distill/feature.h"

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 1, 1u << 1 | 1u << 2 | 1u << 3));
    for (size_t i = 0; i < d->student_count; i++) {
        const kd_feature_shape *s = &d->student[i], *t = &d->teacher[i];
        if (s->rank != t->rank) return kd__feature_misfit(d, i, "they must be of one kind");
        if (s->rank == 2 && s->size[0] != t->size[0]) return kd__feature_misfit(d, i, "they must have the same tokens");
    }
    return KD_OK;
}

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    char name[24];
    for (size_t i = 0; i < d->student_count; i++) {
        const kd_feature_shape *s = &d->student[i], *t = &d->teacher[i];
        const size_t out = t->size[t->rank - 1], mid = d->width ? d->width : out;
        kd_layer *both = kd__holder(root, kd__pair_name(name, i));
        kd_layer_add_parameter(both, "log_scale", 1, &out, KD_INIT_CONSTANT, 4.9932291827136215f, 0);   /* v = 5 */
        kd_layer *r = kd_layer_sequence(both, "regressor");
        kd__point_layer(r, "0", s, s->size[s->rank - 1], mid, false);
        kd_layer_activation(r, "1", KD_ACT_RELU);
        kd__point_layer(r, "2", s, mid, mid, false);
        kd_layer_activation(r, "3", KD_ACT_RELU);
        kd__point_layer(r, "4", s, mid, out, false);
    }
}

enum { VID_ROWS = 128 };   /* of a task: what it reads stays in the cache */
typedef struct vid_job { const float *by; float *squares; } vid_job;   /* 1 / (v elements); [tasks, channels] */

static bool rows(const kd__core *c, size_t task, void *scratch, double *value)
{
    const vid_job *job = c->user;
    const kd__kernels *k = c->kernels;
    const size_t m = c->in[2]->count, first = task * VID_ROWS, n = KD_MIN(c->in[0]->count / m - first, (size_t)VID_ROWS);
    float *d = scratch, *e = d + n * m;
    const kd__operand dr = { d, m, 1 };
    (void)value;
    k->binary_f32(KD_BINARY_SUB, d, m, (kd__operand){ c->x[0] + first * m, m, 1 }, (kd__operand){ c->x[1] + first * m, m, 1 }, n,
                  m);
    k->binary_f32(KD_BINARY_MUL, e, m, dr, dr, n, m);
    k->column_sums_f32(job->squares + task * m, e, n, m, m, 0);
    if (c->grad[0]) k->binary_f32(KD_BINARY_MUL, c->grad[0] + first * m, m, dr, (kd__operand){ job->by, 0, 1 }, n, m);
    return true;
}

static kd_status run(const kd__core *c, size_t tasks, float *v, double *value)   /* m, t, r */
{
    const kd__kernels *k = c->kernels;
    const size_t m = c->in[2]->count, all = c->in[0]->count, n = all / m;
    const double each = 0.5 / (double)all;
    float *q = v + m, *w = q + m, *squares = w + m;
    kd__core each_task = *c;
    each_task.user = &(vid_job){ w, squares };
    k->unary_f32(KD_UNARY_SOFTPLUS, v, c->x[2], m, 0, 0);
    k->unary_f32(KD_UNARY_SCALE_ADD, v, v, m, 1, 1e-5f);
    for (size_t i = 0; i < m; i++) w[i] = (float)(2 * each / (double)v[i]);
    KD_TRY(kd__core_rows(&each_task, tasks, 2 * KD_MIN(n, (size_t)VID_ROWS) * m * sizeof *v, rows, value));
    k->column_sums_f32(q, squares, tasks, m, m, 0);
    k->unary_f32(KD_UNARY_LOG, w, v, m, 0, 0);
    double sum = 0;
    for (size_t i = 0; i < m; i++) sum += (double)q[i] / (double)v[i] + (double)n * (double)w[i];
    *value = sum * each;
    if (!c->grad[2]) return KD_OK;
    k->unary_f32(KD_UNARY_SIGMOID, w, c->x[2], m, 0, 0);
    for (size_t i = 0; i < m; i++)
        c->grad[2][i] = (float)(each * (double)w[i] * ((double)n - (double)q[i] / (double)v[i]) / (double)v[i]);
    return KD_OK;
}

static kd_status core(const kd__core *c, double *value)
{
    const size_t m = c->in[2]->count, tasks = (c->in[0]->count / m + VID_ROWS - 1) / VID_ROWS;
    float *scratch = kd__scratch_get(c->ctx, (3 + tasks) * m * sizeof *scratch);
    kd_status status = scratch ? run(c, tasks, scratch, value) : kd__fail(KD_ERR_NOMEM, "out of memory");
    kd__scratch_put(c->ctx, scratch);
    return status;
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    kd_tensor *sum = NULL;
    char name[24], path[40];
    for (size_t i = 0; i < loss->desc.student_count; i++) {
        kd_tensor *s = in->student[i], *t = in->teacher[i];
        if (loss->desc.student[i].rank == 3) kd__match_maps(loss, tape, i, &s, &t);
        kd__format(path, sizeof path, "%s.regressor", kd__pair_name(name, i));
        kd_tensor *inputs[] = { kd__adapter_forward(loss, tape, path, s), t, kd__adapter_parameter(loss, name, "log_scale") };
        sum = kd__feature_add(tape, sum, kd__core_run(tape, loss->name, inputs, 3, core, NULL));
    }
    return sum;
}

const kd__feature_method kd__feature_VID = {
    .formula = "mean ((m(S) - T)^2 / v + log v) / 2, m: three 1x1 convolutions, v: trained variances", .check = check,
    .adapters = adapters, .apply = apply
};
