/* Options of sockets, and what callbacks are told of them; tunnels that come up and end. */
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* What was told, under the lock. */
struct told {
    int calls;
    tsc_bool available, enabled;
    int socket;
    tsc_notification_type type;
    tsc_error_code reason;
    pthread_t thread;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news = PTHREAD_COND_INITIALIZER;

static void tell(tsc_notification_data *notification)
{
    struct told *told = (struct told *)notification->opaque;
    CHECK(pthread_mutex_lock(&lock) == 0);
    told->calls++;
    told->type = notification->type;
    told->thread = pthread_self();
    if (notification->type == tsc_notification_tunnel_termination_info) {
        tsc_notification_termination_info_data *data = (tsc_notification_termination_info_data *)notification->data;
        told->reason = data->reason;
        CHECK(data->text != NULL && strlen(data->text) > 0);
    } else if (notification->type == tsc_notification_tunnel_socket_info) {
        tsc_config config;
        CHECK(((tsc_tunnel_socket_info *)notification->data)->transport <= tsc_transport_dtls);
        /* A callback may call everything. */
        CHECK(tsc_get_config(notification->handle, &config) == tsc_error_code_ok);
        REFUSED(tsc_ctrl_term(), EDEADLK);
    } else if (notification->type != tsc_notification_tunnel_suspended) {
        tsc_notification_service_info_data *data = (tsc_notification_service_info_data *)notification->data;
        told->available = data->available;
        told->enabled = data->enabled;
        told->socket = data->socket;
    }
    pthread_cond_broadcast(&news);
    CHECK(pthread_mutex_unlock(&lock) == 0);
}

/* Waits until something was told so many times. */
static void wait_for(struct told *told, int calls)
{
    struct timeval now;
    struct timespec until;
    CHECK(gettimeofday(&now, NULL) == 0);
    until.tv_sec = now.tv_sec + LIMIT / 1000;
    until.tv_nsec = 0;
    CHECK(pthread_mutex_lock(&lock) == 0);
    while (told->calls < calls)
        CHECK(pthread_cond_timedwait(&news, &lock, &until) == 0);
    CHECK(pthread_mutex_unlock(&lock) == 0);
}

static void options(tsc_handle tunnel, int is_datagrams)
{
    struct told redundancy, ddt;
    struct sockaddr_in address;
    tsc_so_redundancy wanted, had;
    tsc_so_tunnel_transport transport = tsc_so_tunnel_transport_datagram_preferred, transport_had;
    tsc_so_tunnel_transport_encryption encryption = tsc_so_tunnel_transport_encrypted_preferred, encryption_had;
    tsc_notification_handle first, second;
    socklen_t length = sizeof had;
    int s, type, yes = 1, class_had, class_wanted = 46 << 2;

    memset(&redundancy, 0, sizeof redundancy);
    memset(&ddt, 0, sizeof ddt);
    first = tsc_notification_enable(tunnel, tsc_notification_redundancy, tell, &redundancy);
    second = tsc_notification_enable(tunnel, tsc_notification_ddt, tell, &ddt);
    CHECK(first != NULL && second != NULL && first != second);

    /* Before the socket is bound, and after it. */
    s = tsc_socket(tunnel, AF_INET, SOCK_DGRAM, 0);
    memset(&wanted, 0, sizeof wanted);
    wanted.redundancy_factor = 1;
    wanted.redundancy_method = is_datagrams ? tsc_so_redundancy_method_udp_dtls : tsc_so_redundancy_method_tcp_tls_fan_out;
    CHECK(tsc_setsockopt(s, SOL_SOCKET, SO_TSC_REDUNDANCY, (char *)&wanted, sizeof wanted) == 0);
    address = inner_address(tunnel, 0);
    CHECK(tsc_bind(s, (struct sockaddr *)&address, sizeof address) == 0);
    wait_for(&redundancy, 1);
    CHECK(redundancy.available == tsc_bool_true && redundancy.enabled == tsc_bool_true);
    CHECK(redundancy.socket == s && redundancy.type == tsc_notification_redundancy);
    CHECK(!pthread_equal(redundancy.thread, pthread_self()));
    CHECK(tsc_getsockopt(s, SOL_SOCKET, SO_TSC_REDUNDANCY, &had, &length) == 0 && length == sizeof had);
    CHECK(memcmp(&had, &wanted, sizeof had) == 0);

    CHECK(tsc_setsockopt(s, SOL_SOCKET, SO_TSC_TUNNEL_TRANSPORT, &transport, sizeof transport) == 0);
    wait_for(&ddt, 1);
    CHECK(ddt.socket == s && ddt.available == tsc_bool_true);
    length = sizeof transport_had;
    CHECK(tsc_getsockopt(s, SOL_SOCKET, SO_TSC_TUNNEL_TRANSPORT, &transport_had, &length) == 0);
    CHECK(transport_had == transport);

    CHECK(tsc_notification_disable(first) == tsc_error_code_ok);
    REFUSED(tsc_notification_disable(first), EBADF);
    CHECK(tsc_notification_disable(second) == tsc_error_code_ok);

    /* The other options. */
    CHECK(tsc_setsockopt(s, SOL_SOCKET, SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION, &encryption, sizeof encryption) == 0);
    length = sizeof encryption_had;
    CHECK(tsc_getsockopt(s, SOL_SOCKET, SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION, &encryption_had, &length) == 0);
    CHECK(encryption_had == encryption);
    CHECK(tsc_setsockopt(s, SOL_SOCKET, SO_TSC_PEER, &yes, sizeof yes) == 0);
    CHECK(tsc_setsockopt(s, IPPROTO_IP, IP_TOS, &class_wanted, sizeof class_wanted) == 0);
    length = sizeof class_had;
    CHECK(tsc_getsockopt(s, IPPROTO_IP, IP_TOS, &class_had, &length) == 0 && class_had == class_wanted);
    length = sizeof type;
    CHECK(tsc_getsockopt(s, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_DGRAM);
    FAILS(tsc_setsockopt(s, SOL_SOCKET, SO_RCVBUF, &yes, sizeof yes), ENOPROTOOPT);
    wanted.redundancy_factor = 3;
    FAILS(tsc_setsockopt(s, SOL_SOCKET, SO_TSC_REDUNDANCY, &wanted, sizeof wanted), EINVAL);
    CHECK(tsc_close(s) == 0);
}

/* An encrypted socket of a tunnel that is not has another address. */
static void encryption(tsc_handle tunnel)
{
    struct told dtte;
    struct sockaddr_in before, after;
    tsc_so_tunnel_transport_encryption only = tsc_so_tunnel_transport_encrypted_only;
    socklen_t length = sizeof after;
    int s = bound(tunnel, SOCK_DGRAM, &before);

    memset(&dtte, 0, sizeof dtte);
    CHECK(tsc_notification_enable(tunnel, tsc_notification_dtte, tell, &dtte) != NULL);
    CHECK(tsc_setsockopt(s, SOL_SOCKET, SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION, &only, sizeof only) == 0);
    FAILS(tsc_sendto(s, "x", 1, 0, (struct sockaddr *)&before, sizeof before), ENETUNREACH);
    wait_for(&dtte, 1);
    CHECK(dtte.available == tsc_bool_true && dtte.enabled == tsc_bool_true && dtte.socket == s);
    CHECK(tsc_getsockname(s, (struct sockaddr *)&after, &length) == 0);
    CHECK(after.sin_port == before.sin_port && after.sin_addr.s_addr != before.sin_addr.s_addr);
    CHECK(tsc_close(s) == 0);
}

static void delete_it(tsc_notification_data *notification)
{
    struct told *told = (struct told *)notification->opaque;
    CHECK(tsc_delete_tunnel(notification->handle) == tsc_error_code_ok);
    /* Not before: whoever waits for it ends everything. */
    CHECK(pthread_mutex_lock(&lock) == 0);
    told->calls++;
    pthread_cond_broadcast(&news);
    CHECK(pthread_mutex_unlock(&lock) == 0);
}

/* A callback that does not return before it may. */
struct gate {
    int is_inside, may_leave, has_disabled;
    tsc_notification_handle notification;
    tsc_handle tunnel;
};

static void stand(tsc_notification_data *notification)
{
    struct gate *gate = (struct gate *)notification->opaque;
    CHECK(pthread_mutex_lock(&lock) == 0);
    gate->is_inside = 1;
    CHECK(pthread_cond_broadcast(&news) == 0);
    while (!gate->may_leave)
        CHECK(pthread_cond_wait(&news, &lock) == 0);
    /* Whoever disabled this one is still waiting. */
    CHECK(!gate->has_disabled);
    CHECK(pthread_mutex_unlock(&lock) == 0);
}

static void *delete_tunnel(void *opaque)
{
    struct gate *gate = (struct gate *)opaque;
    CHECK(tsc_delete_tunnel(gate->tunnel) == tsc_error_code_ok);
    return NULL;
}

static void *end(void *unused)
{
    (void)unused;
    CHECK(tsc_ctrl_term() == tsc_error_code_ok);
    return NULL;
}

static void *disable(void *opaque)
{
    struct gate *gate = (struct gate *)opaque;
    tsc_error_code disabled = tsc_notification_disable(gate->notification);
    /* Of two that disable it only one finds it enabled; both wait. */
    CHECK(disabled == tsc_error_code_ok || errno == EBADF);
    CHECK(pthread_mutex_lock(&lock) == 0);
    gate->has_disabled++;
    CHECK(pthread_cond_broadcast(&news) == 0);
    CHECK(pthread_mutex_unlock(&lock) == 0);
    return NULL;
}

/* Callbacks are disabled while their tunnel is being deleted, or all are with the library. */
static void disabled_meanwhile(char **arguments, int ends)
{
    struct gate gate;
    struct told over;
    tsc_notification_handle last;
    tsc_config config;
    struct timeval now;
    struct timespec until;
    pthread_t deleting, disabling[2];
    int i;

    memset(&gate, 0, sizeof gate);
    memset(&over, 0, sizeof over);
    gate.tunnel = open_tunnel(arguments);
    last = tsc_notification_enable(gate.tunnel, tsc_notification_tunnel_termination_info, tell, &over);
    gate.notification = tsc_notification_enable(gate.tunnel, tsc_notification_tunnel_socket_info, stand, &gate);
    CHECK(last != NULL && gate.notification != NULL);
    CHECK(pthread_mutex_lock(&lock) == 0);
    while (!gate.is_inside)
        CHECK(pthread_cond_wait(&news, &lock) == 0);
    CHECK(pthread_mutex_unlock(&lock) == 0);
    CHECK(pthread_create(&deleting, NULL, ends ? end : delete_tunnel, &gate) == 0);
    while (tsc_get_config(gate.tunnel, &config) == tsc_error_code_ok)
        CHECK(sched_yield() == 0);
    /* One that does not run is gone at once. */
    CHECK(tsc_notification_disable(last) == tsc_error_code_ok);
    REFUSED(tsc_notification_disable(last), EBADF);
    for (i = 0; i < 2; i++)
        CHECK(pthread_create(&disabling[i], NULL, disable, &gate) == 0);
    /* Time to return too early. */
    CHECK(gettimeofday(&now, NULL) == 0);
    until.tv_sec = now.tv_sec + 1;
    until.tv_nsec = now.tv_usec * 1000L;
    CHECK(pthread_mutex_lock(&lock) == 0);
    while (!gate.has_disabled && pthread_cond_timedwait(&news, &lock, &until) == 0)
        ;
    CHECK(!gate.has_disabled);
    gate.may_leave = 1;
    CHECK(pthread_cond_broadcast(&news) == 0);
    CHECK(pthread_mutex_unlock(&lock) == 0);
    for (i = 0; i < 2; i++)
        CHECK(pthread_join(disabling[i], NULL) == 0);
    CHECK(pthread_join(deleting, NULL) == 0);
    CHECK(gate.has_disabled == 2 && over.calls == 0);
}

/* A capture that begins and ends while its tunnel is up. */
static void trace(tsc_handle tunnel, const char *beside)
{
    static const unsigned char pcapng[4] = {0x0A, 0x0D, 0x0D, 0x0A};
    tsc_trace_options options;
    tsc_trace_stats stats;
    unsigned char begin[4];
    char path[1000], text[200];
    FILE *file;

    memset(&options, 0, sizeof options);
    memset(&stats, 0x55, sizeof stats);
    snprintf(path, sizeof path, "%s.pcapng", beside);
    CHECK(tsc_trace_stop(tunnel, &stats) == tsc_error_code_ok && stats.written == 0 && stats.dropped == 0);
    options.outer = tsc_bool_true;
    options.insecure_decryption_secrets = tsc_bool_true;
    CHECK(tsc_trace_start(tunnel, path, NULL) == tsc_error_code_ok);
    CHECK(tsc_trace_start(tunnel, path, &options) == tsc_error_code_ok);
    CHECK(tsc_trace_stop(tunnel, NULL) == tsc_error_code_ok);
    file = fopen(path, "rb");
    CHECK(file != NULL && fread(begin, 1, 4, file) == 4 && memcmp(begin, pcapng, 4) == 0);
    CHECK(fclose(file) == 0 && remove(path) == 0);
    options.redaction = tsc_trace_redaction_sip;
    CHECK(tsc_trace_start(tunnel, path, &options) == tsc_error_code_error);
    CHECK(tsc_last_error(text, sizeof text) == tsc_error_code_error && strstr(text, "secrets") != NULL);
    options.redaction = 77;
    REFUSED(tsc_trace_start(tunnel, path, &options), EINVAL);
    CHECK(tsc_trace_start(tunnel, "/nonexistent/x.pcapng", NULL) == tsc_error_code_error);
}

int main(int count, char **arguments)
{
    struct told up, again, over;
    tsc_handle tunnel;
    tsc_tunnel_params *params;
    tsc_config config;
    char text[200];

    CHECK(count == 4);
    memset(&up, 0, sizeof up);
    memset(&again, 0, sizeof again);
    memset(&over, 0, sizeof over);

    /* Without waiting. */
    params = parameters(arguments);
    params->nonblocking = tsc_bool_true;
    tunnel = tsc_ctrl_new_tunnel(params, NULL);
    CHECK(tunnel != NULL);
    CHECK(tsc_notification_enable(tunnel, tsc_notification_tunnel_socket_info, tell, &up) != NULL);
    CHECK(tsc_wait_tunnel(tunnel, LIMIT) == tsc_error_code_ok);
    wait_for(&up, 1);
    CHECK(tsc_get_config(tunnel, &config) == tsc_error_code_ok);
    /* One that comes late is told too, and alone. */
    CHECK(tsc_notification_enable(tunnel, tsc_notification_tunnel_socket_info, tell, &again) != NULL);
    CHECK(tsc_notification_enable(tunnel, tsc_notification_tunnel_termination_info, tell, &over) != NULL);
    wait_for(&again, 1);
    CHECK(up.calls == 1 && over.calls == 0);
    options(tunnel, params->connection_params[0].transport == tsc_transport_udp);
    if (params->connection_params[0].transport == tsc_transport_tcp)
        encryption(tunnel);
    CHECK(tsc_network_changed(tunnel) == tsc_error_code_ok);
    trace(tunnel, arguments[3]);
    CHECK(tsc_delete_tunnel(tunnel) == tsc_error_code_ok);
    CHECK(over.calls == 1 && over.reason == tsc_error_code_ok && again.calls == 1);

    disabled_meanwhile(arguments, 0);
    disabled_meanwhile(arguments, 1);

    /* Deleted before it is up: a port that nobody answers at. */
    {
        int silent = socket(AF_INET, SOCK_DGRAM, 0);
        struct sockaddr_in address;
        socklen_t length = sizeof address;
        memset(&address, 0, sizeof address);
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        CHECK(silent >= 0 && bind(silent, (struct sockaddr *)&address, sizeof address) == 0);
        CHECK(getsockname(silent, (struct sockaddr *)&address, &length) == 0);
        params = parameters(arguments);
        params->nonblocking = tsc_bool_true;
        params->connection_params[0].transport = tsc_transport_udp;
        params->connection_params[0].server_address.port = ntohs(address.sin_port);
        memset(&over, 0, sizeof over);
        tunnel = tsc_ctrl_new_tunnel(params, NULL);
        CHECK(tunnel != NULL);
        CHECK(tsc_notification_enable(tunnel, tsc_notification_tunnel_termination_info, tell, &over) != NULL);
        CHECK(tsc_get_config(tunnel, &config) == tsc_error_code_not_logged);
        CHECK(tsc_delete_tunnel(tunnel) == tsc_error_code_ok);
        CHECK(over.calls == 1 && over.reason == tsc_error_code_ok);
        CHECK(close(silent) == 0);
    }

    /* Deleted by its own callback. */
    memset(&up, 0, sizeof up);
    tunnel = open_tunnel(arguments);
    CHECK(tsc_notification_enable(tunnel, tsc_notification_tunnel_socket_info, delete_it, &up) != NULL);
    wait_for(&up, 1);
    /* One that has not returned is waited for. */
    CHECK(tsc_ctrl_term() == tsc_error_code_ok);
    REFUSED(tsc_get_config(tunnel, &config), EBADF);

    /* Nobody is there. */
    params = parameters(arguments);
    params->connection_params[0].transport = tsc_transport_tcp;
    params->connection_params[0].server_address.port = 1;
    errno = 0;
    CHECK(tsc_ctrl_new_tunnel(params, NULL) == NULL && errno == ECONNREFUSED);
    CHECK(tsc_last_error(text, sizeof text) == tsc_error_code_cannot_connect && strlen(text) > 0);
    params->nonblocking = tsc_bool_true;
    memset(&over, 0, sizeof over);
    tunnel = tsc_ctrl_new_tunnel(params, NULL);
    CHECK(tunnel != NULL);
    CHECK(tsc_notification_enable(tunnel, tsc_notification_tunnel_termination_info, tell, &over) != NULL);
    CHECK(tsc_wait_tunnel(tunnel, LIMIT) == tsc_error_code_cannot_connect);
    CHECK(tsc_get_config(tunnel, &config) == tsc_error_code_cannot_connect);
    FAILS(tsc_socket(tunnel, AF_INET, SOCK_DGRAM, 0), ENETDOWN);
    CHECK(tsc_delete_tunnel(tunnel) == tsc_error_code_ok);

    /* Nobody who can be trusted. */
    if (strcmp(arguments[1], "tls") == 0) {
        params = parameters(arguments);
        params->sec_config[0].ca_count = 0;
        errno = 0;
        CHECK(tsc_ctrl_new_tunnel(params, NULL) == NULL && errno == EACCES);
        CHECK(tsc_last_error(NULL, 0) == tsc_error_code_authenticate);
    }
    CHECK(tsc_ctrl_term() == tsc_error_code_ok);
    return 0;
}
