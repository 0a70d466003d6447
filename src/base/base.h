/* base.h - what every other room stands on: memory, errors, threads, random numbers, files.
 * This room alone calls malloc, pthread_* and the operating system: what is POSIX lies in *_posix.c, what is Win32 in *_win32.c.
 * KD_NO_THREADS builds know no threads, KD_NO_IO builds no files.
 * SPDX-License-Identifier: MIT */
#ifndef KD__BASE_H
#define KD__BASE_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "kd/base.h"

#define KD_ALIGN 64u   /* of every block: a cache line, a zmm register */
#define KD_UNUSED __attribute__((unused))
#ifdef _WIN32
#define KD_PRINTF(f, a) __attribute__((format(gnu_printf, f, a)))   /* our own formatter's %zu */
#else
#define KD_PRINTF(f, a) __attribute__((format(printf, f, a)))
#endif
#ifdef KD_NO_THREADS
#define KD_THREAD_LOCAL
#else
#define KD_THREAD_LOCAL _Thread_local
#endif
#define KD_LIKELY(x) __builtin_expect(!!(x), 1)
#define KD_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define KD_MIN(a, b) ((a) < (b) ? (a) : (b))
#define KD_MAX(a, b) ((a) > (b) ? (a) : (b))
#define KD_COUNT(a) (sizeof(a) / sizeof *(a))

/* ---- error.c ---------------------------------------------------------------------------------- */
/* Set this thread's error text and return `status`.  Own formatter, no locale, no allocation:
 * %s %d %u %i %c %x %zu %lld %llu %f %g %e %% (with l, ll, z sizes), plus
 * %S  two arguments, (size_t rank, const size_t *shape): "[64, 10]". */
kd_status kd__fail(kd_status status, const char *format, ...);
kd_status kd__vfail(kd_status status, const char *format, __builtin_va_list args);
/* The same formatter into a buffer: always terminated, returns the length the whole text needs. */
size_t kd__format(char *out, size_t cap, const char *format, ...);
size_t kd__vformat(char *out, size_t cap, const char *format, __builtin_va_list args);
/* Put `text` in front of the current error text ("reading FILE: " + why). */
kd_status kd__fail_prefix(kd_status status, const char *format, ...);
#define KD_TRY(call)                          \
    do {                                      \
        kd_status try_status = (call);        \
        if (KD_UNLIKELY(try_status != KD_OK)) \
            return try_status;                \
    } while (0)
#define KD_TRY_GOTO(label, call)                                   \
    do {                                                           \
        if (KD_UNLIKELY((status = (call)) != KD_OK)) goto label; \
    } while (0)
/* Return KD_ERR_ARG naming the argument when it is NULL. */
#define KD_NEED(ptr)                                                                \
    do {                                                                            \
        if (KD_UNLIKELY(!(ptr))) return kd__fail(KD_ERR_ARG, "%s: %s is NULL", __func__, #ptr); \
    } while (0)

/* Copy a caller's descriptor over defaults: min(caller, known) bytes; extra bytes of a newer caller must
 * be zero, else KD_ERR_VERSION.  `desc` NULL keeps the defaults already in `own`.
 * what: "kd_NAME_desc" where kd_NAME_desc_init() makes one, else the function. */
kd_status kd__desc_read(void *own, size_t own_size, const void *desc, const char *what);
/* Write defaults into a caller's struct of `size` bytes and set its struct_size.  NULL is ignored. */
void kd__desc_write(void *desc, size_t size, const void *defaults, size_t own_size);
/* A struct that the caller reads, its struct_size set: KD_ERR_ARG if that is no size; and min(caller, known) bytes of `info` into it,
 * zeros into what a newer caller has more.  what: "function: argument". */
kd_status kd__info_check(const void *out, size_t own_size, const char *what);
void kd__info_write(void *out, const void *info, size_t own_size);

/* ---- checked.h: size arithmetic that cannot wrap --------------------------------------------- */
static inline bool kd__mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool kd__add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }
/* n rounded up to a multiple of `align` (a power of two); false if that wraps. */
static inline bool kd__round_up(size_t n, size_t align, size_t *out)
{
    if (!kd__add(n, align - 1, out)) return false;
    *out &= ~(align - 1);
    return true;
}

/* ---- context.c, alloc.c ----------------------------------------------------------------------- */
typedef struct kd__kernels kd__kernels;
typedef struct kd__pool kd__pool;
typedef struct kd__scratch_block kd__scratch_block;
/* One of the blocks a thread holds at once inside tasks: as many as there are threads, all of one size. */
typedef struct kd__scratch_level { kd__scratch_block *free; size_t bytes; } kd__scratch_level;
#define KD__SCRATCH_LEVELS 8

/* Bytes of the data caches that one core works in: they decide how work is cut, never the order of a sum. */
typedef struct kd__caches { size_t l1, l2, l3; } kd__caches;

struct kd_context {
    kd_allocator       allocator;
    kd_log_fn          log;
    void              *log_user;
    uint32_t           log_level, isa, threads;
    kd_parallel_fn     parallel;
    void              *parallel_user;
    kd__caches         caches;
    const kd__kernels *kernels;           /* this context's instruction set; set by src/cpu */
    _Atomic uint32_t   cancelled;
    _Atomic uint32_t   references;
    bool               is_default;
    _Atomic(kd__pool *) pool;             /* made on first use */
    _Atomic uint32_t   scratch_lock;
    kd__scratch_block *scratch;           /* free blocks, smallest first */
    kd__scratch_level  scratch_levels[KD__SCRATCH_LEVELS];
};

/* The kernels of the best instruction set that the build, the CPU and `cap` (KD_ISA_*) allow; its name in
 * *chosen, and the sizes of this CPU's caches.  In src/cpu, the one thing base asks of a room above it. */
const kd__kernels *kd__cpu_kernels(uint32_t cap, uint32_t *chosen, kd__caches *caches);

/* ctx, or the process default when NULL. Never fails. */
kd_context *kd__context(const kd_context *ctx);
kd_context *kd__context_retain(const kd_context *ctx);   /* resolves NULL, adds a reference */
void        kd__context_release(kd_context *ctx);

/* Zeroed, KD_ALIGN-aligned memory from the context's allocator; NULL (and error text) when out. bytes 0
 * gives a valid block. */
void *kd__alloc(kd_context *ctx, size_t bytes);
/* The same, not cleared. */
void *kd__alloc_raw(kd_context *ctx, size_t bytes);
void *kd__alloc_array(kd_context *ctx, size_t count, size_t bytes_each);   /* checked product, zeroed */
void  kd__free(kd_context *ctx, void *ptr);                                 /* NULL is fine; the block knows its size */
/* Grow `*ptr` to hold `count` elements, keeping contents, the rest zeroed; doubles.  On failure nothing
 * changes. */
kd_status kd__grow(kd_context *ctx, void *ptr_to_ptr, size_t *capacity, size_t count, size_t bytes_each);
char *kd__strdup(kd_context *ctx, const char *text);

/* Scratch: temporary memory inside one call.  Cached in the context, so the second step of anything
 * allocates nothing, whatever the timing of the threads.  Not cleared.  NULL when out of memory.  What a task
 * of a parallel loop gets, it puts back itself. */
void *kd__scratch_get(kd_context *ctx, size_t bytes);
void  kd__scratch_put(kd_context *ctx, void *ptr);   /* NULL is fine */
void  kd__scratch_free(kd_context *ctx);             /* give back the cached blocks */

/* One line to the context's log, if it listens at this level. */
void kd__log(kd_context *ctx, uint32_t level, const char *format, ...);

/* ---- arena.c: a stack of memory that grows by chunks and is rewound, never freed, between steps --- */
typedef struct kd__chunk kd__chunk;
typedef struct kd__arena {
    kd_context *ctx;
    kd__chunk  *first, *current;
    size_t      used;            /* bytes used in `current` */
    size_t      peak, total;     /* most ever used; reserved */
    uint64_t    round;           /* counts resets */
} kd__arena;
typedef struct kd__mark { kd__chunk *chunk; size_t used; } kd__mark;
void    kd__arena_init(kd__arena *arena, kd_context *ctx);
void   *kd__arena_push(kd__arena *arena, size_t bytes);   /* KD_ALIGN-aligned, not cleared; NULL when out */
size_t  kd__arena_rest(const kd__arena *arena);           /* bytes left in the present chunk */
bool    kd__arena_next(kd__arena *arena, size_t bytes);   /* go on in the next chunk; false: none of those to come holds `bytes` */
kd__mark kd__arena_mark(const kd__arena *arena);
void    kd__arena_rewind(kd__arena *arena, kd__mark mark);
void    kd__arena_reset(kd__arena *arena);                /* everything reusable, nothing freed */
void    kd__arena_free(kd__arena *arena);

/* ---- pool.c ------------------------------------------------------------------------------------ */
/* Run task(i, arg) for i in [0, n).  Tasks must write disjoint places; n and what task i does depend on
 * the problem, not on the threads, wherever a sum is involved.  Nested calls run serially. */
void   kd__parallel(kd_context *ctx, size_t n, void (*task)(size_t i, void *arg), void *arg);
/* Cut [0, total) into pieces of `grain` (a multiple that the caller chooses) and run fn(begin, end, arg).
 * Small work (one piece) runs on the caller. */
void   kd__parallel_range(kd_context *ctx, size_t total, size_t grain,
                          void (*fn)(size_t begin, size_t end, void *arg), void *arg);
void   kd__pool_free(kd_context *ctx);                     /* join and free; no loop may be running */
bool   kd__in_parallel(void);                             /* this thread is inside a task */
/* A thread of its own for the loader: signals blocked, stack size set.  Joins by kd__thread_join. */
typedef struct kd__thread kd__thread;
typedef struct kd__monitor kd__monitor;                   /* a mutex with one condition; free again in a forked child */
kd_status kd__thread_start(kd_context *ctx, kd__thread **out, void (*fn)(void *arg), void *arg);
void      kd__thread_join(kd__thread *thread);
kd_status kd__monitor_create(kd_context *ctx, kd__monitor **out);
void      kd__monitor_free(kd__monitor *monitor);
void      kd__monitor_lock(kd__monitor *monitor);
void      kd__monitor_unlock(kd__monitor *monitor);
void      kd__monitor_wait(kd__monitor *monitor);         /* locked by the caller */
void      kd__monitor_signal(kd__monitor *monitor);       /* wakes all waiters */
/* Changes in a forked child: threads of the parent do not exist there. */
uint32_t  kd__fork_generation(void);
void      kd__fork_watch(void);                           /* from here on: contexts ask when they are made */

/* ---- rng.c (public part in kd/base.h) ---------------------------------------------------------- */
/* out[i] = number (index + i) of the stream, uniform in [0,1). The stream advances by n. */
void kd__rng_fill_uniform(kd_rng *rng, float *out, size_t n);
void kd__rng_shuffle(kd_rng *rng, uint32_t *items, size_t n);   /* Fisher-Yates */

/* ---- fixed_math.c: doubles with the same bits on every machine, to about 1e-15 ---------------------- */
double kd__fixed_cos_pi(double x);            /* cos(pi x), x in [0, 1] */
double kd__fixed_log(double x);               /* x > 0, finite */
double kd__fixed_exp(double x);               /* x is held to [-700, 700] */
double kd__fixed_pow(double x, uint64_t n);   /* by squaring; relative error about n 1e-16 */

/* ---- file.c: everything the library asks of a file system goes through one table ----------------- */
typedef struct kd__io {
    int     (*resolve)(const char *path, char *out, size_t cap);      /* where a save to path lands: past links;
                                                                         what exists must be a regular file */
    int     (*open_read)(const char *path, uint64_t *size);           /* regular files only; -1 + errno */
    int     (*open_temp)(char *path, size_t cap, const char *target); /* O_EXCL beside target; name in path */
    int64_t (*read_at)(int fd, void *out, size_t bytes, uint64_t offset);
    int64_t (*write)(int fd, const void *data, size_t bytes);
    int     (*sync)(int fd);
    int     (*close)(int fd);
    int     (*rename)(const char *from, const char *to);
    int     (*unlink)(const char *path);
    int     (*sync_dir)(const char *path_inside);
    int     (*hold)(int fd);       /* another descriptor that keeps the lock of a temporary; -1 is fine */
    void    (*release)(int hold);
    int     (*list)(const char *path, bool (*each)(void *user, const char *name, bool folder), void *user); /* what is in a
                                                                         folder, in any order; false ends it: ENOMEM */
} kd__io;
extern kd__io kd__io_table;   /* tests replace entries to inject faults */

typedef struct kd__file { int fd; uint64_t size; char path[240]; } kd__file;
/* Open for reading: KD_ERR_IO naming path and reason (a directory, FIFO, device or missing file). */
kd_status kd__file_open(kd__file *file, const char *path);
/* Exactly `bytes` at `offset`: loops over short reads and EINTR; KD_ERR_TRUNCATED past the end. */
kd_status kd__file_read(kd__file *file, void *out, size_t bytes, uint64_t offset);
void      kd__file_close(kd__file *file);
/* Names in a folder, in the order of their bytes, without those that begin with a dot; of folders alone if asked. */
typedef struct kd__names { kd_context *ctx; char *text; const char **at; size_t count, bytes, capacity; bool folders; } kd__names;
kd_status kd__names_read(kd__names *names, kd_context *ctx, const char *path, bool folders);
void      kd__names_free(kd__names *names);               /* zeros are fine; also after a failure */

/* Atomic replacement of a file: temporary in the same directory, write, fsync, close, rename, fsync dir.
 * On any failure the old file is untouched and the temporary is removed. */
typedef struct kd__writer {
    int      fd;
    uint64_t written;
    uint32_t crc;                 /* CRC32C of what was put since kd__writer_crc_begin */
    size_t   buffered;
    kd_context *ctx;
    uint8_t *buffer;              /* NULL: not open */
    char     path[4096], temp[4160];
} kd__writer;
static inline void kd__writer_crc_begin(kd__writer *writer) { writer->crc = 0; }
kd_status kd__writer_open(kd__writer *writer, kd_context *ctx, const char *path);
kd_status kd__writer_put(kd__writer *writer, const void *data, size_t bytes);
kd_status kd__writer_commit(kd__writer *writer);
void      kd__writer_abort(kd__writer *writer);           /* after commit or failure: no effect */

uint32_t kd__crc32c(uint32_t crc, const void *data, size_t bytes);   /* start with 0 */
const char *kd__os_text(int error);   /* of an errno: "no such file or directory"; static, no locale */

/* ---- number.c ----------------------------------------------------------------------------------- */
/* Decimal text to number without the locale (kd__format goes the other way).  The whole of [text, end)
 * must be the number; false otherwise, and *out is untouched.
 * double: [+-] digits [. digits] [e [+-] digits], some digit before the e; the nearest double, ties to
 * even; beyond the largest it is infinite, below the smallest zero.
 * u64: digits alone, no leading zero, at most 2^64 - 1. */
bool   kd__parse_double(const char *text, const char *end, double *out);
bool   kd__parse_u64(const char *text, const char *end, uint64_t *out);

/* ---- glob.c: the whole of `text` against '*' (any run, also none), '?' (one character); all else is itself */
bool kd__glob_match(const char *pattern, const char *text);

/* ---- system_posix.c, system_win32.c -------------------------------------------------------------- */
/* Monotonic; whole numbers, since it is read in whatever floating-point state the host has. */
uint64_t kd__nanoseconds(void);
/* The default allocator. */
void *kd__system_alloc(size_t bytes, size_t align, void *user);
void *kd__system_zeros(size_t bytes);   /* zeros that take no memory until they are touched, for kd__system_free; NULL: cannot */
void  kd__system_free(void *ptr, size_t bytes, void *user);
/* CPUs that this process may use, at least 1. */
uint32_t kd__system_cpus(void);
#endif
