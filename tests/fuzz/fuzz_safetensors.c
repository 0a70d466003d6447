/* fuzz_safetensors.c - any bytes as safetensors; what opens is read, written, and read back the same.
 * SPDX-License-Identifier: MIT */
#include "fuzz.h"
#include "io/io_internal.h"

enum { MOST = 64 };

static void same_data(const kd_tensor *a, const kd_tensor *b)
{
    size_t bytes = kd_tensor_count(a) * kd_dtype_size(kd_tensor_dtype(a));
    FUZZ_MUST(kd_tensor_dtype(a) == kd_tensor_dtype(b) && kd_tensor_rank(a) == kd_tensor_rank(b));
    for (size_t i = 0; i < kd_tensor_rank(a); i++) FUZZ_MUST(kd_tensor_size(a, i) == kd_tensor_size(b, i));
    FUZZ_MUST(bytes == 0 || memcmp(kd_tensor_data(a), kd_tensor_data(b), bytes) == 0);
}

static void round_trip(const char *const *names, kd_tensor *const *tensors, size_t count)
{
    kd_safetensors *again;
    FUZZ_MUST(kd_safetensors_save(NULL, "mem", names, (const kd_tensor *const *)tensors, count, NULL, 0) == KD_OK);
    FUZZ_MUST(kd_safetensors_open(&again, NULL, "mem", 0) == KD_OK && kd_safetensors_count(again) == count);
    for (size_t i = 0; i < count; i++) {
        kd_tensor *t;
        FUZZ_MUST(kd_safetensors_read(again, kd_safetensors_find(again, names[i]), &t) == KD_OK);
        same_data(tensors[i], t);
        kd_tensor_free(t);
    }
    kd_safetensors_close(again);
}

int kdfuzz_safetensors(const uint8_t *data, size_t size)
{
    if (!size) return 0;
    uint32_t flags = data[0] & KD_SAFETENSORS_LENIENT;   /* the first byte chooses */
    fuzz_begin(data + 1, size - 1);
    kd_safetensors *f;
    if (kd_safetensors_open(&f, NULL, "mem", flags) == KD_OK) {
        kd_tensor *tensors[MOST];
        const char *names[MOST];
        size_t kept = 0;
        uint64_t at = 0;
        for (size_t i = 0; i < kd_safetensors_count(f); i++) {
            kd_safetensors_info info = { .struct_size = sizeof info };
            FUZZ_MUST(kd_safetensors_at(f, i, &info) == KD_OK && kd_safetensors_find(f, info.name) == i);
            FUZZ_MUST((i == 0 || info.offset == at) && info.bytes <= size - 1 - info.offset);
            at = info.offset + info.bytes;
            kd_tensor *t;
            kd_status s = kd_safetensors_read(f, i, &t);
            FUZZ_MUST(s == KD_OK || s == KD_ERR_UNSUPPORTED);
            if (s == KD_OK && kept < MOST && strcmp(info.name, "__metadata__") != 0) {
                names[kept] = info.name;
                tensors[kept++] = t;
            } else {
                kd_tensor_free(t);
            }
        }
        FUZZ_MUST(kd_safetensors_count(f) == 0 || at == size - 1);
        kd_safetensors_metadata(f, "format");
        round_trip(names, tensors, kept);
        for (size_t i = 0; i < kept; i++) kd_tensor_free(tensors[i]);
        kd_safetensors_close(f);
    }
    fuzz_end();
    return 0;
}
