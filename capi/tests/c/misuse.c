/* Each function, used wrongly: it says so, and nothing else happens. Without arguments, as before the library is there. */
#include "check.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/time.h>

static void nothing(tsc_notification_data *notification)
{
    (void)notification;
}

/* Not a handle, but not NULL either. */
static tsc_handle stale(void)
{
    return (tsc_handle)(uintptr_t)0x7FFFFFF0;
}

static void handles(tsc_handle none)
{
    tsc_config config;
    tsc_tunnel_socket_info info;
    memset(&config, 0x55, sizeof config);
    REFUSED(tsc_get_config(none, &config), EBADF);
    CHECK(config.mtu == 0x55555555);
    REFUSED(tsc_get_config(none, NULL), EFAULT);
    REFUSED(tsc_get_tunnel_socket_info(none, &info), EBADF);
    REFUSED(tsc_get_tunnel_socket_info(none, NULL), EFAULT);
    REFUSED(tsc_wait_tunnel(none, 0), EBADF);
    REFUSED(tsc_network_changed(none), EBADF);
    REFUSED(tsc_delete_tunnel(none), EBADF);
    CHECK(tsc_last_error(NULL, 0) == tsc_error_code_error);
    errno = 0;
    CHECK(tsc_notification_enable(none, tsc_notification_ddt, nothing, NULL) == NULL && errno == EBADF);
    REFUSED(tsc_notification_disable((tsc_notification_handle)(void *)none), EBADF);
    FAILS(tsc_socket(none, AF_INET, SOCK_DGRAM, 0), EBADF);
}

/* Each call on a number that is no socket; pointers are not looked at. */
static void numbers(int none)
{
    struct sockaddr_in address;
    struct tsc_timeval zero = {0, 0};
    struct tsc_pollfd entry;
    socklen_t length = sizeof address;
    tsc_fd_set set;
    char buffer[4];
    int value = 0;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    FAILS(tsc_bind(none, (struct sockaddr *)&address, length), EBADF);
    FAILS(tsc_bind(none, NULL, 0), EBADF);
    FAILS(tsc_connect(none, (struct sockaddr *)&address, length), EBADF);
    FAILS(tsc_connect(none, NULL, 0), EBADF);
    FAILS(tsc_listen(none, 1), EBADF);
    FAILS(tsc_accept(none, NULL, NULL), EBADF);
    FAILS(tsc_send(none, "x", 1, 0), EBADF);
    FAILS(tsc_sendto(none, "x", 1, 0, (struct sockaddr *)&address, length), EBADF);
    FAILS(tsc_recv(none, buffer, sizeof buffer, 0), EBADF);
    FAILS(tsc_recvfrom(none, buffer, sizeof buffer, 0, (struct sockaddr *)&address, &length), EBADF);
    FAILS(tsc_getsockname(none, (struct sockaddr *)&address, &length), EBADF);
    FAILS(tsc_getpeername(none, (struct sockaddr *)&address, &length), EBADF);
    FAILS(tsc_shutdown(none, SHUT_RDWR), EBADF);
    FAILS(tsc_close(none), EBADF);
    FAILS(tsc_fcntl(none, F_GETFL, 0), EBADF);
    FAILS(tsc_setsockopt(none, SOL_SOCKET, SO_REUSEADDR, &value, sizeof value), EBADF);
    length = sizeof value;
    FAILS(tsc_getsockopt(none, SOL_SOCKET, SO_ERROR, &value, &length), EBADF);
    FAILS(tsc_get_pollfd(none), EBADF);
    FAILS(tsc_get_write_pollfd(none), EBADF);
    errno = 0;
    CHECK(tsc_get_tunnel(none) == NULL && errno == EBADF);
    entry.fd = none;
    entry.events = TSC_POLLIN;
    CHECK(tsc_poll(&entry, 1, 0) == (none < 0 ? 0 : 1));
    CHECK(entry.revents == (none < 0 ? 0 : TSC_POLLNVAL));
    TSC_FD_ZERO(&set);
    TSC_FD_SET(none, &set);
    if (TSC_FD_ISSET(none, &set))
        FAILS(tsc_select(TSC_FD_SETSIZE, &set, NULL, NULL, &zero), EBADF);
}

/* What needs no tunnel. */
static void texts(void)
{
    struct tsc_timeval negative = {-1, 0}, odd = {0, 1000000};
    tsc_ip_address v4;
    tsc_ip_port_address v4_port;
    tsc_ipv6_address v6;
    struct sockaddr_in address;
    char text[TSC_ADDR_STR_LEN];
    int i;
    memset(&v6, 0, sizeof v6);
    memset(&address, 0, sizeof address);
    v4.address = 0x0A000001;
    v4_port.address = 0x0A000001;
    v4_port.port = 80;
    errno = 0;
    CHECK(tsc_ip_address_to_str(NULL, text, sizeof text) == NULL && errno == EINVAL);
    CHECK(tsc_ip_address_to_str(&v4, NULL, sizeof text) == NULL && errno == EINVAL);
    memset(text, 'x', sizeof text);
    CHECK(tsc_ip_address_to_str(&v4, text, 8) == NULL && errno == ENOSPC && text[0] == 'x');
    CHECK(tsc_ip_address_to_str(&v4, text, 0) == NULL && errno == ENOSPC && text[0] == 'x');
    CHECK(tsc_ip_address_to_str(&v4, text, 9) == text && strcmp(text, "10.0.0.1") == 0);
    CHECK(tsc_ip_port_address_to_str(NULL, text, sizeof text) == NULL);
    CHECK(tsc_ip_port_address_to_str(&v4_port, text, 11) == NULL && errno == ENOSPC);
    CHECK(tsc_ip_port_address_to_str(&v4_port, text, 12) == text && strcmp(text, "10.0.0.1:80") == 0);
    CHECK(tsc_ipv6_address_to_str(NULL, text, sizeof text) == NULL);
    CHECK(tsc_ipv6_address_to_str(&v6, text, 2) == NULL && errno == ENOSPC);
    CHECK(tsc_ipv6_address_to_str(&v6, text, 3) == text && strcmp(text, "::") == 0);
    errno = 0;
    CHECK(tsc_sockaddr_to_str(NULL, sizeof address, text, sizeof text) == NULL && errno == EINVAL);
    CHECK(tsc_sockaddr_to_str((struct sockaddr *)&address, sizeof address, text, sizeof text) == NULL && errno == EAFNOSUPPORT);
    address.sin_family = AF_INET;
    CHECK(tsc_sockaddr_to_str((struct sockaddr *)&address, 1, text, sizeof text) == NULL && errno == EINVAL);
    CHECK(tsc_sockaddr_to_str((struct sockaddr *)&address, sizeof address, text, 3) == NULL && errno == ENOSPC);
    for (i = -1; i < 15; i++)
        CHECK(strlen(tsc_error_code_to_str((tsc_error_code)i)) > 0);
    CHECK(strcmp(tsc_error_code_to_str(tsc_error_code_queue_overflow), "tsc_error_code_queue_overflow") == 0);
    CHECK(tsc_last_error(NULL, 5) == tsc_last_error(text, 0));
    FAILS(tsc_select(-1, NULL, NULL, NULL, NULL), EINVAL);
    FAILS(tsc_select(TSC_FD_SETSIZE + 1, NULL, NULL, NULL, NULL), EINVAL);
    FAILS(tsc_select(0, NULL, NULL, NULL, &negative), EINVAL);
    FAILS(tsc_select(0, NULL, NULL, NULL, &odd), EINVAL);
    FAILS(tsc_poll(NULL, 1, 0), EFAULT);
    FAILS(tsc_poll(NULL, TSC_FD_SETSIZE + 1, 0), EINVAL);
    tsc_sleep(0);
}

/* Parameters that make no tunnel. */
static void no_tunnel(tsc_tunnel_params *params, int number)
{
    char text[100];
    errno = 0;
    CHECK(tsc_ctrl_new_tunnel(params, NULL) == NULL && errno == number);
    CHECK(tsc_last_error(text, 10) != tsc_error_code_ok && strlen(text) > 0 && strlen(text) < 10);
}

static void no_tunnels(char **arguments)
{
    tsc_tunnel_params *params;
    no_tunnel(NULL, EINVAL);
    errno = 0;
    CHECK(tsc_new_tunnel(NULL, NULL) == NULL && errno == EINVAL);
    params = parameters(arguments);
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

static void sockets(tsc_handle tunnel)
{
    struct sockaddr_in address, other;
    struct sockaddr_in6 v6;
    struct timeval odd = {0, -1};
    socklen_t length = sizeof address, short_length = 4;
    char buffer[4];
    int value = 1, i, datagrams, stream, listener;
    tsc_notification_handle notification;

    FAILS(tsc_socket(tunnel, AF_UNIX, SOCK_DGRAM, 0), EAFNOSUPPORT);
    FAILS(tsc_socket(tunnel, AF_INET, SOCK_RAW, 0), ESOCKTNOSUPPORT);
    FAILS(tsc_socket(tunnel, AF_INET, SOCK_DGRAM, IPPROTO_TCP), EPROTONOSUPPORT);
    datagrams = bound(tunnel, SOCK_DGRAM, &address);
    stream = tsc_socket(tunnel, AF_INET, SOCK_STREAM, 0);
    listener = bound(tunnel, SOCK_STREAM, &other);
    CHECK(tsc_listen(listener, -5) == 0);
    memset(&v6, 0, sizeof v6);
    v6.sin6_family = AF_INET6;

    FAILS(tsc_bind(stream, NULL, length), EFAULT);
    FAILS(tsc_bind(stream, (struct sockaddr *)&address, 1), EINVAL);
    FAILS(tsc_bind(stream, (struct sockaddr *)&address, sizeof address - 1), EINVAL);
    FAILS(tsc_bind(stream, (struct sockaddr *)&v6, sizeof v6), EAFNOSUPPORT);
    FAILS(tsc_bind(datagrams, (struct sockaddr *)&address, length), EINVAL);
    FAILS(tsc_connect(stream, NULL, length), EFAULT);
    FAILS(tsc_connect(stream, (struct sockaddr *)&v6, sizeof v6), EAFNOSUPPORT);
    FAILS(tsc_connect(listener, (struct sockaddr *)&address, length), EOPNOTSUPP);
    FAILS(tsc_listen(datagrams, 1), EOPNOTSUPP);
    FAILS(tsc_listen(stream, 1), EDESTADDRREQ);
    FAILS(tsc_accept(datagrams, NULL, NULL), EOPNOTSUPP);
    FAILS(tsc_accept(stream, NULL, NULL), EINVAL);
    FAILS(tsc_accept(listener, (struct sockaddr *)&other, NULL), EFAULT);
    FAILS(tsc_send(datagrams, NULL, 1, 0), EFAULT);
    FAILS(tsc_send(datagrams, "x", (size_t)-1, 0), EINVAL);
    FAILS(tsc_sendto(datagrams, "x", 1, 0, (struct sockaddr *)&address, 2), EINVAL);
    FAILS(tsc_sendto(datagrams, "x", 1, 0, (struct sockaddr *)&v6, sizeof v6), EAFNOSUPPORT);
    FAILS(tsc_recv(datagrams, NULL, 1, 0), EFAULT);
    FAILS(tsc_recv(datagrams, buffer, sizeof buffer, MSG_OOB), EOPNOTSUPP);
    FAILS(tsc_recvfrom(datagrams, buffer, sizeof buffer, 0, (struct sockaddr *)&other, NULL), EFAULT);
    FAILS(tsc_recv(listener, buffer, sizeof buffer, 0), ENOTCONN);
    FAILS(tsc_getsockname(datagrams, NULL, &length), EFAULT);
    FAILS(tsc_getsockname(datagrams, (struct sockaddr *)&other, NULL), EFAULT);
    memset(&other, 0x55, sizeof other);
    CHECK(tsc_getsockname(datagrams, (struct sockaddr *)&other, &short_length) == 0);
    CHECK(short_length == sizeof address && other.sin_port == address.sin_port && other.sin_addr.s_addr == 0x55555555);
    FAILS(tsc_getpeername(stream, (struct sockaddr *)&other, &length), ENOTCONN);
    FAILS(tsc_shutdown(datagrams, SHUT_RD), EOPNOTSUPP);
    FAILS(tsc_shutdown(stream, SHUT_RD), ENOTCONN);
    FAILS(tsc_shutdown(stream, 77), EINVAL);
    FAILS(tsc_fcntl(stream, F_SETFD, 0), EINVAL);
    FAILS(tsc_setsockopt(stream, SOL_SOCKET, SO_REUSEADDR, NULL, sizeof value), EFAULT);
    FAILS(tsc_setsockopt(stream, SOL_SOCKET, SO_REUSEADDR, &value, 3), EINVAL);
    FAILS(tsc_setsockopt(stream, SOL_SOCKET, SO_RCVTIMEO, &odd, sizeof odd), EINVAL);
    FAILS(tsc_setsockopt(stream, SOL_SOCKET, SO_RCVTIMEO, &value, sizeof value), EINVAL);
    FAILS(tsc_setsockopt(stream, SOL_SOCKET, SO_LINGER, &value, sizeof value), EINVAL);
    FAILS(tsc_setsockopt(stream, SOL_SOCKET, SO_TSC_PEER, &value, sizeof value), ENOPROTOOPT);
    FAILS(tsc_setsockopt(datagrams, IPPROTO_TCP, TCP_NODELAY, &value, sizeof value), ENOPROTOOPT);
    FAILS(tsc_setsockopt(datagrams, 4711, 1, &value, sizeof value), ENOPROTOOPT);
    value = 99;
    for (i = SO_TSC_REDUNDANCY; i <= SO_TSC_PEER; i++)
        FAILS(tsc_setsockopt(datagrams, SOL_SOCKET, i, &value, sizeof value), EINVAL);
    FAILS(tsc_setsockopt(listener, SOL_SOCKET, SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION, &value, sizeof value), EINVAL);
    value = 0;
    FAILS(tsc_setsockopt(listener, SOL_SOCKET, SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION, &value, sizeof value), EISCONN);
    FAILS(tsc_getsockopt(stream, SOL_SOCKET, SO_ERROR, NULL, &length), EFAULT);
    FAILS(tsc_getsockopt(stream, SOL_SOCKET, SO_ERROR, &value, NULL), EFAULT);
    FAILS(tsc_getsockopt(stream, SOL_SOCKET, SO_TSC_REDUNDANCY, &value, &length), ENOPROTOOPT);
    value = 0x55555555;
    length = 1;
    CHECK(tsc_getsockopt(stream, SOL_SOCKET, SO_TYPE, &value, &length) == 0 && length == 1);
    CHECK(value == (0x55555500 | SOCK_STREAM) || value == (0x00555555 | SOCK_STREAM << 24));

    errno = 0;
    CHECK(tsc_notification_enable(tunnel, tsc_notification_ddt, NULL, NULL) == NULL && errno == EINVAL);
    CHECK(tsc_notification_enable(tunnel, (tsc_notification_type)77, nothing, NULL) == NULL && errno == EINVAL);
    for (i = 0; i < TSC_MAX_NOTIFICATIONS; i++)
        CHECK((notification = tsc_notification_enable(tunnel, tsc_notification_peer, nothing, NULL)) != NULL);
    CHECK(tsc_notification_enable(tunnel, tsc_notification_peer, nothing, NULL) == NULL && errno == ENOSPC);
    CHECK(tsc_notification_disable(notification) == tsc_error_code_ok);
    REFUSED(tsc_delete_tunnel((tsc_handle)(void *)notification), EBADF);

    CHECK(tsc_close(datagrams) == 0 && tsc_close(stream) == 0 && tsc_close(listener) == 0);
    numbers(stream);
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
    static const int none[] = {-1, 0, 1, 500, TSC_FD_SETSIZE - 1, TSC_FD_SETSIZE, 0x7FFFFFFF, (-0x7FFFFFFF - 1)};
    tsc_handle tunnel;
    size_t i;

    CHECK(count == 4);
    /* There is no library yet. */
    REFUSED(tsc_ctrl_term(), EINVAL);
    texts();
    handles(NULL);
    handles(stale());
    for (i = 0; i < sizeof none / sizeof none[0]; i++)
        numbers(none[i]);
    no_tunnels(arguments);
    /* There is one. */
    CHECK(tsc_ctrl_init() == tsc_error_code_ok && tsc_ctrl_init() == tsc_error_code_ok);
    CHECK(tsc_ctrl_term() == tsc_error_code_ok);
    tunnel = open_tunnel(arguments);
    texts();
    handles(NULL);
    handles(stale());
    for (i = 0; i < sizeof none / sizeof none[0]; i++)
        numbers(none[i]);
    sockets(tunnel);
    too_many(tunnel);
    CHECK(tsc_delete_tunnel(tunnel) == tsc_error_code_ok);
    handles(tunnel);
    CHECK(tsc_ctrl_term() == tsc_error_code_ok);
    numbers(1);
    return 0;
}
