/* test_process.c - a good guest: loading, calling and unloading the shared library leaves the process as it was.
 * SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "kdtest_tools.h"
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <fenv.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void library(char *path, size_t cap)
{
    if (kdtest_out()[0] == '/') snprintf(path, cap, "%s/libkd.so", kdtest_out());
    else snprintf(path, cap, "%s/%s/libkd.so", kdtest_root(), kdtest_out());
}

static int loadable(void)
{
#ifdef KDTEST_SANITIZED
    kdtest_skip("two copies of a sanitizer in one process");
    return 0;
#else
    char path[1200];
    library(path, sizeof path);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        kdtest_skip("no shared library for this program (a static one, or under an emulator)");
        return 0;
    }
    dlclose(handle);
    return 1;
#endif
}

/* What a library could change behind its host's back. */
typedef struct process_state {
    unsigned mxcsr;
    int rounding;
    char locale[200];
    sigset_t blocked;
    struct sigaction actions[32];
} process_state;

static process_state look(void)
{
    process_state s;
    memset(&s, 0, sizeof s);
#ifdef __SSE__
    s.mxcsr = __builtin_ia32_stmxcsr() & ~0x3fu;
#endif
    s.rounding = fegetround();
    snprintf(s.locale, sizeof s.locale, "%s", setlocale(LC_ALL, NULL));
    pthread_sigmask(SIG_SETMASK, NULL, &s.blocked);
    for (int i = 1; i < 32; i++) sigaction(i, NULL, &s.actions[i]);
    return s;
}

static void unchanged(const process_state *before, const char *when)
{
    process_state now = look();
    CHECK_MSG(now.mxcsr == before->mxcsr && now.rounding == before->rounding, "%s changed the floating-point state", when);
    CHECK_MSG(strcmp(now.locale, before->locale) == 0, "%s changed the locale", when);
    for (int i = 1; i < 32; i++) {
        CHECK_MSG(now.actions[i].sa_handler == before->actions[i].sa_handler, "%s changed the handler of signal %d", when, i);
        CHECK_MSG(sigismember(&now.blocked, i) == sigismember(&before->blocked, i), "%s blocked signal %d", when, i);
    }
}

typedef struct api {
    kd_status (*context_create)(kd_context **out, const kd_context_desc *desc);
    void (*context_free)(kd_context *ctx);
    uint32_t (*context_threads)(const kd_context *ctx);
    kd_rng (*rng_make)(uint64_t seed);
    float (*rng_normal)(kd_rng *rng);
    kd_status (*softmax_rows)(kd_context *ctx, size_t rows, size_t classes, const float *logits, size_t logits_stride,
                              float temperature, float *out, size_t out_stride);
    void (*shutdown)(void);
    const char *(*last_error)(void);
} api;

static void *load_from(api *a, const char *path)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!CHECK_MSG(handle != NULL, "%s", dlerror())) return NULL;
#define GET(field, name) *(void **)&a->field = dlsym(handle, name), CHECK_MSG(a->field != NULL, "no %s", name)
    GET(context_create, "kd_context_create");
    GET(context_free, "kd_context_free");
    GET(context_threads, "kd_context_threads");
    GET(rng_make, "kd_rng_make");
    GET(rng_normal, "kd_rng_normal");
    GET(softmax_rows, "kd_softmax_rows");
    GET(shutdown, "kd_shutdown");
    GET(last_error, "kd_last_error");
#undef GET
    return handle;
}

static void *load(api *a)
{
    char path[1200];
    library(path, sizeof path);
    return load_from(a, path);
}

/* Work for three threads in context `ctx`. */
static void softmax(const api *a, kd_context *ctx)
{
    enum { ROWS = 40, CLASSES = 1000 };
    static _Thread_local float logits[ROWS * CLASSES], out[ROWS * CLASSES];
    for (int i = 0; i < ROWS * CLASSES; i++) logits[i] = (float)(i % 17);
    CHECK(a->softmax_rows(ctx, ROWS, CLASSES, logits, CLASSES, 1, out, CLASSES) == KD_OK);
    CHECK(out[16] > out[0] && out[0] > 0);
}

static void use(const api *a)
{
    kd_context *ctx = NULL;
    kd_context_desc desc = { .struct_size = sizeof desc, .threads = 3 };
    kd_rng rng = a->rng_make(1);
    CHECK(a->rng_normal(&rng) != 0);
    CHECK(a->context_create(&ctx, &desc) == KD_OK);
    CHECK(a->context_threads(ctx) == 3);
    softmax(a, ctx);
    softmax(a, NULL);
    CHECK(a->context_create(NULL, NULL) == KD_ERR_ARG);
    CHECK(strstr(a->last_error(), "out is NULL") != NULL);
    a->context_free(ctx);
}

TEST(state_of_the_process)
{
    if (!loadable()) return;
    for (int variant = 0; variant < 2; variant++) {
        if (variant) {
#ifdef __SSE__
            __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | 0x8040);   /* flush to zero: the host's choice stays, too */
#endif
            fesetround(FE_UPWARD);
        }
        process_state before = look();
        api a;
        void *handle = load(&a);
        unchanged(&before, "loading");
        if (!handle) return;
        use(&a);
        unchanged(&before, "calling");
        a.shutdown();
        dlclose(handle);
        unchanged(&before, "unloading");
        fesetenv(FE_DFL_ENV);
    }
}

static size_t entries(const char *dir)
{
    size_t n = 0;
    DIR *d = opendir(dir);
    if (!d) return 0;
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

static size_t resident_kb(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    size_t all = 0, resident = 0;
    if (!f) return 0;
    if (fscanf(f, "%zu %zu", &all, &resident) != 2) resident = 0;
    fclose(f);
    return resident * (size_t)sysconf(_SC_PAGESIZE) / 1024;
}

static void *load_in_a_thread(void *path)
{
    api a;
    void *handle = load_from(&a, path);
    if (!handle) return NULL;
    use(&a);
    a.shutdown();
    dlclose(handle);
    return NULL;   /* and the thread ends after the library is closed */
}

static void over_and_over(char *path)
{
    int rounds = kdtest_full() ? 1000 : 100;
    size_t before = 0, threads = 0, files = 0;
    clock_t start = clock();
    for (int i = 0; i < rounds; i++) {
        pthread_t id;
        CHECK(pthread_create(&id, NULL, load_in_a_thread, path) == 0);
        pthread_join(id, NULL);
        if (i == 30) {
            before = resident_kb();
            threads = entries("/proc/self/task");
            files = entries("/proc/self/fd");
        }
    }
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;   /* of work: the machine may be busy with other things */
    for (int i = 0; i < 2000 && entries("/proc/self/task") != threads; i++) usleep(1000);   /* a joined thread may linger */
    CHECK(entries("/proc/self/task") == threads && entries("/proc/self/fd") == files);
    CHECK_MSG(resident_kb() < before + 1024, "grew by %zu kB", resident_kb() - before);
    CHECK_MSG(seconds < 5, "%d rounds took %.1f s", rounds, seconds);
}

TEST(loaded_and_closed_over_and_over)
{
    char path[1200];
    if (!loadable()) return;
    if (kdtest_emulated()) {
        kdtest_skip("the memory of an emulator is not ours");
        return;
    }
    library(path, sizeof path);
    over_and_over(path);
}

static int mapped(const char *name)
{
    char line[1500];
    int found = 0;
    FILE *f = fopen("/proc/self/maps", "r");
    while (f && fgets(line, sizeof line, f)) found |= strstr(line, name) != NULL;
    if (f) fclose(f);
    return found;
}

/* Whether this C library unloads anything (musl does not): one of nothing. */
static int unloads(void)
{
    char path[700];
    int status;
    snprintf(path, sizeof path, "%s/nothing.so", kdtest_tmp());
    char *text = kdtest_run(&status, "%s -shared -o %s -x c /dev/null", kdtest_cc(), path);
    void *handle = CHECK_MSG(status == 0, "%s", text) ? dlopen(path, RTLD_NOW) : NULL;
    free(text);
    if (!CHECK(handle != NULL)) return 1;
    dlclose(handle);
    return !mapped("/nothing.so");
}

/* A plug-in with the library inside: dlclose takes it out of memory, and threads that used it end after. */
TEST(a_plugin_that_is_really_unloaded)
{
    if (!loadable()) return;
    if (kdtest_emulated()) {
        kdtest_skip("the memory of an emulator is not ours");
        return;
    }
    char path[700];
    int status;
    snprintf(path, sizeof path, "%s/plugin.so", kdtest_tmp());
    char *text = kdtest_run(&status, "%s -shared -o %s -Wl,--whole-archive %s/libkd.a -Wl,--no-whole-archive -lm -pthread",
                            kdtest_cc(), path, kdtest_out());
    if (CHECK_MSG(status == 0, "%s", text)) {
        over_and_over(path);
        CHECK_MSG(!mapped("/plugin.so") || !unloads(), "it was never unloaded");
        pid_t child = fork();   /* nothing of it is left to be called */
        if (child == 0) _exit(0);
        int code = -1;
        CHECK(waitpid(child, &code, 0) == child && WIFEXITED(code) && WEXITSTATUS(code) == 0);
        pthread_t id;
        CHECK(pthread_create(&id, NULL, load_in_a_thread, path) == 0);
        pthread_join(id, NULL);
    }
    free(text);
}

/* Loaded by name, it stays: -z nodelete. */
TEST(the_shared_library_stays)
{
    if (!loadable()) return;
    api a;
    void *handle = load(&a);
    if (!handle) return;
    kd_rng rng = a.rng_make(7);
    uint64_t key = rng.key;
    dlclose(handle);
    CHECK(mapped("/libkd.so") && a.rng_make(7).key == key);
}

/* ---- ends ------------------------------------------------------------------------------------------------------- */

/* However a program ends, with threads of the library alive or at work: no crash, no hang, its own exit status. */
TEST(programs_end)
{
    static const char *const ways[] = { "return", "tidy", "atexit", "destructor", "other-threads", "main-first", "quick" };
    if (!loadable()) return;
    if (kdtest_emulated()) {
        kdtest_skip("a compiler's output that needs an emulator");
        return;
    }
    char out[1100];
    int status;
    library(out, sizeof out);
    *strrchr(out, '/') = 0;
    for (int shared = 0; shared < 2; shared++) {
        char *text = kdtest_run(&status, "%s -std=c11 -D_DEFAULT_SOURCE -Wall -Wextra -Werror -Iinclude tests/api/host_ends.c "
                                "%s%s%s%s -lm -pthread -o %s/host_ends", kdtest_cc(), shared ? "-L" : "", out,
                                shared ? " -lkd -Wl,-rpath," : "/libkd.a", shared ? out : "", kdtest_tmp());
        CHECK_MSG(status == 0, "%s", text);
        free(text);
        for (size_t i = 0; i < sizeof ways / sizeof *ways * (kdtest_full() ? 50 : 3); i++) {
            const char *way = ways[i % (sizeof ways / sizeof *ways)];
            text = kdtest_run(&status, "timeout 20 %s/host_ends %s", kdtest_tmp(), way);
            CHECK_MSG(status == 0 && !*text, "%s library, %s: exit status %d %s", shared ? "shared" : "static", way, status, text);
            free(text);
        }
    }
}

/* Nothing is written to the standard streams, not even by failures. */
TEST(silence)
{
    if (!loadable()) return;
    char path[600];
    snprintf(path, sizeof path, "%s/streams", kdtest_tmp());
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(fd, 1);
        dup2(fd, 2);
        api a;
        if (!load(&a)) _exit(1);
        setenv("KD_NUM_THREADS", "junk", 1);
        setenv("KD_ISA", "junk", 1);
        kd_context *ctx = NULL;
        if (a.context_create(NULL, NULL) != KD_ERR_ARG || a.context_create(&ctx, NULL) != KD_OK) _exit(2);
        a.rng_normal(NULL);
        a.context_free(ctx);
        a.shutdown();
        _exit(lseek(fd, 0, SEEK_CUR) == 0 ? 0 : 3);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK_MSG(WEXITSTATUS(status) == 0, "child says %d", WEXITSTATUS(status));
}
