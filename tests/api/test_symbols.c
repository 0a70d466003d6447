/* test_symbols.c - what the library exports, what it asks of the system, and which instructions are where.
 * SPDX-License-Identifier: MIT */
#include "kdtest_tools.h"
#include "rooms.h"
#include <stdlib.h>
#include <unistd.h>

/* A sanitized library asks for its sanitizer, too; its table and calls are of another kind. */
static int plain_build(void)
{
#ifdef KDTEST_SANITIZED
    kdtest_skip("a sanitized build");
    return 0;
#else
    if (kdtest_have(kdtest_nm())) return 1;
    kdtest_skip("no nm");
    return 0;
#endif
}

static int in_list(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; (p = strstr(p, word)); p += n)
        if ((p == list || p[-1] == '\n') && p[n] == '\n') return 1;
    return 0;
}

/* ---- the shared library ----------------------------------------------------------------------------------- */

/* The names that the headers declare: the map that gen_map.sh makes of them, one a line. */
static char *declared(void)
{
    int status;
    char *names = kdtest_run(&status, "sh tests/tools/gen_map.sh | sed -n 's/^    \\(kd_[a-z0-9_]*\\);$/\\1/p'");
    CHECK(status == 0 && strstr(names, "kd_version\n"));
    return names;
}

TEST(map_is_what_the_headers_declare)
{
    int status;
    char *made = kdtest_run(&status, "sh tests/tools/gen_map.sh"), *kept = kdtest_read("src/libkd.map", NULL);
    CHECK(status == 0);
    char *rest = made;
    for (char *line, copy[300]; (line = kdtest_line(&rest));) {
        snprintf(copy, sizeof copy, "%s\n", line);
        CHECK_MSG(strstr(kept, copy) != NULL, "src/libkd.map lacks:%s  (make abi)", line);
    }
    free(made);
    made = kdtest_run(&status, "sh tests/tools/gen_map.sh");
    CHECK_MSG(strcmp(made, kept) == 0, "src/libkd.map is not what gen_map.sh makes (make abi)");
    free(made);
    free(kept);
}

/* src/python/gen_api.py writes them; whether more than the names agrees, tests/python/test_api.py checks. */
TEST(python_tables_name_what_the_headers_declare)
{
    char *names = declared(), *tables = kdtest_read("src/python/libkd/_api.py", NULL), *list = names, entry[200];
    for (char *name; (name = kdtest_line(&list));) {
        snprintf(entry, sizeof entry, "    \"%s\": (", name);
        CHECK_MSG(strstr(tables, entry) != NULL, "src/python/libkd/_api.py lacks %s (make python-api)", name);
    }
    free(tables);
    free(names);
}

TEST(exports_are_the_api)
{
    if (!plain_build()) return;
    int status;
    char *names = declared();
    char *exported = kdtest_run(&status, "%s -D --defined-only %s/libkd.so | awk '$2 != \"A\" { sub(/@.*/, \"\", $3); print $3 }'",
                                kdtest_nm(), kdtest_out());
    CHECK(status == 0 && strlen(exported) > 0);
    char *list = exported, *all = malloc(strlen(exported) + 1);
    memcpy(all, exported, strlen(exported) + 1);
    for (char *name; (name = kdtest_line(&list));) CHECK_MSG(in_list(names, name), "exported, but no API: %s", name);
    list = names;
    for (char *name; (name = kdtest_line(&list));) CHECK_MSG(in_list(all, name), "declared with KD_API, but not exported: %s", name);
    free(all);
    free(exported);
    free(names);
}

TEST(soname)
{
    int status;
    if (!kdtest_have("readelf")) {
        kdtest_skip("no readelf");
        return;
    }
    char *dynamic = kdtest_run(&status, "LC_ALL=C readelf -d %s/libkd.so", kdtest_out());
    CHECK(status == 0);
    CHECK(strstr(dynamic, "soname: [libkd.so.0]"));
    CHECK(strstr(dynamic, "NODELETE") && strstr(dynamic, "NOW"));
    /* nothing to install: the C library and its parts alone */
    static const char *const allowed[] = {
        "[libc.", "[libm.", "[libpthread.", "[ld-linux",
#ifdef KD_BLIS
        "[libblis.",
#endif
#ifdef KDTEST_SANITIZED
        "[libasan.", "[libubsan.", "[libtsan.", "[libgcc_s.",
#endif
    };
    for (char *rest = dynamic, *line; (line = kdtest_line(&rest));) {
        int good = strstr(line, "(NEEDED)") == NULL;
        for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) good |= strstr(line, allowed[i]) != NULL;
        CHECK_MSG(good, "%s", line);
    }
    free(dynamic);
}

/* What the Makefile asks of compiler and linker (KD_HARDEN: as far as this compiler has it) is in the library. */
TEST(hardening)
{
    if (!plain_build()) return;
    if (!kdtest_have("readelf")) {
        kdtest_skip("no readelf");
        return;
    }
    int status;
    char *text = kdtest_run(&status, "LC_ALL=C readelf -lW %s/libkd.so", kdtest_out());
    CHECK(status == 0 && strstr(text, "GNU_RELRO"));
    char *stack = strstr(text, "GNU_STACK");
    CHECK_MSG(stack && !strstr(strtok(stack, "\n"), "RWE"), "the stack is executable: %s", stack);
    free(text);
    const char *flags = getenv("KD_HARDEN");
    if (flags && strstr(flags, "-fstack-protector-strong") && !strstr(flags, "-fno-stack-protector")) {
        text = kdtest_run(&status, "%s -D -u %s/libkd.so", kdtest_nm(), kdtest_out());
        CHECK_MSG(strstr(text, "__stack_chk_fail") != NULL, "no stack protector");
        free(text);
    }
    if (flags && strstr(flags, "-fcf-protection") && !strstr(flags, "-fcf-protection=none")) {
        text = kdtest_run(&status, "LC_ALL=C readelf -nW %s/base/context.o", kdtest_obj());
        CHECK_MSG(strstr(text, "IBT") && strstr(text, "SHSTK"), "no control-flow protection:\n%s", text);
        free(text);
    }
}

/* What docs/performance.md says of the library's size, for the library as `make` builds it; another compiler, other flags (KD_HARDEN ends
 * in CFLAGS) or another CPU's instruction sets make another size. */
TEST(shared_library_is_small)
{
    enum { LIMIT = 1000000 };   /* bytes, stripped */
#if defined __x86_64__ && defined __linux__ && defined __GNUC__ && !defined __clang__ && !defined KD_BLIS
    const char *flags = getenv("KD_HARDEN");
    if (!plain_build()) return;
    if (!kdtest_have("strip") || !flags || !strstr(flags, "-O2") || strstr(flags, "-march=")) {
        kdtest_skip("no strip, or flags of somebody's own");
        return;
    }
    int status;
    char *bytes = kdtest_run(&status, "strip -o %s/stripped.so %s/libkd.so && wc -c < %s/stripped.so && rm %s/stripped.so", kdtest_obj(),
                             kdtest_out(), kdtest_obj(), kdtest_obj());
    const long size = strtol(bytes, NULL, 10);
    CHECK_MSG(status == 0 && size > 0 && size < LIMIT, "libkd.so has %ld bytes, stripped: %d is the limit", size, (int)LIMIT);
    free(bytes);
#else
    kdtest_skip("measured on x86-64 Linux, by gcc");
#endif
}

/* ---- what is asked of the system --------------------------------------------------------------------------- */

static const char *const refused[] = {
    "exit", "_exit", "_Exit", "quick_exit", "abort", "atexit", "__assert_fail", "raise", "kill",
    "printf", "vprintf", "fprintf", "vfprintf", "dprintf", "sprintf", "vsprintf", "snprintf", "vsnprintf", "asprintf",
    "__printf_chk", "__fprintf_chk", "__vfprintf_chk", "__sprintf_chk", "__snprintf_chk", "__vsnprintf_chk", "perror",
    "puts", "fputs", "fputc", "putc", "putchar", "fwrite", "stdout", "stderr", "stdin", "fopen", "fdopen", "freopen",
    "scanf", "fscanf", "sscanf", "__isoc99_scanf", "__isoc99_fscanf", "__isoc99_sscanf", "__isoc23_sscanf",
    "strtod", "strtof", "strtold", "strtol", "strtoul", "strtoll", "strtoull", "__isoc23_strtol", "__isoc23_strtoul", "atoi", "atof",
    "setlocale", "localeconv", "newlocale", "uselocale", "strcoll",
    "rand", "srand", "random", "drand48", "arc4random", "time", "gettimeofday",
    "signal", "sigaction", "strtok", "qsort", "bsearch", "strerror", "setenv", "putenv", "unsetenv", "system", "popen", "fork",
    "pthread_key_create", "pthread_setspecific", "fesetround", "fesetenv", "feenableexcept", "setjmp", "longjmp", "sleep", "usleep",
    /* whose bits differ from one libm to the next */
    "exp", "expf", "exp2", "exp2f", "expm1", "expm1f", "log", "logf", "log2", "log2f", "log10", "log10f", "log1p", "log1pf",
    "pow", "powf", "sin", "sinf", "cos", "cosf", "tan", "tanf", "tanh", "tanhf", "erf", "erff", "cbrt", "sincosf", "sincos",
};

TEST(calls_that_a_guest_does_not_make)
{
    if (!plain_build()) return;
    int status;
    char *wanted = kdtest_run(&status, "%s -D -u %s/libkd.so | awk '{ sub(/@.*/, \"\", $2); print $2 }'", kdtest_nm(), kdtest_out());
    CHECK(status == 0 && in_list(wanted, "posix_memalign"));
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        CHECK_MSG(!in_list(wanted, refused[i]), "libkd.so calls %s", refused[i]);
    free(wanted);
}

/* Memory, threads and the operating system are src/base's alone. */
TEST(only_base_asks_the_system)
{
    if (!plain_build()) return;
    static const char *const base_only[] = {
        "malloc", "calloc", "realloc", "free", "posix_memalign", "aligned_alloc", "mmap", "munmap", "open", "open64", "close",
        "read", "write", "pread64", "pread", "rename", "unlink", "fsync", "getenv", "pthread_create", "pthread_mutex_lock",
        "pthread_cond_wait", "clock_gettime", "opendir", "readdir", "readdir64", "fstatat", "fstatat64",
    };
    int status;
    char *wanted = kdtest_run(&status, "cd %s && ls */*.o | grep -v '^base/' | xargs %s -A -u | awk '{ print $NF, $1 }'",
                              kdtest_obj(), kdtest_nm());
    CHECK(status == 0);
    for (char *rest = wanted, *line; (line = kdtest_line(&rest));)
        for (size_t i = 0; i < sizeof base_only / sizeof *base_only; i++) {
            size_t n = strlen(base_only[i]);
            CHECK_MSG(strncmp(line, base_only[i], n) != 0 || line[n] != ' ', "%s (symbol, object)", line);
        }
    free(wanted);
}

/* A room calls itself and rooms below.  The one exception: base asks cpu which kernels to use. */
TEST(calls_point_one_way)
{
    if (!plain_build()) return;
    int status, calls = 0;
    char *uses = kdtest_run(&status,
                            "cd %s && %s -A -g */*.o | awk '{ o = $1; sub(/:.*/, \"\", o); r = o; sub(/[/].*/, \"\", r) } "
                            "$2 == \"U\" { use[r \" \" $3] = o; next } { home[$NF] = r } "
                            "END { for (u in use) { split(u, w, \" \"); if (w[2] in home) print w[1], home[w[2]], w[2], use[u] } }'",
                            kdtest_obj(), kdtest_nm());
    CHECK(status == 0);
    for (char *rest = uses, *line; (line = kdtest_line(&rest)); calls++) {
        char from[60], to[60], name[300], object[300];
        if (!CHECK_MSG(sscanf(line, "%59s %59s %299s %299s", from, to, name, object) == 4, "%s", line)) continue;
        if (strcmp(name, "kd__cpu_kernels") == 0 && strcmp(from, "base") == 0) continue;
        if (strncmp(name, "kd__kernels_", 12) == 0 && strcmp(from, "cpu") == 0) continue;   /* the tables themselves */
        int room = room_of(from), other = room_of(to);
        if (room >= 0 && other >= 0)
            CHECK_MSG(may_know(room, other), "%s calls %s: %s must not know %s", object, name, from, to);
    }
    CHECK(calls > 50);
    free(uses);
}

/* ---- objects ----------------------------------------------------------------------------------------------- */

TEST(static_library_keeps_to_its_prefix)
{
    if (!plain_build()) return;
    int status;
    char *names = kdtest_run(&status, "%s -g --defined-only %s/libkd.a | awk 'NF == 3 && $3 !~ /^kd_/ { print $3 }'",
                             kdtest_nm(), kdtest_out());
    CHECK(status == 0);
    CHECK_MSG(!*names, "globals without the prefix kd_:\n%s", names);
    free(names);
}

TEST(kernels_carry_the_name_of_their_instruction_set)
{
    if (!plain_build()) return;
    int status, lines = 0;
    char *names = kdtest_run(&status, "cd %s/kernels && %s -A -g --defined-only *.*.o | "
                             "awk '{ isa = $1; sub(/\\.o:.*/, \"\", isa); sub(/.*\\./, \"\", isa); print $NF, isa, $1 }'",
                             kdtest_obj(), kdtest_nm());
    CHECK(status == 0);
    for (char *rest = names, *line; (line = kdtest_line(&rest)); lines++) {
        char name[300], isa[30], object[300];
        if (!CHECK_MSG(sscanf(line, "%299s %29s %299s", name, isa, object) == 3, "%s", line)) continue;
        size_t n = strlen(name), k = strlen(isa);
        CHECK_MSG(n > k && name[n - k - 1] == '_' && strcmp(name + n - k, isa) == 0, "%s defines %s", object, name);
    }
    CHECK(lines > 10);
    free(names);
}

/* A function compiled for AVX and chosen by the linker for everyone ends the process on an older machine. */
TEST(no_avx_outside_the_kernels)
{
    if (!plain_build()) return;
#if defined __x86_64__ && !defined __AVX__
    if (!kdtest_have("objdump")) {
        kdtest_skip("no objdump");
        return;
    }
    int status;
    char *found = kdtest_run(&status,
                             "cd %s && objdump -d --no-show-raw-insn $(ls */*.o | grep -v '[.]avx[25]') | "
                             "awk '/file format/ { o = $1 } "
                             "$2 ~ /^v[a-z]/ && $2 !~ /^(verr|verw|vm)/ && o != last { print o, $2; last = o }'",
                             kdtest_obj());
    CHECK_MSG(status == 0 && !*found, "AVX instructions in:\n%s", found);
    free(found);
    found = kdtest_run(&status, "cd %s && objdump -d --no-show-raw-insn kernels/*.avx2.o | awk '/zmm|%%k[1-7]/ { print; exit }'",
                       kdtest_obj());
    CHECK_MSG(status == 0 && !*found, "AVX-512 in the AVX2 kernels: %s", found);
    free(found);
#else
    kdtest_skip("not a plain x86-64 build");
#endif
}

/* State of the whole process, all of it: a name that is new here needs a reason. */
static const char *const writable[] = {
    "default_context", "default_once",   /* the process default                                              */
    "fork_generation", "fork_once",      /* forks are counted                                                 */
    "error_text", "in_task", "held_levels",   /* of each thread                                              */
    "kd__io_table",                      /* written by tests alone                                            */
    "no_tape", "orphan", "none",         /* what errors point to; never written                               */
    "completed", "__dso_handle", "__TMC_END__", "__bss_start", "_edata", "_end", "_fini", "_init",   /* the toolchain's */
    "_TLS_MODULE_BASE_", "__aarch64_have_lse_atomics",
};

TEST(no_writable_state_but_this)
{
    if (!plain_build()) return;
    if (!kdtest_have("objdump")) {
        kdtest_skip("no objdump");
        return;
    }
    int status, lines = 0;
    char *found = kdtest_run(&status, "objdump -t %s/libkd.so | awk '{ for (i = 2; i < NF; i++) "
                             "if ($i ~ /^[.](data|bss|tdata|tbss)$/ && "
                             "$NF !~ /^[.$]/) { sub(/[.][0-9]+$/, \"\", $NF); print $NF } }'", kdtest_out());
    CHECK(status == 0);
    for (char *rest = found, *line; (line = kdtest_line(&rest)); lines++) {
        int known = 0;
        for (size_t i = 0; i < sizeof writable / sizeof *writable; i++) known |= strcmp(line, writable[i]) == 0;
        CHECK_MSG(known, "writable: %s", line);
    }
    CHECK(lines >= 8);
    free(found);
}

/* Only what computes for a host that is in another state touches it; no kernel does. */
TEST(kernels_leave_the_floating_point_state_alone)
{
    if (!plain_build()) return;
    if (!kdtest_have("objdump") || strstr(kdtest_cc(), "aarch64")) {
        kdtest_skip("no objdump for these objects");
        return;
    }
    int status;
    char *found = kdtest_run(&status, "cd %s && objdump -d --no-show-raw-insn kernels/kern_*.o | awk '/file format/ { o = $1 } "
                             "/ldmxcsr|fldcw|fldenv|fpcr/ { print o, $0 }'", kdtest_obj());
    CHECK_MSG(status == 0 && !*found, "%s", found);
    free(found);
}

/* No constructors: loading the library runs none of its code. */
TEST(nothing_runs_on_loading)
{
    if (!plain_build()) return;
    if (!kdtest_have("objdump")) {
        kdtest_skip("no objdump");
        return;
    }
    int status;
    char *found = kdtest_run(&status, "cd %s && objdump -h */*.o | awk '/file format/ { o = $1 } "
                             "$2 ~ /^[.](init_array|ctors|preinit_array|fini_array|dtors)/ { print o, $2 }'", kdtest_obj());
    CHECK_MSG(status == 0 && !*found, "constructors:\n%s", found);
    free(found);
}
