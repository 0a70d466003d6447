/* bench_features.c - the methods between features as cases: value and gradient on plain pointers, their adapters trained.
 * SPDX-License-Identifier: MIT */
#include "bench_cases.h"
#include "distill/feature.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Taps as "16x16x64/256"; teacher NULL: the student's.  classes: of logits, or of the teacher's classifier. */
typedef struct setting { const char *student, *teacher; size_t width, classes; } setting;
#define MAP "16x16x64"
static const setting settings[] = {
    [KD_FEATURE_FITNET] = { MAP, MAP, 0, 0 }, [KD_FEATURE_AT] = { MAP, MAP, 0, 0 }, [KD_FEATURE_SP] = { "256", "256", 0, 0 },
    [KD_FEATURE_CC] = { "256", "256", 0, 0 }, [KD_FEATURE_VID] = { MAP, MAP, 0, 0 }, [KD_FEATURE_RKD] = { "256", "256", 0, 0 },
    [KD_FEATURE_PKT] = { "256", "256", 0, 0 }, [KD_FEATURE_AB] = { MAP, MAP, 0, 0 }, [KD_FEATURE_FT] = { MAP, MAP, 0, 0 },
    [KD_FEATURE_FSP] = { MAP "/" MAP, MAP "/" MAP, 0, 0 }, [KD_FEATURE_NST] = { MAP, MAP, 0, 0 },
    [KD_FEATURE_KDSVD] = { MAP "/" MAP, MAP "/" MAP, 0, 0 }, [KD_FEATURE_CRD] = { "256", "256", 0, 0 },
    [KD_FEATURE_IRG] = { MAP "/8x8x64/256", MAP "/8x8x64/256", 0, 100 }, [KD_FEATURE_OFD] = { MAP, MAP, 0, 0 },
    [KD_FEATURE_REVIEWKD] = { MAP "/8x8x64", MAP "/8x8x64", 0, 0 }, [KD_FEATURE_SIMKD] = { MAP, MAP, 0, 0 },
    [KD_FEATURE_CATKD] = { "16x16x100", MAP, 0, 100 }, [KD_FEATURE_MGD] = { MAP, MAP, 0, 0 }, [KD_FEATURE_CWD] = { MAP, MAP, 0, 0 },
    [KD_FEATURE_PKD] = { MAP, MAP, 0, 0 }, [KD_FEATURE_SRRL] = { MAP, MAP, 0, 100 }, [KD_FEATURE_ICKD] = { MAP, MAP, 0, 0 },
    [KD_FEATURE_SRD] = { "256", "256", 0, 0 }, [KD_FEATURE_VITKD] = { "64x192/64x192", "64x192/64x192", 0, 0 },
    [KD_FEATURE_SEMCKD] = { "8x8x64", "8x8x64/4x4x64", 0, 0 }, [KD_FEATURE_TINYBERT] = { "4x32x32/32x256", "4x32x32/32x256", 0, 0 },
    [KD_FEATURE_MINILM] = { "4x32x32/32x256", "4x32x32/32x256", 0, 0 },
    [KD_FEATURE_MINILM2] = { "32x256/32x256/32x256", "32x256/32x256/32x256", 8, 0 }, [KD_FEATURE_COSINE] = { "32x256", "32x256", 0, 0 },
    [KD_FEATURE_LD] = { "64x17", "64x17", 0, 0 }, [KD_FEATURE_FBKD] = { MAP, MAP, 0, 0 },
};
enum { CRD_SAMPLES = 1024 };

static size_t shapes(const char *t, kd_feature_shape s[BENCH_TAPS])
{
    size_t count = 0;
    for (char *end; t && count < BENCH_TAPS; t = *end == '/' ? end + 1 : NULL, count++) {
        memset(&s[count], 0, sizeof *s);
        for (end = (char *)(uintptr_t)t;; end++) {
            s[count].size[s[count].rank++] = (size_t)strtoull(end, &end, 10);
            if (*end != 'x') break;
        }
    }
    return count;
}

static size_t tap_sizes(const bench_case *c, kd_feature_shape s[BENCH_TAPS], size_t *elements)
{
    const size_t count = shapes(settings[c->distill].student, s);
    *elements = 0;
    for (size_t i = 0; i < count; i++) {
        size_t n = c->n[0];
        for (size_t a = 0; a < s[i].rank; a++) n *= s[i].size[a];
        *elements += n;
    }
    return count;
}

double bench_feature_work(const bench_case *what)
{
    kd_feature_shape s[BENCH_TAPS];
    size_t elements;
    tap_sizes(what, s, &elements);
    return (double)elements;
}

static kd_tensor *drawn(bench *b, kd_rng *rng, size_t rows, const kd_feature_shape *s)
{
    size_t shape[5] = { rows }, rank = (rows > 0) + s->rank;
    memcpy(shape + (rows > 0), s->size, s->rank * sizeof *shape);
    kd_tensor *t;
    BENCH_NEED(kd_tensor_create(&t, b->ctx, KD_F32, rank, shape));
    for (size_t i = 0; i < kd_tensor_count(t); i++) kd_tensor_f32(t)[i] = 2 * kd_rng_uniform(rng) - 1;
    return t;
}

/* The adapters' parameters or their gradients, in a row. */
static kd_tensor *gathered(bench *b, int gradients)
{
    kd_model *m = kd_loss_feature_adapters(b->feature);
    kd_param_info p = { .struct_size = sizeof p };
    kd_tensor *out = NULL;
    for (int pass = 0; m && pass < 2; pass++) {
        size_t at = 0;
        for (size_t i = 0; i < kd_model_parameter_count(m); i++) {
            BENCH_NEED(kd_model_parameter_at(m, i, &p));
            if (p.kind & KD_PARAM_BUFFER) continue;
            const size_t n = kd_tensor_count(p.tensor);
            if (out) memcpy(kd_tensor_f32(out) + at, gradients ? p.grad : kd_tensor_f32(p.tensor), n * sizeof(float));
            at += n;
        }
        if (!at) return NULL;
        if (!out) BENCH_NEED(kd_tensor_create(&out, b->ctx, KD_F32, 1, &at));
    }
    return out;
}

void bench_feature_open(bench *b, kd_rng *rng)
{
    const size_t rows = b->what->n[0];
    const setting *how = &settings[b->what->distill];
    kd_feature_shape s[BENCH_TAPS], t[BENCH_TAPS];
    kd_loss_feature_desc d;
    const float *weight[BENCH_TAPS], *bias[BENCH_TAPS];
    BENCH_NEED(kd_loss_feature_desc_for(&d, sizeof d, b->what->distill));
    d.student = s, d.student_count = shapes(how->student, s);
    d.teacher = t, d.teacher_count = shapes(how->teacher, t);
    d.warmup = 0, d.adapters_external = 1;
    if (how->width) d.width = how->width;
    d.classes = how->classes;
    if (b->what->distill == KD_FEATURE_MGD) d.gamma = 0;   /* what is masked is drawn: nothing is */
    if (b->what->distill == KD_FEATURE_SEMCKD) d.samples = rows;
    if (b->what->distill == KD_FEATURE_CRD) d.samples = d.negatives = CRD_SAMPLES;
    for (size_t i = 0; i < d.student_count; i++) b->taps[0][i] = drawn(b, rng, rows, &s[i]), b->taps[2][i] = drawn(b, rng, rows, &s[i]);
    for (size_t i = 0; i < d.teacher_count; i++) b->taps[1][i] = drawn(b, rng, rows, &t[i]);
    const kd_feature_shape *last = &t[d.teacher_count - 1];
    const kd_feature_shape logits = { 1, { how->classes } }, head = { 2, { last->size[last->rank - 1], how->classes } };
    const kd_feature_shape channels = { 1, { last->size[last->rank - 1] } };
    if (b->what->distill == KD_FEATURE_IRG) {
        for (size_t i = 0; i < 3; i++) b->logits[i] = drawn(b, rng, rows, &logits);
    } else if (how->classes) {
        b->head[0] = drawn(b, rng, 0, &head), b->head[1] = drawn(b, rng, 0, &logits);
        d.teacher_weight = kd_tensor_f32(b->head[0]), d.teacher_bias = kd_tensor_f32(b->head[1]);
    }
    if (b->what->distill == KD_FEATURE_OFD) {
        b->head[0] = drawn(b, rng, 0, &channels), b->head[1] = drawn(b, rng, 0, &channels);
        weight[0] = kd_tensor_f32(b->head[0]), bias[0] = kd_tensor_f32(b->head[1]);
        d.teacher_bn_weight = weight, d.teacher_bn_bias = bias;
    }
    if (b->what->distill == KD_FEATURE_CRD) {
        BENCH_NEED(kd_tensor_create(&b->y, b->ctx, KD_I32, 1, &rows));
        for (size_t i = 0; i < rows; i++) ((int32_t *)kd_tensor_data(b->y))[i] = (int32_t)(3 * i % CRD_SAMPLES);
    }
    if (b->what->distill == KD_FEATURE_VITKD) {
        const kd_feature_shape tokens = { 1, { s[0].size[0] } };
        b->second = drawn(b, rng, rows, &tokens);
        for (size_t i = 0; i < kd_tensor_count(b->second); i++) kd_tensor_f32(b->second)[i] = (float)(i % 2);
    }
    BENCH_NEED(kd_loss_feature_create(&b->feature, b->ctx, &d));
    b->adapters[0] = gathered(b, 0);
    const size_t half = b->feature->state_floats / 2;   /* the student's memory, the teacher's */
    for (size_t i = 0; i < 2 && b->what->distill == KD_FEATURE_CRD; i++) {
        BENCH_NEED(kd_tensor_create(&b->adapters[2 + i], b->ctx, KD_F32, 1, &half));
        memcpy(kd_tensor_f32(b->adapters[2 + i]), b->feature->state + i * half, half * sizeof(float));
    }
}

double bench_feature(bench *b)
{
    const float *s[BENCH_TAPS] = { 0 }, *t[BENCH_TAPS] = { 0 };
    float *grad[BENCH_TAPS] = { 0 };
    double value = 0;
    for (size_t i = 0; i < BENCH_TAPS; i++) {
        if (b->taps[0][i]) s[i] = kd_tensor_f32(b->taps[0][i]), grad[i] = kd_tensor_f32(b->taps[2][i]);
        if (b->taps[1][i]) t[i] = kd_tensor_f32(b->taps[1][i]);
    }
    kd_feature_batch in;
    memset(&in, 0, sizeof in);
    in.struct_size = sizeof in, in.rows = b->what->n[0], in.train = 1;
    in.student = s, in.teacher = t, in.grad = grad;
    if (b->y) in.indices = kd_tensor_data(b->y);
    if (b->second) in.mask = kd_tensor_f32(b->second);
    if (b->logits[0]) {
        in.student_logits = kd_tensor_f32(b->logits[0]), in.teacher_logits = kd_tensor_f32(b->logits[1]);
        in.grad_logits = kd_tensor_f32(b->logits[2]);
    }
    if (b->adapters[0]) kd_model_zero_grads(kd_loss_feature_adapters(b->feature));
    BENCH_NEED(kd_loss_feature_eval(b->feature, &in, &value));
    return value;
}

double bench_feature_dump(bench *b)
{
    const double value = bench_feature(b);
    b->adapters[1] = gathered(b, 1);
    return value;
}

void bench_feature_close(bench *b)
{
    kd_loss_feature_free(b->feature);
    for (size_t i = 0; i < BENCH_TAPS; i++)
        for (size_t k = 0; k < 3; k++) kd_tensor_free(b->taps[k][i]);
    for (size_t i = 0; i < 3; i++) kd_tensor_free(b->logits[i]);
    for (size_t i = 0; i < 4; i++) kd_tensor_free(b->adapters[i]);
    kd_tensor_free(b->head[0]), kd_tensor_free(b->head[1]);
}
