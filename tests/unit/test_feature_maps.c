/* test_feature_maps.c - methods between maps: what they refuse, masks of edges, margins that are part of a state.
 * SPDX-License-Identifier: MIT */
#include <math.h>
#include "kdtest.h"

#define SHAPE(...) { sizeof((size_t[]){ __VA_ARGS__ }) / sizeof(size_t), { __VA_ARGS__ } }

static kd_status create(kd_loss_feature **loss, uint32_t method, const kd_feature_shape *s, const kd_feature_shape *t,
                        size_t count, uint32_t form)
{
    kd_loss_feature_desc d;
    CHECK_OK(kd_loss_feature_desc_for(&d, sizeof d, method));
    d.student = s, d.teacher = t, d.student_count = d.teacher_count = count, d.form = form;
    return kd_loss_feature_create(loss, NULL, &d);
}

static void refused(uint32_t method, const kd_feature_shape *s, const kd_feature_shape *t, size_t count, uint32_t form,
                    kd_status status, const char *text)
{
    kd_loss_feature *loss = NULL;
    kd_status got = create(&loss, method, s, t, count, form);
    CHECK_MSG(got == status && !loss && strstr(kd_last_error(), text), "method %u: %s: %s", (unsigned)method, kd_status_name(got),
              kd_last_error());
    kd_loss_feature_free(loss);
}

TEST(what_they_refuse)
{
    const kd_feature_shape a[2] = { SHAPE(4, 4, 3), SHAPE(4, 4, 5) }, b[2] = { SHAPE(4, 4, 3), SHAPE(4, 4, 6) };
    const kd_feature_shape larger[1] = { SHAPE(5, 4, 3) }, vector[1] = { SHAPE(3) };
    refused(KD_FEATURE_FSP, a, b, 2, 0, KD_ERR_SHAPE, "fsp: student tap 1 [4, 4, 5] and teacher tap 1 [4, 4, 6]");
    refused(KD_FEATURE_FSP, a, a, 1, 0, KD_ERR_ARG, "2 or more");
    refused(KD_FEATURE_FSP, a, a, 2, KD_FORM_THIRD, KD_ERR_ARG, "form 2");
    refused(KD_FEATURE_CWD, a, larger, 1, 0, KD_ERR_SHAPE, "same height and width");
    refused(KD_FEATURE_ICKD, a, larger, 1, 0, KD_ERR_SHAPE, "same height and width");
    refused(KD_FEATURE_ICKD, a, a, 1, KD_FORM_PAPER, KD_ERR_ARG, "CODE and THIRD");
    refused(KD_FEATURE_PKD, a, larger, 1, 0, KD_ERR_SHAPE, "same");
    refused(KD_FEATURE_LD, a, larger, 1, 0, KD_ERR_SHAPE, "same");
    refused(KD_FEATURE_AB, a, larger, 1, 0, KD_ERR_SHAPE, "connector");
    refused(KD_FEATURE_AB, vector, vector, 1, 0, KD_ERR_SHAPE, "rank");
    refused(KD_FEATURE_OFD, a, b, 1, 0, KD_ERR_ARG, "teacher_bn_weight");
    refused(KD_FEATURE_AT, vector, vector, 1, 0, KD_ERR_SHAPE, "rank");
    refused(KD_FEATURE_NST, vector, vector, 1, 0, KD_ERR_SHAPE, "rank");
}

/* A mask has a weight for each edge of each box; a later pair with other edges does not fit it. */
TEST(edges_of_boxes)
{
    const kd_feature_shape two[2] = { SHAPE(2, 4, 3), SHAPE(3, 4, 3) };
    float s[2][3 * 4 * 3] = { { 0 } }, t[2][3 * 4 * 3] = { { 0 } }, grad[2][3 * 4 * 3], mask[8];
    const float *students[2] = { s[0], s[1] }, *teachers[2] = { t[0], t[1] };
    float *grads[2] = { grad[0], grad[1] };
    for (size_t i = 0; i < 24; i++) t[0][i] = (float)(i % 3 * (i % 3));
    for (size_t i = 0; i < 8; i++) mask[i] = i == 5 ? 2 : 0;
    kd_feature_batch b = { .struct_size = sizeof b, .rows = 1, .student = students, .teacher = teachers, .grad = grads };
    b.mask = mask;
    kd_loss_feature *loss = NULL;
    double value = 0, all = 0;
    CHECK_OK(create(&loss, KD_FEATURE_LD, two, two, 1, 0));
    CHECK_OK(kd_loss_feature_eval(loss, &b, &value));
    for (size_t i = 0; i < 24; i++) CHECK((grad[0][i] != 0) == (i / 3 == 5));
    b.mask = NULL;
    CHECK_OK(kd_loss_feature_eval(loss, &b, &all));
    CHECK_MSG(fabs(all - 4 * value) <= 1e-6 * all, "8 equal edges of weight 1 are 4 times one of weight 2: %g, %g", all, value);
    kd_loss_feature_free(loss);

    CHECK_OK(create(&loss, KD_FEATURE_LD, two, two, 2, 0));
    b.mask = mask;
    CHECK(kd_loss_feature_eval(loss, &b, &value) == KD_ERR_SHAPE && strstr(kd_last_error(), "12 edges"));
    kd_loss_feature_free(loss);
}

/* NaN is not a place outside the boundary. */
TEST(nan_passes)
{
    const kd_feature_shape one[1] = { SHAPE(2, 2, 3) };
    const uint32_t methods[] = { KD_FEATURE_AT, KD_FEATURE_AB, KD_FEATURE_NST, KD_FEATURE_CWD, KD_FEATURE_PKD, KD_FEATURE_ICKD };
    for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
        float s[24], t[24];
        for (size_t i = 0; i < 24; i++) s[i] = (float)(i % 5) - 2, t[i] = (float)(i % 7) - 3;
        s[17] = NAN;
        const float *students[1] = { s }, *teachers[1] = { t };
        kd_feature_batch b = { .struct_size = sizeof b, .rows = 2, .student = students, .teacher = teachers };
        kd_loss_feature *loss = NULL;
        double value = 0;
        CHECK_OK(create(&loss, methods[m], one, one, 1, 0));
        CHECK_OK(kd_loss_feature_eval(loss, &b, &value));
        CHECK_MSG(isnan(value), "method %u: NaN in a tap, and the value is %g", (unsigned)methods[m], value);
        kd_loss_feature_free(loss);
    }
}

/* OFD's margins: the mean of what a channel is where it is negative; -3 |g| far from there; of a constant channel itself. */
TEST(margins)
{
    const kd_feature_shape one[1] = { SHAPE(1, 1, 5) };
    const float g[5] = { 1, -2, 0.1f, 0, 0 }, m[5] = { 0, 1, 5, -0.5f, 0.5f }, *gs[1] = { g }, *ms[1] = { m };
    const double root = sqrt(2 * 3.14159265358979323846), phi = exp(-.125) / root, beyond = erfc(.5 / sqrt(2)) / 2;
    const double want[5] = { -2 / root, 1 - 2 * phi / beyond, -3 * (double)0.1f, -0.5, 0 };
    kd_loss_feature_desc d;
    kd_loss_feature *loss = NULL;
    CHECK_OK(kd_loss_feature_desc_for(&d, sizeof d, KD_FEATURE_OFD));
    d.student = d.teacher = one, d.student_count = d.teacher_count = 1, d.weight = 1;
    d.teacher_bn_weight = gs, d.teacher_bn_bias = ms;
    CHECK_OK(kd_loss_feature_create(&loss, NULL, &d));
    /* In EVAL the norm has mean 0, variance 1: x = (a bias of the norm), here 2; t far below: t' is the margin. */
    kd_model *adapters = kd_loss_feature_adapters(loss);
    kd_param_info bias = { .struct_size = sizeof bias };
    CHECK_OK(kd_model_find(adapters, "s0.1.bias", &bias));
    const float zero[5] = { 0 }, low[5] = { -99, -99, -99, -99, -99 };
    for (size_t i = 0; i < 5; i++) CHECK_OK(kd_tensor_set(bias.tensor, &i, 2));
    kd_model_touch(adapters);
    const float *s[1] = { zero }, *t[1] = { low };
    kd_feature_batch b = { .struct_size = sizeof b, .rows = 1, .student = s, .teacher = t };
    double value = 0, sum = 0;
    CHECK_OK(kd_loss_feature_eval(loss, &b, &value));
    for (size_t i = 0; i < 5; i++) sum += (2 - want[i]) * (2 - want[i]);
    CHECK_MSG(fabs(value - sum) <= 16 * 0x1p-24 * sum, "value %.9g, margins say %.9g", value, sum);
    kd_loss_feature_free(loss);
}
