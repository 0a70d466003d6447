/* explain.c - which number does a loss compute?  One batch of the digits through any method, told by kd_loss_explain; with one of the usual
 * mistakes, and its warning, on request.
 * SPDX-License-Identifier: MIT
 *
 *     explain [--method NAME] [--temperature T] [--hard W] [--soft W] [--epochs N] [--mistake NAME] [--data examples/data] */
#include <kd.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define TRY(call) do { if ((st = (call)) != KD_OK) goto done; } while (0)

enum { ROWS = 64, CLASSES = 10, KEPT = 4 };

typedef enum mistake { NONE, TRAIN_TAPE, PROBABILITIES, LOGITS, NO_T2, ELEMENTS, PADDING, SHIFTED, ORDER, SAME, IGNORED, NOT_A_NUMBER,
                       BALANCE, MISTAKES } mistake;
static const char *const mistake_name[MISTAKES] = { "none", "train-tape", "probabilities", "logits", "no-t2", "elements", "padding",
                                                    "shifted", "order", "same", "ignored", "nan", "balance" };

/* A teacher worth its name: cross-entropy alone for some epochs. */
static kd_status train(kd_model *model, const kd_dataset *data, const kd_loader_desc *order, int epochs)
{
    kd_loss_distill *loss = NULL;
    kd_optimizer *opt = NULL;
    kd_loader *batches = NULL;
    kd_tape *tape = NULL;
    kd_tensor *x, *y;
    kd_loss_distill_desc how;
    kd_status st;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.hard_weight = 1, how.soft_weight = 0;
    TRY(kd_loss_distill_create(&loss, NULL, &how));
    TRY(kd_optimizer_create(&opt, NULL, NULL));
    TRY(kd_optimizer_add(opt, model));
    TRY(kd_optimizer_set_lr(opt, 0.05f));
    TRY(kd_loader_create(&batches, NULL, data, order));
    TRY(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    st = KD_OK;
    for (int epoch = 0; epoch < epochs; epoch++) {
        while ((st = kd_loader_next(batches, &x, &y)) == KD_OK) {
            TRY(kd_backward(tape, kd_loss_distill_apply(loss, tape, kd_model_forward(model, tape, x), NULL, y)));
            TRY(kd_optimizer_step(opt));
            kd_tape_reset(tape);
        }
        if (st != KD_END) goto done;
        st = KD_OK;
    }
done:
    kd_tape_free(tape);
    kd_loader_free(batches);
    kd_optimizer_free(opt);
    kd_loss_distill_free(loss);
    return st;
}

/* What goes wrong with the numbers of a batch; s and t are logits [ROWS, CLASSES]. */
static void spoil(mistake what, float *s, float *t, int32_t *y)
{
    for (size_t r = 0; r < ROWS; r++) {
        float *row = t + r * CLASSES;
        if (what == PROBABILITIES && kd_softmax_rows(NULL, 1, CLASSES, row, CLASSES, 1, row, CLASSES) != KD_OK) return;
        if (what == IGNORED) y[r] = -100;
        if (what == PADDING && r >= ROWS - 8) y[r] = 0;
        for (size_t c = 0; c < CLASSES; c++) {
            if (what == PADDING && r >= ROWS - 8) row[c] = 0;
            if (what == ORDER && c < CLASSES / 2) {
                float swap = row[c];
                row[c] = row[CLASSES - 1 - c], row[CLASSES - 1 - c] = swap;
            }
        }
    }
    if (what == SHIFTED) memmove(y + 1, y, (ROWS - 1) * sizeof *y);
    if (what == NOT_A_NUMBER) s[3 * CLASSES + 7] = NAN;
}

/* Of each teacher's row the KEPT largest, for a sparse method. */
static void keep_largest(const float *t, float *values, int32_t *classes)
{
    for (size_t r = 0; r < ROWS; r++, t += CLASSES)
        for (size_t k = 0; k < KEPT; k++) {
            size_t best = CLASSES;
            for (size_t c = 0; c < CLASSES; c++) {
                int taken = 0;
                for (size_t j = 0; j < k; j++) taken |= classes[r * KEPT + j] == (int32_t)c;
                if (!taken && (best == CLASSES || t[c] > t[best])) best = c;
            }
            values[r * KEPT + k] = t[best], classes[r * KEPT + k] = (int32_t)best;
        }
}

int main(int argc, char **argv)
{
    static char text[8192];
    const char *name = "kd", *dir = "examples/data";
    double temperature = 0, hard = -1, soft = -1;
    int epochs = 5, known = 1;
    mistake what = NONE;
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--method")) name = value;
        else if (!strcmp(argv[i], "--data")) dir = value;
        else if (!strcmp(argv[i], "--temperature")) temperature = atof(value);
        else if (!strcmp(argv[i], "--hard")) hard = atof(value);
        else if (!strcmp(argv[i], "--soft")) soft = atof(value);
        else if (!strcmp(argv[i], "--epochs")) epochs = atoi(value);
        else if (!strcmp(argv[i], "--mistake")) {
            while (what < MISTAKES && strcmp(mistake_name[what], value) != 0) what = (mistake)(what + 1);
            known = what < MISTAKES;
        } else known = 0;
        if (!known) break;
    }
    if (!known) {
        fprintf(stderr, "usage: explain [--method NAME] [--temperature T] [--hard W] [--soft W] [--epochs N] [--mistake NAME]\n"
                "               [--data DIR]\n"
                        "mistakes:");
        for (int m = 1; m < MISTAKES; m++) fprintf(stderr, " %s", mistake_name[m]);
        fprintf(stderr, "\nmethods:");
        kd_method_info info = { .struct_size = sizeof info };
        for (size_t m = 0; m < kd_method_count(); m++)
            if (kd_method_at(m, &info) == KD_OK) fprintf(stderr, " %s", info.name);
        return fprintf(stderr, "\n"), 2;
    }

    kd_dataset *data = NULL;
    kd_model *teacher = NULL, *student = NULL;
    kd_loader *batches = NULL;
    kd_tape *look = NULL, *learn = NULL;
    kd_loss_distill *loss = NULL;
    kd_loss_feature *feature = NULL;
    kd_optimizer *opt = NULL;
    kd_tensor *x, *y, *s, *t;
    char images[600], labels[600];
    size_t length = 0;
    kd_method_info method = { .struct_size = sizeof method };
    kd_loader_desc order;
    kd_status st;
    snprintf(images, sizeof images, "%s/digits-images.idx", dir);
    snprintf(labels, sizeof labels, "%s/digits-labels.idx", dir);
    kd_loader_desc_init(&order, sizeof order);
    order.batch = ROWS;
    order.scale = 1.0f / 16;
    TRY(kd_method_find(name, &method));
    TRY(kd_dataset_open_idx(&data, NULL, images, labels));
    TRY(kd_zoo_mlp(&teacher, NULL, (size_t[]){ 64, 64, 10 }, 3, KD_ACT_RELU, 1));
    TRY(kd_zoo_mlp(&student, NULL, (size_t[]){ 64, 64, 10 }, 3, KD_ACT_RELU, 2));
    TRY(train(teacher, data, &order, epochs));
    kd_model_freeze(teacher, 1);
    TRY(kd_model_tap(teacher, "fc1"));
    TRY(kd_model_tap(student, "fc1"));
    TRY(kd_optimizer_create(&opt, NULL, NULL));
    TRY(kd_optimizer_add(opt, student));

    /* A batch, as in a training step. */
    TRY(kd_loader_create(&batches, NULL, data, &order));
    TRY(kd_tape_create(&look, NULL, what == TRAIN_TAPE ? KD_TAPE_TRAIN : KD_TAPE_INFER));
    TRY(kd_tape_create(&learn, NULL, KD_TAPE_TRAIN));
    TRY(kd_loader_next(batches, &x, &y));
    t = kd_model_forward(teacher, look, x);
    s = kd_model_forward(student, learn, x);
    TRY(kd_tape_status(look));
    TRY(kd_tape_status(learn));
    spoil(what, kd_tensor_f32(s), kd_tensor_f32(t), kd_tensor_data(y));

    if (method.kind == KD_METHOD_DISTILL) {
        static float values[ROWS * KEPT];
        static int32_t classes[ROWS * KEPT];
        kd_loss_distill_desc how;
        TRY(kd_loss_distill_desc_for(&how, sizeof how, method.method));
        if (temperature > 0) how.temperature = (float)temperature;
        if (hard >= 0) how.hard_weight = (float)hard;
        if (soft >= 0) how.soft_weight = (float)soft;
        if (what == NO_T2) how.temperature_squared = 0;
        if (what == ELEMENTS) how.reduction = KD_REDUCE_MEAN_ELEMENTS;
        if (what == LOGITS) how.teacher_form = KD_TEACHER_PROBS;
        if (what == BALANCE) how.soft_weight *= 10000;
        TRY(kd_loss_distill_create(&loss, NULL, &how));
        if (kd_loss_distill_adapters(loss)) TRY(kd_optimizer_add(opt, kd_loss_distill_adapters(loss)));
        /* Methods that want two heads or two views get the same twice. */
        kd_distill_inputs in = { .struct_size = sizeof in, .student = s, .student_second = s, .teacher = what == SAME ? s : t,
                                 .teacher_second = t, .labels = y };
        if (method.method == KD_DISTILL_TOP_K) {
            keep_largest(kd_tensor_f32(t), values, classes);
            in.teacher = kd_tape_tensor(look, KD_F32, 2, (size_t[]){ ROWS, KEPT });
            in.teacher_classes = kd_tape_tensor(look, KD_I32, 2, (size_t[]){ ROWS, KEPT });
            TRY(kd_tape_status(look));
            memcpy(kd_tensor_data(in.teacher), values, sizeof values);
            memcpy(kd_tensor_data(in.teacher_classes), classes, sizeof classes);
        }
        length = kd_loss_explain(loss, &in, learn, look, text, sizeof text);
    } else {
        kd_feature_shape shape = { 1, { 64 } };
        kd_loss_feature_desc how;
        TRY(kd_loss_feature_desc_for(&how, sizeof how, method.method));
        how.student = how.teacher = &shape;
        how.student_count = how.teacher_count = 1;
        how.classes = CLASSES;
        if (temperature > 0) how.temperature = (float)temperature;
        if (soft >= 0) how.weight = (float)soft;
        TRY(kd_loss_feature_create(&feature, NULL, &how));
        if (kd_loss_feature_adapters(feature)) TRY(kd_optimizer_add(opt, kd_loss_feature_adapters(feature)));
        kd_tensor *ours = kd_model_tapped(student, learn, "fc1"), *theirs = kd_model_tapped(teacher, look, "fc1");
        kd_feature_inputs in = { .struct_size = sizeof in, .student = &ours, .student_count = 1, .teacher = what == SAME ? &ours : &theirs,
                                 .teacher_count = 1, .labels = y, .student_logits = s, .teacher_logits = t };
        length = kd_loss_feature_explain(feature, &in, learn, look, text, sizeof text);
    }
    if (length) printf("%s", text);
    else st = KD_ERR_ARG;
done:
    if (st != KD_OK) fprintf(stderr, "explain: %s\n", kd_last_error());
    kd_tape_free(learn);
    kd_tape_free(look);
    kd_loader_free(batches);
    kd_optimizer_free(opt);
    kd_loss_feature_free(feature);
    kd_loss_distill_free(loss);
    kd_model_free(student);
    kd_model_free(teacher);
    kd_dataset_free(data);
    return st != KD_OK;
}
