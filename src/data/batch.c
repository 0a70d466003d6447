/* batch.c - making one batch: which items, as floats, with their labels, mixed or not.  Everything is a function of
 * (seed, epoch, position), whoever makes it and when.
 * SPDX-License-Identifier: MIT */
#include "base/platform.h"
#include "data/data_internal.h"
#include <math.h>

static void find_order(kd_loader *loader, uint64_t epoch)
{
    if (loader->order_known && loader->order_epoch == epoch) return;
    size_t count = loader->data->count;
    for (size_t i = 0; i < count; i++) loader->order[i] = (uint32_t)i;
    if (loader->desc.shuffle) {
        kd_rng rng = kd_rng_split(&loader->order_rng, epoch);
        kd__rng_shuffle(&rng, loader->order, count);
    }
    loader->order_epoch = epoch;
    loader->order_known = true;
}

typedef struct rows_job {
    kd_loader *loader;
    kd__batch_slot  *slot;
    size_t     first;      /* place in the epoch of the batch's first item */
    kd_rng     rng;        /* of the epoch */
} rows_job;

static void convert_rows(size_t begin, size_t end, void *arg)
{
    const rows_job *job = arg;
    const kd_loader *loader = job->loader;
    size_t n = loader->convert.item_count;
    for (size_t r = begin; r < end; r++)
        kd__convert_item(&loader->convert, kd__dataset_item(loader->data, job->slot->indices[r]), job->slot->x + r * n,
                         kd_rng_split(&job->rng, job->first + r));
}

static void swap(float *a, float *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float t = a[i];
        a[i] = b[i];
        b[i] = t;
    }
}

/* CutMix of two rows: a box of 1 - lambda of the area around a pixel, cut at the edges.  They exchange what is in it, or, where
 * that is more than half, what is not; the result is the part of the image that stays. */
static double exchange(const kd__convert *how, float *a, float *b, kd_rng *rng, double lambda)
{
    const size_t size[2] = { how->height, how->width };
    size_t from[2], to[2], row = how->width * how->channels;
    for (int i = 0; i < 2; i++) {
        size_t cut = (size_t)((double)size[i] * sqrt(1 - lambda)), at = (size_t)kd_rng_below(rng, size[i]);
        from[i] = at > cut / 2 ? at - cut / 2 : 0;
        to[i] = KD_MIN(at + (cut + 1) / 2, size[i]);
    }
    double part = (double)((to[0] - from[0]) * (to[1] - from[1])) / ((double)size[0] * (double)size[1]);
    bool turned = part > 0.5;
    size_t left = from[1] * how->channels, right = to[1] * how->channels;
    for (size_t y = 0; y < how->height; y++, a += row, b += row) {
        bool inside = y >= from[0] && y < to[0];
        if (inside && !turned) swap(a + left, b + left, right - left);
        if (turned) {
            swap(a, b, inside ? left : row);
            if (inside) swap(a + right, b + right, row - right);
        }
    }
    return turned ? part : 1 - part;
}

/* Rows in random pairs; each pair (a, b) becomes (share a + (1 - share) b, share b + (1 - share) a), or exchanges 1 - share of
 * its pixels.  The share is folded to [1/2, 1], which swaps the two rows at most, so a row is mostly the item that kd_loader_indices
 * names; it is a multiple of 2^-24, so the two shares add up to one exactly.  Of an odd number of rows the last is not mixed. */
static void mix(kd_loader *loader, kd__batch_slot *slot, uint64_t epoch, size_t position)
{
    const kd_loader_desc *d = &loader->desc;
    kd_rng stream = kd_rng_split(&loader->mix_rng, epoch), rng = kd_rng_split(&stream, position), choice = kd_rng_split(&rng, 0);
    size_t n = loader->convert.item_count, classes = loader->classes;
    const int32_t *labels = loader->data->labels;
    float *y = slot->y, keep = 1 - d->label_smoothing, rest = d->label_smoothing / (float)classes;
    bool mixed = kd_rng_uniform(&choice) < d->mix_probability && (d->mixup_alpha > 0 || d->cutmix_alpha > 0);
    bool cut = kd_rng_uniform(&choice) < d->mix_switch ? d->cutmix_alpha > 0 : !(d->mixup_alpha > 0);
    double alpha = (double)(cut ? d->cutmix_alpha : d->mixup_alpha);
    for (size_t i = 0; i < slot->rows * classes; i++) y[i] = rest;
    for (size_t r = 0; r < slot->rows; r++) loader->pairs[r] = (uint32_t)r;
    kd__rng_shuffle(&rng, loader->pairs, slot->rows);
    for (size_t i = 0; i < slot->rows; i += 2) {
        size_t a = loader->pairs[i], b = i + 1 < slot->rows ? loader->pairs[i + 1] : a;
        float share = 1;
        if (a != b && mixed) {
            double s = kd__rng_beta(&rng, alpha);
            if (cut) s = exchange(&loader->convert, slot->x + a * n, slot->x + b * n, &rng, s);
            share = (float)(floor((s < 0.5 ? 1 - s : s) * 0x1p24) * 0x1p-24);
            if (!cut) loader->convert.kernels->mix_f32(slot->x + a * n, slot->x + b * n, n, share);
        }
        const size_t first = (size_t)labels[slot->indices[a]], second = (size_t)labels[slot->indices[b]];
        y[a * classes + first] += keep * share;
        y[a * classes + second] += keep * (1 - share);
        if (a == b) continue;
        y[b * classes + second] += keep * share;
        y[b * classes + first] += keep * (1 - share);
    }
}

/* Labels may have been changed since the loader was made. */
static kd_status check_labels(const kd_loader *loader, const kd__batch_slot *slot)
{
    for (size_t r = 0; r < slot->rows; r++) {
        int32_t label = loader->data->labels[slot->indices[r]];
        if (label < 0 || (size_t)label >= loader->classes)
            return kd__fail(KD_ERR_RANGE, "kd_loader_next: item %u has label %d, f32 labels need one of %zu classes",
                            slot->indices[r], label, loader->classes);
    }
    return KD_OK;
}

void kd__batch_make(kd_loader *loader, kd__batch_slot *slot, uint64_t epoch, size_t position, bool parallel)
{
    KD__FP_SCOPE;
    find_order(loader, epoch);
    rows_job job = { loader, slot, position * loader->desc.batch, kd_rng_split(&loader->augment_rng, epoch) };
    size_t n = loader->convert.item_count, labels = KD_MAX(loader->classes, 1);
    size_t batch = KD_MIN(loader->desc.batch, loader->data->count - job.first), before = 0;
    size_t first = kd__shard_first(&loader->desc, batch), rows = kd__shard_rows(&loader->desc, batch);
    if (loader->classes) {   /* a row's partner may be another shard's: make them all, hand out ours */
        before = first;
        slot->rows = batch;
    } else {
        job.first += first;
        slot->rows = rows;
    }
    for (size_t r = 0; r < slot->rows; r++) slot->indices[r] = loader->order[(job.first + r) / loader->desc.repeats];
    slot->handed = slot->indices + before;
    slot->tx.shape[0] = slot->ty.shape[0] = rows;
    slot->tx.data = slot->x + before * n;
    slot->tx.count = rows * n;
    slot->ty.data = (float *)slot->y + before * labels;
    slot->ty.count = rows * labels;
    slot->status = loader->classes ? check_labels(loader, slot) : KD_OK;
    if (slot->status != KD_OK) {
        memcpy(slot->text, kd_last_error(), strlen(kd_last_error()) + 1);
        return;
    }
    if (parallel) kd__parallel_range(loader->ctx, slot->rows, 8, convert_rows, &job);
    else convert_rows(0, slot->rows, &job);
    if (loader->classes) mix(loader, slot, epoch, position);
    else
        for (size_t r = 0; r < slot->rows; r++) ((int32_t *)slot->y)[r] = loader->data->labels[slot->indices[r]];
}
