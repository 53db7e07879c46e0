/*
 * A SIP client in C: opens a tunnel, registers, calls the user "echo", sends a second of RTP, counts what comes back, hangs up.
 *
 *   tsc_sip_client TRANSPORT SERVER PORT CA-FILE [SECONDS]
 *
 * It calls the assigned SIP server, where tsc_sip_server of this project is to be; another has to know a user "echo" and to register
 * anybody. What you should see: the tunnel's address, one line for each transaction, and "50 of 50 packets came back".
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
/* A packet of 20 ms of PCMU: header and samples. */
#define RTP_HEADER 12
#define RTP_PACKET (RTP_HEADER + 160)

static tsc_tunnel_params params;
static struct sockaddr_in sip_server;
static char local[TSC_ADDR_STR_LEN]; /* Inner address. */
static unsigned sip_port;
static int sip_socket;

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

/* Something that differs from call to call is enough for one that makes one at a time. */
static unsigned mark(void)
{
    static unsigned count;
    tsc_config config;
    memset(&config, 0, sizeof config);
    (void)tsc_get_config(tsc_get_tunnel(sip_socket), &config);
    return config.tunnel_id.lo ^ (++count * 2654435761u);
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

/* Waits for something to read. */
static int is_readable(int s, long milliseconds)
{
    struct tsc_timeval time;
    tsc_fd_set readers;
    time.tv_sec = milliseconds / 1000;
    time.tv_usec = milliseconds % 1000 * 1000;
    TSC_FD_ZERO(&readers);
    TSC_FD_SET(s, &readers);
    return tsc_select(s + 1, &readers, NULL, NULL, &time) == 1;
}

static void send_sip(const char *message)
{
    size_t length = strlen(message);
    if (tsc_sendto(sip_socket, message, length, 0, (struct sockaddr *)&sip_server, sizeof sip_server) != (ssize_t)length)
        fail("cannot send");
}

/* Sends a request until there is a final response (RFC 3261, 17.1): its status. */
static int transaction(const char *request, const char *method, char *response)
{
    int wait = 500, total, status;
    for (total = 0; total < 32000; total += wait, wait = wait < 4000 ? wait * 2 : 4000) {
        send_sip(request);
        while (is_readable(sip_socket, wait)) {
            char sequence[100];
            ssize_t length = tsc_recv(sip_socket, response, MESSAGE - 1, 0);
            if (length < 0)
                fail("cannot receive");
            response[length] = '\0';
            header(response, "CSeq", sequence, sizeof sequence);
            if (sscanf(response, "SIP/2.0 %d", &status) != 1 || strstr(sequence, method) == NULL)
                continue;
            if (status >= 200) {
                printf("%s: %d\n", method, status);
                return status;
            }
        }
    }
    fprintf(stderr, "%s: no answer\n", method);
    return 0;
}

static void redundancy_notification(tsc_notification_data *notification)
{
    tsc_notification_redundancy_info_data *data = (tsc_notification_redundancy_info_data *)notification->data;
    printf("redundancy %s on socket %d\n",
           data->available ? (data->enabled ? "enabled" : "disabled") : "not allowed", data->socket);
}

/* A socket with the tunnel's address; the port is chosen. */
static int open_socket(tsc_handle tunnel, const tsc_config *config, unsigned *port)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int s = tsc_socket(tunnel, AF_INET, SOCK_DGRAM, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(config->internal_address.address);
    if (s < 0 || tsc_bind(s, (struct sockaddr *)&address, sizeof address) != 0
        || tsc_getsockname(s, (struct sockaddr *)&address, &length) != 0)
        fail("cannot open a socket");
    *port = ntohs(address.sin_port);
    return s;
}

/* Sends packets every 20 ms, and counts those that come back as they were. */
static unsigned exchange(int rtp_socket, const struct sockaddr_in *peer, unsigned count)
{
    unsigned char packet[RTP_PACKET], answer[RTP_PACKET];
    uint32_t source = mark();
    unsigned sent, came = 0, i;
    for (sent = 0; sent < count + 25; sent++) {
        if (sent < count) {
            uint32_t stamp = sent * 160;
            packet[0] = 0x80;
            packet[1] = 0;
            packet[2] = (unsigned char)(sent >> 8);
            packet[3] = (unsigned char)sent;
            for (i = 0; i < 4; i++) {
                packet[4 + i] = (unsigned char)(stamp >> (24 - 8 * i));
                packet[8 + i] = (unsigned char)(source >> (24 - 8 * i));
            }
            for (i = 0; i < 160; i++)
                packet[RTP_HEADER + i] = (unsigned char)(i + sent);
            if (tsc_sendto(rtp_socket, packet, sizeof packet, 0, (const struct sockaddr *)peer, sizeof *peer) < 0)
                fail("cannot send RTP");
        }
        tsc_sleep(20);
        while (tsc_recv(rtp_socket, answer, sizeof answer, MSG_DONTWAIT) == RTP_PACKET) {
            /* What was sent in this packet begins with its number. */
            unsigned first = answer[RTP_HEADER], equal = 0;
            for (i = 0; i < 160; i++)
                equal += answer[RTP_HEADER + i] == (unsigned char)(first + i);
            came += equal == 160;
        }
        if (came >= count)
            break;
    }
    return came;
}

int main(int count, char **arguments)
{
    char request[MESSAGE], response[MESSAGE], sdp[500], to[300], contact[300], target[300], address[64];
    tsc_connection_params *connection = &params.connection_params[0];
    struct sockaddr_in peer;
    tsc_so_redundancy redundancy;
    tsc_config config;
    tsc_handle tunnel;
    const char *media, *where;
    unsigned rtp_port, call, tag, came, packets;
    int rtp_socket, status;

    if (count < 5) {
        fprintf(stderr, "usage: %s tcp|tls|udp|dtls SERVER PORT CA-FILE [SECONDS]\n", arguments[0]);
        return 2;
    }
    packets = (count > 5 ? (unsigned)atoi(arguments[5]) : 1) * 50;

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
        (void)tsc_last_error(response, sizeof response);
        fprintf(stderr, "no tunnel: %s\n", response);
        return 1;
    }
    if (tsc_notification_enable(tunnel, tsc_notification_redundancy, redundancy_notification, NULL) == NULL)
        fail("tsc_notification_enable");
    if (tsc_get_config(tunnel, &config) != tsc_error_code_ok || config.sip_server.address == 0) {
        fprintf(stderr, "no SIP server was assigned\n");
        return 1;
    }
    printf("tunnel: %s\n", tsc_ip_address_to_str(&config.internal_address, local, sizeof local));
    memset(&sip_server, 0, sizeof sip_server);
    sip_server.sin_family = AF_INET;
    sip_server.sin_addr.s_addr = htonl(config.sip_server.address);
    sip_server.sin_port = htons(config.sip_server.port);
    tsc_ip_port_address_to_str(&config.sip_server, address, sizeof address);

    /* SIP SOCKET CREATION */
    sip_socket = open_socket(tunnel, &config, &sip_port);
    call = mark();
    tag = mark();

    /* REGISTER TRANSACTION */
    snprintf(request, sizeof request,
             "REGISTER sip:%s SIP/2.0\r\nVia: SIP/2.0/UDP %s:%u;branch=z9hG4bK%08x;rport\r\nMax-Forwards: 70\r\n"
             "From: <sip:carol@%s>;tag=%08x\r\nTo: <sip:carol@%s>\r\nCall-ID: r%08x@%s\r\nCSeq: 1 REGISTER\r\n"
             "Contact: <sip:carol@%s:%u>\r\nExpires: 300\r\nContent-Length: 0\r\n\r\n",
             address, local, sip_port, mark(), address, tag, address, call, local, local, sip_port);
    if (transaction(request, "REGISTER", response) != 200)
        return 1;

    /* RTP socket created: before it is used, it is protected against loss (TSC_REDUNDANCY). */
    rtp_socket = open_socket(tunnel, &config, &rtp_port);
    memset(&redundancy, 0, sizeof redundancy);
    redundancy.redundancy_factor = 1;
    redundancy.redundancy_method = connection->transport == tsc_transport_udp || connection->transport == tsc_transport_dtls
                                       ? tsc_so_redundancy_method_udp_dtls
                                       : tsc_so_redundancy_method_tcp_tls_fan_out;
    if (tsc_setsockopt(rtp_socket, SOL_SOCKET, SO_TSC_REDUNDANCY, &redundancy, sizeof redundancy) != 0)
        fail("SO_TSC_REDUNDANCY");

    /* INVITE TRANSACTION */
    snprintf(sdp, sizeof sdp,
             "v=0\r\no=- %u 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio %u RTP/AVP 0\r\n"
             "a=rtpmap:0 PCMU/8000\r\na=ptime:20\r\na=sendrecv\r\n",
             call, local, local, rtp_port);
    snprintf(request, sizeof request,
             "INVITE sip:echo@%s SIP/2.0\r\nVia: SIP/2.0/UDP %s:%u;branch=z9hG4bK%08x;rport\r\nMax-Forwards: 70\r\n"
             "From: <sip:carol@%s>;tag=%08x\r\nTo: <sip:echo@%s>\r\nCall-ID: i%08x@%s\r\nCSeq: 1 INVITE\r\n"
             "Contact: <sip:carol@%s:%u>\r\nContent-Type: application/sdp\r\nContent-Length: %u\r\n\r\n%s",
             address, local, sip_port, mark(), address, tag, address, call, local, local, sip_port,
             (unsigned)strlen(sdp), sdp);
    status = transaction(request, "INVITE", response);
    header(response, "To", to, sizeof to);
    header(response, "Contact", contact, sizeof contact);
    if (sscanf(contact, "%*[^<]<%299[^>]>", target) != 1 && sscanf(contact, "<%299[^>]>", target) != 1)
        snprintf(target, sizeof target, "sip:echo@%s", address);
    media = strstr(response, "m=audio ");
    where = strstr(response, "c=IN IP4 ");
    memset(&peer, 0, sizeof peer);
    peer.sin_family = AF_INET;
    if (status == 200 && media != NULL && where != NULL && sscanf(where, "c=IN IP4 %63[0-9.]", sdp) == 1) {
        peer.sin_port = htons((uint16_t)atoi(media + strlen("m=audio ")));
        peer.sin_addr.s_addr = inet_addr(sdp);
    }
    if (peer.sin_port == 0) {
        fprintf(stderr, "no call\n");
        return 1;
    }

    /* Build and send ACK */
    snprintf(request, sizeof request,
             "ACK %s SIP/2.0\r\nVia: SIP/2.0/UDP %s:%u;branch=z9hG4bK%08x;rport\r\nMax-Forwards: 70\r\n"
             "From: <sip:carol@%s>;tag=%08x\r\nTo: %s\r\nCall-ID: i%08x@%s\r\nCSeq: 1 ACK\r\nContent-Length: 0\r\n\r\n",
             target, local, sip_port, mark(), address, tag, to, call, local);
    send_sip(request);

    /* RTP Exchange */
    came = exchange(rtp_socket, &peer, packets);
    printf("%u of %u packets came back\n", came, packets);

    /* BYE TRANSACTION */
    snprintf(request, sizeof request,
             "BYE %s SIP/2.0\r\nVia: SIP/2.0/UDP %s:%u;branch=z9hG4bK%08x;rport\r\nMax-Forwards: 70\r\n"
             "From: <sip:carol@%s>;tag=%08x\r\nTo: %s\r\nCall-ID: i%08x@%s\r\nCSeq: 2 BYE\r\nContent-Length: 0\r\n\r\n",
             target, local, sip_port, mark(), address, tag, to, call, local);
    status = transaction(request, "BYE", response);

    /* TEST DONE: Finished, Socket, Tunnel Cleanup */
    tsc_close(rtp_socket);
    tsc_close(sip_socket);
    if (tsc_delete_tunnel(tunnel) != tsc_error_code_ok)
        fprintf(stderr, "the server did not confirm the release\n");
    (void)tsc_ctrl_term();
    return status == 200 && came == packets ? 0 : 1;
}
