// lincomb and addressed normals for the CPU: the same numbers as the torch reference, in one pass over memory.
//
//     out[r, i] = c_0[r] · x_0[r, i] + c_1[r] · x_1[r, i] + … + c_n[r] · z[r, i]        as in double
//     z = Box–Muller(Philox4x32-10(key = seed; counter = block, stream, sample))
//
// Raw pointers and plain numbers in, nothing allocated, nothing linked. Each kernel is compiled for several
// instruction sets, and the loader picks the widest that the processor has. OpenMP is left to be found at load
// time: torch has already brought one, and two pools of threads would fight over the cores.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDEST
#endif

namespace {

// Elements below which waking threads costs more than they save: of sums, and of normals.
constexpr int64_t PARALLEL_FROM = 1 << 15, NORMALS_PARALLEL_FROM = 1 << 13;
constexpr int64_t STREAM_FROM = 1 << 25;  // bytes, more than a cache holds: then the result goes past it
constexpr int MOST = 6;                   // tensors in one sum
constexpr int LANES = 64;                 // blocks of normals at a time, so that every loop over them becomes wide
constexpr int64_t CHUNK = 4 * LANES;      // normals
constexpr int64_t BLOCK = 1 << 10;        // elements that are checked together for cancellation

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

// The half types by their bits: what compilers make of them is a call for each number where they know them at all.
struct bfloat16 {
    uint16_t bits;
    operator float() const { return float_of(uint32_t(bits) << 16); }
    static bfloat16 rounded(float value) {
        const uint32_t wide = bits_of(value), up = wide + 0x7FFF + ((wide >> 16) & 1);  // to nearest, ties to even
        return {uint16_t(value != value ? 0x7FC0 : up >> 16)};
    }
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

template <class T> inline T rounded(float value) { return T::rounded(value); }
template <> inline float rounded(float value) { return value; }

// Through float on the way to the half types, as torch rounds them.
template <class T> inline T narrowed(double value) { return rounded<T>(float(value)); }
template <> inline double narrowed(double value) { return value; }

inline double widened(double value) { return value; }
inline double widened(float value) { return value; }

template <class In, class Out, int N>
inline __attribute__((always_inline)) void combine(
    int64_t from, int64_t to, const In* const* x, const double* c, Out* out) {
    const In* tensors[N];
    double coefficients[N];
    for (int k = 0; k < N; ++k) tensors[k] = x[k], coefficients[k] = c[k];
#pragma GCC ivdep  // out may be one of the tensors: an element is read before it is written
    for (int64_t i = from; i < to; ++i) {
        double total = coefficients[0] * widened(tensors[0][i]);
        for (int k = 1; k < N; ++k) total += coefficients[k] * widened(tensors[k][i]);
        out[i] = narrowed<Out>(total);
    }
}

// Two tensors of a half type, in float, which is twice as wide an instruction. A coefficient is taken apart into 13 bits,
// whose product with a half is exact, and the rest: so the sum errs by 2⁻²⁴ of itself, and what cancels by 2⁻³⁷.
template <class Half>
inline __attribute__((always_inline)) void combine_halves(
    int64_t from, int64_t to, const Half* x, const Half* y, const double* c, Half* out) {
    const float a = float_of(bits_of(float(c[0])) & 0xFFFFF800u), a_rest = float(c[0] - a);
    const float b = float_of(bits_of(float(c[1])) & 0xFFFFF800u), b_rest = float(c[1] - b);
#pragma GCC ivdep
    for (int64_t i = from; i < to; ++i) {
        const float p = x[i], q = y[i], sum = a * p + b * q, rest = a_rest * p + b_rest * q;
        out[i] = Half::rounded(rest == rest ? sum + rest : sum);  // infinite data times a rest of 0 is no number
    }
}

// Two tensors of float, in float for the same reason: what rounding takes from the first product, and what is left of the
// coefficients behind 24 bits, is added at the end. So sum and result each err by half a unit in the last place.
// Where the two terms cancel to 2⁻¹⁴ the end is no longer small beside the sum, and that element goes the wide way.
struct Pair {
    double a, b;
    float a_near = float(a), a_rest = float(a - a_near), b_near = float(b), b_rest = float(b - b_near);

    // The result, and in the highest bit whether it is to go the wide way: the sign of a difference of positive
    // floats, read as integers, which what is not finite also sets.
    float quick(float x, float y, uint32_t* wide) const {
        const float product = a_near * x, lost = __builtin_fmaf(a_near, x, -product);
        const float sum = __builtin_fmaf(b_near, y, product);
        const float end = lost + __builtin_fmaf(b_rest, y, a_rest * x);
        *wide = bits_of(__builtin_fabsf(sum)) - bits_of(__builtin_fabsf(product) * 0x1p-14f) - 1;
        return sum + end;
    }
};

inline __attribute__((always_inline)) void combine_floats(
    int64_t from, int64_t to, const float* const* tensors, const double* c, float* out) {
    const Pair pair{c[0], c[1]};
    const bool apart = out != tensors[0] && out != tensors[1];
    float block[BLOCK];
    for (int64_t start = from; start < to; start += BLOCK) {
        const int64_t count = to - start < BLOCK ? to - start : BLOCK;
        const float *x = tensors[0] + start, *y = tensors[1] + start;
        float* result = apart ? out + start : block;
        uint32_t any = 0, wide;
#pragma GCC ivdep
        for (int64_t i = 0; i < count; ++i) result[i] = pair.quick(x[i], y[i], &wide), any |= wide;
        for (int64_t i = 0; any >> 31 && i < count; ++i) {
            const float quick = pair.quick(x[i], y[i], &wide);
            result[i] = wide >> 31 ? float(pair.a * x[i] + pair.b * y[i]) : quick;
        }
        if (!apart) std::memcpy(out + start, block, count * sizeof(float));
    }
}

}  // namespace

#define KERNEL(NAME, IN, OUT, N) \
    WIDEST static void NAME##_##N(int64_t from, int64_t to, const void* const* x, const double* c, void* out) { \
        combine<IN, OUT, N>(from, to, reinterpret_cast<const IN* const*>(x), c, static_cast<OUT*>(out)); \
    }
#define OF_HALVES(NAME, HALF) \
    WIDEST static void NAME##_2(int64_t from, int64_t to, const void* const* x, const double* c, void* out) { \
        combine_halves(from, to, (const HALF*)x[0], (const HALF*)x[1], c, static_cast<HALF*>(out)); \
    }
#define OF_FLOATS(NAME) \
    WIDEST static void NAME##_2(int64_t from, int64_t to, const void* const* x, const double* c, void* out) { \
        combine_floats(from, to, reinterpret_cast<const float* const*>(x), c, static_cast<float*>(out)); \
    }
#define KERNELS(TWO, NAME, IN, OUT) \
    KERNEL(NAME, IN, OUT, 1) TWO KERNEL(NAME, IN, OUT, 3) \
    KERNEL(NAME, IN, OUT, 4) KERNEL(NAME, IN, OUT, 5) KERNEL(NAME, IN, OUT, 6) KERNEL(NAME, IN, OUT, 7)
#define TABLE(NAME) {NAME##_1, NAME##_2, NAME##_3, NAME##_4, NAME##_5, NAME##_6, NAME##_7}

KERNELS(KERNEL(f64, double, double, 2), f64, double, double)
KERNELS(OF_FLOATS(f32), f32, float, float)
KERNELS(OF_HALVES(bf16, bfloat16), bf16, bfloat16, bfloat16)
KERNELS(KERNEL(bf16_f32, bfloat16, float, 2), bf16_f32, bfloat16, float)
KERNELS(OF_HALVES(f16, float16), f16, float16, float16)
KERNELS(KERNEL(f16_f32, float16, float, 2), f16_f32, float16, float)

constexpr int DOUBLE = 0, FLOAT = 1;  // their rows in the table below
using Kernel = void (*)(int64_t, int64_t, const void* const*, const double*, void*);

static const Kernel KERNELS_BY_KIND[][MOST + 1] = {
    TABLE(f64), TABLE(f32), TABLE(bf16), TABLE(bf16_f32), TABLE(f16), TABLE(f16_f32),
};

namespace {

inline float unit(uint32_t word) { return float(word) * 0x1p-32f + 0x1p-33f; }  // in (0, 1]

// log on (0, 1], after Cephes' logf: exponent and mantissa apart, a polynomial for the mantissa in [√½, √2).
inline float log_of(float u) {
    int32_t bits;
    std::memcpy(&bits, &u, 4);
    const int32_t shifted = bits - 0x3F3504F3;
    const float exponent = float(shifted >> 23);
    bits = (shifted & 0x007FFFFF) + 0x3F3504F3;
    float m;
    std::memcpy(&m, &bits, 4);
    m -= 1.0f;
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

// The normals of one sample from block `from` on, `blocks` ≤ LANES of them, four to a block.
WIDEST static void normals(uint64_t seed, uint32_t stream, uint64_t sample, int64_t from, int blocks, float* out) {
    uint32_t c0[LANES], c1[LANES], c2[LANES], c3[LANES];
    for (int i = 0; i < LANES; ++i)
        c0[i] = uint32_t(from + i), c1[i] = stream, c2[i] = uint32_t(sample), c3[i] = uint32_t(sample >> 32);
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
        for (int i = 0; i < LANES; ++i) {
            const uint64_t a = uint64_t(0xD2511F53u) * c0[i], b = uint64_t(0xCD9E8D57u) * c2[i];
            c0[i] = uint32_t(b >> 32) ^ c1[i] ^ k0;
            c2[i] = uint32_t(a >> 32) ^ c3[i] ^ k1;
            c1[i] = uint32_t(b);
            c3[i] = uint32_t(a);
        }
    float z[4][LANES];
    for (int i = 0; i < LANES; ++i) {
        const float first = __builtin_sqrtf(-2.0f * log_of(unit(c0[i])));
        const float second = __builtin_sqrtf(-2.0f * log_of(unit(c2[i])));
        float a, b, c, d;
        turn(unit(c1[i]), &a, &b);
        turn(unit(c3[i]), &c, &d);
        z[0][i] = first * a, z[1][i] = first * b, z[2][i] = second * c, z[3][i] = second * d;
    }
    for (int i = 0; i < blocks; ++i)
        for (int lane = 0; lane < 4; ++lane) out[4 * i + lane] = z[lane][i];
}

namespace {

struct Noise {
    uint64_t seed, first;
    uint32_t stream;

    // The normals from element `start` on of the sample in `row`, at most CHUNK of them.
    void draw(int64_t row, int64_t start, int64_t count, float* out) const {
        if (count % 4 == 0) return normals(seed, stream, first + row, start / 4, int(count / 4), out);
        float whole[CHUNK];
        normals(seed, stream, first + row, start / 4, int((count + 3) / 4), whole);
        std::memcpy(out, whole, count * sizeof(float));
    }
};

// Copy to memory that nobody reads soon, without first reading it into the cache.
inline void stream(const float* from, float* to, int64_t count) {
    int64_t i = 0;
#ifdef __SSE2__
    for (; i < count && reinterpret_cast<uintptr_t>(to + i) % 16; ++i) to[i] = from[i];
    for (; i + 4 <= count; i += 4) _mm_stream_ps(to + i, _mm_loadu_ps(from + i));
#endif
    for (; i < count; ++i) to[i] = from[i];
}

struct Sum {
    int kind, n;  // n: of the tensors
    int64_t rows, columns;
    const void* x[MOST + 1];
    const double* c;  // rows × all of them, the noise's last; or one row that all share
    bool shared;
    void* out;
    const Noise* noise;  // only where everything is float
    double limit;        // the sum stays within −limit … limit; of halves, infinity

    int all() const { return n + (noise != nullptr); }
    const double* of(int64_t row) const { return shared ? c : c + row * all(); }
    void plain(int64_t row, int64_t start, int64_t stop) const {
        KERNELS_BY_KIND[kind][n - 1](row * columns + start, row * columns + stop, x, of(row), out);
    }
    void by_chunks(int64_t row, int64_t start, int64_t stop, bool past_the_cache) const;
    void bound(int64_t start, int64_t stop) const;
    void run() const;
};

// A few hundred elements at a time, which stay in the nearest cache: their noise, and the result on its way out.
void Sum::by_chunks(int64_t row, int64_t start, int64_t stop, bool past_the_cache) const {
    float z[CHUNK], result[CHUNK];
    const void* here[MOST + 1];
    for (int64_t at = start; at < stop; at += CHUNK) {
        const int64_t count = stop - at < CHUNK ? stop - at : CHUNK, place = row * columns + at;
        for (int k = 0; k < n; ++k) here[k] = static_cast<const float*>(x[k]) + place;
        if (noise) noise->draw(row, at, count, z), here[n] = z;
        float* to = static_cast<float*>(out) + place;
        KERNELS_BY_KIND[FLOAT][all() - 1](0, count, here, of(row), past_the_cache ? result : to);
        if (past_the_cache) stream(result, to, count);
    }
#ifdef __SSE2__
    if (past_the_cache) _mm_sfence();
#endif
}

#define CLAMP(NAME, T) \
    WIDEST static void NAME(T* x, int64_t count, T limit) { /* NaN stays */ \
        for (int64_t i = 0; i < count; ++i) x[i] = x[i] < -limit ? -limit : x[i] > limit ? limit : x[i]; \
    }
CLAMP(clamp_f32, float)
CLAMP(clamp_f64, double)

void Sum::bound(int64_t start, int64_t stop) const {
    if (!(limit < HUGE_VAL)) return;
    if (kind == FLOAT) clamp_f32(static_cast<float*>(out) + start, stop - start, float(limit));
    if (kind == DOUBLE) clamp_f64(static_cast<double*>(out) + start, stop - start, limit);
}

void Sum::run() const {
    const int64_t total = rows * columns;
    const bool past_the_cache = kind == FLOAT && total * int64_t(sizeof(float)) >= STREAM_FROM;
    // Pieces of a row, so that few long rows are shared among threads as evenly as many short ones.
    const int64_t longest = noise ? 1 << 11 : 1 << 14, pieces = (columns + longest - 1) / longest;
    const bool parallel = total >= (noise ? NORMALS_PARALLEL_FROM : PARALLEL_FROM);
    if (!parallel && shared && !noise) return KERNELS_BY_KIND[kind][n - 1](0, total, x, c, out), bound(0, total);
#pragma omp parallel for schedule(static) if (parallel)
    for (int64_t piece = 0; piece < rows * pieces; ++piece) {
        const int64_t row = piece / pieces, start = piece % pieces * longest;
        const int64_t stop = start + longest < columns ? start + longest : columns;
        if (noise || past_the_cache) by_chunks(row, start, stop, past_the_cache);
        else plain(row, start, stop);
        bound(row * columns + start, row * columns + stop);
    }
}

}  // namespace
