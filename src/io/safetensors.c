/* safetensors.c - reading: an 8-byte length, a JSON header, the data, every byte of which belongs to one tensor.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"

enum { LENGTH_BYTES = 8, HEADER_LIMIT = 100000000 };

const kd__safetensors_dtype kd__safetensors_dtypes[22] = {
    { "BOOL", 8, KD_U8 },      { "F4", 4, 0 },            { "F6_E2M3", 6, 0 },   { "F6_E3M2", 6, 0 },
    { "U8", 8, KD_U8 },        { "I8", 8, 0 },            { "F8_E5M2", 8, 0 },   { "F8_E4M3", 8, 0 },
    { "F8_E8M0", 8, 0 },       { "F8_E4M3FNUZ", 8, 0 },   { "F8_E5M2FNUZ", 8, 0 }, { "I16", 16, 0 },
    { "U16", 16, 0 },          { "F16", 16, KD_F32 },     { "BF16", 16, KD_F32 }, { "I32", 32, KD_I32 },
    { "U32", 32, 0 },          { "F32", 32, KD_F32 },     { "C64", 64, 0 },      { "F64", 64, KD_F64 },
    { "I64", 64, KD_I64 },     { "U64", 64, 0 },
};

typedef struct entry {
    uint64_t begin, end;            /* in the data, as the header says */
    size_t   shape[KD_MAX_RANK];
    uint32_t name;                  /* where it begins in the header */
    uint32_t place;                 /* its index in the order of the data */
    uint8_t  rank, dtype;
} entry;

typedef struct pair { uint32_t key, value; } pair;

struct kd_safetensors {
    kd_context *ctx;
    kd__file    file;
    char       *header;             /* strings are decoded in it and end in zeros */
    uint64_t    data;               /* where the data begins in the file */
    entry      *entries;
    size_t      count, capacity;
    uint32_t   *by_place, *by_name; /* entries in the order of data, of names */
    pair       *pairs;              /* __metadata__ */
    size_t      pair_count, pair_capacity;
    bool        has_metadata;
};

/* ---- errors: the file, the offset, the tensor ------------------------------------------------------- */

static kd_status bad(const kd_safetensors *f, kd_status status, size_t at, const char *name, const char *why)
{
    unsigned long long offset = LENGTH_BYTES + (unsigned long long)at;
    if (!name) return kd__fail(status, "%s: offset %llu: %s", f->file.path, offset, why);
    return kd__fail(status, "%s: offset %llu: tensor \"%s\": %s", f->file.path, offset, kd__show(name).text, why);
}

static kd_status bad_json(const kd_safetensors *f, const kd__json *j, const char *name)
{
    return bad(f, KD_ERR_FORMAT, j->at, name, j->error);
}

/* The next token must be `want`. */
static kd_status need(const kd_safetensors *f, kd__json *j, const char *name, kd__json_token want, const char *why)
{
    kd__json_token token = kd__json_next(j);
    if (token == want) return KD_OK;
    return token == KD__JSON_ERROR ? bad_json(f, j, name) : bad(f, KD_ERR_FORMAT, j->start, name, why);
}

/* ---- the header ------------------------------------------------------------------------------------- */

/* Whole numbers up to a closing bracket: at most `limit` of them. */
static kd_status read_numbers(const kd_safetensors *f, kd__json *j, const char *name, uint64_t *out, size_t limit,
                              size_t *count)
{
    KD_TRY(need(f, j, name, KD__JSON_ARRAY, "a list of numbers is wanted"));
    for (*count = 0;; ++*count) {
        kd__json_token token = kd__json_next(j);
        if (token == KD__JSON_ARRAY_END) return KD_OK;
        if (token == KD__JSON_ERROR) return bad_json(f, j, name);
        if (*count == limit) return bad(f, KD_ERR_LIMIT, j->start, name, "more numbers than the limit of 8");
        if (token != KD__JSON_NUMBER || !kd__parse_u64(j->string, j->string + j->length, &out[*count]))
            return bad(f, KD_ERR_FORMAT, j->start, name, "a whole number from 0 to 2^64 - 1 is wanted");
    }
}

static int find_dtype(const char *text, size_t length)
{
    char padded[sizeof kd__safetensors_dtypes->name] = { 0 };
    if (length >= sizeof padded) return -1;
    memcpy(padded, text, length);
    for (size_t i = 0; i < KD_COUNT(kd__safetensors_dtypes); i++)
        if (memcmp(padded, kd__safetensors_dtypes[i].name, sizeof padded) == 0) return (int)i;
    return -1;
}

static kd_status check_size(const kd_safetensors *f, const entry *e, size_t at, const char *name)
{
    uint64_t bits;
    bool empty;
    const kd__safetensors_dtype *dtype = &kd__safetensors_dtypes[e->dtype];
    unsigned long long offset = LENGTH_BYTES + (unsigned long long)at;
    if (!kd__shape_units(e->rank, e->shape, dtype->bits, &bits, &empty))
        return kd__fail(KD_ERR_OVERFLOW, "%s: offset %llu: tensor \"%s\": the size of %s %S does not fit",
                        f->file.path, offset, kd__show(name).text, dtype->name, (size_t)e->rank, e->shape);
    if (empty) bits = 0;
    if (e->begin > e->end || bits % 8 || bits / 8 != e->end - e->begin)
        return kd__fail(KD_ERR_FORMAT,
                        "%s: offset %llu: tensor \"%s\": %s %S is %llu bits, its data_offsets are [%llu, %llu]",
                        f->file.path, offset, kd__show(name).text, dtype->name, (size_t)e->rank, e->shape,
                        (unsigned long long)bits, (unsigned long long)e->begin, (unsigned long long)e->end);
    return KD_OK;
}

static kd_status read_entry(kd_safetensors *f, kd__json *j)
{
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4 };
    size_t start = j->start, count;
    const char *name = j->string;
    entry e = { .name = (uint32_t)(name - f->header) };
    KD_TRY(need(f, j, name, KD__JSON_OBJECT, "an object with dtype, shape and data_offsets is wanted"));
    for (unsigned seen = 0;;) {
        kd__json_token token = kd__json_next(j);
        if (token == KD__JSON_ERROR) return bad_json(f, j, name);
        if (token == KD__JSON_OBJECT_END) {
            if (seen != (DTYPE | SHAPE | OFFSETS))
                return bad(f, KD_ERR_FORMAT, j->at - 1, name, "dtype, shape or data_offsets is missing");
            break;
        }
        unsigned field = strcmp(j->string, "dtype") == 0          ? DTYPE
                       : strcmp(j->string, "shape") == 0          ? SHAPE
                       : strcmp(j->string, "data_offsets") == 0   ? OFFSETS : 0;
        if (!field) return bad(f, KD_ERR_FORMAT, j->start, name, "a key that is not dtype, shape or data_offsets");
        if (seen & field) return bad(f, KD_ERR_FORMAT, j->start, name, "a key is there twice");
        seen |= field;
        if (field == DTYPE) {
            KD_TRY(need(f, j, name, KD__JSON_STRING, "dtype must be a string"));
            int dtype = find_dtype(j->string, j->length);
            if (dtype < 0) return bad(f, KD_ERR_FORMAT, j->start, name, "a dtype that the format does not know");
            e.dtype = (uint8_t)dtype;
        } else if (field == SHAPE) {
            uint64_t sizes[KD_MAX_RANK];
            KD_TRY(read_numbers(f, j, name, sizes, KD_MAX_RANK, &count));
            for (size_t i = 0; i < count; i++) {
                if (sizes[i] > SIZE_MAX) return bad(f, KD_ERR_OVERFLOW, j->start, name, "a size does not fit");
                e.shape[i] = (size_t)sizes[i];
            }
            e.rank = (uint8_t)count;
        } else {
            uint64_t ends[KD_MAX_RANK];
            KD_TRY(read_numbers(f, j, name, ends, KD_MAX_RANK, &count));
            if (count != 2) return bad(f, KD_ERR_FORMAT, j->start, name, "data_offsets must be two numbers");
            e.begin = ends[0];
            e.end = ends[1];
        }
    }
    KD_TRY(check_size(f, &e, start, name));
    KD_TRY(kd__grow(f->ctx, &f->entries, &f->capacity, f->count + 1, sizeof *f->entries));
    f->entries[f->count++] = e;
    return KD_OK;
}

static kd_status read_metadata(kd_safetensors *f, kd__json *j)
{
    if (f->has_metadata) return bad(f, KD_ERR_FORMAT, j->start, NULL, "__metadata__ is there twice");
    f->has_metadata = true;
    KD_TRY(need(f, j, NULL, KD__JSON_OBJECT, "__metadata__ must be an object"));
    for (;;) {
        kd__json_token token = kd__json_next(j);
        if (token == KD__JSON_OBJECT_END) return KD_OK;
        if (token == KD__JSON_ERROR) return bad_json(f, j, NULL);
        pair p = { .key = (uint32_t)(j->string - f->header) };
        KD_TRY(need(f, j, NULL, KD__JSON_STRING, "__metadata__ holds strings only"));
        p.value = (uint32_t)(j->string - f->header);
        KD_TRY(kd__grow(f->ctx, &f->pairs, &f->pair_capacity, f->pair_count + 1, sizeof *f->pairs));
        f->pairs[f->pair_count++] = p;
    }
}

static kd_status read_header(kd_safetensors *f, size_t size, uint32_t flags)
{
    bool lenient = (flags & KD_SAFETENSORS_LENIENT) != 0;
    if (f->header[0] != '{' && !lenient) return bad(f, KD_ERR_FORMAT, 0, NULL, "the header does not begin with '{'");
    kd__json j;
    kd__json_begin(&j, f->header, size);
    KD_TRY(need(f, &j, NULL, KD__JSON_OBJECT, "the header must be an object"));
    for (;;) {
        kd__json_token token = kd__json_next(&j);
        if (token == KD__JSON_OBJECT_END) break;
        if (token == KD__JSON_ERROR) return bad_json(f, &j, NULL);
        KD_TRY(strcmp(j.string, "__metadata__") == 0 ? read_metadata(f, &j) : read_entry(f, &j));
    }
    for (size_t i = j.at; i < size; i++) {
        char c = f->header[i];
        if (c != ' ' && !(lenient && (c == '\n' || c == '\r' || c == '\t')))
            return bad(f, KD_ERR_FORMAT, i, NULL, "only spaces may follow the header's '}'");
    }
    return KD_OK;
}

/* ---- order: no name twice, no byte twice, no byte left over ----------------------------------------- */

static const char *item_name(const void *arg, const kd__sort_item *item)
{
    return ((const kd_safetensors *)arg)->header + item->place;
}

static kd_status sort_names(kd_safetensors *f, kd__sort_item *items, kd__sort_item *spare, size_t count)
{
    const kd__sort_item *twice;
    KD_TRY(kd__sort_names(f->ctx, items, spare, count, item_name, f, &twice));
    if (!twice) return KD_OK;
    return kd__fail(KD_ERR_FORMAT, "%s: offset %llu: the name \"%s\" is there twice", f->file.path,
                    LENGTH_BYTES + (unsigned long long)twice->place, kd__show(item_name(f, twice)).text);
}

/* By begin, then end, so that an empty tensor comes before the one that begins where it stands. */
static void sort_places(const kd_safetensors *f, kd__sort_item *items, kd__sort_item *spare)
{
    for (size_t i = 0; i < f->count; i++) items[i] = (kd__sort_item){ f->entries[i].begin, (uint32_t)i, 0 };
    kd__sort_items(items, spare, f->count);
    for (size_t i = 0, next; i < f->count; i = next) {
        for (next = i + 1; next < f->count && items[next].key == items[i].key;) next++;
        if (next - i < 2) continue;
        for (size_t k = i; k < next; k++) items[k].key = f->entries[items[k].index].end;
        kd__sort_items(items + i, spare, next - i);
    }
}

static kd_status check_places(kd_safetensors *f)
{
    uint64_t size = f->file.size - f->data, at = 0;
    for (size_t i = 0; i < f->count; i++) {
        entry *e = &f->entries[f->by_place[i]];
        if (e->begin != at)
            return kd__fail(KD_ERR_FORMAT,
                            "%s: offset %llu: tensor \"%s\" begins at %llu of the data, but the one before it ends "
                            "at %llu: %s",
                            f->file.path, (unsigned long long)(f->data + at), kd__show(f->header + e->name).text,
                            (unsigned long long)e->begin, (unsigned long long)at,
                            e->begin < at ? "they overlap" : "a hole");
        at = e->end;
        e->place = (uint32_t)i;
        if (at > size)
            return kd__fail(
                KD_ERR_TRUNCATED, "%s: tensor \"%s\" ends at %llu of the data, the file has %llu: it was cut short",
                f->file.path, kd__show(f->header + e->name).text, (unsigned long long)at, (unsigned long long)size);
    }
    if (at < size)
        return kd__fail(KD_ERR_FORMAT, "%s: offset %llu: %llu bytes after the last tensor", f->file.path,
                        (unsigned long long)(f->data + at), (unsigned long long)(size - at));
    return KD_OK;
}

static kd_status fill_order(kd_safetensors *f, kd__sort_item *items, kd__sort_item *spare)
{
    for (size_t i = 0; i < f->pair_count; i++) items[i] = (kd__sort_item){ 0, (uint32_t)i, f->pairs[i].key };
    KD_TRY(sort_names(f, items, spare, f->pair_count));
    sort_places(f, items, spare);
    for (size_t i = 0; i < f->count; i++) f->by_place[i] = items[i].index;
    KD_TRY(check_places(f));
    for (size_t i = 0; i < f->count; i++) items[i] = (kd__sort_item){ 0, (uint32_t)i, f->entries[i].name };
    KD_TRY(sort_names(f, items, spare, f->count));
    for (size_t i = 0; i < f->count; i++) f->by_name[i] = items[i].index;
    return KD_OK;
}

static kd_status put_in_order(kd_safetensors *f)
{
    size_t most = KD_MAX(f->count, f->pair_count);
    f->by_place = kd__alloc_array(f->ctx, f->count, 2 * sizeof *f->by_place);
    if (!f->by_place) return KD_ERR_NOMEM;
    f->by_name = f->by_place + f->count;
    kd__sort_item *items = kd__alloc_array(f->ctx, most, 2 * sizeof *items);
    if (!items) return KD_ERR_NOMEM;
    kd_status status = fill_order(f, items, items + most);
    kd__free(f->ctx, items);
    return status;
}

/* ---- open, close ------------------------------------------------------------------------------------ */

static kd_status load(kd_safetensors *f, uint32_t flags)
{
    uint8_t head[64];
    size_t have = (size_t)KD_MIN(f->file.size, sizeof head);
    KD_TRY(kd__file_read(&f->file, head, have, 0));
    const char *foreign = kd__foreign_file(head, have);
    if (foreign) return kd__fail(KD_ERR_FORMAT, "%s: offset 0: this is %s", f->file.path, foreign);
    if (have < LENGTH_BYTES)
        return kd__fail(KD_ERR_TRUNCATED, "%s: %zu bytes: a safetensors file begins with 8 bytes of length",
                        f->file.path, have);
    uint64_t size = kd__le64(head);
    if (size > HEADER_LIMIT)
        return kd__fail(KD_ERR_LIMIT,
                        "%s: offset 0: a header of %llu bytes: the limit is 100000000 (is it a safetensors file?)",
                        f->file.path, (unsigned long long)size);
    if (size > f->file.size - LENGTH_BYTES)
        return kd__fail(KD_ERR_TRUNCATED, "%s: offset 0: a header of %llu bytes in a file of %llu", f->file.path,
                        (unsigned long long)size, (unsigned long long)f->file.size);
    if (size == 0) return bad(f, KD_ERR_FORMAT, 0, NULL, "the header is empty");
    f->data = LENGTH_BYTES + size;
    f->header = kd__alloc_raw(f->ctx, (size_t)size);
    if (!f->header) return KD_ERR_NOMEM;
    KD_TRY(kd__file_read(&f->file, f->header, (size_t)size, LENGTH_BYTES));
    KD_TRY(read_header(f, (size_t)size, flags));
    return put_in_order(f);
}

kd_status kd_safetensors_open(kd_safetensors **out, kd_context *ctx, const char *path, uint32_t flags)
{
    KD_NEED(out);
    *out = NULL;
    KD_NEED(path);
    if (flags & ~KD_SAFETENSORS_LENIENT)
        return kd__fail(KD_ERR_ARG, "kd_safetensors_open: flags 0x%x: unknown", flags);
    kd_safetensors *f = kd__alloc(ctx, sizeof *f);
    if (!f) return KD_ERR_NOMEM;
    f->ctx = kd__context_retain(ctx);
    kd_status status = kd__file_open(&f->file, path);
    if (status == KD_OK) status = load(f, flags);
    if (status != KD_OK) {
        kd_safetensors_close(f);
        return kd__fail_prefix(status, "kd_safetensors_open: ");
    }
    *out = f;
    return KD_OK;
}

void kd_safetensors_close(kd_safetensors *f)
{
    if (!f) return;
    kd_context *ctx = f->ctx;
    kd__file_close(&f->file);
    kd__free(ctx, f->header);
    kd__free(ctx, f->entries);
    kd__free(ctx, f->pairs);
    kd__free(ctx, f->by_place);
    kd__free(ctx, f);
    kd__context_release(ctx);
}

/* ---- looking ---------------------------------------------------------------------------------------- */

size_t kd_safetensors_count(const kd_safetensors *file) { return file ? file->count : 0; }

static const entry *entry_at(const kd_safetensors *file, size_t i) { return &file->entries[file->by_place[i]]; }

kd_status kd_safetensors_at(const kd_safetensors *file, size_t i, kd_safetensors_info *out)
{
    KD_NEED(file);
    KD_NEED(out);
    KD_TRY(kd__info_check(out, sizeof *out, "kd_safetensors_at: out"));
    if (i >= file->count)
        return kd__fail(KD_ERR_ARG, "kd_safetensors_at: i %zu: the file has %zu tensors", i, file->count);
    const entry *e = entry_at(file, i);
    kd_safetensors_info info = {
        .name = file->header + e->name,
        .dtype = kd__safetensors_dtypes[e->dtype].name,
        .rank = e->rank,
        .shape = e->shape,
        .offset = file->data + e->begin,
        .bytes = e->end - e->begin,
    };
    kd__info_write(out, &info, sizeof info);
    return KD_OK;
}

size_t kd_safetensors_find(const kd_safetensors *file, const char *name)
{
    if (!file || !name) return (size_t)-1;
    size_t low = 0, high = file->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const entry *e = &file->entries[file->by_name[middle]];
        int order = strcmp(name, file->header + e->name);
        if (order == 0) return e->place;
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return (size_t)-1;
}

const char *kd_safetensors_metadata(const kd_safetensors *file, const char *key)
{
    if (!file || !key) return NULL;
    for (size_t i = 0; i < file->pair_count; i++)
        if (strcmp(file->header + file->pairs[i].key, key) == 0) return file->header + file->pairs[i].value;
    return NULL;
}

/* ---- reading ---------------------------------------------------------------------------------------- */

static kd_status read_data(const kd_safetensors *file, const entry *e, kd_tensor *t)
{
    kd__file handle = file->file;   /* reading leaves it as it is */
    size_t bytes = (size_t)(e->end - e->begin), width = kd__safetensors_dtypes[e->dtype].bits / 8u;
    size_t count = kd_tensor_count(t);
    char *data = kd_tensor_data(t);
    bool half = width == 2;
    char *to = half ? data + bytes : data;   /* the upper half, widened downwards */
    KD_TRY(kd__file_read(&handle, to, bytes, file->data + e->begin));
    if (kd__host_is_big()) kd__swap_bytes(to, count, width);
    if (half)
        (strcmp(kd__safetensors_dtypes[e->dtype].name, "F16") == 0 ? kd__f16_widen : kd__bf16_widen)(
            (float *)(void *)data, (const uint16_t *)(void *)to, count);
    return KD_OK;
}

kd_status kd_safetensors_read(const kd_safetensors *file, size_t i, kd_tensor **out)
{
    KD_NEED(out);
    *out = NULL;
    KD_NEED(file);
    if (i >= file->count)
        return kd__fail(KD_ERR_ARG, "kd_safetensors_read: i %zu: the file has %zu tensors", i, file->count);
    const entry *e = entry_at(file, i);
    const kd__safetensors_dtype *dtype = &kd__safetensors_dtypes[e->dtype];
    kd__shown name = kd__show(file->header + e->name);
    if (!dtype->served)
        return kd__fail(KD_ERR_UNSUPPORTED, "kd_safetensors_read: %s: tensor \"%s\": dtype %s is not served",
                        file->file.path, name.text, dtype->name);
    kd_tensor *t;
    kd_status status = kd_tensor_create(&t, file->ctx, (kd_dtype)dtype->served, e->rank, e->shape);
    if (status == KD_OK && e->end > e->begin && (status = read_data(file, e, t)) != KD_OK) kd_tensor_free(t);
    if (status != KD_OK) return kd__fail_prefix(status, "kd_safetensors_read: tensor \"%s\": ", name.text);
    *out = t;
    return KD_OK;
}
