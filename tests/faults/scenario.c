/* scenario.c - whole uses of the library.
 * SPDX-License-Identifier: MIT */
#include "scenario.h"
#include "base/base.h"
#include <stdlib.h>

#define GO(call) do { if ((st = (call)) != KD_OK) goto done; } while (0)

static void mix(uint64_t *hash, const void *data, size_t bytes) { *hash = *hash * 31 + kdtest_hash(data, bytes); }

static void mix_model(uint64_t *hash, kd_model *m)
{
    size_t n;
    const float *w = kd_model_weights(m, &n);
    mix(hash, w, n * sizeof *w);
    w = kd_model_buffers(m, &n);
    mix(hash, w, n * sizeof *w);
}

static void mix_tensor(uint64_t *hash, const kd_tensor *t)
{
    mix(hash, kd_tensor_data(t), kd_tensor_count(t) * kd_dtype_size(kd_tensor_dtype(t)));
}

static float input[64 * 16];
static int32_t labels[64];

static void fill_input(void)
{
    kdtest_rand r = { 17 };
    kdtest_fill(&r, input, sizeof input / sizeof *input, 1);
    for (int i = 0; i < 64; i++) labels[i] = i % 3;
}

static kd_status make_mlp(kd_model **m, kd_context *ctx, uint64_t seed)
{
    const size_t sizes[] = { 16, 8, 3 };
    return kd_zoo_mlp(m, ctx, sizes, 3, KD_ACT_RELU, seed);
}

/* ---- tensors and ops -------------------------------------------------------------------------------- */

static kd_status tensors(kd_context *ctx, uint64_t *hash)
{
    kd_tensor *a = NULL, *b = NULL, *v = NULL, *w = NULL, *c = NULL, *e = NULL;
    kd_status st;
    GO(kd_tensor_create(&a, ctx, KD_F32, 2, (size_t[]){ 4, 6 }));
    GO(kd_tensor_wrap(&w, ctx, KD_F32, 2, (size_t[]){ 4, 6 }, NULL, input));
    GO(kd_tensor_copy(a, w));
    GO(kd_tensor_transpose(&v, a, NULL));
    GO(kd_tensor_slice(&b, v, 0, 1, 6, 2));
    GO(kd_tensor_clone(&c, b));
    GO(kd_tensor_reshape(&e, c, 1, (size_t[]){ 12 }));
    mix_tensor(hash, e);
done:
    kd_tensor_free(e);
    kd_tensor_free(c);
    kd_tensor_free(b);
    kd_tensor_free(v);
    kd_tensor_free(w);
    kd_tensor_free(a);
    return st;
}

/* A graph of ops, forward and backward, twice on one tape. */
static kd_status graph(kd_context *ctx, uint64_t *hash, kd_tensor *(*build)(kd_tape *t, kd_tensor *x, kd_tensor *w))
{
    kd_tape *t = NULL;
    kd_status st;
    GO(kd_tape_create(&t, ctx, KD_TAPE_TRAIN));
    kd_tape_seed(t, 3);
    for (int round = 0; round < 2; round++) {
        kd_tensor *x = kd_requires_grad(t, kd_tape_constant(t, 3, (size_t[]){ 2, 16, 8 }, input));
        kd_tensor *w = kd_requires_grad(t, kd_tape_constant(t, 2, (size_t[]){ 8, 8 }, input + 256));
        GO(kd_backward(t, kd_sum(t, build(t, x, w), 0, 0)));
        mix(hash, kd_grad(t, w), 64 * sizeof(float));
        mix(hash, kd_grad(t, x), 256 * sizeof(float));
        kd_tape_reset(t);
    }
done:
    kd_tape_free(t);
    return st;
}

#define SHAPE(...) (const size_t[]){ __VA_ARGS__ }

static kd_tensor *g_attention(kd_tape *t, kd_tensor *x, kd_tensor *w)
{
    kd_tensor *q = kd_matmul(t, kd_layer_norm(t, x, NULL, NULL, 1e-5f), w, 0);
    kd_tensor *p = kd_softmax(t, kd_scale(t, kd_matmul(t, q, x, KD_TRANSPOSE_B), 0.3f, 0), 1);
    return kd_square(t, kd_matmul(t, kd_dropout(t, p, 0.2f), x, 0));
}

static kd_tensor *g_shapes(kd_tape *t, kd_tensor *x, kd_tensor *w)
{
    kd_tensor *parts[] = { kd_permute(t, x, SHAPE(0, 2, 1)),
                           kd_pad(t, kd_reshape(t, x, 3, SHAPE(2, 8, 16)), SHAPE(0, 0, 1), NULL, 0) };
    kd_tensor *h = kd_max(t, kd_concat(t, parts, 2, 2), 4, 0);
    return kd_mul(t, kd_add(t, h, kd_slice(t, w, 0, 0, 1)), kd_mean(t, w, 1, 1));
}

static kd_tensor *g_activations(kd_tape *t, kd_tensor *x, kd_tensor *w)
{
    kd_tensor *h = kd_matmul(t, x, w, KD_TRANSPOSE_B);
    h = kd_add(t, kd_gelu(t, h), kd_mul(t, kd_gelu_tanh(t, h), kd_relu(t, h)));
    h = kd_sub(t, kd_silu(t, h), kd_div(t, kd_sigmoid(t, h), kd_scale(t, kd_square(t, h), 1, 1)));
    h = kd_add(t, kd_tanh(t, h), kd_leaky_relu(t, kd_softplus(t, h), 0.1f));
    return kd_clamp(t, kd_neg(t, kd_sqrt(t, kd_abs(t, kd_exp(t, kd_log(t, kd_scale(t, kd_abs(t, h), 1, 1)))))), -9,
                    9);
}

static kd_tensor *g_norms(kd_tape *t, kd_tensor *x, kd_tensor *w)
{
    kd_tensor *one = kd_slice(t, w, 0, 0, 1), *gain = kd_reshape(t, one, 1, SHAPE(8));
    kd_tensor *h = kd_batch_norm(t, x, gain, gain, NULL, NULL, 0.1f, 1e-5f);
    return kd_square(
        t, kd_l2_normalize(t, kd_group_norm(t, kd_layer_norm(t, h, gain, gain, 1e-5f), gain, gain, 4, 1e-5f), 1e-6f));
}

static kd_tensor *g_conv(kd_tape *t, kd_tensor *x, kd_tensor *w)
{
    kd_conv_desc same;
    kd_conv_desc_init(&same, sizeof same);
    same.padding[0] = same.padding[1] = 1;
    kd_tensor *image = kd_reshape(t, x, 4, SHAPE(2, 4, 4, 8)),
              *bias = kd_reshape(t, kd_slice(t, w, 0, 0, 1), 1, SHAPE(8));
    kd_tensor *taps[9] = { w, w, w, w, w, w, w, w, w };
    kd_tensor *h = kd_conv2d(t, image, kd_reshape(t, kd_concat(t, taps, 9, 0), 4, SHAPE(3, 3, 8, 8)), bias, &same);
    h = kd_add(t, kd_max_pool2d(t, h, (uint32_t[]){ 2, 2 }, (uint32_t[]){ 2, 2 }, (uint32_t[]){ 0, 0 }),
               kd_avg_pool2d(t, h, (uint32_t[]){ 2, 2 }, (uint32_t[]){ 2, 2 }, (uint32_t[]){ 0, 0 }));
    kd_tensor *line = kd_conv1d(t, x, kd_reshape(t, kd_concat(t, taps, 2, 0), 3, SHAPE(2, 8, 8)), NULL, NULL);
    return kd_add(t, kd_sum(t, kd_global_avg_pool(t, h), 0, 0), kd_mean(t, line, 0, 0));
}

/* 3x3, stride 1, 32 channels: the way of Winograd. */
static kd_tensor *g_winograd(kd_tape *t, kd_tensor *x, kd_tensor *w)
{
    kd_tensor *wide[4] = { x, x, x, x }, *taps[144];
    for (int i = 0; i < 144; i++) taps[i] = w;
    kd_tensor *image = kd_reshape(t, kd_concat(t, wide, 4, 2), 4, SHAPE(2, 4, 4, 32));
    return kd_square(
        t, kd_conv2d(t, image, kd_reshape(t, kd_concat(t, taps, 144, 0), 4, SHAPE(3, 3, 32, 32)), NULL, NULL));
}

static kd_tensor *g_losses(kd_tape *t, kd_tensor *x, kd_tensor *w)
{
    kd_tensor *z = kd_reshape(t, kd_matmul(t, x, w, 0), 2, SHAPE(32, 8)), *p = kd_reshape(t, x, 2, SHAPE(32, 8));
    kd_tensor *y = kd_tape_tensor(t, KD_I32, 1, SHAPE(32));
    if (kd_tensor_data(y)) memcpy(kd_tensor_data(y), labels, 32 * sizeof *labels);
    kd_tensor *sum = kd_cross_entropy(t, z, y, 2, 0.1f, KD_REDUCE_MEAN_ROWS);
    sum = kd_add(t, sum, kd_kl_div(t, p, z, 2, KD_REDUCE_MEAN_ROWS));
    sum = kd_add(t, sum, kd_mse(t, z, p, KD_REDUCE_MEAN_ELEMENTS));
    sum = kd_add(t, sum, kd_smooth_l1(t, z, p, 0.5f, KD_REDUCE_SUM));
    return kd_add(t, kd_cosine_similarity(t, z, p, 1e-6f), kd_add(t, sum, kd_mean(t, kd_log_softmax(t, z, 1), 0, 0)));
}

static kd_tensor *g_lookup(kd_tape *t, kd_tensor *x, kd_tensor *w)
{
    kd_tensor *ids = kd_tape_tensor(t, KD_I32, 1, SHAPE(5));
    if (kd_tensor_data(ids)) memcpy(kd_tensor_data(ids), labels, 5 * sizeof *labels);
    return kd_add(t, kd_sum(t, kd_square(t, kd_embedding(t, w, ids)), 0, 0),
                  kd_mean(t, kd_mul(t, x, kd_detach(t, x)), 0, 0));
}

static kd_status twice(const kd_tensor *const *in, size_t inputs, kd_tensor *const *out, size_t outputs, void *user)
{
    (void)inputs;
    (void)outputs;
    (void)user;
    for (size_t i = 0; i < kd_tensor_count(in[0]); i++) kd_tensor_f32(out[0])[i] = 2 * kd_tensor_f32(in[0])[i];
    return KD_OK;
}

static kd_status twice_back(const kd_tensor *const *in, size_t inputs, const kd_tensor *const *out, size_t outputs,
                            const float *const *dout, float *const *din, void *user)
{
    (void)inputs;
    (void)out;
    (void)outputs;
    (void)user;
    for (size_t i = 0; dout[0] && din[0] && i < kd_tensor_count(in[0]); i++) din[0][i] += 2 * dout[0][i];
    return KD_OK;
}

static kd_tensor *g_custom(kd_tape *t, kd_tensor *x, kd_tensor *w)
{
    static const kd_custom_op op = {
        .struct_size = sizeof op, .name = "twice", .forward = twice, .backward = twice_back
    };
    kd_tensor *h = kd_matmul(t, x, w, 0), *out = kd_tape_tensor(t, KD_F32, 3, SHAPE(2, 16, 8));
    return kd_square(t, kd_custom(t, &op, &h, 1, &out, 1, NULL));
}

#define GRAPH(name) static kd_status name(kd_context *ctx, uint64_t *hash) { return graph(ctx, hash, g_##name); }
GRAPH(attention)
GRAPH(shapes)
GRAPH(activations)
GRAPH(norms)
GRAPH(conv)
GRAPH(winograd)
GRAPH(losses)
GRAPH(lookup)
GRAPH(custom)

/* ---- models ----------------------------------------------------------------------------------------- */

static kd_status layers(kd_context *ctx, uint64_t *hash)
{
    kd_model *m = NULL, *copy = NULL;
    kd_tape *t = NULL;
    kd_status st;
    char text[2000];
    GO(kd_model_create(&m, ctx));
    kd_layer *root = kd_model_root(m), *res = kd_layer_residual(root, "res", KD_ACT_RELU);
    kd_layer_linear(res, "fc", 16, 16, 1);
    kd_layer_batch_norm(res, "bn", 16, 0.1f, 1e-5f);
    kd_layer *both = kd_layer_parallel(root, "both", KD_JOIN_CONCAT);
    kd_layer_linear(both, "a", 16, 4, 0);
    kd_layer *b = kd_layer_sequence(both, "b");
    kd_layer_layer_norm(b, NULL, 16, 1e-5f);
    kd_layer_activation(b, NULL, KD_ACT_GELU);
    kd_layer_dropout(b, NULL, 0.1f);
    kd_layer_linear(b, NULL, 16, 4, 1);
    GO(kd_model_finish(m, 5));
    GO(kd_model_tap(m, "res"));
    GO(kd_model_set_input_norm(m, 16, input, (float[]){ 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2 }));
    GO(kd_model_clone(&copy, m));
    GO(kd_tape_create(&t, ctx, KD_TAPE_TRAIN));
    kd_tensor *x = kd_tape_constant(t, 2, (size_t[]){ 8, 16 }, input);
    kd_tensor *y = kd_model_forward(copy, t, x), *tapped = kd_model_tapped(copy, t, "res");
    GO(kd_backward(t, kd_add(t, kd_sum(t, kd_square(t, y), 0, 0), kd_mean(t, tapped, 0, 0))));
    size_t n;
    const float *g = kd_model_grads(copy, &n);
    mix(hash, g, n * sizeof *g);
    size_t length = kd_model_summary(copy, 2, (size_t[]){ 2, 16 }, text, sizeof text);
    if (!length) st = KD_ERR_NOMEM;   /* it has no status of its own: 0 is an error, with its text */
done:
    kd_tape_free(t);
    kd_model_free(copy);
    kd_model_free(m);
    return st;
}

/* Two steps of a student of a teacher; kind chooses the optimizer. */
static kd_status train(kd_context *ctx, uint64_t *hash, uint32_t method, const kd_loss_distill_desc *how)
{
    kd_model *teacher = NULL, *student = NULL;
    kd_tape *look = NULL, *learn = NULL;
    kd_loss_distill *loss = NULL;
    kd_optimizer *opt = NULL;
    kd_ema *ema = NULL;
    kd_optimizer_desc desc;
    kd_schedule_desc schedule;
    kd_tensor *y = NULL;
    kd_status st;
    kd_optimizer_desc_init(&desc, sizeof desc);
    desc.method = method;
    desc.lr = 0.01f;
    desc.max_grad_norm = 1;
    kd_schedule_desc_init(&schedule, sizeof schedule);
    schedule.kind = KD_SCHEDULE_MULTI_STEP;
    schedule.milestones = (const uint64_t[]){ 1, 2 };
    schedule.milestone_count = 2;
    GO(make_mlp(&teacher, ctx, 1));
    GO(make_mlp(&student, ctx, 2));
    kd_model_freeze(teacher, 1);
    GO(kd_loss_distill_create(&loss, ctx, how));
    GO(kd_optimizer_create(&opt, ctx, &desc));
    GO(kd_optimizer_add(opt, student));
    GO(kd_optimizer_group(opt, "*.bias", 2, 0));
    GO(kd_optimizer_set_schedule(opt, &schedule));
    GO(kd_ema_create(&ema, student, 0.9));
    GO(kd_tape_create(&look, ctx, KD_TAPE_INFER));
    GO(kd_tape_create(&learn, ctx, KD_TAPE_TRAIN));
    GO(kd_tensor_wrap(&y, ctx, KD_I32, 1, (size_t[]){ 32 }, NULL, labels));
    for (int step = 0; step < 2; step++) {
        kd_tensor *x = kd_tape_constant(learn, 2, (size_t[]){ 32, 16 }, input);
        kd_tensor *t = kd_model_forward(teacher, look, x), *s = kd_model_forward(student, learn, x);
        kd_tensor *l = kd_loss_distill_apply(loss, learn, s, t, y);
        GO(kd_backward(learn, l));
        kd_distill_terms terms = { .struct_size = sizeof terms };
        GO(kd_loss_distill_terms(learn, l, &terms));
        GO(kd_optimizer_step(opt));
        GO(kd_ema_update(ema));
        mix(hash, &terms.loss, sizeof terms.loss);
        kd_tape_reset(learn);
        kd_tape_reset(look);
    }
    GO(kd_ema_swap(ema));
    mix_model(hash, student);
done:
    kd_tensor_free(y);
    kd_tape_free(learn);
    kd_tape_free(look);
    kd_ema_free(ema);
    kd_optimizer_free(opt);
    kd_loss_distill_free(loss);
    kd_model_free(student);
    kd_model_free(teacher);
    return st;
}

static kd_status train_sgd(kd_context *ctx, uint64_t *hash) { return train(ctx, hash, KD_OPT_SGD, NULL); }

static kd_status train_adam_js(kd_context *ctx, uint64_t *hash)
{
    kd_loss_distill_desc how;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.direction = KD_DIRECTION_JS;
    how.class_weights = (const float[]){ 1, 2, 3 };
    how.class_weight_count = 3;
    how.label_smoothing = 0.1f;
    return train(ctx, hash, KD_OPT_ADAM, &how);
}

static kd_status train_adamw_hard(kd_context *ctx, uint64_t *hash)
{
    kd_loss_distill_desc how;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.method = KD_DISTILL_HARD;
    return train(ctx, hash, KD_OPT_ADAMW, &how);
}

static kd_status train_reverse(kd_context *ctx, uint64_t *hash)
{
    kd_loss_distill_desc how;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.direction = KD_DIRECTION_REVERSE;
    how.temperature = 0.5f;
    how.check_input = 1;
    return train(ctx, hash, KD_OPT_SGD, &how);
}

static kd_status train_sums(kd_context *ctx, uint64_t *hash)
{
    kd_loss_distill_desc how;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.reduction = KD_REDUCE_SUM;
    how.temperature = 1;
    how.unlabelled_index = 1;
    return train(ctx, hash, KD_OPT_ADAM, &how);
}

static kd_status eval_loss(kd_context *ctx, uint64_t *hash)
{
    kd_loss_distill *loss = NULL;
    kd_loss_distill_desc how;
    kd_status st;
    float grad[64 * 8];
    kd_loss_distill_desc_init(&how, sizeof how);
    how.direction = KD_DIRECTION_REVERSE;
    GO(kd_loss_distill_create(&loss, ctx, &how));
    kd_distill_batch batch = { .struct_size = sizeof batch,
                               .rows = 64,
                               .classes = 8,
                               .student = input,
                               .teacher = input + 512,
                               .labels = labels,
                               .grad = grad };
    kd_distill_terms terms = { .struct_size = sizeof terms };
    GO(kd_loss_distill_eval(loss, &batch, &terms));
    mix(hash, grad, sizeof grad);
done:
    kd_loss_distill_free(loss);
    return st;
}

/* A step of an image network. */
static kd_status image_network(kd_context *ctx, uint64_t *hash, int deep)
{
    kd_model *m = NULL;
    kd_tape *t = NULL;
    kd_optimizer *opt = NULL;
    kd_cnn_desc desc;
    kd_optimizer_desc sgd;
    kd_status st;
    kd_cnn_desc_init(&desc, sizeof desc);
    desc.height = desc.width = 8;
    desc.channels = 3;
    desc.conv1 = 4;
    desc.conv2 = 6;
    desc.hidden = 8;
    desc.batch_norm = 1;
    desc.dropout = 0.2f;
    kd_optimizer_desc_init(&sgd, sizeof sgd);
    GO(deep ? kd_zoo_resnet_cifar(&m, ctx, 8, 1, 10, 3) : kd_zoo_cnn(&m, ctx, &desc, 3));
    GO(kd_optimizer_create(&opt, ctx, &sgd));
    GO(kd_optimizer_add(opt, m));
    GO(kd_tape_create(&t, ctx, KD_TAPE_TRAIN));
    kd_tensor *y = kd_model_forward(m, t, kd_tape_constant(t, 4, SHAPE(5, 8, 8, 3), input));
    GO(kd_backward(t, kd_mean(t, kd_square(t, y), 0, 0)));
    GO(kd_optimizer_step(opt));
    mix_model(hash, m);
done:
    kd_tape_free(t);
    kd_optimizer_free(opt);
    kd_model_free(m);
    return st;
}

static kd_status cnn(kd_context *ctx, uint64_t *hash) { return image_network(ctx, hash, 0); }
static kd_status resnet(kd_context *ctx, uint64_t *hash) { return image_network(ctx, hash, 1); }

/* Parameters written, copied, drawn again; what models say of themselves. */
static kd_status parameters(kd_context *ctx, uint64_t *hash)
{
    kd_model *a = NULL, *b = NULL;
    kd_status st;
    char text[512];
    GO(make_mlp(&a, ctx, 1));
    GO(make_mlp(&b, ctx, 2));
    GO(kd_model_initialize(a, "*.weight", KD_INIT_TRUNC_NORMAL, 0, 0.02f, 9));
    GO(kd_model_copy(b, a));
    kd_model *both[] = { a, b };
    double norm;
    GO(kd_clip_grad_norm(both, 2, 1, &norm));
    kd_param_info p = { .struct_size = sizeof p };
    GO(kd_model_find(b, "fc1.weight", &p));
    mix(hash, text, KD_MIN(kd_tensor_format(p.tensor, text, sizeof text), sizeof text));
    mix_model(hash, b);
done:
    kd_model_free(b);
    kd_model_free(a);
    return st;
}

/* A frozen model, forward only, on its own tape and on one that records. */
static kd_status teacher_only(kd_context *ctx, uint64_t *hash)
{
    kd_model *m = NULL;
    kd_tape *t = NULL, *eval = NULL;
    kd_status st;
    GO(make_mlp(&m, ctx, 1));
    kd_model_freeze(m, 1);
    GO(kd_tape_create(&t, ctx, KD_TAPE_INFER));
    GO(kd_tape_create(&eval, ctx, KD_TAPE_EVAL | KD_TAPE_CHECK_FINITE));
    for (int round = 0; round < 2; round++) {
        kd_tensor *y = kd_model_forward(m, t, kd_tape_constant(t, 2, SHAPE(64, 16), input));
        kd_tensor *x = kd_requires_grad(eval, kd_tape_constant(eval, 2, SHAPE(64, 16), input));
        GO(kd_tape_status(t));
        GO(kd_backward(eval, kd_mse(eval, kd_model_forward(m, eval, x), y, KD_REDUCE_SUM)));
        mix_tensor(hash, y);
        kd_tape_reset(eval);
        kd_tape_reset(t);
    }
done:
    kd_tape_free(eval);
    kd_tape_free(t);
    kd_model_free(m);
    return st;
}

/* ---- data ------------------------------------------------------------------------------------------- */

static kd_status drain(kd_context *ctx, uint64_t *hash, const kd_dataset *data, uint32_t ahead, float mixup)
{
    kd_loader *loader = NULL;
    kd_loader_desc desc;
    kd_tensor *x, *y;
    kd_status st;
    kd_loader_desc_init(&desc, sizeof desc);
    desc.batch = 5;
    desc.ahead = ahead;
    desc.mixup_alpha = mixup;
    GO(kd_loader_create(&loader, ctx, data, &desc));
    while ((st = kd_loader_next(loader, &x, &y)) == KD_OK) {
        mix_tensor(hash, x);
        mix_tensor(hash, y);
    }
    if (st == KD_END) st = KD_OK;
done:
    kd_loader_free(loader);
    return st;
}

static kd_status wrapped_data(kd_context *ctx, uint64_t *hash)
{
    kd_dataset *data = NULL, *part = NULL;
    kd_status st;
    GO(kd_dataset_wrap(&data, ctx, KD_F32, 64, 3, (size_t[]){ 4, 2, 2 }, input, labels));
    GO(kd_dataset_subset(&part, data, (uint32_t[]){ 5, 4, 3, 2, 9, 9, 60, 61, 0, 1, 1 }, 11));
    GO(drain(ctx, hash, data, 2, 0));
    GO(drain(ctx, hash, part, 0, 0.5f));
done:
    kd_dataset_free(part);
    kd_dataset_free(data);
    return st;
}

static kd_status idx_data(kd_context *ctx, uint64_t *hash)
{
    kd_dataset *data = NULL;
    kd_status st;
    GO(kd_dataset_open_idx(&data, ctx, kdtest_path("images.idx"), kdtest_path("labels.idx")));
    GO(drain(ctx, hash, data, 1, 0));
done:
    kd_dataset_free(data);
    return st;
}

static kd_status csv_data(kd_context *ctx, uint64_t *hash)
{
    kd_dataset *data = NULL;
    kd_status st;
    GO(kd_dataset_open_csv(&data, ctx, kdtest_path("table.csv"), NULL));
    GO(drain(ctx, hash, data, 0, 0));
done:
    kd_dataset_free(data);
    return st;
}

static kd_status cifar_data(kd_context *ctx, uint64_t *hash)
{
    kd_dataset *data = NULL;
    kd_status st;
    char one[640], two[640];
    snprintf(one, sizeof one, "%s", kdtest_path("cifar1.bin"));
    snprintf(two, sizeof two, "%s", kdtest_path("cifar2.bin"));
    GO(kd_dataset_open_cifar(&data, ctx, (const char *const[]){ one, two }, 2, KD_CIFAR_10));
    GO(drain(ctx, hash, data, 0, 0));
done:
    kd_dataset_free(data);
    return st;
}

/* ---- files ------------------------------------------------------------------------------------------ */

static kd_status arrays(kd_context *ctx, uint64_t *hash)
{
    kd_tensor *t = NULL;
    kd_status st;
    GO(kd_npy_load(&t, ctx, kdtest_path("array.npy")));
    mix_tensor(hash, t);
    kd_tensor_free(t);
    GO(kd_idx_load(&t, ctx, kdtest_path("images.idx")));
    mix_tensor(hash, t);
    kd_tensor_free(t);
    GO(kd_csv_load(&t, ctx, kdtest_path("table.csv"), ',', 0));
    mix_tensor(hash, t);
done:
    kd_tensor_free(t);
    return st;
}

static kd_status read_safetensors(kd_context *ctx, uint64_t *hash)
{
    kd_safetensors *f = NULL;
    kd_tensor *t;
    kd_status st;
    GO(kd_safetensors_open(&f, ctx, kdtest_path("many.safetensors"), 0));
    for (size_t i = 0; i < kd_safetensors_count(f); i++) {
        GO(kd_safetensors_read(f, i, &t));
        mix_tensor(hash, t);
        kd_tensor_free(t);
    }
done:
    kd_safetensors_close(f);
    return st;
}

static kd_status write_safetensors(kd_context *ctx, uint64_t *hash)
{
    enum { MANY = 30 };
    static char names[MANY][80];
    const char *list[MANY];
    kd_tensor *t[MANY] = { NULL }, *base = NULL;
    kd_status st;
    GO(kd_tensor_wrap(&base, ctx, KD_F32, 2, (size_t[]){ 30, 16 }, NULL, input));
    for (int i = 0; i < MANY; i++) {   /* a long common beginning, so that sorting needs its stack */
        snprintf(names[i], sizeof *names, "a.long.common.beginning.of.every.name.%d", (i * 7) % MANY);
        list[i] = names[i];
        GO(kd_tensor_slice(&t[i], base, 1, (size_t)i % 8, (size_t)i % 8 + 3, 1));
    }
    GO(kd_safetensors_save(ctx, kdtest_path("out.safetensors"), list, (const kd_tensor *const *)t, MANY,
                           (const char *const[]){ "k", "v" }, 2));
    mix_tensor(hash, t[3]);
done:
    for (int i = 0; i < MANY; i++) kd_tensor_free(t[i]);
    kd_tensor_free(base);
    return st;
}

static kd_status save_model(kd_context *ctx, uint64_t *hash)
{
    kd_model *m = NULL;
    kd_status st;
    GO(make_mlp(&m, ctx, 4));
    GO(kd_model_set_input_norm(m, 16, input, (float[]){ 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2 }));
    GO(kd_model_save(m, kdtest_path("out.model")));
    mix_model(hash, m);
done:
    kd_model_free(m);
    return st;
}

static kd_status load_model(kd_context *ctx, uint64_t *hash)
{
    kd_model *m = NULL;
    kd_status st;
    uint64_t before = 0, after = 0;
    GO(make_mlp(&m, ctx, 6));
    mix_model(&before, m);
    st = kd_model_load(m, kdtest_path("in.model"), 0);
    mix_model(&after, m);
    CHECK_MSG((st == KD_OK) == (before != after), "kd_model_load: %s, and the weights are%s changed",
              kd_status_name(st), before == after ? " not" : "");
    *hash = after;
done:
    kd_model_free(m);
    return st;
}

/* A run with everything a checkpoint can hold; it loads or saves. */
static kd_status checkpoint(kd_context *ctx, uint64_t *hash, int loads)
{
    kd_model *m = NULL;
    kd_optimizer *opt = NULL;
    kd_ema *ema = NULL;
    kd_dataset *data = NULL;
    kd_loader *loader = NULL;
    kd_tape *tape = NULL;
    kd_checkpoint *cp = NULL;
    kd_optimizer_desc desc;
    kd_tensor *x, *y;
    kd_status st;
    uint64_t step = 0;
    kd_optimizer_desc_init(&desc, sizeof desc);
    desc.method = KD_OPT_ADAM;
    GO(make_mlp(&m, ctx, 8));
    GO(kd_optimizer_create(&opt, ctx, &desc));
    GO(kd_optimizer_add(opt, m));
    GO(kd_ema_create(&ema, m, 0.5));
    GO(kd_dataset_wrap(&data, ctx, KD_F32, 64, 1, (size_t[]){ 16 }, input, labels));
    GO(kd_loader_create(&loader, ctx, data, NULL));
    GO(kd_tape_create(&tape, ctx, KD_TAPE_TRAIN));
    GO(kd_checkpoint_create(&cp, ctx));
    GO(kd_checkpoint_add_model(cp, "m", m));
    GO(kd_checkpoint_add_optimizer(cp, "o", opt));
    GO(kd_checkpoint_add_ema(cp, "e", ema));
    GO(kd_checkpoint_add_loader(cp, "l", loader));
    GO(kd_checkpoint_add_tape(cp, "t", tape));
    GO(kd_checkpoint_add_bytes(cp, "s", &step, sizeof step));
    if (loads) {
        uint64_t before = 0, after = 0;
        mix_model(&before, m);
        st = kd_checkpoint_load(cp, kdtest_path("in.kdcp"));
        mix_model(&after, m);
        CHECK_MSG((st == KD_OK) == (before != after) && (st == KD_OK) == (step == 1) &&
                      (st == KD_OK) == (kd_optimizer_steps(opt) == 1),
                  "kd_checkpoint_load: %s, and the run has%s changed", kd_status_name(st),
                  before == after ? " not" : "");
        GO(st);
    }
    st = kd_loader_next(loader, &x, &y);
    if (st == KD_END) st = kd_loader_next(loader, &x, &y);
    GO(st);
    GO(kd_backward(tape, kd_sum(tape, kd_square(tape, kd_model_forward(m, tape, x)), 0, 0)));
    GO(kd_optimizer_step(opt));
    GO(kd_ema_update(ema));
    step++;
    kd_tape_reset(tape);
    if (!loads) GO(kd_checkpoint_save(cp, kdtest_path("out.kdcp")));
    mix_model(hash, m);
done:
    kd_checkpoint_free(cp);
    kd_tape_free(tape);
    kd_loader_free(loader);
    kd_dataset_free(data);
    kd_ema_free(ema);
    kd_optimizer_free(opt);
    kd_model_free(m);
    return st;
}

static kd_status save_checkpoint(kd_context *ctx, uint64_t *hash) { return checkpoint(ctx, hash, 0); }
static kd_status load_checkpoint(kd_context *ctx, uint64_t *hash) { return checkpoint(ctx, hash, 1); }

/* ---- the list --------------------------------------------------------------------------------------- */

const scenario scenarios[] = {
    { "tensors", tensors, 1, 0 },
    { "attention", attention, 2, 0 },
    { "shapes", shapes, 1, 0 },
    { "activations", activations, 1, 0 },
    { "norms", norms, 2, 0 },
    { "conv", conv, 2, 0 },
    { "winograd", winograd, 2, 0 },
    { "losses", losses, 1, 0 },
    { "lookup", lookup, 1, 0 },
    { "custom", custom, 1, 0 },
    { "parameters", parameters, 1, 0 },
    { "teacher_only", teacher_only, 2, 0 },
    { "layers", layers, 1, 0 },
    { "cnn", cnn, 1, 0 },
    { "resnet", resnet, 2, 0 },
    { "train_sgd", train_sgd, 1, 0 },
    { "train_adam_js", train_adam_js, 2, 0 },
    { "train_adamw_hard", train_adamw_hard, 1, 0 },
    { "train_reverse", train_reverse, 3, 0 },
    { "train_sums", train_sums, 1, 0 },
    { "eval_loss", eval_loss, 2, 0 },
    { "wrapped_data", wrapped_data, 2, 0 },
    { "idx_data", idx_data, 1, SCENARIO_READS },
    { "csv_data", csv_data, 1, SCENARIO_READS },
    { "cifar_data", cifar_data, 1, SCENARIO_READS },
    { "arrays", arrays, 1, SCENARIO_READS },
    { "read_safetensors", read_safetensors, 1, SCENARIO_READS },
    { "write_safetensors", write_safetensors, 1, SCENARIO_WRITES },
    { "save_model", save_model, 1, SCENARIO_WRITES },
    { "load_model", load_model, 1, SCENARIO_READS },
    { "save_checkpoint", save_checkpoint, 1, SCENARIO_WRITES },
    { "load_checkpoint", load_checkpoint, 1, SCENARIO_READS },
};
const size_t scenario_count = sizeof scenarios / sizeof *scenarios;

static void rename_to(const char *from, const char *to)
{
    char old[640];
    snprintf(old, sizeof old, "%s", kdtest_path(from));
    CHECK(rename(old, kdtest_path(to)) == 0);
}

void scenario_files(void)
{
    static kdtest_bytes b;
    kdtest_rand r = { 23 };
    uint64_t hash = 0;
    fill_input();
    kdtest_put_be(&b, 0x0803, 4);
    kdtest_put_be(&b, 12, 4);
    kdtest_put_be(&b, 4, 4);
    kdtest_put_be(&b, 5, 4);
    for (int i = 0; i < 12 * 20; i++) kdtest_put_be(&b, kdtest_bits(&r), 1);
    kdtest_write_bytes("images.idx", &b);
    b.size = 0;
    kdtest_put_be(&b, 0x0801, 4);
    kdtest_put_be(&b, 12, 4);
    for (int i = 0; i < 12; i++) kdtest_put_be(&b, (uint64_t)i % 3, 1);
    kdtest_write_bytes("labels.idx", &b);
    b.size = 0;
    for (int i = 0; i < 14; i++) {
        char line[64];
        snprintf(line, sizeof line, "%d.5,%d,-1e-%d,%d\n", i, i * i, i, i % 2);
        kdtest_put_text(&b, line);
    }
    kdtest_write_bytes("table.csv", &b);
    for (int file = 1; file <= 2; file++) {
        b.size = 0;
        for (int i = 0; i < 3; i++) {
            kdtest_put_be(&b, (uint64_t)(i + file) % 10, 1);
            for (int k = 0; k < 3072; k++) kdtest_put_be(&b, kdtest_bits(&r), 1);
        }
        kdtest_write_bytes(file == 1 ? "cifar1.bin" : "cifar2.bin", &b);
    }
    b.size = 0;
    static const char header[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 7), }\n";
    kdtest_put(&b, "\x93NUMPY\1\0", 8);
    kdtest_put_le(&b, sizeof header - 1, 2);
    kdtest_put_text(&b, header);
    kdtest_put(&b, input, 21 * sizeof *input);
    kdtest_write_bytes("array.npy", &b);
    CHECK_OK(write_safetensors(NULL, &hash));
    rename_to("out.safetensors", "many.safetensors");
    CHECK_OK(save_model(NULL, &hash));
    rename_to("out.model", "in.model");
    CHECK_OK(save_checkpoint(NULL, &hash));
    rename_to("out.kdcp", "in.kdcp");
}
