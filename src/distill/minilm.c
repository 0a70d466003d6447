/* minilm.c - attention and value relations of the last layer (Wang, Wei, Dong, Bao, Yang, Zhou 2020, arXiv 2002.10957).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = 1 / (A sum_b l_b) sum over samples, heads, tokens of [ alpha KL(softmax a_t || softmax a_s)
 *            + beta KL(softmax r_t || softmax r_s) ]
 *     a: rows of attention scores, scaled, before their softmax; r: rows of V V^T / sqrt(d) of a head's values V [l, d]
 *     A: heads; l_b: a sample's tokens; with a mask padding is left out as row and as column
 * Gradient: (softmax a_s - softmax a_t) by the row; of a relation's G, (G + G^T) V / sqrt(d).
 * Divides by: heads and valid tokens.
 * Detached: the teacher.
 * Taps: two of each side, {heads, tokens, tokens} of scores and {tokens, width} of values, heads side by side in its
 *     columns; heads and tokens are equal on both sides, widths need not be.
 * Defaults: weight 1, alpha 1, beta 1.
 * Forms: one.
 * Traps: the authors' code for training is not public, so that this is the paper's formula.  Scores must be those before
 *     the softmax, with the scale 1 / sqrt(d) applied; -inf in the same places of both sides counts nothing.  The
 *     relation's scale is each side's own d.  A mask of zeros throughout gives 0.
 * Published: 384 wide, SQuAD 2 and MNLI: 12 layers 81.7, 85.7; 6 layers 75.6, 83.3.
 * Cost: for each thread 2 tokens^2 + 3 tokens d floats: no relation of all heads is stored. */
#include "distill/feature.h"
#include <math.h>

typedef struct minilm_job { size_t heads, tokens; double weight; const float *mask; bool scores; } minilm_job;

/* What a task works in, cut from its scratch. */
typedef struct minilm_room { float *kernel, *s, *t, *xs, *xt, *dx, *coef, *soft, *none; uint32_t *index; } minilm_room;

static size_t minilm_cut(const kd__core *c, const minilm_job *job, float *at, minilm_room *room)
{
    const size_t l = job->tokens, ds = c->in[0]->shape[c->in[0]->rank - 1] / job->heads;
    const size_t dt = c->in[1]->shape[c->in[1]->rank - 1] / job->heads;
    const size_t kernel = KD_MAX(kd__distill_scratch(l), kd__distill_scratch(KD_MIN(l, (size_t)KD_DISTILL_PANEL)));
    const size_t xs = job->scores ? 0 : l * ds, xt = job->scores ? 0 : l * dt;
    const size_t floats[] = { kernel, l * l, l * l, xs, xt, xs, l, l, l };
    float **const part[] = { &room->kernel, &room->s, &room->t, &room->xs, &room->xt, &room->dx, &room->coef, &room->soft,
                             &room->none };
    size_t used = 0;
    for (size_t i = 0; i < KD_COUNT(part); used += floats[i++]) *part[i] = at + used;
    room->index = (uint32_t *)(void *)(at + used);
    return used + l;
}

/* Rows and columns of valid tokens. */
static void minilm_gather(const float *in, const minilm_room *room, size_t n, size_t row, size_t width, float *out)
{
    for (size_t i = 0; i < n; i++) {
        const float *from = in + room->index[i] * row;
        for (size_t j = 0; j < n && !width; j++) out[i * n + j] = from[room->index[j]];
        if (width) memcpy(out + i * width, from, width * sizeof *out);
    }
}

static bool minilm_relation(const kd__core *c, size_t n, size_t d, const float *x, float *out)
{
    if (kd__gram(c->ctx, x, n, d, out) != KD_OK) return false;
    c->kernels->unary_f32(KD_UNARY_SCALE_ADD, out, out, n * n, (float)(1 / sqrt((double)d)), 0);
    return true;
}

/* Sample r / heads, head r % heads. */
static bool minilm_row(const kd__core *c, size_t r, void *scratch, double *value)
{
    const minilm_job *job = c->user;
    const size_t l = job->tokens, b = r / job->heads, h = r % job->heads, ws = c->in[0]->shape[c->in[0]->rank - 1];
    const size_t wt = c->in[1]->shape[c->in[1]->rank - 1], ds = ws / job->heads, dt = wt / job->heads;
    const size_t at = job->scores ? r * l * l : b * l * ws + h * ds, teacher_at = job->scores ? at : b * l * wt + h * dt;
    float *grad = c->grad[0] ? c->grad[0] + at : NULL;
    minilm_room m;
    size_t n = 0;
    uint32_t masked = 0;
    double sum;
    minilm_cut(c, job, scratch, &m);
    for (size_t i = 0; i < l; i++)
        if (!job->mask || job->mask[b * l + i] > 0) m.index[n++] = (uint32_t)i;
    for (size_t i = 0; grad && i < l; i++) memset(grad + i * ws, 0, (job->scores ? l : ds) * sizeof *grad);
    if (!n) return true;
    if (job->scores) {
        minilm_gather(c->x[0] + at, &m, n, l, 0, m.s);
        minilm_gather(c->x[1] + teacher_at, &m, n, l, 0, m.t);
    } else {
        minilm_gather(c->x[0] + at, &m, n, ws, ds, m.xs);
        minilm_gather(c->x[1] + teacher_at, &m, n, wt, dt, m.xt);
        if (!minilm_relation(c, n, ds, m.xs, m.s) || !minilm_relation(c, n, dt, m.xt, m.t)) return false;
    }
    c->kernels->fill_f32(m.coef, n, (float)job->weight);
    memset(m.none, 0, n * sizeof *m.none);
    c->kernels->distill_f32(&(kd__distill_args){
        .rows = n, .classes = n, .student = m.s, .student_stride = n, .teacher = m.t, .teacher_stride = n, .hard_coef = m.none,
        .soft_coef = m.coef, .grad = grad ? m.s : NULL, .grad_stride = n, .hard = m.none, .soft = m.soft, .scratch = m.kernel,
        .masked = &masked, .temperature = 1, .js_beta = 0.5f, .direction = KD_DIRECTION_FORWARD,
        .teacher_form = KD_TEACHER_LOGITS });
    c->kernels->sum_f32(&sum, m.soft, n);
    *value = sum * job->weight;
    if (!grad) return true;
    for (size_t i = 0; i < n && job->scores; i++)
        for (size_t j = 0; j < n; j++) grad[m.index[i] * l + m.index[j]] = m.s[i * n + j];
    if (job->scores) return true;
    if (kd__gram_backward(c->ctx, m.s, m.xs, n, ds, m.dx) != KD_OK) return false;
    for (size_t i = 0; i < n; i++)
        c->kernels->unary_f32(KD_UNARY_SCALE_ADD, grad + m.index[i] * ws, m.dx + i * ds, ds, (float)(1 / sqrt((double)ds)), 0);
    return true;
}

static kd_status relation(const kd__core *c, double *value)
{
    const kd__relation *user = c->user;
    const size_t n = c->in[0]->shape[0];
    minilm_job job = { user->heads, c->in[0]->shape[c->in[0]->rank - 2], 0, c->x[2], c->in[0]->rank == 4 };
    minilm_room room;
    size_t valid = 0;
    for (size_t i = 0; i < n * job.tokens; i++) valid += !job.mask || job.mask[i] > 0;
    if (valid) job.weight = user->weight / ((double)job.heads * (double)valid);
    kd__core own = *c;
    own.user = &job;
    return kd__core_rows(&own, n * job.heads, minilm_cut(c, &job, NULL, &room) * sizeof(float), minilm_row, value);
}

kd_tensor *kd__relation_kl(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in, size_t tap, size_t heads,
                           float weight)
{
    kd_tensor *const inputs[] = { in->student[tap], in->teacher[tap], in->mask };
    return kd__core_run(tape, loss->name, inputs, 3, relation, &(kd__relation){ heads, (double)weight });
}

kd_status kd__relation_fits(const kd_loss_feature_desc *d, size_t tap, size_t heads, size_t tokens)
{
    const kd_feature_shape *s = &d->student[tap], *t = &d->teacher[tap];
    if (s->rank != 2 || t->rank != 2 || s->size[0] != tokens || t->size[0] != tokens)
        return kd__feature_misfit(d, tap, "they must be {tokens, width}, with the tokens of the first tap");
    if (s->size[1] % heads || t->size[1] % heads) return kd__feature_misfit(d, tap, "the heads do not divide the widths");
    return KD_OK;
}

static void defaults(kd_loss_feature_desc *d) { d->alpha = d->beta = 1; }

static kd_status check(kd_loss_feature_desc *d)
{
    if (d->alpha < 0 || d->beta < 0)
        return kd__fail(KD_ERR_ARG, "alpha %g, beta %g: both must be at least 0", (double)d->alpha, (double)d->beta);
    if (d->student_count != 2 || d->teacher_count != 2)
        return kd__fail(KD_ERR_ARG, "%zu student and %zu teacher taps: it takes scores and values of each", d->student_count,
                        d->teacher_count);
    const kd_feature_shape *s = d->student;
    if (s->rank != 3 || s->size[1] != s->size[2] || !kd__feature_shape_same(s, d->teacher))
        return kd__feature_misfit(d, 0, "they must be the same {heads, tokens, tokens}");
    return kd__relation_fits(d, 1, s->size[0], s->size[1]);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    const kd_loss_feature_desc *d = &loss->desc;
    kd_tensor *a = kd__relation_kl(loss, tape, in, 0, d->student[0].size[0], d->alpha);
    return kd__feature_add(tape, a, kd__relation_kl(loss, tape, in, 1, d->student[0].size[0], d->beta));
}

const kd__feature_method kd__feature_MINILM = {
    .formula = "alpha KL of attention rows + beta KL of rows of softmax(V V^T / sqrt(d)), mean over heads and tokens",
    .defaults = defaults, .check = check, .apply = apply
};
