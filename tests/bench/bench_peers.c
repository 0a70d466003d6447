/* bench_peers.c - libkd's side of `make bench-peers`: runs a case when told to, so that the two sides can take turns.
 * SPDX-License-Identifier: MIT
 *
 * Reads lines:  dump NAME PATH          inputs, weights, loss and gradients of one step, as safetensors
 *               run NAME THREADS SECONDS  answers with the median seconds of a step
 * tests/tools/bench_peers.py is the other side. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "kd.h"

#define NEED(call)                                                                                  \
    do {                                                                                            \
        if ((call) != KD_OK) fprintf(stderr, "bench_peers: %s\n", kd_last_error()), exit(1);        \
    } while (0)

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Everything a case may need; what it does not use stays NULL. */
typedef struct bench {
    kd_context      *ctx;
    kd_model        *teacher, *student;
    kd_loss_distill *loss;
    kd_optimizer    *opt;
    kd_tape         *look, *learn;
    kd_tensor       *x, *y, *s, *t, *grad;
    size_t           rows, classes;
} bench;

typedef struct bench_case {
    const char *name;
    void (*setup)(bench *b, const struct bench_case *c);
    void (*step)(bench *b);
    size_t rows, classes;
    size_t image;                       /* side of a square image of one channel */
    size_t student[5], teacher[5];      /* layers of an MLP; {0}: a CNN (teacher) or none */
    float  temperature;
} bench_case;

/* ---- the loss alone, on plain pointers ------------------------------------------------------------------- */
static void loss_setup(bench *b, const bench_case *c)
{
    kd_rng rng = kd_rng_make(1);
    size_t shape[2] = { c->rows, c->classes };
    NEED(kd_tensor_create(&b->s, b->ctx, KD_F32, 2, shape));
    NEED(kd_tensor_create(&b->t, b->ctx, KD_F32, 2, shape));
    NEED(kd_tensor_create(&b->grad, b->ctx, KD_F32, 2, shape));
    NEED(kd_tensor_create(&b->y, b->ctx, KD_I32, 1, shape));
    for (size_t i = 0; i < c->rows * c->classes; i++) {
        kd_tensor_f32(b->s)[i] = 2 * kd_rng_normal(&rng);
        kd_tensor_f32(b->t)[i] = 2 * kd_rng_normal(&rng);
    }
    for (size_t r = 0; r < c->rows; r++) ((int32_t *)kd_tensor_data(b->y))[r] = (int32_t)kd_rng_below(&rng, c->classes);
    kd_loss_distill_desc how;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.temperature = c->temperature;
    NEED(kd_loss_distill_create(&b->loss, b->ctx, &how));
}

static void loss_step(bench *b)
{
    kd_distill_batch batch;
    kd_distill_terms terms = { 0 };
    memset(&batch, 0, sizeof batch);
    batch.struct_size = sizeof batch;
    batch.rows = b->rows, batch.classes = b->classes;
    batch.student = kd_tensor_f32(b->s), batch.teacher = kd_tensor_f32(b->t), batch.labels = kd_tensor_data(b->y);
    batch.grad = kd_tensor_f32(b->grad);
    terms.struct_size = sizeof terms;
    NEED(kd_loss_distill_eval(b->loss, &batch, &terms));
}

/* ---- a training step --------------------------------------------------------------------------------------- */
static void network(kd_model **out, bench *b, const bench_case *c, const size_t *layers, uint64_t seed)
{
    size_t count = 0;
    while (count < 5 && layers[count]) count++;
    if (count) {
        NEED(kd_zoo_mlp(out, b->ctx, layers, count, KD_ACT_RELU, seed));
        return;
    }
    kd_cnn_desc cnn;
    kd_cnn_desc_init(&cnn, sizeof cnn);
    cnn.height = cnn.width = c->image;
    if (c->image == 8) cnn.hidden = 64;
    NEED(kd_zoo_cnn(out, b->ctx, &cnn, seed));
}

static void optimizer(bench *b)
{
    kd_optimizer_desc adam;
    kd_optimizer_desc_init(&adam, sizeof adam);
    adam.method = KD_OPT_ADAM;
    adam.lr = 1e-4f;
    NEED(kd_optimizer_create(&b->opt, b->ctx, &adam));
    NEED(kd_optimizer_add(b->opt, b->student));
}

static void step_setup(bench *b, const bench_case *c)
{
    kd_rng rng = kd_rng_make(1);
    size_t shape[4] = { c->rows, c->image, c->image, 1 };
    NEED(kd_tensor_create(&b->x, b->ctx, KD_F32, 4, shape));
    NEED(kd_tensor_create(&b->y, b->ctx, KD_I32, 1, shape));
    for (size_t i = 0; i < kd_tensor_count(b->x); i++) kd_tensor_f32(b->x)[i] = kd_rng_uniform(&rng);
    for (size_t r = 0; r < c->rows; r++) ((int32_t *)kd_tensor_data(b->y))[r] = (int32_t)kd_rng_below(&rng, c->classes);
    network(&b->student, b, c, c->student, 2);
    kd_loss_distill_desc how;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.temperature = c->temperature;
    if (c->temperature == 0) {          /* no teacher: from the labels alone */
        how.temperature = 1;
        how.hard_weight = 1, how.soft_weight = 0;
    } else {
        network(&b->teacher, b, c, c->teacher, 3);
        kd_model_freeze(b->teacher, 1);
    }
    NEED(kd_loss_distill_create(&b->loss, b->ctx, &how));
    optimizer(b);
    NEED(kd_tape_create(&b->look, b->ctx, KD_TAPE_INFER));
    NEED(kd_tape_create(&b->learn, b->ctx, KD_TAPE_TRAIN));
}

static double gradients(bench *b)
{
    kd_tensor *t = b->teacher ? kd_model_forward(b->teacher, b->look, b->x) : NULL;
    kd_tensor *l = kd_loss_distill_apply(b->loss, b->learn, kd_model_forward(b->student, b->learn, b->x), t, b->y);
    double value = kd_tensor_item(l);
    NEED(kd_backward(b->learn, l));
    kd_tape_reset(b->learn);
    kd_tape_reset(b->look);
    return value;
}

static void step_step(bench *b)
{
    gradients(b);
    NEED(kd_optimizer_step(b->opt));
}

/* ---- cases --------------------------------------------------------------------------------------------------- */
static const bench_case cases[] = {
    { .name = "kd_loss_128x10", .setup = loss_setup, .step = loss_step, .rows = 128, .classes = 10, .temperature = 4 },
    { .name = "kd_loss_128x100", .setup = loss_setup, .step = loss_step, .rows = 128, .classes = 100, .temperature = 4 },
    { .name = "kd_loss_256x1000", .setup = loss_setup, .step = loss_step, .rows = 256, .classes = 1000, .temperature = 4 },
    { .name = "kd_loss_64x32000", .setup = loss_setup, .step = loss_step, .rows = 64, .classes = 32000, .temperature = 4 },
    { .name = "digits_teacher_step", .setup = step_setup, .step = step_step, .rows = 64, .classes = 10, .image = 8 },
    { .name = "digits_student_step", .setup = step_setup, .step = step_step, .rows = 64, .classes = 10, .image = 8,
      .student = { 64, 32, 10 }, .temperature = 2 },
    { .name = "fashion_teacher_step", .setup = step_setup, .step = step_step, .rows = 128, .classes = 10, .image = 28 },
    { .name = "fashion_student_step", .setup = step_setup, .step = step_step, .rows = 128, .classes = 10, .image = 28,
      .student = { 784, 64, 10 }, .temperature = 2 },
};

static const bench_case *find(const char *name)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!strcmp(cases[i].name, name)) return &cases[i];
    fprintf(stderr, "bench_peers: no case %s\n", name);
    exit(1);
}

static void bench_make(bench *b, const bench_case *c, uint32_t threads)
{
    kd_context_desc how;
    memset(b, 0, sizeof *b);
    b->rows = c->rows, b->classes = c->classes;
    kd_context_desc_init(&how, sizeof how);
    how.threads = threads;
    NEED(kd_context_create(&b->ctx, &how));
    c->setup(b, c);
}

static void bench_free(bench *b)
{
    kd_tape_free(b->learn), kd_tape_free(b->look);
    kd_optimizer_free(b->opt);
    kd_loss_distill_free(b->loss);
    kd_model_free(b->student), kd_model_free(b->teacher);
    kd_tensor_free(b->x), kd_tensor_free(b->y), kd_tensor_free(b->s), kd_tensor_free(b->t), kd_tensor_free(b->grad);
    kd_context_free(b->ctx);
}

/* ---- dump: one file for the inputs and results, one for each model's weights ------------------------------------ */
static void dump(const bench_case *c, const char *path)
{
    bench b;
    char file[1100];
    bench_make(&b, c, 1);
    const char *names[8];
    const kd_tensor *tensors[8];
    size_t n = 0;
    kd_tensor *loss, *grads = NULL;
    NEED(kd_tensor_create(&loss, b.ctx, KD_F64, 0, NULL));
    names[n] = "y", tensors[n++] = b.y;
    if (b.x) {
        size_t count;
        kd_model_weights(b.student, &count);
        snprintf(file, sizeof file, "%s.student", path);
        NEED(kd_model_save(b.student, file));
        if (b.teacher) {
            snprintf(file, sizeof file, "%s.teacher", path);
            NEED(kd_model_save(b.teacher, file));
        }
        NEED(kd_tensor_fill(loss, gradients(&b)));
        NEED(kd_tensor_wrap(&grads, b.ctx, KD_F32, 1, &count, NULL, kd_model_grads(b.student, &count)));
        names[n] = "x", tensors[n++] = b.x;
        /* the gradients under the weights' names: a second save with gradients in place of weights */
        memcpy(kd_model_weights(b.student, &count), kd_model_grads(b.student, &count), count * sizeof(float));
        kd_model_touch(b.student);
        snprintf(file, sizeof file, "%s.grads", path);
        NEED(kd_model_save(b.student, file));
    } else {
        kd_distill_batch batch;
        kd_distill_terms terms = { 0 };
        memset(&batch, 0, sizeof batch);
        batch.struct_size = sizeof batch, terms.struct_size = sizeof terms;
        batch.rows = b.rows, batch.classes = b.classes;
        batch.student = kd_tensor_f32(b.s), batch.teacher = kd_tensor_f32(b.t), batch.labels = kd_tensor_data(b.y);
        batch.grad = kd_tensor_f32(b.grad);
        NEED(kd_loss_distill_eval(b.loss, &batch, &terms));
        NEED(kd_tensor_fill(loss, terms.loss));
        names[n] = "s", tensors[n++] = b.s;
        names[n] = "t", tensors[n++] = b.t;
        names[n] = "grad", tensors[n++] = b.grad;
    }
    names[n] = "loss", tensors[n++] = loss;
    NEED(kd_safetensors_save(b.ctx, path, names, tensors, n, NULL, 0));
    kd_tensor_free(loss), kd_tensor_free(grads);
    bench_free(&b);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double run(const bench_case *c, uint32_t threads, double budget)
{
    static double times[10001];
    bench b;
    size_t n = 0, inner = 1;
    bench_make(&b, c, threads);
    for (int i = 0; i < 3; i++) c->step(&b);
    double start = now();
    c->step(&b);
    double once = now() - start;
    if (once < 2e-4) inner = (size_t)(2e-4 / (once + 1e-9)) + 1;
    for (start = now(); n < 5 || (now() - start < budget && n < 10000); n++) {
        double t0 = now();
        for (size_t i = 0; i < inner; i++) c->step(&b);
        times[n] = (now() - t0) / (double)inner;
    }
    qsort(times, n, sizeof *times, ascending);
    bench_free(&b);
    return times[n / 2];
}

int main(void)
{
    char line[2048], name[64], path[1024];
    unsigned threads;
    double budget;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "dump %63s %1023s", name, path) == 2) {
            dump(find(name), path);
            puts("ok");
        } else if (sscanf(line, "run %63s %u %lf", name, &threads, &budget) == 3) {
            printf("%.9g\n", run(find(name), threads, budget));
        } else if (!strncmp(line, "list", 4)) {
            for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) printf("%s ", cases[i].name);
            puts("");
        } else {
            puts("?");
        }
        fflush(stdout);
    }
    return 0;
}
