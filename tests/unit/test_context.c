/* test_context.c - making contexts, the environment, the log, life and death, processors that we do not have.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "cpu/cpu.h"
#include "tensor/tensor.h"
#include "kdtest.h"
#include <signal.h>
#include <stdlib.h>

static kd_context_desc desc_of(void)
{
    kd_context_desc desc;
    kd_context_desc_init(&desc, sizeof desc);
    return desc;
}

TEST(defaults)
{
    kd_context_desc desc;
    memset(&desc, 0xff, sizeof desc);
    kd_context_desc_init(&desc, sizeof desc);
    CHECK(desc.struct_size == sizeof desc && desc.log_level == KD_LOG_WARN && desc.isa == KD_ISA_AUTO);
    CHECK(!desc.threads && !desc.reserved && !desc.log && !desc.parallel && !desc.allocator.alloc && !desc.allocator.free);
    kd_context *ctx;
    CHECK_OK(kd_context_create(&ctx, &desc));
    CHECK(kd_context_threads(ctx) >= 1 && kd_context_threads(ctx) <= 256);
    kd_context_free(ctx);
    CHECK_OK(kd_context_create(&ctx, NULL));
    kd_context_free(ctx);
    kd_context_free(NULL);
    CHECK(kd_context_threads(NULL) >= 1);
    CHECK(strcmp(kd_context_isa(NULL), "auto") != 0);
}

static void *no_alloc(size_t bytes, size_t align, void *user)
{
    (void)bytes;
    (void)align;
    (void)user;
    return NULL;
}

static void no_free(void *ptr, size_t bytes, void *user)
{
    (void)ptr;
    (void)bytes;
    (void)user;
}

static void refused(const kd_context_desc *desc, kd_status want, const char *part)
{
    kd_context *ctx = (kd_context *)&ctx;
    CHECK_STATUS(kd_context_create(&ctx, desc), want);
    CHECK(!ctx);
    CHECK_ERROR_HAS(part);
}

TEST(bad_descriptions)
{
    CHECK_STATUS(kd_context_create(NULL, NULL), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_context_create: out is NULL");
    kd_context_desc desc = desc_of();
    desc.allocator.alloc = no_alloc;
    refused(&desc, KD_ERR_ARG, "allocator: free is NULL");
    desc.allocator.free = no_free;
    refused(&desc, KD_ERR_NOMEM, "out of memory");
    desc.allocator.alloc = NULL;
    refused(&desc, KD_ERR_ARG, "allocator: alloc is NULL");
    desc = desc_of();
    desc.log_level = 5;
    refused(&desc, KD_ERR_ARG, "log_level: 5");
    desc = desc_of();
    desc.isa = 5;
    refused(&desc, KD_ERR_ARG, "isa: 5");
    desc = desc_of();
    desc.reserved = 1;
    refused(&desc, KD_ERR_ARG, "reserved");
    desc = desc_of();
    desc.struct_size = 0;
    refused(&desc, KD_ERR_ARG, "kd_context_desc_init()");
    struct { kd_context_desc desc; uint64_t newer; } larger = { desc_of(), 1 };
    larger.desc.struct_size = sizeof larger;
    refused(&larger.desc, KD_ERR_VERSION, "byte");
}

TEST(threads_are_clamped)
{
    kd_context_desc desc = desc_of();
    kd_context *ctx;
    desc.threads = 10000;
    CHECK_OK(kd_context_create(&ctx, &desc));
    CHECK(kd_context_threads(ctx) == 256);
    kd_context_free(ctx);
    desc.threads = 3;
    CHECK_OK(kd_context_create(&ctx, &desc));
    CHECK(kd_context_threads(ctx) == 3);
    kd_context_free(ctx);
}

static char   logged[600];
static size_t logged_lines;
static uint32_t logged_level;

static void keep(uint32_t level, const char *text, void *user)
{
    snprintf(logged, sizeof logged, "%s", text);
    logged_level = level;
    logged_lines++;
    *(int *)user += 1;
}

TEST(environment)
{
    char *old = getenv("KD_NUM_THREADS"), *old_isa = getenv("KD_ISA");
    old = old ? strdup(old) : NULL;
    old_isa = old_isa ? strdup(old_isa) : NULL;
    int calls = 0;
    kd_context_desc desc = desc_of();
    desc.log = keep;
    desc.log_user = &calls;
    kd_context *ctx;
    static const struct { const char *text; uint32_t threads; } counts[] = { { "5", 5 }, { "256", 256 }, { "99999999999", 256 } };
    for (size_t i = 0; i < KD_COUNT(counts); i++) {
        setenv("KD_NUM_THREADS", counts[i].text, 1);
        CHECK_OK(kd_context_create(&ctx, &desc));
        setenv("KD_NUM_THREADS", "1", 1);   /* read once */
        CHECK(kd_context_threads(ctx) == counts[i].threads);
        kd_context_free(ctx);
    }
    static const char *const junk[] = { "0", "-1", "two", "4 ", "99999999999999999999999" };
    for (size_t i = 0; i < KD_COUNT(junk); i++) {
        setenv("KD_NUM_THREADS", junk[i], 1);
        CHECK_OK(kd_context_create(&ctx, &desc));
        CHECK(strstr(logged, "KD_NUM_THREADS") && strstr(logged, junk[i]) && logged_level == KD_LOG_WARN);
        kd_context_free(ctx);
    }
    desc.threads = 2;   /* what the program says wins */
    setenv("KD_NUM_THREADS", "7", 1);
    CHECK_OK(kd_context_create(&ctx, &desc));
    CHECK(kd_context_threads(ctx) == 2);
    kd_context_free(ctx);

    setenv("KD_ISA", "scalar", 1);
    CHECK_OK(kd_context_create(&ctx, &desc));
    CHECK_STR(kd_context_isa(ctx), "scalar");
    kd_context_free(ctx);
    setenv("KD_ISA", "sse9", 1);
    logged[0] = 0;
    CHECK_OK(kd_context_create(&ctx, &desc));
    CHECK(strstr(logged, "sse9"));
    kd_context_free(ctx);

    if (old) setenv("KD_NUM_THREADS", old, 1);
    else unsetenv("KD_NUM_THREADS");
    if (old_isa) setenv("KD_ISA", old_isa, 1);
    else unsetenv("KD_ISA");
    free(old);
    free(old_isa);
}

TEST(levels_only_go_down)
{
    kd_context *best = kdtest_context(1, KD_ISA_AUTO);
    (void)best;
    for (uint32_t cap = KD_ISA_SCALAR; cap <= KD_ISA_AVX512; cap++) {
        kd_context_desc desc = desc_of();
        desc.isa = cap;
        kd_context *ctx;
        CHECK_OK(kd_context_create(&ctx, &desc));
        uint32_t got = 0;
        for (uint32_t i = KD_ISA_SCALAR; i <= KD_ISA_AVX512; i++)
            if (strcmp(kd_context_isa(ctx), kdtest_isa_name(i)) == 0) got = i;
        CHECK_MSG(got >= KD_ISA_SCALAR && got <= cap && got <= kd__cpu_level(), "cap %s gives %s", kdtest_isa_name(cap),
                  kd_context_isa(ctx));
        CHECK(ctx->kernels == kd__kernels_for(got));
        kd_context_free(ctx);
    }
    kd_context_free(best);
    uint32_t isas[5];
    CHECK(kdtest_isas(isas) >= 1 && isas[0] == KD_ISA_SCALAR);
    CHECK(!kd__kernels_for(0) && !kd__kernels_for(99));
}

/* What the runner knows of this machine: check_all.sh plays several. */
TEST(level_of_this_machine)
{
    const char *want = getenv("KD_TEST_LEVEL");
    if (want) CHECK_STR(kdtest_isa_name(kd__cpu_level()), want);
}

TEST(log_levels)
{
    int calls = 0;
    kd_context_desc desc = desc_of();
    desc.log = keep;
    desc.log_user = &calls;
    desc.log_level = KD_LOG_INFO;
    desc.threads = 1;
    kd_context *ctx;
    CHECK_OK(kd_context_create(&ctx, &desc));
    calls = 0;
    kd__log(ctx, KD_LOG_INFO, "epoch %d: loss %.3f", 3, 0.25);
    CHECK(calls == 1 && logged_level == KD_LOG_INFO);
    CHECK_STR(logged, "epoch 3: loss 0.250");
    kd__log(ctx, KD_LOG_DEBUG, "hidden");
    CHECK(calls == 1);
    kd__log(NULL, KD_LOG_ERROR, "the default context is silent");
    CHECK(calls == 1);
    kd_context_free(ctx);
}

TEST(objects_keep_it_alive)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 2, KD_ISA_AUTO);
    CHECK(kd__context_retain(a.ctx) == a.ctx);
    kd__scratch_put(a.ctx, kd__scratch_get(a.ctx, 1000));
    kd_context *ctx = a.ctx;
    kd_context_free(ctx);
    CHECK(a.live > 0);
    void *p = kd__alloc(ctx, 10);
    kd__free(ctx, p);
    kd__context_release(ctx);
    CHECK(a.live == 0);
    kd_context *standard = kd__context_retain(NULL);
    CHECK(standard == kd__context(NULL) && standard->is_default);
    kd__context_release(standard);
    kd__context_release(NULL);
}

static kd_context *to_cancel;

static void on_signal(int sig)
{
    (void)sig;
    kd_context_cancel(to_cancel);
}

TEST(cancel)
{
    kd_context *ctx = kdtest_context(1, KD_ISA_AUTO);
    CHECK(kd_context_cancelled(ctx) == 0);
    to_cancel = ctx;
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
    signal(SIGUSR1, SIG_DFL);
    CHECK(kd_context_cancelled(ctx) == 1);
    CHECK(kd_context_cancelled(NULL) == 0);
    kd_context_resume(ctx);
    CHECK(kd_context_cancelled(ctx) == 0);
    kd_context_cancel(NULL);
    CHECK(kd_context_cancelled(NULL) == 1);
    kd_context_resume(NULL);
    kd_context_free(ctx);
}

static void count_task(size_t i, void *arg)
{
    (void)i;
    atomic_fetch_add((_Atomic int *)arg, 1);
}

TEST(shut_down_and_on_again)
{
    for (int i = 0; i < 3; i++) {
        _Atomic int n = 0;
        kd__parallel(NULL, 10, count_task, &n);
        CHECK(n == 10);
        kd__scratch_put(NULL, kd__scratch_get(NULL, 100));
        kd_shutdown();
        kd_shutdown();
        CHECK(!kd__context(NULL)->scratch && !kd__context(NULL)->pool);
    }
}

/* Registers as processors and operating systems show them. */
TEST(processors)
{
    static const struct { const char *what; kd__cpuid id; uint32_t level; } machines[] = {
        { "no CPUID leaf 7", { 6, 0xffffffff, 0xffffffff, 0xff }, KD_ISA_SCALAR },
        { "Core 2 (Penryn)", { 10, 0x0008e3fd, 0, 0 }, KD_ISA_SCALAR },
        { "Sandy Bridge: AVX alone", { 13, 0x1fbae3ff, 0, 7 }, KD_ISA_SCALAR },
        { "Haswell", { 13, 0x7ffafbff, 0x000027ab, 7 }, KD_ISA_AVX2 },
        { "Haswell, OS without YMM state", { 13, 0x7ffafbff, 0x000027ab, 3 }, KD_ISA_SCALAR },
        { "Haswell, OS without XSAVE", { 13, 0x77fafbff, 0x000027ab, 0 }, KD_ISA_SCALAR },
        { "Haswell, FMA masked by a hypervisor", { 13, 0x7ffaebff, 0x000027ab, 7 }, KD_ISA_SCALAR },
        { "Haswell, BMI2 masked", { 13, 0x7ffafbff, 0x000026ab, 7 }, KD_ISA_SCALAR },
        { "Skylake-SP", { 22, 0x7ffefbff, 0xd39ffffb, 0xe7 }, KD_ISA_AVX512 },
        { "Skylake-SP, OS without ZMM state", { 22, 0x7ffefbff, 0xd39ffffb, 7 }, KD_ISA_AVX2 },
        { "Skylake-SP, OS without the mask registers", { 22, 0x7ffefbff, 0xd39ffffb, 0xc7 }, KD_ISA_AVX2 },
        { "Knights Landing: F and CD, no BW DQ VL", { 13, 0x7ff8f3ff, 0x1c0d23ab, 0xe7 }, KD_ISA_AVX2 },
        { "Zen 3", { 16, 0x7ef8320b, 0x219c97a9, 0x207 }, KD_ISA_AVX2 },
        { "Zen 4", { 16, 0x7ef8320b, 0xf1bf97a9, 0x2e7 }, KD_ISA_AVX512 },
    };
    for (size_t i = 0; i < KD_COUNT(machines); i++) {
        uint32_t got = kd__cpu_level_of(&machines[i].id);
        CHECK_MSG(got == machines[i].level, "%s: %s, wanted %s", machines[i].what, kdtest_isa_name(got),
                  kdtest_isa_name(machines[i].level));
    }
    /* no single missing bit may go unnoticed */
    const kd__cpuid zen4 = { 16, 0x7ef8320b, 0xf1bf97a9, 0x2e7 };
    static const int leaf1[] = { 12, 27, 28, 29 }, leaf7[] = { 5, 8, 16, 17, 28, 30, 31 }, xcr0[] = { 1, 2, 5, 6, 7 };
    for (size_t i = 0; i < KD_COUNT(leaf1); i++) {
        kd__cpuid id = zen4;
        id.leaf1_ecx &= ~(1u << leaf1[i]);
        CHECK(kd__cpu_level_of(&id) == KD_ISA_SCALAR);
    }
    for (size_t i = 0; i < KD_COUNT(leaf7); i++) {
        kd__cpuid id = zen4;
        id.leaf7_ebx &= ~(1u << leaf7[i]);
        CHECK(kd__cpu_level_of(&id) == (leaf7[i] < 16 ? KD_ISA_SCALAR : KD_ISA_AVX2));
    }
    for (size_t i = 0; i < KD_COUNT(xcr0); i++) {
        kd__cpuid id = zen4;
        id.xcr0 &= ~(1ull << xcr0[i]);
        CHECK(kd__cpu_level_of(&id) == (xcr0[i] < 5 ? KD_ISA_SCALAR : KD_ISA_AVX2));
    }
}

/* Leaf 4 of a Haswell: first-level data and instructions, second, third level. */
TEST(cache_sizes)
{
    static const uint32_t leaves[][4] = { { 0x1c004121, 0x01c0003f, 0x0000003f, 0 }, { 0x1c004122, 0x01c0003f, 0x0000007f, 0 },
                                          { 0x1c004143, 0x01c0003f, 0x000001ff, 0 }, { 0x1c03c163, 0x03c0003f, 0x00001fff, 6 } };
    kd__caches found = { 0 };
    for (size_t i = 0; i < KD_COUNT(leaves); i++) kd__caches_add(&found, leaves[i]);
    CHECK(found.l1 == 32u << 10 && found.l2 == 256u << 10 && found.l3 == 8u << 20);
    const kd__caches none = kd__caches_held((kd__caches){ 0 }), odd = kd__caches_held((kd__caches){ 1, SIZE_MAX, 2 });
    CHECK(none.l1 == 32u << 10 && none.l2 == 512u << 10 && none.l3 == 8u << 20);
    CHECK(odd.l1 >= 8u << 10 && odd.l2 <= 8u << 20 && odd.l3 >= odd.l2);
    kd_context *ctx;
    CHECK_OK(kd_context_create(&ctx, NULL));
    CHECK(ctx->caches.l1 && ctx->caches.l2 >= ctx->caches.l1 && ctx->caches.l3 >= ctx->caches.l2);
    kd_context_free(ctx);
}

/* Block sizes follow the caches; results do not. */
TEST(cache_sizes_change_no_bit)
{
    enum { M = 150, N = 140, K = 300 };
    static float a[M * K], b[K * N], c[2][M * N];
    kdtest_rand r = { 8 };
    kdtest_fill(&r, a, M * K, 1.0), kdtest_fill(&r, b, K * N, 1.0);
    for (int i = 0; i < 2; i++) {
        kd_context *ctx;
        CHECK_OK(kd_context_create(&ctx, NULL));
        ctx->caches = i ? (kd__caches){ 8u << 10, 128u << 10, 128u << 10 } : (kd__caches){ 256u << 10, 8u << 20, 1u << 30 };
        CHECK_OK(kd__gemm(ctx, &(kd__gemm_args){ .m = M, .n = N, .k = K, .a = a, .a_stride = K, .b = b, .b_stride = N, .c = c[i],
                                                 .c_stride = N }));
        kd_context_free(ctx);
    }
    CHECK(!memcmp(c[0], c[1], sizeof c[0]));
}
