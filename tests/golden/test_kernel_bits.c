/* test_kernel_bits.c - the promise across machines: fixed inputs through kernels must give the hashes below, on every
 * instruction set, CPU and compiler.  Where one CPU has them all, other tests compare side by side; these numbers carry the
 * comparison to CPUs that have only one.  A change here is a change of libkd's results: say so in CHANGELOG.
 * SPDX-License-Identifier: MIT */
#include "cpu/cpu.h"
#include "kdtest.h"
#include "kernels/kernels.h"

enum { N = 4099, ROWS = 7, COLUMNS = 585 };   /* 7 * 585 = 4095 */

static float x[N], y[N], z[N], any[N], out[N];

/* Integers to floats only: no function of a C library takes part. */
static void make_inputs(void)
{
    kdtest_rand r = { 20240607 };
    for (size_t i = 0; i < N; i++) {
        x[i] = (float)((int32_t)(kdtest_bits(&r) >> 40) - 8388608) * 0x1p-20f;   /* -8 to 8 */
        y[i] = (float)(kdtest_bits(&r) >> 40) * 0x1p-24f + 0.0625f;              /* above 0 */
        z[i] = (float)((int32_t)(kdtest_bits(&r) >> 40) - 8388608) * 0x1p-23f;
        uint32_t bits = (uint32_t)(kdtest_bits(&r) >> 32);                        /* every kind of float */
        memcpy(any + i, &bits, sizeof bits);
    }
}

static uint64_t hash_floats(uint64_t h, const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, v + i, sizeof bits);
        if (v[i] != v[i]) bits = 0x7fc00000u;   /* any NaN is a NaN */
        h = (h ^ bits) * 0x100000001b3u;
    }
    return h;
}

static uint64_t unary(const kd__kernels *k, uint64_t h)
{
    for (uint32_t op = 0; op < KD_UNARY_COUNT; op++) {
        k->unary_f32(op, out, x, N, 0.3f, 0.7f);
        h = hash_floats(h, out, N);
        k->unary_f32(op, out, any, N, -0.3f, 0.7f);
        h = hash_floats(h, out, N);
    }
    return h;
}

static uint64_t unary_backward(const kd__kernels *k, uint64_t h)
{
    for (uint32_t op = 0; op < KD_UNARY_COUNT; op++) {
        k->unary_backward_f32(op, out, z, y, N, 0.3f, 0.7f, 0);
        k->unary_backward_f32(op, out, z, any, N, 0.3f, 0.7f, 1);
        h = hash_floats(h, out, N);
    }
    return h;
}

static uint64_t binary(const kd__kernels *k, uint64_t h)
{
    kd__operand matrix = { x, COLUMNS, 1 }, row = { y, 0, 1 }, column = { z, 1, 0 };
    for (uint32_t op = 0; op < 4; op++) {
        k->binary_f32(op, out, COLUMNS, matrix, row, ROWS, COLUMNS);
        h = hash_floats(h, out, ROWS * COLUMNS);
        k->binary_f32(op, out, COLUMNS, column, matrix, ROWS, COLUMNS);
        h = hash_floats(h, out, ROWS * COLUMNS);
        k->binary_backward_f32(op, 1, (kd__target){ out, 0, 1 }, z, COLUMNS, matrix, row, ROWS, COLUMNS, 0);
        h = hash_floats(h, out, COLUMNS);
        k->binary_backward_f32(op, 0, (kd__target){ out, 1, 0 }, x, COLUMNS, column, (kd__operand){ y, COLUMNS, 1 }, ROWS, COLUMNS, 0);
        h = hash_floats(h, out, ROWS);
    }
    return h;
}

static uint64_t reductions(const kd__kernels *k, uint64_t h)
{
    double sums[2];
    k->sum_f32(sums, x, N);
    k->dot_f32(sums + 1, x, z, N);
    uint64_t bits[2];
    memcpy(bits, sums, sizeof bits);
    h = (((h ^ bits[0]) * 0x100000001b3u) ^ bits[1]) * 0x100000001b3u;
    k->row_sums_f32(out, x, ROWS, COLUMNS, COLUMNS, 0.37f, 0);
    h = hash_floats(h, out, ROWS);
    k->column_sums_f32(out, x, 585, 7, 7, 0);
    h = hash_floats(h, out, 7);
    k->row_max_f32(out, NULL, any, ROWS, COLUMNS, COLUMNS);
    h = hash_floats(h, out, ROWS);
    memcpy(out, z, sizeof out);
    k->axpy_f32(out, x, N, 0.123f);
    return hash_floats(h, out, N);
}

static uint64_t softmax(const kd__kernels *k, uint64_t h)
{
    static const float temperatures[] = { 1, 4, 0.07f, 3 };
    for (size_t i = 0; i < 4; i++)
        for (int logarithm = 0; logarithm < 2; logarithm++) {
            k->softmax_f32(out, COLUMNS, x, COLUMNS, ROWS, COLUMNS, temperatures[i], logarithm);
            h = hash_floats(h, out, ROWS * COLUMNS);
            k->softmax_backward_f32(out, z, out, ROWS, COLUMNS, temperatures[i], logarithm, 0);
            h = hash_floats(h, out, ROWS * COLUMNS);
            k->softmax_f32(out, N, x, N, 1, N, temperatures[i], logarithm);
            h = hash_floats(h, out, N);
        }
    k->logsumexp_f32(out, x, COLUMNS, ROWS, COLUMNS, 2);
    return hash_floats(h, out, ROWS);
}

static const struct { const char *name; uint64_t (*run)(const kd__kernels *k, uint64_t h); uint64_t want; } runs[] = {
    { "unary", unary, 0x3dc96d9c3dbb1ee4u },
    { "unary_backward", unary_backward, 0x6a20ef393c5f3c0eu },
    { "binary", binary, 0x505557fa7900fe8fu },
    { "reductions", reductions, 0x37cdbc10ff978492u },
    { "softmax", softmax, 0xac1f9e5e4ba6cb26u },
};

TEST(bits)
{
    make_inputs();
    for (uint32_t isa = KD_ISA_SCALAR; isa <= KD_ISA_AVX512; isa++) {
        const kd__kernels *k = kd__kernels_for(isa);
        for (size_t i = 0; k && i < sizeof runs / sizeof *runs; i++) {
            uint64_t got = runs[i].run(k, 0xcbf29ce484222325u);
            CHECK_MSG(got == runs[i].want, "%s on %s: hash 0x%016llx, want 0x%016llx", runs[i].name, k->isa, (unsigned long long)got,
                      (unsigned long long)runs[i].want);
        }
    }
}
