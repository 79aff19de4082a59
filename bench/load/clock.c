/* What time it is, here and in the server; windows of measurement. */
#include "load.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static pid_t server;
static clockid_t server_clock;

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

/* The CPU clock of another process counts nanoseconds, all its threads, user and system; what
 * /proc/<pid>/stat shows is the same in steps of 10 ms. */
void watch_server(pid_t pid)
{
    server = pid;
    int error = clock_getcpuclockid(pid, &server_clock);
    if (error)
        die("no CPU clock of process %d: %s", (int)pid, strerror(error));
}

double server_memory(void)
{
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/statm", (int)server);
    FILE *file = fopen(name, "r");
    unsigned long pages;
    if (!file || fscanf(file, "%*u %lu", &pages) != 1)
        die("cannot read %s", name);
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

struct window window_open(void)
{
    return (struct window){now(), read_clock(server_clock), read_clock(CLOCK_PROCESS_CPUTIME_ID) - idled};
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
