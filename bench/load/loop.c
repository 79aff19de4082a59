/* The event loop. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

int server_port;

double idled;

static int epoll = -1;
static bool running;

static void control(struct source *source, int operation, uint32_t events)
{
    if (epoll < 0 && (epoll = epoll_create1(0)) < 0)
        die("epoll: %s", strerror(errno));
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (epoll_ctl(epoll, operation, source->fd, &event) < 0)
        die("epoll: %s", strerror(errno));
}

void watch(struct source *source, uint32_t events)
{
    control(source, EPOLL_CTL_ADD, events);
}

void rewatch(struct source *source, uint32_t events)
{
    control(source, EPOLL_CTL_MOD, events);
}

/* Returns whether stop() was called before `end`. Never sleeps: otherwise the server's `send` wakes
 * the load, at the server's expense. This takes 2 us on a kernel where the whole `send` takes 6, and
 * happens more often for slow servers. */
static bool run_until(double end)
{
    struct epoll_event events[512];
    running = true;
    for (double moment = now(); running;) {
        if (moment >= end)
            return false;
        int count = epoll_wait(epoll, events, 512, 0);
        if (count < 0 && errno != EINTR)
            die("epoll: %s", strerror(errno));
        double asked = moment;
        moment = now();
        if (count <= 0)
            idled += moment - asked;
        for (int i = 0; i < count; i++) {
            struct source *source = events[i].data.ptr;
            source->ready(source, events[i].events);
        }
    }
    return true;
}

void run(double timeout)
{
    if (!run_until(now() + timeout))
        die("the server has not completed an order within %.0f s", timeout);
}

void run_for(double seconds)
{
    run_until(now() + seconds);
}

void stop(void)
{
    running = false;
}

int dial(void)
{
    static unsigned dialled;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0)
        die("no more sockets: %s", strerror(errno));
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* Choose the port on connect: it must be unused for this pair of addresses only. */
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    struct sockaddr_in here = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + dialled++ % 100)};
    struct sockaddr_in there = {.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)server_port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (struct sockaddr *)&here, sizeof here) < 0)
        die("bind: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&there, sizeof there) < 0 && errno != EINPROGRESS)
        die("connect: %s", strerror(errno));
    return fd;
}

void send_all(int fd, const void *bytes, size_t length)
{
    ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
    if (sent < 0 || (size_t)sent < length)
        die("the server does not read: %s", sent < 0 ? strerror(errno) : "the send buffer is full");
}
