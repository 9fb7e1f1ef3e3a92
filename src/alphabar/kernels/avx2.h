// Four numbers at a time as doubles, by hand: compilers shuffle where floats become doubles, and know no float16.

#pragma once

#include "half.h"

#ifdef X86
namespace {

const bool HAS_AVX2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");

AVX2 inline __m128i load_halves(const void* x) { return _mm_loadl_epi64(static_cast<const __m128i*>(x)); }
AVX2 inline void store_halves(void* to, __m128i x) { _mm_storel_epi64(static_cast<__m128i*>(to), x); }

AVX2 inline __m256d load(const double* x) { return _mm256_loadu_pd(x); }
AVX2 inline __m256d load(const float* x) { return _mm256_cvtps_pd(_mm_loadu_ps(x)); }
AVX2 inline __m256d load(const float16* x) { return _mm256_cvtps_pd(_mm_cvtph_ps(load_halves(x))); }
AVX2 inline __m256d load(const bfloat16* x) {
    return _mm256_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(load_halves(x)), 16)));
}

AVX2 inline void store(double* to, __m256d x, bool) { _mm256_storeu_pd(to, x); }
AVX2 inline void store(float* to, __m256d x, bool streams) {
    streams ? _mm_stream_ps(to, _mm256_cvtpd_ps(x)) : _mm_storeu_ps(to, _mm256_cvtpd_ps(x));
}
AVX2 inline void store(float16* to, __m256d x, bool) {
    store_halves(to, _mm_cvtps_ph(_mm256_cvtpd_ps(x), _MM_FROUND_TO_NEAREST_INT));
}
AVX2 inline void store(bfloat16* to, __m256d x, bool) {  // as bfloat16::nearest
    const __m128i wide = _mm_castps_si128(_mm256_cvtpd_ps(x));
    const __m128i odd = _mm_and_si128(_mm_srli_epi32(wide, 16), _mm_set1_epi32(1));
    const __m128i nearest = _mm_add_epi32(_mm_add_epi32(wide, _mm_set1_epi32(0x7FFF)), odd);
    const __m128i halves = _mm_srli_epi32(nearest, 16);
    store_halves(to, _mm_packus_epi32(halves, halves));
}

// From `from` on as much as goes by sixteens; returns where the rest begins. All are read before any is written, which
// avoids 4K aliasing; `out` may be one of the tensors.
template <class In, class Out, int N, bool CLIPS>
AVX2 inline int64_t add_up_by_sixteen(
    int64_t from, int64_t to, const In* const* x, const double* c, double limit, Out* out, bool streams) {
    const __m256d most = _mm256_set1_pd(limit), least = _mm256_set1_pd(-limit);
    __m256d factors[N], sums[4];
    for (int k = 0; k < N; ++k) factors[k] = _mm256_set1_pd(c[k]);
    streams = streams && reinterpret_cast<uintptr_t>(out + from) % 16 == 0;
    for (; from + 16 <= to; from += 16) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            sums[j] = _mm256_mul_pd(factors[0], load(x[0] + from + 4 * j));
#pragma GCC unroll 6
            for (int k = 1; k < N; ++k)
                sums[j] = _mm256_add_pd(sums[j], _mm256_mul_pd(factors[k], load(x[k] + from + 4 * j)));
            // Both return their second operand where one is NaN.
            if (CLIPS) sums[j] = _mm256_max_pd(least, _mm256_min_pd(most, sums[j]));
        }
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) store(out + from + 4 * j, sums[j], streams);
    }
    return from;
}

}  // namespace
#endif
