/* test_simd_math.c - the functions of simd_math.h against libm in double, over the floats: every 4099th bit pattern and the
 * surroundings of special values in `make check`, all 2^32 in the long form.  The bounds are those of simd_math.h.
 * SPDX-License-Identifier: MIT */
#include "kern_test.h"

static double sigmoid(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }
static double rsqrt(double x) { return 1 / sqrt(x); }

static const struct function {
    const char *name;
    uint32_t op;
    double (*exact)(double);
    double bound;   /* ulp */
} functions[] = {
    { "exp", KD_UNARY_EXP, exp, 1.02 },
    { "log", KD_UNARY_LOG, log, 0.94 },
    { "log1p", KD_UNARY_LOG1P, log1p, 1.44 },
    { "tanh", KD_UNARY_TANH, tanh, 1.34 },
    { "sigmoid", KD_UNARY_SIGMOID, sigmoid, 2.41 },
    { "erf", KD_UNARY_ERF, erf, 1.02 },
    { "rsqrt", KD_UNARY_RSQRT, rsqrt, 1.5 },
};
#define FUNCTIONS (sizeof functions / sizeof *functions)
#define LOT 4096

/* n inputs through every instruction set: the same bits on all, and near the exact value.  Returns the worst error. */
static double try_lot(const struct function *f, const float *x, size_t n)
{
    static float y[LOT], other[LOT];
    const kd__kernels *reference = kernels_of(KD_ISA_SCALAR);
    double worst = 0;
    EACH_ISA(k) reference = k;   /* the last is the fastest */
    reference->unary_f32(f->op, y, x, n, 0, 0);
    for (size_t i = 0; i < n; i++) {
        double error = kdtest_ulp(y[i], f->exact((double)x[i]));
        if (error > worst) worst = error;
        if (error > f->bound)
            CHECK_MSG(0, "%s(%a) = %a, want %a: %.3g ulp", f->name, (double)x[i], (double)y[i], f->exact((double)x[i]), error);
    }
    EACH_ISA(k) {
        if (k == reference) continue;
        k->unary_f32(f->op, other, x, n, 0, 0);
        check_same(other, y, n, f->name);
    }
    return worst;
}

/* Bit patterns first, first + step, ... up to 2^32. */
static void sweep(const struct function *f, uint32_t first, uint32_t step)
{
    static float x[LOT];
    double worst = 0;
    size_t n = 0;
    for (uint64_t u = first; u >> 32 == 0; u += step) {
        x[n++] = float_of((uint32_t)u);
        if (n == LOT || (u + step) >> 32) {
            double error = try_lot(f, x, n);
            if (error > worst) worst = error;
            n = 0;
        }
    }
    if (kdtest_full()) printf("%-8s worst %.3f ulp\n", f->name, worst);
}

TEST(over_the_floats)
{
    for (size_t i = 0; i < FUNCTIONS; i++) sweep(functions + i, 0, kdtest_full() ? 1 : 4099);
}

TEST(around_special_values)
{
    float x[129];
    for (size_t i = 0; i < FUNCTIONS; i++)
        for (size_t s = 0; s < SPECIAL_COUNT; s++) {
            for (uint32_t k = 0; k < 129; k++) x[k] = float_of(bits_of(special_floats[s]) - 64 + k);
            try_lot(functions + i, x, 129);
        }
}

TEST(limits)
{
    static const struct { uint32_t op; float x, y; } exact[] = {
        { KD_UNARY_EXP, 0, 1 },            { KD_UNARY_EXP, -0.0f, 1 },        { KD_UNARY_EXP, INFINITY, INFINITY },
        { KD_UNARY_EXP, -INFINITY, 0 },    { KD_UNARY_EXP, -104, 0 },         { KD_UNARY_EXP, 88.73f, INFINITY },
        { KD_UNARY_LOG, 1, 0 },            { KD_UNARY_LOG, 0, -INFINITY },    { KD_UNARY_LOG, -0.0f, -INFINITY },
        { KD_UNARY_LOG, INFINITY, INFINITY }, { KD_UNARY_LOG1P, -1, -INFINITY }, { KD_UNARY_LOG1P, -0.0f, -0.0f },
        { KD_UNARY_LOG1P, 0x1p-149f, 0x1p-149f }, { KD_UNARY_TANH, INFINITY, 1 }, { KD_UNARY_TANH, -INFINITY, -1 },
        { KD_UNARY_TANH, -0.0f, -0.0f },   { KD_UNARY_SIGMOID, 0, 0.5f },     { KD_UNARY_SIGMOID, INFINITY, 1 },
        { KD_UNARY_SIGMOID, -INFINITY, 0 }, { KD_UNARY_ERF, INFINITY, 1 },    { KD_UNARY_ERF, -0.0f, -0.0f },
        { KD_UNARY_ERF, -INFINITY, -1 },   { KD_UNARY_RSQRT, 0, INFINITY },   { KD_UNARY_RSQRT, INFINITY, 0 },
        { KD_UNARY_RSQRT, 4, 0.5f },
    };
    uint64_t control = fp_control();
    EACH_ISA(k) {
        for (size_t i = 0; i < sizeof exact / sizeof *exact; i++) {
            float y;
            k->unary_f32(exact[i].op, &y, &exact[i].x, 1, 0, 0);
            CHECK_MSG(bits_of(y) == bits_of(exact[i].y), "%s: op %u of %a is %a, want %a", k->isa, exact[i].op,
                      (double)exact[i].x, (double)y, (double)exact[i].y);
        }
        for (size_t i = 0; i < FUNCTIONS; i++) {
            float nan = NAN, y;
            k->unary_f32(functions[i].op, &y, &nan, 1, 0, 0);
            CHECK(y != y);
        }
        float minus = -1e-30f, y;
        k->unary_f32(KD_UNARY_LOG, &y, &minus, 1, 0, 0);
        CHECK(y != y);
    }
    CHECK(fp_control() == control);
}
