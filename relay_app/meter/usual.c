/* The events of a usual turn, read for what the meter asks of them and nothing else: the compiled
 * twin of relay_app.meter.usual.read_usual.
 *
 * The rule: one pass over a payload that is checked as JSON to its end, and no object for what
 * nobody asks. Every doubt (an escape where a name is wanted, one said twice, a number or a literal
 * that encoders do not write) is answered by None, and whoever asked parses all of it.
 */

#include "usual.h"

#include <stdint.h>
#include <string.h>

enum { MAX_DEPTH = 32, MAX_DIGITS = 15, MAX_ID_BYTES = 256, MAX_KEYS = 16, MAX_RAW_BYTES = 1024 };

typedef struct {
    const unsigned char *at;
    const unsigned char *end;
    int depth;
    char *raw; /* where what is read is written down without spaces, or NULL */
    char *raw_end;
} Reader;

/* A plain string: ASCII, without escapes. `begin` is NULL if there was none. */
typedef struct {
    const unsigned char *begin;
    Py_ssize_t size;
} Word;

/* A count; `said` is 0 if there was none. */
typedef struct {
    int64_t value;
    int said;
} Count;

/* Items of relay_app.meter.split.Split, and the sum of them that is said beside. */
typedef struct {
    Count text, audio, image;
    Count all;
} Split;

typedef struct {
    int said, nests; /* whether there is a usage that is an object */
    Count input, output;
    Split taken, cached, made;
    int details_in, details_cached, details_out;
    Count reasoning;
    char *raw; /* room for what it says, without spaces */
    Py_ssize_t raw_bytes;
} Usage;

typedef struct {
    int said;
    Word id, status, format, beta_format;
    Count rate;
    int tagged;                   /* whether it has metadata */
    int in_conversation, outside; /* whether it names one, or says that it has none */
    int format_said, beta_said, metadata_said;
    int output_said;
    Py_ssize_t items;
    Word item_ids[2];
    Usage usage;
} Response;

typedef struct {
    int said, status_said, content_said;
    Word status;
    int parts; /* whether its content has any */
} Item;

typedef struct {
    Word type;
    Response response;
    Item item;
} Event;

/* -- JSON. Each function gives 1, or 0 for what is not certain. ------------------------------ */

static void
skip_space(Reader *reader)
{
    while (reader->at < reader->end
           && (*reader->at == ' ' || *reader->at == '\n' || *reader->at == '\r'
               || *reader->at == '\t'))
        reader->at++;
}

static int
write_down(Reader *reader, const void *text, Py_ssize_t size)
{
    if (reader->raw == NULL)
        return 1;
    if (reader->raw_end - reader->raw < size)
        return 0;
    memcpy(reader->raw, text, (size_t)size);
    reader->raw += size;
    return 1;
}

static int
take(Reader *reader, unsigned char wanted)
{
    skip_space(reader);
    if (reader->at == reader->end || *reader->at != wanted)
        return 0;
    reader->at++;
    return write_down(reader, &wanted, 1);
}

static int
comes(Reader *reader, unsigned char wanted)
{
    skip_space(reader);
    return reader->at < reader->end && *reader->at == wanted;
}

/* A string that is to be looked at. */
static int
read_word(Reader *reader, Word *word)
{
    skip_space(reader);
    const unsigned char *begin = reader->at;
    if (begin == reader->end || *begin != '"')
        return 0;
    const unsigned char *at = begin + 1;
    while (at < reader->end && *at >= 0x20 && *at < 0x7f && *at != '"' && *at != '\\')
        at++;
    if (at == reader->end || *at != '"')
        return 0;
    word->begin = begin + 1;
    word->size = at - begin - 1;
    reader->at = at + 1;
    return write_down(reader, begin, reader->at - begin);
}

/* How many bytes the character that begins `at` takes in UTF-8; 0 if it is none. */
static int
character_bytes(const unsigned char *at, const unsigned char *end)
{
    int more = *at >= 0xf0 ? 3 : *at >= 0xe0 ? 2 : 1;
    if (*at < 0xc2 || *at > 0xf4 || end - at <= more)
        return 0;
    for (int byte = 1; byte <= more; byte++)
        if ((at[byte] & 0xc0) != 0x80)
            return 0;
    int wrong = (at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f)
        || (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f);
    return wrong ? 0 : more + 1;
}

static int
is_hex(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* The number in an escape like \u00fc; -1 if it is none. */
static int
escaped(const unsigned char *at, const unsigned char *end)
{
    if (end - at < 6 || at[0] != '\\' || at[1] != 'u')
        return -1;
    int value = 0;
    for (int digit = 2; digit < 6; digit++) {
        if (!is_hex(at[digit]))
            return -1;
        value = value * 16 + (at[digit] <= '9' ? at[digit] - '0' : (at[digit] | 0x20) - 'a' + 10);
    }
    return value;
}

/* How many bytes an escape takes, both halves of a pair together; 0 if it is none. */
static int
escape_bytes(const unsigned char *at, const unsigned char *end)
{
    if (end - at < 2)
        return 0;
    if (at[1] != 'u')
        return at[1] != 0 && strchr("\"\\/bfnrt", at[1]) != NULL ? 2 : 0;
    int value = escaped(at, end);
    if (value < 0 || (value & 0xfc00) == 0xdc00)
        return 0;
    if ((value & 0xfc00) != 0xd800)
        return 6;
    return (escaped(at + 6, end) & ~0x3ff) == 0xdc00 ? 12 : 0;
}

/* Any string. */
static int
skip_string(Reader *reader)
{
    const unsigned char *at = reader->at + 1, *end = reader->end;
    while (at < end && *at != '"') {
        int size = *at < 0x20 ? 0
            : *at == '\\'     ? escape_bytes(at, end)
            : *at < 0x80      ? 1
                              : character_bytes(at, end);
        if (!size)
            return 0;
        at += size;
    }
    reader->at = at + 1;
    return at < end;
}

static Py_ssize_t
digits(Reader *reader, int64_t *value)
{
    const unsigned char *begin = reader->at;
    *value = 0;
    while (reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9') {
        if (reader->at - begin == MAX_DIGITS)
            return 0;
        *value = *value * 10 + (*reader->at++ - '0');
    }
    Py_ssize_t count = reader->at - begin;
    return count > 1 && *begin == '0' ? 0 : count;
}

static int
ends_number(const Reader *reader)
{
    return reader->at == reader->end
        || (strchr(",]} \n\r\t", *reader->at) != NULL && *reader->at != 0);
}

/* A whole number, not below 0. */
static int
read_count(Reader *reader, Count *count)
{
    skip_space(reader);
    const unsigned char *begin = reader->at;
    count->said = digits(reader, &count->value) > 0 && ends_number(reader);
    return count->said && write_down(reader, begin, reader->at - begin);
}

/* Any number, as long as it is short. */
static int
skip_number(Reader *reader)
{
    int64_t ignored;
    if (*reader->at == '-')
        reader->at++;
    if (!digits(reader, &ignored))
        return 0;
    if (reader->at < reader->end && *reader->at == '.') {
        const unsigned char *begin = ++reader->at;
        while (reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9')
            reader->at++;
        if (reader->at == begin || reader->at - begin > MAX_DIGITS)
            return 0;
    }
    return ends_number(reader);
}

static int
skip_literal(Reader *reader, const char *literal)
{
    Py_ssize_t size = (Py_ssize_t)strlen(literal);
    if (reader->end - reader->at < size || memcmp(reader->at, literal, (size_t)size) != 0)
        return 0;
    reader->at += size;
    return ends_number(reader) && write_down(reader, literal, size);
}

static int
skip_null(Reader *reader)
{
    skip_space(reader);
    return skip_literal(reader, "null");
}

static int skip_value(Reader *reader);

/* What an array or an object holds, `at` its bracket. */
static int
skip_nested(Reader *reader, unsigned char closing)
{
    if (++reader->depth > MAX_DEPTH)
        return 0;
    reader->at++;
    for (int first = 1; !comes(reader, closing); first = 0) {
        if (!first && !take(reader, ','))
            return 0;
        if (closing == '}'
            && (!comes(reader, '"') || !skip_string(reader) || !take(reader, ':')))
            return 0;
        if (!skip_value(reader))
            return 0;
    }
    reader->at++;
    reader->depth--;
    return 1;
}

/* Any value, of which nothing is written down. */
static int
skip_value(Reader *reader)
{
    skip_space(reader);
    if (reader->at == reader->end)
        return 0;
    switch (*reader->at) {
    case '"':
        return skip_string(reader);
    case '{':
        return skip_nested(reader, '}');
    case '[':
        return skip_nested(reader, ']');
    case 't':
        return skip_literal(reader, "true");
    case 'f':
        return skip_literal(reader, "false");
    case 'n':
        return skip_literal(reader, "null");
    default:
        return skip_number(reader);
    }
}

/* -- Objects whose pairs are looked at. ------------------------------------------------------ */

typedef int (*Pair)(Reader *reader, const Word *key, void *into);

/* An object, each pair of which `pair` reads, from its value on. */
static int
read_object(Reader *reader, Pair pair, void *into)
{
    if (!take(reader, '{') || ++reader->depth > MAX_DEPTH)
        return 0;
    for (int first = 1; !comes(reader, '}'); first = 0) {
        Word key;
        if ((!first && !take(reader, ',')) || !read_word(reader, &key) || !take(reader, ':')
            || !pair(reader, &key, into))
            return 0;
    }
    reader->depth--;
    return take(reader, '}');
}

static int
is(const Word *word, const char *name)
{
    return word->begin != NULL && (size_t)word->size == strlen(name)
        && memcmp(word->begin, name, (size_t)word->size) == 0;
}

/* Whether this is the first time, of what may be said once. */
static int
once(int *said)
{
    return !(*said)++;
}

static int
read_word_once(Reader *reader, Word *word)
{
    return word->begin == NULL && read_word(reader, word);
}

static int
read_count_once(Reader *reader, Count *count)
{
    return !count->said && read_count(reader, count);
}

/* What else a usage may hold; it is written down with the rest. */
static int
read_aside(Reader *reader)
{
    Count count;
    Word word;
    skip_space(reader);
    if (reader->at == reader->end)
        return 0;
    if (*reader->at == '"')
        return read_word(reader, &word);
    if (*reader->at >= '0' && *reader->at <= '9')
        return read_count(reader, &count);
    return skip_literal(reader, "null") || skip_literal(reader, "true")
        || skip_literal(reader, "false");
}

static int
pair_of_kinds(Reader *reader, const Word *key, Split *split, int *read)
{
    *read = 1;
    if (is(key, "text_tokens"))
        return read_count_once(reader, &split->text);
    if (is(key, "audio_tokens"))
        return read_count_once(reader, &split->audio);
    if (is(key, "image_tokens"))
        return read_count_once(reader, &split->image);
    *read = 0;
    return 0;
}

static int
pair_of_cached(Reader *reader, const Word *key, void *into)
{
    int read, certain = pair_of_kinds(reader, key, &((Usage *)into)->cached, &read);
    return read && certain; /* no other is known; one may be said twice, which JSON forgets */
}

static int
pair_of_input(Reader *reader, const Word *key, void *into)
{
    Usage *usage = into;
    int read, certain = pair_of_kinds(reader, key, &usage->taken, &read);
    if (read)
        return certain;
    if (is(key, "cached_tokens"))
        return read_count_once(reader, &usage->cached.all);
    if (is(key, "cached_tokens_details"))
        return once(&usage->details_cached) && read_object(reader, pair_of_cached, usage);
    return 0;
}

static int
pair_of_output(Reader *reader, const Word *key, void *into)
{
    Usage *usage = into;
    int read, certain = pair_of_kinds(reader, key, &usage->made, &read);
    if (read)
        return certain;
    if (is(key, "reasoning_tokens"))
        return read_count_once(reader, &usage->reasoning);
    return 0;
}

typedef struct {
    Usage *usage;
    Word others[MAX_KEYS];
    int count;
} UsageKeys;

static int
pair_of_usage(Reader *reader, const Word *key, void *into)
{
    UsageKeys *keys = into;
    Usage *usage = keys->usage;
    if (is(key, "input_tokens"))
        return read_count_once(reader, &usage->input);
    if (is(key, "output_tokens"))
        return read_count_once(reader, &usage->output);
    if (is(key, "input_token_details"))
        return once(&usage->details_in) && read_object(reader, pair_of_input, usage);
    if (is(key, "output_token_details"))
        return once(&usage->details_out) && read_object(reader, pair_of_output, usage);
    for (int other = 0; other < keys->count; other++)
        if (keys->others[other].size == key->size
            && memcmp(keys->others[other].begin, key->begin, (size_t)key->size) == 0)
            return 0;
    if (keys->count == MAX_KEYS)
        return 0;
    keys->others[keys->count++] = *key;
    return read_aside(reader);
}

static int
read_usage(Reader *reader, Usage *usage)
{
    UsageKeys keys = {.usage = usage};
    if (!once(&usage->said))
        return 0;
    if (comes(reader, 'n'))
        return skip_null(reader);
    usage->nests = 1;
    reader->raw = usage->raw;
    reader->raw_end = usage->raw + MAX_RAW_BYTES;
    int certain = read_object(reader, pair_of_usage, &keys);
    usage->raw_bytes = reader->raw - usage->raw;
    reader->raw = NULL;
    return certain;
}

static int
pair_of_format(Reader *reader, const Word *key, void *into)
{
    Response *response = into;
    if (is(key, "type"))
        return read_word_once(reader, &response->format);
    if (is(key, "rate"))
        return read_count_once(reader, &response->rate);
    return skip_value(reader);
}

static int
pair_of_audio_output(Reader *reader, const Word *key, void *into)
{
    Response *response = into;
    if (!is(key, "format"))
        return skip_value(reader);
    return once(&response->format_said) && read_object(reader, pair_of_format, response);
}

typedef struct {
    Response *response;
    int said;
} Audio;

static int
pair_of_audio(Reader *reader, const Word *key, void *into)
{
    Audio *audio = into;
    if (!is(key, "output"))
        return skip_value(reader);
    return once(&audio->said) && read_object(reader, pair_of_audio_output, audio->response);
}

static int
pair_of_output_item(Reader *reader, const Word *key, void *into)
{
    return is(key, "id") ? read_word_once(reader, into) : skip_value(reader);
}

static int
read_items(Reader *reader, Response *response)
{
    Word ignored;
    if (!once(&response->output_said) || !take(reader, '[') || ++reader->depth > MAX_DEPTH)
        return 0;
    for (; !comes(reader, ']'); response->items++) {
        memset(&ignored, 0, sizeof ignored);
        Word *id = response->items < 2 ? &response->item_ids[response->items] : &ignored;
        if ((response->items && !take(reader, ','))
            || !read_object(reader, pair_of_output_item, id))
            return 0;
    }
    reader->depth--;
    return take(reader, ']');
}

static int
read_conversation(Reader *reader, Response *response)
{
    if (response->outside || response->in_conversation)
        return 0;
    response->outside = comes(reader, 'n');
    response->in_conversation = !response->outside;
    return skip_value(reader);
}

static int
read_metadata(Reader *reader, Response *response)
{
    if (!once(&response->metadata_said))
        return 0;
    response->tagged = !comes(reader, 'n');
    return skip_value(reader);
}

static int
read_beta_format(Reader *reader, Response *response)
{
    if (!once(&response->beta_said))
        return 0;
    return comes(reader, 'n') ? skip_null(reader) : read_word(reader, &response->beta_format);
}

typedef struct {
    Response *response;
    int audio_said;
} ResponseKeys;

static int
pair_of_response(Reader *reader, const Word *key, void *into)
{
    ResponseKeys *keys = into;
    Response *response = keys->response;
    if (is(key, "id"))
        return read_word_once(reader, &response->id);
    if (is(key, "status"))
        return read_word_once(reader, &response->status);
    if (is(key, "usage"))
        return read_usage(reader, &response->usage);
    if (is(key, "output"))
        return read_items(reader, response);
    if (is(key, "conversation_id"))
        return read_conversation(reader, response);
    if (is(key, "metadata"))
        return read_metadata(reader, response);
    if (is(key, "output_audio_format"))
        return read_beta_format(reader, response);
    if (is(key, "audio")) {
        Audio audio = {.response = response};
        return once(&keys->audio_said) && read_object(reader, pair_of_audio, &audio);
    }
    return skip_value(reader);
}

static int
pair_of_item(Reader *reader, const Word *key, void *into)
{
    Item *item = into;
    if (is(key, "status"))
        return once(&item->status_said) && read_word(reader, &item->status);
    if (is(key, "content")) {
        if (!once(&item->content_said) || !take(reader, '['))
            return 0;
        item->parts = !comes(reader, ']');
        return !item->parts && take(reader, ']');
    }
    return skip_value(reader);
}

/* The types that are read at all. */
static const char *const create = "response.create", *const created = "response.created",
                        *const done = "response.done", *const added = "conversation.item.added";

static int
pair_of_event(Reader *reader, const Word *key, void *into)
{
    Event *event = into;
    if (is(key, "type"))
        return read_word_once(reader, &event->type)
            && (is(&event->type, done) || is(&event->type, created) || is(&event->type, added)
                || is(&event->type, create));
    if (is(key, "response")) {
        ResponseKeys keys = {.response = &event->response};
        return once(&event->response.said) && read_object(reader, pair_of_response, &keys);
    }
    if (is(key, "item"))
        return once(&event->item.said) && read_object(reader, pair_of_item, &event->item);
    return skip_value(reader);
}

/* -- What they say. -------------------------------------------------------------------------- */

static PyObject *
text_of(const Word *word)
{
    if (word->begin == NULL)
        Py_RETURN_NONE;
    return PyUnicode_FromStringAndSize((const char *)word->begin, word->size);
}

static int
is_id(const Word *word)
{
    return word->begin != NULL && word->size > 0 && word->size <= MAX_ID_BYTES;
}

/* As relay_app.meter.reported._whole: nothing is left out, it adds up, and there is something. */
static int
is_whole(const Usage *usage)
{
    const Split *taken = &usage->taken, *cached = &usage->cached, *made = &usage->made;
    if (!usage->nests || !usage->input.said || !usage->output.said || !taken->text.said
        || !taken->audio.said || !taken->image.said || !cached->text.said || !cached->audio.said
        || !cached->image.said || !cached->all.said || !made->text.said || !made->audio.said
        || made->image.said)
        return 0;
    return usage->input.value == taken->text.value + taken->audio.value + taken->image.value
        && cached->all.value == cached->text.value + cached->audio.value + cached->image.value
        && usage->output.value == made->text.value + made->audio.value
        && cached->text.value <= taken->text.value && cached->audio.value <= taken->audio.value
        && cached->image.value <= taken->image.value
        && usage->reasoning.value <= made->text.value
        && usage->input.value + usage->output.value > 0;
}

static PyObject *
say_done(const Response *response)
{
    const Usage *usage = &response->usage;
    const Word *ids = response->item_ids;
    if (!is_id(&response->id) || !is_whole(usage)
        || (ids[0].begin != NULL && !is_id(&ids[0])) || (ids[1].begin != NULL && !is_id(&ids[1])))
        return Py_NewRef(Py_None);
    PyObject *items = response->items == 0 ? PyTuple_New(0)
        : response->items == 1             ? Py_BuildValue("(N)", text_of(&ids[0]))
                               : Py_BuildValue("(NN)", text_of(&ids[0]), text_of(&ids[1]));
    return Py_BuildValue(
        "sNN(LLLLLLLLL)s#N", done, text_of(&response->id), text_of(&response->status),
        (long long)usage->taken.text.value, (long long)usage->taken.audio.value,
        (long long)usage->taken.image.value, (long long)usage->cached.text.value,
        (long long)usage->cached.audio.value, (long long)usage->cached.image.value,
        (long long)usage->made.text.value, (long long)usage->made.audio.value,
        (long long)usage->reasoning.value, usage->raw, usage->raw_bytes, items);
}

static PyObject *
say_created(const Response *response)
{
    if (!is_id(&response->id) || response->tagged)
        return Py_NewRef(Py_None);
    const Word *format = response->format.begin == NULL ? &response->beta_format : &response->format;
    if ((format->begin == NULL && response->rate.said) || (format->begin != NULL && !format->size))
        return Py_NewRef(Py_None);
    PyObject *rate = response->rate.said ? PyLong_FromLongLong(response->rate.value)
                                         : Py_NewRef(Py_None);
    return Py_BuildValue("sNONN", created, text_of(&response->id),
                         response->outside ? Py_True : Py_False, text_of(format), rate);
}

PyObject *
read_usual(PyObject *module, PyObject *payload)
{
    if (!PyBytes_Check(payload)) {
        PyErr_SetString(PyExc_TypeError, "read_usual() takes bytes");
        return NULL;
    }
    static const char begins[] = "{\"type\":\"";
    if (PyBytes_GET_SIZE(payload) < (Py_ssize_t)sizeof begins
        || memcmp(PyBytes_AS_STRING(payload), begins, sizeof begins - 1) != 0)
        Py_RETURN_NONE;
    char raw[MAX_RAW_BYTES];
    Event event = {.response.usage.raw = raw};
    const unsigned char *begin = (const unsigned char *)PyBytes_AS_STRING(payload);
    Reader reader = {.at = begin, .end = begin + PyBytes_GET_SIZE(payload)};
    if (!read_object(&reader, pair_of_event, &event))
        Py_RETURN_NONE;
    skip_space(&reader);
    if (reader.at != reader.end)
        Py_RETURN_NONE;
    if (is(&event.type, done) && event.response.said)
        return say_done(&event.response);
    if (is(&event.type, created) && event.response.said)
        return say_created(&event.response);
    if (is(&event.type, added) && is(&event.item.status, "in_progress") && !event.item.parts)
        return Py_BuildValue("(s)", added);
    if (is(&event.type, create) && !event.response.said)
        return Py_BuildValue("(s)", create);
    Py_RETURN_NONE;
}
