/* Where one whole frame lies in its buffer: what the buffer of `Frames` is an array of.
 *
 * relay_app/meter/skim.c declares the same: the two floors meet at run time only, through the
 * buffer protocol and the capsule below, for neither may know the other.
 */

#ifndef RELAY_SPANS_H
#define RELAY_SPANS_H

#include <stdint.h>

typedef struct {
    uint64_t start;
    uint64_t payload;
    uint64_t end;
    unsigned char first; /* FIN, reserved bits and opcode as they came */
    unsigned char masked;
    unsigned char key[4];
    unsigned char unused[2];
} Span;

#define LONGEST_HEADER 14

/* What a skim may offer besides being called, as the attribute `over_spans` of what its method is
 * bound to: how many of `count` frames from the first need no more looking at. It never fails and
 * runs no Python but a clock. If it sets `untold`, the skim's method `tell` is to be called when
 * the frames have been sent. The context of the capsule is the skim that it is for. */
typedef Py_ssize_t (*OverSpans)(PyObject *skim, const unsigned char *data, const Span *spans,
                                Py_ssize_t count, int *untold);

#define OVER_SPANS "relay_app.over_spans"

#endif
