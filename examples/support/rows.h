/* rows.h - rows of outputs: what sparse teachers and self-teaching methods do with them.  Plain C, no libkd inside.
 * SPDX-License-Identifier: MIT */
#ifndef ROWS_H
#define ROWS_H
#include <stddef.h>
#include <stdint.h>

/* The `kept` largest of each row of z [rows, classes], largest first, equal ones in their order: values and classes [rows, kept]. */
void largest_of_rows(const float *z, size_t rows, size_t classes, size_t kept, float *values, int32_t *which);

/* What each item's outputs were when it came last: table [items of the data set, classes], NaN before an item has come.  before
 * [rows, classes] becomes those of `items`, or where there are none the present ones, now; then now is remembered. */
void outputs_before(float *table, const uint32_t *items, const float *now, size_t rows, size_t classes, float *before);
#endif
