/* kern_probe.c - see kern_probe.h.
 * SPDX-License-Identifier: MIT */
#include "kern_probe.h"
#include "simd/simd.h"

static void floats(int what, float *out, const float *px, const float *py, const float *pz)
{
    kd_f32x16 x = v_load(px), y = v_load(py), z = v_load(pz), r = x;
    switch (what) {
#define CASE(name, expression) case PROBE_F_##name: r = expression; break;
        PROBE_FLOATS(CASE)
#undef CASE
    default: break;
    }
    v_store(out, r);
}

static void ints(int what, int32_t *out, const int32_t *pi, const int32_t *pj, int n)
{
    kd_i32x16 i = vi_load(pi), j = vi_load(pj), r = i;
    switch (what) {
#define CASE(name, expression) case PROBE_I_##name: r = expression; break;
        PROBE_INTS(CASE)
#undef CASE
    default: break;
    }
    vi_store(out, r);
}

static void to_ints(int32_t *out, const float *x) { vi_store(out, v_cvt_i32(v_load(x))); }

static void folds(float *out, double *sums, const float *px, const float *py)
{
    kd_f32x16 x = v_load(px), y = v_load(py);
    out[0] = v_sum(x);
    out[1] = v_hmax(x);
    out[2] = v_hmin(x);
    sums[0] = v_sum_f64(x);
    sums[1] = vd_sum(vd_mac_f32(vd_from_f32(y), x, y));
    double both[16];
    vd_store(both, vd_add(vd_from_f32(x), vd_from_f32(y)));
    sums[2] = vd_sum(vd_mul(vd_load(both), vd_set1(1.0)));
}

static void masks(int *out, const float *x, const float *y)
{
    kd_m16 m = v_lt(v_load(x), v_load(y));
    out[0] = vm_any(m);
    out[1] = vm_all(m);
}

static void load_store(float *out, const float *in, size_t n, float fill) { v_store(out, v_load_n(in, n, fill)); }
static void store(float *out, const float *in16, size_t n) { v_store_n(out, v_load(in16), n); }
static void load_store_int(int32_t *out, const int32_t *in, size_t n, int32_t fill) { vi_store(out, vi_load_n(in, n, fill)); }
static void store_int(int32_t *out, const int32_t *in16, size_t n) { vi_store_n(out, vi_load(in16), n); }
static void first(float *out, size_t n) { v_store(out, v_select(vm_first(n), v_set1(1.0f), v_zero())); }
static void bytes(float *out, const uint8_t *in) { v_store(out, v_load_u8(in)); }

static void transpose(float *m)
{
    kd_f32x16 r[16];
    for (int k = 0; k < 16; k++) r[k] = v_load(m + 16 * k);
    v_transpose16(r);
    for (int k = 0; k < 16; k++) v_store(m + 16 * k, r[k]);
}

static void stream(float *out, const float *in)
{
    v_stream(out, v_load(in));
    v_stream_end();
}

const kd__probe KD_CAT3(kd__probe, _, KD_ISA) = { floats, ints, to_ints, folds, masks, load_store, store, load_store_int,
                                                 store_int, first, bytes, transpose, stream };
