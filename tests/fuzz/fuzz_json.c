/* fuzz_json.c - any bytes as JSON.
 * SPDX-License-Identifier: MIT */
#include "fuzz.h"
#include "io/io_internal.h"
#include <stdlib.h>

int kdfuzz_json(const uint8_t *data, size_t size)
{
    char *text = malloc(size ? size : 1);
    if (!text) return 0;
    if (size) memcpy(text, data, size);
    kd__json j;
    kd__json_begin(&j, text, size);
    size_t depth = 0, tokens = 0, last = 0;
    for (kd__json_token t; (t = kd__json_next(&j)) > KD__JSON_END; tokens++) {
        FUZZ_MUST(j.at <= size && j.at > last && tokens <= size);   /* each token moves on */
        last = j.at;
        if (t == KD__JSON_OBJECT || t == KD__JSON_ARRAY) depth++;
        if (t == KD__JSON_OBJECT_END || t == KD__JSON_ARRAY_END) FUZZ_MUST(depth-- > 0);
        FUZZ_MUST(depth <= KD__JSON_DEPTH);
        if (t == KD__JSON_KEY || t == KD__JSON_STRING) {
            FUZZ_MUST(strlen(j.string) == j.length && kd__utf8_valid(j.string, j.length));
        }
    }
    FUZZ_MUST(j.error || depth == 0);
    FUZZ_MUST(j.at <= size);
    free(text);
    return 0;
}
