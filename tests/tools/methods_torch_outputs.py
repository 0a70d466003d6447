# methods_torch_outputs.py - the soft term of every method on outputs, a plain text in PyTorch.
# SPDX-License-Identifier: MIT
"""Each function is given tensors and a dict of options and returns the soft term of kd_loss_distill before soft_weight, T^2 included, under
MEAN_ROWS with every row valid.  s, w: student, student_second [B, K]; t, v: teacher, teacher_second; y: labels; T the temperature,
p = softmax(t / T), q = softmax(s / T); sq = T^2, or 1 where temperature_squared is 0; L(z) = log_softmax(z).  Teachers are constants.
alpha, beta, gamma are the fields of the descriptor.

What is agreed, method by method (form 0 CODE, 1 PAPER, 2 THIRD; "one": only 0), with the defaults of kd_loss_distill_desc_for
(T / hard_weight / soft_weight; alpha, beta, gamma; anything else).  Soft terms are means over rows unless said.

 KD              one.  sq KL(p||q), KL(q||p) or the generalised JS (js_beta) by `direction`.                      4 / .1 / .9
 HARD            one.  CE(s, argmax t), T 1, no sq; ties: first.                                                  1 / .5 / .5
 DEIT_SOFT       0: sq sum KL(softmax(t/T) || softmax(w/T)) / (B K).  1: the same / B.  Hard term: CE(s, y).  The gradient of the soft
                 term is w's alone, s gets none.                                       0: 1 / .5 / .5 (the paper writes 3 / .9 / .1)
 DEIT_HARD       one.  CE(w, argmax t), T 1, no sq.  Hard term: CE(s, y).                                         1 / .5 / .5
 DKD             one.  sq (alpha KL(b_t||b_s) + beta KL(p^||q^)), b = (p_y, 1 - p_y), hats: softmax over the classes but y.
                 K = 1: 0; K = 2: the second part is 0.                         4 / 1 / 1; alpha 1, beta 8; warmup 20
 DIST            0: sq (beta inter + gamma intra).  1: without T^2, whatever temperature_squared.  rho = a.b / (|a||b| + 1e-8) of
                 centred rows (inter: 1 - mean over rows) and columns (intra: 1 - mean over classes) of p and q.
                                                                                4 / 1 / 2; beta 1, gamma 1
 NKD             one.  - p1_y log q1_y - gamma sq sum_{k != y} p^_k log q^_k; p1, q1 at T 1, hats at T over the classes but y.
                 K = 1: the second part is 0.                                   1 / 1 / 1; gamma 1.5
 USKD            0: the rank key as coded; 1: the key from probabilities.  alpha A + beta N + W at T 1, no teacher, no sq;
                 A = - a_b log q_y, a_b = q_y^2 + 1 - mean over rows of q_y^2, detached;
                 N = - sum_{k != y} z_k log q^_k, z_k = 1 / rank_k over the classes but y renormalised to 1, detached;
                 rank_k = 1, 2 .. K over all classes (y takes its place too) by the key, largest first, ties: the first class;
                 key 0: w_k / (1 - w_y + 1e-6) + log q_k / (1 - log q_y + 1e-6); key 1: the second term q_k / (1 - q_y + 1e-6);
                 W = - gamma sum_k (.9 [k = y] + .1 / K) log w_k, w = softmax(student_second).  alpha, beta do not scale W.
                                                                                1 / 1 / 1; alpha 1, beta .1, gamma .005 (ImageNet)
 WSLD            one.  sq w_b (- sum p log q), w_b = 1 - exp(-CE_s / (CE_t + 1e-7)), CE with y at T 1, detached.
                                                                                2 / 1 / 2.5 (ImageNet)
 MLKD            0 (the intended one, default): sum over T' in {T, 2, 3, 5, 6} of I + C + R of both views (s with t, w with v), unmasked:
                 I = T'^2 KL(p||q), C = |q^T q - p^T p|_F^2 / K, R = |q q^T - p p^T|_F^2 / B.
                 2 (as the public code computes it): over the same T': m_r I(s,t) + m_c C(s,t) + m_r R(s,t), plus I(w,v) for T' in
                 {T, 3, 5} and I(s,t) for {2, 6}; m_r the share of rows whose largest teacher probability (T 1, of t) is at most the median of
                 them, m_c the share of classes whose sum of teacher probabilities is at most their median (median: mean of the two
                 middle ones).  The list has T in its first place even if equal to another: a doubled T' counts twice.
                 temperature_squared 0 takes T'^2 out of I.  The hard term of the recipe is CE of both views.     4 / .1 / .9
 CTKD            one.  T = 1 + gamma sigmoid(theta), theta the method's own parameter, starts at 1; soft = T^2 KL(p||q) with T^2
                 differentiated too (temperature_squared 0: without).  d soft / d theta is multiplied by -l,
                 l = alpha (1 - cos(pi min((advances + 1) / beta, 1))) / 2; the student's gradient is plain.  desc.temperature unused.
                                                                                - / .1 / .9; alpha 1, beta 10, gamma 20
 TFKD            0: sum KL(softmax(u / T) || softmax(s)) / (B K), u = alpha at y, (1 - alpha) / (K - 1) elsewhere (K = 1: u = 1); student at
                 T 1, no sq.  1: KL(u^(1/T) / sum || softmax(s / T)), / B, no sq.  No teacher.     20 / .9 / .1; alpha .99
 PSKD            one.  - sum_k ((1 - a) [k = y] + a p1_k) log q1_k, T 1; a = alpha min((advances + 1) / warmup, 1), alpha where warmup
                 is 0: warm-up acts on a, not on the term.                       1 / 0 / 1; alpha .8
 LABEL_SMOOTHING 0: - 1/K sum log q1_k.  1: KL(uniform || q1), that is less log K.  T 1; no teacher.            1 / .9 / .1
 REVERSE_KL      one.  sq KL(q||p).                                                                             1 / 0 / 1
 JS              one.  sq (beta KL(p||m) + (1 - beta) KL(q||m)), m = beta p + (1 - beta) q, beta in (0, 1).     1 / 0 / 1; beta .5
 SKEW_KL         0: - sq sum p log(alpha p + (1 - alpha) q).  1: sq KL(p || the same).                          1 / 0 / 1; alpha .1
 SKEW_REVERSE_KL one.  sq KL(q || (1 - alpha) p + alpha q).                                                     1 / 0 / 1; alpha .1
 TAID            0: - sq sum r log q, r = softmax(((1 - a) s + a t) / T), a constant: no gradient through r.  1: sq KL(r||q), the same
                 gradient.  a starts at alpha and moves with the method's state.  1 / 0 / 1; alpha .4, beta .99, gamma 5e-4
 TVD             one.  sq / 2 sum |p - q|; the gradient of |x| at 0 is 0.                                       1 / 0 / 1
 AKL             one, the intended one.  sq (a KL(p||q) + (1 - a) KL(q||p)), a = g_h / (g_h + g_t) detached (0/0: .5): classes by p, largest
                 first (ties: the first class); head: those before which the sum of p is < alpha; g: sums of |p - q|.
                                                                                1 / 0 / 1; alpha .5
 ULD             one.  sq sum |sorted p - sorted q|, the shorter filled with 0; teacher of any width.           1 / 0 / 1
 BINARY          one.  sq sum_k KL of Bernoullis, sigmoid(t_k / T) and sigmoid(s_k / T): sum over classes, mean over rows.
                                                                                1 / 0 / 1
 MSE_LOGITS      0: sum (s - t)^2 / (B K) (Kim et al.'s code).  1: 1/2 sum (s - t)^2 / B (Ba, Caruana).  No T, no sq.    1 / .1 / .9
 COSINE_LOGITS   one.  1 - s.t / max(|s||t|, 1e-8).  No T, no sq.                                               1 / .1 / .9
 TOP_K           0: sq sum_j p'_j (log p'_j - log q_j), p' the teacher over its k classes renormalised, q over all classes.
                 1: sq KL over k + 1 events, the last one the rest: 1 - sum p_j (at least 0) and 1 - sum q_j (from the logits of the rest).
                 The rest is known of probabilities only: LOGITS are refused.    1 / 0 / 1
 MULTI_TEACHER   one.  sq KL(p||q) with the teachers combined by `teachers`, `teacher_weights`; `direction` as KD.       4 / .1 / .9
 MUTUAL          one.  As KD; several peers as several teachers (MEAN_PROBS: the gradient of the mean of the KLs).       1 / 1 / 1
 BORN_AGAIN      one.  As KD.                                                                                   1 / 1 / 1
 LSKD            one.  As KD on standardised rows: (z - mean) / (std + 1e-7), std unbiased (K = 1: 0), gradient through both.
                                                                                2 / .1 / 9
`standardize` 1 on any method: its logits, both sides, are so standardised first.
PROBS, LOG_PROBS as teacher_form: p as given (at T already), not renormalised.
"""
import math

import torch
