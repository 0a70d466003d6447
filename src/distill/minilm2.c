/* minilm2.c - query, key and value relations (Wang, Bao, Huang, Dong, Wei 2021, MiniLMv2, arXiv 2012.15828).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = 1 / (A sum_b l_b) sum over samples, relation heads, tokens of [ alpha D(queries) + beta D(keys) + gamma D(values) ]
 *     D = KL(softmax r_t || softmax r_s), r: rows of X X^T / sqrt(d), X [l, d] a relation head: d = width / A columns of a tap
 *     A: relation heads; l_b: a sample's tokens; with a mask padding is left out as row and as column
 * Gradient: G = (softmax r_s - softmax r_t), then (G + G^T) X / sqrt(d).
 * Divides by: relation heads and valid tokens.
 * Detached: the teacher.
 * Taps: three of each side, {tokens, width} of queries, keys, values; tokens are equal on both sides, widths need not be.
 *     `width` of the descriptor: relation heads A, which divide every width.
 * Defaults: weight 1, alpha 1, beta 1, gamma 1, relation heads 48 (64 for a large teacher).
 * Forms: one.
 * Traps: relation heads are not attention heads: the taps are cut anew, and more heads are another loss.  Of a large
 *     teacher a layer before the last is the better one.  The authors' code for training is not public.  A mask of zeros
 *     throughout gives 0.
 * Published: 6 layers, 768 wide, MNLI and SQuAD 2: from BERT base 84.2, 76.3; from RoBERTa large 87.0, 81.6.
 * Cost: for each thread 2 tokens^2 + 3 tokens d floats: no relation of all heads is stored. */
#include "distill/feature.h"

static void defaults(kd_loss_feature_desc *d) { d->alpha = d->beta = d->gamma = 1; }

static kd_status check(kd_loss_feature_desc *d)
{
    if (d->alpha < 0 || d->beta < 0 || d->gamma < 0)
        return kd__fail(KD_ERR_ARG, "alpha %g, beta %g, gamma %g: all must be at least 0", (double)d->alpha, (double)d->beta,
                        (double)d->gamma);
    if (d->student_count != 3 || d->teacher_count != 3)
        return kd__fail(KD_ERR_ARG, "%zu student and %zu teacher taps: it takes queries, keys and values of each",
                        d->student_count, d->teacher_count);
    if (!d->width) d->width = 48;
    for (size_t i = 0; i < 3; i++) KD_TRY(kd__relation_fits(d, i, d->width, d->student[0].size[0]));
    return KD_OK;
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    const kd_loss_feature_desc *d = &loss->desc;
    const float weight[3] = { d->alpha, d->beta, d->gamma };
    kd_tensor *sum = NULL;
    for (size_t i = 0; i < 3; i++)
        sum = kd__feature_add(tape, sum, kd__relation_kl(loss, tape, in, i, d->width, weight[i]));
    return sum;
}

const kd__feature_method kd__feature_MINILM2 = {
    .formula = "KL of rows of softmax(X X^T / sqrt(d)), X: queries, keys, values, mean over relation heads and tokens",
    .defaults = defaults, .check = check, .apply = apply
};
