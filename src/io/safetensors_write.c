/* safetensors_write.c - writing: the bytes that the format's own writer would give.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"
#include "tensor/tensor.h"

enum { HEADER_LIMIT = 100000000 };

typedef struct job {
    kd_context             *ctx;
    const char *const      *names;
    const kd_tensor *const *tensors;
    size_t                  count;
    const char *const      *metadata;
    size_t                  pairs;
    kd__sort_item          *order;
} job;

static const char *tensor_name(const void *arg, const kd__sort_item *item)
{
    return ((const job *)arg)->names[item->index];
}

static const char *pair_name(const void *arg, const kd__sort_item *item)
{
    return ((const job *)arg)->metadata[2 * (size_t)item->index];
}

/* Place in the format's list of dtypes. */
static size_t dtype_rank(kd_dtype dtype)
{
    static const char names[][4] = {
        [KD_F32] = "F32", [KD_F64] = "F64", [KD_I32] = "I32", [KD_I64] = "I64", [KD_U8] = "U8"
    };
    size_t i = 0;
    while (strcmp(kd__safetensors_dtypes[i].name, names[dtype]) != 0) i++;
    return i;
}

static kd_status check(const job *w)
{
    for (size_t i = 0; i < 2 * w->pairs; i++) {
        if (!w->metadata[i]) return kd__fail(KD_ERR_ARG, "kd_safetensors_save: metadata[%zu] is NULL", i);
        if (!kd__utf8_valid(w->metadata[i], strlen(w->metadata[i])))
            return kd__fail(KD_ERR_ARG, "kd_safetensors_save: metadata[%zu] is not valid UTF-8", i);
    }
    for (size_t i = 0; i < w->count; i++) {
        if (!w->names[i]) return kd__fail(KD_ERR_ARG, "kd_safetensors_save: names[%zu] is NULL", i);
        if (!kd__utf8_valid(w->names[i], strlen(w->names[i])))
            return kd__fail(KD_ERR_ARG, "kd_safetensors_save: names[%zu] is not valid UTF-8", i);
        if (strcmp(w->names[i], "__metadata__") == 0)
            return kd__fail(KD_ERR_ARG, "kd_safetensors_save: names[%zu]: \"__metadata__\" is the format's own", i);
        KD_TRY(kd__tensor_check(w->tensors[i], "kd_safetensors_save", w->names[i]));
    }
    return KD_OK;
}

static kd_status no_duplicates(const job *w, size_t count, kd__sort_item *spare, kd__name_fn name, const char *what)
{
    const kd__sort_item *twice;
    for (size_t i = 0; i < count; i++) w->order[i].index = (uint32_t)i;
    KD_TRY(kd__sort_names(w->ctx, w->order, spare, count, name, w, &twice));
    if (!twice) return KD_OK;
    return kd__fail(KD_ERR_ARG, "kd_safetensors_save: %s: \"%s\" is there twice", what,
                    kd__show(name(w, twice)).text);
}

/* By dtype, widest alignment first, then by name. */
static kd_status put_in_order(job *w, kd__sort_item *spare)
{
    KD_TRY(no_duplicates(w, w->pairs, spare, pair_name, "metadata"));
    KD_TRY(no_duplicates(w, w->count, spare, tensor_name, "names"));
    for (size_t i = 0; i < w->count; i++)
        w->order[i].key = KD_COUNT(kd__safetensors_dtypes) - dtype_rank(w->tensors[w->order[i].index]->dtype);
    kd__sort_items(w->order, spare, w->count);
    return KD_OK;
}

static kd_status build_header(const job *w, kd__text *h)
{
    uint64_t at = 0;
    kd__text_put(h, "{", 1);
    if (w->pairs) {
        kd__text_string(h, "\"__metadata__\":{");
        for (size_t i = 0; i < w->pairs; i++) {
            if (i) kd__text_put(h, ",", 1);
            kd__text_json(h, w->metadata[2 * i]);
            kd__text_put(h, ":", 1);
            kd__text_json(h, w->metadata[2 * i + 1]);
        }
        kd__text_string(h, w->count ? "}," : "}");
    }
    for (size_t i = 0; i < w->count; i++) {
        const kd_tensor *t = w->tensors[w->order[i].index];
        uint64_t end;
        if (__builtin_add_overflow(at, (uint64_t)t->count * kd_dtype_size(t->dtype), &end))
            return kd__fail(KD_ERR_OVERFLOW, "kd_safetensors_save: the file would be larger than 2^64 bytes");
        if (i) kd__text_put(h, ",", 1);
        kd__text_json(h, w->names[w->order[i].index]);
        kd__text_string(h, ":{\"dtype\":\"");
        kd__text_string(h, kd__safetensors_dtypes[dtype_rank(t->dtype)].name);
        kd__text_string(h, "\",\"shape\":[");
        for (size_t axis = 0; axis < t->rank; axis++) {
            if (axis) kd__text_put(h, ",", 1);
            kd__text_u64(h, t->shape[axis]);
        }
        kd__text_string(h, "],\"data_offsets\":[");
        kd__text_u64(h, at);
        kd__text_put(h, ",", 1);
        kd__text_u64(h, end);
        kd__text_string(h, "]}");
        at = end;
    }
    kd__text_put(h, "}", 1);
    kd__text_put(h, "       ", (8 - h->size % 8) % 8);
    if (h->failed) return KD_ERR_NOMEM;
    if (h->size > HEADER_LIMIT)
        return kd__fail(KD_ERR_LIMIT, "kd_safetensors_save: a header of %zu bytes: the limit is 100000000", h->size);
    return KD_OK;
}

static kd_status put_tensor(kd__writer *writer, const job *w, const kd_tensor *t)
{
    size_t width = kd_dtype_size(t->dtype);
    if (!t->count) return KD_OK;
    if (kd__tensor_contiguous(t)) return kd__writer_put_le(writer, t->data, t->count, width);
    void *copy = kd__scratch_get(w->ctx, t->count * width);
    if (!copy) return KD_ERR_NOMEM;
    kd__tensor_gather(t, copy);
    kd_status status = kd__writer_put_le(writer, copy, t->count, width);
    kd__scratch_put(w->ctx, copy);
    return status;
}

static kd_status write_file(const job *w, const char *path, const kd__text *header)
{
    kd__writer writer;
    uint8_t length[8];
    kd__put_le64(length, header->size);
    KD_TRY(kd__writer_open(&writer, w->ctx, path));
    kd_status status = kd__writer_put(&writer, length, sizeof length);
    if (status == KD_OK) status = kd__writer_put(&writer, header->data, header->size);
    for (size_t i = 0; status == KD_OK && i < w->count; i++)
        status = put_tensor(&writer, w, w->tensors[w->order[i].index]);
    if (status == KD_OK) status = kd__writer_commit(&writer);
    kd__writer_abort(&writer);
    return status;
}

kd_status kd_safetensors_save(kd_context *ctx, const char *path, const char *const *names,
                              const kd_tensor *const *tensors, size_t count, const char *const *metadata,
                              size_t metadata_count)
{
    KD_NEED(path);
    if (count) {
        KD_NEED(names);
        KD_NEED(tensors);
    }
    if (metadata_count) KD_NEED(metadata);
    if (metadata_count % 2)
        return kd__fail(KD_ERR_ARG, "kd_safetensors_save: metadata_count %zu: keys and values come in pairs",
                        metadata_count);
    if (KD_MAX(count, metadata_count) >= UINT32_MAX)
        return kd__fail(KD_ERR_LIMIT, "kd_safetensors_save: count %zu: beyond the limit of 2^32",
                        KD_MAX(count, metadata_count));
    job w = { kd__context(ctx), names, tensors, count, metadata, metadata_count / 2, NULL };
    KD_TRY(check(&w));
    size_t most = KD_MAX(w.count, w.pairs);
    w.order = kd__alloc_array(w.ctx, most, 2 * sizeof *w.order);
    if (!w.order) return KD_ERR_NOMEM;
    kd__text header = { .ctx = w.ctx };
    kd_status status = put_in_order(&w, w.order + most);
    if (status == KD_OK) status = build_header(&w, &header);
    if (status == KD_OK) {
        status = write_file(&w, path, &header);
        if (status != KD_OK) kd__fail_prefix(status, "kd_safetensors_save: ");
    }
    kd__free(w.ctx, header.data);
    kd__free(w.ctx, w.order);
    return status;
}
