/* test_zoo.c - the named architectures: names, sizes, published parameter counts, what they compute.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "nn/nn.h"

TEST(mlp)
{
    kd_model *m = NULL;
    CHECK_OK(kd_zoo_mlp(&m, NULL, (size_t[]){ 12, 8, 6, 3 }, 4, KD_ACT_GELU, 1));
    CHECK(kd_model_size(m) == 12 * 8 + 8 + 8 * 6 + 6 + 6 * 3 + 3);
    static const char *const names[] = { "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias" };
    CHECK(kd_model_parameter_count(m) == 6);
    for (size_t i = 0; i < 6; i++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(m, i, &info));
        CHECK_STR(info.name, names[i]);
    }
    /* Images are flattened; the last layer has no activation. */
    kd_tape *tape = NULL;
    kd_tensor *x = NULL;
    kdtest_rand r = { 4 };
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, 4, (size_t[]){ 5, 2, 2, 3 }));
    kdtest_fill(&r, kd_tensor_f32(x), 60, 1.0);
    kd_tensor *y = kd_model_forward(m, tape, x), *h = kd_reshape(tape, x, 2, (size_t[]){ 5, 12 });
    for (size_t i = 0; i < 3; i++) {
        kd_param_info w = { .struct_size = sizeof w }, b = w;
        CHECK_OK(kd_model_find(m, names[2 * i], &w));
        CHECK_OK(kd_model_find(m, names[2 * i + 1], &b));
        h = kd_linear(tape, h, w.tensor, b.tensor);
        if (i < 2) h = kd_gelu(tape, h);
    }
    CHECK_OK(kd_tape_status(tape));
    CHECK(kd_tensor_count(y) == 15 && memcmp(kd_tensor_data(y), kd_tensor_data(h), 15 * sizeof(float)) == 0);
    kd_tape_free(tape);
    kd_tensor_free(x);
    kd_model_free(m);

    CHECK_OK(kd_zoo_mlp(&m, NULL, (size_t[]){ 4, 2 }, 2, KD_ACT_RELU, 1));
    kd_model_free(m);
    CHECK_OK(kd_zoo_mlp(&m, NULL, (size_t[]){ 4, 3, 2 }, 3, KD_ACT_NONE, 1));
    kd_model_free(m);
    CHECK_STATUS(kd_zoo_mlp(NULL, NULL, (size_t[]){ 4, 2 }, 2, KD_ACT_RELU, 1), KD_ERR_ARG);
    CHECK_STATUS(kd_zoo_mlp(&m, NULL, NULL, 2, KD_ACT_RELU, 1), KD_ERR_ARG);
    CHECK(m == NULL);
    CHECK_STATUS(kd_zoo_mlp(&m, NULL, (size_t[]){ 4 }, 1, KD_ACT_RELU, 1), KD_ERR_ARG);
    CHECK_STATUS(kd_zoo_mlp(&m, NULL, (size_t[]){ 4, 0, 2 }, 3, KD_ACT_RELU, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("fc1: kd_layer_linear: in 4, out 0");
    CHECK_STATUS(kd_zoo_mlp(&m, NULL, (size_t[]){ 4, 3, 2 }, 3, 42, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("act1: kd_layer_activation: activation 42");
}
