// Two tensors of bfloat16 by float, 16 to a word, for coefficients whose errors stay below 2⁻⁷ of a unit.

#pragma once

#include <cmath>

#include "half.h"

namespace {

// Whether for any data the sum is larger than 2⁻²² of its terms, and its products are no larger than the data. The terms
// nearly cancel if the ratio of the coefficients is nearly one of two numbers of 8 bits.
inline bool suit_float(const double* c) {
    if (!(std::fabs(c[0]) <= 1 && std::fabs(c[1]) <= 1)) return false;
    int exponent, near = 0;
    const double ratio = std::frexp(std::fabs(c[0] / c[1]), &exponent);
    for (int p = 128; p < 256; ++p) {
        const double q = ratio * p * (ratio * p < 128 ? 2 : 1);
        near |= std::fabs(q - double(int(q + 0.5))) < 0x1p-14;
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

constexpr int BLOCK = 512;  // elements, of which all are read before any is written, as in avx2.h

// Neighbours are the halves of one word, so that nothing moves between lanes.
template <bool CLIPS>
inline __attribute__((always_inline)) void add_up_block(
    const uint16_t* x, const uint16_t* y, Split a, Split b, float limit, uint32_t* block) {
    constexpr uint32_t UPPER = 0xFFFF0000u;
    const auto sum = [=](uint32_t p, uint32_t q) {
        const float one = float_of(p), other = float_of(q);
        const float s = __builtin_fmaf(a.head, one, b.head * other) + __builtin_fmaf(a.rest, one, b.rest * other);
        return bfloat16::nearest(!CLIPS ? s : s < -limit ? -limit : s > limit ? limit : s);
    };
    for (int i = 0; i < BLOCK / 2; ++i) {
        uint32_t p, q;
        std::memcpy(&p, x + 2 * i, 4), std::memcpy(&q, y + 2 * i, 4);
        block[i] = (sum(p & UPPER, q & UPPER) & UPPER) | sum(p << 16, q << 16) >> 16;
    }
}

WIDEST static void add_up_two_by_float(
    int64_t from, int64_t to, const void* const* x, const double* c, double limit, void* out) {
    const Split a(c[0]), b(c[1]);
    uint16_t last[2][BLOCK] = {};
    uint32_t block[BLOCK / 2];
    for (; from < to; from += BLOCK) {
        const int64_t count = to - from < BLOCK ? to - from : BLOCK;
        const uint16_t* here[] = {static_cast<const uint16_t*>(x[0]) + from, static_cast<const uint16_t*>(x[1]) + from};
        for (int k = 0; k < 2 && count < BLOCK; ++k)
            here[k] = static_cast<const uint16_t*>(std::memcpy(last[k], here[k], 2 * count));
        if (limit < HUGE_VAL) add_up_block<true>(here[0], here[1], a, b, float(limit), block);
        else add_up_block<false>(here[0], here[1], a, b, 0, block);
        std::memcpy(static_cast<uint16_t*>(out) + from, block, 2 * count);
    }
}

}  // namespace
