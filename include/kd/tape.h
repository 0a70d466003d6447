/* kd/tape.h - kd_tape and the differentiable ops.
 * SPDX-License-Identifier: MIT
 *
 * A tape runs each op at once, keeps every result in its arena, and (KD_TAPE_TRAIN) remembers what was done;
 * kd_backward walks that list in reverse.  kd_tape_reset takes everything back by moving a pointer: from
 * the second step on a training step allocates nothing.
 *
 * Ops never return NULL.  The first error poisons the tape: that op and all later ones return a poison
 * tensor, kd_backward returns the status, kd_last_error() the text ("kd_matmul: a [64, 512] x b [256, 10]:
 * inner sizes 512 and 256 differ (op 7)").  kd_tape_reset clears it.
 *
 * Inputs are f32 unless said.  Strided inputs are fine (copied where a kernel needs it).  An input may be
 * the caller's, a model's parameter, this tape's, or another tape's; another tape's is a constant.
 * Gradients flow to tensors marked with kd_requires_grad, to parameters of a model that is not frozen, and to
 * everything computed from these.
 *
 * A tape belongs to one thread at a time; different tapes are independent. */
#ifndef KD_TAPE_H
#define KD_TAPE_H
#include "tensor.h"
KD_BEGIN_DECLS

/* Records ops, for kd_backward. */
typedef struct kd_tape kd_tape;

/* What a tape does with an op, and how layers behave on it. */
#define KD_TAPE_TRAIN 1u         /* record; dropout drops, batch norm uses and updates batch statistics */
#define KD_TAPE_INFER 2u         /* record nothing; dropout passes, batch norm uses running statistics  */
#define KD_TAPE_EVAL  3u         /* record, but layers behave as in INFER: gradients of a model at test time */
#define KD_TAPE_CHECK_FINITE 16u /* or-ed in: a NaN or infinity in a result is KD_ERR_NUMERIC naming the op */

/* An empty tape; `mode` is a KD_TAPE_*.  Its seed is 0.  KD_ERR_ARG, KD_ERR_NOMEM; on error *out is NULL. */
KD_API KD_MUST_USE kd_status kd_tape_create(kd_tape **out, kd_context *ctx, uint32_t mode);
/* Free the tape and every tensor made on it.  NULL is fine. */
KD_API void kd_tape_free(kd_tape *tape);

/* Forget everything, keep the memory, clear the error.  Tensors of the tape become stale. */
KD_API void kd_tape_reset(kd_tape *tape);
/* The sticky status: KD_OK or the first error since the last reset. */
KD_API kd_status kd_tape_status(const kd_tape *tape);
/* KD_TAPE_TRAIN, _INFER or _EVAL. */
KD_API uint32_t kd_tape_mode(const kd_tape *tape);
/* Seed of the random ops (dropout).  Each op takes its own stream from (seed, ops drawn since the seed was
 * set), so the same program gives the same masks; the position survives kd_tape_reset. */
KD_API void kd_tape_seed(kd_tape *tape, uint64_t seed);
/* The stream's position, to read and to set, for checkpoints. */
KD_API kd_rng kd_tape_rng(const kd_tape *tape);
KD_API void kd_tape_set_rng(kd_tape *tape, kd_rng rng);
/* Bytes the tape holds from the allocator, and the most it had in use since it was made. */
KD_API size_t kd_tape_bytes(const kd_tape *tape);
KD_API size_t kd_tape_peak_bytes(const kd_tape *tape);
/* Multiply-adds of matrix products and convolutions since the last reset. */
KD_API uint64_t kd_tape_multiply_adds(const kd_tape *tape);

/* A tensor of the tape, not cleared, for user-defined ops and inputs; a constant for the tape. */
KD_API kd_tensor *kd_tape_tensor(kd_tape *tape, kd_dtype dtype, size_t rank, const size_t *shape);
/* A constant copy of caller memory (f32, contiguous, `shape`) on the tape; the memory may go at once. */
KD_API kd_tensor *kd_tape_constant(kd_tape *tape, size_t rank, const size_t *shape, const float *data);

/* Ask for the gradient of x (f32): a leaf (the caller's, or made on this tape), or a result of this tape, whose gradient is
 * then kept for kd_grad.  Gradients nobody asked for give their memory back as kd_backward goes.  Returns x (or poison). */
KD_API kd_tensor *kd_requires_grad(kd_tape *tape, kd_tensor *x);
/* The gradient of x after kd_backward, if kd_requires_grad asked for it: same shape, contiguous, this tape's; NULL if none
 * reached it.  For a model's parameter use kd_model_grad. */
KD_API const float *kd_grad(const kd_tape *tape, const kd_tensor *x);

/* d loss / d everything that asks for it.  `loss` has one element, made on this tape.  Parameters
 * accumulate into their model's gradient block; other tensors' gradients belong to the tape.
 * One backward per recorded tape: a second one before reset is KD_ERR_STATE.
 * Returns the tape's sticky status if it is poisoned; KD_ERR_ARG, KD_ERR_STATE, KD_ERR_NOMEM, KD_ERR_CANCELLED. */
KD_API KD_MUST_USE kd_status kd_backward(kd_tape *tape, kd_tensor *loss);

/* ---- elementwise, with NumPy broadcasting (sizes equal, or 1, or missing on the left) ---------------- */
/* a + b, a - b, a b, a / b, broadcast; x / 0 as IEEE says.  KD_ERR_SHAPE where the shapes do not broadcast. */
KD_API kd_tensor *kd_add(kd_tape *tape, kd_tensor *a, kd_tensor *b);
KD_API kd_tensor *kd_sub(kd_tape *tape, kd_tensor *a, kd_tensor *b);
KD_API kd_tensor *kd_mul(kd_tape *tape, kd_tensor *a, kd_tensor *b);
KD_API kd_tensor *kd_div(kd_tape *tape, kd_tensor *a, kd_tensor *b);
/* scale * x + shift */
KD_API kd_tensor *kd_scale(kd_tape *tape, kd_tensor *x, float scale, float shift);
/* Of each element: -x, e^x, logarithm, square root, x^2, |x|.  Any shape, kept. */
KD_API kd_tensor *kd_neg(kd_tape *tape, kd_tensor *x);
KD_API kd_tensor *kd_exp(kd_tape *tape, kd_tensor *x);
KD_API kd_tensor *kd_log(kd_tape *tape, kd_tensor *x);      /* natural; log 0 = -inf, log of negative = NaN */
KD_API kd_tensor *kd_sqrt(kd_tape *tape, kd_tensor *x);     /* gradient 1 / (2 sqrt x); +inf at 0           */
KD_API kd_tensor *kd_square(kd_tape *tape, kd_tensor *x);
KD_API kd_tensor *kd_abs(kd_tape *tape, kd_tensor *x);      /* gradient sign(x); 0 at 0                     */
/* min(max(x, lo), hi); gradient 1 where lo <= x <= hi, else 0.  lo <= hi. */
KD_API kd_tensor *kd_clamp(kd_tape *tape, kd_tensor *x, float lo, float hi);

/* ---- activations ----------------------------------------------------------------------------------- */
/* Of each element; any shape, kept. */
KD_API kd_tensor *kd_relu(kd_tape *tape, kd_tensor *x);                    /* gradient 0 at 0 */
KD_API kd_tensor *kd_leaky_relu(kd_tape *tape, kd_tensor *x, float slope); /* x > 0 ? x : slope * x */
KD_API kd_tensor *kd_gelu(kd_tape *tape, kd_tensor *x);       /* x/2 (1 + erf(x / sqrt 2))  (Hendrycks 2016) */
KD_API kd_tensor *kd_gelu_tanh(kd_tape *tape, kd_tensor *x);  /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
KD_API kd_tensor *kd_silu(kd_tape *tape, kd_tensor *x);       /* x sigmoid(x) */
KD_API kd_tensor *kd_sigmoid(kd_tape *tape, kd_tensor *x);    /* 1 / (1 + e^-x) */
KD_API kd_tensor *kd_tanh(kd_tape *tape, kd_tensor *x);
KD_API kd_tensor *kd_softplus(kd_tape *tape, kd_tensor *x);   /* log(1 + e^x), safe for large |x| */

/* ---- reductions.  `axes`: bit i set means axis i; 0 means all.  keep != 0 keeps them with size 1. -------- */
/* Sum and mean over `axes`.  A bit beyond the rank is KD_ERR_ARG. */
KD_API kd_tensor *kd_sum(kd_tape *tape, kd_tensor *x, uint32_t axes, int32_t keep);
KD_API kd_tensor *kd_mean(kd_tape *tape, kd_tensor *x, uint32_t axes, int32_t keep);   /* of nothing: NaN */
/* The maximum over `axes`.  Its gradient goes to the first maximum in memory order.  An empty axis is KD_ERR_SHAPE. */
KD_API kd_tensor *kd_max(kd_tape *tape, kd_tensor *x, uint32_t axes, int32_t keep);

/* ---- products ---------------------------------------------------------------------------------------- */
/* Flags of kd_matmul. */
#define KD_TRANSPOSE_A 1u   /* a is [.., k, m] */
#define KD_TRANSPOSE_B 2u   /* b is [.., n, k] */
/* a [.., m, k] x b [.., k, n] -> [.., m, n]; with the flags a is [.., k, m], b is [.., n, k].  Leading sizes
 * are equal, or missing from one side (that matrix serves every batch).  Sums along k: blocks of 256, each one
 * fma chain from zero, added in order (docs/design/numerics.md). */
KD_API kd_tensor *kd_matmul(kd_tape *tape, kd_tensor *a, kd_tensor *b, uint32_t flags);
/* x [.., in] -> [.., out] = x weight + bias.  weight [in, out] (PyTorch stores its transpose; files are converted on
 * the way in and out); bias [out] or NULL. */
KD_API kd_tensor *kd_linear(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias);

/* ---- convolution, NHWC -------------------------------------------------------------------------------- */
/* How a convolution is computed.  DEFAULT: by the rule of docs/design/numerics.md.  WINOGRAD4: 3x3 convolutions of stride 1
 * that the rule gives to Winograd's F(2x2, 3x3) take F(4x4, 3x3) on KD_TAPE_INFER tapes: up to 1.6 times faster, and four to
 * seven times the rounding error, 1e-6 of the result in the mean.  For a frozen teacher.  Gradients and other tapes are not
 * changed. */
#define KD_CONV_DEFAULT   0u
#define KD_CONV_WINOGRAD4 1u
/* How a window moves over its input. */
typedef struct kd_conv_desc {
    size_t   struct_size;
    uint32_t stride[2], padding[2], dilation[2];   /* height, width; defaults 1, 0, 1 */
    uint32_t groups;                               /* default 1; = channels: depthwise */
    uint32_t algorithm;                            /* KD_CONV_*; default 0 */
} kd_conv_desc;
/* Fill `desc` with the defaults; struct_size is sizeof *desc. */
KD_API void kd_conv_desc_init(kd_conv_desc *desc, size_t struct_size);
/* x [n, h, w, ci], weight [kh, kw, ci / groups, co], bias [co] or NULL -> [n, oh, ow, co],
 * oh = (h + 2 padding - dilation (kh - 1) - 1) / stride + 1.  Cross-correlation, as everywhere in the field.
 * desc NULL: all defaults. */
KD_API kd_tensor *kd_conv2d(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, const kd_conv_desc *desc);
/* x [n, t, ci], weight [k, ci / groups, co], bias [co] or NULL -> [n, ot, co]; the height entries of desc are used; NULL:
 * defaults. */
KD_API kd_tensor *kd_conv1d(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, const kd_conv_desc *desc);
/* x [n, h, w, c] -> [n, oh, ow, c]; window and stride in height, width; padding < window (max: -inf, average: not counted).
 * The maximum's gradient goes to its first position. */
KD_API kd_tensor *kd_max_pool2d(kd_tape *tape, kd_tensor *x, const uint32_t window[2], const uint32_t stride[2],
                                const uint32_t padding[2]);
KD_API kd_tensor *kd_avg_pool2d(kd_tape *tape, kd_tensor *x, const uint32_t window[2], const uint32_t stride[2],
                                const uint32_t padding[2]);
/* [n, h, w, c] -> [n, c], the mean over h and w. */
KD_API kd_tensor *kd_global_avg_pool(kd_tape *tape, kd_tensor *x);

/* ---- normalisation (features innermost) ------------------------------------------------------------------ */
/* x [.., c]; weight, bias [c] or NULL.  TRAIN: y = (x - mean) / sqrt(var + eps) over all but the last axis, biased variance;
 * running_mean, running_var [c] (may both be NULL) move by `momentum` toward the batch, the variance unbiased, as in
 * PyTorch.  INFER, EVAL: the running statistics. */
KD_API kd_tensor *kd_batch_norm(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, kd_tensor *running_mean,
                                kd_tensor *running_var, float momentum, float eps);
/* x [.., c], over the last axis; weight, bias [c] or NULL. */
KD_API kd_tensor *kd_layer_norm(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, float eps);
/* x [n, .., c]: statistics per sample and group of c / groups neighbouring channels. */
KD_API kd_tensor *kd_group_norm(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, uint32_t groups, float eps);
/* Rows of length 1: x / max(||x||_2, eps) over the last axis.  eps > 0. */
KD_API kd_tensor *kd_l2_normalize(kd_tape *tape, kd_tensor *x, float eps);

/* ---- softmax over the last axis ---------------------------------------------------------------------------- */
/* softmax(x / T) and its logarithm.  temperature > 0, finite; edge rows as in kd/kernels.h. */
KD_API kd_tensor *kd_softmax(kd_tape *tape, kd_tensor *x, float temperature);
KD_API kd_tensor *kd_log_softmax(kd_tape *tape, kd_tensor *x, float temperature);

/* ---- attention ----------------------------------------------------------------------------------------------- */
/* Multi-head attention (Vaswani et al. 2017): of each head softmax(scale q k^T + mask) v.  q [n, tq, d], k, v [n, tk, d], the heads'
 * d / heads columns side by side -> [n, tq, d].  k and v NULL: self-attention of q [n, t, 3 d] = q, k, v side by side -> [n, t, d].
 * scale 0: 1 / sqrt(d / heads).  causal != 0: query i sees the keys 0 .. i.  mask [n, tk] or NULL is added to the scores of each
 * key, 0 or -inf for padding; a constant.  A query that sees no key gives 0.  No n x heads x tq x tk is stored; backward
 * computes the probabilities again. */
KD_API kd_tensor *kd_attention(kd_tape *tape, kd_tensor *q, kd_tensor *k, kd_tensor *v, size_t heads, float scale,
                               int32_t causal, kd_tensor *mask);

/* ---- recurrent: a sequence x [n, t, in] -> the states after each step, [n, t, hidden] ------------------------------ */
/* LSTM (Hochreiter and Schmidhuber 1997) and GRU (Cho et al. 2014) with the gates and formulas of PyTorch.  weight_ih
 * [in, gates hidden] and weight_hh [hidden, gates hidden] are the transposes of PyTorch's; bias_ih and bias_hh [gates hidden] or
 * NULL; the states before the first step h0, c0 [n, hidden] or NULL (zeros).  reverse != 0: from the last step to the first; the
 * result has the steps of x all the same.  h_n and c_n, where not NULL, receive the states after the last step made, [n, hidden],
 * through which gradients pass too; poison on error.
 * LSTM: 4 gates i, f, g, o;  c' = sigmoid(f) c + sigmoid(i) tanh(g),  h' = sigmoid(o) tanh(c') */
KD_API kd_tensor *kd_lstm(kd_tape *tape, kd_tensor *x, kd_tensor *h0, kd_tensor *c0, kd_tensor *weight_ih,
                          kd_tensor *weight_hh, kd_tensor *bias_ih, kd_tensor *bias_hh, int32_t reverse, kd_tensor **h_n,
                          kd_tensor **c_n);
/* GRU: 3 gates r, z, n;  n = tanh(x W_in + b_in + sigmoid(r) (h W_hn + b_hn)),  h' = (1 - sigmoid(z)) n + sigmoid(z) h */
KD_API kd_tensor *kd_gru(kd_tape *tape, kd_tensor *x, kd_tensor *h0, kd_tensor *weight_ih, kd_tensor *weight_hh,
                         kd_tensor *bias_ih, kd_tensor *bias_hh, int32_t reverse, kd_tensor **h_n);

/* ---- shape -------------------------------------------------------------------------------------------------- */
/* The same elements in another shape.  A size of (size_t)-1 is inferred.  Shares memory when x is contiguous. */
KD_API kd_tensor *kd_reshape(kd_tape *tape, kd_tensor *x, size_t rank, const size_t *shape);
/* [n, ..] -> [n, everything], as kd_reshape. */
KD_API kd_tensor *kd_flatten(kd_tape *tape, kd_tensor *x);
/* Axis i of the result is axis perm[i] of x; perm has an entry per axis. */
KD_API kd_tensor *kd_permute(kd_tape *tape, kd_tensor *x, const size_t *perm);
/* Indices [begin, end) of one axis; begin <= end <= size. */
KD_API kd_tensor *kd_slice(kd_tape *tape, kd_tensor *x, size_t axis, size_t begin, size_t end);
/* `count` >= 1 tensors behind each other along one axis; their other sizes are equal. */
KD_API kd_tensor *kd_concat(kd_tape *tape, kd_tensor *const *parts, size_t count, size_t axis);
/* x with before[i] and after[i] entries of `value` around axis i; NULL means none. */
KD_API kd_tensor *kd_pad(kd_tape *tape, kd_tensor *x, const size_t *before, const size_t *after, float value);
/* table [n, d], ids i32 or i64 of any shape, each in [0, n) (else KD_ERR_RANGE) -> [ids.., d] */
KD_API kd_tensor *kd_embedding(kd_tape *tape, kd_tensor *table, kd_tensor *ids);
/* TRAIN: each element 0 with probability p in [0, 1), else x / (1 - p).  Otherwise x itself. */
KD_API kd_tensor *kd_dropout(kd_tape *tape, kd_tensor *x, float p);
/* x as a constant: no gradient passes. */
KD_API kd_tensor *kd_detach(kd_tape *tape, kd_tensor *x);

/* ---- losses: one number, named for what it divides by ------------------------------------------------------- */
/* What a loss over rows comes to. */
#define KD_REDUCE_MEAN_ROWS    1u   /* sum / count of valid rows (batchmean); no valid row: 0       */
#define KD_REDUCE_SUM          2u   /* the sum                                                       */
#define KD_REDUCE_NONE         3u   /* one value per row (losses over rows) or element (mse, smooth_l1) */
#define KD_REDUCE_MEAN_ELEMENTS 4u  /* sum / (valid rows * classes), or / elements                   */
/* (a - b)^2 and Huber's smooth_l1 with beta > 0: |d| < beta ? d^2 / (2 beta) : |d| - beta / 2. Shapes equal.
 * Gradient to both.  MEAN_ROWS divides by size 0 of axis 0. */
KD_API kd_tensor *kd_mse(kd_tape *tape, kd_tensor *a, kd_tensor *b, uint32_t reduction);
KD_API kd_tensor *kd_smooth_l1(kd_tape *tape, kd_tensor *a, kd_tensor *b, float beta, uint32_t reduction);
/* logits [.., classes]; labels i32 or i64 [..] (ignore_index takes a row out), or f32 like logits (soft labels).
 * label_smoothing in [0, 1): target (1 - s) onehot + s / classes. */
KD_API kd_tensor *kd_cross_entropy(kd_tape *tape, kd_tensor *logits, kd_tensor *labels, int64_t ignore_index,
                                   float label_smoothing, uint32_t reduction);
/* KL(p || q) over the last axis, p = softmax(p_logits / T) a constant, q = softmax(q_logits / T).  No T^2. */
KD_API kd_tensor *kd_kl_div(kd_tape *tape, kd_tensor *p_logits, kd_tensor *q_logits, float temperature, uint32_t reduction);
/* a . b / max(|a| |b|, eps) over the last axis -> [..].  eps > 0. */
KD_API kd_tensor *kd_cosine_similarity(kd_tape *tape, kd_tensor *a, kd_tensor *b, float eps);

/* ---- an op of your own ----------------------------------------------------------------------------------------- */
/* An op as two functions.  They run in the thread that calls kd_custom and kd_backward. */
typedef struct kd_custom_op {
    size_t      struct_size;
    const char *name;   /* for error texts; must outlive the tape's use of it */
    /* Compute outputs from inputs.  inputs[i], outputs[i] are f32, contiguous.  Return KD_OK or a status, which poisons
     * the tape. */
    kd_status (*forward)(const kd_tensor *const *inputs, size_t input_count, kd_tensor *const *outputs,
                         size_t output_count, void *user);
    /* Add d loss / d inputs[i] into input_grads[i] (NULL where not wanted), given output_grads[i] (NULL: all zero).
     * NULL backward: the op passes no gradient. */
    kd_status (*backward)(const kd_tensor *const *inputs, size_t input_count, const kd_tensor *const *outputs,
                          size_t output_count, const float *const *output_grads, float *const *input_grads, void *user);
} kd_custom_op;
/* Run `op` on `inputs`; outputs[i] must come from kd_tape_tensor (f32) and is filled by forward.  `user` must stay valid until
 * the tape is reset.  At most 16 inputs and 16 outputs.  Returns outputs[0], or poison. */
KD_API kd_tensor *kd_custom(kd_tape *tape, const kd_custom_op *op, kd_tensor *const *inputs, size_t input_count,
                            kd_tensor *const *outputs, size_t output_count, void *user);

KD_END_DECLS
#endif
