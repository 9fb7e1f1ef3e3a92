// Whether all numbers are finite, in one pass that ends soon after the first that is not.

#pragma once

#include "normals.h"
#include "tensor.h"

namespace {

constexpr int64_t CHECKED_AT_ONCE = 1 << 12, CHECKED_PARALLEL_FROM = 1 << 18;  // elements

// The exponent of infinity and NaN is all ones; adding one to its last bit then sets the bit above it, the sign's.
#define ALL_FINITE(NAME, T, EXPONENT) \
    WIDEST static bool NAME(const T* x, int64_t count) { \
        constexpr T mask = EXPONENT, sign = T(T(1) << (8 * sizeof(T) - 1)), least = T(mask & -mask); \
        T any = 0; \
        for (int64_t i = 0; i < count; ++i) any |= T((x[i] & mask) + least); \
        return !(any & sign); \
    }
ALL_FINITE(are_finite_f64, uint64_t, 0x7FF0000000000000u)
ALL_FINITE(are_finite_f32, uint32_t, 0x7F800000u)
ALL_FINITE(are_finite_bf16, uint16_t, 0x7F80u)
ALL_FINITE(are_finite_f16, uint16_t, 0x7C00u)

template <class T> bool all_finite(const void* data, int64_t count, bool (*are_finite)(const T*, int64_t)) {
    const T* x = static_cast<const T*>(data);
    bool finite = true;
#pragma omp parallel for schedule(static) if (count >= CHECKED_PARALLEL_FROM)
    for (int64_t from = 0; from < count; from += CHECKED_AT_ONCE) {
        bool so_far;
#pragma omp atomic read
        so_far = finite;
        const int64_t left = count - from;
        if (so_far && !are_finite(x + from, left < CHECKED_AT_ONCE ? left : CHECKED_AT_ONCE)) {
#pragma omp atomic write
            finite = false;
        }
    }
    return finite;
}

bool all_finite(const void* data, int64_t count, int dtype) {
    switch (dtype) {
        case 0: return all_finite<uint64_t>(data, count, are_finite_f64);
        case 1: return all_finite<uint32_t>(data, count, are_finite_f32);
        case 2: return all_finite<uint16_t>(data, count, are_finite_bf16);
        default: return all_finite<uint16_t>(data, count, are_finite_f16);
    }
}

// all_finite(tensor) → bool; None for what is no dense tensor of floating-point numbers on the CPU.
PyObject* all_finite(PyObject*, PyObject* tensor) {
    const int dtype = plain_dtype(tensor);
    if (dtype < 0 || dtype == INT64 || !(is_contiguous(tensor, false) || is_contiguous(tensor, true))) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    Held shape(shape_of(tensor));
    const void* data = address(tensor);
    if (!shape || PyErr_Occurred()) return nullptr;
    const int64_t count = size_of(shape);
    bool finite;
    Py_BEGIN_ALLOW_THREADS
    finite = all_finite(data, count, dtype);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(finite);
}

}  // namespace
