/* loader_state.c - a loader's place for a checkpoint, and what must be the same for it to mean the same batches.
 *
 *   u64 version (1), epoch, batches of it handed out; then u64 each: items, batch, seed, shuffle, drop_last, shift,
 *   crop_padding, flip; f64 mixup_alpha
 * SPDX-License-Identifier: MIT */
#include "base/state.h"
#include "data/data_internal.h"

enum { VERSION = 1, SAME = 8, BYTES = (3 + SAME + 1) * 8 };

static void collect(const kd_loader *loader, uint64_t same[SAME])
{
    const kd_loader_desc *d = &loader->desc;
    const uint64_t values[SAME] = { loader->data->count, d->batch, d->seed, d->shuffle != 0, d->drop_last != 0, d->shift,
                                    d->crop_padding, d->flip != 0 };
    memcpy(same, values, sizeof values);
}

size_t kd__loader_state_size(const kd_loader *loader)
{
    (void)loader;
    return BYTES;
}

void kd__loader_state_write(const kd_loader *loader, void *out)
{
    uint8_t *at = out;
    uint64_t same[SAME];
    collect(loader, same);
    kd__state_put_u64(&at, VERSION);
    kd__state_put_u64(&at, loader->epoch);
    kd__state_put_u64(&at, loader->position);
    for (size_t i = 0; i < SAME; i++) kd__state_put_u64(&at, same[i]);
    kd__state_put_f64(&at, (double)loader->desc.mixup_alpha);
}

kd_status kd__loader_state_check(kd_loader *loader, const void *in, size_t bytes)
{
    static const char *const names[SAME] = { "items", "batch", "seed", "shuffle", "drop_last", "shift", "crop_padding", "flip" };
    const uint8_t *at = in;
    if (bytes != BYTES)
        return kd__fail(bytes < BYTES ? KD_ERR_TRUNCATED : KD_ERR_FORMAT, "loader state: %zu bytes, %d wanted", bytes, BYTES);
    uint64_t version = kd__state_get_u64(&at);
    if (version > VERSION)
        return kd__fail(KD_ERR_VERSION, "loader state: version %llu, this libkd reads %d", (unsigned long long)version, VERSION);
    if (version != VERSION) return kd__fail(KD_ERR_FORMAT, "loader state: version 0");
    kd__state_get_u64(&at);
    uint64_t position = kd__state_get_u64(&at), here[SAME];
    collect(loader, here);
    for (size_t i = 0; i < SAME; i++) {
        uint64_t there = kd__state_get_u64(&at);
        if (there != here[i])
            return kd__fail(KD_ERR_SHAPE, "loader state: %s: %llu in the state, %llu here", names[i], (unsigned long long)there,
                            (unsigned long long)here[i]);
    }
    double alpha = kd__state_get_f64(&at);
    if (alpha != (double)loader->desc.mixup_alpha)
        return kd__fail(KD_ERR_SHAPE, "loader state: mixup_alpha: %g in the state, %g here", alpha,
                        (double)loader->desc.mixup_alpha);
    if (position > loader->batches)
        return kd__fail(KD_ERR_FORMAT, "loader state: batch %llu of an epoch of %zu", (unsigned long long)position,
                        loader->batches);
    return KD_OK;
}

void kd__loader_state_read(kd_loader *loader, const void *in)
{
    const uint8_t *at = (const uint8_t *)in + 8;
    uint64_t epoch = kd__state_get_u64(&at);
    kd__loader_seek(loader, epoch, (size_t)kd__state_get_u64(&at));
}
