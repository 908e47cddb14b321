/* Dropout of any numbers; see dropout.py. */

#include "vectors.h"

#define PART 32768 /* numbers, a multiple of a vector's */

typedef struct {
    const void *in;
    void *out;
    int bf16;
    int64_t n;
    uint32_t dropped;
    uint64_t seed;
} task;

static int64_t end_of(int64_t part, int64_t n) { return (part + 1) * PART < n ? (part + 1) * PART : n; }

static int drop_parts(const void *given, int64_t first, int64_t step) {
    const task t = *(const task *)given;
    for (int64_t part = first; part * PART < t.n; part += step) {
        dropout drop = dropout_of(t.seed, part, t.dropped);
        int64_t i = part * PART, end = end_of(part, t.n), number = 0;
        for (; i + W <= end; i += W)
            store(t.out, load(t.in, t.bf16, i, end) * mask(&drop, number++), t.bf16, i, end);
        if (i < end) store(t.out, load(t.in, t.bf16, i, end) * mask(&drop, number), t.bf16, i, end);
    }
    return 0;
}

/* out = in, both bf16 or fp32, with zeros for what is dropped. */
int drop(const void *in, void *out, int bf16, int64_t n, uint32_t dropped, uint64_t seed, int64_t threads) {
    task t = {.in = in, .out = out, .bf16 = bf16, .n = n, .dropped = dropped, .seed = seed};
    return in_threads(drop_parts, &t, (n + PART - 1) / PART, threads);
}
