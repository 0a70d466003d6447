/* ref_eltwise.c - see ref_eltwise.h.
 * SPDX-License-Identifier: MIT */
#include "ref_eltwise.h"
#include <math.h>
#include <string.h>

#define IS(text) (strcmp(name, text) == 0)
static const double pi = 3.14159265358979323846;

static double sigmoid(double x) { return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }

/* x times what vanishes faster: 0 at -inf. */
static double gate(double x, double share) { return share == 0 ? 0 : x * share; }

double ref_unary(const char *name, double x, double p, double q)
{
    if (IS("scale")) return p * x + q;
    if (IS("neg")) return -x;
    if (IS("exp")) return exp(x);
    if (IS("log")) return log(x);
    if (IS("sqrt")) return sqrt(x);
    if (IS("square")) return x * x;
    if (IS("abs")) return fabs(x);
    if (IS("clamp")) return x < p ? p : x > q ? q : x;
    if (IS("relu")) return x > 0 ? x : x == x ? 0 : x;
    if (IS("leaky_relu")) return x > 0 ? x : p * x;
    if (IS("gelu")) return gate(x, 0.5 * erfc(-x / sqrt(2)));
    if (IS("gelu_tanh"))   /* (1 + tanh u) / 2 = sigmoid(2 u) */
        return gate(x, sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 * x * x * x)));
    if (IS("silu")) return gate(x, sigmoid(x));
    if (IS("sigmoid")) return sigmoid(x);
    if (IS("tanh")) return tanh(x);
    if (IS("softplus")) return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
    return NAN;
}

double ref_unary_slope(const char *name, double x, double p, double q)
{
    double s = sigmoid(x);
    if (IS("scale")) return p;
    if (IS("neg")) return -1;
    if (IS("exp")) return exp(x);
    if (IS("log")) return 1 / x;
    if (IS("sqrt")) return 1 / (2 * sqrt(x));
    if (IS("square")) return 2 * x;
    if (IS("abs")) return x > 0 ? 1 : x < 0 ? -1 : x;
    if (IS("clamp")) return x >= p && x <= q ? 1 : 0;
    if (IS("relu")) return x > 0 ? 1 : 0;
    if (IS("leaky_relu")) return x > 0 ? 1 : p;
    if (IS("gelu")) return 0.5 * erfc(-x / sqrt(2)) + x * exp(-x * x / 2) / sqrt(2 * pi);
    if (IS("gelu_tanh")) {
        double u = sqrt(2 / pi) * (x + 0.044715 * x * x * x), du = sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x);
        double g = sigmoid(2 * u);
        return g + x * g * sigmoid(-2 * u) * 2 * du;
    }
    if (IS("silu")) return s + x * s * sigmoid(-x);
    if (IS("sigmoid")) return s * sigmoid(-x);
    if (IS("tanh")) return 1 / (cosh(x) * cosh(x));
    if (IS("softplus")) return s;
    return NAN;
}

double ref_binary(char op, double a, double b)
{
    return op == '+' ? a + b : op == '-' ? a - b : op == '*' ? a * b : a / b;
}

double ref_binary_da(char op, double a, double b)
{
    (void)a;
    return op == '*' ? b : op == '/' ? 1 / b : 1;
}

double ref_binary_db(char op, double a, double b)
{
    return op == '+' ? 1 : op == '-' ? -1 : op == '*' ? a : -a / (b * b);
}

int ref_broadcast_shape(size_t arank, const size_t *ashape, size_t brank, const size_t *bshape, size_t *out)
{
    size_t rank = arank > brank ? arank : brank;
    for (size_t i = 0; i < rank; i++) {   /* i counts from the last axis */
        size_t a = i < arank ? ashape[arank - 1 - i] : 1, b = i < brank ? bshape[brank - 1 - i] : 1;
        if (a != b && a != 1 && b != 1) return -1;
        out[rank - 1 - i] = a == 1 ? b : a;
    }
    return (int)rank;
}

size_t ref_broadcast_index(size_t rank, const size_t *shape, size_t orank, const size_t *oshape, size_t index)
{
    size_t at = 0, step = 1;
    for (size_t i = 0; i < orank; i++) {
        size_t k = index % oshape[orank - 1 - i];
        index /= oshape[orank - 1 - i];
        if (i >= rank) continue;
        if (shape[rank - 1 - i] != 1) at += k * step;
        step *= shape[rank - 1 - i];
    }
    return at;
}
