/* The load: many Socket.IO clients in one thread, and the clocks that measure the server.
 *
 *   clock.c      clocks of the load and of the servers; measurement windows
 *   loop.c       the event loop (epoll)
 *   client.c     a Socket.IO client over a WebSocket
 *   crowd.c      many clients, and the controller, which sends orders to the server
 *   polling.c    a Socket.IO client over HTTP long-polling
 *   workloads.c  the workloads; each ends by printing its figures
 *   main.c       the command line
 *
 * Anything unexpected ends the program with a message on standard error and status 1: an incomplete
 * run yields no figures.
 */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* -- clock.c ----------------------------------------------------------------------------------- */

/* Print a message on standard error and exit; arguments as for printf. */
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

double now(void); /* seconds, CLOCK_MONOTONIC */

void watch_server(pid_t pid);   /* add a process whose CPU time and memory are measured */
double server_memory(void);     /* resident bytes of the servers */

/* Differences between two moments, in seconds; `own` is the time in which the load was busy. */
struct window {
    double wall, server, own;
};

struct window window_open(void);
struct window window_close(struct window opened);

/* Print a figure as a member of a JSON object; `end_figures` ends the object. */
void figure(const char *name, double value);
void figures(struct window window, double units);
void end_figures(void);

/* -- loop.c ------------------------------------------------------------------------------------ */

/* A watched descriptor; the first member of structures that wait for readiness. */
struct source {
    int fd;
    void (*ready)(struct source *, uint32_t events);
};

void watch(struct source *source, uint32_t events);
void rewatch(struct source *source, uint32_t events);

void run(double timeout); /* until stop() is called; the program fails after `timeout` seconds */
void run_for(double seconds);
void stop(void);
extern double idled; /* seconds without events */

/* Start to connect to the server; returns the descriptor. The source address varies, because one
 * address has too few ports. */
int dial(void);
extern int server_port;

/* Send all bytes at once: requests are shorter than a socket's buffer. */
void send_all(int fd, const void *bytes, size_t length);

/* -- client.c ---------------------------------------------------------------------------------- */

enum stage { UPGRADING, OPENING, JOINING, READY, LEAVING, GONE };

struct client {
    struct source source;
    enum stage stage;
    int number;                   /* index, used by the owner */
    const char *auth;             /* JSON that is sent with CONNECT, or NULL */
    void (*accepted)(struct client *, const char *packet, size_t); /* the response to CONNECT, or NULL */
    void (*connected)(struct client *);                            /* the namespace is connected */
    void (*received)(struct client *, const char *packet, size_t); /* an event or acknowledgement */
    void (*closed)(struct client *);                               /* after `client_close` */
    char *rest;                   /* incomplete received frame */
    size_t rest_length, skipping; /* bytes of a long frame's payload still to be skipped */
};

void client_open(struct client *client);
void client_send(struct client *client, const char *packet); /* an Engine.IO packet, as a frame */
void client_close(struct client *client, bool disconnect_first); /* with a Socket.IO disconnect? */
void client_lose(struct client *client); /* close the connection without a close frame */

/* -- crowd.c ----------------------------------------------------------------------------------- */

/* The client that sends orders. It is in no channel. */
extern struct client controller;

struct client *crowd(int size); /* allocate */

/* Clients with consecutive numbers that subscribe to the same channels; 1 by default. */
extern int crowd_share;

/* Open clients[from..to), a few at a time, each subscribed to `channels` channels that end in
 * the client's number / crowd_share, or to "bench" if it is 0; `received` is called for all that follows. */
void crowd_open(struct client *clients, int from, int to, int channels,
                void (*received)(struct client *, const char *, size_t));
void controller_open(void);

/* Send an event from the controller and wait for its acknowledgement; returns its arguments. */
const char *call(const char *event, const char *json, double timeout);
/* Send an event without waiting; `acknowledged` is called later. */
void order(const char *event, const char *json, void (*acknowledged)(void));

/* -- polling.c --------------------------------------------------------------------------------- */

void polling_messages(int clients, double seconds);
void polling_handshakes(int clients, double seconds);

/* -- workloads.c ------------------------------------------------------------------------------- */

/* Closed loops: call `unit_done` for each completed unit. Warms up, measures, stops the loop. */
void closed_loop(double seconds);
void unit_done(void);

double option(const char *name, double otherwise); /* option name=value of the command line */
bool run_workload(const char *name);               /* returns false if the name is unknown */

#endif
