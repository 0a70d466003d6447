/* fuzz_model.c - any bytes as the weights of a model: loaded whole, or nothing has changed.
 * SPDX-License-Identifier: MIT */
#include "fuzz.h"
#include "io/io_internal.h"
#include <stdlib.h>

static kd_model *make(void)
{
    kd_model *m;
    FUZZ_MUST(kd_model_create(&m, NULL) == KD_OK);
    kd_layer *root = kd_model_root(m);
    kd_layer_linear(root, "c", 2, 2, 1);
    kd_layer_batch_norm(root, "n", 2, 0.1f, 1e-5f);
    kd_layer_linear(root, "f", 2, 3, 1);
    FUZZ_MUST(kd_model_finish(m, 1) == KD_OK);
    return m;
}

int kdfuzz_model(const uint8_t *data, size_t size)
{
    if (!size) return 0;
    static kd_model *m;
    if (!m) m = make();
    size_t weights, buffers;
    float *w = kd_model_weights(m, &weights), *b = kd_model_buffers(m, &buffers);
    float *keep = malloc((weights + buffers) * sizeof *keep);
    if (!keep) return 0;
    memcpy(keep, w, weights * sizeof *w);
    memcpy(keep + weights, b, buffers * sizeof *b);
    fuzz_begin(data + 1, size - 1);
    if (kd_model_load(m, "mem", data[0] & 3) != KD_OK) {
        FUZZ_MUST(memcmp(keep, w, weights * sizeof *w) == 0 && memcmp(keep + weights, b, buffers * sizeof *b) == 0);
    } else {
        FUZZ_MUST(kd_model_save(m, "mem") == KD_OK);
        memcpy(keep, w, weights * sizeof *w);
        memset(w, 0, weights * sizeof *w);
        FUZZ_MUST(kd_model_load(m, "mem", 0) == KD_OK);
        FUZZ_MUST(memcmp(keep, w, weights * sizeof *w) == 0);
        FUZZ_MUST(kd_model_set_input_norm(m, 0, NULL, NULL) == KD_OK);
    }
    fuzz_end();
    free(keep);
    return 0;
}
