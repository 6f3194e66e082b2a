/* The compiled twin of relay_app.wire.gate.Gate: an Express looks at it for every message. */

#include "compiled.h"

#include <structmember.h>

static PyMemberDef gate_members[] = {
    {"clear", T_BOOL, offsetof(Gate, clear), 0, "Whether bytes may go out without a turn."},
    {"bytes_out", T_PYSSIZET, offsetof(Gate, bytes_out), 0, "How many have."},
    {NULL},
};

static void
gate_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot gate_slots[] = {
    {Py_tp_doc, "A way out: relay_app.wire.gate.PythonGate, in C."},
    {Py_tp_dealloc, gate_dealloc},
    {Py_tp_members, gate_members},
    {0, NULL},
};

PyType_Spec gate_spec = {
    .name = "relay_app.wire._compiled.Gate",
    .basicsize = sizeof(Gate),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = gate_slots,
};
