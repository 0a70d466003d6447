/* test_reference.c - docs/reference and docs/man are what the headers say now, and hold every exported function.
 * SPDX-License-Identifier: MIT */
#include "kdtest_tools.h"
#include <stdlib.h>
#include <unistd.h>

TEST(made_from_these_headers)
{
    int status;
    char *output = kdtest_run(&status, "sh tests/tools/gen_reference.sh '%s'", kdtest_tmp());
    CHECK_MSG(status == 0, "%s", output);
    free(output);
    output = kdtest_run(&status, "diff -r '%s/man' docs/man && for f in '%s'/reference/*.md; do "
                        "diff \"$f\" docs/reference/ || exit 1; done", kdtest_tmp(), kdtest_tmp());
    CHECK_MSG(status == 0, "the reference is not up to date: make docs\n%.1000s", output);
    free(output);
}

/* By another list than the generator's: the exports of the shared library. */
TEST(every_function_has_a_page_and_a_man_page)
{
    char *map = kdtest_read("src/libkd.map", NULL), *index = kdtest_read("docs/reference/README.md", NULL), *rest = map;
    size_t count = 0;
    for (char *line; (line = kdtest_line(&rest));) {
        char name[100], path[1200], needle[160];
        if (sscanf(line, " kd_%99[a-z0-9_];", name) != 1) continue;
        count++;
        snprintf(needle, sizeof needle, "| [`kd_%s`](", name);
        CHECK_MSG(strstr(index, needle) != NULL, "kd_%s is not in docs/reference", name);
        snprintf(path, sizeof path, "%s/docs/man/kd_%s.3", kdtest_root(), name);
        CHECK_MSG(access(path, R_OK) == 0, "kd_%s has no man page", name);
    }
    CHECK(count > 200);
    free(map);
    free(index);
}

static void has_page(const char *path, void *user)
{
    char page[1200];
    (void)user;
    snprintf(page, sizeof page, "%s/docs/reference/%.*s.md", kdtest_root(), (int)(strlen(path) - strlen("include/kd/.h")),
             path + strlen("include/kd/"));
    CHECK_MSG(access(page, R_OK) == 0, "%s has no page: name it in tests/tools/gen_reference.sh", path);
}

TEST(every_header_has_a_page) { CHECK(kdtest_walk("include/kd", ".h", has_page, NULL) >= 9); }

/* A declaration without a comment is refused, wherever it stands. */
TEST(comments_are_wanted)
{
    static const char *const lines[] = { "KD_API int32_t kd_bare(void);", "#define KD_bare 1", "typedef struct kd_bare kd_bare;",
                                         "/* x */\\ntypedef struct kd_s {\\n    int bare;\\n} kd_s;" };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        int status;
        char *output = kdtest_run(&status, "t='%s/bare' && rm -rf $t && mkdir -p $t/tests $t/include && cp -r tests/tools $t/tests/ && "
                                  "cp -r include/kd $t/include/ && printf '\\n%s\\n\\n' >> $t/include/kd/io.h && "
                                  "sh $t/tests/tools/gen_reference.sh $t/out", kdtest_tmp(), lines[i]);
        CHECK_MSG(status != 0 && strstr(output, "bare"), "accepted: %s", lines[i]);
        free(output);
    }
}

TEST(man_pages_are_clean)
{
    int status, any = 0;
    if (kdtest_have("mandoc")) {
        char *output = kdtest_run(&status, "mandoc -T lint -W warning docs/man/*.3");
        CHECK_MSG(status == 0, "%s", output);
        free(output);
        any = 1;
    }
    if (kdtest_have("groff")) {
        char *output = kdtest_run(&status, "groff -man -Tascii -ww -z docs/man/*.3");
        CHECK_STR(output, "");
        free(output);
        any = 1;
    }
    if (!any) kdtest_skip("no mandoc, no groff");
}
