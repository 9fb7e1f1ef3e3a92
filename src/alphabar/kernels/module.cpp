// The kernels as a module of Python's own C interface. A kernel is a header and a line of `methods`.

#include "finite.h"
#include "lincomb.h"
#include "normals.h"
#include "tensor.h"

namespace {

// normal(samples, size, seed, stream, first, address of the floats)
PyObject* normal(PyObject*, PyObject* args) {
    long long samples, size;
    unsigned long long place;
    Noise noise{};
    if (!PyArg_ParseTuple(args, "LLKIKK", &samples, &size, &noise.seed, &noise.stream, &noise.first, &place))
        return nullptr;
    float* out = reinterpret_cast<float*>(place);
    const int64_t longest = 8 * CHUNK, pieces = (size + longest - 1) / longest;
    Py_BEGIN_ALLOW_THREADS
#pragma omp parallel for schedule(static) if (samples * size >= NORMALS_PARALLEL_FROM)
    for (int64_t piece = 0; piece < samples * pieces; ++piece) {
        const int64_t row = piece / pieces, start = piece % pieces * longest;
        for (int64_t at = start; at < size && at < start + longest; at += CHUNK)
            noise.draw(row, at, size - at < CHUNK ? size - at : CHUNK, out + row * size + at);
    }
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"begin", begin, METH_VARARGS, nullptr},
    {"lincomb", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(lincomb)), METH_FASTCALL, nullptr},
    {"normal", normal, METH_VARARGS, nullptr},
    {"all_finite", all_finite, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", nullptr, -1, methods};

}  // namespace

PyMODINIT_FUNC PyInit__native() {
    intern_names();
    PyObject* made = PyErr_Occurred() ? nullptr : PyModule_Create(&module);
    // Changes with the functions above: a module built from an older source is not used.
    if (made) PyModule_AddIntConstant(made, "VERSION", 5);
    return made;
}
