/* dataset_files.c - data sets from IDX and CSV files.
 * SPDX-License-Identifier: MIT */
#include "data/data_internal.h"
#include "kd/io.h"
#include <math.h>

/* ---- IDX ------------------------------------------------------------------------------------------------ */

static kd_status check_images(const kd_tensor *images, const char *path)
{
    if (images->dtype != KD_U8 && images->dtype != KD_F32)
        return kd__fail(KD_ERR_DTYPE, "kd_dataset_open_idx: %s: items are u8 or f32, not %s", path, kd_dtype_name(images->dtype));
    if (images->rank < 2 || images->rank > 4)
        return kd__fail(KD_ERR_SHAPE, "kd_dataset_open_idx: %s: %S has %u axes, 2 to 4 are items", path, (size_t)images->rank,
                        images->shape, images->rank);
    return KD_OK;
}

static kd_status read_labels(kd_dataset *data, const char *path)
{
    kd_tensor *labels;
    kd_status status = kd_idx_load(&labels, data->ctx, path);
    if (status != KD_OK) return kd__fail_prefix(status, "kd_dataset_open_idx: ");
    if (labels->dtype != KD_U8)
        status = kd__fail(KD_ERR_DTYPE, "kd_dataset_open_idx: %s: labels are u8, not %s", path, kd_dtype_name(labels->dtype));
    else if (labels->rank != 1 || labels->count != data->count)
        status = kd__fail(KD_ERR_SHAPE, "kd_dataset_open_idx: %s: labels %S for %zu items", path, (size_t)labels->rank,
                          labels->shape, data->count);
    else
        for (size_t i = 0; i < data->count; i++) data->labels[i] = ((const uint8_t *)labels->data)[i];
    kd_tensor_free(labels);
    return status;
}

kd_status kd_dataset_open_idx(kd_dataset **out, kd_context *ctx, const char *images, const char *labels)
{
    KD_NEED(out);
    *out = NULL;
    KD_NEED(images);
    kd_tensor *tensor;
    kd_status status = kd_idx_load(&tensor, ctx, images);
    if (status != KD_OK) return kd__fail_prefix(status, "%s: ", __func__);
    status = check_images(tensor, images);
    if (status != KD_OK) {
        kd_tensor_free(tensor);
        return status;
    }
    size_t shape[3] = { 0, 0, 1 }, rank = tensor->rank == 3 ? 3 : (size_t)tensor->rank - 1;
    for (size_t i = 1; i < tensor->rank; i++) shape[i - 1] = tensor->shape[i];
    KD_TRY(kd__dataset_new(out, ctx, __func__, tensor->dtype, tensor->shape[0], rank, shape, tensor->data, tensor, NULL));
    if (labels && (status = read_labels(*out, labels)) != KD_OK) {
        kd_dataset_free(*out);
        *out = NULL;
    }
    return status;
}

/* ---- CSV ------------------------------------------------------------------------------------------------- */

static const kd_csv_desc csv_defaults = { .struct_size = sizeof(kd_csv_desc), .label_column = -1, .separator = ',' };

void kd_csv_desc_init(kd_csv_desc *desc, size_t struct_size)
{
    kd__desc_write(desc, struct_size, &csv_defaults, sizeof csv_defaults);
}

/* Take column `at` out of the rows: the rest moves up in place. */
static kd_status split_labels(float *rows, size_t count, size_t columns, size_t at, int32_t *labels, const char *path)
{
    float *to = rows;
    for (size_t r = 0; r < count; r++) {
        const float *row = rows + r * columns;
        float label = row[at];
        if (!(label >= -1 && label < 2147483648.0f && truncf(label) == label))
            return kd__fail(KD_ERR_FORMAT,
                            "kd_dataset_open_csv: %s: row %zu of the data, column %zu: %g is no class label (an integer "
                            "from 0, or -1 for none)",
                            path, r + 1, at + 1, (double)label);
        labels[r] = (int32_t)label;
        for (size_t c = 0; c < columns; c++)
            if (c != at) *to++ = row[c];
    }
    return KD_OK;
}

kd_status kd_dataset_open_csv(kd_dataset **out, kd_context *ctx, const char *path, const kd_csv_desc *desc)
{
    KD_NEED(out);
    *out = NULL;
    KD_NEED(path);
    kd_csv_desc d = csv_defaults;
    KD_TRY(kd__desc_read(&d, sizeof d, desc, "kd_csv_desc"));
    bool labelled = d.label_column != KD_CSV_NO_LABEL;
    if (labelled && d.label_column < -1)
        return kd__fail(KD_ERR_ARG, "%s: label_column: %lld: a column from 0, -1 for the last, or KD_CSV_NO_LABEL", __func__,
                        (long long)d.label_column);
    kd_tensor *tensor;
    kd_status status = kd_csv_load(&tensor, ctx, path, d.separator, d.skip_lines);
    if (status != KD_OK) return kd__fail_prefix(status, "%s: ", __func__);
    size_t columns = tensor->shape[1], at = d.label_column < 0 ? columns - 1 : (size_t)d.label_column,
           features = columns - labelled;
    if (labelled && at >= columns)
        status = kd__fail(KD_ERR_ARG, "%s: label_column: %lld, of %zu columns in %s", __func__, (long long)d.label_column,
                          columns, path);
    else if (!features) status = kd__fail(KD_ERR_SHAPE, "%s: %s: a column of labels and no other", __func__, path);
    if (status != KD_OK) {
        kd_tensor_free(tensor);
        return status;
    }
    KD_TRY(kd__dataset_new(out, ctx, __func__, KD_F32, tensor->shape[0], 1, &features, tensor->data, tensor, NULL));
    if (labelled && (status = split_labels(tensor->data, (*out)->count, columns, at, (*out)->labels, path)) != KD_OK) {
        kd_dataset_free(*out);
        *out = NULL;
    }
    return status;
}
