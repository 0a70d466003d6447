/* tinybert.c - attention scores, hidden states and embeddings (Jiao, Yin, Shang, Jiang and others 2020, arXiv 1909.10351).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = alpha sum over pairs of scores of mean (f(A_s) - f(A_t))^2
 *          + beta sum over pairs of states of mean (H_s W + c - H_t)^2
 *     f(x) = x where x > -100, else 0; W, c: one linear layer for all states, to the teacher's width
 * Gradient: 2 (f(A_s) - f(A_t)) / elements where A_s > -100, else 0; of states through W, which is trained.
 * Divides by: elements; with a mask, those of valid tokens: pairs of them in every head, and widths of them.
 * Detached: the teacher.
 * Taps: pairs of {heads, tokens, tokens}, scores before the softmax, and of {tokens, width}, hidden states and embeddings,
 *     in any order: the k-th scores of the student go with the teacher's k-th, as do states.  All have the same tokens,
 *     states of a side the same width.
 * Adapters: "fit", if there are states.
 * Defaults: weight 1, alpha 1, beta 1.  Layers: the student's layer i with the teacher's i b + b - 1 (scores), i b (states,
 *     from 0: embeddings), b teacher layers to each of the student's.  The prediction stage is a loss of its own on the
 *     logits.
 * Forms: one.
 * Traps: scores, not probabilities.  What a model's own mask has made very negative (-10000) is 0 on each side, as in the
 *     public code, and so is a legitimate score of -100 or less.  That code's mean runs over padding too: give the mask to
 *     leave it out.  A mask of zeros throughout gives 0.
 * Published: GLUE average on the test sets, 6 layers 79.4, 4 layers 77.0 (the paper).
 * Cost: one double a head of a sample. */
#include "distill/feature.h"

static void defaults(kd_loss_feature_desc *d) { d->alpha = d->beta = 1; }

/* The next tap of a rank from i on; count if there is none. */
static size_t tinybert_next(const kd_feature_shape *taps, size_t count, size_t i, size_t rank)
{
    while (i < count && taps[i].rank != rank) i++;
    return i;
}

static size_t tinybert_tokens(const kd_feature_shape *s) { return s->size[s->rank - 2]; }

static kd_status check(kd_loss_feature_desc *d)
{
    if (d->alpha < 0 || d->beta < 0)
        return kd__fail(KD_ERR_ARG, "alpha %g, beta %g: both must be at least 0", (double)d->alpha, (double)d->beta);
    if (d->student_count != d->teacher_count || !d->student_count)
        return kd__fail(KD_ERR_ARG, "%zu student and %zu teacher taps: it takes 1 or more, as many of each", d->student_count,
                        d->teacher_count);
    for (size_t side = 0; side < 2; side++)
        for (size_t i = 0; i < d->student_count; i++) {
            const kd_feature_shape *s = side ? &d->teacher[i] : &d->student[i];
            if (s->rank != 2 && !(s->rank == 3 && s->size[1] == s->size[2]))
                return kd__feature_misfit(d, i, "taps are {heads, tokens, tokens} or {tokens, width}");
        }
    for (size_t rank = 2; rank < 4; rank++) {
        const size_t n = d->student_count, first = tinybert_next(d->student, n, 0, rank);
        const size_t first_t = tinybert_next(d->teacher, n, 0, rank);
        size_t i = first, j = first_t;
        for (; i < n && j < n; i = tinybert_next(d->student, n, i + 1, rank), j = tinybert_next(d->teacher, n, j + 1, rank)) {
            const kd_feature_shape *s = &d->student[i], *t = &d->teacher[j];
            bool fits = tinybert_tokens(s) == tinybert_tokens(d->student) && tinybert_tokens(t) == tinybert_tokens(s);
            fits &= rank == 3 ? kd__feature_shape_same(s, t)
                              : s->size[1] == d->student[first].size[1] && t->size[1] == d->teacher[first_t].size[1];
            if (!fits)
                return kd__fail(KD_ERR_SHAPE, "student tap %zu %S and teacher tap %zu %S: %s", i, s->rank, s->size, j, t->rank,
                                t->size, rank == 3 ? "scores must be the same, with as many tokens as all taps"
                                          : "all taps have as many tokens, states of a side one width");
        }
        if (i < n || j < n)
            return kd__fail(KD_ERR_ARG, "the student and the teacher have different numbers of %s",
                            rank == 3 ? "scores" : "states");
    }
    return KD_OK;
}

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    const size_t i = tinybert_next(d->student, d->student_count, 0, 2), j = tinybert_next(d->teacher, d->teacher_count, 0, 2);
    if (i < d->student_count) kd_layer_linear(root, "fit", d->student[i].size[1], d->teacher[j].size[1], 1);
}

static size_t tinybert_valid(const float *mask, size_t n)
{
    size_t valid = 0;
    for (size_t i = 0; i < n; i++) valid += !mask || mask[i] > 0;
    return valid;
}

typedef struct tinybert_job { size_t blocks, tokens, columns; double scale; const float *mask; bool scores; } tinybert_job;

/* A row of scores [tokens] or of a state [width]; mask: of its columns, or NULL. */
static double tinybert_row(const kd__core *c, const float *s, const float *t, const float *mask, float *grad)
{
    const tinybert_job *job = c->user;
    const size_t n = job->columns;
    double sum;
    if (!job->scores) c->kernels->binary_f32(KD_BINARY_SUB, grad, n, (kd__operand){ s, n, 1 }, (kd__operand){ t, n, 1 }, 1, n);
    for (size_t i = 0; i < n && job->scores; i++) {
        const float d = (s[i] <= -100 ? 0 : s[i]) - (t[i] <= -100 ? 0 : t[i]);
        grad[i] = mask && !(mask[i] > 0) ? 0 : d;
    }
    c->kernels->dot_f32(&sum, grad, grad, n);
    c->kernels->unary_f32(KD_UNARY_SCALE_ADD, grad, grad, n, (float)(2 * job->scale), 0);
    for (size_t i = 0; i < n && job->scores; i++)
        if (s[i] <= -100) grad[i] = 0;
    return sum * job->scale;
}

/* The rows of one head, or of one sample's states: padding is left out, of scores its columns too. */
static bool tinybert_block(const kd__core *c, size_t r, void *scratch, double *value)
{
    const tinybert_job *job = c->user;
    const size_t n = job->columns;
    const float *mask = job->mask ? job->mask + r / job->blocks * job->tokens : NULL;
    for (size_t i = 0; i < job->tokens; i++) {
        const size_t at = (r * job->tokens + i) * n;
        float *grad = c->grad[0] ? c->grad[0] + at : scratch;
        if (mask && !(mask[i] > 0)) memset(grad, 0, n * sizeof *grad);
        else *value += tinybert_row(c, c->x[0] + at, c->x[1] + at, mask, grad);
    }
    return true;
}

static kd_status core(const kd__core *c, double *value)
{
    const size_t *shape = c->in[0]->shape, n = shape[0], tokens = shape[c->in[0]->rank - 2], columns = shape[c->in[0]->rank - 1];
    tinybert_job job = { 1, tokens, columns, 0, c->x[2], c->in[0]->rank == 4 };
    double elements = 0;
    if (job.scores) {
        job.blocks = shape[1];
        for (size_t b = 0; b < n; b++) {
            const double valid = (double)tinybert_valid(c->x[2] ? c->x[2] + b * tokens : NULL, tokens);
            elements += (double)shape[1] * valid * valid;
        }
    } else {
        elements = (double)tinybert_valid(c->x[2], n * tokens) * (double)columns;
    }
    if (elements > 0) job.scale = (double)*(const float *)c->user / elements;
    kd__core own = *c;
    own.user = &job;
    return kd__core_rows(&own, n * job.blocks, c->grad[0] ? 0 : columns * sizeof(float), tinybert_block, value);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    const kd_loss_feature_desc *d = &loss->desc;
    const size_t n = d->student_count;
    kd_tensor *sum = NULL;
    for (size_t rank = 3; rank > 1; rank--) {
        size_t i = tinybert_next(d->student, n, 0, rank), j = tinybert_next(d->teacher, n, 0, rank);
        for (; i < n; i = tinybert_next(d->student, n, i + 1, rank), j = tinybert_next(d->teacher, n, j + 1, rank)) {
            kd_tensor *s = rank == 2 ? kd__adapter_forward(loss, tape, "fit", in->student[i]) : in->student[i];
            kd_tensor *const inputs[] = { s, in->teacher[j], in->mask };
            sum = kd__feature_add(tape, sum, kd__core_run(tape, "tinybert", inputs, 3, core, rank == 3 ? &d->alpha : &d->beta));
        }
    }
    return sum;
}

const kd__feature_method kd__feature_TINYBERT = {
    .formula = "alpha mean (f(A_s) - f(A_t))^2 + beta mean (fit(H_s) - H_t)^2, A: attention scores, H: hidden states",
    .defaults = defaults, .check = check, .adapters = adapters, .apply = apply
};
