// The kernels as a module of Python's own C interface. Tensors are known by their Python attributes and read through
// their addresses, so that nothing of torch is linked: one build serves every version of it.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "kernels.h"

namespace {

// Tensors are known by their attributes; `begin` is told which types and dtypes there are.
PyObject *tensor_types[2], *dtypes[5], *channels_last;
PyObject *dtype_name, *shape_name, *is_cpu_name, *requires_grad_name, *data_ptr_name, *is_contiguous_name, *format_names;

// The kernels' kinds by the dtypes of what goes in and comes out, in the order given to `begin`.
constexpr int FLOAT64 = 0, INT64 = 4;
constexpr int KINDS[4][4] = {{0, -1, -1, -1}, {-1, 1, -1, -1}, {-1, 3, 2, -1}, {-1, 5, -1, 4}};

// A reference that is given back at the end of its scope.
struct Held {
    PyObject* object;
    explicit Held(PyObject* made) : object(made) {}
    Held(const Held&) = delete;
    ~Held() { Py_XDECREF(object); }
    operator PyObject*() const { return object; }
};

int place_of(PyObject* dtype) {
    for (int i = 0; i <= INT64; ++i)
        if (dtype == dtypes[i]) return i;
    return -1;
}

bool is(PyObject* made, PyObject* expected) {  // takes the reference
    Held held(made);
    return held && held == expected;
}

bool is_contiguous(PyObject* tensor, bool last) {
    PyObject* arguments[] = {tensor, channels_last};
    return is(PyObject_VectorcallMethod(is_contiguous_name, arguments, 1, last ? format_names : nullptr), Py_True);
}

void* address(PyObject* tensor) {
    Held number(PyObject_CallMethodNoArgs(tensor, data_ptr_name));
    return number ? PyLong_AsVoidPtr(number) : nullptr;
}

// The dtype's place in `dtypes`, or −1 for what the kernels leave alone: other devices, subclasses, other dtypes.
int plain_dtype(PyObject* tensor) {
    PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(tensor));
    if (type != tensor_types[0] && type != tensor_types[1]) return -1;
    if (!is(PyObject_GetAttr(tensor, is_cpu_name), Py_True)) return -1;
    Held dtype(PyObject_GetAttr(tensor, dtype_name));
    return dtype ? place_of(dtype) : -1;
}

int64_t size_of(PyObject* shape, Py_ssize_t axes) {
    int64_t size = 1;
    for (Py_ssize_t i = 0; i < axes; ++i) size *= PyLong_AsLongLong(PyTuple_GET_ITEM(shape, i));
    return size;
}

// Whether the first axes of both agree.
bool agree(PyObject* shape, PyObject* other, Py_ssize_t axes) {
    if (PyTuple_GET_SIZE(shape) < axes || PyTuple_GET_SIZE(other) < axes) return false;
    for (Py_ssize_t i = 0; i < axes; ++i)
        if (PyObject_RichCompareBool(PyTuple_GET_ITEM(shape, i), PyTuple_GET_ITEM(other, i), Py_EQ) != 1) return false;
    return true;
}

// The rows of data of this shape: the leading axes of a table (…, n) without `at`; with it, at[r] is the row of a table
// (T, n) that data row r takes, or that all take if it is one number. False where the shapes do not fit, or T is exceeded.
bool look_up(Sum& sum, PyObject* table, PyObject* at, PyObject* shape) {
    if (plain_dtype(table) != FLOAT64 || !is_contiguous(table, false)) return false;
    Held height(PyObject_GetAttr(table, shape_name));
    const Py_ssize_t lead = height ? PyTuple_GET_SIZE(height.object) - 1 : -1;
    if (lead < 0 || PyLong_AsLong(PyTuple_GET_ITEM(height.object, lead)) != sum.all()) return false;
    sum.c = static_cast<const double*>(address(table));
    if (at == Py_None) {
        sum.rows = size_of(height, lead);
        return lead < PyTuple_GET_SIZE(shape) && agree(height, shape, lead);
    }
    if (lead != 1) return false;
    if (PyLong_CheckExact(at)) {
        int beyond;
        sum.one = PyLong_AsLongLongAndOverflow(at, &beyond), sum.at = &sum.one;  // −1 if it is beyond
    } else {
        if (plain_dtype(at) != INT64 || !is_contiguous(at, false)) return false;
        Held axes(PyObject_GetAttr(at, shape_name));
        if (!axes) return false;
        const Py_ssize_t count = PyTuple_GET_SIZE(axes.object);
        sum.rows = size_of(axes, count);
        if ((sum.rows != 1 || count > 1) && (count >= PyTuple_GET_SIZE(shape) || !agree(axes, shape, count))) return false;
        sum.at = static_cast<const int64_t*>(address(at));
    }
    const int64_t limit = size_of(height, 1);
    for (int64_t row = 0; row < sum.rows; ++row)
        if (sum.at[row] < 0 || sum.at[row] >= limit) return false;
    return true;
}

// Fill in where the data are; false where they do not lie alike and densely.
bool find(Sum& sum, PyObject* tensors, const int* places, PyObject* out, int to, PyObject* shape) {
    const bool last = !is_contiguous(out, false);
    if (last && (sum.rows > 1 || sum.noise || !is_contiguous(out, true))) return false;
    int in = -1;
    for (int k = 0; k < sum.n; ++k) {
        PyObject* tensor = PyTuple_GET_ITEM(tensors, places[k]);
        const int dtype = plain_dtype(tensor);
        if (dtype < 0 || dtype == INT64 || (k && dtype != in) || !is_contiguous(tensor, last)) return false;
        if (sum.at && !is(PyObject_GetAttr(tensor, requires_grad_name), Py_False)) return false;
        in = dtype;
        if (tensor != out) {
            Held other(PyObject_GetAttr(tensor, shape_name));
            if (!other || PyObject_RichCompareBool(shape, other, Py_EQ) != 1) return false;
        }
        sum.x[k] = address(tensor);
    }
    if (to == INT64 || in < 0 || (sum.at && in != to) || (sum.kind = KINDS[in][to]) < 0) return false;
    if (sum.noise && sum.kind != FLOAT) return false;
    if (sum.limit < HUGE_VAL && sum.kind != FLOAT && sum.kind != DOUBLE) return false;
    sum.out = address(out);
    const int64_t total = size_of(shape, PyTuple_GET_SIZE(shape));
    if (total == 0 || total % sum.rows) return false;
    sum.columns = total / sum.rows;
    return true;
}

// lincomb(coefficients, at, tensors, out, noise, limit) → whether it was done; None where a coefficient is no number.
// coefficients: a tuple of numbers that all rows share, or a float64 table (see `look_up`), the noise's last;
// noise: None, or (seed, stream, first). With `at` nothing is taken for granted of the data, and nothing that requires a
// gradient is done.
PyObject* lincomb(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 6) return PyErr_Format(PyExc_TypeError, "lincomb takes 6 arguments");
    PyObject *coefficients = args[0], *at = args[1], *tensors = args[2], *out = args[3];
    Sum sum{};
    Noise noise{};
    const int given = PyTuple_Check(tensors) ? int(PyTuple_GET_SIZE(tensors)) : MOST + 1;
    sum.limit = PyFloat_AsDouble(args[5]);
    const int to = plain_dtype(out);
    if (given > MOST || to < 0) Py_RETURN_FALSE;
    Held shape(PyObject_GetAttr(out, shape_name));
    if (!shape || !PyTuple_GET_SIZE(shape.object)) Py_RETURN_FALSE;
    sum.rows = 1;
    if (args[4] != Py_None) {
        if (!PyArg_ParseTuple(args[4], "KIK", &noise.seed, &noise.stream, &noise.first)) return nullptr;
        sum.noise = &noise;
        sum.rows = size_of(shape, 1);
    }
    double numbers[MOST + 1];
    int places[MOST] = {0, 1, 2, 3, 4, 5};
    bool found = true;
    if (PyTuple_Check(coefficients)) {
        const int all = given + (sum.noise != nullptr);
        if (PyTuple_GET_SIZE(coefficients) != all) Py_RETURN_FALSE;
        if (at != Py_None) sum.at = &sum.one;
        for (int k = 0; k < all; ++k) {
            PyObject* c = PyTuple_GET_ITEM(coefficients, k);
            if (!PyFloat_Check(c) && !PyLong_Check(c)) Py_RETURN_NONE;
            numbers[sum.n] = PyFloat_AsDouble(c);
            if (k < given && numbers[sum.n] != 0) places[sum.n++] = k;  // what is multiplied by 0 is left out
        }
        sum.c = numbers, sum.shared = true;
    } else {
        const int64_t samples = sum.rows;
        sum.n = given, sum.rows = 1;
        found = look_up(sum, coefficients, at, shape);
        sum.shared = found && sum.at && sum.rows == 1;
        if (sum.shared) sum.c += *sum.at * sum.all(), sum.rows = samples;
        found = found && (!sum.noise || sum.rows == samples);
    }
    found = found && sum.n && sum.rows && find(sum, tensors, places, out, to, shape);
    if (PyErr_Occurred()) return nullptr;
    if (!found) Py_RETURN_FALSE;
    Py_BEGIN_ALLOW_THREADS
    sum.run();
    Py_END_ALLOW_THREADS
    Py_RETURN_TRUE;
}

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

// begin((Tensor, Parameter), (float64, float32, bfloat16, float16, int64), channels_last)
PyObject* begin(PyObject*, PyObject* args) {
    PyObject *types, *kinds, *last;
    if (!PyArg_ParseTuple(args, "O!O!O", &PyTuple_Type, &types, &PyTuple_Type, &kinds, &last)) return nullptr;
    for (int i = 0; i < 2; ++i) Py_XINCREF(tensor_types[i] = PyTuple_GetItem(types, i));
    for (int i = 0; i <= INT64; ++i) Py_XINCREF(dtypes[i] = PyTuple_GetItem(kinds, i));
    Py_INCREF(channels_last = last);
    if (PyErr_Occurred()) return nullptr;
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"begin", begin, METH_VARARGS, nullptr},
    {"lincomb", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(lincomb)), METH_FASTCALL, nullptr},
    {"normal", normal, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", nullptr, -1, methods};

}  // namespace

PyMODINIT_FUNC PyInit__native() {
    dtype_name = PyUnicode_InternFromString("dtype");
    shape_name = PyUnicode_InternFromString("shape");
    is_cpu_name = PyUnicode_InternFromString("is_cpu");
    requires_grad_name = PyUnicode_InternFromString("requires_grad");
    data_ptr_name = PyUnicode_InternFromString("data_ptr");
    is_contiguous_name = PyUnicode_InternFromString("is_contiguous");
    format_names = Py_BuildValue("(s)", "memory_format");
    PyObject* made = PyErr_Occurred() ? nullptr : PyModule_Create(&module);
    // Changes with the functions above: a module built from an older source is not used.
    if (made) PyModule_AddIntConstant(made, "VERSION", 4);
    return made;
}
