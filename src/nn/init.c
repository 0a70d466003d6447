/* init.c - how parameters begin.
 *
 * Each parameter draws from a stream of its own, named by its path: split(seed, hash of "layer1.0.conv1.weight"), so adding,
 * removing or reordering layers changes no other.  Number i of a parameter is a function of (stream, i) alone.
 * SPDX-License-Identifier: MIT */
#include "nn/nn.h"
#include <math.h>

enum { GRAIN = 4096, MAX_REDRAWS = 100 };

typedef struct fill_job {
    float  *out;
    size_t  count;
    kd_rng  rng;
    double  lo, hi;        /* uniform */
    double  mean, std;     /* normal  */
} fill_job;

/* FNV-1a. */
static uint64_t name_hash(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *text; text++) hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    return hash;
}

static void fill_uniform(size_t begin, size_t end, void *arg)
{
    fill_job *job = arg;
    kd_rng rng = { job->rng.key, begin };
    kd__rng_fill_uniform(&rng, job->out + begin, end - begin);
    for (size_t i = begin; i < end; i++) {
        float v = (float)(job->lo + (job->hi - job->lo) * (double)job->out[i]);
        job->out[i] = v < (float)job->hi ? v : (float)job->lo;   /* rounding may reach the open end */
    }
}

static void fill_normal(size_t begin, size_t end, void *arg)
{
    fill_job *job = arg;
    kd_rng rng = { job->rng.key, 2 * begin };
    for (size_t i = begin; i < end; i++) job->out[i] = (float)(job->mean + job->std * (double)kd_rng_normal(&rng));
}

/* Redraw t of number i is number t * count + i of the stream. */
static void fill_truncated(size_t begin, size_t end, void *arg)
{
    fill_job *job = arg;
    for (size_t i = begin; i < end; i++) {
        float z = 3.0f;
        for (size_t t = 0; t < MAX_REDRAWS && !(z >= -2.0f && z <= 2.0f); t++) {
            kd_rng rng = { job->rng.key, 2 * (t * job->count + i) };
            z = kd_rng_normal(&rng);
        }
        job->out[i] = (float)(job->mean + job->std * (double)z);
    }
}

static void fill_constant(float *out, size_t n, float value)
{
    for (size_t i = 0; i < n; i++) out[i] = value;
}

kd_status kd__init_check(const char *function, kd__init init)
{
    double a = (double)init.a, b = (double)init.b;
    if (init.kind < KD_INIT_ZEROS || init.kind > KD_INIT_FAN_IN_UNIFORM)
        return kd__fail(KD_ERR_ARG, "%s: init %u is no KD_INIT_*", function, init.kind);
    if (!isfinite(a) || !isfinite(b)) return kd__fail(KD_ERR_ARG, "%s: a %g, b %g: must be finite", function, a, b);
    switch (init.kind) {
    case KD_INIT_UNIFORM:
        if (a > b) return kd__fail(KD_ERR_ARG, "%s: uniform from %g to %g", function, a, b);
        break;
    case KD_INIT_NORMAL:
    case KD_INIT_TRUNC_NORMAL:
        if (b < 0) return kd__fail(KD_ERR_ARG, "%s: standard deviation %g is negative", function, b);
        break;
    case KD_INIT_KAIMING_NORMAL:
        if (b != 0 && b != 1) return kd__fail(KD_ERR_ARG, "%s: b %g: 0 (fan in) or 1 (fan out)", function, b);
        break;
    case KD_INIT_XAVIER_UNIFORM:
    case KD_INIT_XAVIER_NORMAL:
    case KD_INIT_FAN_IN_UNIFORM:
        if (a < 0) return kd__fail(KD_ERR_ARG, "%s: gain %g is negative", function, a);
        break;
    default: break;
    }
    return KD_OK;
}

void kd__init_fill(kd_context *ctx, const kd__param *param, kd__init init, uint64_t seed)
{
    const kd_rng of_seed = kd_rng_make(seed);
    const double a = (double)init.a, b = (double)init.b;
    const double fan_in = (double)param->fan_in, fan_out = (double)param->fan_out;
    const double gain = sqrt(2.0 / (1.0 + a * a));
    fill_job job = { .out = param->tensor.data, .count = param->tensor.count,
                     .rng = kd_rng_split(&of_seed, name_hash(param->path)), .mean = a, .std = b };
    void (*fill)(size_t, size_t, void *) = fill_uniform;
    double bound = 0.0;
    switch (init.kind) {
    case KD_INIT_ZEROS: fill_constant(job.out, job.count, 0.0f); return;
    case KD_INIT_ONES: fill_constant(job.out, job.count, 1.0f); return;
    case KD_INIT_CONSTANT: fill_constant(job.out, job.count, init.a); return;
    case KD_INIT_NORMAL: fill = fill_normal; break;
    case KD_INIT_TRUNC_NORMAL: fill = fill_truncated; break;
    case KD_INIT_KAIMING_UNIFORM: bound = gain * sqrt(3.0 / fan_in); break;
    case KD_INIT_KAIMING_NORMAL:
    case KD_INIT_XAVIER_NORMAL:
        fill = fill_normal;
        job.mean = 0.0;
        job.std = init.kind == KD_INIT_XAVIER_NORMAL ? a * sqrt(2.0 / (fan_in + fan_out))
                                                     : gain / sqrt(init.b == 1.0f ? fan_out : fan_in);
        break;
    case KD_INIT_XAVIER_UNIFORM: bound = a * sqrt(6.0 / (fan_in + fan_out)); break;
    case KD_INIT_FAN_IN_UNIFORM: bound = a / sqrt(fan_in); break;
    default: break;
    }
    job.lo = init.kind == KD_INIT_UNIFORM ? a : -bound;
    job.hi = init.kind == KD_INIT_UNIFORM ? b : bound;
    kd__parallel_range(ctx, job.count, GRAIN, fill, &job);
}
