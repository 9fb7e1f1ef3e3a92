// Four numbers at a time as doubles, by hand: compilers shuffle where floats become doubles, and know no float16.

#pragma once

#include "half.h"

#ifdef X86
namespace {

const bool HAS_AVX2 =
    __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("fma");

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

// A product of a float and a double is not rounded before it is added, which takes four fifths of the time; those of doubles
// are, as everywhere else.
template <class In> AVX2 inline __m256d add_product(__m256d factor, __m256d x, __m256d sum) {
    return sizeof(In) < sizeof(double) ? _mm256_fmadd_pd(factor, x, sum) : _mm256_add_pd(sum, _mm256_mul_pd(factor, x));
}

// Sixteen elements from `at` on, all read before any is written, which avoids 4K aliasing; `out` may be one of the tensors.
template <class In, class Out, int N, bool CLIPS>
AVX2 inline void add_up_sixteen(
    int64_t at, const In* const* x, const __m256d* factors, __m256d least, __m256d most, Out* out, bool streams) {
    __m256d sums[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        sums[j] = _mm256_mul_pd(factors[0], load(x[0] + at + 4 * j));
#pragma GCC unroll 6
        for (int k = 1; k < N; ++k) sums[j] = add_product<In>(factors[k], load(x[k] + at + 4 * j), sums[j]);
        // Both return their second operand where one is NaN.
        if (CLIPS) sums[j] = _mm256_max_pd(least, _mm256_min_pd(most, sums[j]));
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) store(out + at + 4 * j, sums[j], streams);
}

// The elements from `from` to `to`; what is left over from sixteens is padded, so that no result depends on its place.
template <class In, class Out, int N, bool CLIPS>
AVX2 inline void add_up_by_sixteen(
    int64_t from, int64_t to, const In* const* x, const double* c, double limit, Out* out, bool streams) {
    const __m256d most = _mm256_set1_pd(limit), least = _mm256_set1_pd(-limit);
    __m256d factors[N];
    for (int k = 0; k < N; ++k) factors[k] = _mm256_set1_pd(c[k]);
    streams = streams && reinterpret_cast<uintptr_t>(out + from) % 16 == 0;
    for (; from + 16 <= to; from += 16) add_up_sixteen<In, Out, N, CLIPS>(from, x, factors, least, most, out, streams);
    if (from == to) return;
    In padded[N][16] = {};
    const In* rest[N];
    Out sums[16];
    for (int k = 0; k < N; ++k) rest[k] = padded[k], std::memcpy(padded[k], x[k] + from, (to - from) * sizeof(In));
    add_up_sixteen<In, Out, N, CLIPS>(0, rest, factors, least, most, sums, false);
    std::memcpy(out + from, sums, (to - from) * sizeof(Out));
}

}  // namespace
#endif
