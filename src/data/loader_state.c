/* loader_state.c - a loader's place for a checkpoint, and what must be the same for it to mean the same batches.
 *
 *   u64 version, epoch, batches of it handed out; then u64 each: items, batch, seed, shuffle, drop_last, shift,
 *   crop_padding, flip; f64 mixup_alpha; with version 2 f64 each: what is in `later`.  Version 1 is written where those are all
 *   as kd_loader_desc_init makes them, and means that.
 * SPDX-License-Identifier: MIT */
#include "base/state.h"
#include "data/data_internal.h"

enum { VERSION = 2, SAME = 8, LATER = 13, BYTES = (3 + SAME + 1) * 8, ALL_BYTES = BYTES + LATER * 8 };

static const char *const names[SAME + LATER] = { "items", "batch", "seed", "shuffle", "drop_last", "shift", "crop_padding",
    "flip", "cutmix_alpha", "mix_switch", "mix_probability", "label_smoothing", "erase_probability", "erase_zeros", "randaugment_ops",
    "randaugment_magnitude", "randaugment_noise", "repeats", "crop_area", "height", "width" };

static void collect(const kd_loader *loader, uint64_t same[SAME])
{
    const kd_loader_desc *d = &loader->desc;
    const uint64_t values[SAME] = { loader->data->count, d->batch, d->seed, d->shuffle != 0, d->drop_last != 0, d->shift,
                                    d->crop_padding, d->flip != 0 };
    memcpy(same, values, sizeof values);
}

/* What has come since version 1. */
static void collect_later(const kd_loader_desc *d, double later[LATER])
{
    const double values[LATER] = { (double)d->cutmix_alpha, (double)d->mix_switch, (double)d->mix_probability,
        (double)d->label_smoothing, (double)d->erase_probability, d->erase_zeros != 0, d->randaugment_ops,
        (double)d->randaugment_magnitude, (double)d->randaugment_noise, d->repeats, (double)d->crop_area, d->height, d->width };
    memcpy(later, values, sizeof values);
}

static void collect_defaults(double later[LATER])
{
    kd_loader_desc d;
    kd_loader_desc_init(&d, sizeof d);
    collect_later(&d, later);
}

static bool is_plain(const kd_loader *loader, double here[LATER])
{
    double plain[LATER];
    collect_defaults(plain);
    collect_later(&loader->desc, here);
    return memcmp(here, plain, sizeof plain) == 0;
}

size_t kd__loader_state_size(const kd_loader *loader)
{
    double later[LATER];
    return is_plain(loader, later) ? BYTES : ALL_BYTES;
}

void kd__loader_state_write(const kd_loader *loader, void *out)
{
    uint8_t *at = out;
    uint64_t same[SAME];
    double later[LATER];
    bool plain = is_plain(loader, later);
    collect(loader, same);
    kd__state_put_u64(&at, plain ? 1 : VERSION);
    kd__state_put_u64(&at, loader->epoch);
    kd__state_put_u64(&at, loader->position);
    for (size_t i = 0; i < SAME; i++) kd__state_put_u64(&at, same[i]);
    kd__state_put_f64(&at, (double)loader->desc.mixup_alpha);
    for (size_t i = 0; i < LATER && !plain; i++) kd__state_put_f64(&at, later[i]);
}

kd_status kd__loader_state_check(kd_loader *loader, const void *in, size_t bytes)
{
    const uint8_t *at = in;
    uint64_t version = bytes < 8 ? 1 : kd__state_get_u64(&at);
    if (version > VERSION)
        return kd__fail(KD_ERR_VERSION, "loader state: version %llu, this libkd reads %d", (unsigned long long)version, VERSION);
    if (!version) return kd__fail(KD_ERR_FORMAT, "loader state: version 0");
    size_t wanted = version == 1 ? BYTES : ALL_BYTES;
    if (bytes != wanted)
        return kd__fail(bytes < wanted ? KD_ERR_TRUNCATED : KD_ERR_FORMAT, "loader state: %zu bytes, %zu wanted", bytes, wanted);
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
    double there[LATER], mine[LATER];
    collect_defaults(there);
    collect_later(&loader->desc, mine);
    for (size_t i = 0; i < LATER; i++) {
        if (version > 1) there[i] = kd__state_get_f64(&at);
        if (!(there[i] == mine[i]))
            return kd__fail(KD_ERR_SHAPE, "loader state: %s: %g in the state, %g here", names[SAME + i], there[i], mine[i]);
    }
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
