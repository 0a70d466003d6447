/* op_rnn.c - LSTM and GRU: one product for the inputs of all steps, then step by step a product and a kernel.
 * SPDX-License-Identifier: MIT
 *
 * Inside, rows are in the order of the steps, [t, n, ..]: what a step reads and writes is contiguous, a reversed sequence differs
 * in the two copies at the ends only, and the gradients of the weights are one product each over all rows. */
#include "autograd/after.h"
#include "autograd/eltwise.h"

enum { CELLS = 4096 };   /* of a step, worth a thread */

/* One run.  `h` and `c` begin with the state before the first step. */
typedef struct rnn {
    kd_context *ctx;
    size_t n, t, in, hidden;
    size_t gate_count;      /* 4: LSTM, 3: GRU                                                             */
    bool   reverse;
    float *x;               /* [t, n, in]                                                                  */
    float *gates;           /* [t, n, gate_count hidden]: products, values; backward: gradients            */
    float *product;         /* GRU: h W + b, [t, n, 3 hidden], or of one step when nothing is recorded     */
    float *h;               /* [t + 1, n, hidden]                                                          */
    float *c;               /* LSTM: [t + 1, n, hidden]                                                    */
    float *dh, *dc;         /* backward: [t + 1, n, hidden], [n, hidden]                                   */
    size_t step;            /* under way, and how far from one step's block of `product` to the next       */
    size_t product_step;
} rnn;

static bool is_lstm(const rnn *s) { return s->gate_count == 4; }
static size_t state_floats(const rnn *s) { return s->n * s->hidden; }
static size_t gate_floats(const rnn *s) { return s->n * s->gate_count * s->hidden; }

/* The operands of either op: x, h0, c0 (LSTM), weight_ih, weight_hh, bias_ih, bias_hh. */
typedef struct operands { kd_tensor *x, *h0, *c0, *weight_ih, *weight_hh, *bias_ih, *bias_hh; } operands;
static operands operands_of(kd_tensor *const *in, bool lstm)
{
    kd_tensor *const *w = in + (lstm ? 3 : 2);
    return (operands){ in[0], in[1], lstm ? in[2] : NULL, w[0], w[1], w[2], w[3] };
}

/* Where the step s, of sample n, lies in a sequence [n, t, width] of the caller's, and in one of ours. */
typedef struct order { size_t shape[3], first; ptrdiff_t outer[3], inner[3]; } order;
static order order_of(const rnn *s, size_t width)
{
    const ptrdiff_t row = (ptrdiff_t)width;
    return (order){ .shape = { s->t, s->n, width }, .first = s->reverse && s->t ? (s->t - 1) * width : 0,
                    .outer = { s->reverse ? -row : row, row * (ptrdiff_t)s->t, 1 },
                    .inner = { row * (ptrdiff_t)s->n, row, 1 } };
}
static void to_steps(const rnn *s, size_t width, float *steps, const float *x)
{
    const order o = order_of(s, width);
    if (s->t && s->n && width) kd__strided_copy(s->ctx, sizeof(float), 3, o.shape, steps, o.inner, x + o.first, o.outer);
}
static void from_steps(const rnn *s, size_t width, const float *steps, float *x, bool add)
{
    const order o = order_of(s, width);
    if (!s->t || !s->n || !width) return;
    if (add) kd__strided_add(s->ctx, 3, o.shape, x + o.first, o.outer, steps, o.inner);
    else kd__strided_copy(s->ctx, sizeof(float), 3, o.shape, x + o.first, o.outer, steps, o.inner);
}

/* ---- forward ------------------------------------------------------------------------------------------------ */
static void step_rows(size_t begin, size_t end, void *arg)
{
    const rnn *s = arg;
    const size_t at = begin * s->hidden, state = state_floats(s), rows = end - begin;
    float *gates = s->gates + s->step * gate_floats(s) + s->gate_count * at;
    const float *h_before = s->h + s->step * state + at;
    float *h = s->h + (s->step + 1) * state + at;
    if (is_lstm(s)) {
        float *c = s->c + s->step * state + at;
        s->ctx->kernels->lstm_step_f32(rows, s->hidden, gates, c, c + state, h);
    } else {
        s->ctx->kernels->gru_step_f32(rows, s->hidden, gates, s->product + s->step * s->product_step + 3 * at, h_before, h);
    }
}

static void each_row(rnn *s, void (*fn)(size_t begin, size_t end, void *arg))
{
    kd__parallel_range(s->ctx, s->n, KD_MAX(CELLS / KD_MAX(s->hidden, 1u), 1u), fn, s);
}

/* op(weight_hh) as products with few rows read it; in a piece of scratch. */
static kd_status pack_hidden(kd_context *ctx, kd__gemm_args *g, float **packed)
{
    size_t floats, bytes;
    if (!kd__gemm_packed_floats(g, &floats) || !kd__mul(floats, sizeof(float), &bytes))
        return kd__fail(KD_ERR_OVERFLOW, "packing %zu x %zu", g->k, g->n);
    *packed = kd__scratch_get(ctx, bytes);
    if (!*packed) return KD_ERR_NOMEM;
    kd__gemm_pack(ctx, g, *packed);
    g->b_packed = *packed;
    return KD_OK;
}

/* `bias` is what the products with x begin with. */
static kd_status forward(rnn *s, const operands *o, const float *bias)
{
    const size_t width = s->gate_count * s->hidden, state = state_floats(s);
    to_steps(s, s->in, s->x, o->x->data);
    memset(s->h, 0, state * sizeof(float));
    if (o->h0 && state) memcpy(s->h, o->h0->data, state * sizeof(float));
    if (is_lstm(s)) {
        memset(s->c, 0, state * sizeof(float));
        if (o->c0 && state) memcpy(s->c, o->c0->data, state * sizeof(float));
    }
    KD_TRY(kd__gemm(s->ctx, &(kd__gemm_args){
        .m = s->t * s->n, .n = width, .k = s->in, .a = s->x, .a_stride = s->in, .b = o->weight_ih->data, .b_stride = width,
        .c = s->gates, .c_stride = width, .after = { .bias = bias } }));
    kd__gemm_args g = { .m = s->n, .n = width, .k = s->hidden, .a_stride = s->hidden, .b = o->weight_hh->data, .b_stride = width,
                        .c_stride = width };
    if (is_lstm(s)) g.accumulate = true;
    else g.after.bias = o->bias_hh ? o->bias_hh->data : NULL;
    float *packed = NULL;
    kd_status status = pack_hidden(s->ctx, &g, &packed);
    for (s->step = 0; status == KD_OK && s->step < s->t; s->step++) {
        g.a = s->h + s->step * state;
        g.c = is_lstm(s) ? s->gates + s->step * gate_floats(s) : s->product + s->step * s->product_step;
        status = kd__gemm(s->ctx, &g);
        if (status == KD_OK) each_row(s, step_rows);
    }
    kd__scratch_put(s->ctx, packed);
    return status;
}

/* Floats of a run's memory, in the order of set_memory; false: too many. */
static bool memory_floats(const rnn *s, bool recording, size_t *floats)
{
    size_t rows, more, states, width;
    return kd__mul(s->t, s->n, &rows) && kd__mul(s->gate_count + (!is_lstm(s) && recording ? 3u : 0u), s->hidden, &width) &&
           kd__add(width, s->in, &width) && kd__mul(rows, width, floats) &&
           kd__add(rows, s->n, &states) && kd__mul(states, s->hidden, &more) && kd__mul(more, is_lstm(s) ? 2 : 1, &more) &&
           kd__add(*floats, more, floats) && kd__mul(s->n, 3, &more) && kd__mul(more, s->hidden, &more) &&
           kd__add(*floats, more, floats) && kd__mul(*floats, sizeof(float), &more);
}
static void set_memory(rnn *s, bool recording, float *memory)
{
    const size_t rows = s->t * s->n, states = (s->t + 1) * state_floats(s);
    s->h = memory;
    s->c = s->h + states;
    s->x = is_lstm(s) ? s->c + states : s->c;
    s->gates = s->x + rows * s->in;
    s->product = s->gates + s->t * gate_floats(s);
    s->product_step = recording ? gate_floats(s) : 0;
}

static bool want_shape(kd__op_scope *op, const kd_tensor *p, const char *name, size_t rank, size_t a, size_t b)
{
    const size_t want[] = { a, b };
    if (!p || (p->rank == rank && p->shape[0] == a && (rank == 1 || p->shape[1] == b))) return true;
    kd__op_fail(op, KD_ERR_SHAPE, "%s %S does not fit: want %S", name, (size_t)p->rank, p->shape, rank, want);
    return false;
}

static bool sizes(kd__op_scope *op, const operands *o, rnn *s)
{
    if (o->x->rank != 3) {
        kd__op_fail(op, KD_ERR_SHAPE, "x %S is not [n, t, in]", (size_t)o->x->rank, o->x->shape);
        return false;
    }
    if (o->weight_hh->rank != 2 || o->weight_hh->shape[0] > SIZE_MAX / 4 ||
        o->weight_hh->shape[1] != s->gate_count * o->weight_hh->shape[0]) {
        kd__op_fail(op, KD_ERR_SHAPE, "weight_hh %S is not [hidden, %zu hidden]", (size_t)o->weight_hh->rank, o->weight_hh->shape,
                    s->gate_count);
        return false;
    }
    s->n = o->x->shape[0];
    s->t = o->x->shape[1];
    s->in = o->x->shape[2];
    s->hidden = o->weight_hh->shape[0];
    const size_t width = s->gate_count * s->hidden;
    return want_shape(op, o->weight_ih, "weight_ih", 2, s->in, width) && want_shape(op, o->bias_ih, "bias_ih", 1, width, 0) &&
           want_shape(op, o->bias_hh, "bias_hh", 1, width, 0) && want_shape(op, o->h0, "h0", 2, s->n, s->hidden) &&
           want_shape(op, o->c0, "c0", 2, s->n, s->hidden);
}

static kd_tensor *run(kd__op_scope *op, bool lstm, bool reverse, kd_tensor **h_n, kd_tensor **c_n)
{
    const operands o = operands_of(op->in, lstm);
    kd_tape *tape = op->tape;
    rnn s = { .ctx = tape->ctx, .gate_count = lstm ? 4 : 3, .reverse = reverse };
    if (!sizes(op, &o, &s)) return kd__poison(tape);
    const size_t width = s.gate_count * s.hidden;
    size_t floats;
    if (!memory_floats(&s, op->recording, &floats))
        return kd__op_fail(op, KD_ERR_OVERFLOW, "x %S with %zu hidden is too large", (size_t)3, o.x->shape, s.hidden);
    kd_tensor *y = kd__op_output(op, 3, (size_t[]){ s.n, s.t, s.hidden });
    kd_tensor *last_h = y ? kd__op_output(op, 2, (size_t[]){ s.n, s.hidden }) : NULL;
    kd_tensor *last_c = last_h && lstm ? kd__op_output(op, 2, (size_t[]){ s.n, s.hidden }) : NULL;
    if (!last_h || (lstm && !last_c)) return kd__op_end(op);

    float *scratch = kd__scratch_get(s.ctx, (width + (op->recording ? 0 : floats)) * sizeof(float));
    float *memory = !scratch ? NULL : op->recording ? kd__tape_alloc(tape, floats * sizeof(float)) : scratch + width;
    if (!memory) {
        kd__scratch_put(s.ctx, scratch);
        return kd__tape_fail(tape, KD_ERR_NOMEM);
    }
    set_memory(&s, op->recording, memory);
    const float *bias = o.bias_ih ? o.bias_ih->data : NULL;
    if (lstm && o.bias_hh) {   /* both are added to the same sums */
        const float *other = o.bias_hh->data;
        for (size_t j = 0; j < width; j++) scratch[j] = bias ? bias[j] + other[j] : other[j];
        bias = scratch;
    }
    kd_status status = forward(&s, &o, bias);
    const size_t state = state_floats(&s);
    if (status == KD_OK && state) {
        from_steps(&s, s.hidden, s.h + state, y->data, false);
        memcpy(last_h->data, s.h + s.t * state, state * sizeof(float));
        if (lstm) memcpy(last_c->data, s.c + s.t * state, state * sizeof(float));
    }
    kd__scratch_put(s.ctx, scratch);
    if (status != KD_OK) return kd__tape_fail(tape, status);
    tape->multiply_adds += (uint64_t)s.t * s.n * width * (s.in + s.hidden);
    if (op->recording) {
        rnn *saved = kd__op_save(op, sizeof *saved);
        if (saved) *saved = s;
    }
    y = kd__op_end(op);
    if (h_n && kd__tape_ok(tape)) *h_n = last_h;
    if (c_n && kd__tape_ok(tape)) *c_n = last_c;
    return y;
}

kd_tensor *kd_lstm(kd_tape *tape, kd_tensor *x, kd_tensor *h0, kd_tensor *c0, kd_tensor *weight_ih, kd_tensor *weight_hh,
                   kd_tensor *bias_ih, kd_tensor *bias_hh, int32_t reverse, kd_tensor **h_n, kd_tensor **c_n)
{
    kd__op_scope op;
    if (h_n) *h_n = kd__poison(tape);
    if (c_n) *c_n = kd__poison(tape);
    kd_tensor *in[] = { x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh };
    if (!kd__op_begin_masks(&op, tape, KD__OP_lstm, in, 7, 1u << 1 | 1u << 2 | 1u << 5 | 1u << 6, 0)) return kd__poison(tape);
    return run(&op, true, reverse, h_n, c_n);
}

kd_tensor *kd_gru(kd_tape *tape, kd_tensor *x, kd_tensor *h0, kd_tensor *weight_ih, kd_tensor *weight_hh, kd_tensor *bias_ih,
                  kd_tensor *bias_hh, int32_t reverse, kd_tensor **h_n)
{
    kd__op_scope op;
    if (h_n) *h_n = kd__poison(tape);
    kd_tensor *in[] = { x, h0, weight_ih, weight_hh, bias_ih, bias_hh };
    if (!kd__op_begin_masks(&op, tape, KD__OP_gru, in, 6, 1u << 1 | 1u << 4 | 1u << 5, 0)) return kd__poison(tape);
    return run(&op, false, reverse, h_n, NULL);
}

/* ---- backward --------------------------------------------------------------------------------------------- */
static void undo_rows(size_t begin, size_t end, void *arg)
{
    const rnn *s = arg;
    const size_t at = begin * s->hidden, state = state_floats(s), rows = end - begin, before = s->step * state + at;
    float *gates = s->gates + s->step * gate_floats(s) + s->gate_count * at;
    const float *dh = s->dh + before + state;
    if (is_lstm(s))
        s->ctx->kernels->lstm_backward_step_f32(rows, s->hidden, gates, s->c + before, s->c + before + state, dh, s->dc + at);
    else
        s->ctx->kernels->gru_backward_step_f32(rows, s->hidden, gates, s->product + s->step * s->product_step + 3 * at,
                                               s->h + before, dh, s->dh + before);
}

/* From dh, the gradients that came from outside, back to the first state; `hidden` the gradients of what weight_hh made. */
static kd_status undo_steps(rnn *s, const operands *o, const float *hidden, bool want_h0)
{
    const size_t width = s->gate_count * s->hidden, state = state_floats(s);
    kd__gemm_args g = { .m = s->n, .n = s->hidden, .k = width, .a_stride = width, .b = o->weight_hh->data, .b_stride = width,
                        .b_transposed = true, .c_stride = s->hidden, .accumulate = true };
    float *packed = NULL;
    kd_status status = pack_hidden(s->ctx, &g, &packed);
    for (s->step = s->t; status == KD_OK && s->step-- > 0;) {
        each_row(s, undo_rows);
        g.a = hidden + s->step * gate_floats(s);
        g.c = s->dh + s->step * state;
        if (s->step || want_h0) status = kd__gemm(s->ctx, &g);
    }
    kd__scratch_put(s->ctx, packed);
    return status;
}

/* The gradient of a weight, a^T d, and of its bias, the column sums of d: rows of all steps. */
static kd_status undo_weight(kd_tape *tape, const rnn *s, kd_tensor *weight, kd_tensor *bias, const float *a, size_t a_width,
                             const float *d)
{
    const size_t rows = s->t * s->n, width = s->gate_count * s->hidden;
    bool accumulate;
    float *dw = kd__grad_open(tape, weight, &accumulate);
    if (dw)
        KD_TRY(kd__gemm(s->ctx, &(kd__gemm_args){
            .m = a_width, .n = width, .k = rows, .a = a, .a_stride = a_width, .a_transposed = true, .b = d, .b_stride = width,
            .c = dw, .c_stride = width, .accumulate = accumulate }));
    float *db = kd__grad_open(tape, bias, &accumulate);
    return db ? kd__reduce_sum(s->ctx, 2, (size_t[]){ rows, width }, 1u, d, 1.0, db, accumulate) : KD_OK;
}

static void backward(kd_tape *tape, kd__node *node, bool lstm)
{
    const operands o = operands_of(node->in, lstm);
    rnn *s = node->saved;
    const size_t state = state_floats(s), rows = s->t * s->n, width = s->gate_count * s->hidden;
    const bool want_x = kd__wants_grad(tape, o.x);
    float *scratch = kd__scratch_get(s->ctx, ((s->t + 2) * state + (want_x ? rows * s->in : 0)) * sizeof(float));
    if (!scratch) {
        kd__tape_fail(tape, KD_ERR_NOMEM);
        return;
    }
    s->dc = scratch;
    s->dh = scratch + state;
    const float *dy = kd__grad_out(tape, node->out[0]), *dh_n = kd__grad_out(tape, node->out[1]);
    const float *dc_n = lstm ? kd__grad_out(tape, node->out[2]) : NULL;
    memset(scratch, 0, (2 + (dy ? 0 : s->t)) * state * sizeof(float));
    if (dy) to_steps(s, s->hidden, s->dh + state, dy);
    if (dh_n && state) s->ctx->kernels->axpy_f32(s->dh + s->t * state, dh_n, state, 1.0f);
    if (dc_n && state) memcpy(s->dc, dc_n, state * sizeof(float));

    const float *hidden = lstm ? s->gates : s->product;
    kd_status status = undo_steps(s, &o, hidden, kd__wants_grad(tape, o.h0));
    if (status == KD_OK) status = undo_weight(tape, s, o.weight_ih, o.bias_ih, s->x, s->in, s->gates);
    if (status == KD_OK) status = undo_weight(tape, s, o.weight_hh, o.bias_hh, s->h, s->hidden, hidden);
    bool accumulate;
    float *dx = status == KD_OK ? kd__grad_open(tape, o.x, &accumulate) : NULL;
    if (dx) {
        float *steps = scratch + (s->t + 2) * state;
        status = kd__gemm(s->ctx, &(kd__gemm_args){
            .m = rows, .n = s->in, .k = width, .a = s->gates, .a_stride = width, .b = o.weight_ih->data, .b_stride = width,
            .b_transposed = true, .c = steps, .c_stride = s->in });
        if (status == KD_OK) from_steps(s, s->in, steps, dx, accumulate);
    }
    if (status != KD_OK) kd__tape_fail(tape, status);
    if (kd__wants_grad(tape, o.h0)) kd__add_into(tape, o.h0, s->dh);
    if (kd__wants_grad(tape, o.c0)) kd__add_into(tape, o.c0, s->dc);
    kd__scratch_put(s->ctx, scratch);
}

void kd__backward_lstm(kd_tape *tape, kd__node *node) { backward(tape, node, true); }

void kd__backward_gru(kd_tape *tape, kd__node *node) { backward(tape, node, false); }
