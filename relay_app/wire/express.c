/* The compiled twin of relay_app.wire.express.Express: the same steps, without Python between.
 *
 * In a voice session most messages come alone, tens of milliseconds after one another, and find
 * the processor's caches full of something else. What counts then is how much code and data a
 * message touches. So between two plain sockets, with a skim that offers its C function, the bytes
 * go through one buffer that all share and no Python object is made for them; TLS and anything
 * else goes through the objects that Python would use.
 */

#include "compiled.h"

#include <errno.h>
#include <string.h>
#include <structmember.h>
#include <sys/socket.h>

typedef struct {
    PyObject_HEAD
    PyObject *skim;
    PyObject *skim_self; /* what the skim is bound to, if it offers over_spans */
    OverSpans over_spans;
    Py_ssize_t messages;
    Py_ssize_t reads;
    Py_ssize_t writes;
    PyObject *run;
    Py_ssize_t skimmed;
    Py_ssize_t sent;
    State *state; /* of the module, which the type keeps alive */
    PyObject *scanner;
    PyObject *room;
    PyObject *took;
    PyObject *read_some;
    PyObject *read_from; /* fileno() of the source's socket if it is a plain one, or None */
    PyObject *pending;
    Gate *out;
    PyObject *write_some;
    PyObject *write_to; /* the same of the sink */
} Express;

/* Items of a wire.frames.Run. */
enum { DATA, FRAMES, FAULT, HAS_CONTROL };
enum { WHOLE_TEXT = FIN | TEXT };

/* What runs here holds the GIL from the first byte to the last and calls no Python in between, so
 * one of each is enough. */
static unsigned char buffer[192 * 1024];
static Span spans[1024];

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

/* The bytes that lie before the end of the first `count` frames, -1 with an exception. */
static Py_ssize_t
end_of(PyObject *frames, Py_ssize_t count)
{
    Py_buffer view;
    if (PyObject_GetBuffer(frames, &view, PyBUF_SIMPLE) < 0)
        return -1;
    const Span *spans = view.buf;
    Py_ssize_t end = count ? (Py_ssize_t)spans[count - 1].end : 0;
    PyBuffer_Release(&view);
    return end;
}

/* Whether the frames of `run` need nothing but to be skimmed and sent. */
static int
is_simple(Express *self, PyObject *run)
{
    return PyTuple_GET_ITEM(run, FAULT) == Py_None
        && PyTuple_GET_ITEM(run, HAS_CONTROL) == Py_False
        && ((Scanner *)self->scanner)->awaiting <= self->state->small_bytes;
}

/* How many of the frames the skim has looked at; -1 with an exception. */
static Py_ssize_t
call_skim(Express *self, PyObject *data, PyObject *frames)
{
    PyObject *zero = PyLong_FromLong(0);
    if (zero == NULL)
        return -1;
    PyObject *arguments[] = {data, frames, zero};
    PyObject *skim = Py_NewRef(self->skim); /* which may put another in its place */
    PyObject *skimmed = PyObject_Vectorcall(skim, arguments, 3, NULL);
    Py_DECREF(skim);
    Py_DECREF(zero);
    Py_ssize_t count = skimmed == NULL ? -1 : PyLong_AsSsize_t(skimmed);
    Py_XDECREF(skimmed);
    return count;
}

/* Sends the first `count` frames of `self->run`: 1 if all of their bytes went out, -1 with an
 * exception. */
static int
send_run(Express *self, PyObject *data, PyObject *frames, Py_ssize_t count)
{
    Py_ssize_t end = end_of(frames, count);
    PyObject *view = end < 0 ? NULL : PyMemoryView_FromObject(data);
    PyObject *part = view == NULL ? NULL : PySequence_GetSlice(view, 0, end);
    Py_XDECREF(view);
    if (part == NULL)
        return -1;
    self->writes++;
    Py_ssize_t sent = count_of(self->write_some, part);
    Py_DECREF(part);
    if (sent < 0)
        return -1;
    self->sent = sent;
    self->out->bytes_out += sent;
    return sent == end;
}

/* Whether what there was to read has gone through; -1 with an exception. */
static int
pass_objects(Express *self)
{
    PyObject *size = PyLong_FromSsize_t(self->state->read_bytes);
    PyObject *room = size == NULL ? NULL : PyObject_CallOneArg(self->room, size);
    Py_XDECREF(size);
    if (room == NULL)
        return -1;
    self->reads++;
    Py_ssize_t count = count_of(self->read_some, room);
    Py_DECREF(room);
    if (count <= 0)
        return (int)count;
    PyObject *number = PyLong_FromSsize_t(count);
    PyObject *run = number == NULL ? NULL : PyObject_CallOneArg(self->took, number);
    Py_XDECREF(number);
    if (run == NULL)
        return -1;
    PyObject *data = PyTuple_GET_ITEM(run, DATA), *frames = PyTuple_GET_ITEM(run, FRAMES);
    Py_ssize_t frame_count = PySequence_Size(frames);
    int simple = is_simple(self, run);
    if (simple && frame_count == 0) {
        Py_DECREF(run);
        return 1;
    }
    Py_XSETREF(self->run, Py_NewRef(run));
    int whole = 0;
    if (simple) {
        Py_ssize_t skimmed = call_skim(self, data, frames);
        self->skimmed = Py_MAX(0, skimmed);
        whole = skimmed < 0 ? -1 : skimmed ? send_run(self, data, frames, skimmed) : 0;
        if (whole > 0 && skimmed < frame_count)
            whole = 0;
    }
    Py_DECREF(run);
    if (whole <= 0)
        return whole;
    self->messages += self->skimmed;
    Py_CLEAR(self->run);
    self->skimmed = self->sent = 0;
    return 1;
}

/* Leaves to the pump the `count` bytes just read, with how far they have got. */
static int
leave(Express *self, int to, const unsigned char *read, Py_ssize_t count, Py_ssize_t skimmed,
      Py_ssize_t sent)
{
    PyObject *run = feed((Scanner *)self->scanner, self->state, read, count);
    if (run == NULL) {
        /* No memory for what was read: what follows it must not go out as if nothing were
         * missing, nor anything behind half a frame. */
        ((Scanner *)self->scanner)->lost = 1;
        if (sent)
            shutdown(to, SHUT_WR);
        return -1;
    }
    Py_XSETREF(self->run, run);
    self->skimmed = skimmed;
    self->sent = sent;
    return 0;
}

/* The same as pass_objects, between two plain sockets. */
static int
pass_plain(Express *self, int from, int to, int *untold)
{
    Scanner *scanner = (Scanner *)self->scanner;
    Py_ssize_t used = scanner->used, position = 0, count = 0;
    if (used)
        memcpy(buffer, scanner->tail, (size_t)used);
    unsigned char *read = buffer + used;
    self->reads++;
    Py_ssize_t size = recv(from, read, (size_t)self->state->read_bytes, MSG_DONTWAIT);
    if (size <= 0)
        return size < 0 && (errno == EAGAIN || errno == EINTR);
    Py_ssize_t all = used + size;
    Span *span = spans;
    int found = PARTIAL;
    while (position < all) {
        found = scan_frame(scanner, buffer + position, all - position, span);
        if (found != WHOLE || span->first != WHOLE_TEXT
            || span == spans + Py_ARRAY_LENGTH(spans) - 1)
            break;
        span->start += (uint64_t)position;
        span->payload += (uint64_t)position;
        span->end += (uint64_t)position;
        position = (Py_ssize_t)span->end;
        span++;
    }
    Py_ssize_t left = all - position;
    Py_ssize_t awaiting = left ? (Py_ssize_t)span->end : 0;
    if ((left && found != PARTIAL) || awaiting > self->state->small_bytes)
        return leave(self, to, read, size, 0, 0);
    count = span - spans;
    Py_ssize_t skimmed = self->over_spans(self->skim_self, buffer, spans, count, untold);
    char *tail = left && skimmed == count ? PyMem_Malloc((size_t)left) : NULL;
    Py_ssize_t sent = 0, clear = skimmed ? (Py_ssize_t)spans[skimmed - 1].end : 0;
    if (clear && (skimmed < count || tail != NULL || !left)) {
        self->writes++;
        sent = send(to, buffer, (size_t)clear, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0)
            sent = 0; /* not now, or never: the pump meets it again */
    }
    if (sent < position || (left && tail == NULL)) {
        PyMem_Free(tail);
        self->out->bytes_out += sent;
        return leave(self, to, read, size, skimmed, sent);
    }
    if (left)
        memcpy(tail, buffer + position, (size_t)left);
    PyMem_Free(scanner->tail);
    scanner->tail = tail;
    scanner->used = left;
    scanner->awaiting = awaiting;
    scanner->bytes += size;
    self->messages += count;
    self->out->bytes_out += sent;
    return 1;
}

/* Has the skim say that it has noted something; what goes wrong is nothing to those who talk. */
static void
tell(Express *self)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *skim = Py_NewRef(self->skim_self); /* which may be replaced */
    PyObject *told = PyObject_CallMethodNoArgs(skim, self->state->tell);
    if (told == NULL)
        PyErr_WriteUnraisable(skim);
    Py_XDECREF(told);
    Py_DECREF(skim);
    PyErr_Restore(type, value, traceback);
}

/* The number of a socket by its fileno(), -1 if it has none. It is asked each time: that of one that
 * was closed may be another's by now. */
static int
descriptor_of(PyObject *fileno)
{
    PyObject *number = PyObject_CallNoArgs(fileno);
    int descriptor = number == NULL ? -1 : (int)PyLong_AsLong(number);
    Py_XDECREF(number);
    return descriptor;
}

/* Whether what there was to read has gone through; -1 if nothing can, or with an exception. */
static int
pass(Express *self)
{
    Scanner *scanner = (Scanner *)self->scanner;
    if (self->over_spans == NULL || self->read_from == Py_None || self->write_to == Py_None
        || scanner->buffer != NULL || scanner->in_message || scanner->lost
        || scanner->used + self->state->read_bytes > (Py_ssize_t)sizeof buffer)
        return pass_objects(self);
    int from = descriptor_of(self->read_from);
    int to = descriptor_of(self->write_to);
    if (from < 0 || to < 0)
        return -1;
    int untold = 0;
    int passed = pass_plain(self, from, to, &untold);
    if (untold)
        tell(self);
    return passed;
}

static int
has_more(Express *self)
{
    if (self->pending == Py_None)
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
    PyObject *wake;
    if (!PyArg_UnpackTuple(args, "Express", 1, 1, &wake))
        return NULL;
    int passed = 0;
    /* Nothing overtakes what was left and not fetched yet. */
    int behind = self->run != NULL && self->run != Py_None;
    if (self->skim != NULL && !behind && self->out->clear)
        passed = pass(self) > 0 && has_more(self) == 0;
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return NULL; /* an interrupt is for the hub */
        /* Who is woken meets again whatever went wrong, and says so. */
        PyErr_Clear();
        passed = 0;
    }
    if (passed)
        Py_RETURN_NONE;
    return PyObject_CallNoArgs(wake);
}

/* The fileno of a connection's socket, None unless that is a plain one. */
static PyObject *
fileno_of(PyObject *connection)
{
    PyObject *socket = PyObject_GetAttrString(connection, "plain");
    if (socket == NULL || socket == Py_None)
        return socket;
    PyObject *fileno = PyObject_GetAttrString(socket, "fileno");
    Py_DECREF(socket);
    return fileno;
}

static PyObject *
express_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"source", "sink", NULL};
    PyObject *source, *sink;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO:Express", names, &source, &sink))
        return NULL;
    Express *self = (Express *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->state = PyType_GetModuleState(type);
    PyObject *from = PyObject_GetAttrString(source, "connection");
    PyObject *to = PyObject_GetAttrString(sink, "connection");
    if (from == NULL || to == NULL
        || (self->scanner = PyObject_GetAttrString(source, "scanner")) == NULL
        || (self->room = PyObject_GetAttrString(self->scanner, "room")) == NULL
        || (self->took = PyObject_GetAttrString(self->scanner, "took")) == NULL
        || (self->read_some = PyObject_GetAttrString(from, "read_some")) == NULL
        || (self->pending = PyObject_GetAttrString(from, "pending")) == NULL
        || (self->read_from = fileno_of(from)) == NULL || (self->write_to = fileno_of(to)) == NULL
        || (self->out = (Gate *)PyObject_GetAttrString(sink, "out")) == NULL
        || (self->write_some = PyObject_GetAttrString(to, "write_some")) == NULL)
        Py_CLEAR(self);
    else if (!PyObject_TypeCheck(self->scanner, self->state->scanner)
             || !PyObject_TypeCheck((PyObject *)self->out, self->state->gate)) {
        PyErr_SetString(PyExc_TypeError, "an Express takes compiled scanners and gates");
        Py_CLEAR(self);
    }
    Py_XDECREF(from);
    Py_XDECREF(to);
    return (PyObject *)self;
}

static int
express_traverse(Express *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->skim);
    Py_VISIT(self->skim_self);
    Py_VISIT(self->read_from);
    Py_VISIT(self->write_to);
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
    Py_CLEAR(self->skim_self);
    Py_CLEAR(self->read_from);
    Py_CLEAR(self->write_to);
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

static PyObject *
express_get_skim(Express *self, void *closure)
{
    return Py_NewRef(self->skim == NULL ? Py_None : self->skim);
}

/* Finds the C function of a skim that offers one. */
static int
express_set_skim(Express *self, PyObject *skim, void *closure)
{
    PyObject *bound = skim == NULL ? NULL : PyObject_GetAttrString(skim, "__self__");
    PyObject *capsule = bound == NULL ? NULL : PyObject_GetAttrString(bound, "over_spans");
    PyErr_Clear();
    self->over_spans = NULL;
    if (capsule != NULL && PyCapsule_IsValid(capsule, OVER_SPANS)
        && PyCapsule_GetContext(capsule) == bound)
        self->over_spans = (OverSpans)PyCapsule_GetPointer(capsule, OVER_SPANS);
    Py_XDECREF(capsule);
    Py_XSETREF(self->skim_self, bound);
    Py_XSETREF(self->skim, skim == NULL || skim == Py_None ? NULL : Py_NewRef(skim));
    return 0;
}

static PyGetSetDef express_getset[] = {
    {"skim", (getter)express_get_skim, (setter)express_set_skim,
     "Looks at messages; without it all is left."},
    {NULL},
};

static PyMemberDef express_members[] = {
    {"run", T_OBJECT, offsetof(Express, run), 0, "What was left behind, or None."},
    {"messages", T_PYSSIZET, offsetof(Express, messages), READONLY, "How many were forwarded."},
    {"reads", T_PYSSIZET, offsetof(Express, reads), READONLY, "How often it has read."},
    {"writes", T_PYSSIZET, offsetof(Express, writes), READONLY, "How often it has written."},
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
    {Py_tp_getset, express_getset},
    {0, NULL},
};

PyType_Spec express_spec = {
    .name = "relay_app.wire._compiled.Express",
    .basicsize = sizeof(Express),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = express_slots,
};
