/* Sockets of two tunnels of one server that talk with each other, in every way that the headers promise. */
#include "check.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <unistd.h>

static struct tsc_timeval at_most(long milliseconds)
{
    struct tsc_timeval time;
    time.tv_sec = milliseconds / 1000;
    time.tv_usec = milliseconds % 1000 * 1000;
    return time;
}

static int is_readable(int s, long milliseconds)
{
    struct tsc_timeval time = at_most(milliseconds);
    tsc_fd_set set;
    int found;
    TSC_FD_ZERO(&set);
    TSC_FD_SET(s, &set);
    found = tsc_select(s + 1, &set, NULL, NULL, &time);
    CHECK(found == TSC_FD_ISSET(s, &set));
    return found;
}

static int is_writable(int s, long milliseconds)
{
    struct tsc_timeval time = at_most(milliseconds);
    tsc_fd_set set;
    int found;
    TSC_FD_ZERO(&set);
    TSC_FD_SET(s, &set);
    found = tsc_select(s + 1, NULL, &set, NULL, &time);
    CHECK(found == TSC_FD_ISSET(s, &set));
    return found;
}

static int is_raised(int descriptor, int milliseconds)
{
    struct pollfd entry;
    entry.fd = descriptor;
    entry.events = POLLIN;
    entry.revents = 0;
    return poll(&entry, 1, milliseconds) == 1 && entry.revents == POLLIN;
}

static void datagrams(tsc_handle near_tunnel, tsc_handle far_tunnel)
{
    struct sockaddr_in near_address, far_address, from;
    struct timeval brief = {0, 20000};
    socklen_t length = sizeof from;
    char buffer[100], large[70000];
    int near_socket = bound(near_tunnel, SOCK_DGRAM, &near_address);
    int far_socket = bound(far_tunnel, SOCK_DGRAM, &far_address);
    int other;

    CHECK(ntohs(near_address.sin_port) != 0 && near_socket != far_socket);
    FAILS(tsc_recv(far_socket, buffer, sizeof buffer, MSG_DONTWAIT), EAGAIN);
    CHECK(tsc_sendto(near_socket, "hello", 5, 0, (struct sockaddr *)&far_address, sizeof far_address) == 5);
    CHECK(is_readable(far_socket, LIMIT));
    CHECK(tsc_recvfrom(far_socket, buffer, sizeof buffer, MSG_PEEK, (struct sockaddr *)&from, &length) == 5);
    memset(&from, 0, sizeof from);
    CHECK(tsc_recvfrom(far_socket, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length) == 5);
    CHECK(memcmp(buffer, "hello", 5) == 0 && length == sizeof from);
    CHECK(from.sin_addr.s_addr == near_address.sin_addr.s_addr && from.sin_port == near_address.sin_port);
    CHECK(!is_readable(far_socket, 0));

    /* What does not fit is lost, with the rest of its datagram only. */
    CHECK(tsc_sendto(near_socket, "a long one", 10, 0, (struct sockaddr *)&far_address, sizeof far_address) == 10);
    CHECK(tsc_sendto(near_socket, "", 0, 0, (struct sockaddr *)&far_address, sizeof far_address) == 0);
    CHECK(tsc_recv(far_socket, buffer, 6, 0) == 6 && memcmp(buffer, "a long", 6) == 0);
    CHECK(tsc_recv(far_socket, buffer, 6, 0) == 0);

    /* Connected. */
    FAILS(tsc_send(near_socket, "x", 1, 0), EDESTADDRREQ);
    FAILS(tsc_getpeername(near_socket, (struct sockaddr *)&from, &length), ENOTCONN);
    CHECK(tsc_connect(near_socket, (struct sockaddr *)&far_address, sizeof far_address) == 0);
    CHECK(tsc_getpeername(near_socket, (struct sockaddr *)&from, &length) == 0);
    CHECK(from.sin_port == far_address.sin_port);
    CHECK(tsc_send(near_socket, "connected", 9, MSG_NOSIGNAL) == 9);
    CHECK(tsc_recv(far_socket, buffer, sizeof buffer, 0) == 9);

    /* A socket that was not bound is when it sends. */
    other = tsc_socket(far_tunnel, AF_INET, SOCK_DGRAM, IPPROTO_UDP);
    CHECK(tsc_sendto(other, "x", 1, 0, (struct sockaddr *)&near_address, sizeof near_address) == 1);
    CHECK(tsc_getsockname(other, (struct sockaddr *)&from, &length) == 0 && from.sin_port != 0);
    CHECK(from.sin_addr.s_addr == htonl(INADDR_ANY));
    /* Connected, it knows its address. */
    CHECK(tsc_connect(other, (struct sockaddr *)&near_address, sizeof near_address) == 0);
    CHECK(tsc_getsockname(other, (struct sockaddr *)&from, &length) == 0);
    CHECK(from.sin_addr.s_addr == far_address.sin_addr.s_addr);
    CHECK(tsc_close(other) == 0);

    /* What cannot be. */
    memset(large, 'x', sizeof large);
    FAILS(tsc_send(near_socket, large, sizeof large, 0), EMSGSIZE);
    FAILS(tsc_send(near_socket, "x", 1, MSG_OOB), EOPNOTSUPP);
    other = tsc_socket(near_tunnel, AF_INET, SOCK_DGRAM, 0);
    CHECK(other > far_socket);
    FAILS(tsc_bind(other, (struct sockaddr *)&near_address, sizeof near_address), EADDRINUSE);
    FAILS(tsc_bind(other, (struct sockaddr *)&far_address, sizeof far_address), EADDRNOTAVAIL);
    from = near_address;
    from.sin_addr.s_addr = htonl(0x7F000001);
    FAILS(tsc_sendto(other, "x", 1, 0, (struct sockaddr *)&from, sizeof from), ENETUNREACH);
    CHECK(tsc_close(other) == 0);

    /* A number and a port that were closed are free. */
    CHECK(tsc_close(near_socket) == 0);
    other = tsc_socket(near_tunnel, AF_INET, SOCK_DGRAM, 0);
    CHECK(other == near_socket);
    CHECK(tsc_bind(other, (struct sockaddr *)&near_address, sizeof near_address) == 0);
    CHECK(tsc_close(other) == 0);

    /* Times. */
    CHECK(tsc_setsockopt(far_socket, SOL_SOCKET, SO_RCVTIMEO, &brief, sizeof brief) == 0);
    FAILS(tsc_recv(far_socket, buffer, sizeof buffer, 0), EAGAIN);
    CHECK(tsc_fcntl(far_socket, F_GETFL, 0) == O_RDWR);
    CHECK(tsc_fcntl(far_socket, F_SETFL, O_NONBLOCK) == 0);
    CHECK(tsc_fcntl(far_socket, F_GETFL, 0) == (O_RDWR | O_NONBLOCK));
    FAILS(tsc_recv(far_socket, buffer, sizeof buffer, 0), EAGAIN);
    CHECK(tsc_close(far_socket) == 0);
}

static void *except(void *opaque)
{
    int s = *(int *)opaque;
    tsc_fd_set set;
    TSC_FD_ZERO(&set);
    TSC_FD_SET(s, &set);
    FAILS(tsc_select(s + 1, NULL, NULL, &set, NULL), EBADF);
    return NULL;
}

/* Nothing is exceptional here; who waits for it is woken when the socket goes. */
static void exceptional(tsc_handle tunnel)
{
    struct sockaddr_in address;
    struct tsc_timeval brief = at_most(20);
    tsc_fd_set set;
    pthread_t thread;
    int s = bound(tunnel, SOCK_DGRAM, &address);
    TSC_FD_ZERO(&set);
    TSC_FD_SET(s, &set);
    CHECK(tsc_select(s + 1, NULL, NULL, &set, &brief) == 0 && !TSC_FD_ISSET(s, &set));
    CHECK(pthread_create(&thread, NULL, except, &s) == 0);
    CHECK(tsc_close(s) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

static void waiting(tsc_handle near_tunnel, tsc_handle far_tunnel)
{
    struct sockaddr_in near_address, far_address;
    struct tsc_timeval brief = at_most(20);
    struct tsc_pollfd entries[3];
    tsc_fd_set readers, writers, exceptions;
    char buffer[10];
    int near_socket = bound(near_tunnel, SOCK_DGRAM, &near_address);
    int far_socket = bound(far_tunnel, SOCK_DGRAM, &far_address);
    int highest = (near_socket > far_socket ? near_socket : far_socket) + 1;

    TSC_FD_ZERO(&readers);
    TSC_FD_SET(near_socket, &readers);
    TSC_FD_SET(far_socket, &readers);
    TSC_FD_SET(-1, &readers);
    TSC_FD_SET(TSC_FD_SETSIZE, &readers);
    CHECK(tsc_select(highest, &readers, NULL, NULL, &brief) == 0);
    CHECK(!TSC_FD_ISSET(near_socket, &readers) && !TSC_FD_ISSET(far_socket, &readers));

    CHECK(tsc_sendto(near_socket, "1", 1, 0, (struct sockaddr *)&far_address, sizeof far_address) == 1);
    TSC_FD_SET(near_socket, &readers);
    TSC_FD_SET(far_socket, &readers);
    exceptions = readers;
    CHECK(tsc_select(highest, &readers, NULL, &exceptions, NULL) == 1);
    CHECK(!TSC_FD_ISSET(near_socket, &readers) && TSC_FD_ISSET(far_socket, &readers));
    CHECK(!TSC_FD_ISSET(far_socket, &exceptions));
    TSC_FD_ZERO(&writers);
    TSC_FD_SET(near_socket, &writers);
    CHECK(tsc_select(highest, &readers, &writers, NULL, NULL) == 2);
    TSC_FD_CLR(far_socket, &readers);
    CHECK(!TSC_FD_ISSET(far_socket, &readers));

    entries[0].fd = near_socket;
    entries[0].events = TSC_POLLIN;
    entries[1].fd = -1;
    entries[1].events = TSC_POLLIN;
    entries[2].fd = far_socket;
    entries[2].events = TSC_POLLIN | TSC_POLLOUT;
    CHECK(tsc_poll(entries, 3, -1) == 1);
    CHECK(entries[0].revents == 0 && entries[1].revents == 0);
    CHECK(entries[2].revents == (TSC_POLLIN | TSC_POLLOUT));
    CHECK(tsc_recv(far_socket, buffer, sizeof buffer, 0) == 1);
    entries[2].events = TSC_POLLIN;
    CHECK(tsc_poll(entries, 3, 20) == 0 && entries[2].revents == 0);

    CHECK(tsc_close(near_socket) == 0 && tsc_close(far_socket) == 0);
    CHECK(tsc_poll(entries, 3, -1) == 2);
    CHECK(entries[0].revents == TSC_POLLNVAL && entries[2].revents == TSC_POLLNVAL);
    TSC_FD_SET(near_socket, &readers);
    FAILS(tsc_select(highest, &readers, NULL, NULL, NULL), EBADF);
    CHECK(TSC_FD_ISSET(near_socket, &readers));
    FAILS(tsc_select(highest, NULL, NULL, &readers, NULL), EBADF);
    CHECK(tsc_select(0, NULL, NULL, NULL, &brief) == 0 && tsc_poll(NULL, 0, 1) == 0);
}

static void descriptors(tsc_handle near_tunnel, tsc_handle far_tunnel)
{
    struct sockaddr_in near_address, far_address;
    struct epoll_event event;
    char buffer[10];
    int near_socket = bound(near_tunnel, SOCK_DGRAM, &near_address);
    int far_socket = bound(far_tunnel, SOCK_DGRAM, &far_address);
    int descriptor = tsc_get_pollfd(far_socket);
    int epoll = epoll_create1(0);
    int round, i;

    CHECK(descriptor >= 0 && tsc_get_pollfd(far_socket) == descriptor && epoll >= 0);
    CHECK(!is_raised(descriptor, 0) && is_raised(tsc_get_write_pollfd(far_socket), LIMIT));
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN;
    event.data.fd = far_socket;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) == 0);
    /* It is raised exactly as long as there is something to read. */
    for (round = 0; round < 50; round++) {
        for (i = 0; i < 3; i++)
            CHECK(tsc_sendto(near_socket, "123", 3, 0, (struct sockaddr *)&far_address, sizeof far_address) == 3);
        for (i = 0; i < 3; i++) {
            CHECK(is_raised(descriptor, LIMIT));
            CHECK(epoll_wait(epoll, &event, 1, LIMIT) == 1 && event.data.fd == far_socket);
            CHECK(tsc_recv(far_socket, buffer, sizeof buffer, 0) == 3);
        }
        CHECK(!is_raised(descriptor, 0));
    }
    CHECK(epoll_ctl(epoll, EPOLL_CTL_DEL, descriptor, &event) == 0);
    CHECK(tsc_close(far_socket) == 0 && fcntl(descriptor, F_GETFD) == -1);
    CHECK(tsc_close(near_socket) == 0 && close(epoll) == 0);
}

static void streams(tsc_handle near_tunnel, tsc_handle far_tunnel)
{
    struct tsc_pollfd entry;
    struct sockaddr_in listening, peer, nobody;
    struct linger reset = {1, 0};
    socklen_t length = sizeof peer;
    static char sent[400000], received[400000];
    int listener = bound(far_tunnel, SOCK_STREAM, &listening);
    int near_socket, far_socket, descriptor, error, yes = 1;
    size_t written = 0, read = 0, i;
    ssize_t part;

    FAILS(tsc_accept(listener, NULL, NULL), EINVAL);
    CHECK(tsc_listen(listener, 5) == 0);
    CHECK(tsc_getsockname(listener, (struct sockaddr *)&listening, &length) == 0 && listening.sin_port != 0);
    descriptor = tsc_get_pollfd(listener);
    CHECK(!is_readable(listener, 0) && !is_raised(descriptor, 0));

    /* Blocking: it is connected before it is accepted. */
    near_socket = tsc_socket(near_tunnel, AF_INET, SOCK_STREAM, IPPROTO_TCP);
    FAILS(tsc_send(near_socket, "x", 1, 0), ENOTCONN);
    FAILS(tsc_recv(near_socket, received, 1, 0), ENOTCONN);
    CHECK(tsc_setsockopt(near_socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) == 0);
    CHECK(tsc_connect(near_socket, (struct sockaddr *)&listening, sizeof listening) == 0);
    FAILS(tsc_connect(near_socket, (struct sockaddr *)&listening, sizeof listening), EISCONN);
    CHECK(is_raised(descriptor, LIMIT) && is_readable(listener, LIMIT));
    far_socket = tsc_accept(listener, (struct sockaddr *)&peer, &length);
    CHECK(far_socket > 0 && !is_raised(descriptor, 0));
    CHECK(tsc_getsockname(near_socket, (struct sockaddr *)&nobody, &length) == 0);
    CHECK(peer.sin_port == nobody.sin_port && peer.sin_addr.s_addr == nobody.sin_addr.s_addr);
    CHECK(tsc_getpeername(near_socket, (struct sockaddr *)&nobody, &length) == 0);
    CHECK(nobody.sin_port == listening.sin_port);
    FAILS(tsc_recv(near_socket, received, 1, MSG_DONTWAIT), EAGAIN);

    /* More than there is room for, nonblocking and with events. */
    for (i = 0; i < sizeof sent; i++)
        sent[i] = (char)(i * 7 + i / 251);
    CHECK(tsc_fcntl(near_socket, F_SETFL, O_NONBLOCK) == 0);
    descriptor = tsc_get_write_pollfd(near_socket);
    while (read < sizeof received) {
        while (written < sizeof sent && is_raised(descriptor, 0)) {
            part = tsc_send(near_socket, sent + written, sizeof sent - written, 0);
            CHECK(part > 0);
            written += (size_t)part;
        }
        CHECK(is_readable(far_socket, LIMIT));
        part = tsc_recv(far_socket, received + read, sizeof received - read, 0);
        CHECK(part > 0);
        read += (size_t)part;
    }
    CHECK(written == sizeof sent && memcmp(sent, received, sizeof sent) == 0);

    /* The end of one direction, and of the other. */
    CHECK(tsc_send(far_socket, "answer", 6, 0) == 6);
    CHECK(tsc_shutdown(near_socket, SHUT_WR) == 0);
    FAILS(tsc_send(near_socket, "x", 1, 0), EPIPE);
    CHECK(tsc_recv(far_socket, received, 9, 0) == 0);
    CHECK(tsc_fcntl(near_socket, F_SETFL, 0) == 0);
    CHECK(tsc_recv(near_socket, received, 3, MSG_PEEK) == 3 && tsc_recv(near_socket, received, 6, MSG_WAITALL) == 6);
    CHECK(memcmp(received, "answer", 6) == 0);
    CHECK(tsc_shutdown(near_socket, SHUT_RD) == 0 && tsc_recv(near_socket, received, 1, 0) == 0);
    CHECK(tsc_close(far_socket) == 0 && tsc_close(near_socket) == 0);

    /* Nonblocking to connect and to accept, and a reset. */
    near_socket = tsc_socket(near_tunnel, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    FAILS(tsc_connect(near_socket, (struct sockaddr *)&listening, sizeof listening), EINPROGRESS);
    CHECK(is_writable(near_socket, LIMIT));
    length = sizeof error;
    CHECK(tsc_getsockopt(near_socket, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0);
    CHECK(tsc_fcntl(listener, F_SETFL, O_NONBLOCK) == 0);
    CHECK(is_readable(listener, LIMIT));
    far_socket = tsc_accept(listener, NULL, NULL);
    CHECK(far_socket > 0 && tsc_fcntl(far_socket, F_GETFL, 0) == O_RDWR);
    FAILS(tsc_accept(listener, NULL, NULL), EAGAIN);
    CHECK(tsc_setsockopt(far_socket, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) == 0);
    CHECK(tsc_close(far_socket) == 0);
    CHECK(is_readable(near_socket, LIMIT));
    entry.fd = near_socket;
    entry.events = TSC_POLLIN;
    CHECK(tsc_poll(&entry, 1, -1) == 1 && entry.revents == (TSC_POLLIN | TSC_POLLERR));
    entry.events = 0;
    CHECK(tsc_poll(&entry, 1, -1) == 1 && entry.revents == TSC_POLLERR);
    FAILS(tsc_recv(near_socket, received, 1, 0), ECONNRESET);
    /* Told once. */
    CHECK(tsc_poll(&entry, 1, 0) == 0);
    CHECK(tsc_close(near_socket) == 0 && tsc_close(listener) == 0);

    /* Nobody listens there any more. */
    near_socket = tsc_socket(near_tunnel, AF_INET, SOCK_STREAM, 0);
    FAILS(tsc_connect(near_socket, (struct sockaddr *)&listening, sizeof listening), ECONNREFUSED);
    CHECK(tsc_fcntl(near_socket, F_SETFL, O_NONBLOCK) == 0);
    FAILS(tsc_connect(near_socket, (struct sockaddr *)&listening, sizeof listening), EINPROGRESS);
    CHECK(is_writable(near_socket, LIMIT));
    CHECK(tsc_getsockopt(near_socket, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == ECONNREFUSED);
    CHECK(tsc_close(near_socket) == 0);
}

static void *receive(void *opaque)
{
    char byte;
    int s = *(int *)opaque;
    CHECK(tsc_recv(s, &byte, 1, 0) == -1);
    *(int *)opaque = errno;
    return NULL;
}

static void closing(tsc_handle tunnel)
{
    struct sockaddr_in address;
    pthread_t thread;
    int s = bound(tunnel, SOCK_DGRAM, &address), outcome = s;
    CHECK(pthread_create(&thread, NULL, receive, &outcome) == 0);
    CHECK(tsc_close(s) == 0);
    CHECK(pthread_join(thread, NULL) == 0 && outcome == EBADF);
}

static void the_end(tsc_handle tunnel)
{
    struct sockaddr_in address;
    struct tsc_pollfd entry;
    char byte;
    pthread_t thread;
    int s = bound(tunnel, SOCK_DGRAM, &address), fresh = tsc_socket(tunnel, AF_INET, SOCK_STREAM, 0), outcome = s;
    int descriptor = tsc_get_pollfd(s);

    CHECK(tsc_get_tunnel(s) == tunnel);
    CHECK(pthread_create(&thread, NULL, receive, &outcome) == 0);
    CHECK(tsc_delete_tunnel(tunnel) == tsc_error_code_ok);
    CHECK(pthread_join(thread, NULL) == 0 && outcome == ENETDOWN);
    REFUSED(tsc_delete_tunnel(tunnel), EBADF);

    /* The numbers are still there, and all calls say why they fail. */
    FAILS(tsc_recv(s, &byte, 1, 0), ENETDOWN);
    FAILS(tsc_sendto(s, "x", 1, 0, (struct sockaddr *)&address, sizeof address), ENETDOWN);
    FAILS(tsc_connect(s, (struct sockaddr *)&address, sizeof address), ENETDOWN);
    FAILS(tsc_bind(fresh, (struct sockaddr *)&address, sizeof address), ENETDOWN);
    FAILS(tsc_connect(fresh, (struct sockaddr *)&address, sizeof address), ENETDOWN);
    FAILS(tsc_socket(tunnel, AF_INET, SOCK_DGRAM, 0), EBADF);
    errno = 0;
    CHECK(tsc_get_tunnel(s) == NULL && errno == ENETDOWN);
    CHECK(is_readable(s, LIMIT) && is_raised(descriptor, LIMIT));
    entry.fd = s;
    entry.events = 0;
    CHECK(tsc_poll(&entry, 1, -1) == 1 && entry.revents == TSC_POLLERR);
    CHECK(tsc_close(s) == 0 && tsc_close(fresh) == 0);
    FAILS(tsc_close(s), EBADF);
}

int main(int count, char **arguments)
{
    tsc_handle near_tunnel, far_tunnel;
    tsc_config config;
    tsc_tunnel_socket_info info;
    char text[TSC_ADDR_STR_LEN], other[TSC_ADDR_STR_LEN];

    CHECK(count == 4);
    CHECK(strcmp(tsc_version(), TSC_VERSION) == 0 && TSC_VERSION_NUMBER == 0x000100);
    CHECK(tsc_ctrl_init() == tsc_error_code_ok);
    near_tunnel = open_tunnel(arguments);
    far_tunnel = tsc_new_tunnel(parameters(arguments), NULL);
    CHECK(far_tunnel != NULL && far_tunnel != near_tunnel);
    CHECK(tsc_get_config(near_tunnel, &config) == tsc_error_code_ok);
    CHECK(strncmp(tsc_ip_address_to_str(&config.internal_address, text, sizeof text), "10.64.0.", 8) == 0);
    CHECK(strcmp(tsc_ip_port_address_to_str(&config.sip_server, text, sizeof text), "10.65.0.1:5060") == 0);
    CHECK(config.sip_server_count == 1 && (config.tunnel_id.hi | config.tunnel_id.lo) != 0 && config.mtu >= 576);
    CHECK(tsc_sockaddr_to_str((struct sockaddr *)&config.sip_servers[0], sizeof config.sip_servers[0], text, sizeof text) == text);
    CHECK(strcmp(text, "10.65.0.1:5060") == 0);
    CHECK(tsc_get_tunnel_socket_info(near_tunnel, &info) == tsc_error_code_ok);
    CHECK(info.transport == parameters(arguments)->connection_params[0].transport);
    /* Both ends of the transport: no NAT is between them. */
    CHECK(strncmp(tsc_ip_port_address_to_str(&info.local_address, text, sizeof text), "127.0.0.1:", 10) == 0);
    CHECK(info.local_address.port != 0 && info.local_address.port == info.nat_ipport.port);
    CHECK(info.remote_address.address == 0x7F000001 && info.remote_address.port == atoi(arguments[2]));
    CHECK(strcmp(tsc_sockaddr_to_str((struct sockaddr *)&info.local_sockaddr, sizeof info.local_sockaddr, other, sizeof other), text) == 0);
    CHECK(((struct sockaddr_in *)&info.remote_sockaddr)->sin_port == htons(info.remote_address.port));
    CHECK(((struct sockaddr_in *)&info.nat_sockaddr)->sin_addr.s_addr == htonl(info.nat_ipport.address));

    datagrams(near_tunnel, far_tunnel);
    waiting(near_tunnel, far_tunnel);
    exceptional(near_tunnel);
    descriptors(near_tunnel, far_tunnel);
    streams(near_tunnel, far_tunnel);
    closing(near_tunnel);
    the_end(near_tunnel);
    CHECK(tsc_ctrl_term() == tsc_error_code_ok);
    REFUSED(tsc_delete_tunnel(far_tunnel), EBADF);
    REFUSED(tsc_ctrl_term(), EINVAL);
    return 0;
}
