/* zoo.h - what the named architectures share.
 * SPDX-License-Identifier: MIT */
#ifndef KD__ZOO_H
#define KD__ZOO_H
#include "nn/nn.h"

/* Add the layers of an architecture to `root`; a, b: its numbers in the table of names (zoo.c).  Errors are the model's. */
typedef void kd__zoo_build(kd_layer *root, size_t a, size_t b, size_t classes);
void kd__zoo_resnet_cifar(kd_layer *root, size_t a, size_t b, size_t classes);
void kd__zoo_resnet(kd_layer *root, size_t a, size_t b, size_t classes);
void kd__zoo_wrn(kd_layer *root, size_t a, size_t b, size_t classes);
void kd__zoo_vgg(kd_layer *root, size_t a, size_t b, size_t classes);
void kd__zoo_mobilenetv2(kd_layer *root, size_t a, size_t b, size_t classes);
void kd__zoo_shufflenetv1(kd_layer *root, size_t a, size_t b, size_t classes);
void kd__zoo_shufflenetv2(kd_layer *root, size_t a, size_t b, size_t classes);
void kd__zoo_regnety(kd_layer *root, size_t a, size_t b, size_t classes);
/* The sizes that a name like "vit_tiny_patch16_224" says; false if it is none. */
bool kd__zoo_vit_named(kd_vit_desc *d, const char *name);

/* A model made by `build`. */
kd_status kd__zoo_make(kd_model **out, kd_context *ctx, kd__zoo_build *build, size_t a, size_t b, size_t classes, uint64_t seed);
/* Finish the model and hand it out, or free it: how a zoo function ends. */
kd_status kd__zoo_finish(kd_model **out, kd_model *model, uint64_t seed);
/* A 2-d convolution without bias, kernel x kernel, padding kernel / 2; initialised normal with variance 2 / (kernel^2 out), what
 * the field calls Kaiming normal over the fan out. */
kd_layer *kd__zoo_conv(kd_layer *parent, const char *name, size_t in, size_t out, size_t kernel, size_t stride, size_t groups);
/* Batch norm with the field's constants: momentum 0.1, eps 1e-5. */
kd_layer *kd__zoo_batch_norm(kd_layer *parent, const char *name, size_t channels);
/* convI, bnI and, if wanted, reluI ("relu" for 1); i = 0: named by their positions.  Returns the convolution. */
kd_layer *kd__zoo_unit(kd_layer *parent, size_t i, size_t in, size_t out, size_t kernel, size_t stride, size_t groups, bool relu);
/* A sequence named prefix and i. */
kd_layer *kd__zoo_stage(kd_layer *parent, const char *prefix, size_t i);
/* A block without numbers of its own. */
kd_layer *kd__zoo_block(kd_layer *parent, const char *name, const char *type,
                        kd_tensor *(*forward)(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user));
/* Inside a block's forward: its children from `first` to `last`, one after the other.  What stands behind `last`
 * must be nothing that one op would do with it (layer_chain.c). */
kd_tensor *kd__zoo_run(kd_layer *self, const char *first, const char *last, kd_tape *tape, kd_tensor *x);
#endif
