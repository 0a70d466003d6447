/* test_install.c - make install into a staging directory: which files, what they say, programs built against them on a bare command
 * line, make uninstall.  Compilers, languages, pkg-config and CMake in full: tests/tools/install_matrix.sh.
 * SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include "kdtest_tools.h"

static char stage[600], make[2000];
static const char *before = "";
#ifdef KD_BLIS
#define WITH_BLIS "BLIS=1"
#define LINK_BLIS "-lblis "
#else
#define WITH_BLIS ""
#define LINK_BLIS ""
#endif

/* The same build as the one under test, so that nothing is compiled again. */
static int prepare(const char *name)
{
    if (!kdtest_have("make")) {
        kdtest_skip("no make");
        return 0;
    }
    const char *slash = strrchr(kdtest_obj(), '/');
    snprintf(stage, sizeof stage, "%s/%s", kdtest_tmp(), name);
    snprintf(make, sizeof make, "env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make --no-print-directory CONFIG='%s' CC='%s' NM='%s' "
             "DESTDIR='%s' " WITH_BLIS, slash ? slash + 1 : kdtest_obj(), kdtest_cc(), kdtest_nm(), stage);
    return 1;
}

static int run_make(const char *arguments)
{
    int status;
    char *text = kdtest_run(&status, "%s%s %s", before, make, arguments);
    CHECK_MSG(status == 0, "make %s:\n%s", arguments, text);
    free(text);
    return status == 0;
}

/* A text file of the stage, to be freed. */
static char *staged(const char *name)
{
    int status;
    char *text = kdtest_run(&status, "cat '%s/%s'", stage, name);
    CHECK_MSG(status == 0, "%s", text);
    return text;
}

/* Runs a command in the temporary directory; %s of `command` is the stage. */
static void must(const char *what, const char *command)
{
    int status;
    char line[3000];
    snprintf(line, sizeof line, command, stage, stage, stage);
    char *text = kdtest_run(&status, "cd '%s' && %s", kdtest_tmp(), line);
    CHECK_MSG(status == 0, "%s: %s\n%s", what, line, text);
    free(text);
}

/* ---- which files --------------------------------------------------------------------------------------------- */

static void man_page(const char *path, void *user)
{
    char *list = user;
    snprintf(list + strlen(list), 200, "share/man/man3/%s\n", strrchr(path, '/') + 1);
}

/* The golden list, with this version's number, and the manual pages that there are. */
static char *expected(void)
{
    char *golden = kdtest_read("tests/golden/installed.txt", NULL), *list = calloc(1, 200000), *rest = golden;
    for (char *line; (line = kdtest_line(&rest));) {
        char *at = strstr(line, "VERSION");
        if (at) snprintf(list + strlen(list), 300, "%.*s%s%s\n", (int)(at - line), line, kd_version_string(), at + strlen("VERSION"));
        else snprintf(list + strlen(list), 300, "%s\n", line);
    }
    kdtest_walk("docs/man", ".3", man_page, list);
    free(golden);
    return list;
}

static void check_files(const char *without)
{
    int status;
    char *want = expected();
    FILE *f;
    char path[700];
    snprintf(path, sizeof path, "%s/expected", kdtest_tmp());
    if (!CHECK((f = fopen(path, "w")) != NULL)) return;
    fputs(want, f);
    fclose(f);
    free(want);
    char *text = kdtest_run(&status, "cd '%s' && LC_ALL=C sort expected | grep -v '%s' > want && (cd '%s/opt/kd' && find . ! -type d | "
                            "sed 's|^[.]/||' | LC_ALL=C sort) | diff want -", kdtest_tmp(), without, stage);
    CHECK_MSG(status == 0, "installed files (< golden, > found):\n%s", text);
    free(text);
}

static void check_gone(void)
{
    int status;
    char *text = kdtest_run(&status, "cd '%s' && find . ! -type d; find . -type d -name '*kd' | grep -v '^./opt/kd$'; "
                            "find . -type d -name cmake -o -type d -name pkgconfig -o -type d -name man3", stage);
    CHECK_MSG(!*text, "left behind:\n%s", text);
    free(text);
}

/* ---- what they say ---------------------------------------------------------------------------------------------- */

static void check_has(const char *name, const char *text, const char *line)
{
    CHECK_MSG(strstr(text, line) != NULL, "%s lacks \"%s\":\n%s", name, line, text);
}

TEST(install_use_uninstall)
{
    if (!prepare("stage one") || !run_make("PREFIX=/opt/kd install")) return;   /* a blank in DESTDIR */
    check_files("^$");
    char version[60], *pc = staged("opt/kd/lib/pkgconfig/libkd.pc");
    static const char *const lines[] = {
        "prefix=/opt/kd\n", "exec_prefix=${prefix}\n", "libdir=${exec_prefix}/lib\n", "includedir=${prefix}/include\n", "Name: libkd\n",
        "Description: ", "URL: ", "Libs: -L${libdir} -lkd\n", "Cflags: -I${includedir}\n",
#ifndef KD_BLIS
        "Libs.private: -lm -pthread\n",
#endif
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) check_has("libkd.pc", pc, lines[i]);
    snprintf(version, sizeof version, "Version: %s\n", kd_version_string());
    check_has("libkd.pc", pc, version);
    CHECK_MSG(!strchr(pc, '@') && !strstr(pc, stage), "%s", pc);
#ifndef KD_BLIS
    CHECK_MSG(!strstr(pc, "Requires"), "%s", pc);
#endif
    free(pc);
    char *config = staged("opt/kd/lib/cmake/libkd/libkdConfig.cmake");
    CHECK_MSG(!strchr(config, '@') && !strstr(config, "/opt"), "libkdConfig.cmake is not relocatable:\n%s", config);
    free(config);
    config = staged("opt/kd/lib/cmake/libkd/libkdConfigVersion.cmake");
    snprintf(version, sizeof version, "set(PACKAGE_VERSION \"%s\")\n", kd_version_string());
    check_has("libkdConfigVersion.cmake", config, version);
    CHECK(!strchr(config, '@'));
    free(config);

#ifndef KDTEST_SANITIZED
    /* the examples that need nothing but the library; one of them run */
    const char *runner = getenv("KD_RUN"), *compile = "for e in logits_only minimal; do %s -std=c11 -Wall -Werror '" KD_TEST_ROOT
                             "/examples/'$e.c -I'%%s/opt/kd/include' %s -o $e || exit 1; done; ";
    char command[3000], head[1500];
    snprintf(head, sizeof head, compile, kdtest_cc(), "-L'%s/opt/kd/lib' -lkd");
    snprintf(command, sizeof command, "%s LD_LIBRARY_PATH='%%s/opt/kd/lib' %s ./logits_only > shared", head, runner ? runner : "");
    must("shared", command);
    snprintf(head, sizeof head, compile, kdtest_cc(), "'%s/opt/kd/lib/libkd.a' " LINK_BLIS "-lm -pthread");
    snprintf(command, sizeof command, "%s rm '%%s'/opt/kd/lib/libkd.so && %s ./logits_only > static && cmp shared static", head,
             runner ? runner : "");
    must("static", command);
#endif
    if (run_make("PREFIX=/opt/kd uninstall")) check_gone();
}

TEST(uninstall_leaves_what_is_not_its_own)
{
    if (!prepare("stage") || !run_make("PREFIX=/opt/kd install")) return;
    must("foreign files", "for d in include/kd lib/pkgconfig lib/cmake/libkd share/doc/libkd; do echo mine > '%s'/opt/kd/$d/mine; done; "
         "echo mine > '%s'/opt/kd/include/mine.h; echo mine > '%s'/opt/kd/lib/libmine.a");
    if (!run_make("PREFIX=/opt/kd uninstall")) return;
    must("foreign files", "cd '%s/opt/kd' && test \"$(find . ! -type d | wc -l)\" -eq 6 && cat include/kd/mine lib/pkgconfig/mine "
         "lib/cmake/libkd/mine share/doc/libkd/mine include/mine.h lib/libmine.a");
}

/* ---- one library only, other places ------------------------------------------------------------------------------- */

TEST(static_only)
{
    if (!prepare("stage-static") || !run_make("PREFIX=/opt/kd BUILD_SHARED=no install")) return;
    check_files("libkd[.]so");
    char *pc = staged("opt/kd/lib/pkgconfig/libkd.pc");
#ifndef KD_BLIS
    check_has("libkd.pc", pc, "Libs: -L${libdir} -lkd -lm -pthread\n");
#endif
    CHECK_MSG(!strstr(pc, "Libs.private"), "%s", pc);
    free(pc);
    if (run_make("PREFIX=/opt/kd uninstall")) check_gone();
}

TEST(shared_only)
{
    if (!prepare("stage-shared") || !run_make("PREFIX=/opt/kd BUILD_STATIC=no install")) return;
    check_files("libkd[.]a");
    char *pc = staged("opt/kd/lib/pkgconfig/libkd.pc");
    check_has("libkd.pc", pc, "Libs: -L${libdir} -lkd\n");
    free(pc);
    if (run_make("PREFIX=/opt/kd uninstall")) check_gone();
    int status;
    char *text = kdtest_run(&status, "%s BUILD_SHARED=no BUILD_STATIC=no install", make);
    CHECK_MSG(status != 0 && strstr(text, "nothing to build"), "%s", text);
    free(text);
    text = kdtest_run(&status, "%s BUILD_SHARED=1 install", make);
    CHECK_MSG(status != 0 && strstr(text, "yes or no"), "%s", text);
    free(text);
}

TEST(lower_case_and_other_places)
{
    if (!prepare("stage-lower")) return;
    const char *where = "prefix=/opt/kd/ libdir=/opt/kd/lib/x86 includedir=/opt/headers mandir=/opt/man pkgconfigdir=/opt/pc";
    char command[400];
    before = "umask 077 && ";   /* someone whose files are private by default */
    snprintf(command, sizeof command, "%s install", where);
    if (!run_make(command)) return;
    must("modes", "test -z \"$(find '%s' ! -type l ! -perm -go=r)\"");
    must("places", "cd '%s/opt' && test -f headers/kd.h -a -f headers/kd/base.h -a -f kd/lib/x86/libkd.a -a -f kd/lib/x86/libkd.so.0");
    char *pc = staged("opt/pc/libkd.pc");
    check_has("libkd.pc", pc, "prefix=/opt/kd\nexec_prefix=${prefix}\nlibdir=${exec_prefix}/lib/x86\nincludedir=/opt/headers\n");
    free(pc);
    char *config = staged("opt/kd/lib/x86/cmake/libkd/libkdConfig.cmake");
    check_has("libkdConfig.cmake", config, "\"/opt/headers\"");
    free(config);
    snprintf(command, sizeof command, "%s uninstall", where);
    if (!run_make(command)) return;
    before = "";
    must("uninstall", "test -z \"$(find '%s' ! -type d)\"");
}

/* The tree itself, for those who do not install. */
TEST(uninstalled)
{
    int status;
    char *pc = kdtest_run(&status, "cat '%s/libkd-uninstalled.pc'", kdtest_out());
    check_has("libkd-uninstalled.pc", pc, "libdir=${pcfiledir}\n");
    CHECK(!strchr(pc, '@'));
    free(pc);
    if (!kdtest_have("pkg-config")) {
        kdtest_skip("no pkg-config");
        return;
    }
    char *text = kdtest_run(&status, "PKG_CONFIG_PATH='%s' pkg-config --cflags --libs libkd", kdtest_out());
    CHECK_MSG(status == 0 && strstr(text, "/include") && strstr(text, "-lkd"), "%s", text);
    char path[300];
    if (sscanf(text, "-I%299s", path) == 1) {
        free(text);
        text = kdtest_run(&status, "test -f '%s/kd.h'", path);
        CHECK_MSG(status == 0, "%s holds no kd.h", path);
    }
    free(text);
}
