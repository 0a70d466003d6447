/* bench_cases.c - the cases, made ready, run and timed.
 * SPDX-License-Identifier: MIT */
#include "bench_cases.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOSS(r, c) { .name = "kd_loss_" #r "x" #c, .kind = BENCH_LOSS, .n = { r, c }, .classes = c, .temperature = 4 }
#define METHOD(id, name_, r, c)                                                                      \
    { .name = "method_" name_ "_" #r "x" #c, .kind = BENCH_METHOD, .n = { r, c }, .classes = c, .distill = KD_DISTILL_##id }
#define DISTILL(id, name, source) \
    METHOD(id, name, 64, 100), METHOD(id, name, 64, 1000), METHOD(id, name, 256, 100), METHOD(id, name, 256, 1000),
#define FEATURE(id, name_, source)                                                                  \
    { .name = "method_" name_ "_b64", .kind = BENCH_FEATURE, .n = { 64 }, .distill = KD_FEATURE_##id },  \
    { .name = "method_" name_ "_b256", .kind = BENCH_FEATURE, .n = { 256 }, .distill = KD_FEATURE_##id },
#define GEMM(m, n_, k) { .name = "sgemm_" #m "x" #n_ "x" #k, .kind = BENCH_GEMM, .n = { m, n_, k } }
#define CONV(in, out, side, stride, end, how, kind_)                                                \
    { .name = "conv_" #in "_" #out "_at" #side end "_" how, .kind = kind_, .n = { 64, side, in, out, stride, 3, 1 } }
#define CONVS(in, out, side, stride, end)                                                           \
    CONV(in, out, side, stride, end, "forward", BENCH_CONV_FORWARD),                                \
    CONV(in, out, side, stride, end, "backward", BENCH_CONV_BACKWARD),                              \
    CONV(in, out, side, stride, end, "data", BENCH_CONV_DATA)
#define STEP .kind = BENCH_STEP, .method = KD_OPT_SGD
#define INFER(name_, net, rows) { .name = name_, .kind = BENCH_INFER, .n = { rows, 32, 32, 3 }, .classes = 100, .student = net }

const bench_case bench_cases[] = {
    LOSS(128, 10), LOSS(128, 100), LOSS(256, 1000), LOSS(64, 32000), LOSS(512, 32000), LOSS(64, 131072),
    GEMM(128, 256, 784), GEMM(128, 1200, 1200), GEMM(512, 512, 512), GEMM(1024, 1024, 1024), GEMM(1024, 3072, 768),
    GEMM(1024, 768, 3072), GEMM(2048, 2048, 2048), GEMM(65536, 16, 144), GEMM(64, 64, 64), GEMM(32, 32, 32),
    CONVS(16, 16, 32, 1, ""), CONVS(32, 32, 16, 1, ""), CONVS(64, 64, 8, 1, ""), CONVS(128, 128, 16, 1, ""),
    CONVS(256, 256, 8, 1, ""), CONVS(16, 32, 32, 2, "_stride2"), CONVS(64, 64, 32, 1, ""),
    CONV(3, 16, 32, 1, "", "forward", BENCH_CONV_FORWARD), CONV(3, 16, 32, 1, "", "weight", BENCH_CONV_WEIGHT),
    { .name = "mlp_step", STEP, .n = { 128, 28, 28, 1 }, .classes = 10, .temperature = 4,
      .student = "mlp 784 256 10", .teacher = "mlp 784 1200 1200 10" },
    { .name = "digits_mlp_step", STEP, .n = { 64, 8, 8, 1 }, .classes = 10, .temperature = 4,
      .student = "mlp 64 32 10", .teacher = "mlp 64 256 256 10" },
    { .name = "cnn_step", STEP, .n = { 128, 28, 28, 1 }, .classes = 10, .student = "cnn 28" },
    { .name = "resnet20_resnet56_step", STEP, .n = { 64, 32, 32, 3 }, .classes = 100, .temperature = 4,
      .student = "resnet 20 1", .teacher = "resnet 56 1" },
    { .name = "resnet20_step", STEP, .n = { 64, 32, 32, 3 }, .classes = 100, .student = "resnet 20 1" },
    { .name = "resnet8x4_resnet32x4_step", STEP, .n = { 64, 32, 32, 3 }, .classes = 100, .temperature = 4,
      .student = "resnet 8 4", .teacher = "resnet 32 4" },
    { .name = "deit_ti_step", .kind = BENCH_STEP, .method = KD_OPT_ADAM, .n = { 8, 224, 224, 3 }, .classes = 1000,
      .student = "deit 224 16 192 12 3", .distill = KD_DISTILL_DEIT_HARD },
    { .name = "deit_ti_b8_infer", .kind = BENCH_INFER, .n = { 8, 224, 224, 3 }, .classes = 1000, .student = "deit 224 16 192 12 3" },
    { .name = "vit_cifar_step", .kind = BENCH_STEP, .method = KD_OPT_ADAM, .n = { 64, 32, 32, 3 }, .classes = 100,
      .student = "vit 32 4 192 6 3" },
    /* the demo's own */
    { .name = "lstm_step", STEP, .n = { 32, 64, 64 }, .classes = 10, .student = "lstm 256 2" },
    { .name = "digits_teacher_step", .kind = BENCH_STEP, .method = KD_OPT_ADAM, .n = { 64, 8, 8, 1 }, .classes = 10,
      .student = "cnn 8" },
    { .name = "digits_student_step", .kind = BENCH_STEP, .method = KD_OPT_ADAM, .n = { 64, 8, 8, 1 }, .classes = 10,
      .temperature = 2, .student = "mlp 64 32 10", .teacher = "cnn 8" },
    { .name = "fashion_student_step", .kind = BENCH_STEP, .method = KD_OPT_ADAM, .n = { 128, 28, 28, 1 }, .classes = 10,
      .temperature = 2, .student = "mlp 784 64 10", .teacher = "cnn 28" },
    INFER("resnet56_b64_infer", "resnet 56 1", 64), INFER("resnet56_b1_infer", "resnet 56 1", 1),
    INFER("resnet20_b1_infer", "resnet 20 1", 1), INFER("resnet32x4_b64_infer", "resnet 32 4", 64),
#include "distill/methods.def"
};
const size_t bench_case_count = KD_COUNT(bench_cases);

const bench_case *bench_find(const char *name)
{
    for (size_t i = 0; i < bench_case_count; i++)
        if (!strcmp(bench_cases[i].name, name)) return &bench_cases[i];
    return NULL;
}

_Noreturn void bench_die(const char *text)
{
    fprintf(stderr, "bench: %s\n", text);
    exit(1);
}

/* ---- inputs ------------------------------------------------------------------------------------------------------------- */
static kd_tensor *zeros(bench *b, size_t rank, const size_t *shape)
{
    kd_tensor *t;
    BENCH_NEED(kd_tensor_create(&t, b->ctx, KD_F32, rank, shape));
    return t;
}

/* Uniform in [low, high). */
static kd_tensor *uniform(bench *b, kd_rng *rng, size_t rank, const size_t *shape, float low, float high)
{
    kd_tensor *t = zeros(b, rank, shape);
    float *p = kd_tensor_f32(t);
    for (size_t i = 0; i < kd_tensor_count(t); i++) p[i] = low + (high - low) * kd_rng_uniform(rng);
    return t;
}

static void make_labels(bench *b, kd_rng *rng)
{
    BENCH_NEED(kd_tensor_create(&b->y, b->ctx, KD_I32, 1, b->what->n));
    for (size_t r = 0; r < b->what->n[0]; r++) ((int32_t *)kd_tensor_data(b->y))[r] = (int32_t)kd_rng_below(rng, b->what->classes);
}

static void make_loss(bench *b)
{
    kd_loss_distill_desc how;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.temperature = b->what->temperature;
    if (b->what->distill) {
        BENCH_NEED(kd_loss_distill_desc_for(&how, sizeof how, b->what->distill));
    } else if (b->what->temperature == 0) {
        how.temperature = 1;
        how.hard_weight = 1, how.soft_weight = 0;
    }
    BENCH_NEED(kd_loss_distill_create(&b->loss, b->ctx, &how));
}

enum { TOP = 16 };   /* classes of a sparse teacher's row */

/* Defaults of the method's paper, without its warm-up; MLKD without its hard term, which has two views. */
static void open_method(bench *b, kd_rng *rng)
{
    kd_loss_distill_desc how;
    const size_t rows = b->what->n[0], classes = b->what->n[1];
    const uint32_t m = b->what->distill;
    BENCH_NEED(kd_loss_distill_desc_for(&how, sizeof how, m));
    how.warmup = 0;
    if (m == KD_DISTILL_MLKD) how.hard_weight = 0;
    BENCH_NEED(kd_loss_distill_create(&b->loss, b->ctx, &how));
    b->a = uniform(b, rng, 2, b->what->n, -4, 4);
    b->c = zeros(b, 2, b->what->n);
    make_labels(b, rng);
    if (m == KD_DISTILL_TOP_K) {
        const size_t shape[] = { rows, TOP };
        BENCH_NEED(kd_tensor_create(&b->classes, b->ctx, KD_I32, 2, shape));
        for (size_t i = 0, first = 0; i < rows * TOP; i++) {
            if (i % TOP == 0) first = kd_rng_below(rng, classes);
            ((int32_t *)kd_tensor_data(b->classes))[i] = (int32_t)((first + i % TOP) % classes);
        }
        b->b = uniform(b, rng, 2, shape, -4, 4);
    } else if (m != KD_DISTILL_USKD && m != KD_DISTILL_TFKD && m != KD_DISTILL_LABEL_SMOOTHING) {
        b->b = uniform(b, rng, 2, b->what->n, -4, 4);
    }
    if (m == KD_DISTILL_DEIT_SOFT || m == KD_DISTILL_DEIT_HARD || m == KD_DISTILL_USKD || m == KD_DISTILL_MLKD) {
        b->second = uniform(b, rng, 2, b->what->n, -4, 4);
        b->grad_second = zeros(b, 2, b->what->n);
    }
    if (m == KD_DISTILL_MLKD) b->teacher_second = uniform(b, rng, 2, b->what->n, -4, 4);
    for (size_t i = 0; i < KD_COUNT(b->more) && m == KD_DISTILL_MULTI_TEACHER; i++)
        b->more[i] = uniform(b, rng, 2, b->what->n, -4, 4);
}

static void open_product(bench *b, kd_rng *rng)
{
    const size_t m = b->what->n[0], n = b->what->n[1], k = b->what->n[2], form = b->what->n[3];
    b->a = uniform(b, rng, 2, form == BENCH_TN ? (size_t[]){ k, m } : (size_t[]){ m, k }, -1, 1);
    b->b = uniform(b, rng, 2, form == BENCH_NT ? (size_t[]){ n, k } : (size_t[]){ k, n }, -1, 1);
    b->c = zeros(b, 2, (size_t[]){ m, n });
    if (form == BENCH_BIAS_RELU) b->bias = uniform(b, rng, 1, &n, -1, 1);
}

static size_t conv_out(const size_t *n) { return (n[1] + n[5] / 2 * 2 - n[5]) / n[4] + 1; }

static void open_conv(bench *b, kd_rng *rng)
{
    const size_t *n = b->what->n, out = conv_out(n), pad = n[5] / 2;
    const size_t x[] = { n[0], n[1], n[1], n[2] }, y[] = { n[0], out, out, n[3] }, w[] = { n[5], n[5], n[2] / n[6], n[3] };
    b->conv = (kd__conv_shape){ n[0], n[1], n[1], n[2], n[5], n[5], n[3], out, out, n[4], n[4], pad, pad, 1, 1, n[6], false };
    b->a = uniform(b, rng, 4, x, -1, 1);
    b->b = uniform(b, rng, 4, w, -1, 1);
    b->c = uniform(b, rng, 4, y, -1, 1);
    b->d = zeros(b, 4, b->what->kind == BENCH_CONV_FORWARD ? y : x);
    b->dw = zeros(b, 4, w);
}

/* ---- networks ------------------------------------------------------------------------------------------------------------ */
static kd_model *network(bench *b, const char *what, uint64_t seed)
{
    size_t v[8], count = 0;
    kd_model *model;
    const char *rest = what + strcspn(what, " ");
    for (char *end; count < KD_COUNT(v) && *rest; rest = end) v[count++] = strtoul(rest, &end, 10);
    if (!strncmp(what, "mlp", 3)) {
        BENCH_NEED(kd_zoo_mlp(&model, b->ctx, v, count, KD_ACT_RELU, seed));
    } else if (!strncmp(what, "resnet", 6)) {
        BENCH_NEED(kd_zoo_resnet_cifar(&model, b->ctx, v[0], v[1], b->what->classes, seed));
    } else if (!strncmp(what, "vit", 3) || !strncmp(what, "deit", 4)) {   /* image, patch, width, depth, heads */
        kd_vit_desc vit;
        kd_vit_desc_init(&vit, sizeof vit);
        vit.image = v[0], vit.patch = v[1], vit.width = v[2], vit.depth = v[3], vit.heads = v[4];
        vit.classes = b->what->classes;
        vit.distilled = *what == 'd';
        BENCH_NEED(kd_zoo_vit(&model, b->ctx, &vit, seed));
    } else if (!strncmp(what, "lstm", 4)) {   /* hidden layers; the classes from the last step */
        kd_rnn_desc rnn;
        kd_rnn_desc_init(&rnn, sizeof rnn);
        rnn.layers = (uint32_t)v[1];
        BENCH_NEED(kd_model_create(&model, b->ctx));
        kd_layer_lstm(kd_model_root(model), "lstm", b->what->n[2], v[0], &rnn);
        kd_layer_last_step(kd_model_root(model), "last");
        kd_layer_linear(kd_model_root(model), "fc", v[0], b->what->classes, 1);
        BENCH_NEED(kd_model_finish(model, seed));
    } else {
        kd_cnn_desc cnn;
        kd_cnn_desc_init(&cnn, sizeof cnn);
        cnn.height = cnn.width = v[0];
        if (v[0] == 8) cnn.hidden = 64;
        BENCH_NEED(kd_zoo_cnn(&model, b->ctx, &cnn, seed));
    }
    return model;
}

/* The running statistics of a network that is not trained, from a few images: without them its activations double in each
 * block.  One forward moves them by batch norm's momentum, a tenth. */
static void calibrate(bench *b, kd_model *model)
{
    size_t buffers;
    kd_param_info p = { .struct_size = sizeof p };
    (void)kd_model_buffers(model, &buffers);
    if (!buffers) return;
    kd_tensor *few;
    size_t shape[4] = { KD_MIN(b->what->n[0], (size_t)4), b->what->n[1], b->what->n[2], b->what->n[3] };
    BENCH_NEED(kd_tensor_wrap(&few, b->ctx, KD_F32, 4, shape, NULL, kd_tensor_data(b->x)));
    (void)kd_model_forward(model, b->learn, few);
    BENCH_NEED(kd_tape_status(b->learn));
    kd_tape_reset(b->learn);
    kd_tensor_free(few);
    for (size_t i = 0; i < kd_model_parameter_count(model); i++) {
        BENCH_NEED(kd_model_parameter_at(model, i, &p));
        if (!(p.kind & KD_PARAM_BUFFER)) continue;
        const float before = strstr(p.name, "running_var") ? 1.0f : 0.0f;
        float *v = kd_tensor_f32(p.tensor);
        for (size_t j = 0; j < kd_tensor_count(p.tensor); j++) {
            v[j] = before + 10 * (v[j] - before);
            if (before > 0 && v[j] < 1e-3f) v[j] = 1e-3f;
        }
    }
    kd_model_touch(model);
}

static void open_network(bench *b, kd_rng *rng)
{
    const bench_case *c = b->what;
    size_t rank = 0;
    while (rank < KD_COUNT(c->n) && c->n[rank]) rank++;
    b->x = uniform(b, rng, rank, c->n, 0, 1);
    make_labels(b, rng);
    BENCH_NEED(kd_tape_create(&b->look, b->ctx, KD_TAPE_INFER));
    BENCH_NEED(kd_tape_create(&b->learn, b->ctx, KD_TAPE_TRAIN));
    b->student = network(b, c->student, 2);
    if (c->kind == BENCH_INFER) {
        calibrate(b, b->student);
        kd_model_freeze(b->student, 1);
        return;
    }
    if (c->teacher) {
        b->teacher = network(b, c->teacher, 3);
        calibrate(b, b->teacher);
        kd_model_freeze(b->teacher, 1);
    }
    make_loss(b);
    if (c->distill) b->b = uniform(b, rng, 2, (size_t[]){ c->n[0], c->classes }, -4, 4);
    kd_optimizer_desc how;
    kd_optimizer_desc_init(&how, sizeof how);
    how.method = c->method;
    how.lr = 1e-4f;
    how.weight_decay = c->method == KD_OPT_SGD ? 5e-4f : 0;
    BENCH_NEED(kd_optimizer_create(&b->opt, b->ctx, &how));
    BENCH_NEED(kd_optimizer_add(b->opt, b->student));
}

void bench_open(bench *b, const bench_case *what, uint32_t threads)
{
    kd_context_desc how;
    kd_rng rng = kd_rng_make(1);
    memset(b, 0, sizeof *b);
    b->what = what;
    kd_context_desc_init(&how, sizeof how);
    how.threads = threads;
    BENCH_NEED(kd_context_create(&b->ctx, &how));
    switch (what->kind) {
    case BENCH_LOSS:
        b->a = uniform(b, &rng, 2, what->n, -4, 4);
        b->b = uniform(b, &rng, 2, what->n, -4, 4);
        b->c = zeros(b, 2, what->n);
        make_labels(b, &rng);
        make_loss(b);
        return;
    case BENCH_METHOD: open_method(b, &rng); return;
    case BENCH_FEATURE: bench_feature_open(b, &rng); return;
    case BENCH_GEMM: open_product(b, &rng); return;
    case BENCH_CONV_FORWARD:
    case BENCH_CONV_DATA:
    case BENCH_CONV_WEIGHT:
    case BENCH_CONV_BACKWARD: open_conv(b, &rng); return;
    case BENCH_STEP:
    case BENCH_INFER: open_network(b, &rng); return;
    }
}

void bench_close(bench *b)
{
    kd_tape_free(b->learn), kd_tape_free(b->look);
    bench_feature_close(b);
    kd_optimizer_free(b->opt);
    kd_loss_distill_free(b->loss);
    kd_model_free(b->student), kd_model_free(b->teacher);
    kd_tensor_free(b->x), kd_tensor_free(b->y), kd_tensor_free(b->a), kd_tensor_free(b->b), kd_tensor_free(b->c);
    kd_tensor_free(b->d), kd_tensor_free(b->dw), kd_tensor_free(b->bias);
    kd_tensor_free(b->second), kd_tensor_free(b->teacher_second), kd_tensor_free(b->grad_second), kd_tensor_free(b->classes);
    for (size_t i = 0; i < KD_COUNT(b->more); i++) kd_tensor_free(b->more[i]);
    kd_context_free(b->ctx);
    memset(b, 0, sizeof *b);
}

/* ---- running --------------------------------------------------------------------------------------------------------------- */
static float *floats(kd_tensor *t) { return t ? kd_tensor_f32(t) : NULL; }

kd_distill_terms bench_loss(bench *b)
{
    const float *more[KD_COUNT(b->more)];
    kd_distill_batch batch;
    kd_distill_terms terms = { .struct_size = sizeof terms };
    memset(&batch, 0, sizeof batch);
    batch.struct_size = sizeof batch;
    batch.rows = b->what->n[0], batch.classes = b->what->n[1];
    batch.student = kd_tensor_f32(b->a), batch.teacher = floats(b->b), batch.labels = kd_tensor_data(b->y);
    batch.grad = kd_tensor_f32(b->c);
    batch.student_second = floats(b->second), batch.grad_second = floats(b->grad_second);
    batch.teacher_second = floats(b->teacher_second);
    batch.more_teachers = more;
    for (; batch.more_teacher_count < KD_COUNT(b->more) && b->more[batch.more_teacher_count]; batch.more_teacher_count++)
        more[batch.more_teacher_count] = kd_tensor_f32(b->more[batch.more_teacher_count]);
    if (b->classes) {
        batch.teacher_classes = kd_tensor_data(b->classes);
        batch.teacher_width = TOP;
    }
    BENCH_NEED(kd_loss_distill_eval(b->loss, &batch, &terms));
    return terms;
}

static void run_product(bench *b)
{
    const size_t m = b->what->n[0], n = b->what->n[1], k = b->what->n[2], form = b->what->n[3];
    const kd__gemm_args args = {
        .m = m, .n = n, .k = k, .c = kd_tensor_f32(b->c), .c_stride = n,
        .a = kd_tensor_f32(b->a), .a_stride = form == BENCH_TN ? m : k, .a_transposed = form == BENCH_TN,
        .b = kd_tensor_f32(b->b), .b_stride = form == BENCH_NT ? k : n, .b_transposed = form == BENCH_NT,
        .after = { .bias = b->bias ? kd_tensor_f32(b->bias) : NULL, .relu = b->bias != NULL },
    };
    BENCH_NEED(kd__gemm(b->ctx, &args));
}

static void run_conv(bench *b)
{
    const bench_kind kind = b->what->kind;
    const float *x = kd_tensor_f32(b->a), *w = kd_tensor_f32(b->b), *dy = kd_tensor_f32(b->c);
    if (kind == BENCH_CONV_FORWARD) BENCH_NEED(kd__conv_forward(b->ctx, &b->conv, x, w, NULL, NULL, kd_tensor_f32(b->d)));
    if (kind == BENCH_CONV_DATA || kind == BENCH_CONV_BACKWARD)
        BENCH_NEED(kd__conv_backward_data(b->ctx, &b->conv, dy, w, kd_tensor_f32(b->d), false));
    if (kind == BENCH_CONV_WEIGHT || kind == BENCH_CONV_BACKWARD)
        BENCH_NEED(kd__conv_backward_weight(b->ctx, &b->conv, x, dy, kd_tensor_f32(b->dw), false));
}

double bench_gradients(bench *b)
{
    kd_distill_inputs in = { .struct_size = sizeof in, .labels = b->y };
    in.teacher = b->teacher ? kd_model_forward(b->teacher, b->look, b->x) : b->b;
    in.student = kd_model_forward(b->student, b->learn, b->x);
    if (b->what->distill) in.student_second = kd_model_tapped(b->student, b->learn, "head_dist");
    kd_tensor *l = kd_loss_distill_apply_inputs(b->loss, b->learn, &in);
    double value = kd_tensor_item(l);
    BENCH_NEED(kd_backward(b->learn, l));
    kd_tape_reset(b->learn);
    kd_tape_reset(b->look);
    return value;
}

void bench_infer(bench *b, float *out)
{
    kd_tensor *y = kd_model_forward(b->student, b->look, b->x);
    BENCH_NEED(kd_tape_status(b->look));
    if (out) memcpy(out, kd_tensor_data(y), kd_tensor_count(y) * sizeof *out);
    kd_tape_reset(b->look);
}

void bench_run(void *arg)
{
    bench *b = arg;
    switch (b->what->kind) {
    case BENCH_LOSS:
    case BENCH_METHOD: bench_loss(b); return;
    case BENCH_FEATURE: bench_feature(b); return;
    case BENCH_GEMM: run_product(b); return;
    case BENCH_CONV_FORWARD:
    case BENCH_CONV_DATA:
    case BENCH_CONV_WEIGHT:
    case BENCH_CONV_BACKWARD: run_conv(b); return;
    case BENCH_STEP:
        bench_gradients(b);
        BENCH_NEED(kd_optimizer_step(b->opt));
        return;
    case BENCH_INFER: bench_infer(b, NULL); return;
    }
}

double bench_work(const bench_case *what)
{
    const size_t *n = what->n;
    switch (what->kind) {
    case BENCH_LOSS:
    case BENCH_METHOD: return (double)(n[0] * n[1]);
    case BENCH_FEATURE: return bench_feature_work(what);
    case BENCH_GEMM: return 2.0 * (double)(n[0] * n[1] * n[2]);
    case BENCH_CONV_FORWARD:
    case BENCH_CONV_DATA:
    case BENCH_CONV_WEIGHT:
    case BENCH_CONV_BACKWARD: {
        const size_t out = conv_out(n);
        return (what->kind == BENCH_CONV_BACKWARD ? 4.0 : 2.0) * (double)(n[0] * out * out * n[3]) *
               (double)(n[5] * n[5] * n[2] / n[6]);
    }
    case BENCH_STEP:
    case BENCH_INFER: break;
    }
    return (double)n[0];
}

/* ---- timing ----------------------------------------------------------------------------------------------------------------- */
double bench_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_middle(double *times, size_t n)
{
    qsort(times, n, sizeof *times, ascending);
    return times[n / 2];
}

double bench_median(void (*call)(void *arg), void *arg, double budget, size_t least)
{
    enum { most = 1000 };
    double times[most], once = 0;
    size_t n = 0, inner = 1;
    for (double start = bench_now(), warm = start; warm - start < budget / 4;) {
        call(arg);
        once = bench_now() - warm;
        warm += once;
    }
    if (once < 2e-4) inner = (size_t)(2e-4 / (once + 1e-9)) + 1;
    for (double start = bench_now(); n < least || (bench_now() - start < budget && n < most); n++) {
        double t0 = bench_now();
        for (size_t i = 0; i < inner; i++) call(arg);
        times[n] = (bench_now() - t0) / (double)inner;
    }
    return bench_middle(times, n);
}

double bench_seconds(const bench_case *what, uint32_t threads, double budget)
{
    bench b;
    bench_open(&b, what, threads);
    const double seconds = bench_median(bench_run, &b, budget, 3);
    bench_close(&b);
    return seconds;
}
