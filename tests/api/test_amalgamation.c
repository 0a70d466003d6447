/* test_amalgamation.c - the library as one file: linked here instead of libkd.a, compiled without any flag, together with
 * test_hashes.c, so it must hit the hashes.  What it exports, and what its header does in C and C++.
 * SPDX-License-Identifier: MIT */
#include "kdtest_tools.h"
#include <stdlib.h>

#define FOLDER "lib/amalgamation"

TEST(exports_are_the_api)
{
    if (!kdtest_have(kdtest_nm())) {
        kdtest_skip("no nm");
        return;
    }
    int status;
    char *declared = kdtest_run(&status, "sh tests/tools/gen_map.sh | sed -n 's/^    \\(kd_[a-z0-9_]*\\);$/\\1/p'");
    CHECK(status == 0 && strstr(declared, "kd_version\n"));
    char *defined = kdtest_run(&status, "%s -g --defined-only %s/tests/amalgamation/kd.o | awk 'NF == 3 { print $3 }' | LC_ALL=C sort",
                               kdtest_nm(), kdtest_obj());
    CHECK(status == 0);
    CHECK_MSG(strcmp(declared, defined) == 0, "declared:\n%s\nexported:\n%s", declared, defined);
    free(declared);
    free(defined);
}

/* Compile `source` as it stands; its output. */
static char *compile(int *status, const char *compiler, const char *suffix, const char *flags, const char *source)
{
    char path[700];
    snprintf(path, sizeof path, "%s/one%s", kdtest_tmp(), suffix);
    FILE *f = fopen(path, "w");
    if (!CHECK(f != NULL)) return NULL;
    fputs(source, f);
    fclose(f);
    return kdtest_run(status, "cd '%s' && %s %s -I'%s/" FOLDER "' -o one.o one%s", kdtest_tmp(), compiler, flags, kdtest_root(), suffix);
}

#define USE "int use(void); int use(void) { return kd_version() == KD_VERSION; }\n"

TEST(header_alone)
{
    int status;
    char *out = compile(&status, kdtest_cc(), ".c", "-std=c11 -Wall -Wextra -Werror -pedantic-errors -fsyntax-only",
                        "#include \"kd_single.h\"\n#include \"kd_single.h\"\n#include \"kd.h\"\n" USE);
    CHECK_MSG(status == 0, "%s", out);
    free(out);
    if (!kdtest_have("c++")) {
        kdtest_skip("no C++ compiler");
        return;
    }
    out = compile(&status, "c++", ".cpp", "-std=c++17 -Wall -Wextra -Werror -fsyntax-only", "#include \"kd_single.h\"\n" USE);
    CHECK_MSG(status == 0, "%s", out);
    free(out);
    out = compile(&status, "c++", ".cpp", "-fsyntax-only", "#define KD_IMPLEMENTATION\n#include \"kd_single.h\"\n" USE);
    CHECK_MSG(status != 0 && strstr(out, "compile this file as C11"), "%s", out);
    free(out);
}

/* The program's own part may say what it likes after the library: nothing inner is left defined. */
TEST(header_with_the_implementation)
{
    int status;
    char *out = compile(&status, kdtest_cc(), ".c", "-Wall -Wextra -Werror -fsyntax-only",
                        "#define KD_IMPLEMENTATION\n#define KD_STATIC\n#include \"kd_single.h\"\n#include \"kd_single.h\"\n"
                        "#if defined KD_MIN || defined KD_TRY || defined KD_ISA || defined V_FN || defined KERNEL\n"
                        "#error \"an inner macro is left\"\n#endif\n" USE);
    CHECK_MSG(status == 0, "%s", out);
    free(out);
}

/* What is left when threads and files are taken out, without the vector kernels, to be quick about it. */
TEST(without_threads_and_files)
{
    if (!kdtest_have(kdtest_nm())) {
        kdtest_skip("no nm");
        return;
    }
    int status;
    char *out = compile(&status, kdtest_cc(), ".c", "-O0 -c -DKD_NO_THREADS -DKD_NO_IO -DKD_NO_SIMD",
                        "#define KD_IMPLEMENTATION\n#define KD_STATIC\n#include \"kd_single.h\"\n" USE
                        "const void *const all[] = { (const void *)kd_model_load, (const void *)kd_model_save, "
                        "(const void *)kd_loader_next };\n");
    CHECK_MSG(status == 0, "%s", out);
    free(out);
    out = kdtest_run(&status, "%s -u '%s/one.o' | awk '{ print $NF }'", kdtest_nm(), kdtest_tmp());
    CHECK(status == 0);
    static const char *const refused[] = {
        "open", "open64", "fopen", "fopen64", "close", "read", "pread", "pread64", "write", "rename", "unlink", "fsync", "fstat", "fstat64",
        "stat", "stat64", "lstat", "lstat64", "flock", "fcntl", "fcntl64", "realpath", "opendir", "readdir",
        "readdir64", "closedir", "fstatat", "fstatat64", "sched_yield", "sched_getaffinity", "__tls_get_addr",
    };
    CHECK(strstr(out, "memcpy\n"));
    for (char *rest = out, *name; (name = kdtest_line(&rest));) {
        CHECK_MSG(strncmp(name, "pthread_", 8) != 0, "still asks for %s", name);
        for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
            CHECK_MSG(strcmp(name, refused[i]) != 0, "still asks for %s", name);
    }
    free(out);
}
