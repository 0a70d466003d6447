/* kern_binary.c - elementwise functions of two operands, either of which may repeat, and their gradients.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "simd/simd.h"

#ifndef KD_ISA_avx512   /* AVX2 serves: kernels.def */

/* Sixteen elements of an operand's row; the n first with `_n`, the others 1. */
V_FN kd_f32x16 operand(const float *row, size_t step, size_t i) { return step ? v_load(row + i) : v_set1(*row); }
V_FN kd_f32x16 operand_n(const float *row, size_t step, size_t i, size_t n)
{
    return step ? v_load_n(row + i, n, 1.0f) : v_set1(*row);
}

/* `op` and `how` are constants wherever these are called. */
V_FN kd_f32x16 binary_value(uint32_t op, kd_f32x16 a, kd_f32x16 b)
{
    switch (op) {
    case KD_BINARY_ADD: return v_add(a, b);
    case KD_BINARY_SUB: return v_sub(a, b);
    case KD_BINARY_MUL: return v_mul(a, b);
    default: return v_div(a, b);
    }
}
/* The gradient by one operand: of the sum and the difference, g or -g; g times the other factor; of the quotient a / b. */
enum { PASS, NEGATE, TIMES_B, BY_DIVIDEND, BY_DIVISOR };
V_FN kd_f32x16 binary_gradient(const int how, kd_f32x16 g, kd_f32x16 a, kd_f32x16 b)
{
    switch (how) {
    case PASS: return g;
    case NEGATE: return v_neg(g);
    case TIMES_B: return v_mul(g, b);
    case BY_DIVIDEND: return v_div(g, b);
    default: return v_neg(v_div(v_mul(g, v_div(a, b)), b));
    }
}

V_FN void binary_loop(uint32_t op, size_t a_step, size_t b_step, float *out, size_t out_row, kd__operand a,
                      kd__operand b, size_t rows, size_t n)
{
    for (size_t r = 0; r < rows; r++) {
        const float *pa = a.data + r * a.row, *pb = b.data + r * b.row;
        float *po = out + r * out_row;
        size_t i = 0;
        for (; i + 16 <= n; i += 16) v_store(po + i, binary_value(op, operand(pa, a_step, i), operand(pb, b_step, i)));
        if (i < n) {
            kd_f32x16 x = operand_n(pa, a_step, i, n - i), y = operand_n(pb, b_step, i, n - i);
            v_store_n(po + i, binary_value(op, x, y), n - i);
        }
    }
}

/* How a gradient meets its target: element by element, summed along rows, or summed down columns. */
typedef struct backward_args {
    kd__target grad;
    const float *grad_out;
    size_t out_row;
    kd__operand a, b;
    size_t rows, n;
    int accumulate;
} backward_args;

V_FN kd_f32x16 gradient_at(const int how, const backward_args *p, size_t r, size_t i, size_t n)
{
    const float *g = p->grad_out + r * p->out_row + i, *a = p->a.data + r * p->a.row, *b = p->b.data + r * p->b.row;
    if (n == 16) return binary_gradient(how, v_load(g), operand(a, p->a.step, i), operand(b, p->b.step, i));
    kd_f32x16 x = operand_n(a, p->a.step, i, n), y = operand_n(b, p->b.step, i, n);
    return v_select(vm_first(n), binary_gradient(how, v_load_n(g, n, 0.0f), x, y), v_zero());
}

V_FN void backward_each(const int how, const backward_args *p)
{
    for (size_t r = 0; r < p->rows; r++) {
        float *out = p->grad.data + r * p->grad.row;
        size_t i = 0;
        for (; i + 16 <= p->n; i += 16) {
            kd_f32x16 g = gradient_at(how, p, r, i, 16);
            v_store(out + i, p->accumulate ? v_add(v_load(out + i), g) : g);
        }
        if (i < p->n) {
            kd_f32x16 g = gradient_at(how, p, r, i, p->n - i);
            v_store_n(out + i, p->accumulate ? v_add(v_load_n(out + i, p->n - i, 0.0f), g) : g, p->n - i);
        }
    }
}

V_FN void backward_columns(const int how, const backward_args *p)
{
    for (size_t i = 0; i < p->n; i += 16) {
        size_t n = p->n - i < 16 ? p->n - i : 16;
        kd_f32x16 sum = p->accumulate ? v_load_n(p->grad.data + i, n, 0.0f) : v_zero();
        for (size_t r = 0; r < p->rows; r += 64) {
            size_t end = p->rows - r < 64 ? p->rows : r + 64;
            kd_f32x16 block = v_zero();
            for (size_t k = r; k < end; k++) block = v_add(block, gradient_at(how, p, k, i, n));
            sum = v_add(sum, block);
        }
        v_store_n(p->grad.data + i, sum, n);
    }
}

V_FN double backward_row_sum(const int how, const backward_args *p, size_t r)
{
    kd_f64x16 sum[4] = { vd_set1(0), vd_set1(0), vd_set1(0), vd_set1(0) };
    for (size_t i = 0, k = 0; i < p->n; i += 16, k = (k + 1) % 4) {
        size_t n = p->n - i < 16 ? p->n - i : 16;
        sum[k] = vd_add(sum[k], vd_from_f32(gradient_at(how, p, r, i, n)));
    }
    return vd_sum(vd_add(vd_add(sum[0], sum[1]), vd_add(sum[2], sum[3])));
}

V_FN void backward_rows(const int how, const backward_args *p)
{
    double total = 0;
    for (size_t r = 0; r < p->rows; r++) {
        double sum = backward_row_sum(how, p, r);
        float *out = p->grad.data + r * p->grad.row;
        if (p->grad.row) *out = p->accumulate ? *out + (float)sum : (float)sum;
        total += sum;
    }
    if (!p->grad.row) *p->grad.data = p->accumulate ? *p->grad.data + (float)total : (float)total;
}

V_FN void backward(const int how, const backward_args *p)
{
    if (!p->grad.step) backward_rows(how, p);
    else if (!p->grad.row) backward_columns(how, p);
    else backward_each(how, p);
}

void KD_K(binary_f32)(uint32_t op, float *out, size_t out_row, kd__operand a, kd__operand b, size_t rows, size_t n)
{
    /* rows without gaps are one long row */
    if (out_row == n && a.step && a.row == n && ((b.step && b.row == n) || (!b.step && !b.row))) n *= rows, rows = 1;
#define BINARY_CASE(op)                                                                     \
    case op:                                                                                \
        if (a.step && b.step) binary_loop(op, 1, 1, out, out_row, a, b, rows, n);           \
        else if (a.step) binary_loop(op, 1, 0, out, out_row, a, b, rows, n);                \
        else binary_loop(op, 0, b.step, out, out_row, a, b, rows, n);                       \
        break;
    switch (op) {
        BINARY_CASE(KD_BINARY_ADD)
        BINARY_CASE(KD_BINARY_SUB)
        BINARY_CASE(KD_BINARY_MUL)
        BINARY_CASE(KD_BINARY_DIV)
    default: break;
    }
#undef BINARY_CASE
}

void KD_K(binary_backward_f32)(uint32_t op, int which, kd__target grad, const float *grad_out, size_t out_row,
                               kd__operand a, kd__operand b, size_t rows, size_t n, int accumulate)
{
    backward_args p = { grad, grad_out, out_row, a, b, rows, n, accumulate };
    switch (op == KD_BINARY_SUB && !which ? KD_BINARY_ADD : op) {
    case KD_BINARY_ADD: backward(PASS, &p); break;
    case KD_BINARY_MUL:
        if (which) p.b = a;
        backward(TIMES_B, &p);
        break;
    case KD_BINARY_SUB:
    case KD_BINARY_DIV: backward(op == KD_BINARY_SUB ? NEGATE : which ? BY_DIVISOR : BY_DIVIDEND, &p); break;   /* asked for each vector */
    default: break;
    }
}
#endif
