// lincomb and addressed normals for the CPU: the same numbers as the torch reference, in one pass over memory.
//
//     out[r, i] = c_0[r] · x_0[r, i] + c_1[r] · x_1[r, i] + …        in double, rounded once
//     z = Box–Muller(Philox4x32-10(key = seed; counter = block, stream, sample))
//
// Raw pointers and plain numbers in, nothing allocated, nothing linked but the C library. Each kernel is compiled for
// several instruction sets, and the loader picks the widest that the processor has. OpenMP is left
// to be found at load time: torch has already brought one, and two pools of threads would fight over the cores.

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDEST
#endif

namespace {

constexpr int64_t PARALLEL_FROM = 1 << 15;  // elements; below it, waking threads costs more than they save

struct bfloat16 {
    uint16_t bits;
    operator double() const {
        const uint32_t wide = uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &wide, 4);
        return value;
    }
    static bfloat16 rounded(float value) {
        uint32_t wide;
        std::memcpy(&wide, &value, 4);
        const uint32_t up = wide + 0x7FFF + ((wide >> 16) & 1);  // to nearest, ties to even
        return {uint16_t(value != value ? 0x7FC0 : up >> 16)};
    }
};

// Through float on the way to the half types, as torch rounds them.
template <class T> inline T narrowed(double value) { return T(value); }
template <> inline bfloat16 narrowed(double value) { return bfloat16::rounded(float(value)); }
#ifdef __FLT16_MAX__
template <> inline _Float16 narrowed(double value) { return _Float16(float(value)); }
#endif

template <class In, class Out, int N>
inline __attribute__((always_inline)) void combine(
    int64_t from, int64_t to, const In* const* x, const double* c, Out* out) {
    const In* tensors[N];
    double coefficients[N];
    for (int k = 0; k < N; ++k) tensors[k] = x[k], coefficients[k] = c[k];
#pragma GCC ivdep  // out may be one of the tensors: an element is read before it is written
    for (int64_t i = from; i < to; ++i) {
        double total = coefficients[0] * double(tensors[0][i]);
        for (int k = 1; k < N; ++k) total += coefficients[k] * double(tensors[k][i]);
        out[i] = narrowed<Out>(total);
    }
}

}  // namespace

#define KERNEL(NAME, IN, OUT, N) \
    WIDEST static void NAME##_##N(int64_t from, int64_t to, const void* const* x, const double* c, void* out) { \
        combine<IN, OUT, N>(from, to, reinterpret_cast<const IN* const*>(x), c, static_cast<OUT*>(out)); \
    }
#define KERNELS(NAME, IN, OUT) \
    KERNEL(NAME, IN, OUT, 1) KERNEL(NAME, IN, OUT, 2) KERNEL(NAME, IN, OUT, 3) \
    KERNEL(NAME, IN, OUT, 4) KERNEL(NAME, IN, OUT, 5) KERNEL(NAME, IN, OUT, 6)
#define TABLE(NAME) {NAME##_1, NAME##_2, NAME##_3, NAME##_4, NAME##_5, NAME##_6}

KERNELS(f64, double, double)
KERNELS(f32, float, float)
KERNELS(bf16, bfloat16, bfloat16)
KERNELS(bf16_f32, bfloat16, float)
#ifdef __FLT16_MAX__
KERNELS(f16, _Float16, _Float16)
KERNELS(f16_f32, _Float16, float)
#endif

using Kernel = void (*)(int64_t, int64_t, const void* const*, const double*, void*);

static const Kernel KERNELS_BY_KIND[][6] = {
    TABLE(f64), TABLE(f32), TABLE(bf16), TABLE(bf16_f32),
#ifdef __FLT16_MAX__
    TABLE(f16), TABLE(f16_f32),
#endif
};

// Changes with the functions below: a library built from an older source is not used.
extern "C" int alphabar_version() { return 1; }

// kind: which types, a row of the table above. c: rows × n coefficients, or n of them where `shared`.
extern "C" int alphabar_lincomb(
    int kind, int n, int64_t rows, int64_t columns, const void* const* x, const double* c, int shared, void* out) {
    const int kinds = sizeof(KERNELS_BY_KIND) / sizeof(KERNELS_BY_KIND[0]);
    if (kind < 0 || kind >= kinds || n < 1 || n > 6) return 1;
    const Kernel kernel = KERNELS_BY_KIND[kind][n - 1];
    const int64_t total = rows * columns;
    if (total < PARALLEL_FROM) {
        if (shared) kernel(0, total, x, c, out);
        for (int64_t row = 0; row < (shared ? 0 : rows); ++row)
            kernel(row * columns, (row + 1) * columns, x, c + row * n, out);
        return 0;
    }
    // Pieces of a row, so that few long rows are shared among threads as evenly as many short ones.
    const int64_t longest = 1 << 14, pieces = (columns + longest - 1) / longest;
#pragma omp parallel for schedule(static)
    for (int64_t piece = 0; piece < rows * pieces; ++piece) {
        const int64_t row = piece / pieces, start = piece % pieces * longest;
        const int64_t stop = start + longest < columns ? start + longest : columns;
        kernel(row * columns + start, row * columns + stop, x, shared ? c : c + row * n, out);
    }
    return 0;
}

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

constexpr int LANES = 64;  // blocks at a time, so that every loop over them becomes wide instructions

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

// (samples, size) standard normals; row i belongs to sample first + i.
extern "C" int alphabar_normal(
    uint64_t seed, uint32_t stream, uint64_t first, int64_t samples, int64_t size, float* out) {
    const int64_t chunk = 4 * LANES, pieces = (size + chunk - 1) / chunk;
#pragma omp parallel for schedule(static) if (samples * size >= PARALLEL_FROM)
    for (int64_t piece = 0; piece < samples * pieces; ++piece) {
        const int64_t row = piece / pieces, start = piece % pieces * chunk;
        const int64_t left = size - start < chunk ? size - start : chunk;
        float* to = out + row * size + start;
        if (left % 4 == 0) {
            normals(seed, stream, first + row, start / 4, int(left / 4), to);
        } else {
            float whole[4 * LANES];
            normals(seed, stream, first + row, start / 4, int((left + 3) / 4), whole);
            std::memcpy(to, whole, left * sizeof(float));
        }
    }
    return 0;
}
