/* calls: how often a process asks the kernel about its sockets.
 *
 * It stands before the C library (LD_PRELOAD), so it sees every caller: Python's socket module, the
 * relay's compiled parts, and the event loop. The rule: it counts and changes nothing. Only one
 * thread of what is measured has sockets, so plain counters will do.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>

enum { RECV, SEND, CONTROL, KINDS };

static unsigned long long calls[KINDS];
static int counting;

void
bench_calls_count(int on)
{
    counting = on;
}

void
bench_calls_take(unsigned long long *into)
{
    for (int kind = 0; kind < KINDS; kind++) {
        into[kind] = calls[kind];
        calls[kind] = 0;
    }
}

#define COUNTED(kind, type, name, parameters, arguments)                                           \
    type name parameters                                                                           \
    {                                                                                              \
        static type(*real) parameters;                                                             \
        if (real == NULL)                                                                          \
            real = (type(*) parameters)dlsym(RTLD_NEXT, #name);                                    \
        if (counting)                                                                              \
            calls[kind]++;                                                                         \
        return real arguments;                                                                     \
    }

COUNTED(RECV, ssize_t, recv, (int fd, void *data, size_t size, int flags), (fd, data, size, flags))
COUNTED(RECV, ssize_t, recvfrom,
        (int fd, void *data, size_t size, int flags, struct sockaddr *from, socklen_t *length),
        (fd, data, size, flags, from, length))
COUNTED(RECV, ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
COUNTED(SEND, ssize_t, send, (int fd, const void *data, size_t size, int flags),
        (fd, data, size, flags))
COUNTED(SEND, ssize_t, sendto,
        (int fd, const void *data, size_t size, int flags, const struct sockaddr *to,
         socklen_t length),
        (fd, data, size, flags, to, length))
COUNTED(SEND, ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags),
        (fd, message, flags))
COUNTED(CONTROL, int, epoll_ctl, (int epfd, int what, int fd, struct epoll_event *event),
        (epfd, what, fd, event))
