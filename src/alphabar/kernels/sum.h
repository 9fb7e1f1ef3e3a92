// Sums of tensors for the CPU, in double, rounded once, in one pass over memory:
//
//     out[r, i] = c_0[r] · x_0[r, i] + c_1[r] · x_1[r, i] + … + c_n[r] · z[r, i]
//
// Raw pointers and plain numbers in, nothing allocated, nothing linked: OpenMP is found at load time, since torch has
// already brought one, and two pools of threads would fight over the cores.

#pragma once

#include <cmath>

#include "avx2.h"
#include "bfloat16.h"
#include "half.h"
#include "philox.h"

namespace {

constexpr int MOST = 6;                     // tensors in one sum
constexpr int64_t PARALLEL_FROM = 1 << 15;  // elements; below, waking threads costs more than they save
constexpr int64_t STREAM_FROM = 1 << 25;    // bytes, more than a cache holds: then the result goes past it

// (from, to, tensors, coefficients, limit, out, streams): the elements of a row from `from` to `to`; `streams`: past the
// cache, without reading first what is written over.
using Kernel = void (*)(int64_t, int64_t, const void* const*, const double*, double, void*, bool);

template <class In, class Out, int N>
void add_up(int64_t from, int64_t to, const void* const* x, const double* c, double limit, void* out, bool) {
    const In* tensors[N];
    double factors[N];
    const bool clips = limit < HUGE_VAL;
    for (int k = 0; k < N; ++k) tensors[k] = static_cast<const In*>(x[k]), factors[k] = c[k];
#pragma GCC ivdep  // out may be one of the tensors: an element is read before it is written
    for (int64_t i = from; i < to; ++i) {
        double sum = factors[0] * double(tensors[0][i]);
        for (int k = 1; k < N; ++k) sum += factors[k] * double(tensors[k][i]);
        if (clips) sum = sum < -limit ? -limit : sum > limit ? limit : sum;  // NaN stays
        static_cast<Out*>(out)[i] = narrowed<Out>(sum);
    }
}

#ifdef X86
template <class In, class Out, int N>
AVX2 void add_up_wide(int64_t from, int64_t to, const void* const* x, const double* c, double limit, void* out, bool streams) {
    const In* tensors[N];
    for (int k = 0; k < N; ++k) tensors[k] = static_cast<const In*>(x[k]);
    const auto wide = limit < HUGE_VAL ? add_up_by_sixteen<In, Out, N, true> : add_up_by_sixteen<In, Out, N, false>;
    wide(from, to, tensors, c, limit, static_cast<Out*>(out), streams);
}

// Before another thread may read what was streamed.
inline void finish_streaming() { _mm_sfence(); }
#else
constexpr bool HAS_AVX2 = false;
inline void finish_streaming() {}
template <class In, class Out, int N> constexpr Kernel add_up_wide = add_up<In, Out, N>;
#endif

template <class In, class Out> Kernel by_count(int n) {
    static constexpr Kernel kernels[][MOST + 1] = {
        {add_up<In, Out, 1>, add_up<In, Out, 2>, add_up<In, Out, 3>, add_up<In, Out, 4>, add_up<In, Out, 5>,
         add_up<In, Out, 6>, add_up<In, Out, 7>},
        {add_up_wide<In, Out, 1>, add_up_wide<In, Out, 2>, add_up_wide<In, Out, 3>, add_up_wide<In, Out, 4>,
         add_up_wide<In, Out, 5>, add_up_wide<In, Out, 6>, add_up_wide<In, Out, 7>},
    };
    return kernels[HAS_AVX2][n - 1];
}

// By float, three times as fast, where that is as good.
void add_up_two_bfloat16(
    int64_t from, int64_t to, const void* const* x, const double* c, double limit, void* out, bool streams) {
    if (known_to_suit_float(c)) return add_up_two_by_float(from, to, x, c, limit, out);
    by_count<bfloat16, bfloat16>(2)(from, to, x, c, limit, out, streams);
}

// The kernel for so many tensors of one dtype and a result of another; null where there is none.
Kernel kernel_for(int in, int to, int n) {
    switch (4 * in + to) {
        case 4 * FLOAT64 + FLOAT64: return by_count<double, double>(n);
        case 4 * FLOAT32 + FLOAT32: return by_count<float, float>(n);
        case 4 * BFLOAT16 + FLOAT32: return by_count<bfloat16, float>(n);
        case 4 * BFLOAT16 + BFLOAT16: return n == 2 ? add_up_two_bfloat16 : by_count<bfloat16, bfloat16>(n);
        case 4 * FLOAT16 + FLOAT32: return by_count<float16, float>(n);
        case 4 * FLOAT16 + FLOAT16: return by_count<float16, float16>(n);
        default: return nullptr;
    }
}

struct Sum {
    Kernel kernel;
    int n;         // of the tensors
    int64_t size;  // of an element of the result, in bytes
    int64_t rows, columns;
    const void* x[MOST + 1];
    const double* c;    // a table of coefficients, the noise's last; or one row that all share
    const int64_t* at;  // each row's place in the table, if that is not its own number
    int64_t one;        // what `at` may point to
    bool shared;
    void* out;
    const Address* noise;  // of float32 alone
    double limit;

    int all() const { return n + (noise != nullptr); }
    const double* of(int64_t row) const { return shared ? c : c + (at ? at[row] : row) * all(); }
    void piece(int64_t row, int64_t start, int64_t stop, bool streams) const;
    bool is_read_soon() const;
    bool is_small() const { return rows * columns < (noise ? NORMALS_PARALLEL_FROM : PARALLEL_FROM); }
    void run() const;
};

void Sum::piece(int64_t row, int64_t start, int64_t stop, bool streams) const {
    if (!noise) return kernel(row * columns + start, row * columns + stop, x, of(row), limit, out, streams);
    constexpr int64_t AT_ONCE = 4 * CHUNK;  // a few elements at a time, whose noise stays in the nearest cache
    float z[AT_ONCE];
    const void* here[MOST + 1];
    for (int64_t at = start; at < stop; at += AT_ONCE) {
        const int64_t count = stop - at < AT_ONCE ? stop - at : AT_ONCE, place = row * columns + at;
        for (int k = 0; k < n; ++k) here[k] = static_cast<const float*>(x[k]) + place;
        noise->normals(row, at, count, z), here[n] = z;
        kernel(0, count, here, of(row), limit, static_cast<float*>(out) + place, streams);
    }
}

// Whether the result, or what it is written over, is in the cache when the next needs it.
bool Sum::is_read_soon() const {
    for (int k = 0; k < n; ++k)
        if (x[k] == out) return true;
    return rows * columns * size < STREAM_FROM;
}

void Sum::run() const {
    const bool streams = !is_read_soon();
    // Pieces of a row, so that few long rows are shared among threads as evenly as many short ones.
    const int64_t longest = noise ? 1 << 11 : 1 << 13, pieces = (columns + longest - 1) / longest;
    const auto one = [&](int64_t i) {
        const int64_t row = i / pieces, start = i % pieces * longest;
        if (row + 1 < rows) __builtin_prefetch(of(row + 1));  // from a table of which little is in the cache
        piece(row, start, start + longest < columns ? start + longest : columns, streams);
        if (streams) finish_streaming();
    };
    if (is_small()) {
        for (int64_t i = 0; i < rows * pieces; ++i) one(i);
        return;
    }
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows * pieces; ++i) one(i);
}

}  // namespace
