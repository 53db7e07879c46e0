/*
 * TCP inside a tunnel, in C: fetches a page over HTTP through a tunnel.
 *
 *   tsc_sip_inner_tcp TRANSPORT SERVER PORT CA-FILE [ADDRESS:PORT [PATH]]
 *
 * Without an address it asks port 8080 of the assigned SIP server for /bytes/100000, which tsc_sip_server of this project serves
 * (--http-port 8080). What you should see: the tunnel's address, the status line, and how many bytes came.
 * The search marks are those of the SDK guide.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tsc_control_api.h"
#include "tsc_socket_api.h"

static tsc_tunnel_params params;

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

int main(int count, char **arguments)
{
    tsc_connection_params *connection = &params.connection_params[0];
    const char *path = count > 6 ? arguments[6] : "/bytes/100000";
    char text[1000], address[TSC_ADDR_STR_LEN], *colon, *body;
    struct sockaddr_in server;
    tsc_config config;
    tsc_handle tunnel;
    unsigned long wanted = 0, came = 0;
    size_t held = 0;
    ssize_t part;
    int s, status = 0;

    if (count < 5) {
        fprintf(stderr, "usage: %s tcp|tls|udp|dtls SERVER PORT CA-FILE [ADDRESS:PORT [PATH]]\n", arguments[0]);
        return 2;
    }

    /* tsc_ctrl_init() */
    if (tsc_ctrl_init() != tsc_error_code_ok)
        fail("tsc_ctrl_init");
    params.max_connections = 1;
    params.connection_timeout_max = 10;
    connection->transport = strcmp(arguments[1], "tcp") == 0   ? tsc_transport_tcp
                            : strcmp(arguments[1], "udp") == 0 ? tsc_transport_udp
                            : strcmp(arguments[1], "tls") == 0 ? tsc_transport_tls
                                                               : tsc_transport_dtls;
    strncpy(connection->server_name, arguments[2], TSC_NAME_LEN - 1);
    connection->server_address.port = (uint16_t)atoi(arguments[3]);
    params.sec_config[0].read_from_file = tsc_bool_true;
    params.sec_config[0].ca_count = 1;
    params.sec_config[0].config_ca.ca_len = (uint32_t)strlen(arguments[4]);
    strncpy(params.sec_config[0].config_ca.ca, arguments[4], TSC_PEM_LEN - 1);

    /* Create a Tunnel */
    tunnel = tsc_ctrl_new_tunnel(&params, NULL);
    if (tunnel == NULL) {
        (void)tsc_last_error(text, sizeof text);
        fprintf(stderr, "no tunnel: %s\n", text);
        return 1;
    }
    if (tsc_get_config(tunnel, &config) != tsc_error_code_ok)
        fail("tsc_get_config");
    printf("tunnel: %s\n", tsc_ip_address_to_str(&config.internal_address, address, sizeof address));

    /* The server: as told, or beside the assigned SIP server. */
    memset(&server, 0, sizeof server);
    server.sin_family = AF_INET;
    server.sin_addr.s_addr = htonl(config.sip_server.address);
    server.sin_port = htons(8080);
    if (count > 5) {
        snprintf(address, sizeof address, "%s", arguments[5]);
        colon = strchr(address, ':');
        if (colon != NULL) {
            *colon = '\0';
            server.sin_port = htons((uint16_t)atoi(colon + 1));
        }
        server.sin_addr.s_addr = inet_addr(address);
    }
    if (tsc_sockaddr_to_str((struct sockaddr *)&server, sizeof server, address, sizeof address) == NULL)
        fail("the server's address");

    /* TCP SOCKET CREATION */
    s = tsc_socket(tunnel, AF_INET, SOCK_STREAM, 0);
    if (s < 0 || tsc_connect(s, (struct sockaddr *)&server, sizeof server) != 0)
        fail("cannot connect");

    /* HTTP TRANSACTION */
    part = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, address);
    if (part < 0 || (size_t)part >= sizeof text || tsc_send(s, text, (size_t)part, 0) != part)
        fail("cannot send");
    body = NULL;
    while (body == NULL && held < sizeof text - 1) {
        part = tsc_recv(s, text + held, sizeof text - 1 - held, 0);
        if (part <= 0)
            fail("no answer");
        held += (size_t)part;
        text[held] = '\0';
        body = strstr(text, "\r\n\r\n");
    }
    if (body == NULL || sscanf(text, "HTTP/1.1 %d", &status) != 1) {
        fprintf(stderr, "this is no HTTP\n");
        return 1;
    }
    printf("%.*s\n", (int)strcspn(text, "\r"), text);
    colon = strstr(text, "ontent-");
    while (colon != NULL && sscanf(colon, "ontent-%*[Ll]ength: %lu", &wanted) != 1)
        colon = strstr(colon + 1, "ontent-");
    came = (unsigned long)(held - (size_t)(body + 4 - text));
    while ((part = tsc_recv(s, text, sizeof text, 0)) > 0)
        came += (unsigned long)part;
    if (part < 0)
        fail("cannot receive");
    printf("%lu of %lu bytes came\n", came, wanted);

    /* TEST DONE: Finished, Socket, Tunnel Cleanup */
    tsc_close(s);
    if (tsc_delete_tunnel(tunnel) != tsc_error_code_ok)
        fprintf(stderr, "the server did not confirm the release\n");
    (void)tsc_ctrl_term();
    return status == 200 && came == wanted ? 0 : 1;
}
