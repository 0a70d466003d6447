/* checkkd.h - checks of kernels: one ck_kernel for each line of kernels.def.  It says which operands a kernel takes, how it is
 * called and what must come out; checkkd.c does what is the same for all:
 *   - every instruction set of build and CPU, every size 0 .. 257, then random ones: the same bits everywhere;
 *   - those bits against the oracle, which shares nothing with the library: to the bit where an order is documented, else in
 *     double within a bound;
 *   - every operand beside a page that faults, in front of it and behind it, at all sixteen offsets, rows apart; nothing written
 *     outside an output's rows, no input changed, no old output read;
 *   - in place where that is allowed; a row alone as among others where rows are independent;
 *   - values where arithmetic goes wrong: zeros, subnormals, the largest, infinities, NaN;
 *   - rounding, flushing and masks of the FP unit as before.
 * A kernel without a check does not link.
 * SPDX-License-Identifier: MIT */
#ifndef CHECKKD_H
#define CHECKKD_H
#include "kern_test.h"
#include <stdbool.h>

#define U 0x1p-24   /* half a unit in the last place at 1 */

typedef enum ck_role { CK_IN, CK_OUT, CK_INOUT } ck_role;
typedef enum ck_type { CK_F32, CK_F64, CK_I32, CK_U8, CK_SIZE } ck_type;
enum { CK_ARRAYS = 12 };

typedef struct ck_array {
    const char *name;
    ck_role role;
    ck_type type;
    size_t  rows, n;
    bool    strided;          /* the kernel takes the distance of its rows */
    bool    shared;           /* not a row for each row of the case, though there are as many */
    bool    idle;             /* given, but not read: does not count as moved */
    void   *before, *after;   /* rows * n elements: at the call, and what the first run left */
    size_t  row;              /* in this run: elements from row to row ... */
    void   *at;               /* ... and where they lie */
} ck_array;

typedef struct ck_case {
    const struct ck_kernel *kernel;
    size_t way, rows, n;      /* a vector has one row */
    bool   special;           /* operands hold special values */
    bool   add;               /* a[0] is added to: of a kernel that `adds` */
    bool   bench;             /* to be timed, not checked */
    kdtest_rand rand;
    ck_array a[CK_ARRAYS];
    size_t arrays;
    bool   whole;             /* its rows cannot be taken alone, though the kernel's can */
    int    out, in;           /* a[out] may lie where a[in] lies; -1: it may not */
} ck_case;

typedef struct ck_kernel {
    const char *name;
    const char *const *ways;            /* its options, named, NULL at the end; NULL: one way */
    bool matrix;                        /* rows as well as columns */
    bool adds;                          /* may add to a[0]: then the result, rounded, is added to what was there */
    bool independent;                   /* a row's results depend on this row only */
    bool special;                       /* the oracle can say what special values become; else only the bits are compared */
    void (*make)(ck_case *c);           /* adds the operands; numbers that `run` needs wait in the file's own variables */
    void (*run)(const ck_case *c, const kd__kernels *k);
    void (*oracle)(const ck_case *c);   /* of the first run; not asked where c->add */
    /* --bench: a usual size; operations of an element, counted in kern_*.c, for the limit; or those of the case, if they are
     * counted as GFLOP/s.  Neither: memory is the limit. */
    size_t bench_rows, bench_n;
    size_t bench_every;                 /* every how many ways are timed; 0: all */
    double ops;
    double (*flops)(const ck_case *c);
} ck_kernel;
#define CK_KERNEL(kernel, ...) const ck_kernel check_##kernel = { .name = #kernel, __VA_ARGS__ }

/* ---- for `make`: operands in order, a[0] first --------------------------------------------------------------- */
/* Filled with scale * normal numbers, or special values; to be changed as the kernel needs it.  CK_OUT holds rubbish. */
float *ck_floats(ck_case *c, ck_role role, const char *name, size_t rows, size_t n, double scale);
/* Zeros. */
void  *ck_other(ck_case *c, ck_role role, ck_type type, const char *name, size_t rows, size_t n);
static inline ck_role ck_result(const ck_case *c) { return c->add ? CK_INOUT : CK_OUT; }
static inline void ck_strided(ck_case *c) { c->a[c->arrays - 1].strided = true; }   /* the last one's rows may lie apart */
static inline void ck_shared(ck_case *c) { c->a[c->arrays - 1].shared = true; }
static inline void ck_in_place(ck_case *c, int out, int in)
{
    c->out = out;
    c->in = in;
}
/* A special value. */
float ck_special(kdtest_rand *r);

/* ---- for `run` -------------------------------------------------------------------------------------------------- */
#define F(i)   ((float *)c->a[i].at)
#define ROW(i) (c->a[i].row)

/* ---- for `oracle`: operands packed --------------------------------------------------------------------------------- */
#define BEFORE(i) ((const float *)c->a[i].before)
#define AFTER(i)  ((const float *)c->a[i].after)
/* Element i of operand `array` came out with these bits (any NaN is a NaN), or |got - want| <= bound, NaN and infinities alike.
 */
int ck_same(const ck_case *c, int array, size_t i, float want);
int ck_near(const ck_case *c, int array, size_t i, double want, double bound);
int ck_fail(const ck_case *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* f(term(0)) + ... : registers and lanes as kernels.h orders long sums; b NULL: of a alone. */
double ck_ordered_sum(const float *a, const float *b, size_t n);
/* n numbers in double, to be freed. */
double *ck_wide(const float *x, size_t n);
#endif
