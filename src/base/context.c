/* context.c - where things live and how work is run; the process default.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "base/thread.h"
#include <stdlib.h>

enum { MAX_THREADS = 256 };

static const kd_context_desc desc_defaults = { .struct_size = sizeof(kd_context_desc), .log_level = KD_LOG_WARN };

void kd_context_desc_init(kd_context_desc *desc, size_t struct_size)
{
    kd__desc_write(desc, struct_size, &desc_defaults, sizeof desc_defaults);
}

/* ---- what the environment says --------------------------------------------------------------------- */

static uint32_t choose_threads(kd_context *ctx, uint32_t asked)
{
#ifdef KD_NO_THREADS
    (void)ctx, (void)asked;
    return 1;
#else
    if (!asked) {
        const char *text = getenv("KD_NUM_THREADS");
        uint64_t n;
        if (text && *text) {
            if (kd__parse_u64(text, text + strlen(text), &n) && n) asked = (uint32_t)KD_MIN(n, (uint64_t)MAX_THREADS);
            else kd__log(ctx, KD_LOG_WARN, "KD_NUM_THREADS is \"%.40s\", not a count from 1 on: ignored", text);
        }
    }
    if (!asked) asked = kd__system_cpus();
    return KD_MAX(1u, KD_MIN(asked, (uint32_t)MAX_THREADS));
#endif
}

static const char *const isa_names[] = { "auto", "scalar", "neon", "avx2", "avx512" };

static uint32_t choose_cap(kd_context *ctx, uint32_t asked)
{
    const char *text = getenv("KD_ISA");
    if (asked != KD_ISA_AUTO || !text || !*text) return asked;
    for (uint32_t i = KD_ISA_SCALAR; i < KD_COUNT(isa_names); i++)
        if (strcmp(text, isa_names[i]) == 0) return i;
    kd__log(ctx, KD_LOG_WARN, "KD_ISA is \"%.40s\", not scalar, neon, avx2 or avx512: ignored", text);
    return KD_ISA_AUTO;
}

/* From a checked description; the environment is read here. */
static void set_up(kd_context *ctx, const kd_context_desc *desc)
{
    kd__fork_watch();
    ctx->allocator = desc->allocator;
    if (!ctx->allocator.alloc) ctx->allocator = (kd_allocator){ kd__system_alloc, kd__system_free, NULL };
    ctx->log = desc->log;
    ctx->log_user = desc->log_user;
    ctx->log_level = desc->log_level;
    ctx->parallel = desc->parallel;
    ctx->parallel_user = desc->parallel_user;
    ctx->threads = choose_threads(ctx, desc->threads);
    ctx->kernels = kd__cpu_kernels(choose_cap(ctx, desc->isa), &ctx->isa, &ctx->caches);
}

/* ---- the process default ----------------------------------------------------------------------------- */

static kd_context     default_context = { .is_default = true };
static kd__once       default_once = KD__ONCE_INIT;

static void make_default(void) { set_up(&default_context, &desc_defaults); }

/* Without setting up the default: the cancel flag must be reachable from a signal handler. */
static kd_context *resolve(const kd_context *ctx)
{
    return ctx ? (kd_context *)(uintptr_t)ctx : &default_context;
}

kd_context *kd__context(const kd_context *ctx)
{
    if (!ctx) kd__call_once(&default_once, make_default);
    return resolve(ctx);
}

kd_context *kd__context_retain(const kd_context *ctx)
{
    kd_context *c = kd__context(ctx);
    atomic_fetch_add_explicit(&c->references, 1, memory_order_relaxed);
    return c;
}

void kd__context_release(kd_context *ctx)
{
    if (!ctx || atomic_fetch_sub_explicit(&ctx->references, 1, memory_order_acq_rel) != 1 || ctx->is_default) return;
    kd__pool_free(ctx);
    kd__scratch_free(ctx);
    kd_allocator allocator = ctx->allocator;
    allocator.free(ctx, sizeof *ctx, allocator.user);
}

void kd_shutdown(void)
{
    kd_context *ctx = kd__context(NULL);
    kd__pool_free(ctx);
    kd__scratch_free(ctx);
}

/* ---- public ------------------------------------------------------------------------------------------ */

kd_status kd_context_create(kd_context **out, const kd_context_desc *desc)
{
    KD_NEED(out);
    *out = NULL;
    kd_context_desc own = desc_defaults;
    KD_TRY(kd__desc_read(&own, sizeof own, desc, "kd_context_desc"));
    if (!own.allocator.alloc != !own.allocator.free)
        return kd__fail(KD_ERR_ARG, "kd_context_create: allocator: %s is NULL, the other is set",
                        own.allocator.alloc ? "free" : "alloc");
    if (own.log_level > KD_LOG_DEBUG)
        return kd__fail(KD_ERR_ARG, "kd_context_create: log_level: %u is beyond KD_LOG_DEBUG (4)", own.log_level);
    if (own.isa > KD_ISA_AVX512)
        return kd__fail(KD_ERR_ARG, "kd_context_create: isa: %u is no KD_ISA_*", own.isa);
    if (own.reserved) return kd__fail(KD_ERR_ARG, "kd_context_create: reserved: %u, must be 0", own.reserved);

    kd_context start = { .references = 1 };
    set_up(&start, &own);
    kd_context *ctx = start.allocator.alloc(sizeof *ctx, KD_ALIGN, start.allocator.user);
    if (!ctx) return kd__fail(KD_ERR_NOMEM, "kd_context_create: out of memory: %zu bytes", sizeof *ctx);
    memcpy(ctx, &start, sizeof *ctx);
    *out = ctx;
    return KD_OK;
}

void kd_context_free(kd_context *ctx) { kd__context_release(ctx); }

uint32_t kd_context_threads(const kd_context *ctx) { return kd__context(ctx)->threads; }

const char *kd_context_isa(const kd_context *ctx) { return isa_names[kd__context(ctx)->isa]; }

void kd_context_cancel(kd_context *ctx) { atomic_store(&resolve(ctx)->cancelled, 1); }

void kd_context_resume(kd_context *ctx) { atomic_store(&resolve(ctx)->cancelled, 0); }

int32_t kd_context_cancelled(const kd_context *ctx) { return atomic_load(&resolve(ctx)->cancelled) != 0; }
