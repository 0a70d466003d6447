/* measure.h - the table at the end of a run: what each network can do, and what it costs.
 * SPDX-License-Identifier: MIT */
#ifndef MEASURE_H
#define MEASURE_H
#include "vision.h"

typedef struct subject {
    const char *what, *name;   /* "student, last"; "resnet8" */
    const char *file;          /* its weights, for the size; NULL or not there: no size */
    kd_model   *model;
    method     *m;             /* outputs as it tests them, or NULL: the model's own */
    /* filled in by measure_subject: */
    score       result;        /* percent; agreement NAN for the teacher itself */
    size_t      parameters;
    uint64_t    multiply_adds; /* of one image */
    double      ms1, ms64;     /* milliseconds for 1 and for 64 images, one thread, median */
    long        bytes;
} subject;

/* Accuracy and cost of `s`; teacher: its answers, or NULL; `like` of the same architecture gives the costs, where it is not NULL. */
kd_status measure_subject(subject *s, kd_context *ctx, const images *d, const size_t *teacher, const subject *like);
/* The table, and how much smaller each is than `teacher` (NULL: only the table), in Markdown, to stdout and `path`. */
kd_status measure_report(const char *path, const char *title, const subject *teacher, const subject *rows, size_t count);
#endif
