/* images.c - where images come from: CIFAR records, folders.
 * SPDX-License-Identifier: MIT */
#include "vision.h"
#include "pictures.h"
#include "../support/report.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Means and deviations of the training images, as the literature rounds them. */
static const struct { const char *kind; float mean[3], std[3]; } known[] = {
    { "cifar10", { .4914f, .4822f, .4465f }, { .2470f, .2435f, .2616f } },
    { "cifar100", { .5071f, .4867f, .4408f }, { .2675f, .2565f, .2761f } },
};
enum { KNOWN = sizeof known / sizeof *known };

static void measure(images *d)
{
    double sum[3] = { 0 }, square[3] = { 0 };
    size_t pixels = kd_dataset_item_size(d->train, 0) * kd_dataset_item_size(d->train, 1), count = kd_dataset_count(d->train);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *p = kd_dataset_item(d->train, i);
        uint64_t s[3] = { 0 }, q[3] = { 0 };
        for (size_t k = 0; k < pixels; k++)
            for (size_t c = 0; c < 3; c++) s[c] += p[3 * k + c], q[c] += (uint64_t)p[3 * k + c] * p[3 * k + c];
        for (size_t c = 0; c < 3; c++) sum[c] += (double)s[c], square[c] += (double)q[c];
    }
    for (size_t c = 0; c < 3; c++) {
        double n = (double)(count * pixels), mean = sum[c] / n, variance = square[c] / n - mean * mean;
        d->mean[c] = (float)(mean / 255);
        d->std[c] = (float)(sqrt(variance > 1 ? variance : 1) / 255);
    }
}

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

/* The same classes in the same order, since a label is a place among the folders. */
static kd_status same_classes(const images *d, const char *path, const char *second)
{
    for (size_t i = 0;; i++) {
        const char *train = kd_dataset_class_name(d->train, i), *test = kd_dataset_class_name(d->test, i);
        if (!train && !test) return KD_OK;
        int order = !train ? 1 : !test ? -1 : strcmp(train, test);
        if (order < 0) return complain(KD_ERR_FORMAT, "%s: the class \"%s\" is in train but not in %s", path, train, second);
        if (order > 0) return complain(KD_ERR_FORMAT, "%s: the class \"%s\" is in %s but not in train", path, test, second);
    }
}

static kd_status open_folder(images *d, const char *path, size_t side)
{
    char train[TEXT], test[TEXT];
    const char *second = "test";
    kd_folder_desc how;
    kd_status st;
    if (snprintf(train, TEXT, "%s/train", path) >= TEXT || snprintf(test, TEXT, "%s/test", path) >= TEXT)
        return complain(KD_ERR_LIMIT, "--data: a path of more than %d bytes", TEXT - 8);
    if (file_bytes(test) < 0) {
        snprintf(test, TEXT, "%s/val", path);
        second = "val";
        if (file_bytes(test) < 0) return complain(KD_ERR_IO, "%s: there is neither test nor val in it", path);
    }
    kd_folder_desc_init(&how, sizeof how);
    how.height = how.width = side;
    how.decode = pictures_decode;
    TRY(kd_dataset_open_folder(&d->train, NULL, train, &how));
    TRY(kd_dataset_open_folder(&d->test, NULL, test, &how));
    TRY(same_classes(d, path, second));
    for (size_t a = 0; a < 2; a++)
        if (kd_dataset_item_size(d->train, a) != kd_dataset_item_size(d->test, a))
            TRY(complain(KD_ERR_SHAPE, "%s: images of %zu x %zu in train, of %zu x %zu in %s", path,
                         kd_dataset_item_size(d->train, 0), kd_dataset_item_size(d->train, 1), kd_dataset_item_size(d->test, 0),
                         kd_dataset_item_size(d->test, 1), second));
    d->classes = kd_dataset_classes(d->train);
done:
    if (st == KD_ERR_SHAPE && !side) {
        snprintf(test, TEXT, "%s", complaint());
        (void)complain(st, "%s; --side N makes all of them N x N", test);
    }
    return st;
}

kd_status images_open(images *d, const char *spec, size_t side, size_t keep)
{
    const char *path = strchr(spec, ':');
    kd_status st;
    memset(d, 0, sizeof *d);
    if (!path || !path[1]) return complain(KD_ERR_ARG, "--data \"%s\" is not KIND:PATH (cifar10, cifar100, folder)", spec);
    size_t n = (size_t)(path++ - spec), at = 0;
    while (at < KNOWN && (strlen(known[at].kind) != n || strncmp(spec, known[at].kind, n))) at++;
    if (at == KNOWN && (n != 6 || strncmp(spec, "folder", n)))
        return complain(KD_ERR_ARG, "--data \"%s\": \"%.*s\" is none of cifar10, cifar100, folder", spec, (int)n, spec);
    if (at < KNOWN && side && side != 32) return complain(KD_ERR_ARG, "--side %zu: the images of %s are 32 x 32", side, known[at].kind);
    if (keep && (at < KNOWN || keep < side || keep > 2 * side))
        return complain(KD_ERR_ARG, at < KNOWN ? "--keep %zu: for folders" : "--keep %zu is not between --side %zu and twice that", keep,
                        side);
    TRY(at < KNOWN ? open_cifar(d, path, at == 1) : open_folder(d, path, keep ? keep : side));
    d->height = keep ? side : kd_dataset_item_size(d->train, 0), d->width = keep ? side : kd_dataset_item_size(d->train, 1);
    if (at < KNOWN) {
        memcpy(d->mean, known[at].mean, sizeof d->mean);
        memcpy(d->std, known[at].std, sizeof d->std);
    } else measure(d);
done:
    if (st != KD_OK) images_close(d);
    return st;
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
    if (d->height != kd_dataset_item_size(d->train, 0)) how->height = (uint32_t)d->height, how->width = (uint32_t)d->width;
}

kd_status images_train(kd_loader **out, kd_context *ctx, const images *d, const recipe *r, uint64_t seed)
{
    kd_loader_desc how;
    common(&how, d);
    how.batch = (size_t)r->batch;
    how.seed = seed;
    how.drop_last = kd_dataset_count(d->train) >= how.batch;
    how.crop_padding = (uint32_t)r->crop_padding;
    how.crop_area = (float)r->crop_area;
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
