/* method_vitkd.c - features of vision transformers.  The masks are drawn again, from the stream a tape begins with.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* 1: kept.  Going through the tokens, each is masked with the share of masked ones among those that are left. */
static double *drawn(const method_in *x, size_t tokens)
{
    const kd_rng begin = kd_rng_make(0);
    kd_rng draw = kd_rng_split(&begin, 0);
    double *keep = mr_new(x->rows * tokens);
    for (size_t r = 0; r < x->rows; r++) {
        size_t masked = tokens - (size_t)floor((double)tokens * (1 - x->gamma) * (1 + 1e-6));
        for (size_t i = 0; i < tokens; i++) {
            keep[r * tokens + i] = kd_rng_below(&draw, tokens - i) >= masked;
            if (keep[r * tokens + i] < .5) masked--;
        }
    }
    return keep;
}

static const double *through(const method_in *x, const char *name, size_t pair, size_t n)
{
    return x->s[pair].size[1] == x->t[pair].size[1] ? x->s[pair].data : mr_adapter_linear(x, name, x->s[pair].data, n);
}

static double loss(const method_in *x)
{
    const size_t last = x->taps - 1, tokens = x->s[last].size[0], d = x->t[last].size[1], n = x->rows * tokens;
    const size_t side = (size_t)(sqrt((double)tokens) + .5);
    char name[40];
    double total = 0, sum = 0;
    for (size_t k = 0; k < last; k++) {
        snprintf(name, sizeof name, "s%zu", k);
        total += x->alpha * mr_distance2(through(x, name, k, n), x->t[k].data, x->rows * x->t[k].each) / (double)x->rows;
    }
    const double *keep = x->mask;
    if (!keep && x->train && x->gamma > 0) keep = drawn(x, tokens);
    if (!keep || !(x->gamma > 0) || !(x->beta > 0)) return total;
    snprintf(name, sizeof name, "s%zu.align", last);
    const double *s = through(x, name, last, n);
    snprintf(name, sizeof name, "s%zu.mask_token", last);
    const double *token = mr_data(x, name);
    double *y = mr_new(n * d);
    for (size_t i = 0; i < n * d; i++) y[i] = keep[i / d] * s[i] + (1 - keep[i / d]) * token[i % d];
    size_t oh, ow;
    snprintf(name, sizeof name, "s%zu.generation.0", last);
    y = mr_adapter_conv(x, name, y, x->rows, side, side, 1, 1, &oh, &ow);
    mr_relu(y, n * d);
    snprintf(name, sizeof name, "s%zu.generation.2", last);
    y = mr_adapter_conv(x, name, y, x->rows, side, side, 1, 1, &oh, &ow);
    for (size_t i = 0; i < n * d; i++) sum += (1 - keep[i / d]) * (y[i] - x->t[last].data[i]) * (y[i] - x->t[last].data[i]);
    return total + x->beta * sum / (x->gamma * (double)x->rows);
}

static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    const size_t side = draw(rand, 1, 4);
    x->taps = x->teacher_taps = draw(rand, 2, 3);
    for (size_t k = 0; k < x->taps; k++) {
        x->s[k] = (method_tap){ .rank = 2, .size = { side * side, draw(rand, 1, 5) } };
        x->t[k] = (method_tap){ .rank = 2, .size = { side * side, draw(rand, 1, 5) } };
    }
}

static void large(kd_loss_feature_desc *d) { d->alpha = 1, d->beta = .5f, d->gamma = .7f; }
static void first(kd_loss_feature_desc *d) { d->gamma = 0; }

const method_feature method_feature_VITKD = {
    .loss = loss, .shapes = shapes, .needs = METHOD_MASK,
    .but = METHOD_KINKS | METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "large", large }, { "first layers", first } },
};
