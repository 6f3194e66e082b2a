/* The extension relay_app.wire._compiled: twins of what is in Python beside it. */

#include "compiled.h"

static PyTypeObject *
namedtuple(PyObject *from, const char *name)
{
    PyObject *type = PyObject_GetAttrString(from, name);
    if (type != NULL
        && (!PyType_Check(type) || !PyType_IsSubtype((PyTypeObject *)type, &PyTuple_Type))) {
        PyErr_Format(PyExc_TypeError, "%s is to be a tuple", name);
        Py_CLEAR(type);
    }
    return (PyTypeObject *)type;
}

/* The number that a module of ours gives a name to; -1 with an exception. */
static Py_ssize_t
number(const char *module_name, const char *name)
{
    PyObject *from = PyImport_ImportModule(module_name);
    PyObject *value = from == NULL ? NULL : PyObject_GetAttrString(from, name);
    Py_ssize_t found = value == NULL ? -1 : PyLong_AsSsize_t(value);
    Py_XDECREF(from);
    Py_XDECREF(value);
    return found;
}

static int
module_exec(PyObject *self)
{
    State *state = PyModule_GetState(self);
    PyObject *frames = PyImport_ImportModule("relay_app.wire.frames");
    if (frames == NULL)
        return -1;
    state->frame = namedtuple(frames, "Frame");
    state->run = namedtuple(frames, "Run");
    state->fault = PyObject_GetAttrString(frames, "fault");
    state->nothing = PyObject_GetAttrString(frames, "NOTHING");
    Py_DECREF(frames);
    state->no_key = PyBytes_FromStringAndSize(NULL, 0);
    for (int opcode = 0; opcode < 16; opcode++)
        state->opcodes[opcode] = PyLong_FromLong(opcode);
    state->tell = PyUnicode_InternFromString("tell");
    state->frames = (PyTypeObject *)PyType_FromModuleAndSpec(self, &frames_spec, NULL);
    state->scanner = (PyTypeObject *)PyType_FromModuleAndSpec(self, &scanner_spec, NULL);
    state->express = (PyTypeObject *)PyType_FromModuleAndSpec(self, &express_spec, NULL);
    state->gate = (PyTypeObject *)PyType_FromModuleAndSpec(self, &gate_spec, NULL);
    state->read_bytes = number("relay_app.wire.rooms", "READ_BYTES");
    state->small_bytes = number("relay_app.wire.rooms", "SMALL_BYTES");
    if (PyErr_Occurred() || state->frame == NULL || state->run == NULL || state->fault == NULL
        || state->nothing == NULL || state->no_key == NULL || state->gate == NULL
        || state->tell == NULL || state->frames == NULL || state->scanner == NULL
        || state->express == NULL)
        return -1;
    if (PyModule_AddType(self, state->scanner) < 0 || PyModule_AddType(self, state->gate) < 0)
        return -1;
    return PyModule_AddType(self, state->express);
}

static int
module_traverse(PyObject *self, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(self);
    Py_VISIT(state->scanner);
    Py_VISIT(state->express);
    Py_VISIT(state->gate);
    Py_VISIT(state->frames);
    Py_VISIT(state->frame);
    Py_VISIT(state->run);
    Py_VISIT(state->fault);
    Py_VISIT(state->nothing);
    return 0;
}

static int
module_clear(PyObject *self)
{
    State *state = PyModule_GetState(self);
    Py_CLEAR(state->scanner);
    Py_CLEAR(state->express);
    Py_CLEAR(state->gate);
    Py_CLEAR(state->frames);
    Py_CLEAR(state->frame);
    Py_CLEAR(state->run);
    Py_CLEAR(state->fault);
    Py_CLEAR(state->nothing);
    Py_CLEAR(state->no_key);
    for (int opcode = 0; opcode < 16; opcode++)
        Py_CLEAR(state->opcodes[opcode]);
    Py_CLEAR(state->tell);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_multiple_interpreters
    /* One buffer for all: there must be one GIL. */
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "relay_app.wire._compiled",
    .m_doc = "Scanner, Express and Gate, compiled.",
    .m_size = sizeof(State),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC
PyInit__compiled(void)
{
    return PyModuleDef_Init(&module);
}
