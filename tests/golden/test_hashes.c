/* test_hashes.c - fixed runs must hit the hashes in hashes.txt: on every instruction set of this CPU, with any number of threads,
 * and, since the file is committed, on every other machine.
 * SPDX-License-Identifier: MIT
 *
 * KD_GOLDEN_WRITE=FILE writes the hashes of the best instruction set instead of comparing. */
#include <math.h>
#include <stdlib.h>
#include "kdtest.h"

#define NEED(call)                                                                   \
    do {                                                                             \
        if (!CHECK_OK(call)) goto done;                                              \
    } while (0)

typedef uint64_t (*scenario_fn)(kd_context *ctx);

static void fill(kd_rng *rng, float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++) x[i] = scale * kd_rng_normal(rng);
}

static uint64_t mix(uint64_t h, const void *data, size_t bytes) { return h * 0x9e3779b97f4a7c15u + kdtest_hash(data, bytes); }

static uint64_t model_hash(kd_model *m)
{
    size_t n;
    uint64_t h = 1;
    const float *w = kd_model_weights(m, &n);
    h = mix(h, w, n * sizeof *w);
    w = kd_model_buffers(m, &n);
    return n ? mix(h, w, n * sizeof *w) : h;
}

/* ---- the loss, every direction and shape of kernel ----------------------------------------------------------- */
static uint64_t losses(kd_context *ctx)
{
    static const size_t shapes[][2] = { { 33, 10 }, { 5, 32 }, { 7, 33 }, { 9, 100 }, { 3, 1000 }, { 2, 9001 } };
    static const float temperatures[] = { 1, 2, 4, 0.5f, 3 };
    uint64_t h = 0;
    kd_rng rng = kd_rng_make(1);
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        size_t rows = shapes[k][0], classes = shapes[k][1], n = rows * classes;
        float *s = malloc(3 * n * sizeof *s), *t = s + n, *g = t + n;
        int32_t label[64];
        fill(&rng, s, 2 * n, 3);
        for (size_t r = 0; r < rows; r++) label[r] = r % 7 == 3 ? -100 : (int32_t)kd_rng_below(&rng, classes);
        for (uint32_t direction = 1; direction <= 3; direction++)
            for (size_t i = 0; i < 5; i++) {
                kd_loss_distill *loss = NULL;
                kd_loss_distill_desc how;
                kd_distill_batch b;
                kd_distill_terms terms;
                kd_loss_distill_desc_init(&how, sizeof how);
                how.direction = direction;
                how.temperature = temperatures[i];
                memset(&b, 0, sizeof b), memset(&terms, 0, sizeof terms);
                b.struct_size = sizeof b, terms.struct_size = sizeof terms;
                b.rows = rows, b.classes = classes, b.student = s, b.teacher = t, b.labels = label, b.grad = g;
                NEED(kd_loss_distill_create(&loss, ctx, &how));
                CHECK_OK(kd_loss_distill_eval(loss, &b, &terms));
                kd_loss_distill_free(loss);
                h = mix(mix(h, g, n * sizeof *g), &terms.loss, sizeof terms.loss);
            }
    done:
        free(s);
    }
    return h;
}

/* ---- ops that no model below uses ------------------------------------------------------------------------------ */
static uint64_t ops(kd_context *ctx)
{
    kd_tape *t = NULL;
    kd_tensor *x = NULL, *w = NULL;
    uint64_t h = 0;
    kd_rng rng = kd_rng_make(2);
    NEED(kd_tape_create(&t, ctx, KD_TAPE_TRAIN));
    NEED(kd_tensor_create(&x, ctx, KD_F32, 3, (size_t[]){ 6, 11, 24 }));
    NEED(kd_tensor_create(&w, ctx, KD_F32, 1, (size_t[]){ 24 }));
    fill(&rng, kd_tensor_f32(x), 6 * 11 * 24, 2);
    fill(&rng, kd_tensor_f32(w), 24, 1);
    kd_tensor *a = kd_requires_grad(t, x), *b = kd_requires_grad(t, w);
    /* One op a statement: gradients add in the order of the ops, and C does not say which argument of a nested call runs first. */
    kd_tensor *u = kd_tanh(t, a), *v = kd_mul(t, u, b), *y = kd_gelu(t, a);
    y = kd_add(t, y, v);
    u = kd_silu(t, a);
    u = kd_layer_norm(t, u, b, b, 1e-5f);
    y = kd_add(t, y, u);
    u = kd_gelu_tanh(t, a);
    u = kd_group_norm(t, u, b, b, 3, 1e-5f);
    y = kd_add(t, y, u);
    u = kd_sigmoid(t, a);
    u = kd_softplus(t, u);
    y = kd_add(t, y, u);
    u = kd_square(t, a);
    u = kd_scale(t, u, 1, 1);
    u = kd_log(t, u);
    y = kd_add(t, y, u);
    u = kd_clamp(t, a, -1, 1);
    u = kd_exp(t, u);
    y = kd_add(t, y, u);
    u = kd_abs(t, a);
    u = kd_scale(t, u, 1, 0.1f);
    u = kd_sqrt(t, u);
    u = kd_l2_normalize(t, u, 1e-6f);
    y = kd_add(t, y, u);
    u = kd_softmax(t, a, 2);
    y = kd_mul(t, y, u);
    y = kd_dropout(t, y, 0.3f);
    y = kd_matmul(t, y, y, KD_TRANSPOSE_B);
    u = kd_abs(t, y);
    u = kd_max(t, u, 4, 1);
    u = kd_scale(t, u, 1, 1);
    y = kd_div(t, y, u);
    y = kd_leaky_relu(t, y, 0.1f);
    y = kd_log_softmax(t, y, 1);
    y = kd_sum(t, y, 2, 0);
    y = kd_mean(t, y, 0, 0);
    NEED(kd_backward(t, y));
    h = mix(h, kd_tensor_f32(y), sizeof(float));
    h = mix(h, kd_grad(t, a), 6 * 11 * 24 * sizeof(float));
    h = mix(h, kd_grad(t, b), 24 * sizeof(float));
done:
    kd_tape_free(t);
    kd_tensor_free(x), kd_tensor_free(w);
    return h;
}

/* ---- training: `steps` of a student under a teacher ---------------------------------------------------------------- */
static uint64_t train(kd_context *ctx, kd_model *student, kd_model *teacher, const kd_optimizer_desc *how, kd_tensor *x, kd_tensor *y,
                      size_t steps)
{
    kd_loss_distill *loss = NULL;
    kd_optimizer *opt = NULL;
    kd_tape *look = NULL, *learn = NULL;
    uint64_t h = 0;
    kd_loss_distill_desc soft;
    kd_loss_distill_desc_init(&soft, sizeof soft);
    NEED(kd_loss_distill_create(&loss, ctx, &soft));
    NEED(kd_optimizer_create(&opt, ctx, how));
    NEED(kd_optimizer_add(opt, student));
    NEED(kd_tape_create(&look, ctx, KD_TAPE_INFER));
    NEED(kd_tape_create(&learn, ctx, KD_TAPE_TRAIN));
    for (size_t i = 0; i < steps; i++) {
        kd_tensor *t = kd_model_forward(teacher, look, x);
        NEED(kd_backward(learn, kd_loss_distill_apply(loss, learn, kd_model_forward(student, learn, x), t, y)));
        NEED(kd_optimizer_step(opt));
        kd_tape_reset(look);
        kd_tape_reset(learn);
    }
    h = model_hash(student);
done:
    kd_tape_free(look), kd_tape_free(learn);
    kd_optimizer_free(opt);
    kd_loss_distill_free(loss);
    return h;
}

static uint64_t on_images(kd_context *ctx, kd_model *student, kd_model *teacher, const kd_optimizer_desc *how, size_t n, size_t side,
                          size_t channels, size_t steps)
{
    kd_tensor *x = NULL, *y = NULL;
    uint64_t h = 0;
    kd_rng rng = kd_rng_make(3);
    size_t shape[4] = { n, side, side, channels };
    NEED(kd_tensor_create(&x, ctx, KD_F32, 4, shape));
    NEED(kd_tensor_create(&y, ctx, KD_I32, 1, shape));
    fill(&rng, kd_tensor_f32(x), n * side * side * channels, 1);
    for (size_t i = 0; i < n; i++) ((int32_t *)kd_tensor_data(y))[i] = (int32_t)kd_rng_below(&rng, 10);
    h = train(ctx, student, teacher, how, x, y, steps);
done:
    kd_tensor_free(x), kd_tensor_free(y);
    return h;
}

static uint64_t mlp_adam(kd_context *ctx)
{
    kd_model *student = NULL, *teacher = NULL;
    kd_optimizer_desc adam;
    uint64_t h = 0;
    kd_optimizer_desc_init(&adam, sizeof adam);
    adam.method = KD_OPT_ADAMW, adam.lr = 3e-3f, adam.weight_decay = 1e-2f, adam.max_grad_norm = 1;
    NEED(kd_zoo_mlp(&student, ctx, (size_t[]){ 64, 33, 10 }, 3, KD_ACT_GELU, 1));
    NEED(kd_zoo_mlp(&teacher, ctx, (size_t[]){ 64, 300, 10 }, 3, KD_ACT_RELU, 2));
    h = on_images(ctx, student, teacher, &adam, 48, 8, 1, 10);
done:
    kd_model_free(student), kd_model_free(teacher);
    return h;
}

static uint64_t cnn_sgd(kd_context *ctx)
{
    kd_model *student = NULL, *teacher = NULL;
    kd_optimizer_desc sgd;
    kd_cnn_desc cnn;
    uint64_t h = 0;
    kd_optimizer_desc_init(&sgd, sizeof sgd);
    sgd.lr = 0.05f, sgd.nesterov = 1, sgd.weight_decay = 5e-4f;
    kd_cnn_desc_init(&cnn, sizeof cnn);
    cnn.height = cnn.width = 12, cnn.conv1 = 20, cnn.conv2 = 24, cnn.hidden = 30, cnn.batch_norm = 1, cnn.dropout = 0.2f;
    NEED(kd_zoo_cnn(&student, ctx, &cnn, 1));
    NEED(kd_zoo_cnn(&teacher, ctx, &cnn, 2));
    h = on_images(ctx, student, teacher, &sgd, 9, 12, 1, 3);
done:
    kd_model_free(student), kd_model_free(teacher);
    return h;
}

static uint64_t resnet(kd_context *ctx)
{
    kd_model *student = NULL, *teacher = NULL;
    kd_optimizer_desc sgd;
    uint64_t h = 0;
    kd_optimizer_desc_init(&sgd, sizeof sgd);
    NEED(kd_zoo_resnet_cifar(&student, ctx, 8, 1, 10, 1));
    NEED(kd_zoo_resnet_cifar(&teacher, ctx, 8, 1, 10, 2));
    h = on_images(ctx, student, teacher, &sgd, 2, 16, 3, 2);
done:
    kd_model_free(student), kd_model_free(teacher);
    return h;
}

/* ---- recurrent: two layers in both directions and what a classifier makes of them, a few steps -------------------- */
static uint64_t recurrent(kd_context *ctx, kd_layer *(*layer)(kd_layer *, const char *, size_t, size_t, const kd_rnn_desc *))
{
    kd_model *m = NULL;
    kd_optimizer *opt = NULL;
    kd_tape *t = NULL;
    kd_tensor *x = NULL, *labels = NULL;
    int32_t classes[21];
    uint64_t h = 0;
    kd_optimizer_desc sgd;
    kd_rnn_desc how;
    kd_rng rng = kd_rng_make(6);
    for (int32_t i = 0; i < 21; i++) classes[i] = i * 5 % 3;
    kd_optimizer_desc_init(&sgd, sizeof sgd);
    kd_rnn_desc_init(&how, sizeof how);
    how.layers = 2, how.bidirectional = 1, how.dropout = 0.1f;
    NEED(kd_model_create(&m, ctx));
    layer(kd_model_root(m), "rnn", 19, 75, &how);
    kd_layer_last_step(kd_model_root(m), "last");
    kd_layer_linear(kd_model_root(m), "fc", 150, 3, 1);
    NEED(kd_model_finish(m, 7));
    NEED(kd_optimizer_create(&opt, ctx, &sgd));
    NEED(kd_optimizer_add(opt, m));
    NEED(kd_tape_create(&t, ctx, KD_TAPE_TRAIN));
    NEED(kd_tensor_create(&x, ctx, KD_F32, 3, (size_t[]){ 21, 9, 19 }));
    NEED(kd_tensor_wrap(&labels, ctx, KD_I32, 1, (size_t[]){ 21 }, NULL, classes));
    fill(&rng, kd_tensor_f32(x), 21 * 9 * 19, 1);
    for (int step = 0; step < 3; step++) {
        kd_tape_reset(t);
        kd_tensor *y = kd_cross_entropy(t, kd_model_forward(m, t, x), labels, -100, 0, KD_REDUCE_MEAN_ROWS);
        NEED(kd_backward(t, y));
        h = mix(h, kd_tensor_f32(y), sizeof(float));
        NEED(kd_optimizer_step(opt));
    }
    h = mix(h, &(uint64_t){ model_hash(m) }, sizeof(uint64_t));
done:
    kd_tape_free(t);
    kd_optimizer_free(opt);
    kd_tensor_free(x), kd_tensor_free(labels);
    kd_model_free(m);
    return h;
}
static uint64_t lstm(kd_context *ctx) { return recurrent(ctx, kd_layer_lstm); }
static uint64_t gru(kd_context *ctx) { return recurrent(ctx, kd_layer_gru); }

static const struct { const char *name; scenario_fn run; } scenarios[] = {
    { "losses", losses }, { "ops", ops }, { "mlp_adam", mlp_adam }, { "cnn_sgd", cnn_sgd }, { "resnet", resnet },
    { "lstm", lstm }, { "gru", gru },
};

/* The committed hash of a scenario; 0 if there is none. */
static uint64_t committed(const char *name)
{
    char line[128], have[64];
    unsigned long long h;
    uint64_t found = 0;
    FILE *f = fopen(KD_TEST_ROOT "/tests/golden/hashes.txt", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "%63s %llx", have, &h) == 2 && !strcmp(have, name)) found = h;
    if (f) fclose(f);
    return found;
}

static void compare(size_t i)
{
    uint32_t isas[5];
    size_t count = kdtest_isas(isas);
    uint64_t want = committed(scenarios[i].name);
    const char *out = getenv("KD_GOLDEN_WRITE");
    if (out) {
        FILE *f = fopen(out, "a");
        kd_context *ctx = kdtest_context(1, isas[count - 1]);
        if (f) fprintf(f, "%s %016llx\n", scenarios[i].name, (unsigned long long)scenarios[i].run(ctx));
        if (f) fclose(f);
        kd_context_free(ctx);
        return;
    }
#ifdef KD_BLIS
    kdtest_skip("large products have BLIS's bits");
    return;
#endif
    CHECK_MSG(want != 0, "hashes.txt has no %s", scenarios[i].name);
    for (size_t k = 0; k < count; k++)
        for (uint32_t threads = 1; threads <= 7; threads += threads == 4 ? 3 : 1) {
            if (isas[k] == KD_ISA_SCALAR && threads > 1 && !kdtest_full()) break;
            if (threads > 2 && threads < 7 && !kdtest_full()) continue;
            kd_context *ctx = kdtest_context(threads, isas[k]);
            uint64_t h = scenarios[i].run(ctx);
            kd_context_free(ctx);
            CHECK_MSG(h == want, "%s, %s, %u threads: hash %016llx, committed %016llx", scenarios[i].name, kdtest_isa_name(isas[k]),
                      threads, (unsigned long long)h, (unsigned long long)want);
        }
}

TEST(losses) { compare(0); }
TEST(ops) { compare(1); }
TEST(mlp_adam) { compare(2); }
TEST(cnn_sgd) { compare(3); }
TEST(resnet) { compare(4); }
TEST(lstm) { compare(5); }
TEST(gru) { compare(6); }

TEST(every_instruction_set)
{
    static const uint32_t all[] = { KD_ISA_NEON, KD_ISA_AVX2, KD_ISA_AVX512 };
    uint32_t isas[5];
    size_t count = kdtest_isas(isas), missing = 0;
    for (size_t i = 0; i < 3; i++) {
        int here = 0;
        for (size_t k = 0; k < count; k++) here |= isas[k] == all[i];
        missing += !here;
    }
    if (missing) kdtest_skip("this CPU lacks an instruction set: its hashes are another machine's to prove");
}
