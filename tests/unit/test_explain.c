/* test_explain.c - kd_loss_explain, kd_loss_feature_explain: the numbers are those of the loss, each mistake brings its warning,
 * and a sound
 * batch brings none.
 * SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>
#include "kdtest.h"
#include "kdtest_tools.h"

enum { ROWS = 32, CLASSES = 10, CAP = 8192 };

/* A sound batch: a teacher that is right in most rows, a student that is not yet. */
typedef struct batch {
    float   s[ROWS * CLASSES], t[ROWS * CLASSES], weights[ROWS];
    int32_t y[ROWS];
    kd_tensor *student, *teacher, *labels, *row_weights;
    kd_distill_inputs in;
    kd_loss_distill_desc desc;
    const kd_tape *student_tape, *teacher_tape;
    char text[CAP];
} batch;

static kd_tensor *wrap(kd_dtype dtype, size_t rank, const size_t *shape, void *data)
{
    kd_tensor *x = NULL;
    CHECK_OK(kd_tensor_wrap(&x, NULL, dtype, rank, shape, NULL, data));
    return x;
}

static void begin(batch *b, uint32_t method)
{
    kdtest_rand r = { 11 };
    memset(b, 0, sizeof *b);
    kdtest_fill(&r, b->s, ROWS * CLASSES, 1);
    kdtest_fill(&r, b->t, ROWS * CLASSES, 1);
    for (size_t i = 0; i < ROWS; i++) {
        b->y[i] = (int32_t)kdtest_size(&r, 0, CLASSES - 1);
        b->weights[i] = (float)kdtest_uniform(&r, 0.5, 2);
        if (i % 8) b->t[i * CLASSES + (size_t)b->y[i]] += 4;
    }
    const size_t shape[2] = { ROWS, CLASSES };
    b->student = wrap(KD_F32, 2, shape, b->s);
    b->teacher = wrap(KD_F32, 2, shape, b->t);
    b->labels = wrap(KD_I32, 1, shape, b->y);
    b->row_weights = wrap(KD_F32, 1, shape, b->weights);
    b->in = (kd_distill_inputs){ .struct_size = sizeof b->in, .student = b->student, .teacher = b->teacher, .labels = b->labels };
    CHECK_OK(kd_loss_distill_desc_for(&b->desc, sizeof b->desc, method));
}

static void end(batch *b)
{
    kd_tensor_free(b->student), kd_tensor_free(b->teacher), kd_tensor_free(b->labels), kd_tensor_free(b->row_weights);
}

static const char *explain_loss(batch *b, const kd_loss_distill *loss)
{
    size_t n = kd_loss_explain(loss, &b->in, b->student_tape, b->teacher_tape, b->text, CAP);
    CHECK_MSG(n > 0 && n < CAP && strlen(b->text) == n, "%zu: %s", n, n ? b->text : kd_last_error());
    return b->text;
}

static const char *explain(batch *b)
{
    kd_loss_distill *loss = NULL;
    if (!CHECK_OK(kd_loss_distill_create(&loss, NULL, &b->desc))) return "";
    explain_loss(b, loss);
    kd_loss_distill_free(loss);
    return b->text;
}

static size_t count_of(const char *text, const char *part)
{
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, part)) != NULL; p++) n++;
    return n;
}

/* `part` is in the one and only warning. */
static void check_warns(const char *text, const char *part)
{
    const char *w = strstr(text, "\nwarning: ");
    CHECK_MSG(count_of(text, "\nwarning: ") == 1 && w && strstr(w, part), "not one warning with \"%s\":\n%s", part, text);
}

static void check_silent(const char *text) { CHECK_MSG(*text && !strstr(text, "warning: "), "%s", text); }

/* The number behind `before`. */
static double number(const char *text, const char *before)
{
    const char *p = strstr(text, before);
    return CHECK_MSG(p != NULL, "no \"%s\" in:\n%s", before, text) ? strtod(p + strlen(before), NULL) : NAN;
}

/* ---- the numbers -------------------------------------------------------------------------------------------------------- */

/* The methods that take this batch as it is; and none of them warns. */
TEST(every_method_is_explained_in_its_terms)
{
    static batch b;
    for (uint32_t method = 1; method <= 30; method++) {
        if (method == KD_DISTILL_TOP_K) continue;   /* the next test */
        begin(&b, method);
        b.in.student_second = b.student, b.in.teacher_second = b.teacher;
        kd_loss_distill *loss = NULL;
        CHECK_OK(kd_loss_distill_create(&loss, NULL, &b.desc));
        if (kd_loss_distill_adapters(loss)) kd_model_freeze(kd_loss_distill_adapters(loss), 1);
        const char *text = explain_loss(&b, loss);
        if (method == KD_DISTILL_TFKD) check_warns(text, "the hard gradient is ");   /* its weight is for a sum over classes */
        else check_silent(text);

        kd_tape *tape = NULL;
        kd_distill_terms terms = { .struct_size = sizeof terms };
        CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
        kd_tensor *x = kd_tape_tensor(tape, KD_F32, 2, (size_t[]){ ROWS, CLASSES });
        CHECK_OK(kd_tensor_copy(x, b.student));
        kd_requires_grad(tape, x);
        kd_distill_inputs in = b.in;
        in.student = x;
        kd_tensor *l = kd_loss_distill_apply_inputs(loss, tape, &in);
        CHECK_OK(kd_backward(tape, l));
        CHECK_OK(kd_loss_distill_terms(tape, l, &terms));
        /* nine digits of a double */
        CHECK_NEAR(number(text, "\nloss "), terms.loss, 1e-8 * fabs(terms.loss));
        if (b.desc.hard_weight > 0) CHECK_NEAR(number(text, "\n  hard "), terms.hard, 1e-8 * terms.hard);
        CHECK_NEAR(number(text, "\n  soft "), terms.soft, 1e-8 * fabs(terms.soft));
        CHECK(number(text, " in the hard term, ") == (double)terms.soft_rows);
        double squares = 0;
        const float *g = kd_grad(tape, x);
        for (size_t i = 0; g && i < ROWS * CLASSES; i++) squares += (double)g[i] * (double)g[i];
        CHECK_NEAR(number(text, "gradient at the logits "), sqrt(squares), 2e-5 * sqrt(squares));
        kd_tape_free(tape);
        kd_loss_distill_free(loss);
        end(&b);
    }
}

TEST(sparse_teachers)
{
    static batch b;
    int32_t classes[ROWS * 3];
    float values[ROWS * 3];
    begin(&b, KD_DISTILL_TOP_K);
    b.desc.teacher_form = KD_TEACHER_PROBS;
    for (size_t i = 0; i < ROWS * 3; i++) classes[i] = (int32_t)(i % 3 * 2 + i / 3 % 3), values[i] = i % 3 == 0 ? 0.6f : 0.1f;
    kd_tensor *t = wrap(KD_F32, 2, (size_t[]){ ROWS, 3 }, values), *c = wrap(KD_I32, 2, (size_t[]){ ROWS, 3 }, classes);
    b.in.teacher = t, b.in.teacher_classes = c;
    check_silent(explain(&b));
    for (size_t i = 0; i < ROWS * 3; i++) values[i] *= 3;
    check_warns(explain(&b), "row 0 of the teacher does not come to 1");
    kd_tensor_free(t), kd_tensor_free(c);
    end(&b);
}

TEST(divisors_and_parts)
{
    static batch b;
    begin(&b, KD_DISTILL_KD);
    b.y[3] = b.y[9] = -100, b.y[5] = -1;
    b.desc.unlabelled_index = -1;
    const char *text = explain(&b);
    CHECK(strstr(text, "divided by 29 (rows)") && strstr(text, "divided by 30 (rows)"));
    CHECK(strstr(text, "32; 29 in the hard term, 30 in the soft one, 2 ignored, 0 masked"));
    CHECK(strstr(text, "T^2 on, multiplied by 16"));
    CHECK(number(text, "teacher and label agree in ") >= 25);
    /* each part's gradient alone is the gradient of a loss with that part alone */
    double hard = number(text, "weight 0.1, gradient "), soft = number(text, "weight 0.9, gradient ");
    b.desc.soft_weight = 0;
    CHECK_NEAR(number(explain(&b), "gradient at the logits "), hard, 1e-5 * hard);
    b.desc.soft_weight = 0.9f, b.desc.hard_weight = 0;
    CHECK_NEAR(number(explain(&b), "gradient at the logits "), soft, 1e-5 * soft);
    CHECK(strstr(b.text, "hard off"));

    b.desc.hard_weight = 0.5f, b.desc.warmup = 4;
    b.in.row_weights = b.row_weights;
    double sum = 0;
    for (size_t i = 0; i < ROWS; i++) sum += b.y[i] == -100 ? 0 : (double)b.weights[i];
    text = explain(&b);
    CHECK(strstr(text, "(the sum of weights)") && strstr(text, "weight 0.9 x 0.25 (warm-up)"));
    CHECK_NEAR(number(strstr(text, "\n  soft "), "divided by "), sum, 1e-7 * sum);
    b.desc.reduction = KD_REDUCE_SUM, b.desc.warmup = 0;
    CHECK(strstr(explain(&b), "divided by nothing (SUM)"));
    end(&b);
}

TEST(strided_and_other_labels)
{
    static batch b;
    static float wide[ROWS * 2 * CLASSES], soft[ROWS * CLASSES];
    static int64_t y64[ROWS];
    static char first[CAP];
    begin(&b, KD_DISTILL_DKD);
    snprintf(first, CAP, "%s", explain(&b));
    for (size_t i = 0; i < ROWS; i++) {
        y64[i] = b.y[i];
        memcpy(wide + i * 2 * CLASSES, b.s + i * CLASSES, CLASSES * sizeof *wide);
        soft[i * CLASSES + (size_t)b.y[i]] = 1;
    }
    kd_tensor *apart = NULL, *labels = wrap(KD_I64, 1, (size_t[]){ ROWS }, y64);
    kd_tensor *soft_labels = wrap(KD_F32, 2, (size_t[]){ ROWS, CLASSES }, soft);
    CHECK_OK(kd_tensor_wrap(&apart, NULL, KD_F32, 2, (size_t[]){ ROWS, CLASSES }, (ptrdiff_t[]){ 2 * CLASSES, 1 }, wide));
    b.in.student = apart, b.in.labels = labels;
    CHECK_STR(explain(&b), first);
    b.in.labels = soft_labels;
    CHECK_NEAR(number(explain(&b), "\nloss "), number(first, "\nloss "), 1e-6);
    check_silent(b.text);
    kd_tensor_free(apart), kd_tensor_free(labels), kd_tensor_free(soft_labels);
    end(&b);
}

TEST(text_is_cut_at_cap)
{
    static batch b;
    begin(&b, KD_DISTILL_KD);
    kd_loss_distill *loss = NULL;
    CHECK_OK(kd_loss_distill_create(&loss, NULL, &b.desc));
    explain_loss(&b, loss);
    size_t whole = strlen(b.text);
    CHECK(kd_loss_explain(loss, &b.in, NULL, NULL, NULL, 0) == whole);
    for (size_t cap = 1; cap <= whole + 1; cap++) {
        char cut[CAP];
        memset(cut, '#', sizeof cut);
        CHECK(kd_loss_explain(loss, &b.in, NULL, NULL, cut, cap) == whole);
        CHECK_MSG(strlen(cut) == cap - 1 && !memcmp(cut, b.text, cap - 1) && cut[cap] == '#', "cap %zu", cap);
    }
    kd_loss_distill_free(loss);
    end(&b);
}

TEST(errors_are_texts)
{
    static batch b;
    char out[64] = "old";
    begin(&b, KD_DISTILL_KD);
    kd_loss_distill *loss = NULL;
    CHECK_OK(kd_loss_distill_create(&loss, NULL, &b.desc));
    CHECK(kd_loss_explain(NULL, &b.in, NULL, NULL, out, sizeof out) == 0 && !*out);
    CHECK(kd_loss_explain(loss, NULL, NULL, NULL, out, sizeof out) == 0);
    b.in.labels = NULL;
    CHECK(kd_loss_explain(loss, &b.in, NULL, NULL, out, sizeof out) == 0);
    CHECK_ERROR_HAS("kd_loss_explain: labels is NULL");
    b.in.labels = b.teacher, b.in.teacher = b.labels;
    CHECK(kd_loss_explain(loss, &b.in, NULL, NULL, out, sizeof out) == 0);
    CHECK_ERROR_HAS("teacher is i32, not f32");
    b.in.teacher = b.row_weights;
    CHECK(kd_loss_explain(loss, &b.in, NULL, NULL, out, sizeof out) == 0);
    CHECK_ERROR_HAS("student [32, 10] and teacher [32] differ");
    b.in.teacher = NULL, b.in.labels = b.labels;
    CHECK(kd_loss_explain(loss, &b.in, NULL, NULL, out, sizeof out) == 0);
    CHECK_ERROR_HAS("teacher is NULL");
    kd_loss_distill_free(loss);
    end(&b);
}

/* ---- the mistakes ---------------------------------------------------------------------------------------------------------- */

static void soften(float *x)
{
    for (size_t r = 0; r < ROWS; r++, x += CLASSES) {
        double sum = 0;
        for (size_t c = 0; c < CLASSES; c++) sum += exp((double)x[c]);
        for (size_t c = 0; c < CLASSES; c++) x[c] = (float)(exp((double)x[c]) / sum);
    }
}

TEST(probabilities_for_logits_and_back)
{
    static batch b;
    begin(&b, KD_DISTILL_KD);
    b.desc.teacher_form = KD_TEACHER_PROBS;
    check_warns(explain(&b), "does not come to 1");
    b.desc.teacher_form = KD_TEACHER_LOG_PROBS;
    CHECK(strstr(explain(&b), "warning: teacher_form is LOG_PROBS, and row 0 of the teacher does not come to 1"));
    soften(b.t);
    b.desc.teacher_form = KD_TEACHER_PROBS;
    check_silent(explain(&b));
    b.desc.teacher_form = KD_TEACHER_LOGITS;
    check_warns(explain(&b), "the teacher's numbers are probabilities");
    for (size_t i = 0; i < ROWS * CLASSES; i++) b.t[i] = logf(b.t[i]);
    b.desc.teacher_form = KD_TEACHER_LOG_PROBS;
    check_silent(explain(&b));
    b.desc.teacher_form = KD_TEACHER_LOGITS;   /* log-probabilities are logits */
    check_silent(explain(&b));
    soften(b.s);
    check_warns(explain(&b), "the student's numbers are probabilities");
    end(&b);

    begin(&b, KD_DISTILL_BINARY);
    check_silent(explain(&b));
    for (size_t i = 0; i < ROWS * CLASSES; i++) b.t[i] = 1 / (1 + expf(-b.t[i]));
    check_warns(explain(&b), "the teacher's numbers are probabilities");
    end(&b);
}

TEST(temperature_and_weights_that_do_not_belong)
{
    static batch b;
    begin(&b, KD_DISTILL_KD);
    b.desc.temperature_squared = 0;
    check_warns(explain(&b), "T^2 is off at temperature 4");
    b.desc.temperature = 2;
    check_silent(explain(&b));
    b.desc.temperature_squared = 1, b.desc.temperature = 4;
    b.desc.reduction = KD_REDUCE_MEAN_ELEMENTS;
    check_warns(explain(&b), "these weights belong to MEAN_ROWS");
    b.desc.hard_weight = 1, b.desc.soft_weight = 9;
    check_silent(explain(&b));
    b.desc.reduction = KD_REDUCE_MEAN_ROWS, b.desc.soft_weight = 9000;
    check_warns(explain(&b), "the soft gradient is ");
    b.desc.soft_weight = 0.0001f;
    check_warns(explain(&b), "the hard gradient is ");
    end(&b);

    begin(&b, KD_DISTILL_DEIT_SOFT);   /* its CODE divides by the classes too */
    b.in.student_second = b.student;
    check_silent(explain(&b));
    b.desc.form = KD_FORM_PAPER;
    check_warns(explain(&b), "belongs to form CODE: in form PAPER the term is 10 times larger");
    b.desc.soft_weight *= 0.1f;
    check_silent(explain(&b));
    end(&b);
    begin(&b, KD_DISTILL_HARD);   /* no T^2 there */
    b.desc.temperature_squared = 0;
    check_silent(explain(&b));
    CHECK(strstr(b.text, "no T^2 in it"));
    end(&b);
    begin(&b, KD_DISTILL_NKD);    /* inside the method */
    b.desc.temperature = 3, b.desc.temperature_squared = 0;
    check_warns(explain(&b), "T^2 is off");
    end(&b);
}

TEST(padding)
{
    static batch b;
    begin(&b, KD_DISTILL_KD);
    for (size_t r = 28; r < ROWS; r++) {
        b.y[r] = 0;
        for (size_t c = 0; c < CLASSES; c++) b.t[r * CLASSES + c] = 0;
    }
    check_warns(explain(&b), "in 4 of 32 taught rows the teacher says the same for every class");
    for (size_t r = 28; r < ROWS; r++) b.y[r] = -100;
    check_silent(explain(&b));
    end(&b);

    begin(&b, KD_DISTILL_KD);
    for (size_t r = 28; r < ROWS; r++) b.y[r] = b.y[27], memcpy(b.t + r * CLASSES, b.t + 27 * CLASSES, CLASSES * sizeof *b.t);
    check_warns(explain(&b), "4 taught rows repeat the row before them");
    end(&b);

    begin(&b, KD_DISTILL_KD);   /* four sequences of eight */
    const size_t shape[3] = { 4, 8, CLASSES };
    kd_tensor *s = wrap(KD_F32, 3, shape, b.s), *t = wrap(KD_F32, 3, shape, b.t), *y = wrap(KD_I32, 2, shape, b.y);
    b.in.student = s, b.in.teacher = t, b.in.labels = y;
    check_silent(explain(&b));
    for (size_t r = 0; r < ROWS; r++)
        if (b.y[r] == 3) b.y[r] = 4;
    b.y[6] = b.y[7] = b.y[13] = b.y[14] = b.y[15] = 3;
    check_warns(explain(&b), "2 sequences end in label 3, 5 rows of it");
    b.desc.ignore_index = 3;
    check_silent(explain(&b));
    b.desc.ignore_index = -100, b.y[2] = 3;   /* a class like others */
    check_silent(explain(&b));
    kd_tensor_free(s), kd_tensor_free(t), kd_tensor_free(y);
    end(&b);
}

TEST(labels_that_do_not_fit)
{
    static batch b;
    begin(&b, KD_DISTILL_KD);
    for (size_t r = 0; r < ROWS; r++) b.y[r] = (b.y[r] + 3) % CLASSES;
    check_warns(explain(&b), "less often than by chance");
    end(&b);
    begin(&b, KD_DISTILL_KD);
    memmove(b.y + 1, b.y, (ROWS - 1) * sizeof *b.y);
    check_warns(explain(&b), "labels are shifted by one");
    CHECK(strstr(b.text, "the row behind"));
    end(&b);
    begin(&b, KD_DISTILL_KD);
    memmove(b.y, b.y + 1, (ROWS - 1) * sizeof *b.y);
    check_warns(explain(&b), "the row before");
    end(&b);
}

TEST(nothing_to_learn)
{
    static batch b;
    begin(&b, KD_DISTILL_KD);
    b.in.teacher = b.student;
    check_warns(explain(&b), "student and teacher are the same tensor");
    b.in.teacher = b.teacher;
    memcpy(b.t, b.s, sizeof b.t);
    check_warns(explain(&b), "student and teacher hold the same numbers");
    end(&b);
    begin(&b, KD_DISTILL_KD);
    for (size_t r = 0; r < ROWS; r++) b.y[r] = -100;
    check_warns(explain(&b), "no row is in any term: all 32");
    end(&b);
    begin(&b, KD_DISTILL_KD);
    for (size_t r = 0; r < ROWS; r++) b.weights[r] = 0;
    b.in.row_weights = b.row_weights;
    check_warns(explain(&b), "row_weights are 0");
    end(&b);
    begin(&b, KD_DISTILL_KD);
    for (size_t i = 0; i < ROWS * CLASSES; i++) b.s[i] = -INFINITY;
    check_warns(explain(&b), "every row is -inf throughout");
    end(&b);
    begin(&b, KD_DISTILL_KD);
    for (size_t r = 1; r < ROWS; r++) memcpy(b.t + r * CLASSES, b.t, CLASSES * sizeof *b.t), b.y[r] = b.y[0];
    for (size_t c = 0; c < CLASSES; c++) b.t[(size_t)b.y[0]] = 9;
    for (size_t r = 1; r < ROWS; r++) memcpy(b.t + r * CLASSES, b.t, CLASSES * sizeof *b.t);
    check_warns(explain(&b), "the teacher says the same in all 32 taught rows");
    end(&b);
}

TEST(not_numbers)
{
    static batch b;
    begin(&b, KD_DISTILL_KD);
    b.desc.check_input = 1;
    b.s[3 * CLASSES + 7] = NAN;
    check_warns(explain(&b), "student[3, 7] is nan: 1 such number\n");
    b.s[3 * CLASSES + 7] = -INFINITY;   /* a mask */
    check_silent(explain(&b));
    b.t[5 * CLASSES + 1] = b.t[9 * CLASSES] = INFINITY;
    check_warns(explain(&b), "teacher[5, 1] is inf, and more: 2 such numbers");
    end(&b);
}

TEST(tapes_and_adapters)
{
    static batch b;
    kd_tape *train = NULL, *infer = NULL;
    CHECK_OK(kd_tape_create(&train, NULL, KD_TAPE_TRAIN));
    CHECK_OK(kd_tape_create(&infer, NULL, KD_TAPE_INFER));
    begin(&b, KD_DISTILL_KD);
    kd_tensor *x = kd_tape_tensor(train, KD_F32, 2, (size_t[]){ ROWS, CLASSES });
    CHECK_OK(kd_tensor_copy(x, b.student));
    b.in.student = x, b.student_tape = train, b.teacher_tape = infer;
    check_warns(explain(&b), "the student wants no gradient");
    kd_requires_grad(train, x);
    check_silent(explain(&b));
    b.teacher_tape = train;
    check_warns(explain(&b), "the teacher ran on a TRAIN tape");
    b.teacher_tape = NULL;
    b.in.teacher = kd_scale(train, x, 2, 1);
    for (size_t i = 0; i < ROWS; i++) b.y[i] = 0;
    CHECK(strstr(explain(&b), "warning: the teacher would learn on its tape"));
    end(&b);
    begin(&b, KD_DISTILL_MUTUAL);
    b.teacher_tape = train;
    check_silent(explain(&b));
    end(&b);

    begin(&b, KD_DISTILL_CTKD);
    kd_loss_distill *loss = NULL;
    kd_optimizer *opt = NULL;
    CHECK_OK(kd_loss_distill_create(&loss, NULL, &b.desc));
    check_warns(explain_loss(&b, loss), "no optimizer holds the adapters");
    CHECK_OK(kd_optimizer_create(&opt, NULL, NULL));
    CHECK_OK(kd_optimizer_add(opt, kd_loss_distill_adapters(loss)));
    check_silent(explain_loss(&b, loss));
    CHECK(strstr(b.text, "held by an optimizer"));
    kd_optimizer_free(opt);
    kd_loss_distill_free(loss);
    end(&b);
    kd_tape_free(train), kd_tape_free(infer);
}

/* ---- features -------------------------------------------------------------------------------------------------------------- */

typedef struct taps {
    float s[8 * 6], t[8 * 6];
    int32_t   i[8];
    kd_tensor *student, *teacher, *indices;
    kd_feature_shape shape;
    kd_loss_feature *loss;
    kd_feature_inputs in;
    char text[CAP];
} taps;

static void begin_taps(taps *p, kd_context *ctx, uint32_t method)
{
    kd_loss_feature_desc desc;
    kdtest_rand r = { 3 };
    memset(p, 0, sizeof *p);
    kdtest_fill(&r, p->s, 48, 1), kdtest_fill(&r, p->t, 48, 1);
    CHECK_OK(kd_tensor_wrap(&p->student, ctx, KD_F32, 2, (size_t[]){ 8, 6 }, NULL, p->s));
    CHECK_OK(kd_tensor_wrap(&p->teacher, ctx, KD_F32, 2, (size_t[]){ 8, 6 }, NULL, p->t));
    for (int32_t i = 0; i < 8; i++) p->i[i] = 2 * i;
    CHECK_OK(kd_tensor_wrap(&p->indices, ctx, KD_I32, 1, (size_t[]){ 8 }, NULL, p->i));
    p->shape = (kd_feature_shape){ 1, { 6 } };
    CHECK_OK(kd_loss_feature_desc_for(&desc, sizeof desc, method));
    desc.student = desc.teacher = &p->shape, desc.student_count = desc.teacher_count = 1;
    desc.samples = 16, desc.negatives = 4;
    CHECK_OK(kd_loss_feature_create(&p->loss, ctx, &desc));
    p->in = (kd_feature_inputs){ .struct_size = sizeof p->in, .student = &p->student, .student_count = 1, .teacher = &p->teacher,
                                 .teacher_count = 1, .indices = p->indices };
}

static void end_taps(taps *p)
{
    kd_loss_feature_free(p->loss);
    kd_tensor_free(p->student), kd_tensor_free(p->teacher), kd_tensor_free(p->indices);
}

static const char *explain_taps(taps *p, const kd_tape *student_tape, const kd_tape *teacher_tape)
{
    size_t n = kd_loss_feature_explain(p->loss, &p->in, student_tape, teacher_tape, p->text, CAP);
    CHECK_MSG(n > 0 && strlen(p->text) == n, "%s", kd_last_error());
    return p->text;
}

TEST(features)
{
    static taps p;
    static float grad[48];
    kd_tape *train = NULL;
    CHECK_OK(kd_tape_create(&train, NULL, KD_TAPE_TRAIN));
    for (uint32_t method = KD_FEATURE_SP; method != KD_FEATURE_COSINE; method = method == KD_FEATURE_SP ? KD_FEATURE_RKD :
         KD_FEATURE_COSINE) {
        begin_taps(&p, NULL, method);
        const float *s = p.s, *t = p.t;
        float *g = grad;
        double value = 0, squares = 0;
        kd_feature_batch b = { .struct_size = sizeof b, .rows = 8, .student = &s, .teacher = &t, .grad = &g };
        CHECK_OK(kd_loss_feature_eval(p.loss, &b, &value));
        for (size_t i = 0; i < 48; i++) squares += (double)grad[i] * (double)grad[i];
        check_silent(explain_taps(&p, NULL, NULL));
        CHECK_NEAR(number(p.text, "\nloss "), value, 1e-8 * value);
        CHECK_NEAR(number(strstr(p.text, "student tap 0 [6]"), "gradient "), sqrt(squares), 1e-5 * sqrt(squares));
        check_warns(explain_taps(&p, NULL, train), "the teacher ran on a TRAIN tape");
        check_warns(explain_taps(&p, train, NULL), "the student wants no gradient");
        p.s[10] = NAN;
        CHECK(strstr(explain_taps(&p, NULL, NULL), "warning: student tap 0[1, 4] is nan"));
        end_taps(&p);
    }
    begin_taps(&p, NULL, KD_FEATURE_SP);
    p.in.teacher = &p.student;
    CHECK(strstr(explain_taps(&p, NULL, NULL), "warning: student tap 0 and teacher tap 0 are the same tensor"));
    p.in.teacher = &p.teacher;
    CHECK_OK(kd_loss_feature_set_weight(p.loss, 0));
    check_warns(explain_taps(&p, NULL, NULL), "weight is 0");
    p.in.student_count = 2;
    CHECK(kd_loss_feature_explain(p.loss, &p.in, NULL, NULL, NULL, 0) == 0);
    CHECK_ERROR_HAS("kd_loss_feature_explain: sp: 2 student taps");
    end_taps(&p);
    kd_tape_free(train);
}

/* With adapters: the numbers of the TRAIN tape, and afterwards everything as it was: the next step has the same bits. */
static void check_unchanged(uint32_t method)
{
    static taps p;
    kd_tape *tape = NULL;
    kd_optimizer *opt = NULL;
    double values[2];
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    for (int told = 0; told < 2; told++) {
        begin_taps(&p, NULL, method);
        kd_model *m = kd_loss_feature_adapters(p.loss);
        kd_tensor *x = kd_tape_tensor(tape, KD_F32, 2, (size_t[]){ 8, 6 });
        CHECK_OK(kd_tensor_copy(x, p.student));
        kd_requires_grad(tape, x);
        p.in.student = &x;
        if (told) {
            check_warns(explain_taps(&p, tape, NULL), "no optimizer holds the adapters");
            CHECK(strstr(p.text, "as on a TRAIN tape"));
        }
        CHECK_OK(kd_optimizer_create(&opt, NULL, NULL));
        CHECK_OK(kd_optimizer_add(opt, m));
        if (told) check_silent(explain_taps(&p, tape, NULL));
        kd_tensor *l = kd_loss_feature_apply(p.loss, tape, &p.in);
        if (told) CHECK_NEAR(number(p.text, "\nloss "), (double)kd_tensor_item(l), 1e-6 * fabs((double)kd_tensor_item(l)));
        CHECK_OK(kd_backward(tape, l));
        CHECK_OK(kd_optimizer_step(opt));
        kd_tape_reset(tape);
        p.in.student = &p.student;
        const float *s = p.s, *t = p.t;
        kd_feature_batch b = { .struct_size = sizeof b, .rows = 8, .student = &s, .teacher = &t, .indices = p.i };
        CHECK_OK(kd_loss_feature_eval(p.loss, &b, &values[told]));   /* uses the running statistics */
        kd_optimizer_free(opt);
        end_taps(&p);
    }
    CHECK(!memcmp(&values[0], &values[1], sizeof values[0]));
    kd_tape_free(tape);
}

TEST(adapters_and_state_stay_as_they_were)
{
    check_unchanged(KD_FEATURE_FITNET);   /* batch norm moves its running statistics */
    check_unchanged(KD_FEATURE_CRD);      /* a bank of embeddings, negatives that are drawn */
}

/* ---- memory, threads ----------------------------------------------------------------------------------------------------- */

TEST(memory)
{
    static batch b;
    static taps p;
    begin(&b, KD_DISTILL_DIST);
    for (int run = 0; run < 2; run++) {
        kdtest_alloc a;
        kdtest_alloc_begin(&a, 2, 0);
        kd_loss_distill *loss = NULL;
        CHECK_OK(kd_loss_distill_create(&loss, a.ctx, &b.desc));
        begin_taps(&p, a.ctx, KD_FEATURE_FITNET);
        size_t fails = 0;
        if (!run) {
            explain_loss(&b, loss);
            explain_taps(&p, NULL, NULL);
            size_t before = a.calls;
            explain_loss(&b, loss);
            explain_taps(&p, NULL, NULL);
            CHECK_MSG(a.calls == before, "%zu allocations in the second call", a.calls - before);
        } else {
            for (size_t i = 1; i < 40; i++) {   /* each allocation fails once, and the next call works */
                a.fail_at = a.calls + i;
                size_t n = kd_loss_explain(loss, &b.in, NULL, NULL, b.text, CAP), m = n ? 1 : 0;
                if (n) m = kd_loss_feature_explain(p.loss, &p.in, NULL, NULL, p.text, CAP);
                fails += !n || !m;
                if (!n || !m) CHECK_ERROR_HAS("memory");
            }
            a.fail_at = 0;
            CHECK(fails > 0);
            explain_loss(&b, loss);
            explain_taps(&p, NULL, NULL);
        }
        end_taps(&p);
        kd_loss_distill_free(loss);
        kdtest_alloc_end(&a);
    }
    end(&b);
}

/* ---- the examples ------------------------------------------------------------------------------------------------------------ */

static int have_examples(void)
{
#ifdef KDTEST_SANITIZED
    return 0;   /* the library wants its sanitizer */
#else
    return !kdtest_emulated();
#endif
}

static void build_example(const char *name)
{
    int status;
    char *text = kdtest_run(&status, "%s -std=c11 -O1 -Wall -Wextra -Werror -Iinclude examples/%s.c '%s/libkd.a' %s -lm -pthread -o %s/%s",
                            kdtest_cc(), name, kdtest_out(), strstr(kd_build_info(), "with BLIS") ? "-lblis" : "", kdtest_tmp(), name);
    CHECK_MSG(status == 0, "%s", text);
    free(text);
}

TEST(the_example_explain)
{
    static const char *const mistakes[][2] = {
        { "train-tape", "the teacher ran on a TRAIN tape" }, { "probabilities", "the teacher's numbers are probabilities" },
        { "logits", "does not come to 1" }, { "no-t2", "T^2 is off" }, { "elements", "these weights belong to MEAN_ROWS" },
        { "padding", "the teacher says the same for every class" }, { "shifted", "labels are shifted by one" },
        { "order", "less often than by chance" }, { "same", "are the same tensor" }, { "ignored", "no row is in any term" },
        { "nan", "is nan" }, { "balance", "hardly matters" },
    };
    if (!have_examples()) {
        kdtest_skip("a compiler's output that needs an emulator or a sanitizer");
        return;
    }
    int status;
    if (chdir(kdtest_root()) != 0) return;
    build_example("explain");
    char *text = kdtest_run(&status, "%s/explain --method dkd --temperature 3", kdtest_tmp());
    CHECK_MSG(status == 0 && strstr(text, "dkd: ") && !strstr(text, "warning"), "%s", text);
    free(text);
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        text = kdtest_run(&status, "%s/explain --mistake %s", kdtest_tmp(), mistakes[i][0]);
        const char *w = strstr(text, "warning: ");
        CHECK_MSG(status == 0 && w && strstr(w, mistakes[i][1]), "%s: %s", mistakes[i][0], text);
        free(text);
    }
    text = kdtest_run(&status, "%s/explain --mistake typo", kdtest_tmp());
    CHECK(status == 2);
    free(text);
}

TEST(the_example_stages)
{
    if (!have_examples()) {
        kdtest_skip("a compiler's output that needs an emulator or a sanitizer");
        return;
    }
    int status;
    if (chdir(kdtest_root()) != 0) return;
    build_example("stages");
    char *text = kdtest_run(&status, "%s/stages", kdtest_tmp());
    CHECK_MSG(status == 0 && strstr(text, "features only") && strstr(text, "T 8.0") && strstr(text, "T 2.0"), "%s", text);
    free(text);
}
