/* check_binary.c - elementwise kernels of two operands with every repetition, and their summed gradients.
 * SPDX-License-Identifier: MIT */
#include "checkkd.h"
#include "ref_eltwise.h"

static const char signs[] = { '+', '-', '*', '/' };

/* The layouts of an operand of a [rows, n] result: a matrix, a row for all, a number a row, one number. */
enum { MATRIX, REPEATED_ROW, NUMBERS, NUMBER, LAYOUTS };
static void operand(ck_case *c, const char *name, int layout, double base)
{
    const size_t rows = layout == MATRIX || layout == NUMBERS ? c->rows : 1,
                 n = layout == MATRIX || layout == REPEATED_ROW ? c->n : 1;
    float *x = ck_floats(c, CK_IN, name, rows, n, 1);
    if (layout == MATRIX) ck_strided(c);
    else if (layout != NUMBERS) ck_shared(c);
    for (size_t i = 0; i < rows * n && !c->special; i++) x[i] += copysignf((float)base, x[i]);
}
static kd__operand laid(const ck_case *c, int array, int layout)
{
    return (kd__operand){ F(array), layout == MATRIX ? ROW(array) : layout == NUMBERS, layout < NUMBERS };
}
static size_t index_in(const ck_case *c, int layout, size_t i)
{
    const size_t at[] = { i, i % c->n, i / c->n, 0 };
    return at[layout];
}

/* Ways: op, then layout of a, then of b. */
#define LAYOUTS_OF_B(op, a) op " " a ".matrix", op " " a ".row", op " " a ".numbers", op " " a ".number"
#define LAYOUTS_OF(op) \
    LAYOUTS_OF_B(op, "matrix"), LAYOUTS_OF_B(op, "row"), LAYOUTS_OF_B(op, "numbers"), LAYOUTS_OF_B(op, "number")
static const char *const names[] = { LAYOUTS_OF("add"), LAYOUTS_OF("sub"), LAYOUTS_OF("mul"), LAYOUTS_OF("div"), NULL };
static uint32_t op_of(const ck_case *c) { return (uint32_t)c->way / 16 % 4; }
static int layout_a(const ck_case *c) { return (int)c->way / 4 % 4; }
static int layout_b(const ck_case *c) { return (int)c->way % 4; }

static void make_binary(ck_case *c)
{
    ck_floats(c, CK_OUT, "out", c->rows, c->n, 1);
    ck_strided(c);
    operand(c, "a", layout_a(c), 0);
    operand(c, "b", layout_b(c), 0.1);
    if (layout_a(c) == MATRIX) ck_in_place(c, 0, 1);
    else if (layout_b(c) == MATRIX) ck_in_place(c, 0, 2);
}
static void run_binary(const ck_case *c, const kd__kernels *k)
{
    k->binary_f32(op_of(c), F(0), ROW(0), laid(c, 1, layout_a(c)), laid(c, 2, layout_b(c)), c->rows, c->n);
}
/* One operation: double, rounded, is what float gives. */
static void oracle_binary(const ck_case *c)
{
    for (size_t i = 0; i < c->rows * c->n; i++)
        ck_same(c, 0, i, (float)ref_binary(signs[op_of(c)], (double)BEFORE(1)[index_in(c, layout_a(c), i)],
                                           (double)BEFORE(2)[index_in(c, layout_b(c), i)]));
}
CK_KERNEL(binary_f32, .ways = names, .matrix = true, .independent = true, .special = true, .make = make_binary, .run = run_binary,
          .oracle = oracle_binary, .bench_rows = 1024, .bench_n = 4096, .bench_every = 16);

/* The same for the gradient of a, then of b; numbers decide whether it is added. */
static const char *const backward_names[] = {
    LAYOUTS_OF("add a"), LAYOUTS_OF("sub a"), LAYOUTS_OF("mul a"), LAYOUTS_OF("div a"),
    LAYOUTS_OF("add b"), LAYOUTS_OF("sub b"), LAYOUTS_OF("mul b"), LAYOUTS_OF("div b"), NULL
};
static int which_of(const ck_case *c) { return (int)(c->way / 64); }
static int layout_of(const ck_case *c) { return which_of(c) ? layout_b(c) : layout_a(c); }
static bool adding(const ck_case *c) { return (c->way + c->n) % 2; }

static void make_backward(ck_case *c)
{
    const int layout = layout_of(c);
    ck_floats(c, adding(c) ? CK_INOUT : CK_OUT, "grad", layout == MATRIX || layout == NUMBERS ? c->rows : 1,
              layout == MATRIX || layout == REPEATED_ROW ? c->n : 1, 1);
    if (layout == MATRIX) ck_strided(c);
    ck_floats(c, CK_IN, "grad_out", c->rows, c->n, 1);
    ck_strided(c);
    operand(c, "a", layout_a(c), 0);
    c->a[2].idle = op_of(c) < KD_BINARY_MUL || !which_of(c);   /* a is read for the gradient of b only ... */
    operand(c, "b", layout_b(c), 0.1);
    c->a[3].idle =
        op_of(c) < KD_BINARY_MUL || (which_of(c) && op_of(c) == KD_BINARY_MUL); /* ... b for that of a, and in a quotient */
}
static void run_backward(const ck_case *c, const kd__kernels *k)
{
    const int layout = layout_of(c);
    const kd__target grad = { F(0), layout == MATRIX ? ROW(0) : layout == NUMBERS, layout < NUMBERS };
    k->binary_backward_f32(op_of(c), which_of(c), grad, F(1), ROW(1), laid(c, 2, layout_a(c)), laid(c, 3, layout_b(c)), c->rows,
                           c->n, adding(c));
}
/* Three roundings a term, one for each of at most 64 + rows / 64 sums. */
static void oracle_backward(const ck_case *c)
{
    const int layout = layout_of(c), which = which_of(c);
    const size_t count = c->a[0].rows * c->a[0].n;
    double *exact = calloc(count + 1, sizeof *exact), *mass = calloc(count + 1, sizeof *mass);
    for (size_t i = 0; i < c->rows * c->n; i++) {
        const double a = (double)BEFORE(2)[index_in(c, layout_a(c), i)], b = (double)BEFORE(3)[index_in(c, layout_b(c), i)];
        const double d =
            (double)BEFORE(1)[i] * (which ? ref_binary_db(signs[op_of(c)], a, b) : ref_binary_da(signs[op_of(c)], a, b));
        const size_t to = index_in(c, layout, i);
        exact[to] += d;
        mass[to] += fabs(d);
    }
    const double terms = (double)(c->rows * c->n) / (double)(count ? count : 1);
    const double sums = layout == REPEATED_ROW ? fmin(terms, 64) + terms / 64 : 1;
    for (size_t i = 0; i < count; i++) {
        const double old = adding(c) ? (double)BEFORE(0)[i] : 0;
        ck_near(c, 0, i, exact[i] + old, (3 + sums) * U * mass[i] + (adding(c) ? U * (sums + 1) * (fabs(old) + mass[i]) : 0));
    }
    free(exact);
    free(mass);
}
CK_KERNEL(binary_backward_f32, .ways = backward_names, .matrix = true, .make = make_backward, .run = run_backward,
          .oracle = oracle_backward, .bench_rows = 1024, .bench_n = 4096, .bench_every = 16);
