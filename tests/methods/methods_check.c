/* methods_check.c - see methods_check.h.
 * SPDX-License-Identifier: MIT */
#include "methods_check.h"

#define U (1.0 / 16777216)
size_t mc_count;

size_t mc_checks(void)
{
    size_t n = mc_count;
    mc_count = 0;
    return n;
}

static double value(mc_point *p)
{
    double v = p->value(p->user);
    mr_release();
    return v;
}

/* d value / d direction by fourth-order central differences; the direction is one element, or all of `signs` times the steps. */
typedef struct direction {
    mc_array *a;      /* one element; NULL: all */
    size_t    i;
    uint64_t  seed;   /* of the signs */
} direction;

/* Move along the direction by h steps. */
static void move(mc_point *p, const direction *d, double h)
{
    if (d->a) {
        d->a->x[d->i] += h * d->a->step;
        return;
    }
    kdtest_rand r = { d->seed };
    for (size_t k = 0; k < p->arrays; k++)
        for (size_t i = 0; i < p->array[k].n; i++) {
            double sign = kdtest_bits(&r) & 1u ? 1 : -1;
            if (p->array[k].grad) p->array[k].x[i] += sign * h * p->array[k].step;
        }
}

typedef struct copies { double *x[MC_ARRAYS]; } copies;
static copies keep(const mc_point *p)
{
    copies c = { { NULL } };
    for (size_t k = 0; k < p->arrays; k++) {
        c.x[k] = malloc((p->array[k].n + 1) * sizeof(double));
        memcpy(c.x[k], p->array[k].x, p->array[k].n * sizeof(double));
    }
    return c;
}
static void restore(mc_point *p, const copies *c)
{
    for (size_t k = 0; k < p->arrays; k++) memcpy(p->array[k].x, c->x[k], p->array[k].n * sizeof(double));
}
static void drop(const mc_point *p, copies *c)
{
    for (size_t k = 0; k < p->arrays; k++) free(c->x[k]);
}

static double slope(mc_point *p, const direction *d, const copies *at, double h)
{
    static const double where[4] = { 1, -1, 2, -2 }, weight[4] = { 8.0 / 12, -8.0 / 12, -1.0 / 12, 1.0 / 12 };
    double sum = 0;
    for (int k = 0; k < 4; k++) {
        move(p, d, where[k] * h);
        sum += weight[k] * value(p);
        if (d->a) d->a->x[d->i] = at->x[d->a - p->array][d->i];
        else restore(p, at);
    }
    return sum / h;
}

static void perturb(mc_point *p, kdtest_rand *r, double by)
{
    for (size_t k = 0; k < p->arrays; k++)
        for (size_t i = 0; i < p->array[k].n; i++)
            if (isfinite(p->array[k].x[i]))
                p->array[k].x[i] += (kdtest_bits(r) & 1u ? by : -by) * (fabs(p->array[k].x[i]) + p->array[k].step);
    if (p->fix) p->fix(p->user);
}

enum { SAMPLES = 64 };
typedef struct sample { direction d; double slope, got; } sample;
#define STEP 1e-3
#define BY   (64 * U)

/* Elements to look at, spread over the arrays: some of each. */
static size_t choose(mc_point *p, sample *s)
{
    size_t count = 0, compared = 0, most = kdtest_full() ? SAMPLES : 12;
    kdtest_rand r = { p->seed * 2 + 1 };
    for (size_t k = 0; k < p->arrays; k++) compared += p->array[k].grad != NULL;
    for (size_t k = 0; k < p->arrays && compared; k++) {
        mc_array *a = &p->array[k];
        size_t n = a->grad ? (most + compared - 1) / compared : 0;
        if (compared > 4 && n < 2 && a->grad) n = 2;
        for (size_t j = 0; j < n && j < a->n && count < SAMPLES; j++) {
            size_t i = n >= a->n ? j : kdtest_size(&r, 0, a->n - 1);
            if (!isfinite(a->x[i])) continue;
            s[count++] = (sample){ { a, i, 0 }, 0, (double)a->grad[i] };
        }
    }
    return count;
}

/* The slopes of samples, in units of step. */
static void slopes(mc_point *p, sample *s, size_t count, const copies *at, double *out)
{
    for (size_t i = 0; i < count; i++) out[i] = slope(p, &s[i].d, at, STEP);
}

static double tolerances(mc_point *p, sample *s, size_t count, double *grad)
{
    copies at = keep(p);
    kdtest_rand r = { p->seed + 77 };
    double v = value(p), moved = 0, bent = 0, largest = 0, other[SAMPLES], here[SAMPLES];
    for (int trial = 0; trial < 4; trial++) {
        perturb(p, &r, BY);
        double change = fabs(value(p) - v);
        if (change > moved) moved = change;
        restore(p, &at);
        if (p->fix) p->fix(p->user);
    }
    if (grad) {
        slopes(p, s, count, &at, here);
        for (size_t i = 0; i < count; i++) {
            s[i].slope = here[i];
            double g = fabs(here[i]);
            largest = g > largest ? g : largest;
        }
        for (int trial = 0; trial < 2; trial++) {
            perturb(p, &r, BY);
            copies there = keep(p);
            slopes(p, s, count, &there, other);
            for (size_t i = 0; i < count; i++) {
                double change = fabs(other[i] - here[i]);
                if (p->kinks && change > 1e-3 * (largest + p->size)) continue;   /* the other side of one */
                bent = change > bent ? change : bent;
            }
            drop(p, &there);
            restore(p, &at);
            if (p->fix) p->fix(p->user);
        }
        /* the quotient itself: 2 10^-16 of the value over the step, and h^4 / 30 of the fifth derivative */
        double rounding = (16 + (double)p->longest / 16) * U + 1e-11;
        *grad = 32 * bent / 64 + rounding * (largest + p->grad_size) + 4e-16 * (fabs(v) + p->size) / STEP;
    }
    drop(p, &at);
    return 16 * moved / 64 + (16 + (double)p->longest / 16) * U * (fabs(v) + p->size);
}

double mc_tolerance(mc_point *p, double *grad)
{
    sample s[SAMPLES];
    return tolerances(p, s, grad ? choose(p, s) : 0, grad);
}

/* Does the function have a corner right here, as behind a batch norm's bias that begins as 0, and g one of its slopes? */
static int at_corner(mc_point *p, const direction *d, const copies *at, double g, double room)
{
    const double v = value(p), h = STEP / 512;
    double side[2];
    for (int k = 0; k < 2; k++) {
        move(p, d, k ? -h : h);
        side[k] = (value(p) - v) / (k ? -h : h);
        restore(p, at);
    }
    room += 1e-15 * (fabs(v) + p->size) / h;
    return fabs(side[0] - side[1]) > room && g >= fmin(side[0], side[1]) - room && g <= fmax(side[0], side[1]) + room;
}

double mc_compare(mc_point *p, double got)
{
    sample s[SAMPLES];
    double v = value(p), grad_tol = 0, extra = 0;
    size_t count = choose(p, s), rough = 0, all = 0;
    double tol = tolerances(p, s, count, &grad_tol);
    copies at = keep(p);
    MC_CHECK(fabs(got - v) <= tol, "%s: value %.9g, the reference %.9g, within %.2g", p->what, got, v, tol);
    for (size_t i = 0; i < count; i++) {
        const mc_array *a = s[i].d.a;
        /* in units of step on both sides */
        double g = s[i].got * a->step, want = s[i].slope * a->factor;
        double room = (grad_tol + (16 + (double)p->longest / 16) * U * a->more) * fabs(a->factor) + 1e-37;
        /* Where the function bends within a step, a narrower one; one that never settles straddles a kink. */
        double before = want, apart = INFINITY;
        int settles = 1;
        for (double narrow = 8; narrow <= 512 && !(fabs(g - want) <= room); narrow *= 8) {
            double noise = 4e-16 * (fabs(v) + p->size) / STEP * narrow * fabs(a->factor);
            want = slope(p, &s[i].d, &at, STEP / narrow) * a->factor;
            settles = fabs(want - before) <= fmax(apart / 8, room) + 8 * noise;
            apart = fabs(want - before);
            before = want;
            if (fabs(g - want) <= room + noise) want = g;
        }
        if (!settles && p->kinks && isfinite(g) && !(fabs(g - want) <= room)) {
            rough++;
            continue;
        }
        if (p->kinks && a->factor != 0 && isfinite(g) && !(fabs(g - want) <= room) &&
            at_corner(p, &s[i].d, &at, g / a->factor, room / fabs(a->factor))) {
            rough++;
            continue;
        }
        MC_CHECK(fabs(g - want) <= room, "%s: gradient of %s[%zu] %.9g, the reference %.9g, within %.2g", p->what, a->name,
                 s[i].d.i, g / a->step, want / a->step, room / a->step);
    }
    MC_CHECK(rough * 2 <= count, "%s: %zu of %zu elements have no derivative", p->what, rough, count);
    /* Along random directions every element counts. */
    int own = 1;
    for (size_t k = 0; k < p->arrays; k++) {
        if (!p->array[k].grad) continue;
        all += p->array[k].n, own &= p->array[k].factor == 1;
        extra += (16 + (double)p->longest / 16) * U * p->array[k].more * (double)p->array[k].n;
    }
    for (uint64_t t = 1; t <= 2 && all && own && !p->kinks; t++) {
        direction d = { NULL, 0, p->seed * 4 + t };
        kdtest_rand r = { d.seed };
        double sum = 0;
        for (size_t k = 0; k < p->arrays; k++)
            for (size_t i = 0; i < p->array[k].n; i++) {
                double sign = kdtest_bits(&r) & 1u ? 1 : -1;
                if (p->array[k].grad) sum += sign * p->array[k].step * (double)p->array[k].grad[i];
            }
        /* all elements move at once: the function bends as many times faster */
        double want = slope(p, &d, &at, STEP / sqrt((double)all) / 2), bound = grad_tol * (double)all + extra;
        bound += 1e-15 * (fabs(v) + p->size) / STEP * sqrt((double)all);
        if (!(fabs(sum - want) <= bound)) {
            want = slope(p, &d, &at, STEP / sqrt((double)all) / 64);
            bound += 1e-15 * (fabs(v) + p->size) / STEP * sqrt((double)all) * 64;
        }
        MC_CHECK(fabs(sum - want) <= bound, "%s: slope along direction %d %.9g, the reference %.9g, within %.2g", p->what,
                 (int)t, sum, want, bound);
    }
    drop(p, &at);
    return tol;
}

static kd_context *contexts[MC_CONTEXTS];
static size_t context_count;

size_t mc_contexts(kd_context *out[MC_CONTEXTS])
{
    static const uint32_t threads[] = { 1, 2, 3, 7 };
    uint32_t isas[5];
    if (!context_count)
        for (size_t i = 0, n = kdtest_isas(isas); i < n; i++)
            for (size_t t = 0; t < 4; t++)
                if (t == 0 || i + 1 == n || kdtest_full()) contexts[context_count++] = kdtest_context(threads[t], isas[i]);
    memcpy(out, contexts, sizeof contexts);
    return context_count;
}

void mc_contexts_free(void)
{
    for (size_t i = 0; i < context_count; i++) kd_context_free(contexts[i]);
    context_count = 0;
}

int mc_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return 0;
    return 1;
}

int mc_equal(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(a[i] == b[i])) return 0;
    return 1;
}
