// Sums of two tensors where 512 bits are one word: the formulas of `Halves` and `Floats`, on words.
//
// By hand, since compilers write each word before they read the next. Then a read waits for a write whose address is the
// same in its last twelve bits, as it is in tensors of whole pages that lie side by side. Here several are read first.

#pragma once

namespace {

#ifdef HAS_WIDE
WIDE inline __m512 every(float number) { return _mm512_set1_ps(number); }

WIDE inline __m512 sum_of(const Halves& of, __m512 x, __m512 y) {
    const __m512 heads = _mm512_fmadd_ps(every(of.a.head), x, _mm512_mul_ps(every(of.b.head), y));
    return _mm512_add_ps(heads, _mm512_fmadd_ps(every(of.a.rest), x, _mm512_mul_ps(every(of.b.rest), y)));
}

// A word of each tensor makes one of the result. `wide` gets its highest bits set where elements have to go the wide way.

WIDE inline __m512i added(const Floats& of, __m512i one, __m512i other, __m512i& wide, const float*) {
    const __m512 x = _mm512_castsi512_ps(one), y = _mm512_castsi512_ps(other);
    const __m512 product = _mm512_mul_ps(every(of.a.head), x), lost = _mm512_fmsub_ps(every(of.a.head), x, product);
    const __m512 sum = _mm512_fmadd_ps(every(of.b.head), y, product);
    const __m512 least = _mm512_mul_ps(_mm512_abs_ps(product), every(0x1p-14f));
    const __m512i beyond = _mm512_sub_epi32(_mm512_castps_si512(_mm512_abs_ps(sum)), _mm512_castps_si512(least));
    wide = _mm512_or_si512(wide, _mm512_sub_epi32(beyond, _mm512_set1_epi32(1)));
    const __m512 end = _mm512_fmadd_ps(every(of.b.rest), y, _mm512_fmadd_ps(every(of.a.rest), x, lost));
    return _mm512_castps_si512(_mm512_add_ps(sum, end));
}

WIDE inline __m512i added(const Halves& of, __m512i x, __m512i y, __m512i&, const float16*) {
    const __m512 low = sum_of(of, _mm512_cvtph_ps(_mm512_castsi512_si256(x)), _mm512_cvtph_ps(_mm512_castsi512_si256(y)));
    const __m512 high = sum_of(
        of, _mm512_cvtph_ps(_mm512_extracti64x4_epi64(x, 1)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(y, 1)));
    constexpr int NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtps_ph(low, NEAREST)), _mm512_cvtps_ph(high, NEAREST), 1);
}

WIDE inline __m512i to_nearest(__m512 value) {  // as for one float, in an instruction less
    const __m512i wide = _mm512_castps_si512(value), down = _mm512_add_epi32(wide, _mm512_set1_epi32(0x7FFF));
    return _mm512_mask_add_epi32(
        down, _mm512_test_epi32_mask(wide, _mm512_set1_epi32(0x10000)), wide, _mm512_set1_epi32(0x8000));
}

WIDE inline __m512i added(const Halves& of, __m512i x, __m512i y, __m512i&, const bfloat16*) {
    const __m512i upper = _mm512_set1_epi32(int(0xFFFF0000u));
    const __m512 high = sum_of(
        of, _mm512_castsi512_ps(_mm512_and_si512(x, upper)), _mm512_castsi512_ps(_mm512_and_si512(y, upper)));
    const __m512 low = sum_of(
        of, _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(y, 16)));
    return _mm512_mask_mov_epi16(_mm512_srli_epi32(to_nearest(low), 16), 0xAAAAAAAAu, to_nearest(high));
}

template <class T, class Of>
WIDE int64_t words(int64_t from, int64_t to, const T* x, const T* y, const Of of, T* out, bool past_the_cache) {
    constexpr int SIZE = 64 / sizeof(T), AT_ONCE = 128 / SIZE;
    const bool streams = past_the_cache && reinterpret_cast<uintptr_t>(out + from) % 64 == 0;
    for (; from + SIZE * AT_ONCE <= to; from += SIZE * AT_ONCE) {
        __m512i one[AT_ONCE], other[AT_ONCE], wide = _mm512_setzero_si512();
        for (int k = 0; k < AT_ONCE; ++k) {
            one[k] = _mm512_loadu_si512(x + from + k * SIZE);
            other[k] = _mm512_loadu_si512(y + from + k * SIZE);
        }
        for (int k = 0; k < AT_ONCE; ++k) one[k] = added(of, one[k], other[k], wide, out);
        if (_mm512_movepi32_mask(wide)) break;
        for (int k = 0; k < AT_ONCE; ++k) {
            __m512i* to = reinterpret_cast<__m512i*>(out + from + k * SIZE);
            if (streams) _mm512_stream_si512(to, one[k]);
            else _mm512_storeu_si512(to, one[k]);
        }
    }
    return from;
}

// As much as goes by words; returns where something else has to go on.
template <class T, class Of>
int64_t by_words(int64_t from, int64_t to, const T* x, const T* y, const Of& of, T* out, bool past_the_cache) {
    return IS_WIDE ? words(from, to, x, y, of, out, past_the_cache) : from;
}
#else
template <class T, class Of>
int64_t by_words(int64_t from, int64_t, const T*, const T*, const Of&, T*, bool) { return from; }
#endif

}  // namespace
