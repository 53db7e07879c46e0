/* The library's threads: none of them can be hit by a signal, and where there is none to be had that is an error. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "check.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>

/* Threads that may still be made; negative is any number. */
static int left = -1;
static int made;

/* In place of the system's, for the library too. */
int pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int
pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    typedef int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    static const int signals[] = {SIGINT, SIGTERM, SIGUSR1, SIGALRM, SIGCHLD, SIGPROF};
    create real;
    sigset_t mask;
    size_t i;
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &mask) == 0);
    for (i = 0; i < sizeof signals / sizeof *signals; i++)
        CHECK(sigismember(&mask, signals[i]) == 1);
    if (left == 0)
        return EAGAIN;
    left -= left > 0;
    made++;
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    CHECK(real != NULL);
    return real(thread, attributes, start, argument);
}

int main(int count, char **arguments)
{
    sigset_t mask;
    tsc_handle tunnel;
    int there;

    CHECK(count == 4);
    for (left = 0; left < 2; left++) {
        there = left;
        REFUSED(tsc_ctrl_init(), EAGAIN);
        REFUSED(tsc_ctrl_term(), EINVAL);
        errno = 0;
        left = there;
        CHECK(tsc_ctrl_new_tunnel(parameters(arguments), NULL) == NULL && errno == EAGAIN);
        left = there;
    }
    left = -1;
    made = 0;
    tunnel = open_tunnel(arguments);
    CHECK(made > 2);
    /* Those of the caller are as they were. */
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &mask) == 0 && sigismember(&mask, SIGUSR1) == 0);
    left = 0;
    errno = 0;
    CHECK(tsc_ctrl_new_tunnel(parameters(arguments), NULL) == NULL && errno == EAGAIN);
    /* Without a thread for it a tunnel is deleted all the same. */
    CHECK(tsc_ctrl_term() == tsc_error_code_ok);
    REFUSED(tsc_delete_tunnel(tunnel), EBADF);
    return 0;
}
