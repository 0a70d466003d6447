/* ctkd.c - curriculum temperature (Li, Li, Yang, Zhao, Song, Luo, Li, Yang 2023, arXiv 2211.16231), one temperature for all.
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / B sum_b KL(p_b || q_b),  T = 1 + gamma sigmoid(theta),  p, q softened by T
 *     theta, one number, is the loss's own (kd_loss_distill_adapters): it climbs while the student descends.  Its gradient is multiplied by
 *     -lambda, lambda = alpha (1 - cos(pi min((advances + 1) / beta, 1))) / 2;  advances: calls of kd_loss_distill_advance, one an epoch
 * Gradient: T (q - p) / B for the student; for theta -lambda (2 KL / T + dKL/dT) T^2 gamma sigmoid'(theta), meaned over rows, with
 *     dKL/dT = - (cov_p(t - s, t) / T + sum_k (q - p) s) / T^2, t and s the logits, in double.
 * Divides by: rows (B).  T^2 is differentiated too; temperature_squared 0 leaves it out of both.
 * Detached: the teacher's logits; its softened probabilities move with T.
 * Defaults: theta 1 (T 15.6), gamma 20, alpha 1, beta 10 epochs, hard_weight .1, soft_weight .9; `temperature` is not used.
 * Forms: one.
 * Traps: the public code's own defaults leave lambda at 0, and T at 15.62 for ever (or divide by zero): the paper's numbers come with its
 *     scripts' flags, which are the defaults here.  A port lets lambda go from 1 to 0 without turning the sign: that is not adversarial.
 *     theta is among what the optimizer decays.  T stays within (1, 1 + gamma) whatever theta is.  Built on DKD users met NaN: here KL
 *     and its
 *     derivative are in log space.
 * Published: CIFAR-100 ResNet56 -> 20 71.19, ResNet110 -> 32 73.52, ResNet32x4 -> 8x4 73.39; ImageNet ResNet-34 -> 18 71.32.
 * Cost: three rows of scratch, and the kernel's; one number in the checkpoint. */
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

/* The kernel's own, a row's gradient, p and q. */
static size_t scratch(const kd__soft *s)
{
    size_t kernel = kd__distill_scratch(s->classes), rows = kd__times(3, s->classes + 32);
    return rows > SIZE_MAX / 8 ? SIZE_MAX : rows + kernel;
}

typedef __attribute__((vector_size(16))) double ctkd_pair;

/* The terms of e^-x - 1 + x up to x^9: 2e-9 of it at 1/2. */
#define CTKD_SERIES(x, y) \
    ((y) * (1.0 / 2 + (y) * (1.0 / 24 + (y) * (1.0 / 720 + (y) * (1.0 / 40320))) -                                                   \
            (x) * (1.0 / 6 + (y) * (1.0 / 120 + (y) * (1.0 / 5040 + (y) * (1.0 / 362880))))))
static double excess(double x)
{
    if (!(x > -0.5 && x < 0.5)) return kd__fixed_exp(-KD_MIN(KD_MAX(x, -600.0), 600.0)) - 1 + x;
    return CTKD_SERIES(x, x * x);
}

/* dKL/dT, or d(T^2 KL)/dT over T^2.  With x = (t - s) / T minus its mean under p, and S = sum p e^-x:  KL = log S, q = p e^-x / S.
 * In double from p on: at high temperatures the parts cancel to a thousandth. */
static double derivative(const float *teacher, const float *student, const float *p, const float *q, size_t n, double t, double value,
                         bool squared)
{
    double all = 0, apart = 0, mean = 0, more, covariance, moved, weight, top = -1e300, least = 1e300, most = -1e300;
    ctkd_pair sums[4] = { { 0, 0 } };
    bool holes = false, wider = false;   /* the student has classes that the teacher has not: there is no S then, and nothing cancels */
    for (size_t c = 0; c < n; c++) {
        const double pc = (double)p[c];
        top = KD_MAX(top, (double)student[c]);
        holes |= !(pc > 0), wider |= !(pc > 0) && q[c] > 0;
        if (!(pc > 0)) continue;
        const double d = (double)teacher[c] - (double)student[c];
        all += pc;
        least = KD_MIN(least, d), most = KD_MAX(most, d);
        apart += pc * d;
        mean += pc * (double)teacher[c];
    }
    apart /= all, mean /= all;
    const double over_t = 1 / t;
    size_t c = 0;
    for (; !holes && most - least < 0.5 * t && c + 2 <= n; c += 2) {   /* two at a time: the sum of each lane, then both */
        const ctkd_pair pc = { (double)p[c], (double)p[c + 1] }, a = { (double)teacher[c], (double)teacher[c + 1] };
        const ctkd_pair b = { (double)student[c], (double)student[c + 1] }, x = (a - b - apart) * over_t;
        const ctkd_pair e = CTKD_SERIES(x, x * x), above = b - top;
        sums[0] += pc * e;
        sums[1] += pc * x * (a - mean);
        sums[2] += pc * (e - x) * above;
        sums[3] += pc * above;
    }
    more = sums[0][0] + sums[0][1], covariance = sums[1][0] + sums[1][1], moved = sums[2][0] + sums[2][1], weight = sums[3][0] + sums[3][1];
    for (; c < n; c++) {
        const double pc = (double)p[c];
        if (!(pc > 0)) continue;
        const double x = ((double)teacher[c] - (double)student[c] - apart) * over_t;
        const double e = wider ? 0 : excess(x), above = (double)student[c] - top;
        more += pc * e;
        covariance += pc * x * ((double)teacher[c] - mean);
        moved += pc * (e - x) * above, weight += pc * above;
    }
    more /= all, covariance /= all;
    moved = (moved - more * weight) / all / (1 + more);   /* sum (q - p) (student - top) */
    double kl = more < 1e-4 ? more - more * more / 2 + more * more * more / 3 : kd__fixed_log(1 + more);
    if (wider) {
        kl = value, moved = 0;
        for (c = 0; c < n; c++)
            if (q[c] > 0) moved += ((double)q[c] - (double)p[c] / all) * ((double)student[c] - top);
    }
    return (squared ? 2 * kl / t : 0) - (covariance + moved) / (t * t);
}

static void rows(const kd__soft *s)
{
    const kd__kernels *k = s->kernels;
    const size_t n = s->classes, step = (n + 15) / 16 * 16;
    const double t = temperature(s->loss), sig = sigmoid(s->loss);
    const double slope = turn(s->loss) * (double)s->desc->gamma * sig * (1 - sig);
    float *kernel = s->scratch, *grad = kernel + (kd__distill_scratch(n) + 15) / 16 * 16, *p = grad + step, *q = p + step;
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
        k->softmax_f32(p, n, teacher, n, 1, n, (float)t, 0);
        k->softmax_f32(q, n, student, n, 1, n, (float)t, 0);
        const double by = derivative(teacher, student, p, q, n, t, (double)kl, s->desc->temperature_squared != 0);
        if (by - by == 0) *s->own += (double)s->coef[r] * slope * by;   /* finite: not where KL is infinite */
    }
}

const kd__method kd__method_CTKD = { .formula = "T^2 / B sum_b KL(p || q) at a learned, adversarial temperature", .needs = KD__SCHEDULED,
    .defaults = defaults, .check = check, .scale = scale, .scratch = scratch, .rows = rows, .begin = begin };
