/* tape_internal.h - how an op is written.
 * SPDX-License-Identifier: MIT
 *
 *   kd_tensor *kd_square(kd_tape *tape, kd_tensor *x)
 *   {
 *       kd__op_scope op;
 *       if (!kd__op_begin(&op, tape, KD__OP_square, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
 *       x = op.in[0];                                        // checked, f32, contiguous
 *       kd_tensor *y = kd__op_output(&op, x->rank, x->shape);
 *       if (y) kernels(tape)->unary(KD__UNARY_SQUARE, y->data, x->data, x->count, ...);
 *       return kd__op_end(&op);                              // records, checks finite; y or poison
 *   }
 *   static void square_backward(kd_tape *tape, kd__node *node) { ... kd__grad_open(tape, node->in[0], &accumulate) ... }
 *
 * ops.def lists every op: OP(name) wires KD__OP_name to kd__backward_name and its text name. */
#ifndef KD__TAPE_INTERNAL_H
#define KD__TAPE_INTERNAL_H
#include "tensor/tensor.h"
#include "kd/tape.h"

typedef enum kd__op_id {
#define OP(name) KD__OP_##name,
#include "autograd/ops.def"
#undef OP
    KD__OP_COUNT
} kd__op_id;

typedef struct kd__node {
    kd__op_id   id;
    uint16_t    in_count, out_count;
    kd_tensor **in;        /* contiguous f32 unless the op says otherwise */
    kd_tensor **out;
    void       *saved;     /* op's own record, in the arena; NULL if none */
} kd__node;

/* A block of INFER memory: reference-counted by the tensors that share it, reused once free. */
typedef struct kd__block { void *ptr; size_t bytes; uint32_t references; bool kept; } kd__block;

struct kd_tape {
    kd_context *ctx;
    uint32_t    mode;            /* KD_TAPE_TRAIN, _INFER, _EVAL */
    bool        check_finite, backward_done;
    kd_status   status;
    char        text[512];       /* of the sticky error */
    uint64_t    generation;
    uint64_t    op_count;        /* since reset, for error texts */
    uint64_t    multiply_adds;
    kd_rng      rng;
    kd__arena   arena;
    kd_tensor   poison;
    kd_tensor **headers; size_t header_chunks, header_capacity, header_used;   /* chunks of 64, never freed before the tape */
    kd__node   *nodes; size_t node_count, node_capacity;
    kd__block  *blocks; size_t block_count, block_capacity;                    /* INFER only */
};

typedef struct kd__op_scope {
    kd_tape    *tape;
    kd__op_id   id;
    kd_tensor  *in[16];
    size_t      in_count, out_count;
    kd_tensor  *out[16];
    void       *saved;
    bool        recording;        /* some input needs a gradient and the tape records */
    bool        failed;
} kd__op_scope;

/* Check tape and inputs (NULL entries are allowed where optional_mask has bit i: op->in[i] stays NULL), copy strided ones,
 * refuse dtypes other than f32 except inputs in any_dtype_mask.  False: the tape is poisoned. */
bool kd__op_begin(kd__op_scope *op, kd_tape *tape, kd__op_id id, kd_tensor *const *inputs, size_t count);
bool kd__op_begin_masks(kd__op_scope *op, kd_tape *tape, kd__op_id id, kd_tensor *const *inputs, size_t count,
                        uint32_t optional_mask, uint32_t any_dtype_mask);
/* A f32 output; NULL (poisoned) when memory is out. */
kd_tensor *kd__op_output(kd__op_scope *op, size_t rank, const size_t *shape);
/* An output sharing x's memory with another shape. */
kd_tensor *kd__op_output_view(kd__op_scope *op, kd_tensor *x, size_t rank, const size_t *shape);
/* Zeroed memory that lives until reset, for backward: only call when op->recording.  Becomes node->saved. */
void      *kd__op_save(kd__op_scope *op, size_t bytes);
/* Poison the tape: "kd_NAME: <text> (op N)".  Returns the poison tensor. */
kd_tensor *kd__op_fail(kd__op_scope *op, kd_status status, const char *format, ...);
/* Record the node when recording; returns out[0] or poison. */
kd_tensor *kd__op_end(kd__op_scope *op);

kd_tensor *kd__poison(kd_tape *tape);                     /* static tensor when tape is NULL */
/* Poison with the current kd_last_error text. */
kd_tensor *kd__tape_fail(kd_tape *tape, kd_status status);
static inline bool kd__tape_ok(const kd_tape *tape) { return tape && tape->status == KD_OK; }
/* Uncleared memory of the tape until reset; poisons and returns NULL when out. */
void      *kd__tape_alloc(kd_tape *tape, size_t bytes);
kd_tensor *kd__tape_new(kd_tape *tape, kd_dtype dtype, size_t rank, const size_t *shape);

/* Backward: does x want a gradient?  x may be NULL. */
bool       kd__wants_grad(const kd_tape *tape, const kd_tensor *x);
/* x's gradient to write into: *accumulate false: overwrite every element; true: add.  NULL when out of memory. */
float     *kd__grad_open(kd_tape *tape, kd_tensor *x, bool *accumulate);
/* The gradient that reached an output; NULL if none did (backward is then not called for the node). */
const float *kd__grad_out(const kd_tape *tape, const kd_tensor *y);

/* INFER memory, for kd_model_forward: give back what was made since `mark`, except `keep` (and blocks marked kept). */
size_t     kd__tape_block_mark(const kd_tape *tape);
void       kd__tape_release_since(kd_tape *tape, size_t mark, const kd_tensor *keep);
void       kd__tape_release(kd_tape *tape, const kd_tensor *x);    /* this one, if nothing else shares it */
void       kd__tape_keep(kd_tape *tape, const kd_tensor *x);       /* a tapped output: until reset */

#define OP(name) void kd__backward_##name(kd_tape *tape, kd__node *node);
#include "autograd/ops.def"
#undef OP
#endif
