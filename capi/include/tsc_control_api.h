/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file tsc_control_api.h
 * Tunnels: opening and deleting them, what the server assigned, notifications.
 *
 * All functions may be called by any thread at any time unless they say otherwise; none of them blocks unless it says so. None may be
 * called by a signal handler, nor by the child of a fork() before it calls exec().
 *
 * Handles are names, not addresses of memory: one that is stale, or was never valid, gives an error. Structures are plain data: set
 * them to zero with memset() before use, since zero is the default of each member and members may be added before version 1.0.
 */
#ifndef TSC_CONTROL_API_H
#define TSC_CONTROL_API_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/** Version of these headers; that of the library is told by tsc_version(). */
#define TSC_VERSION_MAJOR 0
#define TSC_VERSION_MINOR 1
#define TSC_VERSION_PATCH 0
#define TSC_VERSION "0.1.0"
/** For comparisons by the preprocessor: 0x00MMmmpp. */
#define TSC_VERSION_NUMBER ((TSC_VERSION_MAJOR << 16) | (TSC_VERSION_MINOR << 8) | TSC_VERSION_PATCH)

/** Tunnels that a process may have at a time. */
#define TSC_MAX_TUNNELS 64
/** Ways to the server that one tunnel may be given (members of tsc_tunnel_params::connection_params). */
#define TSC_MAX_CONNECTIONS 8
/** Bytes of a text that holds an address with its port, with the final zero. */
#define TSC_ADDR_STR_LEN 64
/** Bytes of a certificate or key in PEM, or of its path. */
#define TSC_PEM_LEN 16384
/** Bytes of a name or path, with the final zero. */
#define TSC_NAME_LEN 256
/** Servers of one kind that tsc_config can hold; more are left out. */
#define TSC_MAX_SERVERS 8
/** Callbacks that one tunnel may have. */
#define TSC_MAX_NOTIFICATIONS 32

#ifdef __cplusplus
extern "C" {
#endif

/** Truth. */
typedef enum {
    tsc_bool_false = 0,
    tsc_bool_true = 1
} tsc_bool;

/** What became of a call, or of a tunnel. */
typedef enum {
    tsc_error_code_ok = 0,                /**< Done. */
    tsc_error_code_error = 1,             /**< Misuse: a parameter, a handle, or memory that is missing. */
    tsc_error_code_not_logged = 2,        /**< The tunnel is not up (yet). */
    tsc_error_code_cannot_connect = 3,    /**< No transport to the server could be opened. */
    tsc_error_code_cannot_configure = 4,  /**< The server was reached, and gives no tunnel. */
    tsc_error_code_keepalive_failure = 5, /**< The tunnel was lost: the server does not answer any more. */
    tsc_error_code_service_failure = 6,   /**< The server has not, or has not any more, what was asked for. */
    tsc_error_code_cannot_recv_data = 7,  /**< Receiving failed. */
    tsc_error_code_no_data = 8,           /**< There is nothing (yet). */
    tsc_error_code_cannot_send_data = 9,  /**< Sending failed. */
    tsc_error_code_authenticate = 10,     /**< Certificates or credentials were refused, here or there. */
    tsc_error_code_cannot_release = 11,   /**< The server did not confirm the release. The tunnel is gone all the same. */
    tsc_error_code_queue_overflow = 12    /**< There are too many. */
} tsc_error_code;

/** Name of a code, such as "tsc_error_code_ok". Never NULL; valid for ever. */
const char *tsc_error_code_to_str(tsc_error_code code);

/** Version of the library, such as "0.1.0". Valid for ever. */
const char *tsc_version(void);

/** An IPv4 address in host byte order; 0 is none. */
typedef struct {
    uint32_t address;
} tsc_ip_address;

/** An IPv4 address and a port, both in host byte order. */
typedef struct {
    uint32_t address;
    uint16_t port;
} tsc_ip_port_address;

/** An IPv6 address, as on the wire. */
typedef struct {
    uint8_t address[16];
} tsc_ipv6_address;

/**
 * Writes an IPv4 address as text, such as "10.0.0.1".
 * @param length of @p buffer; #TSC_ADDR_STR_LEN is enough.
 * @return @p buffer; NULL with errno EINVAL (a parameter is NULL) or ENOSPC (it does not fit; nothing was written).
 */
char *tsc_ip_address_to_str(const tsc_ip_address *address, char *buffer, size_t length);
/** As tsc_ip_address_to_str(), with the port: "10.0.0.1:5060". */
char *tsc_ip_port_address_to_str(const tsc_ip_port_address *address, char *buffer, size_t length);
/** As tsc_ip_address_to_str(), for an IPv6 address: "fd00::1". */
char *tsc_ipv6_address_to_str(const tsc_ipv6_address *address, char *buffer, size_t length);
/** As tsc_ip_address_to_str(), for socket addresses of both IP versions, with their port: "10.0.0.1:5060", "[fd00::1]:5060". */
char *tsc_sockaddr_to_str(const struct sockaddr *address, socklen_t address_length, char *buffer, size_t length);

/** A tunnel; NULL is none. Not the address of anything. */
typedef struct tsc_tunnel *tsc_handle;

/** Outer transports. */
typedef enum {
    tsc_transport_udp = 0,
    tsc_transport_tcp = 1,
    tsc_transport_tls = 2,
    tsc_transport_dtls = 3
} tsc_transport;

/** One way to the server. */
typedef struct {
    /** Where, unless #server_name is set. Port 0 is 4567. */
    tsc_ip_port_address server_address;
    /** Over what. */
    tsc_transport transport;
    /**
     * Host name, or IPv4 or IPv6 address without brackets, in place of server_address.address; with it, port 0 means that the SRV
     * records of this domain are asked. Empty: none.
     */
    char server_name[TSC_NAME_LEN];
} tsc_connection_params;

/** Certificate authorities in PEM. */
typedef struct {
    uint32_t ca_len;      /**< Bytes of #ca, with or without a final zero. */
    char ca[TSC_PEM_LEN]; /**< Text, or with tsc_security_config::read_from_file a path. */
} tsc_config_ca;

/** A certificate chain in PEM. */
typedef struct {
    uint32_t cert_len;      /**< Bytes of #cert, with or without a final zero. */
    char cert[TSC_PEM_LEN]; /**< Text, or with tsc_security_config::read_from_file a path. */
} tsc_config_cert;

/** A private key in PEM. */
typedef struct {
    uint32_t key_len;      /**< Bytes of #key, with or without a final zero. */
    char key[TSC_PEM_LEN]; /**< Text, or with tsc_security_config::read_from_file a path. */
} tsc_config_key;

/** Certificates, for TLS and DTLS. All zero: the system's authorities are trusted, and none of our own is shown. */
typedef struct {
    /** #config_ca, #config_cert and #config_key are paths of files. */
    tsc_bool read_from_file;
    /** 1: #config_ca holds the authorities to trust, any number of them in one text. 0: those of the system. */
    uint32_t ca_count;
    tsc_config_ca config_ca;
    /** DANGEROUS: the certificate of the server is not checked, and whoever answers is trusted. For experiments only. */
    tsc_bool auth_disable;
    /** 1: #config_cert and #config_key are shown to a server that asks for a certificate. */
    uint32_t cert_count;
    tsc_config_cert config_cert;
    tsc_config_key config_key;
    /** Name that the server's certificate must carry, in place of the name or address of each connection. Empty: none. */
    char server_name[TSC_NAME_LEN];
} tsc_security_config;

/** A capture of inner packets and control messages, for Wireshark. It holds what calls say. */
typedef struct {
    tsc_bool enabled;
    char filename[TSC_NAME_LEN]; /**< A new pcapng file. */
} tsc_pcap_capture;

/** What tsc_ctrl_new_tunnel() needs to know. It is some 55 KB: keep it off small stacks. */
typedef struct {
    /** Members of #connection_params that are set, 1 to #TSC_MAX_CONNECTIONS. */
    uint32_t max_connections;
    /** Seconds until all attempts together are given up. 0: 60. */
    uint32_t connection_timeout_max;
    /** The ways to the server, the preferred one first. They are tried beside each other, each begun 25 ms after the one before. */
    tsc_connection_params connection_params[TSC_MAX_CONNECTIONS];
    /** One for all connections. */
    tsc_security_config sec_config[1];
    tsc_pcap_capture pcap_capture;
    /** tsc_ctrl_new_tunnel() returns at once; see there. */
    tsc_bool nonblocking;
    /** Other clients of the server may ask for a peer tunnel to this one, and then learn this host's addresses. */
    tsc_bool accept_peer_tunnels;
    /** A token that shows the server who this is, over TLS and DTLS only. Empty: none. */
    char auth_token[TSC_NAME_LEN];
    /** HTTP proxy, for TCP and TLS: "http://HOST:PORT", "https://HOST:PORT", or "env" for what HTTPS_PROXY says. Empty: none. */
    char proxy[TSC_NAME_LEN];
    /** Who the proxy is told this is, if it asks. Empty: nobody. */
    char proxy_user[TSC_NAME_LEN];
    char proxy_password[TSC_NAME_LEN];
} tsc_tunnel_params;

/** What the server is asked for; it may give something else. All zero: what it likes. */
typedef struct {
    tsc_bool ipv4; /**< An inner IPv4 address. */
    tsc_bool ipv6; /**< An inner IPv6 address. */
    uint32_t mtu;  /**< Largest inner packet in bytes, 576 to 9000. */
} tsc_requested_config;

/** A tunnel's name at the server. */
typedef struct {
    uint32_t hi;
    uint32_t lo;
} tsc_tunnel_id;

/** What the server assigned. */
typedef struct {
    tsc_tunnel_id tunnel_id;
    /** Address to bind sockets to; 0 if the tunnel has no IPv4. */
    tsc_ip_address internal_address;
    /** The first SIP server over IPv4; 0 if there is none. */
    tsc_ip_port_address sip_server;
    /** Whether #internal_ipv6_address is set. */
    tsc_bool has_internal_ipv6_address;
    tsc_ipv6_address internal_ipv6_address;
    /** SIP servers of both IP versions in order of preference; each a sockaddr_in or sockaddr_in6. */
    struct sockaddr_storage sip_servers[TSC_MAX_SERVERS];
    uint32_t sip_server_count;
    /** DNS servers likewise; port 53. */
    struct sockaddr_storage dns_servers[TSC_MAX_SERVERS];
    uint32_t dns_server_count;
    /** Largest inner packet in bytes. */
    uint32_t mtu;
    /** Seconds between keepalives, which the library sends by itself; 0 is none. */
    uint32_t keepalive_interval;
    /** Seconds that the server keeps the tunnel when it is without a transport; 0 is for ever. */
    uint32_t persistence_time;
} tsc_config;

/** How the tunnel reaches the server. */
typedef struct {
    /** Transport in use. */
    tsc_transport transport;
    /** This end of the transport, an address of this host, if that is IPv4; else 0. */
    tsc_ip_port_address local_address;
    /** Its other end, if that is IPv4; else 0. It is the server, or the proxy that leads to it. */
    tsc_ip_port_address remote_address;
    /** This client's outer address as the server sees it, if that is IPv4 and told; else 0. Behind a NAT it is not #local_address. */
    tsc_ip_port_address nat_ipport;
    /** #local_address for both IP versions: a sockaddr_in or sockaddr_in6; family AF_UNSPEC if it is not known. */
    struct sockaddr_storage local_sockaddr;
    /** #remote_address likewise. */
    struct sockaddr_storage remote_sockaddr;
    /** #nat_ipport likewise. */
    struct sockaddr_storage nat_sockaddr;
} tsc_tunnel_socket_info;

/**
 * Prepares the library: starts its threads. May be called any number of times; as many calls of tsc_ctrl_term() undo it.
 * tsc_ctrl_new_tunnel() does it as well if nobody has, which one call of tsc_ctrl_term() undoes.
 *
 * The library's threads block all signals.
 *
 * @return #tsc_error_code_error when threads cannot be made (errno tells why).
 */
tsc_error_code tsc_ctrl_init(void);

/**
 * Undoes one tsc_ctrl_init(). The last one closes all sockets, deletes all tunnels and ends all threads: nothing is left, and
 * tsc_ctrl_init() may begin anew. Calls that wait in other threads return with EBADF before.
 *
 * Blocks, for two seconds and the time that callbacks take.
 *
 * @return #tsc_error_code_error if it was not initialised, or when called by a callback (errno EDEADLK; nothing was done).
 */
tsc_error_code tsc_ctrl_term(void);

/**
 * Opens a tunnel.
 *
 * Blocks until it is up or cannot be had, at most tsc_tunnel_params::connection_timeout_max. With tsc_tunnel_params::nonblocking it
 * returns at once: tsc_get_config() then says #tsc_error_code_not_logged until the tunnel is up, and tsc_wait_tunnel(),
 * #tsc_notification_tunnel_socket_info and #tsc_notification_tunnel_termination_info tell what becomes of it. Such a handle is to be
 * deleted even when it never came up.
 *
 * @param requested may be NULL.
 * @return the tunnel; NULL with errno EINVAL (parameters; or it was deleted while this call waited for it, as by tsc_ctrl_term()), EMFILE
 *   (#TSC_MAX_TUNNELS, or no file descriptors), EAGAIN (no threads), EBADF (tsc_ctrl_term() was faster), or what the attempts failed for:
 *   ECONNREFUSED (no transport could be opened), EACCES (certificates, credentials), ETIMEDOUT (it came up, and the server fell silent),
 *   ENETDOWN (it ended before it was up), EPROTO (the server gives no tunnel, or breaks the protocol), EIO (a fault of the library).
 *   tsc_last_error() tells more.
 */
tsc_handle tsc_ctrl_new_tunnel(const tsc_tunnel_params *params, const tsc_requested_config *requested);
/** The same as tsc_ctrl_new_tunnel(). */
tsc_handle tsc_new_tunnel(const tsc_tunnel_params *params, const tsc_requested_config *requested);

/**
 * Why the last call of this thread that opened, waited for or deleted a tunnel failed.
 * @param text where a sentence for people is written, cut to fit; may be NULL if @p length is 0.
 * @return its code; #tsc_error_code_ok if it did not fail.
 */
tsc_error_code tsc_last_error(char *text, size_t length);

/**
 * Waits until a tunnel is up or over. Blocks, at most @p milliseconds; negative is for ever.
 * @return #tsc_error_code_ok when it is up, #tsc_error_code_not_logged when it is not yet, else why it is over; #tsc_error_code_error
 *   for a handle that is none or is deleted meanwhile.
 */
tsc_error_code tsc_wait_tunnel(tsc_handle handle, int milliseconds);

/**
 * Releases a tunnel and forgets its handle. Blocks for two seconds at most, while the server is told and what was written to closed TCP
 * sockets is delivered, and until a callback that runs has returned.
 *
 * Its sockets remain, as numbers, until tsc_close(): their calls fail with ENETDOWN. A callback may delete its own tunnel; no other is
 * then called any more. Callbacks of two tunnels that delete each other's would wait for each other for ever.
 *
 * @return #tsc_error_code_cannot_release: the server did not confirm. #tsc_error_code_error: no such tunnel.
 */
tsc_error_code tsc_delete_tunnel(tsc_handle handle);

/**
 * What the server assigned, as of the last configuration or resume.
 * @return #tsc_error_code_not_logged before the tunnel is up; for one that never came up why, as tsc_wait_tunnel() tells it
 *   (#tsc_error_code_cannot_connect, #tsc_error_code_authenticate, #tsc_error_code_cannot_configure and so on); #tsc_error_code_error for no
 *   such tunnel, or NULL. @p config is then as it was. After the end of a tunnel, until it is deleted, this is its last one.
 */
tsc_error_code tsc_get_config(tsc_handle handle, tsc_config *config);

/** How the tunnel reaches the server, as of the last configuration or resume. Errors are those of tsc_get_config(). */
tsc_error_code tsc_get_tunnel_socket_info(tsc_handle handle, tsc_tunnel_socket_info *info);

/** The tunnel of a socket; NULL with errno EBADF if there is no such socket, ENETDOWN if its tunnel was deleted. */
tsc_handle tsc_get_tunnel(int socket);

/**
 * Tells a tunnel that the host's network has changed, so that it checks its transport at once. On Linux it notices that by itself.
 * @return #tsc_error_code_not_logged, #tsc_error_code_error as tsc_get_config().
 */
tsc_error_code tsc_network_changed(tsc_handle handle);

/** What is taken away of a capture before it is written. */
typedef enum {
    tsc_trace_redaction_none = 0,    /**< Nothing. */
    tsc_trace_redaction_headers = 1, /**< What is behind the headers of packets, and the keys in control messages. */
    tsc_trace_redaction_sip = 2      /**< The same, but SIP stays with identities masked, and RTP with its header. */
} tsc_trace_redaction;

/** How a capture is written; all zero is a good beginning. */
typedef struct {
    /** One of #tsc_trace_redaction. */
    int redaction;
    /** Megabytes of a file. 0: 1024. */
    uint32_t file_size;
    /** Files that are kept, up to 1000: the newest has the name, those before it that name with .1, .2 and so on. 0 is 1, and then what does
     *  not fit is dropped. */
    uint32_t files;
    /** Seconds after which the next file is begun, if several are kept. 0: never. */
    uint32_t file_time;
    /** Write outer packets, too: what goes over the wire. */
    tsc_bool outer;
    /** INSECURE: write the secrets of the tunnel's TLS and DTLS connections that begin from now on. Whoever has the file can read everything that was
     *  recorded of them, anywhere on the way. Not together with a redaction. */
    tsc_bool insecure_decryption_secrets;
} tsc_trace_options;

/** What became of a capture. */
typedef struct {
    uint64_t written; /**< Packets in the files. */
    uint64_t dropped; /**< Packets that are missing: the disk was too slow, or the file full. */
} tsc_trace_stats;

/**
 * Writes inner packets and control messages of a tunnel to a new pcapng file from now on, for Wireshark, as tsc_tunnel_params::pcap_capture does from the
 * beginning. It holds what calls say. A file that was being written is completed before. Blocks while the files are opened and closed.
 *
 * @param options may be NULL: all zero.
 * @return #tsc_error_code_ok; #tsc_error_code_not_logged before the tunnel is up; #tsc_error_code_error for no such tunnel, a file that cannot be made or options
 *   that cannot be had together, as tsc_last_error() tells. Then nothing is written any more.
 */
tsc_error_code tsc_trace_start(tsc_handle handle, const char *path, const tsc_trace_options *options);

/**
 * Writes nothing more to the capture of a tunnel, and completes its file. Blocks until the disk has it.
 *
 * @param stats may be NULL. All zero if nothing was being written, which is no error.
 * @return as tsc_trace_start(); #tsc_error_code_error also if the file could not be written to its end.
 */
tsc_error_code tsc_trace_stop(tsc_handle handle, tsc_trace_stats *stats);

/** What one can be told of. */
typedef enum {
    /** The tunnel is up, for the first time or again: data is a tsc_tunnel_socket_info. */
    tsc_notification_tunnel_socket_info = 0,
    /** The tunnel is over: data is a tsc_notification_termination_info_data. The last one of a tunnel. */
    tsc_notification_tunnel_termination_info = 1,
    /** Redundancy of a socket (#SO_TSC_REDUNDANCY): data is a tsc_notification_redundancy_info_data. */
    tsc_notification_redundancy = 2,
    /** Datagrams of a socket beside a stream (#SO_TSC_TUNNEL_TRANSPORT): data is a tsc_notification_ddt_info_data. */
    tsc_notification_ddt = 3,
    /** Encryption of a socket (#SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION): data is a tsc_notification_dtte_info_data. */
    tsc_notification_dtte = 4,
    /** Peer tunnels of a socket (#SO_TSC_PEER): data is a tsc_notification_peer_info_data. */
    tsc_notification_peer = 5,
    /** The tunnel has lost its transport, and is being resumed: data is NULL. Sockets stay. */
    tsc_notification_tunnel_suspended = 6
} tsc_notification_type;

/** What a callback is given; valid while it runs. */
typedef struct {
    tsc_handle handle;
    tsc_notification_type type;
    /** As the type says. */
    void *data;
    /** What was given to tsc_notification_enable(). */
    void *opaque;
} tsc_notification_data;

/** What is in force of a service for a socket. */
typedef struct {
    tsc_bool available; /**< The server offers it here. */
    tsc_bool enabled;   /**< It is in force. */
    int socket;         /**< For this socket; -1 if it is closed already. */
} tsc_notification_service_info_data;

typedef tsc_notification_service_info_data tsc_notification_redundancy_info_data;
typedef tsc_notification_service_info_data tsc_notification_ddt_info_data;
typedef tsc_notification_service_info_data tsc_notification_peer_info_data;
/** After it, tsc_getsockname() tells the address that the socket has now. */
typedef tsc_notification_service_info_data tsc_notification_dtte_info_data;

/** How a tunnel ended. */
typedef struct {
    /** Its last configuration; all zero if it was never up. */
    tsc_config config;
    /** Why; #tsc_error_code_ok after tsc_delete_tunnel(). */
    tsc_error_code reason;
    /** The same for people. Valid while the callback runs. */
    const char *text;
} tsc_notification_termination_info_data;

/** A callback that was enabled; NULL is none. */
typedef struct tsc_notification *tsc_notification_handle;

/** See tsc_notification_enable(). */
typedef void (*tsc_notification_callback)(tsc_notification_data *notification);

/**
 * Has @p callback called whenever something of @p type happens to the tunnel, also beside others of the same type.
 *
 * Callbacks of one tunnel are called one after the other, in the order of events, by a thread of the library that this tunnel has
 * alone. They may call everything; while they block, this tunnel's notifications wait, and beyond 64 the oldest are lost. They must not
 * leave by longjmp() or a C++ exception.
 *
 * If the tunnel is up already, #tsc_notification_tunnel_socket_info is called for that too.
 *
 * @param opaque is handed to the callback.
 * @return NULL with errno EINVAL (callback or type), EBADF (handle) or ENOSPC (#TSC_MAX_NOTIFICATIONS).
 */
tsc_notification_handle tsc_notification_enable(tsc_handle handle, tsc_notification_type type, tsc_notification_callback callback, void *opaque);

/**
 * Undoes tsc_notification_enable(). When it returns the callback does not run any more and is not called again, so that what opaque
 * points to may be freed; it waits for that, unless a callback of the same tunnel calls it. All of that also while the tunnel is being
 * deleted or the library ends, and whatever it returns. Callbacks of two tunnels that disable each other would wait for each other for ever.
 *
 * @return #tsc_error_code_error if it is not enabled (any more: when a tunnel has been deleted all of them are disabled).
 */
tsc_error_code tsc_notification_disable(tsc_notification_handle notification);

#ifdef __cplusplus
}
#endif

#endif
