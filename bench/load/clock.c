/* Clocks of the load and of the servers; measurement windows. */
#include "load.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Maximum number of server processes. */
#define MAX_SERVERS 4

static pid_t servers[MAX_SERVERS];
static clockid_t server_clocks[MAX_SERVERS];
static int server_count;

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static double read_clock(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time) < 0)
        die("cannot read a clock (has the server ended?): %s", strerror(errno));
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

double now(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

/* The CPU clock of another process has a resolution of nanoseconds. It includes all threads, user
 * and system time. /proc/<pid>/stat has a resolution of 10 ms. */
void watch_server(pid_t pid)
{
    if (server_count == MAX_SERVERS)
        die("too many servers");
    int error = clock_getcpuclockid(pid, &server_clocks[server_count]);
    servers[server_count++] = pid;
    if (error)
        die("no CPU clock of process %d: %s", (int)pid, strerror(error));
}

static double server_time(void)
{
    double sum = 0;
    for (int i = 0; i < server_count; i++)
        sum += read_clock(server_clocks[i]);
    return sum;
}

double server_memory(void)
{
    double sum = 0;
    for (int i = 0; i < server_count; i++) {
        char name[64];
        snprintf(name, sizeof name, "/proc/%d/statm", (int)servers[i]);
        FILE *file = fopen(name, "r");
        unsigned long pages;
        if (!file || fscanf(file, "%*u %lu", &pages) != 1)
            die("cannot read %s", name);
        fclose(file);
        sum += (double)pages * (double)sysconf(_SC_PAGESIZE);
    }
    return sum;
}

struct window window_open(void)
{
    return (struct window){now(), server_time(), read_clock(CLOCK_PROCESS_CPUTIME_ID) - idled};
}

struct window window_close(struct window opened)
{
    struct window closed = window_open();
    return (struct window){closed.wall - opened.wall, closed.server - opened.server,
                           closed.own - opened.own};
}

static const char *separator = "{";

void figure(const char *name, double value)
{
    printf("%s\"%s\": %.9g", separator, name, value);
    separator = ", ";
}

void figures(struct window window, double units)
{
    figure("units", units);
    figure("wall", window.wall);
    figure("server_cpu", window.server);
    figure("load_cpu", window.own);
}

void end_figures(void)
{
    puts("}");
}
