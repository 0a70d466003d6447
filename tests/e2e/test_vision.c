/* test_vision.c - examples/distill_vision from its command line: killed at random moments it ends in the weights and curves of a run that
 * never stopped; the table at the end; folders of images; what does not fit is named, and nothing is written.
 * SPDX-License-Identifier: MIT */
#include "kdtest_tools.h"
#include <kd.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))
enum { PIXELS = 3072, RECORD = PIXELS + 1, ITEMS = 24 };   /* in each of CIFAR-10's six files */

static char program[1024], text[4096];

/* Records whose colour says their class, with noise.  `label` is that of record 3, `bytes` what the last file lacks. */
static void write_data(const char *folder, int label, size_t bytes)
{
    static const char *const names[] = { "data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch" };
    static uint8_t records[ITEMS * RECORD];
    kdtest_rand r = { 5 };
    char path[600];
    snprintf(path, sizeof path, "%s/%s", kdtest_tmp(), folder);
    mkdir(path, 0700);
    for (size_t f = 0; f < COUNT(names); f++) {
        for (size_t i = 0; i < ITEMS; i++) {
            uint8_t *at = records + i * RECORD;
            at[0] = (uint8_t)(i == 3 && f == 0 && label >= 0 ? label : (int)(i % 10));
            for (size_t k = 0; k < PIXELS; k++) at[1 + k] = (uint8_t)(20 * (i % 10) * (k / 1024 + 1) / 3 + kdtest_bits(&r) % 64);
        }
        snprintf(path, sizeof path, "%s/%s/%s.bin", kdtest_tmp(), folder, names[f]);
        FILE *file = fopen(path, "wb");
        if (!CHECK(file != NULL)) return;
        CHECK(fwrite(records, 1, sizeof records - (f == 5 ? bytes : 0), file) > 0);
        CHECK(fclose(file) == 0);
    }
}

/* FOLDER/PART/CLASS/N.ppm, three classes of grey with noise, `count` in each: of height 20 and width 16, `taller` by as many as N. */
static void write_folder(const char *folder, const char *part, size_t count, size_t taller)
{
    static const char *const classes[] = { "ant", "bee", "cat" };
    kdtest_rand r = { 11 };
    char path[700];
    int status;
    for (size_t c = 0; c < COUNT(classes); c++) {
        free(kdtest_run(&status, "mkdir -p '%s/%s/%s/%s'", kdtest_tmp(), folder, part, classes[c]));
        for (size_t i = 0; i < count; i++) {
            size_t height = 20 + taller * i;
            snprintf(path, sizeof path, "%s/%s/%s/%s/%02zu.ppm", kdtest_tmp(), folder, part, classes[c], i);
            FILE *file = fopen(path, "wb");
            if (!CHECK(file != NULL)) return;
            fprintf(file, "P6\n16 %zu\n255\n", height);
            for (size_t k = 0; k < height * 16 * 3; k++) fputc((int)(90 * c + kdtest_bits(&r) % 64), file);
            CHECK(fclose(file) == 0);
        }
    }
}

/* Does the table of a run hold such a row, from its beginning?  What was printed is what was written. */
static void check_row(const char *out, const char *row)
{
    int status;
    char *table = kdtest_run(&status, "cat '%s/%s/table.md'", kdtest_tmp(), out);
    const char *at = strstr(table, row);
    CHECK_MSG(at && (at == table || at[-1] == '\n'), "no row \"%s\" in\n%s", row, table);
    CHECK_MSG(strstr(text, table) != NULL, "printed\n%s\nwritten\n%s", text, table);
    free(table);
}

static int prepare(void)
{
    struct stat s;
    snprintf(program, sizeof program, "%s%s%s/examples/distill_vision", *kdtest_out() == '/' ? "" : kdtest_root(),
             *kdtest_out() == '/' ? "" : "/", kdtest_out());
    if (kdtest_emulated() || stat(program, &s) != 0) {
        kdtest_skip("no examples/distill_vision for this machine");
        return 0;
    }
    write_data("data", -1, 0);
    return 1;
}

static int exists(const char *name)
{
    char path[600];
    struct stat s;
    snprintf(path, sizeof path, "%s/%s", kdtest_tmp(), name);
    return stat(path, &s) == 0;
}

/* Start the program with `arguments` in the temporary folder; its process. */
static pid_t start(const char *arguments)
{
    static char line[3000];
    snprintf(line, sizeof line, "cd '%s' && exec '%s' --threads 1 --time 0 %s >log 2>&1", kdtest_tmp(), program, arguments);
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    return child;
}

/* Run to the end; the exit status, what was printed in `text`. */
static int finish(pid_t child)
{
    int status = 0, printed;
    waitpid(child, &status, 0);
    char *out = kdtest_run(&printed, "cat '%s/log'", kdtest_tmp());
    snprintf(text, sizeof text, "%.4000s", out);
    free(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

#define GOES(arguments) CHECK_MSG(finish(start(arguments)) == 0, "%s", text)

#define RUN "--data cifar10:data --student %s --teacher resnet8 --method %s --seed 4 --teacher-set epochs=1 --set epochs=2 " \
            "--set batch=12 --set checkpoint_seconds=0 --teacher-set batch=12 --teacher-set checkpoint_seconds=0 --out %s %s"

/* Folders that hold the same weights and curves, but for the seconds. */
static void check_same(const char *what, const char *a, const char *b)
{
    int status;
    char *out = kdtest_run(&status, "cd '%s' && for f in $(cd %s && ls *.safetensors teacher/last.safetensors); do cmp %s/$f %s/$f || "
                           "exit 1; done; for d in %s %s; do cut -d, -f1-7 $d/curves.csv > $d.txt; done; cmp %s.txt %s.txt && "
                           "test $(wc -l < %s.txt) -gt 2", kdtest_tmp(), a, a, b, a, b, a, b, b);
    CHECK_MSG(status == 0, "%s: %s", what, out);
    free(out);
}

/* One of a method with a loss of its own to keep, one with adapters, one in two phases; DeiT with all of its augmentation and
 * averaged weights, and on two threads; averages of more than the student. */
TEST(killed_runs_end_in_the_same_bits)
{
    static const struct { const char *student, *method, *recipe; } runs[] = {
        { "resnet8", "kd", "" }, { "resnet8", "vid", "" }, { "resnet8", "ab", "" },
        { "vit:patch=8,width=24,depth=2,heads=2,distilled=1", "deit_hard", "deit_cifar" },
        { "resnet8", "deit_soft", "deit_cifar" },
    };
    if (!prepare()) return;
    for (size_t m = 0; m < COUNT(runs); m++) {
        char whole[1000], cut[1000], recipe[600] = "";
        const char *method = runs[m].method;
        if (*runs[m].recipe)
            snprintf(recipe, sizeof recipe, "--set ema=.9 --recipe '%s/examples/recipes/%s.recipe'", kdtest_root(), runs[m].recipe);
        snprintf(whole, sizeof whole, RUN, runs[m].student, method, "whole", recipe);
        snprintf(cut, sizeof cut, RUN, runs[m].student, method, "cut", recipe);
        if (!CHECK_MSG(finish(start(whole)) == 0, "%s: %s", method, text)) return;
        int killed = 0;
        kdtest_rand r = { 1 + m };
        for (double limit = .1; !exists("cut/result.csv") && limit < 100; limit *= 1.2) {
            double wait = limit * (double)(1 + kdtest_bits(&r) % 16) / 16;
            pid_t child = start(cut);
            nanosleep(&(struct timespec){ (time_t)wait, (long)(1e9 * (wait - (double)(time_t)wait)) }, NULL);
            kill(child, SIGKILL);
            finish(child);
            killed += exists("cut/teacher/checkpoint-0.kd") && !exists("cut/result.csv");
        }
        CHECK_MSG(finish(start(cut)) == 0, "%s: %s", method, text);
        CHECK_MSG(killed > 0, "%s: no run was killed in its middle", method);
        check_same(method, "whole", "cut");
        if (*recipe) {
            strcat(recipe, " --threads 2");
            snprintf(cut, sizeof cut, RUN, runs[m].student, method, "two", recipe);
            CHECK_MSG(finish(start(cut)) == 0, "%s: %s", method, text);
            check_same(method, "whole", "two");
        }
        int status;
        free(kdtest_run(&status, "cd '%s' && rm -rf whole cut two", kdtest_tmp()));
    }
}

/* What is tested beside the student is saved beside it. */
TEST(a_projector_and_a_second_head_are_saved)
{
    static const struct { const char *method, *part, *name; } cases[] = {
        { "simkd", "projector", "\"s0." }, { "deit_soft", "head", "weight\"" }, { "kd", NULL, "" },
    };
    if (!prepare()) return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char line[1000];
        int status;
        snprintf(line, sizeof line, RUN, "resnet8", cases[i].method, "part", "--set epochs=1");
        if (!CHECK_MSG(finish(start(line)) == 0, "%s", text)) return;
        char *out = kdtest_run(&status, "cd '%s/part' && for f in last best; do ls $f.*.safetensors 2>&1 && head -n 1 $f.*.safetensors | "
                               "grep -ac '%s'; done; cd .. && rm -rf part", kdtest_tmp(), cases[i].name);
        if (cases[i].part) {
            char want[100];
            snprintf(want, sizeof want, "last.%s.safetensors\n1\nbest.%s.safetensors\n1\n", cases[i].part, cases[i].part);
            CHECK_MSG(strcmp(out, want) == 0, "%s: %s", cases[i].method, out);
        } else {
            CHECK_MSG(strstr(out, "No such file") != NULL, "%s: %s", cases[i].method, out);
        }
        free(out);
    }
}

/* Parameters and multiply-adds of ResNet-8 and -14 as the layers' shapes give them: 3 x 3 convolutions of 16, 32 and 64 channels at
 * 32, 16 and 8 pixels a side, 1 x 1 shortcuts, two numbers a channel for each norm, and the classifier. */
static void resnet_cost(size_t blocks, size_t classes, size_t *parameters, double *millions)
{
    size_t weights = 3 * 16 * 9, products = weights * 1024, norms = 16;
    for (size_t stage = 0; stage < 3; stage++) {
        size_t wide = (size_t)16 << stage, before = stage ? wide / 2 : wide, pixels = (size_t)1024 >> 2 * stage;
        size_t here = before * wide * 9 + (2 * blocks - 1) * wide * wide * 9 + (stage ? before * wide : 0);
        weights += here, products += here * pixels, norms += (2 * blocks + (stage > 0)) * wide;
    }
    *parameters = weights + 2 * norms + 65 * classes;
    *millions = (double)(products + 64 * classes) / 1e6;
}

TEST(a_run_ends_with_a_table)
{
    size_t small, large;
    double few, many;
    char row[300];
    if (!prepare()) return;
    resnet_cost(1, 10, &small, &few);
    resnet_cost(2, 10, &large, &many);
    if (!GOES("--data cifar10:data --student resnet8 --set epochs=1 --set batch=60 --out before")) return;
    if (!GOES("--data cifar10:data --student resnet8 --teacher resnet14 --method kd --teacher-set epochs=1 --set epochs=1 "
              "--compare resnet8:before/last.safetensors --out tabled")) return;
    check_row("tabled", "# resnet8 by kd, seed 0\n");
    check_row("tabled", "| teacher: resnet14 | ");
    check_row("tabled", "| before: resnet8 | ");
    check_row("tabled", "| student, last: resnet8 | ");
    snprintf(row, sizeof row, " | %zu,%03zu | %.2f M | - | - | ", large / 1000, large % 1000, many);
    CHECK_MSG(strstr(strstr(text, "teacher: resnet14"), row) != NULL, "no \"%s\" in %s", row, text);
    snprintf(row, sizeof row, " | %zu,%03zu | %.2f M | - | - | ", small / 1000, small % 1000, few);
    CHECK_MSG(strstr(strstr(text, "student, last: resnet8"), row) != NULL, "no \"%s\" in %s", row, text);
    snprintf(row, sizeof row, "| student, last: resnet8 | %.2f x smaller | %.2f x fewer | ", (double)large / (double)small,
             many / few);
    check_row("tabled", row);
    /* Accuracy, agreement and file size are those of result.csv and of the file. */
    int status;
    char *out = kdtest_run(&status, "cd '%s/tabled' && awk -F, 'NR == 2 { printf \"| student, last: resnet8 | %%s | %%s | %%s | \", "
                           "$6, $7, $9 }' result.csv", kdtest_tmp());
    check_row("tabled", out);
    free(out);
    out = kdtest_run(&status, "cd '%s/tabled/teacher' && printf '| %%s |' $(wc -c < last.safetensors | sed 's/\\(...\\)$/,\\1/')",
                     kdtest_tmp());
    CHECK_MSG(strstr(text, out) != NULL, "no \"%s\" in %s", out, text);
    free(out);
    /* Without a student the finished networks alone, with latencies; a network that is its own teacher agrees with itself. */
    if (!GOES("--data cifar10:data --teacher resnet8:before/last.safetensors --compare resnet8:before/last.safetensors --time .01 "
              "--out compared")) return;
    check_row("compared", "# Finished networks\n");
    CHECK_MSG(strstr(text, " | 100.00 | ") != NULL && strstr(text, " | - | - | ") == NULL, "%s", text);
    check_row("compared", "| before: resnet8 | 1.00 x smaller | 1.00 x fewer | 1.00 x smaller | 1.00 x faster | 1.00 x faster | ");
}

TEST(folders_of_images)
{
    if (!prepare()) return;
    write_folder("tree", "train", 8, 1);
    write_folder("tree", "val", 3, 2);
    if (!GOES("--data folder:tree --side 16 --student resnet8 --set epochs=2 --set batch=8 --out leaf")) return;
    CHECK_MSG(strstr(text, "Of all 9 test images") != NULL, "%s", text);
    check_row("leaf", "| student, last: resnet8 | ");
    CHECK_MSG(strstr(text, " | 3.13 M | ") != NULL, "%s", text);   /* a fourth of the pixels */
    /* Kept at 20, trained on as crops of 16: all of DeiT's augmentation. */
    if (!GOES("--data folder:tree --side 16 --keep 20 --student resnet8 --set epochs=2 --set batch=8 --set crop_area=.3 "
              "--set randaugment_ops=2 --set erase_probability=.5 --set cutmix=1 --out bud")) return;
    CHECK_MSG(strstr(text, " | 3.13 M | ") != NULL, "%s", text);
    int status;
    free(kdtest_run(&status, "grep -q '^side = 16 of 20$' '%s/bud/settings.txt'", kdtest_tmp()));
    CHECK(status == 0);
    /* Networks of ImageNet, at a side that is not theirs. */
    if (!GOES("--data folder:tree --side 32 --student vit_tiny_patch16_32 --teacher resnet18 --method kd --teacher-set epochs=1 "
              "--teacher-set batch=24 --set epochs=1 --set batch=24 --out oak")) return;
    check_row("oak", "| teacher: resnet18 | ");
    if (!GOES("--data folder:tree --side 48 --compare vit_tiny_patch16_48:oak/last.safetensors --out ash")) return;
    check_row("ash", "| oak: vit_tiny_patch16_48 | ");
}

/* The mean cross-entropy of a network on the test images, worked out here. */
static double test_loss(kd_model *model)
{
    static const float mean[] = { .4914f, .4822f, .4465f }, std[] = { .2470f, .2435f, .2616f };
    char path[600];
    const char *files[] = { path };
    kd_dataset *data = NULL;
    kd_loader *loader = NULL;
    kd_loader_desc d;
    kd_tape *tape = NULL;
    kd_tensor *x, *y;
    double sum = 0;
    snprintf(path, sizeof path, "%s/data/test_batch.bin", kdtest_tmp());
    kd_loader_desc_init(&d, sizeof d);
    d.batch = ITEMS, d.shuffle = 0, d.mean = mean, d.std = std, d.channels = 3;
    CHECK_OK(kd_dataset_open_cifar(&data, NULL, files, 1, KD_CIFAR_10));
    CHECK_OK(kd_loader_create(&loader, NULL, data, &d));
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_EVAL));
    if (CHECK_OK(kd_loader_next(loader, &x, &y))) {
        kd_tensor *z = kd_model_forward(model, tape, x);
        for (size_t i = 0; CHECK_OK(kd_tape_status(tape)) && i < ITEMS; i++) {
            const float *row = kd_tensor_f32(z) + 10 * i;
            double total = 0;
            for (size_t c = 0; c < 10; c++) total += exp((double)row[c]);
            sum += log(total) - (double)row[((const int32_t *)kd_tensor_data(y))[i]];
        }
    }
    kd_tape_free(tape);
    kd_loader_free(loader);
    kd_dataset_free(data);
    return sum / ITEMS;
}

/* After one step the average is between the first weights, which a learning rate of 0 leaves, and those of the step; it is
 * what is tested and saved. */
TEST(averaged_weights_are_tested_and_saved)
{
    static const char *const sets[] = { "--set lr=0", "", "--set ema=.75" };
    kd_model *m[3] = { NULL };
    char line[600], path[600];
    double loss = 0;
    if (!prepare()) return;
    for (size_t i = 0; i < 3; i++) {
        snprintf(line, sizeof line, "--data cifar10:data --student resnet8 --set epochs=1 --set batch=120 --set warmup_epochs=0 "
                 "--set schedule=constant --time 0 %s --out average%zu", sets[i], i);
        if (!CHECK_MSG(finish(start(line)) == 0, "%s", text)) return;
        snprintf(path, sizeof path, "%s/average%zu/last.safetensors", kdtest_tmp(), i);
        if (!CHECK_OK(kd_zoo_create(&m[i], NULL, "resnet8", 10, 1))) goto done;
        if (!CHECK_OK(kd_model_load(m[i], path, KD_LOAD_STRICT))) goto done;
    }
    double moved = 0;
    for (size_t k = 0; k < kd_model_parameter_count(m[0]); k++) {
        kd_param_info p[3];
        for (size_t i = 0; i < 3; i++) {
            p[i] = (kd_param_info){ .struct_size = sizeof *p };
            CHECK_OK(kd_model_parameter_at(m[i], k, &p[i]));
        }
        for (size_t i = 0; i < kd_tensor_count(p[0].tensor); i++) {
            double first = (double)kd_tensor_f32(p[0].tensor)[i], second = (double)kd_tensor_f32(p[1].tensor)[i];
            if (strstr(p[0].name, "running_")) first = strstr(p[0].name, "running_var") ? 1 : 0;   /* move at any rate */
            /* a difference, a product and a sum are rounded */
            const double bound = 3 * 0x1p-24 * (fabs(first) + fabs(second));
            CHECK_NEAR((double)kd_tensor_f32(p[2].tensor)[i], .75 * first + .25 * second, bound);
            moved += fabs(second - first);
        }
    }
    CHECK(moved > 0);
    snprintf(path, sizeof path, "%s/average2/curves.csv", kdtest_tmp());
    FILE *f = fopen(path, "r");
    if (CHECK(f != NULL)) CHECK(fscanf(f, "%*[^\n] 1,%*f,%*f,%lf", &loss) == 1);
    if (f) CHECK(fclose(f) == 0);
    CHECK_NEAR(loss, test_loss(m[2]), 2e-6 * fabs(loss) + 1e-6);   /* six decimals; logits in float */
done:
    for (size_t i = 0; i < 3; i++) kd_model_free(m[i]);
}

TEST(what_does_not_fit_is_named_and_nothing_is_written)
{
    static const struct { const char *arguments, *says; } cases[] = {
        { "--data cifar10:data --student resnet8 --method kq --teacher resnet8", "no method \"kq\" (the nearest is \"kd\")" },
        { "--data cifar10:data --student resnet8 --method kd", "kd: needs a teacher" },
        { "--data cifar10:data --student resnet9", "\"resnet9\"" },
        { "--data cifar9:data --student resnet8", "none of cifar10, cifar100" },
        { "--data cifar10:nowhere --student resnet8", "nowhere/data_batch_1.bin" },
        { "--data cifar10:short --student resnet8", "short/test_batch.bin: ends 3069 bytes into record 23" },
        { "--data cifar10:label --student resnet8", "label/data_batch_1.bin: record 3 has label 10, of 10 classes" },
        { "--data cifar10:data --student resnet8 --method kd --teacher resnet14:weights.safetensors", "missing: layer1.1.conv1.weight" },
        { "--data cifar10:data --student resnet8 --method kd --teacher resnet8:hundred.safetensors", "fc.weight" },
        { "--data cifar10:data --student vit:patch=5,width=24,depth=2,heads=2", "patch" },
        { "--data cifar10:data --student vit:patch=4,width=24,depth=2,heads=2 --method simkd --teacher resnet8", "simkd: needs networks" },
        { "--data cifar10:data --student resnet8 --set lr=fast", "lr is \"fast\"; it takes a number" },
        { "--data cifar10:data --student resnet8 --set lr=.1,.2", "lr is \".1,.2\"; it takes a number" },
        { "--data cifar10:data --student resnet8 --set epochs=1.5", "epochs is 1.5, not a whole number" },
        { "--data cifar10:data --student resnet8 --set rate=1", "no key \"rate\"" },
        { "--data cifar10:data --student resnet8 --recipe bad.recipe", "bad.recipe, line 2: \"lr .1\" is not \"key = value\"" },
        { "--data cifar10:data --student resnet8 --method dkd --teacher resnet8 --set mixup=.2",
          "dkd: needs the class of each image, which mixed images do not have: mixup = 0" },
        { "--data cifar10:data --student resnet8 --method tfkd --set cutmix=1", "mixed images do not have: cutmix = 0" },
        { "--data cifar10:data --student resnet8 --method pskd --set repeats=3", "pskd: needs each image once in an epoch" },
        { "--data cifar10:data --student resnet8 --method label_smoothing --set label_smoothing=.1", "too often: label_smoothing = 0" },
        { "--data cifar10:data --student resnet8 --method kd --teacher resnet8 --set crop_padding=32", "crop_padding" },
        { "--data cifar10:data --student resnet8 --set randaugment_ops=17", "it takes a number from 0 to 16" },
        { "--data cifar10:data --student resnet8 --seed x", "--seed takes a number" },
        { "--data cifar10:data --student resnet8 --side 48", "--side 48: the images of cifar10 are 32 x 32" },
        { "--data cifar10:data --student resnet8 --keep 48", "--keep 48: for folders" },
        { "--data folder:unlike --student resnet8 --side 16 --keep 40", "--keep 40 is not between --side 16 and twice that" },
        { "--data cifar10:data --student deit_tiny_patch16_224", "deit_tiny_patch16_224: images of 32 x 32: vit: x [1, 32, 32, 3]" },
        { "--data cifar10:data --compare resnet8", "resnet8: needs weights, as in resnet8:FILE.safetensors" },
        { "--data cifar10:data --teacher resnet8 --compare resnet8:weights.safetensors", "resnet8: needs weights" },
        { "--data cifar10:data --compare resnet8:hundred.safetensors", "fc.weight" },
        { "--data cifar10:data", "usage:" },
        { "--data folder:uneven --student resnet8",
          "uneven/train/ant/01.ppm: 21 x 16 pixels, the first image has 20 x 16; --side N makes" },
        { "--data folder:unlike --student resnet8", "images of 20 x 16 in train, of 24 x 16 in test; --side N makes" },
        { "--data folder:extra --student resnet8", "extra: the class \"dog\" is in train but not in test" },
        { "--data folder:fewer --student resnet8", "fewer: the class \"cow\" is in val but not in train" },
        { "--data folder:hollow --student resnet8", "hollow/train/eel: a class without images" },
        { "--data folder:cut --student resnet8", "cut/test/bee/02.ppm: 953 bytes of pixels at byte 13, 20 x 16 pixels are 960" },
        { "--data folder:foreign --student resnet8", "foreign/train/ant/note.txt: no image: neither P6 nor P5 at byte 0" },
        { "--data folder:picture --student resnet8", "picture/train/ant/00.png" },
        { "--data folder:photo --student resnet8", "photo/train/ant/00.jpg" },
        { "--data folder:half --student resnet8", "half: there is neither test nor val in it" },
        { "--data folder:nowhere --student resnet8", "nowhere" },
    };
    char path[600];
    if (!prepare()) return;
    write_data("short", -1, 4);
    write_data("label", 10, 0);
    for (int k = 0; k < 2; k++) {   /* weights of this and of other classes */
        kd_model *model = NULL;
        snprintf(path, sizeof path, "%s/%s.safetensors", kdtest_tmp(), k ? "hundred" : "weights");
        if (CHECK_OK(kd_zoo_create(&model, NULL, "resnet8", k ? 100 : 10, 1))) CHECK_OK(kd_model_save(model, path));
        kd_model_free(model);
    }
    static const char *const folders[] = { "unlike", "extra", "hollow", "cut", "foreign", "picture", "photo" };
    write_folder("uneven", "train", 3, 1);
    write_folder("uneven", "test", 3, 0);
    write_folder("half", "train", 3, 0);
    write_folder("fewer", "train", 3, 0);
    write_folder("fewer", "val", 3, 0);
    for (size_t i = 0; i < COUNT(folders); i++) {
        write_folder(folders[i], "train", 3, 0);
        write_folder(folders[i], "test", i ? 3 : 1, 0);
    }
    int done;
    free(kdtest_run(&done, "cd '%s' && mkdir extra/train/dog hollow/train/eel hollow/test/eel fewer/val/cow && "
                    "cp extra/train/ant/00.ppm extra/train/dog && cp extra/train/ant/00.ppm fewer/val/cow && "
                    "for f in unlike/test/*/00.ppm; do { printf 'P6\\n16 24\\n255\\n'; head -c 1152 /dev/zero; } > $f; done && "
                    "head -c 966 cut/test/bee/02.ppm > cut/short && mv cut/short cut/test/bee/02.ppm && "
                    "echo an insect > foreign/train/ant/note.txt && printf '\\211PNG\\r\\n\\032\\n' > picture/train/ant/00.png && "
                    "printf '\\377\\330\\377\\340' > photo/train/ant/00.jpg && rm p*/train/ant/00.ppm", kdtest_tmp()));
    CHECK(done == 0);
    snprintf(path, sizeof path, "%s/bad.recipe", kdtest_tmp());
    FILE *f = fopen(path, "w");
    if (!CHECK(f != NULL)) return;
    fputs("# rates\nlr .1\n", f);
    CHECK(fclose(f) == 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        char line[600];
        snprintf(line, sizeof line, "%s --out bad", cases[i].arguments);
        int status = finish(start(line));
        CHECK_MSG(status == 1 || status == 2, "%s: exit %d", cases[i].arguments, status);
        CHECK_MSG(strstr(text, cases[i].says) != NULL, "%s: \"%s\" instead of \"%s\"", cases[i].arguments, text, cases[i].says);
        CHECK_MSG(!exists("bad"), "%s: something was written", cases[i].arguments);
    }
}

/* A folder that holds another run is left as it is. */
TEST(a_folder_belongs_to_one_run)
{
    int status;
    if (!prepare()) return;
    if (!GOES("--data cifar10:data --student resnet8 --set epochs=1 --set batch=60 --out own")) return;
    char *before = kdtest_run(&status, "cd '%s/own' && cksum *", kdtest_tmp());
    CHECK(finish(start("--data cifar10:data --student resnet8 --set epochs=1 --set batch=60 --set lr=.2 --out own")) == 1);
    CHECK_MSG(strstr(text, "own holds another run") != NULL, "%s", text);
    char *after = kdtest_run(&status, "cd '%s/own' && cksum *", kdtest_tmp());
    CHECK_MSG(!strcmp(before, after), "%s became\n%s", before, after);
    free(before);
    free(after);
}
