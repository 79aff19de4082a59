/* A Socket.IO client over a WebSocket: the subset of the protocols that the workloads use. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* Bytes of a long frame's payload that are processed: the rest is counted and skipped. */
#define HEAD 4096

enum { CONTINUATION, TEXT, BINARY, CLOSE = 8, PING, PONG };

static char buffer[1 << 18]; /* receive buffer, shared by all clients: only one reads at a time */

static void send_frame(struct client *client, int opcode, const char *payload, size_t length)
{
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    unsigned char frame[4096];
    size_t at = 0;
    if (length + 8 > sizeof frame)
        die("a message of %zu bytes exceeds the limit of this client", length);
    frame[at++] = (unsigned char)(0x80 | opcode);
    if (length < 126) {
        frame[at++] = (unsigned char)(0x80 | length);
    } else {
        frame[at++] = 0x80 | 126;
        frame[at++] = (unsigned char)(length >> 8);
        frame[at++] = (unsigned char)length;
    }
    memcpy(frame + at, mask, 4);
    at += 4;
    for (size_t i = 0; i < length; i++)
        frame[at++] = (unsigned char)payload[i] ^ mask[i % 4];
    send_all(client->source.fd, frame, at);
}

void client_send(struct client *client, const char *packet)
{
    send_frame(client, TEXT, packet, strlen(packet));
}

void client_close(struct client *client, bool disconnect_first)
{
    if (disconnect_first)
        client_send(client, "41");
    send_frame(client, CLOSE, "\x03\xe9", 2); /* 1001: going away */
    client->stage = LEAVING;
}

void client_lose(struct client *client)
{
    close(client->source.fd);
    free(client->rest);
    client->rest = NULL;
    client->rest_length = client->skipping = 0;
    client->stage = GONE;
}

static void end(struct client *client)
{
    if (client->stage != LEAVING)
        die("the server closed connection %d", client->number);
    client_lose(client);
    if (client->closed)
        client->closed(client);
}

static void packet(struct client *client, const char *text, size_t length)
{
    switch (length ? text[0] : 0) {
    case '0': {
        char connect[512];
        snprintf(connect, sizeof connect, "40%s", client->auth ? client->auth : "");
        client_send(client, connect);
        client->stage = JOINING;
        break;
    }
    case '2':
        if (client->stage != LEAVING)
            client_send(client, "3");
        break;
    case '4':
        if (length < 2 || text[1] == '4')
            die("the server rejected the connection: %.*s", (int)length, text);
        if (text[1] == '0') {
            client->stage = READY;
            if (client->accepted)
                client->accepted(client, text, length);
            client->connected(client);
        } else if (client->stage == READY) {
            client->received(client, text, length);
        }
        break;
    case '6':
        break;
    default:
        if (client->stage != LEAVING)
            die("unexpected packet: %.*s", (int)(length < 80 ? length : 80), text);
    }
}

/* Handle one frame; returns the number of bytes used, or 0 if it is incomplete. */
static size_t frame(struct client *client, const unsigned char *bytes, size_t available)
{
    if (available < 2)
        return 0;
    size_t head = 2, length = bytes[1];
    if (length == 126)
        head = 4;
    else if (length == 127)
        head = 10;
    if (available < head)
        return 0;
    if (head > 2) {
        length = 0;
        for (size_t i = 2; i < head; i++)
            length = length << 8 | bytes[i];
    }
    size_t wanted = length < HEAD ? length : HEAD;
    if (available < head + wanted)
        return 0;
    if (!(bytes[0] & 0x80))
        die("fragmented messages are not supported");

    const char *payload = (const char *)bytes + head;
    switch (bytes[0] & 0x0f) {
    case TEXT:
        packet(client, payload, wanted);
        break;
    case CLOSE:
        if (client->stage != LEAVING)
            die("the server closed connection %d with a frame", client->number);
        break;
    case PING:
        if (client->stage != LEAVING)
            send_frame(client, PONG, payload, wanted);
        break;
    case PONG:
        break;
    default:
        die("unexpected frame: %02x", bytes[0]);
    }
    if (client->stage == GONE)
        return available;
    client->skipping = length - wanted;
    return head + wanted;
}

static size_t upgraded(struct client *client, const char *bytes, size_t available)
{
    const char *end = memmem(bytes, available, "\r\n\r\n", 4);
    if (!end)
        return 0;
    if (available < 12 || memcmp(bytes, "HTTP/1.1 101", 12))
        die("the upgrade failed: %.*s", (int)(end - bytes), bytes);
    client->stage = OPENING;
    return (size_t)(end - bytes) + 4;
}

static void ready(struct source *source, uint32_t events)
{
    struct client *client = (struct client *)source;
    if (events & EPOLLOUT) { /* connected */
        char request[512];
        int length = snprintf(
            request, sizeof request,
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nOrigin: http://127.0.0.1:%d\r\n"
            "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0\r\n"
            "Accept-Language: en-GB,en;q=0.9\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            server_port, server_port);
        send_all(source->fd, request, (size_t)length);
        rewatch(source, EPOLLIN);
        return;
    }

    size_t have = client->rest_length;
    if (have) {
        memcpy(buffer, client->rest, have);
        client->rest_length = 0;
    }
    ssize_t count = recv(source->fd, buffer + have, sizeof buffer - have, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        count = 0;
    else if (count <= 0) {
        end(client);
        return;
    }
    have += (size_t)count;

    size_t at = 0;
    while (at < have) {
        size_t used;
        if (client->skipping) {
            used = client->skipping < have - at ? client->skipping : have - at;
            client->skipping -= used;
        } else if (client->stage == UPGRADING) {
            used = upgraded(client, buffer + at, have - at);
        } else {
            used = frame(client, (unsigned char *)buffer + at, have - at);
        }
        if (client->stage == GONE)
            return;
        if (!used)
            break;
        at += used;
    }
    if (at < have) {
        if (have - at > HEAD + 10)
            die("a frame or response exceeds the limit");
        if (!client->rest && !(client->rest = malloc(HEAD + 10)))
            die("no memory");
        memcpy(client->rest, buffer + at, have - at);
        client->rest_length = have - at;
    } else if (client->rest) {
        free(client->rest);
        client->rest = NULL;
    }
}

void client_open(struct client *client)
{
    client->stage = UPGRADING;
    client->source = (struct source){dial(), ready};
    watch(&client->source, EPOLLOUT);
}
