// Addressed normals, four to a block: z = Box–Muller(Philox4x32-10(key = seed; counter = block, stream, sample)).

#pragma once

#include "cpu.h"

namespace {

constexpr int LANES = 64;             // blocks at a time, so that every loop over them becomes wide
constexpr int64_t CHUNK = 4 * LANES;  // normals
constexpr int64_t NORMALS_PARALLEL_FROM = 1 << 13;  // below, waking threads costs more than it saves
constexpr uint32_t FACTORS[2] = {0xD2511F53u, 0xCD9E8D57u}, KEY_STEPS[2] = {0x9E3779B9u, 0xBB67AE85u};
using Words = uint32_t[4][LANES];

// Ten rounds on every lane of the counters.
inline __attribute__((always_inline)) void philox(Words c, uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; ++round, k0 += KEY_STEPS[0], k1 += KEY_STEPS[1])
        for (int i = 0; i < LANES; ++i) {
            const uint64_t a = uint64_t(FACTORS[0]) * c[0][i], b = uint64_t(FACTORS[1]) * c[2][i];
            c[0][i] = uint32_t(b >> 32) ^ c[1][i] ^ k0;
            c[2][i] = uint32_t(a >> 32) ^ c[3][i] ^ k1;
            c[1][i] = uint32_t(b);
            c[3][i] = uint32_t(a);
        }
}

#ifdef X86
// The same where 16 lanes are one word. Compilers take products of 64 bits, which cost half as much again as these.
// All words at once, whose long chains overlap.
AVX512 void philox_wide(Words c, uint32_t k0, uint32_t k1) {
    constexpr int WIDTH = 16, AT_ONCE = LANES / WIDTH, EACH = 0x96;  // exclusive or of three
    const __m512i f0 = _mm512_set1_epi32(int(FACTORS[0])), f1 = _mm512_set1_epi32(int(FACTORS[1]));
    // The upper halves of eight products, then those of the eight of the odd lanes, each to its lane.
    const __m512i upper = _mm512_setr_epi32(1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
    __m512i w[AT_ONCE][4];
    for (int j = 0; j < AT_ONCE; ++j)
        for (int k = 0; k < 4; ++k) w[j][k] = _mm512_loadu_si512(c[k] + j * WIDTH);
    for (int round = 0; round < 10; ++round, k0 += KEY_STEPS[0], k1 += KEY_STEPS[1])
        for (auto& x : w) {
            const __m512i a = _mm512_mul_epu32(f0, x[0]), a_odd = _mm512_mul_epu32(f0, _mm512_srli_epi64(x[0], 32));
            const __m512i b = _mm512_mul_epu32(f1, x[2]), b_odd = _mm512_mul_epu32(f1, _mm512_srli_epi64(x[2], 32));
            const __m512i a_high = _mm512_permutex2var_epi32(a, upper, a_odd), a_low = _mm512_mullo_epi32(f0, x[0]);
            const __m512i b_high = _mm512_permutex2var_epi32(b, upper, b_odd), b_low = _mm512_mullo_epi32(f1, x[2]);
            x[0] = _mm512_ternarylogic_epi32(b_high, x[1], _mm512_set1_epi32(int(k0)), EACH);
            x[2] = _mm512_ternarylogic_epi32(a_high, x[3], _mm512_set1_epi32(int(k1)), EACH);
            x[1] = b_low, x[3] = a_low;
        }
    for (int j = 0; j < AT_ONCE; ++j)
        for (int k = 0; k < 4; ++k) _mm512_storeu_si512(c[k] + j * WIDTH, w[j][k]);
}
#endif

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")  // normals are right to a few units of rounding, not to the last bit
#endif

inline float unit(uint32_t word) { return float(word) * 0x1p-32f + 0x1p-33f; }  // in (0, 1]

// log on (0, 1], after Cephes' logf: exponent and mantissa apart, a polynomial for the mantissa in [√½, √2).
inline float log_of(float u) {
    const int32_t shifted = int32_t(bits_of(u) - 0x3F3504F3u);
    const float exponent = float(shifted >> 23), m = float_of((shifted & 0x007FFFFF) + 0x3F3504F3u) - 1.0f;
    const float square = m * m;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * square + exponent * -2.12194440e-4f - 0.5f * square;
    return m + p + exponent * 0.693359375f;
}

// cos and sin of 2πu: the nearest quarter turn is taken away exactly, and a polynomial does the rest, |f| ≤ ⅛.
inline void turn(float u, float* cosine, float* sine) {
    const float quarter = __builtin_floorf(u * 4.0f + 0.5f);
    const float x = (u - quarter * 0.25f) * 6.283185307179586f, square = x * x;
    const float s = x + x * square * (-1.6666654611e-1f + square * (8.3321608736e-3f - square * 1.9515295891e-4f));
    const float c = 1.0f - 0.5f * square
        + square * square * (4.166664568298827e-2f + square * (-1.388731625493765e-3f + square * 2.443315711809948e-5f));
    const int32_t q = int32_t(quarter);
    const float along = q & 1 ? s : c, across = q & 1 ? c : s;
    *cosine = (q + 1) & 2 ? -along : along;
    *sine = q & 2 ? -across : across;
}

}  // namespace

// The normals of one sample from block `from` on, `blocks` ≤ LANES of them.
WIDEST static void normals(uint64_t seed, uint32_t stream, uint64_t sample, int64_t from, int blocks, float* out) {
    uint32_t c[4][LANES];
    for (int i = 0; i < LANES; ++i)
        c[0][i] = uint32_t(from + i), c[1][i] = stream, c[2][i] = uint32_t(sample), c[3][i] = uint32_t(sample >> 32);
#ifdef X86
    if (HAS_AVX512) philox_wide(c, uint32_t(seed), uint32_t(seed >> 32));
    else
#endif
        philox(c, uint32_t(seed), uint32_t(seed >> 32));
    float z[4][LANES];
    for (int i = 0; i < LANES; ++i) {
        const float first = __builtin_sqrtf(-2.0f * log_of(unit(c[0][i])));
        const float second = __builtin_sqrtf(-2.0f * log_of(unit(c[2][i])));
        float a, b, d, e;
        turn(unit(c[1][i]), &a, &b);
        turn(unit(c[3][i]), &d, &e);
        z[0][i] = first * a, z[1][i] = first * b, z[2][i] = second * d, z[3][i] = second * e;
    }
    for (int i = 0; i < blocks; ++i)
        for (int lane = 0; lane < 4; ++lane) out[4 * i + lane] = z[lane][i];
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif

namespace {

// The address of the noise of a batch: that of its sample `row` is (seed, stream, first + row).
struct Address {
    uint64_t seed, first;
    uint32_t stream;

    // The normals of a sample from its element `start` on, which is a multiple of 4.
    void normals(int64_t row, int64_t start, int64_t count, float* out) const {
        for (; count >= CHUNK; start += CHUNK, count -= CHUNK, out += CHUNK)
            ::normals(seed, stream, first + row, start / 4, LANES, out);
        if (!count) return;
        float whole[CHUNK];
        ::normals(seed, stream, first + row, start / 4, int((count + 3) / 4), whole);
        std::memcpy(out, whole, count * sizeof(float));
    }
};

}  // namespace
