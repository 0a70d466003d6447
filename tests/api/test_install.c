/* test_install.c - make install into a staging directory, programs built against what lies there, make uninstall.
 * SPDX-License-Identifier: MIT */
#include "kdtest_tools.h"
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char stage[600], make[2000];

/* The same build as the one under test, so that nothing is compiled again. */
static int prepare(void)
{
    if (!kdtest_have("make")) {
        kdtest_skip("no make");
        return 0;
    }
    const char *slash = strrchr(kdtest_obj(), '/');
    snprintf(stage, sizeof stage, "%s/stage", kdtest_tmp());
    snprintf(make, sizeof make, "env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make --no-print-directory CONFIG='%s' CC='%s' NM='%s' "
             "PREFIX=/opt/kd DESTDIR='%s'", slash ? slash + 1 : kdtest_obj(), kdtest_cc(), kdtest_nm(), stage);
    return 1;
}

static int is_there(const char *name)
{
    char path[800];
    struct stat st;
    snprintf(path, sizeof path, "%s/opt/kd/%s", stage, name);
    return stat(path, &st) == 0;
}

static void installed_header(const char *path, void *user)
{
    (void)user;
    CHECK_MSG(is_there(path), "%s is not installed", path);
}

TEST(install_use_uninstall)
{
    if (!prepare()) return;
    int status;
    char *text = kdtest_run(&status, "%s install", make);
    if (!CHECK_MSG(status == 0, "make install:\n%s", text)) return;
    free(text);
    kdtest_walk("include", ".h", installed_header, NULL);
    CHECK(is_there("lib/libkd.a") && is_there("lib/libkd.so") && is_there("lib/libkd.so.0") && is_there("lib/pkgconfig/libkd.pc"));

    char version[60];
    snprintf(version, sizeof version, "Version: %s\n", kd_version_string());
    text = kdtest_run(&status, "cat '%s'/opt/kd/lib/pkgconfig/libkd.pc", stage);
    CHECK(strstr(text, version) && strstr(text, "prefix=/opt/kd\n") && strstr(text, "libdir=${prefix}/lib\n") &&
          strstr(text, "includedir=${prefix}/include\n") && !strchr(text, '@'));
    free(text);

#ifndef KDTEST_SANITIZED
    char flags[1500];
    if (kdtest_have("pkg-config")) {
        text = kdtest_run(&status, "PKG_CONFIG_PATH='%s/opt/kd/lib/pkgconfig' PKG_CONFIG_SYSROOT_DIR='%s' "
                          "pkg-config --cflags --libs --static libkd", stage, stage);
        CHECK_MSG(status == 0, "pkg-config: %s", text);
        snprintf(flags, sizeof flags, "%.*s", (int)strcspn(text, "\n"), text);
        CHECK_MSG(strstr(flags, "-lkd") && strstr(flags, "/opt/kd/include"), "%s", flags);
        free(text);
    } else {
        snprintf(flags, sizeof flags, "-I'%s/opt/kd/include' -L'%s/opt/kd/lib' -lkd -lm -pthread", stage, stage);
    }
    const char *runner = getenv("KD_RUN");
    if (!runner) runner = "";
    text = kdtest_run(&status, "cd '%s' && printf '#include <kd.h>\\nint main(void) { return kd_version() != KD_VERSION; }\\n' "
                      "> use.c && %s -std=c11 -Wall -Werror use.c %s -o use && LD_LIBRARY_PATH='%s/opt/kd/lib' %s ./use",
                      kdtest_tmp(), kdtest_cc(), flags, stage, runner);
    CHECK_MSG(status == 0, "with the shared library: %d\n%s", status, text);
    free(text);
    text = kdtest_run(&status, "cd '%s' && rm '%s'/opt/kd/lib/libkd.so* && %s -std=c11 -Wall -Werror use.c %s -o use && %s ./use",
                      kdtest_tmp(), stage, kdtest_cc(), flags, runner);
    CHECK_MSG(status == 0, "with the static library: %d\n%s", status, text);
    free(text);
#endif

    text = kdtest_run(&status, "%s uninstall", make);
    CHECK_MSG(status == 0, "make uninstall:\n%s", text);
    free(text);
    text = kdtest_run(&status, "find '%s' ! -type d", stage);
    CHECK_MSG(!*text, "left behind:\n%s", text);
    free(text);
    CHECK(!is_there("include/kd"));
}
