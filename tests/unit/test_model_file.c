/* test_model_file.c - models to files and back: layouts, conversions, what differs, all or nothing.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"
#include "kdtest_file.h"
#include "nn/nn.h"
#include <math.h>
#include <stdlib.h>

/* Every kind of parameter: conv2d, conv1d (depthwise), norm with buffers, linear, embedding-like plain ones. */
static kd_model *make(kd_context *ctx, uint64_t seed)
{
    kd_model *m;
    if (!CHECK_OK(kd_model_create(&m, ctx))) return NULL;
    kd_layer *root = kd_model_root(m);
    kd_conv_desc depthwise;
    kd_conv_desc_init(&depthwise, sizeof depthwise);
    depthwise.groups = 4;
    kd_layer_conv2d(root, "conv", 3, 4, 2, 5, 1, NULL);
    kd_layer *part = kd_layer_sequence(root, "part");
    kd_layer_batch_norm(part, "bn", 4, 0.1f, 1e-5f);
    kd_layer_conv1d(part, NULL, 4, 8, 3, 0, &depthwise);
    kd_layer_linear(root, "fc", 8, 2, 1);
    kd_layer_embedding(root, "table", 7, 3);
    CHECK_OK(kd_model_finish(m, seed));
    size_t n;
    float *b = kd_model_buffers(m, &n);
    kdtest_rand r = { seed + 1 };
    for (size_t i = 0; i < kd_model_parameter_count(m); i++) {
        kd_param_info p = { .struct_size = sizeof p };
        CHECK_OK(kd_model_parameter_at(m, i, &p));
        if (p.kind & KD_PARAM_BUFFER) kdtest_fill(&r, b + p.offset, kd_tensor_count(p.tensor), 1);
    }
    kd_model_touch(m);
    return m;
}

static uint64_t hash(kd_model *m)
{
    size_t weights, buffers;
    const float *w = kd_model_weights(m, &weights), *b = kd_model_buffers(m, &buffers);
    return kdtest_hash(w, weights * sizeof *w) * 31 + kdtest_hash(b, buffers * sizeof *b);
}

TEST(round_trip)
{
    kd_model *a = make(NULL, 1), *b = make(NULL, 2);
    const char *path = kdtest_path("m.safetensors");
    CHECK(hash(a) != hash(b));
    CHECK_OK(kd_model_save(a, path));
    uint64_t version = b->version;
    CHECK_OK(kd_model_load(b, path, KD_LOAD_STRICT));
    CHECK(hash(a) == hash(b));
    CHECK(b->version != version);   /* what was derived from the weights is stale */
    size_t n, m;
    unsigned char *first = kdtest_slurp(path, &n);
    CHECK_OK(kd_model_save(b, path));
    unsigned char *second = kdtest_slurp(path, &m);
    CHECK(n == m && memcmp(first, second, n) == 0);
    free(first);
    free(second);
    CHECK(kdtest_count_files("kdtmp") == 0);
    kd_model_free(a);
    kd_model_free(b);
}

/* Element [o, i, h, w] of the file is element [h, w, i, o] of the model. */
TEST(layout_is_pytorchs)
{
    kd_model *m = make(NULL, 3);
    const char *path = kdtest_path("m.safetensors");
    kd_safetensors *f;
    CHECK_OK(kd_model_save(m, path));
    if (!CHECK_OK(kd_safetensors_open(&f, NULL, path, 0))) return;
    static const struct { const char *name; size_t rank, shape[4], from[4]; } cases[] = {
        { "conv.weight", 4, { 4, 3, 2, 5 }, { 3, 2, 0, 1 } }, { "conv.bias", 1, { 4 }, { 0 } },
        { "part.bn.weight", 1, { 4 }, { 0 } },                { "part.bn.running_var", 1, { 4 }, { 0 } },
        { "part.1.weight", 3, { 8, 1, 3 }, { 2, 1, 0 } },     { "fc.weight", 2, { 2, 8 }, { 1, 0 } },
        { "fc.bias", 1, { 2 }, { 0 } },                       { "table.weight", 2, { 7, 3 }, { 0, 1 } },
    };
    CHECK(kd_safetensors_count(f) == kd_model_parameter_count(m));
    for (size_t k = 0; k < KD_COUNT(cases); k++) {
        kd_tensor *t;
        kd_param_info p = { .struct_size = sizeof p };
        size_t i = kd_safetensors_find(f, cases[k].name), rank = cases[k].rank;
        if (!CHECK_MSG(i != (size_t)-1, "%s", cases[k].name) || !CHECK_OK(kd_safetensors_read(f, i, &t))) continue;
        CHECK_OK(kd_model_find(m, cases[k].name, &p));
        CHECK(kd_tensor_rank(t) == rank);
        for (size_t e = 0; e < kd_tensor_count(t); e++) {
            size_t index[4] = { 0 }, there[4] = { 0 }, rest = e;
            for (size_t a = rank; a-- > 0; rest /= cases[k].shape[a]) index[a] = rest % cases[k].shape[a];
            for (size_t a = 0; a < rank; a++) there[cases[k].from[a]] = 0;
            for (size_t a = 0; a < rank; a++) there[cases[k].from[a]] = index[a];
            double got, want;
            CHECK_OK(kd_tensor_get(t, index, &got));
            CHECK_OK(kd_tensor_get(p.tensor, there, &want));
            CHECK(got == want);
        }
        for (size_t a = 0; a < rank; a++) CHECK(kd_tensor_size(t, a) == cases[k].shape[a]);
        kd_tensor_free(t);
    }
    CHECK_STR(kd_safetensors_metadata(f, "format"), "pt");
    CHECK_STR(kd_safetensors_metadata(f, "libkd"), kd_version_string());
    CHECK(kd_safetensors_metadata(f, "kd.input_mean") == NULL);
    kd_safetensors_close(f);
    kd_model_free(m);
}

/* A network and its weights as PyTorch saved them: loaded by name, it computes what PyTorch computed (in double). */
TEST(pytorchs_network)
{
    kd_model *m;
    kd_safetensors *f;
    kd_tape *tape;
    kd_tensor *x = NULL, *want = NULL, *bound = NULL;
    const char *path = kdtest_repo("tests/golden/torch_model.safetensors");
    kd_conv_desc stem, grouped;
    kd_conv_desc_init(&stem, sizeof stem);
    kd_conv_desc_init(&grouped, sizeof grouped);
    stem.stride[1] = 2;
    stem.padding[0] = 1;
    stem.padding[1] = 2;
    grouped.groups = 4;
    if (!CHECK_OK(kd_model_create(&m, NULL))) return;
    kd_layer *root = kd_model_root(m);
    kd_layer_conv2d(root, "stem", 3, 8, 3, 5, 1, &stem);
    kd_layer_batch_norm(root, "bn", 8, 0.1f, 1e-5f);
    kd_layer_activation(root, "act", KD_ACT_RELU);
    kd_layer *deep = kd_layer_sequence(root, "deep");
    kd_layer_conv2d(deep, NULL, 8, 16, 3, 3, 0, &grouped);
    kd_layer_batch_norm(deep, NULL, 16, 0.1f, 1e-5f);
    kd_layer_activation(deep, NULL, KD_ACT_RELU);
    kd_layer_global_avg_pool(root, "pool");
    kd_layer_linear(root, "fc", 16, 5, 1);
    CHECK_OK(kd_model_finish(m, 1));
    CHECK_STATUS(kd_model_load(m, path, KD_LOAD_STRICT), KD_ERR_FORMAT);
    CHECK_ERROR_HAS("unexpected: bound, y, x");
    CHECK_OK(kd_model_load(m, path, KD_LOAD_EXTRA_OK));
    if (!CHECK_OK(kd_safetensors_open(&f, NULL, path, 0))) return;
    CHECK_OK(kd_safetensors_read(f, kd_safetensors_find(f, "x"), &x));
    CHECK_OK(kd_safetensors_read(f, kd_safetensors_find(f, "y"), &want));
    CHECK_OK(kd_safetensors_read(f, kd_safetensors_find(f, "bound"), &bound));
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    kd_tensor *y = kd_model_forward(m, tape, x);
    CHECK_OK(kd_tape_status(tape));
    CHECK(kd_tensor_rank(y) == 2 && kd_tensor_size(y, 0) == 2 && kd_tensor_size(y, 1) == 5);
    for (size_t i = 0; i < 10 && kd_tensor_count(y) == 10; i++) {
        /* roundings on the way of any term: 45 + 1 in the stem, 18 + 1 in the groups, 5 in each norm, 28 in the mean, 17 */
        double most = 120 * 0x1p-24 * ((double *)kd_tensor_data(bound))[i];
        CHECK_NEAR((double)kd_tensor_f32(y)[i], ((double *)kd_tensor_data(want))[i], most);
    }
    kd_tape_free(tape);
    kd_tensor_free(x);
    kd_tensor_free(want);
    kd_tensor_free(bound);
    kd_safetensors_close(f);
    kd_model_free(m);
}

TEST(input_norm_round_trips_exactly)
{
    kd_model *a = make(NULL, 1), *b = make(NULL, 2);
    const char *path = kdtest_path("m.safetensors");
    kdtest_rand r = { 5 };
    for (int round = 0; round < 200; round++) {
        float mean[3], std[3];
        const float *mean2, *std2;
        size_t channels;
        for (size_t c = 0; c < 3; c++) {
            do {
                uint32_t bits = (uint32_t)kdtest_bits(&r);
                memcpy(&mean[c], &bits, 4);
            } while (!isfinite(mean[c]));
            do {
                uint32_t bits = (uint32_t)kdtest_bits(&r) & 0x7fffffffu;
                memcpy(&std[c], &bits, 4);
            } while (!isfinite(std[c]) || !(std[c] > 0));
        }
        if (round == 0) memcpy(mean, (float[]){ 0.485f, -0.0f, 1e-45f }, sizeof mean);
        CHECK_OK(kd_model_set_input_norm(a, 3, mean, std));
        CHECK_OK(kd_model_save(a, path));
        CHECK_OK(kd_model_load(b, path, 0));
        if (!CHECK(kd__model_input_norm(b, &channels, &mean2, &std2) && channels == 3)) break;
        CHECK(memcmp(mean, mean2, sizeof mean) == 0 && memcmp(std, std2, sizeof std) == 0);
        if (round == 0) {
            kd_safetensors *f;
            CHECK_OK(kd_safetensors_open(&f, NULL, path, 0));
            CHECK_STR(kd_safetensors_metadata(f, "kd.input_mean"), "0.485,-0,1e-45");
            kd_safetensors_close(f);
        }
    }
    /* a file without it leaves the model's own */
    CHECK_OK(kd_model_set_input_norm(a, 0, NULL, NULL));
    CHECK_OK(kd_model_save(a, path));
    CHECK_OK(kd_model_load(b, path, 0));
    size_t channels;
    const float *mean, *std;
    CHECK(kd__model_input_norm(b, &channels, &mean, &std) && channels == 3);
    kd_model_free(a);
    kd_model_free(b);
}

/* ---- files of our own making ------------------------------------------------------------------------ */

static kd_model *small(kd_context *ctx)
{
    kd_model *m;
    if (!CHECK_OK(kd_model_create(&m, ctx))) return NULL;
    kd_layer_linear(kd_model_root(m), "fc", 2, 3, 1);
    kd_layer_batch_norm(kd_model_root(m), "bn", 3, 0.1f, 1e-5f);
    CHECK_OK(kd_model_finish(m, 9));
    return m;
}

/* One tensor of a file: name, dtype of the file, shape, and the value of its elements. */
typedef struct part { const char *name, *dtype; size_t rank, shape[3]; double value; } part;

static const char *file_of(const part *parts, size_t count, const char *metadata)
{
    static kdtest_bytes b;
    static char header[8192];
    size_t n = (size_t)snprintf(header, sizeof header, "{%s", metadata ? metadata : ""), at = 0;
    kdtest_bytes *data = calloc(1, sizeof *data);
    for (size_t i = 0; i < count; i++) {
        size_t elements = 1, width = strcmp(parts[i].dtype, "F64") == 0 || strcmp(parts[i].dtype, "I64") == 0 ? 8
                                   : strcmp(parts[i].dtype, "F32") == 0 ? 4 : strchr(parts[i].dtype, '8') ? 1 : 2;
        n += (size_t)snprintf(header + n, sizeof header - n, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[",
                              i || metadata ? "," : "", parts[i].name, parts[i].dtype);
        for (size_t a = 0; a < parts[i].rank; a++) {
            n += (size_t)snprintf(header + n, sizeof header - n, "%s%zu", a ? "," : "", parts[i].shape[a]);
            elements *= parts[i].shape[a];
        }
        n += (size_t)snprintf(header + n, sizeof header - n, "],\"data_offsets\":[%zu,%zu]}", at,
                              at + elements * width);
        at += elements * width;
        for (size_t e = 0; e < elements; e++) {
            double v = parts[i].value;
            float f = (float)v;
            uint64_t bits = 0;
            uint32_t bits32;
            memcpy(&bits32, &f, 4);
            if (strcmp(parts[i].dtype, "F64") == 0) memcpy(&bits, &v, 8);
            else if (strcmp(parts[i].dtype, "F32") == 0) bits = bits32;
            else if (strcmp(parts[i].dtype, "BF16") == 0) bits = bits32 >> 16;
            else if (strcmp(parts[i].dtype, "F16") == 0)   /* of a power of two times 1 + a few bits: exact */
                bits = (bits32 >> 16 & 0x8000) | (((bits32 >> 23 & 255) - 112) << 10) | (bits32 >> 13 & 1023);
            else bits = (uint64_t)(int64_t)v;
            kdtest_put_le(data, bits, width);
        }
    }
    n += (size_t)snprintf(header + n, sizeof header - n, "}");
    b.size = 0;
    kdtest_put_le(&b, n, 8);
    kdtest_put(&b, header, n);
    kdtest_put(&b, data->data, data->size);
    free(data);
    return kdtest_write_bytes("made.safetensors", &b);
}

#define GOOD                                                                                                         \
    { "fc.weight", "F32", 2, { 3, 2 }, 1.5 }, { "fc.bias", "F16", 1, { 3 }, -0.75 },                                 \
        { "bn.weight", "BF16", 1, { 3 }, 2.5 }, { "bn.bias", "F64", 1, { 3 }, 0.1 },                                 \
        { "bn.running_mean", "F32", 1, { 3 }, 3 },                                                                   \
    {                                                                                                                \
        "bn.running_var", "F32", 1, { 3 }, 4                                                                         \
    }

static double value_of(const kd_model *m, const char *name)
{
    kd_param_info p = { .struct_size = sizeof p };
    if (!CHECK_OK(kd_model_find(m, name, &p))) return NAN;
    double v = (double)kd_tensor_f32(p.tensor)[0];
    for (size_t i = 0; i < kd_tensor_count(p.tensor); i++) CHECK((double)kd_tensor_f32(p.tensor)[i] == v);
    return v;
}

TEST(converts_types_and_passes_over_counters)
{
    static const part parts[] = { GOOD, { "bn.num_batches_tracked", "I64", 0, { 0 }, 7 } };
    kd_model *m = small(NULL);
    CHECK_OK(kd_model_load(m, file_of(parts, KD_COUNT(parts), NULL), KD_LOAD_STRICT));
    CHECK(value_of(m, "fc.weight") == 1.5 && value_of(m, "fc.bias") == -0.75 && value_of(m, "bn.weight") == 2.5);
    CHECK(value_of(m, "bn.bias") == (double)0.1f && value_of(m, "bn.running_mean") == 3 &&
          value_of(m, "bn.running_var") == 4);
    kd_model_free(m);
}

static void refused(const part *parts, size_t count, const char *metadata, uint32_t flags, kd_status want,
                    const char *const *texts)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    kd_model *m = small(a.ctx);
    uint64_t before = hash(m);
    CHECK_STATUS(kd_model_load(m, file_of(parts, count, metadata), flags), want);
    for (; *texts; texts++) CHECK_ERROR_HAS(*texts);
    CHECK_ERROR_HAS("kd_model_load: ");
    CHECK_ERROR_HAS("made.safetensors");
    CHECK(hash(m) == before);
    kd_model_free(m);
    kdtest_alloc_end(&a);
}

#define TEXTS(...) (const char *const[]){ __VA_ARGS__, NULL }

TEST(names_what_differs)
{
    size_t fds = kdtest_fds();
    static const part missing[] = { { "fc.weight", "F32", 2, { 3, 2 }, 1 }, { "bn.weight", "F32", 1, { 3 }, 1 } };
    refused(missing, 2, NULL, 0, KD_ERR_FORMAT, TEXTS("missing: fc.bias, bn.bias, bn.running_mean, bn.running_var"));
    refused(missing, 2, NULL, KD_LOAD_EXTRA_OK, KD_ERR_FORMAT, TEXTS("missing: fc.bias"));
    static const part extra[] = { GOOD,
                                  { "head.weight", "F32", 1, { 1 }, 1 },
                                  { "x.num_batches", "I64", 0, { 0 }, 1 } };
    refused(extra, KD_COUNT(extra), NULL, 0, KD_ERR_FORMAT, TEXTS("unexpected: head.weight, x.num_batches"));
    refused(extra, KD_COUNT(extra), NULL, KD_LOAD_MISSING_OK, KD_ERR_FORMAT, TEXTS("unexpected: head.weight"));
    static const part shape[] = {
        { "fc.weight", "F32", 2, { 2, 3 }, 1 },    { "fc.bias", "F32", 1, { 3 }, 1 },
        { "bn.weight", "F32", 1, { 3 }, 1 },       { "bn.bias", "F32", 2, { 1, 3 }, 1 },
        { "bn.running_mean", "F32", 1, { 3 }, 3 }, { "module.running_var", "F32", 1, { 3 }, 4 }
    };
    refused(shape, KD_COUNT(shape), NULL, 0, KD_ERR_SHAPE,
            TEXTS("fc.weight is [2, 3] in the file, [3, 2] in the model",
                  "bn.bias is [1, 3] in the file, [3] in the model", "missing: bn.running_var",
                  "unexpected: module.running_var"));
    refused(shape, KD_COUNT(shape), NULL, KD_LOAD_MISSING_OK | KD_LOAD_EXTRA_OK, KD_ERR_SHAPE, TEXTS("fc.weight is"));
    static const part ints[] = { GOOD };
    part other[KD_COUNT(ints)];
    memcpy(other, ints, sizeof ints);
    other[4].dtype = "I64";
    refused(other, KD_COUNT(other), NULL, 0, KD_ERR_DTYPE, TEXTS("not floats: bn.running_mean is I64"));
    other[4].dtype = "U16";
    other[0].dtype = "F8_E4M3";
    refused(other, KD_COUNT(other), NULL, 0, KD_ERR_DTYPE, TEXTS("not floats: fc.weight is F8_E4M3, bn.running_mean is U16"));
    /* many: some are named, the rest are counted */
    static part many[60];
    static char names[60][24];
    for (size_t i = 0; i < 60; i++) {
        snprintf(names[i], sizeof *names, "block.%zu.weight", i);
        many[i] = (part){ names[i], "F32", 1, { 1 }, 0 };
    }
    refused(many, 60, NULL, KD_LOAD_MISSING_OK, KD_ERR_FORMAT,
            TEXTS("unexpected: block.0.weight, block.1.weight", " more"));
    /* a name that leaves no room is counted */
    char longest[100];
    memset(longest, 'n', 99);
    longest[99] = 0;
    const part too_long[] = { GOOD, { longest, "F32", 1, { 1 }, 1 } };
    refused(too_long, KD_COUNT(too_long), NULL, 0, KD_ERR_FORMAT, TEXTS("unexpected: nnn", "nnn..."));
    kd_model *deep;
    if (CHECK_OK(kd_model_create(&deep, NULL))) {
        kd_layer_linear(kd_model_root(deep), longest, 1000000, 1, 0);
        CHECK_OK(kd_model_finish(deep, 1));
        char weight[120];
        snprintf(weight, sizeof weight, "%s.weight", longest);
        const part wide = { weight, "F32", 3, { 1, 1, 1 }, 1 };
        CHECK_STATUS(kd_model_load(deep, file_of(&wide, 1, NULL), 0), KD_ERR_SHAPE);
        CHECK_ERROR_HAS("other shapes: 1");
        kd_model_free(deep);
    }
    /* metadata that is not what it says */
    static const char *const bad[] = { "", "1,2", "1,2,", "1,2,x", "1,,3", "1,2,3,4", "1,2,nan" };
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        char metadata[200];
        snprintf(metadata, sizeof metadata, "\"__metadata__\":{\"kd.input_mean\":\"%s\",\"kd.input_std\":\"1,1,1\"}",
                 bad[i]);
        refused(ints, KD_COUNT(ints), metadata, 0, KD_ERR_FORMAT, TEXTS("kd.input_mean"));
    }
    refused(ints, KD_COUNT(ints), "\"__metadata__\":{\"kd.input_mean\":\"1,1,1\"}", 0, KD_ERR_FORMAT,
            TEXTS("kd.input_mean"));
    refused(ints, KD_COUNT(ints), "\"__metadata__\":{\"kd.input_mean\":\"1\",\"kd.input_std\":\"0\"}", 0,
            KD_ERR_FORMAT, TEXTS("kd.input_mean"));
    CHECK(kdtest_fds() == fds);
}

/* The text has room for some names; the log, if one asks for it, has each. */
typedef struct seen { size_t lines, shapes, missing, unexpected; } seen;

static void note(uint32_t level, const char *text, void *user)
{
    seen *s = user;
    CHECK(level == KD_LOG_INFO);
    s->lines++;
    s->shapes += strcmp(text, "kd_model_load: other shapes: fc.weight is [2, 3] in the file, [3, 2] in the model") == 0;
    s->missing += strncmp(text, "kd_model_load: missing: bn.", 27) == 0;
    s->unexpected += strncmp(text, "kd_model_load: unexpected: a_name_that_is_", 42) == 0;
}

TEST(the_log_has_every_name)
{
    part parts[14] = { { "fc.weight", "F32", 2, { 2, 3 }, 1 }, { "fc.bias", "F32", 1, { 3 }, 1 } };
    char names[14][64];
    for (size_t i = 2; i < 14; i++) {
        snprintf(names[i], sizeof *names, "a_name_that_is_not_short_and_not_here_%zu", i);
        parts[i] = (part){ names[i], "F32", 1, { 3 }, 1 };
    }
    seen s = { 0 };
    kd_context_desc desc;
    kd_context *ctx = NULL;
    kd_context_desc_init(&desc, sizeof desc);
    desc.threads = 1;
    desc.log = note;
    desc.log_user = &s;
    desc.log_level = KD_LOG_INFO;
    CHECK_OK(kd_context_create(&ctx, &desc));
    kd_model *m = small(ctx);
    CHECK_STATUS(kd_model_load(m, file_of(parts, 14, NULL), 0), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("not_here_2, ");
    CHECK_ERROR_HAS(" and 10 more");
    CHECK(s.lines == 17 && s.shapes == 1 && s.missing == 4 && s.unexpected == 12);
    kd_model_free(m);
    kd_context_free(ctx);
}

TEST(flags_load_a_part)
{
    static const part some[] = { { "fc.weight", "F32", 2, { 3, 2 }, 1.5 },
                                 { "head.weight", "F8_E4M3", 1, { 2 }, 1 } };
    kd_model *m = small(NULL);
    double mean = value_of(m, "bn.running_mean");
    CHECK_OK(kd_model_load(m, file_of(some, 1, NULL), KD_LOAD_MISSING_OK));
    CHECK(value_of(m, "fc.weight") == 1.5 && value_of(m, "bn.running_mean") == mean);
    static const part extra[] = { GOOD, { "other", "I64", 1, { 2 }, 1 } };
    CHECK_OK(kd_model_load(m, file_of(extra, KD_COUNT(extra), NULL), KD_LOAD_EXTRA_OK));
    CHECK(value_of(m, "bn.weight") == 2.5);
    CHECK_OK(kd_model_load(m, file_of(NULL, 0, NULL), KD_LOAD_MISSING_OK));
    kd_model_free(m);
}

TEST(arguments)
{
    kd_model *m = small(NULL), *unfinished;
    const char *path = kdtest_path("m.safetensors");
    CHECK_STATUS(kd_model_save(NULL, path), KD_ERR_ARG);
    CHECK_STATUS(kd_model_save(m, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_model_load(NULL, path, 0), KD_ERR_ARG);
    CHECK_STATUS(kd_model_load(m, NULL, 0), KD_ERR_ARG);
    CHECK_STATUS(kd_model_load(m, path, 8), KD_ERR_ARG);
    CHECK_STATUS(kd_model_load(m, kdtest_path("nothing"), 0), KD_ERR_IO);
    CHECK_ERROR_HAS("kd_model_load: kd_safetensors_open: ");
    CHECK_STATUS(kd_model_save(m, kdtest_path("no/such/dir")), KD_ERR_IO);
    CHECK_ERROR_HAS("kd_model_save: ");
    if (CHECK_OK(kd_model_create(&unfinished, NULL))) {
        CHECK_STATUS(kd_model_save(unfinished, path), KD_ERR_STATE);
        CHECK_STATUS(kd_model_load(unfinished, path, 0), KD_ERR_STATE);
        kd_model_free(unfinished);
    }
    kd_model_free(m);
}

/* The weights change as a whole or not at all. */
static void whole(const char *path, char what, size_t at, void *arg)
{
    kd_model *m = arg;
    uint64_t before = hash(m);
    kd_status s = kd_model_load(m, path, KD_LOAD_STRICT);
    if (what == 'p') CHECK_MSG(s == KD_ERR_TRUNCATED, "prefix of %zu bytes: %s", at, kd_status_name(s));
    if (s != KD_OK) CHECK_MSG(hash(m) == before, "%c %zu: %s, and the model changed", what, at, kd_status_name(s));
}

TEST(every_prefix_and_flip)
{
    static const part parts[] = { GOOD };
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    kd_model *m = small(a.ctx);
    size_t n;
    unsigned char *data = kdtest_slurp(file_of(parts, KD_COUNT(parts), NULL), &n);
    kdtest_damage(data, n, 1, whole, m);
    free(data);
    kd_model_free(m);
    kdtest_alloc_end(&a);
}

/* Weights of another depth, and of other classes: what differs is named and counted, and nothing is written; with flags for it what
 * both have is read. */
TEST(weights_of_another_network)
{
    kd_model *deep = NULL, *flat = NULL, *other = NULL;
    const char *path = kdtest_path("zoo.safetensors");
    CHECK_OK(kd_zoo_create(&deep, NULL, "resnet20", 10, 1));
    CHECK_OK(kd_zoo_create(&flat, NULL, "resnet8", 10, 2));
    CHECK_OK(kd_zoo_create(&other, NULL, "resnet20", 100, 3));
    kdtest_rand r = { 9 };
    kd_param_info a = { .struct_size = sizeof a }, b = { .struct_size = sizeof b };
    for (size_t i = 0; i < kd_model_parameter_count(deep); i++) {
        CHECK_OK(kd_model_parameter_at(deep, i, &a));
        kdtest_fill(&r, kd_tensor_f32(a.tensor), kd_tensor_count(a.tensor), 1.0);
    }
    kd_model_touch(deep);
    const uint64_t flat_before = kd_model_hash(flat), other_before = kd_model_hash(other), deep_before = kd_model_hash(deep);
    CHECK_OK(kd_model_save(deep, path));
    CHECK_STATUS(kd_model_load(flat, path, KD_LOAD_STRICT), KD_ERR_FORMAT);
    CHECK_ERROR_HAS("not this model's weights; unexpected: layer1.1.bn1");
    CHECK_ERROR_HAS(" more");
    CHECK_STATUS(kd_model_load(flat, path, KD_LOAD_MISSING_OK), KD_ERR_FORMAT);
    CHECK(strstr(kd_last_error(), "missing") == NULL);
    CHECK(kd_model_hash(flat) == flat_before);
    CHECK_STATUS(kd_model_load(other, path, KD_LOAD_STRICT), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("other shapes: fc.weight is [10, 64] in the file, [100, 64] in the model, fc.bias is [10] in the file, [100] in");
    CHECK_STATUS(kd_model_load(other, path, KD_LOAD_MISSING_OK | KD_LOAD_EXTRA_OK), KD_ERR_SHAPE);
    CHECK(kd_model_hash(other) == other_before);
    CHECK_OK(kd_model_load(flat, path, KD_LOAD_EXTRA_OK));
    for (size_t i = 0; i < kd_model_parameter_count(flat); i++) {
        CHECK_OK(kd_model_parameter_at(flat, i, &a));
        CHECK_OK(kd_model_find(deep, a.name, &b));
        CHECK(memcmp(kd_tensor_data(a.tensor), kd_tensor_data(b.tensor), kd_tensor_count(a.tensor) * sizeof(float)) == 0);
    }
    CHECK_OK(kd_model_save(flat, path));
    CHECK_STATUS(kd_model_load(deep, path, KD_LOAD_STRICT), KD_ERR_FORMAT);
    CHECK_ERROR_HAS("not this model's weights; missing: layer1.1.conv1.weight, layer1.1.bn1.weight");
    /* Of 6 blocks with two convolutions and two norms of four, all that the file lacks. */
    char count[32];
    size_t named = 1;
    for (const char *p = strstr(kd_last_error(), "missing: "); *p; p++) named += *p == ',';
    snprintf(count, sizeof count, " and %zu more", 6 * 10 - named);
    CHECK_ERROR_HAS(count);
    CHECK(kd_model_hash(deep) == deep_before);
    CHECK_OK(kd_model_load(deep, path, KD_LOAD_MISSING_OK));
    kd_model_free(deep);
    kd_model_free(flat);
    kd_model_free(other);

    /* Nor does a shortcut "A" have what "B" has, nor a plain transformer the token. */
    static const struct { const char *file, *model; kd_status want; const char *named[3]; } others[] = {
        { "resnet20_a", "resnet20", KD_ERR_FORMAT,
          { "missing: layer2.0.downsample.0.weight", "unexpected: linear.bias, linear.weight" } },
        { "deit_tiny_distilled_patch4_16", "deit_tiny_patch4_16", KD_ERR_SHAPE,
          { "other shapes: pos_embed is [1, 18, 192] in the file, [1, 17, 192] in the model; unexpected: ", "dist_token",
            "head_dist.weight" } },
    };
    for (size_t i = 0; i < KD_COUNT(others); i++) {
        CHECK_OK(kd_zoo_create(&deep, NULL, others[i].file, 10, 1));
        CHECK_OK(kd_zoo_create(&flat, NULL, others[i].model, 10, 2));
        CHECK_OK(kd_model_save(deep, path));
        CHECK_STATUS(kd_model_load(flat, path, KD_LOAD_STRICT), others[i].want);
        for (size_t k = 0; k < 3 && others[i].named[k]; k++) CHECK_ERROR_HAS(others[i].named[k]);
        kd_model_free(deep);
        kd_model_free(flat);
    }
}
