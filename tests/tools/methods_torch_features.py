"""The methods of kd_loss_feature once more, in PyTorch and float64: plain formulas from the papers and from what the public
implementations compute, written without looking at libkd's own code.  gen_methods_golden.py makes golden vectors from them.

SPDX-License-Identifier: MIT

Conventions
-----------
Taps:  V  {d} vector; M {h, w, c} map, NHWC as in libkd; T {l, d} tokens; S {heads, l, l} scores.  n rows.  "any" = flattened.
       Lists of student and teacher taps are of one length and pair by position; the terms of the pairs are ADDED unless the
       table says otherwise.  The teacher's taps are constants (its adapters, where it has some, are trained).
pool   adaptive average pooling as PyTorch: bin i of o over h is [floor(i h / o), ceil((i + 1) h / o)).  "to the smaller" = the
       larger of the two maps is pooled to the other's height and width (each axis on its own).
norm   x / max(|x|_2, 1e-12), gradient 0 of a zero vector (where the table writes "no eps": the same, it differs for no other x).
sqrt   of 0 has gradient 0.   abs: gradient 0 at 0.
BN     batch norm, eps 1e-5, batch statistics, affine (weight, bias) unless "plain BN": no parameters (eps as given).
conv   [kh, kw, in, out]; linear [in, out]; kd_model_parameter_at's order is the order of the table, weight before bias.
       "conv k: a -> b" has a bias unless "-b" follows.  Where a tap is V or T, a 1x1 convolution is a linear layer of that name.
ConvReg(h,w,a -> h',w',b), layers "conv", "bn":
         h = 2h': conv 3, stride 2, padding 1;  2h = h': transposed 4, stride 2, padding 1;  h >= h', w >= w': conv
         (1 + h - h') x (1 + w - w'), no padding;  else KD_ERR_SHAPE.  Then BN.  Which case: by the heights alone.
         Transposed: zeros between the pixels (x[i] at 2i, a zero at 2i + 1), 2 zeros before and 1 behind, then an ordinary
         convolution with the layer's [4, 4, a, b]: PyTorch's ConvTranspose2d with the kernel turned by 180 degrees.
weight multiplies what is here; no function below applies it.  "-" means the field is not used (0).
warmup default 0 unless stated.

Table: taps | adapters | value: CODE, PAPER, THIRD | defaults: weight, alpha, beta, gamma, temperature, width | sources
----------------------------------------------------------------------------------------------------------------------
FITNET   M pairs (V, T pairs too) | reg{i} = ConvReg with the ReLU inside; V, T: reg{i}.linear: ds -> dt, reg{i}.bn
         CODE  mean (ReLU(BN(conv(s))) - t)^2.   PAPER  without the ReLU.
         weight 100.  RepDistiller.
AT       M pairs | none.   A(f) = norm(vec_hw(mean_c f^2)), pooled to the smaller (the map, before squaring)
         CODE  mean over n, hw of (As - At)^2.   PAPER  mean over n of |As - At|_2.
         weight 1000 (PAPER: 500 is the paper's beta / 2).
SP       any pairs | none.   G = F F^T, rows norm'ed;  |Gs - Gt|_F^2 / n^2.   weight 3000.
CC       any, exactly one pair | s0.linear: ds -> width; t0.linear: dt -> width (both trained)
         CODE  d = |es - et|; mean over i < n - 1 of sum_k d[i,k] d[i+1,k]; n = 1: 0.
         PAPER e norm'ed; K(x,y) = sum_{p=0..2} e^(-2g) (2g)^p / p! (x.y)^p, g = gamma; sum (Ks - Kt)^2 / n^2.
         weight .02, gamma .4, width 128.
VID      M pairs (V, T too) | s{i}.log_scale [ct] (a parameter of the block s{i}, so it comes first), then s{i}.regressor.0,
         .2, .4: 1x1 conv -b cs -> width -> width -> ct with ReLU between.  width 0: ct.  Pooled to the smaller before the
         regressor.  v = softplus(log_scale) + 1e-5; log_scale begins as ln(e^(5 - 1e-5) - 1) (v = 5)
         CODE  mean over all elements of ((mu - t)^2 / v + ln v) / 2.   weight 1.
RKD      any pairs | none.   alpha * distance + beta * angle.  D_ij = sqrt(max(|xi - xj|^2, 1e-12)), i = j: 0; over the mean of the
         positive entries of its own side (the student's mean is not a constant); all 0: D = 0.  smooth L1 (beta 1), mean over n^2.
         angle: e_ij = norm(xj - xi), 0 for coinciding points and with gradient 0 there; cos_ijk = e_ij . e_ik over all i, j, k;
         smooth L1, mean over n^3.   weight 1, alpha 25, beta 50.
PKT      any pairs | none.   x / (|x| + 1e-7), zero rows stay 0 with gradient 0; c = (x x^T + 1) / 2, rows over their sum;
         mean over n^2 of p ln((p + 1e-7) / (q + 1e-7)), p the teacher's, the diagonal included.   weight 30000.
AB       M pairs, before the ReLU | s{i}.conv, s{i}.bn = ConvReg; none for a pair of equal shapes
         m = alpha;  pair l of L:  2^(l - L + 1) * 3 / (1000 n) * sum [ (s+m)^2 (s > -m, t <= 0) + (s-m)^2 (s <= m, t > 0) ].
         weight 1, alpha 1.
FT       M, exactly one pair | s0.conv1, bn1, conv2, bn2, conv3, bn3: 3x3 padding 1: cs -> cs -> k -> k, each BN, leaky ReLU .1
         (the translator); then t0.conv1: ct -> ct, conv2: ct -> k, conv3: k -> k (encoder), t0.conv4: k -> k, conv5: k -> ct,
         conv6: ct -> ct (decoder), all 3x3 padding 1, each leaky ReLU .1, no BN.  k = max(1, floor(gamma ct)).
         value = alpha * factor + beta * reconstruction.  reconstruction = mean (decoder(encoder(t)) - t)^2: trains t0 alone.
         factor: fs = translator(s), ft = encoder(t) taken as a constant; pooled to the smaller (the factors);
         CODE  a = norm(vec_hw(mean_c f^2)), mean over n, hw of |as - at|.   PAPER  a = norm(vec(f)), mean over all of |as - at|.
         alpha 0 or beta 0: that part is not run.  Two stages: a loss with alpha 0, beta 1 trains the paraphraser; its adapters are
         copied (kd_model_copy) into one with alpha 1, beta 0.   weight 200, alpha 1, beta .005 (times 200 = 1), gamma .5.
FSP      M, L >= 2 on each side, tap i of both with the same channels | none.   G_i = f_i^T f_{i+1} / (h w), pooled to the
         smaller of the two (own side); channels of tap i: student = teacher (KD_ERR_SHAPE)
         CODE  sum over i of mean over n, c, c' of (Gs - Gt)^2.   PAPER  sum over i, c, c' / n.   weight 1.
NST      M pairs, pooled to the smaller | none.   g = norm over hw of each channel; k(a, b) = (a.b)^2; mean over n, ct, ct of k(gt, gt)
         + mean over n, cs, cs of k(gs, gs) - 2 mean over n, cs, ct of k(gs, gt).   weight 50.
KDSVD    M, L >= 2 pairs, channels of tap i equal on both sides (the sizes need not be) | none.   One tap: X [hw, c] of each row;
         v_t the first right singular vector of the teacher, its entry of largest |.| (the first of those) made positive;
         of the student's first min(4, hw, c) right vectors the one with the largest |cos| to v_t (the first), its sign that of the
         cos (0: +).  Neighbouring taps: R[c, c'] = exp(-(v_{i+1}[c'] - v_i[c])^2 / 8) on each side; sum over i, c, c' of
         (Rs - Rt)^2 / n.  Gradient of v_j: sum over m != j of v_m v_m^T d(X^T X) v_j / (l_j - l_m), terms with |l_j - l_m| <=
         1e-10 l_1 left out.   weight 1.
CRD      any, exactly one pair | s0.linear: ds -> width, t0.linear: dt -> width; state memory_s [N, width], memory_t [N, width],
         z [2] (unset at first).  u = norm(s0 s), v = norm(t0 t).  For row b: index y_b and K negatives;
         a_bk = exp(u_b . memory_t[i_bk] / T), c_bk = exp(v_b . memory_s[i_bk] / T), k = 0 the row's own index.  z[0] = N mean a and
         z[1] = N mean c of the first TRAIN batch, constants afterwards and in that batch.  P = a / z[0]; with m = K / N:
         -1/n sum_b [ ln(P_b0 / (P_b0 + m + 1e-7)) + sum_{k>0} ln(m / (P_bk + m + 1e-7)) ], the same with c and z[1], added.
         After a TRAIN batch: memory_s[y_b] = norm(alpha memory_s[y_b] + (1 - alpha) u_b), memory_t with v_b (n rows in order).
         Negatives: drawn from the other N - 1 samples; negatives >= N - 1: all of them once, no draw (the golden case).  EVAL with z unset:
         the batch's own, not kept.   weight .8, alpha .5, temperature .07, width 128, negatives 16384.
IRG      any pairs + logits | none.   alpha * mean (zs - zt)^2 (needs logits on both sides; alpha 0: none)
         + beta * mean over taps of mean over n^2 of (Es - Et)^2, E_ij = |xi - xj|^2 / max, i = j: 0 (max = 0: E = 0)
         + gamma * sum over neighbouring taps (i, i+1) that are both M of mean over n of (Rs - Rt)^2, R_b = |a_b - c_b|^2 / max over b
         (max 0: R = 0); a = tap i pooled to tap i+1's size if larger; c = tap i+1, if it has twice the channels (c[2k] + c[2k+1]) / 2;
         other shapes: KD_ERR_SHAPE when gamma > 0.  Gradient flows through the maxima (shared evenly where tied).
         weight 1, alpha .1, beta 5, gamma 5 (the KD zoo's; the authors' Caffe code treats the maximum as a constant).
OFD      M pairs, before the ReLU | s{i}.0 = 1x1 conv -b cs -> ct, s{i}.1 = BN.  Teacher BN weight g, bias m of each tap:
         s = |g|; Phi(-m/s) > .001: margin = m - s phi(m/s) / Phi(-m/s), else -3 s; s = 0: min(m, 0).  t pooled to the student's size if
         it differs;  t' = max(t, margin);  sum over l of 2^-(L-1-l) / n * sum (x - t')^2 (x > t' or t > 0).   weight .001.
REVIEWKD M, shallow to deep, L pairs, before the ReLU (the last may be V = 1x1 map) | for i = 0 .. L-1: s{i}.conv1.0 = 1x1 -b cs -> mid,
         s{i}.conv1.1 BN, s{i}.conv2.0 = 3x3 padding 1 -b mid -> ct, s{i}.conv2.1 BN, and for i < L-1 s{i}.att_conv.0 = 1x1 2mid -> 2.
         mid = width; 0: min(512, cs of the last tap).  From i = L-1 down: x = conv1(s_i); i < L-1: y = nearest(prev) to s_i's size,
         z = sigmoid(att_conv([x, y])), x = x z0 + y z1;  x = nearest(x) to t_i's size;  out_i = conv2(x), prev = x.
         nearest: source floor(i h / h').  HCL: mse + 1/2 mse@4 + 1/4 mse@2 + 1/8 mse@1 over the sum of the weights used, @k = pooled to
         k x k; k >= h is left out and does not halve.  weight 1, warmup 20.
SIMKD    M, one pair | s0.0 = 1x1 -b cs -> width, .1 BN, (.2 ReLU), .3 = 3x3 padding 1 -b, .4 BN, (.5 ReLU), .6 = 1x1 -b width -> ct,
         .7 BN, (.8 ReLU).  width 0: ct / 2.  Pooled to the smaller before the projector; mean (s0(s) - t)^2.   weight 1.
         teacher_weight / bias are not needed for the loss.
CATKD    M pairs | none.  Student taps are class maps {h, w, classes}: its classifier as a 1x1 convolution before the pooling.  The
         teacher's tap likewise, or its last map {h, w, c} when teacher_weight [c, classes] (and _bias) are given: t W + b.
         Both pooled to width x width.   CODE  mean (s - t)^2.   PAPER  each class's map norm'ed over its positions first.
         weight 15 (un-normalised, 32x4 -> 8x4; PAPER: 40 to 600), width 2.
MGD      M pairs | s{i}.align = 1x1 cs -> ct (only if cs != ct), s{i}.generation.0 = 3x3 padding 1 ct -> ct, (.1 ReLU), .2 likewise.
         Equal sizes.  sum (gen(align(s) * keep) - t)^2 / n.   CODE keep [n, ct]: whole channels; PAPER keep [n, h w]: pixels.
         keep is 0 with
         probability gamma, else 1 (not rescaled), drawn on TRAIN tapes only (EVAL: all 1).   weight 7e-5, gamma .15.
CWD      M pairs, equal sizes | s{i} = 1x1 cs -> ct (only if cs != ct).   T^2 / (n ct) * sum over rows, channels of KL(softmax_hw(t/T) ||
         softmax_hw(s/T)).   weight 3, temperature 4.
PKD      M pairs, equal shapes | none.   x standardised per channel over n, h, w: (x - mean) / (unbiased std + 1e-6), both sides;
         mean (s - t)^2 / 2.   One element only: 0.   weight 6.
SRRL     M or V, one pair; teacher_weight, _bias | s0.0 = 1x1 -b cs -> ct, s0.1 BN, (s0.2 ReLU).   g = mean over hw.
         alpha * mean (g(x) - g(t))^2 + beta * mean (head(g(x)) - head(g(t)))^2, head = teacher's classifier, x = s0(s); means over all
         elements.  weight 1, alpha 1, beta 1 (CIFAR: 5).
ICKD     M pairs, equal sizes | s{i}.0 = 1x1 -b cs -> ct, s{i}.1 BN; none if cs = ct.   G = X^T X [c, c] of each row, its rows norm'ed;
         CODE  sum (Gs - Gt)^2 / (n ct).   THIRD  / (n^2 ct) (torchdistill); no PAPER.   weight 2.5.
SRD      any, one pair | s0.linear: ds -> dt.   plain BN (eps 1e-4) of s0(s) and of t over the rows, batch statistics on any tape;
         ln( sum over n, d of |s - t|^alpha ), the sum taken >= 1e-12 (gradient 0 below).   weight 2, alpha 4.
VITKD    T, L >= 2 pairs, all tokens without the class token, l = a square | for i < L-1 s{i} = linear ds -> dt, then s{L-1}.align = linear
         ds -> dt (align layers only if ds != dt), s{L-1}.mask_token [dt] (of the block: before its children), s{L-1}.generation.0, .2
         = 3x3 padding 1 dt -> dt with a ReLU between.  Order in the last block: mask_token, align, generation.0, generation.2.
         alpha / n * sum over i < L-1 of sum (s{i}(s) - t)^2 + beta / (gamma n) * sum over masked tokens (generation(x) - t)^2, x =
         align(s_last)
         with mask_token in the place of masked tokens, as a map sqrt(l) x sqrt(l).  l - floor(l (1 - gamma)) tokens of each row are
         masked; gamma 0: no second part; `mask` given [n, l]: 1 = kept, 0 = masked, no draw.   weight 1, alpha 3e-5, beta 3e-6, gamma .5.
SEMCKD   M, S student taps, R teacher taps (S and R may differ) | `samples` = the batch size B, fixed.  for i < S: s{i}.query.linear1:
         B -> 2w, s{i}.query.linear2: 2w -> w, then for j < R: s{i}.proj{j}.0 = 1x1 -b cs -> 2 ct, .1 BN, (.2), .3 = 3x3 padding 1
         -b, .4 BN,
         (.5), .6 = 1x1 -b 2 ct -> ct; for j < R: t{j}.key.linear1: B -> 2w, t{j}.key.linear2: 2w -> w.   w = width; 0: max(1, B / 4).
         X = F F^T [B, B] of each tap (flattened; the gradient flows through the student's);  q, k = norm(linear2(relu(linear1(X))));
         a[b, i, :] = softmax over j of q_bi . k_bj / T;  pooled to the smaller before proj;
         sum over b, i, j of a * mean over elements of (proj{j}(s_i) - t_j)^2, / (B S).   weight 400, temperature 1.
TINYBERT S pairs and T pairs in any order; the k-th S of the student pairs with the k-th S of the teacher, T alike | fit.weight [ds, dt],
         fit.bias: one linear layer for all T pairs (always there when there is a T pair).  Scores are before the softmax.
         alpha * sum over S of mean (f(s) - f(t))^2, f(x) = x > -100 ? x : 0 on each side; beta * sum over T of mean (fit(s) - t)^2.
         mask: over pairs of real tokens / heads sum_b len_b^2, over real tokens / dt sum_b len_b.   weight 1, alpha 1, beta 1.
MINILM   two taps: S (scores, scaled, before the softmax) and T (values, heads side by side: head h has columns h d .. h d + d - 1) |
         none.  heads equal on both sides, l equal, widths divisible by heads.   alpha / (n A l) sum KL(softmax t || softmax s) + beta /
         (n A l) sum KL of softmax(V V^T / sqrt d), d each side's own.   mask: padding columns are -inf, padding rows are left out,
         divided by
         A sum_b len_b.   weight 1, alpha 1, beta 1.
MINILM2  three taps T: queries, keys, values | none.   width = relation heads A (0: 48), divides all widths.  each: 1 / (n A l) sum of
         KL(softmax(t t^T / sqrt dt) || softmax(s s^T / sqrt ds)); alpha QQ + beta KK + gamma VV.   mask as MINILM.   weight 1, 1, 1, 1.
COSINE   T or V pairs of equal shapes | none.   mean over rows (tokens) of 1 - a.b / sqrt((a.a + 1e-12)(b.b +
         1e-12)); mask: over real tokens.   weight 1.
LD       pairs, the last size is the bins, all before it are edges: V {bins}, T {edges, bins}, {boxes, 4, bins} | none.
         l = T^2 / bins * KL(softmax(t/T) || softmax(s/T)); w = `mask` [n, edges] (V: [n, 1]) or 1.
         CODE  sum w l / alpha (the public code's avg_factor).   PAPER  sum w l bins / sum w.   THIRD  sum w l / sum w.
         sum w = 0: 0.   weight .25, alpha 4, temperature 10.
FBKD     M, one pair, equal sizes | s0.feature = 1x1 cs -> ct; s0.channel = linear cs -> ct; s0.spatial = 3x3 padding 1 1 -> 1;
s0.non_local: .g,
         .theta, .phi = 1x1 cs -> h, .conv_out = 1x1 -b h -> cs, .bn; s0.relation = 1x1 cs -> ct; t0.g, .theta, .phi, .conv_out,
         .bn with ct.
         h = width; 0: max(1, c / 2) of that side.  m(x) = h w softmax_hw(mean_c |x| / T);  nonlocal(x) = x + bn(conv_out(theta
         phi^T g / hw)).
         alpha sqrt(sum (m(s) + m(t)) / 2 (t - feature(s))^2) + beta |mean_hw t - channel(mean_hw s)| + beta |mean_c t - spatial(mean_c s)|
         + gamma |nonlocal_t(t) - relation(nonlocal_s(s))|: un-squared norms over the whole batch; m constant.
         weight 1, alpha 7e-5, beta 4e-3, gamma 7e-5, temperature .5.
"""
import math

import torch
import torch.nn.functional as F

import methods_torch as mt

# ---- pieces ---------------------------------------------------------------------------------------------------------------------

NOISE = None   # a generator while the sensitivity to roundings in between is measured


def r(x):
    """What a text in float32 has rounded by here: x itself, or x moved by one rounding."""
    if NOISE is None:
        return x
    return x + (mt.U * (torch.randint(0, 2, x.shape, generator=NOISE).to(x.dtype) * 2 - 1)) * x.detach().abs()


def flat(x):
    return x.reshape(x.shape[0], -1)


def root(x):
    """sqrt with gradient 0 at 0."""
    inside = x > 0
    return torch.where(inside, torch.sqrt(torch.where(inside, x, torch.ones_like(x))), torch.zeros_like(x))


def norm(x, dim=-1, eps=1e-12):
    return r(x / torch.clamp(r(root((x * x).sum(dim, keepdim=True))), min=eps))


def pool(x, h, w):
    if x.shape[1:3] == (h, w):
        return x
    return r(F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), (h, w)).permute(0, 2, 3, 1))


def to_smaller(a, b):
    h, w = min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2])
    return pool(a, h, w), pool(b, h, w)


def conv(x, weight, bias=None, stride=1, padding=0):
    y = F.conv2d(x.permute(0, 3, 1, 2), weight.permute(3, 2, 0, 1), bias, stride, padding)
    return r(y.permute(0, 2, 3, 1))


def bn(x, weight=None, bias=None, eps=1e-5):
    axes = tuple(range(x.dim() - 1))
    mean = r(x.mean(axes))
    var = r(((x - mean) ** 2).mean(axes))
    y = r((x - mean) / torch.sqrt(var + eps))
    return y if weight is None else r(y * weight + bias)


def smooth_l1(a, b):
    d = (a - b).abs()
    return torch.where(d < 1, d * d / 2, d - 0.5)


def kl(t, s):
    """KL(softmax t || softmax s) over the last axis; p = 0 counts nothing."""
    lp, lq = r(F.log_softmax(t, -1)), r(F.log_softmax(s, -1))
    p = lp.exp()
    return torch.where(p > 0, p * (lp - lq), torch.zeros_like(p)).sum(-1)


class Adapters:
    """Parameters by name; `under` runs the usual layers."""

    def __init__(self, parameters):
        self.p = parameters

    def has(self, name):
        return name + ".weight" in self.p

    def conv(self, name, x, stride=1, padding=0):
        if x.dim() < 4:
            return self.linear(name, x)
        return conv(x, self.p[name + ".weight"], self.p.get(name + ".bias"), stride, padding)

    def linear(self, name, x):
        y = x @ self.p[name + ".weight"]
        return r(y + self.p[name + ".bias"]) if name + ".bias" in self.p else r(y)

    def bn(self, name, x):
        return bn(x, self.p[name + ".weight"], self.p[name + ".bias"])

    def conv_reg(self, name, x, t):
        h, w = x.shape[1], t.shape[1]
        if h == 2 * w:
            x = self.conv(name + ".conv", x, 2, 1)
        elif 2 * h == w:
            turned = self.p[name + ".conv.weight"].flip(0, 1).permute(2, 3, 0, 1)
            x = r(F.conv_transpose2d(x.permute(0, 3, 1, 2), turned, self.p[name + ".conv.bias"], 2, 1).permute(0, 2, 3, 1))
        else:
            x = self.conv(name + ".conv", x)
        return self.bn(name + ".bn", x)


# What layers bring: lists of (name, shape).
def p_conv(name, k, a, b, bias=True):
    k = k if isinstance(k, tuple) else (k, k)
    return [(name + ".weight", (*k, a, b))] + ([(name + ".bias", (b,))] if bias else [])


def p_linear(name, a, b, bias=True):
    return [(name + ".weight", (a, b))] + ([(name + ".bias", (b,))] if bias else [])


def p_point(name, shape, b, bias=True):
    """A 1x1 convolution of a map, a linear layer of anything else."""
    return p_conv(name, 1, shape[-1], b, bias) if len(shape) == 3 else p_linear(name, shape[-1], b, bias)


def p_bn(name, c):
    return [(name + ".weight", (c,)), (name + ".bias", (c,))]


def p_conv_reg(name, s, t):
    k = 3 if s[0] == 2 * t[0] else 4 if 2 * s[0] == t[0] else (1 + s[0] - t[0], 1 + s[1] - t[1])
    return p_conv(name + ".conv", k, s[-1], t[-1]) + p_bn(name + ".bn", t[-1])


def size(shape):
    return math.prod(shape)


# ---- the methods: s, t lists of taps, a the adapters, o the options, x everything else ----------------------------------------------

def fitnet(s, t, a, o, x):
    total = 0
    for i, (u, v) in enumerate(zip(s, t)):
        y = a.conv_reg(f"reg{i}", u, v) if u.dim() == 4 else a.bn(f"reg{i}.bn", a.linear(f"reg{i}.linear", u))
        total = total + (r((y if o["form"] == 1 else torch.relu(y)) - v) ** 2).mean()
    return total


def fitnet_adapters(s, t, o):
    out = []
    for i, (u, v) in enumerate(zip(s, t)):
        out += p_conv_reg(f"reg{i}", u, v) if len(u) == 3 else p_linear(f"reg{i}.linear", u[-1], v[-1]) + p_bn(f"reg{i}.bn", v[-1])
    return out


def attention_map(f):
    return norm(flat(r((f * f).mean(-1))))


def at(s, t, a, o, x):
    total = 0
    for u, v in zip(s, t):
        u, v = to_smaller(u, v)
        d = r(attention_map(u) - attention_map(v))
        total = total + (root((d * d).sum(1)).mean() if o["form"] == 1 else (d * d).mean())
    return total


def gram(f):
    f = flat(f)
    return r(f @ f.T)


def sp(s, t, a, o, x):
    return sum(((norm(gram(u)) - norm(gram(v))) ** 2).sum() / u.shape[0] ** 2 for u, v in zip(s, t))


def cc(s, t, a, o, x):
    u, v = a.linear("s0.linear", flat(s[0])), a.linear("t0.linear", flat(t[0]))
    n = u.shape[0]
    if o["form"] == 1:
        def kernel(e):
            e = norm(e)
            dot = r(e @ e.T)
            return r(sum(math.exp(-2 * o["gamma"]) * (2 * o["gamma"]) ** p / math.factorial(p) * dot ** p for p in range(3)))
        return ((kernel(u) - kernel(v)) ** 2).sum() / n ** 2
    return cc_pairs(u, v)


def cc_pairs(u, v):
    d = r(u - v).abs()
    return (d[:-1] * d[1:]).sum(1).mean() if len(d) > 1 else 0 * d.sum()


def cc_adapters(s, t, o):
    w = o["width"] or 128
    return p_linear("s0.linear", size(s[0]), w) + p_linear("t0.linear", size(t[0]), w)


def vid_term(mu, t, rho):
    v = r(F.softplus(rho) + 1e-5)
    return (r(r(mu - t) ** 2 / v + torch.log(v)) / 2).mean()


def vid(s, t, a, o, x):
    total = 0
    for i, (u, v) in enumerate(zip(s, t)):
        if u.dim() == 4:
            u, v = to_smaller(u, v)
        u = torch.relu(a.conv(f"s{i}.regressor.0", u))
        u = torch.relu(a.conv(f"s{i}.regressor.2", u))
        total = total + vid_term(a.conv(f"s{i}.regressor.4", u), v, a.p[f"s{i}.log_scale"])
    return total


def vid_adapters(s, t, o):
    out = []
    for i, (u, v) in enumerate(zip(s, t)):
        w = o["width"] or v[-1]
        out += [(f"s{i}.log_scale", (v[-1],))] + p_point(f"s{i}.regressor.0", u, w, False)
        out += p_point(f"s{i}.regressor.2", (*u[:-1], w), w, False) + p_point(f"s{i}.regressor.4", (*u[:-1], w), v[-1], False)
    return out


def rkd_distances(f):
    n = len(f)
    square = r((r(f[:, None] - f[None]) ** 2).sum(-1))
    d = r(torch.sqrt(torch.clamp(square, min=1e-12))) * (1 - torch.eye(n))
    mean = d.sum() / max(n * (n - 1), 1)
    return r(d / mean) if n > 1 else d


def rkd_angles(f):
    e = r(f[None] - f[:, None])
    e = norm(e)
    return r(torch.einsum("ijd,ikd->ijk", e, e))


def rkd(s, t, a, o, x):
    total = 0
    for u, v in zip(s, t):
        u, v = flat(u), flat(v)
        total = total + o["alpha"] * smooth_l1(rkd_distances(u), rkd_distances(v)).mean()
        total = total + o["beta"] * smooth_l1(rkd_angles(u), rkd_angles(v)).mean()
    return total


def pkt_similarities(f):
    f = flat(f)
    f = r(f / r(root((f * f).sum(1, keepdim=True)) + 1e-7))
    c = r((f @ f.T + 1) / 2)
    return r(c / c.sum(1, keepdim=True))


def pkt(s, t, a, o, x):
    total = 0
    for u, v in zip(s, t):
        q, p = pkt_similarities(u), pkt_similarities(v)
        total = total + (p * torch.log(r((p + 1e-7) / (q + 1e-7)))).mean()
    return total


def ab(s, t, a, o, x):
    total, m, count = 0, o["alpha"], len(s)
    for i, (u, v) in enumerate(zip(s, t)):
        u = u if u.shape == v.shape else a.conv_reg(f"s{i}", u, v)
        low, high = (u > -m) & (v <= 0), (u <= m) & (v > 0)
        part = torch.where(low, r(u + m) ** 2, torch.where(high, r(u - m) ** 2, torch.zeros_like(u))).sum()
        total = total + 2.0 ** (i - count + 1) * 3 / (1000 * u.shape[0]) * part
    return total


def ab_adapters(s, t, o):
    return sum((p_conv_reg(f"s{i}", u, v) for i, (u, v) in enumerate(zip(s, t)) if u != v), [])


def ft_difference(f, g, form):
    def one(z):
        return norm(flat(z)) if form == 1 else attention_map(z)
    return r(one(f) - one(g)).abs().mean()


def ft(s, t, a, o, x):
    def chain(first, z, side, normed):
        for k in range(first, first + 3):
            z = a.conv(f"{side}.conv{k}", z, 1, 1)
            z = a.bn(f"{side}.bn{k}", z) if normed else z
            z = F.leaky_relu(z, 0.1)
        return z
    code = chain(1, t[0], "t0", False)
    total = 0
    if o["alpha"]:
        total = total + o["alpha"] * ft_difference(*to_smaller(chain(1, s[0], "s0", True), code.detach()), o["form"])
    if o["beta"]:
        total = total + o["beta"] * (r(chain(4, code, "t0", False) - t[0]) ** 2).mean()
    return total


def ft_adapters(s, t, o):
    c, d = s[0][-1], t[0][-1]
    k = max(1, int(o["gamma"] * d))
    out = []
    for i, (p, q) in enumerate([(c, c), (c, k), (k, k)]):
        out += p_conv(f"s0.conv{i + 1}", 3, p, q) + p_bn(f"s0.bn{i + 1}", q)
    for i, (p, q) in enumerate([(d, d), (d, k), (k, k), (k, k), (k, d), (d, d)]):
        out += p_conv(f"t0.conv{i + 1}", 3, p, q)
    return out


def fsp_matrices(taps):
    out = []
    for u, v in zip(taps, taps[1:]):
        u, v = to_smaller(u, v)
        out.append(r(torch.einsum("nhwc,nhwd->ncd", u, v) / (u.shape[1] * u.shape[2])))
    return out


def fsp(s, t, a, o, x):
    total = 0
    for g, h in zip(fsp_matrices(s), fsp_matrices(t)):
        d = (g - h) ** 2
        total = total + (d.sum() / len(d) if o["form"] == 1 else d.mean())
    return total


def nst(s, t, a, o, x):
    total = 0

    def k(p, q):
        return r(torch.einsum("npc,npd->ncd", p, q) ** 2).mean()
    for u, v in zip(s, t):
        u, v = (norm(z.reshape(len(z), -1, z.shape[-1]), 1) for z in to_smaller(u, v))
        total = total + r(k(v, v) + k(u, u)) - r(2 * k(u, v))
    return total


def kdsvd(s, t, a, o, x):
    total, before = 0, None
    for u, v in zip(s, t):
        u, v = (z.reshape(len(z), -1, z.shape[-1]) for z in (u, v))
        vt = torch.linalg.svd(v, full_matrices=False)[2][:, 0]
        vt = vt * torch.sign(vt.gather(1, vt.abs().argmax(1, keepdim=True)))
        vs = torch.linalg.svd(u, full_matrices=False)[2][:, :4]
        cos = (vs.detach() * vt[:, None]).sum(-1)
        best = cos.abs().argmax(1)
        pick = torch.arange(len(vs))
        sign = torch.where(cos[pick, best] < 0, -1.0, 1.0)
        vs = r(vs[pick, best] * sign[:, None])
        if before is not None:
            rs = torch.exp(-(vs[:, None, :] - before[0][:, :, None]) ** 2 / 8)
            rt = torch.exp(-(vt[:, None, :] - before[1][:, :, None]) ** 2 / 8)
            total = total + (r(rs) - r(rt)).pow(2).sum() / len(vs)
        before = vs, r(vt)
    return total


def crd(s, t, a, o, x):
    """Every other sample is a negative."""
    n, count = len(s[0]), o["samples"]
    u, v = norm(a.linear("s0.linear", flat(s[0]))), norm(a.linear("t0.linear", flat(t[0])))
    own = F.one_hot(x["indices"], count).to(torch.bool)
    total, share = 0, (count - 1) / count

    def side(e, bank):
        score = torch.exp(r(e @ bank.T) / o["temperature"])
        p = r(score / (count * score.detach().mean()))
        log = torch.where(own, torch.log(r(p / (p + share + 1e-7))), torch.log(r(share / (p + share + 1e-7))))
        return -log.sum() / n
    return side(u, x["memory_t"]) + side(v, x["memory_s"])


def crd_adapters(s, t, o):
    return cc_adapters(s, t, o)


def irg_edges(f):
    f = flat(f)
    square = r((r(f[:, None] - f[None]) ** 2).sum(-1))
    most = square.max()
    return r(square / most) if most > 0 else square


def irg(s, t, a, o, x):
    total = o["alpha"] * ((x["logits_s"] - x["logits_t"]) ** 2).mean()
    total = total + o["beta"] * sum(((irg_edges(u) - irg_edges(v)) ** 2).mean() for u, v in zip(s, t)) / len(s)

    def moves(taps):
        out = []
        for u, v in zip(taps, taps[1:]):
            if u.dim() < 4 or v.dim() < 4:
                continue
            u = pool(u, v.shape[1], v.shape[2]) if u.shape[1] > v.shape[1] else u
            v = r(v[..., 0::2] + v[..., 1::2]) / 2 if v.shape[-1] == 2 * u.shape[-1] else v
            d = r((flat(u - v) ** 2).sum(1))
            out.append(r(d / d.max()))
        return out
    return total + o["gamma"] * sum((((p - q) ** 2).mean() for p, q in zip(moves(s), moves(t))), torch.zeros(()))


def ofd_margin(g, m):
    out = []
    for sd, mean in zip(g.abs().tolist(), m.tolist()):
        if sd == 0:
            out.append(min(mean, 0.0))
            continue
        z = mean / sd
        tail = 0.5 * math.erfc(z / math.sqrt(2))
        out.append(mean - sd * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / tail if tail > 0.001 else -3 * sd)
    return torch.tensor(out)


def ofd_term(u, v, margin):
    target = torch.maximum(v, margin)
    return torch.where((u > target) | (v > 0), r(u - target) ** 2, torch.zeros_like(u)).sum()


def ofd(s, t, a, o, x):
    total, count = 0, len(s)
    for i, (u, v) in enumerate(zip(s, t)):
        u = a.bn(f"s{i}.1", a.conv(f"s{i}.0", u))
        v = pool(v, u.shape[1], u.shape[2])
        margin = r(ofd_margin(x[f"bn_weight{i}"], x[f"bn_bias{i}"]))
        total = total + ofd_term(u, v, margin) / (len(u) * 2 ** (count - 1 - i))
    return total


def ofd_adapters(s, t, o):
    return sum((p_conv(f"s{i}.0", 1, u[-1], v[-1], False) + p_bn(f"s{i}.1", v[-1]) for i, (u, v) in enumerate(zip(s, t))), [])


def nearest(x, h, w):
    rows = [i * x.shape[1] // h for i in range(h)]
    columns = [i * x.shape[2] // w for i in range(w)]
    return x[:, rows][:, :, columns]


def reviewkd(s, t, a, o, x):
    total, before = 0, None
    for i in range(len(s) - 1, -1, -1):
        u, v = (z if z.dim() == 4 else z[:, None, None] for z in (s[i], t[i]))
        y = a.bn(f"s{i}.conv1.1", a.conv(f"s{i}.conv1.0", u))
        if before is not None:
            up = nearest(before, u.shape[1], u.shape[2])
            z = r(torch.sigmoid(a.conv(f"s{i}.att_conv.0", torch.cat([y, up], -1))))
            y = r(y * z[..., :1] + up * z[..., 1:])
        y = before = nearest(y, v.shape[1], v.shape[2])
        y = a.bn(f"s{i}.conv2.1", a.conv(f"s{i}.conv2.0", y, 1, 1))
        part, scale, scales = (r(y - v) ** 2).mean(), 1.0, 1.0
        for k in (4, 2, 1):
            if k < v.shape[1]:
                scale /= 2
                scales += scale
                part = part + scale * (r(pool(y, k, k) - pool(v, k, k)) ** 2).mean()
        total = total + part / scales
    return total


def reviewkd_adapters(s, t, o):
    mid = o["width"] or min(512, s[-1][-1])
    out = []
    for i, (u, v) in enumerate(zip(s, t)):
        out += p_conv(f"s{i}.conv1.0", 1, u[-1], mid, False) + p_bn(f"s{i}.conv1.1", mid)
        out += p_conv(f"s{i}.conv2.0", 3, mid, v[-1], False) + p_bn(f"s{i}.conv2.1", v[-1])
        out += p_conv(f"s{i}.att_conv.0", 1, 2 * mid, 2) if i < len(s) - 1 else []
    return out


def simkd(s, t, a, o, x):
    u, v = to_smaller(s[0], t[0])
    u = torch.relu(a.bn("s0.1", a.conv("s0.0", u)))
    u = torch.relu(a.bn("s0.4", a.conv("s0.3", u, 1, 1)))
    u = torch.relu(a.bn("s0.7", a.conv("s0.6", u)))
    return (r(u - v) ** 2).mean()


def simkd_adapters(s, t, o):
    c, d = s[0][-1], t[0][-1]
    w = o["width"] or d // 2
    return (p_conv("s0.0", 1, c, w, False) + p_bn("s0.1", w) + p_conv("s0.3", 3, w, w, False) + p_bn("s0.4", w) +
            p_conv("s0.6", 1, w, d, False) + p_bn("s0.7", d))


def catkd(s, t, a, o, x):
    total, g = 0, o["width"] or 2
    for u, v in zip(s, t):
        if "teacher_weight" in x:
            v = r(v @ x["teacher_weight"] + x["teacher_bias"])
        u, v = (pool(z, g, g).reshape(len(z), g * g, -1) for z in (u, v))
        if o["form"] == 1:
            u, v = norm(u, 1), norm(v, 1)
        total = total + (r(u - v) ** 2).mean()
    return total


def mgd(s, t, a, o, x):
    """Nothing masked: gamma 0."""
    total = 0
    for i, (u, v) in enumerate(zip(s, t)):
        u = a.conv(f"s{i}.align", u) if a.has(f"s{i}.align") else u
        u = torch.relu(a.conv(f"s{i}.generation.0", u, 1, 1))
        total = total + (r(a.conv(f"s{i}.generation.2", u, 1, 1) - v) ** 2).sum() / len(u)
    return total


def mgd_adapters(s, t, o):
    out = []
    for i, (u, v) in enumerate(zip(s, t)):
        c, d = u[-1], v[-1]
        out += p_conv(f"s{i}.align", 1, c, d) if c != d else []
        out += p_conv(f"s{i}.generation.0", 3, d, d) + p_conv(f"s{i}.generation.2", 3, d, d)
    return out


def cwd(s, t, a, o, x):
    total, T = 0, o["temperature"]
    for i, (u, v) in enumerate(zip(s, t)):
        u = a.conv(f"s{i}", u) if a.has(f"s{i}") else u
        u, v = (z.reshape(len(z), -1, z.shape[-1]).transpose(1, 2) / T for z in (u, v))
        total = total + T * T * kl(v, u).mean()
    return total


def cwd_adapters(s, t, o):
    return sum((p_conv(f"s{i}", 1, u[-1], v[-1]) for i, (u, v) in enumerate(zip(s, t)) if u[-1] != v[-1]), [])


def pkd(s, t, a, o, x):
    def standard(z):
        z = z.reshape(-1, z.shape[-1])
        d = r(z - r(z.mean(0)))
        return r(d / (r(root((d * d).sum(0) / max(len(z) - 1, 1))) + 1e-6))
    return sum((r(standard(u) - standard(v)) ** 2).mean() / 2 for u, v in zip(s, t))


def srrl(s, t, a, o, x):
    def gap(z):
        return r(z.mean((1, 2))) if z.dim() == 4 else z
    u = gap(torch.relu(a.bn("s0.1", a.conv("s0.0", s[0]))))
    v = gap(t[0])

    def head(z):
        return r(z @ x["teacher_weight"] + x["teacher_bias"])
    return o["alpha"] * (r(u - v) ** 2).mean() + o["beta"] * (r(head(u) - head(v)) ** 2).mean()


def srrl_adapters(s, t, o):
    return p_point("s0.0", s[0], t[0][-1], False) + p_bn("s0.1", t[0][-1])


def ickd(s, t, a, o, x):
    total = 0
    for i, (u, v) in enumerate(zip(s, t)):
        u = a.bn(f"s{i}.1", a.conv(f"s{i}.0", u)) if a.has(f"s{i}.0") else u
        g, h = (norm(r(torch.einsum("nhwc,nhwd->ncd", z, z))) for z in (u, v))
        n, c = g.shape[:2]
        total = total + ((g - h) ** 2).sum() / (n * c * (n if o["form"] == 2 else 1))
    return total


def ickd_adapters(s, t, o):
    return sum((p_conv(f"s{i}.0", 1, u[-1], v[-1], False) + p_bn(f"s{i}.1", v[-1])
                for i, (u, v) in enumerate(zip(s, t)) if u[-1] != v[-1]), [])


def srd(s, t, a, o, x):
    u = bn(a.linear("s0.linear", flat(s[0])), eps=1e-4)
    v = bn(flat(t[0]), eps=1e-4)
    return torch.log(torch.clamp((r(u - v).abs() ** o["alpha"]).sum(), min=1e-12))


def srd_adapters(s, t, o):
    return p_linear("s0.linear", size(s[0]), size(t[0]))


def vitkd(s, t, a, o, x):
    last, n = len(s) - 1, len(s[0])
    total = 0
    for i in range(last):
        u = a.linear(f"s{i}", s[i]) if a.has(f"s{i}") else s[i]
        total = total + o["alpha"] / n * (r(u - t[i]) ** 2).sum()
    if not o["gamma"] or not o["beta"]:
        return total
    u = a.linear(f"s{last}.align", s[last]) if a.has(f"s{last}.align") else s[last]
    keep = x["mask"][..., None]
    u = keep * u + (1 - keep) * a.p[f"s{last}.mask_token"]
    side = math.isqrt(u.shape[1])
    u = u.reshape(n, side, side, -1)
    u = torch.relu(a.conv(f"s{last}.generation.0", u, 1, 1))
    u = a.conv(f"s{last}.generation.2", u, 1, 1).reshape(t[last].shape)
    return total + o["beta"] / (o["gamma"] * n) * ((1 - keep) * r(u - t[last]) ** 2).sum()


def vitkd_adapters(s, t, o):
    last = len(s) - 1
    out = []
    for i in range(last):
        out += p_linear(f"s{i}", s[i][-1], t[i][-1]) if s[i][-1] != t[i][-1] else []
    c, d = s[last][-1], t[last][-1]
    out += [(f"s{last}.mask_token", (d,))]
    out += p_linear(f"s{last}.align", c, d) if c != d else []
    return out + p_conv(f"s{last}.generation.0", 3, d, d) + p_conv(f"s{last}.generation.2", 3, d, d)


def semckd(s, t, a, o, x):
    def embed(name, f):
        f = torch.relu(a.linear(name + ".linear1", gram(f)))
        return norm(a.linear(name + ".linear2", f))
    n = len(s[0])
    q = torch.stack([embed(f"s{i}.query", f) for i, f in enumerate(s)], 1)
    k = torch.stack([embed(f"t{j}.key", f) for j, f in enumerate(t)], 1)
    weight = r(F.softmax(r(torch.einsum("bid,bjd->bij", q, k)) / o["temperature"], -1))
    total = 0
    for i, f in enumerate(s):
        for j, g in enumerate(t):
            u, v = to_smaller(f, g)
            name = f"s{i}.proj{j}"
            u = torch.relu(a.bn(name + ".1", a.conv(name + ".0", u)))
            u = torch.relu(a.bn(name + ".4", a.conv(name + ".3", u, 1, 1)))
            u = a.conv(name + ".6", u)
            total = total + (weight[:, i, j] * r(flat(r(u - v) ** 2).mean(1))).sum()
    return total / (n * len(s))


def semckd_adapters(s, t, o):
    n = o["samples"]
    w = o["width"] or max(1, n // 4)
    out = []
    for i, u in enumerate(s):
        out += p_linear(f"s{i}.query.linear1", n, 2 * w) + p_linear(f"s{i}.query.linear2", 2 * w, w)
        for j, v in enumerate(t):
            name, d = f"s{i}.proj{j}", v[-1]
            out += p_conv(name + ".0", 1, u[-1], 2 * d, False) + p_bn(name + ".1", 2 * d)
            out += p_conv(name + ".3", 3, 2 * d, 2 * d, False) + p_bn(name + ".4", 2 * d)
            out += p_conv(name + ".6", 1, 2 * d, d, False)
    for j in range(len(t)):
        out += p_linear(f"t{j}.key.linear1", n, 2 * w) + p_linear(f"t{j}.key.linear2", 2 * w, w)
    return out


def tinybert(s, t, a, o, x):
    mask, total = x.get("mask"), 0
    scores = [[z for z in side if z.dim() == 4] for side in (s, t)]
    hidden = [[z for z in side if z.dim() == 3] for side in (s, t)]
    for u, v in zip(*scores):
        d = torch.where(u > -100, u, torch.zeros_like(u)) - torch.where(v > -100, v, torch.zeros_like(v))
        w = torch.ones_like(d) if mask is None else (mask[:, None, :, None] * mask[:, None, None, :]).expand_as(d)
        total = total + o["alpha"] * (r(d) ** 2 * w).sum() / w.sum()
    for u, v in zip(*hidden):
        d = r(a.linear("fit", u) - v)
        w = torch.ones_like(d) if mask is None else mask[..., None].expand_as(d)
        total = total + o["beta"] * (d ** 2 * w).sum() / w.sum()
    return total


def tinybert_adapters(s, t, o):
    u, v = ([z for z in side if len(z) == 2] for side in (s, t))
    return p_linear("fit", u[0][-1], v[0][-1]) if u else []


def relation(z, heads):
    """z z^T / sqrt d of each head: [n, heads, l, l]."""
    n, l, width = z.shape
    z = z.reshape(n, l, heads, width // heads).transpose(1, 2)
    return r(z @ z.transpose(2, 3)) / math.sqrt(width // heads)


def masked_kl(tscores, sscores, mask):
    """Mean over heads and real tokens of the KL of their distributions over real tokens."""
    n, heads, l, _ = sscores.shape
    if mask is None:
        return kl(tscores, sscores).mean()
    total = 0
    for b in range(n):
        keep = mask[b] > 0
        if keep.any():
            total = total + kl(tscores[b][:, keep][:, :, keep], sscores[b][:, keep][:, :, keep]).sum()
    return total / (heads * mask.sum())


def minilm(s, t, a, o, x):
    heads, mask = s[0].shape[1], x.get("mask")
    return o["alpha"] * masked_kl(t[0], s[0], mask) + o["beta"] * masked_kl(relation(t[1], heads), relation(s[1], heads), mask)


def minilm2(s, t, a, o, x):
    heads = o["width"] or 48
    return sum(f * masked_kl(relation(v, heads), relation(u, heads), x.get("mask"))
               for f, u, v in zip((o["alpha"], o["beta"], o["gamma"]), s, t))


def cosine(s, t, a, o, x):
    total, mask = 0, x.get("mask")
    for u, v in zip(s, t):
        d = r(1 - (u * v).sum(-1) / r(torch.sqrt(((u * u).sum(-1) + 1e-12) * ((v * v).sum(-1) + 1e-12))))
        total = total + (d.mean() if mask is None else (d * mask).sum() / mask.sum())
    return total


def ld(s, t, a, o, x):
    total, T = 0, o["temperature"]
    for u, v in zip(s, t):
        bins = u.shape[-1]
        each = T * T * kl(v / T, u / T).reshape(len(u), -1) / bins
        w = x.get("mask", torch.ones_like(each))
        total = total + (w * each).sum() * (bins if o["form"] == 1 else 1) / (o["alpha"] if o["form"] == 0 else w.sum())
    return total


def fbkd(s, t, a, o, x):
    u, v = s[0], t[0]

    def importance(z):
        z = z.detach().abs().mean(-1)
        return (F.softmax(flat(z) / o["temperature"], -1) * z[0].numel()).reshape(z.shape)[..., None]

    def non_local(name, z):
        def part(layer):
            return a.conv(f"{name}.{layer}", z).reshape(len(z), -1, a.p[f"{name}.g.bias"].shape[0])
        pair = r(part("theta") @ part("phi").transpose(1, 2)) / (z.shape[1] * z.shape[2])
        y = r(pair @ part("g")).reshape(*z.shape[:3], -1)
        return r(z + a.bn(f"{name}.bn", a.conv(f"{name}.conv_out", y)))

    def distance(z, w=1):
        return root((w * r(z) ** 2).sum())
    w = (importance(u) + importance(v)) / 2
    total = o["alpha"] * distance(v - a.conv("s0.feature", u), w)
    total = total + o["beta"] * distance(v.mean((1, 2)) - a.linear("s0.channel", r(u.mean((1, 2)))))
    total = total + o["beta"] * distance(v.mean(-1, keepdim=True) - a.conv("s0.spatial", r(u.mean(-1, keepdim=True)), 1, 1))
    return total + o["gamma"] * distance(non_local("t0", v) - a.conv("s0.relation", non_local("s0.non_local", u)))


def fbkd_adapters(s, t, o):
    c, d = s[0][-1], t[0][-1]

    def block(name, c):
        h = o["width"] or max(1, c // 2)
        return (p_conv(name + ".g", 1, c, h) + p_conv(name + ".theta", 1, c, h) + p_conv(name + ".phi", 1, c, h) +
                p_conv(name + ".conv_out", 1, h, c, False) + p_bn(name + ".bn", c))
    return (p_conv("s0.feature", 1, c, d) + p_linear("s0.channel", c, d) + p_conv("s0.spatial", 3, 1, 1) +
            block("s0.non_local", c) + p_conv("s0.relation", 1, c, d) + block("t0", d))


# name: (function, parameters of its adapters, defaults that are not 0; temperature 1)
METHODS = {
    "fitnet": (fitnet, fitnet_adapters, {}), "at": (at, None, {}), "sp": (sp, None, {}),
    "cc": (cc, cc_adapters, dict(gamma=0.4, width=128)), "vid": (vid, vid_adapters, {}),
    "rkd": (rkd, None, dict(alpha=25.0, beta=50.0)), "pkt": (pkt, None, {}), "ab": (ab, ab_adapters, dict(alpha=1.0)),
    "ft": (ft, ft_adapters, dict(alpha=1.0, beta=0.005, gamma=0.5)), "fsp": (fsp, None, {}), "nst": (nst, None, {}),
    "kdsvd": (kdsvd, None, {}), "crd": (crd, crd_adapters, dict(alpha=0.5, temperature=0.07, width=128)),
    "irg": (irg, None, dict(alpha=0.1, beta=5.0, gamma=5.0)), "ofd": (ofd, ofd_adapters, {}),
    "reviewkd": (reviewkd, reviewkd_adapters, {}), "simkd": (simkd, simkd_adapters, {}),
    "catkd": (catkd, None, dict(width=2)), "mgd": (mgd, mgd_adapters, dict(gamma=0.15)),
    "cwd": (cwd, cwd_adapters, dict(temperature=4.0)), "pkd": (pkd, None, {}),
    "srrl": (srrl, srrl_adapters, dict(alpha=1.0, beta=1.0)), "ickd": (ickd, ickd_adapters, {}),
    "srd": (srd, srd_adapters, dict(alpha=4.0)), "vitkd": (vitkd, vitkd_adapters, dict(alpha=3e-5, beta=3e-6, gamma=0.5)),
    "semckd": (semckd, semckd_adapters, dict(temperature=1.0)), "tinybert": (tinybert, tinybert_adapters, dict(alpha=1.0, beta=1.0)),
    "minilm": (minilm, None, dict(alpha=1.0, beta=1.0)), "minilm2": (minilm2, None, dict(alpha=1.0, beta=1.0, gamma=1.0)),
    "cosine": (cosine, None, {}), "ld": (ld, None, dict(alpha=4.0, temperature=10.0)),
    "fbkd": (fbkd, fbkd_adapters, dict(alpha=7e-5, beta=4e-3, gamma=7e-5, temperature=0.5)),
}
WEIGHTS = dict(fitnet=100, at=1000, sp=3000, cc=0.02, vid=1, rkd=1, pkt=30000, ab=1, ft=200, fsp=1, nst=50, kdsvd=1, crd=0.8, irg=1,
               ofd=0.001, reviewkd=1, simkd=1, catkd=15, mgd=7e-5, cwd=3, pkd=6, srrl=1, ickd=2.5, srd=2, vitkd=1, semckd=400, tinybert=1,
               minilm=1, minilm2=1, cosine=1, ld=0.25, fbkd=1)
WARMUP = dict(reviewkd=20)


def options(method, **given):
    o = dict(alpha=0.0, beta=0.0, gamma=0.0, temperature=1.0, width=0, form=0, samples=0)
    o.update(METHODS[method][2])
    o.update(given)
    return {k: float(torch.tensor(v, dtype=torch.float32)) if isinstance(v, float) else v for k, v in o.items()}   # as a descriptor has it


def parameters(method, s_shapes, t_shapes, o):
    return METHODS[method][1](s_shapes, t_shapes, o) if METHODS[method][1] else []
