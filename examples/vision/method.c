/* method.c - any method of the library between two networks: taps, losses, phases.
 * SPDX-License-Identifier: MIT */
#include "vision.h"
#include "../support/rows.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TAPS = 6, KEPT = 10, MAX_PATH = 64 };

/* ---- what a method is given ------------------------------------------------------------------------------------------------ */
/* FIRST: the feature term alone, then cross-entropy; PARAPHRASER: its autoencoder first; ONLY: no cross-entropy. */
typedef enum stage { TOGETHER, FIRST, PARAPHRASER, ONLY } stage;
/* Taps, the same on both sides: stem, stage1 .., stages (those that both have), last (stage), map (what pool is the mean of),
 * pool, logits.  ":pre": before the ReLU; '#': a map as tokens; '@': its scaled self-products as attention scores. */
typedef struct wiring {
    const char *name, *taps;
    stage       stage;
    int         logits, classifier, same_size;   /* gives logits; the teacher's classifier; maps of one height and width */
    const char *note;
} wiring;

static const wiring wirings[] = {
    { "fitnet", "stage2", TOGETHER, 0, 0, 0, NULL },
    { "at", "stages", TOGETHER, 0, 0, 0, NULL },
    { "sp", "last", TOGETHER, 0, 0, 0, NULL },
    { "cc", "pool", TOGETHER, 0, 0, 0, NULL },
    { "vid", "stages", TOGETHER, 0, 0, 0, NULL },
    { "rkd", "pool", TOGETHER, 0, 0, 0, NULL },
    { "pkt", "pool", TOGETHER, 0, 0, 0, NULL },
    { "ab", "stages:pre", FIRST, 0, 0, 0, "the feature term alone first, then cross-entropy" },
    { "ft", "last", PARAPHRASER, 0, 0, 0, "its paraphraser is trained first" },
    { "fsp", "stem stages", FIRST, 0, 0, 0, "the feature term alone first, then cross-entropy" },
    { "nst", "stages", TOGETHER, 0, 0, 0, NULL },
    { "kdsvd", "stages", TOGETHER, 0, 0, 0, NULL },
    { "crd", "pool", TOGETHER, 0, 0, 0, NULL },
    { "irg", "stages", TOGETHER, 1, 0, 0, NULL },
    { "ofd", "stages:pre", TOGETHER, 0, 0, 0, NULL },
    { "reviewkd", "stages:pre pool", TOGETHER, 0, 0, 0, NULL },
    { "simkd", "map", ONLY, 0, 1, 0, "no cross-entropy; tested with the projector and the teacher's classifier" },
    { "catkd", "map", TOGETHER, 0, 1, 0, NULL },
    { "mgd", "last", TOGETHER, 0, 0, 1, NULL },
    { "cwd", "last", TOGETHER, 0, 0, 1, "on features: weight 50, temperature 1" },
    { "pkd", "last", TOGETHER, 0, 0, 1, NULL },
    { "srrl", "map", TOGETHER, 0, 1, 0, NULL },
    { "ickd", "last", TOGETHER, 0, 0, 1, NULL },
    { "srd", "pool", TOGETHER, 0, 0, 0, NULL },
    { "vitkd", "stage1# last#", TOGETHER, 0, 0, 1, "between maps: the last one as tokens, twice" },
    { "semckd", "stages", TOGETHER, 0, 0, 0, NULL },
    { "tinybert", "last@ last#", TOGETHER, 0, 0, 1, "a map as tokens, its self-products as attention scores" },
    { "minilm", "last@ last#", TOGETHER, 0, 0, 1, "a map as tokens, its self-products as attention scores" },
    { "minilm2", "last# last# last#", TOGETHER, 0, 0, 1, "a map's tokens as queries, keys and values; 4 relation heads" },
    { "cosine", "pool", TOGETHER, 0, 0, 0, NULL },
    { "ld", "logits", TOGETHER, 0, 0, 0, "the logits as one distribution" },
    { "fbkd", "last", TOGETHER, 0, 0, 1, NULL },
};
static const wiring no_wires = { "", "", TOGETHER, 0, 0, 0, NULL };

static const struct { const char *name, *note; } notes[] = {
    { "uskd", "no teacher; its weak head sits on the second stage" },
    { "tfkd", "no teacher" },
    { "label_smoothing", "no teacher" },
    { "pskd", "no teacher: its own outputs an epoch ago" },
    { "uld", "with cross-entropy, 1 and 1.5 as in its paper" },
    { "mlkd", "strong view: flips, shifts, contrast and a cut-out on top of the loader's; cross-entropy on both views" },
    { "deit_soft", "tested with the mean of both heads" },
    { "deit_hard", "tested with the mean of both heads" },
    { "multi_teacher", "two teachers" },
    { "mutual", "no teacher: two students, both learn in every step; the first is tested" },
    { "born_again", "the second generation, taught by a first one that Hinton's loss taught: twice the epochs" },
    { "top_k", "the teacher's 10 largest classes" },
};

/* Numbers of a paper for small images where its defaults are for ImageNet. */
static const struct { const char *name; float temperature, weight, alpha, beta, gamma; } small_images[] = {
    { "nkd", 3, NAN, NAN, NAN, 3.5f },
    { "uskd", NAN, NAN, .1f, .1f, .1f },
    { "wsld", 4, 2.25f, NAN, NAN, NAN },
    { "mgd", NAN, 1.2e-3f, NAN, NAN, NAN },
    { "srrl", NAN, NAN, NAN, 5, NAN },
};

typedef struct tap { char path[MAX_PATH]; enum { AS_IS, TOKENS, SCORES } form; } tap;
typedef struct side {
    kd_model    *model;
    network_taps of;
    tap          taps[MAX_TAPS];
    size_t       count;
} side;

struct method {
    kd_context      *ctx;
    const char      *name;
    const wiring    *wires;
    const char      *taps;                    /* the wiring's, or what fits these networks */
    const images    *data;
    recipe           recipe;
    uint64_t         seed;
    side             student, teacher;
    kd_model        *second;                  /* another teacher */
    kd_model        *other;                   /* mutual: the second student; born again: the first generation */
    kd_model        *head;                    /* deit: the second head; uskd: the weak head; on `on` */
    tap              on;
    kd_loss_distill *outputs, *generation;    /* generation: born again's first */
    kd_loss_feature *features, *paraphraser;  /* paraphraser: ft's first phase */
    float           *table;                   /* pskd: [items, classes], last epoch's outputs */
    size_t           table_bytes, classes, phase, phases, epochs[2];
    size_t           teacher_side[2];         /* simkd: height and width of the teacher's map */
    kd_rng           rng;                     /* of mlkd's strong view */
    float            strong_weight;
    char             no_decay[MAX_PATH + 8], note[256];
};

static int is(const method *m, const char *name) { return !strcmp(m->name, name); }
static int is_deit(const method *m) { return is(m, "deit_soft") || is(m, "deit_hard"); }
static int in_list(const char *name, const char *const *list)
{
    while (*list && strcmp(*list, name)) list++;
    return *list != NULL;
}
static int needs_teacher(const method *m)
{
    return !in_list(m->name, (const char *const[]){ "alone", "tfkd", "uskd", "label_smoothing", "pskd", "mutual", NULL });
}

/* An epoch of the protocol in epochs of this run. */
static size_t scaled(const recipe *r, double epochs)
{
    double n = floor(epochs * r->epochs / r->protocol_epochs + .5);
    return n < 1 ? 1 : (size_t)n;
}

/* ---- taps ------------------------------------------------------------------------------------------------------------------ */
static kd_status add_tap(const method *m, side *s, const char *path, char suffix)
{
    if (!*path)
        return complain(KD_ERR_ARG, "%s: needs networks whose classifier reads the mean of a map, unlike transformers'", m->name);
    if (s->count == MAX_TAPS) return complain(KD_ERR_ARG, "%s: more than %d taps", m->name, MAX_TAPS);
    tap *t = &s->taps[s->count++];
    snprintf(t->path, sizeof t->path, "%s", path);
    t->form = suffix == '#' ? TOKENS : suffix == '@' ? SCORES : AS_IS;
    return strcmp(path, "logits") ? kd_model_tap(s->model, path) : KD_OK;
}

/* The taps of the wiring on one side; `stages`: how many stages are given. */
static kd_status find_taps(method *m, side *s, size_t stages)
{
    const network_taps *of = &s->of;
    kd_status st = KD_OK;
    for (const char *at = m->taps; *at && st == KD_OK;) {
        char word[32];
        size_t n = strcspn(at, " ");
        snprintf(word, sizeof word, "%.*s", (int)n, at);
        at += n + (at[n] == ' ');
        char *colon = strchr(word, ':'), suffix = word[n - 1];
        const char (*from)[MAX_PATH] = colon ? of->pre : of->stage;
        if (colon) *colon = 0;
        if (suffix == '#' || suffix == '@') word[n - 1] = 0;
        if (!strcmp(word, "stages"))
            for (size_t i = 0; i < stages && st == KD_OK; i++) st = add_tap(m, s, from[i], suffix);
        else if (!strcmp(word, "stem")) st = add_tap(m, s, of->stem, suffix);
        else if (!strcmp(word, "pool")) st = add_tap(m, s, of->pool, suffix);
        else if (!strcmp(word, "map")) st = add_tap(m, s, of->map, suffix);
        else if (!strcmp(word, "last")) st = add_tap(m, s, from[of->stages - 1], suffix);
        else if (!strcmp(word, "logits")) st = add_tap(m, s, word, suffix);
        else {   /* "stage2": the last one where there are fewer */
            size_t i = (size_t)(word[5] - '1');
            st = add_tap(m, s, from[i < of->stages ? i : of->stages - 1], suffix);
        }
    }
    return st;
}

/* A tap after a forward; tokens as a square map, the first one as the pooled vector. */
static kd_tensor *fetch(const side *s, const tap *t, kd_tape *tape, kd_tensor *logits)
{
    if (!strcmp(t->path, "logits")) return logits;
    kd_tensor *x = kd_model_tapped(s->model, tape, t->path);
    if (kd_tape_status(tape) != KD_OK || kd_tensor_rank(x) != 3) return x;
    size_t n = kd_tensor_size(x, 0), l = kd_tensor_size(x, 1), c = kd_tensor_size(x, 2), side_length = 1;
    if (!strcmp(t->path, s->of.pool)) return kd_reshape(tape, kd_slice(tape, x, 1, 0, 1), 2, (size_t[]){ n, c });
    while ((side_length + 1) * (side_length + 1) <= l - s->of.prefix) side_length++;
    return kd_reshape(tape, kd_slice(tape, x, 1, s->of.prefix, l), 4, (size_t[]){ n, side_length, side_length, c });
}

/* As the wiring wants a map. */
static kd_tensor *formed(const tap *t, kd_tape *tape, kd_tensor *x)
{
    if (t->form == AS_IS || kd_tape_status(tape) != KD_OK || kd_tensor_rank(x) != 4) return x;
    size_t rows = kd_tensor_size(x, 0), l = kd_tensor_size(x, 1) * kd_tensor_size(x, 2), c = kd_tensor_size(x, 3);
    x = kd_reshape(tape, x, 3, (size_t[]){ rows, l, c });
    if (t->form == TOKENS) return x;
    x = kd_scale(tape, kd_matmul(tape, x, x, KD_TRANSPOSE_B), 1 / sqrtf((float)c), 0);
    return kd_reshape(tape, x, 4, (size_t[]){ rows, 1, l, l });
}

/* x averaged down to y's height and width, where a whole number of pixels goes into one. */
static kd_tensor *pooled_to(kd_tape *tape, kd_tensor *x, size_t h, size_t w)
{
    if (kd_tape_status(tape) != KD_OK || kd_tensor_rank(x) != 4 || !h || !w) return x;
    size_t xh = kd_tensor_size(x, 1), xw = kd_tensor_size(x, 2);
    if ((xh <= h && xw <= w) || xh % h || xw % w) return x;
    const uint32_t window[2] = { (uint32_t)(xh / h), (uint32_t)(xw / w) }, none[2] = { 0, 0 };
    return kd_avg_pool2d(tape, x, window, window, none);
}

static size_t size_of(kd_tensor *x, size_t axis) { return x && kd_tensor_rank(x) == 4 ? kd_tensor_size(x, axis) : 0; }

/* All taps of both sides, student's on `learn`, teacher's on `look`. */
static void fetch_all(const method *m, kd_tape *learn, kd_tape *look, kd_tensor *zs, kd_tensor *zt, kd_tensor **s, kd_tensor **t)
{
    for (size_t i = 0; i < m->student.count; i++) s[i] = fetch(&m->student, &m->student.taps[i], learn, zs);
    for (size_t i = 0; i < m->teacher.count; i++) t[i] = fetch(&m->teacher, &m->teacher.taps[i], look, zt);
    for (size_t i = 0; i < m->student.count; i++) {
        if (m->wires->same_size) {
            kd_tensor *was = s[i];
            s[i] = pooled_to(learn, s[i], size_of(t[i], 1), size_of(t[i], 2));
            t[i] = pooled_to(look, t[i], size_of(was, 1), size_of(was, 2));
        }
        s[i] = formed(&m->student.taps[i], learn, s[i]);
        if (i < m->teacher.count) t[i] = formed(&m->teacher.taps[i], look, t[i]);
    }
}

static kd_tensor *parameter(kd_model *model, const char *layer, const char *what)
{
    char path[MAX_PATH + 16];
    kd_param_info info = { .struct_size = sizeof info };
    snprintf(path, sizeof path, "%s.%s", layer, what);
    return kd_model_find(model, path, &info) == KD_OK ? info.tensor : NULL;
}
static const float *weights_of(kd_model *model, const char *layer, const char *what)
{
    kd_tensor *t = *layer ? parameter(model, layer, what) : NULL;
    return t ? kd_tensor_f32(t) : NULL;
}

/* The classifier at every place of a map, or on a vector. */
static kd_tensor *classify(const side *s, kd_tape *tape, kd_tensor *x)
{
    return kd_linear(tape, x, parameter(s->model, s->of.classifier, "weight"), parameter(s->model, s->of.classifier, "bias"));
}

/* ---- losses ---------------------------------------------------------------------------------------------------------------- */
static void override(float *number, double given) { if (!isnan(given)) *number = (float)given; }

static kd_status labels_and_outputs(method *m, kd_loss_distill **out, double soft_weight)
{
    kd_loss_distill_desc d;
    kd_loss_distill_desc_init(&d, sizeof d);
    d.hard_weight = 1, d.soft_weight = (float)soft_weight;
    d.unlabelled_index = -1;
    d.label_smoothing = (float)m->recipe.label_smoothing;
    return kd_loss_distill_create(out, m->ctx, &d);
}

static kd_status make_outputs(method *m, kd_loss_distill **out, const char *name)
{
    const recipe *r = &m->recipe;
    kd_method_info info = { .struct_size = sizeof info };
    kd_loss_distill_desc d;
    kd_status st;
    TRY(kd_method_find(name, &info));
    TRY(kd_loss_distill_desc_for(&d, sizeof d, info.method));
    d.unlabelled_index = -1;
    d.seed = m->seed;
    d.label_smoothing = (float)r->label_smoothing;
    for (size_t i = 0; m->data->height <= 64 && i < sizeof small_images / sizeof *small_images; i++) {
        if (strcmp(small_images[i].name, name)) continue;
        override(&d.temperature, (double)small_images[i].temperature);
        override(&d.soft_weight, (double)small_images[i].weight);
        override(&d.alpha, (double)small_images[i].alpha);
        override(&d.beta, (double)small_images[i].beta);
        override(&d.gamma, (double)small_images[i].gamma);
    }
    if (!strcmp(name, "pskd")) d.beta = (float)r->epochs;
    if (!strcmp(name, "ctkd")) d.beta = (float)scaled(r, (double)d.beta);
    if (!strcmp(name, "taid")) d.warmup = (uint64_t)r->epochs;
    else if (d.warmup) d.warmup = scaled(r, (double)d.warmup);
    if (!strcmp(name, "uld")) d.hard_weight = 1, d.soft_weight = 1.5f;
    if (!strcmp(name, "label_smoothing")) d.ignore_index = -1, d.unlabelled_index = KD_LABEL_OFF;
    override(&d.temperature, r->temperature);
    override(&d.hard_weight, r->hard_weight);
    override(&d.soft_weight, r->soft_weight);
    override(&d.alpha, r->alpha);
    override(&d.beta, r->beta);
    override(&d.gamma, r->gamma);
    m->strong_weight = d.hard_weight;
    st = kd_loss_distill_create(out, m->ctx, &d);
done:
    return st;
}

/* The last channels of a stage once or twice those of the one before it: irg's transformation. */
static int fit_for_irg(const kd_feature_shape *x, size_t count)
{
    for (size_t i = 0; i + 1 < count; i++)
        if (x[i].rank != 3 || x[i + 1].rank != 3 || (x[i + 1].size[2] != x[i].size[2] && x[i + 1].size[2] != 2 * x[i].size[2])
            || !x[i + 1].size[0] || x[i].size[0] % x[i + 1].size[0]) return 0;
    return 1;
}

static void feature_numbers(method *m, kd_loss_feature_desc *d)
{
    const recipe *r = &m->recipe;
    for (size_t i = 0; m->data->height <= 64 && i < sizeof small_images / sizeof *small_images; i++) {
        if (strcmp(small_images[i].name, m->name)) continue;
        override(&d->weight, (double)small_images[i].weight);
        override(&d->beta, (double)small_images[i].beta);
    }
    d->seed = m->seed;
    d->classes = m->classes;
    if (d->warmup) d->warmup = scaled(r, (double)d->warmup);
    if (is(m, "crd")) d->samples = kd_dataset_count(m->data->train);
    if (is(m, "semckd")) d->samples = (size_t)r->batch;
    if (is(m, "minilm2")) d->width = 4;
    if (is(m, "cwd")) d->weight = 50, d->temperature = 1;
    if (is(m, "irg") && !(fit_for_irg(d->student, d->student_count) && fit_for_irg(d->teacher, d->teacher_count))) {
        d->gamma = 0;
        snprintf(m->note, sizeof m->note, "without its transformations: the stages' sizes do not fit them");
    }
    override(&d->weight, r->feature_weight);
    override(&d->temperature, r->temperature);
    override(&d->alpha, r->alpha);
    override(&d->beta, r->beta);
    override(&d->gamma, r->gamma);
}

static void take_shapes(kd_tensor *const *x, size_t count, kd_feature_shape *out)
{
    for (size_t i = 0; i < count; i++) {
        out[i].rank = kd_tensor_rank(x[i]) - 1;
        for (size_t a = 0; a < out[i].rank; a++) out[i].size[a] = kd_tensor_size(x[i], a + 1);
    }
}

/* CAT-KD's two forms: as they are within a family, of length 1 between two. */
static void choose_class_maps(method *m, kd_loss_feature_desc *d, int shuffle, int related)
{
    if (shuffle) d->width = 4;
    if (related) return;
    d->form = KD_FORM_PAPER;
    d->weight = shuffle ? 600 : 15;
    snprintf(m->note, sizeof m->note, "class maps of length 1, as between families");
}

/* The feature loss, for the shapes that one image shows. */
static kd_status make_features(method *m, const method_setup *setup, kd_tape *look)
{
    kd_feature_shape student[MAX_TAPS], teacher[MAX_TAPS];
    kd_tensor *s[MAX_TAPS], *t[MAX_TAPS];
    const float *norm_weight[MAX_TAPS], *norm_bias[MAX_TAPS];
    kd_loss_feature_desc d;
    kd_method_info info = { .struct_size = sizeof info };
    kd_status st;
    TRY(kd_method_find(m->name, &info));
    TRY(kd_loss_feature_desc_for(&d, sizeof d, info.method));
    kd_tensor *x = kd_tape_tensor(look, KD_F32, 4, (size_t[]){ 1, m->data->height, m->data->width, 3 });
    TRY(kd_tape_status(look));
    memset(kd_tensor_f32(x), 0, m->data->height * m->data->width * 3 * sizeof(float));
    kd_tensor *zt = kd_model_forward(m->teacher.model, look, x), *zs = kd_model_forward(m->student.model, look, x);
    fetch_all(m, look, look, zs, zt, s, t);
    if (is(m, "catkd")) s[0] = classify(&m->student, look, s[0]);
    TRY(kd_tape_status(look));
    d.student = student, d.teacher = teacher;
    d.student_count = m->student.count, d.teacher_count = m->teacher.count;
    take_shapes(s, d.student_count, student);
    take_shapes(t, d.teacher_count, teacher);
    m->teacher_side[0] = size_of(t[0], 1), m->teacher_side[1] = size_of(t[0], 2);
    if (is(m, "catkd"))
        choose_class_maps(m, &d, strstr(setup->student_name, "shuffle") != NULL,
                          !strncmp(setup->student_name, setup->teacher_name, 3));
    feature_numbers(m, &d);
    if (m->wires->classifier) {
        d.teacher_weight = weights_of(m->teacher.model, m->teacher.of.classifier, "weight");
        d.teacher_bias = weights_of(m->teacher.model, m->teacher.of.classifier, "bias");
    }
    if (is(m, "ofd")) {
        for (size_t i = 0; i < d.teacher_count; i++) {
            norm_weight[i] = weights_of(m->teacher.model, m->teacher.of.last_norm[i], "weight");
            norm_bias[i] = weights_of(m->teacher.model, m->teacher.of.last_norm[i], "bias");
            if (!norm_weight[i] || !norm_bias[i]) {
                st = complain(KD_ERR_ARG, "ofd: no batch norm ends the stages of %s, from which its margins come",
                              setup->teacher_name);
                goto done;
            }
        }
        d.teacher_bn_weight = norm_weight, d.teacher_bn_bias = norm_bias;
    }
    if (m->wires->stage == PARAPHRASER) {   /* first the autoencoder of the teacher, by its error alone; then the factors */
        float weight = d.weight;
        d.weight = 1, d.alpha = 0, d.beta = 1;
        TRY(kd_loss_feature_create(&m->paraphraser, m->ctx, &d));
        d.weight = weight, d.alpha = 1, d.beta = 0;
    }
    st = kd_loss_feature_create(&m->features, m->ctx, &d);
done:
    return st;
}

/* A linear head on the tap `m->on`. */
static kd_status make_head(method *m, kd_tape *look)
{
    kd_status st;
    kd_tensor *x = kd_tape_tensor(look, KD_F32, 4, (size_t[]){ 1, m->data->height, m->data->width, 3 });
    TRY(kd_tape_status(look));
    memset(kd_tensor_f32(x), 0, m->data->height * m->data->width * 3 * sizeof(float));
    x = fetch(&m->student, &m->on, look, kd_model_forward(m->student.model, look, x));
    TRY(kd_tape_status(look));
    const size_t sizes[] = { kd_tensor_size(x, kd_tensor_rank(x) - 1), m->classes };
    st = kd_zoo_mlp(&m->head, m->ctx, sizes, 2, KD_ACT_NONE, m->seed + 5);
done:
    return st;
}

static kd_status check(method *m, const method_setup *setup)
{
    static const char *const by_index[] = { "dkd", "nkd", "wsld", "uskd", "tfkd", "pskd", NULL };
    if (needs_teacher(m) && !setup->teacher) return complain(KD_ERR_ARG, "%s: needs a teacher", m->name);
    if (is(m, "multi_teacher") && !setup->second_teacher) return complain(KD_ERR_ARG, "%s: needs a second teacher", m->name);
    const recipe *r = setup->recipe;
    if ((r->mixup > 0 || r->cutmix > 0) && in_list(m->name, by_index))
        return complain(KD_ERR_ARG, "%s: needs the class of each image, which mixed images do not have: %s = 0", m->name,
                        r->mixup > 0 && r->cutmix > 0 ? "mixup = 0, cutmix" : r->mixup > 0 ? "mixup" : "cutmix");
    if (r->repeats > 1 && is(m, "pskd"))
        return complain(KD_ERR_ARG, "pskd: needs each image once in an epoch, for its outputs an epoch ago: repeats = 1");
    if (r->label_smoothing > 0 && is(m, "label_smoothing"))
        return complain(KD_ERR_ARG, "label_smoothing: its soft_weight smooths, once more is too often: label_smoothing = 0");
    if (m->student.of.distilled && !is_deit(m))
        return complain(KD_ERR_ARG, "%s: only deit_soft and deit_hard train the second head of %s", m->name, setup->student_name);
    return KD_OK;   /* that a teacher has the data's classes was said when its weights were loaded */
}

static kd_status build(method *m, const method_setup *setup)
{
    kd_method_info info = { .struct_size = sizeof info };
    kd_tape *look = NULL;
    kd_loader *augmented = NULL;
    kd_status st;
    TRY(network_taps_of(&m->student.of, setup->student_name, setup->student));
    if (!is(m, "alone")) TRY(kd_method_find(m->name, &info));
    TRY(check(m, setup));
    TRY(images_train(&augmented, m->ctx, m->data, setup->recipe, m->seed));   /* what it does not take is said now */
    if (m->teacher.model) TRY(network_taps_of(&m->teacher.of, setup->teacher_name, m->teacher.model));
    TRY(kd_tape_create(&look, m->ctx, KD_TAPE_INFER));
    snprintf(m->no_decay, sizeof m->no_decay, "%.63s.*", m->student.of.classifier);
    m->phases = 1;
    m->epochs[0] = (size_t)m->recipe.epochs;
    if (is(m, "alone")) {
        st = labels_and_outputs(m, &m->outputs, 0);
    } else if (info.kind == KD_METHOD_FEATURE) {
        for (size_t i = 0; i < sizeof wirings / sizeof *wirings; i++)
            if (is(m, wirings[i].name)) m->wires = &wirings[i];
        if (m->wires == &no_wires) {
            st = complain(KD_ERR_ARG, "%s: no wiring in method.c", m->name);
            goto done;
        }
        size_t stages = m->student.of.stages < m->teacher.of.stages ? m->student.of.stages : m->teacher.of.stages;
        m->taps = m->wires->taps;
        if (is(m, "srrl") && (!*m->student.of.map || !*m->teacher.of.map)) m->taps = "pool";
        if (is(m, "vitkd") && !(m->student.of.tokens && m->teacher.of.tokens)) m->taps = "last# last#";
        TRY(find_taps(m, &m->student, is(m, "semckd") ? m->student.of.stages : stages));
        TRY(find_taps(m, &m->teacher, is(m, "semckd") ? m->teacher.of.stages : stages));
        TRY(make_features(m, setup, look));
        if (m->wires->stage != ONLY) TRY(labels_and_outputs(m, &m->outputs, m->recipe.kd_weight));
        if (m->wires->stage == FIRST || m->wires->stage == PARAPHRASER) {
            m->epochs[m->phases++] = m->epochs[0];
            m->epochs[0] = scaled(&m->recipe, 30);
        }
    } else {
        TRY(make_outputs(m, &m->outputs, m->name));
        if (is(m, "uskd")) snprintf(m->on.path, sizeof m->on.path, "%s", m->student.of.stage[m->student.of.stages > 1]);
        if (is_deit(m) && !m->student.of.distilled) snprintf(m->on.path, sizeof m->on.path, "%s", m->student.of.pool);
        if (*m->on.path) {
            TRY(kd_model_tap(m->student.model, m->on.path));
            TRY(make_head(m, look));
        }
        if (is(m, "mutual") || is(m, "born_again"))
            TRY(network_create(&m->other, m->ctx, setup->student_name, m->data, m->recipe.drop_path, m->seed + 9));
        if (is(m, "born_again")) {
            TRY(make_outputs(m, &m->generation, "kd"));
            m->epochs[m->phases++] = m->epochs[0];
        }
        if (is(m, "pskd")) {
            size_t count = kd_dataset_count(m->data->train) * m->classes;
            m->table_bytes = count * sizeof *m->table;
            if (!(m->table = malloc(m->table_bytes))) {
                st = complain(KD_ERR_NOMEM, "pskd: no memory for a table of %zu bytes", m->table_bytes);
                goto done;
            }
            for (size_t i = 0; i < count; i++) m->table[i] = NAN;
        }
    }
done:
    kd_loader_free(augmented);
    kd_tape_free(look);
    return st;
}

kd_status method_create(method **out, const method_setup *setup)
{
    *out = NULL;
    method *m = calloc(1, sizeof *m);
    if (!m) return complain(KD_ERR_NOMEM, "%s: no memory", setup->name);
    m->ctx = setup->ctx;
    m->name = setup->name;
    m->wires = &no_wires;
    m->data = setup->data;
    m->recipe = *setup->recipe;
    m->seed = setup->seed;
    m->classes = setup->data->classes;
    m->rng = kd_rng_make(setup->seed + 77);
    m->student.model = setup->student;
    m->teacher.model = needs_teacher(m) ? setup->teacher : NULL;
    m->second = setup->second_teacher;
    kd_status st = build(m, setup);
    if (st == KD_OK) *out = m;
    else method_free(m);
    return st;
}

void method_free(method *m)
{
    if (!m) return;
    kd_loss_distill_free(m->outputs);
    kd_loss_distill_free(m->generation);
    kd_loss_feature_free(m->features);
    kd_loss_feature_free(m->paraphraser);
    kd_model_free(m->other);
    kd_model_free(m->head);
    free(m->table);
    free(m);
}

/* ---- phases ---------------------------------------------------------------------------------------------------------------- */
size_t method_phases(const method *m) { return m->phases; }
size_t method_epochs(const method *m, size_t phase) { return phase < m->phases ? m->epochs[phase] : 0; }

static int paraphrasing(const method *m) { return m->wires->stage == PARAPHRASER && m->phase == 0; }
static int features_now(const method *m) { return m->features && !(m->wires->stage == FIRST && m->phase); }
static int labels_now(const method *m) { return m->outputs && !(m->wires->stage == FIRST && !m->phase); }

/* The trained paraphraser into the second phase's adapters; its translator begins there. */
static void take_paraphraser(method *m)
{
    kd_model *from = kd_loss_feature_adapters(m->paraphraser), *to = kd_loss_feature_adapters(m->features);
    for (size_t i = 0; i < kd_model_parameter_count(from); i++) {
        kd_param_info a = { .struct_size = sizeof a }, b = { .struct_size = sizeof b };
        if (kd_model_parameter_at(from, i, &a) != KD_OK || kd_model_parameter_at(to, i, &b) != KD_OK) continue;
        if (!strncmp(a.name, "t0.", 3))
            memcpy(kd_tensor_f32(b.tensor), kd_tensor_f32(a.tensor), kd_tensor_count(a.tensor) * sizeof(float));
    }
    kd_model_touch(to);
}

kd_status method_begin(method *m, size_t phase)
{
    if (phase >= m->phases) return complain(KD_ERR_ARG, "%s: no phase %zu", m->name, phase);
    m->phase = phase;
    if (m->paraphraser && phase) take_paraphraser(m);
    return KD_OK;
}

size_t method_trains(method *m, kd_model **models)
{
    size_t n = 0;
    if (paraphrasing(m)) {
        models[n++] = kd_loss_feature_adapters(m->paraphraser);
        return n;
    }
    if (is(m, "born_again") && !m->phase) {
        models[n++] = m->other;
        return n;
    }
    models[n++] = m->student.model;
    if (m->head) models[n++] = m->head;
    if (is(m, "mutual")) models[n++] = m->other;
    if (m->outputs && kd_loss_distill_adapters(m->outputs)) models[n++] = kd_loss_distill_adapters(m->outputs);
    if (features_now(m) && kd_loss_feature_adapters(m->features)) models[n++] = kd_loss_feature_adapters(m->features);
    return n;
}

size_t method_tested(method *m, kd_model **models, const char **parts)
{
    size_t n = 0;
    models[n] = m->generation && !m->phase ? m->other : m->student.model, parts[n++] = "";
    if (m->head && is_deit(m)) models[n] = m->head, parts[n++] = "head";
    if (m->wires->stage == ONLY) models[n] = kd_loss_feature_adapters(m->features), parts[n++] = "projector";
    return n;
}

const char *method_no_decay(const method *m)
{
    if (m->wires->stage == PARAPHRASER) return m->phase ? "t0.*" : "s0.*";
    if (m->wires->stage != ONLY && (m->wires->stage != FIRST || m->phase)) return NULL;
    return m->no_decay;   /* the student's classifier */
}

kd_status method_checkpoint(method *m, kd_checkpoint *cp)
{
    kd_status st = kd_checkpoint_add_bytes(cp, "method.rng", &m->rng, sizeof m->rng);
    if (st == KD_OK && m->outputs) st = kd_checkpoint_add_loss(cp, "method.outputs", m->outputs);
    kd_model *adapters = m->outputs ? kd_loss_distill_adapters(m->outputs) : NULL;   /* not part of its loss's section */
    if (st == KD_OK && adapters) st = kd_checkpoint_add_model(cp, "method.adapters", adapters);
    if (st == KD_OK && m->generation) st = kd_checkpoint_add_loss(cp, "method.generation", m->generation);
    if (st == KD_OK && m->features) st = kd_checkpoint_add_feature_loss(cp, "method.features", m->features);
    if (st == KD_OK && m->paraphraser) st = kd_checkpoint_add_feature_loss(cp, "method.paraphraser", m->paraphraser);
    if (st == KD_OK && m->head) st = kd_checkpoint_add_model(cp, "method.head", m->head);
    if (st == KD_OK && m->other) st = kd_checkpoint_add_model(cp, "method.other", m->other);
    if (st == KD_OK && m->table) st = kd_checkpoint_add_bytes(cp, "method.table", m->table, m->table_bytes);
    return st;
}

kd_status method_advance(method *m)
{
    kd_status st = KD_OK;
    if (paraphrasing(m)) return kd_loss_feature_advance(m->paraphraser);
    if (m->generation && !m->phase) return kd_loss_distill_advance(m->generation);
    if (labels_now(m)) st = kd_loss_distill_advance(m->outputs);
    if (st == KD_OK && features_now(m)) st = kd_loss_feature_advance(m->features);
    return st;
}

const char *method_note(const method *m)
{
    if (*m->note) return m->note;
    if (m->wires->note) return m->wires->note;
    for (size_t i = 0; i < sizeof notes / sizeof *notes; i++)
        if (is(m, notes[i].name)) return notes[i].note;
    return NULL;
}

/* ---- a batch --------------------------------------------------------------------------------------------------------------- */
/* Each image flipped or not, moved by up to an eighth of its side, its contrast changed, a square of a quarter cut out. */
static kd_tensor *strong_view(method *m, kd_tape *tape, kd_tensor *x)
{
    size_t n = kd_tensor_size(x, 0), h = kd_tensor_size(x, 1), w = kd_tensor_size(x, 2), c = kd_tensor_size(x, 3);
    kd_tensor *y = kd_tape_tensor(tape, KD_F32, 4, (size_t[]){ n, h, w, c });
    if (kd_tape_status(tape) != KD_OK) return y;
    for (size_t i = 0; i < n; i++) {
        const float *from = kd_tensor_f32(x) + i * h * w * c;
        float *to = kd_tensor_f32(y) + i * h * w * c, contrast = .6f + .8f * kd_rng_uniform(&m->rng);
        size_t by = h / 8, bx = w / 8, flip = (size_t)kd_rng_below(&m->rng, 2);
        size_t dy = (size_t)kd_rng_below(&m->rng, 2 * by + 1), dx = (size_t)kd_rng_below(&m->rng, 2 * bx + 1);
        size_t cy = (size_t)kd_rng_below(&m->rng, h), cx = (size_t)kd_rng_below(&m->rng, w);
        for (size_t a = 0; a < h; a++)
            for (size_t b = 0; b < w; b++) {
                size_t sa = a + dy, sb = b + dx;   /* in the image padded by `by`, `bx` */
                int cut = a >= cy && a < cy + h / 4 && b >= cx && b < cx + w / 4;
                int out = cut || sa < by || sa >= h + by || sb < bx || sb >= w + bx;
                size_t column = out ? 0 : flip ? w - 1 - (sb - bx) : sb - bx;
                for (size_t k = 0; k < c; k++)
                    to[(a * w + b) * c + k] = out ? 0 : contrast * from[((sa - by) * w + column) * c + k];
            }
    }
    return y;
}

static kd_tensor *head_of(method *m, kd_tape *tape)
{
    kd_tensor *x = fetch(&m->student, &m->on, tape, NULL);
    if (kd_tape_status(tape) == KD_OK && kd_tensor_rank(x) == 4) x = kd_global_avg_pool(tape, x);
    return kd_model_forward(m->head, tape, x);
}

/* The loss of an output method. */
static kd_tensor *output_term(method *m, kd_tape *learn, kd_tape *look, kd_tensor *x, kd_tensor *s, kd_tensor *t, kd_tensor *y,
                              const uint32_t *items)
{
    kd_distill_inputs in = { .struct_size = sizeof in, .student = s, .teacher = t, .labels = y };
    kd_tensor *more[1], *extra = NULL;
    if (kd_tape_status(learn) != KD_OK || kd_tape_status(look) != KD_OK)
        return kd_loss_distill_apply_inputs(m->outputs, learn, &in);
    size_t rows = kd_tensor_size(s, 0), classes = m->classes;
    if (m->head) in.student_second = head_of(m, learn);
    else if (is_deit(m)) in.student_second = kd_model_tapped(m->student.model, learn, "head_dist");
    if (is(m, "mlkd")) {
        kd_tensor *strong = strong_view(m, learn, x);
        in.student_second = kd_model_forward(m->student.model, learn, strong);
        in.teacher_second = kd_model_forward(m->teacher.model, look, strong);
        extra = kd_cross_entropy(learn, in.student_second, y, -1, (float)m->recipe.label_smoothing, KD_REDUCE_MEAN_ROWS);
        extra = kd_scale(learn, extra, m->strong_weight, 0);
    }
    if (is(m, "multi_teacher")) {
        more[0] = kd_model_forward(m->second, look, x);
        in.more_teachers = more, in.more_teacher_count = 1;
    }
    if (is(m, "top_k")) {
        size_t kept = classes < KEPT ? classes : KEPT;
        in.teacher = kd_tape_tensor(learn, KD_F32, 2, (size_t[]){ rows, kept });
        in.teacher_classes = kd_tape_tensor(learn, KD_I32, 2, (size_t[]){ rows, kept });
        if (kd_tape_status(learn) == KD_OK)
            largest_of_rows(kd_tensor_f32(t), rows, classes, kept, kd_tensor_f32(in.teacher), kd_tensor_data(in.teacher_classes));
    }
    if (is(m, "pskd")) {
        in.teacher = kd_tape_tensor(learn, KD_F32, 2, (size_t[]){ rows, classes });
        if (kd_tape_status(learn) == KD_OK)   /* each item comes once an epoch */
            outputs_before(m->table, items, kd_tensor_f32(s), rows, classes, kd_tensor_f32(in.teacher));
    }
    kd_tensor *loss = kd_loss_distill_apply_inputs(m->outputs, learn, &in);
    return extra ? kd_add(learn, loss, extra) : loss;
}

static kd_tensor *feature_term(method *m, kd_tape *learn, kd_tape *look, kd_tensor *s, kd_tensor *t, kd_tensor *y,
                               const uint32_t *items)
{
    kd_tensor *student[MAX_TAPS], *teacher[MAX_TAPS];
    kd_feature_inputs in = { .struct_size = sizeof in, .student = student, .teacher = teacher };
    in.student_count = m->student.count, in.teacher_count = m->teacher.count;
    fetch_all(m, learn, look, s, t, student, teacher);
    if (is(m, "catkd")) student[0] = classify(&m->student, learn, student[0]);
    if (y && kd_tensor_dtype(y) != KD_F32) in.labels = y;
    if (is(m, "crd")) {
        size_t rows = kd_tensor_size(y, 0);
        in.indices = kd_tape_tensor(learn, KD_I32, 1, &rows);
        for (size_t i = 0; i < rows && kd_tape_status(learn) == KD_OK; i++)
            ((int32_t *)kd_tensor_data(in.indices))[i] = (int32_t)items[i];
    }
    if (m->wires->logits) in.student_logits = s, in.teacher_logits = t;
    return kd_loss_feature_apply(m->features, learn, &in);
}

/* ft's first phase: only the teacher's maps matter; the student's are there for their shape. */
static kd_tensor *paraphrase(method *m, kd_tape *learn, kd_tape *look, kd_tensor *x)
{
    kd_tensor *t, *s = kd_model_forward(m->student.model, look, x), *z = kd_model_forward(m->teacher.model, look, x);
    fetch_all(m, look, look, s, z, &s, &t);
    kd_feature_inputs in = { .struct_size = sizeof in, .student = &s, .teacher = &t, .student_count = 1, .teacher_count = 1 };
    return kd_loss_feature_apply(m->paraphraser, learn, &in);
}

kd_tensor *method_loss(method *m, kd_tape *learn, kd_tape *look, kd_tensor *x, kd_tensor *y, const uint32_t *items,
                       kd_tensor **logits)
{
    kd_tensor *s, *t = NULL, *loss = NULL;
    *logits = NULL;
    if (paraphrasing(m)) return paraphrase(m, learn, look, x);
    if (is(m, "mutual")) {   /* each one's outputs are constants for the other */
        s = *logits = kd_model_forward(m->student.model, learn, x);
        t = kd_model_forward(m->other, learn, x);
        loss = kd_loss_distill_apply(m->outputs, learn, s, kd_detach(learn, t), y);
        return kd_add(learn, loss, kd_loss_distill_apply(m->outputs, learn, t, kd_detach(learn, s), y));
    }
    if (m->generation && !m->phase) {
        t = kd_model_forward(m->teacher.model, look, x);
        s = *logits = kd_model_forward(m->other, learn, x);
        return kd_loss_distill_apply(m->generation, learn, s, t, y);
    }
    if (m->generation) t = kd_model_forward(m->other, look, x);
    else if (m->teacher.model && (features_now(m) || !m->features)) t = kd_model_forward(m->teacher.model, look, x);
    s = *logits = kd_model_forward(m->student.model, learn, x);
    if (labels_now(m)) loss = output_term(m, learn, look, x, s, t, y, items);
    if (features_now(m)) {
        kd_tensor *term = feature_term(m, learn, look, s, t, y, items);
        loss = loss ? kd_add(learn, loss, term) : term;
    }
    return loss;
}

kd_tensor *method_logits(method *m, kd_tape *tape, kd_tensor *x)
{
    if (m->generation && !m->phase) return kd_model_forward(m->other, tape, x);
    kd_tensor *z = kd_model_forward(m->student.model, tape, x);
    if (m->head && is_deit(m)) return kd_scale(tape, kd_add(tape, z, head_of(m, tape)), .5f, 0);
    if (m->wires->stage != ONLY) return z;
    /* The student up to its map, the projector, the teacher's classifier. */
    kd_layer *projector = kd_layer_child(kd_model_root(kd_loss_feature_adapters(m->features)), "s0");
    kd_tensor *map = fetch(&m->student, &m->student.taps[0], tape, z);
    map = pooled_to(tape, map, m->teacher_side[0], m->teacher_side[1]);
    return classify(&m->teacher, tape, kd_global_avg_pool(tape, kd_layer_forward(projector, tape, map)));
}
