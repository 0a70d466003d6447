/* packed.c - weights kept packed, as long as they stay the same.
 * SPDX-License-Identifier: MIT */
#include "tensor/tensor.h"

/* Data of another version is in nobody's use: weights are not written while a forward runs. */
const float *kd__packed_get(kd_context *ctx, kd__packed *packed, kd__packed_form form, size_t floats,
                            bool (*fill)(void *arg, float *out), void *arg)
{
    kd__monitor_lock(packed->lock);
    if (packed->form != form || packed->made_of != *packed->version || packed->floats != floats) {
        if (packed->floats != floats || !packed->data) {
            float *old = packed->data;
            packed->data = NULL;   /* first: a fork in between leaves the child nothing that is freed */
            kd__free(ctx, old);
            packed->data = floats > SIZE_MAX / sizeof(float) ? NULL : kd__alloc_raw(ctx, floats * sizeof(float));
        }
        packed->form = KD__PACKED_NOTHING;
        packed->floats = packed->data ? floats : 0;
        if (packed->data && fill(arg, packed->data)) {
            packed->form = form;
            packed->made_of = *packed->version;
        }
    }
    const float *data = packed->form == form ? packed->data : NULL;
    kd__monitor_unlock(packed->lock);
    return data;
}

typedef struct gemm_fill { kd_context *ctx; const kd__gemm_args *args; } gemm_fill;
static bool fill_panels(void *arg, float *out)
{
    const gemm_fill *f = arg;
    kd__gemm_pack(f->ctx, f->args, out);
    return true;
}

void kd__gemm_keep(kd_context *ctx, kd__gemm_args *g, kd__packed *packed)
{
    size_t floats;
    gemm_fill f = { kd__context(ctx), g };
    if (packed && kd__gemm_packed_floats(g, &floats))
        g->b_packed = kd__packed_get(f.ctx, packed, KD__PACKED_PANELS, floats, fill_panels, &f);
}

kd_status kd__gemm_kept(kd_context *ctx, const kd__gemm_args *args, kd__packed *packed)
{
    kd__gemm_args g = *args;
    kd__gemm_keep(ctx, &g, packed);
    return kd__gemm(ctx, &g);
}
