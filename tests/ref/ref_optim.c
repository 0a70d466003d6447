/* ref_optim.c - see ref_optim.h.
 * SPDX-License-Identifier: MIT */
#include "ref_optim.h"
#include <math.h>

#define U 0x1p-24   /* half a unit in the last place of a float at 1 */

void ref_sgd_step(double *w, double g, double *v, const ref_sgd *s, double bound[2])
{
    double scaled = s->grad_scale * g, grad = scaled + s->weight_decay * *w;
    double size = fabs(scaled) + fabs(s->weight_decay * *w);   /* two roundings act on no more than this */
    double step = grad, step_error = 2 * U * size;
    if (s->use_momentum) {
        double old = *v;
        *v = s->first ? grad : s->momentum * old + (1 - s->dampening) * grad;
        bound[1] = 2 * U * size + (s->first ? 0 : 2 * U * (fabs(s->momentum * old) + size));
        step = s->nesterov ? grad + s->momentum * *v : *v;
        step_error = bound[1] + (s->nesterov ? s->momentum * bound[1] + 2 * U * size + U * fabs(step) : 0);
    } else {
        bound[1] = 0;
    }
    *w -= s->lr * step;
    bound[0] = s->lr * step_error + U * fabs(*w) + 1e-44;
    bound[1] += 1e-44;
}

void ref_adam_step(double *w, double g, double *m, double *v, const ref_adam *s, double bound[3])
{
    double scaled = s->grad_scale * g, decay = s->decoupled ? 0 : s->weight_decay;
    double grad = scaled + decay * *w, size = fabs(scaled) + fabs(decay * *w), grad_error = 2 * U * size;
    double m_size = fabs(*m) + size;
    *m = s->beta1 * *m + (1 - s->beta1) * grad;
    bound[1] = (1 - s->beta1) * (grad_error + 2 * U * m_size) + U * fabs(*m);
    *v = s->beta2 * *v + (1 - s->beta2) * grad * grad;
    bound[2] = (1 - s->beta2) * 2 * fabs(grad) * grad_error + 4 * U * *v + 1e-44;
    double c1 = 1 - pow(s->beta1, s->t), c2 = 1 - pow(s->beta2, s->t);
    double below = sqrt(*v / c2) + s->eps, step = s->lr / c1;
    double keep = s->decoupled ? 1 - s->lr * s->weight_decay : 1, update = step * *m / below;
    /* relative: sqrt halves that of v, then five roundings (root, correction, quotient, sum, eps); three above, and
     * the quotient */
    double relative = (*v > 0 ? bound[2] / *v / 2 : 0) + 9 * U;
    *w = keep * *w - update;
    bound[0] = step / below * bound[1] + fabs(update) * relative + 3 * U * (fabs(*w) + fabs(update)) + 1e-44;
    bound[1] += 1e-44;
}

double ref_cosine_factor(double s, double total, double final)
{
    return s >= total ? final : final + (1 - final) * (1 + cos(3.14159265358979323846 * s / total)) / 2;
}
