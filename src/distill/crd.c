/* crd.c - contrastive representation distillation (Tian, Krishnan, Isola 2020, arXiv 1910.10699).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = 1/B sum_b [ h(P_b0) + sum_{k = 1 .. K} g(P_bk) ] + the same with teacher and student exchanged
 *     h(P) = -log(P / (P + m + e)),  g(P) = -log(m / (P + m + e)),  m = K / N,  e = 1e-7
 *     P_bk = exp(u_b . M_k / T) / Z,  u = student's embedding of length 1, M: the teacher's memory of the row's own sample
 *     (k = 0) and of K others, N: samples of the data set; exchanged: v = the teacher's embedding, the student's memory
 *     after a batch on a TRAIN tape: the memory of its samples = alpha memory + (1 - alpha) embedding, again of length 1
 * Gradient: -sigmoid for the own sample, +sigmoid for the others, of x = log(P / (m + e)), times M / (T B), through the
 *     length.
 * Divides by: rows (B); the sum over negatives is not divided.
 * Detached: memories and Z.  The teacher's tap is a constant; its embedding is trained.
 * Taps: one pair of any shapes, each sample flattened.  `indices`: which samples; `samples`: N.
 * Adapters: "s0.linear", "t0.linear" to `width`.
 * State: the memories, 2 N width floats (N = 50000, width 128: 51 MB; a million samples: 1 GB), Z, and where the draws are:
 *     all of it in checkpoints.
 * Defaults: weight 0.8, alpha 0.5, T 0.07, width 128, negatives 16384 (CIFAR-100, the pooled vector); with KD its weight is
 *     1.
 * Forms: one.
 * Traps: Z is taken once, N times the mean of exp(..) of the first TRAIN batch, as the weights published go with it; here
 *     it is in the checkpoint with the memories, so that a run goes on as it would have.  P is never formed: log-space
 *     terms neither overflow at small T nor need an e in a logarithm.  Negatives are other samples, drawn evenly with
 *     replacement from the loss's own stream, a function of seed, batch and row alone; with `negatives` at least N - 1, all
 *     of them once.  The public sampler leaves out samples of the row's class: here 1 in `classes` of the draws is one.  A
 *     zero embedding has no gradient.  EVAL changes
 *     nothing and uses its own batch's Z until there is one.  Of several processes each keeps its own memories.
 * Published: CIFAR-100 ResNet32x4 -> 8x4 75.51, WRN-40-2 -> 16-2 75.48.
 * Cost: 12 bytes a negative and row and 2 dot products of `width`; with at most 8 samples a negative they are products with
 *     the whole memory, and 4 bytes more a sample and row. The public code gathers 8 width bytes for each. */
#include "distill/feature.h"
#include <math.h>

enum { CRD_SPLIT_MEMORY = 0x63726401, CRD_SPLIT_DRAWS = 0x63726402, CRD_BLOCK = 256 };   /* streams of the seed; terms at once */
/* Products with the whole memory cost what so many times fewer single rows do: measured 8 to 14, with AVX2 6 to 12, of 2000 to 50000
 * samples of 128. */
enum { CRD_DENSE = 8 };
static const double crd_e = 1e-7;

static void defaults(kd_loss_feature_desc *d) { d->weight = 0.8f, d->alpha = 0.5f, d->temperature = 0.07f; }

static kd_status check(kd_loss_feature_desc *d)
{
    size_t floats;
    KD_TRY(kd__feature_pairs(d, 1, ~0u));
    if (d->student_count != 1) return kd__fail(KD_ERR_ARG, "%zu pairs of taps, it takes 1", d->student_count);
    if (!(d->alpha >= 0 && d->alpha <= 1)) return kd__fail(KD_ERR_ARG, "alpha %g is not in [0, 1]", (double)d->alpha);
    if (d->samples < 1 || d->samples > INT32_MAX)
        return kd__fail(KD_ERR_ARG, "samples %zu: how many samples the data set has, at most 2^31 - 1", d->samples);
    if (!d->width) d->width = 128;
    if (!d->negatives) d->negatives = 16384;
    d->negatives = KD_MIN(d->negatives, d->samples - 1);
    if (!kd__mul(2 * sizeof(float), d->samples, &floats) || !kd__mul(floats, d->width, &floats))
        return kd__fail(KD_ERR_ARG, "samples %zu, width %zu: memories of this size do not fit", d->samples, d->width);
    return KD_OK;
}

static size_t state_floats(const kd_loss_feature_desc *d) { return 2 * d->samples * d->width; }

/* counter: rows drawn for; whether there is a Z; the bits of the two log Z */
static kd_status begin(kd_loss_feature *loss)
{
    const kd_rng seed = kd_rng_make(loss->desc.seed);
    kd_rng rng = kd_rng_split(&seed, CRD_SPLIT_MEMORY);
    const float bound = (float)(1 / sqrt((double)loss->desc.width / 3));
    kd__rng_fill_uniform(&rng, loss->state, loss->state_floats);
    loss->ctx->kernels->unary_f32(KD_UNARY_SCALE_ADD, loss->state, loss->state, loss->state_floats, 2 * bound, -bound);
    return KD_OK;
}

typedef struct crd_call { const kd_loss_feature *loss; const int64_t *own; bool train; } crd_call;

/* Side 0: student's embeddings beside the teacher's memory; 1: the other way round. */
typedef struct crd_job {
    const kd__core *c;
    const crd_call *call;
    size_t    n, width, samples, terms;   /* terms: the own sample, then negatives */
    double    inverse_t, shift[2];        /* log Z + log(m + e) */
    const float *bank[2];
    float    *unit[2], *norm[2], *score[2], *part;   /* [n, width], [n], [n, terms], [n, width] */
    uint32_t *index;                      /* [n, terms], the own sample first; NULL: all samples in order */
    float    *dense;                      /* [n, samples]: scores of all samples, or their gradients, of `side`; NULL: one by one */
    size_t    side;
    double   *value[2];                   /* [n]: of a side; first the logarithm of the sum of exp(scores / T) */
} crd_job;

static void crd_draw(size_t b, void *arg)
{
    const crd_job *job = arg;
    const kd_loss_feature *loss = job->call->loss;
    const uint32_t others = (uint32_t)job->samples - 1, own = (uint32_t)job->call->own[b];
    const kd_rng seed = kd_rng_make(loss->desc.seed), draws = kd_rng_split(&seed, CRD_SPLIT_DRAWS);
    const kd_rng row = kd_rng_split(&draws, loss->counter[0] + b);
    const uint32_t key[2] = { (uint32_t)row.key, (uint32_t)(row.key >> 32) };
    uint32_t *index = job->index + b * job->terms, word[4];
    index[0] = own;
    for (uint32_t k = 0; k + 1 < job->terms; k++) {
        if (k % 4 == 0)
            kd_rng_philox(word, (const uint32_t[4]){ k / 4 }, key);
        uint32_t other = (uint32_t)((uint64_t)word[k % 4] * others >> 32);
        index[k + 1] = other + (other >= own);
    }
}

/* Of row b, what was drawn from the scores of all samples. */
static void crd_take(size_t b, void *arg)
{
    const crd_job *job = arg;
    const uint32_t *index = job->index + b * job->terms;
    const float *from = job->dense + b * job->samples;
    float *score = job->score[job->side] + b * job->terms;
    for (size_t k = 0; k < job->terms; k++) score[k] = from[index[k]];
}

/* And the gradients back: a sample may have been drawn more than once. */
static void crd_give(size_t b, void *arg)
{
    const crd_job *job = arg;
    const uint32_t *index = job->index + b * job->terms;
    const float *grad = job->score[job->side] + b * job->terms;
    float *to = job->dense + b * job->samples;
    memset(to, 0, job->samples * sizeof *to);
    for (size_t k = 0; k < job->terms; k++) to[index[k]] += grad[k];
}

/* Scores of row b, where they are not there; without a Z the logarithm of their exponentials' sum. */
static void crd_scores(size_t b, void *arg)
{
    const crd_job *job = arg;
    for (size_t side = 0; side < 2; side++) {
        const float *e = job->unit[side] + b * job->width;
        float *score = job->score[side] + b * job->terms, top = -INFINITY;
        for (size_t k = 0; job->index && !job->dense && k < job->terms; k++) {
            double dot;
            job->c->kernels->dot_f32(&dot, e, job->bank[side] + (size_t)job->index[b * job->terms + k] * job->width, job->width);
            score[k] = (float)dot;
        }
        if (job->call->loss->counter[1]) continue;
        double sum = 0;
        for (size_t k = 0; k < job->terms; k++) top = KD_MAX(top, score[k]);
        for (size_t k = 0; k < job->terms; k++) sum += kd__fixed_exp(((double)score[k] - (double)top) * job->inverse_t);
        job->value[side][b] = (double)top * job->inverse_t + kd__fixed_log(sum);
    }
}

/* log Z: the stored one, or log(N mean exp(score / T)) of this batch. */
static double crd_log_z(const crd_job *job, size_t side)
{
    double z, top = -INFINITY, sum = 0;
    if (job->call->loss->counter[1]) {
        memcpy(&z, &job->call->loss->counter[2 + side], sizeof z);
        return z;
    }
    for (size_t b = 0; b < job->n; b++) top = KD_MAX(top, job->value[side][b]);
    for (size_t b = 0; b < job->n; b++) sum += kd__fixed_exp(job->value[side][b] - top);
    return top + kd__fixed_log(sum * (double)job->samples / ((double)job->n * (double)job->terms));
}

/* Row b on both sides: values; scores become their gradients. */
static void crd_terms(size_t b, void *arg)
{
    const crd_job *job = arg;
    const kd__kernels *k = job->c->kernels;
    const size_t own = job->index ? 0 : (size_t)job->call->own[b];
    const double by = job->inverse_t / (double)job->n;
    for (size_t side = 0; side < 2; side++) {
        float *x = job->score[side] + b * job->terms, y[CRD_BLOCK];
        double value = 0, sum;
        for (size_t from = 0; from < job->terms; from += CRD_BLOCK) {
            const size_t count = KD_MIN(job->terms - from, (size_t)CRD_BLOCK);
            for (size_t i = from; i < from + count; i++) x[i] = (float)((double)x[i] * job->inverse_t - job->shift[side]);
            if (own - from < count) x[own] = -x[own];
            k->unary_f32(KD_UNARY_SOFTPLUS, y, x + from, count, 0, 0);
            k->sum_f32(&sum, y, count);
            value += sum;
            k->unary_f32(KD_UNARY_SIGMOID, x + from, x + from, count, 0, 0);
            k->unary_f32(KD_UNARY_SCALE_ADD, x + from, x + from, count, (float)by, 0);
            if (own - from < count) x[own] = -x[own];
        }
        job->value[side][b] = value;
    }
}

/* The gradient of row b's embeddings from that of its scores, by blocks of them. */
static void crd_gather(size_t b, void *arg)
{
    const crd_job *job = arg;
    const kd__kernels *k = job->c->kernels;
    const size_t width = job->width;
    for (size_t side = 0; side < 2; side++) {
        const float *x = job->score[side] + b * job->terms;
        float *grad = job->c->grad[side] + b * width, *part = job->part + b * width;
        if (!job->c->grad[side]) continue;
        memset(grad, 0, width * sizeof *grad);
        for (size_t from = 0; from < job->terms; from += CRD_BLOCK) {
            memset(part, 0, width * sizeof *part);
            for (size_t i = from; i < KD_MIN(job->terms, from + CRD_BLOCK); i++)
                k->axpy_f32(part, job->bank[side] + (size_t)job->index[b * job->terms + i] * width, width, x[i]);
            k->axpy_f32(grad, part, width, 1);
        }
    }
}

/* The memories take note of the batch, row by row: a sample that is in it twice does so twice. */
static void crd_remember(const crd_job *job, float *memory)
{
    const kd__kernels *k = job->c->kernels;
    const float share = 1 - job->call->loss->desc.alpha;
    float norm;
    for (size_t b = 0; b < job->n; b++)
        for (size_t side = 0; side < 2; side++) {   /* the student's come first */
            if (!isfinite(job->norm[side][b])) continue;
            float *m = memory + (side * job->samples + (size_t)job->call->own[b]) * job->width;
            memcpy(job->part, m, job->width * sizeof *m);
            k->approach_f32(job->part, job->unit[side] + b * job->width, job->width, share);
            k->l2_normalize_rows_f32(1, job->width, job->part, 1e-12f, m, &norm);
        }
}

static kd_status run(crd_job *job, double *value)
{
    const kd_loss_feature *loss = job->call->loss;
    const kd__core *c = job->c;
    const double negatives = (double)(job->terms - 1), m = negatives / (double)job->samples;
    const size_t n = job->n, w = job->width;
    double z[2];
    if (job->index) kd__parallel(c->ctx, n, crd_draw, job);
    for (size_t side = 0; side < 2; side++) {
        c->kernels->l2_normalize_rows_f32(n, w, c->x[side], 1e-12f, job->unit[side], job->norm[side]);
        job->bank[side] = loss->state + (side ? 0 : job->samples * w);
        if (job->index && !job->dense) continue;
        KD_TRY(kd__gemm(c->ctx, &(kd__gemm_args){ .m = n, .n = job->samples, .k = w, .a = job->unit[side], .a_stride = w,
                                                  .b = job->bank[side], .b_stride = w, .b_transposed = true,
                                                  .c = job->index ? job->dense : job->score[side], .c_stride = job->samples }));
        job->side = side;
        if (job->index) kd__parallel(c->ctx, n, crd_take, job);
    }
    kd__parallel(c->ctx, n, crd_scores, job);
    for (size_t side = 0; side < 2; side++) {
        z[side] = crd_log_z(job, side);
        job->shift[side] = z[side] + kd__fixed_log(m + crd_e);
    }
    kd__parallel(c->ctx, n, crd_terms, job);
    if (job->index && !job->dense) kd__parallel(c->ctx, n, crd_gather, job);
    for (size_t side = 0; side < 2; side++) {
        if (!c->grad[side]) continue;
        job->side = side;
        if (job->dense) kd__parallel(c->ctx, n, crd_give, job);
        if (job->dense || !job->index)
            KD_TRY(kd__gemm(c->ctx, &(kd__gemm_args){ .m = n, .n = w, .k = job->samples,
                                                      .a = job->index ? job->dense : job->score[side], .a_stride = job->samples,
                                                      .b = job->bank[side], .b_stride = w, .c = c->grad[side], .c_stride = w }));
        kd__unit_backward(c->kernels, n, w, job->unit[side], job->norm[side], c->grad[side]);
    }
    *value = 0;
    for (size_t b = 0; b < n; b++) *value += job->value[0][b] + job->value[1][b];
    *value /= (double)n;
    if (negatives > 0) *value += 2 * negatives * kd__fixed_log(1 + crd_e / m);
    if (!job->call->train) return KD_OK;
    crd_remember(job, loss->state);
    loss->counter[0] += n;
    if (loss->counter[1] || !isfinite(z[0]) || !isfinite(z[1])) return KD_OK;
    loss->counter[1] = 1;
    memcpy(loss->counter + 2, z, sizeof z);
    return KD_OK;
}

static kd_status core(const kd__core *c, double *value)
{
    const crd_call *call = c->user;
    const kd_loss_feature_desc *d = &call->loss->desc;
    const size_t n = c->in[0]->shape[0], w = d->width;
    crd_job job = { .c = c, .call = call, .n = n, .width = w, .samples = d->samples, .terms = d->negatives + 1,
                    .inverse_t = 1 / (double)d->temperature };
    double *sums = kd__scratch_get(c->ctx, 2 * n * sizeof *sums);
    float *rows = kd__scratch_get(c->ctx, n * (3 * w + 2) * sizeof *rows);
    float *scores = kd__scratch_get(c->ctx, 2 * n * job.terms * sizeof *scores);
    size_t bytes = 0;
    const bool all = job.terms == d->samples;
    const bool dense = !all && d->samples / CRD_DENSE < job.terms && kd__mul(n * sizeof *job.dense, d->samples, &bytes);
    if (!all) job.index = kd__scratch_get(c->ctx, n * job.terms * sizeof *job.index);
    if (dense) job.dense = kd__scratch_get(c->ctx, bytes);
    kd_status status = sums && rows && scores && (all || job.index) && (!dense || job.dense)
                           ? KD_OK : kd__fail(KD_ERR_NOMEM, "crd: out of memory");
    if (status == KD_OK) {
        for (size_t side = 0; side < 2; side++) {
            job.unit[side] = rows + side * n * w;
            job.norm[side] = rows + 3 * n * w + side * n;
            job.score[side] = scores + side * n * job.terms;
            job.value[side] = sums + side * n;
        }
        job.part = rows + 2 * n * w;
        status = run(&job, value);
    }
    kd__scratch_put(c->ctx, job.dense);
    kd__scratch_put(c->ctx, job.index);
    kd__scratch_put(c->ctx, scores);
    kd__scratch_put(c->ctx, rows);
    kd__scratch_put(c->ctx, sums);
    return status;
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    kd_tensor *e[2];
    kd__embed_pair_forward(loss, tape, in, e);
    const crd_call call = { loss, in->indices, tape->mode == KD_TAPE_TRAIN };
    return kd__core_run(tape, "crd", e, 2, core, &call);
}

const kd__feature_method kd__feature_CRD = {
    .formula = "-log(P / (P + m)) of the own sample - sum log(m / (P + m)) of negatives, P = exp(u . memory / T) / Z, both ways",
    .needs = KD__NEEDS_INDICES, .defaults = defaults, .check = check, .adapters = kd__embed_pair, .state_floats = state_floats,
    .begin = begin, .apply = apply
};
