/* measure.c - the table at the end of a run.
 * SPDX-License-Identifier: MIT */
#include "measure.h"
#include "../support/report.h"
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Multiply-adds of one image, and the milliseconds that a pass over `batch` of them takes, on noise: the median of many passes on
 * a warm machine, for some `patience` seconds.  Patience 0: one pass, for the multiply-adds. */
static kd_status latency(subject *s, double *ms, kd_context *one, const images *d, size_t batch, double patience)
{
    enum { WARM = 3, LEAST = 5, MOST = 1000 };
    double took[MOST];
    kd_tape *tape = NULL;
    kd_tensor *x = NULL;
    kd_rng noise = kd_rng_make(64);
    size_t runs = 0, least = patience > 0 ? WARM + LEAST : 1;
    kd_status st;
    TRY(kd_tensor_create(&x, one, KD_F32, 4, (size_t[]){ batch, d->height, d->width, 3 }));
    for (size_t i = 0; i < batch * d->height * d->width * 3; i++) kd_tensor_f32(x)[i] = kd_rng_normal(&noise);
    TRY(kd_tape_create(&tape, one, KD_TAPE_INFER));
    for (double begun = seconds(); runs < least || (runs < MOST && seconds() - begun < patience); runs++) {
        double before = seconds();
        if (s->m) method_logits(s->m, tape, x);
        else kd_model_forward(s->model, tape, x);
        took[runs] = 1e3 * (seconds() - before);
        TRY(kd_tape_status(tape));
        s->multiply_adds = kd_tape_multiply_adds(tape) / batch;
        kd_tape_reset(tape);
    }
    *ms = patience > 0 ? median(took + WARM, runs - WARM) : 0;
done:
    kd_tape_free(tape);
    kd_tensor_free(x);
    return st;
}

kd_status measure_subject(subject *s, kd_context *ctx, const images *d, const size_t *teacher, const subject *like, double patience)
{
    kd_context *one = NULL;
    kd_context_desc how;
    kd_status st;
    kd_model_freeze(s->model, 1);
    TRY(score_of(&s->result, ctx, d, s->m, s->model, teacher));
    s->parameters = kd_model_size(s->model);
    s->bytes = file_bytes(s->file);
    if (like) {
        s->multiply_adds = like->multiply_adds, s->ms1 = like->ms1, s->ms64 = like->ms64;
        return KD_OK;
    }
    kd_context_desc_init(&how, sizeof how);
    how.threads = 1;
    TRY(kd_context_create(&one, &how));
    TRY(latency(s, &s->ms1, one, d, 1, patience));
    if (patience > 0) TRY(latency(s, &s->ms64, one, d, 64, patience));
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

/* "| 12.3 ", or "| - " where it is unknown. */
static void cell(page *p, int known, const char *format, double value)
{
    put(p, "| ");
    if (known) put(p, format, value);
    else put(p, "-");
    put(p, " ");
}

static void put_row(page *p, const subject *s)
{
    char n[32];
    put(p, "| %s: %s | %.2f | %.2f ", s->what, s->name, s->result.top1, s->result.top5);
    cell(p, !isnan(s->result.agreement), "%.2f", s->result.agreement);
    put(p, "| %s | %.2f M ", thousands(s->parameters, n), (double)s->multiply_adds / 1e6);
    cell(p, s->ms1 > 0, "%.3f", s->ms1);
    cell(p, s->ms64 > 0, "%.2f", s->ms64);
    put(p, "| %s |\n", s->bytes < 0 ? "-" : thousands((size_t)s->bytes, n));
}

static void put_ratios(page *p, const subject *t, const subject *s)
{
    put(p, "| %s: %s ", s->what, s->name);
    put(p, "| %.2f x smaller | %.2f x fewer ", (double)t->parameters / (double)s->parameters,
        (double)t->multiply_adds / (double)s->multiply_adds);
    cell(p, t->bytes > 0 && s->bytes > 0, "%.2f x smaller", (double)t->bytes / (double)s->bytes);
    cell(p, t->ms1 > 0 && s->ms1 > 0, "%.2f x faster", t->ms1 / s->ms1);
    cell(p, t->ms64 > 0 && s->ms64 > 0, "%.2f x faster", t->ms64 / s->ms64);
    cell(p, t->result.top1 > 0, "%.1f %%", 100 * s->result.top1 / t->result.top1);
    put(p, "|\n");
}

kd_status measure_report(const char *path, const char *title, const subject *rows, size_t count, int taught, size_t images)
{
    char n[32];
    page p = { path ? fopen(path, "w") : NULL };
    if (path && !p.file) return complain(KD_ERR_IO, "%s: %s", path, strerror(errno));
    put(&p, "# %s\n\n| | top-1 %% | top-5 %% | as the teacher %% | parameters | multiply-adds | ms, 1 image | ms, 64 images | "
        "bytes of file |\n|---|---|---|---|---|---|---|---|---|\n", title);
    for (size_t i = 0; i < count; i++) put_row(&p, &rows[i]);
    put(&p, "\nOf all %s test images; multiply-adds are of one image; times are the median of many passes on one thread.\n",
        thousands(images, n));
    if (taught) {
        put(&p, "\n| beside the teacher | parameters | multiply-adds | bytes of file | 1 image | 64 images | accuracy kept |\n"
            "|---|---|---|---|---|---|---|\n");
        for (size_t i = 1; i < count; i++) put_ratios(&p, &rows[0], &rows[i]);
    }
    fflush(stdout);
    int bad = p.file && ferror(p.file);
    if (p.file && fclose(p.file)) bad = 1;
    return bad ? complain(KD_ERR_IO, "%s: %s", path, strerror(errno)) : KD_OK;
}
