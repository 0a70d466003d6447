/* test_training.c - whole runs: a student learns more from a teacher; a step allocates nothing.
 * SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include "kdtest.h"

/* A task both can learn: ten directions in 32 dimensions with noise. */
enum { DIM = 32, CLASSES = 10, TRAIN = 2000, LABELLED = 40, TEST_COUNT = 1000 };

typedef struct task { float x[(TRAIN + TEST_COUNT) * DIM]; int32_t y[TRAIN + TEST_COUNT]; } task;

static task *make_task(void)
{
    static task t;
    float centre[CLASSES][DIM];
    kd_rng rng = kd_rng_make(99);
    for (int c = 0; c < CLASSES; c++)
        for (int d = 0; d < DIM; d++) centre[c][d] = kd_rng_normal(&rng);
    for (int i = 0; i < TRAIN + TEST_COUNT; i++) {
        t.y[i] = (int32_t)kd_rng_below(&rng, CLASSES);
        for (int d = 0; d < DIM; d++) t.x[i * DIM + d] = centre[t.y[i]][d] + 1.6f * kd_rng_normal(&rng);
    }
    return &t;
}

static double accuracy(kd_model *m, const task *t)
{
    kd_tape *tape;
    size_t right = 0;
    if (kd_tape_create(&tape, NULL, KD_TAPE_INFER) != KD_OK) return 0;
    kd_tensor *x = kd_tape_constant(tape, 2, (size_t[]){ TEST_COUNT, DIM }, t->x + TRAIN * DIM);
    const float *z = kd_tensor_f32(kd_model_forward(m, tape, x));
    for (size_t i = 0; z && i < TEST_COUNT; i++, z += CLASSES) {
        size_t best = 0;
        for (size_t c = 1; c < CLASSES; c++)
            if (z[c] > z[best]) best = c;
        right += (int32_t)best == t->y[TRAIN + i];
    }
    kd_tape_free(tape);
    return (double)right / TEST_COUNT;
}

static int learn(kd_context *ctx, kd_model *student, kd_model *teacher, const task *t, size_t labelled, size_t count, size_t epochs)
{
    kd_dataset *data = NULL;
    kd_loader *loader = NULL;
    kd_loss_distill *loss = NULL;
    kd_optimizer *opt = NULL;
    kd_tape *look = NULL, *tape = NULL;
    kd_tensor *x, *y, *soft = NULL;
    int ok = 0;
    kd_loss_distill_desc how;
    kd_optimizer_desc adam;
    kd_loader_desc order;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.unlabelled_index = -1;
    if (!teacher) how.hard_weight = 1, how.soft_weight = 0;
    kd_optimizer_desc_init(&adam, sizeof adam);
    adam.method = KD_OPT_ADAM, adam.lr = 3e-3f;
    kd_loader_desc_init(&order, sizeof order);
    if (!CHECK_OK(kd_dataset_wrap(&data, ctx, KD_F32, count, 1, (size_t[]){ DIM }, t->x, t->y))) goto done;
    for (size_t i = labelled; i < count; i++) kd_dataset_labels(data)[i] = -1;
    if (!CHECK_OK(kd_loader_create(&loader, ctx, data, &order)) || !CHECK_OK(kd_loss_distill_create(&loss, ctx, &how)) ||
        !CHECK_OK(kd_optimizer_create(&opt, ctx, &adam)) || !CHECK_OK(kd_optimizer_add(opt, student)) ||
        !CHECK_OK(kd_tape_create(&look, ctx, KD_TAPE_INFER)) || !CHECK_OK(kd_tape_create(&tape, ctx, KD_TAPE_TRAIN)))
        goto done;
    for (size_t e = 0; e < epochs; e++) {
        kd_status st;
        while ((st = kd_loader_next(loader, &x, &y)) == KD_OK) {
            if (teacher) soft = kd_model_forward(teacher, look, x);
            kd_tensor *l = kd_loss_distill_apply(loss, tape, kd_model_forward(student, tape, x), soft, y);
            if (!CHECK_OK(kd_backward(tape, l)) || !CHECK_OK(kd_optimizer_step(opt))) goto done;
            kd_tape_reset(tape), kd_tape_reset(look);
        }
        if (!CHECK_STATUS(st, KD_END)) goto done;
    }
    ok = 1;
done:
    kd_tape_free(tape), kd_tape_free(look);
    kd_optimizer_free(opt);
    kd_loss_distill_free(loss);
    kd_loader_free(loader);
    kd_dataset_free(data);
    return ok;
}

TEST(a_teacher_helps)
{
    const task *t = make_task();
    kd_model *teacher = NULL, *alone = NULL, *taught = NULL;
    CHECK_OK(kd_zoo_mlp(&teacher, NULL, (size_t[]){ DIM, 128, CLASSES }, 3, KD_ACT_RELU, 1));
    CHECK_OK(kd_zoo_mlp(&alone, NULL, (size_t[]){ DIM, 16, CLASSES }, 3, KD_ACT_RELU, 2));
    CHECK_OK(kd_zoo_mlp(&taught, NULL, (size_t[]){ DIM, 16, CLASSES }, 3, KD_ACT_RELU, 2));
    /* the same number of steps: 2000 / 64 in an epoch against 1 */
    if (learn(NULL, teacher, NULL, t, TRAIN, TRAIN, 10) && learn(NULL, alone, NULL, t, LABELLED, LABELLED, 320) &&
        learn(NULL, taught, teacher, t, LABELLED, TRAIN, 10)) {
        double a = accuracy(teacher, t), b = accuracy(alone, t), c = accuracy(taught, t);
        /* 1000 test items: two standard errors of a difference are below 0.045 */
        CHECK_MSG(c > b + 0.09 && c > a - 0.09, "teacher %.3f, student alone %.3f, taught %.3f", a, b, c);
    }
    kd_model_free(teacher), kd_model_free(alone), kd_model_free(taught);
}

/* From the second step on nothing is allocated, whatever the model, the optimizer or the number of threads. */
static void counted(kd_model *(*make)(kd_context *ctx, uint64_t seed), size_t rank, const size_t *shape, uint32_t threads)
{
    kdtest_alloc a;
    memset(&a, 0, sizeof a);
    kdtest_alloc_begin(&a, threads, KD_ISA_AUTO);
    kd_model *student = make(a.ctx, 1), *teacher = make(a.ctx, 2);
    kd_loss_distill *loss = NULL;
    kd_optimizer *opt = NULL;
    kd_tape *look = NULL, *tape = NULL;
    kd_tensor *x = NULL, *y = NULL;
    kd_optimizer_desc adam;
    kd_optimizer_desc_init(&adam, sizeof adam);
    adam.method = KD_OPT_ADAM, adam.lr = 1e-3f, adam.max_grad_norm = 1;
    CHECK_OK(kd_loss_distill_create(&loss, a.ctx, NULL));
    CHECK_OK(kd_optimizer_create(&opt, a.ctx, &adam));
    CHECK_OK(kd_optimizer_add(opt, student));
    CHECK_OK(kd_tape_create(&look, a.ctx, KD_TAPE_INFER));
    CHECK_OK(kd_tape_create(&tape, a.ctx, KD_TAPE_TRAIN));
    CHECK_OK(kd_tensor_create(&x, a.ctx, KD_F32, rank, shape));
    CHECK_OK(kd_tensor_create(&y, a.ctx, KD_I32, 1, shape));
    kd_model_freeze(teacher, 1);
    size_t calls = 0;
    for (int step = 0; step < 4; step++) {
        kd_tensor *t = kd_model_forward(teacher, look, x);
        CHECK_OK(kd_backward(tape, kd_loss_distill_apply(loss, tape, kd_model_forward(student, tape, x), t, y)));
        CHECK_OK(kd_optimizer_step(opt));
        kd_tape_reset(tape), kd_tape_reset(look);
        if (step > 0) CHECK_MSG(a.calls == calls, "step %d allocated %zu times", step + 1, a.calls - calls);
        calls = a.calls;
    }
    kd_tensor_free(x), kd_tensor_free(y);
    kd_tape_free(tape), kd_tape_free(look);
    kd_optimizer_free(opt);
    kd_loss_distill_free(loss);
    kd_model_free(student), kd_model_free(teacher);
    kdtest_alloc_end(&a);
}

static kd_model *mlp(kd_context *ctx, uint64_t seed)
{
    kd_model *m = NULL;
    CHECK_OK(kd_zoo_mlp(&m, ctx, (size_t[]){ 300, 700, 10 }, 3, KD_ACT_RELU, seed));
    return m;
}

static kd_model *cnn(kd_context *ctx, uint64_t seed)
{
    kd_model *m = NULL;
    kd_cnn_desc how;
    kd_cnn_desc_init(&how, sizeof how);
    how.height = how.width = 16, how.batch_norm = 1, how.dropout = 0.1f;
    CHECK_OK(kd_zoo_cnn(&m, ctx, &how, seed));
    return m;
}

static kd_model *resnet(kd_context *ctx, uint64_t seed)
{
    kd_model *m = NULL;
    CHECK_OK(kd_zoo_resnet_cifar(&m, ctx, 8, 1, 10, seed));
    return m;
}

TEST(a_step_allocates_nothing)
{
    for (uint32_t threads = 1; threads <= 3; threads++) {
        counted(mlp, 2, (size_t[]){ 200, 300 }, threads);
        counted(cnn, 4, (size_t[]){ 20, 16, 16, 1 }, threads);
        counted(resnet, 4, (size_t[]){ 4, 32, 32, 3 }, threads);
    }
}
