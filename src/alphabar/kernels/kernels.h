// lincomb and addressed normals for the CPU: the same numbers as the torch reference, in one pass over memory.
//
//     out[r, i] = c_0[r] · x_0[r, i] + c_1[r] · x_1[r, i] + … + c_n[r] · z[r, i]        as in double
//
// Raw pointers and plain numbers in, nothing allocated, nothing linked. OpenMP is left to be found at load time:
// torch has already brought one, and two pools of threads would fight over the cores.

#pragma once

#include <cmath>

#include "normals.h"

namespace {

// Elements below which waking threads costs more than they save: of sums, and of normals.
constexpr int64_t PARALLEL_FROM = 1 << 15, NORMALS_PARALLEL_FROM = 1 << 13;
constexpr int64_t STREAM_FROM = 1 << 25;  // bytes, more than a cache holds: then the result goes past it
constexpr int MOST = 6;                   // tensors in one sum
constexpr int BLOCK = 256;                // elements that are checked together for cancellation

// The half types by their bits: what compilers make of them is a call for each number where they know them at all.

// A float whose upper half is the nearest bfloat16, ties to even. NaN stays: what arithmetic returns has no lower half.
inline uint32_t to_nearest(float value) {
    const uint32_t wide = bits_of(value);
    return wide + 0x7FFF + ((wide >> 16) & 1);
}

struct bfloat16 {
    uint16_t bits;
    operator float() const { return float_of(uint32_t(bits) << 16); }
    static bfloat16 rounded(float value) { return {uint16_t(value != value ? 0x7FC0 : to_nearest(value) >> 16)}; }
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

// A coefficient taken apart for arithmetic in float, which is twice as wide an instruction: a head without the bits below
// LAST, and the rest, which has the sign of the head and is not 0, or infinite data times a rest of 0 would be no number.
template <uint32_t LAST> struct Split {
    float head, rest;
    explicit Split(double c) {
        uint32_t bits = bits_of(float(c)) & -LAST;
        if (c != 0 && std::fabs(float_of(bits)) >= std::fabs(c)) bits -= LAST;
        head = float_of(bits), rest = float(c - head);
    }
};

// Two tensors of a half type. The products with heads of 13 bits are exact: so a sum errs by 2⁻²⁴ of itself, and what
// cancels by 2⁻³⁶.
struct Halves {
    Split<0x800> a, b;
    explicit Halves(const double* c) : a(c[0]), b(c[1]) {}
    float sum(float x, float y) const {
        return __builtin_fmaf(a.head, x, b.head * y) + __builtin_fmaf(a.rest, x, b.rest * y);
    }
};

// Two tensors of float. What rounding takes from the first product, and the rests, are added at the end. So sum and
// result each err by half a unit in the last place. Where the two terms cancel to 2⁻¹⁴ the end is no longer small beside
// the sum, and that element goes the wide way.
struct Floats {
    double wide_a, wide_b;
    Split<1> a, b;
    explicit Floats(const double* c) : wide_a(c[0]), wide_b(c[1]), a(c[0]), b(c[1]) {}

    // The sum, and in the highest bit of the other whether it is to go the wide way: the sign of a difference of
    // positive floats, read as integers, which an infinite product also sets.
    float sum(float x, float y, uint32_t* wide) const {
        const float product = a.head * x, lost = __builtin_fmaf(a.head, x, -product);
        const float sum = __builtin_fmaf(b.head, y, product);
        *wide = bits_of(__builtin_fabsf(sum)) - bits_of(__builtin_fabsf(product) * 0x1p-14f) - 1;
        return sum + __builtin_fmaf(b.rest, y, __builtin_fmaf(a.rest, x, lost));
    }
};

}  // namespace

#include "wide.h"

namespace {

// Each sum of two goes by words as far as that goes; what follows is for the rest, and for processors without them.

inline __attribute__((always_inline)) void combine_two(
    int64_t from, int64_t to, const float16* x, const float16* y, const double* c, float16* out, bool past_the_cache) {
    const Halves of(c);
    from = by_words(from, to, x, y, of, out, past_the_cache);
#pragma GCC ivdep
    for (int64_t i = from; i < to; ++i) out[i] = float16::rounded(of.sum(x[i], y[i]));
}

// Two neighbours at a time, as the halves of one word: then nothing has to be moved between lanes.
inline __attribute__((always_inline)) void combine_two(
    int64_t from, int64_t to, const bfloat16* x, const bfloat16* y, const double* c, bfloat16* out, bool past_the_cache) {
    const Halves of(c);
    from = by_words(from, to, x, y, of, out, past_the_cache);
    const uint32_t upper = 0xFFFF0000u;
    const int64_t even = to - (to - from) % 2;
#pragma GCC ivdep
    for (int64_t i = from; i < even; i += 2) {
        uint32_t p, q;
        std::memcpy(&p, x + i, 4);
        std::memcpy(&q, y + i, 4);
        const uint32_t high = to_nearest(of.sum(float_of(p & upper), float_of(q & upper)));
        const uint32_t low = to_nearest(of.sum(float_of(p << 16), float_of(q << 16)));
        const uint32_t both = (high & upper) | low >> 16;
        std::memcpy(out + i, &both, 4);
    }
    if (even < to) out[even] = bfloat16::rounded(of.sum(x[even], y[even]));
}

// Copy to memory that nobody reads soon, without first reading it into the cache.
inline void stream(const float* from, float* to, int64_t count) {
    int64_t i = 0;
#ifdef __SSE2__
    for (; i < count && reinterpret_cast<uintptr_t>(to + i) % 16; ++i) to[i] = from[i];
    for (; i + 4 <= count; i += 4) _mm_stream_ps(to + i, _mm_loadu_ps(from + i));
#endif
    for (; i < count; ++i) to[i] = from[i];
}

// Before another thread may read what was streamed.
inline void finish_streaming() {
#ifdef __SSE2__
    _mm_sfence();
#endif
}

// A block is read before any of it is written: out may be one of the tensors.
inline __attribute__((always_inline)) void combine_two(
    int64_t from, int64_t to, const float* x, const float* y, const double* c, float* out, bool past_the_cache) {
    const Floats of(c);
    while ((from = by_words(from, to, x, y, of, out, past_the_cache)) < to) {
        float block[BLOCK];
        const int count = to - from < BLOCK ? int(to - from) : BLOCK;
        uint32_t any = 0, wide;
        for (int i = 0; i < count; ++i) block[i] = of.sum(x[from + i], y[from + i], &wide), any |= wide;
        for (int i = 0; any >> 31 && i < count; ++i) {
            const float narrow = of.sum(x[from + i], y[from + i], &wide);
            block[i] = wide >> 31 ? float(of.wide_a * x[from + i] + of.wide_b * y[from + i]) : narrow;
        }
        if (past_the_cache) stream(block, out + from, count);
        else std::memcpy(out + from, block, count * sizeof(float));
        from += count;
    }
}

}  // namespace

#define KERNEL(NAME, IN, OUT, N) \
    WIDEST static void NAME##_##N(int64_t from, int64_t to, const void* const* x, const double* c, void* out, bool) { \
        combine<IN, OUT, N>(from, to, reinterpret_cast<const IN* const*>(x), c, static_cast<OUT*>(out)); \
    }
#define OF_TWO(NAME, T) \
    WIDEST static void NAME##_2(int64_t from, int64_t to, const void* const* x, const double* c, void* out, bool past) { \
        combine_two(from, to, static_cast<const T*>(x[0]), static_cast<const T*>(x[1]), c, static_cast<T*>(out), past); \
    }
#define KERNELS(TWO, NAME, IN, OUT) \
    KERNEL(NAME, IN, OUT, 1) TWO KERNEL(NAME, IN, OUT, 3) \
    KERNEL(NAME, IN, OUT, 4) KERNEL(NAME, IN, OUT, 5) KERNEL(NAME, IN, OUT, 6) KERNEL(NAME, IN, OUT, 7)
#define TABLE(NAME) {NAME##_1, NAME##_2, NAME##_3, NAME##_4, NAME##_5, NAME##_6, NAME##_7}

KERNELS(KERNEL(f64, double, double, 2), f64, double, double)
KERNELS(OF_TWO(f32, float), f32, float, float)
KERNELS(OF_TWO(bf16, bfloat16), bf16, bfloat16, bfloat16)
KERNELS(KERNEL(bf16_f32, bfloat16, float, 2), bf16_f32, bfloat16, float)
KERNELS(OF_TWO(f16, float16), f16, float16, float16)
KERNELS(KERNEL(f16_f32, float16, float, 2), f16_f32, float16, float)

constexpr int DOUBLE = 0, FLOAT = 1;  // their rows in the table below
using Kernel = void (*)(int64_t, int64_t, const void* const*, const double*, void*, bool);

static const Kernel KERNELS_BY_KIND[][MOST + 1] = {
    TABLE(f64), TABLE(f32), TABLE(bf16), TABLE(bf16_f32), TABLE(f16), TABLE(f16_f32),
};

namespace {

struct Sum {
    int kind, n;  // n: of the tensors
    int64_t rows, columns;
    const void* x[MOST + 1];
    const double* c;    // a table of coefficients, the noise's last; or one row that all share
    const int64_t* at;  // each row's place in the table, if that is not its own number
    int64_t one;        // what `at` may point to
    bool shared;
    void* out;
    const Noise* noise;  // only where everything is float
    double limit;        // the sum stays within −limit … limit; of halves, infinity

    int all() const { return n + (noise != nullptr); }
    const double* of(int64_t row) const { return shared ? c : c + (at ? at[row] : row) * all(); }
    void piece(int64_t row, int64_t start, int64_t stop, bool past_the_cache) const;
    void with_noise(int64_t row, int64_t start, int64_t stop, bool past_the_cache) const;
    void bound(int64_t start, int64_t stop) const;
    bool is_read_soon() const;
    void run() const;
};

void Sum::piece(int64_t row, int64_t start, int64_t stop, bool past_the_cache) const {
    if (noise) return with_noise(row, start, stop, past_the_cache);
    KERNELS_BY_KIND[kind][n - 1](row * columns + start, row * columns + stop, x, of(row), out, past_the_cache);
}

// A few hundred elements at a time, whose noise stays in the nearest cache.
void Sum::with_noise(int64_t row, int64_t start, int64_t stop, bool past_the_cache) const {
    float z[CHUNK];
    const void* here[MOST + 1];
    for (int64_t at = start; at < stop; at += CHUNK) {
        const int64_t count = stop - at < CHUNK ? stop - at : CHUNK, place = row * columns + at;
        for (int k = 0; k < n; ++k) here[k] = static_cast<const float*>(x[k]) + place;
        noise->draw(row, at, count, z), here[n] = z;
        KERNELS_BY_KIND[FLOAT][n](0, count, here, of(row), static_cast<float*>(out) + place, past_the_cache);
    }
}

#define CLAMP(NAME, T) \
    WIDEST static void NAME(T* x, int64_t count, double limit) { /* NaN stays */ \
        const T most = narrowed<T>(limit), least = narrowed<T>(-limit); \
        for (int64_t i = 0; i < count; ++i) x[i] = x[i] < least ? least : x[i] > most ? most : x[i]; \
    }
CLAMP(clamp_f64, double)
CLAMP(clamp_f32, float)
CLAMP(clamp_bf16, bfloat16)
CLAMP(clamp_f16, float16)

void Sum::bound(int64_t start, int64_t stop) const {
    if (!(limit < HUGE_VAL)) return;
    const int64_t count = stop - start;
    if (kind == DOUBLE) clamp_f64(static_cast<double*>(out) + start, count, limit);
    else if (kind == 2) clamp_bf16(static_cast<bfloat16*>(out) + start, count, limit);
    else if (kind == 4) clamp_f16(static_cast<float16*>(out) + start, count, limit);
    else clamp_f32(static_cast<float*>(out) + start, count, limit);
}

// Whether the result, or what it is written over, is in the cache when the next needs it.
bool Sum::is_read_soon() const {
    for (int k = 0; k < n; ++k)
        if (x[k] == out) return true;
    return kind != FLOAT || limit < HUGE_VAL || rows * columns * int64_t(sizeof(float)) < STREAM_FROM;
}

void Sum::run() const {
    const int64_t total = rows * columns;
    const bool past_the_cache = !is_read_soon();
    // Pieces of a row, so that few long rows are shared among threads as evenly as many short ones.
    const int64_t longest = noise ? 1 << 11 : 1 << 14, pieces = (columns + longest - 1) / longest;
    const bool parallel = total >= (noise ? NORMALS_PARALLEL_FROM : PARALLEL_FROM);
    if (!parallel && shared && !noise)
        return KERNELS_BY_KIND[kind][n - 1](0, total, x, c, out, past_the_cache), bound(0, total);
#pragma omp parallel for schedule(static) if (parallel)
    for (int64_t i = 0; i < rows * pieces; ++i) {
        const int64_t row = i / pieces, start = i % pieces * longest;
        const int64_t stop = start + longest < columns ? start + longest : columns;
        if (row + 1 < rows) __builtin_prefetch(of(row + 1));  // from a table of which little is in the cache
        piece(row, start, stop, past_the_cache);
        if (past_the_cache) finish_streaming();
        bound(row * columns + start, row * columns + stop);
    }
}

}  // namespace
