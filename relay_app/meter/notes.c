/* What skims have noted for the meter: relay_app.meter.skim.Notes says what it is for.
 *
 * The rule: a message stands behind all that was added up before it came and before all that came
 * after, so that whoever goes through the notes comes to what he would have come to at the time.
 */

#include "notes.h"

#include <string.h>
#include <structmember.h>

int
notes_have_room(const Notes *self, Py_ssize_t length)
{
    return self->on_message != NULL && self->on_message != Py_None
        && self->count < MAX_MESSAGES && length <= MAX_MESSAGE_BYTES;
}

int
notes_add(Notes *self, int sent, PyObject *payload, int soon)
{
    PyObject *at = PyObject_CallNoArgs(self->clock);
    if (at == NULL) {
        Py_DECREF(payload);
        return -1;
    }
    if (self->messages == NULL) {
        self->messages = PyMem_Malloc(MAX_MESSAGES * sizeof(Told));
        if (self->messages == NULL) {
            Py_DECREF(at);
            Py_DECREF(payload);
            PyErr_NoMemory();
            return -1;
        }
    }
    Told *told = &self->messages[self->count];
    told->before = self->sums;
    told->sent = sent;
    told->at = at;
    told->payload = payload;
    memset(&self->sums, 0, sizeof self->sums);
    self->count++;
    self->untold |= soon;
    return 0;
}

void
notes_tell(Notes *self)
{
    if (!self->untold)
        return;
    self->untold = 0;
    if (self->on_message == NULL || self->on_message == Py_None)
        return;
    PyObject *on_message = Py_NewRef(self->on_message);
    PyObject *answer = PyObject_CallNoArgs(on_message);
    if (answer == NULL)
        PyErr_WriteUnraisable(on_message);
    Py_XDECREF(answer);
    Py_DECREF(on_message);
}

static PyObject *
line_of(const Sums *sums, PyObject *message)
{
    return message == NULL
        ? NULL
        : Py_BuildValue("nnnnIN", sums->appended, sums->spoken, sums->pieces, sums->piece_bytes,
                        sums->texts, message);
}

/* Appends `line`, which may be NULL with an exception. */
static int
append(PyObject *lines, PyObject *line)
{
    int failed = line == NULL ? -1 : PyList_Append(lines, line);
    Py_XDECREF(line);
    return failed;
}

static void
forget(Notes *self)
{
    for (int at = 0; at < self->count; at++) {
        Py_DECREF(self->messages[at].at);
        Py_DECREF(self->messages[at].payload);
    }
    PyMem_Free(self->messages);
    self->messages = NULL;
    self->count = 0;
    self->untold = 0;
}

PyDoc_STRVAR(take_doc, "take()\n--\n\n"
    "What was noted since it was last taken, as relay_app.meter.skim.Line.");

static PyObject *
notes_take(Notes *self, PyObject *ignored)
{
    PyObject *lines = PyList_New(0);
    if (lines == NULL)
        return NULL;
    for (int at = 0; at < self->count; at++) {
        const Told *told = &self->messages[at];
        PyObject *message =
            Py_BuildValue("OOO", told->sent ? Py_True : Py_False, told->at, told->payload);
        if (append(lines, line_of(&told->before, message)) < 0)
            goto failed;
    }
    if (self->sums.any && append(lines, line_of(&self->sums, Py_NewRef(Py_None))) < 0)
        goto failed;
    forget(self);
    memset(&self->sums, 0, sizeof self->sums);
    return lines;
failed:
    Py_DECREF(lines); /* not taken, so kept */
    return NULL;
}

static PyObject *
notes_get_pending(Notes *self, void *closure)
{
    return PyBool_FromLong(self->sums.any || self->count);
}

static PyObject *
notes_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *words[] = {"clock", NULL};
    PyObject *clock;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O:Notes", words, &clock))
        return NULL;
    Notes *self = (Notes *)type->tp_alloc(type, 0);
    if (self != NULL)
        self->clock = Py_NewRef(clock);
    return (PyObject *)self;
}

static int
notes_traverse(Notes *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->clock);
    Py_VISIT(self->on_message);
    return 0;
}

static int
notes_clear(Notes *self)
{
    Py_CLEAR(self->clock);
    Py_CLEAR(self->on_message);
    return 0;
}

static void
notes_dealloc(Notes *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    forget(self);
    notes_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef notes_methods[] = {
    {"take", (PyCFunction)notes_take, METH_NOARGS, take_doc},
    {NULL},
};

static PyMemberDef notes_members[] = {
    {"on_message", T_OBJECT, offsetof(Notes, on_message), 0,
     "Called when there is a message after there was none; without it none is noted."},
    {NULL},
};

static PyGetSetDef notes_getset[] = {
    {"pending", (getter)notes_get_pending, NULL, "Whether there is something to take."},
    {NULL},
};

static PyType_Slot notes_slots[] = {
    {Py_tp_doc, "What skims have noted: relay_app.meter.skim.Notes, in C."},
    {Py_tp_new, notes_new},
    {Py_tp_dealloc, notes_dealloc},
    {Py_tp_traverse, notes_traverse},
    {Py_tp_clear, notes_clear},
    {Py_tp_methods, notes_methods},
    {Py_tp_members, notes_members},
    {Py_tp_getset, notes_getset},
    {0, NULL},
};

PyType_Spec notes_spec = {
    .name = "relay_app.meter._skim.Notes",
    .basicsize = sizeof(Notes),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = notes_slots,
};
