/* measure.c - the table at the end of a run.
 * SPDX-License-Identifier: MIT */
#include "measure.h"
#include "../support/report.h"
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Milliseconds of a forward pass on images of noise, by the method's outputs or the model's; the median of many, warm. */
static kd_status latency(double *ms, uint64_t *multiply_adds, kd_context *one, const images *d, const subject *s, size_t batch)
{
    enum { WARM = 3, LEAST = 9, MOST = 301 };
    const double patience = 1;   /* seconds, for slow networks */
    double took[MOST];
    kd_tape *tape = NULL;
    kd_tensor *x = NULL;
    kd_rng noise = kd_rng_make(64);
    size_t runs = 0;
    kd_status st;
    TRY(kd_tensor_create(&x, one, KD_F32, 4, (size_t[]){ batch, d->height, d->width, 3 }));
    for (size_t i = 0; i < batch * d->height * d->width * 3; i++) kd_tensor_f32(x)[i] = kd_rng_normal(&noise);
    TRY(kd_tape_create(&tape, one, KD_TAPE_INFER));
    for (double begun = seconds(); runs < WARM + LEAST || (runs < MOST && seconds() - begun < patience); runs++) {
        double before = seconds();
        if (s->m) method_logits(s->m, tape, x);
        else kd_model_forward(s->model, tape, x);
        took[runs] = 1e3 * (seconds() - before);
        TRY(kd_tape_status(tape));
        *multiply_adds = kd_tape_multiply_adds(tape) / batch;
        kd_tape_reset(tape);
    }
    *ms = median(took + WARM, runs - WARM);
done:
    kd_tape_free(tape);
    kd_tensor_free(x);
    return st;
}

kd_status measure_subject(subject *s, kd_context *ctx, const images *d, const size_t *teacher, const subject *like)
{
    kd_context *one = NULL;
    kd_context_desc how;
    kd_status st;
    TRY(score_of(&s->result, ctx, d, s->m, s->model, teacher));
    s->parameters = kd_model_size(s->model);
    s->bytes = s->file ? file_bytes(s->file) : -1;
    if (like) {
        s->multiply_adds = like->multiply_adds, s->ms1 = like->ms1, s->ms64 = like->ms64;
        return KD_OK;
    }
    kd_context_desc_init(&how, sizeof how);
    how.threads = 1;
    TRY(kd_context_create(&one, &how));
    TRY(latency(&s->ms64, &s->multiply_adds, one, d, s, 64));
    TRY(latency(&s->ms1, &s->multiply_adds, one, d, s, 1));
done:
    kd_context_free(one);
    return st;
}

/* ---- Markdown ---------------------------------------------------------------------------------------------------------------- */
typedef struct page { FILE *file; } page;
static void put(page *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    va_start(args, format);
    if (p->file) vfprintf(p->file, format, args);
    va_end(args);
}

static void put_row(page *p, const subject *s)
{
    char n[32];
    put(p, "| %s: %s | %.2f | %.2f | ", s->what, s->name, s->result.top1, s->result.top5);
    if (isnan(s->result.agreement)) put(p, "- | ");
    else put(p, "%.2f | ", s->result.agreement);
    put(p, "%s | ", thousands(s->parameters, n));
    put(p, "%.2f M | %.3f | %.2f | ", (double)s->multiply_adds / 1e6, s->ms1, s->ms64);
    if (s->bytes < 0) put(p, "- |\n");
    else put(p, "%s |\n", thousands((size_t)s->bytes, n));
}

kd_status measure_report(const char *path, const char *title, const subject *teacher, const subject *rows, size_t count)
{
    page p = { fopen(path, "w") };
    int open = p.file != NULL;
    put(&p, "# %s\n\n| | top-1 %% | top-5 %% | as the teacher %% | parameters | multiply-adds | ms, 1 image | ms, 64 images | "
        "bytes of file |\n"
        "|---|---|---|---|---|---|---|---|---|\n", title);
    if (teacher) put_row(&p, teacher);
    for (size_t i = 0; i < count; i++) put_row(&p, &rows[i]);
    put(&p, "\nOf all test images; times are the median of many passes on one thread.\n");
    if (teacher) {
        const subject *t = teacher;
        put(&p, "\n| beside the teacher | parameters | multiply-adds | bytes | 1 image | 64 images | accuracy kept |\n"
            "|---|---|---|---|---|---|---|\n");
        for (size_t i = 0; i < count; i++) {
            const subject *s = &rows[i];
            put(&p, "| %s | %.2f x smaller | %.2f x fewer | ", s->what, (double)t->parameters / (double)s->parameters,
                (double)t->multiply_adds / (double)s->multiply_adds);
            if (t->bytes < 0 || s->bytes <= 0) put(&p, "- | ");
            else put(&p, "%.2f x smaller | ", (double)t->bytes / (double)s->bytes);
            put(&p, "%.2f x faster | %.2f x faster | %.1f %% |\n", t->ms1 / s->ms1, t->ms64 / s->ms64,
                t->result.top1 > 0 ? 100 * s->result.top1 / t->result.top1 : NAN);
        }
    }
    fflush(stdout);
    int bad = !open || ferror(p.file);
    if (open && fclose(p.file)) bad = 1;
    return bad ? complain(KD_ERR_IO, "%s: %s", path, strerror(errno)) : KD_OK;
}
