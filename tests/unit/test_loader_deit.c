/* test_loader_deit.c - what DeiT's training adds to the loader: CutMix, smoothed labels, erasing, RandAugment, repeats; what they
 * make, how it is distributed, and that it is the same bits whenever, by whomever and in however many parts it is made.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "data/data_internal.h"
#include <math.h>
#include <stdlib.h>

enum { COUNT = 23, H = 10, W = 8, C = 3, N = H * W * C, CLASSES = 5 };

static uint8_t items[COUNT][H][W][C];

/* Item i is of the numbers 10 i + 5 + c: told apart by any pixel.  plain 0: noise. */
static kd_dataset *dataset(kd_context *ctx, int plain)
{
    int32_t labels[COUNT];
    kdtest_rand r = { 5 };
    for (size_t i = 0; i < COUNT; i++) {
        labels[i] = (int32_t)(i % CLASSES);
        for (size_t k = 0; k < N; k++)
            ((uint8_t *)items[i])[k] = (uint8_t)(plain ? 10 * i + 5 + k % 3 : kdtest_size(&r, 0, 255));
    }
    kd_dataset *data = NULL;
    CHECK_OK(kd_dataset_wrap(&data, ctx, KD_U8, COUNT, 3, (const size_t[]){ H, W, C }, items, labels));
    return data;
}

static kd_loader_desc settings(uint32_t ahead)
{
    kd_loader_desc d;
    kd_loader_desc_init(&d, sizeof d);
    d.batch = 6;
    d.ahead = ahead;
    d.seed = 7;
    d.scale = 1;
    return d;
}

/* All of DeiT's. */
static kd_loader_desc deit(uint32_t ahead)
{
    kd_loader_desc d = settings(ahead);
    d.crop_padding = 2;
    d.flip = 1;
    d.mixup_alpha = 0.8f;
    d.cutmix_alpha = 1;
    d.label_smoothing = 0.1f;
    d.erase_probability = 0.5f;
    d.randaugment_ops = 2;
    d.repeats = 3;
    d.crop_area = 0.3f;
    return d;
}

static kd_loader *make(kd_context *ctx, const kd_dataset *data, const kd_loader_desc *d)
{
    kd_loader *loader = NULL;
    CHECK_OK(kd_loader_create(&loader, ctx, data, d));
    return loader;
}

static uint64_t run(kd_loader *loader, size_t n)
{
    uint64_t hash = 7;
    while (n--) {
        kd_tensor *x, *y;
        kd_status status = kd_loader_next(loader, &x, &y);
        CHECK(status == KD_OK || status == KD_END);
        hash = hash * 1000003 + 5;
        if (status == KD_OK)
            hash += kdtest_hash(kd_tensor_data(x), kd_tensor_count(x) * 4) * 31 + kdtest_hash(kd_tensor_data(y), kd_tensor_count(y) * 4) +
                    kdtest_hash(kd_loader_indices(loader), kd_tensor_size(x, 0) * 4);
    }
    return hash;
}

/* The rows of the next batch; ends of epochs are passed over. */
static size_t next(kd_loader *loader, kd_tensor **x, kd_tensor **y)
{
    kd_status status = kd_loader_next(loader, x, y);
    if (status == KD_END) status = kd_loader_next(loader, x, y);
    return CHECK_OK(status) ? kd_tensor_size(*x, 0) : 0;
}

/* ---- the same bits ----------------------------------------------------------------------------------------------- */

TEST(the_same_whoever_makes_it)
{
    kd_dataset *data = dataset(NULL, 0);
    uint64_t want = 0;
    uint32_t isas[5];
    size_t count = kdtest_isas(isas);
    for (size_t i = 0; i < count; i++)
        for (uint32_t threads = 1; threads <= 3; threads += 2)
            for (uint32_t ahead = 0; ahead <= 4; ahead += 2) {
                kd_context *ctx = kdtest_context(threads, isas[i]);
                kd_loader_desc d = deit(ahead);
                kd_loader *loader = make(ctx, data, &d);
                uint64_t hash = run(loader, 25);
                CHECK_MSG(!want || hash == want, "%s, %u threads, %u ahead: other bits", kdtest_isa_name(isas[i]), threads, ahead);
                want = hash;
                kd_loader_free(loader);
                kd_context_free(ctx);
            }
    CHECK_MSG(want == 0xf77300f38040192cull, "0x%016llx", (unsigned long long)want);   /* on every machine */
    kd_dataset_free(data);
}

TEST(resumes_and_shards)
{
    kd_dataset *data = dataset(NULL, 0);
    for (size_t stop = 0; stop <= 11; stop++) {
        kd_loader_desc d = deit(2);
        kd_loader *whole = make(NULL, data, &d), *shards[3];
        run(whole, stop);
        uint8_t state[256];
        size_t bytes = kd__loader_state_size(whole);
        CHECK(bytes <= sizeof state);
        kd__loader_state_write(whole, state);
        d.shard_count = 3;
        for (uint32_t i = 0; i < 3; i++) {
            d.shard_index = d.ahead = i;
            shards[i] = make(NULL, data, &d);
            CHECK_OK(kd__loader_state_check(shards[i], state, bytes));
            kd__loader_state_read(shards[i], state);
        }
        for (int k = 0; k < 7; k++) {
            kd_tensor *x, *y, *sx, *sy;
            kd_status status = kd_loader_next(whole, &x, &y);
            for (size_t i = 0, first = 0; i < 3; i++) {
                CHECK_STATUS(kd_loader_next(shards[i], &sx, &sy), status);
                if (status != KD_OK) continue;
                size_t rows = kd_tensor_size(sx, 0);
                CHECK(!memcmp(kd_tensor_data(sx), kd_tensor_f32(x) + first * N, rows * N * 4));
                CHECK(!memcmp(kd_tensor_data(sy), kd_tensor_f32(y) + first * CLASSES, rows * CLASSES * 4));
                first += rows;
            }
        }
        for (size_t i = 0; i < 3; i++) kd_loader_free(shards[i]);
        kd_loader_free(whole);
    }
    kd_dataset_free(data);
}

TEST(states_of_other_settings)
{
    kd_dataset *data = dataset(NULL, 0);
    kd_loader_desc d = deit(0), plain = settings(0);
    plain.crop_padding = 2;
    plain.flip = 1;
    plain.mixup_alpha = 0.8f;
    kd_loader *loader = make(NULL, data, &d), *old = make(NULL, data, &plain);
    uint8_t state[256], first[256];
    size_t bytes = kd__loader_state_size(loader), less = kd__loader_state_size(old);
    CHECK(less == 96 && bytes == 200);
    kd__loader_state_write(loader, state);
    kd__loader_state_write(old, first);
    CHECK(first[0] == 1 && state[0] == 2);   /* as before where nothing new is asked for */
    CHECK_STATUS(kd__loader_state_check(loader, first, less), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("cutmix_alpha: 0 in the state, 1 here");
    CHECK_STATUS(kd__loader_state_check(old, state, bytes), KD_ERR_SHAPE);
    for (size_t n = 0; n < bytes; n++) CHECK_STATUS(kd__loader_state_check(loader, state, n), KD_ERR_TRUNCATED);
    CHECK_STATUS(kd__loader_state_check(loader, state, bytes + 1), KD_ERR_FORMAT);
#define OTHER(change, name)                                                         \
    do {                                                                            \
        kd_loader_desc o = deit(0);                                                 \
        change;                                                                     \
        kd_loader *other = make(NULL, data, &o);                                    \
        CHECK_STATUS(kd__loader_state_check(other, state, bytes), KD_ERR_SHAPE);    \
        CHECK_ERROR_HAS(name);                                                      \
        kd_loader_free(other);                                                      \
    } while (0)
    OTHER(o.cutmix_alpha = 2, "cutmix_alpha");
    OTHER(o.mix_switch = 0, "mix_switch");
    OTHER(o.mix_probability = 0, "mix_probability");
    OTHER(o.label_smoothing = 0, "label_smoothing");
    OTHER(o.erase_probability = 1, "erase_probability");
    OTHER(o.erase_zeros = 1, "erase_zeros");
    OTHER(o.randaugment_ops = 3, "randaugment_ops");
    OTHER(o.crop_area = 0.5f, "crop_area");
    OTHER(o.randaugment_magnitude = 5, "randaugment_magnitude");
    OTHER(o.randaugment_noise = 0, "randaugment_noise");
    OTHER(o.repeats = 2, "repeats: 3 in the state, 2 here");
    OTHER(o.height = 9, "height");
    OTHER(o.width = 7, "width");
#undef OTHER
    kd_loader_free(loader);
    kd_loader_free(old);
    kd_dataset_free(data);
}

/* A descriptor of before, with anything behind it. */
TEST(descriptors_without_them)
{
    kd_dataset *data = dataset(NULL, 0);
    kd_loader_desc d = settings(0), old = d;
    memset(&old.cutmix_alpha, 0xff, sizeof old - offsetof(kd_loader_desc, cutmix_alpha));
    old.struct_size = offsetof(kd_loader_desc, cutmix_alpha);
    kd_loader *one = make(NULL, data, &d), *two = make(NULL, data, &old);
    CHECK(run(one, 9) == run(two, 9));
    kd_loader_free(one);
    kd_loader_free(two);
    kd_dataset_free(data);
}

TEST(no_allocation_from_the_second_epoch_on)
{
    for (uint32_t ahead = 0; ahead <= 2; ahead += 2) {
        kdtest_alloc a;
        kdtest_alloc_begin(&a, 2, KD_ISA_AUTO);
        kd_dataset *data = dataset(a.ctx, 0);
        kd_loader_desc d = deit(ahead);
        kd_loader *loader = make(a.ctx, data, &d);
        run(loader, 6);
        size_t calls = a.calls;
        run(loader, 20);
        CHECK_MSG(a.calls == calls, "%zu allocations with %u ahead", a.calls - calls, ahead);
        kd_loader_free(loader);
        kd_dataset_free(data);
        kdtest_alloc_end(&a);
    }
}

/* ---- order ------------------------------------------------------------------------------------------------------- */

/* Place p is item p / repeats of the order that the same seed gives without repeats; the copies look different. */
TEST(repeats)
{
    kd_dataset *data = dataset(NULL, 0);
    for (uint32_t repeats = 1; repeats <= 4; repeats++) {
        kd_loader_desc d = settings(2), once = settings(0);
        once.batch = COUNT;
        d.repeats = repeats;
        d.crop_padding = 4;
        kd_loader *loader = make(NULL, data, &d), *order = make(NULL, data, &once);
        CHECK(kd_loader_batches(loader) == 4);
        for (int e = 0; e < 3; e++) {
            kd_tensor *x, *y, *ox, *oy;
            CHECK_OK(kd_loader_next(order, &ox, &oy));
            size_t place = 0, same = 0;
            static float before[N];
            while (kd_loader_next(loader, &x, &y) == KD_OK)
                for (size_t r = 0; r < kd_tensor_size(x, 0); r++, place++) {
                    CHECK(kd_loader_indices(loader)[r] == kd_loader_indices(order)[place / repeats]);
                    if (place % repeats) same += !memcmp(before, kd_tensor_f32(x) + r * N, sizeof before);
                    memcpy(before, kd_tensor_f32(x) + r * N, sizeof before);
                }
            CHECK(place == COUNT && same <= 3);   /* one of 81 crops */
            CHECK_STATUS(kd_loader_next(order, &ox, &oy), KD_END);
        }
        kd_loader_free(loader);
        kd_loader_free(order);
    }
    kd_dataset_free(data);
}

/* ---- mixing and labels ------------------------------------------------------------------------------------------- */

/* CutMix alone: a row is two items, one of them in a box or outside of one; the labels are the areas. */
TEST(cutmix)
{
    kd_dataset *data = dataset(NULL, 1);
    kd_loader_desc d = settings(0);
    d.cutmix_alpha = 1;
    kd_loader *loader = make(NULL, data, &d);
    enum { BATCHES = 2000 };
    double sum = 0, squares = 0, pairs = 0;
    size_t inside_rows[H] = { 0 };
    for (int b = 0; b < BATCHES; b++) {
        kd_tensor *x, *y;
        size_t rows = next(loader, &x, &y), mixed = 0;
        for (size_t r = 0; r < rows; r++) {
            const float *t = kd_tensor_f32(y) + r * CLASSES, *p = kd_tensor_f32(x) + r * N;
            size_t own = kd_loader_indices(loader)[r], other = own, foreign = 0, box[4] = { H, 0, W, 0 }, home[4] = { H, 0, W, 0 };
            float total = 0;
            for (size_t k = 0; k < CLASSES; k++) total += t[k];
            CHECK(total == 1);
            for (size_t k = 0; k < N; k++) {
                size_t from = (size_t)p[k] / 10, at_y = k / C / W, at_x = k / C % W, *area = from == own ? home : box;
                CHECK(p[k] == (float)(10 * from + 5 + k % 3));
                if (from != own) {
                    CHECK(other == own || other == from);
                    other = from;
                    foreign++;
                }
                area[0] = KD_MIN(area[0], at_y);
                area[1] = KD_MAX(area[1], at_y + 1);
                area[2] = KD_MIN(area[2], at_x);
                area[3] = KD_MAX(area[3], at_x + 1);
            }
            foreign /= C;
            size_t home_area = (home[1] - home[0]) * (home[3] - home[2]), box_area = foreign ? (box[1] - box[0]) * (box[3] - box[2]) : 0;
            CHECK(foreign * 2 <= H * W);
            CHECK(foreign == box_area || H * W - foreign == home_area);   /* one of the two is a box */
            double share = 1 - (double)foreign / (H * W);
            if (own % CLASSES != other % CLASSES) CHECK_NEAR((double)t[own % CLASSES], share, 0x1p-24);
            mixed += foreign > 0;
            if (r == 0 && foreign == box_area && foreign)
                for (size_t i = box[0]; i < box[1]; i++) inside_rows[i]++;
            sum += 1 - share;
            squares += (1 - share) * (1 - share);
            pairs++;
        }
        CHECK(mixed <= rows - rows % 2);
    }
    /* What the definition says of the part exchanged: lambda uniform, the middle any pixel, cut at the edges, folded, by summing over
     * a fine grid of lambda and all pixels.  One row of five is that of an odd batch of 5: 18 of 23 + 4 of 5 rows are mixed. */
    double mean = 0, mean_squares = 0;
    enum { GRID = 4000 };
    for (int g = 0; g < GRID; g++) {
        double ratio = sqrt((g + 0.5) / GRID);
        int ch = (int)(H * ratio), cw = (int)(W * ratio);
        for (int cy = 0; cy < H; cy++) for (int cx = 0; cx < W; cx++) {
            int t = KD_MAX(cy - ch / 2, 0), u = KD_MIN(cy + (ch + 1) / 2, H), l = KD_MAX(cx - cw / 2, 0), v = KD_MIN(cx + (cw + 1) / 2, W);
            double part = (double)((u - t) * (v - l)) / (H * W);
            part = part > 0.5 ? 1 - part : part;
            mean += part / GRID / (H * W);
            mean_squares += part * part / GRID / (H * W);
        }
    }
    const double rows_mixed = 22.0 / 23;
    double got = sum / pairs / rows_mixed, var = mean_squares - mean * mean;
    CHECK_NEAR(got, mean, 5 * sqrt(var / (pairs / 2)));   /* two rows of a pair are one draw */
    CHECK_NEAR(squares / pairs / rows_mixed, mean_squares, 5 * sqrt(0.25 * mean_squares / (pairs / 2)));   /* values below 1/2 */
    for (size_t i = 1; i < H / 2; i++) CHECK(inside_rows[i] > inside_rows[0]);   /* the edge is covered least */
    kd_loader_free(loader);
    kd_dataset_free(data);
}

/* Of a batch all rows are mixed in one way; how often which. */
TEST(switching_and_probability)
{
    kd_dataset *data = dataset(NULL, 1);
    const float chances[4][2] = { { 0.5f, 1 }, { 0.25f, 1 }, { 0, 0.5f }, { 1, 0 } };
    enum { BATCHES = 1200 };
    for (int k = 0; k < 4; k++) {
        kd_loader_desc d = settings(0);
        d.mixup_alpha = 50;   /* shares near 1/2: mix-up shows */
        d.cutmix_alpha = 50;
        d.mix_switch = chances[k][0];
        d.mix_probability = chances[k][1];
        d.drop_last = 1;
        kd_loader *loader = make(NULL, data, &d);
        size_t cut = 0, mixup = 0;
        for (int b = 0; b < BATCHES; b++) {
            kd_tensor *x, *y;
            size_t rows = next(loader, &x, &y), blended = 0, two = 0;
            for (size_t r = 0; r < rows; r++) {
                const float *p = kd_tensor_f32(x) + r * N;
                size_t own = kd_loader_indices(loader)[r], changed = 0, between = 0;
                for (size_t i = 0; i < N; i++) {
                    changed += p[i] != (float)(10 * own + 5 + i % 3);
                    between += fabsf(fmodf(p[i] - 5 - (float)(i % 3), 10)) > 1e-3f;
                }
                blended += changed == N;
                two += changed && changed < N && !between;
            }
            CHECK(!blended || !two);
            cut += two > 0;
            mixup += blended > 0;
        }
        double p = (double)chances[k][1], c = p * (double)chances[k][0], m = p - c;
        CHECK_NEAR((double)cut, BATCHES * c, 5 * sqrt(BATCHES * c * (1 - c)));
        CHECK_NEAR((double)mixup, BATCHES * m, 5 * sqrt(BATCHES * m * (1 - m)));
        kd_loader_free(loader);
    }
    kd_dataset_free(data);
}

/* Labels: the smoothed one-hot rows of the two items, mixed; the share is told by the image. */
TEST(smoothed_labels)
{
    kd_dataset *data = dataset(NULL, 1);
    for (int mixed = 0; mixed < 2; mixed++) {
        kd_loader_desc d = settings(0);
        d.label_smoothing = 0.3f;
        d.classes = 8;
        d.mixup_alpha = mixed ? 0.8f : 0;
        kd_loader *loader = make(NULL, data, &d);
        for (int b = 0; b < 40; b++) {
            kd_tensor *x, *y;
            size_t rows = next(loader, &x, &y);
            CHECK(kd_tensor_dtype(y) == KD_F32 && kd_tensor_size(y, 1) == 8);
            for (size_t r = 0; r < rows; r++) {
                const float *t = kd_tensor_f32(y) + r * 8;
                double own = 0, total = 0, off = 0.3 / 8;
                for (size_t k = 0; k < 8; k++) total += (double)t[k];
                CHECK_NEAR(total, 1, 8 * 0x1p-24);
                own = (double)t[kd_loader_indices(loader)[r] % CLASSES];
                CHECK(own <= off + 0.7 + 0x1p-23 && own >= off + 0.35 - 0x1p-23);
                if (!mixed) CHECK_NEAR(own, off + 0.7, 0x1p-23);
                CHECK_NEAR((double)t[7], off, 0x1p-24 * off);
            }
        }
        kd_loader_free(loader);
    }
    kd_dataset_free(data);
}

/* ---- erasing ----------------------------------------------------------------------------------------------------- */

TEST(erasing)
{
    enum { SIDE = 40, PIXELS = SIDE * SIDE, ROUNDS = 6000 };
    static float image[PIXELS], out[PIXELS];
    kd_dataset *data;
    for (size_t i = 0; i < PIXELS; i++) image[i] = 1000;
    CHECK_OK(kd_dataset_wrap(&data, NULL, KD_F32, 1, 2, (const size_t[]){ SIDE, SIDE }, image, NULL));
    for (uint32_t zeros = 0; zeros < 2; zeros++) {
        kd_loader_desc d;
        kd_loader_desc_init(&d, sizeof d);
        d.ahead = 0;
        d.erase_probability = 0.25f;
        d.erase_zeros = zeros;
        kd_loader *loader = make(NULL, data, &d);
        size_t erased = 0, noise = 0, top_half = 0;
        double area = 0, square = 0, logs = 0, log_squares = 0, sum = 0, squares = 0;
        for (int n = 0; n < ROUNDS; n++) {
            kd_tensor *x, *y;
            next(loader, &x, &y);
            memcpy(out, kd_tensor_data(x), sizeof out);
            size_t t = SIDE, b = 0, l = SIDE, r = 0, count = 0;
            for (size_t i = 0; i < PIXELS; i++)
                if (out[i] != 1000) {
                    size_t py = i / SIDE, px = i % SIDE;
                    t = KD_MIN(t, py);
                    b = KD_MAX(b, py + 1);
                    l = KD_MIN(l, px);
                    r = KD_MAX(r, px + 1);
                    count++;
                    CHECK(zeros ? out[i] == 0 : fabsf(out[i]) < 7);
                    sum += (double)out[i];
                    squares += (double)out[i] * (double)out[i];
                }
            if (!count) continue;
            size_t h = b - t, w = r - l;
            CHECK(count == h * w && h < SIDE && w < SIDE);   /* one rectangle */
            /* sides are rounded by 1/2 at most; the narrowest is sqrt(0.02 0.3) of a side, 3.1 pixels */
            double a = (double)count / PIXELS, aspect = (double)h / (double)w;
            double dh = (double)h, dw = (double)w;
            CHECK((dh + 0.5) * (dw + 0.5) >= 0.02 * PIXELS && (dh - 0.5) * (dw - 0.5) <= PIXELS / 3.0);
            CHECK((dh + 0.5) / (dw - 0.5) >= 0.3 && (dh - 0.5) / (dw + 0.5) <= 1 / 0.3);
            area += a;
            square += a * a;
            logs += log(aspect);
            log_squares += log(aspect) * log(aspect);
            top_half += 2 * t + h < SIDE;
            noise += count;
            erased++;
        }
        CHECK_NEAR((double)erased, ROUNDS * 0.25, 5 * sqrt(ROUNDS * 0.25 * 0.75));
        /* An area a fits with sides below SIDE - 1/2: with any aspect up to a = 0.3 (39.5 / 40)^2; beyond, the extreme ones are drawn
         * anew, which takes off less than a fiftieth of the areas' mean.  Uniform on [0.02, 1/3]. */
        double mean = area / (double)erased, deviation = (1.0 / 3 - 0.02) / sqrt(12);
        CHECK_NEAR(mean, (1.0 / 3 + 0.02) / 2, 5 * deviation / sqrt((double)erased) + 0.0036);
        CHECK_NEAR(square / (double)erased - mean * mean, deviation * deviation, 0.1 * deviation * deviation);
        double reach = log(1 / 0.3), spread = reach / sqrt(3);
        CHECK_NEAR(logs / (double)erased, 0, 5 * spread / sqrt((double)erased));
        CHECK_NEAR(log_squares / (double)erased, spread * spread, 0.1 * spread * spread);
        CHECK(top_half > erased / 3 && top_half < 2 * erased / 3);
        if (!zeros) {
            CHECK_NEAR(sum / (double)noise, 0, 5 / sqrt((double)noise));
            CHECK_NEAR(squares / (double)noise, 1, 5 * sqrt(2 / (double)noise));
        }
        kd_loader_free(loader);
    }
    kd_dataset_free(data);
}

/* ---- images smaller than the items ----------------------------------------------------------------------------------- */

/* The same bits as from items that had been cut to their middle, whatever is done to them then; of floats, of grey images too. */
TEST(the_middle_of_larger_items)
{
    enum { H2 = 7, W2 = 5 };
    static uint8_t cut[COUNT][H2][W2][C];
    static float floats[COUNT][H][W], cut_floats[COUNT][H2][W2];
    const float mean[3] = { 100, 120.4f, 300 };
    kd_dataset *whole[2], *small[2];
    whole[0] = dataset(NULL, 0);
    for (size_t i = 0; i < COUNT; i++)
        for (size_t y = 0; y < H; y++)
            for (size_t x = 0; x < W; x++) {
                const int inside = y >= 1 && y < 1 + H2 && x >= 1 && x < 1 + W2;
                floats[i][y][x] = (float)items[i][y][x][1] / 7;
                if (inside) cut_floats[i][y - 1][x - 1] = floats[i][y][x], memcpy(cut[i][y - 1][x - 1], items[i][y][x], C);
            }
    const int32_t *labels = kd_dataset_labels(whole[0]);
    CHECK_OK(kd_dataset_wrap(&small[0], NULL, KD_U8, COUNT, 3, (const size_t[]){ H2, W2, C }, cut, labels));
    CHECK_OK(kd_dataset_wrap(&whole[1], NULL, KD_F32, COUNT, 2, (const size_t[]){ H, W }, floats, labels));
    CHECK_OK(kd_dataset_wrap(&small[1], NULL, KD_F32, COUNT, 2, (const size_t[]){ H2, W2 }, cut_floats, labels));
    for (int what = 0; what < 4; what++)
        for (int real = 0; real < 2; real++) {
            kd_loader_desc d = what ? deit(2) : settings(0);
            d.crop_area = 0;
            if (what == 2) d.flip = 0, d.shift = 3;
            if (real || what == 3) d.randaugment_ops = 0;
            if (!real) d.mean = mean, d.channels = 3;
            kd_loader *want = make(NULL, small[real], &d);
            d.height = H2, d.width = W2;
            kd_loader *got = make(NULL, whole[real], &d);
            kd_tensor *x, *y;
            next(got, &x, &y);
            CHECK(kd_tensor_size(x, 1) == H2 && kd_tensor_size(x, 2) == W2);
            next(want, &x, &y);
            CHECK(run(got, 20) == run(want, 20));
            kd_loader_free(got);
            kd_loader_free(want);
        }
    for (int real = 0; real < 2; real++) kd_dataset_free(whole[real]), kd_dataset_free(small[real]);
}

/* ---- resized crop ------------------------------------------------------------------------------------------------ */

/* Colours that grow evenly along both sides: the cubic filter keeps a straight line, so the inside of a crop tells its place. */
static void check_crops(const kd_dataset *data, size_t whole, size_t side_out)
{
    enum { ROUNDS = 4000 };
    kd_loader_desc d = settings(0);
    d.crop_area = 0.08f;
    d.height = d.width = (uint32_t)side_out;
    kd_loader *loader = make(NULL, data, &d);
    const double all = (double)whole, made = (double)side_out;
    const size_t middle = side_out / 2, low = side_out / 4, high = 3 * side_out / 4;
    double areas = 0, aspects = 0, square = 0, places[2] = { 0 };
    for (int n = 0; n < ROUNDS; n++) {
        kd_tensor *x, *y;
        next(loader, &x, &y);
        const float *out = kd_tensor_f32(x);
        double side[2], from[2];
        if (!CHECK(kd_tensor_size(x, 1) == side_out && kd_tensor_size(x, 2) == side_out)) break;
        for (int a = 0; a < 2; a++) {   /* down, right; a value is off by 1/2, a side by 2/3 */
            double near = (double)out[(a ? middle * side_out + low : low * side_out + middle) * 3 + (size_t)a];
            double far = (double)out[(a ? middle * side_out + high : high * side_out + middle) * 3 + (size_t)a];
            side[a] = floor((far - near) / 3 * 2 + 0.5);
            from[a] = (near - 20) / 3 + 0.5 - (made / 4 + 0.5) * side[a] / made;
            CHECK(from[a] > -1 && from[a] + side[a] < all + 1);
            places[a] += side[a] < all - 2 ? from[a] / (all - side[a]) : 0.5;
        }
        CHECK((side[0] + 1.2) * (side[1] + 1.2) >= 0.08 * all * all);
        CHECK((side[0] - 1.2) / (side[1] + 1.2) <= 4.0 / 3 && (side[1] - 1.2) / (side[0] + 1.2) <= 4.0 / 3);
        areas += side[0] * side[1] / (all * all);
        double aspect = log(side[0] / side[1]);
        aspects += aspect;
        square += aspect * aspect;
    }
    /* The area a is uniform on [0.08, 1] and the logarithm l of the aspect on [-log 4/3, log 4/3], both drawn anew until a <= exp(-|l|),
     * where the sides fit: the mean of a is 0.4778, that of l^2 0.0254 by integrals over that region.  Sides are whole numbers. */
    CHECK_NEAR(areas / ROUNDS, 0.4778, 5 * 0.25 / sqrt(ROUNDS) + 0.01);
    CHECK_NEAR(aspects / ROUNDS, 0, 5 * 0.17 / sqrt(ROUNDS));
    CHECK_NEAR(square / ROUNDS, 0.0254, 0.003);
    for (int a = 0; a < 2; a++) CHECK_NEAR(places[a] / ROUNDS, 0.5, 5 * 0.29 / sqrt(ROUNDS) + 0.02);
    kd_loader_free(loader);
}

TEST(resized_crop_draws)
{
    enum { SIDE = 64 };
    static uint8_t image[SIDE * SIDE * 3];
    for (int i = 0; i < SIDE * SIDE; i++) {
        image[3 * i] = (uint8_t)(20 + 3 * (i / SIDE));
        image[3 * i + 1] = (uint8_t)(20 + 3 * (i % SIDE));
    }
    kd_dataset *data;
    CHECK_OK(kd_dataset_wrap(&data, NULL, KD_U8, 1, 3, (const size_t[]){ SIDE, SIDE, 3 }, image, NULL));
    check_crops(data, SIDE, SIDE);
    check_crops(data, SIDE, SIDE / 2);   /* the least */
    check_crops(data, SIDE, 72);
    kd_dataset_free(data);
}

/* ---- RandAugment ------------------------------------------------------------------------------------------------- */

/* The pictures again from the streams as documented, by the op that the golden images hold; windows and flips first. */
TEST(randaugment_draws)
{
    kd_dataset *data = dataset(NULL, 0);
    const float mean[3] = { 100, 120.4f, 300 }, std[3] = { 2, 4, 8 };
    const uint8_t fill[3] = { 100, 120, 255 };
    size_t done[KD__RANDAUGMENT_OPS] = { 0 }, drawn = 0;
    kd_loader_desc d = settings(2);
    d.randaugment_ops = 3;
    d.randaugment_magnitude = 8;
    d.randaugment_noise = 1.5f;
    d.crop_padding = 2;
    d.flip = 1;
    d.mean = mean;
    d.std = std;
    d.channels = 3;
    kd_loader *loader = make(NULL, data, &d);
    kd_rng root = kd_rng_make(7), augment = kd_rng_split(&root, 2);
    for (uint64_t e = 0; e < 30; e++) {
        kd_rng epoch = kd_rng_split(&augment, e);
        kd_tensor *x, *y;
        for (size_t place = 0; kd_loader_next(loader, &x, &y) == KD_OK;)
            for (size_t r = 0; r < kd_tensor_size(x, 0); r++, place++) {
                static uint8_t image[H][W][C], spare[N];
                kd_rng item = kd_rng_split(&epoch, place), own = kd_rng_split(&item, 0);
                int down = (int)kd_rng_below(&item, 5) - 2, right = (int)kd_rng_below(&item, 5) - 2, flip = kd_rng_u32(&item) & 1;
                for (int py = 0; py < H; py++) for (int px = 0; px < W; px++) for (int c = 0; c < C; c++) {
                    int fy = py + down, fx = (flip ? W - 1 - px : px) + right;
                    image[py][px][c] =
                        fy >= 0 && fy < H && fx >= 0 && fx < W ? items[kd_loader_indices(loader)[r]][fy][fx][c] : 0;
                }
                for (int k = 0; k < 3; k++) {
                    uint32_t op = (uint32_t)kd_rng_below(&own, KD__RANDAUGMENT_OPS), apply = kd_rng_u32(&own) & 1;
                    double level = 8 + 1.5 * (double)kd_rng_normal(&own);
                    bool negative = kd_rng_u32(&own) & 1;
                    level = level < 0 ? 0 : level > 10 ? 10 : level;
                    drawn++;
                    done[op] += apply;
                    if (apply) kd__randaugment_op(op, level, negative, image[0][0], spare, H, W, fill);
                }
                size_t other = 0;
                for (size_t i = 0; i < N; i++) {
                    double v = ((const uint8_t *)image)[i], m = (double)mean[i % 3], s = (double)std[i % 3];
                    if (!(fabs((double)kd_tensor_f32(x)[r * N + i] - (v - m) / s) <= 4 * 0x1p-24 * (v + m) / s)) other++;
                }
                CHECK_MSG(!other, "epoch %llu, place %zu: %zu numbers differ", (unsigned long long)e, place, other);
            }
    }
    double want = (double)drawn / KD__RANDAUGMENT_OPS / 2;
    for (size_t op = 0; op < KD__RANDAUGMENT_OPS; op++) CHECK_NEAR((double)done[op], want, 5 * sqrt(want));
    kd_loader_free(loader);
    kd_dataset_free(data);
}

/* ---- waiting, errors --------------------------------------------------------------------------------------------- */

TEST(waiting_is_counted)
{
    kd_dataset *data = dataset(NULL, 0);
    kd_loader_desc d = deit(0);
    kd_loader *loader = make(NULL, data, &d);
    CHECK(kd_loader_waited(loader) == 0 && kd_loader_waited(NULL) == 0);
    uint64_t begin = kd__nanoseconds(), before = 0;
    for (int i = 0; i < 10; i++) {
        run(loader, 1);
        uint64_t now = kd_loader_waited(loader);
        CHECK(now >= before && now <= kd__nanoseconds() - begin);
        before = now;
    }
    CHECK(before > 0);   /* it made them itself */
    kd_loader_free(loader);
    kd_dataset_free(data);
}

static void refuses(const kd_dataset *data, const kd_loader_desc *d, kd_status status, const char *part)
{
    kd_loader *loader = (void *)1;
    CHECK_STATUS(kd_loader_create(&loader, NULL, data, d), status);
    CHECK_ERROR_HAS(part);
    CHECK(!loader);
}

TEST(wrong_descriptors)
{
    static float floats[COUNT * N];
    kd_dataset *data = dataset(NULL, 0), *flat, *grey, *real;
    CHECK_OK(kd_dataset_wrap(&flat, NULL, KD_U8, COUNT, 1, (const size_t[]){ N }, items, NULL));
    CHECK_OK(kd_dataset_wrap(&grey, NULL, KD_U8, COUNT, 3, (const size_t[]){ H, W * C, 1 }, items, NULL));
    CHECK_OK(kd_dataset_wrap(&real, NULL, KD_F32, COUNT, 3, (const size_t[]){ H, W, C }, floats, NULL));
    kd_loader_desc d;
#define BAD(set, change, status, part) (d = settings(0), change, refuses(set, &d, status, part))
    BAD(data, d.cutmix_alpha = -1, KD_ERR_ARG, "cutmix_alpha: -1");
    BAD(data, d.cutmix_alpha = INFINITY, KD_ERR_ARG, "cutmix_alpha");
    BAD(data, d.mix_switch = 1.5f, KD_ERR_ARG, "mix_switch: 1.5 is not in [0, 1]");
    BAD(data, d.mix_probability = NAN, KD_ERR_ARG, "mix_probability");
    BAD(data, d.label_smoothing = -0.1f, KD_ERR_ARG, "label_smoothing");
    BAD(data, d.erase_probability = 2, KD_ERR_ARG, "erase_probability: 2");
    BAD(data, d.crop_area = 1.5f, KD_ERR_ARG, "crop_area: 1.5");
    BAD(data, d.crop_area = -1, KD_ERR_ARG, "crop_area: -1");
    BAD(flat, d.crop_area = 1, KD_ERR_ARG, "[240]");
    BAD(flat, d.height = 1, KD_ERR_ARG, "height and width need items [height, width, channels], not [240]");
    BAD(data, d.height = H + 1, KD_ERR_SHAPE, "height, width: 11 x 8 is not inside the items [10, 8, 3]");
    BAD(real, d.width = 9, KD_ERR_SHAPE, "10 x 9 is not inside");
    BAD(data, (d.crop_area = 1, d.height = H / 2 - 1), KD_ERR_SHAPE, "4 x 8 is less than half as high as the items [10, 8, 3]");
    BAD(data, (d.height = 3, d.crop_padding = 3), KD_ERR_ARG, "crop_padding: 3 moves");
    BAD(grey, d.crop_area = 1, KD_ERR_ARG, "crop_area: items u8 [height, width, 3] wanted, not u8 [10, 24, 1]");
    BAD(real, d.crop_area = 1, KD_ERR_DTYPE, "not f32 [10, 8, 3]");
    BAD(data, d.randaugment_ops = 17, KD_ERR_ARG, "randaugment_ops: 17, at most 16");
    BAD(data, d.randaugment_magnitude = 11, KD_ERR_ARG, "randaugment_magnitude: 11");
    BAD(data, d.randaugment_noise = -1, KD_ERR_ARG, "randaugment_noise");
    BAD(data, d.repeats = 0, KD_ERR_ARG, "repeats: 0");
    BAD(data, (d.repeats = 3, d.shuffle = 0), KD_ERR_ARG, "repeats: 3 without shuffle");
    BAD(flat, d.cutmix_alpha = 1, KD_ERR_ARG, "no labels");
    BAD(flat, d.label_smoothing = 0.1f, KD_ERR_ARG, "no labels");
    BAD(flat, d.erase_probability = 1, KD_ERR_ARG, "[240]");
    BAD(flat, d.randaugment_ops = 1, KD_ERR_ARG, "[240]");
    BAD(grey, d.randaugment_ops = 1, KD_ERR_ARG, "[10, 24, 1]");
    BAD(real, d.randaugment_ops = 1, KD_ERR_DTYPE, "not f32 [10, 8, 3]");
    kd_dataset_labels(data)[9] = -1;
    BAD(data, d.cutmix_alpha = 1, KD_ERR_RANGE, "item 9 has label -1");
    BAD(data, d.label_smoothing = 0.1f, KD_ERR_RANGE, "item 9 has label -1");
#undef BAD
    kd_dataset_free(data);
    kd_dataset_free(flat);
    kd_dataset_free(grey);
    kd_dataset_free(real);
}
