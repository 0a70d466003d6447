# methods_torch_outputs.py - the soft term of every method on outputs, a plain text in PyTorch.
# SPDX-License-Identifier: MIT
"""Each function is given tensors and a dict of options and returns the soft term of kd_loss_distill before soft_weight, T^2 included, under
MEAN_ROWS with every row valid.  s, w: student, student_second [B, K]; t, v: teacher, teacher_second; y: labels; T the temperature,
p = softmax(t / T), q = softmax(s / T); sq = T^2, or 1 where temperature_squared is 0; L(z) = log_softmax(z).  Teachers are constants.
alpha, beta, gamma are the fields of the descriptor.

What is agreed, method by method (form 0 CODE, 1 PAPER, 2 THIRD; "one": only 0), with the defaults of kd_loss_distill_desc_for
(T / hard_weight / soft_weight; alpha, beta, gamma; anything else).  Soft terms are means over rows unless said.

 KD              one.  sq KL(p||q), KL(q||p) or the generalised JS (js_beta) by `direction`.                      4 / .1 / .9
 HARD            one.  CE(s, argmax t), T 1, no sq; ties: first.                                                  - / .1 / .9 (as KD)
 DEIT_SOFT       0: sq sum KL(softmax(t/T) || softmax(w/T)) / (B K).  1: the same / B.  Hard term: CE(s, y).  The gradient of the soft
                 term is w's alone, s gets none.                                       0: 1 / .5 / .5 (the paper writes 3 / .9 / .1)
 DEIT_HARD       one.  CE(w, argmax t), T 1, no sq.  Hard term: CE(s, y).                                         - / .5 / .5
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
                                                                                - / 1 / 1; alpha 1, beta .1, gamma .005 (ImageNet)
 WSLD            one.  sq w_b (- sum p log q), w_b = 1 - exp(-CE_s / (CE_t + 1e-7)), CE with y at T 1, detached.
                                                                                2 / 1 / 2.5 (ImageNet)
 MLKD            0 (the intended one, default) and 1, the same: sum over T' in {T, 2, 3, 5, 6} of I + C + R of both views (s with
 t, w with v), unmasked:
                 I = T'^2 KL(p||q), C = |q^T q - p^T p|_F^2 / K, R = |q q^T - p p^T|_F^2 / B.
                 2 (as the public code computes it): over the same T': m_r I(s,t) + m_c C(s,t) + m_r R(s,t), plus I(w,v) for T' in
                 {T, 3, 5} and I(s,t) for {2, 6}; m_r the share of rows whose largest teacher probability (T 1, of t) is at most
                 the median of
                 them, m_c the share of classes whose sum of teacher probabilities is at most their median (median: mean of the two
                 middle ones).  The list has T in its first place even if equal to another: a doubled T' counts twice.
                 temperature_squared 0 takes T'^2 out of I.  The hard term of the recipe is CE of both views.     4 / .1 / .9
 CTKD            one.  T = 1 + gamma sigmoid(theta), theta the method's own parameter, starts at 1; soft = T^2 KL(p||q) with T^2
                 differentiated too (temperature_squared 0: without).  d soft / d theta is multiplied by -l,
                 l = alpha (1 - cos(pi min((advances + 1) / beta, 1))) / 2; the student's gradient is plain.  desc.temperature unused.
                                                                                - / .1 / .9; alpha 1, beta 10, gamma 20
 TFKD            0: sum KL(softmax(u / T) || softmax(s)) / (B K), u = alpha at y, (1 - alpha) / (K - 1) elsewhere (K = 1: u = 1); student at
                 T 1, no sq.  1: KL(u^(1/T) / sum || softmax(s / T)), / B, no sq.  No teacher.     20 / .9 / .1; alpha .99
 PSKD            one.  - sum_k ((1 - a) [k = y] + a p1_k) log q1_k, T 1; a = alpha min((advances + 1) / beta, 1), alpha where beta
                 is 0.                                                           - / 0 / 1; alpha .8, beta 0
 LABEL_SMOOTHING 0: - 1/K sum log q1_k.  1: KL(uniform || q1), that is less log K.  T 1; no teacher.            - / .9 / .1
 REVERSE_KL      one.  sq KL(q||p).                                                                             1 / 0 / 1
 JS              one.  sq (b KL(p||m) + (1 - b) KL(q||m)), m = b p + (1 - b) q, b = js_beta in (0, 1).          1 / 0 / 1; js_beta .5
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
`standardize` 1 on a method over softened logits (not MSE_LOGITS, COSINE_LOGITS): both sides' rows are so standardised first.
PROBS, LOG_PROBS as teacher_form: p as given (at T already), not renormalised.
"""
import math

import torch


# ---- pieces --------------------------------------------------------------------------------------------------------------------
def L(z):
    return torch.log_softmax(z, 1)


def kl(lp, lq):
    """Of each row, from logarithms; p = 0 gives 0."""
    p = lp.exp()
    return torch.where(p > 0, p * (lp - lq), torch.zeros(())).sum(1)


def sq(o):
    return o["T"] ** 2 if o.get("temperature_squared", 1) else 1.0


def at(z, y):
    return z.gather(1, y[:, None])[:, 0]


def without(z, y):
    """The columns of each row but the label's: [B, K - 1]."""
    k = torch.arange(z.shape[1] - 1)[None, :]
    return z.gather(1, k + (k >= y[:, None]))


def standardized(z):
    if z.shape[1] == 1:
        return z * 0
    return (z - z.mean(1, keepdim=True)) / (z.std(1, unbiased=True, keepdim=True) + 1e-7)


def teacher_log(t, o):
    """log p in the loss's teacher_form."""
    form = o.get("teacher_form", "logits")
    return L(t / o["T"]) if form == "logits" else t if form == "log_probs" else t.log()


def divergence(lp, lq, o, beta=None):
    way = o.get("direction", "forward")
    if way == "forward":
        return kl(lp, lq)
    if way == "reverse":
        return kl(lq, lp)
    return jensen(lp, lq, o.get("js_beta", 0.5))


def jensen(lp, lq, beta):
    lm = torch.logaddexp(lp + math.log(beta), lq + math.log(1 - beta))
    return beta * kl(lp, lm) + (1 - beta) * kl(lq, lm)


def softened(i, o):
    """log p and log q."""
    return teacher_log(i["t"], o), L(i["s"] / o["T"])


# ---- the methods -----------------------------------------------------------------------------------------------------------------
def kd(i, o):
    lp, lq = softened(i, o)
    return sq(o) * divergence(lp, lq, o).mean()


def hard(i, o):
    return -at(L(i["s"]), i["t"].argmax(1)).mean()


def deit_soft(i, o):
    lp, lq = teacher_log(i["t"], o), L(i["w"] / o["T"])
    return sq(o) * kl(lp, lq).sum() / (lq.numel() if o["form"] == 0 else lq.shape[0])


def deit_hard(i, o):
    return -at(L(i["w"]), i["t"].argmax(1)).mean()


def dkd(i, o):
    s, t, y = i["s"] / o["T"], i["t"] / o["T"], i["y"]
    if s.shape[1] == 1:
        return (s * 0).sum()
    s_rest, t_rest = without(s, y), without(t, y)
    both = lambda z, rest: L(torch.stack((at(z, y), rest.logsumexp(1)), 1))
    target = kl(both(t, t_rest), both(s, s_rest))
    others = kl(L(t_rest), L(s_rest))
    return sq(o) * (o["alpha"] * target + o["beta"] * others).mean()


def correlation(a, b, axis):
    a, b = a - a.mean(axis, keepdim=True), b - b.mean(axis, keepdim=True)
    return (a * b).sum(axis) / (a.norm(dim=axis) * b.norm(dim=axis) + 1e-8)


def dist(i, o):
    lp, lq = softened(i, o)
    p, q = lp.exp(), lq.exp()
    inter, intra = 1 - correlation(q, p, 1).mean(), 1 - correlation(q, p, 0).mean()
    return (sq(o) if o["form"] == 0 else 1.0) * (o["beta"] * inter + o["gamma"] * intra)


def nkd(i, o):
    s, t, y = i["s"], i["t"], i["y"]
    target = -at(L(t), y).exp() * at(L(s), y)
    others = -(L(without(t, y) / o["T"]).exp() * L(without(s, y) / o["T"])).sum(1) if s.shape[1] > 1 else 0
    return (target + o["gamma"] * sq(o) * others).mean()


def uskd(i, o):
    s, w, y = i["s"], i["w"], i["y"]
    rows, classes = s.shape
    lq, lw = L(s), L(w)
    q_y = at(lq, y).exp().detach()
    target = -((q_y ** 2 + 1 - (q_y ** 2).mean()) * at(lq, y)).mean()
    f = lq.detach() if o["form"] == 0 else lq.detach().exp()
    pw = lw.detach().exp()
    key = pw / (1 - at(pw, y)[:, None] + 1e-6) + f / (1 - at(f, y)[:, None] + 1e-6)
    order = key.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(key).scatter_(1, order, torch.arange(1, classes + 1).to(key).expand(rows, classes))
    others = 0
    if classes > 1:
        z = without(1 / rank, y)
        others = -((z / z.sum(1, keepdim=True)) * L(without(s, y))).sum(1).mean()
    smooth = torch.full_like(w, 0.1 / classes).scatter_add_(1, y[:, None], torch.full_like(w[:, :1], 0.9))
    weak = -(smooth * lw).sum(1).mean()
    return o["alpha"] * target + o["beta"] * others + o["gamma"] * weak


def wsld(i, o):
    ce = lambda z: -at(L(z), i["y"]).detach()
    weight = 1 - torch.exp(-ce(i["s"]) / (ce(i["t"]) + 1e-7))
    lp, lq = softened(i, o)
    return sq(o) * (weight * -(lp.exp() * lq).sum(1)).mean()


def mlkd_parts(s, t, T, squared=True):
    """Instance, class and batch part."""
    lp, lq = L(t / T), L(s / T)
    p, q = lp.exp(), lq.exp()
    return ((T ** 2 if squared else 1.0) * kl(lp, lq).mean(), (q.T @ q - p.T @ p).square().sum() / s.shape[1],
            (q @ q.T - p @ p.T).square().sum() / s.shape[0])


def mlkd(i, o):
    squared = o.get("temperature_squared", 1)
    pool = [o["T"], 2.0, 3.0, 5.0, 6.0]
    weak = [mlkd_parts(i["s"], i["t"], T, squared) for T in pool]
    strong = [mlkd_parts(i["w"], i["v"], T, squared) for T in pool]
    if o["form"] != 2:
        return sum(sum(p) for p in weak + strong)
    p = L(i["t"]).exp()
    share = lambda v: (v <= v.quantile(0.5)).double().mean()
    by_row, by_class = share(p.max(1).values), share(p.sum(0))
    out = sum(by_row * a + by_class * c + by_row * r for a, c, r in weak)
    return out + strong[0][0] + strong[2][0] + strong[3][0] + weak[1][0] + weak[4][0]


class Scale(torch.autograd.Function):
    """The identity, whose gradient is multiplied."""
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.factor, None


def ctkd(i, o):
    level = o["alpha"] * (1 - math.cos(math.pi * min((o.get("advances", 0) + 1) / o["beta"], 1))) / 2
    T = 1 + o["gamma"] * torch.sigmoid(Scale.apply(i["theta"], -level))
    out = kl(L(i["t"] / T), L(i["s"] / T)).mean()
    return (T ** 2).sum() * out if o.get("temperature_squared", 1) else out


def tfkd(i, o):
    s, y = i["s"], i["y"]
    rows, classes = s.shape
    u = torch.full_like(s, (1 - o["alpha"]) / (classes - 1) if classes > 1 else 1.0).detach()
    if classes > 1:
        u = u.scatter(1, y[:, None], o["alpha"])
    if o["form"] == 0:
        return kl(L(u / o["T"]), L(s)).sum() / (rows * classes)
    return kl(L(u.log() / o["T"]), L(s / o["T"])).mean()


def pskd(i, o):
    a = o["alpha"] * (min((o.get("advances", 0) + 1) / o["beta"], 1) if o.get("beta", 0) else 1)
    lq = L(i["s"])
    return -((1 - a) * at(lq, i["y"]) + a * (L(i["t"]).exp() * lq).sum(1)).mean()


def label_smoothing(i, o):
    value = -L(i["s"]).mean(1).mean()
    return value if o["form"] == 0 else value - math.log(i["s"].shape[1])


def reverse_kl(i, o):
    lp, lq = softened(i, o)
    return sq(o) * kl(lq, lp).mean()


def js(i, o):
    return sq(o) * jensen(*softened(i, o), o.get("js_beta", 0.5)).mean()


def skew_kl(i, o):
    lp, lq = softened(i, o)
    mixed = torch.logaddexp(lp + math.log(o["alpha"]), lq + math.log(1 - o["alpha"]))
    return sq(o) * (-(lp.exp() * mixed).sum(1) if o["form"] == 0 else kl(lp, mixed)).mean()


def skew_reverse_kl(i, o):
    lp, lq = softened(i, o)
    return sq(o) * kl(lq, torch.logaddexp(lp + math.log(1 - o["alpha"]), lq + math.log(o["alpha"]))).mean()


def taid(i, o):
    a = o["alpha"]
    lr = L(((1 - a) * i["s"].detach() + a * i["t"]) / o["T"])
    lq = L(i["s"] / o["T"])
    return sq(o) * (-(lr.exp() * lq).sum(1) if o["form"] == 0 else kl(lr, lq)).mean()


def tvd(i, o):
    lp, lq = softened(i, o)
    return sq(o) * 0.5 * (lp.exp() - lq.exp()).abs().sum(1).mean()


def akl(i, o):
    lp, lq = softened(i, o)
    p, gap = lp.exp(), (lp.exp() - lq.exp()).abs().detach()
    order = p.argsort(dim=1, descending=True, stable=True)
    sorted_p = p.gather(1, order)
    head = torch.zeros_like(p, dtype=torch.bool).scatter_(1, order, sorted_p.cumsum(1) - sorted_p < o["alpha"])
    near, all_of = (gap * head).sum(1), gap.sum(1)
    a = torch.where(all_of > 0, near / all_of, torch.full((), 0.5))
    return sq(o) * (a * kl(lp, lq) + (1 - a) * kl(lq, lp)).mean()


def uld(i, o):
    lp, lq = softened(i, o)
    wide = max(lp.shape[1], lq.shape[1])
    fill = lambda v: torch.nn.functional.pad(v.exp().sort(1, descending=True).values, (0, wide - v.shape[1]))
    return sq(o) * (fill(lp) - fill(lq)).abs().sum(1).mean()


def binary(i, o):
    yes, no = torch.nn.functional.logsigmoid, lambda z: torch.nn.functional.logsigmoid(-z)
    s, t = i["s"] / o["T"], i["t"] / o["T"]
    return sq(o) * (yes(t).exp() * (yes(t) - yes(s)) + no(t).exp() * (no(t) - no(s))).sum(1).mean()


def mse_logits(i, o):
    d = (i["s"] - i["t"]) ** 2
    return d.mean() if o["form"] == 0 else 0.5 * d.sum(1).mean()


def cosine_logits(i, o):
    s, t = i["s"], i["t"]
    return (1 - (s * t).sum(1) / (s.norm(dim=1) * t.norm(dim=1)).clamp_min(1e-8)).mean()


def top_k(i, o):
    lq = L(i["s"] / o["T"])
    kept = lq.gather(1, i["classes"])
    if o["form"] == 0:
        return sq(o) * kl(L(i["t"] / o["T"]) if o.get("teacher_form", "logits") == "logits" else L(teacher_log(i["t"], o)), kept).mean()
    lp = teacher_log(i["t"], o)
    out = kl(lp, kept)
    rest = (1 - lp.exp().sum(1)).clamp_min(0)
    if lp.shape[1] < lq.shape[1]:
        others = torch.ones_like(lq, dtype=torch.bool).scatter_(1, i["classes"], False)
        q_rest = lq[others].reshape(lq.shape[0], -1).logsumexp(1)
        out = out + torch.where(rest > 0, rest * (rest.clamp_min(1e-300).log() - q_rest), torch.zeros(()))
    return sq(o) * out.mean()


def multi_teacher(i, o):
    ts = [i["t"]] + [i[f"t{j}"] for j in range(1, o["teacher_count"])]
    w = torch.tensor(o.get("weights", [1.0] * len(ts)), dtype=i["s"].dtype)
    w = w / w.sum()
    way = o["teachers"]
    if way == "mean_logits":
        lp = L(sum(a * t for a, t in zip(w, ts)) / o["T"])
    elif way == "mean_probs":
        lp = torch.stack([L(t / o["T"]) + a.log() for a, t in zip(w, ts)]).logsumexp(0)
    else:
        cross = torch.stack([-at(L(t), i["y"]) for t in ts])
        lp = L(torch.stack(ts)[cross.argmin(0), torch.arange(cross.shape[1])] / o["T"])
    return sq(o) * divergence(lp, L(i["s"] / o["T"]), o).mean()


def mutual(i, o):
    return kd(i, o)


def born_again(i, o):
    return kd(i, o)


def lskd(i, o):
    return kd({**i, "s": standardized(i["s"]), "t": standardized(i["t"])}, o)


METHODS = {f.__name__: f for f in (
    kd, hard, deit_soft, deit_hard, dkd, dist, nkd, uskd, wsld, mlkd, ctkd, tfkd, pskd, label_smoothing, reverse_kl, js, skew_kl,
    skew_reverse_kl, taid, tvd, akl, uld, binary, mse_logits, cosine_logits, top_k, multi_teacher, mutual, born_again, lskd)}
SECOND = ("deit_soft", "deit_hard", "uskd", "mlkd")
NO_TEACHER = ("uskd", "tfkd", "label_smoothing")
LABELS = ("dkd", "nkd", "uskd", "wsld", "tfkd", "pskd")


def soft(method, i, o):
    """The soft term; with `standardize` its logits are standardised first."""
    if o.get("standardize") and method != "lskd":
        i = {k: standardized(v) if k in ("s", "w", "t", "v") or k[0] == "t" and k[1:].isdigit() else v for k, v in i.items()}
    return METHODS[method](i, o)


# kd_loss_distill_desc_for: temperature, hard_weight, soft_weight, alpha, beta, gamma, warmup.
DEFAULTS = {
    "kd": (4, 0.1, 0.9, 0, 0, 0, 0), "hard": (None, 0.1, 0.9, 0, 0, 0, 0),
    "deit_soft": (1, 0.5, 0.5, 0, 0, 0, 0), "deit_hard": (None, 0.5, 0.5, 0, 0, 0, 0),
    "dkd": (4, 1, 1, 1, 8, 0, 20), "dist": (4, 1, 2, 0, 1, 1, 0), "nkd": (1, 1, 1, 0, 0, 1.5, 0),
    "uskd": (None, 1, 1, 1, 0.1, 0.005, 0), "wsld": (2, 1, 2.5, 0, 0, 0, 0), "mlkd": (4, 0.1, 0.9, 0, 0, 0, 0),
    "ctkd": (None, 0.1, 0.9, 1, 10, 20, 0), "tfkd": (20, 0.9, 0.1, 0.99, 0, 0, 0), "pskd": (None, 0, 1, 0.8, 0, 0, 0),
    "label_smoothing": (None, 0.9, 0.1, 0, 0, 0, 0), "reverse_kl": (1, 0, 1, 0, 0, 0, 0), "js": (1, 0, 1, 0, 0, 0, 0),
    "skew_kl": (1, 0, 1, 0.1, 0, 0, 0), "skew_reverse_kl": (1, 0, 1, 0.1, 0, 0, 0),
    "taid": (1, 0, 1, 0.4, 0.99, 5e-4, 0), "tvd": (1, 0, 1, 0, 0, 0, 0), "akl": (1, 0, 1, 0.5, 0, 0, 0),
    "uld": (1, 0, 1, 0, 0, 0, 0), "binary": (1, 0, 1, 0, 0, 0, 0), "mse_logits": (None, 0.1, 0.9, 0, 0, 0, 0),
    "cosine_logits": (None, 0.1, 0.9, 0, 0, 0, 0), "top_k": (1, 0, 1, 0, 0, 0, 0), "multi_teacher": (4, 0.1, 0.9, 0, 0, 0, 0),
    "mutual": (1, 1, 1, 0, 0, 0, 0), "born_again": (1, 1, 1, 0, 0, 0, 0), "lskd": (2, 0.1, 9, 0, 0, 0, 0),
}
