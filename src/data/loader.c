/* loader.c - batches in order, made ahead on a thread of their own.
 *
 * The slots are a ring.  The thread makes batches in order and counts them (`made`); the caller takes them in order and
 * counts those it is done with (`released`); both counts live under the monitor, everything else belongs to one side.
 * The thread starts with the first batch and lives until the loader goes or is set to another place.  A forked child does
 * not have it and starts its own, from where the caller was.
 * SPDX-License-Identifier: MIT */
#include "base/platform.h"
#include "data/data_internal.h"
#include <math.h>

static const kd_loader_desc defaults = { .struct_size = sizeof(kd_loader_desc), .batch = 64, .shuffle = 1, .ahead = 2,
                                        .shard_count = 1, .mix_switch = 0.5f, .mix_probability = 1, .randaugment_magnitude = 9,
                                        .randaugment_noise = 0.5f, .repeats = 1 };
enum { MAX_AHEAD = 8, MAX_OPS = 16 };

void kd_loader_desc_init(kd_loader_desc *desc, size_t struct_size)
{
    kd__desc_write(desc, struct_size, &defaults, sizeof defaults);
}

/* ---- making one -------------------------------------------------------------------------------------------- */

/* A field that is a finite number of [0, most]. */
static kd_status check_number(const char *name, float value, float most)
{
    if (value >= 0 && value <= most && isfinite(value)) return KD_OK;
    if (isfinite(most))
        return kd__fail(KD_ERR_ARG, "kd_loader_create: %s: %g is not in [0, %g]", name, (double)value, (double)most);
    return kd__fail(KD_ERR_ARG, "kd_loader_create: %s: %g is not a finite number >= 0", name, (double)value);
}

static kd_status check_desc(const kd_loader_desc *d, const kd_dataset *data)
{
    const char *f = "kd_loader_create";
    if (!d->batch) return kd__fail(KD_ERR_ARG, "%s: batch: 0", f);
    if (d->drop_last && data->count && data->count < d->batch)
        return kd__fail(KD_ERR_ARG, "%s: drop_last: %zu items are less than one batch of %zu", f, data->count, d->batch);
    if (!isfinite(d->scale)) return kd__fail(KD_ERR_ARG, "%s: scale: %g is not finite", f, (double)d->scale);
    KD_TRY(check_number("mixup_alpha", d->mixup_alpha, INFINITY));
    KD_TRY(check_number("cutmix_alpha", d->cutmix_alpha, INFINITY));
    KD_TRY(check_number("mix_switch", d->mix_switch, 1));
    KD_TRY(check_number("mix_probability", d->mix_probability, 1));
    KD_TRY(check_number("label_smoothing", d->label_smoothing, 1));
    KD_TRY(check_number("erase_probability", d->erase_probability, 1));
    KD_TRY(check_number("crop_area", d->crop_area, 1));
    KD_TRY(check_number("randaugment_magnitude", d->randaugment_magnitude, 10));
    KD_TRY(check_number("randaugment_noise", d->randaugment_noise, INFINITY));
    if (d->randaugment_ops > MAX_OPS)
        return kd__fail(KD_ERR_ARG, "%s: randaugment_ops: %u, at most %d", f, d->randaugment_ops, MAX_OPS);
    if (!d->repeats || (d->repeats > 1 && !d->shuffle))
        return kd__fail(KD_ERR_ARG, "%s: repeats: %u%s", f, d->repeats,
                        d->repeats ? " without shuffle: most items would never come" : "");
    if (d->ahead > MAX_AHEAD) return kd__fail(KD_ERR_ARG, "%s: ahead: %u, at most %d", f, d->ahead, MAX_AHEAD);
    if (!d->shard_count) return kd__fail(KD_ERR_ARG, "%s: shard_count: 0", f);
    if (d->shard_index >= d->shard_count)
        return kd__fail(KD_ERR_ARG, "%s: shard_index: %u, of %u shards", f, d->shard_index, d->shard_count);
    return KD_OK;
}

/* The labels that the descriptor's classes promise. */
static kd_status check_labels(const kd_loader *loader)
{
    const kd_dataset *data = loader->data;
    bool all = loader->classes;
    size_t classes = loader->desc.classes;
    for (size_t i = 0; classes && i < data->count; i++)
        if ((data->labels[i] < 0 && all) || (data->labels[i] >= 0 && (size_t)data->labels[i] >= classes))
            return kd__fail(KD_ERR_RANGE, "kd_loader_create: item %zu has label %d, of %zu classes%s", i, data->labels[i],
                            classes, all ? " (f32 labels need one of every item)" : "");
    return KD_OK;
}

/* Where items are images, and what is done to them: height, width, channels. */
static kd_status set_image(kd__convert *how, const kd_loader_desc *d, const kd_dataset *data)
{
    const bool pixels = d->randaugment_ops || d->crop_area > 0;
    if (!d->shift && !d->crop_padding && !d->flip && !pixels && !(d->erase_probability > 0) && !(d->cutmix_alpha > 0) && !d->height &&
        !d->width) return KD_OK;
    if (data->rank != 2 && data->rank != 3)
        return kd__fail(KD_ERR_ARG, "kd_loader_create: shift, crop_padding, flip, erase_probability, randaugment_ops, "
                        "crop_area, cutmix_alpha, height and width need items [height, width, channels], not %S", data->rank, data->shape);
    if (pixels && (data->dtype != KD_U8 || data->rank != 3 || data->shape[2] != 3))
        return kd__fail(data->dtype != KD_U8 ? KD_ERR_DTYPE : KD_ERR_ARG, "kd_loader_create: %s: items u8 "
                        "[height, width, 3] wanted, not %s %S", d->randaugment_ops ? "randaugment_ops" : "crop_area",
                        kd_dtype_name(data->dtype), data->rank, data->shape);
    how->item_height = data->shape[0];
    how->item_width = data->shape[1];
    how->height = d->height ? d->height : how->item_height;
    how->width = d->width ? d->width : how->item_width;
    how->channels = data->rank == 3 ? data->shape[2] : 1;
    if (d->crop_area > 0 ? how->height < how->item_height - how->item_height / 2
                         : how->height > how->item_height || how->width > how->item_width)
        return kd__fail(KD_ERR_SHAPE, "kd_loader_create: height, width: %zu x %zu %s %S", how->height, how->width,
                        d->crop_area > 0 ? "is less than half as high as the items" : "is not inside the items", data->rank, data->shape);
    if (!kd__mul(how->height, how->width, &how->item_count) || !kd__mul(how->item_count, how->channels, &how->item_count))
        return kd__fail(KD_ERR_OVERFLOW, "kd_loader_create: height, width: %zu x %zu", how->height, how->width);
    size_t least = KD_MIN(how->height, how->width);
    if (how->height > PTRDIFF_MAX / 4 || how->width > PTRDIFF_MAX / 4 || d->shift >= least || d->crop_padding >= least)
        return kd__fail(KD_ERR_ARG, "kd_loader_create: %s: %u moves the whole item %S away",
                        d->shift >= least ? "shift" : "crop_padding", d->shift >= least ? d->shift : d->crop_padding, data->rank,
                        data->shape);
    how->shift = d->shift;
    how->crop = d->crop_padding;
    how->flip = d->flip;
    how->crop_area = d->crop_area;
    how->ops = d->randaugment_ops;
    how->magnitude = d->randaugment_magnitude;
    how->noise = d->randaugment_noise;
    how->erase = d->erase_probability;
    how->erase_zeros = d->erase_zeros;
    return KD_OK;
}

static size_t gcd(size_t a, size_t b)
{
    while (b) {
        size_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* scale and offset: (in * s - mean) / std = in * (s / std) + (-mean / std), worked out in double. */
static kd_status set_norm(kd__convert *how, kd_context *ctx, const kd_loader_desc *d, const kd_dataset *data)
{
    size_t last = data->rank ? data->shape[data->rank - 1] : 1, n = d->mean || d->std ? d->channels : 1;
    size_t pixel = how->height ? how->channels : last;
    if (n != 1 && n != pixel)
        return kd__fail(KD_ERR_ARG, "kd_loader_create: channels: %zu numbers of mean and std, for items %S with %zu", d->channels,
                        data->rank, data->shape, pixel);
    if (!kd__mul(n / gcd(n, 16), 16, &how->period))
        return kd__fail(KD_ERR_OVERFLOW, "kd_loader_create: channels: %zu", n);
    how->scale = kd__alloc_array(ctx, how->period, sizeof(float));
    how->offset = kd__alloc_array(ctx, how->period, sizeof(float));
    if (!how->scale || !how->offset) return KD_ERR_NOMEM;
    double scale = d->scale != 0 ? (double)d->scale : data->dtype == KD_U8 ? 1.0 / 255 : 1;
    for (size_t i = 0; i < how->period; i++) {
        size_t c = i % n;
        double mean = d->mean ? (double)d->mean[c] : 0, std = d->std ? (double)d->std[c] : 1;
        if (!isfinite(mean)) return kd__fail(KD_ERR_ARG, "kd_loader_create: mean: number %zu is %g", c, mean);
        if (!(std > 0 && isfinite(std))) return kd__fail(KD_ERR_ARG, "kd_loader_create: std: number %zu is %g", c, std);
        how->scale[i] = (float)(scale / std);
        how->offset[i] = mean != 0 ? (float)(-mean / std) : 0;
        double fill = d->mean ? floor(mean / scale + 0.5) : 128;
        if (i < 3) how->fill[i] = fill <= 0 ? 0 : fill >= 255 ? 255 : (uint8_t)fill;
    }
    return KD_OK;
}

static kd_status make_slot(kd_loader *loader, kd__batch_slot *slot)
{
    const kd_dataset *data = loader->data;
    size_t shape[KD_MAX_RANK] = { loader->rows }, floats, classes = KD_MAX(loader->classes, 1), labels;
    for (size_t i = 0; i < data->rank; i++) shape[i + 1] = data->shape[i];
    if (loader->convert.height) shape[1] = loader->convert.height, shape[2] = loader->convert.width;
    if (!kd__mul(loader->rows, loader->convert.item_count, &floats) || !kd__mul(loader->rows, classes, &labels))
        return kd__fail(KD_ERR_OVERFLOW, "kd_loader_create: batch: %zu items %S do not fit in memory", loader->rows, data->rank,
                        data->shape);
    slot->x = kd__alloc_array(loader->ctx, floats, sizeof(float));
    slot->y = kd__alloc_array(loader->ctx, labels, sizeof(float));
    slot->indices = kd__alloc_array(loader->ctx, loader->rows, sizeof *slot->indices);
    if (!slot->x || !slot->y || !slot->indices) return KD_ERR_NOMEM;
    KD_TRY(kd__tensor_init(&slot->tx, "kd_loader_create", KD_F32, data->rank + 1, shape, slot->x));
    shape[1] = classes;
    KD_TRY(kd__tensor_init(&slot->ty, "kd_loader_create", loader->classes ? KD_F32 : KD_I32, loader->classes ? 2 : 1, shape,
                           slot->y));
    slot->tx.ctx = slot->ty.ctx = loader->ctx;   /* which the loader holds */
    return KD_OK;
}

static kd_status set_up(kd_loader *loader)
{
    const kd_dataset *data = loader->data;
    kd_loader_desc *d = &loader->desc;
    KD_TRY(check_desc(d, data));
    if (d->mixup_alpha > 0 || d->cutmix_alpha > 0 || d->label_smoothing > 0) {
        if (!d->classes) d->classes = (uint32_t)kd_dataset_classes(data);
        if (!d->classes && data->count)
            return kd__fail(KD_ERR_ARG, "kd_loader_create: mixup_alpha, cutmix_alpha, label_smoothing: the items have no labels");
        loader->classes = KD_MAX(d->classes, 1);
    }
    KD_TRY(check_labels(loader));
    loader->convert.kernels = loader->ctx->kernels;
    loader->convert.dtype = data->dtype;
    loader->convert.item_count = data->item_count;
    KD_TRY(set_image(&loader->convert, d, data));
    KD_TRY(set_norm(&loader->convert, loader->ctx, d, data));
    d->mean = d->std = NULL;

    loader->batches = data->count / d->batch + (!d->drop_last && data->count % d->batch);
    loader->rows = KD_MIN(d->batch, data->count);
    if (!loader->classes) loader->rows = kd__shard_rows(d, loader->rows);   /* rows are paired over the whole batch */
    kd_rng root = kd_rng_make(d->seed);
    loader->order_rng = kd_rng_split(&root, 1);
    loader->augment_rng = kd_rng_split(&root, 2);
    loader->mix_rng = kd_rng_split(&root, 3);
    loader->order = kd__alloc_array(loader->ctx, data->count, sizeof *loader->order);
    loader->pairs = kd__alloc_array(loader->ctx, loader->rows, sizeof *loader->pairs);
    loader->slots = kd__alloc_array(loader->ctx, d->ahead + 1, sizeof *loader->slots);
    if (!loader->order || !loader->pairs || !loader->slots) return KD_ERR_NOMEM;
    loader->serial = !d->ahead;
    for (loader->slot_count = 0; loader->slot_count <= d->ahead; loader->slot_count++)
        KD_TRY(make_slot(loader, &loader->slots[loader->slot_count]));
    return KD_OK;
}

kd_status kd_loader_create(kd_loader **out, kd_context *ctx, const kd_dataset *data, const kd_loader_desc *desc)
{
    KD__FP_SCOPE;
    KD_NEED(out);
    *out = NULL;
    KD_NEED(data);
    kd_loader_desc own = defaults;
    KD_TRY(kd__desc_read(&own, sizeof own, desc, "kd_loader_desc"));
    kd_loader *loader = kd__alloc(ctx, sizeof *loader);
    if (!loader) return KD_ERR_NOMEM;
    loader->ctx = kd__context_retain(ctx);
    loader->data = data;
    loader->desc = own;
    kd_status status = set_up(loader);
    if (status == KD_OK) *out = loader;
    else kd_loader_free(loader);
    return status;
}

/* ---- the thread --------------------------------------------------------------------------------------------- */

static void run_ahead(void *arg)
{
    kd_loader *loader = arg;
    uint64_t epoch = loader->first_epoch, number = 0;
    size_t position = loader->first_position;
    for (;;) {
        kd__monitor_lock(loader->monitor);
        while (!loader->stop && number - loader->released >= loader->slot_count) kd__monitor_wait(loader->monitor);
        bool stop = loader->stop;
        kd__monitor_unlock(loader->monitor);
        if (stop) return;
        if (position == loader->batches) {
            epoch++;
            position = 0;
        }
        kd__batch_make(loader, &loader->slots[number % loader->slot_count], epoch, position++, false);
        kd__monitor_lock(loader->monitor);
        loader->made = ++number;
        kd__monitor_signal(loader->monitor);
        kd__monitor_unlock(loader->monitor);
    }
}

/* End it, or forget it if it was the parent process's. */
static void drop_thread(kd_loader *loader)
{
    if (loader->thread && loader->generation == kd__fork_generation()) {
        kd__monitor_lock(loader->monitor);
        loader->stop = true;
        kd__monitor_signal(loader->monitor);
        kd__monitor_unlock(loader->monitor);
    }
    kd__thread_join(loader->thread);
    kd__monitor_free(loader->monitor);
    loader->thread = NULL;
    loader->monitor = NULL;
}

/* A ring that begins at the caller's place, and a thread to fill it; without one, batches are made by the caller. */
static void start_thread(kd_loader *loader)
{
    loader->first_epoch = loader->epoch;
    loader->first_position = loader->position;
    loader->taken = loader->made = loader->released = 0;
    loader->stop = loader->order_known = false;
    loader->generation = kd__fork_generation();
    if (kd__monitor_create(loader->ctx, &loader->monitor) == KD_OK &&
        kd__thread_start(loader->ctx, &loader->thread, run_ahead, loader) == KD_OK)
        return;
    drop_thread(loader);
    loader->serial = true;
    kd__log(loader->ctx, KD_LOG_WARN, "the loader works without a thread of its own: %s", kd_last_error());
}

static kd__batch_slot *take(kd_loader *loader)
{
    if (loader->thread && loader->generation != kd__fork_generation()) drop_thread(loader);
    if (!loader->serial && !loader->thread) start_thread(loader);
    if (loader->serial) {
        kd__batch_make(loader, &loader->slots[0], loader->epoch, loader->position, true);
        return &loader->slots[0];
    }
    kd__monitor_lock(loader->monitor);
    loader->released = loader->taken;
    kd__monitor_signal(loader->monitor);
    while (loader->made == loader->taken) kd__monitor_wait(loader->monitor);
    kd__monitor_unlock(loader->monitor);
    return &loader->slots[loader->taken++ % loader->slot_count];
}

/* ---- the caller ------------------------------------------------------------------------------------------------ */

kd_status kd_loader_next(kd_loader *loader, kd_tensor **x, kd_tensor **y)
{
    KD_NEED(x);
    KD_NEED(y);
    *x = *y = NULL;
    KD_NEED(loader);
    loader->held = NULL;
    if (kd_context_cancelled(loader->ctx)) return kd__fail(KD_ERR_CANCELLED, "%s: cancelled", __func__);
    if (loader->position == loader->batches) {
        loader->position = 0;
        loader->epoch++;
        return KD_END;
    }
    uint64_t since = kd__nanoseconds();
    kd__batch_slot *slot = take(loader);
    loader->waited += kd__nanoseconds() - since;
    loader->position++;
    if (slot->status != KD_OK) return kd__fail(slot->status, "%s", slot->text);
    loader->held = slot;
    *x = &slot->tx;
    *y = &slot->ty;
    return KD_OK;
}

const uint32_t *kd_loader_indices(const kd_loader *loader) { return loader && loader->held ? loader->held->handed : NULL; }

uint64_t kd_loader_epoch(const kd_loader *loader) { return loader ? loader->epoch : 0; }

size_t kd_loader_batches(const kd_loader *loader) { return loader ? loader->batches : 0; }

uint64_t kd_loader_waited(const kd_loader *loader) { return loader ? loader->waited : 0; }

void kd__loader_seek(kd_loader *loader, uint64_t epoch, size_t position)
{
    drop_thread(loader);
    loader->epoch = epoch;
    loader->position = position;
    loader->held = NULL;
}

void kd_loader_free(kd_loader *loader)
{
    if (!loader) return;
    drop_thread(loader);
    kd_context *ctx = loader->ctx;
    for (size_t i = 0; loader->slots && i <= loader->desc.ahead; i++) {
        kd__free(ctx, loader->slots[i].x);
        kd__free(ctx, loader->slots[i].y);
        kd__free(ctx, loader->slots[i].indices);
    }
    kd__free(ctx, loader->slots);
    kd__free(ctx, loader->order);
    kd__free(ctx, loader->pairs);
    kd__free(ctx, loader->convert.scale);
    kd__free(ctx, loader->convert.offset);
    kd__free(ctx, loader);
    kd__context_release(ctx);
}
