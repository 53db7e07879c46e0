/* Tunnels with both IP versions, as they were asked for, and datagrams and a stream over IPv6 from one to another. */
#include "check.h"

static struct sockaddr_in6 ipv6_address(const tsc_config *config)
{
    struct sockaddr_in6 address;
    memset(&address, 0, sizeof address);
    address.sin6_family = AF_INET6;
    memcpy(&address.sin6_addr, config->internal_ipv6_address.address, 16);
    return address;
}

int main(int count, char **arguments)
{
    struct sockaddr_in6 near_address, far_address, from;
    socklen_t length = sizeof from;
    tsc_requested_config wanted;
    tsc_handle near_tunnel, far_tunnel;
    tsc_config config;
    char text[TSC_ADDR_STR_LEN], buffer[10];
    int near_socket, far_socket, listener, domain;

    CHECK(count == 4);
    memset(&wanted, 0, sizeof wanted);
    wanted.ipv4 = tsc_bool_true;
    wanted.ipv6 = tsc_bool_true;
    wanted.mtu = 1300;
    far_tunnel = tsc_ctrl_new_tunnel(parameters(arguments), &wanted);
    CHECK(far_tunnel != NULL && tsc_get_config(far_tunnel, &config) == tsc_error_code_ok);
    far_address = ipv6_address(&config);
    near_tunnel = tsc_ctrl_new_tunnel(parameters(arguments), &wanted);
    CHECK(near_tunnel != NULL && tsc_get_config(near_tunnel, &config) == tsc_error_code_ok);
    near_address = ipv6_address(&config);
    CHECK(config.internal_address.address != 0 && config.has_internal_ipv6_address == tsc_bool_true && config.mtu == 1300);
    CHECK(tsc_ipv6_address_to_str(&config.internal_ipv6_address, text, sizeof text) == text);
    CHECK(strncmp(text, "fd00:64::", 9) == 0);

    near_socket = tsc_socket(near_tunnel, AF_INET6, SOCK_DGRAM, 0);
    far_socket = tsc_socket(far_tunnel, AF_INET6, SOCK_DGRAM, 0);
    CHECK(tsc_bind(near_socket, (struct sockaddr *)&near_address, sizeof near_address) == 0);
    CHECK(tsc_bind(far_socket, (struct sockaddr *)&far_address, sizeof far_address) == 0);
    CHECK(tsc_getsockname(far_socket, (struct sockaddr *)&far_address, &length) == 0 && length == sizeof from);
    CHECK(tsc_sendto(near_socket, "six", 3, 0, (struct sockaddr *)&far_address, sizeof far_address) == 3);
    CHECK(tsc_recvfrom(far_socket, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length) == 3);
    CHECK(memcmp(&from.sin6_addr, &near_address.sin6_addr, 16) == 0);
    CHECK(tsc_sockaddr_to_str((struct sockaddr *)&from, length, text, sizeof text) == text && text[0] == '[');
    length = sizeof domain;
    CHECK(tsc_getsockopt(near_socket, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_INET6);
    CHECK(tsc_close(near_socket) == 0 && tsc_close(far_socket) == 0);

    listener = tsc_socket(far_tunnel, AF_INET6, SOCK_STREAM, 0);
    far_address.sin6_port = 0;
    length = sizeof far_address;
    CHECK(tsc_bind(listener, (struct sockaddr *)&far_address, sizeof far_address) == 0 && tsc_listen(listener, 1) == 0);
    CHECK(tsc_getsockname(listener, (struct sockaddr *)&far_address, &length) == 0);
    near_socket = tsc_socket(near_tunnel, AF_INET6, SOCK_STREAM, 0);
    CHECK(tsc_connect(near_socket, (struct sockaddr *)&far_address, sizeof far_address) == 0);
    length = 8; /* Cut, and the whole length is told. */
    far_socket = tsc_accept(listener, (struct sockaddr *)&from, &length);
    CHECK(far_socket > 0 && length == sizeof from);
    CHECK(tsc_send(near_socket, "stream", 6, 0) == 6);
    CHECK(tsc_recv(far_socket, buffer, 6, MSG_WAITALL) == 6 && memcmp(buffer, "stream", 6) == 0);
    CHECK(tsc_ctrl_term() == tsc_error_code_ok);
    return 0;
}
