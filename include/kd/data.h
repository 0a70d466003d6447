/* kd/data.h - kd_dataset and kd_loader: batches in a seeded order, prepared ahead on a thread of their own.
 * SPDX-License-Identifier: MIT */
#ifndef KD_DATA_H
#define KD_DATA_H
#include "tensor.h"
KD_BEGIN_DECLS

/* Items of one shape and dtype (u8 or f32), each with a class label.  Images are [height, width, channels]. */
typedef struct kd_dataset kd_dataset;

/* Over the caller's memory: `items` is [count, item shape..], contiguous, u8 or f32, and must outlive the data set (not
 * copied).  labels i32 [count] are copied; NULL: all -1. */
KD_API KD_MUST_USE kd_status kd_dataset_wrap(kd_dataset **out, kd_context *ctx, kd_dtype dtype, size_t count, size_t item_rank,
                                             const size_t *item_shape, const void *items, const int32_t *labels);
/* IDX images (u8 or f32, rank 2 to 4; rank 3 [n, h, w] becomes [n, h, w, 1]) and labels (u8; path may be NULL). */
KD_API KD_MUST_USE kd_status kd_dataset_open_idx(kd_dataset **out, kd_context *ctx, const char *images, const char *labels);
/* What a CSV file looks like. */
typedef struct kd_csv_desc {
    size_t   struct_size;
    size_t   skip_lines;       /* header lines; default 0                                   */
    int64_t  label_column;     /* default -1: the last one; KD_CSV_NO_LABEL: none            */
    uint32_t separator;        /* default ','                                                */
    uint32_t reserved;
} kd_csv_desc;
/* A label_column: no column is a label. */
#define KD_CSV_NO_LABEL INT64_MIN
/* Fill `desc` with the defaults; struct_size is sizeof *desc. */
KD_API void kd_csv_desc_init(kd_csv_desc *desc, size_t struct_size);
/* Numbers in text, a row a line, f32 items [columns - label].  desc NULL: all defaults.  KD_ERR_FORMAT names line and column. */
KD_API KD_MUST_USE kd_status kd_dataset_open_csv(kd_dataset **out, kd_context *ctx, const char *path, const kd_csv_desc *desc);
/* The record of a CIFAR file, and which of its labels is taken. */
#define KD_CIFAR_10         1u   /* 1 label byte + 3072         */
#define KD_CIFAR_100_FINE   2u   /* coarse, fine, 3072: fine    */
#define KD_CIFAR_100_COARSE 3u
/* CIFAR binary records from one or more files, u8 [32, 32, 3] (planes become interleaved). */
KD_API KD_MUST_USE kd_status kd_dataset_open_cifar(kd_dataset **out, kd_context *ctx, const char *const *paths, size_t count,
                                                   uint32_t variant);
/* Reads an image in a format of yours.  `file` is the whole file, [bytes].  Called twice for each image: with rgb NULL it says
 * the size, then, with that in *height and *width, it fills rgb, u8 [height, width, 3], the library's.  Called in the thread that opens
 * the folder.  1: done; 0: not a format it knows; below: the file is damaged. */
typedef int32_t (*kd_decode_fn)(void *user, const char *path, const uint8_t *file, size_t bytes, size_t *height, size_t *width,
                                uint8_t *rgb);
/* What becomes of the images of a folder. */
typedef struct kd_folder_desc {
    size_t       struct_size;
    size_t       height, width;   /* of the items; default 0: that of the first image, which all must have */
    kd_decode_fn decode;          /* asked first, for every file; default NULL: binary PPM and PGM alone   */
    void        *decode_user;     /* given to decode                                                        */
} kd_folder_desc;
/* Fill `desc` with the defaults; struct_size is sizeof *desc. */
KD_API void kd_folder_desc_init(kd_folder_desc *desc, size_t struct_size);
/* A folder of folders of images, path/CLASS/IMAGE: u8 [height, width, 3].  The classes are the sub-folders, in the order of
 * their names' bytes, and so are the images of each; names that begin with a dot are passed over, files beside the classes too.
 * Images are P6 and P5 (grey, its value three times) with 8 bits, or what desc->decode reads; a name's ending says nothing.
 * With height and width an image of another size is resized, its proportions kept, to the smallest that covers height x width
 * (antialiased: a triangle as wide as two pixels of the smaller of the two pictures; columns first, rounded), and its middle
 * is cut out.  All images are in memory, height width 3 bytes each; while the folder is read, one file and its pixels, too.
 * desc NULL: all defaults.
 *
 * KD_ERR_IO, KD_ERR_FORMAT (no classes, a class without images, no image, damaged; names file and byte), KD_ERR_TRUNCATED,
 * KD_ERR_SHAPE (an image of another size than the first), KD_ERR_UNSUPPORTED (more than 8 bits; a build without files),
 * KD_ERR_LIMIT (an image beyond 65535 pixels a side), KD_ERR_OVERFLOW, KD_ERR_NOMEM. */
KD_API KD_MUST_USE kd_status kd_dataset_open_folder(kd_dataset **out, kd_context *ctx, const char *path,
                                                    const kd_folder_desc *desc);
/* Some of the items, in this order (repeats allowed); shares the items' memory with `from`, which may be freed first. */
KD_API KD_MUST_USE kd_status kd_dataset_subset(kd_dataset **out, const kd_dataset *from, const uint32_t *indices, size_t count);
/* Free the data set, not memory that was wrapped.  NULL is fine. */
KD_API void kd_dataset_free(kd_dataset *data);

/* How many items; axes of an item, the size of one (0 if axis >= rank); what they are made of.  0 for NULL. */
KD_API size_t kd_dataset_count(const kd_dataset *data);
KD_API size_t kd_dataset_item_rank(const kd_dataset *data);
KD_API size_t kd_dataset_item_size(const kd_dataset *data, size_t axis);
KD_API kd_dtype kd_dataset_dtype(const kd_dataset *data);
/* The labels, [count], to read and to change (while no loader runs over it): -1 marks an item as unlabelled. */
KD_API int32_t *kd_dataset_labels(kd_dataset *data);
/* One item, [item shape] in its dtype; NULL if out of range. */
KD_API const void *kd_dataset_item(const kd_dataset *data, size_t index);
/* 1 + the largest label; 0 if there are none. */
KD_API size_t kd_dataset_classes(const kd_dataset *data);
/* The name of the folder that class i came from, as long as the data set lives; NULL if it has none. */
KD_API const char *kd_dataset_class_name(const kd_dataset *data, size_t index);

/* ---- loader --------------------------------------------------------------------------------------------------------- */
/* Makes batches of a data set.  One thread at a time calls it. */
typedef struct kd_loader kd_loader;
/* How batches are made. */
typedef struct kd_loader_desc {
    size_t       struct_size;
    size_t       batch;           /* >= 1; default 64                                                                  */
    uint64_t     seed;            /* of order and augmentation; default 0                                              */
    uint32_t     shuffle;         /* a new order each epoch; default 1                                                 */
    uint32_t     drop_last;       /* leave out a last batch that is not full; default 0                                */
    float        scale;           /* x = item * scale, then (x - mean) / std; default 1/255 for u8 when 0, 1 for f32   */
    uint32_t     shift;           /* move by -shift .. shift pixels, zeros come in; default 0                          */
    uint32_t     crop_padding;    /* pad by this, crop back at random; default 0                                       */
    uint32_t     flip;            /* left-right with probability 1/2; default 0                                        */
    float        mixup_alpha;     /* > 0: mix pairs with Beta(alpha, alpha), labels become f32 [batch, classes]; default 0 */
    uint32_t     classes;         /* for labels in f32; 0: kd_dataset_classes                                          */
    uint32_t     ahead;           /* batches prepared in advance, 0 (in the caller's thread) to 8; default 2           */
    const float *mean, *std;      /* [channels] (last axis) or NULL; copied                                            */
    size_t       channels;        /* length of mean and std                                                            */
    uint32_t     shard_index;     /* which part of each batch, 0 to shard_count - 1; default 0                         */
    uint32_t     shard_count;     /* >= 1: each batch is dealt out to this many loaders; default 1                     */
    float        cutmix_alpha;    /* > 0: CutMix, boxes by Beta(alpha, alpha), labels f32 [batch, classes]; default 0  */
    float        mix_switch;      /* mix-up and CutMix both: a batch's probability of CutMix; default 0.5              */
    float        mix_probability; /* of a batch to be mixed at all; default 1                                          */
    float        label_smoothing; /* > 0: this much of a label goes to all classes, labels f32 [batch, classes]; default 0 */
    float        erase_probability; /* of an item to lose a rectangle; default 0                                       */
    uint32_t     erase_zeros;     /* it becomes 0, not normal noise; default 0                                         */
    uint32_t     randaugment_ops; /* RandAugment: ops drawn for an item, 0 to 16; default 0                            */
    float        randaugment_magnitude; /* 0 to 10; default 9                                                          */
    float        randaugment_noise; /* deviation of the magnitude; default 0.5                                         */
    uint32_t     repeats;         /* >= 1: repeated augmentation, each item of an epoch this often; default 1          */
    float        crop_area;       /* > 0: a crop of this to all of the area, resized; default 0                        */
    uint32_t     height, width;   /* of the images handed out; default 0: the item's                                   */
} kd_loader_desc;
/* Fill `desc` with the defaults; struct_size is sizeof *desc. */
KD_API void kd_loader_desc_init(kd_loader_desc *desc, size_t struct_size);
/* Make a loader.  `data` must outlive it.  desc NULL: all defaults.  What item goes where, and every random choice, is a
 * function of (seed, epoch, position in the epoch) alone: the same with any `ahead`, any timing, and after a resume. shift,
 * crop_padding, flip, erasing and CutMix need items [h, w, c] or [h, w] (c = 1); the zeros that come in are the item's, before
 * normalisation.  mean and std: one number for all, or one for each of the last axis.  Mix-up pairs rows of a batch at random:
 * (a, b) become (s a + (1 - s) b, s b + (1 - s) a), s >= 1/2, so each row is mostly the item kd_loader_indices names.
 *
 * Height and width (items [h, w, c] or [h, w]): of a larger item the middle is taken, before all else; or it is what the resized
 * crop is resized to, at least half of the item's height.  So items of 256 are trained on by crops of 224, and tested by their middle.
 *
 * What DeiT (arXiv 2012.12877) adds, as timm does it.  In this order: resized crop, window and flip, RandAugment, floats,
 * erasing, mixing.
 * Resized crop (crop_area; u8 items [h, w, 3]): a rectangle of crop_area to 1 of the area, h / w from 3/4 to 4/3, resized to
 *   height x width, Pillow's bicubic; if ten do not fit, the largest such one in the middle.  DeiT's crop_area is 0.08.
 * RandAugment (arXiv 1909.13719; u8 items [h, w, 3]): `randaugment_ops` times one of AutoContrast, Equalize, Invert, Rotate,
 *   Posterize, Solarize, SolarizeAdd, Color, Contrast, Brightness, Sharpness, ShearX, ShearY, TranslateX, TranslateY is drawn
 *   and done with probability 1/2, at magnitude + noise times a normal number, held to [0, 10]; severities grow with it
 *   (timm's "rand-m9-mstd0.5-inc1").  Pixels are Pillow's, bicubic; those from outside are the mean, or 128 without one.
 * Erasing (arXiv 1708.04896; [h, w, c]): with its probability a rectangle of 2 to 33 % of the area, h / w from 0.3 to 1 /
 *   0.3, becomes normal numbers, drawn for each element, or zeros: of the normalised image.
 * CutMix (arXiv 1905.04899; [h, w, c]): a box of (1 - s) of the area, s from Beta, around a pixel of the image, cut at the
 *   edges; the pair's two images exchange what is in it, and s becomes what is left outside.  Where that is below 1/2, they
 *   exchange what is outside.  Both alphas > 0: each batch is mixed by one of the two.
 * Labels are f32 [batch, classes] with mixup_alpha, cutmix_alpha or label_smoothing > 0: smoothing / classes, and in the
 *   item's class 1 - smoothing more; mixed like the rows.
 * Repeats (arXiv 1901.09335; need shuffle): place p of the epoch is item p / repeats of its order, augmented by place.  An
 *   epoch is as long as the data set and holds 1 of `repeats` of its items, as DeiT's sampler does.
 *
 * Shards, for training on several processes: `batch` is the batch of all of them.  Of a batch of n rows, shard i of m gets a
 * run of n / m rows, one more if i < n % m, in the order of the shards: laid end to end the shards are, bit for bit, the batch
 * that a loader without shards hands out.  So every shard has as many batches in an epoch (of a last one smaller than m some
 * get 0 rows), and the batches do not depend on m.  A checkpoint of one shard's loader is every shard's, and that of a run with
 * another m.
 *
 * KD_ERR_ARG (also: drop_last would leave no batch), KD_ERR_SHAPE (height, width), KD_ERR_RANGE (a label beyond `classes`; with f32
 * labels also below 0), KD_ERR_DTYPE (RandAugment or a resized crop of items that are not u8), KD_ERR_OVERFLOW, KD_ERR_NOMEM. */
KD_API KD_MUST_USE kd_status kd_loader_create(kd_loader **out, kd_context *ctx, const kd_dataset *data,
                                              const kd_loader_desc *desc);
/* The next batch, or this shard's part: *x f32 [n, item shape..], *y i32 [n] (f32 [n, classes] where so said), the loader's,
 * valid until the next call.  KD_END after the last batch of an epoch; the call after that begins the next epoch.  KD_ERR_CANCELLED. */
KD_API KD_MUST_USE kd_status kd_loader_next(kd_loader *loader, kd_tensor **x, kd_tensor **y);
/* Which items the last batch holds: indices into the data set, one per row. */
KD_API const uint32_t *kd_loader_indices(const kd_loader *loader);
/* Epochs completed. */
KD_API uint64_t kd_loader_epoch(const kd_loader *loader);
/* Batches in an epoch. */
KD_API size_t kd_loader_batches(const kd_loader *loader);
/* Nanoseconds that kd_loader_next has kept its caller waiting, in all calls so far: near 0 where batches are made as fast as they
 * are used.  With `ahead` 0 it is the time it takes to make them. */
KD_API uint64_t kd_loader_waited(const kd_loader *loader);
/* Free the loader, its batches and its thread.  NULL is fine. */
KD_API void kd_loader_free(kd_loader *loader);

KD_END_DECLS
#endif
