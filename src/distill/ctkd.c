/* ctkd.c - curriculum temperature (Li, Li, Yang, Zhao, Song, Luo, Li, Yang 2023, arXiv 2211.16231), one temperature for all.
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / B sum_b KL(p_b || q_b),  T = 1 + gamma sigmoid(theta),  p, q softened by T
 *     theta, one number, is the loss's own (kd_loss_distill_adapters): it climbs while the student descends.  Its gradient is multiplied by
 *     -lambda, lambda = alpha (1 - cos(pi min((advances + 1) / beta, 1))) / 2;  advances: calls of kd_loss_distill_advance, one an epoch
 * Gradient: T (q - p) / B for the student; for theta -lambda (2 KL / T + dKL/dT) T^2 gamma sigmoid'(theta), meaned over rows, with
 *     dKL/dT = -1/T (sum_k p (log p - log q - KL) log p + sum_k (q - p) log q).
 * Divides by: rows (B).  T^2 is differentiated too; temperature_squared 0 leaves it out of both.
 * Detached: the teacher's logits; its softened probabilities move with T.
 * Defaults: theta 1 (T 15.6), gamma 20, alpha 1, beta 10 epochs, hard_weight .1, soft_weight .9; `temperature` is not used.
 * Forms: one.
 * Traps: the public code's own defaults leave lambda at 0, and T at 15.62 for ever (or divide by zero): the paper's numbers come with its
 *     scripts' flags, which are the defaults here.  A port lets lambda go from 1 to 0 without turning the sign: that is not adversarial.
 *     theta is among what the optimizer decays.  T stays within (1, 1 + gamma) whatever theta is.  Built on DKD users met NaN: here KL and its
 *     derivative are in log space.
 * Published: CIFAR-100 ResNet56 -> 20 71.19, ResNet110 -> 32 73.52, ResNet32x4 -> 8x4 73.39; ImageNet ResNet-34 -> 18 71.32.
 * Cost: four rows of scratch; one number in the checkpoint. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d) { d->alpha = 1, d->beta = 10, d->gamma = 20; }

static kd_status check(const kd_loss_distill_desc *d)
{
    KD_TRY(kd__number_check("alpha", d->alpha, 0));
    KD_TRY(kd__number_check("beta", d->beta, 0));
    if (!(d->gamma > 0 && d->gamma <= 1e4f))
        return kd__fail(KD_ERR_ARG, "kd_loss_distill: ctkd: gamma %g is not in (0, 1e4]", (double)d->gamma);
    return KD_OK;
}

/* A block that holds theta; nothing runs it. */
static kd_tensor *forward(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)self, (void)tape, (void)user;
    return x;
}

static kd_status begin(kd_loss_distill *loss)
{
    const kd_block_desc block = { .struct_size = sizeof block, .type = "temperature", .forward = forward };
    const size_t one = 1;
    KD_TRY(kd_model_create(&loss->adapters, loss->ctx));
    kd_layer_add_parameter(kd_layer_block(kd_model_root(loss->adapters), "temperature", &block), "theta", 1, &one, KD_INIT_CONSTANT, 1, 0);
    return kd_model_finish(loss->adapters, loss->desc.seed);
}

static double sigmoid(const kd_loss_distill *loss)
{
    size_t count;
    const double theta = (double)kd_model_weights(loss->adapters, &count)[0];
    return 1 / (1 + kd__fixed_exp(-theta));
}

static double temperature(const kd_loss_distill *loss) { return 1 + (double)loss->desc.gamma * sigmoid(loss); }

static double scale(const kd_loss_distill *loss, size_t classes)
{
    (void)classes;
    const double t = temperature(loss);
    return loss->desc.temperature_squared ? t * t : 1;
}

static double turn(const kd_loss_distill *loss)
{
    const double done = (double)loss->advances + 1, all = (double)loss->desc.beta;
    return -(double)loss->desc.alpha * (1 - kd__fixed_cos_pi(done < all ? done / all : 1)) / 2;
}

/* The kernel's arguments for one row: its gradient, value, and numbers. */
static size_t scratch(const kd__soft *s)
{
    size_t kernel = kd__distill_scratch(s->classes), rows = kd__times(4, s->classes + 16);
    return rows > SIZE_MAX / 8 ? SIZE_MAX : rows + kernel;
}

static void rows(const kd__soft *s)
{
    const kd__kernels *k = s->kernels;
    const size_t n = s->classes, step = (n + 15) / 16 * 16;
    const double t = temperature(s->loss), sig = sigmoid(s->loss);
    const double slope = turn(s->loss) * (double)s->desc->gamma * sig * (1 - sig);
    float *kernel = s->scratch, *grad = kernel + kd__distill_scratch(n), *lp = grad + step, *lq = lp + step, *q = lq + step;
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        const float *student = s->student + r * s->student_stride, *teacher = s->teacher + r * s->teacher_stride, none = 0;
        float hard, kl;
        uint32_t masked = 0;
        kd__distill_args a = { .rows = 1, .classes = n, .student = student, .student_stride = n, .teacher = teacher, .teacher_stride = n,
                               .hard_coef = &none, .soft_coef = &s->coef[r], .grad = s->grad ? grad : NULL, .grad_stride = n, .hard = &hard,
                               .soft = &kl, .scratch = kernel, .masked = &masked, .temperature = (float)t,
                               .direction = KD_DIRECTION_FORWARD, .teacher_form = KD_TEACHER_LOGITS };
        k->distill_f32(&a);
        s->soft[r] = kl;
        if (s->grad) k->axpy_f32(s->grad + r * s->grad_stride, grad, n, 1);
        if (!s->own) continue;
        k->softmax_f32(lp, n, teacher, n, 1, n, (float)t, 1);
        k->softmax_f32(lq, n, student, n, 1, n, (float)t, 1);
        k->unary_f32(KD_UNARY_EXP, grad, lp, n, 0, 0);
        k->unary_f32(KD_UNARY_EXP, q, lq, n, 0, 0);
        double sum = 0;
        for (size_t c = 0; c < n; c++) {
            const double p = (double)grad[c];
            if (p > 0) sum += p * ((double)lp[c] - (double)lq[c] - (double)kl) * (double)lp[c];
            if (lq[c] > -__builtin_inff()) sum += ((double)q[c] - p) * (double)lq[c];
        }
        const double derivative = -sum / t + (s->desc->temperature_squared ? 2 * (double)kl / t : 0);
        if (derivative - derivative == 0) *s->own += (double)s->coef[r] * slope * derivative;   /* finite: not where KL is infinite */
    }
}

const kd__method kd__method_CTKD = { .formula = "T^2 / B sum_b KL(p || q) at a learned, adversarial temperature", .needs = KD__SCHEDULED,
    .defaults = defaults, .check = check, .scale = scale, .scratch = scratch, .rows = rows, .begin = begin };
