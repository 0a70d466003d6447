/* layer_container.c - sequence, residual, parallel.
 * SPDX-License-Identifier: MIT */
#include "nn/nn.h"

kd_layer *kd_layer_sequence(kd_layer *parent, const char *name)
{
    return kd__layer_new(parent, name, KD__LAYER_sequence, __func__);
}

kd_tensor *kd__layer_run_sequence(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    return kd__forward_children(self, tape, x, NULL);
}

/* ---- residual ------------------------------------------------------------------------------------------------- */

kd_layer *kd_layer_residual(kd_layer *parent, const char *name, uint32_t activation)
{
    kd_layer *self = kd__layer_new(parent, name, KD__LAYER_residual, __func__);
    if (kd__layer_is_poison(self)) return self;
    if (!kd__activation_name(activation))
        return kd__layer_fail(self, KD_ERR_ARG, "%s: activation %u is no KD_ACT_*", __func__, activation);
    self->u.activation = activation;
    return self;
}

static kd_layer *shortcut_of(const kd_layer *residual)
{
    kd_layer *child = residual->first;
    while (child && !child->is_shortcut) child = child->next;
    return child;
}

kd_layer *kd_layer_shortcut(kd_layer *residual, const char *name)
{
    if (residual && residual->model && residual->type != KD__LAYER_residual && !kd__layer_is_poison(residual))
        return kd__layer_fail(residual, KD_ERR_ARG, "%s: a %s layer has no shortcut", __func__, kd__layer_type_name(residual));
    kd_layer *before = residual ? shortcut_of(residual) : NULL;
    if (before) return kd__layer_fail(residual, KD_ERR_ARG, "%s: there is one already: \"%s\"", __func__, before->name);
    kd_layer *self = kd__layer_new(residual, name ? name : "shortcut", KD__LAYER_sequence, __func__);
    if (kd__layer_is_poison(self)) return self;
    self->is_shortcut = true;
    residual->children--;   /* it takes no position */
    return self;
}

kd_tensor *kd__layer_run_residual(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    kd_layer *shortcut = shortcut_of(self);
    kd__join join = { .residual = self, .shortcut = shortcut, .x = x };
    kd_tensor *branch = kd__forward_children(self, tape, x, &join);
    if (join.done) return branch;
    kd_tensor *direct = shortcut ? kd_layer_forward(shortcut, tape, x) : x;
    kd_tensor *sum = kd_add(tape, branch, direct);
    kd__release_unless(tape, branch, x, direct);
    kd__release_unless(tape, direct, x, NULL);
    kd__tap_store(tape, &self->tap_pre, sum);
    kd_tensor *y = kd__activate(tape, self->u.activation, sum);
    kd__release_unless(tape, sum, y, NULL);
    return y;
}

/* ---- parallel --------------------------------------------------------------------------------------------------- */

kd_layer *kd_layer_parallel(kd_layer *parent, const char *name, uint32_t join)
{
    kd_layer *self = kd__layer_new(parent, name, KD__LAYER_parallel, __func__);
    if (kd__layer_is_poison(self)) return self;
    if (join != KD_JOIN_SUM && join != KD_JOIN_CONCAT)
        return kd__layer_fail(self, KD_ERR_ARG, "%s: join %u is no KD_JOIN_*", __func__, join);
    self->u.join = join;
    return self;
}

kd_tensor *kd__layer_run_parallel(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    kd_tensor *parts[KD__MAX_PARALLEL], *y;
    size_t count = 0;
    for (kd_layer *child = self->first; child; child = child->next) parts[count++] = kd_layer_forward(child, tape, x);
    if (!kd__tape_ok(tape)) return kd__poison(tape);
    y = parts[0];
    if (self->u.join == KD_JOIN_SUM) {
        for (size_t i = 1; i < count; i++) {
            kd_tensor *sum = kd_add(tape, y, parts[i]);
            kd__release_unless(tape, y, x, sum);
            kd__release_unless(tape, parts[i], x, sum);
            y = sum;
        }
    } else if (count > 1) {
        size_t rank = kd_tensor_rank(parts[0]);
        y = kd_concat(tape, parts, count, rank ? rank - 1 : 0);
        for (size_t i = 0; i < count; i++) kd__release_unless(tape, parts[i], x, y);
    }
    return y;
}
