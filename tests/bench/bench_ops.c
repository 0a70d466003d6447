/* bench_ops.c - ops that memory limits, as a part of what the memory can do for as many bytes.
 * SPDX-License-Identifier: MIT
 *
 * Bytes are the least that the definition asks for: each input read once, each result written once (batch norm reads its input
 * twice).  "with gradient" runs the op, a sum over its result, and backward: the sum reads the result, its gradient is written. */
#include "bench.h"
#include <stdio.h>

typedef struct ops {
    kd_context *ctx;
    kd_tensor  *x, *z;                       /* [64, 32, 32, 64] */
    kd_tensor  *weight, *bias, *mean, *var;  /* [64]             */
    kd_tape    *tape;
    const struct op *op;
    bool        backward;
} ops;

typedef struct op {
    const char *name;
    kd_tensor *(*run)(ops *o);
    double forward, backward;                /* arrays as large as x that are read or written; backward 0: not measured */
    double result;                           /* the result's size, x being 1 */
} op;

static const uint32_t two[] = { 2, 2 }, none[] = { 0, 0 };
static kd_tensor *relu(ops *o) { return kd_relu(o->tape, o->x); }
static kd_tensor *gelu(ops *o) { return kd_gelu(o->tape, o->x); }
static kd_tensor *add(ops *o) { return kd_add(o->tape, o->x, o->z); }
static kd_tensor *max_pool(ops *o) { return kd_max_pool2d(o->tape, o->x, two, two, none); }
static kd_tensor *avg_pool(ops *o) { return kd_avg_pool2d(o->tape, o->x, two, two, none); }
static kd_tensor *global_pool(ops *o) { return kd_global_avg_pool(o->tape, o->x); }
static kd_tensor *layer_norm(ops *o) { return kd_layer_norm(o->tape, o->x, o->weight, o->bias, 1e-5f); }
static kd_tensor *softmax(ops *o) { return kd_softmax(o->tape, o->x, 1.0f); }
static kd_tensor *dropout(ops *o) { return kd_dropout(o->tape, o->x, 0.1f); }
static kd_tensor *batch_norm(ops *o)
{
    return kd_batch_norm(o->tape, o->x, o->weight, o->bias, o->mean, o->var, 0.1f, 1e-5f);
}

static const op list[] = {
    { "relu", relu, 2, 3, 1 }, { "gelu", gelu, 2, 3, 1 }, { "add", add, 3, 2, 1 },
    { "batch_norm (training)", batch_norm, 3, 5, 1 }, { "layer_norm", layer_norm, 2, 3, 1 }, { "softmax", softmax, 2, 3, 1 },
    { "max_pool2d 2x2", max_pool, 1.25, 2.25, 0.25 }, { "avg_pool2d 2x2", avg_pool, 1.25, 1.25, 0.25 },
    { "global_avg_pool", global_pool, 1, 1, 0 }, { "dropout", dropout, 2, 2, 1 },
};

static void run_op(void *arg)
{
    ops *o = arg;
    kd_tensor *y = o->op->run(o);
    if (o->backward) BENCH_NEED(kd_backward(o->tape, kd_sum(o->tape, y, 0, 0)));
    BENCH_NEED(kd_tape_status(o->tape));
    kd_tape_reset(o->tape);
}

static kd_tensor *numbers(kd_context *ctx, size_t rank, const size_t *shape)
{
    kd_tensor *t;
    kd_rng rng = kd_rng_make(rank);
    BENCH_NEED(kd_tensor_create(&t, ctx, KD_F32, rank, shape));
    for (size_t i = 0; i < kd_tensor_count(t); i++) kd_tensor_f32(t)[i] = kd_rng_uniform(&rng) - 0.3f;
    return t;
}

static double op_seconds(const op *which, bool backward, uint32_t threads)
{
    ops o = { .op = which, .backward = backward };
    kd_context_desc how;
    kd_context_desc_init(&how, sizeof how);
    how.threads = threads;
    BENCH_NEED(kd_context_create(&o.ctx, &how));
    static const size_t shape[] = { 64, 32, 32, 64 };
    o.x = numbers(o.ctx, 4, shape), o.z = numbers(o.ctx, 4, shape);
    kd_tensor **const small[] = { &o.weight, &o.bias, &o.mean, &o.var };
    for (size_t i = 0; i < KD_COUNT(small); i++) {
        *small[i] = numbers(o.ctx, 1, shape + 3);
        BENCH_NEED(kd_tensor_fill(*small[i], 1));
    }
    BENCH_NEED(kd_tape_create(&o.tape, o.ctx, KD_TAPE_TRAIN));
    if (backward) (void)kd_requires_grad(o.tape, o.x);
    const double t = bench_median(run_op, &o, 0.08, 3);
    kd_tape_free(o.tape);
    kd_tensor_free(o.x), kd_tensor_free(o.z);
    for (size_t i = 0; i < KD_COUNT(small); i++) kd_tensor_free(*small[i]);
    kd_context_free(o.ctx);
    return t;
}

static void row(const char *name, double bytes, double limit, double one, double two_threads)
{
    printf("  %-38s %10.1f %8.1f %6.1f%% %10.1f %6.2fx\n", name, one * 1e6, bytes / one * 1e-9, 100 * bytes / one / limit,
           bytes / two_threads * 1e-9, one / two_threads);
}

static void step(void *arg) { BENCH_NEED(kd_optimizer_step(arg)); }

static double optimizer_seconds(uint32_t method, uint32_t threads)
{
    kd_context_desc how;
    kd_context *ctx;
    kd_model *model;
    kd_optimizer *opt;
    kd_optimizer_desc desc;
    kd_context_desc_init(&how, sizeof how);
    how.threads = threads;
    BENCH_NEED(kd_context_create(&ctx, &how));
    BENCH_NEED(kd_zoo_mlp(&model, ctx, (size_t[]){ 2048, 2048 }, 2, KD_ACT_NONE, 1));
    kd_optimizer_desc_init(&desc, sizeof desc);
    desc.method = method;
    desc.weight_decay = 5e-4f;
    BENCH_NEED(kd_optimizer_create(&opt, ctx, &desc));
    BENCH_NEED(kd_optimizer_add(opt, model));
    const double t = bench_median(step, opt, 0.08, 3);
    kd_optimizer_free(opt);
    kd_model_free(model);
    kd_context_free(ctx);
    return t;
}

void bench_show_ops(void)
{
    const double array = 4.0 * 64 * 32 * 32 * 64, weights = 4.0 * 2048 * 2049, limit = bench_memory(3 * array, false);
    printf("\n%-44s %7s     GB/s  of mem.  2 threads  scaling\n", "ops on [64, 32, 32, 64]", "us");
    for (size_t i = 0; i < KD_COUNT(list); i++) {
        char name[64];
        row(list[i].name, list[i].forward * array, limit, op_seconds(&list[i], false, 1), op_seconds(&list[i], false, 2));
        snprintf(name, sizeof name, "%s, with gradient", list[i].name);
        row(name, (list[i].forward + list[i].backward + 2 * list[i].result) * array, limit, op_seconds(&list[i], true, 1),
            op_seconds(&list[i], true, 2));
    }
    const double in_place = bench_memory(4 * weights, true);
    row("sgd step, 2048 x 2049 weights", 6 * weights, in_place, optimizer_seconds(KD_OPT_SGD, 1), optimizer_seconds(KD_OPT_SGD, 2));
    row("adam step, 2048 x 2049 weights", 8 * weights, in_place, optimizer_seconds(KD_OPT_ADAM, 1), optimizer_seconds(KD_OPT_ADAM, 2));
}
