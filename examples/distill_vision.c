/* distill_vision.c - one network of images teaches another, by any method of the library.
 * SPDX-License-Identifier: MIT
 *
 *     distill_vision --data cifar100:PATH --student resnet8 --method kd --teacher resnet20:teacher.safetensors
 *                    --recipe examples/recipes/cifar_short.recipe --out FOLDER
 *
 * The teacher is trained first when no weights are given.  A run that was killed goes on where it was, in the same bits, when the same
 * command is given again.  The folder then holds best.safetensors, last.safetensors, curves.csv, curves.svg, result.csv and table.md. */
#include "vision/vision.h"
#include "vision/measure.h"
#include "support/report.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEACHERS = 2, COMPARED = 16, SETS = 32, SETTINGS = 4096 };
typedef struct options {
    const char *data, *student, *method, *recipe, *out, *teacher[TEACHERS], *compare[COMPARED], *sets[SETS], *teacher_sets[SETS];
    size_t      teachers, compared, set_count, teacher_set_count, side, keep, threads;
    uint64_t    seed;
    double      time;
} options;

static int usage(FILE *f)
{
    fputs("usage: distill_vision --data KIND:PATH --student NAME [--method NAME --teacher NAME[:WEIGHTS]] [options]\n"
          "       distill_vision --data KIND:PATH [--teacher NAME:WEIGHTS] --compare NAME:WEIGHTS .. [options]\n"
          "  --data     cifar10:FOLDER, cifar100:FOLDER (binary records), folder:FOLDER (FOLDER/train/CLASS/IMAGE and test or val)\n"
          "  --side N   images of a folder become N x N (default: they have one size)\n"
          "  --keep N   they are kept at N x N, and --side is cropped out of that, or the middle of it (default: --side)\n"
          "  --student  a network of the zoo, or vit:patch=4,width=96,depth=6,heads=3,distilled=1\n"
          "  --method   a line of methods.def; alone (default): no teacher\n"
          "  --teacher  trained first when no .safetensors file is given; twice for multi_teacher\n"
          "  --compare  a finished network, a row of the table at the end; without --student the table is all that is made\n"
          "  --time N   seconds for each figure of the table's latencies (default 1; 0: none)\n"
          "  --recipe   a file of \"key = value\"; --set KEY=VALUE, --teacher-set KEY=VALUE change one key; --keys lists them\n"
          "  --seed N   of weights, order, augmentation (default 0)      --threads N   (default: all processors)\n"
          "  --out      folder of the run (default lib/vision/STUDENT-METHOD-SEED)\n", f);
    return f == stderr ? 2 : 0;
}

/* NAME[:FILE.safetensors]; names may have colons too. */
static const char *split_weights(const char *spec, char name[TEXT])
{
    const char *colon = strrchr(spec, ':'), *dot = strrchr(spec, '.');
    int weights = colon && dot > colon && !strcmp(dot, ".safetensors");
    snprintf(name, TEXT, "%.*s", weights ? (int)(colon - spec) : (int)strlen(spec), spec);
    return weights ? colon + 1 : NULL;
}

/* 0, or the exit status + 1. */
static int parse(options *o, int argc, char **argv)
{
    char name[TEXT];
    *o = (options){ .method = "alone", .time = 1 };
    for (int i = 1; i < argc; i++) {
        const char *flag = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        char *end = NULL;
        if (!strcmp(flag, "--keys")) return recipe_explain(), 1;
        if (!strcmp(flag, "--help")) return usage(stdout) + 1;
        if (!value) return usage(stderr) + 1;
        i++;
        if (!strcmp(flag, "--data")) o->data = value;
        else if (!strcmp(flag, "--student")) o->student = value;
        else if (!strcmp(flag, "--method")) o->method = value;
        else if (!strcmp(flag, "--recipe")) o->recipe = value;
        else if (!strcmp(flag, "--out")) o->out = value;
        else if (!strcmp(flag, "--teacher") && o->teachers < TEACHERS) o->teacher[o->teachers++] = value;
        else if (!strcmp(flag, "--compare") && o->compared < COMPARED) o->compare[o->compared++] = value;
        else if (!strcmp(flag, "--set") && o->set_count < SETS) o->sets[o->set_count++] = value;
        else if (!strcmp(flag, "--teacher-set") && o->teacher_set_count < SETS) o->teacher_sets[o->teacher_set_count++] = value;
        else if (!strcmp(flag, "--seed")) o->seed = strtoull(value, &end, 10);
        else if (!strcmp(flag, "--side")) o->side = (size_t)strtoul(value, &end, 10);
        else if (!strcmp(flag, "--keep")) o->keep = (size_t)strtoul(value, &end, 10);
        else if (!strcmp(flag, "--time")) o->time = strtod(value, &end);
        else if (!strcmp(flag, "--threads")) o->threads = (size_t)strtoul(value, &end, 10);
        else return fprintf(stderr, "distill_vision: %s?\n", flag), usage(stderr) + 1;
        if (end && (end == value || *end || *value == '-' || !(o->time < 1e6)))
            return fprintf(stderr, "distill_vision: %s takes a number, not \"%s\"\n", flag, value), 3;
    }
    if (!o->data || (!o->student && !o->compared)) return usage(stderr) + 1;
    for (size_t i = 0; i < o->compared + o->teachers; i++) {
        const char *spec = i < o->compared ? o->compare[i] : o->student ? NULL : o->teacher[i - o->compared];
        if (spec && !split_weights(spec, name))
            return fprintf(stderr, "distill_vision: %s: needs weights, as in %s:FILE.safetensors\n", spec, name), 3;
    }
    return 0;
}

/* One network, trained by the method of its setup in a folder of its own; `what` it is stands in settings.txt. */
static kd_status train_one(const options *o, kd_context *ctx, const images *d, const recipe *r, const char *what,
                           const method_setup *setup, const char *folder, method **out, score *last, double *best, double *spent)
{
    char settings[SETTINGS], label[TEXT];
    uint64_t teacher = setup->teacher ? kd_model_hash(setup->teacher) : 0;
    kd_status st;
    size_t n = (size_t)snprintf(settings, sizeof settings, "%s = %s\nmethod = %s\nteacher = %s %016llx\n", what, setup->student_name,
                                setup->name, setup->teacher_name ? setup->teacher_name : "none", (unsigned long long)teacher);
    if (setup->second_teacher && n < sizeof settings)
        n += (size_t)snprintf(settings + n, sizeof settings - n, "second teacher = %016llx\n",
                              (unsigned long long)kd_model_hash(setup->second_teacher));
    if (n < sizeof settings)
        n += (size_t)snprintf(settings + n, sizeof settings - n, "data = %.*s, %zu + %zu images\nseed = %llu\n",
                              (int)strcspn(o->data, ":"), o->data, kd_dataset_count(d->train), kd_dataset_count(d->test),
                              (unsigned long long)setup->seed);
    if (o->keep && n < sizeof settings)
        n += (size_t)snprintf(settings + n, sizeof settings - n, "side = %zu of %zu\n", d->height, o->keep);
    if (n >= sizeof settings / 2) return complain(KD_ERR_ARG, "names of %zu bytes: too long", n);
    recipe_format(r, settings + n, sizeof settings - n);
    snprintf(label, sizeof label, "%s %s, seed %llu", setup->student_name, setup->name, (unsigned long long)setup->seed);
    TRY(method_create(out, setup));
    const training t = { ctx, d, r, *out, setup->student, setup->teacher, folder, settings, label, setup->seed };
    TRY(train(&t, last, best, spent));
done:
    return st;
}

/* The i-th teacher as it is given: with its weights, or new (*untrained). */
static kd_status open_teacher(const options *o, kd_context *ctx, const images *d, const recipe *r, size_t i, kd_model **model,
                              char name[TEXT], int *untrained)
{
    const char *weights = split_weights(o->teacher[i], name);
    *untrained = !weights;
    kd_status st = network_create(model, ctx, name, d, weights ? 0 : r->drop_path, o->seed + 500 + i);
    return st == KD_OK && weights ? kd_model_load(*model, weights, KD_LOAD_RESIZE_POSITIONS) : st;
}

static kd_status train_teacher(const options *o, kd_context *ctx, const images *d, const recipe *r, size_t i, const char *out,
                               kd_model *model, const char *name)
{
    const method_setup setup = { .ctx = ctx, .name = "alone", .student_name = name, .student = model, .data = d, .recipe = r,
                                 .seed = o->seed + 500 + i };
    char folder[TEXT];
    method *alone = NULL;
    score last;
    snprintf(folder, sizeof folder, i ? "%s/teacher%zu" : "%s/teacher", out, i + 1);
    kd_status st = train_one(o, ctx, d, r, "network", &setup, folder, &alone, &last, NULL, NULL);
    if (st == KD_OK) printf("teacher %s: %.2f %% top-1, %.2f %% top-5, in %s\n", name, last.top1, last.top5, folder);
    method_free(alone);
    return st;
}

/* A name for a finished network: the folder that its weights are in, else the file. */
static void folder_of(const char *file, char out[TEXT])
{
    const char *end = strrchr(file, '/'), *begin = end;
    if (!end) begin = file, end = strrchr(file, '.');
    else while (begin > file && begin[-1] != '/') begin--;
    snprintf(out, TEXT, "%.*s", (int)(end - begin), begin);
}

/* The last thing of a run: to stdout and OUT/table.md (out NULL: stdout alone).  `m`, `student` NULL: of finished networks alone.  The
 * student ends with its best weights. */
static kd_status table(const options *o, kd_context *ctx, const images *d, method *m, kd_model *student, kd_model *const *teachers,
                       kd_model *const *compared, const char *out)
{
    enum { ROWS = TEACHERS + COMPARED + 2 };
    static char names[ROWS][TEXT], whats[ROWS][TEXT], files[ROWS][TEXT + 40];
    subject rows[ROWS];
    char path[TEXT + 16], title[3 * TEXT];
    size_t count = 0, *answers = NULL;
    kd_status st = KD_OK;
    for (size_t i = 0; i < o->teachers + o->compared; i++, count++) {
        size_t k = i < o->teachers ? i : i - o->teachers;
        const char *file = split_weights(i < o->teachers ? o->teacher[k] : o->compare[k], names[i]);
        if (file) snprintf(files[i], sizeof files[i], "%s", file);
        else snprintf(files[i], sizeof files[i], k ? "%s/teacher2/last.safetensors" : "%s/teacher/last.safetensors", out);
        if (i < o->teachers) snprintf(whats[i], TEXT, "%s", k ? "second teacher" : "teacher");
        else folder_of(files[i], whats[i]);
        rows[i] = (subject){ .what = whats[i], .name = names[i], .file = files[i] };
        rows[i].model = i < o->teachers ? teachers[k] : compared[k];
    }
    for (size_t i = 0; student && i < 2; i++, count++) {
        snprintf(files[count], sizeof files[count], "%s/%s.safetensors", out, i ? "best" : "last");
        if (i && file_bytes(files[count]) < 0) break;   /* there is none where no image was ever right */
        rows[count] = (subject){ .what = i ? "student, best" : "student, last", .name = o->student, .file = files[count],
                                 .model = student, .m = m };
    }
    for (size_t i = 0; i < count; i++) {
        const subject *like = NULL;
        for (size_t k = 0; k < i; k++)
            if (rows[k].m == rows[i].m && !strcmp(rows[k].name, rows[i].name)) like = &rows[k];
        if (like && like->m) TRY(kd_model_load(student, files[i], KD_LOAD_STRICT));
        TRY(measure_subject(&rows[i], ctx, d, i ? answers : NULL, like, o->time));
        if (!i && o->teachers) TRY(answers_of(&answers, ctx, d, teachers[0]));
    }
    if (out) snprintf(path, sizeof path, "%s/table.md", out);
    if (student) snprintf(title, sizeof title, "%s by %s, seed %llu", o->student, o->method, (unsigned long long)o->seed);
    else snprintf(title, sizeof title, "Finished networks");
    st = measure_report(out ? path : NULL, title, rows, count, o->teachers > 0, kd_dataset_count(d->test));
done:
    free(answers);
    return st;
}

/* Networks that are trained already. */
static kd_status open_compared(const options *o, kd_context *ctx, const images *d, kd_model **models)
{
    char name[TEXT];
    kd_status st = KD_OK;
    for (size_t i = 0; i < o->compared; i++) {
        const char *weights = split_weights(o->compare[i], name);
        TRY(network_create(&models[i], ctx, name, d, 0, 0));
        TRY(kd_model_load(models[i], weights, KD_LOAD_RESIZE_POSITIONS));
    }
done:
    return st;
}

/* A field of its own, though a transformer's name has commas. */
static void csv_name(FILE *f, const char *name) { fprintf(f, strchr(name, ',') ? "\"%s\"," : "%s,", name); }

int main(int argc, char **argv)
{
    options o;
    recipe student_recipe, teacher_recipe;
    images d = { 0 };
    kd_context *ctx = NULL;
    kd_context_desc cd;
    kd_model *student = NULL, *teachers[TEACHERS] = { NULL }, *compared[COMPARED] = { NULL };
    method *m = NULL;
    score last;
    double best = 0, spent = 0;
    char out[TEXT], path[TEXT + 16], teacher_name[TEACHERS][TEXT], params[32];
    FILE *f = NULL;
    int untrained[TEACHERS] = { 0 };
    kd_status st;
    int stop = parse(&o, argc, argv);
    if (stop) return stop - 1;
    recipe_defaults(&student_recipe);
    recipe_defaults(&teacher_recipe);
    if (o.recipe) TRY(recipe_read(&student_recipe, &teacher_recipe, o.recipe));
    for (size_t i = 0; i < o.set_count; i++) TRY(recipe_set(&student_recipe, o.sets[i], "--set"));
    for (size_t i = 0; i < o.teacher_set_count; i++) TRY(recipe_set(&teacher_recipe, o.teacher_sets[i], "--teacher-set"));
    if (o.out) snprintf(out, sizeof out, "%s", o.out);
    else if (o.student) snprintf(out, sizeof out, "lib/vision/%s-%s-%llu", o.student, o.method, (unsigned long long)o.seed);
    kd_context_desc_init(&cd, sizeof cd);
    if (o.threads) cd.threads = (uint32_t)o.threads;
    TRY(kd_context_create(&ctx, &cd));
    TRY(images_open(&d, o.data, o.side, o.keep));
    if (o.student) TRY(network_create(&student, ctx, o.student, &d, student_recipe.drop_path, o.seed));
    for (size_t i = 0; i < o.teachers; i++)
        TRY(open_teacher(&o, ctx, &d, &teacher_recipe, i, &teachers[i], teacher_name[i], &untrained[i]));
    TRY(open_compared(&o, ctx, &d, compared));
    if (!student) {
        if (o.out && make_directory(o.out)) TRY(complain(KD_ERR_IO, "%s cannot be made", o.out));
        TRY(table(&o, ctx, &d, NULL, NULL, teachers, compared, o.out));
        goto done;
    }
    const method_setup setup = { ctx, o.method, o.student, o.teachers ? teacher_name[0] : NULL, student, teachers[0], teachers[1], &d,
                                 &student_recipe, o.seed };
    if (untrained[0] || untrained[1]) {   /* what does not fit together is said before hours of training */
        TRY(method_create(&m, &setup));
        method_free(m);
        m = NULL;
    }
    for (size_t i = 0; i < o.teachers; i++) {
        if (untrained[i]) TRY(train_teacher(&o, ctx, &d, &teacher_recipe, i, out, teachers[i], teacher_name[i]));
        kd_model_freeze(teachers[i], 1);
    }
    TRY(train_one(&o, ctx, &d, &student_recipe, "student", &setup, out, &m, &last, &best, &spent));
    const uint64_t hash = kd_model_hash(student);
    printf("%s by %s, seed %llu: %.2f %% top-1, %.2f %% top-5 (best %.2f), %s parameters, %.0f s, weights %016llx\n", o.student,
           o.method, (unsigned long long)o.seed, last.top1, last.top5, best, thousands(kd_model_size(student), params), spent,
           (unsigned long long)hash);
    TRY(table(&o, ctx, &d, m, student, teachers, compared, out));
    snprintf(path, sizeof path, "%s/result.csv", out);   /* last: who finds it finds all the rest */
    if (!(f = fopen(path, "w"))) st = complain(KD_ERR_IO, "%s cannot be written", path);
    else {
        fprintf(f, "student,teacher,method,seed,epochs,top1,top5,best,agreement,test_loss,parameters,seconds,weights\n");
        csv_name(f, o.student);
        csv_name(f, o.teachers ? teacher_name[0] : "");
        fprintf(f, "%s,%llu,%g,%.2f,%.2f,%.2f,%.2f,%.5f,%zu,%.0f,%016llx\n", o.method, (unsigned long long)o.seed,
                student_recipe.epochs, last.top1, last.top5, best, last.agreement, last.loss, kd_model_size(student), spent,
                (unsigned long long)hash);
        if (fclose(f)) st = complain(KD_ERR_IO, "%s cannot be written", path);
    }
done:
    if (st != KD_OK) fprintf(stderr, "distill_vision: %s: %s\n", kd_status_name(st), complaint());
    method_free(m);
    kd_model_free(student);
    for (size_t i = 0; i < TEACHERS; i++) kd_model_free(teachers[i]);
    for (size_t i = 0; i < COMPARED; i++) kd_model_free(compared[i]);
    images_close(&d);
    kd_context_free(ctx);
    return st != KD_OK;
}
