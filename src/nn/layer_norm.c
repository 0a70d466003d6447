/* layer_norm.c - batch, layer and group normalisation.
 * SPDX-License-Identifier: MIT */
#include "autograd/norm.h"
#include "nn/nn.h"

static const kd__init ones = { KD_INIT_ONES, 0.0f, 0.0f }, zeros = { KD_INIT_ZEROS, 0.0f, 0.0f };

/* weight and bias [channels]; false: the model has the error. */
static bool affine(kd_layer *self, size_t channels, float eps, const char *function)
{
    if (!channels) kd__layer_fail(self, KD_ERR_ARG, "%s: 0 channels", function);
    else if (!(eps > 0.0f && eps <= 1.0f))
        kd__layer_fail(self, KD_ERR_ARG, "%s: eps %g: must be in (0, 1]", function, (double)eps);
    kd__layer_param(self, "weight", 1, &channels, KD_PARAM_PLAIN, ones, channels, channels);
    kd__layer_param(self, "bias", 1, &channels, KD_PARAM_PLAIN, zeros, channels, channels);
    self->u.norm.eps = eps;
    return self->model->status == KD_OK;
}

kd_layer *kd_layer_batch_norm(kd_layer *parent, const char *name, size_t channels, float momentum, float eps)
{
    kd_layer *self = kd__layer_new(parent, name, KD__LAYER_batch_norm, __func__);
    if (kd__layer_is_poison(self)) return self;
    if (!(momentum >= 0.0f && momentum <= 1.0f))
        return kd__layer_fail(self, KD_ERR_ARG, "%s: momentum %g: must be in [0, 1]", __func__, (double)momentum);
    if (affine(self, channels, eps, __func__)) {
        self->u.norm.momentum = momentum;
        const uint32_t kind = KD_PARAM_PLAIN | KD_PARAM_BUFFER;
        kd__layer_param(self, "running_mean", 1, &channels, kind, zeros, channels, channels);
        kd__layer_param(self, "running_var", 1, &channels, kind, ones, channels, channels);
    }
    return kd__layer_done(self);
}

kd_tensor *kd__layer_run_batch_norm(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    return kd__batch_norm(tape, x, kd__slot(self, 0), kd__slot(self, 1), kd__slot(self, 2), kd__slot(self, 3),
                          self->u.norm.momentum, self->u.norm.eps, self->model->frozen, NULL);
}

kd_layer *kd_layer_layer_norm(kd_layer *parent, const char *name, size_t features, float eps)
{
    kd_layer *self = kd__layer_new(parent, name, KD__LAYER_layer_norm, __func__);
    if (kd__layer_is_poison(self)) return self;
    affine(self, features, eps, __func__);
    return kd__layer_done(self);
}

kd_tensor *kd__layer_run_layer_norm(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    return kd_layer_norm(tape, x, kd__slot(self, 0), kd__slot(self, 1), self->u.norm.eps);
}

kd_layer *kd_layer_group_norm(kd_layer *parent, const char *name, size_t groups, size_t channels, float eps)
{
    kd_layer *self = kd__layer_new(parent, name, KD__LAYER_group_norm, __func__);
    if (kd__layer_is_poison(self)) return self;
    if (!groups || groups > UINT32_MAX || channels % groups)
        return kd__layer_fail(self, KD_ERR_ARG, "%s: groups %zu must divide channels %zu", __func__, groups, channels);
    self->u.norm.groups = (uint32_t)groups;
    affine(self, channels, eps, __func__);
    return kd__layer_done(self);
}

kd_tensor *kd__layer_run_group_norm(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    return kd_group_norm(tape, x, kd__slot(self, 0), kd__slot(self, 1), self->u.norm.groups, self->u.norm.eps);
}
