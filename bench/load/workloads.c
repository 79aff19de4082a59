/* The workloads. Each ends by printing its figures. */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Seconds after which an order to the server fails. */
#define TIMEOUT 60

/* Seconds of warming up, for caches and just-in-time compilers. */
static double warming(void)
{
    return option("warming", 1);
}

/* -- closed loops: each client starts its next unit when the previous one is complete ---------- */

static double warm, over;
static size_t units;
static bool measuring, closed;
static struct window window;

void closed_loop(double seconds)
{
    warm = now() + warming();
    over = warm + seconds;
    run(TIMEOUT);
    if (!measuring)
        die("no unit was completed");
    figures(window, (double)units);
    end_figures();
}

void unit_done(void)
{
    if (closed)
        return;
    double time = now();
    if (measuring) {
        units++;
        if (time >= over) {
            window = window_close(window);
            closed = true;
            stop();
        }
    } else if (time >= warm) {
        window = window_open();
        over = time + over - warm;
        measuring = true;
    }
}

static void nothing(struct client *client, const char *packet, size_t length)
{
    (void)client, (void)packet, (void)length;
}

/* -- acknowledged messages --------------------------------------------------------------------- */

static void send_message(struct client *client)
{
    client_send(client, "421[\"message\",\"How do you do? Very well, thank you, and yourself?\"]");
}

static void message_received(struct client *client, const char *packet, size_t length)
{
    if (length < 5 || memcmp(packet, "431[\"", 5))
        die("not an acknowledgement: %.*s", (int)length, packet);
    unit_done();
    send_message(client);
}

/* 50 clients send; `others` are idle; each of the senders is in `channels` channels. */
static void echo(void)
{
    int talkers = (int)option("clients", 50), others = (int)option("others", 0);
    struct client *clients = crowd(talkers + others);
    crowd_open(clients, talkers, talkers + others, 0, nothing);
    crowd_open(clients, 0, talkers, (int)option("channels", 0), message_received);
    for (int i = 0; i < talkers; i++)
        send_message(&clients[i]);
    closed_loop(option("seconds", 1));
}

/* -- messages to a room, acknowledged ---------------------------------------------------------- */

/* Clients send the event "room" with the name of their room; the server broadcasts to the other
 * members, then acknowledges. Each waits for its acknowledgement before it sends again. */
static size_t room_sent, room_acknowledged, room_messages;
static bool room_closed;

static void send_to_room(struct client *client)
{
    char packet[160];
    snprintf(packet, sizeof packet,
             "421[\"room\",\"bench-0-%d\",\"How do you do? Very well, thank you, and yourself?\"]",
             client->number / crowd_share);
    room_sent++;
    client_send(client, packet);
}

static void room_received(struct client *client, const char *packet, size_t length)
{
    if (length >= 12 && !memcmp(packet, "42[\"message\"", 12)) {
        room_messages++;
        return;
    }
    if (length < 3 || memcmp(packet, "431", 3))
        die("neither a message nor an acknowledgement: %.*s", (int)length, packet);
    room_acknowledged++;
    unit_done();
    if (!room_closed)
        send_to_room(client);
}

/* `rooms` rooms of `members` clients each. */
static void rooms(void)
{
    int size = (int)option("members", 10), count = size * (int)option("rooms", 1);
    struct client *clients = crowd(count);
    crowd_share = size;
    crowd_open(clients, 0, count, 1, room_received);
    for (int i = 0; i < count; i++)
        send_to_room(&clients[i]);
    closed_loop(option("seconds", 1));
    room_closed = true;
    for (double end = now() + TIMEOUT; now() < end; run_for(0.05))
        if (room_acknowledged == room_sent && room_messages == room_sent * (size_t)(size - 1))
            return;
    die("%zu of %zu messages were received", room_messages, room_sent * (size_t)(size - 1));
}

/* -- subscribing and unsubscribing ------------------------------------------------------------- */

static void send_pair(struct client *client, bool second)
{
    char packet[128];
    snprintf(packet, sizeof packet, "42%d[\"%s\",\"room-%d\"]", second ? 2 : 1,
             second ? "__unsubscribe__" : "__subscribe__", client->number % 10);
    client_send(client, packet);
}

static void pair_received(struct client *client, const char *packet, size_t length)
{
    bool second = length > 2 && packet[2] == '2';
    if (length < 3 || memcmp(packet, "43", 2))
        die("not an acknowledgement: %.*s", (int)length, packet);
    if (second)
        unit_done();
    send_pair(client, !second);
}

static void pairs(void)
{
    int count = (int)option("clients", 50);
    struct client *clients = crowd(count);
    crowd_open(clients, 0, count, 0, pair_received);
    for (int i = 0; i < count; i++)
        send_pair(&clients[i], false);
    closed_loop(option("seconds", 1));
}

/* -- connections ------------------------------------------------------------------------------- */

static void close_client(struct client *client)
{
    client_close(client, true);
}

static void reopen(struct client *client)
{
    unit_done();
    client_open(client);
}

static void connects(void)
{
    int count = (int)option("clients", 50);
    struct client *clients = crowd(count);
    for (int i = 0; i < count; i++) {
        clients[i].connected = close_client;
        clients[i].received = nothing;
        clients[i].closed = reopen;
        client_open(&clients[i]);
    }
    closed_loop(option("seconds", 1));
}

/* -- broadcasts -------------------------------------------------------------------------------- */

static size_t delivered, expected;
static bool acknowledged;
static int members;

static void finish_broadcast(void)
{
    if (acknowledged && delivered == expected)
        stop();
}

static void broadcast_received(struct client *client, const char *packet, size_t length)
{
    (void)client;
    if (length < 12 || memcmp(packet, "42[\"message\"", 12))
        die("not a message: %.*s", (int)(length < 80 ? length : 80), packet);
    if (++delivered > expected)
        die("more messages than were sent");
    finish_broadcast();
}

static void all_sent(void)
{
    acknowledged = true;
    finish_broadcast();
}

/* Have the server broadcast `count` messages, and wait until all clients have received them. */
static void go(int count, int per_turn, int size)
{
    char json[128];
    snprintf(json, sizeof json, "{\"count\":%d,\"per_turn\":%d,\"size\":%d}", count, per_turn, size);
    delivered = 0;
    expected = (size_t)count * (size_t)members;
    acknowledged = false;
    order("go", json, all_sent);
    run(TIMEOUT);
}

static int whole_turns(double count, int per_turn, int most)
{
    int turns = (int)((count < most ? count : most) / per_turn);
    return (turns > 1 ? turns : 1) * per_turn;
}

static void broadcast(void)
{
    int per_turn = (int)option("per_turn", 1), size = (int)option("size", 64);
    /* Stay below the limits of queues in servers, which are not part of the measurement. */
    int most = size > 1000 ? 40 : 8000;
    double seconds = option("seconds", 1);
    members = (int)option("clients", 500);
    struct client *clients = crowd(members);
    crowd_open(clients, 0, members, 0, broadcast_received);
    controller_open();
    go(10, per_turn, size);

    double began = now();
    go(20, per_turn, size);
    double rate = 20 / (now() - began);
    go(whole_turns(rate * warming(), per_turn, most), per_turn, size);

    int count = whole_turns(rate * seconds, per_turn, most);
    size_t sent = 0;
    window = window_open();
    do {
        go(count, per_turn, size);
        sent += expected;
    } while (now() - window.wall < seconds * 0.8);
    figures(window_close(window), (double)sent);
    end_figures();
}

/* -- large numbers of clients ------------------------------------------------------------------ */

/* Clients that connect before memory is first read, so that one-time allocations are excluded. */
#define FIRST 500

static double *delays, tick;

static void tick_received(struct client *client, const char *packet, size_t length)
{
    if (delivered < expected)
        delays[delivered] = now() - tick;
    broadcast_received(client, packet, length);
}

static int ascending(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static double settled_memory(void)
{
    call("collect", "0", TIMEOUT); /* exclude garbage */
    run_for(0.5);
    return server_memory();
}

/* Memory per connection, and latency of a broadcast to many clients. */
static void idle(void)
{
    int ticks = (int)option("ticks", 5);
    members = (int)option("clients", 10000);
    struct client *clients = crowd(members);
    controller_open();
    crowd_open(clients, 0, FIRST, 0, tick_received);
    double before = settled_memory();
    crowd_open(clients, FIRST, members, 0, tick_received);
    double after = settled_memory();

    delays = calloc((size_t)members * (size_t)ticks, sizeof *delays);
    if (!delays)
        die("no memory");
    double *all = delays;
    go(1, 1, 64);
    window = window_open();
    for (int i = 0; i < ticks; i++) {
        delays = all + (size_t)i * (size_t)members;
        tick = now();
        go(1, 1, 64);
        run_for(tick + 1 - now());
    }
    window = window_close(window);
    size_t count = (size_t)members * (size_t)ticks;
    qsort(all, count, sizeof *all, ascending);
    figures(window, (double)count);
    figure("bytes", (after - before) / (members - FIRST));
    figure("memory", server_memory());
    figure("p50", all[count / 2]);
    figure("p99", all[count * 99 / 100]);
    figure("max", all[count - 1]);
    end_figures();
}

/* Cost of disconnecting `leaving` of many clients. */
static void disconnects(void)
{
    int count = (int)option("clients", 1000), leaving = (int)option("leaving", 500);
    struct client *clients = crowd(count);
    controller_open();
    crowd_open(clients, 0, count, 0, nothing);
    call("collect", "0", TIMEOUT);

    /* The heartbeats of the other clients are subtracted. */
    struct window idle = window_open();
    run_for(1);
    idle = window_close(idle);

    window = window_open();
    for (int i = 0; i < leaving; i++) {
        client_close(&clients[i], false);
        if (i % 25 == 24)
            run_for(0.001); /* spread the disconnections */
    }
    double end = now() + TIMEOUT;
    while (atoi(call("count", "0", TIMEOUT) + 1) > count - leaving + 1) { /* "[123]" */
        if (now() > end)
            die("the server has not detected closed connections");
        run_for(0.02);
    }
    window = window_close(window);
    window.server -= window.wall * idle.server / idle.wall;
    figures(window, leaving);
    end_figures();
}

/* -- clients that return ----------------------------------------------------------------------- */

/* Maximum of connections that are being opened: below the length of the server's listen queue. */
#define RETURNING 500

struct returning {
    char sid[64], pid[128], offset[64], auth[256];
    int received;
};

static struct returning *returnings;
static struct client *lost;
static int next_return, back, recovered, missed;

/* Copy the text between `before` and the next quotation mark. */
static void copy_text(char *to, size_t size, const char *packet, size_t length, const char *before)
{
    const char *begin = memmem(packet, length, before, strlen(before));
    if (!begin)
        die("%s is missing: %.*s", before, (int)length, packet);
    begin += strlen(before);
    const char *end = memchr(begin, '"', (size_t)(packet + length - begin));
    if (!end || (size_t)(end - begin) >= size)
        die("not understood: %.*s", (int)length, packet);
    snprintf(to, size, "%.*s", (int)(end - begin), begin);
}

static void remember(struct client *client, const char *packet, size_t length)
{
    struct returning *its = &returnings[client->number];
    copy_text(its->sid, sizeof its->sid, packet, length, "\"sid\":\"");
    copy_text(its->pid, sizeof its->pid, packet, length, "\"pid\":\"");
}

static void first_received(struct client *client, const char *packet, size_t length)
{
    copy_text(returnings[client->number].offset, sizeof returnings->offset, packet, length, "x\",\"");
    broadcast_received(client, packet, length);
}

static void recognise(struct client *client, const char *packet, size_t length)
{
    char sid[64];
    copy_text(sid, sizeof sid, packet, length, "\"sid\":\"");
    recovered += !strcmp(sid, returnings[client->number].sid);
}

static void return_next(void)
{
    if (next_return < members)
        client_open(&lost[next_return++]);
}

static void returned(struct client *client)
{
    (void)client;
    return_next();
}

static void missed_received(struct client *client, const char *packet, size_t length)
{
    if (length < 12 || memcmp(packet, "42[\"message\"", 12))
        die("not a message: %.*s", (int)length, packet);
    if (++returnings[client->number].received == missed && ++back == members)
        stop();
}

/* All clients lose their connections, miss some of the messages that are sent in the meantime, and
 * return at once. */
static void returns(void)
{
    char json[128];
    int others = (int)option("others", 1000);
    missed = (int)option("missed", 20);
    members = (int)option("clients", 5000);
    lost = crowd(members);
    returnings = calloc((size_t)members, sizeof *returnings);
    if (!returnings)
        die("no memory");
    for (int i = 0; i < members; i++)
        lost[i].accepted = remember;
    crowd_open(lost, 0, members, 0, first_received);
    controller_open();
    go(1, 1, 64);
    for (int i = 0; i < members; i++) {
        struct returning *its = &returnings[i];
        client_lose(&lost[i]);
        snprintf(its->auth, sizeof its->auth, "{\"pid\":\"%s\",\"offset\":\"%s\"}", its->pid, its->offset);
        lost[i].auth = its->auth;
        lost[i].accepted = recognise;
        lost[i].connected = returned;
        lost[i].received = missed_received;
    }
    run_for(1);
    snprintf(json, sizeof json, "{\"count\":%d,\"per_turn\":1,\"size\":64,\"channel\":\"other\"}", others);
    call("go", json, TIMEOUT);
    snprintf(json, sizeof json, "{\"count\":%d,\"per_turn\":1,\"size\":64}", missed);
    call("go", json, TIMEOUT);
    call("collect", "0", TIMEOUT);

    window = window_open();
    for (int i = 0; i < RETURNING; i++)
        return_next();
    run(TIMEOUT);
    window = window_close(window);
    if (recovered != members)
        die("%d of %d clients were recovered", recovered, members);
    figures(window, members);
    figure("seconds", window.wall);
    end_figures();
}

/* -- two processes ----------------------------------------------------------------------------- */

static double near_at, far_at; /* when the first client of each process received the message */

static void near_received(struct client *client, const char *packet, size_t length)
{
    if (!near_at)
        near_at = now();
    broadcast_received(client, packet, length);
}

static void far_received(struct client *client, const char *packet, size_t length)
{
    if (!far_at)
        far_at = now();
    broadcast_received(client, packet, length);
}

/* Wait until messages reach the other process; lost ones are not counted. */
static void wait_for_relay(void)
{
    double end = now() + TIMEOUT;
    while (!far_at) {
        if (now() > end)
            die("nothing arrives in the other process");
        delivered = 0;
        expected = (size_t)-1;
        order("go", "{\"count\":1,\"per_turn\":1,\"size\":64}", stop);
        run(TIMEOUT);
        run_for(0.2);
    }
    run_for(0.5);
}

/* Broadcasts from one process to clients of both. `port2` and `pid2` belong to the other process. */
static void relay(void)
{
    int each = (int)option("clients", 10), samples = (int)option("samples", 500), first = server_port;
    double seconds = option("seconds", 1);
    struct client *near = crowd(each), *far = crowd(each);
    watch_server((pid_t)option("pid2", 0));
    server_port = (int)option("port2", 0);
    crowd_open(far, 0, each, 0, far_received);
    server_port = first;
    crowd_open(near, 0, each, 0, near_received);
    controller_open();
    wait_for_relay();
    members = 2 * each;

    double began = now();
    go(50, 1, 64);
    double rate = 50 / (now() - began);
    go(whole_turns(rate * warming(), 1, 8000), 1, 64);
    int count = whole_turns(rate * seconds, 1, 8000);
    size_t sent = 0;
    window = window_open();
    do {
        go(count, 1, 64);
        sent += (size_t)count;
    } while (now() - window.wall < seconds * 0.8);
    window = window_close(window);

    delays = calloc((size_t)samples, sizeof *delays);
    if (!delays)
        die("no memory");
    for (int i = 0; i < samples; i++) {
        run_for(0.002); /* one message at a time, so that none is queued */
        near_at = far_at = 0;
        go(1, 1, 64);
        delays[i] = far_at - near_at;
    }
    qsort(delays, (size_t)samples, sizeof *delays, ascending);
    figures(window, (double)sent);
    figure("p50", delays[samples / 2]);
    figure("p99", delays[samples * 99 / 100]);
    end_figures();
}

/* ------------------------------------------------------------------------------------------------ */

static void polling_messages_workload(void)
{
    polling_messages((int)option("clients", 50), option("seconds", 1));
}

static void polling_handshakes_workload(void)
{
    polling_handshakes((int)option("clients", 50), option("seconds", 1));
}

static const struct {
    const char *name;
    void (*run)(void);
} workloads[] = {
    {"broadcast", broadcast},
    {"echo", echo},
    {"pairs", pairs},
    {"rooms", rooms},
    {"connects", connects},
    {"idle", idle},
    {"disconnects", disconnects},
    {"relay", relay},
    {"returns", returns},
    {"polling-messages", polling_messages_workload},
    {"polling-handshakes", polling_handshakes_workload},
};

bool run_workload(const char *name)
{
    for (size_t i = 0; i < sizeof workloads / sizeof *workloads; i++)
        if (!strcmp(workloads[i].name, name)) {
            workloads[i].run();
            return true;
        }
    return false;
}
