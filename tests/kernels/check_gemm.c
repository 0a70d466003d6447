/* check_gemm.c - the block of a product and the packing of B: the chain of gemm_block.h to the bit, and near the sum in double.
 * SPDX-License-Identifier: MIT */
#include "check_epilogue.h"

/* ---- gemm_block_f32: rows and columns of C are the case's, the loops along k are drawn ------------------------- */

/* Ways: A by rows, by columns, or by rows that share what they read; B in place or packed; what happens to the sum. */
static const char *const names[] = { ENDS("rows"), ENDS("columns"), ENDS("rows packed"), ENDS("columns packed"), ENDS("shared"),
                                     ENDS("shared packed"), NULL };
static bool by_column(const ck_case *c) { return c->way / 4 == 1 || c->way / 4 == 3; }
static bool packed(const ck_case *c) { return c->way / 4 == 2 || c->way / 4 == 3 || c->way / 4 == 5; }
static bool shared(const ck_case *c) { return c->way / 4 >= 4; }

enum { A, B, C, END };
enum { TAPS = 3, FIRST = 1, LAST = 2 };
static size_t outer, inner, length;
static bool a_turned, b_turned;   /* the outermost loop runs backwards */
static int prefetch, edges;       /* FIRST, LAST: these rows of a shared A lie elsewhere */

/* Rows of the array A.  Shared: for each o the places, from row to row and k to k; behind all that, what the first and the last
 * row read, three places for each o. */
static size_t places(const ck_case *c) { return c->rows + TAPS - 1; }
static size_t a_rows(const ck_case *c)
{
    if (shared(c)) return outer * (places(c) + 2 * TAPS);
    return by_column(c) ? outer * inner * length : c->rows;
}
/* Row and column of the array at which a(i, o, p, k) stands. */
static size_t a_at(const ck_case *c, size_t i, size_t o, size_t p, size_t k)
{
    const size_t at = ((a_turned ? outer - 1 - o : o) * inner + p) * length + k;
    const bool first = i == 0 && (edges & FIRST), last = !first && i + 1 == c->rows && (edges & LAST);
    if (by_column(c)) return at * c->rows + i;
    if (!shared(c)) return i * (outer * inner * length) + at;
    const size_t turned = at / (inner * length);
    size_t row = turned * places(c) + i + k;
    if (first || last) row = outer * places(c) + (first ? 0 : outer * TAPS) + turned * TAPS + k;
    return row * inner + p;
}

static void make_block(ck_case *c)
{
    outer = c->bench ? 1 : kdtest_size(&c->rand, 1, 3);
    inner = c->bench ? 1 : kdtest_size(&c->rand, 1, 3);
    length = c->bench ? 256 : c->rows * c->n % 17 == 0 ? kdtest_size(&c->rand, 0, 90) : kdtest_size(&c->rand, 1, 9);
    a_turned = !c->bench && kdtest_size(&c->rand, 0, 1);
    b_turned = !c->bench && kdtest_size(&c->rand, 0, 1);
    prefetch = c->bench ? 0 : (int)kdtest_size(&c->rand, 0, 3);
    edges = c->bench || !shared(c) ? 0 : (int)kdtest_size(&c->rand, 0, 3);
    if (c->rows == 1) edges = edges & FIRST ? FIRST | LAST : 0;
    if (shared(c)) {
        inner = c->bench ? 48 : inner * length + 1;
        length = TAPS;
        outer = c->bench ? 3 : outer;
        prefetch = 0;
    }
    const size_t k = outer * inner * length, panels = (c->n + KD__GEMM_PANEL - 1) / KD__GEMM_PANEL;
    float *a = ck_floats(c, CK_IN, "a", a_rows(c), by_column(c) ? c->rows : shared(c) ? inner : k, 1);
    ck_strided(c);
    c->whole = by_column(c) || shared(c);
    float *b = ck_floats(c, CK_IN, "b", packed(c) ? panels : k, packed(c) ? k * KD__GEMM_PANEL : c->n, 1);
    ck_strided(c);
    ck_shared(c);
    for (size_t i = 0; packed(c) && i < panels * k * KD__GEMM_PANEL; i++)
        if (i / (k * KD__GEMM_PANEL) * KD__GEMM_PANEL + i % KD__GEMM_PANEL >= c->n) b[i] = 0;
    /* Two copies of the middle place of a lone row, or of the places that the second row shares, hold the same. */
    for (size_t o = 0; shared(c) && c->rows && o < outer; o++)
        for (size_t t = 0; t < TAPS; t++)
            for (size_t p = 0; p < inner; p++) {
                float *row = a + (o * places(c)) * inner + p, *first = a + (outer * places(c) + o * TAPS + t) * inner + p;
                if (t > 0 || c->rows == 1) *first = row[t * inner];
                if (t < TAPS - 1 || c->rows == 1) first[outer * TAPS * inner] = row[(c->rows - 1 + t) * inner];
            }
    ck_floats(c, ends_by_adding(c) ? CK_INOUT : CK_OUT, "c", c->rows, c->n, 1);
    ck_strided(c);
    epilogue_make(c, ends_with(c), c->rows, c->n);
}
static void run_block(const ck_case *c, const kd__kernels *k)
{
    kd__gemm_block g = {.m = c->rows,
                        .n = c->n,
                        .outer = outer,
                        .inner = inner,
                        .length = length,
                        .a = F(A),
                        .b = F(B),
                        .c = F(C),
                        .c_row = ROW(C),
                        .add = ends_by_adding(c),
                        .after = epilogue_args(c, END, ends_with(c)),
                        .prefetch = prefetch};
    const size_t b_row = packed(c) ? KD__GEMM_PANEL : ROW(B);
    g.b_panel = packed(c) ? ROW(B) : 0;
    g.a_row = by_column(c) ? 1 : ROW(A);
    g.a_k = by_column(c) || shared(c) ? ROW(A) : 1;
    g.a_inner = shared(c) ? 1 : (ptrdiff_t)(length * g.a_k);
    g.a_outer = shared(c) ? (ptrdiff_t)(places(c) * ROW(A)) : (ptrdiff_t)inner * g.a_inner;
    g.a_edge_outer = (ptrdiff_t)(TAPS * ROW(A));
    const float *copies = F(A) + outer * places(c) * ROW(A);
    if (edges & FIRST) g.a_first = copies;
    if (edges & LAST) g.a_last = copies + outer * TAPS * ROW(A);
    g.b_k = shared(c) ? inner * b_row : b_row;
    g.b_inner = shared(c) ? (ptrdiff_t)b_row : (ptrdiff_t)(length * b_row);
    g.b_outer = (ptrdiff_t)(inner * length * b_row);
    if (a_turned) {
        g.a += (ptrdiff_t)(outer - 1) * g.a_outer, g.a_outer = -g.a_outer;
        if (g.a_first) g.a_first += (ptrdiff_t)(outer - 1) * g.a_edge_outer;
        if (g.a_last) g.a_last += (ptrdiff_t)(outer - 1) * g.a_edge_outer;
        g.a_edge_outer = -g.a_edge_outer;
    }
    if (b_turned) g.b += (ptrdiff_t)(outer - 1) * g.b_outer, g.b_outer = -g.b_outer;
    k->gemm_block_f32(&g);
}
static void oracle_block(const ck_case *c)
{
    const size_t k = outer * inner * length;
    for (size_t i = 0; i < c->rows; i++)
        for (size_t j = 0; j < c->n; j++) {
            float s = 0;
            double exact = 0, size = 0;
            for (size_t step = 0; step < k; step++) {
                const size_t t = step % length, p = step / length % inner, o = step / length / inner, ob = b_turned ? outer - 1 - o : o;
                const size_t kb = shared(c) ? (ob * length + t) * inner + p : (ob * inner + p) * length + t;
                const float a = BEFORE(A)[a_at(c, i, o, p, t)];
                const float b = BEFORE(
                    B)[packed(c) ? (j / KD__GEMM_PANEL * k + kb) * KD__GEMM_PANEL + j % KD__GEMM_PANEL : kb * c->n + j];
                s = fmaf(a, b, s);
                exact += (double)a * (double)b;
                size += fabs((double)a * (double)b);
            }
            if (ends_by_adding(c)) {
                const float old = BEFORE(C)[i * c->n + j];
                s = old + s;
                exact += (double)old;
                size += fabs((double)old);
            }
            s = epilogue_of(c, END, ends_with(c), i, j, s);
            exact = epilogue_exact(c, END, ends_with(c), i, j, exact, &size);
            if (!ck_same(c, C, i * c->n + j, s)) return;
            if (!c->special && !ck_near(c, C, i * c->n + j, exact, (double)(k + 4) * U * size)) return;
        }
}
static double block_flops(const ck_case *c) { return 2.0 * (double)(outer * inner * length) * (double)c->rows * (double)c->n; }
CK_KERNEL(gemm_block_f32, .ways = names, .matrix = true, .independent = true, .special = true, .make = make_block,
          .run = run_block, .oracle = oracle_block, .bench_rows = 210, .bench_n = 192, .bench_every = 4, .flops = block_flops);

/* ---- weight_taps_f32: rows of C are channels; its three taps below one another ------------------------------------ */

static const char *const taps_names[] = { "to", "add", NULL };
static void make_taps(ck_case *c)
{
    outer = c->bench ? 2 : kdtest_size(&c->rand, 1, 3);
    inner = c->bench ? 8 : kdtest_size(&c->rand, 1, 3);
    length = c->bench ? 16 : kdtest_size(&c->rand, 2, 9);
    ck_floats(c, CK_IN, "x", outer * inner * length, c->rows, 1);
    ck_strided(c);
    c->whole = true;
    ck_floats(c, CK_IN, "dy", outer * inner * length, c->n, 1);
    ck_strided(c);
    ck_shared(c);
    ck_floats(c, c->way ? CK_INOUT : CK_OUT, "dw", TAPS * c->rows, c->n, 1);
    ck_strided(c);
}
static void run_taps(const ck_case *c, const kd__kernels *k)
{
    kd__gemm_block g = {.m = c->rows, .n = c->n, .outer = outer, .inner = inner, .length = length, .a = F(A), .a_row = 1, .a_k = ROW(A),
                        .b = F(B), .b_k = ROW(B), .c = F(C), .c_row = ROW(C), .add = (int)c->way};
    g.a_inner = (ptrdiff_t)(length * g.a_k);
    g.b_inner = (ptrdiff_t)(length * g.b_k);
    g.a_outer = (ptrdiff_t)inner * g.a_inner;
    g.b_outer = (ptrdiff_t)inner * g.b_inner;
    k->weight_taps_f32(&g, c->rows * ROW(C));
}
static void oracle_taps(const ck_case *c)
{
    for (size_t at = 0; at < TAPS * c->rows * c->n; at++) {
        const size_t j = at % c->n, i = at / c->n % c->rows, t = at / c->n / c->rows;
        float s = 0;
        double exact = 0, size = 0;
        for (size_t k = 0; k < outer * inner * length; k++) {
            const size_t pixel = k % length, out = pixel + 1 - t;   /* wraps below 0 */
            if (out >= length) continue;
            const float x = BEFORE(A)[k * c->rows + i], dy = BEFORE(B)[(k - pixel + out) * c->n + j];
            s = fmaf(x, dy, s);
            exact += (double)x * (double)dy;
            size += fabs((double)x * (double)dy);
        }
        if (c->way) {
            s = BEFORE(C)[at] + s;
            exact += (double)BEFORE(C)[at];
            size += fabs((double)BEFORE(C)[at]);
        }
        if (!ck_same(c, C, at, s)) return;
        if (!c->special && !ck_near(c, C, at, exact, (double)(outer * inner * length + 2) * U * size)) return;
    }
}
static double taps_flops(const ck_case *c) { return 6.0 * (double)(outer * inner * length) * (double)c->rows * (double)c->n; }
CK_KERNEL(weight_taps_f32, .ways = taps_names, .matrix = true, .independent = true, .special = true, .make = make_taps,
          .run = run_taps, .oracle = oracle_taps, .bench_rows = 64, .bench_n = 64, .flops = taps_flops);

/* ---- epilogue_f32: alone, in place; ways: every choice of its parts ------------------------------------------------- */

static const char *const epilogue_names[] = {"nothing", "b",       "s",       "bs",       "r",      "br",
                                             "sr",      "bsr",     "relu",    "b relu",   "s relu", "bs relu",
                                             "r relu",  "br relu", "sr relu", "bsr relu", NULL};
static void make_epilogue(ck_case *c)
{
    ck_floats(c, CK_INOUT, "c", c->rows, c->n, 1);
    ck_strided(c);
    epilogue_make(c, (int)c->way, c->rows, c->n);
}
static void run_epilogue(const ck_case *c, const kd__kernels *k)
{
    const kd__epilogue after = epilogue_args(c, 1, (int)c->way);
    k->epilogue_f32(&after, F(0), ROW(0), c->rows, c->n);
}
static void oracle_epilogue(const ck_case *c)
{
    for (size_t at = 0; at < c->rows * c->n; at++) {
        const size_t i = at / c->n, j = at % c->n;
        double size = fabs((double)BEFORE(0)[at]), exact = epilogue_exact(c, 1, (int)c->way, i, j, (double)BEFORE(0)[at], &size);
        ck_same(c, 0, at, epilogue_of(c, 1, (int)c->way, i, j, BEFORE(0)[at]));
        if (!c->special) ck_near(c, 0, at, exact, 3 * U * size);
    }
}
CK_KERNEL(epilogue_f32, .ways = epilogue_names, .matrix = true, .independent = true, .special = true, .make = make_epilogue,
          .run = run_epilogue, .oracle = oracle_epilogue, .bench_rows = 4096, .bench_n = 1024, .bench_every = 5);

/* ---- pack_panels_f32: the case's rows are k -------------------------------------------------------------------------- */

static const char *const pack_names[] = { "plain", "transposed", NULL };
static void make_pack(ck_case *c)
{
    ck_floats(c, CK_OUT, "out", (c->n + KD__GEMM_PANEL - 1) / KD__GEMM_PANEL, c->rows * KD__GEMM_PANEL, 1);
    ck_strided(c);
    ck_floats(c, CK_IN, "b", c->way ? c->n : c->rows, c->way ? c->rows : c->n, 1);
    ck_strided(c);
}
static void run_pack(const ck_case *c, const kd__kernels *k)
{
    k->pack_panels_f32(F(1), ROW(1), (int)c->way, c->rows, c->n, F(0), ROW(0));
}
static void oracle_pack(const ck_case *c)
{
    for (size_t i = 0; i < c->a[0].rows * c->a[0].n; i++) {
        const size_t k = i / KD__GEMM_PANEL % c->rows, j = i / KD__GEMM_PANEL / c->rows * KD__GEMM_PANEL + i % KD__GEMM_PANEL;
        if (!ck_same(c, 0, i, j >= c->n ? 0.0f : BEFORE(1)[c->way ? j * c->rows + k : k * c->n + j])) return;
    }
}
CK_KERNEL(pack_panels_f32, .ways = pack_names, .matrix = true, .special = true, .make = make_pack, .run = run_pack,
          .oracle = oracle_pack, .bench_rows = 2048, .bench_n = 2048);
