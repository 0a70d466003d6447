/* test_golden_zoo.c - the zoo's architectures against PyTorch: names and shapes, logits, taps, loss, gradients, statistics.
 * SPDX-License-Identifier: MIT
 *
 * Tolerance: 1e-4 of the largest logit, of a tap's norm and of a gradient's.  A float is the end of at most some ten thousand
 * roundings of 2^-24 that mostly cancel; golden_zoo.h says how far PyTorch's own float32 is from the numbers: far less.
 * Gradients jump where an input of a ReLU is so near 0 that rounding decides its sign.  gen_zoo.py takes images for which PyTorch's
 * float32 met no such input; where there are none (ResNet-50), the bound of gradients is four times as far as PyTorch is. */
#include "probe.h"
#include "golden_zoo.h"

#define NEAR 1e-4

static uint64_t fnv(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return h;
}

static uint32_t stream_of(const char *text)
{
    uint32_t h = 0x811c9dc5u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x01000193u;
    return h;
}

static int ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

/* Fill a parameter as gen_zoo.py does; the hash of "name shape", the shape as files have it. */
static uint64_t fill(const kd_param_info *info)
{
    kd_tensor *t = info->tensor;
    const size_t rank = kd_tensor_rank(t);
    size_t s[4] = { 0 };
    for (size_t i = 0; i < rank; i++) s[i] = kd_tensor_size(t, i);
    char text[256];
    if (rank == 4) snprintf(text, sizeof text, "%s %zux%zux%zux%zu", info->name, s[3], s[2], s[0], s[1]);
    else if (rank == 2) snprintf(text, sizeof text, "%s %zux%zu", info->name, s[1], s[0]);
    else snprintf(text, sizeof text, "%s %zu", info->name, s[0]);
    double scale = 0.5, shift = 0;   /* biases, running means */
    if (rank == 4) scale = sqrt(24 / (double)(s[0] * s[1] * s[2]));
    else if (rank == 2) scale = sqrt(12 / (double)s[0]);
    else if (ends_with(info->name, "running_var")) scale = shift = 1;
    else if (ends_with(info->name, "weight")) shift = 0.875;
    const uint32_t stream = stream_of(info->name);
    for (uint32_t i = 0; i < kd_tensor_count(t); i++) kd_tensor_f32(t)[i] = (float)(number(stream, i) * scale + shift);
    return fnv(text);
}

static void measure(norm_dot *sum, const char *name, const float *v, size_t n)
{
    const uint32_t stream = stream_of(name) ^ 1u;
    for (uint32_t i = 0; v && i < n; i++) {
        sum->norm += (double)v[i] * (double)v[i];
        sum->dot += (double)v[i] * number(stream, i);
    }
}

static void check_near(const char *net, const norm_dot *want, const norm_dot *squares, double near)
{
    const double norm = sqrt(squares->norm);
    CHECK_MSG(fabs(norm - want->norm) <= near * want->norm && fabs(squares->dot - want->dot) <= near * want->norm,
              "%s, %s: norm %.9g, want %.9g; dot %.9g, want %.9g", net, want->name, norm, want->norm, squares->dot, want->dot);
}

static void check_logits(const struct golden *g, const char *what, const kd_tensor *y, const double *want)
{
    const size_t n = g->batch * CLASSES;
    const float *got = kd_tensor_f32(y);
    double largest = 0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs(want[i]));
    CHECK_MSG(got && kd_tensor_count(y) == n, "%s %s: %s", g->name, what, kd_last_error());
    for (size_t i = 0; got && i < n; i++)
        CHECK_MSG(fabs((double)got[i] - want[i]) <= NEAR * largest, "%s %s [%zu]: %.9g, want %.9g", g->name, what, i, (double)got[i],
                  want[i]);
}

static void check_net(const struct golden *g, kd_context *ctx)
{
    kd_model *m = NULL;
    kd_tensor *x = NULL, *labels = NULL;
    kd_tape *infer = NULL, *train = NULL;
    CHECK_OK(kd_zoo_create(&m, ctx, g->name, CLASSES, 1));
    CHECK_MSG(kd_model_size(m) == g->size, "%s: %zu parameters, want %zu", g->name, kd_model_size(m), g->size);
    uint64_t names = 0;
    kd_param_info info = { .struct_size = sizeof info };
    for (size_t i = 0; i < kd_model_parameter_count(m); i++) {
        CHECK_OK(kd_model_parameter_at(m, i, &info));
        names += fill(&info);
    }
    CHECK_MSG(names == g->names, "%s: names or shapes differ", g->name);
    kd_model_touch(m);
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, 4, (size_t[]){ g->batch, g->side, g->side, 3 }));
    for (uint32_t i = 0; i < kd_tensor_count(x); i++) kd_tensor_f32(x)[i] = (float)(number(g->stream, i) * 4);
    int32_t classes[MAX_BATCH];
    for (int32_t i = 0; i < MAX_BATCH; i++) classes[i] = i * 3 % CLASSES;
    CHECK_OK(kd_tensor_wrap(&labels, NULL, KD_I32, 1, (size_t[]){ g->batch }, NULL, classes));
    CHECK_OK(kd_tape_create(&infer, ctx, KD_TAPE_INFER));
    CHECK_OK(kd_tape_create(&train, ctx, KD_TAPE_TRAIN));
    for (size_t i = 0; i < MAX_TAPS && g->taps[i].name; i++) CHECK_OK(kd_model_tap(m, g->taps[i].name));

    check_logits(g, "eval", kd_model_forward(m, infer, x), g->eval);
    for (size_t i = 0; i < MAX_TAPS && g->taps[i].name; i++) {
        kd_tensor *t = kd_model_tapped(m, infer, g->taps[i].name);
        norm_dot got = { 0 };
        measure(&got, g->taps[i].name, kd_tensor_f32(t), kd_tensor_count(t));
        check_near(g->name, &g->taps[i], &got, NEAR);
    }
    kd_tensor *y = kd_model_forward(m, train, x), *loss = kd_cross_entropy(train, y, labels, -100, 0, KD_REDUCE_MEAN_ROWS);
    check_logits(g, "train", y, g->train);
    CHECK_NEAR(kd_tensor_item(loss), g->loss, NEAR * g->loss);
    CHECK_OK(kd_backward(train, loss));
    norm_dot got[MAX_GROUPS] = { { 0 } };
    for (size_t i = 0; i < kd_model_parameter_count(m); i++) {
        CHECK_OK(kd_model_parameter_at(m, i, &info));
        const char *group = info.kind & KD_PARAM_BUFFER ? "buffers." : info.name;
        size_t k = 0;
        while (k < MAX_GROUPS - 1 && g->groups[k].name && (strncmp(group, g->groups[k].name, strcspn(group, ".")) ||
                                                           g->groups[k].name[strcspn(group, ".")])) k++;
        CHECK_MSG(g->groups[k].name != NULL, "%s: %s is in no group", g->name, info.name);
        measure(&got[k], info.name, info.grad ? info.grad : kd_tensor_f32(info.tensor), kd_tensor_count(info.tensor));
    }
    for (size_t k = 0; k < MAX_GROUPS && g->groups[k].name; k++)
        check_near(g->name, &g->groups[k], &got[k], g->away > NEAR ? 4 * g->away : NEAR);
    kd_tape_free(infer);
    kd_tape_free(train);
    kd_tensor_free(x);
    kd_tensor_free(labels);
    kd_model_free(m);
}

TEST(zoo_equals_pytorch)
{
    kd_context *ctx = kdtest_context(2, KD_ISA_AUTO);
    for (size_t i = 0; i < sizeof nets / sizeof *nets; i++)
        if (nets[i].quick || kdtest_full()) check_net(&nets[i], ctx);
    kd_context_free(ctx);
}
