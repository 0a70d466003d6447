/* images.c - where images come from: CIFAR records.
 * SPDX-License-Identifier: MIT */
#include "vision.h"
#include <stdio.h>
#include <string.h>

/* Means and deviations of the training images, as the literature rounds them. */
static const struct { const char *kind; float mean[3], std[3]; } known[] = {
    { "cifar10", { .4914f, .4822f, .4465f }, { .2470f, .2435f, .2616f } },
    { "cifar100", { .5071f, .4867f, .4408f }, { .2675f, .2565f, .2761f } },
};
enum { KNOWN = sizeof known / sizeof *known };

static kd_status open_cifar(images *d, const char *path, int hundred)
{
    static const char *const ten[] = { "data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin" };
    char names[6][TEXT];
    const char *files[6];
    size_t count = hundred ? 1 : 5;
    for (size_t i = 0; i < count; i++) snprintf(names[i], TEXT, "%s/%s", path, hundred ? "train.bin" : ten[i]), files[i] = names[i];
    snprintf(names[5], TEXT, "%s/%s", path, hundred ? "test.bin" : "test_batch.bin"), files[5] = names[5];
    uint32_t variant = hundred ? KD_CIFAR_100_FINE : KD_CIFAR_10;
    kd_status st = kd_dataset_open_cifar(&d->train, NULL, files, count, variant);
    if (st == KD_OK) st = kd_dataset_open_cifar(&d->test, NULL, files + 5, 1, variant);
    d->classes = hundred ? 100 : 10;
    return st;
}

kd_status images_open(images *d, const char *spec)
{
    const char *path = strchr(spec, ':');
    size_t n = path ? (size_t)(path - spec) : 0, at = 0;
    memset(d, 0, sizeof *d);
    if (!path || !path[1]) return complain(KD_ERR_ARG, "--data \"%s\" is not KIND:PATH (cifar10, cifar100)", spec);
    while (at < KNOWN && (strlen(known[at].kind) != n || strncmp(spec, known[at].kind, n))) at++;
    if (at == KNOWN) return complain(KD_ERR_ARG, "--data \"%s\": \"%.*s\" is none of cifar10, cifar100", spec, (int)n, spec);
    kd_status st = open_cifar(d, path + 1, at == 1);
    if (st != KD_OK) {
        images_close(d);
        return st;
    }
    d->height = kd_dataset_item_size(d->train, 0), d->width = kd_dataset_item_size(d->train, 1);
    memcpy(d->mean, known[at].mean, sizeof d->mean);
    memcpy(d->std, known[at].std, sizeof d->std);
    return KD_OK;
}

void images_close(images *d)
{
    kd_dataset_free(d->train);
    kd_dataset_free(d->test);
    d->train = d->test = NULL;
}

static void common(kd_loader_desc *how, const images *d)
{
    kd_loader_desc_init(how, sizeof *how);
    how->mean = d->mean, how->std = d->std, how->channels = 3;
}

kd_status images_train(kd_loader **out, kd_context *ctx, const images *d, const recipe *r, uint64_t seed)
{
    kd_loader_desc how;
    common(&how, d);
    how.batch = (size_t)r->batch;
    how.seed = seed;
    how.drop_last = kd_dataset_count(d->train) >= how.batch;
    how.crop_padding = (uint32_t)r->crop_padding;
    how.flip = r->flip != 0;
    how.mixup_alpha = (float)r->mixup;
    how.cutmix_alpha = (float)r->cutmix;
    how.mix_switch = (float)r->mix_switch;
    how.mix_probability = (float)r->mix_probability;
    how.erase_probability = (float)r->erase_probability;
    how.erase_zeros = r->erase_zeros != 0;
    how.randaugment_ops = (uint32_t)r->randaugment_ops;
    how.randaugment_magnitude = (float)r->randaugment_magnitude;
    how.randaugment_noise = (float)r->randaugment_noise;
    how.repeats = (uint32_t)r->repeats;   /* label_smoothing is the loss's: classes stay i32 where nothing is mixed */
    how.classes = (uint32_t)d->classes;
    return kd_loader_create(out, ctx, d->train, &how);
}

kd_status images_test(kd_loader **out, kd_context *ctx, const images *d)
{
    kd_loader_desc how;
    common(&how, d);
    how.batch = 100;
    how.shuffle = 0;
    return kd_loader_create(out, ctx, d->test, &how);
}
