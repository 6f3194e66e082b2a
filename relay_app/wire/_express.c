/* The compiled twin of relay_app.wire.express.Express: the same steps, without Python between.
 *
 * In a voice session most messages come alone, tens of milliseconds after one another, and find
 * the processor's caches full of something else. What counts then is how much code and data a
 * message touches, and that is why this is worth its lines.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stdint.h>

#include "spans.h"

typedef struct {
    PyObject_HEAD
    PyObject *skim;
    Py_ssize_t messages;
    PyObject *run;
    Py_ssize_t skimmed;
    Py_ssize_t sent;
    PyObject *scanner;
    PyObject *room;
    PyObject *took;
    PyObject *read_some;
    PyObject *pending;
    PyObject *out;
    PyObject *write_some;
} Express;

/* Items of a wire.frames.Run. */
enum { DATA, FRAMES, FAULT, HAS_CONTROL };

static PyObject *read_bytes, *small_bytes, *zero;
static PyObject *name_clear, *name_awaiting, *name_bytes_out;

/* What `function` gives for `argument`, as a number; -1 with an exception. */
static Py_ssize_t
count_of(PyObject *function, PyObject *argument)
{
    PyObject *given = PyObject_CallOneArg(function, argument);
    if (given == NULL)
        return -1;
    Py_ssize_t count = given == Py_None ? 0 : PyLong_AsSsize_t(given);
    Py_DECREF(given);
    return count;
}

/* The bytes that lie before the end of the last frame, -1 with an exception. */
static Py_ssize_t
end_of(PyObject *frames)
{
    Py_buffer view;
    if (PyObject_GetBuffer(frames, &view, PyBUF_SIMPLE) < 0)
        return -1;
    const Span *spans = view.buf;
    Py_ssize_t count = view.len / (Py_ssize_t)sizeof(Span);
    Py_ssize_t end = count ? (Py_ssize_t)spans[count - 1].end : 0;
    PyBuffer_Release(&view);
    return end;
}

/* The attribute of the Outgoing, a sum, grown by `more`. */
static int
add_to(PyObject *object, PyObject *name, Py_ssize_t more)
{
    PyObject *before = PyObject_GetAttr(object, name);
    PyObject *added = before == NULL ? NULL : PyLong_FromSsize_t(more);
    PyObject *after = added == NULL ? NULL : PyNumber_Add(before, added);
    int failed = after == NULL ? -1 : PyObject_SetAttr(object, name, after);
    Py_XDECREF(before);
    Py_XDECREF(added);
    Py_XDECREF(after);
    return failed;
}

/* Whether the frames of `run` need nothing but to be skimmed and sent; -1 with an exception. */
static int
is_simple(Express *self, PyObject *run)
{
    if (PyTuple_GET_ITEM(run, FAULT) != Py_None || PyTuple_GET_ITEM(run, HAS_CONTROL) != Py_False)
        return 0;
    PyObject *awaiting = PyObject_GetAttr(self->scanner, name_awaiting);
    if (awaiting == NULL)
        return -1;
    int simple = PyObject_RichCompareBool(awaiting, small_bytes, Py_LE);
    Py_DECREF(awaiting);
    return simple;
}

/* Sends the frames of `self->run`: 1 if all of their bytes went out, -1 with an exception. */
static int
send_run(Express *self, PyObject *data, PyObject *frames)
{
    Py_ssize_t end = end_of(frames);
    PyObject *view = end < 0 ? NULL : PyMemoryView_FromObject(data);
    PyObject *part = view == NULL ? NULL : PySequence_GetSlice(view, 0, end);
    Py_XDECREF(view);
    if (part == NULL)
        return -1;
    Py_ssize_t sent = count_of(self->write_some, part);
    Py_DECREF(part);
    if (sent < 0)
        return -1;
    self->sent = sent;
    if (add_to(self->out, name_bytes_out, sent) < 0)
        return -1;
    return sent == end;
}

/* Whether what there was to read has gone through; -1 with an exception. */
static int
pass(Express *self)
{
    PyObject *room = PyObject_CallOneArg(self->room, read_bytes);
    if (room == NULL)
        return -1;
    Py_ssize_t count = count_of(self->read_some, room);
    Py_DECREF(room);
    if (count <= 0)
        return (int)count;
    PyObject *number = PyLong_FromSsize_t(count);
    PyObject *run = number == NULL ? NULL : PyObject_CallOneArg(self->took, number);
    Py_XDECREF(number);
    if (run == NULL)
        return -1;
    if (!PyTuple_Check(run) || PyTuple_GET_SIZE(run) != 4) {
        Py_DECREF(run);
        PyErr_SetString(PyExc_TypeError, "a scanner gives runs");
        return -1;
    }
    PyObject *data = PyTuple_GET_ITEM(run, DATA), *frames = PyTuple_GET_ITEM(run, FRAMES);
    Py_ssize_t frame_count = PySequence_Size(frames);
    int simple = is_simple(self, run);
    if (simple > 0 && frame_count == 0) {
        Py_DECREF(run);
        return 1;
    }
    Py_XSETREF(self->run, run);
    if (simple <= 0)
        return simple;
    PyObject *arguments[] = {data, frames, zero};
    PyObject *skimmed = PyObject_Vectorcall(self->skim, arguments, 3, NULL);
    if (skimmed == NULL)
        return -1;
    self->skimmed = PyLong_AsSsize_t(skimmed);
    Py_DECREF(skimmed);
    if (self->skimmed < frame_count)
        return self->skimmed < 0 ? -1 : 0;
    int whole = send_run(self, data, frames);
    if (whole <= 0)
        return whole;
    self->messages += self->skimmed;
    Py_CLEAR(self->run);
    self->skimmed = self->sent = 0;
    return 1;
}

static int
is_clear(Express *self)
{
    PyObject *clear = PyObject_GetAttr(self->out, name_clear);
    if (clear == NULL)
        return -1;
    Py_DECREF(clear);
    return clear == Py_True;
}

static int
has_more(Express *self)
{
    if (self->pending == NULL || self->pending == Py_None)
        return 0;
    PyObject *count = PyObject_CallNoArgs(self->pending);
    if (count == NULL)
        return -1;
    int more = PyObject_IsTrue(count);
    Py_DECREF(count);
    return more;
}

static PyObject *
express_call(Express *self, PyObject *args, PyObject *keywords)
{
    PyObject *wake, *waiter;
    if (!PyArg_UnpackTuple(args, "Express", 2, 2, &wake, &waiter))
        return NULL;
    int passed = 0;
    if (self->skim != NULL && self->skim != Py_None && is_clear(self) > 0)
        passed = pass(self) > 0 && has_more(self) == 0;
    /* Who is woken meets again whatever went wrong, and says so. */
    PyErr_Clear();
    if (passed)
        Py_RETURN_NONE;
    return PyObject_CallOneArg(wake, waiter);
}

static PyObject *
express_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"source", "sink", NULL};
    PyObject *source, *sink;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO:Express", names, &source, &sink))
        return NULL;
    Express *self = (Express *)type->tp_alloc(type, 0);
    PyObject *from = PyObject_GetAttrString(source, "connection");
    PyObject *to = PyObject_GetAttrString(sink, "connection");
    if (self == NULL || from == NULL || to == NULL
        || (self->scanner = PyObject_GetAttrString(source, "scanner")) == NULL
        || (self->room = PyObject_GetAttrString(self->scanner, "room")) == NULL
        || (self->took = PyObject_GetAttrString(self->scanner, "took")) == NULL
        || (self->read_some = PyObject_GetAttrString(from, "read_some")) == NULL
        || (self->pending = PyObject_GetAttrString(from, "pending")) == NULL
        || (self->out = PyObject_GetAttrString(sink, "out")) == NULL
        || (self->write_some = PyObject_GetAttrString(to, "write_some")) == NULL)
        Py_CLEAR(self);
    Py_XDECREF(from);
    Py_XDECREF(to);
    return (PyObject *)self;
}

static int
express_traverse(Express *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->skim);
    Py_VISIT(self->run);
    Py_VISIT(self->scanner);
    Py_VISIT(self->room);
    Py_VISIT(self->took);
    Py_VISIT(self->read_some);
    Py_VISIT(self->pending);
    Py_VISIT(self->out);
    Py_VISIT(self->write_some);
    return 0;
}

static int
express_clear(Express *self)
{
    Py_CLEAR(self->skim);
    Py_CLEAR(self->run);
    Py_CLEAR(self->scanner);
    Py_CLEAR(self->room);
    Py_CLEAR(self->took);
    Py_CLEAR(self->read_some);
    Py_CLEAR(self->pending);
    Py_CLEAR(self->out);
    Py_CLEAR(self->write_some);
    return 0;
}

static void
express_dealloc(Express *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    express_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef express_members[] = {
    {"skim", T_OBJECT, offsetof(Express, skim), 0, "Looks at messages; without it all is left."},
    {"run", T_OBJECT, offsetof(Express, run), 0, "What was left behind, or None."},
    {"messages", T_PYSSIZET, offsetof(Express, messages), READONLY, "How many were forwarded."},
    {"skimmed", T_PYSSIZET, offsetof(Express, skimmed), 0, "Frames of run that were looked at."},
    {"sent", T_PYSSIZET, offsetof(Express, sent), 0, "Bytes of run that went out."},
    {NULL},
};

static PyType_Slot express_slots[] = {
    {Py_tp_doc, "One direction between two Links: relay_app.wire.express.Express, in C."},
    {Py_tp_new, express_new},
    {Py_tp_call, express_call},
    {Py_tp_dealloc, express_dealloc},
    {Py_tp_traverse, express_traverse},
    {Py_tp_clear, express_clear},
    {Py_tp_members, express_members},
    {0, NULL},
};

static PyType_Spec express_spec = {
    .name = "relay_app.wire._express.Express",
    .basicsize = sizeof(Express),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = express_slots,
};

/* The number that a module of ours gives a name to. */
static PyObject *
constant(const char *module_name, const char *name)
{
    PyObject *from = PyImport_ImportModule(module_name);
    PyObject *value = from == NULL ? NULL : PyObject_GetAttrString(from, name);
    Py_XDECREF(from);
    return value;
}

static int
module_exec(PyObject *self)
{
    if (name_clear == NULL
        && ((name_clear = PyUnicode_InternFromString("clear")) == NULL
            || (name_awaiting = PyUnicode_InternFromString("awaiting")) == NULL
            || (name_bytes_out = PyUnicode_InternFromString("bytes_out")) == NULL
            || (zero = PyLong_FromLong(0)) == NULL
            || (read_bytes = constant("relay_app.wire.connection", "READ_BYTES")) == NULL
            || (small_bytes = constant("relay_app.wire.rooms", "SMALL_BYTES")) == NULL))
        return -1;
    PyObject *type = PyType_FromModuleAndSpec(self, &express_spec, NULL);
    if (type == NULL)
        return -1;
    int added = PyModule_AddType(self, (PyTypeObject *)type);
    Py_DECREF(type);
    return added;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "relay_app.wire._express",
    .m_doc = "The Express of relay_app.wire.express, compiled.",
    .m_size = 0,
    .m_slots = module_slots,
};

PyMODINIT_FUNC
PyInit__express(void)
{
    return PyModuleDef_Init(&module);
}
