// What the processor offers, and numbers by their bits.

#pragma once

#include <cstdint>
#include <cstring>

// Loops by hand are for x86, and used where the processor has these instructions: nearly everywhere since 2015.
#if defined(__x86_64__) && defined(__GNUC__)
#define X86
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,f16c,fma")))
#define AVX512 __attribute__((target("avx512f,avx512bw")))
#endif

// Other loops are compiled for several instruction sets, and the loader picks the widest that the processor has.
#if defined(X86) && !defined(__clang__)
#define WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDEST
#endif

namespace {

#ifdef X86
const bool HAS_AVX512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
#endif

constexpr int FLOAT64 = 0, FLOAT32 = 1, BFLOAT16 = 2, FLOAT16 = 3;  // dtypes by their places in `dtypes` of tensor.h

inline int64_t size_of_one(int dtype) { return dtype == FLOAT64 ? 8 : dtype == FLOAT32 ? 4 : 2; }

inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

}  // namespace
