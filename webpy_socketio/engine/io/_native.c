/* The native core: incoming events, outgoing frames, the fan-out of broadcasts, and the messages that
 * recovery retains.
 *
 * Every name has a twin in pure.py with the same behaviour, and the tests compare both. The stable
 * ABI of Python 3.10 suffices: all buffers are bytes objects, so the buffer API is not needed.
 *
 * Rules of this file: no borrowed reference is used after a call that can run Python code. Lengths
 * from the network are compared with the bytes that are left before they are added to anything.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "_batch.h"

#ifndef MSG_NOSIGNAL /* Python ignores SIGPIPE */
#define MSG_NOSIGNAL 0
#endif

/* RFC 6455 section 5.2. */
enum { FIN = 0x80, MASKED = 0x80, TEXT = 0x1, BINARY = 0x2, KEY_SIZE = 4, MAX_HEADER = 10 };

/* An acknowledgement id has at most 15 digits: JavaScript represents those integers exactly. */
enum { MAX_DIGITS = 15 };

/* Longest part of a payload before the JSON: "42" and an acknowledgement id. */
enum { MAX_HEAD = 2 + MAX_DIGITS };

/* Longest end of an offset: a dot, a number of 64 bits, a quotation mark and a bracket. */
enum { MAX_OFFSET_END = 24 };

/* Bodies up to this size are unmasked on the stack. */
enum { STACK_BUFFER = 2048 };

typedef struct {
    PyTypeObject *frames_type;
    PyTypeObject *ring_type;
    PyTypeObject *sender_type;
    PyTypeObject *outbox_type;
    PyObject *empty; /* the empty tuple, `pending` of an outbox without messages */
    PyObject *zero;  /* `unsent` of an outbox whose data is sent */
    Batch *batch;    /* NULL before it is needed, and if it is not available */
    int has_no_batch;
} State;

static struct PyModuleDef native_module;

static State *state_of(PyObject *module)
{
    return (State *)PyModule_GetState(module);
}

/* -- Outgoing frames ------------------------------------------------------------------------- */

/* Write the header of a final, unmasked frame; return its size. */
static Py_ssize_t write_header(unsigned char *to, int opcode, Py_ssize_t size)
{
    to[0] = (unsigned char)(FIN | opcode);
    if (size <= 125) {
        to[1] = (unsigned char)size;
        return 2;
    }
    if (size <= 0xFFFF) {
        to[1] = 126;
        to[2] = (unsigned char)(size >> 8);
        to[3] = (unsigned char)size;
        return 4;
    }
    to[1] = 127;
    for (int i = 0; i < 8; i++)
        to[2 + i] = (unsigned char)((uint64_t)size >> (56 - 8 * i));
    return MAX_HEADER;
}

static Py_ssize_t header_size(Py_ssize_t size)
{
    return size <= 125 ? 2 : size <= 0xFFFF ? 4 : MAX_HEADER;
}

PyDoc_STRVAR(encode_doc, "encode(opcode, data, /)\n--\n\nReturn a final, unmasked frame.");

static PyObject *encode(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    char *data;
    Py_ssize_t size;
    (void)module;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "encode() takes an opcode and data");
        return NULL;
    }
    long opcode = PyLong_AsLong(args[0]);
    if (opcode == -1 && PyErr_Occurred())
        return NULL;
    if (opcode < 0 || opcode > 0x7F) {
        PyErr_SetString(PyExc_ValueError, "the opcode is not between 0 and 127");
        return NULL;
    }
    if (PyBytes_AsStringAndSize(args[1], &data, &size) < 0)
        return NULL;
    if (size > PY_SSIZE_T_MAX - MAX_HEADER)
        return PyErr_NoMemory();
    PyObject *frame = PyBytes_FromStringAndSize(NULL, header_size(size) + size);
    if (frame == NULL)
        return NULL;
    unsigned char *to = (unsigned char *)PyBytes_AsString(frame);
    to += write_header(to, (int)opcode, size);
    memcpy(to, data, (size_t)size);
    return frame;
}

typedef struct {
    PyObject_HEAD
    PyObject *frames;
    PyObject *size;
    PyObject *count;
    PyObject *text;
    PyObject *attachments;
} Frames;

/* Return the items as a tuple of bytes objects. */
static PyObject *bytes_tuple(PyObject *items)
{
    PyObject *list = PySequence_List(items);
    if (list == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_Size(list); i++) {
        PyObject *item = PyList_GetItem(list, i);
        if (item == NULL)
            goto failed;
        if (PyBytes_CheckExact(item))
            continue;
        Py_INCREF(item);
        PyObject *bytes = PyBytes_FromObject(item); /* may run Python code */
        Py_DECREF(item);
        if (bytes == NULL || PyList_SetItem(list, i, bytes) < 0)
            goto failed;
    }
    PyObject *tuple = PyList_AsTuple(list);
    Py_DECREF(list);
    return tuple;
failed:
    Py_DECREF(list);
    return NULL;
}

/* Add the size of a frame with `size` bytes of data to the sum; return whether it overflows. */
static int add_frame(Py_ssize_t *sum, Py_ssize_t size)
{
    if (size > PY_SSIZE_T_MAX - MAX_HEADER - *sum)
        return 1;
    *sum += header_size(size) + size;
    return 0;
}

/* Return the frames of a text, or of none if NULL, and of a tuple of bytes objects. */
static PyObject *join_frames(PyObject *text, PyObject *attachments)
{
    Py_ssize_t sum = 0, count = PyTuple_Size(attachments);
    if (text != NULL && add_frame(&sum, PyBytes_Size(text)))
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++)
        if (add_frame(&sum, PyBytes_Size(PyTuple_GetItem(attachments, i))))
            return PyErr_NoMemory();
    PyObject *frames = PyBytes_FromStringAndSize(NULL, sum);
    if (frames == NULL)
        return NULL;
    unsigned char *to = (unsigned char *)PyBytes_AsString(frames);
    for (Py_ssize_t i = text == NULL ? 0 : -1; i < count; i++) {
        PyObject *data = i < 0 ? text : PyTuple_GetItem(attachments, i);
        Py_ssize_t size = PyBytes_Size(data);
        to += write_header(to, i < 0 ? TEXT : BINARY, size);
        memcpy(to, PyBytes_AsString(data), (size_t)size);
        to += size;
    }
    return frames;
}

static PyObject *frames_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"text", "attachments", NULL};
    PyObject *text, *attachments = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|O:Message", names, &text, &attachments))
        return NULL;
    if (text != Py_None && !PyBytes_Check(text)) {
        PyErr_SetString(PyExc_TypeError, "the text of a message must be bytes or None");
        return NULL;
    }
    Frames *self = (Frames *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL)
        return NULL;
    self->text = Py_NewRef(text);
    self->attachments = attachments == NULL ? PyTuple_New(0) : bytes_tuple(attachments);
    if (self->attachments == NULL)
        goto failed;
    self->frames = join_frames(text == Py_None ? NULL : text, self->attachments);
    if (self->frames == NULL)
        goto failed;
    self->size = PyLong_FromSsize_t(PyBytes_Size(self->frames));
    self->count = PyLong_FromSsize_t(PyTuple_Size(self->attachments) + (text != Py_None));
    if (self->size == NULL || self->count == NULL)
        goto failed;
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

PyDoc_STRVAR(add_offset_doc,
             "add_offset(namespace, message, epoch, number, /)\n--\n\n"
             "Return an event with an offset as last argument.");

/* Write the decimal digits of a number so that they end before `end`; return their beginning.
 * Measured for one retained message: 0.20 µs, with snprintf() 0.25 to 0.27 µs. */
static char *write_decimal(char *end, long long number)
{
    unsigned long long rest = number < 0 ? 0ULL - (unsigned long long)number
                                         : (unsigned long long)number;
    do {
        *--end = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest > 0);
    if (number < 0)
        *--end = '-';
    return end;
}

/* Return the text of an event with the offset as last argument of its JSON array. */
static PyObject *text_with_offset(PyObject *event, PyObject *epoch, long long number)
{
    char end[MAX_OFFSET_END], *begin = end + MAX_OFFSET_END;
    Py_ssize_t size = PyBytes_Size(event) - 1, epoch_size = PyBytes_Size(epoch);
    *--begin = ']';
    *--begin = '"';
    begin = write_decimal(begin, number);
    *--begin = '.';
    Py_ssize_t end_size = end + MAX_OFFSET_END - begin;
    if (epoch_size > PY_SSIZE_T_MAX - size - end_size - 2)
        return PyErr_NoMemory();
    PyObject *text = PyBytes_FromStringAndSize(NULL, size + 2 + epoch_size + end_size);
    if (text == NULL)
        return NULL;
    char *to = PyBytes_AsString(text);
    memcpy(to, PyBytes_AsString(event), (size_t)size);
    to += size;
    *to++ = ',';
    *to++ = '"';
    memcpy(to, PyBytes_AsString(epoch), (size_t)epoch_size);
    memcpy(to + epoch_size, begin, (size_t)end_size);
    return text;
}

/* Return a new message of the same type with the offset, or NULL with an exception. */
static PyObject *number_event(State *state, PyObject *message, PyObject *epoch, long long number)
{
    Frames *event = (Frames *)message;
    if (!PyObject_TypeCheck(message, state->frames_type) || !PyBytes_Check(epoch)) {
        PyErr_SetString(PyExc_TypeError, "not a message and an epoch");
        return NULL;
    }
    if (event->text == NULL || !PyBytes_Check(event->text) || PyBytes_Size(event->text) == 0 ||
        event->attachments == NULL || !PyTuple_Check(event->attachments)) {
        PyErr_SetString(PyExc_ValueError, "the message has no text");
        return NULL;
    }
    PyTypeObject *type = Py_TYPE(event);
    Frames *self = (Frames *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL)
        return NULL;
    self->attachments = Py_NewRef(event->attachments);
    self->count = Py_XNewRef(event->count);
    if ((self->text = text_with_offset(event->text, epoch, number)) == NULL ||
        (self->frames = join_frames(self->text, self->attachments)) == NULL ||
        (self->size = PyLong_FromSsize_t(PyBytes_Size(self->frames))) == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *add_offset(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError,
                        "add_offset() takes a namespace, a message, an epoch and a number");
        return NULL;
    }
    long long number = PyLong_AsLongLong(args[3]);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    return number_event(state_of(module), args[1], args[2], number);
}

static int frames_traverse(PyObject *object, visitproc visit, void *arg)
{
    Frames *self = (Frames *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->frames);
    Py_VISIT(self->size);
    Py_VISIT(self->count);
    Py_VISIT(self->text);
    Py_VISIT(self->attachments);
    return 0;
}

static int frames_clear(PyObject *object)
{
    Frames *self = (Frames *)object;
    Py_CLEAR(self->frames);
    Py_CLEAR(self->size);
    Py_CLEAR(self->count);
    Py_CLEAR(self->text);
    Py_CLEAR(self->attachments);
    return 0;
}

/* Free an object whose `tp_clear` drops its references. */
static void dealloc(PyObject *self, inquiry clear)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static void frames_dealloc(PyObject *self)
{
    dealloc(self, frames_clear);
}

static PyMemberDef frames_members[] = {
    {"frames", T_OBJECT_EX, offsetof(Frames, frames), 0, NULL},
    {"size", T_OBJECT_EX, offsetof(Frames, size), 0, NULL},
    {"count", T_OBJECT_EX, offsetof(Frames, count), 0, NULL},
    {"text", T_OBJECT_EX, offsetof(Frames, text), 0, NULL},
    {"attachments", T_OBJECT_EX, offsetof(Frames, attachments), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot frames_slots[] = {
    {Py_tp_doc, "The frames of a text packet and its attachments."},
    {Py_tp_new, frames_new},
    {Py_tp_traverse, frames_traverse},
    {Py_tp_clear, frames_clear},
    {Py_tp_dealloc, frames_dealloc},
    {Py_tp_members, frames_members},
    {0, NULL},
};

static PyType_Spec frames_spec = {
    .name = "webpy_socketio.engine.io._native.Frames",
    .basicsize = sizeof(Frames),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = frames_slots,
};

/* -- Incoming events ------------------------------------------------------------------------- */

typedef struct {
    const unsigned char *payload, *key;
    Py_ssize_t size; /* of the payload */
} Frame;

/* Read one complete, final, masked text frame; return its size with the header, or 0. */
static Py_ssize_t read_frame(const unsigned char *data, Py_ssize_t left, Py_ssize_t max_size,
                             Frame *frame)
{
    if (left < 2 + KEY_SIZE || data[0] != (FIN | TEXT) || !(data[1] & MASKED))
        return 0;
    uint64_t size = data[1] & 0x7F;
    Py_ssize_t start = 2;
    if (size >= 126) {
        Py_ssize_t bytes = size == 126 ? 2 : 8;
        uint64_t smallest = size == 126 ? 126 : 0x10000; /* longer headers go to the library */
        if (left < 2 + bytes + KEY_SIZE)
            return 0;
        size = 0;
        for (Py_ssize_t i = 0; i < bytes; i++)
            size = size << 8 | data[2 + i];
        if (size < smallest)
            return 0;
        start += bytes;
    }
    start += KEY_SIZE;
    if (size > (uint64_t)(left - start) || max_size < 0 || size > (uint64_t)max_size)
        return 0;
    frame->key = data + start - KEY_SIZE;
    frame->payload = data + start;
    frame->size = (Py_ssize_t)size;
    return start + frame->size;
}

/* Unmask `size` bytes, of which the first is the byte `offset` of the payload. */
static void unmask(const Frame *frame, Py_ssize_t offset, Py_ssize_t size, unsigned char *to)
{
    const unsigned char *from = frame->payload + offset;
    unsigned char key[8];
    uint64_t mask, word;
    Py_ssize_t i = 0;
    for (int at = 0; at < 8; at++)
        key[at] = frame->key[(offset + at) % KEY_SIZE];
    memcpy(&mask, key, sizeof mask);
    for (; i + (Py_ssize_t)sizeof word <= size; i += (Py_ssize_t)sizeof word) {
        memcpy(&word, from + i, sizeof word);
        word ^= mask;
        memcpy(to + i, &word, sizeof word);
    }
    for (; i < size; i++)
        to[i] = from[i] ^ key[i % KEY_SIZE];
}

/* Return the size of "42" with an acknowledgement id before "[", or 0; the id is -1 if absent. */
static Py_ssize_t read_head(const unsigned char *head, Py_ssize_t size, int64_t *id)
{
    Py_ssize_t at = 2;
    if (size < 3 || head[0] != '4' || head[1] != '2')
        return 0;
    *id = -1;
    while (at < size && at < MAX_HEAD && head[at] >= '0' && head[at] <= '9') {
        if (*id == 0) /* digits after a leading zero go to the library path */
            return 0;
        *id = (*id < 0 ? 0 : *id) * 10 + (head[at++] - '0');
    }
    return at < size && head[at] == '[' ? at : 0;
}

/* Return the body of an event as text. Return NULL without an exception if it is not plain. */
static PyObject *read_body(const Frame *frame, Py_ssize_t start, Py_ssize_t max_brackets)
{
    Py_ssize_t size = frame->size - start, brackets = 0;
    unsigned char small[STACK_BUFFER], *body = small;
    PyObject *text = NULL;
    if (size > (Py_ssize_t)sizeof small && (body = PyMem_Malloc((size_t)size)) == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    unmask(frame, start, size, body);
    for (Py_ssize_t i = 0; i < size; i++)
        brackets += (body[i] == '[') | (body[i] == '{');
    if (brackets <= max_brackets) {
        text = PyUnicode_DecodeUTF8((const char *)body, size, NULL);
        if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
            PyErr_Clear(); /* the library path closes the connection */
    }
    if (body != small)
        PyMem_Free(body);
    return text;
}

/* Append the event of a frame to a list; return 1, or 0 if it is not plain, or -1 on failure. */
static int append_event(PyObject *events, const Frame *frame, Py_ssize_t max_brackets)
{
    unsigned char head[MAX_HEAD + 1];
    Py_ssize_t known = frame->size < (Py_ssize_t)sizeof head ? frame->size : (Py_ssize_t)sizeof head;
    int64_t id;
    unmask(frame, 0, known, head);
    Py_ssize_t start = read_head(head, known, &id);
    if (start == 0)
        return 0;
    PyObject *body = read_body(frame, start, max_brackets);
    if (body == NULL)
        return PyErr_Occurred() ? -1 : 0;
    /* Characters of the Socket.IO packet, without the Engine.IO type. */
    Py_ssize_t characters = start - 1 + PyUnicode_GetLength(body);
    PyObject *event = id < 0 ? Py_BuildValue("(NOn)", body, Py_None, characters)
                             : Py_BuildValue("(NLn)", body, (long long)id, characters);
    if (event == NULL)
        return -1;
    int failed = PyList_Append(events, event);
    Py_DECREF(event);
    return failed < 0 ? -1 : 1;
}

PyDoc_STRVAR(read_events_doc,
             "read_events(data, max_size, max_brackets, /)\n--\n\n"
             "Return the events at the beginning of received bytes, and the size of their frames.");

static PyObject *read_events(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    char *data;
    Py_ssize_t size, consumed = 0, frame_size, max_size, max_brackets;
    PyObject *events = NULL;
    Frame frame;
    (void)module;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "read_events() takes data and two limits");
        return NULL;
    }
    max_size = PyLong_AsSsize_t(args[1]);
    if (max_size == -1 && PyErr_Occurred())
        return NULL;
    max_brackets = PyLong_AsSsize_t(args[2]);
    if (max_brackets == -1 && PyErr_Occurred())
        return NULL;
    if (PyBytes_AsStringAndSize(args[0], &data, &size) < 0)
        return NULL;
    if ((events = PyList_New(0)) == NULL)
        return NULL;
    while ((frame_size = read_frame((unsigned char *)data + consumed, size - consumed, max_size,
                                    &frame)) > 0) {
        int appended = append_event(events, &frame, max_brackets);
        if (appended < 0) {
            Py_DECREF(events);
            return NULL;
        }
        if (appended == 0)
            break;
        consumed += frame_size;
    }
    return Py_BuildValue("(Nn)", events, consumed);
}

/* -- The fan-out ----------------------------------------------------------------------------- */

/* Sends to the descriptor of a socket. `close_sender` clears the descriptor before the socket is
 * closed: another connection may then get the same number. */
typedef struct {
    PyObject_HEAD
    int fd; /* -1 when closed */
    PyObject *sock; /* an unreferenced socket object would close its descriptor */
} Sender;

/* The state of an outbox that decides whether frames may be sent directly. Objects instead of C
 * types, as Python code reads them at the speed of slots. */
typedef struct {
    PyObject_HEAD
    PyObject *try_send;
    PyObject *pending;
    PyObject *unsent;
    PyObject *closed;
    PyObject *pending_size;
    PyObject *pending_count;
} OutboxState;

static ssize_t send_bytes(int fd, const char *data, Py_ssize_t size)
{
    ssize_t sent;
    do {
        sent = send(fd, data, (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    return sent;
}

static PyObject *sender_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"", NULL};
    PyObject *sock;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O:open_sender", names, &sock))
        return NULL;
    int fd = PyObject_AsFileDescriptor(sock); /* calls fileno() */
    if (fd < 0)
        return NULL;
    Sender *self = (Sender *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL)
        return NULL;
    self->fd = fd;
    self->sock = Py_NewRef(sock);
    return (PyObject *)self;
}

static PyObject *sender_call(PyObject *object, PyObject *args, PyObject *keywords)
{
    Sender *self = (Sender *)object;
    PyObject *data;
    if (keywords != NULL && PyDict_Size(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "a sender takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "S:send", &data))
        return NULL;
    if (self->fd < 0) {
        errno = EBADF;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    ssize_t sent = send_bytes(self->fd, PyBytes_AsString(data), PyBytes_Size(data));
    return sent < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromSsize_t((Py_ssize_t)sent);
}

static int sender_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Sender *)self)->sock);
    return 0;
}

static int sender_clear(PyObject *object)
{
    Sender *self = (Sender *)object;
    self->fd = -1;
    Py_CLEAR(self->sock);
    return 0;
}

static void sender_dealloc(PyObject *self)
{
    dealloc(self, sender_clear);
}

static PyMemberDef sender_members[] = {
    {"fd", T_INT, offsetof(Sender, fd), READONLY, "The descriptor; -1 when closed."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot sender_slots[] = {
    {Py_tp_doc, "Sends bytes to a non-blocking socket; returns the number of accepted bytes."},
    {Py_tp_new, sender_new},
    {Py_tp_call, sender_call},
    {Py_tp_traverse, sender_traverse},
    {Py_tp_clear, sender_clear},
    {Py_tp_dealloc, sender_dealloc},
    {Py_tp_members, sender_members},
    {0, NULL},
};

static PyType_Spec sender_spec = {
    .name = "webpy_socketio.engine.io._native.Sender",
    .basicsize = sizeof(Sender),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = sender_slots,
};

PyDoc_STRVAR(close_sender_doc,
             "close_sender(sender, /)\n--\n\n"
             "Never send again; to be called before the socket is closed.");

static PyObject *close_sender(PyObject *module, PyObject *sender)
{
    if (Py_TYPE(sender) != state_of(module)->sender_type) {
        PyErr_SetString(PyExc_TypeError, "close_sender() takes a sender");
        return NULL;
    }
    sender_clear(sender);
    return Py_NewRef(Py_None);
}

static int outbox_traverse(PyObject *object, visitproc visit, void *arg)
{
    OutboxState *self = (OutboxState *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->try_send);
    Py_VISIT(self->pending);
    Py_VISIT(self->unsent);
    Py_VISIT(self->closed);
    Py_VISIT(self->pending_size);
    Py_VISIT(self->pending_count);
    return 0;
}

static int outbox_clear(PyObject *object)
{
    OutboxState *self = (OutboxState *)object;
    Py_CLEAR(self->try_send);
    Py_CLEAR(self->pending);
    Py_CLEAR(self->unsent);
    Py_CLEAR(self->closed);
    Py_CLEAR(self->pending_size);
    Py_CLEAR(self->pending_count);
    return 0;
}

static void outbox_dealloc(PyObject *self)
{
    dealloc(self, outbox_clear);
}

static PyMemberDef outbox_members[] = {
    {"try_send", T_OBJECT_EX, offsetof(OutboxState, try_send), 0, NULL},
    {"pending", T_OBJECT_EX, offsetof(OutboxState, pending), 0, NULL},
    {"unsent", T_OBJECT_EX, offsetof(OutboxState, unsent), 0, NULL},
    {"closed", T_OBJECT_EX, offsetof(OutboxState, closed), 0, NULL},
    {"pending_size", T_OBJECT_EX, offsetof(OutboxState, pending_size), 0, NULL},
    {"pending_count", T_OBJECT_EX, offsetof(OutboxState, pending_count), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot outbox_slots[] = {
    {Py_tp_doc, "The state of an outbox that decides whether frames may be sent directly."},
    {Py_tp_traverse, outbox_traverse},
    {Py_tp_clear, outbox_clear},
    {Py_tp_dealloc, outbox_dealloc},
    {Py_tp_members, outbox_members},
    {0, NULL},
};

static PyType_Spec outbox_spec = {
    .name = "webpy_socketio.engine.io._native.OutboxState",
    .basicsize = sizeof(OutboxState),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = outbox_slots,
};

/* Return whether a value is false, given an object that is; -1 on failure. NULL is not false. */
static int is_false(PyObject *value, PyObject *false_object)
{
    if (value == false_object)
        return 1;
    if (value == NULL)
        return 0;
    Py_INCREF(value);
    int result = PyObject_IsTrue(value);
    Py_DECREF(value);
    return result < 0 ? -1 : !result;
}

/* Return whether an outbox is open and has no data; -1 on failure. May run Python code. */
static int is_idle(State *state, OutboxState *outbox)
{
    int idle = is_false(outbox->unsent, state->zero);
    if (idle > 0)
        idle = is_false(outbox->pending, state->empty);
    if (idle > 0)
        idle = is_false(outbox->closed, Py_False);
    return idle;
}

enum { NOT_SENT = -1, FAILED = -2 };

/* Return the number of bytes that a function in Python accepts; 0 if it raises OSError. */
static Py_ssize_t call_try_send(PyObject *try_send, PyObject *data)
{
    Py_INCREF(try_send);
    PyObject *result = PyObject_CallFunctionObjArgs(try_send, data, NULL);
    Py_DECREF(try_send);
    if (result == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_OSError))
            return FAILED;
        PyErr_Clear();
        return 0;
    }
    Py_ssize_t sent = PyLong_AsSsize_t(result);
    Py_DECREF(result);
    if (sent < 0 && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "try_send returned a negative number");
    return sent < 0 ? FAILED : sent;
}

/* Send to one outbox; return the number of accepted bytes, NOT_SENT, or FAILED. */
static Py_ssize_t send_to(State *state, OutboxState *outbox, PyObject *data, const char *bytes,
                          Py_ssize_t size)
{
    int idle = is_idle(state, outbox);
    if (idle <= 0)
        return idle < 0 ? FAILED : NOT_SENT;
    PyObject *try_send = outbox->try_send;
    if (try_send == NULL || try_send == Py_None)
        return NOT_SENT;
    if (Py_TYPE(try_send) != state->sender_type)
        return call_try_send(try_send, data);
    Sender *sender = (Sender *)try_send;
    ssize_t sent = sender->fd < 0 ? 0 : send_bytes(sender->fd, bytes, size);
    return sent < 0 ? 0 : (Py_ssize_t)sent; /* the transport detects a lost connection */
}

/* Append a pair to a list, which is created first if it is NULL; return 0, or -1 on failure. The
 * reference to the value is taken over; NULL is a failure. */
static int append_pair(PyObject **list, PyObject *outbox, PyObject *value)
{
    if (value == NULL)
        return -1;
    if (*list == NULL && (*list = PyList_New(0)) == NULL) {
        Py_DECREF(value);
        return -1;
    }
    PyObject *pair = Py_BuildValue("(ON)", outbox, value);
    if (pair == NULL)
        return -1;
    int failed = PyList_Append(*list, pair);
    Py_DECREF(pair);
    return failed;
}

/* Fewer sends are not faster with a batch. */
enum { MIN_BATCH = 4 };

/* Return the batch of this thread for a number of sends; NULL if `send` must be used. */
static Batch *batch_for(State *state, Py_ssize_t count)
{
    if (count < MIN_BATCH || state->has_no_batch)
        return NULL;
    if (state->batch != NULL) {
        if (batch_is_usable(state->batch))
            return state->batch;
        if (!batch_is_abandoned(state->batch))
            return NULL;
        batch_close(state->batch);
        state->batch = NULL;
    }
    const char *setting = getenv("WEBPY_SOCKETIO_IO_URING");
    if (setting == NULL || strcmp(setting, "0") != 0)
        state->batch = batch_open();
    state->has_no_batch = state->batch == NULL;
    return state->batch;
}

/* Sends that are added to a batch. No Python code runs until they are submitted: it could close one
 * of the sockets, and another connection could get its descriptor. */
typedef struct {
    Batch *batch;
    unsigned count;
    PyObject *outboxes[BATCH_SIZE];
    PyObject *frames[BATCH_SIZE];   /* NULL: nothing is sent, the caller must flush the outbox */
    PyObject *messages[BATCH_SIZE]; /* freed afterwards, as this may run Python code */
} Queue;

/* Add a send; the references to the frames and the messages, which may be NULL, are taken over. */
static void queue_add(Queue *queue, OutboxState *outbox, PyObject *frames, PyObject *messages)
{
    queue->outboxes[queue->count] = Py_NewRef((PyObject *)outbox);
    queue->frames[queue->count] = frames;
    queue->messages[queue->count++] = messages;
    if (frames != NULL)
        batch_add(queue->batch, ((Sender *)outbox->try_send)->fd, PyBytes_AsString(frames),
                  (size_t)PyBytes_Size(frames));
}

/* Look up the batch again after a call that can run Python code, which could have forked, or
 * closed the batch. */
static void queue_renew(State *state, Queue *queue)
{
    if (queue->batch != NULL)
        queue->batch = batch_for(state, MIN_BATCH);
}

/* Submit the sends; append an entry for each that was not accepted whole. The entry is the outbox
 * with the number of accepted bytes or, if `with_rest`, with the other bytes. It has None if nothing
 * was sent. Return 0, or -1 on failure; the queue is empty afterwards. May run Python code. */
static int queue_send(State *state, Queue *queue, PyObject **incomplete, int with_rest)
{
    int results[BATCH_SIZE], *result = results, failed = 0;
    unsigned count = queue->count;
    if (count == 0)
        return 0;
    if (batch_send(queue->batch, results) < 0) { /* the transports send what was not accepted */
        batch_close(state->batch);
        state->batch = NULL;
        state->has_no_batch = 1;
    }
    queue->count = 0;
    for (unsigned i = 0; i < count; i++) {
        PyObject *outbox = queue->outboxes[i], *frames = queue->frames[i];
        Py_ssize_t size = frames == NULL ? 0 : PyBytes_Size(frames);
        Py_ssize_t sent = frames == NULL ? 0 : *result++;
        if (frames == NULL && !failed)
            failed = append_pair(incomplete, outbox, Py_NewRef(Py_None));
        else if (sent < size && !failed) {
            PyObject *value = with_rest
                ? PyBytes_FromStringAndSize(PyBytes_AsString(frames) + sent, size - sent)
                : PyLong_FromSsize_t(sent);
            failed = append_pair(incomplete, outbox, value);
        }
        Py_DECREF(outbox);
        Py_XDECREF(frames);
        Py_XDECREF(queue->messages[i]);
    }
    queue_renew(state, queue);
    return failed;
}

/* Return whether an outbox is open, has no data, and sends to a descriptor. Runs no Python code. */
static int is_plain(State *state, OutboxState *outbox)
{
    return outbox->unsent == state->zero && outbox->pending == state->empty &&
        outbox->closed == Py_False && outbox->try_send != NULL &&
        Py_TYPE(outbox->try_send) == state->sender_type && ((Sender *)outbox->try_send)->fd >= 0;
}

PyDoc_STRVAR(send_to_all_doc,
             "send_to_all(recipients, data, skip, /)\n--\n\n"
             "Send frames to the outboxes of a list; return those that have not accepted all.");

static PyObject *send_to_all(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    State *state = state_of(module);
    PyObject *incomplete = NULL;
    char *bytes;
    Py_ssize_t size;
    if (count != 3 || !PyList_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "send_to_all() takes a list, data and an outbox or None");
        return NULL;
    }
    if (PyBytes_AsStringAndSize(args[1], &bytes, &size) < 0)
        return NULL;
    Queue queue;
    queue.batch = batch_for(state, PyList_Size(args[0]));
    queue.count = 0;
    int failed = 0;
    /* The size is read again each time: a function in Python could change the list. */
    for (Py_ssize_t i = 0; i < PyList_Size(args[0]) && !failed; i++) {
        PyObject *item = PyList_GetItem(args[0], i);
        if (item == args[2])
            continue;
        if (!PyObject_TypeCheck(item, state->outbox_type)) {
            if ((failed = queue_send(state, &queue, &incomplete, 0)) == 0)
                PyErr_SetString(PyExc_TypeError, "a recipient is not an outbox");
            failed = -1;
            break;
        }
        Py_INCREF(item);
        if (queue.batch != NULL && is_plain(state, (OutboxState *)item)) {
            queue_add(&queue, (OutboxState *)item, Py_NewRef(args[1]), NULL);
            if (queue.count == BATCH_SIZE)
                failed = queue_send(state, &queue, &incomplete, 0);
        } else if ((failed = queue_send(state, &queue, &incomplete, 0)) == 0) {
            Py_ssize_t sent = send_to(state, (OutboxState *)item, args[1], bytes, size);
            failed = sent == FAILED ||
                (sent < size && append_pair(&incomplete, item, PyLong_FromSsize_t(sent)) < 0);
            queue_renew(state, &queue);
        }
        Py_DECREF(item);
    }
    /* After a failure the queue is empty. */
    if (failed || queue_send(state, &queue, &incomplete, 0) < 0)
        Py_CLEAR(incomplete);
    else if (incomplete == NULL)
        incomplete = PyTuple_New(0);
    return incomplete;
}

/* Return the frames of a list of messages as one bytes object, or NULL without an exception. Runs no
 * Python code: an exception could, as its creation can start the garbage collector. */
static PyObject *join_messages(State *state, PyObject *messages)
{
    Py_ssize_t count = PyList_Size(messages), sum = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        Frames *message = (Frames *)PyList_GetItem(messages, i);
        if (!PyObject_TypeCheck((PyObject *)message, state->frames_type) ||
            message->frames == NULL || !PyBytes_Check(message->frames))
            return NULL;
        Py_ssize_t size = PyBytes_Size(message->frames);
        if (size > PY_SSIZE_T_MAX - sum)
            return NULL;
        sum += size;
        if (count == 1)
            return Py_NewRef(message->frames);
    }
    PyObject *frames = PyBytes_FromStringAndSize(NULL, sum);
    if (frames == NULL) {
        PyErr_Clear();
        return NULL;
    }
    char *to = PyBytes_AsString(frames);
    for (Py_ssize_t i = 0; i < count; i++) { /* nothing has run since the first loop */
        PyObject *part = ((Frames *)PyList_GetItem(messages, i))->frames;
        memcpy(to, PyBytes_AsString(part), (size_t)PyBytes_Size(part));
        to += PyBytes_Size(part);
    }
    return frames;
}

/* Set a field; return its old value. */
static PyObject *exchange(PyObject **place, PyObject *value)
{
    PyObject *old = *place;
    *place = Py_NewRef(value);
    return old;
}

/* Return whether freeing a value runs no Python code. */
static int is_number(PyObject *value)
{
    return value == NULL || PyLong_CheckExact(value);
}

/* Append an outbox that the caller must flush to `left`, now or with the queue. */
static int leave_outbox(State *state, Queue *queue, OutboxState *outbox, PyObject **left)
{
    if (queue->batch == NULL)
        return append_pair(left, (PyObject *)outbox, Py_NewRef(Py_None));
    queue_add(queue, outbox, NULL, NULL);
    return queue->count < BATCH_SIZE ? 0 : queue_send(state, queue, left, 1);
}

/* Send the messages of an outbox, now or with the queue. Append a pair to `left` if the caller must
 * flush the outbox (with None), or send the rest. Return 0, or -1 on failure. */
static int flush_outbox(State *state, Queue *queue, OutboxState *outbox, PyObject **left)
{
    PyObject *try_send = outbox->try_send, *pending = outbox->pending, *frames;
    int is_direct = try_send != NULL && Py_TYPE(try_send) == state->sender_type &&
        outbox->unsent == state->zero && is_number(outbox->pending_size) &&
        is_number(outbox->pending_count);
    if (is_direct && pending == state->empty)
        return 0;
    if (!is_direct || pending == NULL || !PyList_Check(pending) || PyList_Size(pending) == 0)
        return leave_outbox(state, queue, outbox, left);
    if ((frames = join_messages(state, pending)) == NULL) /* the caller reports it */
        return leave_outbox(state, queue, outbox, left);
    Py_XDECREF(exchange(&outbox->pending_size, state->zero));
    Py_XDECREF(exchange(&outbox->pending_count, state->zero));
    pending = exchange(&outbox->pending, state->empty);
    int fd = ((Sender *)try_send)->fd, failed = 0;
    if (queue->batch != NULL) { /* also if closed: sending to -1 fails */
        queue_add(queue, outbox, frames, pending);
        return queue->count < BATCH_SIZE ? 0 : queue_send(state, queue, left, 1);
    }
    const char *bytes = PyBytes_AsString(frames);
    Py_ssize_t size = PyBytes_Size(frames);
    ssize_t sent = fd < 0 ? 0 : send_bytes(fd, bytes, size);
    if (sent < 0) /* the transport detects a lost connection */
        sent = 0;
    if (sent < size)
        failed = append_pair(left, (PyObject *)outbox,
                             PyBytes_FromStringAndSize(bytes + sent, size - sent));
    Py_DECREF(frames);
    Py_DECREF(pending);
    return failed;
}

PyDoc_STRVAR(flush_all_doc,
             "flush_all(outboxes, /)\n--\n\n"
             "Send the messages of a list of outboxes; return those that are left to the caller.");

static PyObject *flush_all(PyObject *module, PyObject *outboxes)
{
    State *state = state_of(module);
    if (!PyList_Check(outboxes)) {
        PyErr_SetString(PyExc_TypeError, "flush_all() takes a list");
        return NULL;
    }
    PyObject *left = PyList_New(0);
    if (left == NULL)
        return NULL;
    Queue queue;
    queue.batch = batch_for(state, PyList_Size(outboxes));
    queue.count = 0;
    int failed = 0;
    for (Py_ssize_t i = 0; i < PyList_Size(outboxes) && !failed; i++) {
        PyObject *item = PyList_GetItem(outboxes, i);
        if (!PyObject_TypeCheck(item, state->outbox_type)) {
            if ((failed = queue_send(state, &queue, &left, 1)) == 0)
                PyErr_SetString(PyExc_TypeError, "not an outbox");
            failed = -1;
            break;
        }
        Py_INCREF(item);
        failed = flush_outbox(state, &queue, (OutboxState *)item, &left);
        Py_DECREF(item);
    }
    if (failed || queue_send(state, &queue, &left, 1) < 0) /* after a failure it is empty */
        Py_CLEAR(left);
    return left;
}

/* -- Retained messages ----------------------------------------------------------------------- */

/* The values of a rule: namespace, channels, included, skipped, excluded. */
enum { RULE_SIZE = 5, FIRST_CAPACITY = 64 };

typedef struct {
    PyObject *frames; /* a bytes object */
    PyObject *rule[RULE_SIZE];
    double time;
} Entry;

/* A ring of entries, whose capacity is a power of two. The collector does not visit them: they
 * contain text, bytes and tuples of text only. */
typedef struct {
    PyObject_HEAD
    PyObject *epoch, *now, *number; /* `number` is None for JSON */
    Entry *entries;
    Py_ssize_t capacity, first, count, max_count;
    Py_ssize_t size, max_size;
    long long last, discarded;
    double max_age;
} Ring;

static int ring_init(PyObject *object, PyObject *args, PyObject *keywords)
{
    Ring *self = (Ring *)object;
    PyObject *epoch, *now, *number;
    double max_age;
    Py_ssize_t max_count, max_size;
    if (self->now != NULL || (keywords != NULL && PyDict_Size(keywords) > 0)) {
        PyErr_SetString(PyExc_TypeError, "a ring is initialized once, without keyword arguments");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "SdnnOO:MessageRing", &epoch, &max_age, &max_count, &max_size, &now,
                          &number))
        return -1;
    if (max_count < 1) {
        PyErr_SetString(PyExc_ValueError, "the maximum number of messages is not positive");
        return -1;
    }
    self->epoch = Py_NewRef(epoch);
    self->now = Py_NewRef(now);
    self->number = Py_NewRef(number);
    self->max_age = max_age;
    self->max_count = max_count;
    self->max_size = max_size;
    return 0;
}

static void drop_oldest(Ring *self)
{
    Entry entry = self->entries[self->first];
    self->first = (self->first + 1) & (self->capacity - 1);
    self->count--;
    self->discarded++;
    self->size -= PyBytes_Size(entry.frames);
    /* Last: freeing an object could run code. */
    Py_DECREF(entry.frames);
    for (int i = 0; i < RULE_SIZE; i++)
        Py_DECREF(entry.rule[i]);
}

static void drop_all(Ring *self)
{
    while (self->count > 0)
        drop_oldest(self);
}

/* Make room for one more entry; return 0, or -1 on failure. */
static int grow(Ring *self)
{
    if (self->count < self->capacity)
        return 0;
    Py_ssize_t capacity = self->capacity ? 2 * self->capacity : FIRST_CAPACITY;
    if (capacity > PY_SSIZE_T_MAX / 2 / (Py_ssize_t)sizeof(Entry)) {
        PyErr_NoMemory();
        return -1;
    }
    Entry *entries = PyMem_Malloc((size_t)capacity * sizeof(Entry));
    if (entries == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < self->count; i++)
        entries[i] = self->entries[(self->first + i) & (self->capacity - 1)];
    PyMem_Free(self->entries);
    self->entries = entries;
    self->capacity = capacity;
    self->first = 0;
    return 0;
}

/* Read the clock; return 0, or -1 on failure. Runs Python code. */
static int read_clock(Ring *self, double *now)
{
    if (self->now == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the ring is not initialized");
        return -1;
    }
    PyObject *value = PyObject_CallNoArgs(self->now);
    if (value == NULL)
        return -1;
    *now = PyFloat_AsDouble(value);
    Py_DECREF(value);
    return *now == -1 && PyErr_Occurred() ? -1 : 0;
}

static void drop_excess(Ring *self, double now)
{
    while (self->count > 0 && (self->count > self->max_count || self->size > self->max_size ||
                               self->entries[self->first].time < now - self->max_age))
        drop_oldest(self);
}

/* Append frames and a rule as the message `last` + 1; return 0, or -1 on failure. */
static int append_entry(Ring *self, PyObject *frames, PyObject *const *rule, double now)
{
    if (self->count >= self->max_count)
        drop_oldest(self);
    if (grow(self) < 0)
        return -1;
    Entry *entry = &self->entries[(self->first + self->count) & (self->capacity - 1)];
    entry->frames = Py_NewRef(frames);
    for (int i = 0; i < RULE_SIZE; i++)
        entry->rule[i] = Py_NewRef(rule[i]);
    entry->time = now;
    self->count++;
    self->last++;
    self->size += PyBytes_Size(frames);
    drop_excess(self, now);
    return 0;
}

PyDoc_STRVAR(ring_add_doc,
             "add(message, namespace, channels, included, skipped, excluded, /)\n--\n\n"
             "Number and retain a message; return it with its offset.");

static PyObject *ring_add(PyObject *object, PyTypeObject *type, PyObject *const *args,
                          Py_ssize_t count, PyObject *names)
{
    Ring *self = (Ring *)object;
    State *state = (State *)PyType_GetModuleState(type);
    double now;
    if (count != 1 + RULE_SIZE || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "add() takes a message and its recipients");
        return NULL;
    }
    if (read_clock(self, &now) < 0)
        return NULL;
    PyObject *numbered =
        self->number == Py_None
            ? number_event(state, args[0], self->epoch, self->last + 1)
            : PyObject_CallFunction(self->number, "OOOL", args[1], args[0], self->epoch,
                                    self->last + 1);
    if (numbered == NULL)
        return NULL;
    PyObject *frames = PyObject_TypeCheck(numbered, state->frames_type)
                           ? ((Frames *)numbered)->frames
                           : NULL;
    if (frames == NULL || !PyBytes_Check(frames))
        PyErr_SetString(PyExc_TypeError, "a message has no frames");
    else if (append_entry(self, frames, args + 1, now) == 0)
        return numbered;
    Py_DECREF(numbered);
    return NULL;
}

PyDoc_STRVAR(ring_skip_doc, "skip()\n--\n\nUse a number without a message.");

static PyObject *ring_skip(PyObject *object, PyObject *unused)
{
    Ring *self = (Ring *)object;
    double now;
    (void)unused;
    if (read_clock(self, &now) < 0)
        return NULL;
    PyObject *frames = PyBytes_FromStringAndSize(NULL, 0);
    if (frames == NULL)
        return NULL;
    /* Without a namespace, the message has no recipients. */
    PyObject *const rule[RULE_SIZE] = {Py_None, Py_None, Py_None, Py_None, Py_None};
    int failed = append_entry(self, frames, rule, now);
    Py_DECREF(frames);
    return failed ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(ring_trim_doc, "trim()\n--\n\nDiscard the oldest messages beyond the bounds.");

static PyObject *ring_trim(PyObject *object, PyObject *unused)
{
    double now;
    (void)unused;
    if (read_clock((Ring *)object, &now) < 0)
        return NULL;
    drop_excess((Ring *)object, now);
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(ring_clear_doc,
             "clear()\n--\n\nDiscard all messages and the last number: no position is valid.");

static PyObject *ring_clear(PyObject *object, PyObject *unused)
{
    Ring *self = (Ring *)object;
    (void)unused;
    drop_all(self);
    self->discarded = ++self->last;
    return Py_NewRef(Py_None);
}

/* Return the frames and the recipients of the entry with an index as a tuple. */
static PyObject *entry_tuple(Ring *self, Py_ssize_t index)
{
    Entry entry = self->entries[(self->first + index) & (self->capacity - 1)];
    Py_INCREF(entry.frames);
    for (int i = 0; i < RULE_SIZE; i++)
        Py_INCREF(entry.rule[i]);
    return Py_BuildValue("(NNNNNN)", entry.frames, entry.rule[0], entry.rule[1], entry.rule[2],
                         entry.rule[3], entry.rule[4]);
}

PyDoc_STRVAR(ring_since_doc,
             "since(position, /)\n--\n\n"
             "Return the frames and the recipients of the messages after a position.");

static PyObject *ring_since(PyObject *object, PyObject *position)
{
    Ring *self = (Ring *)object;
    long long number = PyLong_AsLongLong(position);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    PyObject *found = PyList_New(0);
    if (found == NULL)
        return NULL;
    /* A number above `last` has no messages after it. */
    Py_ssize_t start = number >= self->last ? self->count
                       : number > self->discarded ? (Py_ssize_t)(number - self->discarded)
                                                  : 0;
    for (Py_ssize_t i = start; i < self->count; i++) {
        PyObject *item = entry_tuple(self, i);
        if (item == NULL || PyList_Append(found, item) < 0) {
            Py_XDECREF(item);
            Py_DECREF(found);
            return NULL;
        }
        Py_DECREF(item);
    }
    return found;
}

PyDoc_STRVAR(ring_at_doc,
             "at(number, /)\n--\n\nReturn the frames and the recipients of a message.");

static PyObject *ring_at(PyObject *object, PyObject *position)
{
    Ring *self = (Ring *)object;
    long long number = PyLong_AsLongLong(position);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    if (number <= self->discarded || number > self->last) {
        PyErr_SetString(PyExc_IndexError, "the message is not retained");
        return NULL;
    }
    return entry_tuple(self, (Py_ssize_t)(number - self->discarded - 1));
}

static Py_ssize_t ring_length(PyObject *self)
{
    return ((Ring *)self)->count;
}

static int ring_traverse(PyObject *object, visitproc visit, void *arg)
{
    Ring *self = (Ring *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->epoch);
    Py_VISIT(self->now);
    Py_VISIT(self->number);
    return 0;
}

static int ring_drop_references(PyObject *object)
{
    Ring *self = (Ring *)object;
    Py_CLEAR(self->epoch);
    Py_CLEAR(self->now);
    Py_CLEAR(self->number);
    return 0;
}

static void ring_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self); /* before its entries are freed */
    drop_all((Ring *)self);
    PyMem_Free(((Ring *)self)->entries);
    ((Ring *)self)->entries = NULL;
    dealloc(self, ring_drop_references);
}

static PyMethodDef ring_methods[] = {
    {"add", (PyCFunction)(void (*)(void))ring_add, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     ring_add_doc},
    {"at", ring_at, METH_O, ring_at_doc},
    {"clear", ring_clear, METH_NOARGS, ring_clear_doc},
    {"since", ring_since, METH_O, ring_since_doc},
    {"skip", ring_skip, METH_NOARGS, ring_skip_doc},
    {"trim", ring_trim, METH_NOARGS, ring_trim_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef ring_members[] = {
    {"last", T_LONGLONG, offsetof(Ring, last), READONLY, "Number of the last message."},
    {"discarded", T_LONGLONG, offsetof(Ring, discarded), READONLY,
     "Number of the last message that is no longer retained."},
    {"size", T_PYSSIZET, offsetof(Ring, size), READONLY, "Bytes of the retained messages."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot ring_slots[] = {
    {Py_tp_doc, "Retained messages with their recipients, within bounds."},
    {Py_tp_init, ring_init},
    {Py_tp_traverse, ring_traverse},
    {Py_tp_clear, ring_drop_references},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_methods, ring_methods},
    {Py_tp_members, ring_members},
    {Py_sq_length, ring_length},
    {0, NULL},
};

static PyType_Spec ring_spec = {
    .name = "webpy_socketio.engine.io._native.MessageRing",
    .basicsize = sizeof(Ring),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = ring_slots,
};

/* -- The module ------------------------------------------------------------------------------ */

static PyMethodDef functions[] = {
    {"add_offset", (PyCFunction)(void (*)(void))add_offset, METH_FASTCALL, add_offset_doc},
    {"close_sender", close_sender, METH_O, close_sender_doc},
    {"encode", (PyCFunction)(void (*)(void))encode, METH_FASTCALL, encode_doc},
    {"flush_all", flush_all, METH_O, flush_all_doc},
    {"read_events", (PyCFunction)(void (*)(void))read_events, METH_FASTCALL, read_events_doc},
    {"send_to_all", (PyCFunction)(void (*)(void))send_to_all, METH_FASTCALL, send_to_all_doc},
    {NULL, NULL, 0, NULL},
};

/* Create a type and add it to the module as `name`; return a new reference. */
static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec, const char *name)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL && PyModule_AddObjectRef(module, name, type) < 0)
        Py_CLEAR(type);
    return (PyTypeObject *)type;
}

static int execute(PyObject *module)
{
    State *state = state_of(module);
    if ((state->frames_type = add_type(module, &frames_spec, "Frames")) == NULL ||
        (state->ring_type = add_type(module, &ring_spec, "MessageRing")) == NULL ||
        (state->sender_type = add_type(module, &sender_spec, "open_sender")) == NULL ||
        (state->outbox_type = add_type(module, &outbox_spec, "OutboxState")) == NULL ||
        (state->empty = PyTuple_New(0)) == NULL || (state->zero = PyLong_FromLong(0)) == NULL)
        return -1;
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = state_of(module);
    Py_VISIT(state->frames_type);
    Py_VISIT(state->ring_type);
    Py_VISIT(state->sender_type);
    Py_VISIT(state->outbox_type);
    Py_VISIT(state->empty);
    Py_VISIT(state->zero);
    return 0;
}

static int module_clear(PyObject *module)
{
    State *state = state_of(module);
    Py_CLEAR(state->frames_type);
    Py_CLEAR(state->ring_type);
    Py_CLEAR(state->sender_type);
    Py_CLEAR(state->outbox_type);
    Py_CLEAR(state->empty);
    Py_CLEAR(state->zero);
    return 0;
}

static void module_free(void *module)
{
    module_clear((PyObject *)module);
    batch_close(state_of((PyObject *)module)->batch);
    state_of((PyObject *)module)->batch = NULL;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, execute},
    {0, NULL},
};

static struct PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The native core; see webpy_socketio.engine.io.native.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&native_module);
}
