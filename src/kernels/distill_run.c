/* distill_run.c - the distillation kernel over a batch: scratch, and the rows cut among the threads.
 * SPDX-License-Identifier: MIT */
#include "kernels/distill_run.h"

enum { MAX_TASKS = 256 };

typedef struct job {
    const kd__distill_args *all;   /* of every row */
    void   (*kernel)(const kd__distill_args *args);
    float   *scratch;
    size_t   rows_per_task, scratch_step;
    uint32_t masked[MAX_TASKS];
    bool     stream;
} job;

static void task(size_t i, void *arg)
{
    job *j = arg;
    kd__distill_args a = *j->all;
    size_t first = i * j->rows_per_task;
    a.rows = KD_MIN(j->rows_per_task, a.rows - first);
    a.student += first * a.student_stride;
    if (a.teacher) a.teacher += first * a.teacher_stride;
    if (a.labels) a.labels += first;
    if (a.soft_labels) a.soft_labels += first * a.soft_label_stride;
    a.hard_coef += first;
    a.soft_coef += first;
    if (a.grad) a.grad += first * a.grad_stride;
    a.hard += first;
    a.soft += first;
    a.scratch = j->scratch + i * j->scratch_step;
    a.masked = &j->masked[i];
    a.stream = j->stream;
    j->kernel(&a);
}

/* Logits that are worth another thread: waking one that sleeps takes about 15 us. */
#define GRAIN 49152u

/* Rows are independent, so any cut gives the same bits: one task for each thread, one for small work. */
kd_status kd__distill_run(kd_context *ctx, const kd__distill_args *args, size_t *masked)
{
    job j = { .all = args, .kernel = ctx->kernels->distill_f32, .scratch_step = kd__distill_scratch(args->classes) };
    size_t groups = args->rows / 16 + (args->rows % 16 != 0), floats, bytes;
    *masked = 0;
    if (!groups) return KD_OK;
    size_t logits = args->rows * args->classes, tasks = KD_MIN(logits / GRAIN + 1, (size_t)ctx->threads);
    tasks = KD_MIN(KD_MIN(tasks, groups), (size_t)MAX_TASKS);
    if (!kd__mul(tasks, j.scratch_step, &floats) || !kd__mul(floats, sizeof(float), &bytes))
        return kd__fail(KD_ERR_OVERFLOW, "%zu classes do not fit in memory", args->classes);
    j.rows_per_task = (groups + tasks - 1) / tasks * 16;
    j.stream = logits > (size_t)1 << 20;   /* 4 MB of gradient, as much of each input */
    j.scratch = kd__scratch_get(ctx, bytes);
    if (!j.scratch) return kd__fail(KD_ERR_NOMEM, "out of memory for %zu classes", args->classes);
    size_t count = args->rows / j.rows_per_task + (args->rows % j.rows_per_task != 0);
    kd__parallel(ctx, count, task, &j);
    kd__scratch_put(ctx, j.scratch);
    for (size_t i = 0; i < count; i++) *masked += j.masked[i];
    return KD_OK;
}
