/* bytes.c - byte order, half-precision numbers, and the first look at a file.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"

void kd__swap_bytes(void *data, size_t count, size_t width)
{
    uint8_t *p = data;
    if (width == 2)
        for (size_t i = 0; i < count; i++, p += 2) {
            uint16_t v;
            memcpy(&v, p, 2);
            v = __builtin_bswap16(v);
            memcpy(p, &v, 2);
        }
    else if (width == 4)
        for (size_t i = 0; i < count; i++, p += 4) {
            uint32_t v;
            memcpy(&v, p, 4);
            v = __builtin_bswap32(v);
            memcpy(p, &v, 4);
        }
    else if (width == 8)
        for (size_t i = 0; i < count; i++, p += 8) {
            uint64_t v;
            memcpy(&v, p, 8);
            v = __builtin_bswap64(v);
            memcpy(p, &v, 8);
        }
}

/* Sign, 5 bits of exponent with bias 15, 10 bits of fraction.  Rebias by shifting the fields into a float's places
 * and adding 112 to the exponent; a subnormal is its fraction times 2^-24, which a float holds. */
static float f16_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu, bits;
    if (rest >= 0x7c00u) bits = sign | 0x7f800000u | (rest & 0x3ffu) << 13;
    else if (rest >= 0x400u) bits = sign | ((rest << 13) + (112u << 23));
    else {
        float value = (float)rest * 0x1p-24f;
        memcpy(&bits, &value, 4);
        bits |= sign;
    }
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* Forward order: out[i] covers only what in[] has given already when `in` is the upper half of `out`. */
void kd__f16_widen(float *out, const uint16_t *in, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t h;
        memcpy(&h, (const char *)in + 2 * i, 2);
        float f = f16_to_float(h);
        memcpy((char *)out + 4 * i, &f, 4);
    }
}

void kd__bf16_widen(float *out, const uint16_t *in, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t h;
        memcpy(&h, (const char *)in + 2 * i, 2);
        uint32_t bits = (uint32_t)h << 16;
        memcpy((char *)out + 4 * i, &bits, 4);
    }
}

kd_status kd__writer_put_swapped(kd__writer *writer, const void *data, size_t count, size_t width)
{
    uint8_t part[4096];
    size_t each = sizeof part / width;
    for (const uint8_t *p = data; count;) {
        size_t n = KD_MIN(count, each);
        memcpy(part, p, n * width);
        kd__swap_bytes(part, n, width);
        KD_TRY(kd__writer_put(writer, part, n * width));
        p += n * width;
        count -= n;
    }
    return KD_OK;
}

const char *kd__foreign_file(const void *head, size_t bytes)
{
    static const struct {
        const char *magic;
        size_t      length;
        const char *what;
    } kinds[] = {
        { "version https://git-lfs", 23, "a git-lfs pointer, not the file itself: run \"git lfs pull\"" },
        { "\x1f\x8b", 2, "a gzip file: decompress it first" },
        { "BZh", 3, "a bzip2 file: decompress it first" },
        { "\xfd" "7zXZ", 5, "an xz file: decompress it first" },
        { "\x28\xb5\x2f\xfd", 4, "a zstd file: decompress it first" },
        { "PK\x03\x04", 4, "a zip archive (.npz, or a PyTorch file): extract or convert it first" },
        { "\x80\x02", 2, "a Python pickle: libkd never unpickles, convert it to safetensors" },
        { "\x80\x04\x95", 3, "a Python pickle: libkd never unpickles, convert it to safetensors" },
        { "\x93NUMPY", 6, "a NumPy .npy file" },
        { "\x89HDF\r\n", 6, "an HDF5 file" },
        { "<!DOCTYPE", 9, "an HTML page: the download went wrong" },
        { "<html", 5, "an HTML page: the download went wrong" },
    };
    for (size_t i = 0; i < KD_COUNT(kinds); i++)
        if (bytes >= kinds[i].length && memcmp(head, kinds[i].magic, kinds[i].length) == 0) return kinds[i].what;
    return NULL;
}

kd__shown kd__show(const char *name)
{
    kd__shown shown;
    size_t n = 0;
    for (; name[n] && n < sizeof shown.text - 4; n++) {
        unsigned char c = (unsigned char)name[n];
        shown.text[n] = (char)(c < 0x20 || c == 0x7f ? '?' : c);
    }
    if (name[n]) {
        while (n && ((unsigned char)name[n] & 0xc0) == 0x80) n--;   /* not in the middle of a character */
        memcpy(shown.text + n, "...", 3);
        n += 3;
    }
    shown.text[n] = 0;
    return shown;
}

bool kd__shape_units(size_t rank, const size_t *shape, uint64_t unit, uint64_t *units, bool *empty)
{
    *empty = false;
    for (size_t i = 0; i < rank; i++) {
        if (shape[i] == 0) *empty = true;
        else if (__builtin_mul_overflow(unit, (uint64_t)shape[i], &unit)) return false;
    }
    *units = unit;
    return true;
}

kd_status kd__load_rest(kd_tensor **out, kd_context *ctx, kd__file *file, kd_dtype dtype, size_t rank,
                        const size_t *shape, uint64_t offset, bool big_endian)
{
    uint64_t bytes, width = kd_dtype_size(dtype), rest = file->size - offset;
    bool empty;
    if (!kd__shape_units(rank, shape, width, &bytes, &empty) || bytes > SIZE_MAX)
        return kd__fail(KD_ERR_OVERFLOW, "%s: offset %llu: %s %S: the size does not fit", file->path,
                        (unsigned long long)offset, kd_dtype_name(dtype), rank, shape);
    if (empty) bytes = 0;
    if (bytes > rest)
        return kd__fail(KD_ERR_TRUNCATED, "%s: offset %llu: %s %S needs %llu bytes, %llu follow", file->path,
                        (unsigned long long)offset, kd_dtype_name(dtype), rank, shape, (unsigned long long)bytes,
                        (unsigned long long)rest);
    if (bytes < rest)
        return kd__fail(KD_ERR_FORMAT, "%s: offset %llu: %llu bytes too many after %s %S", file->path,
                        (unsigned long long)(offset + bytes), (unsigned long long)(rest - bytes),
                        kd_dtype_name(dtype), rank, shape);
    kd_tensor *t;
    KD_TRY(kd_tensor_create(&t, ctx, dtype, rank, shape));
    kd_status status = bytes ? kd__file_read(file, kd_tensor_data(t), (size_t)bytes, offset) : KD_OK;
    if (status != KD_OK) {
        kd_tensor_free(t);
        return status;
    }
    if (big_endian != kd__host_is_big()) kd__swap_bytes(kd_tensor_data(t), (size_t)(bytes / width), (size_t)width);
    *out = t;
    return KD_OK;
}
