/* bench_loader.c - the loader's batches in images a second, without and with what the CIFAR protocol and DeiT do to them.
 * SPDX-License-Identifier: MIT
 *
 * On the caller's threads (`ahead` 0): what a batch costs.  Ahead, one thread makes them beside the steps. */
#include "bench.h"
#include <stdio.h>
#include <stdlib.h>

typedef struct loading { const char *name; size_t items, side, batch; bool deit; uint32_t padding; } loading;

static const loading list[] = {
    { "32x32, crop, flip", 2048, 32, 128, false, 4 }, { "32x32, DeiT", 2048, 32, 128, true, 4 },
    { "224x224, crop, flip", 64, 224, 32, false, 28 }, { "224x224, DeiT", 64, 224, 32, true, 28 },
};

static void next(void *arg)
{
    kd_tensor *x, *y;
    kd_status st = kd_loader_next(arg, &x, &y);
    if (st == KD_END) st = kd_loader_next(arg, &x, &y);
    BENCH_NEED(st);
}

/* Seconds of a batch. */
static double loader_seconds(const loading *l, uint32_t threads)
{
    static const float mean[] = { 0.5f, 0.45f, 0.4f }, std[] = { 0.25f, 0.25f, 0.25f };
    const size_t shape[] = { l->side, l->side, 3 }, bytes = l->side * l->side * 3;
    uint8_t *items = malloc(l->items * bytes);
    int32_t *labels = calloc(l->items, sizeof *labels);
    kd_context *ctx;
    kd_context_desc how;
    kd_dataset *data;
    kd_loader *loader;
    kd_loader_desc d;
    kd_rng rng = kd_rng_make(1);
    if (!items || !labels) bench_die("no memory");
    for (size_t i = 0; i < l->items * bytes; i++) items[i] = (uint8_t)(128 * (i / 96 % 2) + kd_rng_below(&rng, 128));
    kd_context_desc_init(&how, sizeof how);
    how.threads = threads;
    BENCH_NEED(kd_context_create(&ctx, &how));
    BENCH_NEED(kd_dataset_wrap(&data, ctx, KD_U8, l->items, 3, shape, items, labels));
    kd_loader_desc_init(&d, sizeof d);
    d.batch = l->batch;
    d.ahead = 0;
    d.crop_padding = l->padding;
    d.flip = 1;
    d.mean = mean, d.std = std, d.channels = 3;
    if (l->deit) {
        d.mixup_alpha = 0.8f, d.cutmix_alpha = 1;
        d.classes = 100;
        d.erase_probability = 0.25f;
        d.randaugment_ops = 2;
        d.repeats = 3;
    }
    BENCH_NEED(kd_loader_create(&loader, ctx, data, &d));
    const double t = bench_median(next, loader, 0.4, 5);
    kd_loader_free(loader);
    kd_dataset_free(data);
    kd_context_free(ctx);
    free(items);
    free(labels);
    return t;
}

void bench_show_loader(void)
{
    printf("\n%-44s %7s  images/s   2 threads  scaling\n", "batches of the loader", "ms");
    for (size_t i = 0; i < KD_COUNT(list); i++) {
        const loading *l = &list[i];
        const double one = loader_seconds(l, 1), two = loader_seconds(l, 2), n = (double)l->batch;
        printf("  %-38s %10.3f %9.0f %11.0f %7.2fx\n", l->name, one * 1e3, n / one, n / two, one / two);
    }
}
