/* data_internal.h - the inside of data sets and loaders; a loader's state for checkpoints.
 * SPDX-License-Identifier: MIT */
#ifndef KD__DATA_INTERNAL_H
#define KD__DATA_INTERNAL_H
#include "base/base.h"
#include "kernels/kernels.h"
#include "tensor/tensor.h"
#include "kd/data.h"

/* ---- dataset.c ---------------------------------------------------------------------------------- */
/* Items' memory, shared by a data set and its subsets. */
typedef struct kd__items {
    _Atomic uint32_t references;
    kd_tensor       *tensor;      /* one of the two, or neither: then the items are the caller's */
    void            *memory;
    kd__names        classes;     /* of a folder */
} kd__items;

struct kd_dataset {
    kd_context    *ctx;
    kd__items     *items;
    const uint8_t *data;
    kd_dtype       dtype;
    size_t         count, rank, shape[KD_MAX_RANK];
    size_t         item_count, item_bytes;   /* of one item */
    int32_t       *labels;
    uint32_t      *index;                    /* a subset's: item i is number index[i] of the data; NULL: i itself */
};

/* A data set over `data` ([count, shape..]), labels all -1.  `tensor` or `memory` (either may be NULL) becomes its own and
 * goes with it, also when this fails. */
kd_status kd__dataset_new(kd_dataset **out, kd_context *ctx, const char *function, kd_dtype dtype, size_t count, size_t rank,
                          const size_t *shape, const void *data, kd_tensor *tensor, void *memory);
static inline const void *kd__dataset_item(const kd_dataset *data, size_t i)
{
    return data->data + (data->index ? data->index[i] : i) * data->item_bytes;
}

/* ---- augment.c: one item on its way into a batch ------------------------------------------------------- */
/* How items become floats: out = in scale[c] + offset[c], moved, mirrored, changed by ops, a piece erased. */
typedef struct kd__convert {
    const kd__kernels *kernels;
    kd_dtype     dtype;
    size_t       item_count;        /* numbers of an image */
    float       *scale, *offset;    /* [period]: the channels' numbers, repeated to a multiple of 16 */
    size_t       period;
    size_t       height, width, channels;   /* of an image; 0: not moved, whatever its rank */
    size_t       item_height, item_width;   /* of which it is the middle, or a resized crop */
    uint32_t     shift, crop, flip;
    float        crop_area;         /* least part that a resized crop keeps; 0: none */
    uint32_t     ops;               /* of RandAugment; 0: none */
    float        magnitude, noise;
    uint8_t      fill[3];           /* what comes in from outside: the mean colour */
    float        erase;             /* probability */
    uint32_t     erase_zeros;
} kd__convert;
/* Item `in` to `out`; what happens to it is drawn from `rng`. */
void   kd__convert_item(const kd__convert *how, const void *in, float *out, kd_rng rng);
/* ---- resize.c ------------------------------------------------------------------------------------------ */
/* `in`, u8 [from], its rows `in_row` bytes apart, to size `whole`, of which the middle [to] is made: `out`.  half: [from[0], to[1]].
 * As Pillow's BILINEAR or BICUBIC; both are antialiased. */
void   kd__resize(const uint8_t *in, size_t in_row, const size_t from[2], const size_t whole[2], const size_t to[2], bool cubic,
                  uint8_t *half, uint8_t *out);
/* ---- randaugment.c --------------------------------------------------------------------------------------- */
/* Change `image`, u8 [height, width, 3], by op `op` of the list at `level` (0 to 10; `negative`: the other way, where there are
 * two) into itself; `spare` is as large. */
#define KD__RANDAUGMENT_OPS 15u
void   kd__randaugment_op(uint32_t op, double level, bool negative, uint8_t *image, uint8_t *spare, size_t height, size_t width,
                          const uint8_t fill[3]);
/* As many as are asked for.  Draws for each: which, whether, magnitude, sign. */
void   kd__randaugment(const kd__convert *how, uint8_t *image, uint8_t *spare, kd_rng rng);

/* From Beta(alpha, alpha): two gamma variates (Marsaglia, Tsang 2000), in logarithms, so that a small alpha does not
 * underflow.  Fixed bits. */
double kd__rng_beta(kd_rng *rng, double alpha);

/* ---- batch.c, loader.c ------------------------------------------------------------------------------------ */
typedef struct kd__batch_slot {
    size_t    rows;                 /* that are made: the shard's, with f32 labels the batch's */
    float    *x;
    void     *y;                    /* i32 [rows] or f32 [rows, classes] */
    uint32_t *indices;
    const uint32_t *handed;         /* the first index of the rows handed out */
    kd_tensor tx, ty;               /* the rows handed out */
    kd_status status;
    char      text[512];            /* of an error */
} kd__batch_slot;

struct kd_loader {
    kd_context       *ctx;
    const kd_dataset *data;
    kd_loader_desc    desc;         /* mean, std: gone into `convert` */
    kd__convert       convert;
    size_t            batches, rows, classes;   /* rows made of a full batch; classes: 0 where labels are i32 */
    kd_rng            order_rng, augment_rng, mix_rng;
    kd__batch_slot         *slots;        /* a ring; batch number n since the ring began is in n % slot_count */
    size_t            slot_count;
    /* the caller's side */
    uint64_t          epoch, taken;
    size_t            position;     /* batches of this epoch handed out */
    kd__batch_slot         *held;         /* handed out last */
    /* the maker's side: the loader's thread while there is one, else the caller */
    uint32_t         *order;        /* items in the order of `order_epoch` */
    uint64_t          order_epoch;
    bool              order_known;
    uint32_t         *pairs;
    /* between them */
    kd__thread       *thread;
    kd__monitor      *monitor;
    uint32_t          generation;   /* of the process, when they were made */
    bool              serial;       /* no thread to be had, or none asked for */
    uint64_t          waited;       /* nanoseconds */
    uint64_t          made, released;   /* under the monitor, as is stop; the ring has `made - released` batches */
    uint64_t          first_epoch;      /* where the ring began */
    size_t            first_position;
    bool              stop;
};

/* Which rows of a batch of `rows` are this shard's. */
static inline size_t kd__shard_first(const kd_loader_desc *d, size_t rows)
{
    return rows / d->shard_count * d->shard_index + KD_MIN(rows % d->shard_count, d->shard_index);
}
static inline size_t kd__shard_rows(const kd_loader_desc *d, size_t rows)
{
    return rows / d->shard_count + (d->shard_index < rows % d->shard_count);
}
/* Make batch `position` of `epoch` in `slot`.  Errors are the slot's. */
void kd__batch_make(kd_loader *loader, kd__batch_slot *slot, uint64_t epoch, size_t position, bool parallel);

/* ---- loader_state.c: as for optimizers, optim/optim.h ------------------------------------------------------ */
size_t    kd__loader_state_size(const kd_loader *loader);
void      kd__loader_state_write(const kd_loader *loader, void *out);
kd_status kd__loader_state_check(kd_loader *loader, const void *in, size_t bytes);
void      kd__loader_state_read(kd_loader *loader, const void *in);
/* loader.c: end the thread; the next batch is `position` of `epoch`. */
void      kd__loader_seek(kd_loader *loader, uint64_t epoch, size_t position);
#endif
