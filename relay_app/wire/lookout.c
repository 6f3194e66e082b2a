/* relay_app.wire.lookout.Lookout: what a hub reads for its Expresses, and when.
 *
 * A round of the loop, with its timers, its callbacks and the GIL given away and taken back, costs
 * several times what an Express does in it. So while there is a lot to read and nothing else to
 * do, the next is waited for here, at the epoll set that the loop itself waits for. What is
 * ready there stays ready until it is read, so whatever is not for an Express is found by the
 * loop as if nobody had looked.
 */

#include "compiled.h"

#include <string.h>
#include <structmember.h>
#include <sys/epoll.h>
#include <time.h>

/* So many are served before others may have the GIL. */
enum { MOST = 16 };

/* What became of waiting. */
enum { NOTHING, SERVED, STIRRED };

/* Who waits for a descriptor; nobody if `express` is NULL. */
typedef struct {
    Express *express;
    PyObject *wake;
    PyObject *waiter;
} Place;

typedef struct {
    PyObject_HEAD
    State *state; /* of the module, which the type keeps alive */
    PyObject *loop;
    Place *places; /* by descriptor */
    int size;
    int backend; /* the loop's epoll set */
    int late;    /* whether the loop's clock has stood still while something was waited for */
    long stirred_in;    /* the last round in which more than forwarding came of a message */
    long long linger;   /* nanoseconds */
    long long served_at;
    Py_ssize_t lingered; /* how often something came that was waited for here */
} Lookout;

static long long
now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* A number that the loop tells, -1 if it does not. */
static long
number_of(Lookout *self, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(self->loop, name);
    long number = value == NULL ? -1 : PyLong_AsLong(value);
    Py_XDECREF(value);
    PyErr_Clear();
    return number;
}

/* -- who waits ------------------------------------------------------------------------------- */

/* Nobody waits there any more. Others may run meanwhile. */
static void
vacate(Lookout *self, int descriptor)
{
    Place left = self->places[descriptor];
    memset(&self->places[descriptor], 0, sizeof left);
    Py_XDECREF(left.express);
    Py_XDECREF(left.wake);
    Py_XDECREF(left.waiter);
}

static int
make_room(Lookout *self, int descriptor)
{
    if (descriptor < self->size)
        return 0;
    int size = Py_MAX(64, Py_MAX(2 * self->size, descriptor + 1));
    Place *places = PyMem_Realloc(self->places, (size_t)size * sizeof(Place));
    if (places == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(places + self->size, 0, (size_t)(size - self->size) * sizeof(Place));
    self->places = places;
    self->size = size;
    return 0;
}

PyDoc_STRVAR(watch_doc, "watch(descriptor, express, wake, waiter, /)\n--\n\n"
    "From now on ``express`` forwards what there is to read, and ``wake`` is called with\n"
    "``waiter`` if it cannot. False if this is no Express that is compiled.");

static PyObject *
lookout_watch(Lookout *self, PyObject *args)
{
    int descriptor;
    PyObject *express, *wake, *waiter;
    if (!PyArg_ParseTuple(args, "iOOO:watch", &descriptor, &express, &wake, &waiter))
        return NULL;
    if (descriptor < 0 || !PyObject_TypeCheck(express, self->state->express))
        Py_RETURN_FALSE;
    if (make_room(self, descriptor) < 0)
        return NULL;
    /* One that is there still has closed its socket without ceasing to wait. */
    vacate(self, descriptor);
    Place *place = &self->places[descriptor];
    place->express = (Express *)Py_NewRef(express);
    place->wake = Py_NewRef(wake);
    place->waiter = Py_NewRef(waiter);
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(unwatch_doc, "unwatch(descriptor, waiter, /)\n--\n\n"
    "``waiter`` does not wait any more, if it is the one that did.");

static PyObject *
lookout_unwatch(Lookout *self, PyObject *args)
{
    int descriptor;
    PyObject *waiter;
    if (!PyArg_ParseTuple(args, "iO:unwatch", &descriptor, &waiter))
        return NULL;
    if (descriptor >= 0 && descriptor < self->size && self->places[descriptor].waiter == waiter)
        vacate(self, descriptor);
    Py_RETURN_NONE;
}

/* -- serving them ---------------------------------------------------------------------------- */

static Place *
place_of(Lookout *self, uint64_t descriptor)
{
    if (descriptor >= (uint64_t)self->size || self->places[descriptor].express == NULL)
        return NULL;
    return &self->places[descriptor];
}

/* Hands an exception to the hub as its loop does, but for stopping the watcher that is at hand,
 * which need not be the one that it came of. */
static void
report(Lookout *self)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    PyObject *said = PyObject_CallMethod(self->loop, "handle_error", "OOOO", (PyObject *)self,
                                         type, value == NULL ? Py_None : value,
                                         traceback == NULL ? Py_None : traceback);
    if (said == NULL)
        PyErr_WriteUnraisable((PyObject *)self);
    Py_XDECREF(said);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

static int
call_wake(Lookout *self, Place *place)
{
    PyObject *wake = Py_NewRef(place->wake), *waiter = Py_NewRef(place->waiter);
    PyObject *done = Py_NewRef(Py_None);
    if (self->late) {
        /* Or what is timed from now on would be timed from when the loop looked last. */
        self->late = 0;
        Py_XSETREF(done, PyObject_CallMethodNoArgs(self->loop, self->state->update_now));
    }
    if (done != NULL)
        Py_XSETREF(done, PyObject_CallOneArg(wake, waiter)); /* who waits runs in there */
    Py_XDECREF(done);
    Py_DECREF(wake);
    Py_DECREF(waiter);
    return done == NULL ? -1 : 0;
}

/* Reads for the one at `descriptor`: NOTHING if there was nothing to read, STIRRED if more than
 * forwarding came of it. */
static int
serve(Lookout *self, int descriptor)
{
    Express *express = (Express *)Py_NewRef((PyObject *)self->places[descriptor].express);
    int passed = express_go(express);
    int came = passed <= 0 || express->told ? STIRRED : express->read ? SERVED : NOTHING;
    /* Who was told of something may have had the pump stop waiting. */
    Place *place = place_of(self, (uint64_t)descriptor);
    int wakes = passed == 0 && place != NULL && place->express == express;
    if (passed < 0 || (wakes && call_wake(self, place) < 0))
        report(self);
    Py_DECREF(express);
    if (came != NOTHING)
        self->served_at = now();
    return came;
}

/* Waits for more until `end`, and serves it; STIRRED if anything else has come. */
static int
linger(Lookout *self, long long end)
{
    struct epoll_event found[MOST];
    long long left = end - now();
    if (left <= 0)
        return NOTHING;
    int count;
    Py_BEGIN_ALLOW_THREADS
    count = epoll_wait(self->backend, found, MOST, (int)((left + 999999) / 1000000));
    Py_END_ALLOW_THREADS
    self->late = 1;
    int came = NOTHING;
    for (int at = 0; at < count; at++) {
        /* libev keeps the descriptor in the lower half, and a generation in the upper one. If it
         * did otherwise, there would be nothing to read and an end to lingering. */
        uint64_t descriptor = found[at].data.u64 & UINT32_MAX;
        int what = place_of(self, descriptor) ? serve(self, (int)descriptor) : STIRRED;
        came = Py_MAX(came, what);
    }
    self->lingered += came == SERVED;
    return came;
}

static PyObject *
lookout_call(Lookout *self, PyObject *args, PyObject *keywords)
{
    int descriptor;
    if (!PyArg_ParseTuple(args, "i:Lookout", &descriptor))
        return NULL;
    if (descriptor < 0 || place_of(self, (uint64_t)descriptor) == NULL)
        Py_RETURN_NONE;
    self->late = 0;
    long long begun = now();
    /* The end of waiting in vain costs as much as four messages save, or nearly. */
    int lively = begun - self->served_at < self->linger / 4;
    int came = serve(self, descriptor);
    if (came == STIRRED)
        self->stirred_in = number_of(self, self->state->iteration);
    /* As the watchers of Expresses come before all others, nobody has asked the loop for anything
     * since it looked: not if nothing else is pending, and none of them has stirred. */
    else if (came == SERVED && lively && number_of(self, self->state->pendingcnt) == 0
             && number_of(self, self->state->iteration) != self->stirred_in)
        do
            came = linger(self, begun + self->linger);
        while (came == SERVED);
    Py_RETURN_NONE;
}

/* -- the type -------------------------------------------------------------------------------- */

static PyObject *
lookout_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"loop", "linger_seconds", NULL};
    PyObject *loop;
    double linger_seconds;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "Od:Lookout", names, &loop, &linger_seconds))
        return NULL;
    PyObject *backend = PyObject_CallMethod(loop, "fileno", NULL);
    long descriptor = backend == NULL ? -1 : PyLong_AsLong(backend);
    Py_XDECREF(backend);
    if (PyErr_Occurred())
        return NULL;
    Lookout *self = (Lookout *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->state = PyType_GetModuleState(type);
    self->loop = Py_NewRef(loop);
    self->backend = (int)descriptor;
    self->linger = (long long)(linger_seconds * 1e9);
    self->stirred_in = -1;
    return (PyObject *)self;
}

static int
lookout_traverse(Lookout *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    for (int at = 0; at < self->size; at++) {
        Py_VISIT(self->places[at].express);
        Py_VISIT(self->places[at].wake);
        Py_VISIT(self->places[at].waiter);
    }
    return 0;
}

static int
lookout_clear(Lookout *self)
{
    for (int at = 0; at < self->size; at++)
        vacate(self, at);
    Py_CLEAR(self->loop);
    return 0;
}

static void
lookout_dealloc(Lookout *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    lookout_clear(self);
    PyMem_Free(self->places);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef lookout_methods[] = {
    {"watch", (PyCFunction)lookout_watch, METH_VARARGS, watch_doc},
    {"unwatch", (PyCFunction)lookout_unwatch, METH_VARARGS, unwatch_doc},
    {NULL},
};

static PyMemberDef lookout_members[] = {
    {"loop", T_OBJECT, offsetof(Lookout, loop), READONLY, "Of the hub that it is for."},
    {"backend", T_INT, offsetof(Lookout, backend), READONLY, "What that loop waits for."},
    {"lingered", T_PYSSIZET, offsetof(Lookout, lingered), READONLY,
     "How often something came that was not waited for in the loop."},
    {NULL},
};

static PyType_Slot lookout_slots[] = {
    {Py_tp_doc, "What a hub reads for its Expresses: relay_app.wire.lookout says what it is for."},
    {Py_tp_new, lookout_new},
    {Py_tp_call, lookout_call},
    {Py_tp_dealloc, lookout_dealloc},
    {Py_tp_traverse, lookout_traverse},
    {Py_tp_clear, lookout_clear},
    {Py_tp_methods, lookout_methods},
    {Py_tp_members, lookout_members},
    {0, NULL},
};

PyType_Spec lookout_spec = {
    .name = "relay_app.wire._compiled.Lookout",
    .basicsize = sizeof(Lookout),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lookout_slots,
};
