/* Each function, used wrongly: it says so, and nothing else happens. What is called, and how, is told on stdout: c_programs/misuse.rs sees
 * to it that no function of the headers is left out.
 *
 * The words in the arguments are what it looks for: NULL, short_ (less room or fewer bytes than it takes), and `wrong`, which is what
 * `what` says: a socket that was never one, is closed, or is an orphan, whose tunnel was deleted; a handle that is NULL, stale or deleted. */
#include "check.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/time.h>

/* Where calls are made: before there is a library, by the thread that made everything, by another one, by a callback, after the end. */
static const char *where = "before";
static const char *what = "-";

static void note(const char *call)
{
    printf("%s %s %s\n", where, what, call);
}

/* That a call fails, and how. */
#define WRONG(call, number)    \
    do {                       \
        note(#call);           \
        FAILS(call, number);   \
    } while (0)

/* The same of a tsc_error_code. */
#define WRONG_CODE(call, number) \
    do {                         \
        note(#call);             \
        REFUSED(call, number);   \
    } while (0)

/* The same of a pointer. */
#define WRONG_POINTER(call, number)               \
    do {                                          \
        note(#call);                              \
        errno = 0;                                \
        CHECK((call) == NULL && errno == (number)); \
    } while (0)

/* What is no misuse after all, or nothing that fails. */
#define RIGHT(condition)   \
    do {                   \
        note(#condition);  \
        CHECK(condition);  \
    } while (0)

/* One byte: too short for any structure. */
#define short_1 1

static void nothing(tsc_notification_data *notification)
{
    (void)notification;
}

/* What needs neither a tunnel nor a socket. */
static void texts(void)
{
    struct tsc_timeval negative = {-1, 0}, odd = {0, 1000000};
    tsc_ip_address v4;
    tsc_ip_port_address v4_port;
    tsc_ipv6_address v6;
    struct sockaddr_in any;
    const struct sockaddr *address = (const struct sockaddr *)&any;
    char text[TSC_ADDR_STR_LEN];
    size_t short_8 = 8, short_11 = 11, short_2 = 2, short_3 = 3;
    int i;
    what = "-";
    memset(&v6, 0, sizeof v6);
    memset(&any, 0, sizeof any);
    v4.address = 0x0A000001;
    v4_port.address = 0x0A000001;
    v4_port.port = 80;
    WRONG_POINTER(tsc_ip_address_to_str(NULL, text, sizeof text), EINVAL);
    WRONG_POINTER(tsc_ip_address_to_str(&v4, NULL, sizeof text), EINVAL);
    memset(text, 'x', sizeof text);
    WRONG_POINTER(tsc_ip_address_to_str(&v4, text, short_8), ENOSPC);
    WRONG_POINTER(tsc_ip_address_to_str(&v4, text, 0), ENOSPC);
    CHECK(text[0] == 'x');
    CHECK(tsc_ip_address_to_str(&v4, text, 9) == text && strcmp(text, "10.0.0.1") == 0);
    WRONG_POINTER(tsc_ip_port_address_to_str(NULL, text, sizeof text), EINVAL);
    WRONG_POINTER(tsc_ip_port_address_to_str(&v4_port, NULL, sizeof text), EINVAL);
    WRONG_POINTER(tsc_ip_port_address_to_str(&v4_port, text, short_11), ENOSPC);
    CHECK(tsc_ip_port_address_to_str(&v4_port, text, 12) == text && strcmp(text, "10.0.0.1:80") == 0);
    WRONG_POINTER(tsc_ipv6_address_to_str(NULL, text, sizeof text), EINVAL);
    WRONG_POINTER(tsc_ipv6_address_to_str(&v6, NULL, sizeof text), EINVAL);
    WRONG_POINTER(tsc_ipv6_address_to_str(&v6, text, short_2), ENOSPC);
    CHECK(tsc_ipv6_address_to_str(&v6, text, 3) == text && strcmp(text, "::") == 0);
    WRONG_POINTER(tsc_sockaddr_to_str(NULL, sizeof any, text, sizeof text), EINVAL);
    WRONG_POINTER(tsc_sockaddr_to_str(address, sizeof any, text, sizeof text), EAFNOSUPPORT);
    any.sin_family = AF_INET;
    WRONG_POINTER(tsc_sockaddr_to_str(address, sizeof any, NULL, sizeof text), EINVAL);
    WRONG_POINTER(tsc_sockaddr_to_str(address, short_1, text, sizeof text), EINVAL);
    WRONG_POINTER(tsc_sockaddr_to_str(address, sizeof any - 1, text, sizeof text), EINVAL);
    WRONG_POINTER(tsc_sockaddr_to_str(address, sizeof any, text, short_3), ENOSPC);
    for (i = -1; i < 15; i++)
        RIGHT(tsc_error_code_to_str((tsc_error_code)i)[0] == (i < 0 || i > 12 ? 'n' : 't'));
    CHECK(strcmp(tsc_error_code_to_str(tsc_error_code_queue_overflow), "tsc_error_code_queue_overflow") == 0);
    RIGHT(tsc_version()[0] == '0');
    RIGHT(tsc_last_error(NULL, 5) == tsc_last_error(text, 0));
    WRONG(tsc_select(-1, NULL, NULL, NULL, NULL), EINVAL);
    WRONG(tsc_select(TSC_FD_SETSIZE + 1, NULL, NULL, NULL, NULL), EINVAL);
    WRONG(tsc_select(0, NULL, NULL, NULL, &negative), EINVAL);
    WRONG(tsc_select(0, NULL, NULL, NULL, &odd), EINVAL);
    WRONG(tsc_poll(NULL, 1, 0), EFAULT);
    WRONG(tsc_poll(NULL, TSC_FD_SETSIZE + 1, 0), EINVAL);
    note("tsc_sleep(0)");
    tsc_sleep(0);
}

/* Parameters that make no tunnel. */
static void no_tunnel(tsc_tunnel_params *params, int number)
{
    char text[100];
    WRONG_POINTER(tsc_ctrl_new_tunnel(params, NULL), number);
    memset(text, 'x', sizeof text);
    RIGHT(tsc_last_error(text, short_1) != tsc_error_code_ok && text[0] == 0 && text[1] == 'x');
    CHECK(tsc_last_error(text, 10) != tsc_error_code_ok && strlen(text) > 0 && strlen(text) < 10);
}

static void no_tunnels(char **arguments)
{
    tsc_tunnel_params *params;
    tsc_requested_config requested;
    what = "-";
    no_tunnel(NULL, EINVAL);
    WRONG_POINTER(tsc_ctrl_new_tunnel(NULL, NULL), EINVAL);
    WRONG_POINTER(tsc_new_tunnel(NULL, NULL), EINVAL);
    params = parameters(arguments);
    memset(&requested, 0, sizeof requested);
    requested.mtu = 70000;
    WRONG_POINTER(tsc_ctrl_new_tunnel(params, &requested), EINVAL);
    params->max_connections = 0;
    no_tunnel(params, EINVAL);
    params->max_connections = TSC_MAX_CONNECTIONS + 1;
    no_tunnel(params, EINVAL);
    params->max_connections = 2;
    no_tunnel(params, EINVAL);
    params = parameters(arguments);
    params->connection_params[0].transport = (tsc_transport)77;
    no_tunnel(params, EINVAL);
    params = parameters(arguments);
    memset(params->connection_params[0].server_name, 'x', TSC_NAME_LEN);
    no_tunnel(params, EINVAL);
    params = parameters(arguments);
    params->sec_config[0].config_ca.ca_len = TSC_PEM_LEN + 1;
    no_tunnel(params, EINVAL);
    params = parameters(arguments);
    params->sec_config[0].config_ca.ca_len = 0;
    no_tunnel(params, EINVAL);
    params = parameters(arguments);
    params->sec_config[0].ca_count = 2;
    no_tunnel(params, EINVAL);
    params = parameters(arguments);
    strcpy(params->sec_config[0].config_ca.ca, "/nowhere");
    no_tunnel(params, EACCES);
    params = parameters(arguments);
    params->sec_config[0].cert_count = 1;
    no_tunnel(params, EINVAL);
    params = parameters(arguments);
    params->pcap_capture.enabled = tsc_bool_true;
    no_tunnel(params, EINVAL);
    params = parameters(arguments);
    strcpy(params->proxy, "gopher://x");
    no_tunnel(params, EINVAL);
}

/* Each call on a handle that is none. */
static void handles(const char *how, tsc_handle wrong)
{
    tsc_config config;
    tsc_tunnel_socket_info info;
    what = how;
    memset(&config, 0x55, sizeof config);
    WRONG_CODE(tsc_get_config(wrong, &config), EBADF);
    CHECK(config.mtu == 0x55555555);
    WRONG_CODE(tsc_get_config(wrong, NULL), EFAULT);
    WRONG_CODE(tsc_get_tunnel_socket_info(wrong, &info), EBADF);
    WRONG_CODE(tsc_get_tunnel_socket_info(wrong, NULL), EFAULT);
    WRONG_CODE(tsc_wait_tunnel(wrong, 0), EBADF);
    WRONG_CODE(tsc_network_changed(wrong), EBADF);
    WRONG_CODE(tsc_trace_start(wrong, "misuse.pcapng", NULL), EBADF);
    WRONG_CODE(tsc_trace_start(wrong, NULL, NULL), EINVAL);
    WRONG_CODE(tsc_trace_stop(wrong, NULL), EBADF);
    WRONG_CODE(tsc_delete_tunnel(wrong), EBADF);
    CHECK(tsc_last_error(NULL, 0) == tsc_error_code_error);
    WRONG_POINTER(tsc_notification_enable(wrong, tsc_notification_ddt, nothing, NULL), EBADF);
    WRONG_CODE(tsc_notification_disable((tsc_notification_handle)(void *)wrong), EBADF);
    WRONG(tsc_socket(wrong, AF_INET, SOCK_DGRAM, 0), EBADF);
}

/* Each call on a number that is no socket; pointers are not looked at. */
static void numbers(const char *how, int wrong)
{
    struct sockaddr_in any;
    struct sockaddr *address = (struct sockaddr *)&any;
    struct tsc_timeval zero = {0, 0};
    struct tsc_pollfd entry;
    socklen_t length = sizeof any;
    tsc_fd_set set;
    char buffer[4];
    int value = 0;
    what = how;
    memset(&any, 0, sizeof any);
    any.sin_family = AF_INET;
    WRONG(tsc_bind(wrong, address, length), EBADF);
    WRONG(tsc_bind(wrong, NULL, 0), EBADF);
    WRONG(tsc_connect(wrong, address, length), EBADF);
    WRONG(tsc_connect(wrong, NULL, 0), EBADF);
    WRONG(tsc_listen(wrong, 1), EBADF);
    WRONG(tsc_accept(wrong, NULL, NULL), EBADF);
    WRONG(tsc_send(wrong, "x", 1, 0), EBADF);
    WRONG(tsc_sendto(wrong, "x", 1, 0, address, length), EBADF);
    WRONG(tsc_recv(wrong, buffer, sizeof buffer, 0), EBADF);
    WRONG(tsc_recvfrom(wrong, buffer, sizeof buffer, 0, address, &length), EBADF);
    WRONG(tsc_getsockname(wrong, address, &length), EBADF);
    WRONG(tsc_getpeername(wrong, address, &length), EBADF);
    WRONG(tsc_shutdown(wrong, SHUT_RDWR), EBADF);
    WRONG(tsc_close(wrong), EBADF);
    WRONG(tsc_fcntl(wrong, F_GETFL, 0), EBADF);
    WRONG(tsc_setsockopt(wrong, SOL_SOCKET, SO_REUSEADDR, &value, sizeof value), EBADF);
    length = sizeof value;
    WRONG(tsc_getsockopt(wrong, SOL_SOCKET, SO_ERROR, &value, &length), EBADF);
    WRONG(tsc_get_pollfd(wrong), EBADF);
    WRONG(tsc_get_write_pollfd(wrong), EBADF);
    WRONG_POINTER(tsc_get_tunnel(wrong), EBADF);
    entry.fd = wrong;
    entry.events = TSC_POLLIN;
    CHECK(tsc_poll(&entry, 1, 0) == (wrong < 0 ? 0 : 1));
    CHECK(entry.revents == (wrong < 0 ? 0 : TSC_POLLNVAL));
    TSC_FD_ZERO(&set);
    TSC_FD_SET(wrong, &set);
    if (TSC_FD_ISSET(wrong, &set))
        FAILS(tsc_select(TSC_FD_SETSIZE, &set, NULL, NULL, &zero), EBADF);
}

/* A listener, and both ends of a connection to it. */
static void connection(tsc_handle tunnel, int *listener, int *near_end, int *far_end)
{
    struct sockaddr_in listening, from;
    struct sockaddr *address = (struct sockaddr *)&from;
    socklen_t length = sizeof listening, short_length = 4;
    *listener = bound(tunnel, SOCK_STREAM, &listening);
    CHECK(tsc_listen(*listener, 1) == 0);
    CHECK(tsc_getsockname(*listener, (struct sockaddr *)&listening, &length) == 0);
    *near_end = tsc_socket(tunnel, AF_INET, SOCK_STREAM, 0);
    CHECK(tsc_connect(*near_end, (struct sockaddr *)&listening, sizeof listening) == 0);
    memset(&from, 0x55, sizeof from);
    what = "-";
    RIGHT((*far_end = tsc_accept(*listener, address, &short_length)) > 0);
    CHECK(short_length == sizeof from && from.sin_family == AF_INET && from.sin_addr.s_addr == 0x55555555);
}

static void sockets(tsc_handle tunnel)
{
    struct sockaddr_in own, other;
    struct sockaddr *address = (struct sockaddr *)&own, *written = (struct sockaddr *)&other;
    struct sockaddr_in6 any6;
    struct sockaddr *v6 = (struct sockaddr *)&any6;
    struct timeval odd = {0, -1};
    socklen_t length = sizeof own, short_length = 4, short_value = 1;
    char buffer[4];
    int value = 1, count, i, datagrams, stream, listener, near_end, far_end;
    tsc_notification_handle deleted, all[TSC_MAX_NOTIFICATIONS];

    what = "-";
    WRONG(tsc_socket(tunnel, AF_UNIX, SOCK_DGRAM, 0), EAFNOSUPPORT);
    WRONG(tsc_socket(tunnel, AF_INET, SOCK_RAW, 0), ESOCKTNOSUPPORT);
    WRONG(tsc_socket(tunnel, AF_INET, SOCK_DGRAM, IPPROTO_TCP), EPROTONOSUPPORT);
    datagrams = bound(tunnel, SOCK_DGRAM, &own);
    stream = tsc_socket(tunnel, AF_INET, SOCK_STREAM, 0);
    connection(tunnel, &listener, &near_end, &far_end);
    CHECK(tsc_listen(listener, -5) == 0);
    memset(&any6, 0, sizeof any6);
    any6.sin6_family = AF_INET6;

    WRONG(tsc_bind(stream, NULL, length), EFAULT);
    WRONG(tsc_bind(stream, address, short_1), EINVAL);
    WRONG(tsc_bind(stream, address, sizeof own - 1), EINVAL);
    WRONG(tsc_bind(stream, v6, sizeof any6), EAFNOSUPPORT);
    WRONG(tsc_bind(datagrams, address, length), EINVAL);
    WRONG(tsc_connect(stream, NULL, length), EFAULT);
    WRONG(tsc_connect(stream, address, short_length), EINVAL);
    WRONG(tsc_connect(stream, v6, sizeof any6), EAFNOSUPPORT);
    WRONG(tsc_connect(listener, address, length), EOPNOTSUPP);
    WRONG(tsc_listen(datagrams, 1), EOPNOTSUPP);
    WRONG(tsc_listen(stream, 1), EDESTADDRREQ);
    WRONG(tsc_accept(datagrams, NULL, NULL), EOPNOTSUPP);
    WRONG(tsc_accept(stream, NULL, NULL), EINVAL);
    WRONG(tsc_accept(listener, written, NULL), EFAULT);
    WRONG(tsc_send(datagrams, NULL, 1, 0), EFAULT);
    WRONG(tsc_send(datagrams, "x", (size_t)-1, 0), EINVAL);
    WRONG(tsc_sendto(datagrams, NULL, 1, 0, address, length), EFAULT);
    WRONG(tsc_sendto(datagrams, "x", 1, 0, NULL, 0), EDESTADDRREQ);
    WRONG(tsc_sendto(datagrams, "x", 1, 0, address, short_1), EINVAL);
    WRONG(tsc_sendto(datagrams, "x", 1, 0, v6, sizeof any6), EAFNOSUPPORT);
    WRONG(tsc_recv(datagrams, NULL, 1, 0), EFAULT);
    WRONG(tsc_recv(datagrams, buffer, (size_t)-1, 0), EINVAL);
    WRONG(tsc_recv(datagrams, buffer, sizeof buffer, MSG_OOB), EOPNOTSUPP);
    WRONG(tsc_recv(listener, buffer, sizeof buffer, 0), ENOTCONN);
    WRONG(tsc_recvfrom(datagrams, NULL, 1, 0, NULL, NULL), EFAULT);
    WRONG(tsc_recvfrom(datagrams, buffer, sizeof buffer, 0, written, NULL), EFAULT);
    /* A datagram that does not fit is cut, and so is its sender's address. */
    memset(buffer, 'x', sizeof buffer);
    CHECK(tsc_sendto(datagrams, "abc", 3, 0, address, length) == 3);
    RIGHT(tsc_recv(datagrams, buffer, short_1, 0) == 1);
    CHECK(buffer[0] == 'a' && buffer[1] == 'x');
    CHECK(tsc_sendto(datagrams, "abc", 3, 0, address, length) == 3);
    memset(&other, 0x55, sizeof other);
    RIGHT(tsc_recvfrom(datagrams, buffer, short_1, 0, written, &short_length) == 1);
    CHECK(buffer[1] == 'x' && short_length == sizeof own && other.sin_port == own.sin_port && other.sin_addr.s_addr == 0x55555555);
    WRONG(tsc_getsockname(datagrams, NULL, &length), EFAULT);
    WRONG(tsc_getsockname(datagrams, written, NULL), EFAULT);
    memset(&other, 0x55, sizeof other);
    short_length = 4;
    RIGHT(tsc_getsockname(datagrams, written, &short_length) == 0);
    CHECK(short_length == sizeof own && other.sin_port == own.sin_port && other.sin_addr.s_addr == 0x55555555);
    WRONG(tsc_getpeername(stream, written, &length), ENOTCONN);
    WRONG(tsc_getpeername(near_end, NULL, &length), EFAULT);
    WRONG(tsc_getpeername(near_end, written, NULL), EFAULT);
    memset(&other, 0x55, sizeof other);
    short_length = 4;
    RIGHT(tsc_getpeername(near_end, written, &short_length) == 0);
    CHECK(short_length == sizeof own && other.sin_port != 0x5555 && other.sin_addr.s_addr == 0x55555555);
    WRONG(tsc_shutdown(datagrams, SHUT_RD), EOPNOTSUPP);
    WRONG(tsc_shutdown(stream, SHUT_RD), ENOTCONN);
    WRONG(tsc_shutdown(stream, 77), EINVAL);
    WRONG(tsc_fcntl(stream, F_SETFD, 0), EINVAL);
    WRONG(tsc_setsockopt(stream, SOL_SOCKET, SO_REUSEADDR, NULL, sizeof value), EFAULT);
    WRONG(tsc_setsockopt(stream, SOL_SOCKET, SO_REUSEADDR, &value, short_value), EINVAL);
    WRONG(tsc_setsockopt(stream, SOL_SOCKET, SO_RCVTIMEO, &odd, sizeof odd), EINVAL);
    WRONG(tsc_setsockopt(stream, SOL_SOCKET, SO_RCVTIMEO, &value, sizeof value), EINVAL);
    WRONG(tsc_setsockopt(stream, SOL_SOCKET, SO_LINGER, &value, sizeof value), EINVAL);
    WRONG(tsc_setsockopt(stream, SOL_SOCKET, SO_TSC_PEER, &value, sizeof value), ENOPROTOOPT);
    WRONG(tsc_setsockopt(datagrams, IPPROTO_TCP, TCP_NODELAY, &value, sizeof value), ENOPROTOOPT);
    WRONG(tsc_setsockopt(datagrams, 4711, 1, &value, sizeof value), ENOPROTOOPT);
    value = 99;
    for (i = SO_TSC_REDUNDANCY; i <= SO_TSC_PEER; i++) {
        WRONG(tsc_setsockopt(datagrams, SOL_SOCKET, i, &value, sizeof value), EINVAL);
        WRONG(tsc_setsockopt(datagrams, SOL_SOCKET, i, &value, short_value), EINVAL);
    }
    WRONG(tsc_setsockopt(listener, SOL_SOCKET, SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION, &value, sizeof value), EINVAL);
    value = 0;
    WRONG(tsc_setsockopt(listener, SOL_SOCKET, SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION, &value, sizeof value), EISCONN);
    WRONG(tsc_getsockopt(stream, SOL_SOCKET, SO_ERROR, NULL, &length), EFAULT);
    WRONG(tsc_getsockopt(stream, SOL_SOCKET, SO_ERROR, &value, NULL), EFAULT);
    WRONG(tsc_getsockopt(stream, SOL_SOCKET, SO_TSC_REDUNDANCY, &value, &length), ENOPROTOOPT);
    value = 0x55555555;
    RIGHT(tsc_getsockopt(stream, SOL_SOCKET, SO_TYPE, &value, &short_value) == 0 && short_value == 1);
    CHECK(value == (0x55555500 | SOCK_STREAM) || value == (0x00555555 | SOCK_STREAM << 24));

    WRONG_CODE(tsc_get_config(tunnel, NULL), EFAULT);
    WRONG_CODE(tsc_get_tunnel_socket_info(tunnel, NULL), EFAULT);
    WRONG_POINTER(tsc_notification_enable(tunnel, tsc_notification_ddt, NULL, NULL), EINVAL);
    WRONG_POINTER(tsc_notification_enable(tunnel, (tsc_notification_type)77, nothing, NULL), EINVAL);
    for (count = 0; (deleted = tsc_notification_enable(tunnel, tsc_notification_peer, nothing, NULL)) != NULL; count++)
        all[count] = deleted;
    CHECK(errno == ENOSPC && count > TSC_MAX_NOTIFICATIONS - 2);
    REFUSED(tsc_delete_tunnel((tsc_handle)(void *)all[0]), EBADF);
    for (i = 0; i < count; i++) {
        deleted = all[i];
        CHECK(tsc_notification_disable(deleted) == tsc_error_code_ok);
        WRONG_CODE(tsc_notification_disable(deleted), EBADF);
    }

    CHECK(tsc_close(near_end) == 0 && tsc_close(far_end) == 0);
    CHECK(tsc_close(datagrams) == 0 && tsc_close(stream) == 0 && tsc_close(listener) == 0);
    numbers("closed", stream);
    numbers("closed", datagrams);
}

/* Sockets of a tunnel that was deleted, and its handle. They are numbers still, and calls that need the tunnel fail. */
static void orphans(char **arguments)
{
    struct sockaddr_in any;
    struct sockaddr *address = (struct sockaddr *)&any;
    tsc_handle tunnel = open_tunnel(arguments);
    tsc_notification_handle deleted = tsc_notification_enable(tunnel, tsc_notification_ddt, nothing, NULL);
    int fresh = tsc_socket(tunnel, AF_INET, SOCK_DGRAM, 0), datagrams = bound(tunnel, SOCK_DGRAM, &any);
    int bound_stream = bound(tunnel, SOCK_STREAM, &any), listener, near_end, far_end, all[6], i;
    int orphan, value = 1, redundancy[2] = {1, 0};
    socklen_t length = sizeof any;
    char buffer[4];
    connection(tunnel, &listener, &near_end, &far_end);
    CHECK(deleted != NULL && tsc_delete_tunnel(tunnel) == tsc_error_code_ok);
    what = "-";
    WRONG_CODE(tsc_notification_disable(deleted), EBADF);
    handles("deleted", tunnel);
    what = "-";

    all[0] = orphan = fresh;
    any.sin_port = 0;
    WRONG(tsc_bind(orphan, address, length), ENETDOWN);
    WRONG(tsc_send(orphan, "x", 1, 0), ENETDOWN);
    WRONG(tsc_recv(orphan, buffer, sizeof buffer, 0), ENETDOWN);
    RIGHT(tsc_fcntl(orphan, F_SETFL, O_NONBLOCK) == 0);
    all[1] = orphan = bound_stream;
    WRONG(tsc_listen(orphan, 1), ENETDOWN);
    WRONG(tsc_connect(orphan, address, length), ENETDOWN);
    all[2] = orphan = listener;
    WRONG(tsc_accept(orphan, NULL, NULL), ENETDOWN);
    all[3] = near_end;
    all[4] = far_end;
    for (i = 3; i < 5; i++) {
        orphan = all[i];
        WRONG(tsc_send(orphan, "x", 1, 0), ENETDOWN);
        WRONG(tsc_recv(orphan, buffer, sizeof buffer, 0), ENETDOWN);
        RIGHT(tsc_getpeername(orphan, address, &length) == 0);
        WRONG(tsc_shutdown(orphan, SHUT_WR), ENETDOWN);
    }
    all[5] = orphan = datagrams;
    any.sin_port = htons(5060);
    WRONG(tsc_connect(orphan, address, length), ENETDOWN);
    WRONG(tsc_sendto(orphan, "x", 1, 0, address, length), ENETDOWN);
    WRONG(tsc_recvfrom(orphan, buffer, sizeof buffer, 0, address, &length), ENETDOWN);
    RIGHT(tsc_getsockname(orphan, address, &length) == 0);
    WRONG(tsc_setsockopt(orphan, SOL_SOCKET, SO_TSC_PEER, &value, sizeof value), ENETDOWN);
    WRONG(tsc_setsockopt(orphan, SOL_SOCKET, SO_TSC_REDUNDANCY, redundancy, sizeof redundancy), ENETDOWN);
    length = sizeof value;
    RIGHT(tsc_getsockopt(orphan, SOL_SOCKET, SO_TYPE, &value, &length) == 0 && value == SOCK_DGRAM);
    RIGHT(tsc_get_pollfd(orphan) >= 0);
    RIGHT(tsc_get_write_pollfd(orphan) >= 0);
    WRONG_POINTER(tsc_get_tunnel(orphan), ENETDOWN);
    for (i = 0; i < 6; i++) {
        struct tsc_pollfd entry;
        struct tsc_timeval zero = {0, 0};
        tsc_fd_set set;
        orphan = all[i];
        entry.fd = orphan;
        entry.events = 0;
        CHECK(tsc_poll(&entry, 1, -1) == 1 && entry.revents == TSC_POLLERR);
        TSC_FD_ZERO(&set);
        TSC_FD_SET(orphan, &set);
        CHECK(tsc_select(TSC_FD_SETSIZE, &set, NULL, NULL, &zero) >= 0);
        RIGHT(tsc_close(orphan) == 0);
    }
}

/* What is wrong whatever there is. */
static void everywhere(char **arguments)
{
    static const int none[] = {-1, 0, 1000, TSC_FD_SETSIZE - 1, TSC_FD_SETSIZE, 0x7FFFFFFF, (-0x7FFFFFFF - 1)};
    size_t i;
    texts();
    handles("NULL", NULL);
    handles("stale", (tsc_handle)(uintptr_t)0x7FFFFFF0);
    for (i = 0; i < sizeof none / sizeof none[0]; i++)
        numbers("never", none[i]);
    no_tunnels(arguments);
}

/* Without a library. */
static void nowhere(char **arguments)
{
    what = "-";
    WRONG_CODE(tsc_ctrl_term(), EINVAL);
    everywhere(arguments);
    what = "-";
    RIGHT(tsc_ctrl_init() == tsc_error_code_ok);
    RIGHT(tsc_ctrl_term() == tsc_error_code_ok);
    WRONG_CODE(tsc_ctrl_term(), EINVAL);
}

/* With one, and in it a tunnel that somebody else may have opened. */
struct inside {
    char **arguments;
    tsc_handle tunnel;
    pthread_mutex_t lock;
    pthread_cond_t done;
    int is_done;
};

static void *inside(void *opaque)
{
    struct inside *inside = (struct inside *)opaque;
    everywhere(inside->arguments);
    sockets(inside->tunnel);
    orphans(inside->arguments);
    what = "-";
    RIGHT(tsc_ctrl_init() == tsc_error_code_ok);
    return NULL;
}

static void inside_a_callback(tsc_notification_data *notification)
{
    struct inside *opaque = (struct inside *)notification->opaque;
    CHECK(pthread_mutex_lock(&opaque->lock) == 0);
    inside(opaque);
    WRONG_CODE(tsc_ctrl_term(), EDEADLK);
    opaque->is_done = 1;
    CHECK(pthread_cond_signal(&opaque->done) == 0 && pthread_mutex_unlock(&opaque->lock) == 0);
}

/* More sockets than there are numbers. */
static void too_many(tsc_handle tunnel)
{
    struct sockaddr_in address;
    int listener = bound(tunnel, SOCK_STREAM, &address), connecting, accepted, s, last = 0;
    socklen_t length = sizeof address;
    CHECK(tsc_listen(listener, 1) == 0);
    CHECK(tsc_getsockname(listener, (struct sockaddr *)&address, &length) == 0);
    connecting = tsc_socket(tunnel, AF_INET, SOCK_STREAM, 0);
    CHECK(tsc_connect(connecting, (struct sockaddr *)&address, sizeof address) == 0);
    while ((s = tsc_socket(tunnel, AF_INET, SOCK_DGRAM, 0)) != -1)
        last = s;
    CHECK(errno == EMFILE && last == TSC_FD_SETSIZE - 1);
    /* The connection waits until there is a number for it. */
    FAILS(tsc_accept(listener, NULL, NULL), EMFILE);
    CHECK(tsc_close(last) == 0);
    accepted = tsc_accept(listener, NULL, NULL);
    CHECK(accepted == last);
    for (s = 1; s < TSC_FD_SETSIZE; s++)
        CHECK(tsc_close(s) == 0);
}

int main(int count, char **arguments)
{
    struct inside all;
    pthread_t thread;

    CHECK(count == 4);
    memset(&all, 0, sizeof all);
    all.arguments = arguments;
    CHECK(pthread_mutex_init(&all.lock, NULL) == 0 && pthread_cond_init(&all.done, NULL) == 0);
    nowhere(arguments);

    where = "inside";
    all.tunnel = open_tunnel(arguments);
    inside(&all);
    RIGHT(tsc_ctrl_term() == tsc_error_code_ok);

    where = "thread";
    CHECK(pthread_create(&thread, NULL, inside, &all) == 0 && pthread_join(thread, NULL) == 0);
    RIGHT(tsc_ctrl_term() == tsc_error_code_ok);

    where = "callback";
    CHECK(pthread_mutex_lock(&all.lock) == 0);
    CHECK(tsc_notification_enable(all.tunnel, tsc_notification_tunnel_socket_info, inside_a_callback, &all) != NULL);
    while (!all.is_done)
        CHECK(pthread_cond_wait(&all.done, &all.lock) == 0);
    CHECK(pthread_mutex_unlock(&all.lock) == 0);
    where = "inside";
    RIGHT(tsc_ctrl_term() == tsc_error_code_ok);

    too_many(all.tunnel);
    CHECK(tsc_delete_tunnel(all.tunnel) == tsc_error_code_ok);
    handles("deleted", all.tunnel);
    CHECK(tsc_ctrl_term() == tsc_error_code_ok);

    where = "after";
    handles("deleted", all.tunnel);
    numbers("closed", 1);
    nowhere(arguments);
    return 0;
}
