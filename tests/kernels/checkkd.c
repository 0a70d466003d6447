/* checkkd.c - every kernel of kernels.def on every instruction set: what checkkd.h promises, and --bench.
 * SPDX-License-Identifier: MIT */
#include "checkkd.h"
#include "kern_limits.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SIZES = 258, MARGIN = 256 };
#define SLAB ((size_t)64 << 20)   /* bytes of the largest operand */

/* Where the operands of a run lie.  AT: `offset` elements behind a boundary of 64 bytes, margins around. */
typedef enum ck_side { HEAD, TAIL, AT } ck_side;
typedef struct ck_place {
    ck_side side;
    size_t  offset, gap;
    bool    in_place;
} ck_place;

static uint64_t seed = 1;
static bool guards = true;          /* KD_TEST_GUARDS=0: an emulator loads whole vectors where a mask says less */
static unsigned char *slab[CK_ARRAYS];
static size_t turn;                 /* counts cases: what is tried in turn follows from it */

/* what is running, for reports */
static const char *now_isa = "";
static ck_place now_place;

static const size_t type_bytes[] = { sizeof(float), sizeof(double), sizeof(int32_t), 1, sizeof(size_t) };
static size_t bytes_of(const ck_array *a) { return type_bytes[a->type]; }

/* ---- reports ---------------------------------------------------------------------------------------------- */

int ck_fail(const ck_case *c, const char *format, ...)
{
    static const char *const sides[] = { "behind a guard page", "before a guard page", "at an offset" };
    char text[300];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return CHECK_MSG(0, "%s%s%s%s %zux%zu%s on %s, operands %s (%zu) with gaps of %zu%s, seed %llu: %s", c->kernel->name,
                     c->kernel->ways ? " " : "", c->kernel->ways ? c->kernel->ways[c->way] : "", c->add ? " +=" : "", c->rows,
                     c->n, c->special ? " special" : "", now_isa, sides[now_place.side], now_place.offset, now_place.gap,
                     now_place.in_place ? ", in place" : "", (unsigned long long)seed, text);
}

int ck_same(const ck_case *c, int array, size_t i, float want)
{
    float got = AFTER(array)[i];
    return same_float(got, want) || ck_fail(c, "%s[%zu] is %a, want %a", c->a[array].name, i, (double)got, (double)want);
}

int ck_near(const ck_case *c, int array, size_t i, double want, double bound)
{
    double got = c->a[array].type == CK_F64 ? ((const double *)c->a[array].after)[i] : (double)AFTER(array)[i];
    if (isnan(want) ? isnan(got) : got == want || (isinf((float)want) && got == (double)(float)want) || fabs(got - want) <= bound)
        return 1;
    return ck_fail(c, "%s[%zu] is %.9g, want %.9g within %.3g, off by %.3g", c->a[array].name, i, got, want, bound,
                   fabs(got - want));
}

/* ---- operands --------------------------------------------------------------------------------------------- */

float ck_special(kdtest_rand *r) { return special_floats[kdtest_bits(r) % SPECIAL_COUNT]; }

void *ck_other(ck_case *c, ck_role role, ck_type type, const char *name, size_t rows, size_t n)
{
    ck_array *a = &c->a[c->arrays++];
    *a = (ck_array){ .name = name, .role = role, .type = type, .rows = rows, .n = n };
    /* 64 bytes more, so that --bench may align them */
    if (posix_memalign(&a->before, 64, rows * n * bytes_of(a) + 64) ||
        posix_memalign(&a->after, 64, rows * n * bytes_of(a) + 64))
        abort();
    memset(a->before, 0, rows * n * bytes_of(a));
    return a->before;
}

float *ck_floats(ck_case *c, ck_role role, const char *name, size_t rows, size_t n, double scale)
{
    float *x = ck_other(c, role, CK_F32, name, rows, n);
    kdtest_rand r = {c->rand.s +
                     c->arrays * 0x9e3779b97f4a7c15u}; /* each operand its own: the same numbers whatever the others are */
    if (role == CK_OUT) return x;
    if (c->bench && rows * n > 4096) {   /* drawing millions of numbers takes longer than timing them */
        kdtest_fill(&r, x, 4096, scale);
        for (size_t i = 4096; i < rows * n; i++) x[i] = x[i - 4096];
    } else if (c->special) {
        for (size_t i = 0; i < rows * n; i++) x[i] = kdtest_bits(&r) % 4 ? (float)(scale * kdtest_normal(&r)) : ck_special(&r);
    } else {
        kdtest_fill(&r, x, rows * n, scale);
    }
    return x;
}

static void begin(ck_case *c)
{
    uint64_t key[] = { seed, c->way, c->rows, c->n, c->special, kdtest_hash(c->kernel->name, strlen(c->kernel->name)) };
    c->rand.s = kdtest_hash(key, sizeof key) | 1;
    c->arrays = 0;
    c->out = -1;
    c->whole = false;
    c->kernel->make(c);
}

static void end(ck_case *c)
{
    for (size_t i = 0; i < c->arrays; i++) {
        free(c->a[i].before);
        free(c->a[i].after);
    }
}

double *ck_wide(const float *x, size_t n)
{
    double *d = malloc((n + 1) * sizeof *d);
    for (size_t i = 0; i < n; i++) d[i] = (double)x[i];
    return d;
}

double ck_ordered_sum(const float *a, const float *b, size_t n)
{
    double s[4][16] = { { 0 } };
    for (size_t i = 0; i < n; i++) s[i / 16 % 4][i % 16] += b ? (double)a[i] * (double)b[i] : (double)a[i];
    for (int k = 0; k < 16; k++) s[0][k] = (s[0][k] + s[1][k]) + (s[2][k] + s[3][k]);
    for (int w = 8; w; w /= 2)
        for (int k = 0; k < w; k++) s[0][k] += s[0][k + w];
    return s[0][0];
}

/* ---- one run ---------------------------------------------------------------------------------------------- */

static size_t span_of(const ck_array *a) { return a->rows && a->n ? ((a->rows - 1) * a->row + a->n) * bytes_of(a) : 0; }

/* Rubbish that no result has, other in each run: NaNs of one kind or another, and large numbers. */
static unsigned char rubbish(void) { return (unsigned char)(turn % 3 == 0 ? 0xff : turn % 3 == 1 ? 0x7e : 0xcd); }

static void lay(ck_case *c, size_t i, ck_place place)
{
    ck_array *a = &c->a[i];
    a->row = a->strided && a->rows > 1 ? a->n + place.gap + (place.gap ? i : 0) : a->n;
    const size_t span = span_of(a), e = bytes_of(a);
    if (span + 4 * MARGIN > SLAB) abort();   /* a case too large for checkkd */
    unsigned char *base = slab[i], *at = base;
    if (place.side == TAIL) at = base + SLAB - span;
    if (place.side == AT) at = base + 2 * MARGIN + (place.offset + 3 * i) % 16 * e;
    a->at = at;
    const size_t before = place.side == HEAD ? 0 : MARGIN, behind = place.side == TAIL ? 0 : MARGIN;
    if (a->role == CK_OUT || a->row != a->n) memset(at - before, rubbish(), before + span + behind);
    else {
        memset(at - before, rubbish(), before);
        memset(at + span, rubbish(), behind);
    }
    for (size_t r = 0; a->role != CK_OUT && r < a->rows && a->n; r++)
        memcpy(at + r * a->row * e, (const unsigned char *)a->before + r * a->n * e, a->n * e);
}

/* Every byte from `from` to `to` still rubbish? */
static bool untouched(const unsigned char *from, const unsigned char *to)
{
    for (const unsigned char value = rubbish(); from < to; from++)
        if (*from != value) return false;
    return true;
}

static bool same_bits(const ck_array *a, const void *got, const void *want, size_t n, size_t *at)
{
    if (n == 0 || memcmp(got, want, n * bytes_of(a)) == 0) return true;
    if (a->type == CK_F32) return (*at = first_difference(got, want, n)) == n;
    for (*at = 0; *at < n; ++*at) {
        const unsigned char *g = (const unsigned char *)got + *at * bytes_of(a),
                            *w = (const unsigned char *)want + *at * bytes_of(a);
        double x = 0, y = 0;
        if (a->type == CK_F64) {
            memcpy(&x, g, sizeof x);
            memcpy(&y, w, sizeof y);
        }
        if (memcmp(g, w, bytes_of(a)) != 0 && !(isnan(x) && isnan(y))) return false;
    }
    return true;
}

static void review(const ck_case *c, size_t i, ck_place place, bool first)
{
    const ck_array *a = &c->a[i];
    const size_t e = bytes_of(a), span = span_of(a);
    const unsigned char *at = a->at;
    if (!untouched(at - (place.side == HEAD ? 0 : MARGIN), at)) ck_fail(c, "%s: written in front of it", a->name);
    if (!untouched(at + span, at + span + (place.side == TAIL ? 0 : MARGIN))) ck_fail(c, "%s: written behind it", a->name);
    for (size_t r = 0; r < a->rows && a->n; r++) {
        const unsigned char *row = at + r * a->row * e;
        const size_t packed = r * a->n * e;
        size_t where = 0;
        if (r + 1 < a->rows && !untouched(row + a->n * e, row + a->row * e))
            ck_fail(c, "%s: written between rows %zu and %zu", a->name, r, r + 1);
        if (a->role == CK_IN) {
            if (memcmp(row, (const unsigned char *)a->before + packed, a->n * e) != 0)
                ck_fail(c, "%s is an input and was changed", a->name);
        } else if (first) {
            memcpy((unsigned char *)a->after + packed, row, a->n * e);
        } else if (!same_bits(a, row, (const unsigned char *)a->after + packed, a->n, &where)) {
            const size_t k = r * a->n + where;
            if (a->type == CK_F32)
                ck_fail(c, "%s[%zu][%zu] is %a, in the first run it was %a", a->name, r, where,
                        (double)((const float *)(const void *)row)[where], (double)AFTER(i)[k]);
            else ck_fail(c, "%s[%zu][%zu] differs from the first run", a->name, r, where);
            return;
        }
    }
}

static sigjmp_buf back;
static volatile sig_atomic_t running;
static void *volatile fault;

KD_UNUSED static void caught(int sig, siginfo_t *info, void *context)
{
    (void)context;
    if (!running) {
        signal(sig, SIG_DFL);
        raise(sig);
        return;
    }
    running = 0;
    fault = info->si_addr;
    siglongjmp(back, sig);
}

static void catch_signals(void)
{
#ifndef KDTEST_SANITIZED
    struct sigaction act = { .sa_flags = SA_SIGINFO | SA_NODEFER };
    act.sa_sigaction = caught;
    static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &act, NULL);
#endif
}

static void report_signal(const ck_case *c, int sig)
{
    if (sig != SIGSEGV && sig != SIGBUS) {
        ck_fail(c, "%s", sig == SIGILL ? "an instruction this CPU does not have" : "a floating-point trap");
        return;
    }
    for (size_t i = 0; i < c->arrays; i++) {
        const unsigned char *at = c->a[i].at, *end_of = at + span_of(&c->a[i]), *p = fault;
        if (p >= end_of && p < end_of + 65536) {
            ck_fail(c, "%s: touched %zu bytes behind its end", c->a[i].name, (size_t)(p - end_of));
            return;
        }
        if (p < at && p + 65536 > at) {
            ck_fail(c, "%s: touched %zu bytes in front of it", c->a[i].name, (size_t)(at - p));
            return;
        }
    }
    ck_fail(c, "touched memory far from every operand");
}

/* Run it once; `first`: keep what came out, else compare with that. */
static void once(ck_case *c, const kd__kernels *k, ck_place place, bool first)
{
    if (!guards) place.side = AT;
    now_isa = k->isa;
    now_place = place;
    turn++;
    for (size_t i = 0; i < c->arrays; i++) lay(c, i, place);
    if (place.in_place) {   /* the input lies in the output's place */
        ck_array *out = &c->a[c->out], *in = &c->a[c->in];
        in->at = out->at;
        in->row = out->row;
        for (size_t r = 0; r < in->rows; r++)
            memcpy((unsigned char *)in->at + r * in->row * bytes_of(in),
                   (const unsigned char *)in->before + r * in->n * bytes_of(in), in->n * bytes_of(in));
    }
    const uint64_t control = fp_control();
    const int sig = sigsetjmp(back, 0);
    if (sig == 0) {
        running = 1;
        c->kernel->run(c, k);
        running = 0;
    } else {
        report_signal(c, sig);
        return;
    }
    if (fp_control() != control) ck_fail(c, "rounding, flushing or masks of the FP unit were changed");
    for (size_t i = 0; i < c->arrays; i++)
        if (!place.in_place || (int)i != c->in) review(c, i, place, first);
}

/* Row r by itself gives what it gave among the others. */
static void alone(const ck_case *whole, const kd__kernels *k, size_t r)
{
    ck_case c = *whole;
    c.rows = 1;
    for (size_t i = 0; i < c.arrays; i++) {
        ck_array *a = &c.a[i];
        if (a->rows != whole->rows || a->shared) continue;
        a->rows = 1;
        a->before = (unsigned char *)a->before + r * a->n * bytes_of(a);
        a->after = (unsigned char *)a->after + r * a->n * bytes_of(a);
    }
    once(&c, k, (ck_place){ .side = AT, .offset = r }, false);
}

/* ---- one case --------------------------------------------------------------------------------------------- */

/* a[0] is what it was plus what the kernel makes when it does not add. */
static void check_sum(const ck_case *c, const kd__kernels *k)
{
    ck_case plain = *c;
    plain.add = false;
    begin(&plain);
    once(&plain, k, (ck_place){ .side = AT }, true);
    for (size_t i = 0; i < c->a[0].rows * c->a[0].n; i++)
        if (!ck_same(c, 0, i, BEFORE(0)[i] + ((const float *)plain.a[0].after)[i])) break;
    end(&plain);
    begin(&plain);   /* what `make` keeps for `run` is this case's again */
    end(&plain);
}

static void check_case(ck_case what)
{
    static const size_t gaps[] = { 0, 1, 3, 16, 37 };
    ck_case *const c = &what;
    const ck_kernel *const kernel = c->kernel;
    bool first = true;
    begin(c);
    EACH_ISA(k) {
        if (first) {
            once(c, k, (ck_place){ .side = AT }, true);
            if (c->add) check_sum(c, k);
            else if (!c->special || kernel->special) kernel->oracle(c);
        }
        first = false;
        /* in full, and if it is small, at every offset; else in turn */
        const size_t t = turn, level = !kdtest_full() ? 0 : c->rows * c->n > 300 ? 1 : 2;
        static const size_t some_gaps[] = { 1, 2, 5 }, some_offsets[] = { 1, 3, 16 }, some_rows[] = { 1, 2, 8 };
        for (size_t i = 0; i < some_gaps[level]; i++) {
            once(c, k, (ck_place){ .side = TAIL, .gap = gaps[(t + i) % 5] }, false);
            once(c, k, (ck_place){ .side = HEAD, .gap = gaps[(t / 5 + i) % 5] }, false);
        }
        for (size_t i = 0; i < some_offsets[level]; i++)
            once(c, k, (ck_place){ .side = AT, .offset = (t + i) % 16, .gap = gaps[(t / 3 + i) % 5] }, false);
        if (c->out >= 0) once(c, k, (ck_place){ .side = t % 2 ? HEAD : TAIL, .gap = gaps[t % 5], .in_place = true }, false);
        if (kernel->independent && !c->whole && c->rows > 1)
            for (size_t i = 0; i < some_rows[level] && i < c->rows; i++) alone(c, k, (t + i) % c->rows);
    }
    end(c);
}

static size_t way_count(const ck_kernel *k)
{
    size_t n = 0;
    while (k->ways && k->ways[n]) n++;
    return n ? n : 1;
}

/* Sizes: a vector's length, or columns over few rows and rows of few columns. */
static void check_way(ck_case c)
{
    const ck_kernel *const kernel = c.kernel;
    const bool full = kdtest_full();
    const size_t step = kdtest_emulated() && !full ? 11 : 1;
    kdtest_rand r = { seed * 2 + c.way };
    for (size_t s = c.way % step; s < SIZES; s += step) {
        /* the short form takes some of the larger, and of each of many ways some: another way takes the others */
        const size_t skip = full ? 1 : (s < 35 ? 1 : kernel->matrix ? 6 : 2) * (1 + way_count(kernel) / 8);
        if (s % skip != (c.way + seed) % skip) continue;
        c.rows = kernel->matrix ? 1 + s % 5 : 1;
        c.n = s;
        check_case(c);
        c.special = s % 4 == c.way % 4;
        if (c.special) check_case(c);
        c.special = false;
        c.rows = s;
        c.n = 1 + s * 7 % 19;
        if (kernel->matrix) check_case(c);
    }
    for (int i = 0; i < (full ? 20 : 1); i++) {
        c.n = (size_t)exp(kdtest_uniform(&r, 5, kernel->matrix ? 9 : 11));
        c.rows = kernel->matrix ? kdtest_size(&r, 1, 40000 / c.n + 1) : 1;
        check_case(c);
    }
}

static void check_kernel(const ck_kernel *kernel)
{
    catch_signals();
    for (size_t way = 0; way < way_count(kernel); way++)
        for (int add = 0; add <= kernel->adds; add++) check_way((ck_case){ .kernel = kernel, .way = way, .add = add });
}

/* One test for each line of kernels.def. */
#define KERNEL(name, args)              \
    extern const ck_kernel check_##name; \
    TEST(name) { check_kernel(&check_##name); }
#define SHARED KERNEL
#include "kernels/kernels.def"
#undef KERNEL
#undef SHARED
static const ck_kernel *const kernels[] = {
#define KERNEL(name, args) &check_##name,
#define SHARED KERNEL
#include "kernels/kernels.def"
#undef KERNEL
#undef SHARED
};

/* ---- --bench ------------------------------------------------------------------------------------------------ */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of a run. */
static double timed(const ck_case *c, const kd__kernels *k)
{
    double times[15];
    size_t runs = 1;
    c->kernel->run(c, k);
    for (double t = 0; t < 1e-3; runs *= 2) {   /* as many as take a millisecond */
        const double start = kdtest_seconds();
        for (size_t i = 0; i < runs; i++) c->kernel->run(c, k);
        t = kdtest_seconds() - start;
    }
    runs = runs / 2 ? runs / 2 : 1;
    for (size_t i = 0; i < 15; i++) {
        const double start = kdtest_seconds();
        for (size_t j = 0; j < runs; j++) c->kernel->run(c, k);
        times[i] = (kdtest_seconds() - start) / (double)runs;
    }
    qsort(times, 15, sizeof *times, by_size);
    return times[7];
}

/* Level 2 and memory: how much is measured, and up to how many bytes a case counts as one. */
static const size_t levels[][2] = { { (size_t)512 << 10, (size_t)3 << 20 }, { (size_t)16 << 20, SIZE_MAX } };

/* The least seconds that arithmetic and memory allow; what is written is read first, as ordinary stores do. */
static double least(const ck_case *c, const ck_limits limits[2], double *bytes, const char **what)
{
    double in = 0, out = 0, lines = 0;
    for (size_t i = 0; i < c->arrays; i++) {
        const ck_array *a = &c->a[i];
        const double size = a->idle ? 0 : (double)(a->rows * a->n * bytes_of(a));
        if (a->role != CK_OUT) in += size;
        if (a->role != CK_IN) out += size;
        lines += size;
    }
    *bytes = in + out;
    const bool level = lines >= (double)levels[0][1];   /* 1: memory */
    const ck_limits *l = &limits[level];
    const double memory = lines / l->read + out * fmax(0, 1 / l->write - 1 / l->read),
                 ops = c->kernel->ops * (double)(c->rows * c->n);
    const double arithmetic = c->kernel->flops ? c->kernel->flops(c) / l->flops : ops / (l->flops / 2);
    *what = memory <= arithmetic ? "arithmetic" : level ? "memory" : "cache";
    return memory > arithmetic ? memory : arithmetic;
}

static void bench_kernel(const ck_kernel *kernel, const char *isa, const kd__kernels *k, const ck_limits limits[2])
{
    for (size_t way = 0; way < way_count(kernel); way += kernel->bench_every ? kernel->bench_every : 1) {
        ck_case c = {
            .kernel = kernel, .way = way, .rows = kernel->matrix ? kernel->bench_rows : 1, .n = kernel->bench_n, .bench = true};
        begin(&c);
        for (size_t i = 0; i < c.arrays; i++) {
            c.a[i].at = c.a[i].before;
            c.a[i].row = c.a[i].n;
        }
        const char *what;
        double bytes, limit = least(&c, limits, &bytes, &what), took = timed(&c, k), elements = (double)(c.rows * c.n);
        const char *unit = kernel->flops ? "GFLOP/s" : kernel->ops > 0 ? "G/s" : "GB/s";
        const double amount = kernel->flops ? kernel->flops(&c) : kernel->ops > 0 ? elements : bytes;
        printf("%-30s %-22s %-7s %9.3f %-8s %5.2f of %s\n", kernel->name, kernel->ways ? kernel->ways[way] : "", isa,
               amount / took * 1e-9, unit, limit / took, what);
        fflush(stdout);
        end(&c);
    }
}

static int bench(char *const *globs, int count)
{
    EACH_ISA(k) {
        ck_limits limits[2];
        for (size_t i = 0; i < 2; i++) ck_measure(isa, levels[i][0], &limits[i]);
        printf("limits of one core, %s: %.1f GFLOP/s; GB/s read and written: cache %.1f, %.1f, memory %.1f, %.1f\n", k->isa,
               limits[0].flops * 1e-9, limits[0].read * 1e-9, limits[0].write * 1e-9, limits[1].read * 1e-9,
               limits[1].write * 1e-9);
        for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
            bool chosen = !count;
            for (int g = 0; g < count; g++) chosen = chosen || kdtest_matches(globs[g], kernels[i]->name);
            if (chosen) bench_kernel(kernels[i], k->isa, k, limits);
        }
    }
    return 0;
}

/* ---- the command line ----------------------------------------------------------------------------------------- */

static int usage(int code)
{
    puts("checkkd [--isa NAME] [--kernel GLOB]... [--seed N] [--full] [--bench] [--list] [-v]\n"
         "Every kernel of kernels.def on every instruction set that this CPU has, against its oracle; --full: every size with "
         "every\n"
         "offset, stride and guard page; --bench: how fast, and as a fraction of what the machine can do.");
    return code;
}

int main(int argc, char **argv)
{
    char *globs[64], *args[70], list_flag[] = "-l";
    int count = 0, given = 0;
    bool measure = false, list = false;
    args[given++] = argv[0];
    for (int i = 1; i < argc; i++) {
        const bool more = i + 1 < argc;
        if (strcmp(argv[i], "--isa") == 0 && more) setenv("KD_TEST_ISA", argv[++i], 1);
        else if (strcmp(argv[i], "--kernel") == 0 && more && count < 64) globs[count++] = argv[++i];
        else if (strcmp(argv[i], "--seed") == 0 && more) seed = strtoull(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--full") == 0) setenv("KD_TEST_FULL", "1", 1);
        else if (strcmp(argv[i], "--bench") == 0) measure = true;
        else if (strcmp(argv[i], "--list") == 0) list = true;
        else if (strcmp(argv[i], "-v") == 0) args[given++] = argv[i];
        else return usage(strcmp(argv[i], "--help") != 0);
    }
    const char *beside = getenv("KD_TEST_GUARDS");
    guards = !beside || strcmp(beside, "0") != 0;
    size_t sets = 0;
    EACH_ISA(k) sets++;
    if (!sets) {
        printf("checkkd: this CPU or build has no %s\n", getenv("KD_TEST_ISA"));
        return 1;
    }
    if (measure) return bench(globs, count);
    for (size_t i = 0; i < CK_ARRAYS; i++) slab[i] = kdtest_guard(SLAB, 0);
    if (list) args[given++] = list_flag;
    for (int i = 0; i < count && given < 70; i++) args[given++] = globs[i];
    return kdtest_run_tests(given, args);
}
