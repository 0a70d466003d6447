/* cifar.c - the CIFAR binary format: records of one or two label bytes and three planes of 32 x 32.
 * SPDX-License-Identifier: MIT */
#include "data/data_internal.h"
#include "io/io_internal.h"

enum { SIDE = 32, PLANE = SIDE * SIDE, PIXELS = 3 * PLANE, AT_ONCE = 64 };

typedef struct variant {
    size_t  label_bytes, label_at;
    int32_t classes;
} variant;

static const variant variants[] = {
    [KD_CIFAR_10] = { 1, 0, 10 },
    [KD_CIFAR_100_FINE] = { 2, 1, 100 },
    [KD_CIFAR_100_COARSE] = { 2, 0, 20 },
};

static kd_status count_records(kd__file *file, const variant *v, size_t *count)
{
    uint64_t record = v->label_bytes + PIXELS, whole = file->size / record, rest = file->size % record;
    uint8_t head[32];
    size_t have = (size_t)KD_MIN(file->size, sizeof head);
    KD_TRY(kd__file_read(file, head, have, 0));
    const char *foreign = kd__foreign_file(head, have);   /* none of them begins like a label */
    if (foreign) return kd__fail(KD_ERR_FORMAT, "kd_dataset_open_cifar: %s: this is %s", file->path, foreign);
    if (rest || !whole)
        return kd__fail(KD_ERR_TRUNCATED, "kd_dataset_open_cifar: %s: ends %llu bytes into record %llu of %llu bytes, at byte "
                        "%llu",
                        file->path, (unsigned long long)rest, (unsigned long long)whole, (unsigned long long)record,
                        (unsigned long long)file->size);
    if (whole > UINT32_MAX || !kd__add(*count, (size_t)whole, count))
        return kd__fail(KD_ERR_LIMIT, "kd_dataset_open_cifar: %s: %llu records are too many", file->path,
                        (unsigned long long)whole);
    return KD_OK;
}

static kd_status read_records(kd__file *file, const variant *v, uint8_t *buffer, uint8_t *images, int32_t *labels)
{
    size_t record = v->label_bytes + PIXELS, count = (size_t)(file->size / record);
    for (size_t done = 0, n; done < count; done += n) {
        n = KD_MIN(count - done, (size_t)AT_ONCE);
        KD_TRY(kd__file_read(file, buffer, n * record, (uint64_t)done * record));
        for (size_t r = 0; r < n; r++) {
            const uint8_t *in = buffer + r * record;
            int32_t label = in[v->label_at];
            if (label >= v->classes)
                return kd__fail(KD_ERR_RANGE, "kd_dataset_open_cifar: %s: record %zu has label %d, of %d classes (byte %llu)",
                                file->path, done + r, label, v->classes,
                                (unsigned long long)(done + r) * record + v->label_at);
            labels[done + r] = label;
            in += v->label_bytes;
            uint8_t *out = images + (done + r) * PIXELS;
            for (size_t i = 0; i < PLANE; i++, out += 3) {
                out[0] = in[i];
                out[1] = in[i + PLANE];
                out[2] = in[i + 2 * PLANE];
            }
        }
    }
    return KD_OK;
}

kd_status kd_dataset_open_cifar(kd_dataset **out, kd_context *ctx, const char *const *paths, size_t count, uint32_t which)
{
    KD_NEED(out);
    *out = NULL;
    KD_NEED(paths);
    if (!count) return kd__fail(KD_ERR_ARG, "%s: count: no file", __func__);
    if (which < KD_CIFAR_10 || which > KD_CIFAR_100_COARSE)
        return kd__fail(KD_ERR_ARG, "%s: variant: %u is no KD_CIFAR_*", __func__, which);
    const variant *v = &variants[which];
    ctx = kd__context(ctx);

    size_t total = 0, bytes;
    for (size_t i = 0; i < count; i++) {
        if (!paths[i]) return kd__fail(KD_ERR_ARG, "%s: paths: number %zu is NULL", __func__, i);
        kd__file file;
        KD_TRY(kd__file_open(&file, paths[i]));
        kd_status status = count_records(&file, v, &total);
        kd__file_close(&file);
        KD_TRY(status);
    }
    if (!kd__mul(total, PIXELS, &bytes))
        return kd__fail(KD_ERR_OVERFLOW, "%s: %zu records do not fit in memory", __func__, total);
    uint8_t *images = kd__alloc_raw(ctx, bytes);
    if (!images) return KD_ERR_NOMEM;
    kd_dataset *data;
    KD_TRY(kd__dataset_new(&data, ctx, __func__, KD_U8, total, 3, (const size_t[]){ SIDE, SIDE, 3 }, images, NULL, images));

    uint8_t *buffer = kd__alloc_raw(ctx, AT_ONCE * (2 + PIXELS));
    kd_status status = buffer ? KD_OK : KD_ERR_NOMEM;
    for (size_t i = 0, done = 0; i < count && status == KD_OK; i++) {
        kd__file file;
        status = kd__file_open(&file, paths[i]);
        if (status != KD_OK) break;
        size_t records = (size_t)(file.size / (v->label_bytes + PIXELS));
        if (records > total - done || (i + 1 == count && records != total - done))
            status = kd__fail(KD_ERR_IO, "%s: %s: changed while it was read", __func__, paths[i]);
        else status = read_records(&file, v, buffer, images + done * PIXELS, data->labels + done);
        kd__file_close(&file);
        done += records;
    }
    kd__free(ctx, buffer);
    if (status == KD_OK) *out = data;
    else kd_dataset_free(data);
    return status;
}
