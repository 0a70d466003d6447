/* checkpoint_model.c - a model in a checkpoint.
 *
 *   u64 entries: parameters in model order, then buffers
 *   of each: u64 kind (KD_PARAM_*), length of the name, rank, sizes; the name
 *   of each: its f32 elements, in the model's layout
 * SPDX-License-Identifier: MIT */
#include "io/checkpoint.h"
#include "base/state.h"

enum { ENTRY_BYTES = 3 * 8 };

static void get(const kd_model *model, size_t i, kd_param_info *p)
{
    *p = (kd_param_info){ .struct_size = sizeof *p };
    (void)!kd_model_parameter_at(model, i, p);   /* i is below the count: it cannot fail */
}

static size_t entry_bytes(const kd_param_info *p)
{
    return ENTRY_BYTES + 8 * kd_tensor_rank(p->tensor) + strlen(p->name);
}

size_t kd__model_state_size(const kd_model *model)
{
    size_t bytes = 8, count = kd_model_parameter_count(model);
    for (size_t i = 0; i < count; i++) {
        kd_param_info p;
        get(model, i, &p);
        bytes += entry_bytes(&p) + kd_tensor_count(p.tensor) * sizeof(float);
    }
    return bytes;
}

void kd__model_state_write(const kd_model *model, void *out)
{
    uint8_t *at = out;
    size_t count = kd_model_parameter_count(model);
    kd_param_info p;
    kd__state_put_u64(&at, count);
    for (size_t i = 0; i < count; i++) {
        get(model, i, &p);
        size_t rank = kd_tensor_rank(p.tensor), n = strlen(p.name);
        kd__state_put_u64(&at, p.kind);
        kd__state_put_u64(&at, n);
        kd__state_put_u64(&at, rank);
        for (size_t axis = 0; axis < rank; axis++) kd__state_put_u64(&at, kd_tensor_size(p.tensor, axis));
        memcpy(at, p.name, n);
        at += n;
    }
    for (size_t i = 0; i < count; i++) {
        get(model, i, &p);
        kd__state_put_f32(&at, kd_tensor_f32(p.tensor), kd_tensor_count(p.tensor));
    }
}

/* Compare the directory's entry at *at with a parameter, and pass over it. */
static kd_status check_entry(const uint8_t **at, const uint8_t *end, const kd_param_info *p)
{
    size_t left = (size_t)(end - *at), shape[KD_MAX_RANK], want[KD_MAX_RANK], want_rank = kd_tensor_rank(p->tensor);
    if (left < ENTRY_BYTES) return kd__fail(KD_ERR_FORMAT, "the directory of parameters is cut short");
    uint64_t kind = kd__state_get_u64(at), n = kd__state_get_u64(at), rank = kd__state_get_u64(at);
    left -= ENTRY_BYTES;
    if (rank > KD_MAX_RANK || n > left || 8 * rank > left - n)
        return kd__fail(KD_ERR_FORMAT, "the directory of parameters is broken");
    for (size_t axis = 0; axis < rank; axis++) shape[axis] = (size_t)kd__state_get_u64(at);
    char name[128] = "";
    memcpy(name, *at, KD_MIN((size_t)n, sizeof name - 1));
    bool same_name = n == strlen(p->name) && memcmp(*at, p->name, (size_t)n) == 0;
    *at += n;
    if (!same_name)
        return kd__fail(KD_ERR_SHAPE, "the file has a parameter \"%s\" where the model has \"%s\"",
                        kd__show(name).text, kd__show(p->name).text);
    bool same_shape = rank == want_rank;
    for (size_t axis = 0; axis < want_rank; axis++) {
        want[axis] = kd_tensor_size(p->tensor, axis);
        same_shape = same_shape && shape[axis] == want[axis];
    }
    if (!same_shape)
        return kd__fail(KD_ERR_SHAPE, "parameter \"%s\" is %S in the file, %S in the model", kd__show(name).text,
                        (size_t)rank, shape, want_rank, want);
    if (kind != p->kind)
        return kd__fail(KD_ERR_SHAPE, "parameter \"%s\" is of kind %llu in the file, %u in the model",
                        kd__show(name).text, (unsigned long long)kind, p->kind);
    return KD_OK;
}

kd_status kd__model_state_check(kd_model *model, const void *in, size_t bytes)
{
    const uint8_t *at = in, *end = at + bytes;
    size_t count = kd_model_parameter_count(model);
    kd_param_info p;
    if (bytes < 8) return kd__fail(KD_ERR_FORMAT, "the directory of parameters is cut short");
    uint64_t stored = kd__state_get_u64(&at);
    for (size_t i = 0; i < count && i < stored; i++) {
        get(model, i, &p);
        KD_TRY(check_entry(&at, end, &p));
    }
    if (stored < count) {
        get(model, (size_t)stored, &p);
        return kd__fail(KD_ERR_SHAPE, "the file has %llu parameters, the model %zu: \"%s\" is not in the file",
                        (unsigned long long)stored, count, kd__show(p.name).text);
    }
    if (stored > count)
        return kd__fail(KD_ERR_SHAPE, "the file has %llu parameters, the model %zu", (unsigned long long)stored,
                        count);
    if (bytes != kd__model_state_size(model))
        return kd__fail(KD_ERR_FORMAT, "%zu bytes where %zu are wanted", bytes, kd__model_state_size(model));
    return KD_OK;
}

void kd__model_state_read(kd_model *model, const void *in)
{
    const uint8_t *at = (const uint8_t *)in + 8;
    size_t count = kd_model_parameter_count(model);
    kd_param_info p;
    for (size_t i = 0; i < count; i++) {
        get(model, i, &p);
        at += entry_bytes(&p);
    }
    for (size_t i = 0; i < count; i++) {
        get(model, i, &p);
        kd__state_get_f32(&at, kd_tensor_f32(p.tensor), kd_tensor_count(p.tensor));
    }
    kd_model_touch(model);
}
