/* rows.c - see rows.h.
 * SPDX-License-Identifier: MIT */
#include "rows.h"
#include <math.h>
#include <string.h>

void largest_of_rows(const float *z, size_t rows, size_t classes, size_t kept, float *values, int32_t *which)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < kept; k++) {
            int32_t best = -1;
            for (int32_t c = 0; c < (int32_t)classes; c++) {
                int taken = 0;
                for (size_t j = 0; j < k; j++) taken |= which[i * kept + j] == c;
                if (!taken && (best < 0 || z[i * classes + (size_t)c] > z[i * classes + (size_t)best])) best = c;
            }
            which[i * kept + k] = best;
            values[i * kept + k] = z[i * classes + (size_t)best];
        }
}

void outputs_before(float *table, const uint32_t *items, const float *now, size_t rows, size_t classes, float *before)
{
    for (size_t i = 0; i < rows; i++) {
        float *old = table + (size_t)items[i] * classes;
        const float *row = now + i * classes;
        memcpy(before + i * classes, isnan(old[0]) ? row : old, classes * sizeof *old);
        memcpy(old, row, classes * sizeof *old);
    }
}
