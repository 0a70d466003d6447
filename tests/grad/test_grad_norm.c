/* test_grad_norm.c - batch, layer, group and L2 normalisation.
 * SPDX-License-Identifier: MIT */
#include "autograd/norm.h"
#include "gradcheck.h"
#include "ref_norm.h"
#include <math.h>
#include <stdlib.h>

/* ---- builders: inputs x, weight, bias (, running mean and variance); p[0]: eps, n[0]: groups ------------------- */

static kd_tensor *build_batch(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return kd_batch_norm(tape, in[0], in[1], in[2], c->in_count > 3 ? in[3] : NULL, c->in_count > 3 ? in[4] : NULL, 0.1f,
                         (float)c->p[0]);
}
static kd_tensor *build_layer(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return kd_layer_norm(tape, in[0], in[1], in[2], (float)c->p[0]);
}
static kd_tensor *build_group(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return kd_group_norm(tape, in[0], in[1], in[2], (uint32_t)c->n[0], (float)c->p[0]);
}
static kd_tensor *build_l2(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return kd_l2_normalize(tape, in[0], (float)c->p[0]);
}

/* Sets and channels of each element. */
static ref_norm layout(const grad_case *c, size_t *set, size_t *channel)
{
    const grad_shape *s = &c->in[0].size;
    size_t count = grad_count(s), width = s->shape[s->rank - 1], groups = c->n[0];
    ref_norm n = { .count = count, .set = set, .channel = channel, .channels = width, .eps = (double)(float)c->p[0] };
    for (size_t i = 0; i < count; i++) {
        channel[i] = i % width;
        if (c->op[0] == 'b') set[i] = channel[i];
        else if (c->op[0] == 'l') set[i] = i / width;
        else set[i] = i / (count / s->shape[0]) * groups + channel[i] / (width / groups);
        if (set[i] >= n.sets) n.sets = set[i] + 1;
    }
    return n;
}

/* Sizes: y = hat weight + bias.  hat has the roundings of x - mean (of |x| + |mean|, times rstd) and of rstd. */
static void ref(const grad_case *c, const double *const *in, double *out, double *size)
{
    size_t count = grad_count(&c->in[0].size), *set = malloc((2 * count + 1) * sizeof *set), *channel = set + count;
    ref_norm n = layout(c, set, channel);
    double *mean = malloc((2 * n.sets + 1) * sizeof *mean), *var = mean + n.sets;
    n.x = in[0];
    n.weight = c->in[1].kind == GRAD_NULL ? NULL : in[1];
    n.bias = c->in[2].kind == GRAD_NULL ? NULL : in[2];
    if (c->mode == KD_TAPE_EVAL && c->in_count > 3) {
        n.mean = in[3];
        n.var = in[4];
    }
    ref_norm_forward(&n, out, mean, var);
    for (size_t i = 0; size && i < count; i++) {
        double r = 1 / sqrt(var[set[i]] + n.eps), w = n.weight ? fabs(n.weight[channel[i]]) : 1;
        size[i] = (fabs(in[0][i]) + fabs(mean[set[i]])) * r * w + fabs(out[i]) + (n.bias ? fabs(n.bias[channel[i]]) : 0);
    }
    free(set);
    free(mean);
}

static void ref_l2(const grad_case *c, const double *const *in, double *out, double *size)
{
    size_t n = c->out.shape[c->out.rank - 1];
    (void)size;
    ref_l2_normalize(n ? grad_count(&c->out) / n : 0, n, in[0], (double)(float)c->p[0], out, NULL, NULL);
}

#define X(...) { GRAD_IN(__VA_ARGS__) }
#define NONE { .kind = GRAD_NULL }
#define BUFFER(n) { GRAD_IN(n), .buffer = 1, .kind = GRAD_UNIFORM, .lo = 0.5, .hi = 2 }

/* Units: the mean and the variance come out nearly as if summed in double: in single precision only deviations from a near
 * mean are added, 64 in a chain, so their error is 64 units of the variance and half as much in rstd; 8 roundings besides. */
TEST(batch_norm)
{
    static const grad_case cases[] = {
        { GRAD_CASE(batch_norm, "images"), build_batch, ref, .p = { 1e-5 }, .units = 41, .in = { X(3, 4, 4, 5), X(5), X(5) },
          .out = GRAD_SHAPE(3, 4, 4, 5) },
        { GRAD_CASE(batch_norm, "running"), build_batch, ref, .p = { 1e-5 }, .units = 41, .in_count = 5,
          .in = { X(9, 20), X(20), X(20), BUFFER(20), BUFFER(20) }, .out = GRAD_SHAPE(9, 20) },
        { GRAD_CASE(batch_norm, "no weight"), build_batch, ref, .p = { 1e-3 }, .units = 41, .in_count = 3,
          .in = { X(9, 20), NONE, X(20) }, .out = GRAD_SHAPE(9, 20) },
        { GRAD_CASE(batch_norm, "neither"), build_batch, ref, .p = { 1e-5 }, .units = 41, .in_count = 3,
          .in = { X(6, 3), NONE, NONE },
          .out = GRAD_SHAPE(6, 3) },
        { GRAD_CASE(batch_norm, "two rows"), build_batch, ref, .p = { 1e-2 }, .units = 41, .in = { X(2, 4), X(4), X(4) },
          .out = GRAD_SHAPE(2, 4) },
        { GRAD_CASE(batch_norm, "chunks"), build_batch, ref, .p = { 1e-5 }, .units = 41, .in = { X(600, 70), X(70), X(70) },
          .out = GRAD_SHAPE(600, 70) },
        { GRAD_CASE(batch_norm, "eval"), build_batch, ref, .p = { 1e-5 }, .units = 8, .in_count = 5, .mode = KD_TAPE_EVAL,
          .in = { X(9, 20), X(20), X(20), BUFFER(20), BUFFER(20) }, .out = GRAD_SHAPE(9, 20) },
        { GRAD_CASE(batch_norm, "eval without statistics"), build_batch, ref, .p = { 1e-5 }, .units = 41, .mode = KD_TAPE_EVAL,
          .in = { X(9, 20), X(20), X(20) }, .out = GRAD_SHAPE(9, 20) },
        { GRAD_CASE(batch_norm, "far from zero"), build_batch, ref, .p = { 1e-5 }, .units = 41, .grad_tol = 2e-4,
          .in = { { GRAD_IN(700, 6), .kind = GRAD_UNIFORM, .lo = 1000, .hi = 1004 },
                  X(6), X(6) },
          .out = GRAD_SHAPE(700, 6) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

TEST(layer_norm)
{
    static const grad_case cases[] = {
        { GRAD_CASE(layer_norm, "rows"), build_layer, ref, .p = { 1e-5 }, .units = 12, .in = { X(6, 20), X(20), X(20) },
          .out = GRAD_SHAPE(6, 20) },
        { GRAD_CASE(layer_norm, "vector"), build_layer, ref, .p = { 1e-5 }, .units = 12, .in = { X(50), X(50), X(50) },
          .out = GRAD_SHAPE(50) },
        { GRAD_CASE(layer_norm, "no bias"), build_layer, ref, .p = { 1e-6 }, .units = 12, .in_count = 3,
          .in = { X(2, 3, 17), X(17), NONE }, .out = GRAD_SHAPE(2, 3, 17) },
        { GRAD_CASE(layer_norm, "neither"), build_layer, ref, .p = { 1e-6 }, .units = 12, .in_count = 3,
          .in = { X(3, 8), NONE, NONE },
          .out = GRAD_SHAPE(3, 8) },
        { GRAD_CASE(layer_norm, "no rows"), build_layer, ref, .p = { 1e-6 }, .units = 12, .in = { X(0, 8), X(8), X(8) },
          .out = GRAD_SHAPE(0, 8) },
        { GRAD_CASE(layer_norm, "blocks of a long row"), build_layer, ref, .p = { 1e-5 }, .units = 72,
          .in = { X(3, 9001), X(9001), X(9001) }, .out = GRAD_SHAPE(3, 9001) },
        { GRAD_CASE(layer_norm, "many rows"), build_layer, ref, .p = { 1e-5 }, .units = 12, .in = { X(1200, 33), X(33), X(33) },
          .out = GRAD_SHAPE(1200, 33) },
        { GRAD_CASE(layer_norm, "far from zero"), build_layer, ref, .p = { 1e-5 }, .units = 41, .grad_tol = 2e-4,
          .in = { { GRAD_IN(5, 700), .kind = GRAD_UNIFORM, .lo = 1000, .hi = 1004 },
                  X(700), X(700) },
          .out = GRAD_SHAPE(5, 700) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

TEST(group_norm)
{
    static const grad_case cases[] = {
        { GRAD_CASE(group_norm, "images"), build_group, ref, .p = { 1e-5 }, .n = { 3 }, .units = 41,
          .in = { X(2, 3, 3, 6), X(6), X(6) },
          .out = GRAD_SHAPE(2, 3, 3, 6) },
        { GRAD_CASE(group_norm, "one group"), build_group, ref, .p = { 1e-5 }, .n = { 1 }, .units = 41,
          .in = { X(3, 5, 8), X(8), X(8) },
          .out = GRAD_SHAPE(3, 5, 8) },
        { GRAD_CASE(group_norm, "a group each"), build_group, ref, .p = { 1e-5 }, .n = { 8 }, .units = 41, .in_count = 3,
          .in = { X(3, 5, 8), NONE, NONE }, .out = GRAD_SHAPE(3, 5, 8) },
        { GRAD_CASE(group_norm, "vectors"), build_group, ref, .p = { 1e-5 }, .n = { 2 }, .units = 41,
          .in = { X(4, 8), X(8), X(8) },
          .out = GRAD_SHAPE(4, 8) },
        { GRAD_CASE(group_norm, "chunks"), build_group, ref, .p = { 1e-5 }, .n = { 4 }, .units = 41,
          .in = { X(3, 20, 15, 40), X(40), X(40) },
          .out = GRAD_SHAPE(3, 20, 15, 40) },
        { GRAD_CASE(group_norm, "far from zero"), build_group, ref, .p = { 1e-5 }, .n = { 2 }, .units = 41, .grad_tol = 2e-4,
          .in = { { GRAD_IN(2, 300, 6), .kind = GRAD_UNIFORM, .lo = 1000, .hi = 1004 },
                  X(6), X(6) },
          .out = GRAD_SHAPE(2, 300, 6) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

TEST(l2_normalize)
{
    static const grad_case cases[] = {
        { GRAD_CASE(l2_normalize, "rows"), build_l2, ref_l2, .p = { 1e-12 }, .units = 3, .in = { X(6, 20) },
          .out = GRAD_SHAPE(6, 20) },
        { GRAD_CASE(l2_normalize, "below eps"), build_l2, ref_l2, .p = { 100 }, .units = 3, .in = { X(6, 20) },
          .out = GRAD_SHAPE(6, 20) },
        { GRAD_CASE(l2_normalize, "vector"), build_l2, ref_l2, .p = { 1e-12 }, .units = 3, .in = { X(5) },
          .out = GRAD_SHAPE(5) },
        { GRAD_CASE(l2_normalize, "threads"), build_l2, ref_l2, .p = { 1e-12 }, .units = 3, .in = { X(300, 130) },
          .out = GRAD_SHAPE(300, 130) },
        { GRAD_CASE(l2_normalize, "no features"), build_l2, ref_l2, .p = { 1 }, .units = 3, .in = { X(3, 0) },
          .out = GRAD_SHAPE(3, 0) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* ---- values of PyTorch ---------------------------------------------------------------------------------------- */
/* torch.nn.functional 2.13 in double, on golden_x [2, 2, 2, 4] (there NCHW). */
static const float golden_x[] = {
    -0.375, 0, 1.875, -2.625, 1.75, 0.375, -1.25, 1.125, -1.25, 2.625, 2.75, 3, -0.625, 2.875, 1.625, 1.125, -0.5, -1.75,
    -0.75, 2.375, -2.625, -1, 0.125, -2.25, -2.75, 1.125, -0.625, 2.5, -0.875, -1.5, -3, -2.375
};
static const double golden_batch[] = {
    0.851206078, -0.896189641, 2.00804762, 1.66505491, 3.25603039, -1.00943731, -1.51484294, 3.34247283, -0.139015698,
    -1.68892329, 2.99445698, 4.18118178, 0.568285571, -1.76442173, 1.72621638, 3.34247283, 0.709745825, -0.367700543,
    -0.951180454, 3.90161213, -1.69507849, -0.594195871, 0.0352289057, 1.8327967, -1.83653874, -1.23593263, -0.810264831,
    3.95752606, 0.285365063, -0.443198986, -3.48766166, 1.77688277
};
static const double golden_running_mean[] = {
    0.359375, -0.190625, 0.009375, 0.9359375
};
static const double golden_running_var[] = {
    1.10078125, 2.11328125, 0.809709821, 4.17117746
};
static const double golden_eval[] = {
    -0.799921088, -1.06556472, 4.14655054, 1.25644963, 2.23814844, -1.19454448, -2.79909526, 3.09257113, -2.05089089,
    -1.9684231, 6.09133136, 4.01063187, -1.15734103, -2.05440961, 3.59089888, 3.09257113, -0.97863106, -0.463659127,
    -1.68779193, 3.70461162, -4.01670059, -0.721618665, 0.256988894, 1.44006178, -4.19541056, -1.45250402, -1.4099661,
    3.76581567, -1.51476098, -0.54964564, -6.6886569, 1.37885773
};
static const double golden_group[] = {
    -0.832270541, -0.768469486, 1.01426682, 1.03163472, 1.36457712, -0.89769582, -2.4239258, 3.0945503, -1.73685487,
    -1.67305382, 1.97696076, 4.12600808, -1.09072321, -1.75920471, 0.739211414, 3.0945503, 1.19556019, -0.778698679,
    -0.255811457, 4.47091588, -1.54052887, -1.10059151, 0.639528642, 2.1046599, -1.70147529, -2.0126212, -0.127905728,
    4.53486874, 0.712720945, -0.885996289, -2.55811457, 2.04070704
};
static const double golden_group_dx[] = {
    0.477260519, 1.50534188, -0.0202412206, 0.951514661, -2.24024156, 1.15500903, 0.136950252, -0.626144926, -1.63442637,
    -0.128554675, 0.342827173, 2.47018294, 0.15083498, 0.714776197, -2.56018011, -0.694908779, 0.163482729, 0.219663188,
    1.05285197, -1.47963105, 2.17425186, 0.314712045, -1.94063958, -0.640132445, -1.731128, 0.0743534913, 1.97735659,
    1.42741237, -0.286407738, -0.928927574, 0.272079114, -0.669296967
};
static const double golden_layer[] = {
    0.162068615, -1.08793139, 2.69656248, 1.53447691, 1.92182799, -0.9442724, -3.12074558, 3.557276, -2.3403748,
    -1.24034405, 1.10380232, 3.69432727, -1.98882658, -1.64677212, 0.597020423, 2.9004966, -0.0860349247, -0.480673298,
    -0.773898615, 4.64962599, -1.3927057, -1.20173579, 2.88193983, 2.25069564, -1.89637235, -1.27028393, -0.699558395,
    4.24012625, 2.21152361, -1.26922873, -2.61536481, 2.46154254
};
static const double golden_l2[] = {
    -0.115470054, 0, 0.577350269, -0.808290377, 0.7, 0.15, -0.5, 0.45, -0.249921912, 0.524836014, 0.549828206,
    0.599812588, -0.176336404, 0.811147458, 0.45847465, 0.317405527, -0.16208818, -0.567308629, -0.24313227, 0.769918854,
    -0.728920641, -0.277684054, 0.0347105067, -0.624789121, -0.699205899, 0.286038777, -0.158910432, 0.635641726,
    -0.208237441, -0.35697847, -0.713956941, -0.565215911
};

static void check_values(const kd_tensor *y, const double *want, size_t n, double tolerance, const char *what)
{
    CHECK(kd_tensor_count(y) == n);
    for (size_t i = 0; i < n; i++)
        if (!CHECK_MSG(fabs(kd_tensor_f32(y)[i] - want[i]) <= tolerance, "%s[%zu] = %.9g, wanted %.9g", what, i,
                       (double)kd_tensor_f32(y)[i], want[i]))
            break;
}

TEST(pytorch)
{
    static const size_t shape[4] = { 2, 2, 2, 4 }, channels = 4;
    float weight[] = { 1.5f, -0.5f, 2, 1 }, bias[] = { 0.25f, -1, 0, 3 },
          mean[] = { 0.5f, -0.25f, 0, 1 }, var[] = { 1, 2, 0.5f, 4 };
    float dy[32];
    kd_tape *train = NULL, *eval = NULL;
    kd_tensor *rm = NULL, *rv = NULL;
    CHECK_OK(kd_tape_create(&train, NULL, KD_TAPE_TRAIN));
    CHECK_OK(kd_tape_create(&eval, NULL, KD_TAPE_EVAL));
    CHECK_OK(kd_tensor_wrap(&rm, NULL, KD_F32, 1, &channels, NULL, mean));
    CHECK_OK(kd_tensor_wrap(&rv, NULL, KD_F32, 1, &channels, NULL, var));
    kd_tensor *x = kd_tape_constant(train, 4, shape, golden_x), *w = kd_tape_constant(train, 1, &channels, weight);
    kd_tensor *b = kd_tape_constant(train, 1, &channels, bias);
    const double tolerance = 2e-6;   /* values up to 5, some ten roundings */
    check_values(kd_batch_norm(train, x, w, b, rm, rv, 0.1f, 1e-5f), golden_batch, 32, tolerance, "batch norm");
    check_values(rm, golden_running_mean, 4, 0x1p-24, "running mean");
    check_values(rv, golden_running_var, 4, 0x1p-22, "running variance");
    check_values(kd_batch_norm(eval, x, w, b, rm, rv, 0.1f, 1e-5f), golden_eval, 32, tolerance, "batch norm, eval");
    check_values(rm, golden_running_mean, 4, 0x1p-24, "running mean after eval");
    check_values(kd_layer_norm(train, x, w, b, 1e-5f), golden_layer, 32, tolerance, "layer norm");
    check_values(kd_l2_normalize(train, x, 2.5f), golden_l2, 32, 0x1p-23, "l2_normalize");
    x = kd_requires_grad(train, x);
    kd_tensor *y = kd_group_norm(train, x, w, b, 2, 1e-5f);
    check_values(y, golden_group, 32, tolerance, "group norm");
    for (size_t i = 0; i < 32; i++) dy[i] = golden_x[(i + 16) % 32];   /* the two images exchanged */
    CHECK_OK(kd_backward(train, kd_sum(train, kd_mul(train, y, kd_tape_constant(train, 4, shape, dy)), 0, 0)));
    for (size_t i = 0; i < 32; i++) CHECK_NEAR(kd_grad(train, x)[i], golden_group_dx[i], 4e-6);
    kd_tensor_free(rm);
    kd_tensor_free(rv);
    kd_tape_free(train);
    kd_tape_free(eval);
}

/* Numbers whose mean is a million times their spread: the statistics are still those of the numbers as given. */
TEST(statistics_far_from_zero)
{
    enum { ROWS = 1000, C = 3 };
    static float x[ROWS * C];
    float mean[C] = { 0 }, var[C] = { 0 };
    const size_t shape[2] = { ROWS, C }, c = C;
    kdtest_rand r = { 11 };
    for (size_t i = 0; i < ROWS * C; i++) x[i] = 100000.0f + (float)(kdtest_bits(&r) % 32) * 0x1p-7f;
    kd_tape *tape = NULL;
    kd_tensor *rm = NULL, *rv = NULL;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    CHECK_OK(kd_tensor_wrap(&rm, NULL, KD_F32, 1, &c, NULL, mean));
    CHECK_OK(kd_tensor_wrap(&rv, NULL, KD_F32, 1, &c, NULL, var));
    kd_batch_norm(tape, kd_tape_constant(tape, 2, shape, x), NULL, NULL, rm, rv, 1, 1e-5f);
    CHECK_STATUS(kd_tape_status(tape), KD_OK);
    for (size_t j = 0; j < C; j++) {
        double sum = 0, square = 0;
        for (size_t i = 0; i < ROWS; i++) sum += x[i * C + j];
        for (size_t i = 0; i < ROWS; i++) square += ((double)x[i * C + j] - sum / ROWS) * ((double)x[i * C + j] - sum / ROWS);
        CHECK_NEAR(mean[j], sum / ROWS, 0x1p-24 * sum / ROWS);
        CHECK_NEAR(var[j], square / (ROWS - 1), 70 * 0x1p-24 * square / ROWS);   /* chains of 64 additions */
    }
    kd_tensor_free(rm);
    kd_tensor_free(rv);
    kd_tape_free(tape);
}

/* With running statistics batch norm is one fma by the folded scale and shift: what a convolution's epilogue does. */
TEST(eval_is_one_fma)
{
    float x[40], weight[5], bias[5], mean[5], var[5], scale[5], shift[5];
    const size_t shape[2] = { 8, 5 }, c = 5;
    kdtest_rand r = { 3 };
    kdtest_fill(&r, x, 40, 2);
    kdtest_fill(&r, weight, 5, 1);
    kdtest_fill(&r, bias, 5, 1);
    kdtest_fill(&r, mean, 5, 1);
    for (size_t j = 0; j < 5; j++) var[j] = (float)kdtest_uniform(&r, 0.1, 3);
    kd_tape *tape = NULL;
    kd_tensor *rm = NULL, *rv = NULL;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    CHECK_OK(kd_tensor_wrap(&rm, NULL, KD_F32, 1, &c, NULL, mean));
    CHECK_OK(kd_tensor_wrap(&rv, NULL, KD_F32, 1, &c, NULL, var));
    kd_tensor *y = kd_batch_norm(tape, kd_tape_constant(tape, 2, shape, x), kd_tape_constant(tape, 1, &c, weight),
                                 kd_tape_constant(tape, 1, &c, bias), rm, rv, 0.1f, 1e-5f);
    kd__batch_norm_fold(5, weight, bias, mean, var, 1e-5f, scale, shift);
    for (size_t i = 0; i < 40; i++) CHECK(kd_tensor_f32(y)[i] == fmaf(x[i], scale[i % 5], shift[i % 5]));
    kd_tensor_free(rm);
    kd_tensor_free(rv);
    kd_tape_free(tape);
}

/* Rows of zeros, NaN, and lengths whose squares leave the range of floats. */
TEST(l2_special)
{
    static const float x[5][2] = { { 0, 0 }, { 3e30f, 4e30f }, { 3e-30f, -4e-30f }, { NAN, 1 }, { 0.3f, 0.4f } };
    static const float want[5][2] = { { 0, 0 }, { 0.6f, 0.8f }, { 0.6f, -0.8f }, { NAN, NAN }, { 0.6f, 0.8f } };
    kd_tape *tape = NULL;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    kd_tensor *in = kd_requires_grad(tape, kd_tape_constant(tape, 2, (size_t[]){ 5, 2 }, x[0]));
    kd_tensor *y = kd_l2_normalize(tape, in, 1e-36f);
    CHECK_OK(kd_backward(tape, kd_sum(tape, y, 0, 0)));
    for (size_t i = 0; i < 10; i++) CHECK(kdtest_ulp(kd_tensor_f32(y)[i], want[i / 2][i % 2]) <= 1 + (i == 6));
    CHECK(kd_grad(tape, in)[0] == 1e36f && kd_grad(tape, in)[1] == 1e36f);   /* dy / eps */
    CHECK_NEAR(kd_grad(tape, in)[2], (1 - 0.6 * 1.4) / 5e30, 1e-36);
    CHECK(isnan(kd_grad(tape, in)[6]));
    kd_tape_free(tape);
}

static void expect(kd_tape *tape, kd_status status, const char *text)
{
    CHECK_MSG(kd_tape_status(tape) == status, "%s: status is %s", text, kd_status_name(kd_tape_status(tape)));
    CHECK_ERROR_HAS(text);
    kd_tape_reset(tape);
}

TEST(bad_input)
{
    static const size_t shape[3] = { 2, 3, 6 }, six = 6, five = 5;
    kd_tape *t = NULL;
    kd_tensor *f5 = NULL, *f6 = NULL, *i6 = NULL, *strided = NULL;
    CHECK_OK(kd_tape_create(&t, NULL, KD_TAPE_TRAIN));
    CHECK_OK(kd_tensor_create(&f5, NULL, KD_F32, 1, &five));
    CHECK_OK(kd_tensor_create(&f6, NULL, KD_F32, 1, &six));
    CHECK_OK(kd_tensor_create(&i6, NULL, KD_I32, 1, &six));
    float space[12];
    CHECK_OK(kd_tensor_wrap(&strided, NULL, KD_F32, 1, &six, (ptrdiff_t[]){ 2 }, space));
#define INPUT kd_tape_tensor(t, KD_F32, 3, shape)
    kd_batch_norm(t, INPUT, f5, NULL, NULL, NULL, 0.1f, 1e-5f);
    expect(t, KD_ERR_SHAPE, "kd_batch_norm: weight [5] does not fit x [2, 3, 6]: want [6] (op 1)");
    kd_batch_norm(t, INPUT, NULL, NULL, f6, NULL, 0.1f, 1e-5f);
    expect(t, KD_ERR_ARG, "kd_batch_norm: running_var is NULL: give both running statistics or neither");
    kd_batch_norm(t, INPUT, NULL, NULL, f5, f6, 0.1f, 1e-5f);
    expect(t, KD_ERR_SHAPE, "kd_batch_norm: running_mean is [5]: want [6]");
    kd_batch_norm(t, INPUT, NULL, NULL, f6, i6, 0.1f, 1e-5f);
    expect(t, KD_ERR_DTYPE, "kd_batch_norm: running_var is i32, not f32");
    kd_batch_norm(t, INPUT, NULL, NULL, strided, f6, 0.1f, 1e-5f);
    expect(t, KD_ERR_ARG, "kd_batch_norm: running_mean is not contiguous");
    kd_batch_norm(t, INPUT, NULL, NULL, f6, f6, 1.5f, 1e-5f);
    expect(t, KD_ERR_ARG, "kd_batch_norm: momentum 1.5 is not in [0, 1]");
    kd_batch_norm(t, INPUT, NULL, NULL, f6, f6, 0.1f, NAN);
    expect(t, KD_ERR_ARG, "kd_batch_norm: eps nan is not a number >= 0");
    kd_batch_norm(t, kd_tape_tensor(t, KD_F32, 3, (size_t[]){ 1, 1, 6 }), NULL, NULL, f6, f6, 0.1f, 1e-5f);
    expect(t, KD_ERR_SHAPE, "kd_batch_norm: x [1, 1, 6] has 1 value per channel: batch statistics need 2 or more");
    kd_batch_norm(t, kd_tape_tensor(t, KD_F32, 0, NULL), NULL, NULL, f6, f6, 0.1f, 1e-5f);
    expect(t, KD_ERR_SHAPE, "kd_batch_norm: x is a scalar");
    kd_layer_norm(t, INPUT, f6, f5, 1e-5f);
    expect(t, KD_ERR_SHAPE, "kd_layer_norm: bias [5] does not fit x [2, 3, 6]: want [6]");
    kd_layer_norm(t, INPUT, i6, NULL, 1e-5f);
    expect(t, KD_ERR_DTYPE, "kd_layer_norm: input 2 is i32, not f32");
    kd_layer_norm(t, INPUT, NULL, NULL, -1);
    expect(t, KD_ERR_ARG, "kd_layer_norm: eps -1 is not a number >= 0");
    kd_group_norm(t, INPUT, NULL, NULL, 4, 1e-5f);
    expect(t, KD_ERR_ARG, "kd_group_norm: 6 channels do not divide into 4 groups");
    kd_group_norm(t, INPUT, NULL, NULL, 0, 1e-5f);
    expect(t, KD_ERR_ARG, "kd_group_norm: 6 channels do not divide into 0 groups");
    kd_group_norm(t, kd_tape_tensor(t, KD_F32, 1, &six), NULL, NULL, 2, 1e-5f);
    expect(t, KD_ERR_SHAPE, "kd_group_norm: x [6]: want [n, .., channels]");
    kd_l2_normalize(t, INPUT, 0);
    expect(t, KD_ERR_ARG, "kd_l2_normalize: eps 0 is not a number > 0");
#undef INPUT
    kd_tensor_free(f5);
    kd_tensor_free(f6);
    kd_tensor_free(i6);
    kd_tensor_free(strided);
    kd_tape_free(t);
}
