/* test_model_run.c - running models: errors that name their layer, taps, memory, threads, whole training steps.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "nn/nn.h"
#include <pthread.h>

enum { BATCH = 4, SIDE = 8, CLASSES = 5 };

/* stem - group1 (two residual blocks, the first with a projection) - group2 (one) - pool - fc */
static void residual_block(kd_layer *parent, size_t in, size_t out, uint32_t stride)
{
    kd_conv_desc d;
    kd_conv_desc_init(&d, sizeof d);
    d.padding[0] = d.padding[1] = 1;
    d.stride[0] = d.stride[1] = stride;
    kd_layer *res = kd_layer_residual(parent, NULL, KD_ACT_RELU);
    kd_layer_conv2d(res, "conv", in, out, 3, 3, 0, &d);
    kd_layer_batch_norm(res, "bn", out, 0.1f, 1e-5f);
    if (in == out && stride == 1) return;
    kd_conv_desc_init(&d, sizeof d);
    d.stride[0] = d.stride[1] = stride;
    kd_layer_conv2d(kd_layer_shortcut(res, "down"), NULL, in, out, 1, 1, 1, &d);
}

static kd_status net_create(kd_model **out, kd_context *ctx)
{
    kd_model *m;
    kd_conv_desc same;
    kd_conv_desc_init(&same, sizeof same);
    same.padding[0] = same.padding[1] = 1;
    *out = NULL;
    kd_status status = kd_model_create(&m, ctx);
    if (status != KD_OK) return status;
    kd_layer *root = kd_model_root(m);
    kd_layer_conv2d(root, "stem", 3, 8, 3, 3, 0, &same);
    kd_layer *group = kd_layer_sequence(root, "group1");
    residual_block(group, 8, 12, 1);
    residual_block(group, 12, 12, 1);
    residual_block(kd_layer_sequence(root, "group2"), 12, 16, 2);
    kd_layer_global_avg_pool(root, "pool");
    kd_layer_dropout(root, "drop", 0.25f);
    kd_layer_linear(root, "fc", 16, CLASSES, 1);
    status = kd_model_finish(m, 11);
    if (status == KD_OK) *out = m;
    else kd_model_free(m);
    return status;
}

static kd_model *net(kd_context *ctx)
{
    kd_model *m = NULL;
    CHECK_OK(net_create(&m, ctx));
    return m;
}

static kd_tape *tape_of(kd_context *ctx, uint32_t mode)
{
    kd_tape *tape = NULL;
    CHECK_OK(kd_tape_create(&tape, ctx, mode));
    return tape;
}

static kd_tensor *batch(uint64_t seed)
{
    kd_tensor *x = NULL;
    kdtest_rand r = { seed };
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, 4, (size_t[]){ BATCH, SIDE, SIDE, 3 }));
    kdtest_fill(&r, kd_tensor_f32(x), kd_tensor_count(x), 1.0);
    return x;
}

static uint64_t hash_of(const kd_tensor *x)
{
    return kd_tensor_data(x) ? kdtest_hash(kd_tensor_data(x), kd_tensor_count(x) * sizeof(float)) : 0;
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

#define FORWARD_FAILS(model, tape, x, status, text)                                         \
    do {                                                                                    \
        kd_tensor *y = kd_model_forward(model, tape, x);                                    \
        CHECK(y != NULL && kd_tensor_data(y) == NULL);                                      \
        CHECK_STATUS(kd_tape_status(tape), status);                                         \
        CHECK_STATUS(kd_backward(tape, y), status);                                         \
        CHECK_ERROR_HAS(text);                                                              \
        kd_tape_reset(tape);                                                                \
    } while (0)

TEST(errors_name_the_layer)
{
    kd_model *m = net(NULL);
    kd_tape *tape = tape_of(NULL, KD_TAPE_TRAIN);
    kd_tensor *x = batch(1), *small = NULL, *ints = NULL;
    CHECK_OK(kd_tensor_create(&small, NULL, KD_F32, 4, (size_t[]){ BATCH, SIDE, SIDE, 4 }));
    CHECK_OK(kd_tensor_create(&ints, NULL, KD_I32, 4, (size_t[]){ BATCH, SIDE, SIDE, 3 }));
    FORWARD_FAILS(m, tape, small, KD_ERR_SHAPE, "stem: kd_conv2d: ");
    FORWARD_FAILS(m, tape, ints, KD_ERR_DTYPE, "stem: kd_conv2d: ");
    FORWARD_FAILS(m, tape, NULL, KD_ERR_ARG, "kd_model_forward: x is NULL");
    FORWARD_FAILS(NULL, tape, x, KD_ERR_ARG, "kd_model_forward: model is NULL");
    CHECK(kd_model_forward(m, NULL, x) != NULL);
    CHECK_ERROR_HAS("kd_model_forward: tape is NULL");
    CHECK(kd_layer_forward(kd_model_root(m), NULL, x) != NULL);
    CHECK_ERROR_HAS("kd_layer_forward: tape is NULL");
    kd_layer_forward(NULL, tape, x);
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_layer_forward: layer is NULL");
    kd_tape_reset(tape);

    /* A layer deep inside, a second error after it, and a stale input. */
    kd_layer *deep = kd_layer_child(kd_model_root(m), "group1.1");
    kd_layer_forward(deep, tape, x);
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_SHAPE);
    CHECK_MSG(strncmp(kd_last_error(), "group1.1.conv: kd_conv2d: ", 26) == 0, "%s", kd_last_error());
    kd_model_forward(m, tape, NULL);
    CHECK_MSG(strncmp(kd_last_error(), "group1.1.conv: kd_conv2d: ", 26) == 0, "%s", kd_last_error());
    kd_tape_reset(tape);
    kd_tensor *stale = kd_model_forward(m, tape, x);
    CHECK_OK(kd_tape_status(tape));
    kd_tape_reset(tape);
    FORWARD_FAILS(m, tape, stale, KD_ERR_STATE, "kd_model_forward: x was made before kd_tape_reset");

    /* Poison of another tape brings its own text. */
    kd_tape *other = tape_of(NULL, KD_TAPE_INFER);
    kd_tensor *poison = kd_model_forward(m, other, small);
    FORWARD_FAILS(m, tape, poison, KD_ERR_SHAPE, "stem: kd_conv2d: ");

    /* Models that are not there yet. */
    kd_model *half = NULL;
    CHECK_OK(kd_model_create(&half, NULL));
    kd_layer *fc = kd_layer_linear(kd_model_root(half), "fc", 3, 3, 1);
    FORWARD_FAILS(half, tape, x, KD_ERR_STATE, "kd_model_forward: the model is not finished");
    kd_layer_forward(fc, tape, x);
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_STATE);
    CHECK_ERROR_HAS("fc: kd_layer_forward: the model is not finished");
    kd_tape_reset(tape);
    kd_layer *bad = kd_layer_linear(kd_model_root(half), "bad", 0, 3, 1);
    FORWARD_FAILS(half, tape, x, KD_ERR_ARG, "kd_model_forward: bad: kd_layer_linear: in 0");
    kd_layer_forward(bad, tape, x);
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_layer_forward: layer: made by a call that failed");
    kd_model_free(half);
    kd_tape_free(other);
    kd_tape_free(tape);
    kd_tensor_free(x);
    kd_tensor_free(small);
    kd_tensor_free(ints);
    kd_model_free(m);
}

TEST(cancelling_a_forward)
{
    kd_context *ctx = kdtest_context(1, KD_ISA_AUTO);
    kd_model *m = net(ctx);
    kd_tape *tape = tape_of(ctx, KD_TAPE_INFER);
    kd_tensor *x = batch(1);
    kd_context_cancel(ctx);
    kd_model_forward(m, tape, x);
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_CANCELLED);
    kd_context_resume(ctx);
    kd_tape_reset(tape);
    kd_model_forward(m, tape, x);
    CHECK_OK(kd_tape_status(tape));
    kd_tape_free(tape);
    kd_model_free(m);
    kd_tensor_free(x);
    kd_context_free(ctx);
}

/* ---- taps ------------------------------------------------------------------------------------------------------- */

TEST(taps_hold_what_the_layers_gave)
{
    static const uint32_t modes[] = { KD_TAPE_TRAIN, KD_TAPE_INFER, KD_TAPE_EVAL };
    kd_model *m = net(NULL);
    kd_tensor *x = batch(1);
    CHECK_OK(kd_model_tap(m, "stem"));
    CHECK_OK(kd_model_tap(m, "group1"));
    CHECK_OK(kd_model_tap(m, "group1:pre"));      /* the sum inside group1.1 */
    CHECK_OK(kd_model_tap(m, "group1.0:pre"));
    CHECK_OK(kd_model_tap(m, "group2.0.down"));
    CHECK_OK(kd_model_tap(m, "fc"));
    CHECK_OK(kd_model_tap(m, ""));
    for (size_t i = 0; i < 3; i++) {
        kd_tape *tape = tape_of(NULL, modes[i]), *by_hand = tape_of(NULL, modes[i]);
        kd_tensor *y = kd_model_forward(m, tape, x);
        CHECK_OK(kd_tape_status(tape));
        CHECK(kd_model_tapped(m, tape, "fc") == y && kd_model_tapped(m, tape, "") == y);
        /* The same layers, one call each: batch statistics come from the batch, so a second run sees the same. */
        kd_layer *root = kd_model_root(m);
        kd_tensor *h = kd_layer_forward(kd_layer_child(root, "stem"), by_hand, x);
        CHECK(hash_of(kd_model_tapped(m, tape, "stem")) == hash_of(h) && hash_of(h));
        h = kd_layer_forward(kd_layer_child(root, "group1"), by_hand, h);
        CHECK(hash_of(kd_model_tapped(m, tape, "group1")) == hash_of(h));
        kd_tensor *pre = kd_model_tapped(m, tape, "group1:pre");
        CHECK(pre == kd_model_tapped(m, tape, "group1.1:pre"));
        CHECK(hash_of(kd_relu(by_hand, pre)) == hash_of(h) && hash_of(pre) != hash_of(h));
        h = kd_layer_forward(kd_layer_child(root, "group2.0.down"), by_hand, h);
        CHECK(hash_of(kd_model_tapped(m, tape, "group2.0.down")) == hash_of(h));
        CHECK_OK(kd_tape_status(by_hand));
        CHECK_OK(kd_tape_status(tape));

        /* The last forward counts; after a reset there is none. */
        kd_tensor *x2 = batch(2);
        uint64_t first = hash_of(kd_model_tapped(m, tape, "stem"));
        kd_tensor *kept = kd_model_tapped(m, tape, "stem");
        kd_model_forward(m, tape, x2);
        CHECK(hash_of(kd_model_tapped(m, tape, "stem")) != first && hash_of(kept) == first);
        kd_tape_reset(tape);
        CHECK(kd_tensor_data(kd_model_tapped(m, tape, "stem")) == NULL);
        CHECK_STATUS(kd_tape_status(tape), KD_ERR_STATE);
        CHECK_ERROR_HAS("kd_model_tapped: \"stem\": no forward of this model on this tape");
        kd_tensor_free(x2);
        kd_tape_free(tape);
        kd_tape_free(by_hand);
    }
    kd_model_free(m);
    kd_tensor_free(x);
}

TEST(bad_taps)
{
    kd_model *m = net(NULL);
    kd_tape *tape = tape_of(NULL, KD_TAPE_INFER);
    kd_tensor *x = batch(1);
    CHECK_STATUS(kd_model_tap(m, "group1.2"), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_model_tap: no layer \"group1.2\" (the nearest is \"group1.0\")");
    CHECK_STATUS(kd_model_tap(m, "gruop2:pre"), KD_ERR_ARG);
    CHECK_ERROR_HAS("no layer \"gruop2\" (the nearest is \"group");
    CHECK_STATUS(kd_model_tap(m, "fc:pre"), KD_ERR_ARG);
    CHECK_ERROR_HAS("path \"fc:pre\": neither a residual nor a sequence that ends in one");
    CHECK_STATUS(kd_model_tap(m, "group1:post"), KD_ERR_ARG);
    CHECK_ERROR_HAS("only \":pre\" may follow");
    CHECK_STATUS(kd_model_tap(m, NULL), KD_ERR_ARG);
    kd_model_forward(m, tape, x);
    CHECK(kd_tensor_data(kd_model_tapped(m, tape, "stem")) == NULL);
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_STATE);
    CHECK_ERROR_HAS("\"stem\" was not tapped");
    kd_tape_reset(tape);
    kd_model_tapped(m, tape, "nope");
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_ARG);
    kd_tape_reset(tape);
    kd_model_tapped(NULL, tape, "stem");
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_ARG);
    CHECK(kd_model_tapped(m, NULL, "stem") != NULL);
    CHECK_ERROR_HAS("kd_model_tapped: tape is NULL");
    kd_tape_free(tape);
    kd_tensor_free(x);
    kd_model_free(m);
}

/* ---- memory of INFER forwards ------------------------------------------------------------------------------------ */

/* Linear layers of these sizes with ReLU between. */
static kd_model *mlp(const size_t *sizes, size_t count)
{
    kd_model *m = NULL;
    CHECK_OK(kd_model_create(&m, NULL));
    for (size_t i = 1; i < count; i++) {
        kd_layer_linear(kd_model_root(m), NULL, sizes[i - 1], sizes[i], 1);
        if (i + 1 < count) kd_layer_activation(kd_model_root(m), NULL, KD_ACT_RELU);
    }
    CHECK_OK(kd_model_finish(m, 1));
    return m;
}

static size_t infer_peak(kd_model *m, size_t rank, const size_t *shape)
{
    kd_tape *tape = tape_of(NULL, KD_TAPE_INFER);
    kd_tensor *x = NULL;
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, rank, shape));
    kd_model_forward(m, tape, x);
    CHECK_OK(kd_tape_status(tape));
    size_t peak = kd_tape_peak_bytes(tape), held = kd_tape_bytes(tape);
    CHECK_MSG(held < 3 * peak + 200000, "holds %zu bytes for a peak of %zu", held, peak);
    for (int i = 0; i < 3; i++) {
        kd_tape_reset(tape);
        kd_model_forward(m, tape, x);
        CHECK_OK(kd_tape_status(tape));
        CHECK(kd_tape_peak_bytes(tape) == peak && kd_tape_bytes(tape) == held);
    }
    kd_tape_free(tape);
    kd_tensor_free(x);
    return peak;
}

TEST(infer_peaks_at_two_activations)
{
    enum { ROWS = 64, WIDTH = 256 };
    size_t sizes[65];
    for (size_t i = 0; i < 65; i++) sizes[i] = WIDTH;
    for (size_t depth = 2; depth <= 64; depth *= 2) {
        kd_model *m = mlp(sizes, depth + 1);
        size_t peak = infer_peak(m, 2, (size_t[]){ ROWS, WIDTH });
        CHECK_MSG(peak == 2 * ROWS * WIDTH * sizeof(float), "depth %zu: %zu", depth, peak);
        kd_model_free(m);
    }
    /* Sizes that differ, linear and relu in one: 1024 and the 64 behind it. */
    kd_model *m = mlp((size_t[]){ WIDTH, 1024, 64, 512, 16 }, 5);
    CHECK(infer_peak(m, 2, (size_t[]){ ROWS, WIDTH }) == ROWS * (1024 + 64) * sizeof(float));
    /* Tapped tensors stay, and the first relu runs alone: two of 1024, with one of 64 and one of 512 (and a note of 64 bytes for each
     * tap). */
    CHECK_OK(kd_model_tap(m, "0"));
    CHECK_OK(kd_model_tap(m, "1"));
    CHECK(infer_peak(m, 2, (size_t[]){ ROWS, WIDTH }) == ROWS * (2 * 1024 + 64 + 512) * sizeof(float) + 2 * 64);
    kd_model_free(m);
}

TEST(infer_peak_of_residual_networks)
{
    /* x and the block's result, which convolution, batch norm and sum make in one; the same for 2 blocks and for 12. */
    const size_t image = 2 * 16 * 16 * 8 * sizeof(float);
    for (size_t blocks = 2; blocks <= 12; blocks += 5) {
        kd_model *m = NULL;
        CHECK_OK(kd_model_create(&m, NULL));
        for (size_t i = 0; i < blocks; i++) residual_block(kd_model_root(m), 8, 8, 1);
        CHECK_OK(kd_model_finish(m, 1));
        size_t peak = infer_peak(m, 4, (size_t[]){ 2, 16, 16, 8 });
        CHECK_MSG(peak == 2 * image, "%zu blocks: %zu, want %zu", blocks, peak, 2 * image);
        kd_model_free(m);
    }
}

/* Five results in a row, of which one is asked for. */
static kd_tensor *wasteful(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)self;
    (void)user;
    for (int i = 0; i < 5; i++) x = kd_scale(tape, x, 1.0f, 0.125f);
    return x;
}

TEST(infer_takes_back_what_blocks_made)
{
    const kd_block_desc desc = { sizeof desc, NULL, wasteful, NULL, NULL };
    kd_model *m = NULL;
    CHECK_OK(kd_model_create(&m, NULL));
    for (int i = 0; i < 6; i++) kd_layer_block(kd_model_root(m), NULL, &desc);
    CHECK_OK(kd_model_finish(m, 1));
    /* The block's input and its five results. */
    CHECK(infer_peak(m, 2, (size_t[]){ 32, 64 }) == 6 * 32 * 64 * sizeof(float));
    kd_model_free(m);
}

TEST(train_and_infer_agree_where_modes_do)
{
    kd_model *m = net(NULL);
    kd_tensor *x = batch(1);
    kd_tape *infer = tape_of(NULL, KD_TAPE_INFER), *eval = tape_of(NULL, KD_TAPE_EVAL), *train = tape_of(NULL, KD_TAPE_TRAIN);
    uint64_t want = hash_of(kd_model_forward(m, infer, x));
    CHECK(want && hash_of(kd_model_forward(m, eval, x)) == want);
    CHECK(hash_of(kd_model_forward(m, train, x)) != want);
    kd_tape_free(infer);
    kd_tape_free(eval);
    kd_tape_free(train);
    kd_tensor_free(x);
    kd_model_free(m);
}

/* ---- whole steps --------------------------------------------------------------------------------------------------- */

static int32_t labels_data[BATCH] = { 0, 3, 1, 4 };

/* Forward, loss, backward, and a plain step down. */
static kd_status step(kd_model *m, kd_tape *tape, kd_tensor *x)
{
    kd_tensor *labels;
    kd_status status = kd_tensor_wrap(&labels, NULL, KD_I32, 1, (size_t[]){ BATCH }, NULL, labels_data);
    if (status != KD_OK) return status;
    kd_tensor *y = kd_model_forward(m, tape, x);
    status = kd_backward(tape, kd_cross_entropy(tape, y, labels, -100, 0, KD_REDUCE_MEAN_ROWS));
    if (status == KD_OK) {
        size_t n;
        float *w = kd_model_weights(m, &n);
        const float *g = kd_model_grads(m, NULL);
        for (size_t i = 0; i < n; i++) w[i] -= 0.05f * g[i];
        kd_model_touch(m);
        kd_model_zero_grads(m);
    }
    kd_tape_reset(tape);
    kd_tensor_free(labels);
    return status;
}

/* ---- what a training step keeps ------------------------------------------------------------------------------------ */

enum { IMAGES = 8, PIXELS = 32 };
static int32_t image_labels[IMAGES] = { 0, 1, 2, 3, 4, 5, 6, 7 };

static kd_model *resnet8(kd_context *ctx)
{
    kd_model *m = NULL;
    CHECK_OK(kd_zoo_resnet_cifar(&m, ctx, 8, 1, 10, 3));
    return m;
}

static kd_tensor *images(void)
{
    kd_tensor *x = NULL;
    kdtest_rand r = { 9 };
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, 4, (size_t[]){ IMAGES, PIXELS, PIXELS, 3 }));
    kdtest_fill(&r, kd_tensor_f32(x), kd_tensor_count(x), 1.0);
    return x;
}

static void learn(kd_model *m, kd_tape *tape, kd_tensor *x)
{
    kd_tensor *labels = NULL;
    CHECK_OK(kd_tensor_wrap(&labels, NULL, KD_I32, 1, (size_t[]){ IMAGES }, NULL, image_labels));
    CHECK_OK(kd_backward(tape, kd_cross_entropy(tape, kd_model_forward(m, tape, x), labels, -100, 0, KD_REDUCE_MEAN_ROWS)));
    kd_tensor_free(labels);
}

/* A unit is the stem's result.  When the forward ends there are, of each convolution, its result, and each block's end: stem 1,
 * group 1 3, group 2 (half the size, with a projection) 2, group 3 1; results of batch norm before ReLU or a sum are made again
 * or have been used.  The first gradients: two of a quarter.  Later less is in use. */
TEST(training_keeps_what_backward_reads)
{
    const size_t unit = (size_t)IMAGES * PIXELS * PIXELS * 16 * sizeof(float);
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    kd_model *m = resnet8(a.ctx);
    kd_tape *tape = tape_of(a.ctx, KD_TAPE_TRAIN);
    kd_tensor *x = images();
    const size_t before = a.live_bytes;
    for (int i = 0; i < 3; i++) {
        learn(m, tape, x);
        kd_tape_reset(tape);
    }
    const size_t peak = kd_tape_peak_bytes(tape), held = kd_tape_bytes(tape);
    CHECK_MSG(peak > 7 * unit + unit / 4 && peak < 7 * unit + unit / 2 + unit / 8, "%zu bytes: %.3f units", peak,
              (double)peak / (double)unit);
    CHECK_MSG(held < peak + peak / 2, "holds %zu bytes for a peak of %zu", held, peak);
    CHECK_MSG(held <= a.live_bytes - before, "says %zu bytes, allocated %zu", held, a.live_bytes - before);
    CHECK_MSG(a.live_bytes - before < held + 3 * unit, "%zu bytes beside the tape", a.live_bytes - before - held);

    kd_model_freeze(m, 1);   /* nothing to undo: nothing is kept but what lies between two layers and around a residual */
    kd_tape *idle = tape_of(a.ctx, KD_TAPE_TRAIN);
    kd_model_forward(m, idle, x);
    CHECK_OK(kd_tape_status(idle));
    CHECK_MSG(kd_tape_peak_bytes(idle) < 3 * unit + unit / 8, "frozen: %zu bytes", kd_tape_peak_bytes(idle));
    kd_tape_free(idle);
    kd_tape_free(tape);
    kd_model_free(m);
    kd_tensor_free(x);
    kdtest_alloc_end(&a);
}

/* Tapped results stay until reset and end the chains of layers: a step where nearly all are is one that gives nothing back. */
TEST(memory_given_back_changes_no_bit)
{
    static const char *const all[] = {
        "conv1", "bn1", "relu", "layer1", "layer1.0", "layer1.0.conv1", "layer1.0.bn1", "layer1.0.relu", "layer1.0.conv2",
        "layer1.0.bn2", "layer2", "layer2.0.conv1", "layer2.0.bn1", "layer2.0.conv2", "layer2.0.bn2", "layer2.0.downsample",
        "layer2.0.downsample.0", "layer3.0.conv1", "layer3.0.bn1", "layer3.0.conv2", "layer3.0.bn2", "layer3.0.downsample.0",
        "avgpool",
    };
    kd_tensor *x = images();
    kd_model *lean = resnet8(NULL), *full = resnet8(NULL);
    kd_tape *tape = tape_of(NULL, KD_TAPE_TRAIN), *wide = tape_of(NULL, KD_TAPE_TRAIN);
    size_t n, tapped = 0;
    for (size_t i = 0; i < KD_COUNT(all); i++) tapped += kd_model_tap(full, all[i]) == KD_OK;
    CHECK_MSG(tapped >= 20, "%zu taps", tapped);
    for (int i = 0; i < 2; i++) {
        learn(lean, tape, x);
        learn(full, wide, x);
        float *a = kd_model_grads(lean, &n), *b = kd_model_grads(full, NULL);
        CHECK(memcmp(a, b, n * sizeof *a) == 0);
        CHECK(kd_tape_peak_bytes(tape) < kd_tape_peak_bytes(wide) * 2 / 3);
        CHECK(kd_tensor_data(kd_model_tapped(full, wide, "layer1.0.bn1")) != NULL);
        kd_tape_reset(tape);
        kd_tape_reset(wide);
    }
    kd_tape_free(tape);
    kd_tape_free(wide);
    kd_model_free(lean);
    kd_model_free(full);
    kd_tensor_free(x);
}

/* What a block of the user's saw, made and returned on a tape that records is there until reset. */
typedef struct seen { kd_tensor *x, *inner, *inside, *y; } seen;

static kd_tensor *look_and_keep(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    seen *s = user;
    s->x = x;
    s->inner = kd_layer_forward(kd_layer_child(self, "conv"), tape, x);
    s->inside = kd_layer_forward(kd_layer_child(self, "bn"), tape, s->inner);
    return s->y = kd_relu(tape, s->inside);
}

TEST(what_a_block_saw_stays)
{
    seen s = { 0 };
    kd_model *m = NULL;
    kd_conv_desc same;
    kd_conv_desc_init(&same, sizeof same);
    same.padding[0] = same.padding[1] = 1;
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer *root = kd_model_root(m);
    kd_layer_conv2d(root, "conv1", 3, 8, 3, 3, 0, &same);
    kd_layer_batch_norm(root, "bn1", 8, 0.1f, 1e-5f);
    kd_layer *block = kd_layer_block(root, "block", &(kd_block_desc){ .struct_size = sizeof(kd_block_desc), .forward = look_and_keep,
                                                                     .user = &s });
    kd_layer_conv2d(block, "conv", 8, 8, 3, 3, 0, &same);
    kd_layer_batch_norm(block, "bn", 8, 0.1f, 1e-5f);
    kd_layer_conv2d(root, "conv2", 8, 8, 3, 3, 0, &same);
    kd_layer_batch_norm(root, "bn2", 8, 0.1f, 1e-5f);
    kd_layer_global_avg_pool(root, "pool");
    CHECK_OK(kd_model_finish(m, 4));
    kd_tape *tape = tape_of(NULL, KD_TAPE_TRAIN);
    kd_tensor *x = images();
    kd_tensor *y = kd_model_forward(m, tape, x);
    CHECK_OK(kd_tape_status(tape));
    kd_tensor *const all[] = { s.x, s.inner, s.inside, s.y, y };
    uint64_t hash[KD_COUNT(all)];
    for (size_t i = 0; i < KD_COUNT(all); i++) CHECK((hash[i] = hash_of(all[i])) != 0);
    CHECK_OK(kd_backward(tape, kd_mean(tape, kd_square(tape, y), 0, 0)));
    for (int i = 0; i < 8; i++) kd_square(tape, x);   /* whatever is free is written */
    for (size_t i = 0; i < KD_COUNT(all); i++) CHECK_MSG(hash_of(all[i]) == hash[i], "tensor %zu", i);
    kd_tape_free(tape);
    kd_model_free(m);
    kd_tensor_free(x);
}

TEST(the_second_step_allocates_nothing)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 2, KD_ISA_AUTO);
    kd_model *m = net(a.ctx);
    CHECK_OK(kd_model_tap(m, "group1:pre"));
    kd_tape *tape = tape_of(a.ctx, KD_TAPE_TRAIN), *look = tape_of(a.ctx, KD_TAPE_INFER);
    kd_tensor *x = batch(1);
    for (int i = 0; i < 5; i++) {
        size_t before = a.calls;
        kd_model_forward(m, look, x);
        CHECK_OK(kd_tape_status(look));
        CHECK_OK(step(m, tape, x));
        kd_tape_reset(look);
        if (i) CHECK_MSG(a.calls == before, "step %d: %zu allocations", i + 1, a.calls - before);
    }
    kd_tape_free(tape);
    kd_tape_free(look);
    kd_model_free(m);
    kd_tensor_free(x);
    kdtest_alloc_end(&a);
}

TEST(training_lowers_the_loss)
{
    kd_model *m = net(NULL);
    kd_tape *tape = tape_of(NULL, KD_TAPE_TRAIN), *look = tape_of(NULL, KD_TAPE_INFER);
    kd_tensor *x = batch(1), *labels;
    CHECK_OK(kd_tensor_wrap(&labels, NULL, KD_I32, 1, (size_t[]){ BATCH }, NULL, labels_data));
    double loss[2];
    for (int i = 0; i <= 60; i++) {
        if (i % 60 == 0) {
            loss[i / 60] = kd_tensor_item(kd_cross_entropy(look, kd_model_forward(m, look, x), labels, -100, 0, KD_REDUCE_MEAN_ROWS));
            kd_tape_reset(look);
        }
        CHECK_OK(step(m, tape, x));
    }
    CHECK_MSG(loss[1] < 0.5 * loss[0], "loss %g after 60 steps, %g before", loss[1], loss[0]);
    kd_tape_free(tape);
    kd_tape_free(look);
    kd_tensor_free(labels);
    kd_tensor_free(x);
    kd_model_free(m);
}

static uint64_t trained(uint32_t threads, uint32_t isa)
{
    kd_context *ctx = kdtest_context(threads, isa);
    kd_model *m = net(ctx);
    kd_tape *tape = tape_of(ctx, KD_TAPE_TRAIN);
    kd_tensor *x = batch(1);
    for (int i = 0; i < 3; i++) CHECK_OK(step(m, tape, x));
    size_t w, b;
    float *weights = kd_model_weights(m, &w), *buffers = kd_model_buffers(m, &b);
    uint64_t hash = kdtest_hash(weights, w * sizeof *weights) * 31 + kdtest_hash(buffers, b * sizeof *buffers);
    kd_tape_free(tape);
    kd_tensor_free(x);
    kd_model_free(m);
    kd_context_free(ctx);
    return hash;
}

TEST(the_same_bits_for_any_threads_and_isa)
{
    uint32_t isas[5];
    size_t n = kdtest_isas(isas);
    uint64_t want = trained(1, isas[n - 1]);
    for (uint32_t threads = 2; threads <= 4; threads++) CHECK_MSG(trained(threads, isas[n - 1]) == want, "%u threads", threads);
    for (size_t i = 0; i < n; i++)
        if (isas[i] != KD_ISA_SCALAR) CHECK_MSG(trained(1, isas[i]) == want, "%s", kdtest_isa_name(isas[i]));
}

/* ---- several threads, one model ------------------------------------------------------------------------------------- */

typedef struct looker { kd_model *model; kd_tensor *x; uint64_t hash, tap; kd_status status; } looker;

static void *look_on(void *arg)
{
    looker *l = arg;
    kd_tape *tape;
    l->status = kd_tape_create(&tape, NULL, KD_TAPE_INFER);
    for (int i = 0; i < 8 && l->status == KD_OK; i++) {
        l->hash = hash_of(kd_model_forward(l->model, tape, l->x));
        l->tap = hash_of(kd_model_tapped(l->model, tape, "group1:pre"));
        l->status = kd_tape_status(tape);
        kd_tape_reset(tape);
    }
    kd_tape_free(tape);
    return NULL;
}

TEST(several_threads_may_look_at_once)
{
    enum { THREADS = 4 };
    kd_model *m = net(NULL);
    CHECK_OK(kd_model_tap(m, "group1:pre"));
    looker l[THREADS], alone[THREADS];
    pthread_t threads[THREADS];
    for (uint64_t i = 0; i < THREADS; i++) {
        l[i] = alone[i] = (looker){ .model = m, .x = batch(i) };
        look_on(&alone[i]);
    }
    kd_model_freeze(m, 1);   /* now the first to come packs the weights of each layer */
    for (size_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, look_on, &l[i]) == 0);
    for (size_t i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK_OK(l[i].status);
        CHECK(l[i].hash == alone[i].hash && l[i].tap == alone[i].tap && l[i].hash);
        kd_tensor_free(l[i].x);
    }
    kd_model_free(m);
}

/* ---- memory that runs out ------------------------------------------------------------------------------------------- */

static kd_status life(kd_context *ctx, kd_tensor *x)
{
    kd_model *m = NULL;
    kd_tape *tape = NULL, *look = NULL;
    kd_status status = net_create(&m, ctx);
    if (status == KD_OK) status = kd_model_tap(m, "group1:pre");
    if (status == KD_OK) status = kd_tape_create(&tape, ctx, KD_TAPE_TRAIN);
    if (status == KD_OK) status = kd_tape_create(&look, ctx, KD_TAPE_INFER);
    if (status == KD_OK) {
        kd_model_forward(m, look, x);
        status = kd_tape_status(look);
    }
    if (status == KD_OK) status = step(m, tape, x);
    char table[64];
    if (status == KD_OK && !kd_model_summary(m, 4, (size_t[]){ 1, SIDE, SIDE, 3 }, table, sizeof table)) status = KD_ERR_NOMEM;
    kd_tape_free(tape);
    kd_tape_free(look);
    kd_model_free(m);
    return status;
}

TEST(out_of_memory_at_every_allocation)
{
    kd_tensor *x = batch(1);
    size_t points = 0;
    for (int persistent = 0; persistent < 2; persistent++)
        for (size_t at = 1;; at++, points++) {
            kdtest_alloc a;
            kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
            a.fail_at = a.calls + at;
            a.persistent = persistent;
            kd_status status = life(a.ctx, x);
            int reached = a.calls >= a.fail_at;
            kdtest_alloc_end(&a);
            if (!reached) {
                CHECK_STATUS(status, KD_OK);
                break;
            }
            CHECK_MSG(status == KD_ERR_NOMEM, "allocation %zu: %s", at, kd_status_name(status));
        }
    CHECK_MSG(points > 30, "%zu points", points);
    kd_tensor_free(x);
}

/* ---- summary --------------------------------------------------------------------------------------------------------- */

TEST(summary)
{
    static const char want[] =
        "layer            type             output         parameters  multiply-adds\n"
        "stem             conv2d           [2, 8, 8, 8]          216         27,648\n"
        "group1           sequence         [2, 8, 8, 12]\n"
        "group1.0         residual         [2, 8, 8, 12]\n"
        "group1.0.conv    conv2d           [2, 8, 8, 12]         864        110,592\n"
        "group1.0.bn      batch_norm       [2, 8, 8, 12]          24\n"
        "group1.0.down    sequence         [2, 8, 8, 12]\n"
        "group1.0.down.0  conv2d           [2, 8, 8, 12]         108         12,288\n"
        "group1.1         residual         [2, 8, 8, 12]\n"
        "group1.1.conv    conv2d           [2, 8, 8, 12]       1,296        165,888\n"
        "group1.1.bn      batch_norm       [2, 8, 8, 12]          24\n"
        "group2           sequence         [2, 4, 4, 16]\n"
        "group2.0         residual         [2, 4, 4, 16]\n"
        "group2.0.conv    conv2d           [2, 4, 4, 16]       1,728         55,296\n"
        "group2.0.bn      batch_norm       [2, 4, 4, 16]          32\n"
        "group2.0.down    sequence         [2, 4, 4, 16]\n"
        "group2.0.down.0  conv2d           [2, 4, 4, 16]         208          6,144\n"
        "pool             global_avg_pool  [2, 16]\n"
        "drop             dropout          [2, 16]\n"
        "fc               linear           [2, 5]                 85            160\n"
        "total                             [2, 5]              4,585        378,016\n";
    kd_model *m = net(NULL);
    char text[2048];
    const size_t shape[] = { 2, SIDE, SIDE, 3 };
    size_t n = kd_model_summary(m, 4, shape, text, sizeof text);
    CHECK_STR(text, want);
    CHECK(n == strlen(want));
    CHECK(kd_model_summary(m, 4, shape, NULL, 0) == n);
    char cut[10] = "xxxxxxxxx";
    CHECK(kd_model_summary(m, 4, shape, cut, sizeof cut) == n && memcmp(cut, "layer    ", 10) == 0);
    CHECK(kd_model_summary(NULL, 4, shape, text, sizeof text) == 0 && !*text);
    CHECK(kd_model_summary(m, 4, NULL, text, sizeof text) == 0);
    CHECK(kd_model_summary(m, 3, shape, text, sizeof text) == 0);
    CHECK_ERROR_HAS("stem: kd_conv2d: ");
    kd_model_free(m);

    /* Indices where the model wants them. */
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer_embedding(kd_model_root(m), "e", 10, 3);
    CHECK_OK(kd_model_finish(m, 1));
    CHECK(kd_model_summary(m, 2, (size_t[]){ 1, 4 }, text, sizeof text) > 0);
    CHECK(strstr(text, "e      embedding  [1, 4, 3]") != NULL);
    kd_model_free(m);
}
