/* Threads that sleep between steps. Whoever steps does not wait for one that has not woken: what it does not
 * find there, it does itself.
 */
#ifndef HOPE_POOL_H
#define HOPE_POOL_H

#include <pthread.h>
#include <unistd.h>

#include "work.h"

#define MOST_THREADS 256
#define STACK_BYTES (4 << 20) /* room for the widest of what items keep there, whatever the user's limit is */

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t wake, left;
    void (*body)(void *);
    void *data;
    long call;                       /* counts up */
    int open, wanted, inside, alive; /* may enter; how many; are within; exist */
    int busy;                        /* one caller at a time, others go alone */
    pid_t process;                   /* a forked child has none of the threads */
} Pool;

static Pool pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .left = PTHREAD_COND_INITIALIZER};

static void *help(void *nothing) {
    long seen = 0;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (!pool.open || pool.call == seen || pool.inside >= pool.wanted) pthread_cond_wait(&pool.wake, &pool.lock);
        seen = pool.call;
        seat = (Seat){++pool.inside, pool.wanted + 1};
        pthread_mutex_unlock(&pool.lock);
        pool.body(pool.data);
        pthread_mutex_lock(&pool.lock);
        if (!--pool.inside) pthread_cond_signal(&pool.left);
    }
    return nothing;
}

/* With the lock held: as many threads as there can be, up to `wanted`. */
static void hire(int wanted) {
    if (pool.process != getpid()) {
        pool.process = getpid();
        pool.alive = pool.inside = 0;
        pthread_cond_init(&pool.wake, 0);
        pthread_cond_init(&pool.left, 0);
    }
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes)) return;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    for (pthread_t thread; pool.alive < wanted; pool.alive++) {
        if (pthread_create(&thread, &attributes, help, 0)) break;
        pthread_detach(thread);
    }
    pthread_attr_destroy(&attributes);
}

/* body(data) by the caller and by up to threads - 1 others; returns when none is within it. */
static void together(void (*body)(void *), void *data, int threads) {
    const int wanted = (threads < MOST_THREADS ? threads : MOST_THREADS) - 1;
    pthread_mutex_lock(&pool.lock);
    const int mine = wanted > 0 && !pool.busy;
    if (mine) {
        hire(wanted);
        pool.body = body, pool.data = data, pool.wanted = wanted;
        pool.busy = pool.open = 1;
        pool.call++;
        pthread_cond_broadcast(&pool.wake);
    }
    pthread_mutex_unlock(&pool.lock);
    seat = (Seat){0, mine ? wanted + 1 : 1};
    body(data);
    if (!mine) return;
    pthread_mutex_lock(&pool.lock);
    pool.open = 0;
    while (pool.inside) pthread_cond_wait(&pool.left, &pool.lock);
    pool.busy = 0;
    pthread_mutex_unlock(&pool.lock);
}

#endif
