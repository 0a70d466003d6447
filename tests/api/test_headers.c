/* test_headers.c - every public header compiles alone, as C and as C++, without a warning.
 * SPDX-License-Identifier: MIT */
#include "kdtest_tools.h"
#include <stdlib.h>
#include <unistd.h>

typedef struct language {
    const char *compiler, *flags, *suffix;
} language;

static void compile(const char *path, void *user)
{
    const language *l = user;
    char source[700];
    snprintf(source, sizeof source, "%s/alone%s", kdtest_tmp(), l->suffix);
    FILE *f = fopen(source, "w");
    if (!CHECK(f != NULL)) return;
    const char *name = path + strlen("include/");
    /* twice: the guard; a use of the library's linkage: extern "C" */
    fprintf(f, "#include <%s>\n#include <%s>\nint alone(void);\nint alone(void) { return KD_VERSION > 0; }\n", name, name);
    fclose(f);
    int status;
    char *output = kdtest_run(&status, "%s %s -Wall -Wextra -Werror -pedantic-errors -Iinclude -fsyntax-only '%s'", l->compiler,
                              l->flags, source);
    CHECK_MSG(status == 0, "%s with %s %s:\n%s", path, l->compiler, l->flags, output);
    free(output);
}

static void all_headers(language l)
{
    CHECK(kdtest_walk("include", ".h", compile, &l) >= 2);
}

TEST(c11) { all_headers((language){ kdtest_cc(), "-std=c11 -Wstrict-prototypes -Wundef", ".c" }); }

TEST(c17)
{
    int status;
    free(kdtest_run(&status, "%s -std=c17 -x c -E /dev/null", kdtest_cc()));
    if (status != 0) {
        kdtest_skip("the compiler knows no C17");
        return;
    }
    all_headers((language){ kdtest_cc(), "-std=c17 -Wstrict-prototypes -Wundef", ".c" });
}

/* A C++ compiler of the same target would be better; any will do for headers. */
static const char *cplusplus(void)
{
    static const char *const names[] = { "c++", "g++", "clang++" };
    const char *chosen = getenv("KD_CXX");
    if (chosen && *chosen) return chosen;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (kdtest_have(names[i])) return names[i];
    return NULL;
}

static void as_cplusplus(const char *flags)
{
    const char *cxx = cplusplus();
    if (cxx) all_headers((language){ cxx, flags, ".cpp" });
    else kdtest_skip("no C++ compiler");
}

TEST(cpp11) { as_cplusplus("-std=c++11"); }

TEST(cpp17) { as_cplusplus("-std=c++17"); }

/* The umbrella holds every other header and nothing else. */
static void in_umbrella(const char *path, void *user)
{
    char line[300];
    snprintf(line, sizeof line, "#include \"%s\"\n", path + strlen("include/"));
    CHECK_MSG(strstr(user, line) != NULL, "kd.h does not include %s", path);
}

TEST(umbrella)
{
    char *text = kdtest_read("include/kd.h", NULL);
    kdtest_walk("include/kd", ".h", in_umbrella, text);
    CHECK(strstr(text, "KD_API") == NULL);
    free(text);
}
