/* csv.c - numbers in text.  The file is read twice in pieces: to count, then to convert into a tensor of that size.
 * SPDX-License-Identifier: MIT */
#include "base/platform.h"
#include "io/io_internal.h"

enum { PIECE = 1 << 16, FIELD_LIMIT = 1024 };

typedef struct reader {
    kd__file *file;
    char     *piece;              /* PIECE bytes of the file from `base` */
    uint64_t  base;
    size_t    size, at;
    char      separator;
    uint64_t  line, column, field; /* of the field being read: from 1, and its offset */
} reader;

typedef enum after { AFTER_SEPARATOR, AFTER_LINE, AFTER_FILE } after;

static kd_status bad(const reader *r, kd_status status, const char *why)
{
    return kd__fail(status, "%s: line %llu, column %llu (offset %llu): %s", r->file->path,
                    (unsigned long long)r->line, (unsigned long long)r->column, (unsigned long long)r->field, why);
}

/* Keep the bytes from `keep` on and fill the rest of the piece. */
static kd_status refill(reader *r, size_t keep)
{
    size_t left = r->size - keep;
    memmove(r->piece, r->piece + keep, left);
    r->base += keep;
    r->at -= keep;
    uint64_t rest = r->file->size - r->base - left;
    size_t more = (size_t)KD_MIN(rest, (uint64_t)(PIECE - left));
    r->size = left + more;
    return more ? kd__file_read(r->file, r->piece + left, more, r->base + left) : KD_OK;
}

static bool at_end(const reader *r) { return r->base + r->at == r->file->size; }

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

/* One field without the blanks around it, and what comes after it.  A space as separator is any run of blanks. */
static kd_status next_field(reader *r, const char **begin, const char **end, after *what)
{
    if (r->size - r->at < FIELD_LIMIT) KD_TRY(refill(r, r->at));
    r->field = r->base + r->at;
    const char *p = r->piece + r->at, *stop = r->piece + r->size;
    const char *limit = stop - p > FIELD_LIMIT ? p + FIELD_LIMIT : stop;
    bool blank = r->separator == ' ';
    while (p < limit && is_blank(*p) && (blank || *p != r->separator)) p++;
    *begin = p;
    while (p < limit && *p != '\n' && (blank ? !is_blank(*p) : *p != r->separator)) p++;
    *end = p;
    if (blank) while (p < limit && is_blank(*p)) p++;
    if (p == limit && limit != stop) return bad(r, KD_ERR_FORMAT, "a field of more than 1024 bytes");
    if (blank && p < stop && *p == '\r' && p + 1 < stop && p[1] == '\n') p++;
    *what = p == stop ? AFTER_FILE : *p == '\n' ? AFTER_LINE : AFTER_SEPARATOR;
    if (*what != AFTER_SEPARATOR && *end > *begin && (*end)[-1] == '\r') --*end;
    while (*end > *begin && is_blank((*end)[-1])) --*end;
    r->at = (size_t)(p - r->piece) + (*what == AFTER_LINE || (*what == AFTER_SEPARATOR && !blank));
    return KD_OK;
}

/* Go to the beginning and past the lines to skip. */
static kd_status rewind_file(reader *r, size_t skip_lines)
{
    r->base = 0;
    r->size = r->at = 0;
    r->line = r->column = 1;
    KD_TRY(refill(r, 0));
    if (r->size >= 3 && memcmp(r->piece, "\xef\xbb\xbf", 3) == 0) r->at = 3;   /* a byte order mark */
    while (skip_lines && !at_end(r)) {
        if (r->at == r->size) KD_TRY(refill(r, r->at));
        const char *newline = memchr(r->piece + r->at, '\n', r->size - r->at);
        r->at = newline ? (size_t)(newline - r->piece) + 1 : r->size;
        r->line += newline != NULL;
        skip_lines -= newline != NULL;
    }
    return KD_OK;
}

static kd_status convert(const reader *r, const char *begin, const char *end, float *out)
{
    double value;
    if (begin == end) return bad(r, KD_ERR_FORMAT, "an empty field");
    if (!kd__parse_double(begin, end, &value))
        return kd__fail(KD_ERR_FORMAT, "%s: line %llu, column %llu: \"%.*s\" is not a number", r->file->path,
                        (unsigned long long)r->line, (unsigned long long)r->column, (int)KD_MIN(end - begin, 40),
                        begin);
    *out = (float)value;
    if (__builtin_isinf(*out))
        return kd__fail(KD_ERR_RANGE, "%s: line %llu, column %llu: %.*s does not fit an f32", r->file->path,
                        (unsigned long long)r->line, (unsigned long long)r->column, (int)KD_MIN(end - begin, 40),
                        begin);
    return KD_OK;
}

/* Walk all fields: count rows and columns, and convert them when `out` is there (`room` of them). */
static kd_status walk(reader *r, size_t skip_lines, size_t *rows, size_t *columns, float *out, size_t room)
{
    *rows = *columns = 0;
    KD_TRY(rewind_file(r, skip_lines));
    while (!at_end(r)) {
        const char *begin, *end;
        after what = AFTER_SEPARATOR;
        uint64_t fields = 0;
        while (what == AFTER_SEPARATOR) {
            r->column = fields + 1;
            KD_TRY(next_field(r, &begin, &end, &what));
            bool blank_tail = r->separator == ' ' && begin == end && what != AFTER_SEPARATOR;
            if (blank_tail || (fields == 0 && begin == end && what != AFTER_SEPARATOR)) break;
            if (*rows && fields == *columns) return bad(r, KD_ERR_FORMAT, "more columns than in the first row");
            if (out) {
                if (!room) return bad(r, KD_ERR_FORMAT, "the file changed while it was read");
                KD_TRY(convert(r, begin, end, out++));
                room--;
            }
            fields++;
        }
        if (fields) {
            if (!*rows) *columns = (size_t)fields;
            if (fields != *columns) return bad(r, KD_ERR_FORMAT, "fewer columns than in the first row");
            ++*rows;
        }
        r->line++;
    }
    if (out && room) return bad(r, KD_ERR_FORMAT, "the file changed while it was read");
    return KD_OK;
}

static kd_status read_all(kd_context *ctx, reader *r, size_t skip_lines, kd_tensor **out)
{
    size_t shape[2], again[2];
    KD_TRY(rewind_file(r, 0));
    const char *foreign = kd__foreign_file(r->piece, r->size);
    if (foreign) return kd__fail(KD_ERR_FORMAT, "%s: offset 0: this is %s", r->file->path, foreign);
    KD_TRY(walk(r, skip_lines, &shape[0], &shape[1], NULL, 0));
    if (!shape[0]) return kd__fail(KD_ERR_FORMAT, "%s: no rows after %zu skipped lines", r->file->path, skip_lines);
    kd_tensor *t;
    KD_TRY(kd_tensor_create(&t, ctx, KD_F32, 2, shape));
    kd_status status = walk(r, skip_lines, &again[0], &again[1], kd_tensor_f32(t), kd_tensor_count(t));
    if (status != KD_OK) {
        kd_tensor_free(t);
        return status;
    }
    *out = t;
    return KD_OK;
}

kd_status kd_csv_load(kd_tensor **out, kd_context *ctx, const char *path, uint32_t separator, size_t skip_lines)
{
    KD__FP_SCOPE;
    KD_NEED(out);
    *out = NULL;
    KD_NEED(path);
    bool number = (separator >= '0' && separator <= '9') || separator == '.' || separator == '-' ||
                  separator == '+' || separator == 'e' || separator == 'E';
    if (separator == 0 || separator > 127 || separator == '\n' || separator == '\r' || number)
        return kd__fail(KD_ERR_ARG, "kd_csv_load: separator %u: an ASCII character that no number contains is wanted",
                        separator);
    kd__file file;
    kd_status status = kd__file_open(&file, path);
    if (status == KD_OK) {
        reader r = { .file = &file, .separator = (char)separator };
        r.piece = kd__scratch_get(ctx, PIECE);
        status = r.piece ? read_all(ctx, &r, skip_lines, out) : KD_ERR_NOMEM;
        kd__scratch_put(ctx, r.piece);
        kd__file_close(&file);
    }
    return status == KD_OK ? KD_OK : kd__fail_prefix(status, "kd_csv_load: ");
}
