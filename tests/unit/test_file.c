/* test_file.c - reading, atomic writing, CRC-32C, and every system call failing in turn.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "kdtest.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char where[8][600];

/* DIR/name, in one of eight buffers. */
static const char *at(const char *name)
{
    static int next;
    char *path = where[next++ % 8];
    snprintf(path, sizeof where[0], "%s/%s", kdtest_tmp(), name);
    return path;
}

static void put_file(const char *path, const void *data, size_t bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    CHECK(fd >= 0 && write(fd, data, bytes) == (ssize_t)bytes);
    close(fd);
}

/* The file holds exactly these bytes. */
static int holds(const char *path, const void *data, size_t bytes)
{
    static char buffer[400000];
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, buffer, sizeof buffer);
    close(fd);
    return n == (ssize_t)bytes && memcmp(buffer, data, bytes) == 0;
}

static size_t files_in_tmp(void)
{
    size_t n = 0;
    DIR *dir = opendir(kdtest_tmp());
    while (readdir(dir)) n++;
    closedir(dir);
    return n - 2;
}

static void empty_tmp(void)
{
    DIR *dir = opendir(kdtest_tmp());
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_name[0] != '.') remove(at(e->d_name));
    closedir(dir);
}

static kd_status save(const char *path, const void *data, size_t bytes)
{
    kd__writer w;
    KD_TRY(kd__writer_open(&w, NULL, path));
    KD_TRY(kd__writer_put(&w, data, bytes / 2));
    KD_TRY(kd__writer_put(&w, (const char *)data + bytes / 2, bytes - bytes / 2));
    return kd__writer_commit(&w);
}

/* ---- CRC-32C ---------------------------------------------------------------------------------------------- */

/* One bit at a time, from the polynomial. */
static uint32_t slow_crc(uint32_t crc, const unsigned char *p, size_t n)
{
    crc = ~crc;
    while (n--) {
        crc ^= *p++;
        for (int k = 0; k < 8; k++) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
    }
    return ~crc;
}

TEST(crc32c)
{
    /* RFC 3720, B.4 */
    unsigned char data[1000], zeros[32] = { 0 }, ones[32];
    memset(ones, 0xff, sizeof ones);
    CHECK(kd__crc32c(0, zeros, 32) == 0x8a9136aau);
    CHECK(kd__crc32c(0, ones, 32) == 0x62a8ab43u);
    for (int i = 0; i < 32; i++) data[i] = (unsigned char)i;
    CHECK(kd__crc32c(0, data, 32) == 0x46dd794eu);
    for (int i = 0; i < 32; i++) data[i] = (unsigned char)(31 - i);
    CHECK(kd__crc32c(0, data, 32) == 0x113fdb5cu);
    CHECK(kd__crc32c(0, "123456789", 9) == 0xe3069283u);
    CHECK(kd__crc32c(0, NULL, 0) == 0);
    kdtest_rand r = { 5 };
    for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)kdtest_bits(&r);
    for (size_t n = 0; n < 200; n++)
        for (size_t from = 0; from < 9; from++) {
            uint32_t want = slow_crc((uint32_t)n, data + from, n);
            CHECK(kd__crc32c((uint32_t)n, data + from, n) == want);
            CHECK(kd__crc32c(kd__crc32c((uint32_t)n, data + from, n / 3), data + from + n / 3, n - n / 3) == want);
        }
}

/* ---- reading ---------------------------------------------------------------------------------------------- */

TEST(read)
{
    put_file(at("a"), "0123456789", 10);
    kd__file f;
    CHECK_OK(kd__file_open(&f, at("a")));
    CHECK(f.size == 10);
    char out[11] = "";
    CHECK_OK(kd__file_read(&f, out, 4, 3));
    CHECK_STR(out, "3456");
    CHECK_OK(kd__file_read(&f, out, 10, 0));
    CHECK_OK(kd__file_read(&f, out, 0, 10));
    CHECK_STATUS(kd__file_read(&f, out, 1, 10), KD_ERR_TRUNCATED);
    CHECK_ERROR_HAS("1 bytes wanted at offset 10, the file has 10");
    CHECK_STATUS(kd__file_read(&f, out, 5, 6), KD_ERR_TRUNCATED);
    CHECK_STATUS(kd__file_read(&f, out, SIZE_MAX, 6), KD_ERR_TRUNCATED);
    CHECK_STATUS(kd__file_read(&f, out, 5, UINT64_MAX - 2), KD_ERR_TRUNCATED);
    CHECK(truncate(at("a"), 5) == 0);   /* by somebody else */
    CHECK_STATUS(kd__file_read(&f, out, 10, 0), KD_ERR_TRUNCATED);
    CHECK_ERROR_HAS("shrank");
    kd__file_close(&f);
    kd__file_close(&f);
    CHECK(f.fd == -1);
}

TEST(what_is_no_file)
{
    kd__file f;
    mkdir(at("dir"), 0777);
    mkfifo(at("fifo"), 0666);
    CHECK_STATUS(kd__file_open(&f, at("missing")), KD_ERR_IO);
    CHECK_ERROR_HAS("missing: open: no such file or directory (errno 2)");
    CHECK(errno == ENOENT);
    CHECK_STATUS(kd__file_open(&f, at("dir")), KD_ERR_IO);
    CHECK_ERROR_HAS("is a directory");
    CHECK_STATUS(kd__file_open(&f, at("fifo")), KD_ERR_IO);   /* at once, though nobody writes */
    CHECK_ERROR_HAS("not a regular file");
    CHECK_STATUS(kd__file_open(&f, "/dev/zero"), KD_ERR_IO);
    CHECK_ERROR_HAS("not a regular file");
    CHECK_STATUS(kd__file_open(&f, at("missing/x")), KD_ERR_IO);
    CHECK_STATUS(kd__file_open(&f, NULL), KD_ERR_ARG);
    CHECK(f.fd == -1);
    CHECK_STATUS(save(at("dir"), "x", 1), KD_ERR_IO);
    CHECK_ERROR_HAS("is a directory");
    CHECK_STATUS(save(at("fifo"), "x", 1), KD_ERR_IO);
    CHECK_ERROR_HAS("not a regular file");
    CHECK_STATUS(save(at("nowhere/x"), "x", 1), KD_ERR_IO);
    CHECK_ERROR_HAS("no such file or directory");
    CHECK_STATUS(save(NULL, "x", 1), KD_ERR_ARG);
    kd__writer w;
    char deep[5000];
    memset(deep, 'x', sizeof deep);
    deep[sizeof deep - 1] = 0;
    CHECK_STATUS(kd__writer_open(&w, NULL, deep), KD_ERR_IO);
    CHECK_ERROR_HAS("name too long");
    CHECK_STATUS(kd__file_open(&f, deep), KD_ERR_IO);
    CHECK_ERROR_HAS("name too long");
    rmdir(at("dir"));
    empty_tmp();
}

/* ---- writing ---------------------------------------------------------------------------------------------- */

TEST(write)
{
    static char data[300000];
    kdtest_rand r = { 3 };
    for (size_t i = 0; i < sizeof data; i++) data[i] = (char)kdtest_bits(&r);
    for (int round = 0; round < 60; round++) {
        kd__writer w;
        CHECK_OK(kd__writer_open(&w, NULL, at("out")));
        size_t done = 0, total = kdtest_size(&r, 0, sizeof data), crc_from = 0;
        while (done < total) {
            size_t n = kdtest_size(&r, 0, kdtest_size(&r, 0, 5) ? 1000 : 100000);
            if (n > total - done) n = total - done;
            if (kdtest_size(&r, 0, 9) == 0) {
                kd__writer_crc_begin(&w);
                crc_from = done;
            }
            CHECK_OK(kd__writer_put(&w, data + done, n));
            done += n;
        }
        CHECK(w.written == total && w.crc == kd__crc32c(0, data + crc_from, total - crc_from));
        CHECK(files_in_tmp() == (round ? 2 : 1));
        if (round) CHECK(!holds(at("out"), data, total));
        CHECK_OK(kd__writer_commit(&w));
        CHECK(holds(at("out"), data, total));
        CHECK(files_in_tmp() == 1);
        kd__writer_abort(&w);
        CHECK_STATUS(kd__writer_put(&w, "x", 1), KD_ERR_STATE);
        CHECK_STATUS(kd__writer_commit(&w), KD_ERR_STATE);
    }
    kd__writer w;
    CHECK_OK(kd__writer_open(&w, NULL, at("out")));
    CHECK_OK(kd__writer_put(&w, "junk", 4));
    kd__writer_abort(&w);
    kd__writer_abort(&w);
    CHECK(files_in_tmp() == 1);
    empty_tmp();
}

TEST(mode_and_links)
{
    put_file(at("private"), "old", 3);
    chmod(at("private"), 0600);
    CHECK_OK(save(at("private"), "newer", 5));
    struct stat st;
    CHECK(stat(at("private"), &st) == 0 && (st.st_mode & 0777) == 0600);
    mode_t mask = umask(022);
    CHECK_OK(save(at("fresh"), "x", 1));
    umask(mask);
    CHECK(stat(at("fresh"), &st) == 0 && (st.st_mode & 0777) == 0644);

    CHECK(symlink("private", at("link")) == 0);
    CHECK_OK(save(at("link"), "through", 7));
    CHECK(lstat(at("link"), &st) == 0 && S_ISLNK(st.st_mode));
    CHECK(holds(at("private"), "through", 7));
    CHECK(symlink("nothing", at("dangling")) == 0);
    CHECK_STATUS(save(at("dangling"), "x", 1), KD_ERR_IO);
    CHECK(symlink("/dev/null", at("device")) == 0);
    CHECK_STATUS(save(at("device"), "x", 1), KD_ERR_IO);
    CHECK_ERROR_HAS("not a regular file");
    empty_tmp();
}

TEST(relative_paths)
{
    char old[1000];
    CHECK(getcwd(old, sizeof old) && chdir(kdtest_tmp()) == 0);
    CHECK_OK(save("plain", "x", 1));
    CHECK(holds("plain", "x", 1));
    CHECK(chdir(old) == 0);
    empty_tmp();
}

TEST(two_writers_at_once)
{
    put_file(at("target"), "old", 3);
    static kd__writer a, b;
    CHECK_OK(kd__writer_open(&a, NULL, at("target")));
    CHECK_OK(kd__writer_open(&b, NULL, at("target")));
    CHECK(strcmp(a.temp, b.temp) != 0);
    CHECK_OK(kd__writer_put(&a, "from a", 6));
    CHECK_OK(kd__writer_put(&b, "from b", 6));
    CHECK(holds(at("target"), "old", 3));
    CHECK_OK(kd__writer_commit(&b));
    CHECK(holds(at("target"), "from b", 6));
    CHECK_OK(kd__writer_commit(&a));
    CHECK(holds(at("target"), "from a", 6));
    CHECK(files_in_tmp() == 1);

    static kd__writer many[9];
    for (int i = 0; i < 8; i++) CHECK_OK(kd__writer_open(&many[i], NULL, at("target")));
    CHECK_STATUS(kd__writer_open(&many[8], NULL, at("target")), KD_ERR_IO);
    CHECK_ERROR_HAS("being written by others");
    for (int i = 0; i < 8; i++) kd__writer_abort(&many[i]);
    CHECK(files_in_tmp() == 1);
    empty_tmp();
}

TEST(killed_writers_are_cleaned_up)
{
    put_file(at("target"), "old", 3);
    for (int i = 0; i < 3; i++) {
        pid_t child = fork();
        if (child == 0) {
            kd__writer w;
            if (kd__writer_open(&w, NULL, at("target")) != KD_OK) _exit(1);
            kd__writer_put(&w, "half", 4);
            raise(SIGKILL);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
        CHECK(files_in_tmp() == 2);   /* the one before was removed */
    }
    put_file(at("target.kdtmp5"), "also stale", 10);
    put_file(at("other.kdtmp0"), "not ours", 8);
    put_file(at("target.kdtmpx"), "not ours", 8);
    CHECK_OK(save(at("target"), "new", 3));
    CHECK(holds(at("target"), "new", 3));
    CHECK(files_in_tmp() == 3);
    empty_tmp();
}

TEST(errno_is_kept)
{
    errno = EXDEV;
    put_file(at("f"), "abc", 3);
    errno = EXDEV;
    kd__file f;
    char c;
    CHECK_OK(kd__file_open(&f, at("f")));
    CHECK_OK(kd__file_read(&f, &c, 1, 1));
    kd__file_close(&f);
    CHECK(errno == EXDEV);
    const char *path = at("f");
    errno = EXDEV;
    CHECK_OK(save(path, "abcd", 4));
    CHECK(errno == EXDEV);
    empty_tmp();
}

/* ---- every call fails in turn ----------------------------------------------------------------------------- */

static kd__io real_io;
static size_t io_call, io_fail_at;
static int    io_error, io_persistent;   /* io_error 0: short transfers instead */
static pid_t  io_die;

static int hit(void)
{
    io_call++;
    int now = io_fail_at && (io_call == io_fail_at || (io_persistent && io_call > io_fail_at));
    if (now && io_die) _exit(7);
    if (now && io_error) errno = io_error;
    return now && io_error;
}

static int f_resolve(const char *p, char *out, size_t cap) { return hit() ? -1 : real_io.resolve(p, out, cap); }
static int f_open_read(const char *p, uint64_t *size) { return hit() ? -1 : real_io.open_read(p, size); }
static int f_open_temp(char *p, size_t cap, const char *t) { return hit() ? -1 : real_io.open_temp(p, cap, t); }
static int64_t f_read_at(int fd, void *out, size_t n, uint64_t at_byte)
{
    if (hit()) return -1;
    return real_io.read_at(fd, out, io_error == 0 && n > 1 ? n / 2 : n, at_byte);
}
static int64_t f_write(int fd, const void *data, size_t n)
{
    if (hit()) return -1;
    return real_io.write(fd, data, io_error == 0 && n > 1 ? n / 2 : n);
}
static int f_sync(int fd) { return hit() ? -1 : real_io.sync(fd); }
static int f_close(int fd)
{
    int failed = hit();   /* the descriptor goes away all the same */
    int r = real_io.close(fd);
    if (failed) errno = io_error;
    return failed ? -1 : r;
}
static int f_rename(const char *a, const char *b) { return hit() ? -1 : real_io.rename(a, b); }
static int f_unlink(const char *p) { return real_io.unlink(p); }
static int f_sync_dir(const char *p) { return hit() ? -1 : real_io.sync_dir(p); }

static void faults_on(size_t fail_at, int error, int persistent)
{
    real_io = kd__io_table;
    kd__io_table = (kd__io){ f_resolve, f_open_read, f_open_temp, f_read_at, f_write,  f_sync,
                             f_close,   f_rename,    f_unlink,    f_sync_dir, real_io.hold, real_io.release, real_io.list };
    io_call = 0;
    io_fail_at = fail_at;
    io_error = error;
    io_persistent = persistent;
}

static void faults_off(void) { kd__io_table = real_io; }

static int open_files(void)
{
    int n = 0;
    for (int fd = 0; fd < 64; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

TEST(every_system_call_fails)
{
    static char old[5000], new[200000], back[200000];
    memset(old, 'o', sizeof old);
    memset(new, 'n', sizeof new);
    static const int errors[] = { EIO, ENOSPC, EDQUOT, EINTR };
    const char *path = at("target");
    int descriptors = open_files();
    for (size_t e = 0; e < KD_COUNT(errors); e++)
        for (int persistent = 0; persistent < 2; persistent++) {
            if (errors[e] == EINTR && persistent) continue;   /* for ever is for ever */
            for (size_t k = 1;; k++) {
                put_file(path, old, sizeof old);
                faults_on(k, errors[e], persistent);
                kd_status status = save(path, new, sizeof new);
                int reached = io_call >= k;
                faults_off();
                if (!reached) {
                    CHECK(status == KD_OK && k == 9);   /* resolve, open, two writes, sync, close, rename, sync the directory */
                    break;
                }
                CHECK_MSG(files_in_tmp() == 1, "call %zu, errno %d: %zu files left", k, errors[e], files_in_tmp());
                CHECK(open_files() == descriptors);
                if (status != KD_OK) {
                    CHECK(status == KD_ERR_IO);
                    CHECK_ERROR_HAS("target");
                    if (strstr(kd_last_error(), "saved, but")) CHECK(holds(path, new, sizeof new));
                    else CHECK_MSG(holds(path, old, sizeof old), "call %zu, errno %d: old file touched", k, errors[e]);
                } else {
                    CHECK(errors[e] == EINTR && holds(path, new, sizeof new));
                }
            }
        }
    /* short reads and writes, all the time */
    faults_on(0, 0, 0);
    CHECK_OK(save(path, new, sizeof new));
    kd__file f;
    CHECK_OK(kd__file_open(&f, path));
    CHECK_OK(kd__file_read(&f, back, sizeof back, 0));
    CHECK(memcmp(back, new, sizeof new) == 0);
    kd__file_close(&f);
    CHECK(io_call > 30);
    faults_off();
    for (size_t k = 1; k <= 2; k++) {
        faults_on(k, EIO, 0);
        kd_status status = kd__file_open(&f, path);
        if (status == KD_OK) {
            status = kd__file_read(&f, back, sizeof back, 0);
            CHECK_ERROR_HAS("read at offset 0: input/output error");
        }
        CHECK(status == KD_ERR_IO);
        kd__file_close(&f);
        faults_off();
    }
    empty_tmp();
}

TEST(death_at_every_system_call)
{
    static char old[5000], new[200000];
    memset(old, 'o', sizeof old);
    memset(new, 'n', sizeof new);
    const char *path = at("target");
    for (size_t k = 1;; k++) {
        put_file(path, old, sizeof old);
        pid_t child = fork();
        if (child == 0) {
            faults_on(k, EIO, 0);
            io_die = 1;
            _exit(save(path, new, sizeof new) == KD_OK ? 0 : 1);
        }
        int status = 0;
        waitpid(child, &status, 0);
        int died = WIFEXITED(status) && WEXITSTATUS(status) == 7;
        CHECK(holds(path, old, sizeof old) || holds(path, new, sizeof new));
        CHECK_OK(save(path, new, sizeof new));
        CHECK(files_in_tmp() == 1);
        if (!died) {
            CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
            break;
        }
    }
    empty_tmp();
}

TEST(no_memory_for_the_buffer)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    a.fail_at = a.calls + 1;
    kd__writer w;
    CHECK_STATUS(kd__writer_open(&w, a.ctx, at("target")), KD_ERR_NOMEM);
    kd__writer_abort(&w);
    CHECK(files_in_tmp() == 0);
    CHECK_OK(kd__writer_open(&w, a.ctx, at("target")));
    CHECK_OK(kd__writer_commit(&w));
    CHECK(holds(at("target"), "", 0));
    kdtest_alloc_end(&a);
    empty_tmp();
}

TEST(no_descriptors)
{
    struct rlimit old, none;
    const char *path = at("f");
    put_file(path, "x", 1);
    int lowest = open("/dev/null", O_RDONLY);
    close(lowest);
    getrlimit(RLIMIT_NOFILE, &old);
    none = old;
    none.rlim_cur = (rlim_t)lowest;   /* the next descriptor would have this number */
    CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
    kd__file f;
    CHECK_STATUS(kd__file_open(&f, path), KD_ERR_IO);
    CHECK_ERROR_HAS("too many open files");
    CHECK_STATUS(save(path, "yy", 2), KD_ERR_IO);
    CHECK_ERROR_HAS("too many open files");
    setrlimit(RLIMIT_NOFILE, &old);
    CHECK(holds(path, "x", 1));
    empty_tmp();
}
