/* mlkd.c - multi-level logit distillation (Jin, Wang, Lin 2023, CVPR).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     CODE   soft = sum over T' in {T, 2, 3, 5, 6} of  I + C + R  of the weak view  +  the same of the strong view
 *     I = T'^2 / B sum_b KL(p_b || q_b),  C = |q^T q - p^T p|_F^2 / K,  R = |q q^T - p p^T|_F^2 / B;  p, q [B, K] softened by T'
 *     weak view: student and teacher; strong view: student_second and teacher_second, the same images in a stronger augmentation
 *     THIRD  as the public code computes it: for every T'  m_r I + m_c C + m_r R of the weak view; I of the strong one for T' in {T, 3, 5},
 *     and I of the weak one, unmasked, for {2, 6}.  m_r: the share of rows whose largest teacher probability (temperature 1) is at most
 *     the median of them, m_c: the share of classes whose sum of teacher probabilities is at most theirs.
 * Gradient: T' (q - p) / B; through the softmax of 4 q (q^T q - p^T p) / K and 4 (q q^T - p p^T) q / B.
 * Divides by: rows (B) in I and R, classes (K) in C.  The rows of a batch are coupled; temperature_squared 0 takes T'^2 out of I.
 * Detached: the teachers.
 * Defaults: T 4, hard_weight .1, soft_weight .9.  The recipe's cross-entropy is on both views: add it for the strong one.
 * Forms: CODE is what the paper intends, PAPER is the same; THIRD is the code.
 * Traps: in the public code the masks multiply scalars that are reduced already, so that they are about one half; its strong view's
 *     correlations are computed and never added, and two of its temperatures use the weak view where the strong one was meant.  Its
 *     published numbers belong to THIRD, to RandAugment, and to 240 to 960 epochs: not comparable with 240 epochs of anything else.
 *     A list with T equal to 2, 3, 5 or 6 counts that temperature twice.  C depends on the batch: it is not divided by B.
 * Published: CIFAR-100 ResNet56 -> 20 72.19, ResNet32x4 -> 8x4 77.08, VGG13 -> 8 75.18 (longer training and stronger augmentation).
 * Cost: 3 B^2 + 6 B K floats. */
#include "distill/row_ops.h"
#include "tensor/tensor.h"

static kd_status check(const kd_loss_distill_desc *d)
{
    (void)d;
    return KD_OK;
}

enum { TEMPERATURES = 5 };

/* One view at one temperature; memory that is filled anew. */
typedef struct mlkd_view {
    const kd__soft *s;
    const float *student, *teacher;
    size_t student_stride, teacher_stride, grad_stride, n, k;
    float  *grad;                  /* NULL: not wanted */
    float   t;
    double  instance, classes, batch;      /* what each part counts */
    float  *p, *q, *d, *m, *g, *dd, *mm, *x;   /* [n, k] five times, [n, n] three times */
    float  *kernel;                /* [n] and the kernel's own */
} mlkd_view;

/* Which rows count, in order: the rows with coef 0 have zeros in p and q, and so in every product. */
static void soften(const mlkd_view *v, float *out, const float *logits, size_t stride)
{
    for (size_t r = 0; r < v->n; r++) {
        if (v->s->coef[r] == 0) memset(out + r * v->k, 0, v->k * sizeof *out);
        else v->s->kernels->softmax_f32(out + r * v->k, v->k, logits + r * stride, v->k, 1, v->k, v->t, 0);
    }
}

static kd_status product(const mlkd_view *v, const float *a, const float *b, float *c)
{
    return kd__gemm(v->s->ctx, &(kd__gemm_args){ .m = v->n, .n = v->n, .k = v->k, .a = a, .a_stride = v->k, .b = b, .b_stride = v->k,
                                                 .b_transposed = true, .c = c, .c_stride = v->n });
}

static kd_status apply(const mlkd_view *v, const float *a, const float *b, float *c, bool add)
{
    return kd__gemm(v->s->ctx, &(kd__gemm_args){ .m = v->n, .n = v->k, .k = v->n, .a = a, .a_stride = v->n, .b = b, .b_stride = v->k,
                                                 .c = c, .c_stride = v->k, .accumulate = add });
}

/* With d = q - p, m = q + p:  q^T q - p^T p = (d^T m + m^T d) / 2 and q q^T - p p^T = (d m^T + m d^T) / 2, so that nothing of the size
 * of q is subtracted, and the first, K x K, has the squares (<d d^T, m m^T> + <x, x^T>) / 2, x = m d^T: all B x B. */
static kd_status relations(const mlkd_view *v, double rows, double *value)
{
    const kd__kernels *k = v->s->kernels;
    const size_t n = v->n, all = n * v->k;
    double dots = 0, squares = 0;
    k->binary_f32(KD_BINARY_SUB, v->d, all, (kd__operand){ v->q, all, 1 }, (kd__operand){ v->p, all, 1 }, 1, all);
    k->binary_f32(KD_BINARY_ADD, v->m, all, (kd__operand){ v->q, all, 1 }, (kd__operand){ v->p, all, 1 }, 1, all);
    KD_TRY(product(v, v->d, v->d, v->dd));
    KD_TRY(product(v, v->m, v->m, v->mm));
    KD_TRY(product(v, v->m, v->d, v->x));
    k->dot_f32(&dots, v->dd, v->mm, n * n);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j <= i; j++) {
            const double a = (double)v->x[i * n + j], b = (double)v->x[j * n + i], half = (a + b) / 2;
            dots += (i == j ? 1 : 2) * a * b;
            squares += (i == j ? 1 : 2) * half * half;
        }
    }
    *value += v->classes * dots / 2 / (double)v->k + v->batch * squares / rows;
    if (!v->grad) return KD_OK;

    /* d|q^T q - p^T p|^2 = 2 (q d^T m + q m^T d), q = (m + d) / 2:  q d^T = (x + dd) / 2, q m^T = (mm + x^T) / 2 */
    const double a = v->classes / (double)v->k, b = v->batch / rows;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            const double x = (double)v->x[i * n + j], xt = (double)v->x[j * n + i];
            v->dd[i * n + j] = (float)(a * (x + (double)v->dd[i * n + j]));
            v->mm[i * n + j] = (float)(a * ((double)v->mm[i * n + j] + xt));
        }
    }
    KD_TRY(apply(v, v->dd, v->m, v->g, false));
    KD_TRY(apply(v, v->mm, v->d, v->g, true));
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) v->dd[i * n + j] = (float)(2 * b * ((double)v->x[i * n + j] + (double)v->x[j * n + i]));
    return apply(v, v->dd, v->q, v->g, true);
}

static kd_status view(mlkd_view *v, double rows, double total, double *value)
{
    const kd__soft *s = v->s;
    const kd__kernels *k = s->kernels;
    const double squared = s->desc->temperature_squared ? (double)v->t * (double)v->t : 1;
    double coupled = 0;
    soften(v, v->q, v->student, v->student_stride);
    soften(v, v->p, v->teacher, v->teacher_stride);
    if (v->classes != 0 || v->batch != 0) KD_TRY(relations(v, rows, &coupled));
    *value += coupled;
    for (size_t r = 0; r < v->n; r++) {
        if (s->coef[r] == 0) continue;
        const float none = 0, one = 1;
        float hard, kl;
        float *grad = v->grad ? v->grad + r * v->grad_stride : NULL, *row = v->d + r * v->k;
        if (v->instance != 0) {
            kd__distill_args a = { .rows = 1, .classes = v->k, .student = v->student + r * v->student_stride, .student_stride = v->k,
                                   .teacher = v->teacher + r * v->teacher_stride, .teacher_stride = v->k, .hard_coef = &none,
                                   .soft_coef = &one, .grad = grad ? row : NULL, .grad_stride = v->k, .hard = &hard, .soft = &kl,
                                   .scratch = v->kernel, .masked = &(uint32_t){ 0 }, .temperature = v->t,
                                   .direction = KD_DIRECTION_FORWARD, .teacher_form = KD_TEACHER_LOGITS };
            k->distill_f32(&a);
            s->soft[r] += (float)(v->instance * squared * (double)kl);
            if (grad) k->axpy_f32(grad, row, v->k, (float)((double)s->coef[r] * v->instance * squared));
        }
        if (!grad || (v->classes == 0 && v->batch == 0)) continue;
        k->softmax_backward_f32(row, v->g + r * v->k, v->q + r * v->k, 1, v->k, v->t, 0, 0);
        k->axpy_f32(grad, row, v->k, (float)total);
    }
    return KD_OK;
}

/* The share of numbers that are at most the median of all; they come back sorted. */
static double up_to_median(float *x, size_t n, uint32_t *order, float *scratch)
{
    kd__sort_descending(x, order, n, scratch);
    const double median = ((double)x[(n - 1) / 2] + (double)x[n / 2]) / 2;
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += (double)x[i] <= median;
    return (double)count / (double)n;
}

/* m_r and m_c of THIRD. */
static void masks(mlkd_view *v, double *by_row, double *by_class)
{
    size_t rows = 0;
    v->t = 1;
    soften(v, v->p, v->teacher, v->teacher_stride);
    v->s->kernels->column_sums_f32(v->d, v->p, v->n, v->k, v->k, 0);
    *by_class = up_to_median(v->d, v->k, (uint32_t *)(void *)v->kernel, v->kernel + v->k);
    for (size_t r = 0; r < v->n; r++) {
        float *row = v->p + r * v->k, top;
        if (v->s->coef[r] == 0) continue;
        v->s->kernels->row_max_f32(&top, NULL, row, 1, v->k, v->k);
        v->d[rows++] = top;
    }
    *by_row = rows ? up_to_median(v->d, rows, (uint32_t *)(void *)v->kernel, v->kernel + v->n) : 0;
}

/* Of the kernel, or of ranks. */
static size_t working(const kd__soft *s)
{
    const size_t most = KD_MAX(s->rows, s->classes);
    return KD_MAX(kd__distill_scratch(s->classes), most + KD__SORT_FLOATS(most));
}

static size_t scratch(const kd__soft *s)
{
    size_t matrices = kd__times(kd__times(5, s->rows), s->classes), squares = kd__times(kd__times(3, s->rows), s->rows), sum;
    size_t more = working(s) + 16;
    if (!kd__add(matrices, squares, &sum) || !kd__add(sum, more, &sum)) return SIZE_MAX;
    return sum;
}

static kd_status batch(const kd__soft *s)
{
    const float pool[TEMPERATURES] = { s->desc->temperature, 2, 3, 5, 6 };
    const bool code = s->desc->form == KD_FORM_THIRD;
    const size_t all = s->rows * s->classes, square = s->rows * s->rows;
    double rows = 0, total = 0, value = 0, by_row = 1, by_class = 1;
    for (size_t r = 0; r < s->rows; r++) rows += s->coef[r] != 0, total += (double)s->coef[r], s->soft[r] = 0;
    if (rows == 0) return KD_OK;
    float *at = s->scratch;
    mlkd_view weak = { .s = s, .student = s->student, .student_stride = s->student_stride, .teacher = s->teacher,
                       .teacher_stride = s->teacher_stride, .grad = s->grad, .grad_stride = s->grad_stride, .n = s->rows, .k = s->classes };
    weak.kernel = at, at += (working(s) + 15) / 16 * 16;
    weak.p = at, weak.q = weak.p + all, weak.d = weak.q + all, weak.m = weak.d + all, weak.g = weak.m + all;
    weak.dd = weak.g + all, weak.mm = weak.dd + square, weak.x = weak.mm + square;
    mlkd_view strong = weak;
    strong.student = s->second, strong.student_stride = s->second_stride, strong.grad = s->grad_second;
    strong.grad_stride = s->grad_second_stride, strong.teacher = s->teacher_second, strong.teacher_stride = s->teacher_second_stride;
    if (code) masks(&weak, &by_row, &by_class);
    for (size_t i = 0; i < TEMPERATURES; i++) {
        weak.t = strong.t = pool[i];
        weak.instance = by_row + (code && (i == 1 || i == 4) ? 1 : 0), weak.classes = by_class, weak.batch = by_row;
        strong.instance = code && (i == 1 || i == 4) ? 0 : 1, strong.classes = strong.batch = code ? 0 : 1;
        KD_TRY(view(&weak, rows, total, &value));
        KD_TRY(view(&strong, rows, total, &value));
    }
    for (size_t r = 0; r < s->rows; r++)
        if (s->coef[r] != 0) s->soft[r] += (float)value;
    return KD_OK;
}

const kd__method kd__method_MLKD = { .formula = "sum over temperatures and views of T^2 KL + |q^T q - p^T p|^2 / K + |q q^T - p p^T|^2 / B",
    .needs = KD__SECOND | KD__TEACHER_SECOND, .forms = 3, .check = check, .scale = kd__unscaled, .scratch = scratch, .batch = batch };
