/* feature_rows.c - what feature methods between pairs of maps share: the sum over pairs, and rows of a batch as tasks.
 * SPDX-License-Identifier: MIT */
#include "distill/feature.h"

kd_tensor *kd__each_pair(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in, kd__pair_fn prepare,
                         kd__core_fn core)
{
    kd_tensor *sum = NULL;
    for (size_t i = 0; i < loss->desc.student_count; i++) {
        kd_tensor *pair[2] = { in->student[i], in->teacher[i] };
        if (kd__tape_ok(tape)) prepare(loss, tape, i, &pair[0], &pair[1]);
        sum = kd__feature_add(tape, sum, kd__core_run(tape, loss->name, pair, 2, core, &(kd__pair){ loss, i }));
    }
    return sum;
}

void kd__match_maps(const kd_loss_feature *loss, kd_tape *tape, size_t i, kd_tensor **s, kd_tensor **t)
{
    const size_t *a = loss->desc.student[i].size, *b = loss->desc.teacher[i].size, h = KD_MIN(a[0], b[0]), w = KD_MIN(a[1], b[1]);
    *s = kd__adaptive_avg_pool(tape, *s, h, w);
    *t = kd__adaptive_avg_pool(tape, *t, h, w);
}

kd_status kd__same_size_pairs(const kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 1, 1u << 3));
    for (size_t i = 0; i < d->student_count; i++)
        if (memcmp(d->student[i].size, d->teacher[i].size, 2 * sizeof(size_t)) != 0)
            return kd__feature_misfit(d, i, "they must have the same height and width");
    return KD_OK;
}

bool kd__pair_adapted(const kd_loss_feature_desc *d, size_t i) { return d->student[i].size[2] != d->teacher[i].size[2]; }

void kd__adapt_channels(const kd_loss_feature *loss, kd_tape *tape, size_t i, kd_tensor **s, kd_tensor **t)
{
    char name[24];
    (void)t;
    if (kd__pair_adapted(&loss->desc, i)) *s = kd__adapter_forward(loss, tape, kd__pair_name(name, i), *s);
}

const char *kd__pair_name(char name[24], size_t i)
{
    kd__format(name, 24, "s%zu", i);
    return name;
}

void kd__conv1x1_bn(kd_layer *root, size_t i, size_t in, size_t out)
{
    char name[24];
    kd_layer *both = kd_layer_sequence(root, kd__pair_name(name, i));
    kd_layer_conv2d(both, "0", in, out, 1, 1, 0, NULL);
    kd_layer_batch_norm(both, "1", out, 0.1f, 1e-5f);
}

/* ---- rows as tasks ---------------------------------------------------------------------------------------------------- */

typedef struct core_rows_job {
    const kd__core  *core;
    kd__core_row_fn  row;
    size_t           bytes;
    double          *value;
    _Atomic uint32_t failed;
} core_rows_job;

static void rows_task(size_t r, void *arg)
{
    core_rows_job *j = arg;
    void *scratch = j->bytes ? kd__scratch_get(j->core->ctx, j->bytes) : NULL;
    j->value[r] = 0;
    if ((j->bytes && !scratch) || !j->row(j->core, r, scratch, &j->value[r])) atomic_store(&j->failed, 1u);
    kd__scratch_put(j->core->ctx, scratch);
}

kd_status kd__core_rows(const kd__core *c, size_t rows, size_t bytes, kd__core_row_fn row, double *value)
{
    core_rows_job j = { .core = c, .row = row, .bytes = bytes, .value = kd__scratch_get(c->ctx, rows * sizeof *j.value) };
    if (!j.value) return kd__fail(KD_ERR_NOMEM, "out of memory");
    kd__parallel(c->ctx, rows, rows_task, &j);
    double sum = 0;
    for (size_t r = 0; r < rows; r++) sum += j.value[r];
    kd__scratch_put(c->ctx, j.value);
    *value = sum;
    return atomic_load(&j.failed) ? kd__fail(KD_ERR_NOMEM, "out of memory") : KD_OK;
}

/* ---- squares of differences, each pair at half the weight of the next ------------------------------------------------- */

kd_status kd__core_squares(const kd__core *c, kd__core_row_fn row, double *value)
{
    const size_t rows = c->in[0]->shape[0];
    return kd__core_rows(c, rows, c->grad[0] ? 0 : c->in[0]->count / rows * sizeof(float), row, value);
}

double kd__row_squares(const kd__core *c, float *d, size_t n, double factor)
{
    const kd__pair *pair = c->user;
    double sum;
    factor /= (double)c->in[0]->shape[0];
    for (size_t i = pair->i + 1; i < pair->loss->desc.student_count; i++) factor /= 2;
    c->kernels->dot_f32(&sum, d, d, n);
    if (c->grad[0]) c->kernels->unary_f32(KD_UNARY_SCALE_ADD, d, d, n, (float)(2 * factor), 0);
    return sum * factor;
}
