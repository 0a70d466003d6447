/* test_crash.c - a process that dies at any of its system calls while it saves over a good file: who comes next finds the old
 * file or the new one, and the next save removes what was left.
 * SPDX-License-Identifier: MIT */
#include "fault_io.h"
#include "kdtest_file.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static size_t die_at;

static void die(size_t call)
{
    if (call == die_at) _exit(9);
}

typedef struct saver {
    const char *name;
    void      (*save)(const char *path, int version);
    int       (*load)(const char *path);   /* the version it holds; 0: none that is whole */
} saver;

/* ---- a model ---------------------------------------------------------------------------------------- */

static kd_model *model_of(int version)
{
    kd_model *m;
    size_t n;
    if (kd_zoo_mlp(&m, NULL, (const size_t[]){ 40, 60, 10 }, 3, KD_ACT_RELU, 1) != KD_OK) return NULL;
    float *w = kd_model_weights(m, &n);
    for (size_t i = 0; i < n; i++)
        if (w[i] != 0) w[i] = (float)version;
    kd_model_touch(m);
    return m;
}

static void save_model(const char *path, int version)
{
    kd_model *m = model_of(version);
    if (kd_model_save(m, path) != KD_OK) printf("%s\n", kd_last_error());
    kd_model_free(m);
}

static int load_model(const char *path)
{
    kd_model *m = model_of(7);
    size_t n;
    float *w = kd_model_weights(m, &n);
    int version = kd_model_load(m, path, 0) == KD_OK ? (int)w[0] : 0;
    for (size_t i = 0; version && i < n; i++)
        if (w[i] != 0 && w[i] != (float)version) version = 0;
    kd_model_free(m);
    return version;
}

/* ---- a checkpoint ----------------------------------------------------------------------------------- */

enum { BYTES = 20000 };

static void save_bytes(const char *path, int version)
{
    static unsigned char bytes[BYTES];
    kd_checkpoint *cp;
    memset(bytes, version, sizeof bytes);
    if (kd_checkpoint_create(&cp, NULL) != KD_OK || kd_checkpoint_add_bytes(cp, "b", bytes, sizeof bytes) != KD_OK ||
        kd_checkpoint_save(cp, path) != KD_OK)
        printf("%s\n", kd_last_error());
    kd_checkpoint_free(cp);
}

static int load_bytes(const char *path)
{
    static unsigned char bytes[BYTES];
    kd_checkpoint *cp;
    int version = 0;
    if (kd_checkpoint_create(&cp, NULL) == KD_OK && kd_checkpoint_add_bytes(cp, "b", bytes, sizeof bytes) == KD_OK &&
        kd_checkpoint_load(cp, path) == KD_OK)
        version = bytes[0];
    for (size_t i = 0; version && i < sizeof bytes; i++)
        if (bytes[i] != version) version = 0;
    kd_checkpoint_free(cp);
    return version;
}

/* ---- the loop --------------------------------------------------------------------------------------- */

/* Save in a child that dies at its `call`-th system call, before or after it is done.  1 if it died there. */
static int save_and_die(const saver *s, const char *path, int version, size_t call, int after)
{
    fflush(stdout);
    pid_t child = fork();
    if (!CHECK(child >= 0)) return 0;
    if (child == 0) {
        const fault plan = {
            .kind = FAULT_NONE, .most = 1500, .before = after ? NULL : die, .after = after ? die : NULL
        };
        die_at = call;
        fault_begin(&plan);
        s->save(path, version);
        _exit(0);
    }
    int how = 0;
    CHECK(waitpid(child, &how, 0) == child && WIFEXITED(how));
    CHECK_MSG(WEXITSTATUS(how) == 0 || WEXITSTATUS(how) == 9, "%s: the child ended with %d", s->name,
              WEXITSTATUS(how));
    return WEXITSTATUS(how) == 9;
}

static void crash_loop(const saver *s)
{
    char path[1024];
    size_t deaths = 0, left = 0;
    snprintf(path, sizeof path, "%s", kdtest_path(s->name));
    for (int after = 0; after < 2; after++) {
        int alive = 0;
        for (size_t call = 1; !alive; call++) {
            s->save(path, 1);
            alive = !save_and_die(s, path, 2, call, after);
            deaths += (size_t)!alive;
            int found = s->load(path);
            CHECK_MSG(found == 1 || found == 2, "%s: died %s call %zu: the file is broken", s->name,
                      after ? "after" : "at", call);
            if (alive) CHECK(found == 2);
            left += kdtest_count_files("kdtmp");
            s->save(path, 3);
            CHECK_MSG(s->load(path) == 3, "%s: died %s call %zu: cannot save any more", s->name,
                      after ? "after" : "at", call);
            CHECK_MSG(kdtest_count_files("kdtmp") == 0, "%s: died %s call %zu: what it left is still there", s->name,
                      after ? "after" : "at", call);
        }
    }
    CHECK_MSG(deaths > 20 && left > 10, "%s: %zu deaths, %zu files left: the test proves nothing", s->name, deaths,
              left);
}

/* fsync costs milliseconds and changes nothing for a process that dies. */
static int quick_sync(int fd)
{
    (void)fd;
    return 0;
}

static int quick_sync_dir(const char *path)
{
    (void)path;
    return 0;
}

TEST(dies_while_saving)
{
    static const saver savers[] = { { "model", save_model, load_model }, { "checkpoint", save_bytes, load_bytes } };
    kd__io real = kd__io_table;
    kd__io_table.sync = quick_sync;
    kd__io_table.sync_dir = quick_sync_dir;
    for (size_t i = 0; i < KD_COUNT(savers); i++) crash_loop(&savers[i]);
    kd__io_table = real;
}

/* Killed from outside, whenever it happens to be. */
TEST(killed_at_any_moment)
{
    char path[1024];
    kdtest_rand r = { 3 };
    snprintf(path, sizeof path, "%s", kdtest_path("killed"));
    save_bytes(path, 1);
    int last = 1;
    for (int round = 0; round < (kdtest_full() ? 200 : 8); round++) {
        fflush(stdout);
        pid_t child = fork();
        if (!CHECK(child >= 0)) return;
        if (child == 0)
            for (int version = 1;; version = version % 200 + 1) save_bytes(path, version);
        usleep((useconds_t)kdtest_size(&r, 1000, 30000));
        kill(child, SIGKILL);
        CHECK(waitpid(child, NULL, 0) == child);
        last = load_bytes(path);
        CHECK_MSG(last != 0, "round %d: the file is broken: %s", round, kd_last_error());
    }
    save_bytes(path, 3);
    CHECK(load_bytes(path) == 3 && kdtest_count_files("kdtmp") == 0);
}
