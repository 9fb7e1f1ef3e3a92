// Whether all numbers are finite, in one pass that ends soon after the first that is not.

#pragma once

#include "cpu.h"
#include "tensor.h"

namespace {

constexpr int64_t WORDS_AT_ONCE = 1 << 11, WORDS_PARALLEL_FROM = 1 << 17;

// Of every number in a word of 64 bits: its exponent, the exponent's last bit, and its sign. By dtype.
struct Fields {
    uint64_t exponent, last, sign;
};
constexpr Fields FIELDS[] = {
    {0x7FF0000000000000u, 0x0010000000000000u, 0x8000000000000000u},
    {0x7F8000007F800000u, 0x0080000000800000u, 0x8000000080000000u},
    {0x7F807F807F807F80u, 0x0080008000800080u, 0x8000800080008000u},
    {0x7C007C007C007C00u, 0x0400040004000400u, 0x8000800080008000u},
};

// The exponent of infinity and NaN is all ones: one more in its last bit carries into the sign.
WIDEST static bool are_finite(const char* x, int64_t words, Fields of) {
    uint64_t any = 0, word;
    for (int64_t i = 0; i < words; ++i) std::memcpy(&word, x + 8 * i, 8), any |= (word & of.exponent) + of.last;
    return !(any & of.sign);
}

bool all_finite(const char* x, int64_t bytes, Fields of) {
    const int64_t words = bytes / 8;
    char last[8] = {};
    std::memcpy(last, x + 8 * words, bytes % 8);
    bool finite = are_finite(last, 1, of);
#pragma omp parallel for schedule(static) if (words >= WORDS_PARALLEL_FROM)
    for (int64_t from = 0; from < words; from += WORDS_AT_ONCE) {
        bool so_far;
#pragma omp atomic read
        so_far = finite;
        if (so_far && !are_finite(x + 8 * from, words - from < WORDS_AT_ONCE ? words - from : WORDS_AT_ONCE, of)) {
#pragma omp atomic write
            finite = false;
        }
    }
    return finite;
}

// all_finite(tensor) → bool; None for what is no dense tensor of floating-point numbers on the CPU.
PyObject* all_finite(PyObject*, PyObject* tensor) {
    const int dtype = plain_dtype(tensor);
    if (dtype < 0 || dtype == INT64 || !(is_contiguous(tensor, false) || is_contiguous(tensor, true))) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    Held shape(shape_of(tensor));
    const char* data = static_cast<const char*>(address_of(tensor));
    if (PyErr_Occurred()) return nullptr;
    const int64_t bytes = size_of(shape) * size_of_one(dtype);
    bool finite;
    Py_BEGIN_ALLOW_THREADS
    finite = all_finite(data, bytes, FIELDS[dtype]);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(finite);
}

}  // namespace
