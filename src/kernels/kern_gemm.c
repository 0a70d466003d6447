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
    X(7, __VA_ARGS__) X(8, __VA_ARGS__) X(10, __VA_ARGS__) X(12, __VA_ARGS__) X(14, __VA_ARGS__)
#define EACH_ROWS_1(X, ...) EACH_ROWS_2(X, __VA_ARGS__) X(16, __VA_ARGS__)
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
enum { HALF = 8, SHARED_K = 3 };
/* The compiler may not know how this pointer was made. */
#define OPAQUE(pointer) __asm__("" : "+r"(pointer))

/* Columns in the last of `vecs` vectors from column j on. */
V_FN size_t last_width(const kd__gemm_block *g, size_t j, size_t vecs)
{
    const size_t left = g->n - j - 16 * (vecs - 1);
    return left < 16 ? left : 16;
}

/* The sums to C.  Is vector v of C only part of one?  Where masks cost nothing, as for B; else a whole panel may stand before
 * the end of C. */
V_FN void put(const kd__gemm_block *g, kd_f32x16 acc[ROWS][VECS], size_t i, size_t j, const size_t rows, const size_t vecs,
              const int partial)
{
    const size_t width = last_width(g, j, vecs);
    float *c = g->c + i * g->c_row + j;
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

/* What a tile asks for while it computes: lines that will be wanted soon, some with every sixteen steps along k. */
typedef struct ahead {
    const float *at;
    size_t       lines;        /* at a time, `line` floats apart; and `step` floats on for the next; 0 ends the list */
    ptrdiff_t    line, step;
} ahead;
enum { AHEAD = 3 };

/* For the tile at row i and column j, which is number `tile` of `tiles` over these columns; b is its first column of B. */
static const ahead *look_ahead(const kd__gemm_block *g, const float *b, size_t i, size_t j, size_t rows, size_t columns, size_t tile,
                               size_t tiles, ahead it[AHEAD + 1])
{
    size_t n = 0;
    /* Where the sums fill the registers, a loop in pieces costs more than waiting, unless A is all there is to wait for: C at once. */
    if (!MASKS && (g->prefetch & KD__GEMM_FETCH_C))
        for (size_t r = 0; r < rows; r++)
            for (size_t v = 0; v < columns; v += 16) v_prefetch(g->c + (i + r) * g->c_row + j + v);
    if (!(g->prefetch & (MASKS ? ~0 : KD__GEMM_FETCH_A))) return NULL;
    if (g->prefetch & KD__GEMM_FETCH_C)
        it[n++] = (ahead){ .at = g->c + i * g->c_row + j, .lines = columns / 16, .line = 16, .step = (ptrdiff_t)g->c_row };
    if (g->prefetch & KD__GEMM_FETCH_A) {
        const int by_row = g->a_row != 1 || g->a_k == 1, dense = by_row && g->a_row < g->length + 16;
        if (by_row || VECS == 1) {
            ahead *a = &it[n++];
            a->lines = by_row ? rows : 16;
            a->line = (ptrdiff_t)(dense ? 16 : by_row ? g->a_row : g->a_k);
            a->at = g->a + i * g->a_row + (by_row ? rows * g->a_row : g->length * g->a_k);
            a->step = by_row && !dense ? 16 : (ptrdiff_t)a->lines * a->line;
        }
    }
    if ((g->prefetch & KD__GEMM_FETCH_B) && j + columns < g->n) {
        b += g->b_panel && (j + columns) % KD__GEMM_PANEL == 0 ? g->b_panel + columns - KD__GEMM_PANEL : columns;
        const size_t lines = (g->length + 16 * tiles - 1) / (16 * tiles);
        for (size_t v = 0; v < columns; v += 16)
            it[n++] = (ahead){ .at = b + g->length * tile / tiles * g->b_k + v, .lines = lines, .line = (ptrdiff_t)g->b_k,
                               .step = (ptrdiff_t)(lines * g->b_k) };
    }
    it[n].lines = 0;
    return it;
}

/* The tile at row i and column j; b is its first column of B.  rows, vecs, by_column and partial are constants;
 * partial: the last vector of B may have less than sixteen columns in memory.  after: what to fetch, or NULL. */
V_FN void tile(const kd__gemm_block *g, const float *b, size_t i, size_t j, const ahead *after, const size_t rows,
               const size_t vecs, const int by_column, const int partial)
{
    kd_f32x16 acc[ROWS][VECS];
    const size_t a_row = by_column ? 1 : g->a_row, a_k = g->a_k, b_k = g->b_k;
    const size_t width = last_width(g, j, vecs);
    const float *a = g->a + i * a_row;

    V_UNROLL(16)
    for (size_t r = 0; r < rows; r++)
        V_UNROLL(2)
        for (size_t v = 0; v < vecs; v++) acc[r][v] = v_zero();

    for (size_t o = 0; o < g->outer; o++) {
        for (size_t p = 0; p < g->inner; p++) {
            const float *ak = a + (ptrdiff_t)o * g->a_outer + (ptrdiff_t)p * g->a_inner;
            const float *restrict bk = b + (ptrdiff_t)o * g->b_outer + (ptrdiff_t)p * g->b_inner;
            ptrdiff_t group = 0;
            for (size_t to_do = g->length; to_do;) {
                size_t steps = to_do;
                if (after) {
                    if (steps > 16) steps = 16;
                    for (const ahead *x = after; x->lines; x++) {
                        const float *next = x->at + group * x->step;
                        for (size_t line = x->lines; line; line--, next += x->line) v_prefetch(next);
                    }
                    group++;
                }
                to_do -= steps;
                /* Seven distances from two places, not fifteen from one: more do not fit the registers. */
                const float *restrict low = ak, *restrict high = ak + (rows > HALF ? HALF * a_row : 0);
                OPAQUE(high);
                ak += steps * a_k;
                do {
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
                } while (--steps);
            }
        }
    }

    put(g, acc, i, j, rows, vecs, partial);
}

/* The last and the first row of a tile at row i of A, under block o: in place or the copy. */
V_FN const float *last_row(const kd__gemm_block *g, size_t i, size_t o, size_t rows)
{
    return g->a_last && i + rows == g->m ? g->a_last + (ptrdiff_t)o * g->a_edge_outer
                                         : g->a + (i + rows - 1) * g->a_row + (ptrdiff_t)o * g->a_outer;
}

V_FN const float *first_row(const kd__gemm_block *g, size_t i, size_t o, size_t rows)
{
    if (g->a_first && i == 0) return g->a_first + (ptrdiff_t)o * g->a_edge_outer;
    return rows == 1 ? last_row(g, i, o, 1) : g->a + i * g->a_row + (ptrdiff_t)o * g->a_outer;
}

/* The same where a step along k is a step to the next row, for three k: a row of a 3-wide kernel.  Neighbours share places of A;
 * where there are registers for three vectors of B too, each place is read once. */
V_FN void tile_shared(const kd__gemm_block *g, const float *b, size_t i, size_t j, const size_t rows, const int partial)
{
    enum { TAPS = SHARED_K };
    kd_f32x16 acc[ROWS][VECS];
    const size_t row = g->a_row, width = last_width(g, j, 1);

    V_UNROLL(16)
    for (size_t r = 0; r < rows; r++) acc[r][0] = v_zero();

    for (size_t o = 0; o < g->outer; o++) {
        const float *low = g->a + i * row + (ptrdiff_t)o * g->a_outer, *bk = b + (ptrdiff_t)o * g->b_outer;
        const float *first = first_row(g, i, o, rows), *end = last_row(g, i, o, rows);
#if MASKS
        const size_t last = rows + TAPS - 2;
        const float *high = low + HALF * row;
        OPAQUE(high);
        end += (TAPS - 1) * row;
        for (size_t p = 0; p < g->inner; p++, bk += g->b_inner) {
            kd_f32x16 x[TAPS], y[ROWS + TAPS];
            V_UNROLL(3)
            for (size_t t = 0; t < TAPS; t++) x[t] = partial ? v_load_n(bk + t * g->b_k, width, 0.0f) : v_load(bk + t * g->b_k);
            /* Eight rows at a time: enough for the multipliers, and registers for what they read. */
            V_UNROLL(2)
            for (size_t r0 = 0; r0 < ROWS; r0 += HALF) {
                V_UNROLL(10)
                for (size_t q = r0 ? r0 + TAPS - 1 : 0; q < r0 + HALF + TAPS - 1; q++)
                    if (q <= last) y[q] = v_set1(q == 0 ? *first : q == last ? *end : q < HALF ? low[q * row] : high[(q - HALF) * row]);
                V_UNROLL(3)
                for (size_t t = 0; t < TAPS; t++)
                    V_UNROLL(8)
                    for (size_t r = r0; r < r0 + HALF; r++)
                        if (r < rows) acc[r][0] = v_fma(y[r + t], x[t], acc[r][0]);
            }
            first += g->a_inner;
            low += g->a_inner;
            high += g->a_inner;
            end += g->a_inner;
        }
#else
        for (size_t p = 0; p < g->inner; p++) {
            const float *to_low = low + g->a_inner, *to_first = first + g->a_inner, *to_end = end + g->a_inner;
            const float *bt = bk;
            V_UNROLL(1)
            for (size_t t = 0; t < TAPS; t++) {
                const kd_f32x16 x = partial ? v_load_n(bt, width, 0.0f) : v_load(bt);
                V_UNROLL(6)
                for (size_t r = 0; r < rows; r++)
                    acc[r][0] = v_fma(v_set1(r == 0 ? *first : r + 1 == rows ? *end : low[r * row]), x, acc[r][0]);
                low += row;
                first += row;
                end += row;
                bt += g->b_k;
            }
            low = to_low;
            first = to_first;
            end = to_end;
            bk += g->b_inner;
        }
#endif
    }
    put(g, acc, i, j, rows, 1, partial);
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

typedef void (*tile_fn)(const kd__gemm_block *g, const float *b, size_t i, size_t j, const ahead *after);
#define TILE(rows, vecs, partial)                                                                           \
    static void tile_##rows##_##vecs##_##partial(const kd__gemm_block *g, const float *b, size_t i,      \
                                                           size_t j, const ahead *after)                           \
    {                                                                                                              \
        tile(g, b, i, j, after, rows, vecs, 0, partial);                                                       \
    }
#define ENTRY(rows, vecs, partial) [rows] = tile_##rows##_##vecs##_##partial,
#define TABLE(vecs, partial) tiles_##vecs##_##partial
#define TILES(vecs, partial)                                  \
    EACH_ROWS_##vecs(TILE, vecs, partial)                     \
    static const tile_fn TABLE(vecs, partial)[ROWS + 1] = {   \
        EACH_ROWS_##vecs(ENTRY, vecs, partial)                \
    };
TILES(1, 1)
#if MASKS
TILES(2, 1)
/* Of short sums, a third of the time goes into distances, which A by columns may have as constants: in tiles of eight rows. */
static void tile_columns(const kd__gemm_block *g, const float *b, size_t i, size_t j, const ahead *after)
{
    (void)after;
    tile(g, b, i, j, NULL, HALF, 2, 1, 1);
}
static const tile_fn tiles_columns[HALF + 1] = { [HALF] = tile_columns };
#else
TILES(1, 0)
#endif

#define TILE_SHARED(rows, partial)                                                                                 \
    static void shared_##rows##_##partial(const kd__gemm_block *g, const float *b, size_t i, size_t j,             \
                                          const ahead *after)                                                      \
    {                                                                                                              \
        (void)after;                                                                                               \
        tile_shared(g, b, i, j, rows, partial);                                                                    \
    }
#define ENTRY_SHARED(rows, partial) [rows] = shared_##rows##_##partial,
#define TABLE_SHARED(partial) tiles_shared_##partial
#define TILES_SHARED(partial)                                                                                      \
    EACH_ROWS_1(TILE_SHARED, partial)                                                                              \
    static const tile_fn TABLE_SHARED(partial)[ROWS + 1] = { EACH_ROWS_1(ENTRY_SHARED, partial) };
TILES_SHARED(1)
#if !MASKS
TILES_SHARED(0)
#endif

/* The tiles for `left` columns: how many of these one takes, how many rows at most. */
static const tile_fn *choose(const kd__gemm_block *g, size_t left, size_t *columns, size_t *rows)
{
    *columns = 16;
    *rows = ROWS;
    if (g->length == SHARED_K && g->a_k == g->a_row) {
#if !MASKS
        if (left >= 16 || g->b_panel) return TABLE_SHARED(0);
#endif
        return TABLE_SHARED(1);
    }
#if MASKS
    if (left > 16) {
        *columns = 32;
        *rows = ROWS_2;
        if (g->a_row == 1 && g->m % HALF == 0 && g->length < 64) {
            *rows = HALF;
            return tiles_columns;
        }
        return TABLE(2, 1);
    }
    return TABLE(1, 1);
#else
    return left >= 16 || g->b_panel ? TABLE(1, 0) : TABLE(1, 1);
#endif
}

void KD_K(gemm_block_f32)(const kd__gemm_block *g)
{
    if (!g->m) return;
    const int finish = kd__epilogue_any(&g->after);
    size_t columns, most;
    for (size_t j = 0; j < g->n; j += columns) {
        const tile_fn *tiles = choose(g, g->n - j, &columns, &most);
        const float *b = g->b_panel ? g->b + j / KD__GEMM_PANEL * g->b_panel + j % KD__GEMM_PANEL : g->b + j;
        /* Tiles of nearly equal height: a last one of a row or two would leave the multipliers waiting.  Above eight rows there are
         * tiles of even height only, and what is odd ends with one of seven. */
        const int pairs = VECS == 2 && g->m > HALF;
        const size_t odd = pairs && g->m % 2 ? (g->m == 9 ? 5 : 7) : 0, even = g->m - odd, unit = pairs ? 2 : 1;
        const size_t count = (even + most - 1) / most, height = even / unit / count, higher = even / unit % count;
        const size_t all = count + (odd > 0);
        for (size_t t = 0, i = 0; t < all; t++) {
            size_t rows = t == count ? odd : unit * (height + (t < higher));
            ahead it[AHEAD + 1];
            tiles[rows](g, b, i, j, look_ahead(g, b, i, j, rows, columns, t, all, it));
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
