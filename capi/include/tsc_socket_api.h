/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file tsc_socket_api.h
 * Sockets inside tunnels, with the calls, the return values and the errno of BSD sockets.
 *
 * Where nothing else is said, a function returns -1 and sets errno when it fails, and these are possible besides those that it lists:
 * - EBADF: there is no such socket, or it was closed by another thread while the call waited;
 * - EFAULT: a pointer is NULL;
 * - EINVAL: a length or a value makes no sense;
 * - ENETDOWN: the tunnel of the socket is over, or was deleted.
 *
 * All functions may be called by any thread at any time; those that may block say so. Sockets are numbers of their own, from 1 to
 * #TSC_FD_SETSIZE - 1: they are no file descriptors (for which see tsc_get_pollfd()), the lowest free one is given out, and a number
 * that was closed comes again. No call raises SIGPIPE. Signals do not interrupt calls: there is no EINTR.
 */
#ifndef TSC_SOCKET_API_H
#define TSC_SOCKET_API_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "tsc_control_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Makes a socket inside a tunnel that is up.
 * @param family AF_INET or AF_INET6.
 * @param type SOCK_DGRAM or SOCK_STREAM; with SOCK_NONBLOCK its calls do not block. SOCK_CLOEXEC means nothing here.
 * @param protocol 0, or IPPROTO_UDP or IPPROTO_TCP as the type is.
 * @return EBADF: no such tunnel. ENETDOWN: it is not up yet, or over. EAFNOSUPPORT, EPROTONOSUPPORT, ESOCKTNOSUPPORT. EMFILE: there are
 *   #TSC_FD_SETSIZE - 1 already.
 */
int tsc_socket(tsc_handle handle, int family, int type, int protocol);

/**
 * Gives a socket its address: one of the tunnel's (tsc_config::internal_address), or the unspecified one for all. Port 0 lets the library
 * choose, for a stream when it listens or connects.
 * @return EADDRNOTAVAIL: not the tunnel's. EADDRINUSE (of streams told by tsc_listen() or tsc_connect()). EINVAL: bound already.
 *   EAFNOSUPPORT: of the other IP version. ENOBUFS: no socket left. EDQUOT: too many sockets have services.
 */
int tsc_bind(int socket, const struct sockaddr *address, socklen_t address_length);

/**
 * Connects a stream, or sets the peer of a datagram socket. A stream blocks until it is connected, unless it is nonblocking: then it
 * always fails with EINPROGRESS, is writable when it is done, and SO_ERROR tells the outcome.
 * @return EINPROGRESS, also when SO_SNDTIMEO passes. EALREADY: it is being connected. EISCONN. ECONNREFUSED, ETIMEDOUT (75 s),
 *   EHOSTUNREACH, EACCES (prohibited). ENETUNREACH: no address that can be reached inside a tunnel, or no encrypted tunnel for a socket
 *   that must be encrypted. EADDRINUSE, EAFNOSUPPORT. EOPNOTSUPP: it listens.
 */
int tsc_connect(int socket, const struct sockaddr *address, socklen_t address_length);

/**
 * Lets a bound stream listen.
 * @param backlog connections that may wait, at least one. A later call changes nothing.
 * @return EDESTADDRREQ: it is not bound. EADDRINUSE. EOPNOTSUPP: a datagram socket, or one with an encryption of its own. EISCONN.
 */
int tsc_listen(int socket, int backlog);

/**
 * Takes a connection. Blocks until there is one, unless the socket is nonblocking. The new socket blocks, whatever the listener does.
 * @param address where the peer is written, cut to @p address_length, which is set to its whole length; both may be NULL.
 * @return the new socket. EAGAIN: nonblocking, or SO_RCVTIMEO has passed. EINVAL: it does not listen. EOPNOTSUPP: a datagram socket.
 *   EMFILE: no number is free; the connection waits.
 */
int tsc_accept(int socket, struct sockaddr *address, socklen_t *address_length);

/**
 * Sends. Of datagrams it never blocks: if the network is slower, the oldest packets that wait are dropped. A stream blocks until all is
 * taken, unless it is nonblocking: then less may be.
 * @param flags 0 or any of MSG_DONTWAIT, MSG_NOSIGNAL.
 * @return bytes taken. EAGAIN: nonblocking, or SO_SNDTIMEO has passed. EMSGSIZE. ENOTCONN, EDESTADDRREQ (datagrams), EPIPE (streams).
 *   ECONNRESET, ETIMEDOUT. ENETUNREACH: must be encrypted, and is not. EOPNOTSUPP: other flags.
 */
ssize_t tsc_send(int socket, const void *buffer, size_t length, int flags);

/**
 * Sends a datagram to an address; as tsc_send(). A socket that is not bound is bound to a port that the library chooses. A NULL
 * address is tsc_send(). Of a stream the address is ignored.
 * @return also EAFNOSUPPORT: of the other IP version. ENETUNREACH: no address that can be reached inside a tunnel.
 */
ssize_t tsc_sendto(int socket, const void *buffer, size_t length, int flags, const struct sockaddr *address, socklen_t address_length);

/**
 * Receives. Blocks until there is something, unless the socket is nonblocking. Of a datagram that does not fit the rest is lost.
 * @param flags 0 or any of MSG_DONTWAIT, MSG_PEEK, MSG_WAITALL (streams).
 * @return bytes; 0 at the end of a stream. EAGAIN: nonblocking, or SO_RCVTIMEO has passed. ENOTCONN (streams). ECONNREFUSED,
 *   EHOSTUNREACH: of what a connected datagram socket has sent; it stays usable. ECONNRESET, ETIMEDOUT. EOPNOTSUPP: other flags.
 */
ssize_t tsc_recv(int socket, void *buffer, size_t length, int flags);

/** As tsc_recv(), with the sender (of a datagram), as tsc_accept() writes it. */
ssize_t tsc_recvfrom(int socket, void *buffer, size_t length, int flags, struct sockaddr *address, socklen_t *address_length);

/**
 * The address that a socket is bound to, as tsc_accept() writes it. That of a datagram socket changes when it moves to an encrypted
 * tunnel. A stream that is bound to port 0 has its port when it listens or is connected.
 */
int tsc_getsockname(int socket, struct sockaddr *address, socklen_t *address_length);
/** The peer, as tsc_accept() writes it. ENOTCONN. */
int tsc_getpeername(int socket, struct sockaddr *address, socklen_t *address_length);

/**
 * Ends one direction of a stream, or both.
 * @param how SHUT_RD, SHUT_WR or SHUT_RDWR. After SHUT_RD, what the peer sends is not read.
 * @return ENOTCONN. EOPNOTSUPP: a datagram socket.
 */
int tsc_shutdown(int socket, int how);

/**
 * Closes a socket. Its port is free when it returns, unless a call of another thread still waits for the socket: that returns with
 * EBADF, at once. What was written to a stream is still delivered; with an SO_LINGER of zero it is reset.
 */
int tsc_close(int socket);

/**
 * F_GETFL, and F_SETFL with O_NONBLOCK or without.
 * @return for F_GETFL, O_RDWR, and O_NONBLOCK if it is set. EINVAL: another command.
 */
int tsc_fcntl(int socket, int command, long argument);

/** @name Options of level SOL_SOCKET. Beside them there are those listed at tsc_setsockopt(). */
/**@{*/
/** tsc_so_redundancy: packets of a datagram socket are repeated. */
#define SO_TSC_REDUNDANCY 0x7C01
/** tsc_so_tunnel_transport: what carries a datagram socket's packets. */
#define SO_TSC_TUNNEL_TRANSPORT 0x7C02
/** tsc_so_tunnel_transport_encryption: whether a socket's packets are encrypted. */
#define SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION 0x7C03
/** int, 0 or 1: packets of a datagram socket reach other clients without the server where that works. */
#define SO_TSC_PEER 0x7C04
/**@}*/

/** How packets are repeated. The first two are the same: what they mean follows the tunnel's transport. */
typedef enum {
    /** In the datagrams that follow (UDP, DTLS). */
    tsc_so_redundancy_method_udp_dtls = 0,
    /** Over further streams as well (TCP, TLS). */
    tsc_so_redundancy_method_tcp_tls_fan_out = 1,
    /** Over the fastest of several streams (TCP, TLS). */
    tsc_so_redundancy_method_tcp_tls_load_balance = 2,
    /** As much as the network needs, redundancy_factor at most. */
    tsc_so_redundancy_method_adaptive = 3
} tsc_so_redundancy_method;

/** Value of #SO_TSC_REDUNDANCY. */
typedef struct {
    /** Copies of each packet, 0 (none) to 2. */
    uint32_t redundancy_factor;
    tsc_so_redundancy_method redundancy_method;
} tsc_so_redundancy;

/** Value of #SO_TSC_TUNNEL_TRANSPORT. */
typedef enum {
    /** The tunnel as it is. */
    tsc_so_tunnel_transport_main = 0,
    /** UDP or DTLS beside a tunnel over TCP or TLS, while that works (DDT). */
    tsc_so_tunnel_transport_datagram_preferred = 1,
    /** Whichever of both is measured to be better. */
    tsc_so_tunnel_transport_automatic = 2
} tsc_so_tunnel_transport;

/** Value of #SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION. */
typedef enum {
    /** As the tunnel is. */
    tsc_so_tunnel_transport_default = 0,
    /** They need not be encrypted. */
    tsc_so_tunnel_transport_unencrypted,
    /** They must be: without an encrypted tunnel nothing is sent (ENETUNREACH), and nothing is received that came in clear. */
    tsc_so_tunnel_transport_encrypted_only,
    /** They are where that can be had. */
    tsc_so_tunnel_transport_encrypted_preferred
} tsc_so_tunnel_transport_encryption;

/**
 * Sets an option.
 *
 * SOL_SOCKET: SO_RCVTIMEO, SO_SNDTIMEO (struct timeval), SO_KEEPALIVE, SO_LINGER (only a time of zero, which resets at tsc_close(), is
 * different from none), SO_REUSEADDR (kept, and does nothing: no port needs it), and the SO_TSC_ options, which may be set before
 * tsc_bind() and at any time after it; 0 then means that the wish is known, and a notification tells when it is in force. A stream's
 * #SO_TSC_TUNNEL_TRANSPORT_ENCRYPTION is set before tsc_connect(); the other SO_TSC_ options are of datagram sockets.
 * IPPROTO_TCP: TCP_NODELAY, TCP_KEEPIDLE (s), TCP_USER_TIMEOUT (ms, before tsc_connect()). IPPROTO_IP: IP_TOS. IPPROTO_IPV6:
 * IPV6_TCLASS. Both of datagram sockets, and of them the DSCP counts.
 *
 * @return ENOPROTOOPT: no such option for this socket. EINVAL: too short, or no such value. EDQUOT: 64 sockets of the tunnel have the
 *   service already. EISCONN: too late for a stream. EOPNOTSUPP: this build cannot do it. EADDRINUSE: a socket of the other IP version
 *   with the same port is encrypted.
 */
int tsc_setsockopt(int socket, int level, int option, const void *value, socklen_t length);

/**
 * Tells an option: those of tsc_setsockopt(), as they were set, and SO_ERROR, SO_TYPE, SO_DOMAIN, SO_PROTOCOL and SO_ACCEPTCONN.
 * SO_ERROR is the failure of a stream that no call has told yet; of datagram sockets it is always 0.
 * @param length the room at @p value, and then the bytes written; a value that does not fit is cut.
 * @return ENOPROTOOPT.
 */
int tsc_getsockopt(int socket, int level, int option, void *value, socklen_t *length);

/** Sockets that a set holds: numbers below this. */
#define TSC_FD_SETSIZE 1024

/** A set of sockets. */
typedef struct {
    uint64_t bits[TSC_FD_SETSIZE / 64];
} tsc_fd_set;

/** Makes a set empty. */
#define TSC_FD_ZERO(set) memset((set), 0, sizeof(tsc_fd_set))
/** Puts a socket into a set; one that cannot be a socket is left out. */
#define TSC_FD_SET(socket, set) tsc_fd_put((socket), (set), 1)
/** Takes a socket out of a set. */
#define TSC_FD_CLR(socket, set) tsc_fd_put((socket), (set), 0)
/** Whether a socket is in a set: 1 or 0. */
#define TSC_FD_ISSET(socket, set) tsc_fd_has((socket), (set))

/** For #TSC_FD_SET and #TSC_FD_CLR. */
static inline void tsc_fd_put(int socket, tsc_fd_set *set, int in)
{
    if (socket >= 0 && socket < TSC_FD_SETSIZE) {
        uint64_t bit = (uint64_t)1 << (socket % 64);
        if (in)
            set->bits[socket / 64] |= bit;
        else
            set->bits[socket / 64] &= ~bit;
    }
}

/** For #TSC_FD_ISSET. */
static inline int tsc_fd_has(int socket, const tsc_fd_set *set)
{
    return socket >= 0 && socket < TSC_FD_SETSIZE && ((set->bits[socket / 64] >> (socket % 64)) & 1) != 0;
}

/** A time. */
struct tsc_timeval {
    long tv_sec;  /**< Seconds. */
    long tv_usec; /**< Microseconds. */
};

/**
 * Waits until one of the sockets is ready. Blocks, at most for @p timeout; NULL is for ever, zero looks only. The sets are of
 * tunnel sockets only: for these and file descriptors together see tsc_get_pollfd().
 * @param count the highest number in the sets plus one, at most #TSC_FD_SETSIZE.
 * @param readers are looked at for something to read or to accept, the end, or an error; may be NULL.
 * @param writers are looked at for room to send; may be NULL.
 * @param exceptions comes back empty, since there are no urgent data; its sockets must be there all the same. May be NULL.
 * @return how many are ready; the sets hold these only. 0: the time has passed. EBADF: the sets hold a number that is no socket, and
 *   are as they were. EINVAL: @p count or @p timeout.
 */
int tsc_select(int count, tsc_fd_set *readers, tsc_fd_set *writers, tsc_fd_set *exceptions, const struct tsc_timeval *timeout);

/** @name What tsc_poll() looks for. */
/**@{*/
#define TSC_POLLIN 0x01   /**< Something to read or to accept, or the end. */
#define TSC_POLLOUT 0x04  /**< Room to send. */
#define TSC_POLLERR 0x08  /**< The socket has failed, or its tunnel is over. Told without being asked for, but does not wake by itself. */
#define TSC_POLLNVAL 0x20 /**< No such socket; told without being asked for. */
/**@}*/

/** One socket of tsc_poll(). */
struct tsc_pollfd {
    int fd;        /**< The socket; a negative one is passed over. */
    short events;  /**< What to look for. */
    short revents; /**< What there is. */
};

/**
 * Waits until one of the sockets is ready. Blocks, at most for @p milliseconds; negative is for ever, zero looks only.
 * @param count of @p sockets, at most #TSC_FD_SETSIZE.
 * @return how many have something; 0: the time has passed.
 */
int tsc_poll(struct tsc_pollfd *sockets, unsigned int count, int milliseconds);

/** Sleeps. Blocks, for so many milliseconds. Needs no tunnel. */
void tsc_sleep(unsigned int milliseconds);

/**
 * A file descriptor that poll(), select(), epoll, libevent or GLib see as readable (POLLIN) as long as the socket is: something to read or
 * to accept, the end, or an error. It is an eventfd of this socket. Watch it, do not read from it or close it; take it out of an epoll
 * set before tsc_close() closes it. Each call for the same socket gives the same one.
 * @return the descriptor. EMFILE, ENFILE, ENOMEM: as eventfd(). ENOSYS: not on this system.
 */
int tsc_get_pollfd(int socket);

/** As tsc_get_pollfd(), but readable (POLLIN) as long as the socket is **writable**: room to send, connected, or an error. */
int tsc_get_write_pollfd(int socket);

#ifdef __cplusplus
}
#endif

#endif
