/* fuzz_arrays.c - any bytes as NPY, IDX and CSV.
 * SPDX-License-Identifier: MIT */
#include "fuzz.h"

/* Touch every element, so that a sanitizer sees them; no more elements than the file could have held. */
static void look(kd_tensor *t, size_t size)
{
    size_t bytes = kd_tensor_count(t) * kd_dtype_size(kd_tensor_dtype(t));
    const uint8_t *p = kd_tensor_data(t);
    volatile uint8_t sum = 0;
    FUZZ_MUST(bytes <= 4 * size);
    for (size_t i = 0; i < bytes; i++) sum = (uint8_t)(sum + p[i]);
    kd_tensor_free(t);
}

int kdfuzz_npy(const uint8_t *data, size_t size)
{
    kd_tensor *t;
    fuzz_begin(data, size);
    if (kd_npy_load(&t, NULL, "mem") == KD_OK) look(t, size);
    fuzz_end();
    return 0;
}

int kdfuzz_idx(const uint8_t *data, size_t size)
{
    kd_tensor *t;
    fuzz_begin(data, size);
    if (kd_idx_load(&t, NULL, "mem") == KD_OK) look(t, size);
    fuzz_end();
    return 0;
}

/* The first two bytes choose the separator and the lines to skip. */
int kdfuzz_csv(const uint8_t *data, size_t size)
{
    kd_tensor *t;
    if (size < 2) return 0;
    fuzz_begin(data + 2, size - 2);
    if (kd_csv_load(&t, NULL, "mem", data[0], data[1] % 4) == KD_OK) look(t, size);
    fuzz_end();
    return 0;
}
