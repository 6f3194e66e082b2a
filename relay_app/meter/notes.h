/* What skims have noted for the meter, in the order it came: sums, and messages that tell
 * something.
 */

#ifndef RELAY_NOTES_H
#define RELAY_NOTES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

enum { MAX_MESSAGES = 16, MAX_MESSAGE_BYTES = 2048 };

/* What was added up since the message before. */
typedef struct {
    Py_ssize_t appended; /* bytes of audio that the client sent */
    Py_ssize_t spoken;   /* bytes of audio of the response that is skimmed */
    Py_ssize_t pieces;   /* deltas of its text, and their bytes */
    Py_ssize_t piece_bytes;
    unsigned int texts; /* a bit for each kind of text that was among them */
    int any;
} Sums;

typedef struct {
    Sums before;
    int sent;
    PyObject *at;      /* what the clock said when it came */
    PyObject *payload; /* bytes, without a mask */
} Told;

typedef struct {
    PyObject_HEAD
    PyObject *clock;
    PyObject *on_message; /* without it, no message is noted */
    Sums sums;
    Told *messages; /* room for MAX_MESSAGES, or NULL if there is none */
    int count;
    int untold; /* whether on_message is still to be called for one of them */
} Notes;

extern PyType_Spec notes_spec;

/* Whether a message of so many bytes may be noted now. */
int notes_have_room(const Notes *self, Py_ssize_t length);

/* Notes a message, that somebody is to look at `soon` or not: 0, or -1 with an exception and
 * nothing noted. Takes over `payload`. */
int notes_add(Notes *self, int sent, PyObject *payload, int soon);

/* Says that there is a message to be looked at soon, to whoever asked for it, if it was not said. */
void notes_tell(Notes *self);

#endif
