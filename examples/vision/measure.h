/* measure.h - the table at the end of a run: what each network can do, and what it costs.
 * SPDX-License-Identifier: MIT */
#ifndef MEASURE_H
#define MEASURE_H
#include "vision.h"

typedef struct subject {
    const char *what, *name;   /* "student, last"; "resnet8" */
    const char *file;          /* its weights, for the size; not there: no size */
    kd_model   *model;
    method     *m;             /* outputs as it tests them, or NULL: the model's own */
    /* filled in by measure_subject: */
    score       result;        /* percent; agreement NAN without a teacher */
    size_t      parameters;
    uint64_t    multiply_adds; /* of one image: convolutions, matrix products and attention; norms, activations, sums are not counted */
    double      ms1, ms64;     /* milliseconds for 1 and for 64 images, one thread, median; 0: not measured */
    long        bytes;
} subject;

/* Accuracy and cost of `s`, whose model is then frozen: its weights are packed, as they would be in use.  teacher: its answers, or
 * NULL; `like` of the same architecture gives the costs, where it is not NULL; patience: seconds for each latency, 0: none. */
kd_status measure_subject(subject *s, kd_context *ctx, const images *d, const size_t *teacher, const subject *like, double patience);
/* The table and, where the first row is a teacher, how much smaller each other one is: Markdown, to stdout and to `path` (or NULL). */
kd_status measure_report(const char *path, const char *title, const subject *rows, size_t count, int taught, size_t images);
#endif
