/* The compiled twin of relay_app.wire.frames.Scanner: the same answers, in C.
 *
 * What a frame may look like is said once, in Python: where the bytes break the protocol, this
 * Scanner lets that one say how. Frames are kept as an array and become Python objects only when
 * somebody asks for one; a reader in C finds the array itself through the buffer protocol.
 */

#include "compiled.h"

#include <string.h>

/* -- Frames: a sequence of Frame, made when asked for ---------------------------------------- */

typedef struct {
    PyObject_VAR_HEAD
    State *state; /* of the module, which the type keeps alive */
    Span spans[];
} Frames;

static Py_ssize_t
frames_length(Frames *self)
{
    return Py_SIZE(self);
}

static PyObject *
frames_item(Frames *self, Py_ssize_t index)
{
    if (index < 0 || index >= Py_SIZE(self)) {
        PyErr_SetString(PyExc_IndexError, "frame index out of range");
        return NULL;
    }
    const Span *span = &self->spans[index];
    State *state = self->state;
    PyObject *key = state->no_key;
    if (span->masked)
        key = PyBytes_FromStringAndSize((const char *)span->key, 4);
    else
        Py_INCREF(key);
    PyObject *frame = state->frame->tp_alloc(state->frame, 6);
    PyObject *opcode = state->opcodes[span->first & 0x0F];
    PyObject *start = PyLong_FromSsize_t((Py_ssize_t)span->start);
    PyObject *payload = PyLong_FromSsize_t((Py_ssize_t)span->payload);
    PyObject *end = PyLong_FromSsize_t((Py_ssize_t)span->end);
    if (key == NULL || frame == NULL || start == NULL || payload == NULL || end == NULL) {
        Py_XDECREF(key);
        Py_XDECREF(frame);
        Py_XDECREF(start);
        Py_XDECREF(payload);
        Py_XDECREF(end);
        return NULL;
    }
    PyObject *fin = span->first & FIN ? Py_True : Py_False;
    Py_INCREF(opcode);
    Py_INCREF(fin);
    PyTuple_SET_ITEM(frame, 0, opcode);
    PyTuple_SET_ITEM(frame, 1, fin);
    PyTuple_SET_ITEM(frame, 2, start);
    PyTuple_SET_ITEM(frame, 3, payload);
    PyTuple_SET_ITEM(frame, 4, end);
    PyTuple_SET_ITEM(frame, 5, key);
    return frame;
}

static PyObject *
frames_subscript(Frames *self, PyObject *index)
{
    if (PySlice_Check(index)) {
        Py_ssize_t start, stop, step;
        if (PySlice_Unpack(index, &start, &stop, &step) < 0)
            return NULL;
        Py_ssize_t count = PySlice_AdjustIndices(Py_SIZE(self), &start, &stop, step);
        PyObject *list = PyList_New(count);
        for (Py_ssize_t at = 0; list != NULL && at < count; at++) {
            PyObject *frame = frames_item(self, start + at * step);
            if (frame == NULL)
                Py_CLEAR(list);
            else
                PyList_SET_ITEM(list, at, frame);
        }
        return list;
    }
    Py_ssize_t at = PyNumber_AsSsize_t(index, PyExc_IndexError);
    if (at == -1 && PyErr_Occurred())
        return NULL;
    return frames_item(self, at < 0 ? at + Py_SIZE(self) : at);
}

static int
frames_getbuffer(Frames *self, Py_buffer *view, int flags)
{
    return PyBuffer_FillInfo(
        view, (PyObject *)self, self->spans, Py_SIZE(self) * (Py_ssize_t)sizeof(Span), 1, flags);
}

static void
frames_dealloc(Frames *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot frames_slots[] = {
    {Py_tp_doc, "Whole frames, as a sequence of Frame; their spans are its buffer."},
    {Py_tp_dealloc, frames_dealloc},
    {Py_sq_length, frames_length},
    {Py_sq_item, frames_item},
    {Py_mp_length, frames_length},
    {Py_mp_subscript, frames_subscript},
    {Py_bf_getbuffer, frames_getbuffer},
    {0, NULL},
};

PyType_Spec frames_spec = {
    .name = "relay_app.wire._compiled.Frames",
    .basicsize = sizeof(Frames),
    .itemsize = sizeof(Span),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = frames_slots,
};

/* -- Scanner --------------------------------------------------------------------------------- */

static PyObject *
scanner_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"masked", "max_message_bytes", NULL};
    int masked;
    Py_ssize_t max_message_bytes;
    if (!PyArg_ParseTupleAndKeywords(
            args, keywords, "$pn:Scanner", names, &masked, &max_message_bytes))
        return NULL;
    if (max_message_bytes < 0 || max_message_bytes > PY_SSIZE_T_MAX - LONGEST_HEADER) {
        PyErr_SetString(PyExc_ValueError, "max_message_bytes is no size of a message");
        return NULL;
    }
    Scanner *self = (Scanner *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->masked = (char)masked;
        self->max_message_bytes = max_message_bytes;
    }
    return (PyObject *)self;
}

static void
scanner_dealloc(Scanner *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(self->buffer);
    PyMem_Free(self->tail);
    type->tp_free(self);
    Py_DECREF(type);
}

/* A buffer of `size` bytes behind what there is of a frame. */
static int
make_room(Scanner *self, Py_ssize_t size)
{
    if (size > PY_SSIZE_T_MAX - self->used) {
        PyErr_NoMemory();
        return -1;
    }
    Py_ssize_t capacity = self->used + size;
    /* A large frame gets a buffer of its own size, which is filled in place. */
    if (self->awaiting > capacity)
        capacity = self->awaiting;
    self->buffer = PyByteArray_FromStringAndSize(NULL, capacity);
    if (self->buffer == NULL)
        return -1;
    if (self->used)
        memcpy(PyByteArray_AS_STRING(self->buffer), self->tail, (size_t)self->used);
    PyMem_Free(self->tail);
    self->tail = NULL;
    return 0;
}

PyDoc_STRVAR(room_doc, "room(size)\n--\n\nWhere the next bytes are to be put: a writable view.");

static PyObject *
scanner_room(Scanner *self, PyObject *arg)
{
    Py_ssize_t size = PyNumber_AsSsize_t(arg, PyExc_OverflowError);
    if (size == -1 && PyErr_Occurred())
        return NULL;
    if (size < 1) {
        PyErr_SetString(PyExc_ValueError, "room for at least one byte is to be made");
        return NULL;
    }
    if (self->lost)
        return PyErr_NoMemory();
    if (self->buffer == NULL && make_room(self, size) < 0)
        return NULL;
    PyObject *view = PyMemoryView_FromObject(self->buffer);
    if (view == NULL || self->used == 0)
        return view;
    PyObject *rest = PySequence_GetSlice(view, self->used, PyByteArray_GET_SIZE(self->buffer));
    Py_DECREF(view);
    return rest;
}

/* Whether a frame may begin with `first` here, as far as one byte tells. */
static int
is_legal(const Scanner *self, unsigned char first)
{
    unsigned char opcode = first & 0x7F; /* reserved bits and all */
    if (opcode & CONTROL)
        return opcode <= PONG && first & FIN;
    return self->in_message ? opcode == 0 : opcode == TEXT || opcode == BINARY;
}

int
scan_frame(const Scanner *self, const unsigned char *data, Py_ssize_t size, Span *span)
{
    Py_ssize_t header = 2;
    span->end = 0;
    if (size < header)
        return PARTIAL;
    unsigned char first = data[0];
    uint64_t length = data[1] & 0x7F;
    if (!is_legal(self, first) || !(data[1] & MASKED) != !self->masked)
        return WRONG;
    if (length >= 126) {
        int wide = length == 127 ? 8 : 2;
        if (first & CONTROL)
            return WRONG;
        if (size < header + wide)
            return PARTIAL;
        length = 0;
        for (int at = 0; at < wide; at++)
            length = length << 8 | data[header + at];
        header += wide;
        if (length < (wide == 8 ? 65536u : 126u))
            return WRONG;
    }
    if (!(first & CONTROL)
        && length > (uint64_t)(self->max_message_bytes - self->message_bytes))
        return WRONG;
    header += self->masked ? 4 : 0;
    span->end = (uint64_t)header + length; /* length is at most max_message_bytes */
    if (span->end > (uint64_t)size)
        return PARTIAL;
    span->start = 0;
    span->payload = (uint64_t)header;
    span->first = first;
    span->masked = (unsigned char)self->masked;
    if (self->masked)
        memcpy(span->key, data + header - 4, 4);
    return WHOLE;
}

/* What is wrong with the bytes at `data`, a FrameError by the rules in Python. */
static PyObject *
explain(const Scanner *self, State *state, const unsigned char *data, Py_ssize_t size)
{
    return PyObject_CallFunction(
        state->fault, "y#OnOn", (const char *)data, Py_MIN(size, LONGEST_HEADER),
        self->masked ? Py_True : Py_False, self->max_message_bytes,
        self->in_message ? Py_True : Py_False, self->message_bytes);
}

int
keep_tail(Scanner *self, const unsigned char *data, Py_ssize_t size)
{
    char *tail = NULL;
    if (size) {
        tail = PyMem_Malloc((size_t)size);
        if (tail == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        memcpy(tail, data, (size_t)size);
    }
    Py_CLEAR(self->buffer);
    self->tail = tail;
    self->used = size;
    return 0;
}

static PyObject *
make_run(State *state, PyObject *data, PyObject *frames, PyObject *fault, int has_control)
{
    PyObject *run = state->run->tp_alloc(state->run, 4);
    if (run == NULL) {
        Py_XDECREF(frames);
        Py_XDECREF(fault);
        return NULL;
    }
    PyObject *control = has_control ? Py_True : Py_False;
    Py_INCREF(data);
    Py_INCREF(control);
    PyTuple_SET_ITEM(run, 0, data);
    PyTuple_SET_ITEM(run, 1, frames);
    PyTuple_SET_ITEM(run, 2, fault);
    PyTuple_SET_ITEM(run, 3, control);
    return run;
}

/* The Run of the `self->used` bytes of the buffer. */
static PyObject *
scan(Scanner *self, State *state)
{
    Py_ssize_t size = self->used;
    Py_ssize_t capacity = PyByteArray_GET_SIZE(self->buffer);
    if (size < self->awaiting && capacity == self->awaiting) {
        Py_INCREF(state->nothing); /* a large frame, filled in place */
        return state->nothing;
    }
    /* Held: what explains a fault is Python, and lets other threads run. */
    PyObject *buffer = Py_NewRef(self->buffer);
    const unsigned char *data = (const unsigned char *)PyByteArray_AS_STRING(buffer);
    const Scanner before = *self;
    Span few[64];
    Span *spans = few;
    Py_ssize_t count = 0, room = Py_ARRAY_LENGTH(few), position = 0;
    int has_control = 0, found = PARTIAL;
    PyObject *frames = NULL, *fault = NULL, *run = NULL;
    Span span = {0};
    while (position < size
           && (found = scan_frame(self, data + position, size - position, &span)) == WHOLE) {
        uint64_t length = span.end - span.payload;
        span.start += (uint64_t)position;
        span.payload += (uint64_t)position;
        span.end += (uint64_t)position;
        if (count == room) {
            Span *more = PyMem_Malloc(sizeof(Span) * 2 * (size_t)room);
            if (more == NULL) {
                PyErr_NoMemory();
                goto done;
            }
            memcpy(more, spans, sizeof(Span) * (size_t)room);
            if (spans != few)
                PyMem_Free(spans);
            spans = more;
            room *= 2;
        }
        spans[count++] = span;
        position = (Py_ssize_t)span.end;
        if (span.first & CONTROL) {
            has_control = 1;
        } else {
            self->in_message = !(span.first & FIN);
            self->message_bytes = self->in_message ? self->message_bytes + (Py_ssize_t)length : 0;
        }
    }
    Py_ssize_t left = size - position;
    self->awaiting = 0;
    if (left && found == PARTIAL && span.end > (uint64_t)left)
        self->awaiting = (Py_ssize_t)span.end;
    if (found == WRONG)
        fault = explain(self, state, data + position, left);
    else
        fault = Py_NewRef(Py_None);
    frames = (PyObject *)PyObject_NewVar(Frames, state->frames, count);
    if (fault == NULL || frames == NULL) {
        Py_CLEAR(fault);
        Py_CLEAR(frames);
        goto done;
    }
    ((Frames *)frames)->state = state;
    memcpy(((Frames *)frames)->spans, spans, sizeof(Span) * (size_t)count);
    run = make_run(state, buffer, frames, fault, has_control);
    if (run != NULL && !(position == 0 && capacity == self->awaiting)
        && keep_tail(self, data + position, left) < 0)
        Py_CLEAR(run);
done:
    if (run == NULL) { /* the bytes are still there, to be looked at once more */
        self->awaiting = before.awaiting;
        self->in_message = before.in_message;
        self->message_bytes = before.message_bytes;
    }
    if (spans != few)
        PyMem_Free(spans);
    Py_DECREF(buffer);
    return run;
}

PyDoc_STRVAR(
    took_doc, "took(count)\n--\n\nThe frames that ``count`` bytes put into that room complete.");

static PyObject *
scanner_took(Scanner *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t given,
             PyObject *names)
{
    if (given != 1 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "took() takes one argument: a count of bytes");
        return NULL;
    }
    Py_ssize_t count = PyNumber_AsSsize_t(args[0], PyExc_OverflowError);
    if (count == -1 && PyErr_Occurred())
        return NULL;
    if (self->buffer == NULL || count < 0
        || count > PyByteArray_GET_SIZE(self->buffer) - self->used) {
        PyErr_SetString(PyExc_ValueError, "more bytes than there was room for");
        return NULL;
    }
    self->used += count;
    self->bytes += count;
    return scan(self, PyType_GetModuleState(type));
}

PyDoc_STRVAR(feed_doc, "feed(data)\n--\n\nThe frames that ``data`` completes.");

PyObject *
feed(Scanner *self, State *state, const void *data, Py_ssize_t size)
{
    if (self->buffer != NULL && PyByteArray_GET_SIZE(self->buffer) - self->used < size) {
        /* More than the frame that the buffer was made for. */
        PyObject *filled = self->buffer;
        self->buffer = NULL;
        int kept = keep_tail(
            self, (const unsigned char *)PyByteArray_AS_STRING(filled), self->used);
        if (kept < 0) {
            self->buffer = filled;
            return NULL;
        }
        Py_DECREF(filled);
    }
    if (size == 0)
        return Py_NewRef(state->nothing);
    if (self->buffer == NULL && make_room(self, size) < 0)
        return NULL;
    memcpy(PyByteArray_AS_STRING(self->buffer) + self->used, data, (size_t)size);
    self->used += size;
    self->bytes += size;
    return scan(self, state);
}

static PyObject *
scanner_feed(Scanner *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t given,
             PyObject *names)
{
    Py_buffer data;
    if (given != 1 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "feed() takes one argument: bytes");
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *run = feed(self, PyType_GetModuleState(type), data.buf, data.len);
    PyBuffer_Release(&data);
    return run;
}

static PyObject *
scanner_awaiting(Scanner *self, void *closure)
{
    return PyLong_FromSsize_t(self->awaiting);
}

static PyObject *
scanner_bytes(Scanner *self, void *closure)
{
    return PyLong_FromSsize_t(self->bytes);
}

static PyMethodDef scanner_methods[] = {
    {"room", (PyCFunction)scanner_room, METH_O, room_doc},
    {"took", (PyCFunction)(void (*)(void))scanner_took,
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS, took_doc},
    {"feed", (PyCFunction)(void (*)(void))scanner_feed,
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS, feed_doc},
    {NULL},
};

static PyGetSetDef scanner_getset[] = {
    {"bytes", (getter)scanner_bytes, NULL, "All bytes that were ever taken."},
    {"awaiting", (getter)scanner_awaiting, NULL, "Bytes of the frame being received, if known."},
    {NULL},
};

static PyType_Slot scanner_slots[] = {
    {Py_tp_doc, "Cuts a byte stream into whole frames: relay_app.wire.frames.Scanner, in C."},
    {Py_tp_new, scanner_new},
    {Py_tp_dealloc, scanner_dealloc},
    {Py_tp_methods, scanner_methods},
    {Py_tp_getset, scanner_getset},
    {0, NULL},
};

PyType_Spec scanner_spec = {
    .name = "relay_app.wire._compiled.Scanner",
    .basicsize = sizeof(Scanner),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = scanner_slots,
};
