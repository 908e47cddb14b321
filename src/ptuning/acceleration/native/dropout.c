/* Dropout of any numbers; see dropout.py. */

#include <string.h>

#include "vectors.h"

#define PART 32768 /* numbers, a multiple of a vector's */

typedef struct {
    const float *in;
    float *out;
    int64_t n;
    uint32_t dropped;
    uint64_t seed;
} task;

/* Load and store the vector at `i`, or what there is of it. */
static inline vf load(const float *from, int64_t i, int64_t n) {
    vf x = {0};
    if (i + W <= n) return *(const unaligned *)(from + i);
    memcpy(&x, from + i, sizeof(float) * (size_t)(n - i));
    return x;
}

static inline void store(float *to, vf x, int64_t i, int64_t n) {
    if (i + W <= n)
        *(unaligned *)(to + i) = x;
    else
        memcpy(to + i, &x, sizeof(float) * (size_t)(n - i));
}

static int64_t end_of(int64_t part, int64_t n) { return (part + 1) * PART < n ? (part + 1) * PART : n; }

static int drop_parts(const void *given, int64_t first, int64_t step) {
    const task *t = given;
    for (int64_t part = first; part * PART < t->n; part += step) {
        dropout drop = dropout_of(t->seed, part, t->dropped);
        for (int64_t i = part * PART, number = 0; i < end_of(part, t->n); i += W, number++)
            store(t->out, load(t->in, i, t->n) * mask(&drop, number), i, t->n);
    }
    return 0;
}

/* out = in, with zeros for what is dropped. */
int drop(const float *in, float *out, int64_t n, uint32_t dropped, uint64_t seed, int64_t threads) {
    task t = {.in = in, .out = out, .n = n, .dropped = dropped, .seed = seed};
    return in_threads(drop_parts, &t, (n + PART - 1) / PART, threads);
}
