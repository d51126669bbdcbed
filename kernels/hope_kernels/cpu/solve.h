/* Logistic regression over margins in its dual, by Newton's method in fp64: hope_model/attention/margins.py in its order. */
#ifndef HOPE_SOLVE_H
#define HOPE_SOLVE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "vector.h"

typedef struct {
    const double *gram, *margins, *weights; /* [n, n], [n], [n] */
    double *pull;                           /* [n] */
    double *scratch;                        /* [n + 4, n] */
    int64_t count, steps, halvings;
    double converged;
} Solving;

static void times_gram(const Solving *s, const double *x, double *y) {
    const long n = s->count;
    for (long i = 0; i < n; i++) {
        y[i] = 0;
        for (long j = 0; j < n; j++) y[i] += s->gram[i * n + j] * x[j];
    }
}

/* log(1 + exp(x)) */
INLINE double soft_plus(double x) { return x > 20 ? x : log1p(exp(x)); }

static double cost_of(const Solving *s, const double *pull, double *moved) {
    double cost = 0, length = 0;
    times_gram(s, pull, moved);
    for (long i = 0; i < s->count; i++) {
        cost += s->weights[i] * soft_plus(-(s->margins[i] + moved[i]));
        length += pull[i] * moved[i];
    }
    return cost + length / 2;
}

/* x = A^-1 x, by elimination with the greatest of a column first; A is lost. Not finite where there is no inverse. */
static void eliminate(double *a, double *x, long n) {
    for (long k = 0; k < n; k++) {
        long most = k;
        for (long i = k + 1; i < n; i++)
            if (fabs(a[i * n + k]) > fabs(a[most * n + k])) most = i;
        for (long j = k; most != k && j < n; j++) {
            const double other = a[most * n + j];
            a[most * n + j] = a[k * n + j], a[k * n + j] = other;
        }
        const double held = x[most];
        x[most] = x[k], x[k] = held;
        for (long i = k + 1; i < n; i++) {
            const double factor = a[i * n + k] / a[k * n + k];
            for (long j = k + 1; j < n; j++) a[i * n + j] -= factor * a[k * n + j];
            x[i] -= factor * x[k];
        }
    }
    for (long k = n - 1; k >= 0; k--) {
        for (long j = k + 1; j < n; j++) x[k] -= a[k * n + j] * x[j];
        x[k] /= a[k * n + k];
    }
}

/* step: Newton's, with K divided out: it is a factor of the gradient and of the Hessian. */
static void newton_step(const Solving *s, const double *moved, double *matrix, double *step) {
    const long n = s->count;
    for (long i = 0; i < n; i++) {
        const double unknown = 1 / (1 + exp(s->margins[i] + moved[i])), curvature = s->weights[i] * unknown * (1 - unknown);
        step[i] = s->weights[i] * unknown - s->pull[i];
        for (long j = 0; j < n; j++) matrix[i * n + j] = (i == j) + curvature * s->gram[i * n + j];
    }
    eliminate(matrix, step, n);
}

EXPORT void hope_solve(const Solving *s) {
    const long n = s->count;
    double *step = s->scratch, *tried = step + n, *moved = tried + n, *found_moved = moved + n, *matrix = found_moved + n;
    memset(s->pull, 0, (size_t)n * sizeof *s->pull);
    double best = cost_of(s, s->pull, moved);
    for (long count = 0; count < s->steps; count++) {
        newton_step(s, moved, matrix, step);
        const double before = best;
        double share = 1;
        for (long halving = 0; halving < s->halvings; halving++, share /= 2) {
            for (long i = 0; i < n; i++) tried[i] = s->pull[i] + step[i] * share;
            const double found = cost_of(s, tried, found_moved);
            if (!(found <= best)) continue;
            memcpy(s->pull, tried, (size_t)n * sizeof *tried);
            memcpy(moved, found_moved, (size_t)n * sizeof *moved);
            best = found;
            break;
        }
        if (!(best < before - s->converged * fabs(before))) break;
    }
}

#endif
