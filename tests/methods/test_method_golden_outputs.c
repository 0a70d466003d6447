/* test_method_golden_outputs.c - every method on outputs beside its text in PyTorch: the soft term and the gradients of each golden line of
 * tests/golden/methods_outputs.txt, and the defaults that kd_loss_distill_desc_for gives.
 * SPDX-License-Identifier: MIT
 *
 * tests/tools/methods_torch_outputs.py is the text, gen_methods_golden.py makes the lines; tolerances: golden_lines.h.  A method of
 * methods.def without lines fails. */
#include "golden_lines.h"

enum { S, W, T, V, Y, TEACHERS = 10, CLASSES = 20 };   /* streams, as in gen_methods_golden.py */

static const struct { const char *name; uint32_t method; } methods[] = {
#define DISTILL(id, name, source) { name, KD_DISTILL_##id },
#define FEATURE(id, name, source)
#include "distill/methods.def"
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

/* The value of the name under `key`, or `otherwise`. */
typedef struct word { const char *name; uint32_t value; } word;
static uint32_t named(const golden_line *l, const char *key, const word *words, uint32_t otherwise)
{
    const char *t = golden_text(l, key);
    for (; t && words->name; words++)
        if (!strcmp(words->name, t)) return words->value;
    CHECK_MSG(!t, "line %zu: %s=%s is not known", l->number, key, t);
    return otherwise;
}
static const word directions[] = { { "forward", KD_DIRECTION_FORWARD }, { "reverse", KD_DIRECTION_REVERSE }, { "js", KD_DIRECTION_JS },
                                   { 0 } };
static const word forms[] = { { "logits", KD_TEACHER_LOGITS }, { "log_probs", KD_TEACHER_LOG_PROBS },
                              { "probs", KD_TEACHER_PROBS }, { 0 } };
static const word several[] = { { "mean_logits", KD_TEACHERS_MEAN_LOGITS }, { "mean_probs", KD_TEACHERS_MEAN_PROBS },
                                { "best", KD_TEACHERS_BEST }, { 0 } };

/* A batch of a line; what it does not use stays NULL. */
typedef struct batch {
    size_t rows, classes, width, k, more;
    float *s, *w, *t, *v, *gs, *gw, *others[8];
    int32_t *y, *teacher_classes;
} batch;

static void make(const golden_line *l, batch *b)
{
    const uint64_t seed = golden_size(l, "seed", 0);
    const double scale = golden_number(l, "scale", 1);
    memset(b, 0, sizeof *b);
    b->rows = golden_size(l, "rows", 1), b->classes = golden_size(l, "classes", 1);
    b->k = golden_size(l, "k", 0);
    b->width = golden_size(l, "teacher_width", b->k ? b->k : b->classes);
    const size_t n = b->rows * b->classes;
    b->s = golden_floats(seed, S, n, scale);
    b->gs = calloc(n, sizeof *b->gs);
    if (golden_size(l, "second", 0)) b->w = golden_floats(seed, W, n, scale), b->gw = calloc(n, sizeof *b->gw);
    if (golden_size(l, "teacher_second", 0)) b->v = golden_floats(seed, V, n, scale);
    if (golden_size(l, "teacher", 1)) b->t = golden_floats(seed, T, b->rows * b->width, scale);
    if (b->t && golden_text(l, "teacher_form") && !strcmp(golden_text(l, "teacher_form"), "probs")) {
        double part = 0.5;   /* of 1, so that k of them stay below it */
        for (size_t k = 1; k < b->k; k *= 2) part /= 2;
        for (size_t i = 0; i < b->rows * b->k; i++) b->t[i] = (float)((golden_uniform(seed, T, i) + 1 + 0x1p-23) * part);
    }
    if (golden_size(l, "labels", 0)) b->y = golden_integers(seed, Y, b->rows, b->classes);
    b->more = golden_size(l, "teacher_count", 1) - 1;
    for (size_t j = 0; j < b->more; j++) b->others[j] = golden_floats(seed, TEACHERS + j + 1, n, scale);
    if (b->k) {
        int32_t *first = golden_integers(seed, CLASSES, b->rows, b->classes);
        b->teacher_classes = malloc(b->rows * b->k * sizeof *first);
        for (size_t i = 0; i < b->rows * b->k; i++)
            b->teacher_classes[i] = (int32_t)(((size_t)first[i / b->k] + i % b->k) % b->classes);
        free(first);
    }
}

static void discard(batch *b)
{
    free(b->s), free(b->w), free(b->t), free(b->v), free(b->gs), free(b->gw), free(b->y), free(b->teacher_classes);
    for (size_t j = 0; j < b->more; j++) free(b->others[j]);
}

static void describe(const golden_line *l, const batch *b, kd_loss_distill_desc *d, float weights[8])
{
    d->hard_weight = 0, d->soft_weight = 1;
    d->temperature = (float)golden_number(l, "T", 1);
    d->alpha = (float)golden_number(l, "alpha", 0), d->beta = (float)golden_number(l, "beta", 0);
    d->gamma = (float)golden_number(l, "gamma", 0);
    d->js_beta = (float)golden_number(l, "js_beta", d->method == KD_DISTILL_JS ? (double)d->beta : 0.5);
    d->form = (uint32_t)golden_size(l, "form", 0);
    d->direction = named(l, "direction", directions, d->direction);
    d->teacher_form = named(l, "teacher_form", forms, KD_TEACHER_LOGITS);
    d->teachers = named(l, "teachers", several, d->teachers);
    d->temperature_squared = (uint32_t)golden_size(l, "temperature_squared", 1);
    d->standardize = (uint32_t)golden_size(l, "standardize", d->standardize);
    d->warmup = golden_size(l, "warmup", 0);
    char *t = (char *)(uintptr_t)golden_text(l, "weights");
    for (size_t j = 0; t && j <= b->more; j++, t += *t == ',') weights[j] = strtof(t, &t);
    if (golden_text(l, "weights")) d->teacher_weights = weights, d->teacher_weight_count = b->more + 1;
}

/* On plain pointers. */
static void run_eval(const golden_line *l, const kd_loss_distill *loss, const batch *b)
{
    size_t which = 0;
    kd_distill_terms terms = { .struct_size = sizeof terms };
    const kd_distill_batch in = {
        .struct_size = sizeof in, .rows = b->rows, .classes = b->classes, .student = b->s, .teacher = b->t, .labels = b->y, .grad = b->gs,
        .student_second = b->w, .grad_second = b->gw, .teacher_second = b->v,
        .more_teachers = (const float *const *)b->others, .more_teacher_count = b->more,
        .teacher_width = b->width == b->classes && !b->k ? 0 : b->width, .teacher_classes = b->teacher_classes,
    };
    if (!CHECK_MSG(kd_loss_distill_eval(loss, &in, &terms) == KD_OK, "line %zu, %s: %s", l->number, l->words[0], kd_last_error())) return;
    golden_value(l, terms.soft);
    CHECK_MSG(terms.loss == terms.soft && terms.soft_rows == b->rows, "line %zu, %s: loss %.9g, soft %.9g, %zu rows", l->number,
              l->words[0], terms.loss, terms.soft, terms.soft_rows);
    if (golden_text(l, "grad.s")) {
        golden_grad(l, "s", which++, b->gs, b->rows * b->classes);
    } else {   /* the term is not the student's */
        for (size_t i = 0; i < b->rows * b->classes; i++)
            if (!CHECK_MSG(b->gs[i] == 0, "line %zu, %s: gradient %g where there is none", l->number, l->words[0], (double)b->gs[i])) break;
    }
    if (golden_text(l, "grad.w")) golden_grad(l, "w", which, b->gw, b->rows * b->classes);
}

/* On a tape, with the method's own parameter. */
static void run_theta(const golden_line *l, const kd_loss_distill *loss, kd_model *own, const batch *b)
{
    kd_model_zero_grads(own);   /* the plain form added its own */
    const size_t shape[] = { b->rows, b->classes };
    size_t count = 0;
    kd_optimizer *opt = NULL;
    kd_tape *tape = NULL;
    kd_tensor *s = NULL, *t = NULL;
    if (!CHECK_OK(kd_optimizer_create(&opt, NULL, NULL)) || !CHECK_OK(kd_optimizer_add(opt, own)) ||
        !CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN)))
        goto out;
    if (!CHECK_OK(kd_tensor_create(&s, NULL, KD_F32, 2, shape)) || !CHECK_OK(kd_tensor_create(&t, NULL, KD_F32, 2, shape))) goto out;
    memcpy(kd_tensor_f32(s), b->s, b->rows * b->classes * sizeof *b->s);
    memcpy(kd_tensor_f32(t), b->t, b->rows * b->classes * sizeof *b->t);
    kd_tensor *value = kd_loss_distill_apply(loss, tape, s, t, NULL);
    if (CHECK_MSG(kd_backward(tape, value) == KD_OK, "line %zu, %s: %s", l->number, l->words[0], kd_last_error()))
        golden_grad(l, "theta", 1, kd_model_grads(own, &count), 1);
out:
    kd_tensor_free(s), kd_tensor_free(t);
    kd_tape_free(tape);
    kd_optimizer_free(opt);
}

static void run_line(const golden_line *l, uint32_t method)
{
    batch b;
    float weights[8] = { 0 };
    kd_loss_distill_desc d;
    kd_loss_distill *loss = NULL;
    make(l, &b);
    if (CHECK_OK(kd_loss_distill_desc_for(&d, sizeof d, method))) {
        describe(l, &b, &d, weights);
        if (CHECK_MSG(kd_loss_distill_create(&loss, NULL, &d) == KD_OK, "line %zu, %s: %s", l->number, l->words[0], kd_last_error())) {
            kd_model *own = kd_loss_distill_adapters(loss);
            size_t count = 0;
            for (size_t i = golden_size(l, "advances", 0); i; i--) CHECK_OK(kd_loss_distill_advance(loss));
            if (own && golden_text(l, "theta")) {
                kd_model_weights(own, &count)[0] = (float)golden_number(l, "theta", 0);
                kd_model_touch(own);
            }
            run_eval(l, loss, &b);
            if (golden_text(l, "grad.theta") && CHECK_MSG(own != NULL, "%s has no parameter of its own", l->words[0]))
                run_theta(l, loss, own, &b);
        }
    }
    kd_loss_distill_free(loss);
    discard(&b);
}

static void defaults(const golden_line *l, uint32_t method)
{
    kd_loss_distill_desc d;
    if (!CHECK_OK(kd_loss_distill_desc_for(&d, sizeof d, method))) return;
    const struct { const char *key; float got; } numbers[] = {
        { "T", d.temperature }, { "hard", d.hard_weight }, { "soft", d.soft_weight }, { "alpha", d.alpha }, { "beta", d.beta },
        { "gamma", d.gamma }, { "warmup", (float)d.warmup }, { "form", (float)d.form } };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const float want = (float)golden_number(l, numbers[i].key, (double)numbers[i].got);
        CHECK_MSG(numbers[i].got == want, "line %zu, %s: default %s is %g, want %g", l->number, l->words[1], numbers[i].key,
                  (double)numbers[i].got, (double)want);
    }
    CHECK_MSG(d.method == method && d.temperature_squared == 1, "%s: method %u", l->words[1], (unsigned)d.method);
}

TEST(outputs_as_in_pytorch)
{
    size_t n, vectors[METHODS] = { 0 }, known[METHODS] = { 0 };
    char *text = (char *)kdtest_slurp(kdtest_repo("tests/golden/methods_outputs.txt"), &n);
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
        CHECK_MSG(vectors[m] >= 6 && known[m] == 1, "%s: %zu golden lines, %zu of defaults", methods[m].name, vectors[m], known[m]);
    free(text);
}
