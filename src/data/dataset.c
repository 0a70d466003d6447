/* dataset.c - items and their labels: over the caller's memory, and subsets.
 * SPDX-License-Identifier: MIT */
#include "data/data_internal.h"

static void release_items(kd_context *ctx, kd__items *items)
{
    if (!items || atomic_fetch_sub_explicit(&items->references, 1, memory_order_acq_rel) != 1) return;
    kd_tensor_free(items->tensor);
    kd__free(ctx, items->memory);
    kd__names_free(&items->classes);
    kd__free(ctx, items);
}

/* Shape, size of an item, memory for the labels. */
static kd_status set_up(kd_dataset *data, const char *function, size_t rank, const size_t *shape)
{
    size_t total;
    if (rank > KD_MAX_RANK - 1) return kd__fail(KD_ERR_LIMIT, "%s: item_rank: %zu, at most %d", function, rank, KD_MAX_RANK - 1);
    if (rank && !shape) return kd__fail(KD_ERR_ARG, "%s: item_shape is NULL", function);
    if (data->count > UINT32_MAX) return kd__fail(KD_ERR_LIMIT, "%s: count: %zu items, at most 2^32 - 1", function, data->count);
    data->rank = rank;
    for (size_t i = 0; i < rank; i++) data->shape[i] = shape[i];
    if (!kd__shape_count(rank, shape, &data->item_count) ||
        !kd__mul(data->item_count, kd_dtype_size(data->dtype), &data->item_bytes) ||
        !kd__mul(data->item_bytes, data->count, &total))
        return kd__fail(KD_ERR_OVERFLOW, "%s: %zu items %S do not fit in memory", function, data->count, rank, shape);
    if (!data->item_count) return kd__fail(KD_ERR_SHAPE, "%s: item_shape %S: an item has no elements", function, rank, shape);
    data->labels = kd__alloc_array(data->ctx, data->count, sizeof *data->labels);
    if (!data->labels) return KD_ERR_NOMEM;
    for (size_t i = 0; i < data->count; i++) data->labels[i] = -1;
    return KD_OK;
}

kd_status kd__dataset_new(kd_dataset **out, kd_context *ctx, const char *function, kd_dtype dtype, size_t count, size_t rank,
                          const size_t *shape, const void *bytes, kd_tensor *tensor, void *memory)
{
    *out = NULL;
    kd_dataset *data = kd__alloc(ctx, sizeof *data);
    kd__items *items = kd__alloc(ctx, sizeof *items);
    if (!data || !items) {
        kd__free(ctx, data);
        kd__free(ctx, items);
        kd_tensor_free(tensor);
        kd__free(ctx, memory);
        return KD_ERR_NOMEM;
    }
    items->references = 1;
    items->tensor = tensor;
    items->memory = memory;
    data->ctx = kd__context_retain(ctx);
    data->items = items;
    data->data = bytes;
    data->dtype = dtype;
    data->count = count;
    kd_status status = set_up(data, function, rank, shape);
    if (status == KD_OK) *out = data;
    else kd_dataset_free(data);
    return status;
}

kd_status kd_dataset_wrap(kd_dataset **out, kd_context *ctx, kd_dtype dtype, size_t count, size_t item_rank,
                          const size_t *item_shape, const void *items, const int32_t *labels)
{
    KD_NEED(out);
    *out = NULL;
    if (dtype != KD_U8 && dtype != KD_F32)
        return kd__fail(KD_ERR_DTYPE, "%s: dtype: items are u8 or f32, not %s", __func__, kd_dtype_name(dtype));
    if (count && !items) return kd__fail(KD_ERR_ARG, "%s: items is NULL", __func__);
    if ((uintptr_t)items % kd_dtype_size(dtype))
        return kd__fail(KD_ERR_ARG, "%s: items: f32 at an address that is no multiple of 4", __func__);
    KD_TRY(kd__dataset_new(out, ctx, __func__, dtype, count, item_rank, item_shape, items, NULL, NULL));
    if (labels && count) memcpy((*out)->labels, labels, count * sizeof *labels);
    return KD_OK;
}

kd_status kd_dataset_subset(kd_dataset **out, const kd_dataset *from, const uint32_t *indices, size_t count)
{
    KD_NEED(out);
    *out = NULL;
    KD_NEED(from);
    if (count && !indices) return kd__fail(KD_ERR_ARG, "%s: indices is NULL", __func__);
    for (size_t i = 0; i < count; i++)
        if (indices[i] >= from->count)
            return kd__fail(KD_ERR_RANGE, "%s: indices: number %zu is %u, of %zu items", __func__, i, indices[i], from->count);
    kd_context *ctx = from->ctx;
    kd_dataset *data = kd__alloc(ctx, sizeof *data);
    if (!data) return KD_ERR_NOMEM;
    *data = *from;
    data->count = count;
    kd__context_retain(ctx);
    atomic_fetch_add_explicit(&from->items->references, 1, memory_order_relaxed);
    data->labels = kd__alloc_array(ctx, count, sizeof *data->labels);
    data->index = kd__alloc_array(ctx, count, sizeof *data->index);
    if (!data->labels || !data->index) {
        kd_dataset_free(data);
        return KD_ERR_NOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        data->labels[i] = from->labels[indices[i]];
        data->index[i] = from->index ? from->index[indices[i]] : indices[i];
    }
    *out = data;
    return KD_OK;
}

void kd_dataset_free(kd_dataset *data)
{
    if (!data) return;
    kd_context *ctx = data->ctx;
    release_items(ctx, data->items);
    kd__free(ctx, data->labels);
    kd__free(ctx, data->index);
    kd__free(ctx, data);
    kd__context_release(ctx);
}

size_t kd_dataset_count(const kd_dataset *data) { return data ? data->count : 0; }
size_t kd_dataset_item_rank(const kd_dataset *data) { return data ? data->rank : 0; }
size_t kd_dataset_item_size(const kd_dataset *data, size_t axis) { return data && axis < data->rank ? data->shape[axis] : 0; }
kd_dtype kd_dataset_dtype(const kd_dataset *data) { return data ? data->dtype : (kd_dtype)0; }
int32_t *kd_dataset_labels(kd_dataset *data) { return data ? data->labels : NULL; }

const void *kd_dataset_item(const kd_dataset *data, size_t index)
{
    if (data && index < data->count) return kd__dataset_item(data, index);
    if (data) kd__fail(KD_ERR_RANGE, "%s: index: %zu, of %zu items", __func__, index, data->count);
    else kd__fail(KD_ERR_ARG, "%s: data is NULL", __func__);
    return NULL;
}

size_t kd_dataset_classes(const kd_dataset *data)
{
    int32_t largest = -1;
    for (size_t i = 0; data && i < data->count; i++) largest = KD_MAX(largest, data->labels[i]);
    return (size_t)((int64_t)largest + 1);
}

const char *kd_dataset_class_name(const kd_dataset *data, size_t index)
{
    return data && index < data->items->classes.count ? data->items->classes.at[index] : NULL;
}
