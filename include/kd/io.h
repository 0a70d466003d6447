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
/* An open safetensors file. */
typedef struct kd_safetensors kd_safetensors;
/* Flags of kd_safetensors_open; 0 is strict. */
#define KD_SAFETENSORS_LENIENT 1u   /* accept white space before '{' and other than spaces after '}' */
/* Open and check the whole header: KD_ERR_IO, KD_ERR_TRUNCATED, KD_ERR_FORMAT, KD_ERR_LIMIT (header > 100,000,000 bytes),
 * KD_ERR_OVERFLOW, KD_ERR_NOMEM.  The data is read when asked for (pread), the file stays open. */
KD_API KD_MUST_USE kd_status kd_safetensors_open(kd_safetensors **out, kd_context *ctx, const char *path, uint32_t flags);
/* Close the file; its strings go.  NULL is fine. */
KD_API void kd_safetensors_close(kd_safetensors *file);
/* How many tensors the file holds. */
KD_API size_t kd_safetensors_count(const kd_safetensors *file);
/* One tensor of a file.  Strings and shape live until close. */
typedef struct kd_safetensors_info {
    size_t        struct_size;
    const char   *name;        /* of the tensor                     */
    const char   *dtype;       /* as in the file: "F32", "BF16", .. */
    size_t        rank;        /* 0 to 8                            */
    const size_t *shape;       /* [rank]                            */
    uint64_t      offset, bytes;   /* absolute position in the file */
} kd_safetensors_info;
/* Entry i, in the order of their data; i < count, else KD_ERR_ARG. */
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
/* An empty checkpoint.  KD_ERR_ARG, KD_ERR_NOMEM. */
KD_API KD_MUST_USE kd_status kd_checkpoint_create(kd_checkpoint **out, kd_context *ctx);
/* Register an object under `name`.  KD_ERR_ARG: the name is not 1 to 200 bytes, or is there already; KD_ERR_NOMEM. */
KD_API KD_MUST_USE kd_status kd_checkpoint_add_model(kd_checkpoint *cp, const char *name, kd_model *model);     /* weights, buffers */
KD_API KD_MUST_USE kd_status kd_checkpoint_add_optimizer(kd_checkpoint *cp, const char *name, kd_optimizer *opt); /* moments, step, lr */
KD_API KD_MUST_USE kd_status kd_checkpoint_add_ema(kd_checkpoint *cp, const char *name, kd_ema *ema);         /* averages */
KD_API KD_MUST_USE kd_status kd_checkpoint_add_loader(kd_checkpoint *cp, const char *name, kd_loader *loader);   /* epoch, position */
KD_API KD_MUST_USE kd_status kd_checkpoint_add_tape(kd_checkpoint *cp, const char *name, kd_tape *tape);         /* dropout's stream */
KD_API KD_MUST_USE kd_status kd_checkpoint_add_loss(kd_checkpoint *cp, const char *name, kd_loss_distill *loss); /* a method's state */
KD_API KD_MUST_USE kd_status kd_checkpoint_add_feature_loss(kd_checkpoint *cp, const char *name, kd_loss_feature *loss);
                                                                                   /* adapters, advances, the method's state */
/* Register plain bytes of yours, written at save and overwritten at load: an epoch counter, a best accuracy, a kd_rng. */
KD_API KD_MUST_USE kd_status kd_checkpoint_add_bytes(kd_checkpoint *cp, const char *name, void *data, size_t bytes);
/* Write everything registered.  Atomic.  Every section carries a CRC32C.  A run that loads it continues to the same bits as
 * one that never stopped. */
KD_API KD_MUST_USE kd_status kd_checkpoint_save(kd_checkpoint *cp, const char *path);
/* Read a file into everything registered, all or nothing: KD_ERR_IO (no such file), KD_ERR_TRUNCATED, KD_ERR_CHECKSUM,
 * KD_ERR_VERSION, KD_ERR_FORMAT, KD_ERR_SHAPE (names the section, and the parameter, that differs): then nothing has changed. */
KD_API KD_MUST_USE kd_status kd_checkpoint_load(kd_checkpoint *cp, const char *path);
/* Free the list, not the objects.  NULL is fine. */
KD_API void kd_checkpoint_free(kd_checkpoint *cp);

KD_END_DECLS
#endif
