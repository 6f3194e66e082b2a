/* Where one whole frame lies in its buffer: what the buffer of `Frames` is an array of.
 *
 * relay_app/meter/_skim.c declares the same: the two meet at run time only, through the buffer
 * protocol, for neither floor may know the other.
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

#endif
