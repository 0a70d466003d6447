"""ops - the ops as functions: ops.matmul(a, b) is a.tape.matmul(a, b), on the tape of its first argument
that has one.  Made by src/python/gen_api.py; do not edit.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Sequence

from .tape import Tape, tape_of

if TYPE_CHECKING:
    from .tensor import Tensor, TensorLike

__all__ = (
    "add", "sub", "mul", "div", "scale", "neg", "exp", "log", "sqrt", "square", "abs", "clamp", "relu", "leaky_relu", "gelu",
    "gelu_tanh", "silu", "sigmoid", "tanh", "softplus", "sum", "mean", "max", "matmul", "linear", "conv2d", "conv1d",
    "max_pool2d", "avg_pool2d", "global_avg_pool", "batch_norm", "layer_norm", "group_norm", "l2_normalize", "softmax",
    "log_softmax", "attention", "lstm", "gru", "reshape", "flatten", "permute", "slice", "concat", "pad", "embedding",
    "dropout", "detach", "mse", "smooth_l1", "cross_entropy", "kl_div", "cosine_similarity",
)


def add(a: TensorLike, b: TensorLike) -> Tensor:
    """a + b, a - b, a b, a / b, broadcast; x / 0 as IEEE says.  KD_ERR_SHAPE where the shapes do not broadcast.

    C: kd_add
    """
    return Tape.add(tape_of(a, b), a, b)


def sub(a: TensorLike, b: TensorLike) -> Tensor:
    """a + b, a - b, a b, a / b, broadcast; x / 0 as IEEE says.  KD_ERR_SHAPE where the shapes do not broadcast.

    C: kd_sub
    """
    return Tape.sub(tape_of(a, b), a, b)


def mul(a: TensorLike, b: TensorLike) -> Tensor:
    """a + b, a - b, a b, a / b, broadcast; x / 0 as IEEE says.  KD_ERR_SHAPE where the shapes do not broadcast.

    C: kd_mul
    """
    return Tape.mul(tape_of(a, b), a, b)


def div(a: TensorLike, b: TensorLike) -> Tensor:
    """a + b, a - b, a b, a / b, broadcast; x / 0 as IEEE says.  KD_ERR_SHAPE where the shapes do not broadcast.

    C: kd_div
    """
    return Tape.div(tape_of(a, b), a, b)


def scale(x: TensorLike, scale: float, shift: float = 0.0) -> Tensor:
    """scale * x + shift

    C: kd_scale
    """
    return Tape.scale(tape_of(x), x, scale, shift)


def neg(x: TensorLike) -> Tensor:
    """Of each element: -x, e^x, logarithm, square root, x^2, |x|.  Any shape, kept.

    C: kd_neg
    """
    return Tape.neg(tape_of(x), x)


def exp(x: TensorLike) -> Tensor:
    """Of each element: -x, e^x, logarithm, square root, x^2, |x|.  Any shape, kept.

    C: kd_exp
    """
    return Tape.exp(tape_of(x), x)


def log(x: TensorLike) -> Tensor:
    """Of each element: -x, e^x, logarithm, square root, x^2, |x|.  Any shape, kept.
    natural; log 0 = -inf, log of negative = NaN

    C: kd_log
    """
    return Tape.log(tape_of(x), x)


def sqrt(x: TensorLike) -> Tensor:
    """Of each element: -x, e^x, logarithm, square root, x^2, |x|.  Any shape, kept.
    gradient 1 / (2 sqrt x); +inf at 0

    C: kd_sqrt
    """
    return Tape.sqrt(tape_of(x), x)


def square(x: TensorLike) -> Tensor:
    """Of each element: -x, e^x, logarithm, square root, x^2, |x|.  Any shape, kept.

    C: kd_square
    """
    return Tape.square(tape_of(x), x)


def abs(x: TensorLike) -> Tensor:
    """Of each element: -x, e^x, logarithm, square root, x^2, |x|.  Any shape, kept.
    gradient sign(x); 0 at 0

    C: kd_abs
    """
    return Tape.abs(tape_of(x), x)


def clamp(x: TensorLike, lo: float, hi: float) -> Tensor:
    """min(max(x, lo), hi); gradient 1 where lo <= x <= hi, else 0.  lo <= hi.

    C: kd_clamp
    """
    return Tape.clamp(tape_of(x), x, lo, hi)


def relu(x: TensorLike) -> Tensor:
    """Of each element; any shape, kept.
    gradient 0 at 0

    C: kd_relu
    """
    return Tape.relu(tape_of(x), x)


def leaky_relu(x: TensorLike, slope: float = 0.01) -> Tensor:
    """x > 0 ? x : slope * x

    C: kd_leaky_relu
    """
    return Tape.leaky_relu(tape_of(x), x, slope)


def gelu(x: TensorLike) -> Tensor:
    """Of each element; any shape, kept.
    x/2 (1 + erf(x / sqrt 2))  (Hendrycks 2016)

    C: kd_gelu
    """
    return Tape.gelu(tape_of(x), x)


def gelu_tanh(x: TensorLike) -> Tensor:
    """Of each element; any shape, kept.
    x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))

    C: kd_gelu_tanh
    """
    return Tape.gelu_tanh(tape_of(x), x)


def silu(x: TensorLike) -> Tensor:
    """Of each element; any shape, kept.
    x sigmoid(x)

    C: kd_silu
    """
    return Tape.silu(tape_of(x), x)


def sigmoid(x: TensorLike) -> Tensor:
    """Of each element; any shape, kept.
    1 / (1 + e^-x)

    C: kd_sigmoid
    """
    return Tape.sigmoid(tape_of(x), x)


def tanh(x: TensorLike) -> Tensor:
    """Of each element; any shape, kept.

    C: kd_tanh
    """
    return Tape.tanh(tape_of(x), x)


def softplus(x: TensorLike) -> Tensor:
    """Of each element; any shape, kept.
    log(1 + e^x), safe for large |x|

    C: kd_softplus
    """
    return Tape.softplus(tape_of(x), x)


def sum(x: TensorLike, axes: int | Sequence[int] | None = None, keep: bool = False) -> Tensor:
    """Sum and mean over `axes`.  A bit beyond the rank is KD_ERR_ARG.

    C: kd_sum
    """
    return Tape.sum(tape_of(x), x, axes, keep)


def mean(x: TensorLike, axes: int | Sequence[int] | None = None, keep: bool = False) -> Tensor:
    """Sum and mean over `axes`.  A bit beyond the rank is KD_ERR_ARG.
    of nothing: NaN

    C: kd_mean
    """
    return Tape.mean(tape_of(x), x, axes, keep)


def max(x: TensorLike, axes: int | Sequence[int] | None = None, keep: bool = False) -> Tensor:
    """The maximum over `axes`.  Its gradient goes to the first maximum in memory order.  An empty axis is KD_ERR_SHAPE.

    C: kd_max
    """
    return Tape.max(tape_of(x), x, axes, keep)


def matmul(a: TensorLike, b: TensorLike, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
    """a [.., m, k] x b [.., k, n] -> [.., m, n]; with the flags a is [.., k, m], b is [.., n, k].  Leading sizes
    are equal, or missing from one side (that matrix serves every batch).  Sums along k: blocks of 256, each one
    fma chain from zero, added in order (docs/design/numerics.md).

    C: kd_matmul
    """
    return Tape.matmul(tape_of(a, b), a, b, transpose_a=transpose_a, transpose_b=transpose_b)


def linear(x: TensorLike, weight: TensorLike, bias: TensorLike | None = None) -> Tensor:
    """x [.., in] -> [.., out] = x weight + bias.  weight [in, out] (PyTorch stores its transpose; files are converted on
    the way in and out); bias [out] or NULL.

    C: kd_linear
    """
    return Tape.linear(tape_of(x, weight, bias), x, weight, bias)


def conv2d(x: TensorLike, weight: TensorLike, bias: TensorLike | None = None, *, stride: int | Sequence[int] | None = None,
           padding: int | Sequence[int] | None = None, dilation: int | Sequence[int] | None = None, groups: int | None = None,
           algorithm: str | int | None = None) -> Tensor:
    """x [n, h, w, ci], weight [kh, kw, ci / groups, co], bias [co] or NULL -> [n, oh, ow, co],
    oh = (h + 2 padding - dilation (kh - 1) - 1) / stride + 1.  Cross-correlation, as everywhere in the field.
    desc NULL: all defaults.

        stride: height, width; defaults 1, 0, 1
        padding: height, width; defaults 1, 0, 1
        dilation: height, width; defaults 1, 0, 1
        groups: default 1; = channels: depthwise
        algorithm: KD_CONV_*; default 0

    C: kd_conv2d
    """
    return Tape.conv2d(tape_of(x, weight, bias), x, weight, bias, stride=stride, padding=padding, dilation=dilation,
            groups=groups, algorithm=algorithm)


def conv1d(x: TensorLike, weight: TensorLike, bias: TensorLike | None = None, *, stride: int | Sequence[int] | None = None,
           padding: int | Sequence[int] | None = None, dilation: int | Sequence[int] | None = None, groups: int | None = None,
           algorithm: str | int | None = None) -> Tensor:
    """x [n, t, ci], weight [k, ci / groups, co], bias [co] or NULL -> [n, ot, co]; the height entries of desc are used;
    NULL: defaults.

        stride: height, width; defaults 1, 0, 1
        padding: height, width; defaults 1, 0, 1
        dilation: height, width; defaults 1, 0, 1
        groups: default 1; = channels: depthwise
        algorithm: KD_CONV_*; default 0

    C: kd_conv1d
    """
    return Tape.conv1d(tape_of(x, weight, bias), x, weight, bias, stride=stride, padding=padding, dilation=dilation,
            groups=groups, algorithm=algorithm)


def max_pool2d(x: TensorLike, window: int | Sequence[int], stride: int | Sequence[int] | None = None,
               padding: int | Sequence[int] = 0) -> Tensor:
    """x [n, h, w, c] -> [n, oh, ow, c]; window and stride in height, width; padding < window (max: -inf, average: not
    counted). The maximum's gradient goes to its first position.

    C: kd_max_pool2d
    """
    return Tape.max_pool2d(tape_of(x), x, window, stride, padding)


def avg_pool2d(x: TensorLike, window: int | Sequence[int], stride: int | Sequence[int] | None = None,
               padding: int | Sequence[int] = 0) -> Tensor:
    """x [n, h, w, c] -> [n, oh, ow, c]; window and stride in height, width; padding < window (max: -inf, average: not
    counted). The maximum's gradient goes to its first position.

    C: kd_avg_pool2d
    """
    return Tape.avg_pool2d(tape_of(x), x, window, stride, padding)


def global_avg_pool(x: TensorLike) -> Tensor:
    """[n, h, w, c] -> [n, c], the mean over h and w.

    C: kd_global_avg_pool
    """
    return Tape.global_avg_pool(tape_of(x), x)


def batch_norm(x: TensorLike, weight: TensorLike | None = None, bias: TensorLike | None = None,
               running_mean: TensorLike | None = None, running_var: TensorLike | None = None, momentum: float = 0.1,
               eps: float = 1e-5) -> Tensor:
    """x [.., c]; weight, bias [c] or NULL.  TRAIN: y = (x - mean) / sqrt(var + eps) over all but the last axis, biased
    variance; running_mean, running_var [c] (may both be NULL) move by `momentum` toward the batch, the variance unbiased,
    as in PyTorch.  INFER, EVAL: the running statistics.

    C: kd_batch_norm
    """
    return Tape.batch_norm(tape_of(x, weight, bias, running_mean, running_var), x, weight, bias, running_mean, running_var,
            momentum, eps)


def layer_norm(x: TensorLike, weight: TensorLike | None = None, bias: TensorLike | None = None, eps: float = 1e-5) -> Tensor:
    """x [.., c], over the last axis; weight, bias [c] or NULL.

    C: kd_layer_norm
    """
    return Tape.layer_norm(tape_of(x, weight, bias), x, weight, bias, eps)


def group_norm(x: TensorLike, weight: TensorLike | None = None, bias: TensorLike | None = None, *, groups: int,
               eps: float = 1e-5) -> Tensor:
    """x [n, .., c]: statistics per sample and group of c / groups neighbouring channels.

    C: kd_group_norm
    """
    return Tape.group_norm(tape_of(x, weight, bias), x, weight, bias, groups=groups, eps=eps)


def l2_normalize(x: TensorLike, eps: float = 1e-12) -> Tensor:
    """Rows of length 1: x / max(||x||_2, eps) over the last axis.  eps > 0.

    C: kd_l2_normalize
    """
    return Tape.l2_normalize(tape_of(x), x, eps)


def softmax(x: TensorLike, temperature: float = 1.0) -> Tensor:
    """softmax(x / T) and its logarithm.  temperature > 0, finite; edge rows as in kd/kernels.h.

    C: kd_softmax
    """
    return Tape.softmax(tape_of(x), x, temperature)


def log_softmax(x: TensorLike, temperature: float = 1.0) -> Tensor:
    """softmax(x / T) and its logarithm.  temperature > 0, finite; edge rows as in kd/kernels.h.

    C: kd_log_softmax
    """
    return Tape.log_softmax(tape_of(x), x, temperature)


def attention(q: TensorLike, k: TensorLike | None = None, v: TensorLike | None = None, *, heads: int, scale: float = 0.0,
              causal: bool = False, mask: TensorLike | None = None) -> Tensor:
    """Multi-head attention (Vaswani et al. 2017): of each head softmax(scale q k^T + mask) v.  q [n, tq, d], k, v [n, tk,
    d], the heads' d / heads columns side by side -> [n, tq, d].  k and v NULL: self-attention of q [n, t, 3 d] = q, k, v
    side by side -> [n, t, d]. scale 0: 1 / sqrt(d / heads).  causal != 0: query i sees the keys 0 .. i.  mask [n, tk] or
    NULL is added to the scores of each key, 0 or -inf for padding; a constant.  A query that sees no key gives 0.  No n x
    heads x tq x tk is stored; backward computes the probabilities again.

    C: kd_attention
    """
    return Tape.attention(tape_of(q, k, v, mask), q, k, v, heads=heads, scale=scale, causal=causal, mask=mask)


def lstm(x: TensorLike, h0: TensorLike | None = None, c0: TensorLike | None = None, *, weight_ih: TensorLike,
         weight_hh: TensorLike, bias_ih: TensorLike | None = None, bias_hh: TensorLike | None = None,
         reverse: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """LSTM (Hochreiter and Schmidhuber 1997) and GRU (Cho et al. 2014) with the gates and formulas of PyTorch.  weight_ih
    [in, gates hidden] and weight_hh [hidden, gates hidden] are the transposes of PyTorch's; bias_ih and bias_hh [gates
    hidden] or NULL; the states before the first step h0, c0 [n, hidden] or NULL (zeros).  reverse != 0: from the last
    step to the first; the result has the steps of x all the same.  h_n and c_n, where not NULL, receive the states after
    the last step made, [n, hidden], through which gradients pass too; poison on error. LSTM: 4 gates i, f, g, o;  c' =
    sigmoid(f) c + sigmoid(i) tanh(g),  h' = sigmoid(o) tanh(c')

    C: kd_lstm
    """
    return Tape.lstm(tape_of(x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh), x, h0, c0, weight_ih=weight_ih,
            weight_hh=weight_hh, bias_ih=bias_ih, bias_hh=bias_hh, reverse=reverse)


def gru(x: TensorLike, h0: TensorLike | None = None, *, weight_ih: TensorLike, weight_hh: TensorLike,
        bias_ih: TensorLike | None = None, bias_hh: TensorLike | None = None, reverse: bool = False) -> tuple[Tensor, Tensor]:
    """GRU: 3 gates r, z, n;  n = tanh(x W_in + b_in + sigmoid(r) (h W_hn + b_hn)),  h' = (1 - sigmoid(z)) n + sigmoid(z) h

    C: kd_gru
    """
    return Tape.gru(tape_of(x, h0, weight_ih, weight_hh, bias_ih, bias_hh), x, h0, weight_ih=weight_ih, weight_hh=weight_hh,
            bias_ih=bias_ih, bias_hh=bias_hh, reverse=reverse)


def reshape(x: TensorLike, shape: Sequence[int]) -> Tensor:
    """The same elements in another shape.  A size of (size_t)-1 is inferred.  Shares memory when x is contiguous.

    C: kd_reshape
    """
    return Tape.reshape(tape_of(x), x, shape)


def flatten(x: TensorLike) -> Tensor:
    """[n, ..] -> [n, everything], as kd_reshape.

    C: kd_flatten
    """
    return Tape.flatten(tape_of(x), x)


def permute(x: TensorLike, perm: Sequence[int]) -> Tensor:
    """Axis i of the result is axis perm[i] of x; perm has an entry per axis.

    C: kd_permute
    """
    return Tape.permute(tape_of(x), x, perm)


def slice(x: TensorLike, axis: int, begin: int, end: int) -> Tensor:
    """Indices [begin, end) of one axis; begin <= end <= size.

    C: kd_slice
    """
    return Tape.slice(tape_of(x), x, axis, begin, end)


def concat(parts: Sequence[TensorLike], axis: int) -> Tensor:
    """`count` >= 1 tensors behind each other along one axis; their other sizes are equal.

    C: kd_concat
    """
    return Tape.concat(tape_of(parts), parts, axis)


def pad(x: TensorLike, before: Sequence[int] | None = None, after: Sequence[int] | None = None, value: float = 0.0) -> Tensor:
    """x with before[i] and after[i] entries of `value` around axis i; NULL means none.

    C: kd_pad
    """
    return Tape.pad(tape_of(x), x, before, after, value)


def embedding(table: TensorLike, ids: TensorLike) -> Tensor:
    """table [n, d], ids i32 or i64 of any shape, each in [0, n) (else KD_ERR_RANGE) -> [ids.., d]

    C: kd_embedding
    """
    return Tape.embedding(tape_of(table, ids), table, ids)


def dropout(x: TensorLike, p: float) -> Tensor:
    """TRAIN: each element 0 with probability p in [0, 1), else x / (1 - p).  Otherwise x itself.

    C: kd_dropout
    """
    return Tape.dropout(tape_of(x), x, p)


def detach(x: TensorLike) -> Tensor:
    """x as a constant: no gradient passes.

    C: kd_detach
    """
    return Tape.detach(tape_of(x), x)


def mse(a: TensorLike, b: TensorLike, reduction: str | int = "mean_rows") -> Tensor:
    """(a - b)^2 and Huber's smooth_l1 with beta > 0: |d| < beta ? d^2 / (2 beta) : |d| - beta / 2. Shapes equal.
    Gradient to both.  MEAN_ROWS divides by size 0 of axis 0.

    C: kd_mse
    """
    return Tape.mse(tape_of(a, b), a, b, reduction)


def smooth_l1(a: TensorLike, b: TensorLike, beta: float = 1.0, reduction: str | int = "mean_rows") -> Tensor:
    """(a - b)^2 and Huber's smooth_l1 with beta > 0: |d| < beta ? d^2 / (2 beta) : |d| - beta / 2. Shapes equal.
    Gradient to both.  MEAN_ROWS divides by size 0 of axis 0.

    C: kd_smooth_l1
    """
    return Tape.smooth_l1(tape_of(a, b), a, b, beta, reduction)


def cross_entropy(logits: TensorLike, labels: TensorLike, ignore_index: int = -100, label_smoothing: float = 0.0,
                  reduction: str | int = "mean_rows") -> Tensor:
    """logits [.., classes]; labels i32 or i64 [..] (ignore_index takes a row out), or f32 like logits (soft labels).
    label_smoothing in [0, 1): target (1 - s) onehot + s / classes.

    C: kd_cross_entropy
    """
    return Tape.cross_entropy(tape_of(logits, labels), logits, labels, ignore_index, label_smoothing, reduction)


def kl_div(p_logits: TensorLike, q_logits: TensorLike, temperature: float = 1.0, reduction: str | int = "mean_rows") -> Tensor:
    """KL(p || q) over the last axis, p = softmax(p_logits / T) a constant, q = softmax(q_logits / T).  No T^2.

    C: kd_kl_div
    """
    return Tape.kl_div(tape_of(p_logits, q_logits), p_logits, q_logits, temperature, reduction)


def cosine_similarity(a: TensorLike, b: TensorLike, eps: float = 1e-8) -> Tensor:
    """a . b / max(|a| |b|, eps) over the last axis -> [..].  eps > 0.

    C: kd_cosine_similarity
    """
    return Tape.cosine_similarity(tape_of(a, b), a, b, eps)
