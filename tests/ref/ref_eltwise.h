/* ref_eltwise.h - elementwise functions, their slopes and broadcasting, in double, straight from the formulas.
 * SPDX-License-Identifier: MIT */
#ifndef REF_ELTWISE_H
#define REF_ELTWISE_H
#include <stddef.h>

/* f(x) for the op called `name` ("exp", "gelu" ...).  p, q: slope of leaky_relu, bounds of clamp, scale and shift. */
double ref_unary(const char *name, double x, double p, double q);
/* f'(x). */
double ref_unary_slope(const char *name, double x, double p, double q);

/* a op b for op in + - * /, and its derivatives. */
double ref_binary(char op, double a, double b);
double ref_binary_da(char op, double a, double b);
double ref_binary_db(char op, double a, double b);

/* NumPy's rule: fills out[] and returns its rank, or -1 when the shapes do not go together. */
int ref_broadcast_shape(size_t arank, const size_t *ashape, size_t brank, const size_t *bshape, size_t *out);
/* The element of a tensor of shape `shape` that meets element `index` (flat) of the result. */
size_t ref_broadcast_index(size_t rank, const size_t *shape, size_t orank, const size_t *oshape, size_t index);
#endif
