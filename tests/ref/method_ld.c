/* method_ld.c - localisation distributions.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* sum w T^2 / bins KL / alpha; or sum w T^2 KL / sum w; or sum w T^2 / bins KL / sum w */
static double loss(const method_in *x)
{
    double total = 0;
    for (size_t k = 0; k < x->taps; k++) {
        size_t bins = x->s[k].size[x->s[k].rank - 1], edges = x->rows * x->s[k].each / bins;
        double sum = 0, all = 0;
        for (size_t e = 0; e < edges; e++) {
            double w = x->mask ? x->mask[e] : 1;
            sum += w * x->T * x->T * mr_kl_logits(x->t[k].data + e * bins, x->s[k].data + e * bins, bins, x->T);
            all += w;
        }
        if (all == 0) continue;
        total += x->form == KD_FORM_PAPER ? sum / all : sum / (double)bins / (x->form == KD_FORM_THIRD ? all : x->alpha);
    }
    return total;
}

/* {bins}, {edges, bins} and {boxes, 4, bins}; the pairs have as many edges. */
static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = draw(rand, 1, 2);
    size_t rank = draw(rand, 1, 3), boxes = draw(rand, 1, 3);
    for (size_t k = 0; k < x->taps; k++) {
        size_t bins = draw(rand, 1, 19);
        x->s[k] = (method_tap){ .rank = rank, .size = { rank == 2 ? 4 * boxes : boxes, 4 } };
        x->s[k].size[rank - 1] = bins;
        if (rank == 1) x->s[k].size[1] = 0;
        x->t[k] = x->s[k];
    }
}

static double size(const method_in *x) { return (double)(x->taps * x->rows) * x->T * (x->T + 4); }
static void paper(kd_loss_feature_desc *d) { d->form = KD_FORM_PAPER; }
static void third(kd_loss_feature_desc *d) { d->form = KD_FORM_THIRD; }

const method_feature method_feature_LD = {
    .loss = loss, .size = size, .shapes = shapes,
    .needs = METHOD_MASK,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .options = { { "default", NULL }, { "paper", paper }, { "third", third } },
};
