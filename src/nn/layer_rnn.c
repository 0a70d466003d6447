/* layer_rnn.c - stacks of LSTM and GRU, and the last step of a sequence.
 * SPDX-License-Identifier: MIT */
#include "nn/nn.h"
#include <math.h>

static const kd_rnn_desc defaults = { .struct_size = sizeof(kd_rnn_desc), .layers = 1, .bias = 1 };
void kd_rnn_desc_init(kd_rnn_desc *desc, size_t struct_size) { kd__desc_write(desc, struct_size, &defaults, sizeof defaults); }

/* A parameter named as PyTorch does: "weight_ih_l0", "bias_hh_l1_reverse". */
static void add_param(kd_layer *self, const char *what, uint32_t layer, bool reverse, size_t rows, size_t columns, size_t hidden)
{
    char name[48];
    const float bound = (float)(1.0 / sqrt((double)hidden));
    const kd__init init = { KD_INIT_UNIFORM, -bound, bound };
    kd__format(name, sizeof name, "%s_l%u%s", what, layer, reverse ? "_reverse" : "");
    if (rows) kd__layer_param(self, name, 2, (size_t[]){ rows, columns }, KD_PARAM_LINEAR, init, rows, columns);
    else kd__layer_param(self, name, 1, &columns, KD_PARAM_PLAIN, init, hidden, columns);
}

static kd_layer *build(kd_layer *self, size_t in, size_t hidden, size_t gates, const kd_rnn_desc *desc, const char *function)
{
    kd_rnn_desc *own = &self->u.rnn;
    *own = defaults;
    kd_status status = kd__desc_read(own, sizeof *own, desc, "kd_rnn_desc");
    if (status != KD_OK) return kd__layer_fail(self, status, "%s: %s", function, kd_last_error());
    if (!in || !hidden)
        return kd__layer_fail(self, KD_ERR_ARG, "%s: in %zu, hidden %zu: both must be at least 1", function, in, hidden);
    if (!own->layers) return kd__layer_fail(self, KD_ERR_ARG, "%s: layers is 0", function);
    if (!(own->dropout >= 0.0f && own->dropout < 1.0f))
        return kd__layer_fail(self, KD_ERR_ARG, "%s: dropout %g: must be in [0, 1)", function, (double)own->dropout);
    size_t width;
    if (!kd__mul(gates, hidden, &width)) return kd__layer_fail(self, KD_ERR_OVERFLOW, "%s: hidden %zu is too large", function, hidden);
    const size_t directions = own->bidirectional ? 2 : 1;
    for (uint32_t layer = 0; layer < own->layers && self->model->status == KD_OK; layer++)
        for (size_t d = 0; d < directions; d++) {
            add_param(self, "weight_ih", layer, d == 1, layer ? directions * hidden : in, width, hidden);
            add_param(self, "weight_hh", layer, d == 1, hidden, width, hidden);
            if (!own->bias) continue;
            add_param(self, "bias_ih", layer, d == 1, 0, width, hidden);
            add_param(self, "bias_hh", layer, d == 1, 0, width, hidden);
        }
    return kd__layer_done(self);
}

kd_layer *kd_layer_lstm(kd_layer *parent, const char *name, size_t in, size_t hidden, const kd_rnn_desc *desc)
{
    kd_layer *self = kd__layer_new(parent, name, KD__LAYER_lstm, __func__);
    return kd__layer_is_poison(self) ? self : build(self, in, hidden, 4, desc, __func__);
}

kd_layer *kd_layer_gru(kd_layer *parent, const char *name, size_t in, size_t hidden, const kd_rnn_desc *desc)
{
    kd_layer *self = kd__layer_new(parent, name, KD__LAYER_gru, __func__);
    return kd__layer_is_poison(self) ? self : build(self, in, hidden, 3, desc, __func__);
}

static kd_tensor *one_direction(const kd_layer *self, kd_tape *tape, kd_tensor *x, kd__param **next, int32_t reverse)
{
    kd_tensor *p[4] = { NULL };
    for (size_t i = 0; i < (self->u.rnn.bias ? 4u : 2u); i++, *next = (*next)->next) p[i] = &(*next)->tensor;
    if (self->type == KD__LAYER_lstm) return kd_lstm(tape, x, NULL, NULL, p[0], p[1], p[2], p[3], reverse, NULL, NULL);
    return kd_gru(tape, x, NULL, p[0], p[1], p[2], p[3], reverse, NULL);
}

static kd_tensor *run(const kd_layer *self, kd_tape *tape, kd_tensor *input)
{
    const kd_rnn_desc *desc = &self->u.rnn;
    kd__param *next = self->first_param;
    kd_tensor *x = input;
    for (uint32_t layer = 0; layer < desc->layers; layer++) {
        if (layer && desc->dropout > 0.0f) x = kd_dropout(tape, x, desc->dropout);
        const size_t mark = kd__tape_block_mark(tape);
        kd_tensor *y = one_direction(self, tape, x, &next, 0);
        if (desc->bidirectional) {
            kd_tensor *back = one_direction(self, tape, x, &next, 1);
            y = kd_concat(tape, (kd_tensor *[]){ y, back }, 2, 2);
        }
        kd__tape_release_since(tape, mark, y);
        kd__release_unless(tape, x, input, y);
        x = y;
    }
    return x;
}

kd_tensor *kd__layer_run_lstm(kd_layer *self, kd_tape *tape, kd_tensor *x) { return run(self, tape, x); }

kd_tensor *kd__layer_run_gru(kd_layer *self, kd_tape *tape, kd_tensor *x) { return run(self, tape, x); }

kd_layer *kd_layer_last_step(kd_layer *parent, const char *name)
{
    return kd__layer_new(parent, name, KD__LAYER_last_step, __func__);
}

kd_tensor *kd__layer_run_last_step(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    (void)self;
    if (x->rank != 3 || !x->shape[1])
        return kd__tape_fail_in(tape, "kd_layer_last_step", kd__fail(KD_ERR_SHAPE, "kd_layer_last_step: x %S is not [n, t, c] with "
                                                                     "a step", (size_t)x->rank, x->shape));
    const size_t shape[] = { x->shape[0], x->shape[2] };
    kd_tensor *step = kd_slice(tape, x, 1, x->shape[1] - 1, x->shape[1]);
    kd_tensor *y = kd_reshape(tape, step, 2, shape);
    kd__release_unless(tape, step, x, y);
    return y;
}
