/* stages.c - a curriculum of a few lines: features first, then logits, with a term that warms up and a temperature that falls.
 * SPDX-License-Identifier: MIT
 *
 *   stage 1, features only   the student's hidden layer learns to predict the teacher's (FitNets), the classifier waits
 *   stage 2, logits          cross-entropy and soft labels: the soft term warms up over four epochs, T falls from 8 to 2, and the
 *                            weight moves from the labels to the teacher
 *
 *     stages [examples/data] */
#include <kd.h>
#include <stdio.h>
#define TRY(call) do { if ((st = (call)) != KD_OK) goto done; } while (0)

enum { TEACHER_EPOCHS = 10, FEATURE_EPOCHS = 5, LOGIT_EPOCHS = 10, LABELS = 200 };

/* One model learns from `data`; NULL where there is none: teacher, feature, loss. */
typedef struct course {
    kd_model *student, *teacher;
    kd_loss_feature *feature;
    kd_loss_distill *loss;
    kd_optimizer *opt;
    kd_loader *batches;
    kd_tape *look, *learn;
} course;

/* An epoch; *mean is the mean loss of its batches. */
static kd_status epoch(const course *c, double *mean)
{
    kd_tensor *x, *y, *t = NULL, *ours, *theirs;
    kd_status st;
    size_t batches = 0;
    *mean = 0;
    while ((st = kd_loader_next(c->batches, &x, &y)) == KD_OK) {
        if (c->teacher) t = kd_model_forward(c->teacher, c->look, x);
        kd_tensor *s = kd_model_forward(c->student, c->learn, x), *l = NULL;
        if (c->loss) l = kd_loss_distill_apply(c->loss, c->learn, s, t, y);
        if (c->feature) {
            ours = kd_model_tapped(c->student, c->learn, "fc1");
            theirs = kd_model_tapped(c->teacher, c->look, "fc1");
            kd_feature_inputs in = { .struct_size = sizeof in, .student = &ours, .student_count = 1, .teacher = &theirs,
                                     .teacher_count = 1 };
            kd_tensor *f = kd_loss_feature_apply(c->feature, c->learn, &in);
            l = l ? kd_add(c->learn, l, f) : f;
        }
        TRY(kd_backward(c->learn, l));
        TRY(kd_optimizer_step(c->opt));
        *mean += (double)kd_tensor_item(l);
        batches++;
        kd_tape_reset(c->learn);
        kd_tape_reset(c->look);
    }
    if (st == KD_END) st = KD_OK;
    if (batches) *mean /= (double)batches;
done:
    return st;
}

/* Percent of the images from `first` on that the model gets right. */
static kd_status accuracy(kd_model *model, const kd_dataset *data, size_t first, double *percent)
{
    kd_dataset *test = NULL;
    kd_loader *batches = NULL;
    kd_tape *tape = NULL;
    kd_tensor *x, *y;
    kd_loader_desc order;
    kd_status st;
    static uint32_t rows[2048];
    size_t count = kd_dataset_count(data) - first, right = 0;
    if (count > 2048) count = 2048;
    for (size_t i = 0; i < count; i++) rows[i] = (uint32_t)(first + i);
    kd_loader_desc_init(&order, sizeof order);
    order.scale = 1.0f / 16;
    TRY(kd_dataset_subset(&test, data, rows, count));
    TRY(kd_loader_create(&batches, NULL, test, &order));
    TRY(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    while ((st = kd_loader_next(batches, &x, &y)) == KD_OK) {
        kd_tensor *logits = kd_model_forward(model, tape, x);
        TRY(kd_tape_status(tape));
        const float *z = kd_tensor_f32(logits);
        const int32_t *label = kd_tensor_data(y);
        for (size_t r = 0; r < kd_tensor_size(logits, 0); r++, z += 10) {
            int32_t best = 0;
            for (int32_t k = 1; k < 10; k++)
                if (z[k] > z[best]) best = k;
            right += best == label[r];
        }
        kd_tape_reset(tape);
    }
    if (st == KD_END) st = KD_OK;
    *percent = 100 * (double)right / (double)count;
done:
    kd_tape_free(tape);
    kd_loader_free(batches);
    kd_dataset_free(test);
    return st;
}

static kd_status optimizer(kd_optimizer **out, kd_model *model)
{
    kd_optimizer_desc adam;
    kd_status st;
    kd_optimizer_desc_init(&adam, sizeof adam);
    adam.method = KD_OPT_ADAM;
    adam.lr = 3e-3f;
    TRY(kd_optimizer_create(out, NULL, &adam));
    TRY(kd_optimizer_add(*out, model));
done:
    return st;
}

int main(int argc, char **argv)
{
    const char *dir = argc > 1 ? argv[1] : "examples/data";
    char images[600], labels[600];
    kd_dataset *data = NULL, *train = NULL;
    kd_model *teacher = NULL, *student = NULL;
    kd_loss_distill *alone = NULL, *loss = NULL;
    kd_loss_feature *feature = NULL;
    kd_optimizer *opt = NULL;
    course c = { 0 };
    double value, percent;
    static uint32_t rows[1400];
    kd_loader_desc order;
    kd_loss_distill_desc how;
    kd_status st;
    snprintf(images, sizeof images, "%s/digits-images.idx", dir);
    snprintf(labels, sizeof labels, "%s/digits-labels.idx", dir);
    TRY(kd_dataset_open_idx(&data, NULL, images, labels));
    for (uint32_t i = 0; i < 1400; i++) rows[i] = i;
    TRY(kd_dataset_subset(&train, data, rows, 1400));
    kd_loader_desc_init(&order, sizeof order);
    order.scale = 1.0f / 16;
    TRY(kd_loader_create(&c.batches, NULL, train, &order));
    TRY(kd_tape_create(&c.look, NULL, KD_TAPE_INFER));
    TRY(kd_tape_create(&c.learn, NULL, KD_TAPE_TRAIN));

    /* A teacher that has all labels; the student shall have few. */
    TRY(kd_zoo_mlp(&teacher, NULL, (size_t[]){ 64, 128, 128, 10 }, 4, KD_ACT_RELU, 1));
    kd_loss_distill_desc_init(&how, sizeof how);
    how.hard_weight = 1, how.soft_weight = 0;
    TRY(kd_loss_distill_create(&alone, NULL, &how));
    TRY(optimizer(&c.opt, teacher));
    c.student = teacher, c.loss = alone;
    for (int i = 0; i < TEACHER_EPOCHS; i++) TRY(epoch(&c, &value));
    TRY(accuracy(teacher, data, 1400, &percent));
    printf("teacher: loss %.4f, %.1f %% of the test images\n", value, percent);
    kd_model_freeze(teacher, 1);
    for (size_t i = LABELS; i < 1400; i++) kd_dataset_labels(train)[i] = -1;

    /* Stage 1: no loss on the logits, so only the layers below the tap learn. */
    TRY(kd_zoo_mlp(&student, NULL, (size_t[]){ 64, 16, 10 }, 3, KD_ACT_RELU, 2));
    TRY(kd_model_tap(teacher, "fc1"));
    TRY(kd_model_tap(student, "fc1"));
    kd_feature_shape narrow = { 1, { 16 } }, wide = { 1, { 128 } };
    kd_loss_feature_desc hint;
    TRY(kd_loss_feature_desc_for(&hint, sizeof hint, KD_FEATURE_FITNET));
    hint.student = &narrow, hint.student_count = 1;
    hint.teacher = &wide, hint.teacher_count = 1;
    hint.weight = 1;
    TRY(kd_loss_feature_create(&feature, NULL, &hint));
    TRY(optimizer(&opt, student));
    TRY(kd_optimizer_add(opt, kd_loss_feature_adapters(feature)));
    kd_optimizer_free(c.opt);
    c.opt = opt, opt = NULL;
    c.student = student, c.teacher = teacher, c.loss = NULL, c.feature = feature;
    for (int i = 0; i < FEATURE_EPOCHS; i++) {
        TRY(epoch(&c, &value));
        printf("stage 1, features only: epoch %d, loss %.4f\n", i + 1, value);
    }

    /* Stage 2: another optimizer, without the adapters; the terms move from epoch to epoch. */
    kd_loss_distill_desc_init(&how, sizeof how);
    how.unlabelled_index = -1;
    how.warmup = 4;
    TRY(kd_loss_distill_create(&loss, NULL, &how));
    TRY(optimizer(&opt, student));
    kd_optimizer_free(c.opt);
    c.opt = opt, opt = NULL;
    c.loss = loss, c.feature = NULL;
    kd_schedule_desc falling;
    kd_schedule_desc_init(&falling, sizeof falling);
    falling.kind = KD_SCHEDULE_LINEAR;
    falling.total_steps = LOGIT_EPOCHS - 1;
    falling.final_factor = 0.25f;
    for (int i = 0; i < LOGIT_EPOCHS; i++) {
        float temperature = 8 * (float)kd_schedule_factor(&falling, (uint64_t)i);
        float soft = 0.5f + 0.4f * (float)i / (LOGIT_EPOCHS - 1);
        TRY(kd_loss_distill_set_temperature(loss, temperature));
        TRY(kd_loss_distill_set_weights(loss, 1 - soft, soft));
        TRY(epoch(&c, &value));
        TRY(kd_loss_distill_advance(loss));
        TRY(accuracy(student, data, 1400, &percent));
        printf("stage 2, logits: epoch %d, T %.1f, weights %.2f and %.2f, loss %.4f, %.1f %%\n", i + 1, (double)temperature,
               1 - (double)soft, (double)soft, value, percent);
    }
done:
    if (st != KD_OK) fprintf(stderr, "stages: %s\n", kd_last_error());
    kd_tape_free(c.learn);
    kd_tape_free(c.look);
    kd_loader_free(c.batches);
    kd_optimizer_free(opt);
    kd_optimizer_free(c.opt);
    kd_loss_feature_free(feature);
    kd_loss_distill_free(loss);
    kd_loss_distill_free(alone);
    kd_model_free(student);
    kd_model_free(teacher);
    kd_dataset_free(train);
    kd_dataset_free(data);
    return st != KD_OK;
}
