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
#include "base/platform.h"
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
    uint16_t    unread_in, unread_out;   /* bit i: backward does not read the data of in[i], out[i] */
    uint64_t    number;    /* of the call on its tape, from 1 */
    kd_tensor **in;        /* contiguous f32 unless the op says otherwise */
    kd_tensor **out;
    void       *saved;     /* op's own record, in the arena; NULL if none */
} kd__node;

/* A piece of the tape's memory, counted by the tensors that share it and by the nodes whose backward reads it. */
typedef struct kd__block {
    unsigned char *ptr;
    size_t   bytes, next, prev;   /* neighbours in memory, KD__NO_BLOCK at an end; an unused entry: next unused */
    size_t   free_next, free_prev;   /* in the list of free ones */
    uint32_t references;          /* 0: free */
    bool     kept;                /* until reset */
} kd__block;

/* The gradient of a caller's leaf, whose header is not the tape's to write. */
typedef struct kd__leaf { const kd_tensor *x; float *grad; } kd__leaf;

typedef struct kd__tag kd__tag;

struct kd_tape {
    kd__tape_state state;        /* first: kd_tensor reads it */
    kd_context *ctx;
    uint32_t    mode;            /* KD_TAPE_TRAIN, _INFER, _EVAL */
    bool        check_finite, in_backward, backward_done;
    bool        fp_changed;      /* an op under way changed the floating-point state, and this was the host's */
    uint64_t    fp_host;
    uint64_t    op_count;        /* since reset */
    const char *op_name;         /* "kd_add": the op under way, and its number (0: not an op), for error texts */
    uint64_t    op_number;
    uint64_t    multiply_adds;
    kd_rng      rng;
    kd__arena   arena;           /* blocks */
    kd__arena   records;         /* what is small and stays until reset, so that blocks keep their neighbours */
    size_t      used, peak;      /* bytes in use now, and at most since the tape was made */
    kd_tensor   poison;
    kd_tensor **headers; size_t header_chunks, header_capacity, header_used;   /* chunks of 64, never freed before the tape */
    kd__node   *nodes; size_t node_count, node_capacity;
    kd__block  *blocks; size_t block_count, block_capacity, block_unused, block_last;
    size_t      block_free;      /* the first free one */
    kd__leaf   *leaves; size_t leaf_count, leaf_capacity;
    kd__tag    *tags;            /* see tag.c */
    bool        error_placed;    /* the text says where already */
    void      (*observer)(void *arg, const void *what, const kd_tensor *y, uint64_t multiply_adds);
    void       *observer_arg;
};

typedef struct kd__op_scope {
    kd_tape    *tape;
    kd__op_id   id;
    const char *name, *outer_name;    /* outer: of the op that called this one */
    uint64_t    number, outer_number;
    kd_tensor  *in[16];
    size_t      in_count, out_count;
    kd_tensor  *out[16];
    void       *saved;
    uint32_t    copied;           /* bit i: in[i] is a contiguous copy made for this op */
    uint16_t    unread_in, unread_out;   /* set by the op: bit i: its backward does not read the data of in[i], out[i] */
    bool        again;            /* set by the op: kd__make_again can make out[0] from its inputs and what it saved */
    bool        recording;        /* some input needs a gradient and the tape records */
    bool        fp_changed;       /* by this op, not by one around it */
} kd__op_scope;

/* Check tape and inputs (NULL entries are allowed where optional_mask has bit i: op->in[i] stays NULL), copy strided ones,
 * refuse dtypes other than f32 except inputs in any_dtype_mask.  False: the tape is poisoned. */
bool kd__op_begin(kd__op_scope *op, kd_tape *tape, kd__op_id id, kd_tensor *const *inputs, size_t count);
bool kd__op_begin_masks(kd__op_scope *op, kd_tape *tape, kd__op_id id, kd_tensor *const *inputs, size_t count,
                        uint32_t optional_mask, uint32_t any_dtype_mask);
/* The same for an op whose public name is not its line in ops.def: "kd_flatten" is a reshape. */
bool kd__op_begin_as(kd__op_scope *op, kd_tape *tape, kd__op_id id, const char *name, kd_tensor *const *inputs, size_t count,
                     uint32_t optional_mask, uint32_t any_dtype_mask);
/* A f32 output; NULL (poisoned) when memory is out. */
kd_tensor *kd__op_output(kd__op_scope *op, size_t rank, const size_t *shape);
/* An output sharing x's memory from element `offset` on, with another shape (a copy if x is another tape's). */
kd_tensor *kd__op_output_view(kd__op_scope *op, kd_tensor *x, size_t offset, size_t rank, const size_t *shape);
/* Zeroed memory that lives until reset, for backward: only call when op->recording.  Becomes node->saved. */
void      *kd__op_save(kd__op_scope *op, size_t bytes);
/* Poison the tape: "kd_NAME: <text> (op N)".  Returns the poison tensor. */
kd_tensor *kd__op_fail(kd__op_scope *op, kd_status status, const char *format, ...);
/* Record the node when recording; returns out[0] or poison. */
kd_tensor *kd__op_end(kd__op_scope *op);

kd_tensor *kd__poison(kd_tape *tape);                     /* static tensor when tape is NULL */
/* Poison with the current kd_last_error text, in front of it "kd_NAME: " (unless it is there) and behind it " (op N)", of
 * the op under way, forward or backward. */
kd_tensor *kd__tape_fail(kd_tape *tape, kd_status status);
/* x failed kd__tensor_check as the argument `what` of `function`: poison the tape accordingly; a poison tensor of another
 * tape brings that tape's error. */
kd_tensor *kd__input_fail(kd_tape *tape, const kd_tensor *x, const char *function, const char *what);
/* The host's floating-point state back, if an op changed it: where the outermost op ends, or the tape is poisoned. */
void kd__tape_fp_back(kd_tape *tape);
static inline bool kd__tape_ok(const kd_tape *tape) { return tape && tape->state.status == KD_OK; }
/* Uncleared memory of the tape until reset; poisons and returns NULL when out. */
void      *kd__tape_alloc(kd_tape *tape, size_t bytes);
/* A constant of the tape, not cleared; poisons and returns NULL on error. */
kd_tensor *kd__tape_new(kd_tape *tape, kd_dtype dtype, size_t rank, const size_t *shape);
/* x itself if it is contiguous, else a contiguous copy through which gradients pass; poison on error. */
kd_tensor *kd__contiguous(kd_tape *tape, kd_tensor *x);

/* Backward: does x want a gradient?  x may be NULL. */
bool       kd__wants_grad(const kd_tape *tape, const kd_tensor *x);
/* x's gradient to write into: *accumulate false: overwrite every element; true: add.  NULL when x wants none or (poisoned)
 * memory is out. */
float     *kd__grad_open(kd_tape *tape, kd_tensor *x, bool *accumulate);
/* Make `grad`, all of it and the tape's until reset, the gradient of x without a copy.  False if x is a parameter or has
 * a gradient already: then add. */
bool       kd__grad_give(kd_tape *tape, kd_tensor *x, float *grad);
/* For ops whose dx is dy or can be written over it: make dy, which dies with this node, the gradient of x, as large as y, without
 * a copy.  Its memory, still holding dy; NULL if x has a gradient, or y's is kept or x's lies elsewhere: then kd__grad_open. */
float     *kd__grad_take(kd_tape *tape, kd_tensor *x, kd_tensor *y);
/* The gradient that reached an output; NULL if none did (when that holds for all outputs, backward is not called for the
 * node).  Gone after the node's backward unless kd_requires_grad asked for it. */
const float *kd__grad_out(const kd_tape *tape, const kd_tensor *y);

/* ---- op_fused.c: an op that computes its gradient with its value -------------------------------------------------
 * Begin it with KD__OP_fused.  Where to put d out[0] / d in[i], as large as in[i]; NULL if nobody wants it (or, poisoned, memory
 * is out).  out[0] has one element, or one for each leading row of in[i]. */
float     *kd__fused_grad(kd__op_scope *op, size_t i);

/* ---- memory given back early, for kd_model_forward ---------------------------------------------------------
 * A result holds a reference to its block; views (reshape, a slice along axis 0) share it, and so does a node whose backward
 * reads it, until it is undone.  Giving a tensor back makes it stale and drops its reference; a block without references is
 * free and joins its free neighbours.  A request takes the smallest free block that holds it and leaves the rest free: the
 * same step finds the same places again.  Only what no caller can have seen is given back.  The pattern of a chain of layers:
 *
 *     size_t mark = kd__tape_block_mark(tape);
 *     kd_tensor *y = layer(tape, x);                  // any number of ops
 *     kd__tape_release_since(tape, mark, y);          // all they made except y
 *     kd__tape_release(tape, x);                      // if x was the previous layer's output and not tapped */
size_t     kd__tape_block_mark(const kd_tape *tape);
/* Give back what was made since `mark`, except `keep` (may be NULL) and tensors in blocks marked kept. */
void       kd__tape_release_since(kd_tape *tape, size_t mark, const kd_tensor *keep);
/* Give back this one unless it is kept, asked for its gradient, another tape's or the caller's. */
void       kd__tape_release(kd_tape *tape, kd_tensor *x);
/* A tapped output: its block stays until reset. */
void       kd__tape_keep(kd_tape *tape, const kd_tensor *x);
/* A user's block saw x, returned y and made what was made since `mark`: where a tape records, all of it stays until reset. */
void       kd__tape_keep_seen(kd_tape *tape, size_t mark, const kd_tensor *x, const kd_tensor *y);

/* ---- tag.c: what the rooms above leave on a tape -------------------------------------------------------------- */
/* Remember x under an address until reset; a later one replaces it.  Poisons when memory is out. */
void       kd__tape_set_tag(kd_tape *tape, const void *key, kd_tensor *x);
kd_tensor *kd__tape_tag(const kd_tape *tape, const void *key);   /* NULL if there is none */
/* kd__tape_fail with the current error text, for a call that is not an op. */
kd_tensor *kd__tape_fail_in(kd_tape *tape, const char *function, kd_status status);
/* Put "place: " in front of the sticky error's text, once for each error: the first caller knows best. */
void       kd__tape_place_error(kd_tape *tape, const char *place);
/* Tell the tape's observer, if it has one, what made y. */
void       kd__tape_observe(kd_tape *tape, const void *what, const kd_tensor *y, uint64_t multiply_adds);

/* ---- inside the tape ------------------------------------------------------------------------------------ */
/* ops.def as a table; names are "kd_add". */
const char *kd__op_name(kd__op_id id);
void        kd__op_backward(kd_tape *tape, kd__node *node);
/* A header, zeroed; NULL (with text) when out. */
kd_tensor  *kd__header_new(kd_tape *tape);
/* A block of at least `bytes`, referenced once; KD__NO_BLOCK (with text) when out. */
size_t      kd__block_new(kd_tape *tape, size_t bytes);
void        kd__block_drop(kd_tape *tape, size_t block);
/* Compute out[0], which was given back, once more, for the nodes that read it (op_norm.c). */
void        kd__make_again(kd_tape *tape, const kd__node *node);
/* A node takes the references to what its backward reads, sees that it is there, and drops them. */
void        kd__node_hold(kd_tape *tape, const kd__node *node);
void        kd__node_ready(kd_tape *tape, const kd__node *node);
void        kd__node_drop(kd_tape *tape, const kd__node *node);
/* Forget all blocks and headers, rewind the arena. */
void        kd__memory_reset(kd_tape *tape);
void        kd__memory_free(kd_tape *tape);

#define OP(name) void kd__backward_##name(kd_tape *tape, kd__node *node);
#include "autograd/ops.def"
#undef OP
#endif
