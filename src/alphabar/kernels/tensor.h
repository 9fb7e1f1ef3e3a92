// Python tensors, known by their attributes and read through their addresses: nothing of torch is linked, so that one
// build serves every version of it.

#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>

namespace {

constexpr int INT64 = 4, DTYPES = 5;  // places in `dtypes`: float64, float32, bfloat16, float16, int64

// The arguments of `begin`: types, dtypes, a memory format and a function of torch.
PyObject *tensor_types[2], *dtypes[DTYPES], *channels_last, *empty_like;
PyObject *dtype_name, *shape_name, *is_cpu_name, *requires_grad_name, *data_ptr_name, *is_contiguous_name;
PyObject *format_names, *dtype_names;  // of keyword arguments

// A reference that is given back at the end of its scope.
struct Held {
    PyObject* object;
    explicit Held(PyObject* made) : object(made) {}
    Held(const Held&) = delete;
    ~Held() { Py_XDECREF(object); }
    operator PyObject*() const { return object; }
};

bool is(PyObject* made, PyObject* expected) {  // takes the reference
    Held held(made);
    return held && held == expected;
}

int place_of(PyObject* dtype) {
    for (int i = 0; i < DTYPES; ++i)
        if (dtype == dtypes[i]) return i;
    return -1;
}

// The dtype's place, or −1 for what the kernels leave alone: other devices, subclasses, other dtypes.
int plain_dtype(PyObject* tensor) {
    PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(tensor));
    if (type != tensor_types[0] && type != tensor_types[1]) return -1;
    if (!is(PyObject_GetAttr(tensor, is_cpu_name), Py_True)) return -1;
    Held dtype(PyObject_GetAttr(tensor, dtype_name));
    return dtype ? place_of(dtype) : -1;
}

bool is_contiguous(PyObject* tensor, bool last) {
    PyObject* arguments[] = {tensor, channels_last};
    return is(PyObject_VectorcallMethod(is_contiguous_name, arguments, 1, last ? format_names : nullptr), Py_True);
}

bool requires_grad(PyObject* tensor) { return !is(PyObject_GetAttr(tensor, requires_grad_name), Py_False); }

PyObject* shape_of(PyObject* tensor) { return PyObject_GetAttr(tensor, shape_name); }

bool has_shape(PyObject* tensor, PyObject* shape) {
    Held own(shape_of(tensor));
    return own && PyObject_RichCompareBool(own, shape, Py_EQ) == 1;
}

void* address_of(PyObject* tensor) {
    Held number(PyObject_CallMethodNoArgs(tensor, data_ptr_name));
    return number ? PyLong_AsVoidPtr(number) : nullptr;
}

int64_t size_of(PyObject* shape, Py_ssize_t axes) {
    int64_t size = 1;
    for (Py_ssize_t i = 0; i < axes; ++i) size *= PyLong_AsLongLong(PyTuple_GET_ITEM(shape, i));
    return size;
}

int64_t size_of(PyObject* shape) { return size_of(shape, PyTuple_GET_SIZE(shape)); }

// Whether the first axes of both agree.
bool agree(PyObject* shape, PyObject* other, Py_ssize_t axes) {
    if (PyTuple_GET_SIZE(shape) < axes || PyTuple_GET_SIZE(other) < axes) return false;
    for (Py_ssize_t i = 0; i < axes; ++i)
        if (PyObject_RichCompareBool(PyTuple_GET_ITEM(shape, i), PyTuple_GET_ITEM(other, i), Py_EQ) != 1) return false;
    return true;
}

// A new tensor like this one, of this dtype, or of its own for None.
PyObject* new_like(PyObject* tensor, PyObject* dtype) {
    PyObject* arguments[] = {tensor, dtype};
    return PyObject_Vectorcall(empty_like, arguments, 1, dtype == Py_None ? nullptr : dtype_names);
}

// begin((Tensor, Parameter), (float64, float32, bfloat16, float16, int64), channels_last, empty_like)
PyObject* begin(PyObject*, PyObject* args) {
    PyObject *types, *kinds, *last, *make;
    if (!PyArg_ParseTuple(args, "O!O!OO", &PyTuple_Type, &types, &PyTuple_Type, &kinds, &last, &make)) return nullptr;
    for (int i = 0; i < 2; ++i) Py_XINCREF(tensor_types[i] = PyTuple_GetItem(types, i));
    for (int i = 0; i < DTYPES; ++i) Py_XINCREF(dtypes[i] = PyTuple_GetItem(kinds, i));
    Py_INCREF(channels_last = last), Py_INCREF(empty_like = make);
    if (PyErr_Occurred()) return nullptr;
    Py_RETURN_NONE;
}

void intern_names() {
    dtype_name = PyUnicode_InternFromString("dtype");
    shape_name = PyUnicode_InternFromString("shape");
    is_cpu_name = PyUnicode_InternFromString("is_cpu");
    requires_grad_name = PyUnicode_InternFromString("requires_grad");
    data_ptr_name = PyUnicode_InternFromString("data_ptr");
    is_contiguous_name = PyUnicode_InternFromString("is_contiguous");
    format_names = Py_BuildValue("(s)", "memory_format");
    dtype_names = Py_BuildValue("(s)", "dtype");
}

}  // namespace
