/* test_method_golden_features.c - every method between features beside its text in PyTorch: value, gradients of the student's taps, its
 * logits and the adapters of each golden line of tests/golden/methods_features.txt, and the defaults of kd_loss_feature_desc_for.
 * SPDX-License-Identifier: MIT
 *
 * tests/tools/methods_torch_features.py is the text, gen_methods_golden_features.py makes the lines and says what its keys are; tolerances:
 * golden_lines.h.  A method of methods.def without lines fails. */
#include "distill/feature.h"
#include "golden_lines.h"

enum { STUDENT = 1, TEACHER = 101, LOGITS = 200, TEACHER_LOGITS, HEAD = 203, HEAD_BIAS, MASK, PARAMETERS, MEMORIES, INDICES = 209,
       BN_WEIGHT, BN_BIAS = 230, TAPS = 8 };

static const struct { const char *name; uint32_t method; } methods[] = {
#define METHOD(id, name, source)
#define DISTILL(id, name, source)
#define FEATURE(id, name, source) { name, KD_FEATURE_##id },
#include "distill/methods.def"
#undef METHOD
#undef DISTILL
#undef FEATURE
};
enum { METHODS = sizeof methods / sizeof *methods };

static size_t find(const char *name)
{
    size_t i = 0;
    while (i < METHODS && strcmp(methods[i].name, name)) i++;
    return i;
}

static size_t elements(const kd_feature_shape *s)
{
    size_t n = 1;
    for (size_t a = 0; a < s->rank; a++) n *= s->size[a];
    return n;
}

/* "8x8x4/4x4x6" */
static size_t shapes(const char *t, kd_feature_shape s[TAPS])
{
    size_t count = 0;
    for (char *end; t && count < TAPS; t = *end == '/' ? end + 1 : NULL, count++) {
        memset(&s[count], 0, sizeof *s);
        for (end = (char *)(uintptr_t)t;; end++) {
            s[count].size[s[count].rank++] = (size_t)strtoull(end, &end, 10);
            if (*end != 'x' || s[count].rank == 4) break;
        }
    }
    return count;
}

/* What a line's batch is made of. */
typedef struct batch {
    uint64_t seed;
    size_t rows, classes, students, teachers, tokens;
    kd_feature_shape s_shape[TAPS], t_shape[TAPS];
    float *s[TAPS], *t[TAPS], *grad[TAPS], *bn_weight[TAPS], *bn_bias[TAPS];
    float *logits, *teacher_logits, *grad_logits, *head, *head_bias, *mask;
    int32_t *indices;
} batch;

static float *make_mask(const golden_line *l, const batch *b)
{
    const char *kind = golden_text(l, "mask");
    if (!kind) return NULL;
    const size_t n = b->rows * b->tokens;
    float *mask = malloc(n * sizeof *mask);
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(kind, "prefix")) mask[i] = (float)(i % b->tokens < 1 + golden_bits(b->seed, MASK, i / b->tokens) % b->tokens);
        else if (!strcmp(kind, "bits")) mask[i] = (float)(golden_bits(b->seed, MASK, i) % 2);
        else mask[i] = (float)((golden_uniform(b->seed, MASK, i) + 1) / 2);
    }
    return mask;
}

static void make(const golden_line *l, batch *b)
{
    const double scale = golden_number(l, "scale", 1);
    memset(b, 0, sizeof *b);
    b->seed = golden_size(l, "seed", 0), b->rows = golden_size(l, "n", 1);
    b->students = shapes(golden_text(l, "s"), b->s_shape), b->teachers = shapes(golden_text(l, "t"), b->t_shape);
    b->tokens = b->s_shape->rank == 1 ? 1 : b->s_shape->size[b->s_shape->rank - 2];
    for (size_t i = 0; i < b->students; i++) {
        const size_t n = b->rows * elements(&b->s_shape[i]);
        b->s[i] = golden_floats(b->seed, STUDENT + i, n, scale);
        b->grad[i] = malloc(n * sizeof(float));
        memset(b->grad[i], 0xff, n * sizeof(float));
    }
    for (size_t i = 0; i < b->teachers; i++) b->t[i] = golden_floats(b->seed, TEACHER + i, b->rows * elements(&b->t_shape[i]), scale);
    const size_t logits = golden_size(l, "logits", 0);
    b->classes = golden_size(l, "classes", logits);
    if (logits) {
        b->logits = golden_floats(b->seed, LOGITS, b->rows * logits, scale);
        b->teacher_logits = golden_floats(b->seed, TEACHER_LOGITS, b->rows * logits, scale);
        b->grad_logits = calloc(b->rows * logits, sizeof(float));
    }
    const kd_feature_shape *last = &b->t_shape[b->teachers - 1];
    if (golden_size(l, "head", 0)) {
        b->head = golden_floats(b->seed, HEAD, last->size[last->rank - 1] * b->classes, 1);
        b->head_bias = golden_floats(b->seed, HEAD_BIAS, b->classes, 1);
    }
    for (size_t i = 0; golden_size(l, "bn", 0) && i < b->teachers; i++) {
        const size_t c = b->t_shape[i].size[b->t_shape[i].rank - 1];
        b->bn_weight[i] = golden_floats(b->seed, BN_WEIGHT + i, c, 1), b->bn_bias[i] = golden_floats(b->seed, BN_BIAS + i, c, 1);
    }
    b->mask = make_mask(l, b);
    if (golden_size(l, "indices", 0)) {
        const size_t samples = golden_size(l, "samples", 1);
        b->indices = malloc(b->rows * sizeof *b->indices);
        for (size_t i = 0; i < b->rows; i++)
            b->indices[i] = (int32_t)((golden_bits(b->seed, INDICES, 0) % samples + i) % samples);
    }
}

static void discard(batch *b)
{
    for (size_t i = 0; i < TAPS; i++) free(b->s[i]), free(b->t[i]), free(b->grad[i]), free(b->bn_weight[i]), free(b->bn_bias[i]);
    free(b->logits), free(b->teacher_logits), free(b->grad_logits), free(b->head), free(b->head_bias), free(b->mask), free(b->indices);
}

static void describe(const golden_line *l, const batch *b, kd_loss_feature_desc *d)
{
    d->weight = 1, d->warmup = 0, d->adapters_external = 1;
    d->form = (uint32_t)golden_size(l, "form", 0);
    d->alpha = (float)golden_number(l, "alpha", 0), d->beta = (float)golden_number(l, "beta", 0);
    d->gamma = (float)golden_number(l, "gamma", 0), d->temperature = (float)golden_number(l, "T", 1);
    d->width = golden_size(l, "width", 0), d->samples = golden_size(l, "samples", 0), d->negatives = d->samples;
    d->student = b->s_shape, d->student_count = b->students, d->teacher = b->t_shape, d->teacher_count = b->teachers;
    d->classes = b->classes, d->teacher_weight = b->head, d->teacher_bias = b->head_bias;
    if (golden_size(l, "bn", 0))
        d->teacher_bn_weight = (const float *const *)b->bn_weight, d->teacher_bn_bias = (const float *const *)b->bn_bias;
}

/* All parameters from one stream, in their order; CRD's memories from another. */
static size_t fill(const golden_line *l, kd_loss_feature *loss)
{
    kd_model *m = kd_loss_feature_adapters(loss);
    const uint64_t seed = golden_size(l, "seed", 0);
    size_t parameters = 0;
    for (size_t i = 0; m && i < kd_model_parameter_count(m); i++) {
        kd_param_info p = { .struct_size = sizeof p };
        if (!CHECK_OK(kd_model_parameter_at(m, i, &p))) break;
        float *v = kd_tensor_f32(p.tensor);
        const size_t n = kd_tensor_count(p.tensor);
        if (!(p.kind & KD_PARAM_BUFFER)) {
            for (size_t k = 0; k < n; k++) v[k] = (float)(golden_uniform(seed, PARAMETERS, parameters + k) / 2);
            parameters += n;
        }
    }
    if (m) kd_model_touch(m);
    for (size_t k = 0; golden_text(l, "indices") && k < loss->state_floats; k++)   /* the student's first */
        loss->state[k] = (float)golden_uniform(seed, MEMORIES, k);
    return parameters;
}

static void check_adapters(const golden_line *l, kd_model *m, size_t floats, size_t which)
{
    float *grad = malloc(floats * sizeof *grad);
    size_t at = 0;
    for (size_t i = 0; i < kd_model_parameter_count(m); i++) {
        kd_param_info p = { .struct_size = sizeof p };
        if (!CHECK_OK(kd_model_parameter_at(m, i, &p)) || p.kind & KD_PARAM_BUFFER) continue;
        memcpy(grad + at, p.grad, kd_tensor_count(p.tensor) * sizeof *grad);
        at += kd_tensor_count(p.tensor);
    }
    golden_grad(l, "adapters", which, grad, floats);
    free(grad);
}

static void run(const golden_line *l, kd_loss_feature *loss, batch *b)
{
    kd_model *adapters = kd_loss_feature_adapters(loss);
    const size_t floats = fill(l, loss);
    double value = 0;
    if (!CHECK_MSG(floats == golden_size(l, "floats", 0), "line %zu, %s: the adapters have %zu numbers, want %zu", l->number, l->words[0],
                   floats, golden_size(l, "floats", 0)))
        return;
    const kd_feature_batch in = {
        .struct_size = sizeof in, .rows = b->rows, .student = (const float *const *)b->s, .teacher = (const float *const *)b->t,
        .grad = b->grad, .indices = b->indices, .mask = b->mask, .student_logits = b->logits, .teacher_logits = b->teacher_logits,
        .grad_logits = b->grad_logits, .train = 1,
    };
    if (!CHECK_MSG(kd_loss_feature_eval(loss, &in, &value) == KD_OK, "line %zu, %s: %s", l->number, l->words[0], kd_last_error())) return;
    golden_value(l, value);
    size_t which = 0;
    for (; which < b->students; which++) {
        char name[16];
        snprintf(name, sizeof name, "s%zu", which);
        golden_grad(l, name, which, b->grad[which], b->rows * elements(&b->s_shape[which]));
    }
    if (b->logits) golden_grad(l, "logits", which++, b->grad_logits, b->rows * golden_size(l, "logits", 0));
    if (floats) check_adapters(l, adapters, floats, which);
}

static void run_line(const golden_line *l, uint32_t method)
{
    batch b;
    kd_loss_feature_desc d;
    kd_loss_feature *loss = NULL;
    make(l, &b);
    if (CHECK_OK(kd_loss_feature_desc_for(&d, sizeof d, method))) {
        describe(l, &b, &d);
        if (CHECK_MSG(kd_loss_feature_create(&loss, NULL, &d) == KD_OK, "line %zu, %s: %s", l->number, l->words[0], kd_last_error()))
            run(l, loss, &b);
    }
    kd_loss_feature_free(loss);
    discard(&b);
}

static void defaults(const golden_line *l, uint32_t method)
{
    kd_loss_feature_desc d;
    if (!CHECK_OK(kd_loss_feature_desc_for(&d, sizeof d, method))) return;
    const struct { const char *key; float got; } numbers[] = {
        { "weight", d.weight }, { "alpha", d.alpha }, { "beta", d.beta }, { "gamma", d.gamma }, { "T", d.temperature },
        { "warmup", (float)d.warmup }, { "form", (float)d.form } };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const float want = (float)golden_number(l, numbers[i].key, 0);
        CHECK_MSG(numbers[i].got == want, "line %zu, %s: default %s is %.9g, want %.9g", l->number, l->words[1], numbers[i].key,
                  (double)numbers[i].got, (double)want);
    }
    CHECK_MSG(d.method == method, "%s: method %u", l->words[1], (unsigned)d.method);
}

TEST(features_as_in_pytorch)
{
    size_t n, vectors[METHODS] = { 0 }, known[METHODS] = { 0 };
    char *text = (char *)kdtest_slurp(kdtest_repo("tests/golden/methods_features.txt"), &n);
    if (!text) return;
    text = realloc(text, n + 1);
    text[n] = 0;
    const char *at = text;
    golden_line l = { .number = 0 };
    while (golden_next(&at, &l)) {
        const int is_default = !strcmp(l.words[0], "default");
        const size_t m = find(l.words[is_default]);
        if (m == METHODS) continue;   /* not in this build's list */
        if (is_default)
            defaults(&l, methods[m].method), known[m]++;
        else
            run_line(&l, methods[m].method), vectors[m]++;
    }
    for (size_t m = 0; m < METHODS; m++)
        CHECK_MSG(vectors[m] >= 5 && known[m] == 1, "%s: %zu golden lines, %zu of defaults", methods[m].name, vectors[m], known[m]);
    free(text);
}
