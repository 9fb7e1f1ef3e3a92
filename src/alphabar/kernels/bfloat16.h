// Two tensors of bfloat16 by float, 16 to a word, for coefficients whose errors stay below 2⁻⁷ of a unit.

#pragma once

#include <cmath>

#include "half.h"

namespace {

// Whether for any data products do not overflow, parts of coefficients do not underflow, and sums are larger than 2⁻²³ of
// their terms: those nearly cancel only if the ratio of the coefficients is nearly one of two numbers of 8 bits.
WIDEST static bool suit_float(const double* c) {
    for (int k = 0; k < 2; ++k)
        if (std::fabs(c[k]) > 1 || (c[k] != 0 && std::fabs(c[k]) < 0x1p-80)) return false;
    // The ratio without its exponent, in [½, 1), in units of 2⁻³²: its product with p keeps the fraction alone.
    const uint32_t ratio = (bits_of(float(c[0] / c[1])) | 0x800000u) << 8, tolerance = 1 << 18;
    const int halves = int(0x1p39 / ratio);  // up to here products are below 128, and have a bit more behind the point
    int near = 0;
    for (int p = 128; p < 256; ++p) near |= (uint32_t(p) * ratio << (p <= halves)) + tolerance < 2 * tolerance;
    return !near;
}

// The same, remembered for as many pairs as a schedule has rows: asking costs as much as adding up a hundred elements.
inline bool known_to_suit_float(const double* c) {
    struct Answer { double a, b; bool suits; };
    thread_local Answer answers[1 << 10];  // zeros at first, and zeros do not suit
    uint64_t bits;
    std::memcpy(&bits, c, 8);
    Answer& answer = answers[bits * 0x9E3779B97F4A7C15u >> 54];
    if (answer.a != c[0] || answer.b != c[1]) answer = {c[0], c[1], suit_float(c)};
    return answer.suits;
}

// A coefficient as 16 bits, whose products with bfloat16 are exact in float, and a rest, of the same sign and not 0: or
// infinite data times a rest of 0 would be NaN. Their products err by 2⁻³⁷ of the terms.
struct Split {
    float head, rest;
    explicit Split(double c) {
        uint32_t bits = bits_of(float(c)) & -0x100u;
        if (c != 0 && std::fabs(float_of(bits)) >= std::fabs(c)) bits -= 0x100;
        head = float_of(bits), rest = float(c - head);
    }
};

template <bool CLIPS>
inline __attribute__((always_inline)) void add_up_two(
    int64_t count, const uint16_t* x, const uint16_t* y, Split a, Split b, float limit, uint16_t* out) {
    constexpr uint32_t UPPER = 0xFFFF0000u;
    constexpr int BLOCK = 128;  // words
    const auto sum = [=](uint32_t p, uint32_t q) {
        const float one = float_of(p), other = float_of(q);
        const float s = __builtin_fmaf(a.head, one, b.head * other) + __builtin_fmaf(a.rest, one, b.rest * other);
        return bfloat16::nearest(!CLIPS ? s : s < -limit ? -limit : s > limit ? limit : s);
    };
    // A block is read before any of it is written, which avoids 4K aliasing; out may be one of the tensors.
    for (int64_t from = 0; from < count / 2; from += BLOCK) {
        const int words = count / 2 - from < BLOCK ? int(count / 2 - from) : BLOCK;
        uint32_t block[BLOCK];
        for (int i = 0; i < words; ++i) {  // neighbours are the halves of one word: nothing moves between lanes
            uint32_t p, q;
            std::memcpy(&p, x + 2 * (from + i), 4), std::memcpy(&q, y + 2 * (from + i), 4);
            block[i] = (sum(p & UPPER, q & UPPER) & UPPER) | sum(p << 16, q << 16) >> 16;
        }
        std::memcpy(out + 2 * from, block, words * sizeof(uint32_t));
    }
    if (count % 2) out[count - 1] = uint16_t(sum(uint32_t(x[count - 1]) << 16, uint32_t(y[count - 1]) << 16) >> 16);
}

#ifdef X86
// The same where 512 bits are one word, by hand: compilers take half as much again. From `from` on as much as goes by four
// words, all read before any is written; returns where the rest begins.
AVX512 inline __m512i add_up_words(__m512i x, __m512i y, Split a, Split b) {
    const __m512i upper = _mm512_set1_epi32(int(0xFFFF0000u)), odd = _mm512_set1_epi32(0x10000);
    __m512i halves[2];
    for (int low = 0; low < 2; ++low) {
        const __m512 p = _mm512_castsi512_ps(low ? _mm512_slli_epi32(x, 16) : _mm512_and_si512(x, upper));
        const __m512 q = _mm512_castsi512_ps(low ? _mm512_slli_epi32(y, 16) : _mm512_and_si512(y, upper));
        const __m512 heads = _mm512_fmadd_ps(_mm512_set1_ps(a.head), p, _mm512_mul_ps(_mm512_set1_ps(b.head), q));
        const __m512 rests = _mm512_fmadd_ps(_mm512_set1_ps(a.rest), p, _mm512_mul_ps(_mm512_set1_ps(b.rest), q));
        const __m512i wide = _mm512_castps_si512(_mm512_add_ps(heads, rests));
        halves[low] = _mm512_mask_add_epi32(  // as bfloat16::nearest
            _mm512_add_epi32(wide, _mm512_set1_epi32(0x7FFF)), _mm512_test_epi32_mask(wide, odd), wide,
            _mm512_set1_epi32(0x8000));
    }
    return _mm512_mask_mov_epi16(_mm512_srli_epi32(halves[1], 16), 0xAAAAAAAAu, halves[0]);
}

AVX512 inline int64_t add_up_two_by_words(
    int64_t from, int64_t to, const uint16_t* x, const uint16_t* y, Split a, Split b, uint16_t* out) {
    constexpr int SIZE = 32, AT_ONCE = 4;
    for (; from + AT_ONCE * SIZE <= to; from += AT_ONCE * SIZE) {
        __m512i sums[AT_ONCE];
        for (int k = 0; k < AT_ONCE; ++k)
            sums[k] = add_up_words(
                _mm512_loadu_si512(x + from + k * SIZE), _mm512_loadu_si512(y + from + k * SIZE), a, b);
        for (int k = 0; k < AT_ONCE; ++k) _mm512_storeu_si512(out + from + k * SIZE, sums[k]);
    }
    return from;
}
#endif

WIDEST static void add_up_rest(int64_t from, int64_t to, const uint16_t* x, const uint16_t* y, Split a, Split b,
                              double limit, uint16_t* out) {
    if (limit < HUGE_VAL) add_up_two<true>(to - from, x + from, y + from, a, b, float(limit), out + from);
    else add_up_two<false>(to - from, x + from, y + from, a, b, 0, out + from);
}

void add_up_two_by_float(int64_t from, int64_t to, const void* const* x, const double* c, double limit, void* out) {
    const uint16_t *one = static_cast<const uint16_t*>(x[0]), *other = static_cast<const uint16_t*>(x[1]);
    uint16_t* total = static_cast<uint16_t*>(out);
    const Split a(c[0]), b(c[1]);
#ifdef X86
    if (HAS_AVX512 && !(limit < HUGE_VAL)) from = add_up_two_by_words(from, to, one, other, a, b, total);
#endif
    add_up_rest(from, to, one, other, a, b, limit, total);
}

}  // namespace
