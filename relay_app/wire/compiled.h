/* What the files of the extension relay_app.wire._compiled share. */

#ifndef RELAY_COMPILED_H
#define RELAY_COMPILED_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "spans.h"

enum { CONTROL = 0x08, FIN = 0x80, MASKED = 0x80, PONG = 0x0A, TEXT = 0x01, BINARY = 0x02 };

typedef struct {
    PyTypeObject *scanner;
    PyTypeObject *express;
    PyTypeObject *gate;
    PyTypeObject *frames;
    PyTypeObject *frame; /* wire.frames.Frame, a NamedTuple */
    PyTypeObject *run;   /* wire.frames.Run, a NamedTuple */
    PyObject *fault;     /* wire.frames.fault */
    PyObject *nothing;   /* wire.frames.NOTHING */
    PyObject *no_key;
    PyObject *opcodes[16];
    PyObject *tell; /* of a skim that offers over_spans */
    Py_ssize_t read_bytes;  /* wire.rooms.READ_BYTES */
    Py_ssize_t small_bytes; /* wire.rooms.SMALL_BYTES */
} State;

typedef struct {
    PyObject_HEAD
    PyObject *buffer; /* a bytearray that is being filled, or NULL */
    char *tail;       /* else what there is of a frame, or NULL */
    Py_ssize_t used;  /* bytes of either */
    Py_ssize_t awaiting;
    Py_ssize_t bytes; /* all that were ever taken */
    Py_ssize_t max_message_bytes;
    Py_ssize_t message_bytes;
    char in_message;
    char masked;
    char lost; /* bytes that there was no memory for: none that follow may be taken */
} Scanner;

/* What may go out: relay_app.wire.gate.Gate. */
typedef struct {
    PyObject_HEAD
    char clear;
    Py_ssize_t bytes_out;
} Gate;

enum { WHOLE, PARTIAL, WRONG };

/* The frame at `data`: whole, not whole yet, or not allowed. `span->end` is where it ends, 0 if
 * its header does not tell yet. */
int scan_frame(const Scanner *self, const unsigned char *data, Py_ssize_t size, Span *span);

/* Keeps `size` bytes of a frame that is not whole, and no more; -1 with an exception. */
int keep_tail(Scanner *self, const unsigned char *data, Py_ssize_t size);

/* The Run that `size` more bytes complete, wherever they lie; NULL with an exception. */
PyObject *feed(Scanner *self, State *state, const void *data, Py_ssize_t size);

extern PyType_Spec frames_spec, scanner_spec, express_spec, gate_spec;

#endif
