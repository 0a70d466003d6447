/* simd_x86.h - what is of four lanes, shared by AVX2 and AVX-512.
 * SPDX-License-Identifier: MIT */
V_FN __m128 x86_load_n4(const float *p, size_t n)   /* p[0 .. n), n <= 4, else 0 */
{
    if (n == 4) return _mm_loadu_ps(p);
    if (n == 1) return _mm_load_ss(p);
    __m128 low = _mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)(const void *)p));
    return n == 2 ? low : _mm_movelh_ps(low, _mm_load_ss(p + 2));
}
V_FN void x86_store_n4(float *p, __m128 a, size_t n)
{
    if (n == 4) {
        _mm_storeu_ps(p, a);
    } else if (n == 1) {
        _mm_store_ss(p, a);
    } else {
        _mm_storel_epi64((__m128i *)(void *)p, _mm_castps_si128(a));
        if (n == 3) _mm_store_ss(p + 2, _mm_movehl_ps(a, a));
    }
}
V_FN float x86_sum8(__m256 a)
{
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
V_FN float x86_max8(__m256 a)
{
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
V_FN float x86_min8(__m256 a)
{
    __m128 q = _mm_min_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_min_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_min_ss(q, _mm_movehdup_ps(q)));
}
V_FN double x86_sum4d(__m256d a)
{
    __m128d q = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(q, _mm_unpackhi_pd(q, q)));
}
