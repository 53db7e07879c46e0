/* What ThreadSanitizer cannot see by itself (tools/threads.sh). Nothing is suppressed: it is told what orders threads.
 *
 * Rust's standard library comes compiled without it. The fast ways of its locks are inlined into our code and seen there; these are the slow
 * ones, when a thread waits. Linked with --wrap for each of them; their names, which change with each compiler, are given by the script. */
#include <stdint.h>
#include <sys/epoll.h>

void __tsan_acquire(void *address);
void __tsan_release(void *address);

#define GLUE(a, b) a##b
#define REAL_(name) GLUE(__real_, name)
#define WRAP_(name) GLUE(__wrap_, name)
#define REAL(name) REAL_(name)
#define WRAP(name) WRAP_(name)

/* Mutex and RwLock, when they are not free. */
#define LOCK(name)               \
    void REAL(name)(void *lock); \
    void WRAP(name)(void *lock)  \
    {                            \
        REAL(name)(lock);        \
        __tsan_acquire(lock);    \
    }

LOCK(MUTEX_LOCK)
LOCK(RWLOCK_READ)
LOCK(RWLOCK_WRITE)

/* Condvar: gives the mutex away, and has it again. */
void REAL(CONDVAR_WAIT)(void *condvar, void *mutex);
void WRAP(CONDVAR_WAIT)(void *condvar, void *mutex)
{
    __tsan_release(mutex);
    REAL(CONDVAR_WAIT)(condvar, mutex);
    __tsan_acquire(mutex);
}

_Bool REAL(CONDVAR_WAIT_TIMEOUT)(void *condvar, void *mutex, uint64_t seconds, uint32_t nanoseconds);
_Bool WRAP(CONDVAR_WAIT_TIMEOUT)(void *condvar, void *mutex, uint64_t seconds, uint32_t nanoseconds)
{
    _Bool in_time;
    __tsan_release(mutex);
    in_time = REAL(CONDVAR_WAIT_TIMEOUT)(condvar, mutex, seconds, nanoseconds);
    __tsan_acquire(mutex);
    return in_time;
}

/* The last one to let go of an Arc has a fence, of which ThreadSanitizer knows nothing: so all who let go are in order. */
int64_t __real___tsan_atomic64_fetch_sub(volatile int64_t *address, int64_t value, int order);
int64_t __wrap___tsan_atomic64_fetch_sub(volatile int64_t *address, int64_t value, int order)
{
    enum { release = 3, acquire_release = 4 };
    return __real___tsan_atomic64_fetch_sub(address, value, order == release ? acquire_release : order);
}

/* A socket is handed to the thread that waits for events through the kernel, by a duplicate of the descriptor that this one waits on. */
static char epoll;

int __real_epoll_ctl(int set, int operation, int descriptor, struct epoll_event *event);
int __wrap_epoll_ctl(int set, int operation, int descriptor, struct epoll_event *event)
{
    __tsan_release(&epoll);
    return __real_epoll_ctl(set, operation, descriptor, event);
}

int __real_epoll_wait(int set, struct epoll_event *events, int count, int milliseconds);
int __wrap_epoll_wait(int set, struct epoll_event *events, int count, int milliseconds)
{
    int found = __real_epoll_wait(set, events, count, milliseconds);
    __tsan_acquire(&epoll);
    return found;
}
