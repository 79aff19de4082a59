/* A Socket.IO client over HTTP long-polling: one connection for GET, one for POST. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct session;

/* An HTTP connection. */
struct http {
    struct source source;
    struct session *session;
    bool connected, lasting;
    char request[1024], response[8192];
    size_t requested, have;
    void (*answered)(struct session *, const char *body, size_t length);
};

struct session {
    struct http waiting, sending;
    char sid[128];
    bool acknowledged, sent; /* state of the current message */
};

static void http_ready(struct source *source, uint32_t events);

static void http_send(struct http *http)
{
    if (http->source.fd < 0) {
        http->source = (struct source){dial(), http_ready};
        http->connected = false;
        watch(&http->source, EPOLLOUT);
    } else if (http->connected) {
        send_all(http->source.fd, http->request, http->requested);
    }
}

static void http_close(struct http *http)
{
    if (http->source.fd >= 0)
        close(http->source.fd);
    http->source.fd = -1;
    http->have = 0;
}

/* Send a GET, or a POST with a body; `answered` receives the body of the response. */
static void http_request(struct session *session, struct http *http, const char *body,
                void (*answered)(struct session *, const char *, size_t))
{
    char content[96] = "";
    if (body)
        snprintf(content, sizeof content,
                 "Content-Type: text/plain;charset=UTF-8\r\nContent-Length: %zu\r\n", strlen(body));
    http->session = session;
    http->answered = answered;
    http->requested = (size_t)snprintf(
        http->request, sizeof http->request,
        "%s /socket.io/?EIO=4&transport=polling%s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0\r\n"
        "Accept: */*\r\nAccept-Language: en-GB,en;q=0.9\r\n%s\r\n%s",
        body ? "POST" : "GET", *session->sid ? "&sid=" : "", session->sid, server_port, content,
        body ? body : "");
    http_send(http);
}

/* The value of a header, or NULL. */
static const char *header(const char *head, const char *end, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = head;
         (line = memmem(line, (size_t)(end - line), "\r\n", 2)) && (line += 2) + length < end;)
        if (!strncasecmp(line, name, length) && line[length] == ':')
            return line + length + 1 + strspn(line + length + 1, " ");
    return NULL;
}

/* Append the chunks of a chunked body to `body`; returns its length, or -1 if it is incomplete. */
static ssize_t dechunk(char *from, const char *end, char *body)
{
    size_t length = 0;
    for (;;) {
        char *line = memmem(from, (size_t)(end - from), "\r\n", 2);
        if (!line)
            return -1;
        size_t size = strtoul(from, NULL, 16);
        if ((size_t)(end - line) < 2 + size + 2)
            return -1;
        if (!size)
            return (ssize_t)length;
        memcpy(body + length, line + 2, size);
        length += size;
        from = line + 2 + size + 2;
    }
}

/* Copy the response's body; returns its length, or -1 if the response is incomplete. */
static ssize_t body_of(struct http *http, bool at_end, char *body)
{
    char *end = memmem(http->response, http->have, "\r\n\r\n", 4);
    if (!end)
        return -1;
    if (http->have < 12 || memcmp(http->response + 8, " 200", 4))
        die("unexpected status: %.*s", (int)http->have, http->response);
    const char *connection = header(http->response, end, "connection");
    const char *declared = header(http->response, end, "content-length");
    char *start = end + 4, *limit = http->response + http->have;
    http->lasting = !connection || strncasecmp(connection, "close", 5);
    if (header(http->response, end, "transfer-encoding"))
        return dechunk(start, limit, body);
    if (!declared && !at_end)
        return -1;
    size_t length = declared ? strtoul(declared, NULL, 10) : (size_t)(limit - start);
    if ((size_t)(limit - start) < length)
        return -1;
    memcpy(body, start, length);
    return (ssize_t)length;
}

static void http_ready(struct source *source, uint32_t events)
{
    struct http *http = (struct http *)source;
    if (events & EPOLLOUT) {
        http->connected = true;
        send_all(source->fd, http->request, http->requested);
        rewatch(source, EPOLLIN);
        return;
    }
    ssize_t count = recv(source->fd, http->response + http->have,
                         sizeof http->response - http->have - 1, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count < 0)
        die("a polling connection failed: %s", strerror(errno));
    http->have += (size_t)count;
    http->response[http->have] = 0;
    static char body[sizeof http->response];
    ssize_t length = body_of(http, count == 0, body);
    if (length < 0) {
        if (count == 0 && http->have)
            die("an incomplete response");
        if (count == 0)
            http_close(http); /* the server closed an idle keep-alive connection */
        return;
    }
    body[length] = 0;
    http->have = 0;
    if (!http->lasting)
        http_close(http);
    http->answered(http->session, body, (size_t)length);
}

/* -- handshake --------------------------------------------------------------------------------- */

static void (*when_connected)(struct session *);

static void connected(struct session *session, const char *body, size_t length)
{
    if (length < 2 || memcmp(body, "40", 2))
        die("not connected: %s", body);
    when_connected(session);
}

static void connect_sent(struct session *session, const char *body, size_t length)
{
    (void)body, (void)length;
    http_request(session, &session->waiting, NULL, connected);
}

static void opened(struct session *session, const char *body, size_t length)
{
    (void)length;
    if (sscanf(body, "0{\"sid\":\"%120[^\"]\"", session->sid) != 1 &&
        sscanf(body, "0{\"sid\": \"%120[^\"]\"", session->sid) != 1)
        die("not an open packet: %s", body);
    http_request(session, &session->sending, "40", connect_sent);
}

static void open_session(struct session *session)
{
    *session->sid = 0;
    http_request(session, &session->waiting, NULL, opened);
}

static void run_sessions(int count, double seconds)
{
    struct session *all = calloc((size_t)count, sizeof *all);
    if (!all)
        die("no memory");
    for (int i = 0; i < count; i++) {
        all[i].waiting.source.fd = all[i].sending.source.fd = -1;
        open_session(&all[i]);
    }
    closed_loop(seconds);
}

/* -- messages ---------------------------------------------------------------------------------- */

static void send_message(struct session *session);

static void message_done(struct session *session)
{
    if (session->acknowledged && session->sent) {
        unit_done();
        send_message(session);
    }
}

static void message_sent(struct session *session, const char *body, size_t length)
{
    (void)body, (void)length;
    session->sent = true;
    message_done(session);
}

static void message_received(struct session *session, const char *body, size_t length)
{
    bool pinged = *body == '2' && (length == 1 || body[1] == '\x1e');
    session->acknowledged |= memmem(body, length, "431[\"", 5) != NULL;
    if (pinged)
        die("a ping during a run shorter than the ping interval");
    http_request(session, &session->waiting, NULL, message_received);
    message_done(session);
}

static void send_message(struct session *session)
{
    session->acknowledged = session->sent = false;
    http_request(session, &session->sending,
        "421[\"message\",\"How do you do? Very well, thank you, and yourself?\"]", message_sent);
}

static void subscribed(struct session *session, const char *body, size_t length)
{
    if (!memmem(body, length, "\"ok\":true", 9) && !memmem(body, length, "\"ok\": true", 10))
        die("the server rejected a subscription: %s", body);
    http_request(session, &session->waiting, NULL, message_received);
    send_message(session);
}

static void subscription_sent(struct session *session, const char *body, size_t length)
{
    (void)body, (void)length;
    http_request(session, &session->waiting, NULL, subscribed);
}

static void subscribe(struct session *session)
{
    http_request(session, &session->sending, "420[\"__subscribe__\",\"bench\"]", subscription_sent);
}

void polling_messages(int clients, double seconds)
{
    when_connected = subscribe;
    run_sessions(clients, seconds);
}

/* -- handshakes -------------------------------------------------------------------------------- */

static void session_closed(struct session *session, const char *body, size_t length)
{
    (void)body, (void)length;
    http_close(&session->waiting);
    http_close(&session->sending);
    unit_done();
    open_session(session);
}

static void close_session(struct session *session)
{
    http_request(session, &session->sending, "1", session_closed);
}

void polling_handshakes(int clients, double seconds)
{
    when_connected = close_session;
    run_sessions(clients, seconds);
}
