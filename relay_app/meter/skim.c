/* Messages that only add up, added up without becoming Python objects; and small ones that tell
 * something but need no answer, noted as they are until somebody looks at them.
 *
 * The rule: what is certain is counted, and at the first message that is not, it stops and leaves
 * that one to relay_app.meter.reading. Certain is a whole text frame whose payload begins with an
 * object of pairs with simple values, one "type" among them that is known to only add up, and
 * the fields it takes to do so. Every doubt (an escape in a name, a type said twice, a string
 * that goes on where it should not) ends the skim, so nothing here decides differently. A message
 * that is noted is read by relay_app.meter.reading later, so of it the type alone has to be known.
 *
 * Only the two ends of a payload are looked at: the time does not grow with it.
 */

#include "notes.h"
#include "usual.h"

#include <stdint.h>
#include <string.h>

/* An item of the buffer that frames come in, and the name of the function that takes such items:
 * relay_app/wire/spans.h declares the same. */
#define OVER_SPANS "relay_app.over_spans"

typedef struct {
    uint64_t start;
    uint64_t payload;
    uint64_t end;
    unsigned char first;
    unsigned char masked;
    unsigned char key[4];
    unsigned char unused[2];
} Span;

enum { WHOLE_TEXT = 0x81 };
enum { HEAD_BYTES = 512, NEAR_BYTES = 128, SHORT_TAIL_BYTES = 64, BRACE_BYTES = 16 };
enum { MAX_UNIT_BYTES = 256 };
/* What becomes of a type; texts are numbered from FIRST_TEXT on. */
enum { PLAIN = 0, AUDIO = 1, TOLD = 2, TOLD_SOON = 3, FIRST_TEXT = 4, MAX_TEXTS = 32 };

typedef struct {
    PyObject_HEAD
    PyObject *names; /* a dict of type names, as bytes, to what becomes of them */
    PyObject *field; /* the name of the string that audio is in */
    Notes *notes;    /* what was added up, here and in the other direction */
    PyObject *unit;  /* the response that deltas are added to, or NULL */
    int sent;        /* whether the client says it; if not, deltas must name their unit */
} Skim;

/* A string within a payload. `end` is its closing quote, or 0 if it goes on beyond the head. */
typedef struct {
    const unsigned char *begin;
    Py_ssize_t start;
    Py_ssize_t end;
} String;

typedef struct {
    String type;
    String unit;
    String value; /* of the field */
} Event;

/* What was copied of a payload, without its mask. */
typedef struct {
    const unsigned char *payload;
    const unsigned char *key; /* NULL when there is none */
    Py_ssize_t length;
    const unsigned char *head;
    Py_ssize_t head_bytes;
    unsigned char copy[HEAD_BYTES];
} Text;

static void
unmask(const Text *text, Py_ssize_t from, Py_ssize_t size, unsigned char *out)
{
    const unsigned char *in = text->payload + from;
    unsigned char key[8];
    for (int at = 0; at < 8; at++)
        key[at] = text->key[(from + at) & 3];
    uint64_t mask, word;
    memcpy(&mask, key, 8);
    Py_ssize_t at = 0;
    for (; at + 8 <= size; at += 8) {
        memcpy(&word, in + at, 8);
        word ^= mask;
        memcpy(out + at, &word, 8);
    }
    for (; at < size; at++)
        out[at] = in[at] ^ key[at & 7];
}

/* Makes the first `size` bytes readable, or as many as there are. */
static void
read_head(Text *text, Py_ssize_t size)
{
    if (size > text->length)
        size = text->length;
    if (text->key == NULL)
        text->head = text->payload;
    else if (size > text->head_bytes)
        unmask(text, text->head_bytes, size - text->head_bytes, text->copy + text->head_bytes);
    text->head_bytes = size;
}

/* The last `size` bytes, which the payload must have. */
static const unsigned char *
read_tail(const Text *text, Py_ssize_t size, unsigned char *out)
{
    if (text->key == NULL)
        return text->payload + text->length - size;
    unmask(text, text->length - size, size, out);
    return out;
}

static int
is_space(unsigned char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static int
is_name(const Text *text, const String *name, const char *word, Py_ssize_t length)
{
    return name->end - name->start == length
        && memcmp(text->head + name->start, word, (size_t)length) == 0;
}

enum { DONE = -1, UNCERTAIN = -2 };

static Py_ssize_t
skip_space(const Text *text, Py_ssize_t at)
{
    while (at < text->head_bytes && is_space(text->head[at]))
        at++;
    return at;
}

enum { PLAIN_ONLY, WITH_ESCAPES };

/* A string, `at` its opening quote: where it ends, DONE if beyond the head. */
static Py_ssize_t
read_string(const Text *text, Py_ssize_t at, String *string, int escapes)
{
    string->start = ++at;
    string->end = 0;
    for (; at < text->head_bytes; at++) {
        unsigned char c = text->head[at];
        if (c == '"') {
            string->end = at;
            return at + 1;
        }
        if (c < 0x20 || (c == '\\' && escapes == PLAIN_ONLY))
            return UNCERTAIN;
        if (c == '\\') {
            if (++at == text->head_bytes)
                return DONE;
            if (text->head[at] == 0 || strchr("\"\\/bfnrtu", text->head[at]) == NULL)
                return UNCERTAIN;
        }
    }
    return DONE;
}

static Py_ssize_t
skip_digits(const Text *text, Py_ssize_t at)
{
    while (at < text->head_bytes && text->head[at] >= '0' && text->head[at] <= '9')
        at++;
    return at;
}

/* A number or a word: where it ends, DONE if it goes on beyond the head or is something else, for
 * with that the pairs with simple values end. */
static Py_ssize_t
scalar(const Text *text, Py_ssize_t at)
{
    static const char *const words[] = {"true", "false", "null"};
    for (size_t word = 0; word < Py_ARRAY_LENGTH(words); word++) {
        Py_ssize_t length = (Py_ssize_t)strlen(words[word]);
        if (at + length <= text->head_bytes
            && memcmp(text->head + at, words[word], (size_t)length) == 0)
            return at + length;
    }
    if (text->head[at] == '-')
        at++;
    Py_ssize_t end = skip_digits(text, at);
    if (end == at)
        return DONE;
    if (end < text->head_bytes && text->head[end] == '.') {
        at = end + 1;
        end = skip_digits(text, at);
        if (end == at)
            return DONE;
    }
    if (end < text->head_bytes && (text->head[end] == 'e' || text->head[end] == 'E')) {
        at = end + 1;
        if (at < text->head_bytes && (text->head[at] == '+' || text->head[at] == '-'))
            at++;
        end = skip_digits(text, at);
        if (end == at)
            return DONE;
    }
    return end == text->head_bytes ? DONE : end;
}

/* One pair, `at` the quote of its key: where it ends, DONE if the head does. */
static Py_ssize_t
read_pair(const Skim *self, const Text *text, Py_ssize_t at, Event *event)
{
    String name, value;
    at = read_string(text, at, &name, PLAIN_ONLY);
    if (at < 0)
        return at;
    at = skip_space(text, at);
    if (at == text->head_bytes)
        return DONE;
    if (text->head[at] != ':')
        return UNCERTAIN;
    at = skip_space(text, at + 1);
    if (at == text->head_bytes)
        return DONE;
    String *wanted = NULL;
    if (is_name(text, &name, "type", 4))
        wanted = &event->type;
    else if (is_name(text, &name, "response_id", 11))
        wanted = &event->unit;
    else if (is_name(text, &name, PyBytes_AS_STRING(self->field), PyBytes_GET_SIZE(self->field)))
        wanted = &event->value;
    if (wanted == NULL)
        return text->head[at] == '"' ? read_string(text, at, &value, WITH_ESCAPES)
                                     : scalar(text, at);
    if (wanted->start || text->head[at] != '"')
        return UNCERTAIN;
    if (wanted != &event->value)
        return read_string(text, at, wanted, PLAIN_ONLY);
    if (text->length > text->head_bytes
        && memchr(text->head + at + 1, '"', (size_t)(text->head_bytes - at - 1)) == NULL) {
        wanted->start = at + 1; /* audio, most likely: not read, only measured */
        wanted->end = 0;
        return DONE;
    }
    return read_string(text, at, wanted, WITH_ESCAPES);
}

/* The pairs with simple values that an object begins with, as far as the head goes. */
static int
read_event(const Skim *self, const Text *text, Event *event)
{
    memset(event, 0, sizeof *event);
    Py_ssize_t at = skip_space(text, 0);
    if (at == text->head_bytes || text->head[at] != '{')
        return 0;
    do {
        at = skip_space(text, at + 1);
        if (at == text->head_bytes)
            return 1;
        if (text->head[at] != '"')
            return 0;
        at = read_pair(self, text, at, event);
        if (at < 0)
            return at == DONE;
        at = skip_space(text, at);
    } while (at < text->head_bytes && text->head[at] == ',');
    return at == text->head_bytes || text->head[at] == '}';
}

/* Whether the payload ends as an object does. */
static int
ends_whole(const Text *text)
{
    unsigned char out[BRACE_BYTES];
    Py_ssize_t size = Py_MIN(text->length, BRACE_BYTES);
    const unsigned char *tail = read_tail(text, size, out);
    while (size && is_space(tail[size - 1]))
        size--;
    return size && tail[size - 1] == '}';
}

static const char base64_letters[256] = {
    ['+'] = 1, ['-'] = 1, ['/'] = 1, ['_'] = 1, ['\\'] = 1, ['='] = 1,
    ['0'] = 1, ['1'] = 1, ['2'] = 1, ['3'] = 1, ['4'] = 1, ['5'] = 1, ['6'] = 1, ['7'] = 1,
    ['8'] = 1, ['9'] = 1, ['A'] = 1, ['B'] = 1, ['C'] = 1, ['D'] = 1, ['E'] = 1, ['F'] = 1,
    ['G'] = 1, ['H'] = 1, ['I'] = 1, ['J'] = 1, ['K'] = 1, ['L'] = 1, ['M'] = 1, ['N'] = 1,
    ['O'] = 1, ['P'] = 1, ['Q'] = 1, ['R'] = 1, ['S'] = 1, ['T'] = 1, ['U'] = 1, ['V'] = 1,
    ['W'] = 1, ['X'] = 1, ['Y'] = 1, ['Z'] = 1, ['a'] = 1, ['b'] = 1, ['c'] = 1, ['d'] = 1,
    ['e'] = 1, ['f'] = 1, ['g'] = 1, ['h'] = 1, ['i'] = 1, ['j'] = 1, ['k'] = 1, ['l'] = 1,
    ['m'] = 1, ['n'] = 1, ['o'] = 1, ['p'] = 1, ['q'] = 1, ['r'] = 1, ['s'] = 1, ['t'] = 1,
    ['u'] = 1, ['v'] = 1, ['w'] = 1, ['x'] = 1, ['y'] = 1, ['z'] = 1,
};

/* Bytes that so much base64 stands for; `last` are its last two characters. */
static Py_ssize_t
decoded_bytes(Py_ssize_t characters, const unsigned char *last)
{
    for (int at = 0; at < 2 && at < characters; at++)
        characters -= last[1 - at] == '=';
    return characters * 3 / 4;
}

/* Bytes of audio in a message, -1 if that takes a closer look. */
static Py_ssize_t
audio_bytes(const Text *text, const String *audio)
{
    unsigned char out[SHORT_TAIL_BYTES];
    if (!audio->start)
        return -1;
    if (audio->end) {
        if (text->length > HEAD_BYTES || !ends_whole(text))
            return -1;
        Py_ssize_t size = audio->end - audio->start;
        return size < 2 ? -1 : decoded_bytes(size, text->head + audio->end - 2);
    }
    /* It goes on beyond the head, so it must be the last field: base64, a quote and a brace, and
     * no room for another field between. */
    if (text->length - SHORT_TAIL_BYTES < audio->start)
        return -1;
    const unsigned char *tail = read_tail(text, SHORT_TAIL_BYTES, out);
    if (tail[SHORT_TAIL_BYTES - 1] != '}' || tail[SHORT_TAIL_BYTES - 2] != '"')
        return -1;
    for (int at = 0; at < SHORT_TAIL_BYTES - 2; at++)
        if (!base64_letters[tail[at]])
            return -1;
    return decoded_bytes(text->length - 2 - audio->start, tail + SHORT_TAIL_BYTES - 4);
}

/* What the dict of names says of one, -1 if they are not in it. */
static long
look_up(PyObject *names, const char *name, Py_ssize_t length)
{
    PyObject *key = PyBytes_FromStringAndSize(name, length);
    PyObject *kind = key == NULL ? NULL : PyDict_GetItemWithError(names, key);
    Py_XDECREF(key);
    long found = kind == NULL ? -1 : PyLong_AsLong(kind);
    return found < FIRST_TEXT + MAX_TEXTS ? found : -1;
}

/* Types that were found lately: all sessions have the same few, and a dict would want an object of
 * each. There is one GIL, and no dict of names changes. */
static struct {
    PyObject *names;
    Py_ssize_t length;
    long kind;
    char name[56];
} lately[128];

/* Where to look for one of at least eight characters: types differ in their midst or at the end. */
static size_t
place_of(const char *name, Py_ssize_t length)
{
    uint64_t middle, end;
    memcpy(&middle, name + length / 2 - 4, 8);
    memcpy(&end, name + length - 8, 8);
    return (size_t)(((middle ^ end) * 0x9E3779B97F4A7C15u) >> 57);
}

/* What becomes of messages of this type, -1 if they need a closer look. */
static long
find_kind(const Skim *self, const Text *text, const String *type)
{
    if (!type->end)
        return -1;
    const char *name = (const char *)text->head + type->start;
    Py_ssize_t length = type->end - type->start;
    if (length < 8 || length > (Py_ssize_t)sizeof lately[0].name)
        return look_up(self->names, name, length);
    size_t place = place_of(name, length);
    if (lately[place].names == self->names && lately[place].length == length
        && memcmp(lately[place].name, name, (size_t)length) == 0)
        return lately[place].kind;
    long kind = look_up(self->names, name, length);
    if (kind >= 0) {
        Py_XSETREF(lately[place].names, Py_NewRef(self->names)); /* or another might get its place */
        lately[place].length = length;
        lately[place].kind = kind;
        memcpy(lately[place].name, name, (size_t)length);
    }
    return kind;
}

/* Whether deltas are added to this unit. While messages are noted and there is no unit, the one
 * that a delta names becomes it: its beginning is most likely among them. If it is not, nobody
 * finds the unit that the sums are of, as if each delta had been looked at. */
static int
is_of_unit(Skim *self, const Text *text, const String *unit)
{
    if (self->sent)
        return 1;
    if (!unit->end)
        return 0;
    const unsigned char *name = text->head + unit->start;
    Py_ssize_t size = unit->end - unit->start;
    if (self->unit != NULL || !self->notes->count || !size || size > MAX_UNIT_BYTES)
        return self->unit != NULL
            && is_name(text, unit, PyBytes_AS_STRING(self->unit), PyBytes_GET_SIZE(self->unit));
    for (Py_ssize_t at = 0; at < size; at++)
        if (name[at] > 0x7e)
            return 0;
    self->unit = PyBytes_FromStringAndSize((const char *)name, size);
    return self->unit != NULL;
}

/* Notes the message as it is, if there is room. */
static int
note(Skim *self, const Text *text, int soon)
{
    if (!notes_have_room(self->notes, text->length))
        return 0;
    PyObject *payload = PyBytes_FromStringAndSize((const char *)text->payload, text->length);
    if (payload == NULL)
        return 0;
    if (text->key != NULL)
        unmask(text, 0, text->length, (unsigned char *)PyBytes_AS_STRING(payload));
    return notes_add(self->notes, self->sent, payload, soon) == 0;
}

/* Adds a message up; whether it was certain how. */
static int
add_up(Skim *self, Text *text)
{
    Event event;
    read_head(text, text->key == NULL ? HEAD_BYTES : NEAR_BYTES);
    if (!read_event(self, text, &event))
        return 0;
    if (text->head_bytes < HEAD_BYTES && text->head_bytes < text->length) {
        /* Most heads end in audio; it is enough to know that no string ends behind them. */
        Py_ssize_t near = text->head_bytes;
        read_head(text, HEAD_BYTES);
        if (!event.value.start || event.value.end
            || memchr(text->head + near, '"', (size_t)(text->head_bytes - near)) != NULL) {
            if (!read_event(self, text, &event))
                return 0;
        }
    }
    long kind = find_kind(self, text, &event.type);
    if (kind < 0)
        return 0;
    if (kind == PLAIN)
        return ends_whole(text);
    if (kind == TOLD || kind == TOLD_SOON)
        return note(self, text, kind == TOLD_SOON);
    if (!is_of_unit(self, text, &event.unit))
        return 0;
    Sums *sums = &self->notes->sums;
    if (kind == AUDIO) {
        Py_ssize_t size = audio_bytes(text, &event.value);
        if (size < 0)
            return 0;
        if (self->sent)
            sums->appended += size;
        else
            sums->spoken += size;
    } else {
        if (!event.value.end || !ends_whole(text))
            return 0;
        sums->pieces++;
        sums->piece_bytes += event.value.end - event.value.start;
        sums->texts |= 1u << (kind - FIRST_TEXT);
    }
    sums->any = 1;
    return 1;
}

/* How many of `count` frames, from the first on, were added up or noted. */
static Py_ssize_t
over_spans(PyObject *skim, const unsigned char *data, const Span *spans, Py_ssize_t count,
           int *untold)
{
    Skim *self = (Skim *)skim;
    Text text;
    Py_ssize_t at = 0;
    for (; at < count; at++) {
        const Span *span = &spans[at];
        if (span->first != WHOLE_TEXT)
            break;
        text.payload = data + span->payload;
        text.length = (Py_ssize_t)(span->end - span->payload);
        text.key = span->masked ? span->key : NULL;
        text.head = text.copy;
        text.head_bytes = 0;
        if (!add_up(self, &text)) {
            PyErr_Clear(); /* whoever looks at it has better words for what is wrong */
            break;
        }
    }
    *untold = self->notes->untold;
    return at;
}

PyDoc_STRVAR(over_doc, "over(data, frames, begin)\n--\n\n"
    "Adds up the messages of ``frames`` from ``begin`` on; the first that must be looked at.");

static PyObject *
skim_over(Skim *self, PyObject *const *args, Py_ssize_t given)
{
    if (given != 3) {
        PyErr_SetString(PyExc_TypeError, "over() takes three arguments");
        return NULL;
    }
    Py_ssize_t begin = PyNumber_AsSsize_t(args[2], PyExc_OverflowError);
    if (begin == -1 && PyErr_Occurred())
        return NULL;
    if (begin < 0 || !PyObject_CheckBuffer(args[1]))
        return Py_NewRef(args[2]); /* Python objects: to be looked at one by one */
    Py_buffer data, frames;
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    if (PyObject_GetBuffer(args[1], &frames, PyBUF_SIMPLE) < 0) {
        PyBuffer_Release(&data);
        return NULL;
    }
    const Span *spans = frames.buf;
    Py_ssize_t count = frames.len / (Py_ssize_t)sizeof(Span);
    int within = 1;
    for (Py_ssize_t at = begin; at < count; at++)
        within &= spans[at].payload <= spans[at].end && spans[at].end <= (uint64_t)data.len;
    int untold = 0;
    if (begin < count && within)
        begin += over_spans((PyObject *)self, data.buf, spans + begin, count - begin, &untold);
    PyBuffer_Release(&frames);
    PyBuffer_Release(&data);
    if (untold)
        notes_tell(self->notes);
    return PyLong_FromSsize_t(begin);
}

PyDoc_STRVAR(tell_doc, "tell()\n--\n\n"
    "Calls on_message of the notes, if that is still to be done.");

static PyObject *
skim_tell(Skim *self, PyObject *ignored)
{
    notes_tell(self->notes);
    Py_RETURN_NONE;
}

/* The type of Notes that belongs to this Skim. */
static PyTypeObject *
notes_type(PyTypeObject *skim)
{
    return *(PyTypeObject **)PyType_GetModuleState(skim);
}

static PyObject *
skim_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *words[] = {"kinds", "field", "notes", "sent", NULL};
    PyObject *names, *field, *notes;
    int sent;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!SO$p:Skim", words, &PyDict_Type, &names,
                                     &field, &notes, &sent))
        return NULL;
    if (!PyObject_TypeCheck(notes, notes_type(type))) {
        PyErr_SetString(PyExc_TypeError, "a skim takes compiled Notes");
        return NULL;
    }
    Skim *self = (Skim *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->names = Py_NewRef(names);
        self->field = Py_NewRef(field);
        self->notes = (Notes *)Py_NewRef(notes);
        self->sent = sent;
    }
    return (PyObject *)self;
}

static int
skim_traverse(Skim *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->names);
    Py_VISIT(self->notes);
    return 0;
}

static void
skim_dealloc(Skim *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->names);
    Py_XDECREF(self->field);
    Py_XDECREF(self->notes);
    Py_XDECREF(self->unit);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
skim_get_unit(Skim *self, void *closure)
{
    return Py_NewRef(self->unit == NULL ? Py_None : self->unit);
}

static int
skim_set_unit(Skim *self, PyObject *value, void *closure)
{
    if (value == NULL || (value != Py_None && !PyBytes_Check(value))) {
        PyErr_SetString(PyExc_TypeError, "unit is bytes or None");
        return -1;
    }
    if (value != Py_None && PyBytes_GET_SIZE(value) > MAX_UNIT_BYTES)
        value = Py_None; /* no id is as long */
    Py_XSETREF(self->unit, value == Py_None ? NULL : Py_NewRef(value));
    return 0;
}

static PyObject *
skim_over_spans(Skim *self, void *closure)
{
    PyObject *capsule = PyCapsule_New((void *)over_spans, OVER_SPANS, NULL);
    if (capsule != NULL && PyCapsule_SetContext(capsule, self) < 0)
        Py_CLEAR(capsule);
    return capsule;
}

static PyMethodDef skim_methods[] = {
    {"over", (PyCFunction)(void (*)(void))skim_over, METH_FASTCALL, over_doc},
    {"tell", (PyCFunction)skim_tell, METH_NOARGS, tell_doc},
    {NULL},
};

static PyGetSetDef skim_getset[] = {
    {"over_spans", (getter)skim_over_spans, NULL, "The same as a C function: see spans.h."},
    {"unit", (getter)skim_get_unit, (setter)skim_set_unit, "The id that deltas must have."},
    {NULL},
};

static PyType_Slot skim_slots[] = {
    {Py_tp_doc, "Adds up messages that only add up: relay_app.meter.skim.Skim, in C."},
    {Py_tp_new, skim_new},
    {Py_tp_dealloc, skim_dealloc},
    {Py_tp_traverse, skim_traverse},
    {Py_tp_methods, skim_methods},
    {Py_tp_getset, skim_getset},
    {0, NULL},
};

static PyType_Spec skim_spec = {
    .name = "relay_app.meter._skim.Skim",
    .basicsize = sizeof(Skim),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = skim_slots,
};

static int
module_exec(PyObject *self)
{
    PyTypeObject **notes = PyModule_GetState(self);
    *notes = (PyTypeObject *)PyType_FromModuleAndSpec(self, &notes_spec, NULL);
    if (*notes == NULL || PyModule_AddType(self, *notes) < 0)
        return -1;
    PyObject *type = PyType_FromModuleAndSpec(self, &skim_spec, NULL);
    if (type == NULL)
        return -1;
    int added = PyModule_AddType(self, (PyTypeObject *)type);
    Py_DECREF(type);
    return added;
}

static int
module_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(*(PyTypeObject **)PyModule_GetState(self));
    return 0;
}

static int
module_clear(PyObject *self)
{
    Py_CLEAR(*(PyTypeObject **)PyModule_GetState(self));
    return 0;
}

PyDoc_STRVAR(read_usual_doc, "read_usual(payload)\n--\n\n"
    "What a usual event says: relay_app.meter.usual.read_usual, in C.");

static PyMethodDef module_methods[] = {
    {"read_usual", read_usual, METH_O, read_usual_doc},
    {NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "relay_app.meter._skim",
    .m_doc = "The Skim and the Notes of relay_app.meter.skim and read_usual, compiled.",
    .m_methods = module_methods,
    .m_size = sizeof(PyTypeObject *),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC
PyInit__skim(void)
{
    return PyModuleDef_Init(&module);
}
