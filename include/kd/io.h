/* kd/io.h - files: safetensors, NPY, IDX, CSV, checkpoints.
 * SPDX-License-Identifier: MIT
 *
 * Everything read is distrusted: no allocation exceeds the bytes present, no count is used unchecked, and errors name
 * the file, the tensor and the byte offset.  Everything written replaces its file atomically. */
#ifndef KD_IO_H
#define KD_IO_H
#include "data.h"
#include "distill.h"
#include "model.h"
#include "optimizer.h"
KD_BEGIN_DECLS

/* ---- safetensors (format of huggingface/safetensors, read strictly) --------------------------------------------------- */
typedef struct kd_safetensors kd_safetensors;
#define KD_SAFETENSORS_LENIENT 1u   /* accept white space before '{' and other than spaces after '}' */
/* Open and check the whole header: KD_ERR_IO, KD_ERR_TRUNCATED, KD_ERR_FORMAT, KD_ERR_LIMIT (header > 100,000,000 bytes), KD_ERR_OVERFLOW,
 * KD_ERR_NOMEM.  The data is read when asked for (pread), the file stays open. */
KD_API KD_MUST_USE kd_status kd_safetensors_open(kd_safetensors **out, kd_context *ctx, const char *path, uint32_t flags);
KD_API void kd_safetensors_close(kd_safetensors *file);
KD_API size_t kd_safetensors_count(const kd_safetensors *file);
/* Entries in the order of their data.  Strings live until close. */
typedef struct kd_safetensors_info {
    size_t        struct_size;
    const char   *name;
    const char   *dtype;       /* as in the file: "F32", "BF16", .. */
    size_t        rank;
    const size_t *shape;
    uint64_t      offset, bytes;   /* absolute position in the file */
} kd_safetensors_info;
KD_API KD_MUST_USE kd_status kd_safetensors_at(const kd_safetensors *file, size_t i, kd_safetensors_info *out);
/* The index of a name; (size_t)-1 if there is none. */
KD_API size_t kd_safetensors_find(const kd_safetensors *file, const char *name);
/* A new tensor (caller's) with the data of entry i.  F32, F64, I32, I64, U8 as they are; F16, BF16 become f32; BOOL u8.
 * Others are KD_ERR_UNSUPPORTED. */
KD_API KD_MUST_USE kd_status kd_safetensors_read(const kd_safetensors *file, size_t i, kd_tensor **out);
/* The value of a __metadata__ key; NULL if there is none. */
KD_API const char *kd_safetensors_metadata(const kd_safetensors *file, const char *key);
/* Write `count` tensors.  `metadata` is key, value, key, value, .. (metadata_count strings, even).  Names are unique, valid
 * UTF-8, not "__metadata__" (else KD_ERR_ARG).  Sorted by alignment then name, header padded to 8 bytes. */
KD_API KD_MUST_USE kd_status kd_safetensors_save(kd_context *ctx, const char *path, const char *const *names,
                                                 const kd_tensor *const *tensors, size_t count, const char *const *metadata,
                                                 size_t metadata_count);

/* ---- one array in a file ------------------------------------------------------------------------------------------------- */
/* NumPy .npy, versions 1 to 3, C order; f4 f8 i4 i8 u1 b1, either byte order.  Never unpickles. */
KD_API KD_MUST_USE kd_status kd_npy_load(kd_tensor **out, kd_context *ctx, const char *path);
/* IDX (MNIST): u8, i32, f32, f64, rank 1 to 8.  gzip is refused by name. */
KD_API KD_MUST_USE kd_status kd_idx_load(kd_tensor **out, kd_context *ctx, const char *path);
/* Numbers in text: f32 [rows, columns].  Empty lines are passed over; every row has the same columns.  `separator` is an ASCII
 * character; a space stands for any run of spaces and tabs.  KD_ERR_FORMAT, KD_ERR_RANGE (beyond f32) name line and column. */
KD_API KD_MUST_USE kd_status kd_csv_load(kd_tensor **out, kd_context *ctx, const char *path, uint32_t separator, size_t skip_lines);

/* ---- checkpoint: one file with everything a run needs ------------------------------------------------------------------------ */
/* Register what the run consists of, under names of your choice (unique, at most 200 bytes), in any order; then save and load
 * any number of times.  Objects must outlive the checkpoint. */
typedef struct kd_checkpoint kd_checkpoint;
KD_API KD_MUST_USE kd_status kd_checkpoint_create(kd_checkpoint **out, kd_context *ctx);
KD_API KD_MUST_USE kd_status kd_checkpoint_add_model(kd_checkpoint *cp, const char *name, kd_model *model);     /* weights, buffers */
KD_API KD_MUST_USE kd_status kd_checkpoint_add_optimizer(kd_checkpoint *cp, const char *name, kd_optimizer *opt); /* moments, step, lr */
KD_API KD_MUST_USE kd_status kd_checkpoint_add_ema(kd_checkpoint *cp, const char *name, kd_ema *ema);
KD_API KD_MUST_USE kd_status kd_checkpoint_add_loader(kd_checkpoint *cp, const char *name, kd_loader *loader);   /* epoch, position */
KD_API KD_MUST_USE kd_status kd_checkpoint_add_tape(kd_checkpoint *cp, const char *name, kd_tape *tape);         /* dropout's stream */
KD_API KD_MUST_USE kd_status kd_checkpoint_add_loss(kd_checkpoint *cp, const char *name, kd_loss_distill *loss); /* a method's state */
/* Plain bytes of yours: an epoch counter, a best accuracy, a kd_rng. */
KD_API KD_MUST_USE kd_status kd_checkpoint_add_bytes(kd_checkpoint *cp, const char *name, void *data, size_t bytes);
/* Atomic.  Every section carries a CRC32C.  A run that loads it continues to the same bits as one that never stopped. */
KD_API KD_MUST_USE kd_status kd_checkpoint_save(kd_checkpoint *cp, const char *path);
/* All or nothing: KD_ERR_IO (no such file), KD_ERR_TRUNCATED, KD_ERR_CHECKSUM, KD_ERR_VERSION, KD_ERR_FORMAT, KD_ERR_SHAPE (names the
 * section, and the parameter, that differs): then nothing has changed. */
KD_API KD_MUST_USE kd_status kd_checkpoint_load(kd_checkpoint *cp, const char *path);
KD_API void kd_checkpoint_free(kd_checkpoint *cp);

KD_END_DECLS
#endif
