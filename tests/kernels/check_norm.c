/* check_norm.c - the kernels of normalisation and cosine similarity: the documented order to the bit, or near the exact value.
 * SPDX-License-Identifier: MIT */
#include "checkkd.h"
#include "ref_loss.h"
#include "ref_norm.h"

/* ---- columns: kernels.h's order, written out ----------------------------------------------------------------- */

/* Terms of a column in fours, ((0 + 1) + (2 + 3)), then the rest. */
static float in_fours(const float *term, size_t rows)
{
    float sum = 0;
    size_t r = 0;
    for (; r + 4 <= rows; r += 4) sum += (term[r] + term[r + 1]) + (term[r + 2] + term[r + 3]);
    for (; r < rows; r++) sum += term[r];
    return sum;
}
/* The same of products a b, each pair and each single one by fma. */
static float products_in_fours(const float *a, const float *b, size_t rows)
{
    float sum = 0;
    size_t r = 0;
    for (; r + 4 <= rows; r += 4)
        sum += fmaf(a[r + 1], b[r + 1], a[r] * b[r]) + fmaf(a[r + 3], b[r + 3], a[r + 2] * b[r + 2]);
    for (; r < rows; r++) sum = fmaf(a[r], b[r], sum);
    return sum;
}
/* Column j of x less m. */
static float *column(const ck_case *c, int x, size_t j, float m)
{
    float *out = malloc((c->rows + 1) * sizeof *out);
    for (size_t r = 0; r < c->rows; r++) out[r] = BEFORE(x)[r * c->n + j] - m;
    return out;
}

static void make_stats(ck_case *c)
{
    ck_floats(c, CK_IN, "x", c->rows, c->n, 1);
    ck_floats(c, CK_OUT, "shift", 1, c->n, 1);
    ck_floats(c, CK_OUT, "s1", 1, c->n, 1);
    ck_floats(c, CK_OUT, "s2", 1, c->n, 1);
}
static void run_stats(const ck_case *c, const kd__kernels *k)
{
    k->norm_columns_stats_f32(c->rows, c->n, F(0), F(1), F(2), F(3));
}
static void oracle_stats(const ck_case *c)
{
    for (size_t j = 0; j < c->n && c->rows; j++) {
        float *x = column(c, 0, j, 0.0f), mean = in_fours(x, c->rows) * (1.0f / (float)c->rows), *d = column(c, 0, j, mean);
        ck_same(c, 1, j, mean);
        ck_same(c, 2, j, in_fours(d, c->rows));
        ck_same(c, 3, j, products_in_fours(d, d, c->rows));
        free(x);
        free(d);
    }
}
CK_KERNEL(norm_columns_stats_f32, .matrix = true, .special = true, .make = make_stats, .run = run_stats, .oracle = oracle_stats,
          .bench_rows = 256, .bench_n = 16384);

/* Ways: a ReLU behind the norm or not; its result computed again, or given, and then the gradient before it is wanted. */
static const char *const dots_names[] = { "", "relu", "relu, y given", NULL };
enum { DY, X, MEAN, S_DY, S_DYX, SCALE, SHIFT, Y, G };
static void make_dots(ck_case *c)
{
    ck_floats(c, CK_IN, "dy", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "x", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "mean", 1, c->n, 1);
    ck_floats(c, CK_OUT, "s_dy", 1, c->n, 1);
    ck_floats(c, CK_OUT, "s_dyx", 1, c->n, 1);
    ck_floats(c, CK_IN, "scale", 1, c->way == 1 ? c->n : 0, 1);
    ck_floats(c, CK_IN, "shift", 1, c->way == 1 ? c->n : 0, 1);
    ck_floats(c, CK_IN, "y", c->way == 2 ? c->rows : 0, c->n, 1);
    ck_floats(c, CK_OUT, "g", c->way == 2 ? c->rows : 0, c->n, 1);
    if (c->way == 2) ck_in_place(c, G, DY);
}
static void run_dots(const ck_case *c, const kd__kernels *k)
{
    const kd__norm_relu again = { .scale = F(SCALE), .shift = F(SHIFT) }, given = { .y = F(Y), .g = F(G) };
    k->norm_columns_dots_f32(c->rows, c->n, F(DY), F(X), F(MEAN), F(S_DY), F(S_DYX),
                             c->way == 0   ? NULL
                             : c->way == 1 ? &again
                                           : &given);
}
static void oracle_dots(const ck_case *c)
{
    for (size_t j = 0; j < c->n; j++) {
        float *g = column(c, DY, j, 0.0f), *d = column(c, X, j, BEFORE(MEAN)[j]);
        for (size_t r = 0; r < c->rows && c->way; r++) {
            const float y = c->way == 2 ? BEFORE(Y)[r * c->n + j] : fmaf(d[r], BEFORE(SCALE)[j], BEFORE(SHIFT)[j]);
            g[r] = y <= 0 ? 0.0f : g[r];
            if (c->way == 2) ck_same(c, G, r * c->n + j, g[r]);
        }
        ck_same(c, S_DY, j, in_fours(g, c->rows));
        ck_same(c, S_DYX, j, products_in_fours(g, d, c->rows));
        free(g);
        free(d);
    }
}
CK_KERNEL(norm_columns_dots_f32, .ways = dots_names, .matrix = true, .special = true, .make = make_dots, .run = run_dots,
          .oracle = oracle_dots, .bench_rows = 256, .bench_n = 16384);

static const char *const apply_names[] = {
    "mean", "no mean", "mean relu", "no mean relu", "mean residual relu", "no mean residual", NULL};
static bool with_mean(const ck_case *c) { return c->way % 2 == 0; }
static bool with_relu(const ck_case *c) { return c->way >= 2 && c->way < 5; }
static bool with_residual(const ck_case *c) { return c->way >= 4; }
static void make_apply(ck_case *c)
{
    ck_floats(c, CK_OUT, "y", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "x", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "scale", 1, c->n, 1);
    ck_shared(c);
    ck_floats(c, CK_IN, "shift", 1, c->n, 1);
    ck_shared(c);
    ck_floats(c, CK_IN, "mean", 1, with_mean(c) ? c->n : 0, 1);
    ck_shared(c);
    ck_floats(c, CK_IN, "residual", with_residual(c) ? c->rows : 0, c->n, 1);
    ck_in_place(c, 0, 1);
}
static void run_apply(const ck_case *c, const kd__kernels *k)
{
    k->norm_columns_apply_f32(c->rows, c->n, F(1), with_mean(c) ? F(4) : NULL, F(2), F(3), with_residual(c) ? F(5) : NULL,
                              with_relu(c), F(0));
}
static void oracle_apply(const ck_case *c)
{
    for (size_t i = 0; i < c->rows * c->n; i++) {
        const size_t j = i % c->n;
        float y = fmaf(with_mean(c) ? BEFORE(1)[i] - BEFORE(4)[j] : BEFORE(1)[i], BEFORE(2)[j], BEFORE(3)[j]);
        if (with_residual(c)) y = y + BEFORE(5)[i];
        ck_same(c, 0, i, with_relu(c) && 0 > y ? 0 : y);
    }
}
CK_KERNEL(norm_columns_apply_f32, .ways = apply_names, .matrix = true, .independent = true, .special = true, .make = make_apply,
          .run = run_apply, .oracle = oracle_apply, .bench_rows = 256, .bench_n = 16384);

static const char *const backward_names[] = { "x", "no x", "x relu", NULL };
static void make_backward(ck_case *c)
{
    static const char *const columns[] = { "mean", "scale", "k", "m", "shift" };
    ck_floats(c, ck_result(c), "dx", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "dy", c->rows, c->n, 1);
    for (int i = 0; i < 5; i++) {
        ck_floats(c, CK_IN, columns[i], 1, i < 4 || c->way == 2 ? c->n : 0, 1);
        ck_shared(c);
    }
    ck_floats(c, CK_IN, "x", c->way == 1 ? 0 : c->rows, c->n, 1);
}
static void run_backward(const ck_case *c, const kd__kernels *k)
{
    k->norm_columns_backward_f32(c->rows, c->n, F(1), c->way == 1 ? NULL : F(7), F(2), F(3), F(4), F(5),
                                 c->way == 2 ? F(6) : NULL, F(0), c->add);
}
static void oracle_backward(const ck_case *c)
{
    for (size_t i = 0; i < c->rows * c->n; i++) {
        const size_t j = i % c->n;
        const float scale = BEFORE(3)[j], d = c->way == 1 ? 0 : BEFORE(7)[i] - BEFORE(2)[j];
        const float g = c->way == 2 && fmaf(d, scale, BEFORE(6)[j]) <= 0 ? 0 : BEFORE(1)[i];
        if (c->way == 1) ck_same(c, 0, i, scale * g);
        else ck_same(c, 0, i, fmaf(scale, g, -fmaf(d, BEFORE(4)[j], BEFORE(5)[j])));
    }
}
CK_KERNEL(norm_columns_backward_f32, .ways = backward_names, .matrix = true, .adds = true, .independent = true, .special = true,
          .make = make_backward, .run = run_backward, .oracle = oracle_backward, .bench_rows = 256, .bench_n = 16384);

/* ---- rows: near the exact value ------------------------------------------------------------------------------- */

/* Layer norm in double of operands x, weight, bias; arrays to be freed by rows_end. */
typedef struct rows { ref_norm norm; double *x, *weight, *bias; size_t *set, *channel; } rows;
static rows rows_of(const ck_case *c, int x, int weight, int bias)
{
    const size_t count = c->rows * c->n;
    rows d = { .x = ck_wide(BEFORE(x), count), .weight = weight < 0 ? NULL : ck_wide(BEFORE(weight), c->n),
               .bias = bias < 0 ? NULL : ck_wide(BEFORE(bias), c->n), .set = malloc((count + 1) * sizeof(size_t)),
               .channel = malloc((count + 1) * sizeof(size_t)) };
    for (size_t i = 0; i < count; i++) {
        d.set[i] = i / c->n;
        d.channel[i] = i % c->n;
    }
    d.norm = (ref_norm){ .count = count, .sets = c->rows, .channels = c->n, .set = d.set, .channel = d.channel, .x = d.x,
                         .weight = d.weight, .bias = d.bias, .eps = (double)1e-5f };
    return d;
}
static void rows_end(rows *d)
{
    free(d->x);
    free(d->weight);
    free(d->bias);
    free(d->set);
    free(d->channel);
}

static const char *const layer_names[] = { "weight, bias", "neither", NULL };
static void make_layer(ck_case *c)
{
    ck_floats(c, CK_OUT, "y", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "x", c->rows, c->n, 1);
    ck_floats(c, CK_OUT, "mean", c->rows, 1, 1);
    ck_floats(c, CK_OUT, "rstd", c->rows, 1, 1);
    ck_floats(c, CK_IN, "weight", 1, c->way ? 0 : c->n, 1);
    ck_shared(c);
    ck_floats(c, CK_IN, "bias", 1, c->way ? 0 : c->n, 1);
    ck_shared(c);
}
static void run_layer(const ck_case *c, const kd__kernels *k)
{
    k->layer_norm_rows_f32(c->rows, c->n, F(1), c->way ? NULL : F(4), c->way ? NULL : F(5), 1e-5f, F(0), F(2), F(3));
}
static void oracle_layer(const ck_case *c)
{
    if (!c->n) return;
    rows d = rows_of(c, 1, c->way ? -1 : 4, c->way ? -1 : 5);
    double *y = malloc((d.norm.count + 1) * sizeof *y), *mean = malloc((c->rows + 1) * sizeof *mean),
           *var = malloc((c->rows + 1) * sizeof *var);
    ref_norm_forward(&d.norm, y, mean, var);
    for (size_t r = 0; r < c->rows; r++) {
        /* chains of 4096 / 32 in the sum of squares, the fold, and the rounding of the result */
        const double units = (double)(c->n < 4096 ? c->n : 4096) / 32 + 6, rstd = 1 / sqrt(var[r] + d.norm.eps);
        ck_near(c, 2, r, mean[r], 2 * U * fabs(mean[r]) + 2 * U);
        ck_near(c, 3, r, rstd, (units / 2 + 2) * U * rstd);
        for (size_t i = r * c->n; i < (r + 1) * c->n; i++) {
            const double hat = fabs(d.x[i] - mean[r]) * rstd, w = c->way ? 1 : fabs(d.weight[i % c->n]);
            double bound = (units / 2 + 6) * U * hat * w + (2 * fabs(mean[r]) + 2) * U * rstd * w;
            bound += U * fabs(y[i]);
            if (!ck_near(c, 0, i, y[i], bound)) break;
        }
    }
    free(y);
    free(mean);
    free(var);
    rows_end(&d);
}
CK_KERNEL(layer_norm_rows_f32, .ways = layer_names, .matrix = true, .independent = true, .make = make_layer, .run = run_layer,
          .oracle = oracle_layer, .bench_rows = 4096, .bench_n = 1024);

/* Ways: all; no weight; only the gradient of x; only those of weight and bias. */
static const char *const layer_backward_names[] = { "all", "no weight", "dx", "dweight, dbias", NULL };
static void make_layer_backward(ck_case *c)
{
    const bool params = c->way != 2;
    ck_floats(c, ck_result(c), "dx", c->way == 3 ? 0 : c->rows, c->n, 1);
    ck_floats(c, CK_IN, "dy", c->rows, c->n, 1);
    const float *x = ck_floats(c, CK_IN, "x", c->rows, c->n, 1);
    float *mean = ck_floats(c, CK_IN, "mean", c->rows, 1, 1), *rstd = ck_floats(c, CK_IN, "rstd", c->rows, 1, 1);
    ck_floats(c, CK_IN, "weight", 1, c->way == 1 ? 0 : c->n, 1);
    ck_floats(c, CK_INOUT, "dweight", 1, params ? c->n : 0, 0);
    ck_floats(c, CK_INOUT, "dbias", 1, params ? c->n : 0, 0);
    for (size_t r = 0; r < c->rows && !c->special && c->n; r++) {
        double m = 0, v = 0;
        for (size_t i = 0; i < c->n; i++) m += (double)x[r * c->n + i] / (double)c->n;
        for (size_t i = 0; i < c->n; i++) v += ((double)x[r * c->n + i] - m) * ((double)x[r * c->n + i] - m) / (double)c->n;
        mean[r] = (float)m;
        rstd[r] = (float)(1 / sqrt(v + (double)1e-5f));
    }
}
static void run_layer_backward(const ck_case *c, const kd__kernels *k)
{
    const bool params = c->way != 2;
    k->layer_norm_backward_rows_f32(c->rows, c->n, F(1), F(2), c->way == 1 ? NULL : F(5), F(3), F(4), c->way == 3 ? NULL : F(0),
                                    c->add, params ? F(6) : NULL, params ? F(7) : NULL);
}
/* One or two numbers normalised are 0 or +-1: nothing but rounding is left of dx. */
static void oracle_layer_backward(const ck_case *c)
{
    if (c->n < 3 || !c->rows) return;
    const size_t count = c->rows * c->n;
    rows d = rows_of(c, 2, c->way == 1 ? -1 : 5, -1);
    double *dy = ck_wide(BEFORE(1), count), *dx = malloc(count * sizeof *dx), *dw = malloc(c->n * sizeof *dw),
           *db = malloc(c->n * sizeof *db);
    double largest = 0, steepest = 1;
    ref_norm_backward(&d.norm, dy, dx, dw, db);
    for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs(dx[i]));
    for (size_t r = 0; r < c->rows; r++) steepest = fmax(steepest, (double)BEFORE(4)[r]);
    for (size_t i = 0; i < count && c->way != 3; i++)
        if (!ck_near(c, 0, i, dx[i], 2e-6 * (steepest + largest))) break;
    for (size_t j = 0; j < c->n && c->way != 2; j++) {   /* a chain down the rows */
        double weight = 0, bias = 0;
        for (size_t r = 0; r < c->rows; r++) {
            const double g = fabs(dy[r * c->n + j]),
                         hat = fabs((d.x[r * c->n + j] - (double)BEFORE(3)[r]) * (double)BEFORE(4)[r]);
            weight += g * (hat * (double)(c->rows + 4) + (2 + fabs((double)BEFORE(3)[r])) * (double)BEFORE(4)[r]) * U;
            bias += g * (double)c->rows * U;
        }
        ck_near(c, 6, j, dw[j], weight);
        ck_near(c, 7, j, db[j], bias);
    }
    free(dy);
    free(dx);
    free(dw);
    free(db);
    rows_end(&d);
}
CK_KERNEL(layer_norm_backward_rows_f32, .ways = layer_backward_names, .matrix = true, .adds = true, .make = make_layer_backward,
          .run = run_layer_backward, .oracle = oracle_layer_backward, .bench_rows = 4096, .bench_n = 1024);

/* Ways: an eps below the norm, and above it. */
static const char *const eps_names[] = { "norm > eps", "norm < eps", NULL };
static float l2_eps(const ck_case *c) { return c->way ? 1000.0f : 1e-12f; }
static void make_l2(ck_case *c)
{
    ck_floats(c, CK_OUT, "y", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "x", c->rows, c->n, 1);
    ck_floats(c, CK_OUT, "norm", c->rows, 1, 1);
}
static void run_l2(const ck_case *c, const kd__kernels *k)
{
    k->l2_normalize_rows_f32(c->rows, c->n, F(1), l2_eps(c), F(0), F(2));
}
static void oracle_l2(const ck_case *c)
{
    double *x = ck_wide(BEFORE(1), c->rows * c->n), *y = malloc((c->rows * c->n + 1) * sizeof *y);
    ref_l2_normalize(c->rows, c->n, x, (double)l2_eps(c), y, NULL, NULL);
    for (size_t i = 0; i < c->rows * c->n; i++) ck_near(c, 0, i, y[i], 3 * U * fabs(y[i]));
    for (size_t r = 0; r < c->rows; r++) {
        double squares = 0;
        for (size_t i = r * c->n; i < (r + 1) * c->n; i++) squares += x[i] * x[i];
        ck_near(c, 2, r, sqrt(squares), 1.01 * U * sqrt(squares));
    }
    free(x);
    free(y);
}
CK_KERNEL(l2_normalize_rows_f32, .ways = eps_names, .matrix = true, .independent = true, .make = make_l2, .run = run_l2,
          .oracle = oracle_l2, .bench_rows = 4096, .bench_n = 1024);

/* The oracle begins from x, as the gradient of the whole. */
static float *l2_x;
static void make_l2_backward(ck_case *c)
{
    ck_floats(c, ck_result(c), "dx", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "dy", c->rows, c->n, 1);
    float *y = ck_floats(c, CK_IN, "y", c->rows, c->n, 1), *norm = ck_floats(c, CK_IN, "norm", c->rows, 1, 1);
    free(l2_x);
    l2_x = malloc((c->rows * c->n + 1) * sizeof *l2_x);
    memcpy(l2_x, y, c->rows * c->n * sizeof *l2_x);
    for (size_t r = 0; r < c->rows && !c->special; r++) {
        double squares = 0;
        for (size_t i = r * c->n; i < (r + 1) * c->n; i++) squares += (double)l2_x[i] * (double)l2_x[i];
        norm[r] = (float)sqrt(squares);
        for (size_t i = r * c->n; i < (r + 1) * c->n; i++)
            y[i] = (float)((double)l2_x[i] / fmax(sqrt(squares), (double)l2_eps(c)));
    }
}
static void run_l2_backward(const ck_case *c, const kd__kernels *k)
{
    k->l2_normalize_backward_rows_f32(c->rows, c->n, F(1), F(2), F(3), l2_eps(c), F(0), c->add);
}
static void oracle_l2_backward(const ck_case *c)
{
    const size_t count = c->rows * c->n;
    double *x = ck_wide(l2_x, count), *dy = ck_wide(BEFORE(1), count), *y = malloc((count + 1) * sizeof *y),
           *dx = malloc((count + 1) * sizeof *dx);
    ref_l2_normalize(c->rows, c->n, x, (double)l2_eps(c), y, dy, dx);
    for (size_t r = 0; r < c->rows; r++) {
        const double norm = fmax((double)BEFORE(3)[r], (double)l2_eps(c));
        double dot = 0;
        for (size_t i = r * c->n; i < (r + 1) * c->n; i++) dot += fabs(dy[i] * y[i]);
        for (size_t i = r * c->n; i < (r + 1) * c->n; i++)
            ck_near(c, 0, i, dx[i], 8 * U * (fabs(dy[i]) + fabs(y[i]) * dot) / norm);
    }
    free(x);
    free(dy);
    free(y);
    free(dx);
}
CK_KERNEL(l2_normalize_backward_rows_f32, .ways = eps_names, .matrix = true, .adds = true, .independent = true,
          .make = make_l2_backward, .run = run_l2_backward, .oracle = oracle_l2_backward, .bench_rows = 4096, .bench_n = 1024);

static float cosine_eps(const ck_case *c) { return c->way ? 1e6f : 1e-8f; }
static void make_cosine(ck_case *c)
{
    ck_floats(c, CK_OUT, "out", c->rows, 1, 1);
    ck_floats(c, CK_IN, "a", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "b", c->rows, c->n, 1);
    ck_floats(c, CK_OUT, "a_norm", c->rows, 1, 1);
    ck_floats(c, CK_OUT, "b_norm", c->rows, 1, 1);
}
static void run_cosine(const ck_case *c, const kd__kernels *k)
{
    k->cosine_rows_f32(c->rows, c->n, F(1), F(2), cosine_eps(c), F(0), F(3), F(4));
}
/* y, and the norms, of row r in double. */
static double cosine_row(const ck_case *c, size_t r, double norms[2], double *da)
{
    double *a = ck_wide(BEFORE(1) + r * c->n, c->n), *b = ck_wide(BEFORE(2) + r * c->n, c->n), squares[2] = { 0, 0 };
    const double y = ref_cosine_similarity(c->n, a, b, (double)cosine_eps(c), da, NULL);
    for (size_t i = 0; i < c->n; i++) {
        squares[0] += a[i] * a[i];
        squares[1] += b[i] * b[i];
    }
    for (int i = 0; i < 2; i++) norms[i] = sqrt(squares[i]);
    free(a);
    free(b);
    return y;
}
static void oracle_cosine(const ck_case *c)
{
    for (size_t r = 0; r < c->rows; r++) {
        double norms[2];
        const double y = cosine_row(c, r, norms, NULL);
        ck_near(c, 0, r, y, 1.01 * U * fabs(y) + 0x1p-50);   /* what cancels in double */
        for (int i = 0; i < 2; i++) ck_near(c, 3 + i, r, norms[i], 1.01 * U * norms[i]);
    }
}
CK_KERNEL(cosine_rows_f32, .ways = eps_names, .matrix = true, .independent = true, .make = make_cosine, .run = run_cosine,
          .oracle = oracle_cosine, .bench_rows = 4096, .bench_n = 1024);

static void make_cosine_backward(ck_case *c)
{
    ck_floats(c, ck_result(c), "da", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "a", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "b", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "dy", c->rows, 1, 1);
    float *y = ck_floats(c, CK_IN, "y", c->rows, 1, 1);
    float *norms[2] = { ck_floats(c, CK_IN, "a_norm", c->rows, 1, 1), ck_floats(c, CK_IN, "b_norm", c->rows, 1, 1) };
    for (size_t r = 0; r < c->rows && !c->special; r++) {
        double n[2];
        y[r] = (float)cosine_row(c, r, n, NULL);
        for (int i = 0; i < 2; i++) norms[i][r] = (float)n[i];
    }
}
static void run_cosine_backward(const ck_case *c, const kd__kernels *k)
{
    k->cosine_backward_rows_f32(c->rows, c->n, F(3), F(1), F(2), F(4), F(5), F(6), cosine_eps(c), F(0), c->add);
}
static void oracle_cosine_backward(const ck_case *c)
{
    double *want = malloc((c->n + 1) * sizeof *want);
    for (size_t r = 0; r < c->rows; r++) {
        double norms[2];
        const double y = cosine_row(c, r, norms, want), dy = (double)BEFORE(3)[r];
        for (size_t i = 0; i < c->n; i++) {
            const double a = fabs((double)BEFORE(1)[r * c->n + i]), b = fabs((double)BEFORE(2)[r * c->n + i]);
            const double size = c->way ? b / (double)cosine_eps(c) : (b / norms[1] + fabs(y) * a / norms[0]) / norms[0];
            ck_near(c, 0, r * c->n + i, dy * want[i], 8 * U * fabs(dy) * size);
        }
    }
    free(want);
}
CK_KERNEL(cosine_backward_rows_f32, .ways = eps_names, .matrix = true, .adds = true, .independent = true,
          .make = make_cosine_backward, .run = run_cosine_backward, .oracle = oracle_cosine_backward, .bench_rows = 4096,
          .bench_n = 1024);

/* NaN is data. */
TEST(norms_of_special_values)
{
    float x[32], out[32], mean, rstd, norm;
    EACH_ISA(k) {
        for (size_t at = 0; at < 32; at += 31) {
            for (size_t i = 0; i < 32; i++) x[i] = (float)i;
            x[at] = NAN;
            k->layer_norm_rows_f32(1, 32, x, NULL, NULL, 1e-5f, out, &mean, &rstd);
            CHECK(isnan(mean) && isnan(rstd) && isnan(out[0]) && isnan(out[31]));
            k->l2_normalize_rows_f32(1, 32, x, 1e-8f, out, &norm);
            CHECK(isnan(norm) && isnan(out[0]) && isnan(out[31]));
        }
    }
}
