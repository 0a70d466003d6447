/* gradcheck.c - an op and its gradients against a double-precision reference.
 * SPDX-License-Identifier: MIT */
#include "gradcheck.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>

enum { EACH = 200, EACH_FULL = 2000, DIRECTIONS = 4 };   /* elements whose own slope is checked */
enum { WEIGH_INPUTS = 1, STRIDED = 2, TAPE_OWNED = 4 };   /* how to run a step */

size_t grad_count(const grad_shape *s)
{
    size_t n = 1;
    for (size_t i = 0; i < s->rank; i++) n *= s->shape[i];
    return n;
}

static void *room(size_t n, size_t bytes)
{
    void *ptr = calloc(n ? n : 1, bytes);
    if (!ptr) abort();
    return ptr;
}

/* ---- a case made ready: inputs, weights of the loss ------------------------------------------------------- */
typedef struct setup {
    const grad_case *c;
    size_t  in_count, out_count, counts[GRAD_INPUTS];
    double *in[GRAD_INPUTS];      /* exactly representable in the input's dtype */
    float  *weight;               /* of each output in the loss */
    float  *bias[GRAD_INPUTS];    /* of each input in the loss, where WEIGH_INPUTS */
} setup;

static int is_label(const grad_input *in) { return in->kind == GRAD_I32 || in->kind == GRAD_I64; }

static int differentiable(const grad_input *in)
{
    return !is_label(in) && in->kind != GRAD_NULL && !in->constant && !in->buffer;
}

static void fill_input(const grad_input *in, kdtest_rand *r, double *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double v = 0;
        if (in->values) v = in->values[i];
        else if (in->kind == GRAD_NORMAL) v = (in->hi != 0 ? in->hi : 1) * kdtest_normal(r);
        else if (in->kind == GRAD_UNIFORM) v = kdtest_uniform(r, in->lo, in->hi);
        else if (in->kind == GRAD_SPACED) v = 0.1 * ((double)i - (double)(n / 2)) + 0.05;
        else if (is_label(in)) v = floor(kdtest_uniform(r, in->lo, in->hi));
        out[i] = is_label(in) ? v : (double)(float)v;
    }
    if (in->kind == GRAD_SPACED && !in->values)
        for (size_t i = n; i-- > 1;) {
            size_t k = kdtest_size(r, 0, i);
            double swap = out[i];
            out[i] = out[k];
            out[k] = swap;
        }
}

static void setup_begin(setup *s, const grad_case *c)
{
    static const grad_input none;
    kdtest_rand r = { 0x9e3779b97f4a7c15u };
    *s = (setup){ .c = c, .in_count = c->in_count, .out_count = grad_count(&c->out) };
    if (!s->in_count)
        for (s->in_count = 1; s->in_count < GRAD_INPUTS && memcmp(&c->in[s->in_count], &none, sizeof none) != 0;) s->in_count++;
    s->weight = room(s->out_count, sizeof(float));
    kdtest_fill(&r, s->weight, s->out_count, 1);
    for (size_t k = 0; k < s->in_count; k++) {
        s->counts[k] = grad_count(&c->in[k].size);
        s->in[k] = room(s->counts[k], sizeof(double));
        s->bias[k] = room(s->counts[k], sizeof(float));
        fill_input(&c->in[k], &r, s->in[k], s->counts[k]);
        kdtest_fill(&r, s->bias[k], s->counts[k], 1);
    }
}

static void setup_end(setup *s)
{
    free(s->weight);
    for (size_t k = 0; k < s->in_count; k++) {
        free(s->in[k]);
        free(s->bias[k]);
    }
}

/* ---- one step of the library ------------------------------------------------------------------------------- */
typedef struct result {
    kd_status status;
    size_t    rank, shape[KD_MAX_RANK], count;
    float    *y, *grad[GRAD_INPUTS];   /* grad NULL: kd_grad gave none */
} result;

static void result_free(result *r)
{
    free(r->y);
    for (size_t k = 0; k < GRAD_INPUTS; k++) free(r->grad[k]);
}

/* loss = sum w y (+ sum v x): an op of its own, so that nothing here rests on other ops. */
static kd_status weigh_forward(const kd_tensor *const *inputs, size_t input_count, kd_tensor *const *outputs,
                               size_t output_count, void *user)
{
    const float *const *weights = user;
    double sum = 0;
    (void)output_count;
    for (size_t k = 0; k < input_count; k++)
        for (size_t i = 0; i < kd_tensor_count(inputs[k]); i++) sum += (double)kd_tensor_f32(inputs[k])[i] * weights[k][i];
    kd_tensor_f32(outputs[0])[0] = (float)sum;
    return KD_OK;
}

static kd_status weigh_backward(const kd_tensor *const *inputs, size_t input_count, const kd_tensor *const *outputs,
                                size_t output_count, const float *const *output_grads, float *const *input_grads, void *user)
{
    const float *const *weights = user;
    (void)outputs;
    (void)output_count;
    for (size_t k = 0; k < input_count; k++)
        for (size_t i = 0; input_grads[k] && i < kd_tensor_count(inputs[k]); i++)
            input_grads[k][i] += output_grads[0][0] * weights[k][i];
    return KD_OK;
}

/* Inputs in the caller's memory; those in `storage` belong to the step and are freed with it. */
typedef struct inputs {
    kd_tensor *x[GRAD_INPUTS];
    void      *storage[GRAD_INPUTS];
} inputs;

static void inputs_free(inputs *in)
{
    for (size_t k = 0; k < GRAD_INPUTS; k++) {
        kd_tensor_free(in->x[k]);
        free(in->storage[k]);
    }
}

static void inputs_refill(const setup *s, inputs *in, int strided)
{
    for (size_t k = 0; k < s->in_count; k++) {
        const grad_input *spec = &s->c->in[k];
        const size_t rank = spec->size.rank, *shape = spec->size.shape;
        size_t inner = rank ? shape[rank - 1] : 1, rows = rank > 1 ? shape[rank - 2] : 1;
        for (size_t i = 0; i < s->counts[k]; i++) {
            size_t at = i;
            if (strided && !spec->buffer) {
                if (rank > 1) at = i / (rows * inner) * (rows * inner) + i % inner * rows + i / inner % rows;
                else at = 2 * i;
            }
            if (spec->kind == GRAD_I32) ((int32_t *)in->storage[k])[at] = (int32_t)s->in[k][i];
            else if (spec->kind == GRAD_I64) ((int64_t *)in->storage[k])[at] = (int64_t)s->in[k][i];
            else if (spec->kind != GRAD_NULL) ((float *)in->storage[k])[at] = (float)s->in[k][i];
        }
    }
}

static void inputs_make(const setup *s, kd_context *ctx, inputs *in, int strided)
{
    memset(in, 0, sizeof *in);
    for (size_t k = 0; k < s->in_count; k++) {
        const grad_input *spec = &s->c->in[k];
        const size_t rank = spec->size.rank, *shape = spec->size.shape;
        ptrdiff_t stride[KD_MAX_RANK], step = 1;
        if (spec->kind == GRAD_NULL) continue;
        in->storage[k] = room(2 * s->counts[k], sizeof(double));
        for (size_t a = rank; a-- > 0; step *= (ptrdiff_t)shape[a]) stride[a] = step;
        if (strided && !spec->buffer && rank > 1) {
            stride[rank - 1] = (ptrdiff_t)shape[rank - 2];
            stride[rank - 2] = 1;
        } else if (strided && !spec->buffer && rank == 1) {
            stride[0] = 2;
        }
        kd_dtype dtype = spec->kind == GRAD_I32 ? KD_I32 : spec->kind == GRAD_I64 ? KD_I64 : KD_F32;
        CHECK_OK(kd_tensor_wrap(&in->x[k], ctx, dtype, rank, shape, stride, in->storage[k]));
    }
    inputs_refill(s, in, strided);
}

static float *copy_floats(const float *from, size_t n)
{
    float *to = room(n, sizeof *to);
    if (n) memcpy(to, from, n * sizeof *to);
    return to;
}

/* Run the case on `tape`; inputs with their bit in `wants` ask for a gradient. */
static void step(const setup *s, kd_tape *tape, const inputs *made, unsigned how, uint32_t wants, result *r)
{
    const grad_case *c = s->c;
    kd_tensor *in[GRAD_INPUTS] = { NULL }, *weighed[GRAD_INPUTS + 1], *loss;
    const float *weights[GRAD_INPUTS + 1] = { s->weight };
    const kd_custom_op weigh = { sizeof weigh, "weigh", weigh_forward, weigh_backward };
    size_t n = 1;
    memset(r, 0, sizeof *r);
    for (size_t k = 0; k < s->in_count; k++) {
        in[k] = made->x[k];
        if ((how & TAPE_OWNED) && differentiable(&c->in[k]))
            in[k] = kd_tape_constant(tape, c->in[k].size.rank, c->in[k].size.shape, made->storage[k]);
        if (!(wants >> k & 1)) continue;
        in[k] = kd_requires_grad(tape, in[k]);
        if (!(how & WEIGH_INPUTS) || n == GRAD_INPUTS) continue;
        weighed[n] = in[k];
        weights[n++] = s->bias[k];
    }
    kd_tensor *y = weighed[0] = c->build(tape, in, c);
    loss = kd_tape_tensor(tape, KD_F32, 0, NULL);
    loss = kd_custom(tape, &weigh, weighed, n, &loss, 1, weights);
    r->status = kd_backward(tape, loss);
    if (r->status != KD_OK) return;
    r->rank = kd_tensor_rank(y);
    r->count = kd_tensor_count(y);
    for (size_t a = 0; a < r->rank; a++) r->shape[a] = kd_tensor_size(y, a);
    r->y = room(r->count, sizeof(float));
    kd_tensor *flat = NULL;   /* y may be a strided input that passed through */
    CHECK_OK(kd_tensor_wrap(&flat, NULL, KD_F32, r->rank, r->shape, NULL, r->y));
    CHECK_OK(kd_tensor_copy(flat, y));
    kd_tensor_free(flat);
    for (size_t k = 0; k < s->in_count; k++) {
        const float *grad = in[k] ? kd_grad(tape, in[k]) : NULL;
        if (grad) r->grad[k] = copy_floats(grad, s->counts[k]);
    }
}

static uint32_t all_wants(const setup *s)
{
    uint32_t wants = 0;
    for (size_t k = 0; k < s->in_count; k++) wants |= (uint32_t)(differentiable(&s->c->in[k]) != 0) << k;
    return wants;
}

/* A step on a tape and inputs of its own. */
static void run(const setup *s, kd_context *ctx, unsigned how, uint32_t wants, result *r)
{
    kd_tape *tape = NULL;
    inputs in;
    inputs_make(s, ctx, &in, how & STRIDED);
    if (CHECK_OK(kd_tape_create(&tape, ctx, s->c->mode ? s->c->mode : KD_TAPE_TRAIN))) step(s, tape, &in, how, wants, r);
    else memset(r, 0, sizeof *r);
    kd_tape_free(tape);
    inputs_free(&in);
}

static int same_bits(const setup *s, const result *a, const result *b, uint32_t wants, const char *what)
{
    const grad_case *c = s->c;
    if (!CHECK_MSG(a->status == KD_OK && b->status == KD_OK, "%s %s: %s: %s, %s: %s", c->op, c->label, what,
                   kd_status_name(a->status), kd_status_name(b->status), kd_last_error()))
        return 0;
    if (!CHECK_MSG(a->count == b->count && memcmp(a->y, b->y, a->count * sizeof(float)) == 0,
                   "%s %s: %s: other bits in the result", c->op, c->label, what))
        return 0;
    for (size_t k = 0; k < s->in_count; k++) {
        if (!(wants >> k & 1)) continue;
        if (!CHECK_MSG(a->grad[k] && b->grad[k] && memcmp(a->grad[k], b->grad[k], s->counts[k] * sizeof(float)) == 0,
                       "%s %s: %s: other bits in the gradient of input %zu", c->op, c->label, what, k))
            return 0;
    }
    return 1;
}

/* ---- the checks ---------------------------------------------------------------------------------------------- */
/* The loss of the reference, at inputs moved by t along `direction` of input k. */
static double ref_loss(const setup *s, const double *const *in, size_t k, const double *direction, double t, double *out)
{
    const double *moved[GRAD_INPUTS];
    double *x = room(s->counts[k], sizeof *x), sum = 0;
    for (size_t i = 0; i < s->in_count; i++) moved[i] = in[i];
    for (size_t i = 0; i < s->counts[k]; i++) x[i] = in[k][i] + t * direction[i];
    moved[k] = x;
    s->c->ref(s->c, moved, out, NULL);
    for (size_t i = 0; i < s->out_count; i++) sum += out[i] * (double)s->weight[i];
    free(x);
    return sum;
}

static double ref_slope(const setup *s, size_t k, const double *direction, double *out)
{
    const double h = 1e-3;
    const double *const *in = (const double *const *)s->in;
    double f1 = ref_loss(s, in, k, direction, h, out) - ref_loss(s, in, k, direction, -h, out);
    double f2 = ref_loss(s, in, k, direction, 2 * h, out) - ref_loss(s, in, k, direction, -2 * h, out);
    return (8 * f1 - f2) / (12 * h);
}

static void check_forward(const setup *s, const result *r)
{
    const grad_case *c = s->c;
    if (!CHECK_MSG(r->rank == c->out.rank && memcmp(r->shape, c->out.shape, r->rank * sizeof(size_t)) == 0,
                   "%s %s: the result has rank %zu, first size %zu", c->op, c->label, r->rank, r->rank ? r->shape[0] : 0))
        return;
    double *want = room(s->out_count, sizeof *want), *size = room(s->out_count, sizeof *size);
    for (size_t i = 0; i < s->out_count; i++) size[i] = -1;
    c->ref(c, (const double *const *)s->in, want, size);
    for (size_t i = 0; i < s->out_count; i++) {
        double bound = c->units * 0x1p-24 * (size[i] >= 0 ? size[i] : fabs(want[i])) + (c->units > 0 ? (double)FLT_TRUE_MIN : 0);
        double goal = c->units > 0 ? want[i] : (double)(float)want[i];
        if (!CHECK_MSG(fabs(r->y[i] - goal) <= bound || (isnan(goal) && isnan(r->y[i])) || r->y[i] == goal,
                       "%s %s: y[%zu] = %.9g, wanted %.12g within %.3g, off by %.3g", c->op, c->label, i, (double)r->y[i], goal,
                       bound, fabs(r->y[i] - goal)))
            break;
    }
    free(want);
    free(size);
}

/* `bias`: what every element's gradient had before. */
static void check_gradient(const setup *s, const float *grad, size_t k, const float *bias, const char *what)
{
    const grad_case *c = s->c;
    const size_t n = s->counts[k];
    const double tol = c->grad_tol > 0 ? c->grad_tol : 1e-5;
    if (!CHECK_MSG(grad != NULL, "%s %s: %s: input %zu got no gradient", c->op, c->label, what, k)) return;
    double *direction = room(n, sizeof *direction), *out = room(s->out_count, sizeof *out), *want = room(n, sizeof *want);
    double scale = 0;
    for (size_t i = 0; i < n; i++) {
        if (!CHECK_MSG(isfinite(grad[i]), "%s %s: %s: d loss / d in[%zu][%zu] is %g", c->op, c->label, what, k, i,
                       (double)grad[i]))
            goto done;
        scale = fmax(scale, fabs(grad[i]));
    }
    if (n <= (kdtest_full() ? EACH_FULL : EACH)) {
        for (size_t i = 0; i < n; i++) {
            direction[i] = 1;
            want[i] = ref_slope(s, k, direction, out) + (bias ? (double)bias[i] : 0);
            direction[i] = 0;
            scale = fmax(scale, fabs(want[i]));
        }
        for (size_t i = 0; i < n; i++)
            if (!CHECK_MSG(fabs(grad[i] - want[i]) <= tol * scale,
                           "%s %s: %s: d loss / d in[%zu][%zu] = %.9g, wanted %.9g within %.3g", c->op, c->label, what, k, i,
                           (double)grad[i], want[i], tol * scale))
                goto done;
    }
    /* Along a direction the errors of elements, each up to tol scale, add as a random walk: 4 of its standard deviations. */
    kdtest_rand r = { 77 + k };
    for (size_t d = 0; d < DIRECTIONS && n; d++) {
        double got = 0, goal = 0, length = 0;
        for (size_t i = 0; i < n; i++) {
            direction[i] = kdtest_normal(&r);
            got += grad[i] * direction[i];
            goal += bias ? bias[i] * direction[i] : 0;
            length += direction[i] * direction[i];
        }
        goal += ref_slope(s, k, direction, out);
        double bound = 4 * tol * scale * sqrt(length);
        if (!CHECK_MSG(fabs(got - goal) <= bound,
                       "%s %s: %s: slope along direction %zu of input %zu is %.9g, wanted %.9g within %.3g", c->op, c->label,
                       what, d, k, got, goal, bound))
            break;
    }
done:
    free(direction);
    free(out);
    free(want);
}

static void check_wants(const setup *s, kd_context *ctx, const result *plain)
{
    const uint32_t all = all_wants(s);
    for (size_t k = 0; k < s->in_count; k++) {
        if (!(all >> k & 1) || all == 1u << k) continue;
        result r;
        run(s, ctx, 0, 1u << k, &r);
        same_bits(s, plain, &r, 1u << k, "one input wants its gradient");
        for (size_t i = 0; i < s->in_count; i++)
            if (i != k) CHECK_MSG(!r.grad[i], "%s %s: input %zu wants no gradient and got one", s->c->op, s->c->label, i);
        result_free(&r);
    }
}

/* Each allocation of the first step fails once; then a tape that has seen it goes on as if nothing had been. */
static void check_memory(const setup *s, const result *plain)
{
    const uint32_t wants = all_wants(s);
    const char *op = s->c->op, *label = s->c->label;
    for (size_t fail = 1;; fail++) {
        kdtest_alloc a;
        kd_tape *tape = NULL;
        inputs in;
        result r = { .status = KD_ERR_NOMEM };
        kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
        inputs_make(s, a.ctx, &in, 0);
        a.fail_at = a.calls + fail;
        kd_status made = kd_tape_create(&tape, a.ctx, s->c->mode ? s->c->mode : KD_TAPE_TRAIN);
        if (made == KD_OK) step(s, tape, &in, TAPE_OWNED, wants, &r);
        int failed = a.calls >= a.fail_at;
        a.fail_at = 0;
        if (failed) {
            CHECK_MSG(r.status == KD_ERR_NOMEM, "%s %s: allocation %zu failing gives %s", op, label, fail,
                      kd_status_name(r.status));
            CHECK_MSG(strstr(kd_last_error(), "out of memory"), "%s %s: out of memory reads \"%s\"", op, label, kd_last_error());
            result_free(&r);
            r.status = KD_ERR_NOMEM;
            if (tape) {
                kd_tape_reset(tape);
                inputs_refill(s, &in, 0);
                step(s, tape, &in, TAPE_OWNED, wants, &r);
                same_bits(s, plain, &r, wants, "after running out of memory");
                result_free(&r);
            }
        } else if (tape) {
            same_bits(s, plain, &r, wants, "counting allocator");
            for (int k = 0; k < 2; k++) {
                size_t before = a.calls;
                result_free(&r);
                kd_tape_reset(tape);
                inputs_refill(s, &in, 0);
                step(s, tape, &in, TAPE_OWNED, wants, &r);
                if (k == 1)
                    CHECK_MSG(a.calls == before, "%s %s: the third step allocates %zu times", op, label, a.calls - before);
            }
            same_bits(s, plain, &r, wants, "third step");
            result_free(&r);
        }
        kd_tape_free(tape);
        inputs_free(&in);
        kdtest_alloc_end(&a);
        if (!failed) break;
    }
}

static void check_case(const grad_case *c, int memory)
{
    setup s;
    result plain, other;
    setup_begin(&s, c);
    const uint32_t wants = all_wants(&s);
    run(&s, NULL, TAPE_OWNED, wants, &plain);
    if (!CHECK_MSG(plain.status == KD_OK, "%s %s: %s: %s", c->op, c->label, kd_status_name(plain.status), kd_last_error()))
        goto done;
    check_forward(&s, &plain);
    for (size_t k = 0; k < s.in_count; k++) {
        if (wants >> k & 1) check_gradient(&s, plain.grad[k], k, NULL, "gradient");
        else CHECK_MSG(!plain.grad[k], "%s %s: constant input %zu got a gradient", c->op, c->label, k);
    }
    run(&s, NULL, WEIGH_INPUTS, wants, &other);
    for (size_t k = 0; k < s.in_count; k++)
        if (wants >> k & 1) check_gradient(&s, other.grad[k], k, s.bias[k], "gradient added");
    result_free(&other);
    run(&s, NULL, 0, wants, &other);
    same_bits(&s, &plain, &other, wants, "the caller's tensors");
    result_free(&other);
    if (!c->not_strided) {
        run(&s, NULL, STRIDED, wants, &other);
        same_bits(&s, &plain, &other, wants, "strided inputs");
        result_free(&other);
    }
    check_wants(&s, NULL, &plain);
    if (memory) check_memory(&s, &plain);
done:
    result_free(&plain);
    setup_end(&s);
}

/* Every case on every instruction set and number of threads, against the first. */
static void check_contexts(const grad_case *cases, size_t count)
{
    static const uint32_t threads[] = { 1, 2, 3, 4, 7 };
    uint32_t isas[5];
    size_t isa_count = kdtest_isas(isas);
    struct { setup s; result plain, added; } *first = room(count, sizeof *first);
    for (size_t i = 0; i < isa_count * 5; i++) {
        kd_context *ctx = kdtest_context(threads[i % 5], isas[i / 5]);
        char what[64];
        snprintf(what, sizeof what, "%s on %u threads", kdtest_isa_name(isas[i / 5]), (unsigned)threads[i % 5]);
        for (size_t k = 0; ctx && k < count; k++) {
            result r, added;
            if (i == 0) setup_begin(&first[k].s, &cases[k]);
            const uint32_t wants = all_wants(&first[k].s);
            run(&first[k].s, ctx, 0, wants, &r);
            run(&first[k].s, ctx, WEIGH_INPUTS, wants, &added);
            if (i == 0) {
                first[k].plain = r;
                first[k].added = added;
                continue;
            }
            if (same_bits(&first[k].s, &first[k].plain, &r, wants, what))
                same_bits(&first[k].s, &first[k].added, &added, wants, what);
            result_free(&r);
            result_free(&added);
        }
        kd_context_free(ctx);
    }
    for (size_t k = 0; k < count; k++) {
        result_free(&first[k].plain);
        result_free(&first[k].added);
        setup_end(&first[k].s);
    }
    free(first);
}

void grad_run(const grad_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) check_case(&cases[i], i == 0 || kdtest_full());
    check_contexts(cases, count);
}
