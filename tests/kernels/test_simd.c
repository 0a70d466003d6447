/* test_simd.c - every word of the vector alphabet on every instruction set, against plain C.
 * SPDX-License-Identifier: MIT */
#include "kern_probe.h"
#include "kern_test.h"

/* The probe of exactly this level; NULL when the build or the CPU lacks it. */
static const kd__probe *probe_of(uint32_t isa)
{
    if (!kernels_of(isa)) return NULL;
#ifdef KD_BUILD_avx2
    if (isa == KD_ISA_AVX2) return &kd__probe_avx2;
#endif
#ifdef KD_BUILD_avx512
    if (isa == KD_ISA_AVX512) return &kd__probe_avx512;
#endif
#ifdef KD_BUILD_neon
    if (isa == KD_ISA_NEON) return &kd__probe_neon;
#endif
    return isa == KD_ISA_SCALAR ? &kd__probe_scalar : NULL;
}
#define EACH_PROBE(p)                                           \
    for (uint32_t isa = KD_ISA_SCALAR; isa < ISA_END; isa++)    \
        for (const kd__probe *p = probe_of(isa); p; p = NULL)

static float round_even(float x) { return fabsf(x) < 0x1p23f ? copysignf((float)nearbyint((double)x), x) : x; }

static float expected(int what, float x, float y, float z)
{
    switch (what) {
    case PROBE_F_add: return x + y;
    case PROBE_F_sub: return x - y;
    case PROBE_F_mul: return x * y;
    case PROBE_F_div: return x / y;
    case PROBE_F_fma: return fmaf(x, y, z);
    case PROBE_F_fms: return fmaf(x, y, -z);
    case PROBE_F_fnma: return fmaf(-x, y, z);
    case PROBE_F_max: return x > y ? x : y;
    case PROBE_F_min: return x < y ? x : y;
    case PROBE_F_sqrt: return sqrtf(x);
    case PROBE_F_abs: return fabsf(x);
    case PROBE_F_neg: return -x;
    case PROBE_F_round: return round_even(x);
    case PROBE_F_floor: return floorf(x);
    case PROBE_F_copysign: return copysignf(x, y);
    case PROBE_F_lt: return x < y ? x : z;
    case PROBE_F_le: return x <= y ? x : z;
    case PROBE_F_gt: return x > y ? x : z;
    case PROBE_F_eq: return x == y ? x : z;
    case PROBE_F_isnan: return x != x ? y : z;
    case PROBE_F_mask_and: return x < y && y < z ? x : z;
    case PROBE_F_mask_or: return x < y || y < z ? x : z;
    case PROBE_F_mask_not: return !(x < y) ? x : z;
    default: return (float)((double)x * (double)y);
    }
}

/* Sixteen lanes of x, y, z through every word. */
static void try_floats(const float *x, const float *y, const float *z)
{
    static const char *const names[] = {
#define NAME(name, expression) #name,
        PROBE_FLOATS(NAME)
#undef NAME
    };
    for (int what = 0; what < PROBE_F_COUNT; what++) {
        float want[16], got[16];
        for (int i = 0; i < 16; i++) want[i] = expected(what, x[i], y[i], z[i]);
        EACH_PROBE(p) {
            p->floats(what, got, x, y, z);
            size_t i = first_difference(got, want, 16);
            if (i < 16)
                CHECK_MSG(0, "%s %s(%a, %a, %a) = %a, want %a", kdtest_isa_name(isa), names[what], (double)x[i], (double)y[i],
                          (double)z[i], (double)got[i], (double)want[i]);
        }
    }
}

TEST(floats_special)
{
    float x[16], y[16], z[16];
    uint64_t control = fp_control();
    for (size_t a = 0; a < SPECIAL_COUNT; a++)
        for (size_t b = 0; b < SPECIAL_COUNT; b++) {
            for (size_t i = 0; i < 16; i++) {
                x[i] = special_floats[a];
                y[i] = special_floats[b];
                z[i] = special_floats[(a + b + 3 * i) % SPECIAL_COUNT];
            }
            try_floats(x, y, z);
        }
    CHECK(fp_control() == control);
}

TEST(floats_random)
{
    kdtest_rand r = { 1 };
    float v[3][16];
    for (int round = 0; round < (kdtest_full() ? 100000 : 2000); round++) {
        for (int k = 0; k < 48; k++)
            v[k / 16][k % 16] = round % 2 ? float_of((uint32_t)(kdtest_bits(&r) >> 32)) : (float)kdtest_uniform(&r, -100, 100);
        try_floats(v[0], v[1], v[2]);
    }
}

/* Triples where a fused multiply-add is hard. */
static void hard_triple(kdtest_rand *r, float *x, float *y, float *z)
{
    uint64_t u = kdtest_bits(r), kind = u >> 61, w = kdtest_bits(r);
    uint32_t a = (uint32_t)u, b = (uint32_t)w, c = (uint32_t)(w >> 32);
    float sign = a & 1 ? -1.0f : 1.0f;
    *x = float_of((a & 0x807fffffu) | 0x3f800000u);
    *y = float_of((b & 0x007fffffu) | 0x3f800000u);
    switch (kind) {
    case 0: *z = (float)-((double)*x * (double)*y); break;       /* all but the low half cancels */
    case 1: *z = ldexpf(sign, (int)(c % 60) - 30); break;        /* one bit far below or far above */
    case 2:                                                      /* subnormal results */
        *x = ldexpf(*x, -60);
        *y = ldexpf(*y, -66 - (int)(c % 24));
        *z = float_of((c & 0x80000000u) | (c >> 9 & 0x7fffu));
        break;
    case 3:                                                      /* at the largest float */
        *x = ldexpf(*x, 63);
        *y = ldexpf(*y, 63 + (int)(c & 1));
        *z = float_of((c & 0x80000000u) | 0x7f7fff00u | (c >> 8 & 0xffu));
        break;
    case 4: case 5: {   /* the product is half a unit of z times 1 - 2^-30 .. 1 - 2^-46: in double it is the middle */
        float tiny = ldexpf(1.0f, -15 - (int)(b % 9));
        int scale = kind == 4 ? (int)(c % 128) - 64 : -151 + 1;
        *x = ldexpf(sign * (1.0f + tiny), scale / 2);
        *y = ldexpf(1.0f - tiny, scale - scale / 2);
        *z = kind == 4 ? ldexpf((float)(0x800000u | (b >> 9)), scale + 1) : float_of(b >> 9);
        if (a & 2) *z = -*z;
        break;
    }
    default: *x = float_of(a), *y = float_of(b), *z = float_of(c); break;   /* any bits */
    }
}

TEST(fma_rounds_once)
{
    /* z and a little less than half of the last place of a subnormal: musl's fmaf, by way of double, makes it half and rounds again. */
    volatile float half = -0x1.000008p-75f;
    if (fmaf(half, 0x1.fffffp-76f, -0x1.2c3f98p-128f) != -0x1.2c3f98p-128f) {
        kdtest_skip("the C library's fmaf rounds twice");
        return;
    }
    kdtest_rand r = { 2 };
    float x[16], y[16], z[16], want[16], got[16];
    for (int round = 0; round < (kdtest_full() ? 8000000 : 700000); round++) {
        for (int i = 0; i < 16; i++) {
            hard_triple(&r, x + i, y + i, z + i);
            want[i] = fmaf(x[i], y[i], z[i]);
        }
        EACH_PROBE(p) {
            p->floats(PROBE_F_fma, got, x, y, z);
            size_t i = first_difference(got, want, 16);
            if (i < 16 && !CHECK_MSG(0, "%s fma(%a, %a, %a) = %a, want %a", kdtest_isa_name(isa), (double)x[i], (double)y[i],
                                     (double)z[i], (double)got[i], (double)want[i]))
                return;
        }
    }
}

static int32_t expected_int(int what, int32_t i, int32_t j, int n, int lane)
{
    uint32_t a = (uint32_t)i, b = (uint32_t)j;
    switch (what) {
    case PROBE_I_add: return (int32_t)(a + b);
    case PROBE_I_sub: return (int32_t)(a - b);
    case PROBE_I_mul: return (int32_t)(a * b);
    case PROBE_I_mulhi_u: return (int32_t)((uint64_t)a * b >> 32);
    case PROBE_I_and: return i & j;
    case PROBE_I_or: return i | j;
    case PROBE_I_xor: return i ^ j;
    case PROBE_I_shl: return (int32_t)(a << n);
    case PROBE_I_shr: return (int32_t)(a >> n);
    case PROBE_I_sar: return i >> n;
    case PROBE_I_eq: return i == j ? i : n;
    case PROBE_I_gt: return i > j ? i : n;
    case PROBE_I_iota: return lane;
    default: return (int32_t)bits_of((float)i);
    }
}

TEST(integers)
{
    kdtest_rand r = { 3 };
    for (int round = 0; round < 4000; round++) {
        int32_t i[16], j[16], want[16], got[16];
        int n = (int)(kdtest_bits(&r) % 32);
        for (int k = 0; k < 16; k++) {
            i[k] = (int32_t)(kdtest_bits(&r) >> 32) >> (round % 3 ? 0 : 28);
            j[k] = (int32_t)(kdtest_bits(&r) >> 32) >> (round % 3 ? 0 : 28);
        }
        if (round == 0) i[0] = INT32_MIN, j[0] = -1, i[1] = j[1] = INT32_MAX;
        for (int what = 0; what < PROBE_I_COUNT; what++) {
            for (int k = 0; k < 16; k++) want[k] = expected_int(what, i[k], j[k], n, k);
            EACH_PROBE(p) {
                p->ints(what, got, i, j, n);
                CHECK_MSG(memcmp(got, want, sizeof want) == 0, "%s integer word %d, shift %d", kdtest_isa_name(isa), what, n);
            }
        }
    }
}

TEST(to_integers)
{
    kdtest_rand r = { 4 };
    for (int round = 0; round < 4000; round++) {
        float x[16];
        int32_t got[16];
        for (int k = 0; k < 16; k++) {
            double u = kdtest_uniform(&r, -1, 1);
            x[k] = (float)(round % 4 == 0 ? 2147483520.0 * u : round % 4 == 1 ? floor(1000 * u) + 0.5 : 8388608 * u);
        }
        EACH_PROBE(p) {
            p->to_ints(got, x);
            for (int k = 0; k < 16; k++)
                CHECK_MSG(got[k] == (int32_t)nearbyint((double)x[k]), "%s: %a became %d", kdtest_isa_name(isa), (double)x[k], got[k]);
        }
    }
}

/* The tree, written out: the upper half onto the lower. */
#define TREE(type, v, op)                                  \
    for (int w_ = 8; w_; w_ /= 2)                          \
        for (int i_ = 0; i_ < w_; i_++) {                  \
            type a = v[i_], b = v[i_ + w_];                \
            v[i_] = op;                                    \
        }

TEST(folds)
{
    kdtest_rand r = { 5 };
    for (int round = 0; round < 4000; round++) {
        float x[16], y[16], s[16], hi[16], lo[16], got[3];
        double d[16], m[16], both[16], sums[3];
        for (int k = 0; k < 16; k++) {
            x[k] = round % 8 ? (float)(kdtest_normal(&r) * pow(10, kdtest_uniform(&r, -4, 4)))
                             : special_floats[kdtest_bits(&r) % SPECIAL_COUNT];
            y[k] = (float)kdtest_normal(&r);
            s[k] = hi[k] = lo[k] = x[k];
            d[k] = (double)x[k];
            m[k] = (double)y[k] + (double)x[k] * (double)y[k];
            both[k] = (double)x[k] + (double)y[k];
        }
        TREE(float, s, a + b)
        TREE(float, hi, a > b ? a : b)
        TREE(float, lo, a < b ? a : b)
        TREE(double, d, a + b)
        TREE(double, m, a + b)
        TREE(double, both, a + b)
        EACH_PROBE(p) {
            p->folds(got, sums, x, y);
            CHECK(same_float(got[0], s[0]) && same_float(got[1], hi[0]) && same_float(got[2], lo[0]));
            CHECK(sums[0] == d[0] || (sums[0] != sums[0] && d[0] != d[0]));
            CHECK(sums[1] == m[0] || (sums[1] != sums[1] && m[0] != m[0]));
            CHECK(sums[2] == both[0] || (sums[2] != sums[2] && both[0] != both[0]));
        }
    }
}

TEST(masks)
{
    for (uint32_t pattern = 0; pattern < 65536; pattern += pattern % 256 == 3 ? 253 : 1) {
        float x[16], zero[16] = { 0 };
        int got[2];
        for (int k = 0; k < 16; k++) x[k] = pattern >> k & 1 ? -1.0f : 1.0f;
        EACH_PROBE(p) {
            p->masks(got, x, zero);
            CHECK(got[0] == (pattern != 0) && got[1] == (pattern == 65535));
        }
    }
}

/* n lanes beside a page that faults: nothing past n is read or written. */
TEST(partial_loads_and_stores)
{
    float in16[16], out[16];
    int32_t ints16[16], ints[16];
    for (int k = 0; k < 16; k++) in16[k] = (float)(k + 1), ints16[k] = k + 1;
    for (size_t n = 0; n <= 16; n++)
        for (int tail = 0; tail < 2; tail++) {
            float *f = kdtest_guard(n * 4, tail);
            int32_t *d = kdtest_guard(n * 4, tail);
            EACH_PROBE(p) {
                p->store(f, in16, n);
                p->load_store(out, f, n, -7.0f);
                p->store_int(d, ints16, n);
                p->load_store_int(ints, d, n, -7);
                for (size_t k = 0; k < 16; k++) {
                    CHECK(out[k] == (k < n ? in16[k] : -7.0f));
                    CHECK(ints[k] == (k < n ? ints16[k] : -7));
                }
                float keep[16];
                memset(keep, 0x55, sizeof keep);
                p->store(keep, in16, n);
                for (size_t k = n; k < 16; k++) CHECK(bits_of(keep[k]) == 0x55555555u);
                p->first(out, n);
                for (size_t k = 0; k < 16; k++) CHECK(out[k] == (k < n ? 1.0f : 0.0f));
            }
            kdtest_guard_free(f, n * 4, tail);
            kdtest_guard_free(d, n * 4, tail);
        }
}

TEST(bytes_transpose_stream)
{
    uint8_t b[16];
    float out[16], m[256];
    _Alignas(64) float line[16];
    for (int round = 0; round < 256; round += 16) {
        for (int k = 0; k < 16; k++) b[k] = (uint8_t)(round + k);
        EACH_PROBE(p) {
            p->bytes(out, b);
            for (int k = 0; k < 16; k++) CHECK(out[k] == (float)(round + k));
        }
    }
    EACH_PROBE(p) {
        for (int k = 0; k < 256; k++) m[k] = (float)k;
        p->transpose(m);
        for (int k = 0; k < 256; k++) CHECK(m[k] == (float)(k % 16 * 16 + k / 16));
        p->stream(line, m);
        CHECK(memcmp(line, m, sizeof line) == 0);
    }
}
