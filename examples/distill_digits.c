/* distill_digits.c - few labels, a good teacher, plenty of unlabelled images: what distillation is worth.
 * SPDX-License-Identifier: MIT
 *
 * A small CNN learns from every label.  An MLP with a few thousand parameters learns four times: from 100 labels alone;
 * from the teacher on the same 100 images; from the teacher on all images, of which 100 have a label; and from all
 * labels.  Every student gets the same number of steps.  Repeated over seeds (split, initial weights, order of the data).
 *
 *     distill_digits [--data digits|fashion] [--images DIR] [--labels 100|all] [--seeds N] [--out lib/demo] */
#include <kd.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "support/report.h"

#define TRY(call) do { if ((st = (call)) != KD_OK) goto done; } while (0)

enum { MAX_SEEDS = 32, MAX_POINTS = 128, STREAM_SPLIT = 1, STREAM_TEACHER = 2, STREAM_STUDENT = 3, STREAM_ORDER = 4 };

/* What is trained on what, and how long. */
typedef struct setting {
    const char *name, *dir, *train_images, *train_labels, *test_images, *test_labels;
    float  scale;                      /* of a pixel */
    size_t test_count;                 /* taken from the training file when there is no test file */
    kd_cnn_desc teacher;
    size_t student[4], student_layers;
    size_t labels, batch, teacher_steps, student_steps;
    float  lr, temperature;
    uint32_t shift;                    /* of the teacher's training images, in pixels */
    size_t seeds;                      /* unless --seeds says otherwise */
} setting;

typedef enum row { TEACHER, ALONE, SAME_IMAGES, UNLABELLED, ALL_LABELS, ALL_DISTILLED, ROWS } row;
static const char *const row_name[ROWS] = {
    "teacher, all labels", "student alone, few labels", "student distilled, same images",
    "student distilled, + unlabelled", "student alone, all labels", "student distilled, all labels",
};

typedef struct outcome {
    size_t parameters;
    long   bytes;
    double accuracy[MAX_SEEDS], latency_us[MAX_SEEDS], train_s[MAX_SEEDS];
    double history[MAX_POINTS];        /* test accuracy along the way, mean over seeds */
    size_t points;
} outcome;

static setting digits(void)
{
    setting s = { .name = "digits", .dir = "examples/data", .train_images = "digits-images.idx",
                  .train_labels = "digits-labels.idx", .scale = 1.0f / 16, .test_count = 360, .student = { 64, 32, 10 },
                  .student_layers = 3, .labels = 100, .batch = 64, .teacher_steps = 60 * 23, .student_steps = 60 * 23,
                  .lr = 3e-3f, .temperature = 2, .shift = 1, .seeds = 5 };
    kd_cnn_desc_init(&s.teacher, sizeof s.teacher);
    s.teacher.height = s.teacher.width = 8;
    s.teacher.hidden = 64;
    return s;
}

static setting fashion(void)
{
    setting s = { .name = "fashion", .dir = "lib/demo/fashion", .train_images = "train-images-idx3-ubyte",
                  .train_labels = "train-labels-idx1-ubyte", .test_images = "t10k-images-idx3-ubyte",
                  .test_labels = "t10k-labels-idx1-ubyte", .scale = 1.0f / 255, .student = { 784, 64, 10 },
                  .student_layers = 3, .labels = 1000, .batch = 64, .teacher_steps = 6 * 938, .student_steps = 15 * 938,
                  .lr = 3e-3f, .temperature = 2, .shift = 0, .seeds = 3 };
    kd_cnn_desc_init(&s.teacher, sizeof s.teacher);
    return s;
}

/* Percent of `data` the model gets right. */
static kd_status accuracy(kd_model *model, const kd_dataset *data, float scale, double *percent)
{
    kd_loader *batches = NULL;
    kd_tape *tape = NULL;
    kd_tensor *x, *y;
    size_t right = 0;
    kd_loader_desc order;
    kd_status st;

    kd_loader_desc_init(&order, sizeof order);
    order.batch = 256;
    order.shuffle = 0;
    order.scale = scale;
    order.ahead = 0;
    TRY(kd_loader_create(&batches, NULL, data, &order));
    TRY(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    while ((st = kd_loader_next(batches, &x, &y)) == KD_OK) {
        kd_tensor *logits = kd_model_forward(model, tape, x);
        TRY(kd_tape_status(tape));
        size_t rows = kd_tensor_size(logits, 0), classes = kd_tensor_size(logits, 1);
        const float *z = kd_tensor_f32(logits);
        const int32_t *label = kd_tensor_data(y);
        for (size_t r = 0; r < rows; r++, z += classes) {
            size_t best = 0;
            for (size_t c = 1; c < classes; c++)
                if (z[c] > z[best]) best = c;
            right += (int32_t)best == label[r];
        }
        kd_tape_reset(tape);
    }
    if (st == KD_END) st = KD_OK;
    *percent = 100.0 * (double)right / (double)kd_dataset_count(data);
done:
    kd_tape_free(tape);
    kd_loader_free(batches);
    return st;
}

/* Microseconds for one sample, median of 200. */
static kd_status latency(kd_model *model, const kd_dataset *data, float scale, double *us)
{
    kd_loader *batches = NULL;
    kd_tape *tape = NULL;
    kd_tensor *x, *y;
    double times[200];
    kd_loader_desc order;
    kd_status st;

    kd_loader_desc_init(&order, sizeof order);
    order.batch = 1;
    order.scale = scale;
    order.ahead = 0;
    TRY(kd_loader_create(&batches, NULL, data, &order));
    TRY(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    TRY(kd_loader_next(batches, &x, &y));
    for (size_t i = 0; i < 200; i++) {
        double start = seconds();
        kd_model_forward(model, tape, x);
        times[i] = 1e6 * (seconds() - start);
        TRY(kd_tape_status(tape));
        kd_tape_reset(tape);
    }
    *us = median(times, 200);
done:
    kd_tape_free(tape);
    kd_loader_free(batches);
    return st;
}

/* How one model is trained. */
typedef struct course {
    const setting *s;
    kd_model  *teacher;                /* NULL: from the labels alone */
    size_t     steps;
    uint32_t   shift;
    uint64_t   seed;
    const kd_dataset *test;            /* accuracy along the way */
    progress  *bar;
    const char *note;
} course;

static kd_status train(kd_model *student, const kd_dataset *data, const course *c, outcome *out, size_t seeds)
{
    kd_loss_distill *loss = NULL;
    kd_optimizer *opt = NULL;
    kd_loader *batches = NULL;
    kd_tape *look = NULL, *learn = NULL;              /* the teacher looks, the student learns */
    kd_tensor *x, *y, *t = NULL;
    double percent = 0;
    size_t every = c->steps / 60 ? c->steps / 60 : 1;
    kd_status st;

    kd_loss_distill_desc how;
    kd_loss_distill_desc_init(&how, sizeof how);      /* 0.1 CE + 0.9 T^2 KL */
    how.temperature = c->s->temperature;
    how.unlabelled_index = -1;                        /* such a row is taught, but has no true label */
    if (!c->teacher) how.hard_weight = 1, how.soft_weight = 0;
    TRY(kd_loss_distill_create(&loss, NULL, &how));

    kd_optimizer_desc adam;
    kd_optimizer_desc_init(&adam, sizeof adam);
    adam.method = KD_OPT_ADAM;
    adam.lr = c->s->lr;
    TRY(kd_optimizer_create(&opt, NULL, &adam));
    TRY(kd_optimizer_add(opt, student));
    kd_schedule_desc cosine;
    kd_schedule_desc_init(&cosine, sizeof cosine);
    cosine.kind = KD_SCHEDULE_COSINE;
    cosine.total_steps = c->steps;
    TRY(kd_optimizer_set_schedule(opt, &cosine));

    kd_loader_desc order;
    kd_loader_desc_init(&order, sizeof order);
    order.batch = c->s->batch;
    order.seed = c->seed;
    order.scale = c->s->scale;
    order.shift = c->shift;
    TRY(kd_loader_create(&batches, NULL, data, &order));
    TRY(kd_tape_create(&look, NULL, KD_TAPE_INFER));
    TRY(kd_tape_create(&learn, NULL, KD_TAPE_TRAIN));

    for (size_t step = 0; step < c->steps;) {
        st = kd_loader_next(batches, &x, &y);
        if (st == KD_END) continue;                   /* the next call begins another epoch */
        if (st != KD_OK) goto done;
        if (c->teacher) t = kd_model_forward(c->teacher, look, x);
        kd_tensor *s = kd_model_forward(student, learn, x);
        TRY(kd_backward(learn, kd_loss_distill_apply(loss, learn, s, t, y)));
        TRY(kd_optimizer_step(opt));
        kd_tape_reset(learn);                         /* a pointer moves; nothing is freed */
        kd_tape_reset(look);
        progress_add(c->bar, 1, c->note);
        if (++step % every == 0 && step / every < MAX_POINTS) {
            TRY(accuracy(student, c->test, c->s->scale, &percent));
            out->history[step / every - 1] += percent / (double)seeds;
            out->points = step / every;
        }
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

/* Train, measure and save one row of the table. */
static kd_status run(kd_model *model, const kd_dataset *data, const course *c, row which, outcome *out, size_t seed,
                     size_t seeds, const char *dir)
{
    char path[600];
    kd_status st;
    double start = seconds();
    TRY(train(model, data, c, out, seeds));
    out->train_s[seed] = seconds() - start;
    TRY(accuracy(model, c->test, c->s->scale, &out->accuracy[seed]));
    TRY(latency(model, c->test, c->s->scale, &out->latency_us[seed]));
    out->parameters = kd_model_size(model);
    snprintf(path, sizeof path, "%s/%s-%s.safetensors", dir, c->s->name,
             which == TEACHER ? "teacher" : which == ALONE ? "student-alone" : which == SAME_IMAGES ? "student-same-images"
             : which == UNLABELLED ? "student" : which == ALL_LABELS ? "student-all-labels" : "student-all-distilled");
    TRY(kd_model_save(model, path));
    out->bytes = file_bytes(path);
done:
    return st;
}

/* One seed: split, teacher, students. */
static kd_status experiment(const setting *s, const kd_dataset *images, const kd_dataset *test_file, int all, size_t seed,
                            size_t seeds, const char *dir, progress *bar, outcome out[ROWS])
{
    kd_dataset *train_set = NULL, *test = NULL, *few = NULL, *partly = NULL;
    kd_model *teacher = NULL, *student = NULL;
    size_t count = kd_dataset_count(images), held = test_file ? 0 : s->test_count;
    uint32_t *order = malloc(count * sizeof *order);
    kd_rng root = kd_rng_make(1 + seed), split = kd_rng_split(&root, STREAM_SPLIT);
    char note[64];
    kd_status st = KD_ERR_NOMEM;
    if (!order) goto done;

    for (size_t i = 0; i < count; i++) order[i] = (uint32_t)i;
    for (size_t i = count; i > 1; i--) {              /* Fisher-Yates: a split of its own for each seed */
        size_t j = (size_t)kd_rng_below(&split, i);
        uint32_t swap = order[i - 1];
        order[i - 1] = order[j], order[j] = swap;
    }
    TRY(kd_dataset_subset(&train_set, images, order, count - held));
    TRY(kd_dataset_subset(&few, images, order, s->labels));
    TRY(kd_dataset_subset(&partly, images, order, count - held));
    for (size_t i = s->labels; i < count - held; i++) kd_dataset_labels(partly)[i] = -1;
    if (!test_file) TRY(kd_dataset_subset(&test, images, order + count - held, held));

    course c = { .s = s, .steps = s->teacher_steps, .shift = s->shift, .seed = kd_rng_split(&root, STREAM_ORDER).key,
                 .test = test_file ? test_file : test, .bar = bar, .note = note };
    snprintf(note, sizeof note, "seed %zu: teacher", seed + 1);
    TRY(kd_zoo_cnn(&teacher, NULL, &s->teacher, kd_rng_split(&root, STREAM_TEACHER).key));
    TRY(run(teacher, train_set, &c, TEACHER, &out[TEACHER], seed, seeds, dir));
    kd_model_freeze(teacher, 1);

    c.steps = s->student_steps;
    c.shift = 0;
    for (row r = ALONE; r < (all ? ROWS : ALL_DISTILLED); r++) {
        int taught = r == SAME_IMAGES || r == UNLABELLED || r == ALL_DISTILLED;
        const kd_dataset *data = r == ALONE || r == SAME_IMAGES ? few : r == UNLABELLED ? partly : train_set;
        snprintf(note, sizeof note, "seed %zu: student %d", seed + 1, (int)r);
        c.teacher = taught ? teacher : NULL;
        kd_model_free(student);
        TRY(kd_zoo_mlp(&student, NULL, s->student, s->student_layers, KD_ACT_RELU, kd_rng_split(&root, STREAM_STUDENT).key));
        TRY(run(student, data, &c, r, &out[r], seed, seeds, dir));
    }
done:
    kd_model_free(student);
    kd_model_free(teacher);
    kd_dataset_free(test);
    kd_dataset_free(partly);
    kd_dataset_free(few);
    kd_dataset_free(train_set);
    free(order);
    return st;
}

static int write_csv(const char *path, const outcome out[ROWS], size_t rows, size_t seeds)
{
    FILE *f = fopen(path, "w");
    if (!f) return -1;
    fputs("row,parameters,bytes,accuracy_mean,accuracy_sd,latency_us,train_s\n", f);
    for (size_t r = 0; r < rows; r++)
        fprintf(f, "\"%s\",%zu,%ld,%.2f,%.2f,%.2f,%.2f\n", row_name[r], out[r].parameters, out[r].bytes,
                mean(out[r].accuracy, seeds), deviation(out[r].accuracy, seeds), mean(out[r].latency_us, seeds),
                mean(out[r].train_s, seeds));
    return fclose(f) ? -1 : 0;
}

static void difference(const char *text, const outcome *a, const outcome *b, size_t seeds)
{
    double error, gain = paired_difference(a->accuracy, b->accuracy, seeds, &error);
    printf("  %-62s %+5.1f points, standard error %.1f\n", text, gain, error);
}

static int report(const setting *s, const outcome out[ROWS], size_t rows, size_t seeds, const char *dir)
{
    char csv[600], svg[600], number[32];
    curve curves[ROWS];
    printf("\n%s: %zu seeds, %zu labels or all; CPU level %s, %u threads\n\n", s->name, seeds, s->labels, kd_context_isa(NULL),
           kd_context_threads(NULL));
    printf("%-34s %10s %9s %18s %10s %8s\n", "", "parameters", "file", "test accuracy", "1 sample", "training");
    for (size_t r = 0; r < rows; r++) {
        printf("%-34s %10s %6.1f kB %9.1f +- %3.1f %% %7.1f us %6.2f s\n", row_name[r], thousands(out[r].parameters, number),
               (double)out[r].bytes / 1000, mean(out[r].accuracy, seeds), deviation(out[r].accuracy, seeds),
               mean(out[r].latency_us, seeds), mean(out[r].train_s, seeds));
        curves[r] = (curve){ row_name[r], out[r].history, out[r].points };
    }
    printf("\nPaired over the same seeds:\n");
    difference("distilling the same images against their labels alone", &out[SAME_IMAGES], &out[ALONE], seeds);
    difference("distilling all images against the few labels alone", &out[UNLABELLED], &out[ALONE], seeds);
    if (rows == ROWS) difference("all labels known: distilled against alone", &out[ALL_DISTILLED], &out[ALL_LABELS], seeds);

    snprintf(csv, sizeof csv, "%s/%s.csv", dir, s->name);
    snprintf(svg, sizeof svg, "%s/%s.svg", dir, s->name);
    if (write_csv(csv, out, rows, seeds) != 0) return fprintf(stderr, "%s: %s\n", csv, strerror(errno)), 1;
    if (write_svg(svg, "Test accuracy while training (mean over seeds)", "step", (double)s->student_steps / 60, curves, rows) != 0)
        return fprintf(stderr, "%s: %s\n", svg, strerror(errno)), 1;
    printf("\nThe distilled student: %s/%s-student.safetensors\nThe curves:            %s\nThe table:             %s\n", dir, s->name,
           svg, csv);
    return 0;
}

int main(int argc, char **argv)
{
    static outcome out[ROWS];
    setting s = digits();
    size_t seeds = 0;
    int all = 0, code = 1;
    const char *dir = "lib/demo", *from = NULL;
    char images[600], labels[600];
    kd_dataset *data = NULL, *test = NULL;
    progress bar;
    kd_status st = KD_OK;

    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--data") && !strcmp(value, "digits")) s = digits();
        else if (!strcmp(argv[i], "--data") && !strcmp(value, "fashion")) s = fashion();
        else if (!strcmp(argv[i], "--images") && *value) from = value;
        else if (!strcmp(argv[i], "--labels") && !strcmp(value, "all")) all = 1;
        else if (!strcmp(argv[i], "--labels") && atoi(value) > 0) s.labels = (size_t)atoi(value);
        else if (!strcmp(argv[i], "--seeds") && atoi(value) > 0 && atoi(value) <= MAX_SEEDS) seeds = (size_t)atoi(value);
        else if (!strcmp(argv[i], "--out") && *value) dir = value;
        else return fprintf(stderr, "usage: distill_digits [--data digits|fashion] [--images DIR] [--labels N|all] "
                                    "[--seeds 1..%d] [--out DIR]\n", MAX_SEEDS), 2;
    }
    if (from) s.dir = from;
    if (!seeds) seeds = s.seeds;
    if (make_directory(dir) != 0) return fprintf(stderr, "%s: %s\n", dir, strerror(errno)), 1;

    snprintf(images, sizeof images, "%s/%s", s.dir, s.train_images);
    snprintf(labels, sizeof labels, "%s/%s", s.dir, s.train_labels);
    TRY(kd_dataset_open_idx(&data, NULL, images, labels));
    if (s.test_images) {
        snprintf(images, sizeof images, "%s/%s", s.dir, s.test_images);
        snprintf(labels, sizeof labels, "%s/%s", s.dir, s.test_labels);
        TRY(kd_dataset_open_idx(&test, NULL, images, labels));
    }
    if (s.labels > kd_dataset_count(data) - s.test_count) {
        fprintf(stderr, "distill_digits: --labels %zu: there are %zu images to train on\n", s.labels,
                kd_dataset_count(data) - s.test_count);
        goto done;
    }
    progress_begin(&bar, s.name, seeds * (s.teacher_steps + (all ? 5 : 4) * s.student_steps));
    for (size_t seed = 0; seed < seeds; seed++) TRY(experiment(&s, data, test, all, seed, seeds, dir, &bar, out));
    progress_end(&bar);
    code = report(&s, out, all ? ROWS : ALL_DISTILLED, seeds, dir);
done:
    if (st != KD_OK) fprintf(stderr, "\ndistill_digits: %s\n", kd_last_error());
    kd_dataset_free(test);
    kd_dataset_free(data);
    return code;
}
