"""_methods.py - methods that follow from the headers by rule.  Made by src/python/gen_api.py; do not edit.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, Sequence

from ._native import axis_mask, check, constant, decode, describe, encode, encode_path, lib, pair, size_array

if TYPE_CHECKING:
    from ._buffers import ArrayLike
    from .context import Context
    from .tensor import Tensor, TensorLike
    from .tape import Tape
    from .model import Layer, Model
    from .optimizer import Ema, Optimizer
    from .data import Dataset, Loader
    from .losses import LossDistill, LossFeature

    from typing_extensions import TypedDict      # every type checker knows it; nothing imports it when run

    class ContextFields(TypedDict, total=False):
        isa: str | int | None
        threads: int | None

    class LossDistillFields(TypedDict, total=False):
        method: str | int | None
        temperature: float | None
        hard_weight: float | None
        soft_weight: float | None
        direction: str | int | None
        js_beta: float | None
        temperature_squared: int | None
        reduction: str | int | None
        teacher_form: str | int | None
        label_smoothing: float | None
        ignore_index: int | None
        unlabelled_index: int | None
        class_weights: ArrayLike | None
        check_input: int | None
        all_masked_nan: int | None
        alpha: float | None
        beta: float | None
        gamma: float | None
        form: str | int | None
        standardize: int | None
        teachers: str | int | None
        warmup: int | None
        teacher_weights: ArrayLike | None
        seed: int | None

    class LossFeatureFields(TypedDict, total=False):
        form: str | int | None
        weight: float | None
        alpha: float | None
        beta: float | None
        gamma: float | None
        temperature: float | None
        adapters_external: int | None
        width: int | None
        classes: int | None
        samples: int | None
        negatives: int | None
        seed: int | None
        warmup: int | None
        teacher_weight: ArrayLike | None
        teacher_bias: ArrayLike | None
        teacher_bn_weight: Sequence[ArrayLike | None] | None
        teacher_bn_bias: Sequence[ArrayLike | None] | None

    class OptimizerFields(TypedDict, total=False):
        lr: float | None
        momentum: float | None
        dampening: float | None
        nesterov: int | None
        beta1: float | None
        beta2: float | None
        eps: float | None
        weight_decay: float | None
        max_grad_norm: float | None

    class ScheduleFields(TypedDict, total=False):
        gamma: float | None
        period: int | None
        total_steps: int | None
        final_factor: float | None
        warmup_start: float | None
        warmup_steps: int | None
        milestones: ArrayLike | None

    class LoaderFields(TypedDict, total=False):
        batch: int | None
        seed: int | None
        shuffle: int | None
        drop_last: int | None
        scale: float | None
        shift: int | None
        crop_padding: int | None
        flip: int | None
        mixup_alpha: float | None
        classes: int | None
        ahead: int | None
        mean: ArrayLike | None
        std: ArrayLike | None
        shard_index: int | None
        shard_count: int | None
        cutmix_alpha: float | None
        mix_switch: float | None
        mix_probability: float | None
        label_smoothing: float | None
        erase_probability: float | None
        erase_zeros: int | None
        randaugment_ops: int | None
        randaugment_magnitude: float | None
        randaugment_noise: float | None
        repeats: int | None
        crop_area: float | None
        height: int | None
        width: int | None


class TapeOps:
    """The differentiable ops, as methods of a tape.  Ops run at once; an error raises at once, and the
    tape then refuses everything until reset()."""

    __slots__ = ()

    def add(self, a: TensorLike, b: TensorLike) -> Tensor:
        """a + b, a - b, a b, a / b, broadcast; x / 0 as IEEE says.  KD_ERR_SHAPE where the shapes do not broadcast.

        C: kd_add
        """
        return self._out(lib.kd_add(self._h, self._in(a), self._in(b)))

    def sub(self, a: TensorLike, b: TensorLike) -> Tensor:
        """a + b, a - b, a b, a / b, broadcast; x / 0 as IEEE says.  KD_ERR_SHAPE where the shapes do not broadcast.

        C: kd_sub
        """
        return self._out(lib.kd_sub(self._h, self._in(a), self._in(b)))

    def mul(self, a: TensorLike, b: TensorLike) -> Tensor:
        """a + b, a - b, a b, a / b, broadcast; x / 0 as IEEE says.  KD_ERR_SHAPE where the shapes do not broadcast.

        C: kd_mul
        """
        return self._out(lib.kd_mul(self._h, self._in(a), self._in(b)))

    def div(self, a: TensorLike, b: TensorLike) -> Tensor:
        """a + b, a - b, a b, a / b, broadcast; x / 0 as IEEE says.  KD_ERR_SHAPE where the shapes do not broadcast.

        C: kd_div
        """
        return self._out(lib.kd_div(self._h, self._in(a), self._in(b)))

    def scale(self, x: TensorLike, scale: float, shift: float = 0.0) -> Tensor:
        """scale * x + shift

        C: kd_scale
        """
        return self._out(lib.kd_scale(self._h, self._in(x), scale, shift))

    def neg(self, x: TensorLike) -> Tensor:
        """Of each element: -x, e^x, logarithm, square root, x^2, |x|.  Any shape, kept.

        C: kd_neg
        """
        return self._out(lib.kd_neg(self._h, self._in(x)))

    def exp(self, x: TensorLike) -> Tensor:
        """Of each element: -x, e^x, logarithm, square root, x^2, |x|.  Any shape, kept.

        C: kd_exp
        """
        return self._out(lib.kd_exp(self._h, self._in(x)))

    def log(self, x: TensorLike) -> Tensor:
        """Of each element: -x, e^x, logarithm, square root, x^2, |x|.  Any shape, kept.
        natural; log 0 = -inf, log of negative = NaN

        C: kd_log
        """
        return self._out(lib.kd_log(self._h, self._in(x)))

    def sqrt(self, x: TensorLike) -> Tensor:
        """Of each element: -x, e^x, logarithm, square root, x^2, |x|.  Any shape, kept.
        gradient 1 / (2 sqrt x); +inf at 0

        C: kd_sqrt
        """
        return self._out(lib.kd_sqrt(self._h, self._in(x)))

    def square(self, x: TensorLike) -> Tensor:
        """Of each element: -x, e^x, logarithm, square root, x^2, |x|.  Any shape, kept.

        C: kd_square
        """
        return self._out(lib.kd_square(self._h, self._in(x)))

    def abs(self, x: TensorLike) -> Tensor:
        """Of each element: -x, e^x, logarithm, square root, x^2, |x|.  Any shape, kept.
        gradient sign(x); 0 at 0

        C: kd_abs
        """
        return self._out(lib.kd_abs(self._h, self._in(x)))

    def clamp(self, x: TensorLike, lo: float, hi: float) -> Tensor:
        """min(max(x, lo), hi); gradient 1 where lo <= x <= hi, else 0.  lo <= hi.

        C: kd_clamp
        """
        return self._out(lib.kd_clamp(self._h, self._in(x), lo, hi))

    def relu(self, x: TensorLike) -> Tensor:
        """Of each element; any shape, kept.
        gradient 0 at 0

        C: kd_relu
        """
        return self._out(lib.kd_relu(self._h, self._in(x)))

    def leaky_relu(self, x: TensorLike, slope: float = 0.01) -> Tensor:
        """x > 0 ? x : slope * x

        C: kd_leaky_relu
        """
        return self._out(lib.kd_leaky_relu(self._h, self._in(x), slope))

    def gelu(self, x: TensorLike) -> Tensor:
        """Of each element; any shape, kept.
        x/2 (1 + erf(x / sqrt 2))  (Hendrycks 2016)

        C: kd_gelu
        """
        return self._out(lib.kd_gelu(self._h, self._in(x)))

    def gelu_tanh(self, x: TensorLike) -> Tensor:
        """Of each element; any shape, kept.
        x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))

        C: kd_gelu_tanh
        """
        return self._out(lib.kd_gelu_tanh(self._h, self._in(x)))

    def silu(self, x: TensorLike) -> Tensor:
        """Of each element; any shape, kept.
        x sigmoid(x)

        C: kd_silu
        """
        return self._out(lib.kd_silu(self._h, self._in(x)))

    def sigmoid(self, x: TensorLike) -> Tensor:
        """Of each element; any shape, kept.
        1 / (1 + e^-x)

        C: kd_sigmoid
        """
        return self._out(lib.kd_sigmoid(self._h, self._in(x)))

    def tanh(self, x: TensorLike) -> Tensor:
        """Of each element; any shape, kept.

        C: kd_tanh
        """
        return self._out(lib.kd_tanh(self._h, self._in(x)))

    def softplus(self, x: TensorLike) -> Tensor:
        """Of each element; any shape, kept.
        log(1 + e^x), safe for large |x|

        C: kd_softplus
        """
        return self._out(lib.kd_softplus(self._h, self._in(x)))

    def sum(self, x: TensorLike, axes: int | Sequence[int] | None = None, keep: bool = False) -> Tensor:
        """Sum and mean over `axes`.  A bit beyond the rank is KD_ERR_ARG.

        C: kd_sum
        """
        return self._out(lib.kd_sum(self._h, self._in(x), axis_mask(axes, x), keep))

    def mean(self, x: TensorLike, axes: int | Sequence[int] | None = None, keep: bool = False) -> Tensor:
        """Sum and mean over `axes`.  A bit beyond the rank is KD_ERR_ARG.
        of nothing: NaN

        C: kd_mean
        """
        return self._out(lib.kd_mean(self._h, self._in(x), axis_mask(axes, x), keep))

    def max(self, x: TensorLike, axes: int | Sequence[int] | None = None, keep: bool = False) -> Tensor:
        """The maximum over `axes`.  Its gradient goes to the first maximum in memory order.  An empty axis is KD_ERR_SHAPE.

        C: kd_max
        """
        return self._out(lib.kd_max(self._h, self._in(x), axis_mask(axes, x), keep))

    def matmul(self, a: TensorLike, b: TensorLike, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
        """a [.., m, k] x b [.., k, n] -> [.., m, n]; with the flags a is [.., k, m], b is [.., n, k].  Leading sizes
        are equal, or missing from one side (that matrix serves every batch).  Sums along k: blocks of 256, each one
        fma chain from zero, added in order (docs/design/numerics.md).

        C: kd_matmul
        """
        return self._out(lib.kd_matmul(self._h, self._in(a), self._in(b), (1 if transpose_a else 0) | (2 if transpose_b else 0)))

    def linear(self, x: TensorLike, weight: TensorLike, bias: TensorLike | None = None) -> Tensor:
        """x [.., in] -> [.., out] = x weight + bias.  weight [in, out] (PyTorch stores its transpose; files are converted on
        the way in and out); bias [out] or NULL.

        C: kd_linear
        """
        return self._out(lib.kd_linear(self._h, self._in(x), self._in(weight), self._in(bias)))

    def conv2d(self, x: TensorLike, weight: TensorLike, bias: TensorLike | None = None, *,
               stride: int | Sequence[int] | None = None, padding: int | Sequence[int] | None = None,
               dilation: int | Sequence[int] | None = None, groups: int | None = None,
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
        desc, keep = describe("kd_conv_desc", stride=stride, padding=padding, dilation=dilation, groups=groups,
                algorithm=algorithm)
        return self._out(lib.kd_conv2d(self._h, self._in(x), self._in(weight), self._in(bias), byref(desc)))

    def conv1d(self, x: TensorLike, weight: TensorLike, bias: TensorLike | None = None, *,
               stride: int | Sequence[int] | None = None, padding: int | Sequence[int] | None = None,
               dilation: int | Sequence[int] | None = None, groups: int | None = None,
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
        desc, keep = describe("kd_conv_desc", stride=stride, padding=padding, dilation=dilation, groups=groups,
                algorithm=algorithm)
        return self._out(lib.kd_conv1d(self._h, self._in(x), self._in(weight), self._in(bias), byref(desc)))

    def max_pool2d(self, x: TensorLike, window: int | Sequence[int], stride: int | Sequence[int] | None = None,
                   padding: int | Sequence[int] = 0) -> Tensor:
        """x [n, h, w, c] -> [n, oh, ow, c]; window and stride in height, width; padding < window (max: -inf, average: not
        counted). The maximum's gradient goes to its first position.

        C: kd_max_pool2d
        """
        return self._out(lib.kd_max_pool2d(self._h, self._in(x), pair(window), pair(window if stride is None else stride),
                pair(padding)))

    def avg_pool2d(self, x: TensorLike, window: int | Sequence[int], stride: int | Sequence[int] | None = None,
                   padding: int | Sequence[int] = 0) -> Tensor:
        """x [n, h, w, c] -> [n, oh, ow, c]; window and stride in height, width; padding < window (max: -inf, average: not
        counted). The maximum's gradient goes to its first position.

        C: kd_avg_pool2d
        """
        return self._out(lib.kd_avg_pool2d(self._h, self._in(x), pair(window), pair(window if stride is None else stride),
                pair(padding)))

    def global_avg_pool(self, x: TensorLike) -> Tensor:
        """[n, h, w, c] -> [n, c], the mean over h and w.

        C: kd_global_avg_pool
        """
        return self._out(lib.kd_global_avg_pool(self._h, self._in(x)))

    def batch_norm(self, x: TensorLike, weight: TensorLike | None = None, bias: TensorLike | None = None,
                   running_mean: TensorLike | None = None, running_var: TensorLike | None = None, momentum: float = 0.1,
                   eps: float = 1e-5) -> Tensor:
        """x [.., c]; weight, bias [c] or NULL.  TRAIN: y = (x - mean) / sqrt(var + eps) over all but the last axis, biased
        variance; running_mean, running_var [c] (may both be NULL) move by `momentum` toward the batch, the variance unbiased,
        as in PyTorch.  INFER, EVAL: the running statistics.

        C: kd_batch_norm
        """
        return self._out(lib.kd_batch_norm(self._h, self._in(x), self._in(weight), self._in(bias), self._in(running_mean),
                self._in(running_var), momentum, eps))

    def layer_norm(self, x: TensorLike, weight: TensorLike | None = None, bias: TensorLike | None = None,
                   eps: float = 1e-5) -> Tensor:
        """x [.., c], over the last axis; weight, bias [c] or NULL.

        C: kd_layer_norm
        """
        return self._out(lib.kd_layer_norm(self._h, self._in(x), self._in(weight), self._in(bias), eps))

    def group_norm(self, x: TensorLike, weight: TensorLike | None = None, bias: TensorLike | None = None, *, groups: int,
                   eps: float = 1e-5) -> Tensor:
        """x [n, .., c]: statistics per sample and group of c / groups neighbouring channels.

        C: kd_group_norm
        """
        return self._out(lib.kd_group_norm(self._h, self._in(x), self._in(weight), self._in(bias), groups, eps))

    def l2_normalize(self, x: TensorLike, eps: float = 1e-12) -> Tensor:
        """Rows of length 1: x / max(||x||_2, eps) over the last axis.  eps > 0.

        C: kd_l2_normalize
        """
        return self._out(lib.kd_l2_normalize(self._h, self._in(x), eps))

    def softmax(self, x: TensorLike, temperature: float = 1.0) -> Tensor:
        """softmax(x / T) and its logarithm.  temperature > 0, finite; edge rows as in kd/kernels.h.

        C: kd_softmax
        """
        return self._out(lib.kd_softmax(self._h, self._in(x), temperature))

    def log_softmax(self, x: TensorLike, temperature: float = 1.0) -> Tensor:
        """softmax(x / T) and its logarithm.  temperature > 0, finite; edge rows as in kd/kernels.h.

        C: kd_log_softmax
        """
        return self._out(lib.kd_log_softmax(self._h, self._in(x), temperature))

    def attention(self, q: TensorLike, k: TensorLike | None = None, v: TensorLike | None = None, *, heads: int,
                  scale: float = 0.0, causal: bool = False, mask: TensorLike | None = None) -> Tensor:
        """Multi-head attention (Vaswani et al. 2017): of each head softmax(scale q k^T + mask) v.  q [n, tq, d], k, v [n, tk,
        d], the heads' d / heads columns side by side -> [n, tq, d].  k and v NULL: self-attention of q [n, t, 3 d] = q, k, v
        side by side -> [n, t, d]. scale 0: 1 / sqrt(d / heads).  causal != 0: query i sees the keys 0 .. i.  mask [n, tk] or
        NULL is added to the scores of each key, 0 or -inf for padding; a constant.  A query that sees no key gives 0.  No n x
        heads x tq x tk is stored; backward computes the probabilities again.

        C: kd_attention
        """
        return self._out(lib.kd_attention(self._h, self._in(q), self._in(k), self._in(v), heads, scale, causal, self._in(mask)))

    def lstm(self, x: TensorLike, h0: TensorLike | None = None, c0: TensorLike | None = None, *, weight_ih: TensorLike,
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
        h_n = c_void_p()
        c_n = c_void_p()
        y = self._out(lib.kd_lstm(self._h, self._in(x), self._in(h0), self._in(c0), self._in(weight_ih), self._in(weight_hh),
                self._in(bias_ih), self._in(bias_hh), reverse, byref(h_n), byref(c_n)))
        return y, self._out(h_n.value), self._out(c_n.value)

    def gru(self, x: TensorLike, h0: TensorLike | None = None, *, weight_ih: TensorLike, weight_hh: TensorLike,
            bias_ih: TensorLike | None = None, bias_hh: TensorLike | None = None,
            reverse: bool = False) -> tuple[Tensor, Tensor]:
        """GRU: 3 gates r, z, n;  n = tanh(x W_in + b_in + sigmoid(r) (h W_hn + b_hn)),  h' = (1 - sigmoid(z)) n + sigmoid(z) h

        C: kd_gru
        """
        h_n = c_void_p()
        y = self._out(lib.kd_gru(self._h, self._in(x), self._in(h0), self._in(weight_ih), self._in(weight_hh),
                self._in(bias_ih), self._in(bias_hh), reverse, byref(h_n)))
        return y, self._out(h_n.value)

    def reshape(self, x: TensorLike, shape: Sequence[int]) -> Tensor:
        """The same elements in another shape.  A size of (size_t)-1 is inferred.  Shares memory when x is contiguous.

        C: kd_reshape
        """
        sizes = size_array(shape)
        return self._out(lib.kd_reshape(self._h, self._in(x), len(shape), sizes))

    def flatten(self, x: TensorLike) -> Tensor:
        """[n, ..] -> [n, everything], as kd_reshape.

        C: kd_flatten
        """
        return self._out(lib.kd_flatten(self._h, self._in(x)))

    def permute(self, x: TensorLike, perm: Sequence[int]) -> Tensor:
        """Axis i of the result is axis perm[i] of x; perm has an entry per axis.

        C: kd_permute
        """
        return self._out(lib.kd_permute(self._h, self._in(x), size_array(perm)))

    def slice(self, x: TensorLike, axis: int, begin: int, end: int) -> Tensor:
        """Indices [begin, end) of one axis; begin <= end <= size.

        C: kd_slice
        """
        return self._out(lib.kd_slice(self._h, self._in(x), axis, begin, end))

    def concat(self, parts: Sequence[TensorLike], axis: int) -> Tensor:
        """`count` >= 1 tensors behind each other along one axis; their other sizes are equal.

        C: kd_concat
        """
        handles = self._handles(parts)
        return self._out(lib.kd_concat(self._h, handles, len(parts), axis))

    def pad(self, x: TensorLike, before: Sequence[int] | None = None, after: Sequence[int] | None = None,
            value: float = 0.0) -> Tensor:
        """x with before[i] and after[i] entries of `value` around axis i; NULL means none.

        C: kd_pad
        """
        return self._out(lib.kd_pad(self._h, self._in(x), size_array(before), size_array(after), value))

    def embedding(self, table: TensorLike, ids: TensorLike) -> Tensor:
        """table [n, d], ids i32 or i64 of any shape, each in [0, n) (else KD_ERR_RANGE) -> [ids.., d]

        C: kd_embedding
        """
        return self._out(lib.kd_embedding(self._h, self._in(table), self._in(ids)))

    def dropout(self, x: TensorLike, p: float) -> Tensor:
        """TRAIN: each element 0 with probability p in [0, 1), else x / (1 - p).  Otherwise x itself.

        C: kd_dropout
        """
        return self._out(lib.kd_dropout(self._h, self._in(x), p))

    def detach(self, x: TensorLike) -> Tensor:
        """x as a constant: no gradient passes.

        C: kd_detach
        """
        return self._out(lib.kd_detach(self._h, self._in(x)))

    def mse(self, a: TensorLike, b: TensorLike, reduction: str | int = "mean_rows") -> Tensor:
        """(a - b)^2 and Huber's smooth_l1 with beta > 0: |d| < beta ? d^2 / (2 beta) : |d| - beta / 2. Shapes equal.
        Gradient to both.  MEAN_ROWS divides by size 0 of axis 0.

        C: kd_mse
        """
        return self._out(lib.kd_mse(self._h, self._in(a), self._in(b), constant("KD_REDUCE_", reduction)))

    def smooth_l1(self, a: TensorLike, b: TensorLike, beta: float = 1.0, reduction: str | int = "mean_rows") -> Tensor:
        """(a - b)^2 and Huber's smooth_l1 with beta > 0: |d| < beta ? d^2 / (2 beta) : |d| - beta / 2. Shapes equal.
        Gradient to both.  MEAN_ROWS divides by size 0 of axis 0.

        C: kd_smooth_l1
        """
        return self._out(lib.kd_smooth_l1(self._h, self._in(a), self._in(b), beta, constant("KD_REDUCE_", reduction)))

    def cross_entropy(self, logits: TensorLike, labels: TensorLike, ignore_index: int = -100, label_smoothing: float = 0.0,
                      reduction: str | int = "mean_rows") -> Tensor:
        """logits [.., classes]; labels i32 or i64 [..] (ignore_index takes a row out), or f32 like logits (soft labels).
        label_smoothing in [0, 1): target (1 - s) onehot + s / classes.

        C: kd_cross_entropy
        """
        return self._out(lib.kd_cross_entropy(self._h, self._in(logits), self._in(labels), ignore_index, label_smoothing,
                constant("KD_REDUCE_", reduction)))

    def kl_div(self, p_logits: TensorLike, q_logits: TensorLike, temperature: float = 1.0,
               reduction: str | int = "mean_rows") -> Tensor:
        """KL(p || q) over the last axis, p = softmax(p_logits / T) a constant, q = softmax(q_logits / T).  No T^2.

        C: kd_kl_div
        """
        return self._out(lib.kd_kl_div(self._h, self._in(p_logits), self._in(q_logits), temperature, constant("KD_REDUCE_",
                reduction)))

    def cosine_similarity(self, a: TensorLike, b: TensorLike, eps: float = 1e-8) -> Tensor:
        """a . b / max(|a| |b|, eps) over the last axis -> [..].  eps > 0.

        C: kd_cosine_similarity
        """
        return self._out(lib.kd_cosine_similarity(self._h, self._in(a), self._in(b), eps))


class LayerBuilders:
    """Builders: each adds a layer below this one and returns it."""

    __slots__ = ()

    def linear(self, in_features: int, out_features: int, bias: bool = True, *, name: str | None = None) -> Layer:
        """parameters: weight [in, out], bias [out].  PyTorch's default initialisation (uniform, bound 1 / sqrt(in), both).

        C: kd_layer_linear
        """
        return self._layer(lib.kd_layer_linear(self._h, encode(name), in_features, out_features, bias))

    def conv2d(self, in_features: int, out_features: int, kh: int, kw: int, bias: bool = True, *,
               stride: int | Sequence[int] | None = None, padding: int | Sequence[int] | None = None,
               dilation: int | Sequence[int] | None = None, groups: int | None = None, algorithm: str | int | None = None,
               name: str | None = None) -> Layer:
        """A kh x kw or k wide convolution: kd_conv2d, kd_conv1d.  weight [kh, kw, in / groups, out] or [k, in / groups, out],
        bias [out]; desc NULL: stride 1, padding 0.  Default initialisation: uniform, bound 1 / sqrt(kh kw in / groups).

            stride: height, width; defaults 1, 0, 1
            padding: height, width; defaults 1, 0, 1
            dilation: height, width; defaults 1, 0, 1
            groups: default 1; = channels: depthwise
            algorithm: KD_CONV_*; default 0

        C: kd_layer_conv2d
        """
        desc, keep = describe("kd_conv_desc", stride=stride, padding=padding, dilation=dilation, groups=groups,
                algorithm=algorithm)
        return self._layer(lib.kd_layer_conv2d(self._h, encode(name), in_features, out_features, kh, kw, bias, byref(desc)))

    def conv1d(self, in_features: int, out_features: int, k: int, bias: bool = True, *,
               stride: int | Sequence[int] | None = None, padding: int | Sequence[int] | None = None,
               dilation: int | Sequence[int] | None = None, groups: int | None = None, algorithm: str | int | None = None,
               name: str | None = None) -> Layer:
        """layers.  `parent` is a container or block; `name` is one path component, unique in its parent, or NULL: the layer's
        position ("0", "1", ..), as PyTorch's Sequential names them.  Names are 1 to 100 letters, digits, '_' or '-'; trees
        are at most 32 deep.

            stride: height, width; defaults 1, 0, 1
            padding: height, width; defaults 1, 0, 1
            dilation: height, width; defaults 1, 0, 1
            groups: default 1; = channels: depthwise
            algorithm: KD_CONV_*; default 0

        C: kd_layer_conv1d
        """
        desc, keep = describe("kd_conv_desc", stride=stride, padding=padding, dilation=dilation, groups=groups,
                algorithm=algorithm)
        return self._layer(lib.kd_layer_conv1d(self._h, encode(name), in_features, out_features, k, bias, byref(desc)))

    def batch_norm(self, channels: int, momentum: float = 0.1, eps: float = 1e-5, *, name: str | None = None) -> Layer:
        """weight, bias [channels] (1, 0), buffers running_mean, running_var (0, 1).  PyTorch: momentum 0.1, eps 1e-5.

        C: kd_layer_batch_norm
        """
        return self._layer(lib.kd_layer_batch_norm(self._h, encode(name), channels, momentum, eps))

    def layer_norm(self, features: int, eps: float = 1e-5, *, name: str | None = None) -> Layer:
        """weight, bias [features] or [channels] (1, 0): kd_layer_norm, kd_group_norm.  groups divides channels.

        C: kd_layer_layer_norm
        """
        return self._layer(lib.kd_layer_layer_norm(self._h, encode(name), features, eps))

    def group_norm(self, groups: int, channels: int, eps: float = 1e-5, *, name: str | None = None) -> Layer:
        """layers.  `parent` is a container or block; `name` is one path component, unique in its parent, or NULL: the layer's
        position ("0", "1", ..), as PyTorch's Sequential names them.  Names are 1 to 100 letters, digits, '_' or '-'; trees
        are at most 32 deep.

        C: kd_layer_group_norm
        """
        return self._layer(lib.kd_layer_group_norm(self._h, encode(name), groups, channels, eps))

    def activation(self, activation: str | int, *, name: str | None = None) -> Layer:
        """The activation of that number, KD_ACT_*.

        C: kd_layer_activation
        """
        return self._layer(lib.kd_layer_activation(self._h, encode(name), constant("KD_ACT_", activation)))

    def max_pool2d(self, window: int, stride: int | None = None, padding: int = 0, *, name: str | None = None) -> Layer:
        """kd_max_pool2d and kd_avg_pool2d with square windows.

        C: kd_layer_max_pool2d
        """
        return self._layer(lib.kd_layer_max_pool2d(self._h, encode(name), window, window if stride is None else stride, padding))

    def avg_pool2d(self, window: int, stride: int | None = None, padding: int = 0, *, name: str | None = None) -> Layer:
        """kd_max_pool2d and kd_avg_pool2d with square windows.

        C: kd_layer_avg_pool2d
        """
        return self._layer(lib.kd_layer_avg_pool2d(self._h, encode(name), window, window if stride is None else stride, padding))

    def global_avg_pool(self, *, name: str | None = None) -> Layer:
        """[n, h, w, c] -> [n, c], the mean over h and w.

        C: kd_layer_global_avg_pool
        """
        return self._layer(lib.kd_layer_global_avg_pool(self._h, encode(name)))

    def flatten(self, *, name: str | None = None) -> Layer:
        """[n, h, w, c] -> [n, h w c], features innermost.  (PyTorch's flatten of an image is in the order c, h, w: the rows of a
        linear layer trained behind it must be permuted.)

        C: kd_layer_flatten
        """
        return self._layer(lib.kd_layer_flatten(self._h, encode(name)))

    def dropout(self, p: float, *, name: str | None = None) -> Layer:
        """kd_dropout: on TRAIN tapes each element is 0 with probability p, in [0, 1).

        C: kd_layer_dropout
        """
        return self._layer(lib.kd_layer_dropout(self._h, encode(name), p))

    def embedding(self, count: int, width: int, *, name: str | None = None) -> Layer:
        """i32 or i64 ids in [0, count) -> their rows of weight [count, width], initialised from the standard normal as PyTorch
        does.

        C: kd_layer_embedding
        """
        return self._layer(lib.kd_layer_embedding(self._h, encode(name), count, width))

    def lstm(self, in_features: int, hidden: int, *, layers: int | None = None, bidirectional: int | None = None,
             bias: int | None = None, dropout: float | None = None, name: str | None = None) -> Layer:
        """x [n, t, in] -> [n, t, hidden], or with both directions [n, t, 2 hidden], forward first.  Parameters with the names,
        order and initialisation of PyTorch's nn.LSTM and nn.GRU (batch_first): weight_ih_l0 [in, gates hidden], weight_hh_l0
        [hidden, gates hidden], bias_ih_l0, bias_hh_l0 [gates hidden], then the same with "_reverse", then _l1 ..; uniform,
        bound 1 / sqrt(hidden). First states are zeros: for others, and for the last ones, kd_lstm and kd_gru in a block.
        desc NULL: all defaults.

            layers: on top of each other; default 1
            bidirectional: 1: a second run from the last step to the first beside each; default 0
            bias: default 1
            dropout: TRAIN: of what goes from one layer to the next, in [0, 1); default 0

        C: kd_layer_lstm
        """
        desc, keep = describe("kd_rnn_desc", layers=layers, bidirectional=bidirectional, bias=bias, dropout=dropout)
        return self._layer(lib.kd_layer_lstm(self._h, encode(name), in_features, hidden, byref(desc)))

    def gru(self, in_features: int, hidden: int, *, layers: int | None = None, bidirectional: int | None = None,
            bias: int | None = None, dropout: float | None = None, name: str | None = None) -> Layer:
        """x [n, t, in] -> [n, t, hidden], or with both directions [n, t, 2 hidden], forward first.  Parameters with the names,
        order and initialisation of PyTorch's nn.LSTM and nn.GRU (batch_first): weight_ih_l0 [in, gates hidden], weight_hh_l0
        [hidden, gates hidden], bias_ih_l0, bias_hh_l0 [gates hidden], then the same with "_reverse", then _l1 ..; uniform,
        bound 1 / sqrt(hidden). First states are zeros: for others, and for the last ones, kd_lstm and kd_gru in a block.
        desc NULL: all defaults.

            layers: on top of each other; default 1
            bidirectional: 1: a second run from the last step to the first beside each; default 0
            bias: default 1
            dropout: TRAIN: of what goes from one layer to the next, in [0, 1); default 0

        C: kd_layer_gru
        """
        desc, keep = describe("kd_rnn_desc", layers=layers, bidirectional=bidirectional, bias=bias, dropout=dropout)
        return self._layer(lib.kd_layer_gru(self._h, encode(name), in_features, hidden, byref(desc)))

    def last_step(self, *, name: str | None = None) -> Layer:
        """[n, t, c] -> [n, c], the last step: what classifies a sequence.

        C: kd_layer_last_step
        """
        return self._layer(lib.kd_layer_last_step(self._h, encode(name)))

    def sequence(self, *, name: str | None = None) -> Layer:
        """Its children one after the other.

        C: kd_layer_sequence
        """
        return self._layer(lib.kd_layer_sequence(self._h, encode(name)))

    def residual(self, activation: str | int = "relu", *, name: str | None = None) -> Layer:
        """activation(children in sequence (x) + shortcut(x)); shortcut is x itself unless kd_layer_shortcut adds layers to it.

        C: kd_layer_residual
        """
        return self._layer(lib.kd_layer_residual(self._h, encode(name), constant("KD_ACT_", activation)))

    def shortcut(self, *, name: str | None = None) -> Layer:
        """The shortcut of a residual: a sequence named `name` ("downsample", "shortcut").

        C: kd_layer_shortcut
        """
        return self._layer(lib.kd_layer_shortcut(self._h, encode(name)))

    def parallel(self, join: str | int = "sum", *, name: str | None = None) -> Layer:
        """Every child gets x; their results are joined.  1 to 16 children.

        C: kd_layer_parallel
        """
        return self._layer(lib.kd_layer_parallel(self._h, encode(name), constant("KD_JOIN_", join)))


class CheckpointMethods:
    """What follows by rule of kd_checkpoint."""

    __slots__ = ()

    def add_model(self, name: str, model: Model) -> None:
        """Register an object under `name`.  KD_ERR_ARG: the name is not 1 to 200 bytes, or is there already; KD_ERR_NOMEM.
        weights, buffers

        C: kd_checkpoint_add_model
        """
        check(lib.kd_checkpoint_add_model(self._h, encode(name), model._h))
        self._depend(model)

    def add_optimizer(self, name: str, opt: Optimizer) -> None:
        """moments, step, lr

        C: kd_checkpoint_add_optimizer
        """
        check(lib.kd_checkpoint_add_optimizer(self._h, encode(name), opt._h))
        self._depend(opt)

    def add_ema(self, name: str, ema: Ema) -> None:
        """averages

        C: kd_checkpoint_add_ema
        """
        check(lib.kd_checkpoint_add_ema(self._h, encode(name), ema._h))
        self._depend(ema)

    def add_loader(self, name: str, loader: Loader) -> None:
        """epoch, position

        C: kd_checkpoint_add_loader
        """
        check(lib.kd_checkpoint_add_loader(self._h, encode(name), loader._h))
        self._depend(loader)

    def add_tape(self, name: str, tape: Tape) -> None:
        """dropout's stream

        C: kd_checkpoint_add_tape
        """
        check(lib.kd_checkpoint_add_tape(self._h, encode(name), tape._h))
        self._depend(tape)

    def add_loss(self, name: str, loss: LossDistill) -> None:
        """a method's state

        C: kd_checkpoint_add_loss
        """
        check(lib.kd_checkpoint_add_loss(self._h, encode(name), loss._h))
        self._depend(loss)

    def add_feature_loss(self, name: str, loss: LossFeature) -> None:
        """checkpoint: one file with everything a run needs

        C: kd_checkpoint_add_feature_loss
        """
        check(lib.kd_checkpoint_add_feature_loss(self._h, encode(name), loss._h))
        self._depend(loss)

    def save(self, path: str) -> None:
        """Write everything registered.  Atomic.  Every section carries a CRC32C.  A run that loads it continues to the same bits
        as one that never stopped.

        C: kd_checkpoint_save
        """
        check(lib.kd_checkpoint_save(self._h, encode_path(path)))

    def load(self, path: str) -> None:
        """Read a file into everything registered, all or nothing: KD_ERR_IO (no such file), KD_ERR_TRUNCATED, KD_ERR_CHECKSUM,
        KD_ERR_VERSION, KD_ERR_FORMAT, KD_ERR_SHAPE (names the section, and the parameter, that differs): then nothing has
        changed.

        C: kd_checkpoint_load
        """
        check(lib.kd_checkpoint_load(self._h, encode_path(path)))


class ContextMethods:
    """What follows by rule of kd_context."""

    __slots__ = ()

    def _describe(self, *, log_level: int | None = None, isa: str | int | None = None, threads: int | None = None):
        """The descriptor as keyword arguments; what is not given keeps the library's default.
        How to make a context.  Start from kd_context_desc_init() and change what you need; fields are only
        ever added at the end.

            log_level: most detailed level passed on; default KD_LOG_WARN
            isa: KD_ISA_*; default KD_ISA_AUTO, which honours the variable KD_ISA
            threads: 0: the variable KD_NUM_THREADS, else the CPUs this process may use; at most 256 are used

        C: kd_context_desc
        """
        return describe("kd_context_desc", log_level=log_level, isa=isa, threads=threads)

    @property
    def threads(self) -> int:
        """Threads used for large work (1 to 256).  ctx NULL: the process default.

        C: kd_context_threads
        """
        return lib.kd_context_threads(self._h)

    @property
    def isa(self) -> str:
        """The instruction set in use: "scalar", "neon", "avx2", "avx512".  Static text.

        C: kd_context_isa
        """
        return decode(lib.kd_context_isa(self._h))

    def cancel(self) -> None:
        """Ask whatever runs in this context to stop: the call under way, or the next one that checks, returns
        KD_ERR_CANCELLED and leaves everything usable.  Safe in a signal handler and from any thread.
        Stays set until kd_context_resume().

        C: kd_context_cancel
        """
        lib.kd_context_cancel(self._h)

    def resume(self) -> None:
        """Take kd_context_cancel() back.  Any thread.

        C: kd_context_resume
        """
        lib.kd_context_resume(self._h)

    @property
    def cancelled(self) -> bool:
        """1 if cancelled, else 0.  Any thread.

        C: kd_context_cancelled
        """
        return lib.kd_context_cancelled(self._h) != 0


class DatasetMethods:
    """What follows by rule of kd_dataset."""

    __slots__ = ()

    @property
    def count(self) -> int:
        """How many items; axes of an item, the size of one (0 if axis >= rank); what they are made of.  0 for NULL.

        C: kd_dataset_count
        """
        return lib.kd_dataset_count(self._h)

    @property
    def item_rank(self) -> int:
        """How many items; axes of an item, the size of one (0 if axis >= rank); what they are made of.  0 for NULL.

        C: kd_dataset_item_rank
        """
        return lib.kd_dataset_item_rank(self._h)

    def item_size(self, axis: int) -> int:
        """kd_dataset_item_size

        C: kd_dataset_item_size
        """
        return lib.kd_dataset_item_size(self._h, axis)

    @property
    def classes(self) -> int:
        """1 + the largest label; 0 if there are none.

        C: kd_dataset_classes
        """
        return lib.kd_dataset_classes(self._h)

    def class_name(self, index: int) -> str:
        """The name of the folder that class i came from, as long as the data set lives; NULL if it has none.

        C: kd_dataset_class_name
        """
        return decode(lib.kd_dataset_class_name(self._h, index))


class EmaMethods:
    """What follows by rule of kd_ema."""

    __slots__ = ()

    def update(self) -> None:
        """Move the average toward the model's present weights: after each step.

        C: kd_ema_update
        """
        check(lib.kd_ema_update(self._h))

    def swap(self) -> None:
        """Exchange the average and the model's weights: swap, evaluate or save, swap back.

        C: kd_ema_swap
        """
        check(lib.kd_ema_swap(self._h))


class LayerMethods:
    """What follows by rule of kd_layer."""

    __slots__ = ()

    def add_parameter(self, name: str, shape: Sequence[int], init: str | int, a: float = 0.0, b: float = 0.0) -> None:
        """A parameter of a block (rank >= 1), and a buffer: state that is saved but not trained.  Only before kd_model_finish.

        C: kd_layer_add_parameter
        """
        sizes = size_array(shape)
        lib.kd_layer_add_parameter(self._h, encode(name), len(shape), sizes, constant("KD_INIT_", init), a, b)

    def add_buffer(self, name: str, shape: Sequence[int], value: float = 0.0) -> None:
        """a block of your own: a C function over ops, with named parameters and children

        C: kd_layer_add_buffer
        """
        sizes = size_array(shape)
        lib.kd_layer_add_buffer(self._h, encode(name), len(shape), sizes, value)

    @property
    def path(self) -> str:
        """The full dotted path; "" for the root.  Lives as long as the model.

        C: kd_layer_path
        """
        return decode(lib.kd_layer_path(self._h))


class LoaderMethods:
    """What follows by rule of kd_loader."""

    __slots__ = ()

    def _describe(self, *, batch: int | None = None, seed: int | None = None, shuffle: int | None = None,
                  drop_last: int | None = None, scale: float | None = None, shift: int | None = None,
                  crop_padding: int | None = None, flip: int | None = None, mixup_alpha: float | None = None,
                  classes: int | None = None, ahead: int | None = None, mean: ArrayLike | None = None,
                  std: ArrayLike | None = None, shard_index: int | None = None, shard_count: int | None = None,
                  cutmix_alpha: float | None = None, mix_switch: float | None = None, mix_probability: float | None = None,
                  label_smoothing: float | None = None, erase_probability: float | None = None,
                  erase_zeros: int | None = None, randaugment_ops: int | None = None,
                  randaugment_magnitude: float | None = None, randaugment_noise: float | None = None,
                  repeats: int | None = None, crop_area: float | None = None, height: int | None = None,
                  width: int | None = None):
        """The descriptor as keyword arguments; what is not given keeps the library's default.
        How batches are made.

            batch: >= 1; default 64
            seed: of order and augmentation; default 0
            shuffle: a new order each epoch; default 1
            drop_last: leave out a last batch that is not full; default 0
            scale: x = item * scale, then (x - mean) / std; default 1/255 for u8 when 0, 1 for f32
            shift: move by -shift .. shift pixels, zeros come in; default 0
            crop_padding: pad by this, crop back at random; default 0
            flip: left-right with probability 1/2; default 0
            mixup_alpha: > 0: mix pairs with Beta(alpha, alpha), labels become f32 [batch, classes]; default 0
            classes: for labels in f32; 0: kd_dataset_classes
            ahead: batches prepared in advance, 0 (in the caller's thread) to 8; default 2
            mean: [channels] (last axis) or NULL; copied
            std: [channels] (last axis) or NULL; copied
            channels: length of mean and std
            shard_index: which part of each batch, 0 to shard_count - 1; default 0
            shard_count: >= 1: each batch is dealt out to this many loaders; default 1
            cutmix_alpha: > 0: CutMix, boxes by Beta(alpha, alpha), labels f32 [batch, classes]; default 0
            mix_switch: mix-up and CutMix both: a batch's probability of CutMix; default 0.5
            mix_probability: of a batch to be mixed at all; default 1
            label_smoothing: > 0: this much of a label goes to all classes, labels f32 [batch, classes]; default 0
            erase_probability: of an item to lose a rectangle; default 0
            erase_zeros: it becomes 0, not normal noise; default 0
            randaugment_ops: RandAugment: ops drawn for an item, 0 to 16; default 0
            randaugment_magnitude: 0 to 10; default 9
            randaugment_noise: deviation of the magnitude; default 0.5
            repeats: >= 1: repeated augmentation, each item of an epoch this often; default 1
            crop_area: > 0: a crop of this to all of the area, resized; default 0
            height: of the images handed out; default 0: the item's
            width: of the images handed out; default 0: the item's

        C: kd_loader_desc
        """
        return describe("kd_loader_desc", batch=batch, seed=seed, shuffle=shuffle, drop_last=drop_last, scale=scale,
                shift=shift, crop_padding=crop_padding, flip=flip, mixup_alpha=mixup_alpha, classes=classes, ahead=ahead,
                mean=mean, std=std, shard_index=shard_index, shard_count=shard_count, cutmix_alpha=cutmix_alpha,
                mix_switch=mix_switch, mix_probability=mix_probability, label_smoothing=label_smoothing,
                erase_probability=erase_probability, erase_zeros=erase_zeros, randaugment_ops=randaugment_ops,
                randaugment_magnitude=randaugment_magnitude, randaugment_noise=randaugment_noise, repeats=repeats,
                crop_area=crop_area, height=height, width=width)

    @property
    def epoch(self) -> int:
        """Epochs completed.

        C: kd_loader_epoch
        """
        return lib.kd_loader_epoch(self._h)

    @property
    def batches(self) -> int:
        """Batches in an epoch.

        C: kd_loader_batches
        """
        return lib.kd_loader_batches(self._h)

    @property
    def waited(self) -> int:
        """Nanoseconds that kd_loader_next has kept its caller waiting, in all calls so far: near 0 where batches are made as
        fast as they are used.  With `ahead` 0 it is the time it takes to make them.

        C: kd_loader_waited
        """
        return lib.kd_loader_waited(self._h)


class LossDistillMethods:
    """What follows by rule of kd_loss_distill."""

    __slots__ = ()

    def _describe(self, *, method: str | int | None = None, temperature: float | None = None,
                  hard_weight: float | None = None, soft_weight: float | None = None, direction: str | int | None = None,
                  js_beta: float | None = None, temperature_squared: int | None = None, reduction: str | int | None = None,
                  teacher_form: str | int | None = None, label_smoothing: float | None = None,
                  ignore_index: int | None = None, unlabelled_index: int | None = None,
                  class_weights: ArrayLike | None = None, check_input: int | None = None, all_masked_nan: int | None = None,
                  alpha: float | None = None, beta: float | None = None, gamma: float | None = None,
                  form: str | int | None = None, standardize: int | None = None, teachers: str | int | None = None,
                  warmup: int | None = None, teacher_weights: ArrayLike | None = None, seed: int | None = None):
        """The descriptor as keyword arguments; what is not given keeps the library's default.
        Which loss.

            method: KD_DISTILL_*; default KD_DISTILL_KD
            temperature: T > 0, finite; default 4
            hard_weight: >= 0, finite; default 0.1
            soft_weight: >= 0, finite; default 0.9
            direction: KD_DIRECTION_*; default FORWARD
            js_beta: (0, 1); default 0.5
            temperature_squared: 1: multiply soft by T^2 (default); 0: do not
            reduction: KD_REDUCE_*; default MEAN_ROWS. SUM: sums; NONE: a value per row; MEAN_ELEMENTS: both terms divide by
                valid rows * classes (DeiT's numel)
            teacher_form: KD_TEACHER_*; default LOGITS
            label_smoothing: [0, 1); default 0: hard target (1 - s) onehot + s / classes
            ignore_index: default -100; KD_LABEL_OFF: none
            unlabelled_index: default KD_LABEL_OFF; -1 by convention
            class_weights: [class_weight_count] or NULL; copied. The hard term becomes, as in PyTorch, sum w[y] CE / sum w[y]
                under MEAN_ROWS
            class_weight_count: must equal the batch's classes
            check_input: 1: NaN, +inf, negative or non-normalised (1e-3) probabilities are KD_ERR_NUMERIC naming row and
                class; 0 (default): IEEE results
            all_masked_nan: 1: PyTorch's NaN where no row is valid or a row is -inf throughout; default 0
            alpha: the method's own numbers, as its page says; 0 where it has none
            beta: the method's own numbers, as its page says; 0 where it has none
            gamma: the method's own numbers, as its page says; 0 where it has none
            form: KD_FORM_*; default CODE
            standardize: 1: Sun et al. 2024 on any method over logits: both sides' rows minus their mean, over (unbiased
                standard deviation + 1e-7), before the soft term; default 0
            teachers: KD_TEACHERS_*; default MEAN_PROBS; matters when a batch has several
            warmup: calls of _advance until the soft term has its whole weight: it is multiplied by min((advances + 1) /
                warmup, 1); 0: at once (default)
            teacher_weights: [teacher_weight_count] or NULL; copied; finite, >= 0, not all 0
            teacher_weight_count: of `teacher` and more_teachers, in this order
            seed: of what the method draws or initialises; default 0

        C: kd_loss_distill_desc
        """
        return describe("kd_loss_distill_desc", method=method, temperature=temperature, hard_weight=hard_weight,
                soft_weight=soft_weight, direction=direction, js_beta=js_beta, temperature_squared=temperature_squared,
                reduction=reduction, teacher_form=teacher_form, label_smoothing=label_smoothing, ignore_index=ignore_index,
                unlabelled_index=unlabelled_index, class_weights=class_weights, check_input=check_input,
                all_masked_nan=all_masked_nan, alpha=alpha, beta=beta, gamma=gamma, form=form, standardize=standardize,
                teachers=teachers, warmup=warmup, teacher_weights=teacher_weights, seed=seed)

    def set_weights(self, hard_weight: float, soft_weight: float) -> None:
        """Other weights or another temperature from the next batch on, with the ranges of the descriptor.  KD_ERR_ARG changes
        nothing.

        C: kd_loss_distill_set_weights
        """
        check(lib.kd_loss_distill_set_weights(self._h, hard_weight, soft_weight))

    def set_temperature(self, temperature: float = 1.0) -> None:
        """curricula: not while another thread uses the loss

        C: kd_loss_distill_set_temperature
        """
        check(lib.kd_loss_distill_set_temperature(self._h, temperature))

    def advance(self) -> None:
        """One epoch (or step: what the numbers are counted in is the caller's choice) has passed: warm-up and a method's own
        schedule move on.  Part of a checkpoint (kd_checkpoint_add_loss).

        C: kd_loss_distill_advance
        """
        check(lib.kd_loss_distill_advance(self._h))


class LossFeatureMethods:
    """What follows by rule of kd_loss_feature."""

    __slots__ = ()

    def _describe(self, *, method: str | int | None = None, form: str | int | None = None, weight: float | None = None,
                  alpha: float | None = None, beta: float | None = None, gamma: float | None = None,
                  temperature: float | None = None, adapters_external: int | None = None,
                  student: Sequence[Sequence[int]] | None = None, teacher: Sequence[Sequence[int]] | None = None,
                  width: int | None = None, classes: int | None = None, samples: int | None = None,
                  negatives: int | None = None, seed: int | None = None, warmup: int | None = None,
                  teacher_weight: ArrayLike | None = None, teacher_bias: ArrayLike | None = None,
                  teacher_bn_weight: Sequence[ArrayLike | None] | None = None,
                  teacher_bn_bias: Sequence[ArrayLike | None] | None = None):
        """The descriptor as keyword arguments; what is not given keeps the library's default. Which loss.  The defaults of a
        method come from kd_loss_feature_desc_for; `alpha`, `beta`, `gamma` are its own numbers, as its page says.

            method: KD_FEATURE_*
            form: KD_FORM_*; default CODE
            weight: on the whole loss; finite, >= 0
            alpha: the method's own numbers, as its page says
            beta: the method's own numbers, as its page says
            gamma: the method's own numbers, as its page says
            temperature: > 0; where the method has one
            adapters_external: 1: the caller updates the adapters' block by other means than a kd_optimizer
            student_count: the taps, in the order they will be given; copied
            teacher_count: the same of the teacher
            width: of embeddings and inner layers, where the method has one; 0: its paper's
            classes: where the method needs to know
            samples: of the data set: CRD's bank
            negatives: CRD; 0: its paper's, at most samples
            seed: of adapters and of what is drawn; default 0
            warmup: as in kd_loss_distill_desc
            teacher_weight: the teacher's classifier [width of its last tap, classes], [classes], where the method uses it
                (SimKD, SRRL, CAT-KD); copied
            teacher_bias: the teacher's classifier [width of its last tap, classes], [classes], where the method uses it
                (SimKD, SRRL, CAT-KD); copied
            teacher_bn_weight: OFD: for each teacher tap its batch norm's weight [channels]; copied
            teacher_bn_bias: OFD: and its bias [channels]; copied

        C: kd_loss_feature_desc
        """
        return describe("kd_loss_feature_desc", method=method, form=form, weight=weight, alpha=alpha, beta=beta, gamma=gamma,
                temperature=temperature, adapters_external=adapters_external, student=student, teacher=teacher, width=width,
                classes=classes, samples=samples, negatives=negatives, seed=seed, warmup=warmup, teacher_weight=teacher_weight,
                teacher_bias=teacher_bias, teacher_bn_weight=teacher_bn_weight, teacher_bn_bias=teacher_bn_bias)

    def set_weight(self, weight: float) -> None:
        """Another weight from the next batch on; one epoch has passed: as the functions of kd_loss_distill.

        C: kd_loss_feature_set_weight
        """
        check(lib.kd_loss_feature_set_weight(self._h, weight))

    def advance(self) -> None:
        """features and relations

        C: kd_loss_feature_advance
        """
        check(lib.kd_loss_feature_advance(self._h))


class ModelMethods:
    """What follows by rule of kd_model."""

    __slots__ = ()

    def tap(self, path: str) -> None:
        """Ask that the output of the layer at `path` be kept after each forward; "path:pre" for a residual's sum before its
        activation, where path is a residual or a sequence that ends in one.  KD_ERR_ARG names the nearest existing path.

        C: kd_model_tap
        """
        check(lib.kd_model_tap(self._h, encode_path(path)))

    @property
    def parameter_count(self) -> int:
        """Parameters and buffers together.

        C: kd_model_parameter_count
        """
        return lib.kd_model_parameter_count(self._h)

    @property
    def size(self) -> int:
        """Numbers to train: elements of all parameters, without buffers or padding.

        C: kd_model_size
        """
        return lib.kd_model_size(self._h)

    @property
    def hash(self) -> int:
        """A number for the present bits of all parameters, then buffers: FNV-1a (64 bits) over their floats as 32-bit words, in
        kd_model_parameter_at's order, gaps left out.  The same on every machine; to see that processes which train together
        still hold one model.  0 if model is NULL or not finished.  Not while another thread writes them.

        C: kd_model_hash
        """
        return lib.kd_model_hash(self._h)

    def zero_grads(self) -> None:
        """All gradients = 0; kd_optimizer_step does it after each step.

        C: kd_model_zero_grads
        """
        lib.kd_model_zero_grads(self._h)

    def touch(self) -> None:
        """Weights were written from outside: whatever was derived from them is stale.

        C: kd_model_touch
        """
        lib.kd_model_touch(self._h)

    def freeze(self, frozen: bool = True) -> None:
        """Frozen: no gradients reach the parameters, and batch norm uses and keeps its running statistics on any tape.

        C: kd_model_freeze
        """
        lib.kd_model_freeze(self._h, frozen)

    @property
    def frozen(self) -> bool:
        """1 if frozen, else 0.

        C: kd_model_frozen
        """
        return lib.kd_model_frozen(self._h) != 0

    def set_convolution(self, algorithm: str | int) -> None:
        """Set `algorithm` (KD_CONV_*, kd/tape.h) of every convolution of the model: KD_CONV_WINOGRAD4 makes a frozen teacher's
        forwards faster and a little less exact; KD_CONV_DEFAULT takes it back.  Not saved with the model.  KD_ERR_ARG,
        KD_ERR_STATE before kd_model_finish.

        C: kd_model_set_convolution
        """
        check(lib.kd_model_set_convolution(self._h, constant("KD_CONV_", algorithm)))

    def initialize(self, pattern: str, init: str | int, a: float = 0.0, b: float = 0.0, seed: int = 0) -> None:
        """Initialise again every parameter whose name matches the glob ('*' any run, '?' one character), from streams of `seed`.
        KD_ERR_ARG if none matches.

        C: kd_model_initialize
        """
        check(lib.kd_model_initialize(self._h, encode(pattern), constant("KD_INIT_", init), a, b, seed))

    def save(self, path: str) -> None:
        """Write the model.  Atomic: the old file or the new one, never a part.  KD_ERR_IO.

        C: kd_model_save
        """
        check(lib.kd_model_save(self._h, encode_path(path)))


class OptimizerMethods:
    """What follows by rule of kd_optimizer."""

    __slots__ = ()

    def _describe(self, *, method: str | int | None = None, lr: float | None = None, momentum: float | None = None,
                  dampening: float | None = None, nesterov: int | None = None, beta1: float | None = None,
                  beta2: float | None = None, eps: float | None = None, weight_decay: float | None = None,
                  max_grad_norm: float | None = None):
        """The descriptor as keyword arguments; what is not given keeps the library's default.
        Which formula, with which numbers.

            method: KD_OPT_*; default SGD
            lr: >= 0; default 0.1 for SGD; set it
            momentum: SGD; [0, 1); default 0.9
            dampening: SGD; default 0
            nesterov: SGD; needs momentum > 0 and dampening 0; default 0
            beta1: default 0.9, 0.999
            beta2: default 0.9, 0.999
            eps: > 0; default 1e-8
            weight_decay: >= 0; default 0
            max_grad_norm: > 0: scale all gradients by min(1, max / (norm + 1e-6)) before the step; 0: off

        C: kd_optimizer_desc
        """
        return describe("kd_optimizer_desc", method=method, lr=lr, momentum=momentum, dampening=dampening, nesterov=nesterov,
                beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, max_grad_norm=max_grad_norm)

    def group(self, pattern: str, lr_scale: float = 1.0, weight_decay: float = 0.0) -> None:
        """Parameters whose name matches the glob get lr * lr_scale and this decay instead of the descriptor's.  Later groups
        win. Applies to models added before and after; before the first step.  KD_ERR_ARG if nothing added so far matches.

        C: kd_optimizer_group
        """
        check(lib.kd_optimizer_group(self._h, encode(pattern), lr_scale, weight_decay))

    @property
    def steps(self) -> int:
        """Steps taken.

        C: kd_optimizer_steps
        """
        return lib.kd_optimizer_steps(self._h)

    @property
    def grad_norm(self) -> float:
        """The global norm of the gradients at the last step; NaN before, or with clipping off.

        C: kd_optimizer_grad_norm
        """
        return lib.kd_optimizer_grad_norm(self._h)

    @property
    def lr(self) -> float:
        """The learning rate of the next step, schedule included.

        C: kd_optimizer_lr
        """
        return lib.kd_optimizer_lr(self._h)

    def set_lr(self, lr: float) -> None:
        """Change the descriptor's lr, a schedule's factor left alone.  lr >= 0, finite, else KD_ERR_ARG.

        C: kd_optimizer_set_lr
        """
        check(lib.kd_optimizer_set_lr(self._h, lr))


class TapeMethods:
    """What follows by rule of kd_tape."""

    __slots__ = ()

    def seed(self, seed: int = 0) -> None:
        """Seed of the random ops (dropout).  Each op takes its own stream from (seed, ops drawn since the seed was
        set), so the same program gives the same masks; the position survives kd_tape_reset.

        C: kd_tape_seed
        """
        lib.kd_tape_seed(self._h, seed)

    @property
    def bytes(self) -> int:
        """Bytes the tape holds from the allocator, and the most it had in use since it was made.

        C: kd_tape_bytes
        """
        return lib.kd_tape_bytes(self._h)

    @property
    def peak_bytes(self) -> int:
        """Bytes the tape holds from the allocator, and the most it had in use since it was made.

        C: kd_tape_peak_bytes
        """
        return lib.kd_tape_peak_bytes(self._h)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of matrix products and convolutions since the last reset.

        C: kd_tape_multiply_adds
        """
        return lib.kd_tape_multiply_adds(self._h)
