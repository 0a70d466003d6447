/* method_ref.c - see method_ref.h.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"
#include <stdio.h>

typedef struct block { struct block *next; double data[]; } block;
static block *blocks;

double *mr_new(size_t n)
{
    block *b = calloc(1, sizeof *b + (n + 1) * sizeof(double));
    if (!b) abort();
    b->next = blocks;
    blocks = b;
    return b->data;
}

void mr_release(void)
{
    while (blocks) {
        block *next = blocks->next;
        free(blocks);
        blocks = next;
    }
}

double mr_dot(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}
double mr_sum(const double *a, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i];
    return sum;
}
double mr_mean(const double *a, size_t n) { return n ? mr_sum(a, n) / (double)n : 0; }
double mr_norm2(const double *a, size_t n) { return sqrt(mr_dot(a, a, n)); }
double mr_distance2(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}
double mr_mean_square(const double *a, const double *b, size_t n) { return n ? mr_distance2(a, b, n) / (double)n : 0; }
void mr_unit(const double *a, size_t n, double eps, double *out)
{
    double norm = mr_norm2(a, n);
    for (size_t i = 0; i < n; i++) out[i] = a[i] / (norm > eps ? norm : eps);
}
double mr_huber(double d) { return fabs(d) < 1 ? d * d / 2 : fabs(d) - .5; }
size_t mr_argmax(const double *a, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (a[i] > a[best]) best = i;
    return best;
}
static int falling(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}
void mr_sort(double *a, size_t n) { qsort(a, n, sizeof *a, falling); }
double mr_sigmoid(double x) { return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }
double mr_log_sigmoid(double x) { return x >= 0 ? -log1p(exp(-x)) : x - log1p(exp(x)); }

double mr_log_sum_exp(const double *z, size_t n)
{
    double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) top = z[i] > top ? z[i] : top;
    if (isinf(top)) return top;
    for (size_t i = 0; i < n; i++) sum += exp(z[i] - top);
    return top + log(sum);
}
void mr_log_softmax(const double *z, size_t n, double T, double *out)
{
    for (size_t i = 0; i < n; i++) out[i] = z[i] / T;
    double all = mr_log_sum_exp(out, n);
    for (size_t i = 0; i < n; i++) out[i] -= all;
}
void mr_softmax(const double *z, size_t n, double T, double *out)
{
    mr_log_softmax(z, n, T, out);
    for (size_t i = 0; i < n; i++) out[i] = exp(out[i]);
}
double mr_kl_logs(const double *log_p, const double *log_q, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        if (exp(log_p[i]) > 0) sum += exp(log_p[i]) * (log_p[i] - log_q[i]);
    return sum;
}
double mr_kl_logits(const double *t, const double *s, size_t n, double T)
{
    double *p = mr_new(n), *q = mr_new(n);
    mr_log_softmax(t, n, T, p);
    mr_log_softmax(s, n, T, q);
    return mr_kl_logs(p, q, n);
}
double mr_cross_entropy_label(const double *z, size_t n, size_t label) { return mr_log_sum_exp(z, n) - z[label]; }

static const method_param *find(const method_in *x, const char *name)
{
    for (size_t i = 0; i < x->params; i++)
        if (strcmp(x->param[i].name, name) == 0) return &x->param[i];
    return NULL;
}
const method_param *mr_param(const method_in *x, const char *name)
{
    const method_param *p = find(x, name);
    if (p) return p;
    fprintf(stderr, "the adapters have no \"%s\", but:", name);
    for (size_t i = 0; i < x->params; i++) fprintf(stderr, " %s", x->param[i].name);
    fprintf(stderr, "\n");
    exit(1);
}
const double *mr_data(const method_in *x, const char *name) { return mr_param(x, name)->data; }
int mr_has(const method_in *x, const char *name) { return find(x, name) != NULL; }
static const method_param *part(const method_in *x, const char *name, const char *which, int must)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", name, which);
    return must ? mr_param(x, full) : find(x, full);
}

double *mr_affine(const double *x, size_t rows, size_t in, const double *w, const double *b, size_t out)
{
    double *y = mr_new(rows * out);
    for (size_t r = 0; r < rows; r++)
        for (size_t o = 0; o < out; o++) {
            double sum = b ? b[o] : 0;
            for (size_t i = 0; i < in; i++) sum += x[r * in + i] * w[i * out + o];
            y[r * out + o] = sum;
        }
    return y;
}
double *mr_adapter_linear(const method_in *x, const char *name, const double *in, size_t rows)
{
    const method_param *w = part(x, name, "weight", 1), *b = part(x, name, "bias", 0);
    return mr_affine(in, rows, w->size[0], w->data, b ? b->data : NULL, w->size[1]);
}

double *mr_conv(const double *x, size_t n, size_t h, size_t w, size_t c, const double *weight, const double *bias, size_t kh,
                size_t kw, size_t out, size_t stride, size_t padding, size_t *oh, size_t *ow)
{
    *oh = (h + 2 * padding - kh) / stride + 1;
    *ow = (w + 2 * padding - kw) / stride + 1;
    double *y = mr_new(n * *oh * *ow * out);
    for (size_t b = 0; b < n; b++)
        for (size_t i = 0; i < *oh; i++)
            for (size_t j = 0; j < *ow; j++)
                for (size_t o = 0; o < out; o++) {
                    double sum = bias ? bias[o] : 0;
                    for (size_t u = 0; u < kh; u++)
                        for (size_t v = 0; v < kw; v++) {
                            size_t row = i * stride + u, col = j * stride + v;   /* in the padded map */
                            if (row < padding || col < padding || row - padding >= h || col - padding >= w) continue;
                            const double *at = x + ((b * h + row - padding) * w + col - padding) * c;
                            for (size_t k = 0; k < c; k++) sum += at[k] * weight[((u * kw + v) * c + k) * out + o];
                        }
                    y[((b * *oh + i) * *ow + j) * out + o] = sum;
                }
    return y;
}
double *mr_adapter_conv(const method_in *x, const char *name, const double *in, size_t n, size_t h, size_t w, size_t stride,
                         size_t padding, size_t *oh, size_t *ow)
{
    const method_param *k = part(x, name, "weight", 1), *b = part(x, name, "bias", 0);
    return mr_conv(in, n, h, w, k->size[2], k->data, b ? b->data : NULL, k->size[0], k->size[1], k->size[3], stride, padding,
                   oh, ow);
}

void mr_adapter_norm(const method_in *x, const char *name, double *data, size_t n, double eps)
{
    const method_param *g = part(x, name, "weight", 1), *b = part(x, name, "bias", 1);
    size_t c = g->count;
    for (size_t k = 0; k < c; k++) {
        double mean = 0, var = 0;
        if (x->train) {
            for (size_t i = 0; i < n; i++) mean += data[i * c + k] / (double)n;
            for (size_t i = 0; i < n; i++) var += (data[i * c + k] - mean) * (data[i * c + k] - mean) / (double)n;
        } else {
            mean = part(x, name, "running_mean", 1)->data[k];
            var = part(x, name, "running_var", 1)->data[k];
        }
        for (size_t i = 0; i < n; i++) data[i * c + k] = (data[i * c + k] - mean) / sqrt(var + eps) * g->data[k] + b->data[k];
    }
}
void mr_relu(double *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = x[i] > 0 ? x[i] : 0;
}

double *mr_conv_reg(const method_in *x, const char *name, const method_tap *s, const method_tap *t, size_t rows)
{
    size_t h = s->size[0], w = s->size[1], c = s->size[2], oh, ow, stride = 1, padding = 0;
    const double *in = s->data;
    char part_name[64];
    if (h == 2 * t->size[0]) {
        stride = 2, padding = 1;
    } else if (2 * h == t->size[0]) {   /* zeros between, two before and two behind each axis */
        size_t high = 2 * h + 3, wide = 2 * w + 3;
        double *spread = mr_new(rows * high * wide * c);
        for (size_t b = 0; b < rows; b++)
            for (size_t i = 0; i < h; i++)
                for (size_t j = 0; j < w; j++)
                    memcpy(spread + ((b * high + 2 * i + 2) * wide + 2 * j + 2) * c, in + ((b * h + i) * w + j) * c,
                           c * sizeof *spread);
        in = spread, h = high, w = wide;
    }
    snprintf(part_name, sizeof part_name, "%s.conv", name);
    double *y = mr_adapter_conv(x, part_name, in, rows, h, w, stride, padding, &oh, &ow);
    snprintf(part_name, sizeof part_name, "%s.bn", name);
    mr_adapter_norm(x, part_name, y, rows * oh * ow, 1e-5);
    return y;
}

double *mr_adaptive_pool(const double *x, size_t n, size_t h, size_t w, size_t c, size_t oh, size_t ow)
{
    double *y = mr_new(n * oh * ow * c);
    for (size_t b = 0; b < n; b++)
        for (size_t i = 0; i < oh; i++)
            for (size_t j = 0; j < ow; j++)
                for (size_t k = 0; k < c; k++) {
                    size_t r0 = i * h / oh, r1 = ((i + 1) * h + oh - 1) / oh, c0 = j * w / ow, c1 = ((j + 1) * w + ow - 1) / ow;
                    double sum = 0;
                    for (size_t r = r0; r < r1; r++)
                        for (size_t q = c0; q < c1; q++) sum += x[((b * h + r) * w + q) * c + k];
                    y[((b * oh + i) * ow + j) * c + k] = sum / (double)((r1 - r0) * (c1 - c0));
                }
    return y;
}
double *mr_nearest(const double *x, size_t n, size_t h, size_t w, size_t c, size_t oh, size_t ow)
{
    double *y = mr_new(n * oh * ow * c);
    for (size_t b = 0; b < n; b++)
        for (size_t i = 0; i < oh; i++)
            for (size_t j = 0; j < ow; j++)
                memcpy(y + ((b * oh + i) * ow + j) * c, x + ((b * h + i * h / oh) * w + j * w / ow) * c, c * sizeof *y);
    return y;
}
