/* What sockets can ask of their tunnel, each from the option over the notification to the packets: redundancy, datagrams beside a stream
 * (DDT), encryption (DTTE), peer tunnels. Two clients of one server. With a fourth argument, `peer`, the server offers peer tunnels and nothing
 * else, and waits for a line before packets go that it must not see. */
#include "check.h"

#include <pthread.h>
#include <sys/time.h>

#define ROUNDS 50

/* The last that was told of a service, under the lock. */
struct told {
    int calls, socket;
    tsc_bool available, enabled;
    tsc_notification_handle notification;
};

/* A client: its tunnel, and a bound socket in it. */
struct end {
    tsc_handle tunnel;
    int s;
    struct sockaddr_in address;
    struct told told;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news = PTHREAD_COND_INITIALIZER;

static void tell(tsc_notification_data *notification)
{
    struct told *told = (struct told *)notification->opaque;
    tsc_notification_service_info_data *data = (tsc_notification_service_info_data *)notification->data;
    CHECK(pthread_mutex_lock(&lock) == 0);
    told->calls++;
    told->socket = data->socket;
    told->available = data->available;
    told->enabled = data->enabled;
    CHECK(pthread_cond_broadcast(&news) == 0 && pthread_mutex_unlock(&lock) == 0);
}

static void ask(struct end *end, tsc_notification_type type, int option, const void *value, size_t length)
{
    memset(&end->told, 0, sizeof end->told);
    end->told.notification = tsc_notification_enable(end->tunnel, type, tell, &end->told);
    CHECK(end->told.notification != NULL);
    CHECK(tsc_setsockopt(end->s, SOL_SOCKET, option, value, (socklen_t)length) == 0);
}

/* Waits until the socket of this end has been told just that. */
static void wait_for(struct end *end, tsc_bool available, tsc_bool enabled)
{
    struct timeval now;
    struct timespec until;
    struct told *told = &end->told;
    CHECK(gettimeofday(&now, NULL) == 0);
    until.tv_sec = now.tv_sec + LIMIT / 1000;
    until.tv_nsec = 0;
    CHECK(pthread_mutex_lock(&lock) == 0);
    while (told->calls == 0 || told->available != available || told->enabled != enabled)
        CHECK(pthread_cond_timedwait(&news, &lock, &until) == 0);
    CHECK(told->socket == end->s);
    CHECK(pthread_mutex_unlock(&lock) == 0);
}

static struct end open_end(tsc_handle tunnel)
{
    struct end end;
    struct timeval limit = {LIMIT / 1000, 0};
    memset(&end, 0, sizeof end);
    end.tunnel = tunnel;
    end.s = bound(tunnel, SOCK_DGRAM, &end.address);
    CHECK(tsc_setsockopt(end.s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    return end;
}

static void close_end(struct end *end)
{
    CHECK(tsc_close(end->s) == 0);
    if (end->told.notification != NULL)
        CHECK(tsc_notification_disable(end->told.notification) == tsc_error_code_ok);
}

/* Datagrams there and back, each once. */
static void exchange(const struct end *near_end, const struct end *far_end)
{
    struct sockaddr_in own, from;
    socklen_t length = sizeof own;
    char sent[20], received[20];
    int i;
    CHECK(tsc_getsockname(near_end->s, (struct sockaddr *)&own, &length) == 0);
    for (i = 0; i < ROUNDS; i++) {
        int size = sprintf(sent, "datagram %d", i);
        struct sockaddr_in to = far_end->address;
        CHECK(tsc_sendto(near_end->s, sent, (size_t)size, 0, (struct sockaddr *)&to, sizeof to) == size);
        CHECK(tsc_recvfrom(far_end->s, received, sizeof received, 0, (struct sockaddr *)&from, &length) == size);
        CHECK(memcmp(sent, received, (size_t)size) == 0);
        CHECK(from.sin_addr.s_addr == own.sin_addr.s_addr && from.sin_port == own.sin_port);
        CHECK(tsc_sendto(far_end->s, received, (size_t)size, 0, (struct sockaddr *)&from, length) == size);
        CHECK(tsc_recv(near_end->s, received, sizeof received, 0) == size && memcmp(sent, received, (size_t)size) == 0);
    }
    FAILS(tsc_recv(near_end->s, received, sizeof received, MSG_DONTWAIT), EAGAIN);
    FAILS(tsc_recv(far_end->s, received, sizeof received, MSG_DONTWAIT), EAGAIN);
}

/* A stream at the same address and port, as SIP has it, with a lower number than the datagram socket: it is not the one that is told. */
static void beside_a_stream(tsc_handle tunnel)
{
    struct sockaddr_in address;
    tsc_so_redundancy wanted;
    tsc_so_tunnel_transport_encryption only = tsc_so_tunnel_transport_encrypted_only;
    struct end end;
    int stream = tsc_socket(tunnel, AF_INET, SOCK_STREAM, 0);
    memset(&end, 0, sizeof end);
    memset(&wanted, 0, sizeof wanted);
    wanted.redundancy_factor = 1;
    end.tunnel = tunnel;
    end.s = tsc_socket(tunnel, AF_INET, SOCK_DGRAM, 0);
    CHECK(stream > 0 && end.s > stream);
    address = inner_address(tunnel, 5060);
    CHECK(tsc_bind(stream, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(tsc_bind(end.s, (struct sockaddr *)&address, sizeof address) == 0);
    ask(&end, tsc_notification_redundancy, SO_TSC_REDUNDANCY, &wanted, sizeof wanted);
    wait_for(&end, tsc_bool_true, tsc_bool_true);
    CHECK(tsc_notification_disable(end.told.notification) == tsc_error_code_ok);
    ask(&end, tsc_notification_dtte, SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION, &only, sizeof only);
    wait_for(&end, tsc_bool_true, tsc_bool_true);
    close_end(&end);
    CHECK(tsc_close(stream) == 0);
}

static void redundancy(tsc_handle near_tunnel, tsc_handle far_tunnel, tsc_so_redundancy_method method, uint32_t factor)
{
    struct end near_end = open_end(near_tunnel), far_end = open_end(far_tunnel);
    tsc_so_redundancy wanted;
    memset(&wanted, 0, sizeof wanted);
    wanted.redundancy_factor = factor;
    wanted.redundancy_method = method;
    ask(&near_end, tsc_notification_redundancy, SO_TSC_REDUNDANCY, &wanted, sizeof wanted);
    wait_for(&near_end, tsc_bool_true, tsc_bool_true);
    exchange(&near_end, &far_end);
    close_end(&near_end);
    close_end(&far_end);
}

static void datagrams(tsc_handle near_tunnel, tsc_handle far_tunnel)
{
    struct end near_end = open_end(near_tunnel), far_end = open_end(far_tunnel);
    tsc_so_tunnel_transport wanted = tsc_so_tunnel_transport_datagram_preferred;
    ask(&near_end, tsc_notification_ddt, SO_TSC_TUNNEL_TRANSPORT, &wanted, sizeof wanted);
    wait_for(&near_end, tsc_bool_true, tsc_bool_true);
    exchange(&near_end, &far_end);
    close_end(&near_end);
    close_end(&far_end);
}

static void encryption(tsc_handle near_tunnel, tsc_handle far_tunnel, int is_clear)
{
    struct end near_end = open_end(near_tunnel), far_end = open_end(far_tunnel);
    tsc_so_tunnel_transport_encryption wanted = tsc_so_tunnel_transport_encrypted_only;
    struct sockaddr_in before = near_end.address;
    socklen_t length = sizeof before;
    ask(&near_end, tsc_notification_dtte, SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION, &wanted, sizeof wanted);
    wait_for(&near_end, tsc_bool_true, tsc_bool_true);
    CHECK(tsc_getsockname(near_end.s, (struct sockaddr *)&near_end.address, &length) == 0);
    CHECK((near_end.address.sin_addr.s_addr != before.sin_addr.s_addr) == is_clear);
    exchange(&near_end, &far_end);
    close_end(&near_end);
    close_end(&far_end);
}

static void no_peers(tsc_handle near_tunnel, tsc_handle far_tunnel)
{
    struct end near_end = open_end(near_tunnel), far_end = open_end(far_tunnel);
    int yes = 1;
    ask(&near_end, tsc_notification_peer, SO_TSC_PEER, &yes, sizeof yes);
    exchange(&near_end, &far_end);
    wait_for(&near_end, tsc_bool_false, tsc_bool_false);
    exchange(&near_end, &far_end);
    close_end(&near_end);
    close_end(&far_end);
}

static void peers(tsc_handle near_tunnel, tsc_handle far_tunnel)
{
    struct end near_end = open_end(near_tunnel), far_end = open_end(far_tunnel);
    int yes = 1;
    ask(&near_end, tsc_notification_peer, SO_TSC_PEER, &yes, sizeof yes);
    ask(&far_end, tsc_notification_peer, SO_TSC_PEER, &yes, sizeof yes);
    /* The first packets have it made, and go over the server. */
    exchange(&near_end, &far_end);
    wait_for(&near_end, tsc_bool_true, tsc_bool_true);
    wait_for(&far_end, tsc_bool_true, tsc_bool_true);
    printf("peer tunnel\n");
    CHECK(fflush(stdout) == 0 && getchar() == '\n');
    exchange(&near_end, &far_end);
    close_end(&near_end);
    close_end(&far_end);
}

int main(int count, char **arguments)
{
    tsc_tunnel_params *params;
    tsc_handle near_tunnel, far_tunnel;
    tsc_transport transport;
    int is_stream, is_clear;

    CHECK(count == 4 || count == 5);
    params = parameters(arguments);
    params->accept_peer_tunnels = tsc_bool_true;
    strcpy(params->sec_config[0].server_name, "localhost");
    transport = params->connection_params[0].transport;
    is_stream = transport == tsc_transport_tcp || transport == tsc_transport_tls;
    is_clear = transport == tsc_transport_udp || transport == tsc_transport_tcp;
    near_tunnel = tsc_ctrl_new_tunnel(params, NULL);
    far_tunnel = tsc_ctrl_new_tunnel(params, NULL);
    CHECK(near_tunnel != NULL && far_tunnel != NULL);
    if (count == 5) {
        peers(near_tunnel, far_tunnel);
    } else {
        redundancy(near_tunnel, far_tunnel, is_stream ? tsc_so_redundancy_method_tcp_tls_fan_out : tsc_so_redundancy_method_udp_dtls, 2);
        redundancy(near_tunnel, far_tunnel, is_stream ? tsc_so_redundancy_method_tcp_tls_load_balance : tsc_so_redundancy_method_adaptive, 1);
        datagrams(near_tunnel, far_tunnel);
        encryption(near_tunnel, far_tunnel, is_clear);
        no_peers(near_tunnel, far_tunnel);
        beside_a_stream(near_tunnel);
    }
    CHECK(tsc_ctrl_term() == tsc_error_code_ok);
    return 0;
}
