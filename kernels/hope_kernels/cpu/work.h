/* A step's work in phases, shared by some threads, none of which waits for another that has nothing to give.
 *
 * A phase is some items, which threads claim one by one; it is over when all are done. A thread that comes
 * late finds phases over and passes through them: one that the machine does not run keeps nobody waiting but
 * for the item that it has claimed.
 *
 * Items lie in as many stretches as there are threads. Each begins with one of its own, where it reads memory
 * from beginning to end, which is fetched ahead; then it helps with the others'.
 */
#ifndef HOPE_WORK_H
#define HOPE_WORK_H

#include <sched.h>
#include <stdatomic.h>

#include "vector.h"

#define PATIENCE 4000 /* looks before a thread lets others run */

#define STRETCHES 28 /* at most */

typedef struct {
    atomic_int next[STRETCHES]; /* of each stretch, how many items are claimed */
    atomic_long done;
    char apart[8]; /* no two phases on a line, nor on the one that is fetched with it */
} Phase;

/* Which of how many threads this one is, while they work together. */
typedef struct {
    int number, threads;
} Seat;

static _Thread_local Seat seat = {0, 1};

/* One thread's way through the phases; `phases` is null for a thread that is alone. */
typedef struct {
    Phase *phases;
    long place;
} Worker;

INLINE void breathe(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* do_item(context, 0 .. items - 1), each by one thread; returns when all are done. All threads call it in the
 * same order.
 */
static void share(Worker *w, void (*do_item)(const void *context, long item), const void *context, long items) {
    if (!w->phases) {
        for (long item = 0; item < items; item++) do_item(context, item);
        return;
    }
    Phase *phase = &w->phases[w->place++];
    const Seat own = seat;
    const long stretches = own.threads < STRETCHES ? own.threads : STRETCHES;
    for (long i = 0; i < stretches; i++) {
        const long stretch = (own.number + i) % stretches;
        const long first = items * stretch / stretches, end = items * (stretch + 1) / stretches;
        atomic_int *next = &phase->next[stretch];
        while (first + atomic_load_explicit(next, memory_order_relaxed) < end) {
            const long item = first + atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
            if (item >= end) break;
            do_item(context, item);
            atomic_fetch_add_explicit(&phase->done, 1, memory_order_release);
        }
    }
    for (long looks = 0; atomic_load_explicit(&phase->done, memory_order_acquire) < items; looks++) {
        if (looks < PATIENCE) breathe();
        else sched_yield();
    }
}

#endif
