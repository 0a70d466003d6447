/* feature_rows.c - what feature methods between pairs of maps share: the sum over pairs, and rows of a batch as tasks.
 * SPDX-License-Identifier: MIT */
#include "distill/feature.h"

kd_tensor *kd__core_pairs(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in, kd__pair_fn prepare, kd__core_fn core)
{
    kd_tensor *sum = NULL;
    for (size_t i = 0; i < loss->desc.student_count; i++) {
        kd_tensor *pair[2] = { in->student[i], in->teacher[i] };
        if (prepare && kd__tape_ok(tape)) prepare(loss, tape, i, &pair[0], &pair[1]);
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

const char *kd__pair_name(char name[24], size_t i)
{
    kd__format(name, 24, "s%zu", i);
    return name;
}

/* ---- rows as tasks ---------------------------------------------------------------------------------------------------- */

typedef struct rows_job {
    const kd__core  *core;
    kd__core_row_fn  row;
    size_t           bytes;
    double          *value;
    _Atomic uint32_t failed;
} rows_job;

static void rows_task(size_t r, void *arg)
{
    rows_job *j = arg;
    void *scratch = j->bytes ? kd__scratch_get(j->core->ctx, j->bytes) : NULL;
    j->value[r] = 0;
    if ((j->bytes && !scratch) || !j->row(j->core, r, scratch, &j->value[r])) atomic_store(&j->failed, 1u);
    kd__scratch_put(j->core->ctx, scratch);
}

kd_status kd__core_rows(const kd__core *c, size_t rows, size_t bytes, kd__core_row_fn row, double *value)
{
    rows_job j = { .core = c, .row = row, .bytes = bytes, .value = kd__scratch_get(c->ctx, rows * sizeof *j.value) };
    if (!j.value) return kd__fail(KD_ERR_NOMEM, "out of memory");
    kd__parallel(c->ctx, rows, rows_task, &j);
    double sum = 0;
    for (size_t r = 0; r < rows; r++) sum += j.value[r];
    kd__scratch_put(c->ctx, j.value);
    *value = sum;
    return atomic_load(&j.failed) ? kd__fail(KD_ERR_NOMEM, "out of memory") : KD_OK;
}
