/* zoo.h - what the named architectures share.
 * SPDX-License-Identifier: MIT */
#ifndef KD__ZOO_H
#define KD__ZOO_H
#include "nn/nn.h"

/* Finish the model and hand it out, or free it: how a zoo function ends. */
kd_status kd__zoo_finish(kd_model **out, kd_model *model, uint64_t seed);
/* A 2-d convolution without bias, kernel x kernel, padding kernel / 2, as residual networks use it; initialised Kaiming
 * normal over the fan out. */
kd_layer *kd__zoo_conv(kd_layer *parent, const char *name, size_t in, size_t out, size_t kernel, size_t stride);
/* Batch norm with the field's constants: momentum 0.1, eps 1e-5. */
kd_layer *kd__zoo_batch_norm(kd_layer *parent, const char *name, size_t channels);
#endif
