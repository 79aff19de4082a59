/* The lower bound: a server that does nothing but the `send`s.  c_sends [port]
 *
 * It answers handshakes and orders with fixed strings, knows the one key that the load's clients
 * use, and stores only which clients are connected. A broadcast is one prepared frame, and one
 * send() of it to each socket per iteration; ten messages are ten frames in one send(). Each
 * iteration begins with epoll_wait, as in an event loop.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define UPGRADED                                                                                  \
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"           \
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
#define OPEN                                                                                      \
    "0{\"sid\":\"s\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000,"               \
    "\"maxPayload\":1000000}"

struct client {
    int fd, place; /* in `members`, or -1 */
    bool upgraded;
    size_t have;
    unsigned char bytes[1024];
};

static struct client **members; /* subscribed clients */
static int count, room, epoll;

/* The current broadcast. */
static struct client *orderer;
static int turns, order_id;
static char *burst;
static size_t burst_length;

static void die(const char *what)
{
    fprintf(stderr, "c_sends: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void send_all(int fd, const char *bytes, size_t length)
{
    while (length) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent > 0) {
            bytes += sent;
            length -= (size_t)sent;
        } else if (sent < 0 && errno == EAGAIN) {
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
        } else {
            return; /* closed, which recv will report */
        }
    }
}

static size_t frame(char *out, const char *text, size_t length)
{
    size_t at = 0;
    out[at++] = (char)0x81;
    if (length < 126) {
        out[at++] = (char)length;
    } else if (length < 65536) {
        out[at++] = 126;
        out[at++] = (char)(length >> 8);
        out[at++] = (char)length;
    } else {
        out[at++] = 127;
        for (int shift = 56; shift >= 0; shift -= 8)
            out[at++] = (char)((uint64_t)length >> shift);
    }
    memcpy(out + at, text, length);
    return at + length;
}

static void say(struct client *client, const char *text)
{
    char out[512];
    send_all(client->fd, out, frame(out, text, strlen(text)));
}

static void leave(struct client *client)
{
    if (client->place < 0)
        return;
    members[client->place] = members[--count];
    members[client->place]->place = client->place;
    client->place = -1;
}

static void enter(struct client *client)
{
    if (client->place >= 0)
        return;
    if (count == room && !(members = realloc(members, (size_t)(room += 1024) * sizeof *members)))
        die("memory");
    client->place = count;
    members[count++] = client;
}

static void gone(struct client *client)
{
    leave(client);
    close(client->fd);
    free(client);
}

static void prepare(int per_turn, int size)
{
    char *text = malloc((size_t)size + 32);
    free(burst);
    burst = malloc((size_t)per_turn * ((size_t)size + 64));
    if (!text || !burst)
        die("memory");
    int at = sprintf(text, "42[\"message\",\"");
    memset(text + at, 'x', (size_t)size);
    at += size;
    at += sprintf(text + at, "\"]");
    burst_length = 0;
    for (int i = 0; i < per_turn; i++)
        burst_length += frame(burst + burst_length, text, (size_t)at);
    free(text);
}

/* A Socket.IO event, "2<id>[...", as sent by the load's clients. */
static void event(struct client *client, char *packet)
{
    char answer[256];
    int id = atoi(packet + 1), messages, per_turn, size;
    char *arguments = strchr(packet, '[');
    if (!arguments)
        return;
    if (!strncmp(arguments, "[\"message\",", 11)) {
        snprintf(answer, sizeof answer, "43%d[%s", id, arguments + 11);
        say(client, answer);
    } else if (sscanf(arguments, "[\"go\",{\"count\":%d,\"per_turn\":%d,\"size\":%d", &messages,
                      &per_turn, &size) == 3) {
        prepare(per_turn, size);
        orderer = client;
        order_id = id;
        turns = messages / per_turn;
    } else {
        if (!strncmp(arguments, "[\"__subscribe__\"", 16))
            enter(client);
        else if (!strncmp(arguments, "[\"__unsubscribe__\"", 18))
            leave(client);
        snprintf(answer, sizeof answer, "43%d[{\"ok\":true}]", id);
        say(client, answer);
    }
}

/* Handle all complete frames; returns whether the client is still connected. */
static bool handle(struct client *client)
{
    unsigned char *bytes = client->bytes;
    if (!client->upgraded) {
        if (!memmem(bytes, client->have, "\r\n\r\n", 4))
            return true;
        client->upgraded = true;
        client->have = 0;
        char out[512];
        size_t length = strlen(UPGRADED);
        memcpy(out, UPGRADED, length);
        length += frame(out + length, OPEN, strlen(OPEN));
        send_all(client->fd, out, length);
        return true;
    }
    size_t at = 0;
    while (client->have - at >= 6) {
        size_t length = bytes[at + 1] & 0x7f, head = 6;
        if (length == 126) {
            if (client->have - at < 8)
                break;
            length = (size_t)bytes[at + 2] << 8 | bytes[at + 3];
            head = 8;
        }
        if (client->have - at < head + length)
            break;
        char text[1024];
        for (size_t i = 0; i < length; i++)
            text[i] = (char)(bytes[at + head + i] ^ bytes[at + head - 4 + i % 4]);
        text[length] = 0;
        if ((bytes[at] & 0x0f) == 8)
            return false;
        at += head + length;
        if (!strcmp(text, "40"))
            say(client, "40{\"sid\":\"s\"}");
        else if (!strncmp(text, "42", 2))
            event(client, text + 1);
    }
    memmove(bytes, bytes + at, client->have - at);
    client->have -= at;
    return true;
}

static void readable(struct client *client)
{
    ssize_t got = recv(client->fd, client->bytes + client->have,
                       sizeof client->bytes - client->have - 1, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got > 0)
        client->have += (size_t)got;
    if (got <= 0 || !handle(client))
        gone(client);
}

static void turn(void)
{
    for (int i = 0; i < count; i++)
        send_all(members[i]->fd, burst, burst_length);
    if (!--turns) {
        char answer[32];
        snprintf(answer, sizeof answer, "43%d[]", order_id);
        say(orderer, answer);
    }
}

static void arrive(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), on = 1;
    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct client *client = calloc(1, sizeof *client);
    if (!client)
        die("memory");
    client->fd = fd;
    client->place = -1;
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = client};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &interest) < 0)
        die("epoll");
}

int main(int argc, char **argv)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(argc > 1 ? (uint16_t)atoi(argv[1]) : 0),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listener, (struct sockaddr *)&address, length) < 0 || listen(listener, 2048) < 0)
        die("cannot listen");
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    epoll = epoll_create1(0);
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &interest);
    for (;;) {
        struct epoll_event events[256];
        int ready = epoll_wait(epoll, events, 256, turns ? 0 : -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr)
                readable(events[i].data.ptr);
            else
                arrive(listener);
        }
        if (turns)
            turn();
    }
}
