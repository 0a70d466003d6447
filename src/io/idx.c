/* idx.c - the format of MNIST: 0, 0, type, rank, sizes in big-endian, elements in big-endian.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"

static kd_status read_all(kd_context *ctx, kd__file *file, kd_tensor **out)
{
    uint8_t head[4 + 4 * KD_MAX_RANK];
    size_t have = (size_t)KD_MIN(file->size, sizeof head), shape[KD_MAX_RANK];
    KD_TRY(kd__file_read(file, head, have, 0));
    const char *foreign = kd__foreign_file(head, have);
    if (foreign) return kd__fail(KD_ERR_FORMAT, "%s: offset 0: this is %s", file->path, foreign);
    if (have < 4) return kd__fail(KD_ERR_TRUNCATED, "%s: %zu bytes: an IDX file begins with 4", file->path, have);
    if (head[0] || head[1])
        return kd__fail(KD_ERR_FORMAT, "%s: offset 0: not an IDX file: its first two bytes are not 0", file->path);
    kd_dtype dtype = KD_U8;
    switch (head[2]) {
    case 0x08: dtype = KD_U8; break;
    case 0x0c: dtype = KD_I32; break;
    case 0x0d: dtype = KD_F32; break;
    case 0x0e: dtype = KD_F64; break;
    case 0x09:
    case 0x0b:
        return kd__fail(KD_ERR_UNSUPPORTED, "%s: offset 2: %s elements: libkd reads u8, i32, f32, f64", file->path,
                        head[2] == 9 ? "i8" : "i16");
    default: return kd__fail(KD_ERR_FORMAT, "%s: offset 2: type code 0x%02x: unknown", file->path, head[2]);
    }
    size_t rank = head[3];
    if (rank < 1 || rank > KD_MAX_RANK)
        return kd__fail(KD_ERR_FORMAT, "%s: offset 3: %zu axes: 1 to 8 are allowed", file->path, rank);
    if (have < 4 + 4 * rank)
        return kd__fail(KD_ERR_TRUNCATED, "%s: %zu bytes: the file ends in its header", file->path, have);
    for (size_t i = 0; i < rank; i++) shape[i] = kd__be32(head + 4 + 4 * i);
    return kd__load_rest(out, ctx, file, dtype, rank, shape, 4 + 4 * rank, true);
}

kd_status kd_idx_load(kd_tensor **out, kd_context *ctx, const char *path)
{
    KD_NEED(out);
    *out = NULL;
    KD_NEED(path);
    kd__file file;
    kd_status status = kd__file_open(&file, path);
    if (status == KD_OK) {
        status = read_all(ctx, &file, out);
        kd__file_close(&file);
    }
    return status == KD_OK ? KD_OK : kd__fail_prefix(status, "kd_idx_load: ");
}
