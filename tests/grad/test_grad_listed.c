/* test_grad_listed.c - every line of ops.def has a gradient case, and every case a line.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include <dirent.h>
#include <stdlib.h>

static char *read_text(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!CHECK_MSG(file != NULL, "cannot read %s", path)) return calloc(1, 1);
    size_t size = 0, room = 1 << 16;
    char *text = malloc(room + 1);
    for (size_t n; text && (n = fread(text + size, 1, room - size, file)) > 0;) {
        size += n;
        if (size == room) text = realloc(text, (room *= 2) + 1);
    }
    fclose(file);
    if (!text) abort();
    text[size] = 0;
    return text;
}

/* All of tests/grad and tests/distill, but this file, in one text: the sources of the gradient cases. */
static char *all_cases(void)
{
    static const char *const rooms[] = { "tests/grad", "tests/distill" };
    char *all = calloc(1, 1);
    for (size_t r = 0; r < 2; r++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", KD_TEST_ROOT, rooms[r]);
        DIR *dir = opendir(path);
        for (struct dirent *e; dir && (e = readdir(dir));) {
            size_t n = strlen(e->d_name);
            if (n < 2 || strcmp(e->d_name + n - 2, ".c") != 0 || strcmp(e->d_name, "test_grad_listed.c") == 0) continue;
            snprintf(path, sizeof path, "%s/%s/%s", KD_TEST_ROOT, rooms[r], e->d_name);
            char *text = read_text(path);
            all = realloc(all, strlen(all) + strlen(text) + 1);
            if (!all) abort();
            strcat(all, text);
            free(text);
        }
        if (dir) closedir(dir);
    }
    return all;
}

static const char *const ops[] = {
#define OP(name) #name,
#include "autograd/ops.def"
#undef OP
};

TEST(every_op_has_a_case)
{
    char *cases = all_cases(), want[128];
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        snprintf(want, sizeof want, "{ GRAD_CASE(%s,", ops[i]);
        CHECK_MSG(strstr(cases, want) != NULL, "no GRAD_CASE(%s, ..) in tests/grad", ops[i]);
    }
    free(cases);
}

TEST(every_case_has_an_op)
{
    char *cases = all_cases();
    for (const char *at = cases; (at = strstr(at, "{ GRAD_CASE(")) != NULL;) {
        char name[64];
        size_t known = 0;
        at += strlen("{ GRAD_CASE(");
        size_t n = strcspn(at, ",");
        if (!CHECK(n < sizeof name)) break;
        memcpy(name, at, n);
        name[n] = 0;
        for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) known += strcmp(name, ops[i]) == 0;
        CHECK_MSG(known == 1, "GRAD_CASE(%s, ..) is no line of ops.def", name);
    }
    free(cases);
}
