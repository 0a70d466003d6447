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
FITNET   M pairs (V, T pairs too) | s{i}.conv, s{i}.bn = ConvReg; V, T: s{i}.linear: ds -> dt alone (no BN, no ReLU)
         CODE  mean (ReLU(BN(conv(s))) - t)^2.   PAPER  1/(2n) sum of the same squares.   THIRD  CODE without the ReLU.
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
CRD      any, exactly one pair | s0.linear: ds -> width, t0.linear: dt -> width; buffers memory_s [N, width], memory_t [N, width],
         z [2] (-1: not yet set).  u = norm(s0 s), v = norm(t0 t).  For row b: index y_b and K negatives;
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
         Equal sizes.  sum (gen(align(s) * keep) - t)^2 / n.   CODE keep [n, ct]: whole channels; THIRD keep [n, h w]: pixels.  keep is 0 with
         probability gamma, else 1 (not rescaled); `mask` given: it is keep (one pair only).   weight 7e-5, gamma .15.
CWD      M pairs, equal sizes | s{i} = 1x1 cs -> ct (only if cs != ct).   T^2 / (n ct) * sum over rows, channels of KL(softmax_hw(t/T) ||
         softmax_hw(s/T)).   weight 3, temperature 4.
PKD      M pairs, equal shapes | none.   x standardised per channel over n, h, w: (x - mean) / (unbiased std + 1e-6), both sides;
         mean (s - t)^2 / 2.   One element only: 0.   weight 6.
SRRL     M or V, one pair; teacher_weight, _bias | s0.0 = 1x1 -b cs -> ct, s0.1 BN, (s0.2 ReLU).   g = mean over hw.
         alpha * mean (g(x) - g(t))^2 + beta * mean (head(g(x)) - head(g(t)))^2, head = teacher's classifier, x = s0(s); means over all
         elements.  weight 1, alpha 1, beta 1 (CIFAR: 5).
ICKD     M pairs, equal sizes | s{i}.0 = 1x1 -b cs -> ct, s{i}.1 BN; none if cs = ct.   G = X^T X [c, c] of each row, its rows norm'ed;
         CODE  sum (Gs - Gt)^2 / (n ct).   THIRD  / (n^2 ct) (torchdistill).   weight 2.5.
SRD      any, one pair | s0.linear: ds -> dt.   plain BN (eps 1e-4) of s0(s) and of t over the rows, batch statistics on any tape;
         ln( sum over n, d of |s - t|^alpha ), the sum taken >= 1e-12 (gradient 0 below).   weight 2, alpha 4.
VITKD    T, L >= 2 pairs, all tokens without the class token, l = a square | for i < L-1 s{i} = linear ds -> dt, then s{L-1}.align = linear
         ds -> dt (align layers only if ds != dt), s{L-1}.mask_token [dt] (of the block: before its children), s{L-1}.generation.0, .2
         = 3x3 padding 1 dt -> dt with a ReLU between.  Order in the last block: mask_token, align, generation.0, generation.2.
         alpha / n * sum over i < L-1 of sum (s{i}(s) - t)^2 + beta / (gamma n) * sum over masked tokens (generation(x) - t)^2, x = align(s_last)
         with mask_token in the place of masked tokens, as a map sqrt(l) x sqrt(l).  keep = l - floor(l (1 - gamma)) tokens of each row are
         masked; `mask` given [n, l]: 1 = kept, 0 = masked, no draw.   weight 1, alpha 3e-5, beta 3e-6, gamma .5.
SEMCKD   M, S student taps, R teacher taps (S and R may differ) | `samples` = the batch size B, fixed.  for i < S: s{i}.query.linear1:
         B -> 2w, s{i}.query.linear2: 2w -> w, then for j < R: s{i}.proj{j}.0 = 1x1 -b cs -> 2 ct, .1 BN, (.2), .3 = 3x3 padding 1 -b, .4 BN,
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
         (n A l) sum KL of softmax(V V^T / sqrt d), d each side's own.   mask: padding columns are -inf, padding rows are left out, divided by
         A sum_b len_b.   weight 1, alpha 1, beta 1.
MINILM2  three taps T: queries, keys, values | none.   width = relation heads A (0: 48), divides all widths.  each: 1 / (n A l) sum of
         KL(softmax(t t^T / sqrt dt) || softmax(s s^T / sqrt ds)); alpha QQ + beta KK + gamma VV.   mask as MINILM.   weight 1, 1, 1, 1.
COSINE   T or V pairs | s{i}.linear: ds -> dt only if the widths differ.   mean over rows (tokens) of 1 - a.b / sqrt((a.a + 1e-12)(b.b +
         1e-12)); mask: over real tokens.   weight 1.
LD       pairs, the last axis is the bins, all before it are edges (V {bins}, T {edges, bins}, M {boxes, 4, bins}) | none.
         l = T^2 / bins * KL(softmax(t/T) || softmax(s/T)); w = `mask` [n, edges] (edges = product of the axes before the bins) or 1.
         CODE  sum w l / alpha (the public code's avg_factor).   PAPER  sum w l bins / sum w.   THIRD  sum w l / sum w.
         sum w = 0: 0.   weight .25, alpha 4, temperature 10.
FBKD     M, one pair, equal sizes | s0.feature = 1x1 cs -> ct; s0.channel = linear cs -> ct; s0.spatial = 3x3 padding 1 1 -> 1; s0.non_local: .g,
         .theta, .phi = 1x1 cs -> h, .conv_out = 1x1 -b h -> cs, .bn; s0.relation = 1x1 cs -> ct; t0.g, .theta, .phi, .conv_out, .bn with ct.
         h = width; 0: max(1, c / 2) of that side.  m(x) = h w softmax_hw(mean_c |x| / T);  nonlocal(x) = x + bn(conv_out(theta phi^T g / hw)).
         alpha sqrt(sum (m(s) + m(t)) / 2 (t - feature(s))^2) + beta |mean_hw t - channel(mean_hw s)| + beta |mean_c t - spatial(mean_c s)|
         + gamma |nonlocal_t(t) - relation(nonlocal_s(s))|: un-squared norms over the whole batch; m constant.
         weight 1, alpha 7e-5, beta 4e-3, gamma 7e-5, temperature .5.
"""
