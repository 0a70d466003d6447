/* npy.c - NumPy arrays.  The header is a Python literal; here it is a fixed grammar, never evaluated.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"

enum { HEADER_LIMIT = 65536 };

typedef struct npy {
    kd_context *ctx;
    kd__file   *file;
    uint64_t    base;             /* where the text begins in the file */
    const char *text, *at, *end;
    kd_dtype    dtype;
    bool        big_endian, fortran;
    size_t      rank, shape[KD_MAX_RANK];
} npy;

static kd_status bad(const npy *n, kd_status status, const char *why)
{
    return kd__fail(status, "%s: offset %llu: %s", n->file->path,
                    (unsigned long long)(n->base + (uint64_t)(n->at - n->text)), why);
}

static void skip_space(npy *n)
{
    while (n->at < n->end && (*n->at == ' ' || *n->at == '\t' || *n->at == '\n' || *n->at == '\r')) n->at++;
}

/* Pass over `c` if it comes next, after spaces. */
static bool accept(npy *n, char c)
{
    skip_space(n);
    if (n->at == n->end || *n->at != c) return false;
    n->at++;
    return true;
}

static bool accept_word(npy *n, const char *word)
{
    size_t length = strlen(word);
    skip_space(n);
    if ((size_t)(n->end - n->at) < length || memcmp(n->at, word, length) != 0) return false;
    n->at += length;
    return true;
}

/* A string in either quotes, without escapes. */
static bool read_string(npy *n, const char **text, size_t *length)
{
    skip_space(n);
    if (n->at == n->end || (*n->at != '\'' && *n->at != '"')) return false;
    const char *close = memchr(n->at + 1, *n->at, (size_t)(n->end - n->at) - 1);
    if (!close) return false;
    *text = n->at + 1;
    *length = (size_t)(close - *text);
    if (memchr(*text, '\\', *length)) return false;
    n->at = close + 1;
    return true;
}

static kd_status read_descr(npy *n)
{
    static const struct { char name[4]; kd_dtype dtype; } known[] = {
        { "f4", KD_F32 }, { "f8", KD_F64 }, { "i4", KD_I32 }, { "i8", KD_I64 }, { "u1", KD_U8 }, { "b1", KD_U8 },
    };
    skip_space(n);
    if (n->at < n->end && (*n->at == '[' || *n->at == '('))
        return bad(n, KD_ERR_UNSUPPORTED, "a structured dtype: libkd reads plain numbers");
    const char *before = n->at, *text;
    size_t length;
    if (!read_string(n, &text, &length) || length < 2 || !memchr("<>|=", *text, 4) ||
        !memchr("?bBiufcmMOSaUVtT", text[1], 16)) {
        n->at = before;
        return bad(n, KD_ERR_FORMAT, "descr must be a byte order and a type, like '<f4'");
    }
    if (text[1] == 'O') return bad(n, KD_ERR_UNSUPPORTED, "object arrays are pickles; libkd never unpickles");
    for (size_t i = 0; i < KD_COUNT(known); i++) {
        if (length != 3 || memcmp(text + 1, known[i].name, 2) != 0) continue;
        if (kd_dtype_size(known[i].dtype) > 1 && *text != '<' && *text != '>') {
            n->at = before;
            return bad(n, KD_ERR_FORMAT, "descr does not say the byte order ('<' or '>')");
        }
        n->dtype = known[i].dtype;
        n->big_endian = *text == '>';
        return KD_OK;
    }
    return kd__fail(KD_ERR_UNSUPPORTED, "%s: offset %llu: descr '%.*s': libkd reads f4 f8 i4 i8 u1 b1", n->file->path,
                    (unsigned long long)(n->base + (uint64_t)(before - n->text)), (int)KD_MIN(length, (size_t)20),
                    text);
}

static kd_status read_fortran(npy *n)
{
    n->fortran = accept_word(n, "True");
    if (!n->fortran && !accept_word(n, "False")) return bad(n, KD_ERR_FORMAT, "fortran_order must be True or False");
    return KD_OK;
}

static kd_status read_shape(npy *n)
{
    if (!accept(n, '(')) return bad(n, KD_ERR_FORMAT, "shape must be a tuple");
    for (n->rank = 0; !accept(n, ')');) {
        const char *begin = n->at;
        uint64_t size;
        while (n->at < n->end && *n->at >= '0' && *n->at <= '9') n->at++;
        bool number = n->at > begin;
        if (number && !kd__parse_u64(begin, n->at, &size)) {
            n->at = begin;
            return *begin == '0' ? bad(n, KD_ERR_FORMAT, "a number with a leading zero")
                                 : bad(n, KD_ERR_OVERFLOW, "a size beyond 2^64");
        }
        if (!number) return bad(n, KD_ERR_FORMAT, "a size in shape must be a whole number");
        if (n->at < n->end && *n->at == 'L') n->at++;   /* Python 2 */
        if (size > SIZE_MAX) return bad(n, KD_ERR_OVERFLOW, "a size does not fit");
        if (n->rank == KD_MAX_RANK) return bad(n, KD_ERR_LIMIT, "more than 8 axes");
        n->shape[n->rank++] = (size_t)size;
        bool comma = accept(n, ',');
        skip_space(n);
        if (!comma && (n->rank == 1 || n->at == n->end || *n->at != ')'))
            return bad(n, KD_ERR_FORMAT,
                       n->rank == 1 ? "shape must be a tuple: (3,) rather than (3)" : "a ',' is missing");
    }
    return KD_OK;
}

static kd_status read_dict(npy *n)
{
    static const struct { char name[16]; kd_status (*read)(npy *); } keys[] = {
        { "descr", read_descr }, { "fortran_order", read_fortran }, { "shape", read_shape },
    };
    unsigned seen = 0;
    if (!accept(n, '{')) return bad(n, KD_ERR_FORMAT, "the header must be a dictionary");
    while (!accept(n, '}')) {
        const char *before = n->at, *text;
        size_t length, k = 0;
        if (!read_string(n, &text, &length)) return bad(n, KD_ERR_FORMAT, "a key in quotes is missing");
        while (k < KD_COUNT(keys) && (strlen(keys[k].name) != length || memcmp(text, keys[k].name, length) != 0)) k++;
        if (k == KD_COUNT(keys) || (seen & 1u << k)) {
            n->at = before;
            return bad(n, KD_ERR_FORMAT,
                       k < KD_COUNT(keys) ? "a key is there twice"
                                          : "a key that is not descr, fortran_order or shape");
        }
        seen |= 1u << k;
        if (!accept(n, ':')) return bad(n, KD_ERR_FORMAT, "a ':' after the key is missing");
        KD_TRY(keys[k].read(n));
        bool comma = accept(n, ',');
        skip_space(n);
        if (!comma && (n->at == n->end || *n->at != '}')) return bad(n, KD_ERR_FORMAT, "a ',' or '}' is missing");
    }
    if (seen != 7) return bad(n, KD_ERR_FORMAT, "descr, fortran_order or shape is missing");
    skip_space(n);
    if (n->at != n->end) return bad(n, KD_ERR_FORMAT, "only white space may follow the header's '}'");
    if (n->fortran && n->rank >= 2)
        return bad(n, KD_ERR_UNSUPPORTED, "Fortran order: save it with numpy.ascontiguousarray");
    return KD_OK;
}

static kd_status read_all(npy *n, kd_tensor **out)
{
    uint8_t head[64];
    kd__file *file = n->file;
    size_t have = (size_t)KD_MIN(file->size, sizeof head);
    KD_TRY(kd__file_read(file, head, have, 0));
    if (have < 6 || memcmp(head, "\x93NUMPY", 6) != 0) {
        const char *foreign = kd__foreign_file(head, have);
        if (have < 6 && memcmp(head, "\x93NUMPY", have) == 0)
            return kd__fail(KD_ERR_TRUNCATED, "%s: %zu bytes: an .npy file begins with 10", file->path, have);
        return kd__fail(KD_ERR_FORMAT, "%s: offset 0: this is %s", file->path,
                        foreign ? foreign : "not an .npy file");
    }
    if (have < 10) return kd__fail(KD_ERR_TRUNCATED, "%s: %zu bytes: an .npy file begins with 10", file->path, have);
    if (head[6] < 1 || head[6] > 3 || head[7] != 0)
        return kd__fail(KD_ERR_FORMAT, "%s: offset 6: version %d.%d: there are 1.0, 2.0 and 3.0", file->path, head[6],
                        head[7]);
    n->base = head[6] == 1 ? 10 : 12;
    if (have < n->base)
        return kd__fail(KD_ERR_TRUNCATED, "%s: %zu bytes: the file ends in its header", file->path, have);
    uint64_t length = head[6] == 1 ? (uint64_t)(head[8] | head[9] << 8) : kd__le32(head + 8);
    if (length > HEADER_LIMIT)
        return kd__fail(KD_ERR_LIMIT, "%s: offset 8: a header of %llu bytes: the limit is 65536", file->path,
                        (unsigned long long)length);
    if (length > file->size - n->base)
        return kd__fail(KD_ERR_TRUNCATED, "%s: offset 8: a header of %llu bytes in a file of %llu", file->path,
                        (unsigned long long)length, (unsigned long long)file->size);
    char *text = kd__scratch_get(n->ctx, (size_t)length + 1);
    if (!text) return KD_ERR_NOMEM;
    n->text = n->at = text;
    n->end = text + length;
    kd_status status = kd__file_read(file, text, (size_t)length, n->base);
    if (status == KD_OK) status = read_dict(n);
    kd__scratch_put(n->ctx, text);
    if (status != KD_OK) return status;
    return kd__load_rest(out, n->ctx, file, n->dtype, n->rank, n->shape, n->base + length, n->big_endian);
}

kd_status kd_npy_load(kd_tensor **out, kd_context *ctx, const char *path)
{
    KD_NEED(out);
    *out = NULL;
    KD_NEED(path);
    kd__file file;
    kd_status status = kd__file_open(&file, path);
    if (status == KD_OK) {
        npy n = { .ctx = kd__context(ctx), .file = &file };
        status = read_all(&n, out);
        kd__file_close(&file);
    }
    return status == KD_OK ? KD_OK : kd__fail_prefix(status, "kd_npy_load: ");
}
