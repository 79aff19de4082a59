/* load WORKLOAD PORT PID [name=value ...]: run a workload against a server, print figures as JSON.
 *
 * PORT is the server's, on 127.0.0.1; PID its process, whose CPU time is measured.
 */
#include "load.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static char **options;

double option(const char *name, double otherwise)
{
    size_t length = strlen(name);
    for (char **one = options; *one; one++)
        if (!strncmp(*one, name, length) && (*one)[length] == '=')
            return atof(*one + length + 1);
    return otherwise;
}

int main(int argc, char **argv)
{
    struct rlimit files;
    if (argc < 4)
        die("use: load WORK PORT PID [name=value ...]");
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    server_port = atoi(argv[2]);
    watch_server(atoi(argv[3]));
    options = argv + 4;
    if (!run_workload(argv[1]))
        die("unknown workload: %s", argv[1]);
    return 0;
}
