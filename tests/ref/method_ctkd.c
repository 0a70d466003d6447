/* method_ctkd.c - a learned temperature that works against the student.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* T^2 KL at T = 1 + gamma sigmoid(theta); no advance was made */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    double T = 1 + x->gamma * mr_sigmoid(mr_data(x, "own")[0]);
    return (x->desc->temperature_squared ? T * T : 1) * mr_kl_logits(x->teacher + r * n, x->student + r * n, n, T);
}

static double turned(const method_in *x)
{
    return -x->alpha * (1 - cos(acos(-1) * (x->beta > 1 ? 1 / x->beta : 1))) / 2;
}

static double size(const method_in *x)
{
    double T = 1 + x->gamma * mr_sigmoid(mr_data(x, "own")[0]);
    return T * T;
}

static void at_once(kd_loss_distill_desc *d) { d->beta = 1; }
static void narrow(kd_loss_distill_desc *d) { d->gamma = 3, d->beta = 2; }

const method_output method_output_CTKD = {
    .row = row, .own = turned, .size = size,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "lambda 1", at_once }, { "gamma 3", narrow } },
};
