/* method_cosine.c - cosine of hidden states.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* sum over pairs of  sum_r m_r (1 - cos(s_r, t_r)) / sum_r m_r */
static double loss(const method_in *x)
{
    double total = 0;
    for (size_t k = 0; k < x->taps; k++) {
        size_t width = x->s[k].size[x->s[k].rank - 1], tokens = x->rows * x->s[k].each / width;
        double sum = 0, count = 0;
        for (size_t r = 0; r < tokens; r++) {
            const double *s = x->s[k].data + r * width, *t = x->t[k].data + r * width;
            double m = x->mask ? x->mask[r] : 1;
            sum += m * (1 - mr_dot(s, t, width) / sqrt((mr_dot(s, s, width) + 1e-12) * (mr_dot(t, t, width) + 1e-12)));
            count += m;
        }
        total += count > 0 ? sum / count : 0;
    }
    return total;
}

static double size(const method_in *x) { return (double)x->taps; }

const method_feature method_feature_COSINE = {
    .loss = loss, .size = size,
    .kind = METHOD_TOKENS, .same = METHOD_SAME_SIZE | METHOD_SAME_WIDTH,
    .taps_low = 1, .taps_high = 2, .width_low = 3,
    .needs = METHOD_MASK,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
};
