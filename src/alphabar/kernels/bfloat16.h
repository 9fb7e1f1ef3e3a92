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
    int exponent, near = 0;
    const float ratio = float(std::frexp(std::fabs(c[0] / c[1]), &exponent));
    for (int p = 128; p < 256; ++p) {
        const float product = ratio * float(p), q = product < 128 ? 2 * product : product;
        near |= std::fabs(q - float(int(q + 0.5f))) < 0x1p-14f;
    }
    return !near;
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
    const auto sum = [=](uint32_t p, uint32_t q) {
        const float one = float_of(p), other = float_of(q);
        const float s = __builtin_fmaf(a.head, one, b.head * other) + __builtin_fmaf(a.rest, one, b.rest * other);
        return bfloat16::nearest(!CLIPS ? s : s < -limit ? -limit : s > limit ? limit : s);
    };
#pragma GCC ivdep  // out may be one of the tensors: an element is read before it is written
    for (int64_t i = 0; i < count / 2; ++i) {  // neighbours are the halves of one word: nothing moves between lanes
        uint32_t p, q;
        std::memcpy(&p, x + 2 * i, 4), std::memcpy(&q, y + 2 * i, 4);
        const uint32_t both = (sum(p & UPPER, q & UPPER) & UPPER) | sum(p << 16, q << 16) >> 16;
        std::memcpy(out + 2 * i, &both, 4);
    }
    if (count % 2) out[count - 1] = uint16_t(sum(uint32_t(x[count - 1]) << 16, uint32_t(y[count - 1]) << 16) >> 16);
}

WIDEST static void add_up_two_by_float(
    int64_t from, int64_t to, const void* const* x, const double* c, double limit, void* out) {
    const uint16_t *one = static_cast<const uint16_t*>(x[0]) + from, *other = static_cast<const uint16_t*>(x[1]) + from;
    uint16_t* total = static_cast<uint16_t*>(out) + from;
    if (limit < HUGE_VAL) add_up_two<true>(to - from, one, other, Split(c[0]), Split(c[1]), float(limit), total);
    else add_up_two<false>(to - from, one, other, Split(c[0]), Split(c[1]), 0, total);
}

}  // namespace
