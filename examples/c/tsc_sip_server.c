/*
 * A SIP server in C: opens a tunnel, registers everybody, answers one call at a time and sends back the RTP that it hears.
 *
 *   tsc_sip_server TRANSPORT SERVER PORT CA-FILE [CALLS]
 *
 * Its tunnel's address, port 5060, is what the tunnel server has to assign as SIP server to its clients. It ends after so many calls.
 * What you should see: "ready", one line for each request, and how many packets were sent back.
 * The search marks are those of the SDK guide.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tsc_control_api.h"
#include "tsc_socket_api.h"

#define MESSAGE 4000
#define SIP_PORT 5060

static tsc_tunnel_params params;
static char local[TSC_ADDR_STR_LEN]; /* Inner address. */

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

/* The value of a header in `value`; empty if there is none. */
static void header(const char *message, const char *name, char *value, size_t room)
{
    size_t length = strlen(name), end;
    const char *line = strstr(message, "\r\n");
    value[0] = '\0';
    while (line != NULL && strncmp(line, "\r\n\r\n", 4) != 0) {
        line += 2;
        if (strncmp(line, name, length) == 0 && line[length] == ':') {
            line += length + 1;
            while (*line == ' ')
                line++;
            end = strcspn(line, "\r");
            if (end < room) {
                memcpy(value, line, end);
                value[end] = '\0';
            }
            return;
        }
        line = strstr(line, "\r\n");
    }
}

/* A socket with the tunnel's address; port 0 is chosen. */
static int open_socket(tsc_handle tunnel, const tsc_config *config, unsigned *port)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int s = tsc_socket(tunnel, AF_INET, SOCK_DGRAM, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(config->internal_address.address);
    address.sin_port = htons((uint16_t)*port);
    if (s < 0 || tsc_bind(s, (struct sockaddr *)&address, sizeof address) != 0
        || tsc_getsockname(s, (struct sockaddr *)&address, &length) != 0)
        fail("cannot open a socket");
    *port = ntohs(address.sin_port);
    return s;
}

/* Answers a request where it came from. */
static void answer(int sip_socket, const struct sockaddr_in *to, const char *request, const char *status, const char *sdp)
{
    char response[MESSAGE], via[500], from[300], target[300], call[200], sequence[100], expires[50] = "", contact[100];
    header(request, "Via", via, sizeof via);
    header(request, "From", from, sizeof from);
    header(request, "To", target, sizeof target);
    header(request, "Call-ID", call, sizeof call);
    header(request, "CSeq", sequence, sizeof sequence);
    if (strncmp(request, "REGISTER ", 9) == 0) {
        /* What was asked for is granted. */
        header(request, "Contact", contact, sizeof contact);
        header(request, "Expires", expires, 20);
        if (expires[0] != '\0') {
            char granted[20];
            strcpy(granted, expires);
            snprintf(expires, sizeof expires, ";expires=%s", granted);
        }
    } else {
        snprintf(contact, sizeof contact, "<sip:echo@%s:%d>", local, SIP_PORT);
    }
    snprintf(response, sizeof response,
             "SIP/2.0 %s\r\nVia: %s\r\nFrom: %s\r\nTo: %s%s\r\nCall-ID: %s\r\nCSeq: %s\r\nContact: %s%s\r\n%sContent-Length: %u\r\n\r\n%s",
             status, via, from, target, strstr(target, ";tag=") == NULL ? ";tag=opentsc-c" : "", call, sequence, contact,
             expires, sdp[0] == '\0' ? "" : "Content-Type: application/sdp\r\n", (unsigned)strlen(sdp), sdp);
    if (tsc_sendto(sip_socket, response, strlen(response), 0, (const struct sockaddr *)to, sizeof *to) < 0)
        fail("cannot answer");
}

int main(int count, char **arguments)
{
    tsc_connection_params *connection = &params.connection_params[0];
    char message[MESSAGE], sdp[500], call[200], current[200] = "";
    unsigned sip_port = SIP_PORT, rtp_port = 0, calls = count > 5 ? (unsigned)atoi(arguments[5]) : 1, packets = 0;
    struct tsc_pollfd sockets[2];
    tsc_config config;
    tsc_handle tunnel;

    if (count < 5) {
        fprintf(stderr, "usage: %s tcp|tls|udp|dtls SERVER PORT CA-FILE [CALLS]\n", arguments[0]);
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
        (void)tsc_last_error(message, sizeof message);
        fprintf(stderr, "no tunnel: %s\n", message);
        return 1;
    }
    if (tsc_get_config(tunnel, &config) != tsc_error_code_ok)
        fail("tsc_get_config");
    tsc_ip_address_to_str(&config.internal_address, local, sizeof local);

    /* SIP SOCKET CREATION */
    sockets[0].fd = open_socket(tunnel, &config, &sip_port);
    sockets[0].events = TSC_POLLIN;
    sockets[1].fd = open_socket(tunnel, &config, &rtp_port);
    sockets[1].events = TSC_POLLIN;
    printf("ready sip:%s:%u\n", local, sip_port);
    fflush(stdout);
    snprintf(sdp, sizeof sdp,
             "v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio %u RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n",
             local, local, rtp_port);

    while (calls > 0) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t part;
        if (tsc_poll(sockets, 2, -1) < 0 || ((sockets[0].revents | sockets[1].revents) & TSC_POLLERR))
            fail("the tunnel is over");

        /* RTP Exchange */
        if (sockets[1].revents & TSC_POLLIN) {
            part = tsc_recvfrom(sockets[1].fd, message, sizeof message, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
            if (part > 0 && tsc_sendto(sockets[1].fd, message, (size_t)part, 0, (struct sockaddr *)&from, length) == part)
                packets++;
        }
        if (!(sockets[0].revents & TSC_POLLIN))
            continue;
        length = sizeof from;
        part = tsc_recvfrom(sockets[0].fd, message, sizeof message - 1, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
        if (part <= 0)
            continue;
        message[part] = '\0';
        header(message, "Call-ID", call, sizeof call);
        if (strncmp(message, "SIP/2.0", 7) != 0 && strncmp(message, "ACK ", 4) != 0)
            printf("%.*s\n", (int)strcspn(message, " "), message);

        /* REGISTER TRANSACTION */
        if (strncmp(message, "REGISTER ", 9) == 0) {
            answer(sockets[0].fd, &from, message, "200 OK", "");
        /* INVITE TRANSACTION: one that is repeated is answered again. */
        } else if (strncmp(message, "INVITE ", 7) == 0) {
            int is_free = current[0] == '\0' || strcmp(current, call) == 0;
            if (is_free)
                strcpy(current, call);
            answer(sockets[0].fd, &from, message, is_free ? "200 OK" : "486 Busy Here", is_free ? sdp : "");
        /* BYE TRANSACTION */
        } else if (strncmp(message, "BYE ", 4) == 0) {
            int is_known = strcmp(current, call) == 0;
            answer(sockets[0].fd, &from, message, is_known ? "200 OK" : "481 Call/Transaction Does Not Exist", "");
            if (is_known) {
                printf("%u packets sent back\n", packets);
                packets = 0;
                current[0] = '\0';
                calls--;
            }
        } else if (strncmp(message, "SIP/2.0", 7) != 0 && strncmp(message, "ACK ", 4) != 0) {
            answer(sockets[0].fd, &from, message, "501 Not Implemented", "");
        }
    }

    /* TEST DONE: Finished, Socket, Tunnel Cleanup. The answer goes before the tunnel does. */
    tsc_close(sockets[0].fd);
    tsc_close(sockets[1].fd);
    if (tsc_delete_tunnel(tunnel) != tsc_error_code_ok)
        fprintf(stderr, "the server did not confirm the release\n");
    (void)tsc_ctrl_term();
    return 0;
}
