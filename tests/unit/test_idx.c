/* test_idx.c - IDX files.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"
#include "kdtest_file.h"
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *idx_file(int type, size_t rank, const uint32_t *sizes, size_t data_bytes)
{
    static kdtest_bytes b;
    b.size = 0;
    kdtest_put_be(&b, (uint64_t)type << 8 | rank, 4);
    for (size_t i = 0; i < rank; i++) kdtest_put_be(&b, sizes[i], 4);
    for (size_t i = 0; i < data_bytes; i++) kdtest_put_be(&b, i * 7 + 1, 1);
    return kdtest_write_bytes("a.idx", &b);
}

TEST(types)
{
    static const struct { int code; kd_dtype dtype; size_t width; } types[] = {
        { 8, KD_U8, 1 }, { 12, KD_I32, 4 }, { 13, KD_F32, 4 }, { 14, KD_F64, 8 },
    };
    for (size_t k = 0; k < KD_COUNT(types); k++)
        for (size_t rank = 1; rank <= 8; rank++) {
            uint32_t sizes[8] = { 3, 2, 1, 1, 1, 1, 1, 1 };
            size_t n = rank == 1 ? 3 : 6, width = types[k].width;
            kd_tensor *t;
            if (!CHECK_OK(kd_idx_load(&t, NULL, idx_file(types[k].code, rank, sizes, n * width)))) continue;
            CHECK(kd_tensor_dtype(t) == types[k].dtype && kd_tensor_rank(t) == rank && kd_tensor_count(t) == n);
            CHECK(kd_tensor_size(t, 0) == 3);
            const unsigned char *p = kd_tensor_data(t);
            for (size_t i = 0; i < n; i++) {
                uint64_t got = 0, want = 0;
                for (size_t b = 0; b < width; b++) {
                    want = want << 8 | (unsigned char)((i * width + b) * 7 + 1);   /* big-endian in the file */
                    size_t place = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? width - 1 - b : b;
                    got = got << 8 | p[i * width + place];
                }
                CHECK(got == want);
            }
            kd_tensor_free(t);
        }
}

static void refused(const char *path, kd_status want, const char *text)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    size_t before = a.calls;
    kd_tensor *t = (kd_tensor *)1;
    CHECK_STATUS(kd_idx_load(&t, a.ctx, path), want);
    CHECK_ERROR_HAS(text);
    CHECK_ERROR_HAS("kd_idx_load: ");
    CHECK(t == NULL);
    CHECK(a.calls == before);   /* refused before anything is allocated */
    kdtest_alloc_end(&a);
}

TEST(bad_files)
{
    size_t fds = kdtest_fds();
    uint32_t sizes[9] = { 2, 3, 1, 1, 1, 1, 1, 1, 1 }, huge[3] = { 0xffffffffu, 28, 28 };
    uint32_t wraps[8] = { 0xffffffffu, 0xffffffffu, 0xffffffffu };
    refused(kdtest_write("x", "", 0), KD_ERR_TRUNCATED, "begins with 4");
    refused(kdtest_write("x", "\0\0\10", 3), KD_ERR_TRUNCATED, "begins with 4");
    refused(kdtest_write("x", "\0\0\10\2\0\0\0\1", 8), KD_ERR_TRUNCATED, "header");
    refused(kdtest_write("x", "\1\0\10\1\0\0\0\0", 8), KD_ERR_FORMAT, "first two bytes");
    refused(kdtest_write("x", "\0\1\10\1\0\0\0\0", 8), KD_ERR_FORMAT, "first two bytes");
    refused(kdtest_write("x", "\x1f\x8b\10\0\0\0\0\0", 8), KD_ERR_FORMAT, "gzip file: decompress it first");
    refused(kdtest_write("x", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n", 57), KD_ERR_FORMAT,
            "git lfs pull");
    refused(idx_file(10, 1, sizes, 2), KD_ERR_FORMAT, "0x0a");
    refused(idx_file(9, 1, sizes, 2), KD_ERR_UNSUPPORTED, "i8");
    refused(idx_file(11, 1, sizes, 4), KD_ERR_UNSUPPORTED, "i16");
    refused(idx_file(8, 0, sizes, 1), KD_ERR_FORMAT, "0 axes");
    refused(idx_file(8, 9, sizes, 6), KD_ERR_FORMAT, "9 axes");
    refused(idx_file(8, 2, sizes, 5), KD_ERR_TRUNCATED, "needs 6 bytes, 5 follow");
    refused(idx_file(8, 2, sizes, 7), KD_ERR_FORMAT, "1 bytes too many");
    refused(idx_file(8, 3, huge, 4096), KD_ERR_TRUNCATED, "3367254359280");
    refused(idx_file(14, 3, wraps, 8), KD_ERR_OVERFLOW, "does not fit");
    refused(kdtest_tmp(), KD_ERR_IO, "is a directory");
    refused("/dev/zero", KD_ERR_IO, "not a regular file");
    refused(kdtest_path("nothing"), KD_ERR_IO, "no such file");
    const char *fifo = kdtest_path("fifo");
    if (CHECK(mkfifo(fifo, 0600) == 0)) refused(fifo, KD_ERR_IO, "not a regular file");
    if (geteuid() != 0) {
        const char *locked = kdtest_write("locked", "abcd", 4);
        chmod(locked, 0);
        refused(locked, KD_ERR_IO, "permission denied");
    }
    kd_tensor *t;
    CHECK_STATUS(kd_idx_load(NULL, NULL, "x"), KD_ERR_ARG);
    CHECK_STATUS(kd_idx_load(&t, NULL, NULL), KD_ERR_ARG);
    CHECK(kdtest_fds() == fds);
}

static void *little_alloc(size_t bytes, size_t align, void *user)
{
    (void)user;
    void *ptr = NULL;
    return bytes > 1u << 30 || posix_memalign(&ptr, align < sizeof ptr ? sizeof ptr : align, bytes) ? NULL : ptr;
}

static void little_free(void *ptr, size_t bytes, void *user)
{
    (void)bytes;
    (void)user;
    free(ptr);
}

/* A sparse file that is as long as its header says: out of memory at worst. */
TEST(sparse_file)
{
    kd_context_desc desc;
    kd_context_desc_init(&desc, sizeof desc);
    desc.allocator = (kd_allocator){ little_alloc, little_free, NULL };
    kd_context *ctx;
    if (!CHECK_OK(kd_context_create(&ctx, &desc))) return;
    uint32_t huge[3] = { 0xffffffffu, 28, 28 };
    const char *path = idx_file(8, 3, huge, 0);
    if (truncate(path, 16 + 3367254359280ll) != 0) {
        kdtest_skip("no sparse file of this size here");
        kd_context_free(ctx);
        return;
    }
    kd_tensor *t;
    CHECK_STATUS(kd_idx_load(&t, ctx, path), KD_ERR_NOMEM);
    kd_tensor_free(t);
    kd_context_free(ctx);
    unlink(path);
}

static void any(const char *path, char what, size_t at, void *arg)
{
    kd_tensor *t;
    kd_status s = kd_idx_load(&t, arg, path);
    if (what == 'p') CHECK_MSG(s == KD_ERR_TRUNCATED, "prefix of %zu bytes: %s", at, kd_status_name(s));
    kd_tensor_free(t);
}

TEST(every_prefix_and_flip)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    uint32_t sizes[3] = { 4, 3, 2 };
    for (int type = 12; type <= 14; type++) {
        size_t n;
        unsigned char *data = kdtest_slurp(idx_file(type, 3, sizes, 24u * (type == 14 ? 8 : 4)), &n);
        kdtest_damage(data, n, 1, any, a.ctx);
        free(data);
    }
    kdtest_alloc_end(&a);
}
