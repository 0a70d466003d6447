/* test_augment.c - what the loader does to items: scaling, shift, crop, flip, mix-up, against plain two-step loops; and
 * how its draws are distributed.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "data/data_internal.h"
#include <math.h>
#include <stdlib.h>

enum { H = 5, W = 4, MAX_C = 3, ITEMS = 6 };

/* ---- the oracle: one picture after another ------------------------------------------------------------------ */

typedef struct picture { double at[H][W][MAX_C]; } picture;

static picture moved(const picture *in, int down, int right)
{
    picture out = { { { { 0 } } } };
    for (int y = 0; y < H; y++) for (int x = 0; x < W; x++)
        if (y + down >= 0 && y + down < H && x + right >= 0 && x + right < W)
            memcpy(out.at[y][x], in->at[y + down][x + right], sizeof out.at[y][x]);
    return out;
}

static picture mirrored(const picture *in)
{
    picture out;
    for (int y = 0; y < H; y++) for (int x = 0; x < W; x++) memcpy(out.at[y][x], in->at[y][W - 1 - x], sizeof out.at[y][x]);
    return out;
}

static uint8_t raw[ITEMS][H][W][MAX_C];

static picture item(size_t n, size_t channels)
{
    picture p = { { { { 0 } } } };
    for (size_t i = 0; i < H * W * channels; i++)
        p.at[i / channels / W][i / channels % W][i % channels] = ((const uint8_t *)raw)[n * H * W * channels + i];
    return p;
}

static void fill_raw(void)   /* no zeros, no two pixels alike within an item */
{
    for (size_t i = 0; i < sizeof raw; i++) ((uint8_t *)raw)[i] = (uint8_t)(1 + i * 37 % 255);
}

typedef struct norm { double scale, mean[MAX_C], std[MAX_C]; } norm;

static int same(const float *got, const picture *want, size_t channels, const norm *n)
{
    for (int y = 0; y < H; y++) for (int x = 0; x < W; x++) for (size_t c = 0; c < channels; c++) {
        double scaled = want->at[y][x][c] * n->scale, value = (scaled - n->mean[c]) / n->std[c];
        /* two constants rounded to float, and the result */
        if (!(fabs((double)*got++ - value) <=
              2 * 0x1p-24 * (fabs(scaled) + fabs(n->mean[c])) / n->std[c] + 0x1p-24 * fabs(value)))
            return 0;
    }
    return 1;
}

static kd_dataset *dataset(size_t channels, kd_dtype dtype, int rank)
{
    static float as_float[sizeof raw];
    fill_raw();
    for (size_t i = 0; i < sizeof raw; i++) as_float[i] = ((const uint8_t *)raw)[i];
    kd_dataset *data;
    const size_t shape[3] = { H, W, channels };
    const int32_t labels[ITEMS] = { 0, 1, 2, 3, 1, 0 };
    CHECK_OK(
        kd_dataset_wrap(&data, NULL, dtype, ITEMS, (size_t)rank, shape, dtype == KD_U8 ? (const void *)raw : as_float, labels));
    return data;
}

static kd_loader_desc plain(void)
{
    kd_loader_desc d;
    kd_loader_desc_init(&d, sizeof d);
    d.batch = 4;
    d.ahead = 0;
    return d;
}

/* ---- scaling ---------------------------------------------------------------------------------------------------- */

TEST(scale_and_normalise)
{
    const float mean[3] = { 0.4f, 0.5f, 0.25f }, std[3] = { 0.2f, 0.25f, 0.5f };
    for (int way = 0; way < 6; way++) {
        kd_dtype dtype = way % 2 ? KD_F32 : KD_U8;
        kd_dataset *data = dataset(3, dtype, 3);
        kd_loader_desc d = plain();
        norm n = { dtype == KD_U8 ? 1 / 255.0 : 1, { 0 }, { 1, 1, 1 } };
        if (way >= 2) {
            d.scale = 0.25f;
            n.scale = 0.25;
        }
        if (way >= 4) {
            d.mean = mean;
            d.std = std;
            d.channels = 3;
            for (int c = 0; c < 3; c++) {
                n.mean[c] = (double)mean[c];
                n.std[c] = (double)std[c];
            }
        }
        kd_loader *loader;
        kd_tensor *x, *y;
        CHECK_OK(kd_loader_create(&loader, NULL, data, &d));
        CHECK_OK(kd_loader_next(loader, &x, &y));
        for (size_t r = 0; r < 4; r++) {
            picture p = item(kd_loader_indices(loader)[r], 3);
            CHECK_MSG(same(kd_tensor_f32(x) + r * H * W * 3, &p, 3, &n), "way %d, row %zu", way, r);
        }
        kd_loader_free(loader);
        kd_dataset_free(data);
    }
}

/* One mean for all; one per feature of long flat items. */
TEST(one_number_or_one_per_feature)
{
    enum { N = 100 };
    static float x[3][N], mean[N], std[N];
    kdtest_rand r = { 3 };
    kdtest_fill(&r, x[0], 3 * N, 2);
    for (int i = 0; i < N; i++) {
        mean[i] = (float)i / 8;
        std[i] = 1 + (float)(i % 7);
    }
    kd_dataset *data;
    CHECK_OK(kd_dataset_wrap(&data, NULL, KD_F32, 3, 1, (const size_t[]){ N }, x, NULL));
    for (size_t channels = 1; channels <= N; channels += N - 1) {
        kd_loader_desc d = plain();
        d.shuffle = 0;
        d.mean = mean + 1;
        d.std = std + 1;
        if (channels == N) {
            d.mean--;
            d.std--;
        }
        d.channels = channels;
        kd_loader *loader;
        kd_tensor *tx, *ty;
        CHECK_OK(kd_loader_create(&loader, NULL, data, &d));
        CHECK_OK(kd_loader_next(loader, &tx, &ty));
        CHECK(kd_tensor_size(tx, 0) == 3 && ((const int32_t *)kd_tensor_data(ty))[0] == -1);
        for (int i = 0; i < 3 * N; i++) {
            double m = (double)d.mean[channels == N ? i % N : 0], s = (double)d.std[channels == N ? i % N : 0],
                   v = (double)x[i / N][i % N];
            CHECK_NEAR((double)kd_tensor_f32(tx)[i], (v - m) / s, 4 * 0x1p-24 * (fabs(v) + fabs(m)) / s);
        }
        kd_loader_free(loader);
    }
    kd_dataset_free(data);
}

/* ---- moving ------------------------------------------------------------------------------------------------------- */

/* Run `epochs`; every row must be one of the pictures that the settings allow; count which. */
static void check_moves(size_t channels, kd_dtype dtype, int rank, uint32_t shift, uint32_t crop, uint32_t flip, int epochs)
{
    enum { R = 3, SIDE = 2 * R + 1 };
    static size_t shifts[SIDE][SIDE], crops[SIDE][SIDE], flips[2];
    memset(shifts, 0, sizeof shifts);
    memset(crops, 0, sizeof crops);
    memset(flips, 0, sizeof flips);
    kd_dataset *data = dataset(channels, dtype, rank);
    kd_loader_desc d = plain();
    d.shift = shift;
    d.crop_padding = crop;
    d.flip = flip;
    d.scale = 1;
    d.seed = 17;
    const float mean = 1.5f, std = 2;   /* what comes in is the item's zero, so -0.75 */
    d.mean = &mean;
    d.std = &std;
    d.channels = 1;
    const norm n = { 1, { 1.5, 1.5, 1.5 }, { 2, 2, 2 } };
    kd_loader *loader;
    CHECK_OK(kd_loader_create(&loader, NULL, data, &d));
    int s = (int)shift, c = (int)crop;
    size_t rows = 0;
    for (int e = 0; e < epochs;) {
        kd_tensor *x, *y;
        kd_status status = kd_loader_next(loader, &x, &y);
        if (status == KD_END) {
            e++;
            continue;
        }
        if (!CHECK_OK(status)) break;
        for (size_t r = 0; r < kd_tensor_size(x, 0); r++, rows++) {
            const float *got = kd_tensor_f32(x) + r * H * W * channels;
            picture p = item(kd_loader_indices(loader)[r], channels);
            int found = 0;
            for (int sy = -s; sy <= s && !found; sy++) for (int sx = -s; sx <= s && !found; sx++) {
                picture one = moved(&p, sy, sx);
                for (int cy = -c; cy <= c && !found; cy++) for (int cx = -c; cx <= c && !found; cx++)
                    for (int f = 0; f <= (int)flip && !found; f++) {
                        picture two = moved(&one, cy, cx);
                        if (f) two = mirrored(&two);
                        if (!same(got, &two, channels, &n)) continue;
                        found = 1;
                        shifts[sy + R][sx + R]++;
                        crops[cy + R][cx + R]++;
                        flips[f]++;
                    }
            }
            CHECK_MSG(found, "channels %zu, shift %u, crop %u, flip %u: no such picture", channels, shift, crop, flip);
        }
    }
    /* One kind alone is told apart from the pictures: each choice as often as the others, within 5 deviations. */
    if (!shift + !crop + !flip == 2) {
        double choices = shift ? (2 * s + 1) * (2 * s + 1) : crop ? (2 * c + 1) * (2 * c + 1) : 2;
        double mean_count = (double)rows / choices, slack = 5 * sqrt(mean_count);
        if (flip) for (int f = 0; f < 2; f++) CHECK_NEAR((double)flips[f], mean_count, slack);
        int reach = shift ? s : c;
        for (int a = -reach; !flip && a <= reach; a++) for (int b = -reach; b <= reach; b++)
            CHECK_NEAR((double)(shift ? shifts : crops)[a + R][b + R], mean_count, slack);
    }
    kd_loader_free(loader);
    kd_dataset_free(data);
}

TEST(shift_brings_zeros_in) { check_moves(3, KD_U8, 3, 2, 0, 0, 300); }
TEST(crop_of_a_padded_picture) { check_moves(1, KD_U8, 3, 0, 3, 0, 300); }
TEST(flip_mirrors_half) { check_moves(3, KD_U8, 3, 0, 0, 1, 300); }
TEST(all_together)
{
    check_moves(3, KD_U8, 3, 1, 2, 1, 20);
    check_moves(2, KD_F32, 3, 2, 1, 1, 20);
    check_moves(1, KD_F32, 2, 3, 1, 1, 10);   /* [h, w] is [h, w, 1] */
    check_moves(1, KD_U8, 2, 1, 0, 1, 10);
}

/* ---- mix-up --------------------------------------------------------------------------------------------------------- */

TEST(mixup)
{
    enum { CLASSES = 4, EPOCHS = 50 };
    const norm unit = { 1, { 0 }, { 1, 1, 1 } };
    kd_dataset *data = dataset(3, KD_U8, 3);
    kd_loader_desc d = plain();
    d.batch = 5;   /* an odd one, then a single one: not mixed */
    d.scale = 1;
    d.mixup_alpha = 0.5f;
    kd_loader *loader;
    CHECK_OK(kd_loader_create(&loader, NULL, data, &d));
    size_t mixed = 0, rows = 0;
    for (int e = 0; e < EPOCHS;) {
        kd_tensor *x, *y;
        kd_status status = kd_loader_next(loader, &x, &y);
        if (status == KD_END) {
            e++;
            continue;
        }
        if (!CHECK_OK(status)) break;
        size_t n = kd_tensor_size(x, 0);
        CHECK(kd_tensor_dtype(y) == KD_F32 && kd_tensor_rank(y) == 2 && kd_tensor_size(y, 0) == n &&
              kd_tensor_size(y, 1) == CLASSES);
        const uint32_t *at = kd_loader_indices(loader);
        for (size_t r = 0; r < n; r++, rows++) {
            const float *t = kd_tensor_f32(y) + r * CLASSES, *got = kd_tensor_f32(x) + r * H * W * 3;
            float sum = 0;
            for (int c = 0; c < CLASSES; c++) {
                CHECK(t[c] >= 0);
                sum += t[c];
            }
            CHECK(sum == 1.0f);
            CHECK(t[kd_dataset_labels(data)[at[r]]] >= 0.5f);   /* mostly itself */
            /* some partner of the batch and one share explain all pixels */
            picture a = item(at[r], 3);
            int found = same(got, &a, 3, &unit);
            mixed += !found;
            for (size_t o = 0; o < n && !found; o++) {
                picture b = item(at[o], 3);
                double share = ((double)got[0] - b.at[0][0][0]) / (a.at[0][0][0] - b.at[0][0][0]), worst = 0;
                if (!(share >= 0.5 - 1e-5 && share <= 1 + 1e-5)) continue;
                for (int i = 0; i < H * W * 3; i++) {
                    double p = ((double *)a.at)[i], q = ((double *)b.at)[i];
                    double off = fabs((double)got[i] - (share * p + (1 - share) * q));
                    if (off > worst) worst = off;   /* with fmax gcc 12 for AArch64 fails in its vectoriser */
                }
                int32_t la = kd_dataset_labels(data)[at[r]], lb = kd_dataset_labels(data)[at[o]];
                if (worst < 1e-3 && fabs((double)t[la] - (la == lb ? 1 : share)) < 1e-4) found = 1;
            }
            CHECK_MSG(found, "no pair explains row %zu of epoch %d", r, e);
        }
    }
    CHECK_MSG(mixed == rows * 4 / 6, "%zu of %zu rows mixed", mixed, rows);   /* two pairs in five, none in one */
    kd_loader_free(loader);
    kd_dataset_free(data);
}

TEST(beta_has_its_moments)
{
    const double alphas[] = { 0.1, 0.2, 0.5, 1, 2, 10 };
    for (size_t k = 0; k < 6; k++) {
        enum { N = 8000 };
        kd_rng rng = kd_rng_make(k);
        double m1 = 0, m2 = 0, tail = 0;
        for (int i = 0; i < N; i++) {
            double b = kd__rng_beta(&rng, alphas[k]);
            CHECK(b >= 0 && b <= 1);
            m1 += b / N;
            m2 += (b - 0.5) * (b - 0.5) / N;
            tail += (b < 0.25) / (double)N;
        }
        double a = alphas[k], var = 1 / (4 * (2 * a + 1)), fourth = 3 / (16 * (2 * a + 1) * (2 * a + 3));
        CHECK_NEAR(m1, 0.5, 5 * sqrt(var / N));
        CHECK_NEAR(m2, var, 5 * sqrt((fourth - var * var) / N));
        if (a == 1) CHECK_NEAR(tail, 0.25, 5 * sqrt(0.25 * 0.75 / N));   /* uniform */
        if (a == 0.5) CHECK_NEAR(tail, 1.0 / 3, 5 * sqrt(2.0 / 9 / N));   /* arcsine: 2/pi asin(1/2) */
    }
    kd_rng rng = kd_rng_make(9);
    for (int i = 0; i < 1000; i++) {   /* extremes stay numbers */
        double b = kd__rng_beta(&rng, (double)1e-30f), c = kd__rng_beta(&rng, 1e30);
        CHECK(b >= 0 && b <= 1 && fabs(c - 0.5) < 1e-6);
    }
}

/* Bits every machine must draw. */
TEST(recorded_draws)
{
    kd_rng rng = kd_rng_make(2024);
    uint64_t hash = 0;
    for (int i = 0; i < 200; i++) {
        double b = kd__rng_beta(&rng, 0.2 + i * 0.01);
        hash = hash * 31 + kdtest_hash(&b, sizeof b);
    }
    CHECK_MSG(hash == 0xbd6e30f4438e46b4ull, "0x%016llx", (unsigned long long)hash);
}
