// The kernels as a module of Python's own C interface. A kernel is a header and a line of `methods`.

#include "finite.h"
#include "lincomb.h"
#include "normal.h"
#include "tensor.h"

namespace {

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
