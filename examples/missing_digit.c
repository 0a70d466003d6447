/* missing_digit.c - the student never sees a 3, and learns it from its teacher's doubts (Hinton et al. 2015, section 3).
 * SPDX-License-Identifier: MIT
 *
 * The teacher knows all ten digits.  The student is taught on images without a single 3: all it hears of that class is
 * how much a 2 or an 8 looks like one.  Its bias for class 3 comes out far too low, since 3 was never the answer; one
 * number, chosen on 180 validation images, puts that right.
 *
 *     missing_digit [DIR with digits-images.idx and digits-labels.idx] */
#include <kd.h>
#include <stdio.h>
#include <stdlib.h>
#include "support/report.h"

#define TRY(call) do { if ((st = (call)) != KD_OK) goto done; } while (0)
enum { MISSING = 3, CLASSES = 10, VALIDATION = 180, TEST = 360, STEPS = 1380 };

/* Adam with a cosine schedule; 0.1 CE + 0.9 T^2 KL when there is a teacher, true labels alone when there is none. */
static kd_status train(kd_model *student, kd_model *teacher, const kd_dataset *data, float temperature, uint32_t shift)
{
    kd_loss_distill *loss = NULL;
    kd_optimizer *opt = NULL;
    kd_loader *batches = NULL;
    kd_tape *look = NULL, *learn = NULL;
    kd_tensor *x, *y, *t = NULL;
    kd_loss_distill_desc how;
    kd_optimizer_desc adam;
    kd_schedule_desc cosine;
    kd_loader_desc order;
    kd_status st;

    kd_loss_distill_desc_init(&how, sizeof how);
    how.temperature = temperature;
    if (!teacher) how.hard_weight = 1, how.soft_weight = 0;
    kd_optimizer_desc_init(&adam, sizeof adam);
    adam.method = KD_OPT_ADAM;
    adam.lr = 3e-3f;
    kd_schedule_desc_init(&cosine, sizeof cosine);
    cosine.kind = KD_SCHEDULE_COSINE;
    cosine.total_steps = STEPS;
    kd_loader_desc_init(&order, sizeof order);
    order.scale = 1.0f / 16;
    order.shift = shift;
    TRY(kd_loss_distill_create(&loss, NULL, &how));
    TRY(kd_optimizer_create(&opt, NULL, &adam));
    TRY(kd_optimizer_add(opt, student));
    TRY(kd_optimizer_set_schedule(opt, &cosine));
    TRY(kd_loader_create(&batches, NULL, data, &order));
    TRY(kd_tape_create(&look, NULL, KD_TAPE_INFER));
    TRY(kd_tape_create(&learn, NULL, KD_TAPE_TRAIN));
    while (kd_optimizer_steps(opt) < STEPS) {
        if ((st = kd_loader_next(batches, &x, &y)) == KD_END) continue;
        if (st != KD_OK) goto done;
        if (teacher) t = kd_model_forward(teacher, look, x);
        kd_tensor *s = kd_model_forward(student, learn, x);
        TRY(kd_backward(learn, kd_loss_distill_apply(loss, learn, s, t, y)));
        TRY(kd_optimizer_step(opt));
        kd_tape_reset(learn);
        kd_tape_reset(look);
    }
    st = KD_OK;
done:
    kd_tape_free(learn);
    kd_tape_free(look);
    kd_loader_free(batches);
    kd_optimizer_free(opt);
    kd_loss_distill_free(loss);
    return st;
}

/* Percent right over all classes, and over the missing one, with `bias` added to that class's logit. */
static kd_status accuracy(kd_model *model, const kd_dataset *data, float bias, double *all, double *missing)
{
    kd_loader *batches = NULL;
    kd_tape *tape = NULL;
    kd_tensor *x, *y;
    size_t right = 0, seen = 0, right_missing = 0;
    kd_loader_desc order;
    kd_status st;

    kd_loader_desc_init(&order, sizeof order);
    order.batch = kd_dataset_count(data);
    order.shuffle = 0;
    order.scale = 1.0f / 16;
    TRY(kd_loader_create(&batches, NULL, data, &order));
    TRY(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    TRY(kd_loader_next(batches, &x, &y));
    kd_tensor *logits = kd_model_forward(model, tape, x);
    TRY(kd_tape_status(tape));
    const float *z = kd_tensor_f32(logits);
    const int32_t *label = kd_tensor_data(y);
    for (size_t r = 0; r < order.batch; r++, z += CLASSES) {
        int best = 0;
        for (int c = 1; c < CLASSES; c++)
            if (z[c] + (c == MISSING ? bias : 0) > z[best] + (best == MISSING ? bias : 0)) best = c;
        right += best == label[r];
        seen += label[r] == MISSING;
        right_missing += label[r] == MISSING && best == MISSING;
    }
    *all = 100.0 * (double)right / (double)order.batch;
    *missing = 100.0 * (double)right_missing / (double)(seen ? seen : 1);
done:
    kd_tape_free(tape);
    kd_loader_free(batches);
    return st;
}

/* What came of one temperature, for each seed: percent right before and after the bias was raised, and by how much. */
enum { SEEDS = 5, TEMPERATURES = 4 };
static const float temperature[TEMPERATURES] = { 1, 2, 4, 8 };
typedef struct outcome { double threes_before[SEEDS], all_before[SEEDS], threes[SEEDS], all[SEEDS], bias[SEEDS]; } outcome;

/* One split of the data, one teacher, a student at each temperature. */
static kd_status experiment(const kd_dataset *data, uint64_t seed, double teacher_right[2][SEEDS], outcome out[TEMPERATURES])
{
    kd_dataset *full = NULL, *without = NULL, *validation = NULL, *test = NULL;
    kd_model *teacher = NULL, *student = NULL;
    size_t count = kd_dataset_count(data), train_count = count - TEST - VALIDATION, kept = 0;
    uint32_t *order = malloc(2 * count * sizeof *order);
    kd_rng rng = kd_rng_make(2015 + seed);
    kd_cnn_desc cnn;
    kd_status st = KD_ERR_NOMEM;
    if (!order) goto done;

    for (size_t i = 0; i < count; i++) order[i] = (uint32_t)i;
    for (size_t i = count; i > 1; i--) {
        size_t j = (size_t)kd_rng_below(&rng, i);
        uint32_t swap = order[i - 1];
        order[i - 1] = order[j], order[j] = swap;
    }
    TRY(kd_dataset_subset(&full, data, order, train_count));
    for (size_t i = 0; i < train_count; i++)          /* the student's images: everything but the 3s */
        if (kd_dataset_labels(full)[i] != MISSING) order[count + kept++] = order[i];
    TRY(kd_dataset_subset(&without, data, order + count, kept));
    TRY(kd_dataset_subset(&validation, data, order + train_count, VALIDATION));
    TRY(kd_dataset_subset(&test, data, order + train_count + VALIDATION, TEST));

    kd_cnn_desc_init(&cnn, sizeof cnn);
    cnn.height = cnn.width = 8;
    cnn.hidden = 64;
    TRY(kd_zoo_cnn(&teacher, NULL, &cnn, seed));
    TRY(train(teacher, NULL, full, 1, 1));
    kd_model_freeze(teacher, 1);
    TRY(accuracy(teacher, test, 0, &teacher_right[0][seed], &teacher_right[1][seed]));
    for (size_t i = 0; i < TEMPERATURES; i++) {
        double all, missing, best = -1;
        float bias = 0;
        kd_model_free(student);
        TRY(kd_zoo_mlp(&student, NULL, (size_t[]){ 64, 32, CLASSES }, 3, KD_ACT_RELU, 100 + seed));
        TRY(train(student, teacher, without, temperature[i], 0));
        TRY(accuracy(student, test, 0, &out[i].all_before[seed], &out[i].threes_before[seed]));
        for (float b = 0; b <= 20; b += 0.25f) {      /* one number, from the validation images */
            TRY(accuracy(student, validation, b, &all, &missing));
            if (all > best) best = all, bias = b;
        }
        TRY(accuracy(student, test, bias, &out[i].all[seed], &out[i].threes[seed]));
        out[i].bias[seed] = (double)bias;
    }
done:
    kd_model_free(student);
    kd_model_free(teacher);
    kd_dataset_free(test);
    kd_dataset_free(validation);
    kd_dataset_free(without);
    kd_dataset_free(full);
    free(order);
    return st;
}

int main(int argc, char **argv)
{
    static outcome out[TEMPERATURES];
    static double teacher_right[2][SEEDS];
    const char *dir = argc > 1 ? argv[1] : "examples/data";
    char images[512], labels[512];
    kd_dataset *data = NULL;
    kd_status st = KD_OK;

    snprintf(images, sizeof images, "%s/digits-images.idx", dir);
    snprintf(labels, sizeof labels, "%s/digits-labels.idx", dir);
    TRY(kd_dataset_open_idx(&data, NULL, images, labels));
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        fprintf(stderr, "seed %d of %d\n", (int)seed + 1, SEEDS);
        TRY(experiment(data, seed, teacher_right, out));
    }
    printf("%d seeds; percent right on %d test images, mean +- standard deviation\n\n", SEEDS, TEST);
    printf("teacher, which knows all digits:   all %4.1f +- %3.1f   the 3s %4.1f\n\n", mean(teacher_right[0], SEEDS),
           deviation(teacher_right[0], SEEDS), mean(teacher_right[1], SEEDS));
    printf("student, taught without a single 3\n          as it is           one bias raised\n");
    printf("  T       all   the 3s       by      all            the 3s\n");
    for (size_t i = 0; i < TEMPERATURES; i++)
        printf("  %g      %4.1f   %4.1f        %4.1f     %4.1f +- %3.1f    %4.1f +- %4.1f\n", (double)temperature[i],
               mean(out[i].all_before, SEEDS), mean(out[i].threes_before, SEEDS), mean(out[i].bias, SEEDS), mean(out[i].all, SEEDS),
               deviation(out[i].all, SEEDS), mean(out[i].threes, SEEDS), deviation(out[i].threes, SEEDS));
done:
    if (st != KD_OK) fprintf(stderr, "missing_digit: %s\n", kd_last_error());
    kd_dataset_free(data);
    return st != KD_OK;
}
