/* method_mgd.c - masked generative distillation.  The masks are drawn again, from the stream a tape begins with.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static double loss(const method_in *x)
{
    const kd_rng begin = kd_rng_make(0);
    double total = 0;
    for (size_t k = 0; k < x->taps; k++) {
        const method_tap *s = &x->s[k], *t = &x->t[k];
        const size_t h = s->size[0], w = s->size[1], c = t->size[2], n = x->rows * t->each;
        size_t oh, ow;
        char align[48], first[48], second[48];
        snprintf(align, sizeof align, "s%zu.align", k);
        snprintf(first, sizeof first, "s%zu.generation.0", k), snprintf(second, sizeof second, "s%zu.generation.2", k);
        double *y = mr_new(n);
        memcpy(y, s->size[2] == c ? s->data : mr_adapter_conv(x, align, s->data, x->rows, h, w, 1, 0, &oh, &ow), n * sizeof *y);
        if (x->train && x->gamma > 0) {
            kd_rng draw = kd_rng_split(&begin, k);
            const int pixels = x->form == KD_FORM_PAPER;
            for (size_t r = 0; r < x->rows; r++)
                for (size_t m = 0; m < (pixels ? h * w : c); m++) {
                    if ((double)kd_rng_uniform(&draw) >= x->gamma) continue;
                    for (size_t i = 0; i < (pixels ? c : h * w); i++) y[r * h * w * c + (pixels ? m * c + i : i * c + m)] = 0;
                }
        }
        y = mr_adapter_conv(x, first, y, x->rows, h, w, 1, 1, &oh, &ow);
        mr_relu(y, n);
        y = mr_adapter_conv(x, second, y, x->rows, h, w, 1, 1, &oh, &ow);
        total += mr_distance2(y, t->data, n) / (double)x->rows;
    }
    return total;
}

static void pixels(kd_loss_feature_desc *d) { d->form = KD_FORM_PAPER, d->gamma = .65f; }
static void kept(kd_loss_feature_desc *d) { d->gamma = 0; }

const method_feature method_feature_MGD = {
    .loss = loss,
    .kind = METHOD_MAPS, .same = METHOD_SAME_SIZE, .taps_high = 2, .memory = 16,   /* align, mask, generator: ten maps a pair */
    .but = METHOD_KINKS | METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "pixels", pixels }, { "all kept", kept } },
};
