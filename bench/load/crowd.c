/* Many clients, and the controller, which gives the server its orders. */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Connections that are being opened at once; a server's backlog is not endless. */
#define AT_ONCE 50

/* Seconds that may pass without an opening being over. */
#define PATIENCE 30

struct client controller;

static struct client *members;
static int next, last, standing, subscriptions;
static int *missing; /* acknowledgements that each member waits for */
static void (*heard_later)(struct client *, const char *, size_t);

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
        return; /* a message already: somebody else is further */
    if (!memmem(packet, length, "\"ok\":true", 9) && !memmem(packet, length, "\"ok\": true", 10))
        die("the server refused a subscription: %.*s", (int)length, packet);
    if (--missing[client->number])
        return;
    client->heard = heard_later;
    standing++;
    open_next();
    stop();
}

static void subscribe(struct client *client)
{
    char packet[128];
    int count = missing[client->number] = subscriptions ? subscriptions : 1;
    client->heard = subscribed;
    for (int i = 0; i < count; i++) {
        if (subscriptions)
            snprintf(packet, sizeof packet, "42%d[\"__subscribe__\",\"bench-%d-%d\"]", i, i,
                     client->number);
        else
            snprintf(packet, sizeof packet, "420[\"__subscribe__\",\"bench\"]");
        client_say(client, packet);
    }
}

void crowd_open(struct client *clients, int from, int to, int channels,
                void (*heard)(struct client *, const char *, size_t))
{
    members = clients;
    next = from;
    last = to;
    standing = from;
    subscriptions = channels;
    heard_later = heard;
    missing = calloc((size_t)to, sizeof *missing);
    for (int i = from; i < to; i++) {
        clients[i].number = i;
        clients[i].joined = subscribe;
    }
    for (int i = 0; i < AT_ONCE; i++)
        open_next();
    while (standing < to)
        run(PATIENCE);
    free(missing);
}

/* -- the controller ---------------------------------------------------------------------------- */

static char answer[512];
static void (*when_acknowledged)(void);

static void controller_joined(struct client *client)
{
    (void)client;
    stop();
}

static void controller_heard(struct client *client, const char *packet, size_t length)
{
    (void)client;
    if (length < 3 || memcmp(packet, "43", 2))
        die("not an acknowledgement: %.*s", (int)length, packet);
    snprintf(answer, sizeof answer, "%.*s", (int)(length - 3), packet + 3);
    when_acknowledged();
}

void controller_open(void)
{
    controller.joined = controller_joined;
    controller.heard = controller_heard;
    controller.number = -1;
    client_open(&controller);
    run(PATIENCE);
}

void order(const char *event, const char *json, void (*acknowledged)(void))
{
    char packet[512];
    when_acknowledged = acknowledged;
    snprintf(packet, sizeof packet, "427[\"%s\",%s]", event, json);
    client_say(&controller, packet);
}

const char *call(const char *event, const char *json, double patience)
{
    order(event, json, stop);
    run(patience);
    return answer;
}
