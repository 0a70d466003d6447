/* test_feature_adapters.c - what the reference of a feature method cannot say: masks that are drawn, and drawn again by a run that
 * is resumed; FT's two stages; SimKD's network for use; SemCKD's batch.
 * SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include "distill/feature.h"
#include "kdtest.h"

enum { ROWS = 4, FLOATS = 4 * 4 * 6 };

typedef struct batch {
    kd_feature_shape     shape[2][2];
    float                data[2][2][ROWS * FLOATS], grad[2][ROWS * FLOATS];
    const float         *x[2][2];
    float               *g[2];
    kd_loss_feature_desc desc;
    kd_feature_batch     in;
} batch;

/* `taps` pairs of maps 4 x 4 x 6, or of 16 tokens of 6. */
static void make(batch *b, uint32_t method, size_t taps, size_t rank)
{
    kdtest_rand r = { 3 };
    memset(b, 0, sizeof *b);
    CHECK_OK(kd_loss_feature_desc_for(&b->desc, sizeof b->desc, method));
    for (size_t i = 0; i < 4; i++) {
        b->shape[i / 2][i % 2] = rank == 3 ? (kd_feature_shape){ 3, { 4, 4, 6 } } : (kd_feature_shape){ 2, { 16, 6 } };
        kdtest_fill(&r, b->data[i / 2][i % 2], ROWS * FLOATS, 1);
        b->x[i / 2][i % 2] = b->data[i / 2][i % 2];
        b->g[i % 2] = b->grad[i % 2];
    }
    b->desc.student = b->shape[0], b->desc.teacher = b->shape[1], b->desc.student_count = b->desc.teacher_count = taps;
    b->desc.adapters_external = 1, b->desc.weight = 1;
    b->in = (kd_feature_batch){ .struct_size = sizeof b->in, .rows = ROWS, .student = b->x[0], .teacher = b->x[1], .grad = b->g,
                                .train = 1 };
}

static kd_loss_feature *loss_of(const batch *b)
{
    kd_loss_feature *loss = NULL;
    CHECK_MSG(kd_loss_feature_create(&loss, NULL, &b->desc) == KD_OK, "%s", kd_last_error());
    return loss;
}

static double eval(kd_loss_feature *loss, batch *b)
{
    double value = NAN;
    CHECK_MSG(kd_loss_feature_eval(loss, &b->in, &value) == KD_OK, "%s", kd_last_error());
    return value;
}

/* Other masks from batch to batch; the same ones from a checkpoint on, and after a tape's stream was set back. */
static void resumes(uint32_t method, size_t taps, size_t rank)
{
    batch b;
    make(&b, method, taps, rank);
    b.desc.gamma = .5f, b.desc.beta = 1;
    kd_loss_feature *loss = loss_of(&b), *other = loss_of(&b);
    const double first = eval(loss, &b);
    uint8_t *state = malloc(kd__feature_state_size(loss));
    kd__feature_state_write(loss, state);
    const double second = eval(loss, &b), third = eval(loss, &b);
    CHECK_MSG(first != second && second != third, "%g, %g, %g: the same masks for all batches", first, second, third);
    CHECK_OK(kd__feature_state_check(other, state));
    kd__feature_state_read(other, state);
    CHECK(eval(other, &b) == second);
    CHECK(eval(other, &b) == third);
    b.in.train = 0;
    const double still = eval(loss, &b);
    CHECK(eval(loss, &b) == still);
    b.in.train = 1;
    CHECK(eval(loss, &b) == eval(other, &b));   /* without train nothing is drawn */

    kd_tape *tape;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    kd_rng place[2];
    double value[3];
    for (int k = 0; k < 3; k++) {
        if (k < 2) place[k] = kd_tape_rng(tape);
        else kd_tape_set_rng(tape, place[1]);
        kd_tensor *x[2][2];
        for (size_t i = 0; i < 2 * taps; i++) {
            const kd_feature_shape *s = &b.shape[i / taps][i % taps];
            size_t shape[5] = { ROWS };
            memcpy(shape + 1, s->size, s->rank * sizeof *shape);
            x[i / taps][i % taps] = kd_tape_constant(tape, s->rank + 1, shape, b.x[i / taps][i % taps]);
        }
        kd_feature_inputs in = { .struct_size = sizeof in, .student = x[0], .student_count = taps, .teacher = x[1],
                                 .teacher_count = taps };
        value[k] = kd_tensor_item(kd_loss_feature_apply(loss, tape, &in));
        CHECK_OK(kd_tape_status(tape));
        kd_tape_reset(tape);
    }
    CHECK_MSG(value[0] != value[1] && value[1] == value[2], "%g, %g, then %g again", value[0], value[1], value[2]);
    kd_tape_free(tape);
    free(state);
    kd_loss_feature_free(loss), kd_loss_feature_free(other);
}

TEST(masks_are_drawn_again_by_a_resumed_run)
{
    resumes(KD_FEATURE_MGD, 1, 3);
    resumes(KD_FEATURE_VITKD, 2, 2);
}

/* As many zeros in each row as asked for, each place as often as another, within five standard deviations. */
TEST(tokens_are_masked_evenly)
{
    enum { N = 4000, TOKENS = 9, MASKED = 4 };
    kd_tape *tape;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    const float *x = kd_tensor_f32(kd__draw_tokens(tape, N, TOKENS, MASKED));
    double often[TOKENS] = { 0 }, together = 0, p = (double)MASKED / TOKENS, q = p * (MASKED - 1) / (TOKENS - 1);
    for (size_t r = 0; r < N; r++) {
        size_t masked = 0;
        for (size_t i = 0; i < TOKENS; i++) {
            CHECK(x[r * TOKENS + i] == 0 || x[r * TOKENS + i] == 1);
            masked += x[r * TOKENS + i] == 0;
            often[i] += x[r * TOKENS + i] == 0;
        }
        together += x[r * TOKENS] == 0 && x[r * TOKENS + TOKENS - 1] == 0;
        CHECK(masked == MASKED);
    }
    for (size_t i = 0; i < TOKENS; i++) CHECK_NEAR(often[i], N * p, 5 * sqrt(N * p * (1 - p)));
    CHECK_NEAR(together, N * q, 5 * sqrt(N * q * (1 - q)));
    x = kd_tensor_f32(kd__draw_keep(tape, 2, (size_t[]){ N, 2 }, .15f));
    double dropped = 0;
    for (size_t i = 0; i < 2 * N; i++) dropped += x[i] == 0;
    CHECK_NEAR(dropped, 2 * N * .15, 5 * sqrt(2 * N * .15 * .85));
    kd_tape_free(tape);
    CHECK(kd__share(.7f, 10) == 7 && kd__share(.3f, 10) == 3 && kd__share(1 - .15f, 20) == 17 && kd__share(.5f, 5) == 2);
}

static void gradients(kd_model *m, const char *begin, float *out, size_t *n)
{
    *n = 0;
    for (size_t i = 0; i < kd_model_parameter_count(m); i++) {
        kd_param_info p = { .struct_size = sizeof p };
        CHECK_OK(kd_model_parameter_at(m, i, &p));
        if (strncmp(p.name, begin, strlen(begin)) || !p.grad) continue;
        memcpy(out + *n, p.grad, kd_tensor_count(p.tensor) * sizeof *out);
        *n += kd_tensor_count(p.tensor);
    }
}

/* The translator learns from the factor alone, the paraphraser from the reconstruction alone. */
TEST(factor_and_reconstruction_train_their_own)
{
    static float grad[3][2][4096];
    double value[3];
    size_t n[2] = { 0 };
    for (int k = 0; k < 3; k++) {
        batch b;
        make(&b, KD_FEATURE_FT, 1, 3);
        b.desc.alpha = k == 1 ? 0 : .5f, b.desc.beta = k == 0 ? 0 : .25f;
        kd_loss_feature *loss = loss_of(&b);
        value[k] = eval(loss, &b);
        for (int side = 0; side < 2; side++)
            gradients(kd_loss_feature_adapters(loss), side ? "t0" : "s0", grad[k][side], &n[side]);
        kd_loss_feature_free(loss);
    }
    CHECK(n[0] > 500 && n[1] > 500);
    CHECK_NEAR(value[2], value[0] + value[1], 1e-6 * value[2]);
    CHECK(!memcmp(grad[2][0], grad[0][0], n[0] * sizeof(float)));
    CHECK(!memcmp(grad[2][1], grad[1][1], n[1] * sizeof(float)));
    for (size_t i = 0; i < n[0]; i++) CHECK(grad[1][0][i] == 0);
    for (size_t i = 0; i < n[1]; i++) CHECK(grad[0][1][i] == 0);
    batch b;
    make(&b, KD_FEATURE_FT, 1, 3);
    b.desc.alpha = b.desc.beta = 0;
    kd_loss_feature *loss;
    CHECK_STATUS(kd_loss_feature_create(&loss, NULL, &b.desc), KD_ERR_ARG);
    CHECK_ERROR_HAS("ft");
}

/* As its page says: student's map, projector, mean, the teacher's classifier. */
TEST(simkd_runs_with_the_teachers_classifier)
{
    batch b;
    make(&b, KD_FEATURE_SIMKD, 1, 3);
    kd_loss_feature *loss = loss_of(&b);
    kd_layer *projector = kd_layer_child(kd_model_root(kd_loss_feature_adapters(loss)), "s0");
    kd_tape *tape;
    float head[6 * 3], bias[3] = { 1, 2, 3 };
    kdtest_rand r = { 8 };
    kdtest_fill(&r, head, 18, 1);
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    kd_tensor *x = kd_tape_constant(tape, 4, (size_t[]){ ROWS, 4, 4, 6 }, b.data[0][0]);
    x = kd_global_avg_pool(tape, kd_layer_forward(projector, tape, x));
    x = kd_linear(tape, x, kd_tape_constant(tape, 2, (size_t[]){ 6, 3 }, head), kd_tape_constant(tape, 1, (size_t[]){ 3 }, bias));
    CHECK_OK(kd_tape_status(tape));
    CHECK(kd_tensor_rank(x) == 2 && kd_tensor_size(x, 0) == ROWS && kd_tensor_size(x, 1) == 3);
    kd_tape_free(tape);
    kd_loss_feature_free(loss);
}

TEST(semckd_refuses_another_batch_size)
{
    batch b;
    double value = 7;
    make(&b, KD_FEATURE_SEMCKD, 2, 3);
    kd_loss_feature *loss;
    CHECK_STATUS(kd_loss_feature_create(&loss, NULL, &b.desc), KD_ERR_ARG);
    CHECK_ERROR_HAS("samples");
    b.desc.samples = ROWS;
    loss = loss_of(&b);
    eval(loss, &b);
    b.in.rows = ROWS - 1;
    CHECK_STATUS(kd_loss_feature_eval(loss, &b.in, &value), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("semckd: a batch of 3 rows, its adapters are for 4");
    CHECK(value == 7);
    kd_loss_feature_free(loss);
}

/* Shapes that do not fit are refused with the method's name and both shapes. */
TEST(misfits_name_the_method)
{
    static const struct { uint32_t method; size_t taps, rank; const char *text; } cases[] = {
        { KD_FEATURE_VID, 1, 4, "vid" }, { KD_FEATURE_FT, 2, 3, "ft: 2 pairs" }, { KD_FEATURE_MGD, 1, 2, "mgd" },
        { KD_FEATURE_SRRL, 1, 3, "teacher_weight" }, { KD_FEATURE_REVIEWKD, 1, 2, "reviewkd" },
        { KD_FEATURE_SIMKD, 2, 3, "simkd: 2 pairs" },
        { KD_FEATURE_CATKD, 1, 2, "catkd" }, { KD_FEATURE_VITKD, 1, 2, "vitkd" }, { KD_FEATURE_VITKD, 2, 3, "vitkd" },
        { KD_FEATURE_FBKD, 2, 3, "fbkd: 2 pairs" }, { KD_FEATURE_SRD, 2, 3, "srd: 2 pairs" },
        { KD_FEATURE_SEMCKD, 1, 2, "semckd" } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        batch b;
        kd_loss_feature *loss = NULL;
        make(&b, cases[i].method, cases[i].taps, cases[i].rank);
        b.desc.samples = ROWS;
        if (cases[i].rank == 4) b.shape[0][0].rank = b.shape[1][0].rank = 4, b.shape[0][0].size[3] = b.shape[1][0].size[3] = 2;
        kd_status status = kd_loss_feature_create(&loss, NULL, &b.desc);
        CHECK_MSG(status == KD_ERR_ARG || status == KD_ERR_SHAPE, "case %zu: %s", i, kd_status_name(status));
        CHECK_ERROR_HAS(cases[i].text);
        kd_loss_feature_free(loss);
    }
}
