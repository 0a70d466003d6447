/* test_host.c - whole scenarios inside hosts of every kind: small stacks, other floating-point states, storms of signals, another
 * locale, no standard streams, too many threads or too little memory, loops of the host's own.  The result is the same each
 * time, and the host is left as it was.
 * SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "base/base.h"
#include "base/platform.h"
#include "scenario.h"
#include <dirent.h>
#include <errno.h>
#include <fenv.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* Beside the scenarios, which are small, one with work for several threads: two steps of a convolutional student. */
static kd_status images(kd_context *ctx, uint64_t *hash)
{
    enum { N = 32, SIDE = 16 };
    static uint8_t pixels[N * SIDE * SIDE];   /* the same from whichever thread writes them */
    static _Atomic int filled;
    int32_t labels[N];
    kd_dataset *data = NULL;
    kd_loader *batches = NULL;
    kd_model *teacher = NULL, *student = NULL;
    kd_loss_distill *loss = NULL;
    kd_optimizer *opt = NULL;
    kd_tape *look = NULL, *learn = NULL;
    kd_tensor *x, *y;
    kd_cnn_desc net;
    kd_loader_desc order;
    kd_optimizer_desc adam;
    kd_status st = KD_OK;
    if (!filled) {
        kdtest_rand r = { 9 };
        for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)kdtest_bits(&r);
        filled = 1;
    }
    for (int i = 0; i < N; i++) labels[i] = i % 10;
    kd_cnn_desc_init(&net, sizeof net);
    net.height = net.width = SIDE;
    kd_loader_desc_init(&order, sizeof order);
    order.batch = N;
    order.shift = 1;
    kd_optimizer_desc_init(&adam, sizeof adam);
    adam.method = KD_OPT_ADAM;
    adam.lr = 1e-3f;
#define GO(call) if ((st = (call)) != KD_OK) goto done
    GO(kd_dataset_wrap(&data, ctx, KD_U8, N, 3, (size_t[]){ SIDE, SIDE, 1 }, pixels, labels));
    GO(kd_loader_create(&batches, ctx, data, &order));
    GO(kd_zoo_cnn(&teacher, ctx, &net, 1));
    kd_model_freeze(teacher, 1);
    net.batch_norm = 1;
    GO(kd_zoo_cnn(&student, ctx, &net, 2));
    GO(kd_loss_distill_create(&loss, ctx, NULL));
    GO(kd_optimizer_create(&opt, ctx, &adam));
    GO(kd_optimizer_add(opt, student));
    GO(kd_tape_create(&look, ctx, KD_TAPE_INFER));
    GO(kd_tape_create(&learn, ctx, KD_TAPE_TRAIN));
    for (int step = 0; step < 2; step++) {
        while ((st = kd_loader_next(batches, &x, &y)) == KD_END) {}
        if (st != KD_OK) goto done;
        kd_tensor *t = kd_model_forward(teacher, look, x), *s = kd_model_forward(student, learn, x);
        GO(kd_backward(learn, kd_loss_distill_apply(loss, learn, s, t, y)));
        GO(kd_optimizer_step(opt));
        kd_tape_reset(look);
        kd_tape_reset(learn);
    }
    *hash = kd_model_hash(student);
#undef GO
done:
    kd_tape_free(learn);
    kd_tape_free(look);
    kd_optimizer_free(opt);
    kd_loss_distill_free(loss);
    kd_model_free(student);
    kd_model_free(teacher);
    kd_loader_free(batches);
    kd_dataset_free(data);
    return st;
}

static const scenario *whole(size_t k)
{
    static const scenario large = { "images", images, 3, 0 };
    return k < scenario_count ? &scenarios[k] : &large;
}
static size_t whole_count(void) { return scenario_count + 1; }

static uint64_t wanted[64];

static int no_sync(int fd)
{
    (void)fd;
    return 0;
}

static int no_sync_dir(const char *path)
{
    (void)path;
    return 0;
}

/* What each scenario comes to, with nothing odd about the host. */
static void prepare(void)
{
    if (wanted[0]) return;
    scenario_files();
    kd__io_table.sync = no_sync;   /* slow, and not what is tested here */
    kd__io_table.sync_dir = no_sync_dir;
    if (!CHECK(whole_count() <= KD_COUNT(wanted))) abort();
    for (size_t k = 0; k < whole_count(); k++) {
        kd_context *ctx = kdtest_context(whole(k)->threads, KD_ISA_AUTO);
        CHECK_MSG(whole(k)->run(ctx, &wanted[k]) == KD_OK, "%s: %s", whole(k)->name, kd_last_error());
        kd_context_free(ctx);
    }
}

/* Does scenario k come to the usual result? */
static int as_ever(size_t k, kd_context *ctx, const char *host)
{
    uint64_t hash = 0;
    kd_status st = whole(k)->run(ctx, &hash);
    return CHECK_MSG(st == KD_OK && hash == wanted[k], "%s, %s: %s", whole(k)->name, host,
                     st == KD_OK ? "another result" : kd_last_error());
}

static void all_as_ever(kd_context *ctx, const char *host)
{
    for (size_t k = 0; k < whole_count(); k++) as_ever(k, ctx, host);
}

static kd_context *context_of(uint32_t threads, kd_parallel_fn parallel, void *user)
{
    kd_context_desc desc;
    kd_context *ctx = NULL;
    kd_context_desc_init(&desc, sizeof desc);
    desc.threads = threads;
    desc.parallel = parallel;
    desc.parallel_user = user;
    CHECK_OK(kd_context_create(&ctx, &desc));
    return ctx;
}

static size_t threads_alive(void)
{
    size_t n = 0;
    DIR *dir = opendir("/proc/self/task");
    if (!dir) return 0;
    while (readdir(dir)) n++;
    closedir(dir);
    return n - 2;
}

/* What `run` says in a child: 0 is good. */
static int in_child(int (*run)(void *arg), void *arg)
{
    int status = -1;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        int code = run(arg);
        fflush(NULL);
        _exit(code);
    }
    for (int i = 0; i < 60000; i++) {
        if (waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
        usleep(1000);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return 2000;
}

/* ---- stacks, threads that come and go ---------------------------------------------------------------------- */

#ifndef KDTEST_SANITIZED
static void *all_in_a_thread(void *arg)
{
    all_as_ever(arg, "in a thread with a small stack");
    return NULL;
}
#endif

/* 128 KB: what a thread has under musl. */
TEST(small_stacks)
{
#ifdef KDTEST_SANITIZED
    kdtest_skip("a sanitizer's frames are larger");
#else
    prepare();
    pthread_attr_t attr;
    pthread_t id;
    pthread_attr_init(&attr);
    CHECK(pthread_attr_setstacksize(&attr, 128 << 10) == 0);
    kd_context *ctx = kdtest_context(3, KD_ISA_AUTO);
    CHECK(pthread_create(&id, &attr, all_in_a_thread, ctx) == 0);
    pthread_join(id, NULL);
    kd_context_free(ctx);
    pthread_attr_destroy(&attr);
#endif
}

static size_t resident_kb(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    size_t all = 0, resident = 0;
    if (!f) return 0;
    if (fscanf(f, "%zu %zu", &all, &resident) != 2) resident = 0;
    fclose(f);
    return resident * (size_t)sysconf(_SC_PAGESIZE) / 1024;
}

static void *one_in_a_thread(void *arg)
{
    size_t k = *(size_t *)arg;
    kd_status st = kd_context_create(NULL, NULL);   /* an error text of this thread's own */
    CHECK(st == KD_ERR_ARG && *kd_last_error());
    as_ever(k, NULL, "in a thread that ends");
    return NULL;
}

TEST(threads_come_and_go)
{
    if (kdtest_emulated()) {
        kdtest_skip("the memory of an emulator is not ours");
        return;
    }
    prepare();
    size_t chosen[2] = { whole_count() - 1, 0 }, n = kdtest_full() ? 2000 : 100, before = 0, alive = 0;
    while (strcmp(whole(chosen[1])->name, "train_sgd") != 0) chosen[1]++;
    for (size_t i = 0; i < n; i++) {
        pthread_t id;
        CHECK(pthread_create(&id, NULL, one_in_a_thread, &chosen[i % 2]) == 0);
        pthread_join(id, NULL);
        if (i == n / 4) before = resident_kb(), alive = threads_alive();
    }
    for (int i = 0; i < 2000 && threads_alive() != alive; i++) usleep(1000);
    CHECK(threads_alive() == alive);
#ifndef KDTEST_SANITIZED
    CHECK_MSG(resident_kb() < before + 1024, "grew from %zu to %zu kB", before, resident_kb());
#else
    (void)before;
#endif
    kd_shutdown();
}

static void *side_by_side(void *arg)
{
    kd_context *ctx = arg;
    for (int i = 0; i < (kdtest_full() ? 20 : kdtest_emulated() ? 1 : 2); i++)
        for (size_t k = 0; k < whole_count(); k++)
            if (!whole(k)->files) as_ever(k, ctx, "beside another thread");   /* files have one name each */
    return NULL;
}

/* Contexts of their own, and two threads in one. */
TEST(contexts_in_threads)
{
    prepare();
    kd_context *ctx[3] = { kdtest_context(2, KD_ISA_AUTO), kdtest_context(3, KD_ISA_AUTO), NULL };
    pthread_t ids[4];
    for (size_t i = 0; i < 4; i++) CHECK(pthread_create(&ids[i], NULL, side_by_side, ctx[i % 3]) == 0);
    for (size_t i = 0; i < 4; i++) pthread_join(ids[i], NULL);
    kd_context_free(ctx[0]);
    kd_context_free(ctx[1]);
    kd_shutdown();
    kd_shutdown();
    all_as_ever(NULL, "after kd_shutdown, twice");
}

TEST(ten_thousand_threads)
{
    prepare();
    size_t before = kdtest_emulated() ? 0 : threads_alive();
    kd_context *ctx = context_of(10000, NULL, NULL);
    CHECK(kd_context_threads(ctx) == 256);
#ifdef KDTEST_SANITIZED
    const char *only = "images";
#else
    const char *only = NULL;
#endif
    for (size_t k = 0; k < whole_count(); k++)
        if (!only || strcmp(whole(k)->name, only) == 0) as_ever(k, ctx, "10000 threads asked for");
    if (before) CHECK_MSG(threads_alive() <= before + 255, "%zu threads", threads_alive() - before);
    kd_context_free(ctx);
    for (int i = 0; i < 5000 && before && threads_alive() > before; i++) usleep(1000);
    CHECK(!before || threads_alive() <= before);
}

/* ---- a host's loop ------------------------------------------------------------------------------------------- */

typedef struct piece {
    size_t  n, first;
    void  (*task)(size_t i, void *arg);
    void   *arg;
    int     fp_kept;
} piece;

/* A thread of the host, which computes in a state of its own. */
static void *run_piece(void *arg)
{
    piece *p = arg;
    fesetround(FE_UPWARD);
    uint64_t fp = kd__fp_control();
    for (size_t i = p->n; i-- > 0;)
        if (i % 3 == p->first) p->task(i, p->arg);
    p->fp_kept = kd__fp_control() == fp;
    return NULL;
}

static void three_threads(size_t n, void (*task)(size_t i, void *arg), void *arg, void *user)
{
    pthread_t ids[3];
    piece pieces[3];
    ++*(size_t *)user;
    for (size_t t = 0; t < 3; t++) {
        pieces[t] = (piece){ n, t, task, arg, 0 };
        CHECK(pthread_create(&ids[t], NULL, run_piece, &pieces[t]) == 0);
    }
    for (size_t t = 0; t < 3; t++) {
        pthread_join(ids[t], NULL);
        CHECK(pieces[t].fp_kept);
    }
}

TEST(loops_of_the_host)
{
    prepare();
    size_t calls = 0, before = kdtest_emulated() ? 0 : threads_alive();
    kd_context *ctx = context_of(2, three_threads, &calls);   /* and says it has fewer than it uses */
    all_as_ever(ctx, "the host's loop");
    CHECK_MSG(calls >= 20, "%zu loops", calls);
    for (int i = 0; i < 5000 && before && threads_alive() > before; i++) usleep(1000);
    CHECK(!before || threads_alive() <= before);   /* no pool beside it */
    kd_context_free(ctx);
}

/* ---- floating point --------------------------------------------------------------------------------------------- */

enum { FLUSH = 1, TRAPS = 2 };
static const struct { const char *name; int rounding, more; } fp_states[] = {
    { "flush to zero", FE_TONEAREST, FLUSH }, { "upward", FE_UPWARD, 0 },      { "downward", FE_DOWNWARD, 0 },
    { "toward zero", FE_TOWARDZERO, FLUSH },  { "traps", FE_TONEAREST, TRAPS },
};

/* The state of a host: one of the above, and an exception raised long ago. */
static uint64_t enter_fp(size_t s)
{
    fesetenv(FE_DFL_ENV);
    feraiseexcept(FE_UNDERFLOW);
    fesetround(fp_states[s].rounding);
    uint64_t state = kd__fp_state();
#ifdef __SSE__
    if (fp_states[s].more & FLUSH) state |= 0x8040;
    if (fp_states[s].more & TRAPS) state &= ~(uint64_t)0x680;   /* invalid, division by zero, overflow */
#elif defined __aarch64__
    if (fp_states[s].more & FLUSH) state |= (uint64_t)1 << 24;
#endif
    kd__fp_set_state(state);
    return kd__fp_state();
}

/* Back to normal; was the state still the same? */
static int leave_fp(uint64_t state)
{
    uint64_t now = kd__fp_state();
    fesetenv(FE_DFL_ENV);
    return now == state;
}

static void whole_texts(char *out, size_t cap);

/* Whatever state the host is in: it stays, and the numbers are as ever. */
TEST(any_floating_point_state)
{
    static char plain[6000], there[6000];
    prepare();
    whole_texts(plain, sizeof plain);
    for (size_t s = 0; s < KD_COUNT(fp_states); s++) {
        for (size_t k = 0; k < whole_count(); k++)
            for (uint32_t threads = 1; threads <= 3; threads += 2) {
                kd_context *ctx = kdtest_context(threads, KD_ISA_AUTO);
                uint64_t hash = 0, state = enter_fp(s);
                kd_status st = whole(k)->run(ctx, &hash);
                CHECK_MSG(leave_fp(state), "%s, %s: the floating-point state was changed", whole(k)->name, fp_states[s].name);
                CHECK_MSG(st == KD_OK && hash == wanted[k], "%s, %s, %u threads: %s", whole(k)->name, fp_states[s].name, threads,
                          st == KD_OK ? "another result" : kd_last_error());
                kd_context_free(ctx);
            }
        if (fp_states[s].more & TRAPS) continue;   /* the test's own arithmetic */
        uint64_t state = enter_fp(s);
        whole_texts(there, sizeof there);
        CHECK_MSG(leave_fp(state), "%s: the floating-point state was changed", fp_states[s].name);
        CHECK_STR(there, plain);
    }
    all_as_ever(NULL, "back in the default state");
}

/* Numbers that only another rounding, or a flushed subnormal, would change. */
static uint64_t plain_numbers(void)
{
    enum { ROWS = 9, CLASSES = 70 };
    static float logits[ROWS * CLASSES], teacher[ROWS * CLASSES], out[ROWS * CLASSES], losses[ROWS];
    static const float tiny[4] = { 1e-39f, 3e-41f, -2e-40f, 1.0f };
    int32_t y[ROWS];
    uint64_t hash = 0;
    kdtest_rand r = { 5 };
    for (int i = 0; i < ROWS * CLASSES; i++) {
        logits[i] = (float)(kdtest_bits(&r) % 4000) / 64 - 30;
        teacher[i] = (float)(kdtest_bits(&r) % 4000) / 64 - 30;
    }
    for (int i = 0; i < ROWS; i++) y[i] = i * 7 % CLASSES;
#define MIX(x) (hash = hash * 31 + kdtest_hash(x, sizeof(x)))
    CHECK_OK(kd_softmax_rows(NULL, ROWS, CLASSES, logits, CLASSES, 3, out, CLASSES));
    MIX(out);
    CHECK_OK(kd_log_softmax_rows(NULL, ROWS, CLASSES, logits, CLASSES, 3, out, CLASSES));
    MIX(out);
    CHECK_OK(kd_kl_divergence_rows(NULL, ROWS, CLASSES, teacher, CLASSES, logits, CLASSES, 3, losses, out, CLASSES));
    MIX(out), MIX(losses);
    CHECK_OK(kd_cross_entropy_rows(NULL, ROWS, CLASSES, logits, CLASSES, y, -100, losses, out, CLASSES));
    MIX(out), MIX(losses);
    double terms[4];
    CHECK_OK(kd_distill_rows(NULL, ROWS, CLASSES, logits, CLASSES, teacher, CLASSES, y, -100, 4, 0.1f, 0.9f, out, CLASSES, terms));
    MIX(out), MIX(terms);
    kd_rng rng = kd_rng_make(3);
    for (int i = 0; i < ROWS * CLASSES; i++) out[i] = kd_rng_normal(&rng);
    MIX(out);
    kd_schedule_desc cosine;
    kd_schedule_desc_init(&cosine, sizeof cosine);
    cosine.kind = KD_SCHEDULE_COSINE;
    cosine.total_steps = 97;
    for (uint64_t i = 0; i < 4; i++) terms[i] = kd_schedule_factor(&cosine, 13 * i + 1);
    MIX(terms);
    kd_tensor *doubles = NULL, *floats = NULL, *odd = NULL;
    double values[4] = { 1 / 3.0 * 7, 0.1, 1e-40, 16777217.0 };
    CHECK_OK(kd_tensor_wrap(&doubles, NULL, KD_F64, 1, (size_t[]){ 4 }, NULL, values));
    CHECK_OK(kd_tensor_create(&floats, NULL, KD_F32, 1, (size_t[]){ 4 }));
    CHECK_OK(kd_tensor_copy(floats, doubles));
    hash = hash * 31 + kdtest_hash(kd_tensor_data(floats), 16);
    CHECK_OK(kd_tensor_fill(floats, 0.7));
    CHECK_OK(kd_tensor_set(floats, (size_t[]){ 1 }, 16777217.0));
    hash = hash * 31 + kdtest_hash(kd_tensor_data(floats), 16);
    kd_tape *tape = NULL;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    odd = kd_requires_grad(tape, kd_tape_constant(tape, 1, (size_t[]){ 4 }, tiny));
    kd_tensor *sum = kd_sum(tape, kd_scale(tape, odd, 0.3f, 0), 0, 0);   /* subnormal in, out, and in the gradient */
    hash = hash * 31 + kdtest_hash(kd_tensor_data(sum), 4);
    CHECK_OK(kd_backward(tape, kd_mul(tape, sum, odd = kd_scale(tape, sum, 1e-39f, 0))));
    kd_tape_free(tape);
    kd_tensor_free(floats);
    kd_tensor_free(doubles);
#undef MIX
    return hash;
}

TEST(plain_numbers_in_any_state)
{
    uint64_t want = plain_numbers();
    for (size_t s = 0; s < KD_COUNT(fp_states); s++) {
        if (fp_states[s].more & TRAPS) continue;
        uint64_t state = enter_fp(s), got = plain_numbers();
        CHECK_MSG(leave_fp(state), "%s: the floating-point state was changed", fp_states[s].name);
        CHECK_MSG(got == want, "%s: other numbers", fp_states[s].name);
    }
}

static kd_status ops_that_fail(const kd_tensor *const *in, size_t inputs, kd_tensor *const *out, size_t outputs, void *user)
{
    (void)in, (void)inputs, (void)out, (void)outputs;
    kd_tape *other = user;
    kd_tensor *x = kd_tape_constant(other, 1, (size_t[]){ 2 }, (float[]){ 1, 2 });
    kd_relu(other, x);
    kd_matmul(other, x, x, 0);   /* an error inside another op, on another tape */
    return kd__fail(KD_ERR_RANGE, "and one of its own");
}

/* Errors of every kind bring it back, too. */
TEST(floating_point_state_after_errors)
{
    for (size_t s = 0; s < KD_COUNT(fp_states); s++)
        for (int kind = 0; kind < 5; kind++) {
            kd_tape *tape = NULL, *other = NULL;
            CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
            CHECK_OK(kd_tape_create(&other, NULL, KD_TAPE_TRAIN));
            kd_tensor *x = kd_requires_grad(tape, kd_tape_constant(tape, 1, (size_t[]){ 2 }, (float[]){ 1, 2 }));
            uint64_t state = enter_fp(s);
            kd_status st = KD_OK;
            if (kind == 0) kd_relu(tape, NULL);
            if (kind == 1) kd_matmul(tape, x, x, 0);
            if (kind == 2) kd_leaky_relu(tape, x, INFINITY);
            if (kind == 3) kd_relu(tape, kd_matmul(other, x, x, 0));
            if (kind == 4) {
                kd_custom_op op = { .struct_size = sizeof op, .name = "failing", .forward = ops_that_fail };
                kd_tensor *y = kd_tape_tensor(tape, KD_F32, 1, (size_t[]){ 2 });
                kd_custom(tape, &op, &x, 1, &y, 1, other);
            }
            kd_status poisoned = kd_tape_status(tape);
            st = kd_backward(tape, x);
            CHECK_MSG(leave_fp(state), "error %d, %s: the floating-point state was changed", kind, fp_states[s].name);
            CHECK_MSG(poisoned != KD_OK && st == poisoned, "error %d: %s", kind, kd_status_name(poisoned));
            kd_tape_free(tape);
            kd_tape_free(other);
        }
}

/* ---- signals ------------------------------------------------------------------------------------------------------ */

static pthread_t the_host;
static volatile sig_atomic_t alarms, profiles, strangers;

static void on_signal(int sig)
{
    if (sig == SIGALRM) alarms++;
    else profiles++;
    if (!pthread_equal(pthread_self(), the_host)) strangers++;
}

/* Handlers interrupt system calls (no SA_RESTART), and never run on a thread of the library's. */
TEST(storms_of_signals)
{
    if (kdtest_emulated()) {
        kdtest_skip("an emulator's threads take signals, too");
        return;
    }
    prepare();
    struct sigaction action = { .sa_handler = on_signal }, old[2];
    struct itimerval often = { { 0, 300 }, { 0, 300 } }, off = { { 0, 0 }, { 0, 0 } };
    the_host = pthread_self();
    alarms = profiles = strangers = 0;
    sigaction(SIGALRM, &action, &old[0]);
    sigaction(SIGPROF, &action, &old[1]);
    setitimer(ITIMER_REAL, &often, NULL);
    setitimer(ITIMER_PROF, &often, NULL);
    kd_context *ctx = kdtest_context(3, KD_ISA_AUTO);
    int rounds = 0;
    for (double end = kdtest_seconds() + (kdtest_full() ? 30 : 1.0); rounds < 2 || kdtest_seconds() < end; rounds++)
        all_as_ever(ctx, "in a storm of signals");
    kd_context_free(ctx);
    setitimer(ITIMER_REAL, &off, NULL);
    setitimer(ITIMER_PROF, &off, NULL);
    sigaction(SIGALRM, &old[0], NULL);
    sigaction(SIGPROF, &old[1], NULL);
    CHECK_MSG(alarms > 50 && profiles > 5, "%d alarms, %d profiling ticks", (int)alarms, (int)profiles);
    CHECK_MSG(strangers == 0, "%d signals were handled on a thread of the library's", (int)strangers);
}

static kd_context *to_cancel;

static void on_alarm(int sig)
{
    (void)sig;
    kd_context_cancel(to_cancel);
}

/* A handler that cancels, at some moment of each: KD_ERR_CANCELLED, or it was over already; and then all is as ever. */
TEST(cancelled_by_a_signal)
{
    prepare();
    struct sigaction action = { .sa_handler = on_alarm }, old;
    size_t cancelled = 0;
    to_cancel = kdtest_context(3, KD_ISA_AUTO);
    sigaction(SIGALRM, &action, &old);
    for (int round = 0; round < (kdtest_full() ? 200 : kdtest_emulated() ? 2 : 10); round++)
        for (size_t k = 0; k < whole_count(); k++) {
            uint64_t hash = 0;
            struct itimerval soon = { { 0, 0 }, { 0, 1 + (round * 37 + (int)k * 11) % 400 } }, off = { { 0, 0 }, { 0, 0 } };
            setitimer(ITIMER_REAL, &soon, NULL);
            kd_status st = whole(k)->run(to_cancel, &hash);
            setitimer(ITIMER_REAL, &off, NULL);
            /* By its text: a scenario calls what has no status of its own out of memory. */
            CHECK_MSG(st == KD_OK ? hash == wanted[k] : strstr(kd_last_error(), "cancelled") != NULL, "%s: %s", whole(k)->name,
                      kd_last_error());
            cancelled += st != KD_OK;
            kd_context_resume(to_cancel);
            as_ever(k, to_cancel, "after it was cancelled");
        }
    sigaction(SIGALRM, &old, NULL);
    kd_context_free(to_cancel);
    CHECK(cancelled > 3);
}

/* ---- locale ----------------------------------------------------------------------------------------------------------- */

/* glibc's LC_NUMERIC in a file: a magic number, the count of items, where each begins; decimal point, thousands separator,
 * grouping, the first two as wide characters, the code set. */
static int make_comma_locale(const char *dir)
{
    static const struct { uint32_t magic, count, at[6]; char text[8]; uint32_t point, separator; char codeset[8]; } file = {
        0x20031115 ^ LC_NUMERIC, 6, { 32, 34, 36, 40, 44, 48 }, ",\0.\0\3\3", ',', '.', "UTF-8"
    };
    char path[700];
    snprintf(path, sizeof path, "%s/comma", dir);
    if (mkdir(path, 0700) != 0 && errno != EEXIST) return 0;
    snprintf(path, sizeof path, "%s/comma/LC_NUMERIC", dir);
    FILE *f = fopen(path, "wb");
    if (!f) return 0;
    fwrite(&file, sizeof file, 1, f);
    fclose(f);
    setenv("LOCPATH", dir, 1);
    int made = setlocale(LC_NUMERIC, "comma") != NULL && *localeconv()->decimal_point == ',';
    unsetenv("LOCPATH");
    return made;
}

static int comma_locale(void)
{
    static const char *const names[] = { "de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8", "nl_NL.UTF-8" };
    for (size_t i = 0; i < KD_COUNT(names); i++)
        if (setlocale(LC_ALL, names[i]) && *localeconv()->decimal_point == ',') return 1;
    return make_comma_locale(kdtest_tmp());
}

/* Every kind of text with a number in it that the library reads or writes. */
static void whole_texts(char *out, size_t cap)
{
    static const char csv[] = "1.5,-2.25e-3,0\n3.25,4,1\n";
    kd_tensor *table = NULL;
    kd_model *m = NULL;
    const char *path = kdtest_write("numbers.csv", csv, sizeof csv - 1);
    size_t n = 0;
    CHECK_OK(kd_csv_load(&table, NULL, path, ',', 0));
    CHECK(table && kd_tensor_f32(table)[0] == 1.5f && kd_tensor_f32(table)[1] == -2.25e-3f);
    n += kd_tensor_format(table, out + n, cap - n);
    CHECK_OK(kd_zoo_mlp(&m, NULL, (size_t[]){ 1000, 50, 3 }, 3, KD_ACT_RELU, 1));
    n += kd_model_summary(m, 2, (size_t[]){ 7, 1000 }, out + n, cap - n);
    CHECK_OK(kd_model_set_input_norm(m, 1, &(float){ 0.1307f }, &(float){ 0.3081f }));
    CHECK_OK(kd_model_save(m, kdtest_path("norm.safetensors")));
    CHECK_OK(kd_model_load(m, kdtest_path("norm.safetensors"), KD_LOAD_STRICT));
    kd_loss_distill_desc how;
    kd_loss_distill *loss = NULL;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.temperature = -1.5f;
    CHECK_STATUS(kd_loss_distill_create(&loss, NULL, &how), KD_ERR_ARG);
    snprintf(out + n, cap - n, "%s", kd_last_error());
    CHECK_ERROR_HAS("-1.5");
    kd_model_free(m);
    kd_tensor_free(table);
}

TEST(decimal_commas)
{
    static char plain[6000], comma[6000];
    prepare();
    whole_texts(plain, sizeof plain);
    CHECK(strlen(plain) > 300);
    if (!comma_locale()) {
        kdtest_skip("no locale with a decimal comma, and none could be made");
        return;
    }
    char number[20];
    snprintf(number, sizeof number, "%.1f", 1.5);
    CHECK_STR(number, "1,5");   /* the host's own printf */
    whole_texts(comma, sizeof comma);
    all_as_ever(NULL, "with a decimal comma");
    CHECK_MSG(*localeconv()->decimal_point == ',', "the locale was changed");
    setlocale(LC_ALL, "C");
    CHECK_STR(comma, plain);
}

static _Atomic int switching;

static void *switch_locale(void *arg)
{
    (void)arg;
    while (switching) {
        comma_locale();
        setlocale(LC_ALL, "C");
    }
    return NULL;
}

/* The host changes it meanwhile. */
TEST(locale_that_changes)
{
    prepare();
    if (!comma_locale()) {
        kdtest_skip("no locale with a decimal comma, and none could be made");
        return;
    }
    setlocale(LC_ALL, "C");
    pthread_t id;
    switching = 1;
    CHECK(pthread_create(&id, NULL, switch_locale, NULL) == 0);
    for (int i = 0; i < (kdtest_full() ? 30 : 2); i++)
        for (size_t k = 0; k < whole_count(); k++)
            if (whole(k)->files) as_ever(k, NULL, "while the locale changes");
    switching = 0;
    pthread_join(id, NULL);
    setlocale(LC_ALL, "C");
}

/* ---- descriptors, memory, instruction sets, errno ----------------------------------------------------------------------- */

static int without_streams(void *arg)
{
    (void)arg;
    for (int fd = 0; fd < 3; fd++) close(fd);
    int good = 1;
    kd_context *ctx = kdtest_context(2, KD_ISA_AUTO);
    for (size_t k = 0; k < whole_count(); k++) {
        uint64_t hash = 0;
        good &= whole(k)->run(ctx, &hash) == KD_OK && hash == wanted[k];
    }
    kd_context_free(ctx);
    for (int fd = 0; fd < 3; fd++) good &= close(fd) != 0;   /* all that was opened is closed again */
    return good ? 0 : 1;
}

TEST(no_standard_streams)
{
#ifdef __SANITIZE_THREAD__
    kdtest_skip("ThreadSanitizer ends a child that starts threads");
    return;
#endif
    if (kdtest_emulated()) {
        kdtest_skip("emulators fail in a child that starts threads");
        return;
    }
    prepare();
    CHECK(in_child(without_streams, NULL) == 0);
}

#ifndef KDTEST_SANITIZED
static size_t address_space(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    size_t pages = 0;
    if (f) {
        if (fscanf(f, "%zu", &pages) != 1) pages = 0;
        fclose(f);
    }
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* 0: everything as ever; 1: at least once no memory, but nothing worse. */
static int in_little_memory(void *arg)
{
    enum { BLOCK = 4000, MOST = 100000 };
    static void *hoard[MOST];   /* what malloc has in store, but for `arg` bytes */
    rlim_t room = address_space() + (64 << 10);
    size_t n = 0;
    setrlimit(RLIMIT_AS, &(struct rlimit){ room, RLIM_INFINITY });
    while (n < MOST && (hoard[n] = malloc(BLOCK)) != NULL) n++;
    if (n == MOST) return 8;
    for (size_t give = 0; n && give < *(size_t *)arg; give += BLOCK) free(hoard[--n]);
    room += *(size_t *)arg;   /* and large blocks, which are mapped */
    setrlimit(RLIMIT_AS, &(struct rlimit){ room, room });
    kd_context *ctx = NULL;
    kd_context_desc desc;
    kd_context_desc_init(&desc, sizeof desc);
    desc.threads = 4;
    kd_status st = kd_context_create(&ctx, &desc);
    if (st != KD_OK) return st == KD_ERR_NOMEM ? 1 : 9;
    int short_of_it = 0;
    for (size_t k = 0; k < whole_count(); k++) {
        uint64_t hash = 0;
        st = whole(k)->run(ctx, &hash);
        if (st == KD_ERR_NOMEM) short_of_it = 1;
        else if (st != KD_OK || hash != wanted[k]) return 10 + (int)k;
    }
    kd_context_free(ctx);
    return short_of_it;
}
#endif

TEST(little_memory)
{
#ifdef KDTEST_SANITIZED
    kdtest_skip("sanitizers need the address space");
#else
    if (kdtest_emulated()) {
        kdtest_skip("emulators need the address space");
        return;
    }
    prepare();
    int short_of_it = 0, enough = 0;
    for (size_t room = 0; room <= 64u << 20; room = room * (kdtest_full() ? 17 : 26) / 16 + 1000) {
        int code = in_child(in_little_memory, &room);
        CHECK_MSG(code <= 1, "%zu kB: %d%s%s", room >> 10, code, code >= 10 && code < 1000 ? ", another result or status: " : "",
                  code >= 10 && code < 1000 ? whole((size_t)code - 10)->name : "");
        short_of_it += code == 1;
        enough += code == 0;
    }
    CHECK_MSG(short_of_it && enough, "%d short of memory, %d with enough", short_of_it, enough);
#endif
}

/* The variable KD_ISA, as a user sets it: what is named, or the next best below; the same bits. */
TEST(instruction_sets_by_name)
{
    prepare();
    char *old = getenv("KD_ISA");
    old = old ? strdup(old) : NULL;
    uint32_t isas[5];
    size_t n = kdtest_isas(isas);
    for (size_t i = 0; i < n; i++) {
        setenv("KD_ISA", kdtest_isa_name(isas[i]), 1);
        kd_context *ctx = context_of(2, NULL, NULL);
        CHECK_STR(kd_context_isa(ctx), kdtest_isa_name(isas[i]));
        all_as_ever(ctx, kdtest_isa_name(isas[i]));
        kd_context_free(ctx);
    }
    if (old) setenv("KD_ISA", old, 1);
    else unsetenv("KD_ISA");
    free(old);
}

TEST(errno_stays)
{
    prepare();
    for (size_t k = 0; k < whole_count(); k++) {
        uint64_t hash = 0;
        kd_context *ctx = kdtest_context(2, KD_ISA_AUTO);
        errno = 77;
        kd_status st = whole(k)->run(ctx, &hash);
        int after = errno;
        CHECK_MSG(st == KD_OK && after == 77, "%s: errno is %d", whole(k)->name, after);
        kd_context_free(ctx);
    }
}
