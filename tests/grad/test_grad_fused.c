/* test_grad_fused.c - gradients of ops that compute them with their value: kd_loss_distill_apply.
 * SPDX-License-Identifier: MIT */
#include "gradcheck.h"
#include "ref_distill.h"
#include <math.h>

/* Of the case under way: p = temperature, hard weight, soft weight; n = direction, reduction, half. */
static kd_loss_distill *loss;

static void loss_begin(const grad_case *c)
{
    kd_loss_distill_desc desc;
    kd_loss_distill_desc_init(&desc, sizeof desc);
    desc.temperature = (float)c->p[0];
    desc.hard_weight = (float)c->p[1];
    desc.soft_weight = (float)c->p[2];
    desc.direction = (uint32_t)c->n[0];
    desc.reduction = (uint32_t)c->n[1];
    CHECK_OK(kd_loss_distill_create(&loss, NULL, &desc));
}

/* n[2]: half the loss, so that backward has a factor to apply. */
static kd_tensor *build(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    kd_tensor *y = kd_loss_distill_apply(loss, tape, in[0], in[1], in[2]);
    return c->n[2] ? kd_scale(tape, y, 0.5f, 0) : y;
}

/* size: the errors of log-probabilities, a few 2^-24 of logit / T and of the log of the sum each, times the weights. */
static void ref(const grad_case *c, const double *const *in, double *out, double *size)
{
    const size_t rank = c->in[0].size.rank, classes = c->in[0].size.shape[rank - 1], rows = grad_count(&c->in[0].size) / classes;
    int64_t labels[512];
    double row_loss[512], reach = 0, factor = c->n[2] ? 0.5 : 1;
    ref_distill d = { .rows = rows, .classes = classes, .student = in[0], .teacher = in[1], .labels = labels,
                      .temperature = (double)(float)c->p[0],
                      .hard_weight = (double)(float)c->p[1], .soft_weight = (double)(float)c->p[2],
                      .js_beta = 0.5, .direction = (int)c->n[0], .teacher_form = 1, .squared = 1, .reduction = (int)c->n[1],
                      .ignore_index = -100, .unlabelled_index = INT64_MIN };
    for (size_t r = 0; r < rows; r++) labels[r] = (int64_t)in[2][r];
    for (size_t i = 0; i < rows * classes; i++) reach = fmax(reach, fmax(fabs(in[0][i]), fabs(in[1][i])));
    ref_distill_value v = ref_distill_eval(&d, row_loss);
    for (size_t i = 0; i < grad_count(&c->out); i++) {
        out[i] = factor * (c->n[1] == KD_REDUCE_NONE ? row_loss[i] : v.loss);
        if (size)
            size[i] = factor * (c->n[1] == KD_REDUCE_SUM ? (double)rows : 1) *
                      (c->p[1] * (2 * reach + log((double)classes)) +
                       c->p[2] * c->p[0] * c->p[0] * (4 * reach / c->p[0] + 2 * log((double)classes)));
    }
}

TEST(fused)
{
    static const grad_case cases[] = {
        { GRAD_CASE(fused, "mean, both terms"), build, ref, .p = { 4, 0.1, 0.9 },
          .n = { KD_DIRECTION_FORWARD, KD_REDUCE_MEAN_ROWS },
          .units = 8, .in = { { GRAD_IN(6, 10) }, { GRAD_IN(6, 10), .constant = 1 }, { GRAD_IN(6), .kind = GRAD_I64, .hi = 10 } },
          .out = GRAD_SCALAR },
        { GRAD_CASE(fused, "sum, halved"), build, ref, .p = { 2, 0.5, 0.5 }, .n = { KD_DIRECTION_FORWARD, KD_REDUCE_SUM, 1 },
          .units = 8, .in = { { GRAD_IN(5, 7) }, { GRAD_IN(5, 7), .constant = 1 }, { GRAD_IN(5), .kind = GRAD_I32, .hi = 7 } },
          .out = GRAD_SCALAR },
        { GRAD_CASE(fused, "a value per row"), build, ref, .p = { 4, 0.3, 0.7 }, .n = { KD_DIRECTION_FORWARD, KD_REDUCE_NONE },
          .units = 8, .in = { { GRAD_IN(5, 17) }, { GRAD_IN(5, 17), .constant = 1 }, { GRAD_IN(5), .kind = GRAD_I32, .hi = 17 } },
          .out = GRAD_SHAPE(5) },
        { GRAD_CASE(fused, "reverse"), build, ref, .p = { 3, 0, 1 }, .n = { KD_DIRECTION_REVERSE, KD_REDUCE_MEAN_ROWS },
          .units = 8, .in = { { GRAD_IN(4, 9) }, { GRAD_IN(4, 9), .constant = 1 }, { GRAD_IN(4), .kind = GRAD_I32, .hi = 9 } },
          .out = GRAD_SCALAR },
        { GRAD_CASE(fused, "large"), build, ref, .p = { 4, 0.1, 0.9 }, .n = { KD_DIRECTION_FORWARD, KD_REDUCE_MEAN_ROWS },
          .units = 8,
          .in = { { GRAD_IN(300, 100) }, { GRAD_IN(300, 100), .constant = 1 }, { GRAD_IN(300), .kind = GRAD_I32, .hi = 100 } },
          .out = GRAD_SCALAR },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        loss_begin(&cases[i]);
        grad_run(&cases[i], 1);
        kd_loss_distill_free(loss);
    }
}
