// The half types by their bits, for compilers that have none: to float and back, to nearest, ties to even.

#pragma once

#include "cpu.h"

namespace {

struct bfloat16 {
    uint16_t bits;
    operator float() const { return float_of(uint32_t(bits) << 16); }
    static bfloat16 rounded(float value) { return {uint16_t(nearest(value) >> 16)}; }
    // A float whose upper half is the nearest. NaN stays: what arithmetic makes of bfloat16 has no lower half.
    static uint32_t nearest(float value) { return bits_of(value) + 0x7FFF + ((bits_of(value) >> 16) & 1); }
};

struct float16 {
    uint16_t bits;
    operator float() const {
        // Five bits of exponent where a float has eight: 2¹¹² moves their bias, and normalises what is subnormal.
        const uint32_t magnitude = bits & 0x7FFFu;
        const float value = float_of(magnitude << 13) * 0x1p112f;
        const uint32_t special = magnitude >= 0x7C00u ? 0x7F800000u : 0u;  // infinity and NaN
        return float_of(bits_of(value) | special | uint32_t(bits & 0x8000u) << 16);
    }
    static float16 rounded(float value) {
        const uint32_t wide = bits_of(value), sign = wide & 0x80000000u, magnitude = wide ^ sign;
        const uint32_t normal = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1)) >> 13;
        const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3F000000u;  // the sum does the rounding
        uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
        half = magnitude >= 0x477FF000u ? 0x7C00u : half;
        half = magnitude > 0x7F800000u ? 0x7E00u : half;
        return {uint16_t(half | sign >> 16)};
    }
};

// Through float on the way to the half types, as torch rounds them.
template <class T> inline T narrowed(double value) { return T::rounded(float(value)); }
template <> inline float narrowed(double value) { return float(value); }
template <> inline double narrowed(double value) { return value; }

}  // namespace
