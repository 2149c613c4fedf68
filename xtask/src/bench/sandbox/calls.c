/* A syscall-heavy app: nanoseconds a call, for a call that a filter allows outright, for one whose
 * arguments it looks at, and for a byte through a pipe. One line: @PLAIN CHECKED PIPE. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 7, CALLS = 100000 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(void)
{
    int ends[2];
    if (pipe(ends) != 0)
        return 1;
    double best[3] = { 1e9, 1e9, 1e9 };
    for (int round = 0; round < ROUNDS; round++) {
        double took[3], begin = now();
        for (int n = 0; n < CALLS; n++)
            syscall(SYS_getppid);
        took[0] = now() - begin;
        begin = now();
        for (int n = 0; n < CALLS; n++)
            fcntl(ends[0], F_GETFD);
        took[1] = now() - begin;
        begin = now();
        for (int n = 0; n < CALLS; n++) {
            char byte = 'x';
            if (write(ends[1], &byte, 1) != 1 || read(ends[0], &byte, 1) != 1)
                return 1;
        }
        took[2] = now() - begin;
        for (int k = 0; k < 3; k++)
            if (took[k] / CALLS < best[k])
                best[k] = took[k] / CALLS;
    }
    printf("@%.1f %.1f %.1f\n", best[0], best[1], best[2]);
    return 0;
}
