// What a batch of datagrams costs by sendmmsg and recvmmsg, and by io_uring: processor time for each datagram sent from one socket to
// another over loopback and read there, in batches of 64 datagrams of 200 bytes to 100 ports.
//   gcc -O2 -o /tmp/io_uring docs/performance/io_uring.c -luring && /tmp/io_uring
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, BYTES = 200, PEERS = 100, ROUNDS = 20000 };

static struct mmsghdr messages[BATCH];
static struct iovec slices[BATCH];
static struct sockaddr_in peers[PEERS];
static char buffers[BATCH][2048];
static int from, to;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int bound(struct sockaddr_in *address) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), size = 8 << 20;
    socklen_t len = sizeof *address;
    memset(address, 0, len);
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)address, len)) { perror("bind"); exit(1); }
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    getsockname(fd, (struct sockaddr *)address, &len);
    return fd;
}

static void prepare(int round, int sending) {
    for (int i = 0; i < BATCH; i++) {
        slices[i] = (struct iovec){buffers[i], sending ? BYTES : sizeof buffers[i]};
        struct msghdr *h = &messages[i].msg_hdr;
        memset(h, 0, sizeof *h);
        if (sending) h->msg_name = &peers[(round * BATCH + i) % PEERS];
        if (sending) h->msg_namelen = sizeof peers[0];
        h->msg_iov = &slices[i];
        h->msg_iovlen = 1;
    }
}

// All to one sink, so that reading can be done in batches too.
static void aim(struct sockaddr_in *sink) {
    for (int i = 0; i < PEERS; i++) peers[i] = *sink;
}

static void report(const char *what, double seconds, long count) {
    printf("%-34s %.3f us a datagram\n", what, seconds / count * 1e6);
}

static void drain(void) { while (recvmmsg(to, messages, BATCH, 0, NULL) > 0) {} }

static void complete(struct io_uring *ring, int count) {
    struct io_uring_cqe *cqe;
    for (int i = 0; i < count; i++) {
        if (io_uring_wait_cqe(ring, &cqe)) exit(1);
        if (cqe->res < 0 && cqe->res != -EAGAIN) { fprintf(stderr, "%s\n", strerror(-cqe->res)); exit(1); }
        io_uring_cqe_seen(ring, cqe);
    }
}

int main(void) {
    struct sockaddr_in sink, own;
    from = bound(&own);
    to = bound(&sink);
    aim(&sink);
    struct io_uring ring;
    struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    if (io_uring_queue_init_params(256, &ring, &params)) { perror("io_uring"); return 1; }
    int files[2] = {from, to};
    io_uring_register_files(&ring, files, 2);
    for (int repeat = 0; repeat < 3; repeat++) {
        double send = 0, receive = 0, t;
        for (int round = 0; round < ROUNDS; round++) {
            prepare(round, 1);
            t = now();
            if (sendmmsg(from, messages, BATCH, 0) != BATCH) { perror("sendmmsg"); exit(1); }
            send += now() - t;
            prepare(round, 0);
            t = now();
            for (int read = 0; read < BATCH;) {
                int count = recvmmsg(to, messages + read, BATCH - read, 0, NULL);
                read += count > 0 ? count : 0;
            }
            receive += now() - t;
        }
        report("sendmmsg", send, (long)ROUNDS * BATCH);
        report("recvmmsg", receive, (long)ROUNDS * BATCH);
        send = receive = 0;
        for (int round = 0; round < ROUNDS; round++) {
            prepare(round, 1);
            t = now();
            for (int i = 0; i < BATCH; i++) {
                struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
                io_uring_prep_sendmsg(sqe, 0, &messages[i].msg_hdr, 0);
                sqe->flags |= IOSQE_FIXED_FILE;
            }
            io_uring_submit_and_wait(&ring, BATCH);
            complete(&ring, BATCH);
            send += now() - t;
            prepare(round, 0);
            t = now();
            for (int i = 0; i < BATCH; i++) {
                struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
                io_uring_prep_recvmsg(sqe, 1, &messages[i].msg_hdr, MSG_DONTWAIT);
                sqe->flags |= IOSQE_FIXED_FILE;
            }
            io_uring_submit_and_wait(&ring, BATCH);
            complete(&ring, BATCH);
            receive += now() - t;
            drain();
        }
        report("io_uring sendmsg, fixed file", send, (long)ROUNDS * BATCH);
        report("io_uring recvmsg, fixed file", receive, (long)ROUNDS * BATCH);
    }
    return 0;
}
