/* The load: many Socket.IO clients in one thread, and the clocks that measure the server.
 *
 *   clock.c    what time it is, here and in the server; windows of measurement
 *   loop.c     the event loop (epoll)
 *   client.c   a Socket.IO client over a WebSocket
 *   crowd.c    many of them, and the controller, which gives the server its orders
 *   polling.c  a Socket.IO client over HTTP long-polling
 *   works.c    what is measured; each work ends by printing its figures
 *   main.c     the command line
 *
 * It is a measuring instrument: whatever is not as expected ends it, with a sentence on standard
 * error and status 1. No figure comes out of a run that was not whole.
 */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* -- clock.c ----------------------------------------------------------------------------------- */

/* End with a sentence on standard error; printf's arguments. */
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

double now(void); /* seconds, CLOCK_MONOTONIC */

void watch_server(pid_t pid);   /* whose CPU time and memory are measured; several: their sums */
double server_memory(void);     /* resident bytes of the server */

/* What passed between two moments, in seconds; `own` is the time in which there was work to do. */
struct window {
    double wall, server, own;
};

struct window window_open(void);
struct window window_close(struct window opened);

/* Print one figure; `end_figures` ends the line. The line is a JSON object. */
void figure(const char *name, double value);
void figures(struct window window, double units);
void end_figures(void);

/* -- loop.c ------------------------------------------------------------------------------------ */

/* Something with a descriptor; the first member of whatever waits for readiness. */
struct source {
    int fd;
    void (*ready)(struct source *, uint32_t events);
};

void watch(struct source *source, uint32_t events);
void rewatch(struct source *source, uint32_t events);

void run(double patience); /* until stop() is called; `patience` seconds without it end the program */
void run_for(double seconds);
void stop(void);
extern double idled; /* seconds for which there was nothing to do */

/* Begin to connect to the server; returns the descriptor. Addresses are varied: one alone has not
 * enough ports. */
int dial(void);
extern int server_port;

/* Send all of it at once: what we say is short, and the buffer of a socket is not. */
void say(int fd, const void *bytes, size_t length);

/* -- client.c ---------------------------------------------------------------------------------- */

enum stage { UPGRADING, OPENING, JOINING, READY, LEAVING, GONE };

struct client {
    struct source source;
    enum stage stage;
    int number;                   /* for whoever made it */
    void (*joined)(struct client *);                             /* the connection stands */
    void (*heard)(struct client *, const char *packet, size_t);  /* an event or acknowledgement */
    void (*gone)(struct client *);                               /* over, as asked by `leave` */
    char *rest;                   /* of what came: the part that is not whole yet */
    size_t rest_length, skipping; /* bytes of a long frame's payload that are still to come */
};

void client_open(struct client *client);
void client_say(struct client *client, const char *packet); /* an Engine.IO packet, as a frame */
void client_leave(struct client *client, bool politely);     /* Socket.IO's farewell before the frame's */

/* -- crowd.c ----------------------------------------------------------------------------------- */

/* The one that gives orders. It is in no channel. */
extern struct client controller;

struct client *crowd(int size); /* allocate */

/* Open clients[from..to), a few at a time, each subscribed to `channels` channels that end in
 * the client's number, or to the one named "bench" if that is 0; `heard` hears all that follows. */
void crowd_open(struct client *clients, int from, int to, int channels,
                void (*heard)(struct client *, const char *, size_t));
void controller_open(void);

/* Send an event of the controller's and wait for its acknowledgement; returns its arguments. */
const char *call(const char *event, const char *json, double patience);
/* The same without waiting: `acknowledged` tells. */
void order(const char *event, const char *json, void (*acknowledged)(void));

/* -- polling.c --------------------------------------------------------------------------------- */

void polling_messages(int clients, double seconds);
void polling_handshakes(int clients, double seconds);

/* -- works.c ----------------------------------------------------------------------------------- */

/* Closed loops: each unit that is done is told here. Warms up, measures, stops the loop. */
void closed_loop(double seconds);
void unit_done(void);

double option(const char *name, double otherwise); /* of the command line, name=value */
bool work(const char *name);                       /* false: there is none of that name */

#endif
