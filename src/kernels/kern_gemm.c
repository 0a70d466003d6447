/* kern_gemm.c - the register tile under every matrix product and convolution, and the packing of B.
 *
 * A tile keeps ROWS x VECS vectors of C in registers.  For each k it loads VECS vectors of B and, for each
 * row, multiplies them by one broadcast element of A.  Outputs are in lanes, each with a chain of its own, so
 * the tile's size does not show in the bits.  A is read where it lies: by rows (a_k = 1) or, transposed, by
 * columns (a_row = 1).
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "kernels/epilogue_vector.h"

/* Registers: accumulators, VECS of B, one broadcast.  MASKS: loads of part of a vector cost nothing, so the
 * last columns need no tile of their own. */
#if defined KD_ISA_avx512
#define VECS 2
#define MASKS 1
#define ROWS 16   /* of one vector; ROWS_2 of two */
#define ROWS_2 14
#define EACH_ROWS_2(X, ...)                                                                                      \
    X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(3, __VA_ARGS__) X(4, __VA_ARGS__) X(5, __VA_ARGS__) X(6, __VA_ARGS__)  \
    X(7, __VA_ARGS__) X(8, __VA_ARGS__) X(9, __VA_ARGS__) X(10, __VA_ARGS__) X(11, __VA_ARGS__)                  \
    X(12, __VA_ARGS__) X(13, __VA_ARGS__) X(14, __VA_ARGS__)
#define EACH_ROWS_1(X, ...) EACH_ROWS_2(X, __VA_ARGS__) X(15, __VA_ARGS__) X(16, __VA_ARGS__)
#elif defined KD_ISA_scalar
#define VECS 1
#define MASKS 0
#define ROWS 2
#define EACH_ROWS_1(X, ...) X(1, __VA_ARGS__) X(2, __VA_ARGS__)
#else
#define VECS 1
#define MASKS 0
#define ROWS 6
#define EACH_ROWS_1(X, ...) \
    X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(3, __VA_ARGS__) X(4, __VA_ARGS__) X(5, __VA_ARGS__) X(6, __VA_ARGS__)
#endif
enum { BY_ROW, BY_COLUMN, HALF = 8 };
/* The compiler may not know how this pointer was made. */
#define OPAQUE(pointer) __asm__("" : "+r"(pointer))

/* Ask for what the next tile or block will read where this one reads the `steps` elements at ak and bk. */
static void prefetch(const kd__gemm_block *g, const float *ak, const float *bk, size_t steps, size_t i, size_t rows, int order)
{
    if (g->prefetch & KD__GEMM_FETCH_A) {
        if (order == BY_ROW)
            for (size_t r = 0; r < rows; r++) v_prefetch(ak + (rows + r) * g->a_row);
        else
            for (size_t k = 0; k < steps; k++) v_prefetch(ak + (g->length + k) * g->a_k);
    }
    if ((g->prefetch & KD__GEMM_FETCH_B) && i == 0)
        for (size_t k = 0; k < steps; k++)
            for (size_t v = 0; v < VECS; v++) v_prefetch(bk + k * g->b_k + 16 * (VECS + v));
}

/* The tile at row i and column j; b is its first column of B.  rows, vecs, order and partial are constants;
 * partial: the last vector of B may have less than sixteen columns in memory. */
V_FN void tile(const kd__gemm_block *g, const float *b, size_t i, size_t j, const size_t rows, const size_t vecs,
               const int order, const int partial)
{
    kd_f32x16 acc[ROWS][VECS];
    const size_t a_row = order == BY_ROW ? g->a_row : 1, a_k = order == BY_ROW ? 1 : g->a_k, b_k = g->b_k;
    const size_t last = 16 * (vecs - 1);                  /* first column of the last vector */
    const size_t width = g->n - j - last < 16 ? g->n - j - last : 16;   /* its columns */
    const float *a = g->a + i * a_row;

    V_UNROLL(16)
    for (size_t r = 0; r < rows; r++)
        V_UNROLL(2)
        for (size_t v = 0; v < vecs; v++) acc[r][v] = v_zero();

    for (size_t o = 0; o < g->outer; o++) {
        for (size_t p = 0; p < g->inner; p++) {
            const float *ak = a + (ptrdiff_t)o * g->a_outer + (ptrdiff_t)p * g->a_inner;
            const float *restrict bk = b + (ptrdiff_t)o * g->b_outer + (ptrdiff_t)p * g->b_inner;
            const size_t piece = g->prefetch ? 16 : g->length;
            for (size_t k = 0; k < g->length; k += piece) {
                const size_t steps = g->length - k < piece ? g->length - k : piece;
                if (g->prefetch) prefetch(g, ak, bk, steps, i, rows, order);
                /* Seven distances from two places, not fifteen from one: more do not fit the registers. */
                const float *restrict low = ak, *restrict high = ak + (rows > HALF ? HALF * a_row : 0);
                OPAQUE(high);
                for (size_t left = steps; left; left--) {
                    kd_f32x16 x[VECS];
                    V_UNROLL(2)
                    for (size_t v = 0; v < vecs; v++)
                        x[v] = partial && v + 1 == vecs ? v_load_n(bk + 16 * v, width, 0.0f) : v_load(bk + 16 * v);
                    V_UNROLL(16)
                    for (size_t r = 0; r < rows; r++) {
                        kd_f32x16 y = v_set1(r < HALF ? low[r * a_row] : high[(r - HALF) * a_row]);
                        V_UNROLL(2)
                        for (size_t v = 0; v < vecs; v++) acc[r][v] = v_fma(y, x[v], acc[r][v]);
                    }
                    low += a_k;
                    high += a_k;
                    bk += b_k;
                }
                ak += steps * a_k;
            }
        }
    }

    float *c = g->c + i * g->c_row + j;
/* Is vector v of C only part of one?  Where masks cost nothing, as for B; else a whole panel may stand before the end of C. */
#define PART(v) ((v) + 1 == vecs && (MASKS ? partial : width < 16))
    if (g->add) {
        V_UNROLL(16)
        for (size_t r = 0; r < rows; r++)
            V_UNROLL(2)
            for (size_t v = 0; v < vecs; v++) {
                const float *at = c + r * g->c_row + 16 * v;
                acc[r][v] = v_add(PART(v) ? v_load_n(at, width, 0.0f) : v_load(at), acc[r][v]);
            }
    }
    V_UNROLL(16)
    for (size_t r = 0; r < rows; r++)
        V_UNROLL(2)
        for (size_t v = 0; v < vecs; v++) {
            float *at = c + r * g->c_row + 16 * v;
            if (PART(v)) v_store_n(at, acc[r][v], width);
            else v_store(at, acc[r][v]);
        }
#undef PART
}

/* The tile is in the first cache still, so that taking it up again costs less than a copy of this in every tile. */
void KD_K(epilogue_f32)(const kd__epilogue *after, float *c, size_t c_row, size_t rows, size_t n)
{
    for (size_t j = 0; j < n; j += 16) {
        const size_t width = n - j < 16 ? n - j : 16;
        const epilogue_columns columns = epilogue_begin(after, j, width);
        const float *residual = after->residual ? after->residual + j : NULL;
        for (size_t r = 0; r < rows; r++) {
            float *at = c + r * c_row + j;
            store_part(at, epilogue_apply(&columns, load_part(at, width), residual, width), width);
            if (residual) residual += after->residual_row;
        }
    }
}

typedef void (*tile_fn)(const kd__gemm_block *g, const float *b, size_t i, size_t j);
#define TILE(rows, vecs, order, partial)                                                                     \
    static void tile_##rows##_##vecs##_##order##_##partial(const kd__gemm_block *g, const float *b, size_t i, \
                                                           size_t j)                                          \
    {                                                                                                        \
        tile(g, b, i, j, rows, vecs, order, partial);                                                        \
    }
#define ENTRY(rows, vecs, order, partial) [rows] = tile_##rows##_##vecs##_##order##_##partial,
#define TABLE(vecs, order, partial) tiles_##vecs##_##order##_##partial
#define TILES(vecs, order, partial)                                  \
    EACH_ROWS_##vecs(TILE, vecs, order, partial)                     \
    static const tile_fn TABLE(vecs, order, partial)[ROWS + 1] = {   \
        EACH_ROWS_##vecs(ENTRY, vecs, order, partial)                \
    };
TILES(1, BY_ROW, 1)
TILES(1, BY_COLUMN, 1)
#if VECS == 2
TILES(2, BY_ROW, 1)
TILES(2, BY_COLUMN, 1)
#endif
#if !MASKS
TILES(1, BY_ROW, 0)
TILES(1, BY_COLUMN, 0)
#endif

/* The tiles for `left` columns: how many of these one takes, how many rows at most. */
static const tile_fn *choose(const kd__gemm_block *g, size_t left, size_t *columns, size_t *rows)
{
    const int order = g->a_k == 1 ? BY_ROW : BY_COLUMN;
    *columns = 16;
    *rows = ROWS;
#if VECS == 2
    if (left > 16) {
        *columns = 32;
        *rows = ROWS_2;
        return order == BY_ROW ? TABLE(2, BY_ROW, 1) : TABLE(2, BY_COLUMN, 1);
    }
#endif
#if !MASKS
    if (left >= 16 || g->b_panel) return order == BY_ROW ? TABLE(1, BY_ROW, 0) : TABLE(1, BY_COLUMN, 0);
#endif
    return order == BY_ROW ? TABLE(1, BY_ROW, 1) : TABLE(1, BY_COLUMN, 1);
}

void KD_K(gemm_block_f32)(const kd__gemm_block *g)
{
    if (!g->m) return;
    const int finish = kd__epilogue_any(&g->after);
    size_t columns, most;
    for (size_t j = 0; j < g->n; j += columns) {
        const tile_fn *tiles = choose(g, g->n - j, &columns, &most);
        const float *b = g->b_panel ? g->b + j / KD__GEMM_PANEL * g->b_panel + j % KD__GEMM_PANEL : g->b + j;
        /* Tiles of nearly equal height: a last one of a row or two would leave the multipliers waiting. */
        const size_t count = (g->m + most - 1) / most, height = g->m / count, higher = g->m % count;
        for (size_t t = 0, i = 0; t < count; t++) {
            size_t rows = height + (t < higher);
            tiles[rows](g, b, i, j);
            if (finish) {
                const kd__epilogue after = kd__epilogue_at(&g->after, i, j);
                KD_K(epilogue_f32)(&after, g->c + i * g->c_row + j, g->c_row, rows, g->n - j < columns ? g->n - j : columns);
            }
            i += rows;
        }
    }
}

/* One panel from B stored [k][n]. */
static void pack_plain(const float *b, size_t b_stride, size_t k, size_t n, float *panel)
{
    const size_t first = n < 16 ? n : 16, second = n - first;
    for (size_t i = 0; i < k; i++, b += b_stride, panel += KD__GEMM_PANEL) {
        v_store(panel, first == 16 ? v_load(b) : v_load_n(b, first, 0.0f));
        v_store(panel + 16, second == 16 ? v_load(b + 16) : v_load_n(b + first, second, 0.0f));
    }
}

/* One panel from B stored [n][k]. */
static void pack_transposed(const float *b, size_t b_stride, size_t k, size_t n, float *panel)
{
    for (size_t j = 0; j < KD__GEMM_PANEL; j += 16) {
        const size_t columns = n > j ? n - j : 0;
        for (size_t i = 0; i < k; i += 16) {
            const size_t depth = k - i < 16 ? k - i : 16;
            kd_f32x16 r[16];
            V_UNROLL(16)
            for (size_t c = 0; c < 16; c++) {
                const float *from = b + (j + c) * b_stride + i;
                r[c] = c >= columns ? v_zero() : depth == 16 ? v_load(from) : v_load_n(from, depth, 0.0f);
            }
            v_transpose16(r);
            float *to = panel + i * KD__GEMM_PANEL + j;
            if (depth == 16) {
                V_UNROLL(16)
                for (size_t c = 0; c < 16; c++) v_store(to + c * KD__GEMM_PANEL, r[c]);
            } else {
                for (size_t c = 0; c < depth; c++) v_store(to + c * KD__GEMM_PANEL, r[c]);
            }
        }
    }
}

void KD_K(pack_panels_f32)(const float *b, size_t b_stride, int transposed, size_t k, size_t n, float *out, size_t panel)
{
    for (size_t j = 0; j < n; j += KD__GEMM_PANEL, out += panel) {
        const size_t columns = n - j < KD__GEMM_PANEL ? n - j : KD__GEMM_PANEL;
        if (transposed) pack_transposed(b + j * b_stride, b_stride, k, columns, out);
        else pack_plain(b + j, b_stride, k, columns, out);
    }
}
