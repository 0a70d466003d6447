/* feature_layers.c - adapters of several feature methods, and what they draw.
 * SPDX-License-Identifier: MIT */
#include "distill/feature.h"
#include <math.h>

static kd_tensor *pass(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)self, (void)tape, (void)user;
    return x;
}

kd_layer *kd__holder(kd_layer *parent, const char *name)
{
    kd_block_desc d = { .struct_size = sizeof d, .type = "adapter", .forward = pass };
    return kd_layer_block(parent, name, &d);
}

void kd__point_layer(kd_layer *parent, const char *name, const kd_feature_shape *shape, size_t in, size_t out, bool bias)
{
    if (shape->rank == 3) kd_layer_conv2d(parent, name, in, out, 1, 1, bias, NULL);
    else kd_layer_linear(parent, name, in, out, bias);
}

kd_layer *kd__same_conv(kd_layer *parent, const char *name, size_t in, size_t out, size_t k, bool bias)
{
    kd_conv_desc d;
    kd_conv_desc_init(&d, sizeof d);
    d.padding[0] = d.padding[1] = (uint32_t)(k / 2);
    return kd_layer_conv2d(parent, name, in, out, k, k, bias, &d);
}

void kd__generator(kd_layer *parent, size_t channels)
{
    kd_layer *g = kd_layer_sequence(parent, "generation");
    kd__same_conv(g, "0", channels, channels, 3, true);
    kd_layer_activation(g, "1", KD_ACT_RELU);
    kd__same_conv(g, "2", channels, channels, 3, true);
}

void kd__projector(kd_layer *p, size_t in, size_t width, size_t out, bool norm_last)
{
    const size_t size[4] = { in, width, width, out };
    for (size_t k = 0; k < 3; k++) {
        char name[3][24];
        for (size_t l = 0; l < 3; l++) kd__format(name[l], sizeof name[l], "%zu", 3 * k + l);
        kd__same_conv(p, name[0], size[k], size[k + 1], k == 1 ? 3 : 1, false);
        if (k == 2 && !norm_last) break;
        kd_layer_batch_norm(p, name[1], size[k + 1], 0.1f, 1e-5f);
        kd_layer_activation(p, name[2], KD_ACT_RELU);
    }
}

size_t kd__share(float share, size_t n) { return (size_t)((double)share * (double)n * (1 + 1e-6)); }

kd_tensor *kd__draw_keep(kd_tape *tape, size_t rank, const size_t *shape, float p)
{
    kd_tensor *keep = kd__tape_ok(tape) ? kd__tape_new(tape, KD_F32, rank, shape) : NULL;
    if (!keep) return kd__poison(tape);
    kd_rng rng = kd_rng_split(&tape->rng, tape->rng.index++);
    float *x = keep->data;
    for (size_t i = 0; i < keep->count; i++) x[i] = kd_rng_uniform(&rng) < p ? 0.0f : 1.0f;
    return keep;
}

kd_tensor *kd__draw_tokens(kd_tape *tape, size_t rows, size_t tokens, size_t masked)
{
    kd_tensor *keep = kd__tape_ok(tape) ? kd__tape_new(tape, KD_F32, 2, (size_t[]){ rows, tokens }) : NULL;
    if (!keep) return kd__poison(tape);
    kd_rng rng = kd_rng_split(&tape->rng, tape->rng.index++);
    float *x = keep->data;
    for (size_t r = 0; r < rows; r++, x += tokens)
        for (size_t i = 0, left = masked; i < tokens; i++) {   /* each token with the share that is left */
            x[i] = kd_rng_below(&rng, tokens - i) < left ? 0.0f : 1.0f;
            left -= x[i] < 1;
        }
    return keep;
}

/* ---- scale |w (a - b)|, its square root and all --------------------------------------------------------------------------- */

static kd_status distance(const kd__core *c, double *value)
{
    const kd__kernels *k = c->kernels;
    const float scale = *(const float *)c->user;
    const size_t n = c->in[0]->count, rows = c->in[2] ? c->in[2]->count : 1, each = n / rows;
    float *d = kd__scratch_get(c->ctx, (c->in[2] ? 2 : 1) * n * sizeof *d), *e = c->in[2] ? d + n : d;
    if (!d) return kd__fail(KD_ERR_NOMEM, "out of memory");
    k->binary_f32(KD_BINARY_SUB, d, each, (kd__operand){ c->x[0], each, 1 }, (kd__operand){ c->x[1], each, 1 }, rows, each);
    if (c->in[2]) k->binary_f32(KD_BINARY_MUL, e, each, (kd__operand){ d, each, 1 }, (kd__operand){ c->x[2], 1, 0 }, rows, each);
    k->dot_f32(value, d, e, n);
    const double root = *value > 0 ? sqrt(*value) : 0, by = root > 0 ? (double)scale / root : 0;
    *value = (double)scale * root;
    for (int i = 0; i < 2; i++)
        if (c->grad[i]) k->unary_f32(KD_UNARY_SCALE_ADD, c->grad[i], e, n, (float)(i ? -by : by), 0);
    kd__scratch_put(c->ctx, d);
    return KD_OK;
}

kd_tensor *kd__distance(kd_tape *tape, const char *name, kd_tensor *a, kd_tensor *b, kd_tensor *w, float scale)
{
    return kd__core_run(tape, name, (kd_tensor *[]){ a, b, w }, 3, distance, &scale);
}

/* ---- embeddings of one pair of taps: CC, CRD ------------------------------------------------------------------------- */

void kd__embed_pair(const kd_loss_feature_desc *d, kd_layer *root)
{
    kd_layer_linear(kd_layer_sequence(root, "s0"), "linear", kd__feature_size(&d->student[0]), d->width, 1);
    kd_layer_linear(kd_layer_sequence(root, "t0"), "linear", kd__feature_size(&d->teacher[0]), d->width, 1);
}

void kd__embed_pair_forward(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in, kd_tensor *e[2])
{
    e[0] = kd__adapter_forward(loss, tape, "s0", kd_flatten(tape, in->student[0]));
    e[1] = kd__adapter_forward(loss, tape, "t0", kd_flatten(tape, in->teacher[0]));
}

void kd__unit_backward(const kd__kernels *k, size_t n, size_t w, const float *unit, const float *norm, float *g)
{
    for (size_t r = 0; r < n; r++, unit += w, g += w) {
        double dot;
        k->dot_f32(&dot, g, unit, w);
        if (norm[r] >= 1e-12f) k->axpy_f32(g, unit, w, (float)-dot);
        k->unary_f32(KD_UNARY_SCALE_ADD, g, g, w, norm[r] >= 1e-12f ? 1 / norm[r] : 0, 0);
    }
}
