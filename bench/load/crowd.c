/* Many clients, and the controller, which sends orders to the server. */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Maximum of concurrently opened connections, because a server's backlog is limited. */
#define MAX_CONNECTING 50

/* Seconds within which the next connection must be open. */
#define TIMEOUT 30

struct client controller;
int crowd_share = 1;

static struct client *members;
static int next, last, opened, subscriptions;
static int *missing; /* outstanding acknowledgements of each client */
static void (*received_later)(struct client *, const char *, size_t);

struct client *crowd(int size)
{
    struct client *clients = calloc((size_t)size, sizeof *clients);
    if (!clients)
        die("no memory");
    return clients;
}

static void open_next(void)
{
    if (next < last)
        client_open(&members[next++]);
}

static void subscribed(struct client *client, const char *packet, size_t length)
{
    if (length < 3 || memcmp(packet, "43", 2))
        return; /* a message: other clients are subscribed already */
    if (!memmem(packet, length, "\"ok\":true", 9) && !memmem(packet, length, "\"ok\": true", 10))
        die("the server rejected a subscription: %.*s", (int)length, packet);
    if (--missing[client->number])
        return;
    client->received = received_later;
    opened++;
    open_next();
    stop();
}

static void subscribe(struct client *client)
{
    char packet[128];
    int count = missing[client->number] = subscriptions ? subscriptions : 1;
    client->received = subscribed;
    for (int i = 0; i < count; i++) {
        if (subscriptions)
            snprintf(packet, sizeof packet, "42%d[\"__subscribe__\",\"bench-%d-%d\"]", i, i,
                     client->number / crowd_share);
        else
            snprintf(packet, sizeof packet, "420[\"__subscribe__\",\"bench\"]");
        client_send(client, packet);
    }
}

void crowd_open(struct client *clients, int from, int to, int channels,
                void (*received)(struct client *, const char *, size_t))
{
    members = clients;
    next = from;
    last = to;
    opened = from;
    subscriptions = channels;
    received_later = received;
    missing = calloc((size_t)to, sizeof *missing);
    for (int i = from; i < to; i++) {
        clients[i].number = i;
        clients[i].connected = subscribe;
    }
    for (int i = 0; i < MAX_CONNECTING; i++)
        open_next();
    while (opened < to)
        run(TIMEOUT);
    free(missing);
}

/* -- the controller ---------------------------------------------------------------------------- */

static char answer[512];
static void (*when_acknowledged)(void);

static void controller_connected(struct client *client)
{
    (void)client;
    stop();
}

static void controller_received(struct client *client, const char *packet, size_t length)
{
    (void)client;
    if (length < 3 || memcmp(packet, "43", 2))
        die("not an acknowledgement: %.*s", (int)length, packet);
    snprintf(answer, sizeof answer, "%.*s", (int)(length - 3), packet + 3);
    when_acknowledged();
}

void controller_open(void)
{
    controller.connected = controller_connected;
    controller.received = controller_received;
    controller.number = -1;
    client_open(&controller);
    run(TIMEOUT);
}

void order(const char *event, const char *json, void (*acknowledged)(void))
{
    char packet[512];
    when_acknowledged = acknowledged;
    snprintf(packet, sizeof packet, "427[\"%s\",%s]", event, json);
    client_send(&controller, packet);
}

const char *call(const char *event, const char *json, double timeout)
{
    order(event, json, stop);
    run(timeout);
    return answer;
}
