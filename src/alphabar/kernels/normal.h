// Normals for Python, into memory that is there.

#pragma once

#include "philox.h"
#include "tensor.h"

namespace {

// normal(samples, size, seed, stream, first, address of the floats)
PyObject* normal(PyObject*, PyObject* args) {
    long long samples, size;
    unsigned long long place;
    Address noise{};
    if (!PyArg_ParseTuple(args, "LLKIKK", &samples, &size, &noise.seed, &noise.stream, &noise.first, &place))
        return nullptr;
    float* out = reinterpret_cast<float*>(place);
    const int64_t longest = 8 * CHUNK, pieces = (size + longest - 1) / longest;
    Py_BEGIN_ALLOW_THREADS
#pragma omp parallel for schedule(static) if (samples * size >= NORMALS_PARALLEL_FROM)
    for (int64_t piece = 0; piece < samples * pieces; ++piece) {
        const int64_t row = piece / pieces, start = piece % pieces * longest;
        noise.normals(row, start, size - start < longest ? size - start : longest, out + row * size + start);
    }
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

}  // namespace
