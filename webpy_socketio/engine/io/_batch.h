/* Batches: sends to many sockets with one system call, by io_uring.
 *
 * The calls of `send` are most of the time of a broadcast, and half of each is the way into the
 * kernel and back. A batch is submitted and completed in one call, so no buffer is in use
 * afterwards. The sends do not wait: a full socket accepts less, or fails with EAGAIN.
 *
 * Needs Linux 6.1 or later. Containers often forbid io_uring; `batch_open` then returns NULL.
 */
#ifndef WEBPY_SOCKETIO_BATCH_H
#define WEBPY_SOCKETIO_BATCH_H

#include <stddef.h>

/* Maximum number of sends in a batch. */
enum { BATCH_SIZE = 512 };

typedef struct Batch Batch;

#if defined(__linux__) && defined(__has_include)
#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#endif
#endif

#ifdef IORING_SETUP_DEFER_TASKRUN

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct Batch {
    /* Only this thread may submit (IORING_SETUP_SINGLE_ISSUER). Not a pthread_t: after the thread
     * has ended, another one often gets the same. A forked process shares the rings with its
     * parent, and must not touch them. */
    pid_t thread, process;
    int fd;
    unsigned count, tail;
    void *rings;
    size_t rings_size;
    struct io_uring_sqe *sqes;
    size_t sqes_size;
    struct io_uring_cqe *cqes;
    unsigned *sq_tail, *cq_head, *cq_tail;
    unsigned sq_mask, cq_mask;
};

/* Close a batch. In a forked process, its parent can continue to use it. */
static void batch_close(Batch *batch)
{
    if (batch == NULL)
        return;
    if (batch->sqes != MAP_FAILED)
        munmap(batch->sqes, batch->sqes_size);
    if (batch->rings != MAP_FAILED)
        munmap(batch->rings, batch->rings_size);
    close(batch->fd);
    free(batch);
}

static void *batch_map(int fd, size_t size, off_t offset)
{
    return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
}

static pid_t batch_thread(void)
{
    return (pid_t)syscall(SYS_gettid);
}

/* Return a new batch for this thread, or NULL if it is not available. */
static Batch *batch_open(void)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
    };
    int fd = (int)syscall(SYS_io_uring_setup, BATCH_SIZE, &params);
    if (fd < 0)
        return NULL;
    Batch *batch = calloc(1, sizeof *batch);
    if (batch == NULL) {
        close(fd);
        return NULL;
    }
    size_t sq_size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    size_t cq_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    batch->thread = batch_thread();
    batch->process = getpid();
    batch->fd = fd;
    batch->rings_size = sq_size > cq_size ? sq_size : cq_size; /* IORING_FEAT_SINGLE_MMAP */
    batch->sqes_size = params.sq_entries * sizeof(struct io_uring_sqe);
    batch->rings = batch_map(fd, batch->rings_size, IORING_OFF_SQ_RING);
    batch->sqes = batch_map(fd, batch->sqes_size, IORING_OFF_SQES);
    if (batch->rings == MAP_FAILED || (void *)batch->sqes == MAP_FAILED ||
        !(params.features & IORING_FEAT_SINGLE_MMAP) || params.sq_entries < BATCH_SIZE) {
        batch_close(batch);
        return NULL;
    }
    char *rings = batch->rings;
    batch->sq_tail = (unsigned *)(rings + params.sq_off.tail);
    batch->cq_head = (unsigned *)(rings + params.cq_off.head);
    batch->cq_tail = (unsigned *)(rings + params.cq_off.tail);
    batch->sq_mask = params.sq_entries - 1;
    batch->cq_mask = params.cq_entries - 1;
    batch->cqes = (struct io_uring_cqe *)(rings + params.cq_off.cqes);
    unsigned *array = (unsigned *)(rings + params.sq_off.array);
    for (unsigned i = 0; i < params.sq_entries; i++)
        array[i] = i; /* entries are used in their order */
    return batch;
}

/* Return whether this thread may use a batch. */
static int batch_is_usable(const Batch *batch)
{
    return batch->thread == batch_thread() && batch->process == getpid();
}

/* Return whether a batch belongs to a process from which this one was forked, or to a thread that
 * has ended. */
static int batch_is_abandoned(const Batch *batch)
{
    return batch->process != getpid() ||
        (syscall(SYS_tgkill, batch->process, batch->thread, 0) < 0 && errno == ESRCH);
}

/* Add a send to a batch that has fewer than BATCH_SIZE. The data must stay until `batch_send`. */
static void batch_add(Batch *batch, int fd, const char *data, size_t size)
{
    struct io_uring_sqe *sqe = &batch->sqes[(batch->tail + batch->count) & batch->sq_mask];
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_SEND;
    sqe->fd = fd;
    sqe->addr = (uintptr_t)data;
    sqe->len = size > INT32_MAX ? INT32_MAX : (unsigned)size;
    sqe->msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
    sqe->user_data = batch->count++;
}

/* Send all; set `results` to the number of accepted bytes, in the order of `batch_add`: 0 on errors.
 *
 * Return 0, or -1 if the batch must be closed. What was not submitted then has the result 0. */
static int batch_send(Batch *batch, int *results)
{
    unsigned count = batch->count, submitted = 0, done = 0, head = *batch->cq_head;
    int failed = 0;
    memset(results, 0, count * sizeof *results);
    batch->tail += count;
    batch->count = 0;
    __atomic_store_n(batch->sq_tail, batch->tail, __ATOMIC_RELEASE);
    while (done < count && !failed) {
        long entered = syscall(SYS_io_uring_enter, batch->fd, count - submitted, count - done,
                               IORING_ENTER_GETEVENTS, NULL, 0);
        if (entered > 0)
            submitted += (unsigned)entered;
        else if (entered < 0 ? errno != EINTR : submitted < count)
            failed = -1; /* also if nothing was submitted: repeating the call could not end */
        for (; head != __atomic_load_n(batch->cq_tail, __ATOMIC_ACQUIRE); head++, done++) {
            struct io_uring_cqe *cqe = &batch->cqes[head & batch->cq_mask];
            if (cqe->res > 0)
                results[cqe->user_data] = cqe->res;
        }
        __atomic_store_n(batch->cq_head, head, __ATOMIC_RELEASE);
    }
    return failed;
}

#else /* no io_uring */

static Batch *batch_open(void)
{
    return NULL;
}

static void batch_close(Batch *batch)
{
    (void)batch;
}

static int batch_is_usable(const Batch *batch)
{
    (void)batch;
    return 0;
}

static int batch_is_abandoned(const Batch *batch)
{
    (void)batch;
    return 0;
}

static void batch_add(Batch *batch, int fd, const char *data, size_t size)
{
    (void)batch, (void)fd, (void)data, (void)size;
}

static int batch_send(Batch *batch, int *results)
{
    (void)batch, (void)results;
    return -1;
}

#endif
#endif
