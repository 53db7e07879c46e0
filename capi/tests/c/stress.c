/* Sockets and tunnels that come and go, by many threads; at the end nothing is left. Figures are thousands of sockets and tens of
 * tunnels, in TSC_STRESS. */
#include "check.h"

#include <dirent.h>
#include <malloc.h>
#include <pthread.h>

#define THREADS 32

static tsc_handle tunnel;
static int rounds;

/* File descriptors, or threads, of this process. */
static int entries(const char *path)
{
    int count = 0;
    DIR *directory = opendir(path);
    CHECK(directory != NULL);
    while (readdir(directory) != NULL)
        count++;
    CHECK(closedir(directory) == 0);
    return count;
}

static void *hammer(void *unused)
{
    struct sockaddr_in address, peer;
    socklen_t length = sizeof address;
    char buffer[16];
    int i;
    (void)unused;
    for (i = 0; i < rounds; i++) {
        int s = bound(tunnel, SOCK_DGRAM, &address), descriptor = -1;
        CHECK(tsc_setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &i, sizeof i) == 0);
        if (i % 4 == 0)
            CHECK((descriptor = tsc_get_pollfd(s)) >= 0);
        CHECK(tsc_sendto(s, "x", 1, 0, (struct sockaddr *)&address, sizeof address) == 1);
        if (i % 16 == 0) {
            CHECK(tsc_recvfrom(s, buffer, sizeof buffer, 0, (struct sockaddr *)&peer, &length) == 1);
            CHECK(peer.sin_port == address.sin_port);
        }
        if (i % 8 == 1) {
            int stream = tsc_socket(tunnel, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
            CHECK(stream > 0);
            FAILS(tsc_connect(stream, (struct sockaddr *)&address, sizeof address), EINPROGRESS);
            CHECK(tsc_close(stream) == 0);
        }
        CHECK(tsc_close(s) == 0);
    }
    return NULL;
}

static void hammer_all(int each)
{
    pthread_t threads[THREADS];
    int i;
    rounds = each;
    for (i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, hammer, NULL) == 0);
    for (i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* Some is kept for the next time; what grows with each socket or tunnel would be seen. */
static void compare(const char *what, size_t before, size_t after)
{
    printf("%s: %zu bytes of the heap before, %zu after\n", what, before, after);
    CHECK(after < before + 300000);
}

int main(int count, char **arguments)
{
    const char *wanted = getenv("TSC_STRESS");
    int factor = wanted == NULL ? 1 : atoi(wanted), i, descriptors, tasks;
    size_t before = 0;

    CHECK(count == 4);
    /* What a process has only once, whoever asked for it. */
    CHECK(tsc_ctrl_init() == tsc_error_code_ok && tsc_ctrl_term() == tsc_error_code_ok);
    descriptors = entries("/proc/self/fd");
    /* A sanitizer has one of its own. */
    tasks = entries("/proc/self/task");
    tunnel = open_tunnel(arguments);
    /* The first are not counted: after them the tables are as large as they get. */
    hammer_all(1000 / THREADS);
    before = mallinfo2().uordblks;
    hammer_all(1000 * factor / THREADS);
    compare("sockets", before, mallinfo2().uordblks);
    CHECK(tsc_delete_tunnel(tunnel) == tsc_error_code_ok);

    for (i = 0; i < 10 * factor; i++) {
        struct sockaddr_in address;
        tunnel = open_tunnel(arguments);
        bound(tunnel, SOCK_DGRAM, &address);
        CHECK(tsc_delete_tunnel(tunnel) == tsc_error_code_ok);
        CHECK(tsc_close(1) == 0);
        if (i == factor)
            before = mallinfo2().uordblks;
    }
    compare("tunnels", before, mallinfo2().uordblks);
    CHECK(tsc_ctrl_term() == tsc_error_code_ok);
    CHECK(entries("/proc/self/fd") == descriptors);
    CHECK(entries("/proc/self/task") == tasks);
    return 0;
}
