/* What the test programs have in common. Each of them is C99 and C++. */
#ifndef CHECK_H
#define CHECK_H

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tsc_control_api.h"
#include "tsc_socket_api.h"

/* Nothing here takes longer unless it hangs, in milliseconds. */
#define LIMIT 20000

#define CHECK(condition)                                                                                          \
    do {                                                                                                          \
        if (!(condition)) {                                                                                       \
            fprintf(stderr, "%s:%d: %s (errno %d: %s)\n", __FILE__, __LINE__, #condition, errno, strerror(errno)); \
            exit(1);                                                                                              \
        }                                                                                                         \
    } while (0)

/* That a call fails, and how. */
#define FAILS(call, number)            \
    do {                               \
        errno = 0;                     \
        CHECK((call) == -1);           \
        CHECK(errno == (number));      \
    } while (0)

/* The same of a tsc_error_code. */
#define REFUSED(call, number)                \
    do {                                     \
        errno = 0;                           \
        CHECK((call) == tsc_error_code_error); \
        CHECK(errno == (number));            \
    } while (0)

/* Programs are called with the transport, the server's port (at 127.0.0.1, or HOST:PORT), and the file with its authority. */
static inline tsc_tunnel_params *parameters(char **arguments)
{
    static tsc_tunnel_params params;
    const char *transport = arguments[1], *port = strchr(arguments[2], ':');
    memset(&params, 0, sizeof params);
    params.max_connections = 1;
    params.connection_timeout_max = 10;
    params.connection_params[0].server_address.address = 0x7F000001;
    if (port != NULL)
        CHECK(sscanf(arguments[2], "%255[^:]", params.connection_params[0].server_name) == 1);
    params.connection_params[0].server_address.port = (uint16_t)atoi(port == NULL ? arguments[2] : port + 1);
    if (strcmp(transport, "tcp") == 0)
        params.connection_params[0].transport = tsc_transport_tcp;
    else if (strcmp(transport, "tls") == 0)
        params.connection_params[0].transport = tsc_transport_tls;
    else if (strcmp(transport, "dtls") == 0)
        params.connection_params[0].transport = tsc_transport_dtls;
    else
        params.connection_params[0].transport = tsc_transport_udp;
    params.sec_config[0].read_from_file = tsc_bool_true;
    params.sec_config[0].ca_count = 1;
    params.sec_config[0].config_ca.ca_len = (uint32_t)strlen(arguments[3]);
    strncpy(params.sec_config[0].config_ca.ca, arguments[3], TSC_PEM_LEN - 1);
    return &params;
}

static inline tsc_handle open_tunnel(char **arguments)
{
    tsc_handle handle = tsc_ctrl_new_tunnel(parameters(arguments), NULL);
    if (handle == NULL) {
        char text[200];
        int code = (int)tsc_last_error(text, sizeof text);
        fprintf(stderr, "no tunnel: %d, %s\n", code, text);
    }
    CHECK(handle != NULL);
    return handle;
}

/* An address inside a tunnel. */
static inline struct sockaddr_in inner_address(tsc_handle handle, unsigned port)
{
    struct sockaddr_in address;
    tsc_config config;
    CHECK(tsc_get_config(handle, &config) == tsc_error_code_ok);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(config.internal_address.address);
    address.sin_port = htons((uint16_t)port);
    return address;
}

/* A socket that is bound; `address` becomes the one that it has. */
static inline int bound(tsc_handle handle, int type, struct sockaddr_in *address)
{
    socklen_t length = sizeof *address;
    int s = tsc_socket(handle, AF_INET, type, 0);
    CHECK(s > 0);
    *address = inner_address(handle, 0);
    CHECK(tsc_bind(s, (struct sockaddr *)address, sizeof *address) == 0);
    CHECK(tsc_getsockname(s, (struct sockaddr *)address, &length) == 0);
    CHECK(length == sizeof *address);
    return s;
}

#endif
