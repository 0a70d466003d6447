/* test_vision.c - examples/distill_vision from its command line: killed at random moments it ends in the weights and curves of a run that
 * never stopped; what does not fit is named, and nothing is written.
 * SPDX-License-Identifier: MIT */
#include "kdtest_tools.h"
#include <kd.h>
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
    snprintf(line, sizeof line, "cd '%s' && exec '%s' --threads 1 %s >log 2>&1", kdtest_tmp(), program, arguments);
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

#define RUN "--data cifar10:data --student resnet8 --teacher resnet8 --method %s --seed 4 --teacher-set epochs=1 --set epochs=%d " \
            "--set batch=12 --set checkpoint_seconds=0 --teacher-set batch=12 --teacher-set checkpoint_seconds=0 --out %s"

/* One of a method with a loss of its own to keep, one with adapters, one in two phases. */
TEST(killed_runs_end_in_the_same_bits)
{
    static const char *const methods[] = { "kd", "vid", "ab" };
    if (!prepare()) return;
    for (size_t m = 0; m < COUNT(methods); m++) {
        char whole[400], cut[400];
        snprintf(whole, sizeof whole, RUN, methods[m], 2, "whole");
        snprintf(cut, sizeof cut, RUN, methods[m], 2, "cut");
        if (!CHECK_MSG(finish(start(whole)) == 0, "%s: %s", methods[m], text)) return;
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
        CHECK_MSG(finish(start(cut)) == 0, "%s: %s", methods[m], text);
        CHECK_MSG(killed > 0, "%s: no run was killed in its middle", methods[m]);
        int status;
        char *out = kdtest_run(&status, "cd '%s' && for f in last best teacher/last; do "
                               "cmp whole/$f.safetensors cut/$f.safetensors || exit 1; done; "
                               "for d in whole cut; do cut -d, -f1-7 $d/curves.csv > $d.txt; done; "
                               "cmp whole.txt cut.txt && test $(wc -l < cut.txt) -gt 2 && rm -rf whole cut", kdtest_tmp());
        CHECK_MSG(status == 0, "%s: %s", methods[m], out);
        free(out);
    }
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
        { "--data cifar10:data --student resnet8 --method dkd --teacher resnet8 --set mixup=.2", "dkd: needs the class" },
        { "--data cifar10:data --student resnet8 --seed x", "--seed takes a number" },
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
    if (!CHECK_MSG(finish(start("--data cifar10:data --student resnet8 --set epochs=1 --set batch=60 --out own")) == 0, "%s", text)) return;
    char *before = kdtest_run(&status, "cd '%s/own' && cksum *", kdtest_tmp());
    CHECK(finish(start("--data cifar10:data --student resnet8 --set epochs=1 --set batch=60 --set lr=.2 --out own")) == 1);
    CHECK_MSG(strstr(text, "own holds another run") != NULL, "%s", text);
    char *after = kdtest_run(&status, "cd '%s/own' && cksum *", kdtest_tmp());
    CHECK_MSG(!strcmp(before, after), "%s became\n%s", before, after);
    free(before);
    free(after);
}
