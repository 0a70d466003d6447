/* test_zoo.c - the named architectures: names, sizes, published parameter counts, what they compute.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "kdtest_file.h"
#include "nn/nn.h"
#include <stdlib.h>

TEST(mlp)
{
    kd_model *m = NULL;
    CHECK_OK(kd_zoo_mlp(&m, NULL, (size_t[]){ 12, 8, 6, 3 }, 4, KD_ACT_GELU, 1));
    CHECK(kd_model_size(m) == 12 * 8 + 8 + 8 * 6 + 6 + 6 * 3 + 3);
    static const char *const names[] = { "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias" };
    CHECK(kd_model_parameter_count(m) == 6);
    for (size_t i = 0; i < 6; i++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(m, i, &info));
        CHECK_STR(info.name, names[i]);
    }
    /* Images are flattened; the last layer has no activation. */
    kd_tape *tape = NULL;
    kd_tensor *x = NULL;
    kdtest_rand r = { 4 };
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, 4, (size_t[]){ 5, 2, 2, 3 }));
    kdtest_fill(&r, kd_tensor_f32(x), 60, 1.0);
    kd_tensor *y = kd_model_forward(m, tape, x), *h = kd_reshape(tape, x, 2, (size_t[]){ 5, 12 });
    for (size_t i = 0; i < 3; i++) {
        kd_param_info w = { .struct_size = sizeof w }, b = w;
        CHECK_OK(kd_model_find(m, names[2 * i], &w));
        CHECK_OK(kd_model_find(m, names[2 * i + 1], &b));
        h = kd_linear(tape, h, w.tensor, b.tensor);
        if (i < 2) h = kd_gelu(tape, h);
    }
    CHECK_OK(kd_tape_status(tape));
    CHECK(kd_tensor_count(y) == 15 && memcmp(kd_tensor_data(y), kd_tensor_data(h), 15 * sizeof(float)) == 0);
    kd_tape_free(tape);
    kd_tensor_free(x);
    kd_model_free(m);

    CHECK_OK(kd_zoo_mlp(&m, NULL, (size_t[]){ 4, 2 }, 2, KD_ACT_RELU, 1));
    kd_model_free(m);
    CHECK_OK(kd_zoo_mlp(&m, NULL, (size_t[]){ 4, 3, 2 }, 3, KD_ACT_NONE, 1));
    kd_model_free(m);
    CHECK_STATUS(kd_zoo_mlp(NULL, NULL, (size_t[]){ 4, 2 }, 2, KD_ACT_RELU, 1), KD_ERR_ARG);
    CHECK_STATUS(kd_zoo_mlp(&m, NULL, NULL, 2, KD_ACT_RELU, 1), KD_ERR_ARG);
    CHECK(m == NULL);
    CHECK_STATUS(kd_zoo_mlp(&m, NULL, (size_t[]){ 4 }, 1, KD_ACT_RELU, 1), KD_ERR_ARG);
    CHECK_STATUS(kd_zoo_mlp(&m, NULL, (size_t[]){ 4, 0, 2 }, 3, KD_ACT_RELU, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("fc1: kd_layer_linear: in 4, out 0");
    CHECK_STATUS(kd_zoo_mlp(&m, NULL, (size_t[]){ 4, 3, 2 }, 3, 42, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("act1: kd_layer_activation: activation 42");
}

/* Names of the parameters (no buffers) joined by spaces. */
static void check_names(kd_model *m, const char *want)
{
    char names[4096] = "";
    for (size_t i = 0; i < kd_model_parameter_count(m); i++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(m, i, &info));
        if (info.kind & KD_PARAM_BUFFER) continue;
        if (*names) strcat(names, " ");
        strcat(names, info.name);
    }
    CHECK_STR(names, want);
}

static kd_tensor *forward_zeros(kd_model *m, kd_tape *tape, size_t rank, const size_t *shape)
{
    kd_tensor *x = kd_tape_tensor(tape, KD_F32, rank, shape);
    memset(kd_tensor_data(x), 0, kd_tensor_count(x) * sizeof(float));
    kd_tensor *y = kd_model_forward(m, tape, x);
    CHECK_OK(kd_tape_status(tape));
    return y;
}

TEST(cnn)
{
    kd_cnn_desc d;
    kd_cnn_desc_init(&d, sizeof d);
    CHECK(d.struct_size == sizeof d && d.height == 28 && d.width == 28 && d.channels == 1 && d.conv1 == 32 && d.conv2 == 64 &&
          d.hidden == 128 && d.classes == 10 && d.batch_norm == 0 && d.dropout == 0.0f);
    kd_model *m = NULL;
    kd_tape *tape = NULL;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    CHECK_OK(kd_zoo_cnn(&m, NULL, NULL, 1));
    CHECK(kd_model_size(m) == 9 * 32 + 32 + 9 * 32 * 64 + 64 + 7 * 7 * 64 * 128 + 128 + 128 * 10 + 10);
    check_names(m, "conv1.weight conv1.bias conv2.weight conv2.bias fc1.weight fc1.bias fc2.weight fc2.bias");
    kd_tensor *y = forward_zeros(m, tape, 4, (size_t[]){ 2, 28, 28, 1 });
    CHECK(kd_tensor_size(y, 0) == 2 && kd_tensor_size(y, 1) == 10);
    kd_model_free(m);

    d.height = 9;
    d.width = 6;
    d.channels = 3;
    d.conv1 = 4;
    d.conv2 = 6;
    d.hidden = 8;
    d.classes = 3;
    d.batch_norm = 1;
    d.dropout = 0.5f;
    CHECK_OK(kd_zoo_cnn(&m, NULL, &d, 1));
    check_names(m, "conv1.weight conv1.bias bn1.weight bn1.bias conv2.weight conv2.bias bn2.weight bn2.bias fc1.weight fc1.bias "
                   "fc2.weight fc2.bias");
    CHECK(kd_layer_child(kd_model_root(m), "dropout") != NULL);
    kd_tape_reset(tape);
    y = forward_zeros(m, tape, 4, (size_t[]){ 2, 9, 6, 3 });
    CHECK(kd_tensor_size(y, 1) == 3);
    kd_model_free(m);

    d.width = 3;
    CHECK_STATUS(kd_zoo_cnn(&m, NULL, &d, 1), KD_ERR_ARG);
    CHECK(m == NULL);
    CHECK_ERROR_HAS("kd_zoo_cnn: height 9, width 3");
    d.width = 6;
    d.classes = 0;
    CHECK_STATUS(kd_zoo_cnn(&m, NULL, &d, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("fc2: kd_layer_linear: in 8, out 0");
    d.classes = 3;
    d.dropout = 1.0f;
    CHECK_STATUS(kd_zoo_cnn(&m, NULL, &d, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("dropout: kd_layer_dropout: p 1");
    d.dropout = 0;
    d.height = SIZE_MAX;
    CHECK_STATUS(kd_zoo_cnn(&m, NULL, &d, 1), KD_ERR_OVERFLOW);
    CHECK_STATUS(kd_zoo_cnn(NULL, NULL, NULL, 1), KD_ERR_ARG);
    kd_tape_free(tape);
}

/* The published counts of the networks for 100 classes. */
TEST(resnet_sizes)
{
    static const struct { size_t depth, widen, classes, size; } known[] = {
        { 20, 1, 100, 278324 },  { 32, 1, 100, 472756 },  { 56, 1, 100, 861620 },   { 110, 1, 100, 1736564 },
        { 8, 4, 100, 1233540 },  { 20, 1, 10, 272474 },   { 32, 4, 100, 7433860 },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].size > 2000000 && !kdtest_full()) continue;
        kd_model *m = NULL;
        CHECK_OK(kd_zoo_resnet_cifar(&m, NULL, known[i].depth, known[i].widen, known[i].classes, 1));
        CHECK_MSG(kd_model_size(m) == known[i].size, "resnet%zu x%zu: %zu, want %zu", known[i].depth, known[i].widen, kd_model_size(m),
                  known[i].size);
        kd_model_free(m);
    }
}

TEST(resnet_names_and_shapes)
{
    kd_model *m = NULL;
    CHECK_OK(kd_zoo_resnet_cifar(&m, NULL, 14, 1, 7, 1));
    check_names(m, "conv1.weight bn1.weight bn1.bias "
                   "layer1.0.conv1.weight layer1.0.bn1.weight layer1.0.bn1.bias layer1.0.conv2.weight layer1.0.bn2.weight "
                   "layer1.0.bn2.bias "
                   "layer1.1.conv1.weight layer1.1.bn1.weight layer1.1.bn1.bias layer1.1.conv2.weight layer1.1.bn2.weight "
                   "layer1.1.bn2.bias "
                   "layer2.0.conv1.weight layer2.0.bn1.weight layer2.0.bn1.bias layer2.0.conv2.weight layer2.0.bn2.weight "
                   "layer2.0.bn2.bias layer2.0.downsample.0.weight layer2.0.downsample.1.weight layer2.0.downsample.1.bias "
                   "layer2.1.conv1.weight layer2.1.bn1.weight layer2.1.bn1.bias layer2.1.conv2.weight layer2.1.bn2.weight "
                   "layer2.1.bn2.bias "
                   "layer3.0.conv1.weight layer3.0.bn1.weight layer3.0.bn1.bias layer3.0.conv2.weight layer3.0.bn2.weight "
                   "layer3.0.bn2.bias layer3.0.downsample.0.weight layer3.0.downsample.1.weight layer3.0.downsample.1.bias "
                   "layer3.1.conv1.weight layer3.1.bn1.weight layer3.1.bn1.bias layer3.1.conv2.weight layer3.1.bn2.weight "
                   "layer3.1.bn2.bias "
                   "fc.weight fc.bias");
    kd_tape *tape = NULL;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    const struct { const char *tap; size_t side, channels; } taps[] = {
        { "relu", 32, 16 }, { "layer1", 32, 16 }, { "layer1:pre", 32, 16 }, { "layer2", 16, 32 },
        { "layer2:pre", 16, 32 }, { "layer3", 8, 64 }, { "layer3:pre", 8, 64 },
    };
    for (size_t i = 0; i < 7; i++) CHECK_OK(kd_model_tap(m, taps[i].tap));
    CHECK_OK(kd_model_tap(m, "avgpool"));
    kd_tensor *y = forward_zeros(m, tape, 4, (size_t[]){ 2, 32, 32, 3 });
    CHECK(kd_tensor_rank(y) == 2 && kd_tensor_size(y, 0) == 2 && kd_tensor_size(y, 1) == 7);
    for (size_t i = 0; i < 7; i++) {
        kd_tensor *t = kd_model_tapped(m, tape, taps[i].tap);
        CHECK_MSG(kd_tensor_size(t, 1) == taps[i].side && kd_tensor_size(t, 2) == taps[i].side && kd_tensor_size(t, 3) == taps[i].channels,
                  "%s", taps[i].tap);
    }
    CHECK(kd_tensor_size(kd_model_tapped(m, tape, "avgpool"), 1) == 64);
    kd_tape_free(tape);
    kd_model_free(m);
}

/* Kaiming normal over the fan out: the variance of conv weights is 2 / (kh kw out), within six standard errors. */
TEST(resnet_begins_kaiming_normal)
{
    static const struct { const char *name; double fan_out; } convs[] = {
        { "conv1.weight", 9 * 32 }, { "layer1.0.conv1.weight", 9 * 64 }, { "layer2.0.downsample.0.weight", 128 },
    };
    kd_model *m = NULL;
    CHECK_OK(kd_zoo_resnet_cifar(&m, NULL, 8, 4, 10, 1));
    for (size_t i = 0; i < sizeof convs / sizeof *convs; i++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_find(m, convs[i].name, &info));
        double sum = 0, n = (double)kd_tensor_count(info.tensor), want = 2 / convs[i].fan_out;
        for (size_t j = 0; j < kd_tensor_count(info.tensor); j++)
            sum += (double)kd_tensor_f32(info.tensor)[j] * (double)kd_tensor_f32(info.tensor)[j];
        CHECK_NEAR(sum / n, want, 6 * want * __builtin_sqrt(2 / n));
    }
    kd_model_free(m);
}

TEST(bad_resnets)
{
    kd_model *m = NULL;
    CHECK_STATUS(kd_zoo_resnet_cifar(NULL, NULL, 20, 1, 10, 1), KD_ERR_ARG);
    static const size_t depths[] = { 0, 1, 2, 7, 9, 21, 1208, SIZE_MAX };
    for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
        CHECK_STATUS(kd_zoo_resnet_cifar(&m, NULL, depths[i], 1, 10, 1), KD_ERR_ARG);
        CHECK_ERROR_HAS("is not 6n + 2");
    }
    CHECK_STATUS(kd_zoo_resnet_cifar(&m, NULL, 20, 0, 10, 1), KD_ERR_ARG);
    CHECK_STATUS(kd_zoo_resnet_cifar(&m, NULL, 20, 1, 0, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("classes is 0");
    CHECK(m == NULL);
}

/* Published counts, CIFAR-100 (Tian et al. 2020 and others) and ImageNet. */
TEST(sizes_by_name)
{
    static const struct { const char *name; size_t classes, size; } known[] = {
        { "resnet20", 100, 278324 },       { "resnet8x4", 100, 1233540 },     { "resnet20_a", 10, 269722 },
        { "resnet32_a", 10, 464154 },      { "resnet44_a", 10, 658586 },      { "resnet56_a", 10, 853018 },
        { "resnet110_a", 10, 1727962 },    { "wrn_16_2", 100, 703284 },       { "wrn_40_1", 100, 569780 },
        { "wrn_40_2", 100, 2255156 },      { "vgg8", 100, 3965028 },          { "mobilenetv2_half", 100, 812836 },
        { "shufflenetv1", 100, 949258 },   { "shufflenetv2", 100, 1355528 },  { "vgg13", 100, 9462180 },
        { "vgg16", 10, 14728266 },         { "vgg19", 10, 20040522 },         { "resnet18", 1000, 11689512 },
        { "resnet34", 1000, 21797672 },    { "resnet50", 1000, 25557032 },    { "resnet101", 1000, 44549160 },
        { "resnet152", 1000, 60192808 },
        { "regnety_002", 1000, 3162996 },  { "regnety_004", 1000, 4344144 },  { "regnety_006", 1000, 6055160 },
        { "regnety_008", 1000, 6263168 },  { "vit_tiny_patch16_224", 1000, 5717416 },
        { "deit_tiny_distilled_patch16_224", 1000, 5910800 }, { "deit_small_patch16_224", 1000, 22050664 },
        { "vit_base_patch16_224", 1000, 86567656 },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].size > 1500000 && !kdtest_full()) continue;
        kd_model *m = NULL;
        CHECK_OK(kd_zoo_create(&m, NULL, known[i].name, known[i].classes, 1));
        CHECK_MSG(kd_model_size(m) == known[i].size, "%s: %zu, want %zu", known[i].name, kd_model_size(m), known[i].size);
        kd_model_free(m);
    }
}

/* Every name makes a model that computes, for images of other sizes too; its clone computes the same. */
TEST(every_name)
{
    kd_tape *tape = NULL;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    CHECK(kd_zoo_count() == 36 && kd_zoo_name(kd_zoo_count()) == NULL && kd_zoo_name(SIZE_MAX) == NULL);
    for (size_t i = 0; i < kd_zoo_count(); i++) {
        const char *name = kd_zoo_name(i);
        for (size_t j = 0; j < i; j++) CHECK(strcmp(name, kd_zoo_name(j)) != 0);
        kd_model *m = NULL, *clone = NULL;
        static const char *const large[] = { "110", "32x4", "vgg", "resnet56", "resnet18", "resnet34", "resnet50", "resnet101",
                                             "resnet152" };
        bool skip = false;
        for (size_t j = 0; j < sizeof large / sizeof *large; j++) skip |= strstr(name, large[j]) != NULL;
        if (skip && !kdtest_full()) continue;
        CHECK_OK(kd_zoo_create(&m, NULL, name, 3, 7));
        CHECK_OK(kd_model_clone(&clone, m));
        const size_t shape[4] = { 1, 40, 36, 3 };
        kd_tensor *x = kd_tape_tensor(tape, KD_F32, 4, shape);
        kdtest_rand r = { 5 };
        kdtest_fill(&r, kd_tensor_f32(x), 40 * 36 * 3, 1.0);
        kd_tensor *y = kd_model_forward(m, tape, x), *z = kd_model_forward(clone, tape, x);
        CHECK_OK(kd_tape_status(tape));
        CHECK_MSG(kd_tensor_count(y) == 3 && kd_tensor_rank(y) == 2, "%s", name);
        CHECK(kd_tensor_count(z) == 3 && memcmp(kd_tensor_data(y), kd_tensor_data(z), 3 * sizeof(float)) == 0);
        kd_tape_reset(tape);
        kd_model_free(m);
        kd_model_free(clone);
    }
    kd_tape_free(tape);
}

/* The guide's table has every name. */
TEST(the_guide_lists_all)
{
    size_t size;
    char *guide = (char *)kdtest_slurp(kdtest_repo("docs/guide/03-models.md"), &size);
    if (!CHECK(guide && size)) return;
    guide[size - 1] = 0;
    for (size_t i = 0; i < kd_zoo_count(); i++) {
        char quoted[40];
        snprintf(quoted, sizeof quoted, "`%s`", kd_zoo_name(i));
        CHECK_MSG(strstr(guide, quoted) != NULL, "%s", quoted);
    }
    free(guide);
}

/* A frozen model, whose neighbours run as one op, gives the bits of one that keeps every output. */
TEST(blocks_keep_their_bits)
{
    static const char *const names[] = { "wrn_16_1", "shufflenetv1", "shufflenetv2", "resnet20_a", "mobilenetv2_half" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        kd_model *m = NULL;
        kd_tape *infer = NULL, *eval = NULL;
        kd_tensor *x = NULL;
        kdtest_rand r = { 6 };
        CHECK_OK(kd_zoo_create(&m, NULL, names[i], 10, 3));
        CHECK_OK(kd_tape_create(&infer, NULL, KD_TAPE_INFER));
        CHECK_OK(kd_tape_create(&eval, NULL, KD_TAPE_EVAL));
        CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, 4, (size_t[]){ 2, 32, 32, 3 }));
        kdtest_fill(&r, kd_tensor_f32(x), kd_tensor_count(x), 1.0);
        kd_tensor *want = kd_model_forward(m, eval, x), *got = kd_model_forward(m, infer, x);
        CHECK_OK(kd_tape_status(infer));
        CHECK_MSG(memcmp(kd_tensor_data(want), kd_tensor_data(got), 20 * sizeof(float)) == 0, "%s", names[i]);
        kd_tape_reset(infer);
        kd_model_freeze(m, 1);
        got = kd_model_forward(m, infer, x);
        CHECK_MSG(memcmp(kd_tensor_data(want), kd_tensor_data(got), 20 * sizeof(float)) == 0, "%s, frozen", names[i]);
        kd_tape_free(infer);
        kd_tape_free(eval);
        kd_tensor_free(x);
        kd_model_free(m);
    }
}

/* The blocks' training steps: no allocation from the second on, the same gradients with one thread and with three; a failing
 * allocation while a model is built or run is an error and leaves nothing. */
TEST(blocks_train)
{
    static const char *const names[] = { "wrn_16_1", "shufflenetv1", "shufflenetv2", "resnet20_a", "regnety_002" };
    static float images[2 * 16 * 16 * 3];
    kdtest_rand r = { 8 };
    kdtest_fill(&r, images, sizeof images / sizeof *images, 1.0);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        double first = 0;
        for (uint32_t threads = 1; threads <= 3; threads += 2) {
            kdtest_alloc a = { 0 };
            kdtest_alloc_begin(&a, threads, KD_ISA_AUTO);
            kd_model *m = NULL;
            kd_tape *tape = NULL;
            CHECK_OK(kd_zoo_create(&m, a.ctx, names[i], 4, 3));
            CHECK_OK(kd_tape_create(&tape, a.ctx, KD_TAPE_TRAIN));
            size_t calls = 0, n = 0;
            for (int step = 0; step < 3; step++) {
                kd_model_zero_grads(m);
                kd_tensor *x = kd_tape_constant(tape, 4, (size_t[]){ 2, 16, 16, 3 }, images);
                CHECK_OK(kd_backward(tape, kd_mean(tape, kd_square(tape, kd_model_forward(m, tape, x)), 0, 0)));
                kd_tape_reset(tape);
                if (step) CHECK_MSG(a.calls == calls, "%s, step %d allocated %zu times", names[i], step + 1, a.calls - calls);
                calls = a.calls;
            }
            const float *grads = kd_model_grads(m, &n);
            double sum = 0;
            for (size_t k = 0; k < n; k++) sum += (double)grads[k] * (double)(k % 97 + 1);
            if (threads == 1) first = sum;
            CHECK_MSG(sum == first && sum != 0, "%s: %.17g with %u threads, %.17g with one", names[i], sum, threads, first);
            kd_tape_free(tape);
            kd_model_free(m);
            kdtest_alloc_end(&a);
        }
        for (size_t fail = 1, done = 0; !done; fail += fail / 4 + 1) {
            kdtest_alloc a = { 0 };
            kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
            a.fail_at = a.calls + fail;
            kd_model *m = NULL;
            kd_tape *tape = NULL;
            kd_status status = kd_zoo_create(&m, a.ctx, names[i], 4, 3);
            CHECK(status != KD_OK || m != NULL);
            if (status == KD_OK) status = kd_tape_create(&tape, a.ctx, KD_TAPE_INFER);
            if (status == KD_OK) {
                kd_model_forward(m, tape, kd_tape_constant(tape, 4, (size_t[]){ 2, 16, 16, 3 }, images));
                status = kd_tape_status(tape);
            }
            done = a.calls < a.fail_at;
            CHECK_STATUS(status, done ? KD_OK : KD_ERR_NOMEM);
            kd_tape_free(tape);
            kd_model_free(m);
            kdtest_alloc_end(&a);
        }
    }
}

/* The epsilon of batch norms, 1e-5, seen where the variance is 0: (0 - -1e-3) / sqrt(0 + 1e-5). */
TEST(batch_norm_epsilon)
{
    kd_model *m = NULL;
    kd_tape *tape = NULL;
    kd_param_info info = { .struct_size = sizeof info };
    CHECK_OK(kd_zoo_create(&m, NULL, "resnet8", 10, 1));
    CHECK_OK(kd_model_initialize(m, "conv1.weight", KD_INIT_ZEROS, 0, 0, 1));
    CHECK_OK(kd_model_find(m, "bn1.running_mean", &info));
    CHECK_OK(kd_tensor_fill(info.tensor, -1e-3));
    CHECK_OK(kd_model_find(m, "bn1.running_var", &info));
    CHECK_OK(kd_tensor_fill(info.tensor, 0));
    kd_model_touch(m);
    CHECK_OK(kd_model_tap(m, "relu"));
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    (void)forward_zeros(m, tape, 4, (size_t[]){ 1, 8, 8, 3 });
    CHECK_NEAR((double)kd_tensor_f32(kd_model_tapped(m, tape, "relu"))[0], 0.316227766, 1e-6);
    kd_tape_free(tape);
    kd_model_free(m);
}

/* The variance of grouped convolutions, 2 / (9 channels) in MobileNetV2, and zeros of the classifier's bias. */
TEST(mobilenet_begins)
{
    kd_model *m = NULL;
    kd_param_info info = { .struct_size = sizeof info };
    CHECK_OK(kd_zoo_create(&m, NULL, "mobilenetv2_half", 10, 1));
    CHECK_OK(kd_model_find(m, "blocks.6.0.conv.3.weight", &info));
    double sum = 0, n = (double)kd_tensor_count(info.tensor), want = 2.0 / (9 * 480);
    const float *w = kd_tensor_f32(info.tensor);
    for (size_t j = 0; j < kd_tensor_count(info.tensor); j++) sum += (double)w[j] * (double)w[j];
    CHECK(kd_tensor_count(info.tensor) == 9 * 480);
    CHECK_NEAR(sum / n, want, 6 * want * __builtin_sqrt(2 / n));
    CHECK_OK(kd_model_find(m, "classifier.0.bias", &info));
    for (size_t j = 0; j < 10; j++) CHECK(kd_tensor_f32(info.tensor)[j] == 0.0f);
    kd_model_free(m);
}

TEST(bad_names)
{
    kd_model *m = NULL;
    CHECK_STATUS(kd_zoo_create(&m, NULL, "wrn-16-2", 10, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("no architecture \"wrn-16-2\" (the nearest is \"wrn_16_2\"");
    CHECK_STATUS(kd_zoo_create(&m, NULL, "", 10, 1), KD_ERR_ARG);
    static const char *const no_transformers[] = { "vit_tiny_patch16", "vit_tiny_patch_224", "vit_tiny_patch16_", "vit_tiny_patch16_224x",
        "vit_tiny_patch016_224", "vit_tiny_distilled_patch16_224", "vit_huge_patch16_224", "deit_tiny_patch4294967312_224" };
    for (size_t i = 0; i < KD_COUNT(no_transformers); i++) {
        CHECK_STATUS(kd_zoo_create(&m, NULL, no_transformers[i], 10, 1), KD_ERR_ARG);
        CHECK_ERROR_HAS("no architecture");
    }
    CHECK_STATUS(kd_zoo_create(&m, NULL, "vit_tiny_patch16_225", 10, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("image 225 is not 1 to 4096 times patch 16");
    CHECK_STATUS(kd_zoo_create(&m, NULL, "vit_tiny_patch4_32", 0, 1), KD_ERR_ARG);
    CHECK_STATUS(kd_zoo_create(&m, NULL, NULL, 10, 1), KD_ERR_ARG);
    CHECK_STATUS(kd_zoo_create(NULL, NULL, "vgg8", 10, 1), KD_ERR_ARG);
    CHECK_STATUS(kd_zoo_create(&m, NULL, "resnet8", 0, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("fc: kd_layer_linear: in 64, out 0");
    CHECK(m == NULL);
    static const size_t depths[] = { 0, 4, 9, 11, 1210, SIZE_MAX };
    for (size_t i = 0; i < sizeof depths / sizeof *depths; i++)
        CHECK_STATUS(kd_zoo_wrn(&m, NULL, depths[i], 1, 10, 1), KD_ERR_ARG);
    CHECK_STATUS(kd_zoo_wrn(&m, NULL, 16, 65, 10, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("widen 65");
    CHECK_STATUS(kd_zoo_wrn(NULL, NULL, 16, 1, 10, 1), KD_ERR_ARG);
    CHECK_OK(kd_zoo_wrn(&m, NULL, 10, 3, 10, 1));
    kd_model_free(m);
}

/* Multiply-adds of an image beside the published ones, in their last digit: He et al. 2016 (40.8 and 126 M), torchvision's table
 * (1.81 G), Radosavovic et al. 2020 (200 M); DeiT-Ti's 1.26 G of timm counts more than products, so a percent less may be missing.
 * Frozen models go through other kernels and count the same. */
TEST(published_multiply_adds)
{
    static const struct { const char *name; size_t side, classes; double millions, within; } cases[] = {
        { "resnet20", 32, 10, 40.8, .05 },          { "resnet56", 32, 10, 126, .5 },
        { "resnet18", 224, 1000, 1810, 5 },         { "regnety_002", 224, 1000, 200, 1 },
        { "deit_tiny_patch16_224", 224, 1000, 1260, 12.6 },
    };
    for (size_t i = 0; i < (kdtest_emulated() ? 1 : KD_COUNT(cases)); i++) {
        kd_model *m = NULL;
        kd_tape *tape = NULL;
        kd_tensor *x = NULL;
        uint64_t counted[2] = { 0 };
        if (!CHECK_OK(kd_zoo_create(&m, NULL, cases[i].name, cases[i].classes, 1))) continue;
        CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
        CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, 4, (size_t[]){ 1, cases[i].side, cases[i].side, 3 }));
        for (int32_t frozen = 0; frozen < 2; frozen++) {
            kd_model_freeze(m, frozen);
            kd_model_forward(m, tape, x);
            CHECK_OK(kd_tape_status(tape));
            counted[frozen] = kd_tape_multiply_adds(tape);
            kd_tape_reset(tape);
        }
        double millions = (double)counted[0] / 1e6;
        CHECK_MSG(millions > cases[i].millions - cases[i].within && millions < cases[i].millions + cases[i].within,
                  "%s: %.3f M multiply-adds, published %g", cases[i].name, millions, cases[i].millions);
        CHECK_MSG(counted[1] == counted[0], "%s: frozen %llu, not %llu", cases[i].name, (unsigned long long)counted[1],
                  (unsigned long long)counted[0]);
        kd_tape_free(tape);
        kd_tensor_free(x);
        kd_model_free(m);
    }
}
