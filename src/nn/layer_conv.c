/* layer_conv.c - convolutions, features innermost.
 * SPDX-License-Identifier: MIT */
#include "autograd/after.h"
#include "nn/nn.h"

/* What both builders share: `axes` kernel sizes (2 or 1). */
static kd_layer *build(kd_layer *self, size_t in, size_t out, size_t axes, const size_t *kernel, int32_t bias,
                       const kd_conv_desc *desc, const char *function)
{
    kd_conv_desc_init(&self->u.conv, sizeof self->u.conv);
    kd_conv_desc *own = &self->u.conv;
    kd_status status = kd__desc_read(own, sizeof *own, desc, "kd_conv_desc");
    if (status != KD_OK) return kd__layer_fail(self, status, "%s: %s", function, kd_last_error());
    if (!in || !out) return kd__layer_fail(self, KD_ERR_ARG, "%s: in %zu, out %zu: both must be at least 1", function, in, out);
    if (own->algorithm > KD_CONV_WINOGRAD4)
        return kd__layer_fail(self, KD_ERR_ARG, "%s: algorithm %u is no KD_CONV_*", function, own->algorithm);
    if (!own->groups || in % own->groups || out % own->groups)
        return kd__layer_fail(self, KD_ERR_ARG, "%s: groups %u must divide in %zu and out %zu", function, own->groups, in, out);
    size_t shape[4], window = 1;
    for (size_t i = 0; i < axes; i++) {
        if (!kernel[i] || !own->stride[i] || !own->dilation[i])
            return kd__layer_fail(self, KD_ERR_ARG, "%s: axis %zu: kernel %zu, stride %u, dilation %u: all must be at least 1",
                                  function, i, kernel[i], own->stride[i], own->dilation[i]);
        if (!kd__mul(window, kernel[i], &window)) return kd__layer_fail(self, KD_ERR_OVERFLOW, "%s: kernel too large", function);
        shape[i] = kernel[i];
    }
    shape[axes] = in / own->groups;
    shape[axes + 1] = out;
    size_t fan_in, fan_out;
    if (!kd__mul(window, in / own->groups, &fan_in) || !kd__mul(window, out / own->groups, &fan_out))
        return kd__layer_fail(self, KD_ERR_OVERFLOW, "%s: weight %S is too large", function, axes + 2, shape);
    const kd__init init = { KD_INIT_FAN_IN_UNIFORM, 1.0f, 0.0f };
    kd__layer_param(self, "weight", axes + 2, shape, KD_PARAM_CONV, init, fan_in, fan_out);
    if (bias) kd__layer_param(self, "bias", 1, &out, KD_PARAM_PLAIN, init, fan_in, fan_out);
    return kd__layer_done(self);
}

kd_layer *kd_layer_conv2d(kd_layer *parent, const char *name, size_t in, size_t out, size_t kh, size_t kw, int32_t bias,
                          const kd_conv_desc *desc)
{
    kd_layer *self = kd__layer_new(parent, name, KD__LAYER_conv2d, __func__);
    if (kd__layer_is_poison(self)) return self;
    return build(self, in, out, 2, (size_t[]){ kh, kw }, bias, desc, __func__);
}

kd_tensor *kd__layer_run_conv2d(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    return kd__conv2d(tape, x, kd__slot(self, 0), kd__slot(self, 1), &self->u.conv, NULL, kd__layer_packed(self, tape));
}

kd_layer *kd_layer_conv1d(kd_layer *parent, const char *name, size_t in, size_t out, size_t k, int32_t bias,
                          const kd_conv_desc *desc)
{
    kd_layer *self = kd__layer_new(parent, name, KD__LAYER_conv1d, __func__);
    if (kd__layer_is_poison(self)) return self;
    return build(self, in, out, 1, &k, bias, desc, __func__);
}

kd_tensor *kd__layer_run_conv1d(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    return kd__conv1d(tape, x, kd__slot(self, 0), kd__slot(self, 1), &self->u.conv, NULL, kd__layer_packed(self, tape));
}
