/* networks.c - networks by name, and where the literature taps them.
 * SPDX-License-Identifier: MIT */
#include "vision.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- by name -------------------------------------------------------------------------------------------------------------- */
/* "patch=4,width=96,.." */
static kd_status read_vit(kd_vit_desc *d, const char *spec)
{
    const struct { const char *key; size_t *number; } sizes[] = {
        { "image", &d->image }, { "patch", &d->patch }, { "width", &d->width }, { "depth", &d->depth }, { "heads", &d->heads },
        { "mlp_ratio", &d->mlp_ratio },
    };
    for (const char *at = spec; *at;) {
        size_t n = strcspn(at, ","), k = strcspn(at, "="), i = 0;
        char *end;
        if (k >= n) return complain(KD_ERR_ARG, "vit: \"%.*s\" is not key=number", (int)n, at);
        errno = 0;
        double value = strtod(at + k + 1, &end);
        if (end != at + n || end == at + k + 1 || errno || !(value >= 0 && value <= 1e6))
            return complain(KD_ERR_ARG, "vit: %.*s: not a number from 0 to 1000000", (int)n, at);
        while (i < sizeof sizes / sizeof *sizes && (strlen(sizes[i].key) != k || strncmp(sizes[i].key, at, k))) i++;
        if (i < sizeof sizes / sizeof *sizes) {
            *sizes[i].number = (size_t)value;
            if ((double)*sizes[i].number != value) return complain(KD_ERR_ARG, "vit: %.*s: not a whole number", (int)n, at);
        } else if (k == 9 && !strncmp(at, "distilled", k)) d->distilled = value != 0;
        else if (k == 7 && !strncmp(at, "dropout", k)) d->dropout = (float)value;
        else
            return complain(KD_ERR_ARG, "vit: no key \"%.*s\": image, patch, width, depth, heads, mlp_ratio, distilled, dropout",
                            (int)k, at);
        at += n + (at[n] == ',');
    }
    return KD_OK;
}

/* Does an image of the data go through the network?  Better asked now than in the first step. */
static kd_status try_image(kd_model *model, kd_context *ctx, const images *d)
{
    kd_tensor *x = NULL;
    kd_tape *tape = NULL;
    kd_status st;
    TRY(kd_tensor_create(&x, ctx, KD_F32, 4, (size_t[]){ 1, d->height, d->width, 3 }));
    TRY(kd_tape_create(&tape, ctx, KD_TAPE_INFER));
    kd_model_forward(model, tape, x);
    st = kd_tape_status(tape);
done:
    kd_tape_free(tape);
    kd_tensor_free(x);
    return st;
}

kd_status network_create(kd_model **out, kd_context *ctx, const char *name, const images *d, double drop_path, uint64_t seed)
{
    kd_vit_desc vit;
    kd_status st;
    *out = NULL;
    if (strncmp(name, "vit:", 4)) {
        TRY(kd_zoo_create(out, ctx, name, d->classes, seed));
        if ((st = try_image(*out, ctx, d)) != KD_OK)
            return complain(st, "%s: images of %zu x %zu: %s", name, d->height, d->width, kd_last_error());
    done:
        return st;
    }
    kd_vit_desc_init(&vit, sizeof vit);
    vit.image = d->height, vit.patch = d->height % 4 ? 1 : d->height / 8 ? d->height / 8 : 1;
    if ((st = read_vit(&vit, name + 4)) != KD_OK) return st;
    if (vit.image != d->height || vit.image != d->width)
        return complain(KD_ERR_ARG, "%s: images of %zu x %zu, the data's are %zu x %zu", name, vit.image, vit.image,
                        d->height, d->width);
    vit.classes = d->classes;
    vit.drop_path = (float)drop_path;
    return kd_zoo_vit(out, ctx, &vit, seed);
}

/* ---- taps ------------------------------------------------------------------------------------------------------------------ */
static void put(char out[64], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(out, 64, format, args);
    va_end(args);
}

/* The last norm of those whose names begin so, shortcuts aside: its parameters are vectors. */
static void find_norm(char out[64], kd_model *model, const char *prefix)
{
    for (size_t i = 0; i < kd_model_parameter_count(model); i++) {
        kd_param_info p = { .struct_size = sizeof p };
        if (kd_model_parameter_at(model, i, &p) != KD_OK || p.kind & KD_PARAM_BUFFER || kd_tensor_rank(p.tensor) != 1) continue;
        size_t n = strlen(p.name);
        if (n < 8 || strcmp(p.name + n - 7, ".weight") || strncmp(p.name, prefix, strlen(prefix))) continue;
        if (!strstr(p.name, "downsample") && !strstr(p.name, "hortcut")) put(out, "%.*s", (int)(n - 7), p.name);
    }
}

static int has(kd_model *model, const char *path) { return kd_layer_child(kd_model_root(model), path) != NULL; }

static void taps_of_vit(network_taps *t, kd_model *model)
{
    size_t depth = 0;
    char path[64];
    for (put(path, "blocks.0"); has(model, path); put(path, "blocks.%zu", depth)) depth++;
    t->tokens = 1;
    t->distilled = has(model, "head_dist");
    t->prefix = t->distilled ? 2 : 1;
    t->stages = depth < 3 ? depth : 3;
    for (size_t i = 0; i < t->stages; i++) {
        put(t->stage[i], "blocks.%zu", (i + 1) * depth / t->stages - 1);
        put(t->pre[i], "%s", t->stage[i]);
    }
    put(t->stem, "patch_embed");
    put(t->pool, "norm");
    put(t->classifier, "head");
}

static void taps_of_wrn(network_taps *t)
{
    t->stages = 3;
    for (size_t i = 0; i < 3; i++) {   /* a stage's norm is the first of the next one */
        put(t->stage[i], "block%zu", i + 1);
        put(t->pre[i], i < 2 ? "block%zu.layer.0.bn1" : "bn1", i + 2);
        put(t->last_norm[i], "%s", t->pre[i]);
    }
    put(t->stem, "conv1"), put(t->pool, "avgpool"), put(t->map, "relu"), put(t->classifier, "fc");
}

static void taps_of_vgg(network_taps *t, kd_model *model)
{
    t->stages = 4;
    for (size_t i = 0; i < 4; i++) {
        put(t->stage[i], "relu%zu", i + 1);
        put(t->pre[i], "block%zu", i + 1);
        find_norm(t->last_norm[i], model, t->pre[i]);
    }
    put(t->stem, "relu0"), put(t->pool, "pool4"), put(t->map, "relu4"), put(t->classifier, "classifier");
}

static void taps_of_mobilenet(network_taps *t, kd_model *model)
{
    static const char *const ends[] = { "blocks.1", "blocks.2", "blocks.4", "blocks.6" };
    t->stages = 4;
    for (size_t i = 0; i < 4; i++) {   /* linear bottlenecks: no ReLU to be before */
        char prefix[64];
        put(t->stage[i], "%s", ends[i]);
        put(t->pre[i], "%s", ends[i]);
        put(prefix, "%s.", ends[i]);
        find_norm(t->last_norm[i], model, prefix);
    }
    put(t->stem, "conv1"), put(t->pool, "avgpool"), put(t->map, "conv2"), put(t->classifier, "classifier.0");
}

/* Residual networks of both kinds, RegNetY, ShuffleNet. */
static void taps_of_stages(network_taps *t, kd_model *model, const char *prefix)
{
    int joins = has(model, "layer1") && has(model, "conv2");   /* ShuffleNetV2: units end in a join, not in a ReLU */
    for (size_t i = 0; i < 4; i++) {
        char path[64];
        put(path, "%s%zu", prefix, i + 1);
        if (!has(model, path)) break;
        put(t->stage[i], "%s", path);
        put(t->pre[i], joins ? "%.40s" : "%.40s:pre", path);
        put(path, "%s%zu.", prefix, i + 1);
        if (!joins) find_norm(t->last_norm[i], model, path);
        t->stages = i + 1;
    }
    if (*prefix == 's') put(t->stem, "stem"), put(t->pool, "head.global_pool"), put(t->classifier, "head.fc");
    else put(t->stem, "relu"), put(t->pool, "avgpool"), put(t->classifier, has(model, "fc") ? "fc" : "linear");
    put(t->map, "%s", joins ? "relu2" : t->stage[t->stages - 1]);
}

kd_status network_taps_of(network_taps *out, const char *name, kd_model *model)
{
    memset(out, 0, sizeof *out);
    if (has(model, "blocks.0.attn")) taps_of_vit(out, model);
    else if (has(model, "block1.layer")) taps_of_wrn(out);
    else if (has(model, "block4") && has(model, "pool4")) taps_of_vgg(out, model);
    else if (has(model, "blocks.6") && has(model, "conv2")) taps_of_mobilenet(out, model);
    else if (has(model, "layer1") && has(model, "avgpool")) taps_of_stages(out, model, "layer");
    else if (has(model, "s1") && has(model, "head.fc")) taps_of_stages(out, model, "s");
    else return complain(KD_ERR_ARG, "%s: no family whose taps are known", name);
    return KD_OK;
}
