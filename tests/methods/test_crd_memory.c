/* test_crd_memory.c - what contrastive distillation keeps between batches: the memories, Z, the place in its stream of draws.
 * SPDX-License-Identifier: MIT */
#include "distill/feature.h"
#include "kdtest.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 5, IN = 6, SAMPLES = 40, WIDTH = 8, BATCHES = 3 };
static const kd_feature_shape shape = { 1, { IN } };

static kd_loss_feature *make(size_t negatives)
{
    kd_loss_feature_desc d;
    kd_loss_feature *loss = NULL;
    CHECK_OK(kd_loss_feature_desc_for(&d, sizeof d, KD_FEATURE_CRD));
    d.student = d.teacher = &shape, d.student_count = d.teacher_count = 1;
    d.samples = SAMPLES, d.negatives = negatives, d.width = WIDTH, d.seed = 3, d.weight = 1, d.adapters_external = 1;
    d.temperature = .5f;
    CHECK_OK(kd_loss_feature_create(&loss, NULL, &d));
    return loss;
}

typedef struct batch { float s[ROWS * IN], t[ROWS * IN], grad[ROWS * IN]; int32_t own[ROWS]; } batch;

static void fill(batch *b, uint64_t seed)
{
    kdtest_rand r = { seed };
    kdtest_fill(&r, b->s, ROWS * IN, 1), kdtest_fill(&r, b->t, ROWS * IN, 1);
    for (size_t i = 0; i < ROWS; i++) b->own[i] = (int32_t)kdtest_size(&r, 0, SAMPLES - 1);
    b->own[ROWS - 1] = b->own[0];   /* one sample twice */
}

static double run(kd_loss_feature *loss, batch *b, int train)
{
    const float *s = b->s, *t = b->t;
    float *grad = b->grad;
    double value = NAN;
    kd_feature_batch in = { .struct_size = sizeof in, .rows = ROWS, .student = &s, .teacher = &t, .grad = &grad,
                            .indices = b->own, .train = (uint32_t)train };
    CHECK_OK(kd_loss_feature_eval(loss, &in, &value));
    return value;
}

/* Row b through an adapter, of length 1, in double. */
static void embed(const kd_loss_feature *loss, const char *path, const float *x, double e[WIDTH])
{
    const float *w = kd_tensor_f32(kd__adapter_parameter(loss, path, "weight"));
    const float *bias = kd_tensor_f32(kd__adapter_parameter(loss, path, "bias"));
    double square = 0;
    for (size_t k = 0; k < WIDTH; k++) {
        e[k] = (double)bias[k];
        for (size_t i = 0; i < IN; i++) e[k] += (double)x[i] * (double)w[i * WIDTH + k];
        square += e[k] * e[k];
    }
    for (size_t k = 0; k < WIDTH; k++) e[k] /= sqrt(square);
}

/* The value of a batch with all samples as negatives, from memories as they were and log Z. */
static double expected(const kd_loss_feature *loss, const batch *b, const float *memory, const double log_z[2])
{
    const double m = (SAMPLES - 1.0) / SAMPLES;
    double total = 0, e[WIDTH];
    for (size_t side = 0; side < 2; side++)
        for (size_t r = 0; r < ROWS; r++) {
            embed(loss, side ? "t0.linear" : "s0.linear", (side ? b->t : b->s) + r * IN, e);
            for (size_t i = 0; i < SAMPLES; i++) {
                double dot = 0;
                for (size_t k = 0; k < WIDTH; k++) dot += e[k] * (double)memory[((1 - side) * SAMPLES + i) * WIDTH + k];
                const double P = exp(dot / .5 - log_z[side]);
                total -= i == (size_t)b->own[r] ? log(P / (P + m + 1e-7)) : log(m / (P + m + 1e-7));
            }
        }
    return total / ROWS;
}

/* What a batch makes of the memories. */
static void remember(const kd_loss_feature *loss, const batch *b, double *memory)
{
    double e[WIDTH];
    for (size_t r = 0; r < ROWS; r++)
        for (size_t side = 0; side < 2; side++) {
            double *at = memory + (side * SAMPLES + (size_t)b->own[r]) * WIDTH, square = 0;
            embed(loss, side ? "t0.linear" : "s0.linear", (side ? b->t : b->s) + r * IN, e);
            for (size_t k = 0; k < WIDTH; k++) at[k] = .5 * at[k] + .5 * e[k], square += at[k] * at[k];
            for (size_t k = 0; k < WIDTH; k++) at[k] /= sqrt(square);
        }
}

/* Values near 100 of terms near 4; embeddings, scores and sums of 8 to 40 numbers: 100 roundings of the whole. */
#define TOLERANCE (100 * 100 * 0x1p-24)

TEST(second_batch)
{
    kd_loss_feature *loss = make(0);
    batch b;
    double memory[2 * SAMPLES * WIDTH], log_z[2];
    float before[2 * SAMPLES * WIDTH];
    CHECK(loss->state_floats == sizeof before / sizeof *before);
    for (size_t i = 0; i < 2 * SAMPLES * WIDTH; i++) memory[i] = (double)loss->state[i];
    for (uint64_t n = 0; n < BATCHES; n++) {
        fill(&b, n + 1);
        memcpy(before, loss->state, sizeof before);
        const double value = run(loss, &b, 1);
        if (n == 0) memcpy(log_z, loss->counter + 2, sizeof log_z);
        CHECK_MSG(memcmp(log_z, loss->counter + 2, sizeof log_z) == 0, "Z changed in batch %u", (unsigned)n);
        const double want = expected(loss, &b, before, log_z);
        CHECK_MSG(fabs(value - want) <= TOLERANCE, "batch %u: %.9g, want %.9g", (unsigned)n, value, want);
        remember(loss, &b, memory);
        CHECK(loss->counter[0] == (n + 1) * ROWS);
        for (size_t i = 0; i < 2 * SAMPLES * WIDTH; i++)   /* six roundings of numbers up to 1 a batch, and an embedding's */
            CHECK_MSG(fabs((double)loss->state[i] - memory[i]) <= 64 * 0x1p-24, "batch %u: memory[%zu] is %.9g, want %.9g",
                      (unsigned)n, i, (double)loss->state[i], memory[i]);
    }
    kd_loss_feature_free(loss);
}

TEST(eval_changes_nothing)
{
    kd_loss_feature *loss = make(9);
    batch b;
    fill(&b, 1);
    for (int seen = 0; seen < 2; seen++) {
        const size_t bytes = kd__feature_state_size(loss);
        uint8_t *was = malloc(bytes), *is = malloc(bytes);
        kd__feature_state_write(loss, was);
        const double first = run(loss, &b, 0), second = run(loss, &b, 0);
        CHECK_MSG(first == second, "%.9g, then %.9g", first, second);
        kd__feature_state_write(loss, is);
        CHECK_MSG(memcmp(was, is, bytes) == 0, "EVAL left a trace, %d batches seen", seen);
        free(was), free(is);
        run(loss, &b, 1);
    }
    kd_loss_feature_free(loss);
}

/* From a state on: the same values, gradients and draws. */
TEST(resumes)
{
    kd_loss_feature *one = make(9), *two = make(9);
    batch b, c;
    double value[BATCHES], before = 0;
    fill(&b, 1);
    run(one, &b, 1);
    const size_t bytes = kd__feature_state_size(one);
    uint8_t *state = malloc(bytes);
    kd__feature_state_write(one, state);
    CHECK_OK(kd__feature_state_check(two, state));
    kd__feature_state_read(two, state);
    for (uint64_t n = 0; n < BATCHES; n++) {
        fill(&b, 1), fill(&c, 1);   /* the same batch: only draws and memories make the difference */
        value[n] = run(one, &b, 1);
        CHECK_MSG(run(two, &c, 1) == value[n] && !memcmp(b.grad, c.grad, sizeof b.grad), "batch %u after a resume differs",
                  (unsigned)n);
        CHECK_MSG(value[n] != before, "batch %u has the value of the one before", (unsigned)n);
        before = value[n];
    }
    CHECK(!memcmp(one->state, two->state, one->state_floats * sizeof(float)));
    kd_loss_feature *frozen = make(9);   /* the draws alone: memories back where they were */
    kd__feature_state_read(frozen, state);
    const double first = run(frozen, &b, 1);
    const uint64_t drawn = frozen->counter[0];
    kd__feature_state_read(frozen, state);
    frozen->counter[0] = drawn;
    CHECK_MSG(run(frozen, &b, 1) != first, "the next batch has the same negatives");
    free(state);
    kd_loss_feature_free(one), kd_loss_feature_free(two), kd_loss_feature_free(frozen);
}
