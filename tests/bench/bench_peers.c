/* bench_peers.c - libkd's side of `make bench-peers`: runs a case when told to, so that the two sides can take turns.
 * SPDX-License-Identifier: MIT
 *
 * Reads lines, answers each by one:
 *   list                  the names of the cases
 *   case NAME             its kind, work of one run, numbers
 *   open NAME THREADS     make it ready, in place of what was open
 *   dump PATH             its inputs and results, as safetensors; a network's weights and gradients beside it
 *   run SECONDS LEAST     the median seconds of a run: calls for so long, at least so many
 *   isa                   the instruction set in use
 * As `bench_peers memory NAME`: the peak memory of a few runs in this process, in bytes.
 * tests/tools/bench_peers.py is the other side. */
#include "bench_cases.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kinds[] = {
    [BENCH_LOSS] = "loss", [BENCH_METHOD] = "method", [BENCH_FEATURE] = "feature",
    [BENCH_GEMM] = "gemm", [BENCH_CONV_FORWARD] = "conv_forward", [BENCH_CONV_DATA] = "conv_data",
    [BENCH_CONV_WEIGHT] = "conv_weight", [BENCH_CONV_BACKWARD] = "conv_backward", [BENCH_STEP] = "step", [BENCH_INFER] = "infer",
};

static const bench_case *find(const char *name)
{
    const bench_case *c = bench_find(name);
    if (!c) fprintf(stderr, "bench_peers: no case %s\n", name), exit(1);
    return c;
}

/* ---- dump: one file for the inputs and results, one for each model's weights -------------------------------------------- */
typedef struct listing { const char *names[40]; const kd_tensor *tensors[40]; size_t n; } listing;
static void list(listing *l, const char *name, const kd_tensor *t)
{
    if (!t) return;
    l->names[l->n] = name;
    l->tensors[l->n++] = t;
}

static void save_model(const kd_model *model, const char *path, const char *end)
{
    char file[1100];
    if (!model) return;
    snprintf(file, sizeof file, "%s.%s", path, end);
    BENCH_NEED(kd_model_save(model, file));
}

static double dump_step(bench *b, const char *path)
{
    size_t count;
    save_model(b->student, path, "student");
    save_model(b->teacher, path, "teacher");
    double loss = bench_gradients(b);
    /* the gradients under the weights' names: a save with gradients in place of weights */
    float *weights = kd_model_weights(b->student, &count), *kept = malloc(count * sizeof *kept);
    if (!kept) bench_die("no memory");
    memcpy(kept, weights, count * sizeof *kept);
    memcpy(weights, kd_model_grads(b->student, &count), count * sizeof *kept);
    kd_model_touch(b->student);
    save_model(b->student, path, "grads");
    memcpy(weights, kept, count * sizeof *kept);
    kd_model_touch(b->student);
    kd_model_zero_grads(b->student);
    free(kept);
    return loss;
}

static void dump(bench *b, const char *path)
{
    listing l = { .n = 0 };
    kd_tensor *loss, *out = NULL;
    BENCH_NEED(kd_tensor_create(&loss, b->ctx, KD_F64, 0, NULL));
    switch (b->what->kind) {
    case BENCH_LOSS:
    case BENCH_METHOD: BENCH_NEED(kd_tensor_fill(loss, bench_loss(b).loss)); break;
    case BENCH_FEATURE: BENCH_NEED(kd_tensor_fill(loss, bench_feature_dump(b))); break;
    case BENCH_STEP: BENCH_NEED(kd_tensor_fill(loss, dump_step(b, path))); break;
    case BENCH_INFER:
        BENCH_NEED(kd_tensor_create(&out, b->ctx, KD_F32, 2, (size_t[]){ b->what->n[0], b->what->classes }));
        bench_infer(b, kd_tensor_f32(out));
        save_model(b->student, path, "student");
        break;
    default: bench_run(b);
    }
    list(&l, "loss", loss), list(&l, "out", out);
    list(&l, "x", b->x), list(&l, "y", b->y);
    list(&l, "a", b->a), list(&l, "b", b->b), list(&l, "c", b->c), list(&l, "d", b->d), list(&l, "dw", b->dw);
    list(&l, "second", b->second), list(&l, "teacher_second", b->teacher_second), list(&l, "grad_second", b->grad_second);
    list(&l, "classes", b->classes), list(&l, "more0", b->more[0]), list(&l, "more1", b->more[1]);
    static const char *const taps[3][BENCH_TAPS] = { { "s0", "s1", "s2" }, { "t0", "t1", "t2" }, { "ds0", "ds1", "ds2" } };
    for (size_t k = 0; k < 3; k++)
        for (size_t i = 0; i < BENCH_TAPS; i++) list(&l, taps[k][i], b->taps[k][i]);
    list(&l, "logits_s", b->logits[0]), list(&l, "logits_t", b->logits[1]), list(&l, "dlogits", b->logits[2]);
    list(&l, "head", b->head[0]), list(&l, "head_bias", b->head[1]);
    list(&l, "adapters", b->adapters[0]), list(&l, "dadapters", b->adapters[1]);
    list(&l, "memory_s", b->adapters[2]), list(&l, "memory_t", b->adapters[3]);
    BENCH_NEED(kd_safetensors_save(b->ctx, path, l.names, l.tensors, l.n, NULL, 0));
    kd_tensor_free(loss), kd_tensor_free(out);
}

/* ---- the protocol ---------------------------------------------------------------------------------------------------------- */
/* The most this program had in memory, without what its parent had before exec (which getrusage counts). */
static size_t peak_bytes(void)
{
    char line[256];
    unsigned long kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lu kB", &kb) == 1) break;
    if (f) fclose(f);
    return kb * 1024;
}

static void describe(const bench_case *c)
{
    printf("%s %.17g %zu", kinds[c->kind], bench_work(c), c->classes);
    for (size_t i = 0; i < KD_COUNT(c->n); i++) printf(" %zu", c->n[i]);
    printf(" %g %s\n", (double)c->temperature, c->method == KD_OPT_ADAM ? "adam" : "sgd");
}

int main(int argc, char **argv)
{
    char line[2048], name[64], path[1024];
    unsigned threads, least;
    double budget;
    bench b = { .what = NULL };
    if (argc == 3 && !strcmp(argv[1], "memory")) {
        bench_open(&b, find(argv[2]), 1);
        for (int i = 0; i < 5; i++) bench_run(&b);
        printf("%zu\n", peak_bytes());
        return 0;
    }
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "open %63s %u", name, &threads) == 2) {
            bench_close(&b);
            bench_open(&b, find(name), threads);
            puts("ok");
        } else if (sscanf(line, "case %63s", name) == 1) {
            describe(find(name));
        } else if (b.what && sscanf(line, "dump %1023s", path) == 1) {
            dump(&b, path);
            puts("ok");
        } else if (b.what && sscanf(line, "run %lf %u", &budget, &least) == 2) {
            printf("%.9g\n", bench_median(bench_run, &b, budget, least));
        } else if (!strncmp(line, "list", 4)) {
            for (size_t i = 0; i < bench_case_count; i++) printf("%s ", bench_cases[i].name);
            puts("");
        } else if (!strncmp(line, "isa", 3)) {
            puts(kd_context_isa(NULL));
        } else {
            puts("?");
        }
        fflush(stdout);
    }
    bench_close(&b);
    return 0;
}
