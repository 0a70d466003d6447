/* kd/base.h - status and error text, version, and the context every object is made in.
 * SPDX-License-Identifier: MIT
 *
 * To the process it lives in: no call exits, prints, or changes locale, signals or the floating-point state.  Every call
 * computes in the default state (to nearest, subnormals kept, no traps), whatever the caller's is, and leaves the caller's as
 * it was; functions of yours that it calls (an allocator, a custom op) may find the default one.
 * docs/guide/threads-and-fork.md has the rest. */
#ifndef KD_BASE_H
#define KD_BASE_H
#include <stddef.h>
#include <stdint.h>

/* Around declarations: extern "C" in C++, nothing in C. */
#ifdef __cplusplus
#define KD_BEGIN_DECLS extern "C" {
#define KD_END_DECLS }
#else
#define KD_BEGIN_DECLS
#define KD_END_DECLS
#endif
/* KD_API marks what the library exports, KD_MUST_USE a status that may not be thrown away. */
#ifndef KD_API   /* yours, if you define it: how functions of libkd are declared */
#if defined __GNUC__ && !defined _WIN32
#define KD_API __attribute__((visibility("default")))
#else
#define KD_API
#endif
#endif
#ifdef __GNUC__
#define KD_MUST_USE __attribute__((warn_unused_result))
#else
#define KD_MUST_USE
#endif

KD_BEGIN_DECLS

/* The version, here and nowhere else: the Makefile reads these three lines. */
#define KD_VERSION_MAJOR 0
#define KD_VERSION_MINOR 1
#define KD_VERSION_PATCH 0
#define KD_VERSION (KD_VERSION_MAJOR * 10000 + KD_VERSION_MINOR * 100 + KD_VERSION_PATCH)

/* The version of the binary interface, the number in the soname.  What was compiled against another one must not run. */
#define KD_ABI_VERSION 0

/* The version of the library that runs, as KD_VERSION encodes it (10000 major + 100 minor + patch).
 * A program may compare it with the KD_VERSION it was compiled with.  Any thread. */
KD_API int32_t kd_version(void);

/* The KD_ABI_VERSION of the library that runs.  Any thread. */
KD_API int32_t kd_abi_version(void);

/* "0.1.0".  Static; any thread. */
KD_API const char *kd_version_string(void);

/* One line about this build: version, compiler, the instruction sets compiled in, BLIS or not.
 * Static; any thread. */
KD_API const char *kd_build_info(void);

/* In front of a declaration that works as before and will go (docs/reference/abi.md): compilers say what to use instead. */
#if defined __GNUC__
#define KD_DEPRECATED(text) __attribute__((deprecated(text)))
#else
#define KD_DEPRECATED(text)
#endif

/* What every fallible call returns.  Negative is an error and kd_last_error() has its text; zero and
 * above are not errors.  Values are never renumbered. */
typedef enum kd_status {
    KD_OK              = 0,   /* done                                                            */
    KD_END             = 1,   /* nothing left: the end of an epoch                               */
    KD_ERR_ARG         = -1,  /* an argument is NULL, out of its range, or contradicts another   */
    KD_ERR_SHAPE       = -2,  /* shapes that do not fit each other                               */
    KD_ERR_DTYPE       = -3,  /* a dtype the call does not take                                  */
    KD_ERR_RANGE       = -4,  /* a value in the data is out of range: a label, an index          */
    KD_ERR_NOMEM       = -5,  /* the allocator returned NULL                                     */
    KD_ERR_IO          = -6,  /* the operating system refused: open, read, write, fsync, rename  */
    KD_ERR_TRUNCATED   = -7,  /* a file ends before what it declares                             */
    KD_ERR_FORMAT      = -8,  /* a file that breaks its format                                   */
    KD_ERR_UNSUPPORTED = -9,  /* well formed, but not served by this build                       */
    KD_ERR_OVERFLOW    = -10, /* a product or sum of sizes does not fit                          */
    KD_ERR_LIMIT       = -11, /* beyond a stated limit: rank, depth, header size                 */
    KD_ERR_NUMERIC     = -12, /* a NaN or infinity where the caller asked for finite numbers     */
    KD_ERR_VERSION     = -13, /* made by a newer libkd                                           */
    KD_ERR_CHECKSUM    = -14, /* stored and computed checksum differ                             */
    KD_ERR_CANCELLED   = -15, /* kd_context_cancel() was called                                  */
    KD_ERR_STATE       = -16  /* right call, wrong moment: a tensor used after kd_tape_reset()   */
} kd_status;

/* The name of a status, "KD_ERR_SHAPE"; "unknown status" for any other value.  Static; any thread. */
KD_API const char *kd_status_name(kd_status status);

/* The text of the last error on this thread: which argument, which shapes, which file and offset.
 * Empty if there was none.  Successful calls leave it alone.  Thread-local, never NULL, at most 511
 * bytes; valid until the next failing call on the same thread. */
KD_API const char *kd_last_error(void);

/* Memory, from whom you like.  `user` comes back in every call.  Both may be called from any thread
 * that uses the context, and from the loader's thread. */
typedef struct kd_allocator {
    /* `bytes` > 0, `align` a power of two up to 4096.  NULL means out of memory. */
    void *(*alloc)(size_t bytes, size_t align, void *user);
    /* `ptr` came from alloc with this `bytes`; never NULL. */
    void (*free)(void *ptr, size_t bytes, void *user);
    void *user;   /* comes back in every call */
} kd_allocator;

/* How grave a line of the log is; a context passes on levels up to its own. */
#define KD_LOG_ERROR 1u
#define KD_LOG_WARN  2u
#define KD_LOG_INFO  3u
#define KD_LOG_DEBUG 4u

/* Receives one line without a newline, valid during the call, on whichever thread logged it. */
typedef void (*kd_log_fn)(uint32_t level, const char *text, void *user);

/* A host's own parallel loop: call task(i, arg) once for each i in [0, n), in any order, on any
 * threads, and return when all are done. */
typedef void (*kd_parallel_fn)(size_t n, void (*task)(size_t i, void *arg), void *arg, void *user);

/* Instruction sets.  A cap: the best one that both CPU and cap allow is used. */
#define KD_ISA_AUTO   0u
#define KD_ISA_SCALAR 1u
#define KD_ISA_NEON   2u
#define KD_ISA_AVX2   3u   /* AVX2, FMA, F16C, BMI2    */
#define KD_ISA_AVX512 4u   /* + AVX-512 F, BW, DQ, VL, CD */

/* How to make a context.  Start from kd_context_desc_init() and change what you need; fields are only
 * ever added at the end. */
typedef struct kd_context_desc {
    size_t         struct_size;   /* set by _init                                                      */
    kd_allocator   allocator;     /* all NULL: malloc and free                                         */
    kd_log_fn      log;           /* NULL: silent                                                      */
    void          *log_user;      /* comes back in every call of log                                   */
    uint32_t       log_level;     /* most detailed level passed on; default KD_LOG_WARN                */
    uint32_t       isa;           /* KD_ISA_*; default KD_ISA_AUTO, which honours the variable KD_ISA  */
    uint32_t       threads;       /* 0: the variable KD_NUM_THREADS, else the CPUs this process may use;
                                     at most 256 are used                                              */
    uint32_t       reserved;      /* 0                                                                 */
    kd_parallel_fn parallel;      /* NULL: libkd's own pool                                            */
    void          *parallel_user; /* comes back in every call of parallel                              */
} kd_context_desc;

/* Where things live and how work is run: allocator, threads, log, cancel flag, instruction set.
 * Every _create takes one; NULL means the process default (malloc, all CPUs, silent).  Objects keep
 * their context alive: it may be freed before them. */
typedef struct kd_context kd_context;

/* Fill `desc` with the defaults; every descriptor has such a function.  `struct_size` is sizeof *desc as the caller was
 * compiled. */
KD_API void kd_context_desc_init(kd_context_desc *desc, size_t struct_size);

/* Make a context from `desc` (copied; NULL: all defaults).  The environment (KD_ISA, KD_NUM_THREADS)
 * is read here and never again.  KD_ISA is scalar, neon, avx2 or avx512 and only ever lowers the level.
 * Returns KD_OK; KD_ERR_ARG (a field is out of range; half an allocator), KD_ERR_VERSION, KD_ERR_NOMEM.
 * On error *out is NULL. */
KD_API KD_MUST_USE kd_status kd_context_create(kd_context **out, const kd_context_desc *desc);

/* Release the caller's hold.  Memory goes back when the last object made in it is freed.  NULL is fine. */
KD_API void kd_context_free(kd_context *ctx);

/* Threads used for large work (1 to 256).  ctx NULL: the process default. */
KD_API uint32_t kd_context_threads(const kd_context *ctx);

/* The instruction set in use: "scalar", "neon", "avx2", "avx512".  Static text. */
KD_API const char *kd_context_isa(const kd_context *ctx);

/* Ask whatever runs in this context to stop: the call under way, or the next one that checks, returns
 * KD_ERR_CANCELLED and leaves everything usable.  Safe in a signal handler and from any thread.
 * Stays set until kd_context_resume(). */
KD_API void kd_context_cancel(kd_context *ctx);
/* Take kd_context_cancel() back.  Any thread. */
KD_API void kd_context_resume(kd_context *ctx);
/* 1 if cancelled, else 0.  Any thread. */
KD_API int32_t kd_context_cancelled(const kd_context *ctx);

/* Join and release the default context's threads and cached memory.  For hosts that unload the library;
 * no other call may be running.  May be called twice; the default context works again on its next use. */
KD_API void kd_shutdown(void);

/* Random numbers: Philox4x32-10 (Salmon et al., SC 2011).  A stream is a 64-bit key; number i of a
 * stream is a function of (key, i) alone, so streams can be read in any order, on any thread, and resumed
 * by storing 16 bytes.  Plain data: copy it to save the position. */
typedef struct kd_rng {
    uint64_t key;    /* which stream               */
    uint64_t index;  /* numbers drawn so far       */
} kd_rng;

/* The stream of `seed`, at its beginning. */
KD_API kd_rng kd_rng_make(uint64_t seed);

/* A stream of its own for each `id`, independent of how much was drawn from `parent`.
 * Use one id per purpose (data order, initialisation, dropout) and split again per epoch or layer. */
KD_API kd_rng kd_rng_split(const kd_rng *parent, uint64_t id);

/* The next 32 random bits; this and the three below advance `rng`, which one thread at a time may do. */
KD_API uint32_t kd_rng_u32(kd_rng *rng);
/* The next number uniform in [0, 1): a multiple of 2^-24. */
KD_API float kd_rng_uniform(kd_rng *rng);
/* The next number uniform in [0, n), without bias; 0 if n is 0. */
KD_API uint64_t kd_rng_below(kd_rng *rng, uint64_t n);
/* The next standard normal number (Box-Muller; two draws each; the same bits on every machine). */
KD_API float kd_rng_normal(kd_rng *rng);
/* One block of the generator itself: four words from a 128-bit counter and a 64-bit key, ten rounds. */
KD_API void kd_rng_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

KD_END_DECLS
#endif
