// lincomb for Python: its arguments are read and verified here, one by one, and declined where they do not fit.

#pragma once

#include "sum.h"
#include "tensor.h"

namespace {

struct Arguments {
    PyObject *coefficients, *tensors, *rows, *noise, *out, *dtype;
    bool grad;  // whether what requires a gradient is declined
};

bool is_list(PyObject* object) { return PyTuple_Check(object) || PyList_Check(object); }

// (seed, stream, first)
bool read_address(PyObject* given, Address& noise) {
    if (!PyTuple_Check(given) || PyTuple_GET_SIZE(given) != 3) return false;
    for (int k = 0; k < 3; ++k)
        if (!PyLong_CheckExact(PyTuple_GET_ITEM(given, k))) return false;
    const uint64_t stream = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(given, 1));
    noise.seed = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(given, 0)), noise.stream = uint32_t(stream);
    noise.first = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(given, 2));
    return !PyErr_Occurred() && stream >> 32 == 0 && noise.first >> 63 == 0;
}

// Plain numbers; what is multiplied by 0 is left out.
bool read_numbers(Sum& sum, PyObject* given, double* numbers, int* places) {
    const int all = sum.all();
    if (PySequence_Fast_GET_SIZE(given) != all) return false;
    int kept = 0;
    for (int k = 0; k < all; ++k) {
        PyObject* c = PySequence_Fast_GET_ITEM(given, k);
        if (!PyFloat_Check(c) && !PyLong_Check(c)) return false;
        numbers[kept] = PyFloat_AsDouble(c);
        if (k == sum.n) sum.noise = numbers[kept] != 0 ? sum.noise : nullptr;
        else if (numbers[kept] != 0) places[kept++] = k;
    }
    sum.n = kept, sum.c = numbers, sum.shared = true;
    return kept > 0;
}

// The row of a table (T, n) that each leading place of the data takes, or all of them: an integer, or int64 of the shape
// of the leading places, or of one element.
bool read_rows(Sum& sum, PyObject* rows, PyObject* shape, int64_t height) {
    sum.at = &sum.one;
    if (PyLong_CheckExact(rows)) {
        int beyond;
        sum.one = PyLong_AsLongLongAndOverflow(rows, &beyond);  // −1 if it is beyond
    } else {
        if (plain_dtype(rows) != INT64 || !is_contiguous(rows, false)) return false;
        Held axes(shape_of(rows));
        if (!axes) return false;
        const Py_ssize_t count = PyTuple_GET_SIZE(axes.object);
        sum.rows = size_of(axes);
        if ((sum.rows != 1 || count > 1) && (count >= PyTuple_GET_SIZE(shape) || !agree(axes, shape, count))) return false;
        sum.at = static_cast<const int64_t*>(address_of(rows));
    }
    for (int64_t row = 0; row < sum.rows; ++row)
        if (sum.at[row] < 0 || sum.at[row] >= height) return false;
    if (sum.rows == 1) sum.shared = true, sum.c += sum.at[0] * sum.all();
    return true;
}

// A float64 table (…, n): without rows its leading axes are those of the data.
bool read_table(Sum& sum, const Arguments& given, PyObject* shape) {
    PyObject* table = given.coefficients;
    if (plain_dtype(table) != FLOAT64 || !is_contiguous(table, false) || (given.grad && requires_grad(table))) return false;
    Held axes(shape_of(table));
    const Py_ssize_t lead = axes ? PyTuple_GET_SIZE(axes.object) - 1 : -1;
    if (lead < 0 || PyLong_AsLong(PyTuple_GET_ITEM(axes.object, lead)) != sum.all()) return false;
    sum.c = static_cast<const double*>(address_of(table));
    if (given.rows != Py_None) return lead == 1 && read_rows(sum, given.rows, shape, size_of(axes, 1));
    sum.rows = size_of(axes, lead), sum.shared = lead == 0;
    return lead < PyTuple_GET_SIZE(shape) && agree(axes, shape, lead);
}

// Where the data are: all tensors must be dense and of one layout, also those that are left out.
bool read_tensors(Sum& sum, const Arguments& given, int in, const int* places, PyObject* shape) {
    PyObject* like = PySequence_Fast_GET_ITEM(given.tensors, 0);
    const bool last = !is_contiguous(like, false);
    if (last && (sum.rows > 1 || sum.noise || !is_contiguous(like, true))) return false;
    const int to = given.dtype == Py_None ? in : place_of(given.dtype);
    if (in == INT64 || to < 0 || to == INT64 || !(sum.kernel = kernel_for(in, to, sum.all()))) return false;
    if (sum.noise && (in != FLOAT32 || to != FLOAT32)) return false;
    if (given.grad && requires_grad(like)) return false;
    sum.size = size_of_one(to);
    const auto fits = [&](PyObject* tensor, int dtype) {
        return plain_dtype(tensor) == dtype && is_contiguous(tensor, last) && has_shape(tensor, shape)
            && !(given.grad && requires_grad(tensor));
    };
    for (Py_ssize_t k = 1; k < PySequence_Fast_GET_SIZE(given.tensors); ++k)
        if (!fits(PySequence_Fast_GET_ITEM(given.tensors, k), in)) return false;
    for (int k = 0; k < sum.n; ++k) sum.x[k] = address_of(PySequence_Fast_GET_ITEM(given.tensors, places[k]));
    return given.out == Py_None || fits(given.out, to);
}

bool read(Sum& sum, Address& noise, double* numbers, const Arguments& given) {
    if (!is_list(given.tensors)) return false;
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(given.tensors);
    if (count < 1 || count > MOST || !(sum.limit >= 0)) return false;
    PyObject* like = PySequence_Fast_GET_ITEM(given.tensors, 0);
    const int in = plain_dtype(like);
    if (in < 0) return false;
    Held shape(shape_of(like));
    if (!shape || !PyTuple_GET_SIZE(shape.object)) return false;
    int places[MOST] = {0, 1, 2, 3, 4, 5};
    sum.n = int(count), sum.rows = 1;
    if (given.noise != Py_None) {
        if (!read_address(given.noise, noise)) return false;
        sum.noise = &noise;
    }
    const bool is_numbers = is_list(given.coefficients);
    if (is_numbers && given.rows != Py_None) return false;
    if (!(is_numbers ? read_numbers(sum, given.coefficients, numbers, places) : read_table(sum, given, shape))) return false;
    const int64_t samples = size_of(shape, 1), total = size_of(shape);
    if (sum.noise && sum.shared) sum.rows = samples;
    if (total == 0 || (sum.noise && sum.rows != samples) || !read_tensors(sum, given, in, places, shape)) return false;
    sum.columns = total / sum.rows;
    return !PyErr_Occurred();
}

// lincomb(coefficients, tensors, rows, noise, out, dtype, limit, grad) → the sum, or None where it is declined.
// coefficients: numbers, or a float64 table. noise: None, or (seed, stream, first). dtype: of the result; None for that of
// the tensors. grad: whether what requires a gradient is declined.
PyObject* lincomb(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 8) return PyErr_Format(PyExc_TypeError, "lincomb takes 8 arguments");
    const Arguments given{args[0], args[1], args[2], args[3], args[4], args[5], args[7] == Py_True};
    Sum sum{};
    Address noise{};
    double numbers[MOST + 1];
    sum.limit = PyFloat_AsDouble(args[6]);
    if (!read(sum, noise, numbers, given)) {
        PyErr_Clear();  // whoever names what does not fit reads it again
        Py_RETURN_NONE;
    }
    PyObject* result = given.out;
    if (result == Py_None) result = new_like(PySequence_Fast_GET_ITEM(given.tensors, 0), given.dtype);
    else Py_INCREF(result);
    if (!result || !(sum.out = address_of(result))) {
        Py_XDECREF(result);
        return nullptr;
    }
    PyThreadState* others = sum.is_small() ? nullptr : PyEval_SaveThread();  // letting them run has a cost of its own
    sum.run();
    if (others) PyEval_RestoreThread(others);
    return result;
}

}  // namespace
