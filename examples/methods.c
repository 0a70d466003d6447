/* methods.c - every method of the library on one pair of networks: what it is worth on few labels, what it costs.
 * SPDX-License-Identifier: MIT
 *
 * A residual network teaches one with half as many blocks.  The student sees all training images of the digits, of which 100 have a
 * label: cross-entropy on those, the method's soft term on what it can use.  The same teacher, split and number of steps for every
 * method; weights are those of the method's paper (kd_loss_distill_desc_for, kd_loss_feature_desc_for) unless `notes` below says why not.
 *
 *     methods [--seeds 5] [--steps 690] [--only name,name] [--out docs/methods/results.md] */
#include <kd.h>
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "support/report.h"
#include "support/rows.h"

#define TRY(call) do { if ((st = (call)) != KD_OK) goto done; } while (0)
enum { MAX_SEEDS = 16, LABELS = 100, TEST = 360, CLASSES = 10, BATCH = 64, MAX_TAPS = 5, KEPT = 3, WIDTH = 32, MAX_ROWS = 96 };

/* ---- which taps a method is given ------------------------------------------------------------------------------------ */
/* Names of taps, the same on both sides; "name#": the map as tokens, "name@": its scaled self-products as attention scores. */
typedef struct wiring {
    const char *name, *taps;
    enum { TOGETHER, FIRST, PARAPHRASER, ONLY } stage;   /* FIRST: a quarter of the steps alone, then cross-entropy; ONLY: without it */
    int logits, classifier;                              /* gives logits; the teacher's classifier */
    const char *note;
} wiring;

static const wiring wirings[] = {
    { "fitnet", "stage2", TOGETHER, 0, 0, NULL },
    { "at", "stage1 stage2 stage3", TOGETHER, 0, 0, NULL },
    { "sp", "stage3", TOGETHER, 0, 0, NULL },
    { "cc", "pool", TOGETHER, 0, 0, NULL },
    { "vid", "stage1 stage2 stage3", TOGETHER, 0, 0, NULL },
    { "rkd", "pool", TOGETHER, 0, 0, NULL },
    { "pkt", "pool", TOGETHER, 0, 0, NULL },
    { "ab", "stage1:pre stage2:pre stage3:pre", FIRST, 0, 0, "a quarter of the steps alone, then cross-entropy on 100 labels" },
    { "ft", "stage3", PARAPHRASER, 0, 0, "its paraphraser is trained for a quarter of the steps first" },
    { "fsp", "stem stage1 stage2 stage3", FIRST, 0, 0, "a quarter of the steps alone, then cross-entropy on 100 labels" },
    { "nst", "stage1 stage2 stage3", TOGETHER, 0, 0, NULL },
    { "kdsvd", "stage1 stage2 stage3", TOGETHER, 0, 0, NULL },
    { "crd", "pool", TOGETHER, 0, 0, NULL },
    { "irg", "stage1 stage2 stage3", TOGETHER, 1, 0, NULL },
    { "ofd", "stage1:pre stage2:pre stage3:pre", TOGETHER, 0, 0, NULL },
    { "reviewkd", "stage1:pre stage2:pre stage3:pre pool", TOGETHER, 0, 0, NULL },
    { "simkd", "stage3", ONLY, 0, 1, "no cross-entropy; tested with the projector and the teacher's classifier" },
    { "catkd", "stage3", TOGETHER, 0, 1, NULL },
    { "mgd", "stage3", TOGETHER, 0, 0, NULL },
    { "cwd", "stage3", TOGETHER, 0, 0, NULL },
    { "pkd", "stage3", TOGETHER, 0, 0, NULL },
    { "srrl", "stage3", TOGETHER, 0, 1, NULL },
    { "ickd", "stage3", TOGETHER, 0, 0, NULL },
    { "srd", "pool", TOGETHER, 0, 0, NULL },
    { "vitkd", "stage2# stage2#", TOGETHER, 0, 0, "a map as tokens, twice" },
    { "semckd", "stage1 stage2 stage3", TOGETHER, 0, 0, NULL },
    { "tinybert", "stage2@ stage2#", TOGETHER, 0, 0, "a map as tokens, its self-products as attention scores" },
    { "minilm", "stage2@ stage2#", TOGETHER, 0, 0, "a map as tokens, its self-products as attention scores" },
    { "minilm2", "stage2# stage2# stage2#", TOGETHER, 0, 0, "a map's tokens as queries, keys and values; 4 relation heads" },
    { "cosine", "pool", TOGETHER, 0, 0, NULL },
    { "ld", "logits", TOGETHER, 0, 0, "the logits as one distribution of 10 bins" },
    { "fbkd", "stage3", TOGETHER, 0, 0, NULL },
};

static const struct { const char *name, *note; } notes[] = {
    { "kd", "the recipe of the CIFAR literature, .1 and .9" },
    { "dkd", "taught on the 100 labelled images only: it needs their labels" },
    { "nkd", "taught on the 100 labelled images only" },
    { "wsld", "taught on the 100 labelled images only" },
    { "uskd", "no teacher: 100 labelled images; its weak head sits on the second stage" },
    { "tfkd", "no teacher: 100 labelled images" },
    { "label_smoothing", "no teacher; on the 100 labelled images only: elsewhere a uniform teacher says nothing" },
    { "uld", "with cross-entropy, 1 and 1.5 as in its paper; below: without a label it asks for certainty about any class" },
    { "pskd", "its own outputs an epoch ago, on the 100 labelled images" },
    { "mlkd", "strong view: the images moved by up to a pixel; cross-entropy on both views" },
    { "deit_soft", "tested with the mean of both heads" },
    { "deit_hard", "tested with the mean of both heads" },
    { "multi_teacher", "two teachers of different seeds" },
    { "mutual", "two students in turns of an epoch, each with optimizer and schedule begun anew; the first is tested" },
    { "born_again", "the second generation, taught by a first one that Hinton's loss taught: twice the steps" },
    { "top_k", "the teacher's 3 largest classes" },
};

static const char *note_of(const char *name, const wiring *w)
{
    if (w) return w->note;
    for (size_t i = 0; i < sizeof notes / sizeof *notes; i++)
        if (!strcmp(notes[i].name, name)) return notes[i].note;
    return NULL;
}

/* ---- networks ------------------------------------------------------------------------------------------------------------ */
static void conv_bn(kd_layer *parent, const char *conv, const char *norm, size_t in, size_t out, size_t k, uint32_t stride)
{
    kd_conv_desc d;
    kd_conv_desc_init(&d, sizeof d);
    d.stride[0] = d.stride[1] = stride;
    d.padding[0] = d.padding[1] = (uint32_t)k / 2;
    kd_layer_conv2d(parent, conv, in, out, k, k, 0, &d);
    kd_layer_batch_norm(parent, norm, out, 0.1f, 1e-5f);
}

static kd_status network(kd_model **out, kd_context *ctx, size_t blocks, uint64_t seed)
{
    static const char *const names[] = { "stage1", "stage2", "stage3" };
    static const size_t widths[] = { 8, 16, WIDTH };
    kd_status st = kd_model_create(out, ctx);
    if (st != KD_OK) return st;
    kd_layer *root = kd_model_root(*out), *stem = kd_layer_sequence(root, "stem");
    size_t in = widths[0];
    conv_bn(stem, "conv", "bn", 1, in, 3, 1);
    kd_layer_activation(stem, "relu", KD_ACT_RELU);
    for (size_t s = 0; s < 3; s++) {
        kd_layer *stage = kd_layer_sequence(root, names[s]);
        for (size_t b = 0; b < blocks; b++) {
            uint32_t stride = s && !b ? 2 : 1;
            kd_layer *block = kd_layer_residual(stage, NULL, KD_ACT_RELU);
            conv_bn(block, "conv1", "bn1", in, widths[s], 3, stride);
            kd_layer_activation(block, "relu", KD_ACT_RELU);
            conv_bn(block, "conv2", "bn2", widths[s], widths[s], 3, 1);
            if (stride != 1 || in != widths[s]) conv_bn(kd_layer_shortcut(block, "shortcut"), "0", "1", in, widths[s], 1, stride);
            in = widths[s];
        }
    }
    kd_layer_global_avg_pool(root, "pool");
    kd_layer_linear(root, "fc", WIDTH, CLASSES, 1);
    return kd_model_finish(*out, seed);
}

/* ---- one run -------------------------------------------------------------------------------------------------------------- */
typedef struct memory { size_t now, peak; } memory;
static void *counted_alloc(size_t bytes, size_t align, void *user)
{
    memory *m = user;
    char *whole = malloc(sizeof whole + align + bytes), *p;
    if (!whole) return NULL;
    p = whole + sizeof whole;
    p += align - (uintptr_t)p % align;
    memcpy(p - sizeof whole, &whole, sizeof whole);
    size_t now = __atomic_add_fetch(&m->now, bytes, __ATOMIC_RELAXED);
    if (now > m->peak) m->peak = now;
    return p;
}
static void counted_free(void *p, size_t bytes, void *user)
{
    void *whole;
    __atomic_sub_fetch(&((memory *)user)->now, bytes, __ATOMIC_RELAXED);
    memcpy(&whole, (char *)p - sizeof whole, sizeof whole);
    free(whole);
}

typedef struct result {
    char   name[32];
    const wiring *wires;
    double accuracy[MAX_SEEDS], step_ms[MAX_SEEDS], bytes[MAX_SEEDS];
    char   problem[256];     /* why it did not run */
} result;

typedef struct run {
    kd_context *ctx;
    const kd_dataset *data, *test;
    size_t      steps;
    uint64_t    seed;
    kd_model   *teacher, *second_teacher, *student;
    kd_model   *other;       /* mutual: the second student; born again: the first generation */
    kd_model   *head;        /* deit: the second head; uskd: the weak head */
    kd_loss_distill *outputs;
    kd_loss_feature *features;
    const char *method;
    const wiring *wires;
    float      *table;       /* pskd: [items, classes], last epoch's outputs */
} run;

static int is(const run *r, const char *name) { return !strcmp(r->method, name); }

/* The tap `name` (length n) of a model after a forward. */
static kd_tensor *tap(kd_model *model, kd_tape *tape, kd_tensor *logits, const char *name, size_t n)
{
    char path[40];
    int tokens = name[n - 1] == '#', scores = name[n - 1] == '@';
    snprintf(path, sizeof path, "%.*s", (int)(n - (tokens || scores)), name);
    if (!strcmp(path, "logits")) return logits;
    kd_tensor *x = kd_model_tapped(model, tape, path);
    size_t rows = kd_tensor_size(x, 0), c = kd_tensor_size(x, 3), l = kd_tensor_size(x, 1) * kd_tensor_size(x, 2);
    if (!tokens && !scores) return x;
    x = kd_reshape(tape, x, 3, (size_t[]){ rows, l, c });
    if (tokens) return x;
    x = kd_scale(tape, kd_matmul(tape, x, x, KD_TRANSPOSE_B), 1 / sqrtf((float)c), 0);
    return kd_reshape(tape, x, 4, (size_t[]){ rows, 1, l, l });
}

static size_t all_taps(const run *r, kd_model *model, kd_tape *tape, kd_tensor *logits, kd_tensor **out)
{
    size_t count = 0;
    for (const char *at = r->wires->taps; *at; count++) {
        size_t n = strcspn(at, " ");
        out[count] = tap(model, tape, logits, at, n);
        at += n + (at[n] == ' ');
    }
    return count;
}

static kd_status ask_for_taps(const run *r, kd_model *model)
{
    kd_status st = KD_OK;
    for (const char *at = r->wires ? r->wires->taps : "stage2 pool"; *at && st == KD_OK;) {
        char path[40];
        size_t n = strcspn(at, " "), m = n - (at[n - 1] == '#' || at[n - 1] == '@');
        snprintf(path, sizeof path, "%.*s", (int)m, at);
        if (strcmp(path, "logits")) st = kd_model_tap(model, path);
        at += n + (at[n] == ' ');
    }
    return st;
}

static const float *weights_of(kd_model *model, const char *name)
{
    kd_param_info info = { .struct_size = sizeof info };
    return kd_model_find(model, name, &info) == KD_OK ? kd_tensor_f32(info.tensor) : NULL;
}

/* CAT-KD compares class maps: the classifier at every place of the map. */
static kd_tensor *class_map(kd_model *model, kd_tape *tape, kd_tensor *map)
{
    kd_param_info w = { .struct_size = sizeof w }, b = { .struct_size = sizeof b };
    if (kd_model_find(model, "fc.weight", &w) != KD_OK || kd_model_find(model, "fc.bias", &b) != KD_OK) return map;
    return kd_linear(tape, map, w.tensor, b.tensor);
}

static void take_shapes(kd_tensor *const *x, size_t count, kd_feature_shape *out)
{
    for (size_t i = 0; i < count; i++) {
        out[i].rank = kd_tensor_rank(x[i]) - 1;
        for (size_t a = 0; a < out[i].rank; a++) out[i].size[a] = kd_tensor_size(x[i], a + 1);
    }
}

/* The loss of a feature method, for the shapes that one batch shows. */
static kd_status make_features(run *r, kd_tensor *x)
{
    kd_feature_shape student[MAX_TAPS], teacher[MAX_TAPS];
    kd_tensor *s[MAX_TAPS], *t[MAX_TAPS];
    kd_tape *look = NULL;
    kd_loss_feature_desc d;
    kd_method_info info = { .struct_size = sizeof info };
    const float *bn_weight[MAX_TAPS], *bn_bias[MAX_TAPS];
    kd_status st;
    TRY(kd_method_find(r->method, &info));
    TRY(kd_loss_feature_desc_for(&d, sizeof d, info.method));
    TRY(kd_tape_create(&look, r->ctx, KD_TAPE_INFER));
    kd_tensor *logits = kd_model_forward(r->teacher, look, x);
    d.student_count = d.teacher_count = all_taps(r, r->teacher, look, logits, t);
    logits = kd_model_forward(r->student, look, x);
    all_taps(r, r->student, look, logits, s);
    if (is(r, "catkd")) s[0] = class_map(r->student, look, s[0]);
    TRY(kd_tape_status(look));
    take_shapes(s, d.student_count, student);
    take_shapes(t, d.teacher_count, teacher);
    d.student = student, d.teacher = teacher;
    d.seed = r->seed;
    d.classes = CLASSES;
    if (is(r, "crd")) d.samples = kd_dataset_count(r->data);
    if (is(r, "semckd")) d.samples = BATCH;
    if (is(r, "minilm2")) d.width = 4;
    if (r->wires->classifier) d.teacher_weight = weights_of(r->teacher, "fc.weight"), d.teacher_bias = weights_of(r->teacher, "fc.bias");
    if (is(r, "ofd")) {
        bn_weight[0] = weights_of(r->teacher, "stage1.1.bn2.weight"), bn_bias[0] = weights_of(r->teacher, "stage1.1.bn2.bias");
        bn_weight[1] = weights_of(r->teacher, "stage2.1.bn2.weight"), bn_bias[1] = weights_of(r->teacher, "stage2.1.bn2.bias");
        bn_weight[2] = weights_of(r->teacher, "stage3.1.bn2.weight"), bn_bias[2] = weights_of(r->teacher, "stage3.1.bn2.bias");
        d.teacher_bn_weight = bn_weight, d.teacher_bn_bias = bn_bias;
    }
    if (r->wires->stage == PARAPHRASER && !r->features) d.alpha = 0, d.beta = 1;   /* its first stage: the autoencoder of the teacher */
    else if (r->wires->stage == PARAPHRASER) d.alpha = 1, d.beta = 0;
    kd_loss_feature *made = NULL;
    TRY(kd_loss_feature_create(&made, r->ctx, &d));
    if (r->features) st = kd_model_copy(kd_loss_feature_adapters(made), kd_loss_feature_adapters(r->features));
    kd_loss_feature_free(r->features);
    r->features = made;
done:
    kd_tape_free(look);
    return st;
}

/* The feature term of a batch on the tape. */
static kd_tensor *feature_term(run *r, kd_tape *learn, kd_tape *look, kd_tensor *s, kd_tensor *t, kd_tensor *y, kd_tensor *indices)
{
    kd_tensor *student[MAX_TAPS], *teacher[MAX_TAPS];
    kd_feature_inputs in = { .struct_size = sizeof in, .student = student, .teacher = teacher };
    in.student_count = all_taps(r, r->student, learn, s, student);
    in.teacher_count = all_taps(r, r->teacher, look, t, teacher);
    if (is(r, "catkd")) student[0] = class_map(r->student, learn, student[0]);
    if (is(r, "crd")) in.indices = indices;
    (void)y;
    if (r->wires->logits) in.student_logits = s, in.teacher_logits = t;
    return kd_loss_feature_apply(r->features, learn, &in);
}

static kd_status optimizer(kd_optimizer **out, run *r, size_t steps, float lr)
{
    kd_optimizer_desc adam;
    kd_schedule_desc cosine;
    kd_status st;
    kd_optimizer_desc_init(&adam, sizeof adam);
    adam.method = KD_OPT_ADAM;
    adam.lr = lr;
    adam.max_grad_norm = 0;
    kd_schedule_desc_init(&cosine, sizeof cosine);
    cosine.kind = KD_SCHEDULE_COSINE;
    cosine.total_steps = steps;
    TRY(kd_optimizer_create(out, r->ctx, &adam));
    TRY(kd_optimizer_add(*out, r->student));
    if (r->head) TRY(kd_optimizer_add(*out, r->head));
    if (r->outputs && kd_loss_distill_adapters(r->outputs)) TRY(kd_optimizer_add(*out, kd_loss_distill_adapters(r->outputs)));
    if (r->features && kd_loss_feature_adapters(r->features)) TRY(kd_optimizer_add(*out, kd_loss_feature_adapters(r->features)));
    st = kd_optimizer_set_schedule(*out, &cosine);
done:
    return st;
}

/* The images moved by up to a pixel, all the same way: a stronger view. */
static kd_tensor *moved(kd_tape *tape, kd_tensor *x, kd_rng *rng)
{
    size_t dy = (size_t)kd_rng_below(rng, 3), dx = (size_t)kd_rng_below(rng, 3);
    kd_tensor *padded = kd_pad(tape, x, (size_t[]){ 0, 1, 1, 0 }, (size_t[]){ 0, 1, 1, 0 }, 0);
    return kd_slice(tape, kd_slice(tape, padded, 1, dy, dy + 8), 2, dx, dx + 8);
}

/* The loss of an output method on a batch. */
static kd_tensor *output_term(run *r, kd_tape *learn, kd_tape *look, kd_tensor *x, kd_tensor *s, kd_tensor *t, kd_tensor *y,
                              const uint32_t *items, kd_rng *rng)
{
    kd_distill_inputs in = { .struct_size = sizeof in, .student = s, .teacher = t, .labels = y };
    kd_tensor *more[1], *extra = NULL;
    size_t rows = kd_tensor_size(s, 0);
    if (is(r, "deit_soft") || is(r, "deit_hard"))
        in.student_second = kd_model_forward(r->head, learn, kd_model_tapped(r->student, learn, "pool"));
    if (is(r, "uskd"))
        in.student_second = kd_model_forward(r->head, learn, kd_global_avg_pool(learn, kd_model_tapped(r->student, learn, "stage2")));
    if (is(r, "mlkd")) {
        kd_tensor *strong = moved(learn, x, rng);
        in.student_second = kd_model_forward(r->student, learn, strong);
        in.teacher_second = kd_model_forward(r->teacher, look, strong);
        extra = kd_scale(learn, kd_cross_entropy(learn, in.student_second, y, -1, 0, KD_REDUCE_MEAN_ROWS), 0.1f, 0);
    }
    if (is(r, "multi_teacher")) more[0] = kd_model_forward(r->second_teacher, look, x), in.more_teachers = more, in.more_teacher_count = 1;
    if (is(r, "mutual") || is(r, "born_again")) in.teacher = kd_model_forward(r->other, look, x);
    if (is(r, "top_k")) {
        kd_tensor *values = kd_tape_tensor(learn, KD_F32, 2, (size_t[]){ rows, KEPT });
        in.teacher_classes = kd_tape_tensor(learn, KD_I32, 2, (size_t[]){ rows, KEPT });
        if (kd_tape_status(learn) == KD_OK && kd_tape_status(look) == KD_OK)
            largest_of_rows(kd_tensor_f32(t), rows, CLASSES, KEPT, kd_tensor_f32(values), kd_tensor_data(in.teacher_classes));
        in.teacher = values;
    }
    if (is(r, "pskd")) {
        in.teacher = kd_tape_tensor(learn, KD_F32, 2, (size_t[]){ rows, CLASSES });
        if (kd_tape_status(learn) == KD_OK)   /* each item comes once an epoch */
            outputs_before(r->table, items, kd_tensor_f32(s), rows, CLASSES, kd_tensor_f32(in.teacher));
    }
    kd_tensor *loss = kd_loss_distill_apply_inputs(r->outputs, learn, &in);
    return extra ? kd_add(learn, loss, extra) : loss;
}

/* Train the student: `steps` of outputs and features as the run says.  A step's milliseconds, the median. */
static kd_status train(run *r, size_t steps, int features_only, int second, double *step_ms)
{
    kd_optimizer *opt = NULL;
    kd_loader *batches = NULL;
    kd_tape *look = NULL, *learn = NULL;
    kd_tensor *x, *y, *t = NULL;
    double *times = malloc(steps * sizeof *times);
    kd_rng rng = kd_rng_make(r->seed + 77);
    kd_loader_desc order;
    kd_status st = KD_ERR_NOMEM;
    if (!times) goto done;
    kd_loader_desc_init(&order, sizeof order);
    order.batch = BATCH;
    order.scale = 1.0f / 16;
    order.seed = r->seed + (uint64_t)second;
    order.drop_last = 1;
    TRY(optimizer(&opt, r, steps, 3e-3f));
    TRY(kd_loader_create(&batches, r->ctx, r->data, &order));
    TRY(kd_tape_create(&look, r->ctx, KD_TAPE_INFER));
    TRY(kd_tape_create(&learn, r->ctx, KD_TAPE_TRAIN));
    for (size_t step = 0; step < steps;) {
        st = kd_loader_next(batches, &x, &y);
        if (st == KD_END) {
            if (r->outputs) TRY(kd_loss_distill_advance(r->outputs));
            if (r->features) TRY(kd_loss_feature_advance(r->features));
            continue;
        }
        if (st != KD_OK) goto done;
        double start = seconds();
        const uint32_t *items = kd_loader_indices(batches);
        if (r->teacher) t = kd_model_forward(r->teacher, look, x);
        kd_tensor *s = kd_model_forward(r->student, learn, x), *loss = NULL;
        if (!features_only && r->outputs) loss = output_term(r, learn, look, x, s, t, y, items, &rng);
        if (r->features) {
            kd_tensor *indices = kd_tape_tensor(learn, KD_I32, 1, (size_t[]){ kd_tensor_size(x, 0) });
            for (size_t i = 0; i < kd_tensor_size(x, 0) && kd_tape_status(learn) == KD_OK; i++)
                ((int32_t *)kd_tensor_data(indices))[i] = (int32_t)items[i];
            kd_tensor *term = feature_term(r, learn, look, s, t, y, indices);
            loss = loss ? kd_add(learn, loss, term) : term;
        }
        TRY(kd_backward(learn, loss));
        TRY(kd_optimizer_step(opt));
        kd_tape_reset(learn);
        kd_tape_reset(look);
        times[step++] = 1e3 * (seconds() - start);
    }
    if (step_ms) *step_ms = median(times, steps);
    st = KD_OK;
done:
    free(times);
    kd_tape_free(learn);
    kd_tape_free(look);
    kd_loader_free(batches);
    kd_optimizer_free(opt);
    return st;
}

/* Mutual learning: both students step by step, each with the other's outputs as teacher. */
static kd_status train_mutual(run *r, double *step_ms)
{
    run peer = *r;
    peer.student = r->other, peer.other = r->student;
    kd_status st = KD_OK;
    /* In turns of one epoch: the peer's outputs are constants for the other. */
    size_t epoch = kd_dataset_count(r->data) / BATCH;
    for (size_t done = 0; done < r->steps && st == KD_OK; done += epoch) {
        size_t n = r->steps - done < epoch ? r->steps - done : epoch;
        st = train(r, n, 0, (int)done, step_ms);
        if (st == KD_OK) st = train(&peer, n, 0, (int)done, NULL);
    }
    return st;
}

/* Percent right on the test images, as the method is used at test time. */
static kd_status accuracy(run *r, double *percent)
{
    kd_loader *batches = NULL;
    kd_tape *tape = NULL;
    kd_tensor *x, *y;
    size_t right = 0;
    kd_loader_desc order;
    kd_status st;
    kd_loader_desc_init(&order, sizeof order);
    order.batch = 120;
    order.shuffle = order.ahead = 0;
    order.scale = 1.0f / 16;
    TRY(kd_loader_create(&batches, r->ctx, r->test, &order));
    TRY(kd_tape_create(&tape, r->ctx, KD_TAPE_INFER));
    while ((st = kd_loader_next(batches, &x, &y)) == KD_OK) {
        kd_tensor *z = kd_model_forward(r->student, tape, x);
        if (r->head && !is(r, "uskd")) z = kd_add(tape, z, kd_model_forward(r->head, tape, kd_model_tapped(r->student, tape, "pool")));
        if (r->wires && r->wires->stage == ONLY) {
            kd_layer *projector = kd_layer_child(kd_model_root(kd_loss_feature_adapters(r->features)), "s0");
            kd_tensor *map = kd_layer_forward(projector, tape, kd_model_tapped(r->student, tape, "stage3"));
            z = class_map(r->teacher, tape, kd_global_avg_pool(tape, map));
        }
        TRY(kd_tape_status(tape));
        const float *logits = kd_tensor_f32(z);
        for (size_t i = 0; i < kd_tensor_size(x, 0); i++) {
            size_t best = 0;
            for (size_t c = 1; c < CLASSES; c++)
                if (logits[i * CLASSES + c] > logits[i * CLASSES + best]) best = c;
            right += (int32_t)best == ((const int32_t *)kd_tensor_data(y))[i];
        }
        kd_tape_reset(tape);
    }
    if (st == KD_END) st = KD_OK;
    *percent = 100.0 * (double)right / (double)kd_dataset_count(r->test);
done:
    kd_tape_free(tape);
    kd_loader_free(batches);
    return st;
}

static kd_status distill(run *r, const char *method, int soft_only)
{
    kd_loss_distill_desc how;
    kd_method_info info = { .struct_size = sizeof info };
    kd_status st = kd_method_find(method, &info);
    if (st != KD_OK) return st;
    if ((st = kd_loss_distill_desc_for(&how, sizeof how, info.method)) != KD_OK) return st;
    how.unlabelled_index = -1;
    if (!strcmp(method, "pskd")) how.beta = 30;   /* epochs */
    if (!strcmp(method, "uld")) how.hard_weight = 1, how.soft_weight = 1.5f;
    if (!strcmp(method, "label_smoothing")) how.ignore_index = -1, how.unlabelled_index = KD_LABEL_OFF;
    if (soft_only) how.hard_weight = 0;
    return kd_loss_distill_create(&r->outputs, r->ctx, &how);
}

static kd_status labels_alone(run *r)
{
    kd_loss_distill_desc how;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.hard_weight = 1, how.soft_weight = 0;
    how.unlabelled_index = -1;
    return kd_loss_distill_create(&r->outputs, r->ctx, &how);
}

static kd_status small_head(kd_model **out, kd_context *ctx, size_t in, uint64_t seed)
{
    return kd_zoo_mlp(out, ctx, (size_t[]){ in, CLASSES }, 2, KD_ACT_NONE, seed);
}

/* One method, one seed.  name "student alone": from the labels; a teacher's name is not asked here. */
static kd_status run_method(run *r, const wiring *w, int feature, double *percent, double *step_ms)
{
    kd_status st;
    kd_tensor *x = NULL;
    size_t quarter = r->steps / 4;
    r->wires = w;
    TRY(network(&r->student, r->ctx, 1, r->seed));
    TRY(ask_for_taps(r, r->student));
    TRY(ask_for_taps(r, r->teacher));
    if (is(r, "student alone")) {
        TRY(labels_alone(r));
        TRY(train(r, r->steps, 0, 0, step_ms));
    } else if (feature) {
        TRY(kd_tensor_create(&x, r->ctx, KD_F32, 4, (size_t[]){ BATCH, 8, 8, 1 }));
        TRY(make_features(r, x));
        if (w->stage != ONLY) TRY(labels_alone(r));
        if (w->stage == PARAPHRASER) {
            TRY(train(r, quarter, 1, 1, NULL));
            TRY(make_features(r, x));
        }
        TRY(train(r, w->stage == FIRST ? quarter : r->steps, w->stage == FIRST, 0, step_ms));
        if (w->stage == FIRST) {
            kd_loss_feature_free(r->features);
            r->features = NULL;
            TRY(train(r, r->steps - quarter, 0, 1, NULL));
        }
    } else {
        if (is(r, "deit_soft") || is(r, "deit_hard")) TRY(small_head(&r->head, r->ctx, WIDTH, r->seed + 5));
        if (is(r, "uskd")) TRY(small_head(&r->head, r->ctx, 16, r->seed + 5));
        if (is(r, "mutual") || is(r, "born_again")) TRY(network(&r->other, r->ctx, 1, r->seed + 9));
        if (is(r, "born_again")) {
            run first = *r;
            first.method = "kd";
            first.student = r->other, first.other = NULL;
            TRY(distill(&first, "kd", 0));
            st = train(&first, r->steps, 0, 3, NULL);
            kd_loss_distill_free(first.outputs);
            if (st != KD_OK) goto done;
            kd_model_freeze(r->other, 1);
        }
        TRY(distill(r, r->method, 0));
        TRY(is(r, "mutual") ? train_mutual(r, step_ms) : train(r, r->steps, 0, 0, step_ms));
    }
    TRY(accuracy(r, percent));
done:
    kd_tensor_free(x);
    kd_loss_distill_free(r->outputs);
    kd_loss_feature_free(r->features);
    kd_model_free(r->head);
    kd_model_free(r->other);
    kd_model_free(r->student);
    r->outputs = NULL, r->features = NULL, r->head = r->other = r->student = NULL;
    return st;
}

/* ---- a seed -------------------------------------------------------------------------------------------------------------------- */
static kd_status teach(kd_model **out, const kd_dataset *data, const kd_dataset *test, uint64_t seed, double *percent)
{
    run r = { .data = data, .test = test, .steps = 1380, .seed = seed, .method = "teacher" };
    kd_status st;
    TRY(network(&r.student, NULL, 2, seed));
    TRY(labels_alone(&r));
    TRY(train(&r, r.steps, 0, 0, NULL));
    TRY(accuracy(&r, percent));
    kd_model_freeze(r.student, 1);
    *out = r.student;
    r.student = NULL;
done:
    kd_loss_distill_free(r.outputs);
    kd_model_free(r.student);
    return st;
}

static kd_status experiment(size_t seed, size_t steps, const kd_dataset *images, result *rows, size_t count, double *teacher_accuracy,
                            progress *bar)
{
    kd_dataset *all = NULL, *partly = NULL, *test = NULL;
    kd_model *teacher = NULL, *second = NULL;
    size_t n = kd_dataset_count(images), trained = n - TEST;
    uint32_t *order = malloc(n * sizeof *order);
    float *table = malloc(trained * CLASSES * sizeof *table);
    kd_rng root = kd_rng_make(1 + seed), split = kd_rng_split(&root, 1);
    double unused;
    kd_status st = KD_ERR_NOMEM;
    if (!order || !table) goto done;
    for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)kd_rng_below(&split, i);
        uint32_t swap = order[i - 1];
        order[i - 1] = order[j], order[j] = swap;
    }
    TRY(kd_dataset_subset(&all, images, order, trained));
    TRY(kd_dataset_subset(&partly, images, order, trained));
    TRY(kd_dataset_subset(&test, images, order + trained, TEST));
    for (size_t i = LABELS; i < trained; i++) kd_dataset_labels(partly)[i] = -1;
    TRY(teach(&teacher, all, test, 1000 + seed, teacher_accuracy));
    TRY(teach(&second, all, test, 2000 + seed, &unused));
    for (size_t i = 0; i < count; i++) {
        memory m = { 0, 0 };
        kd_context_desc cd;
        run r = { .data = partly, .test = test, .steps = steps, .seed = 3000 + seed, .teacher = teacher, .second_teacher = second,
                  .method = rows[i].name, .table = table };
        kd_method_info info = { .struct_size = sizeof info };
        for (size_t k = 0; k < trained * CLASSES; k++) table[k] = NAN;
        kd_context_desc_init(&cd, sizeof cd);
        cd.allocator = (kd_allocator){ counted_alloc, counted_free, &m };
        cd.threads = 1;   /* the networks are small */
        TRY(kd_context_create(&r.ctx, &cd));
        int feature = kd_method_find(rows[i].name, &info) == KD_OK && info.kind == KD_METHOD_FEATURE;
        if (feature && !rows[i].wires) st = KD_ERR_ARG;
        else st = run_method(&r, rows[i].wires, feature, &rows[i].accuracy[seed], &rows[i].step_ms[seed]);
        if (st != KD_OK)
            snprintf(rows[i].problem, sizeof rows[i].problem, "%s",
                     feature && !rows[i].wires ? "no wiring in examples/methods.c" : kd_last_error());
        rows[i].bytes[seed] = (double)m.peak;
        kd_context_free(r.ctx);
        progress_add(bar, 1, rows[i].name);
    }
    st = KD_OK;
done:
    kd_model_free(teacher);
    kd_model_free(second);
    kd_dataset_free(test);
    kd_dataset_free(partly);
    kd_dataset_free(all);
    free(table);
    free(order);
    return st;
}

/* ---- the table ---------------------------------------------------------------------------------------------------------------------- */
static const char *cpu(char out[128])
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];
    snprintf(out, 128, "unknown CPU");
    while (f && fgets(line, sizeof line, f)) {
        char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !value) continue;
        value[strcspn(value, "\n")] = 0;
        snprintf(out, 128, "%.120s", value + 2);
        break;
    }
    if (f) fclose(f);
    return out;
}

static void table(FILE *f, const result *rows, size_t count, const double *teacher, size_t seeds, size_t steps)
{
    char date[32], name[128];
    time_t now = time(NULL);
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
    fprintf(f, "# Every method on few labels\n\n"
            "Made by `make methods`, %s, %s (%s), libkd %d.%d.%d.  A residual network with two blocks a stage, trained on every label of\n"
            "the embedded digits (%.1f %% right on %d test images), teaches one with one block a stage that has %d labels and all %d\n"
            "training images; Adam, %zu steps of %d, %zu seeds (split, weights, order).  Weights are those of each method's paper; where\n"
            "a note stands, it says what differs.  The difference is to the student alone over the same seeds, +- one standard error;\n"
            "a step's time is the median on one thread, memory is the peak beyond the student alone, the teacher's pass included.\n\n"
            "| method | right, %% | difference | a step, ms | more memory, kB | notes |\n|---|---|---|---|---|---|\n",
            date, cpu(name), kd_context_isa(NULL), KD_VERSION_MAJOR, KD_VERSION_MINOR, KD_VERSION_PATCH, mean(teacher, seeds), TEST,
            LABELS, 1797 - TEST, steps, BATCH, seeds);
    for (size_t i = 0; i < count; i++) {
        const result *r = &rows[i];
        const char *note = note_of(r->name, r->wires);
        if (r->problem[0]) {
            fprintf(f, "| %s | did not run | | | | %s |\n", r->name, r->problem);
            continue;
        }
        double error, gain = paired_difference(r->accuracy, rows[0].accuracy, seeds, &error);
        fprintf(f, "| %s%s%s%s%s | %.1f +- %.1f | ", i ? "[" : "", r->name, i ? "](" : "", i ? r->name : "", i ? ".md)" : "",
                mean(r->accuracy, seeds), deviation(r->accuracy, seeds) / sqrt((double)seeds));
        if (i) fprintf(f, "%+.1f +- %.1f%s", gain, error, gain < -2 * error && gain < 0 ? " (below)" : "");
        fprintf(f, " | %.2f | ", mean(r->step_ms, seeds));
        if (i) fprintf(f, "%.0f", (mean(r->bytes, seeds) - mean(rows[0].bytes, seeds)) / 1000);
        fprintf(f, " | %s |\n", note ? note : "");
    }
}

int main(int argc, char **argv)
{
    size_t seeds = 5, steps = 690, count = 0;
    const char *only = NULL, *out = NULL;
    double teacher[MAX_SEEDS];
    static result rows[MAX_ROWS];
    kd_dataset *images = NULL;
    progress bar;
    kd_status st;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--seeds")) seeds = (size_t)strtoul(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--steps")) steps = (size_t)strtoul(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--only")) only = argv[i + 1];
        else if (!strcmp(argv[i], "--out")) out = argv[i + 1];
        else seeds = 0;
    }
    if (argc % 2 == 0 || seeds < 1 || seeds > MAX_SEEDS || steps < 8) {
        fprintf(stderr, "usage: methods [--seeds 1..%d] [--steps N] [--only name,name] [--out FILE]\n", MAX_SEEDS);
        return 2;
    }
    snprintf(rows[count++].name, sizeof rows[0].name, "student alone");
    for (size_t i = 0; i < kd_method_count() && count < MAX_ROWS; i++) {
        kd_method_info info = { .struct_size = sizeof info };
        TRY(kd_method_at(i, &info));
        size_t n = strlen(info.name);
        const char *at = only;
        while (at && !((at == only || at[-1] == ',') && !strncmp(at, info.name, n) && (at[n] == ',' || !at[n])))
            at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL;
        if (only && !at) continue;
        snprintf(rows[count].name, sizeof rows[count].name, "%s", info.name);
        for (size_t w = 0; info.kind == KD_METHOD_FEATURE && w < sizeof wirings / sizeof *wirings; w++)
            if (!strcmp(wirings[w].name, info.name)) rows[count].wires = &wirings[w];
        count++;
    }
    TRY(kd_dataset_open_idx(&images, NULL, "examples/data/digits-images.idx", "examples/data/digits-labels.idx"));
    progress_begin(&bar, "methods", seeds * count);
    for (size_t seed = 0; seed < seeds; seed++) TRY(experiment(seed, steps, images, rows, count, &teacher[seed], &bar));
    progress_end(&bar);
    table(stdout, rows, count, teacher, seeds, steps);
    if (out) {
        FILE *f = fopen(out, "w");
        if (f) table(f, rows, count, teacher, seeds, steps);
        if (!f || fclose(f)) {
            fprintf(stderr, "%s: %s\n", out, strerror(errno));
            st = KD_ERR_IO;
        }
    }
done:
    if (st != KD_OK) fprintf(stderr, "methods: %s: %s\n", kd_status_name(st), kd_last_error());
    kd_dataset_free(images);
    return st != KD_OK;
}
