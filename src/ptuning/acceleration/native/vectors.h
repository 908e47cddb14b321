/* What the files here share: vectors, numbers in memory, exp, masks of dropout, threads. The vectors are those of GCC and
 * Clang, which fit them to the processor.
 */

#ifndef PTUNING_VECTORS_H
#define PTUNING_VECTORS_H

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Floats of a vector, and queries at once: what the processor's registers hold. */
#if defined(__AVX512F__)
#define W 16
#define R 8
#elif defined(__AVX__)
#define W 8
#define R 4
#else
#define W 4
#define R 8
#endif
#define PAD 16 /* a multiple of both */

typedef float vf __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));
typedef vf unaligned __attribute__((aligned(4)));
typedef vh unaligned_h __attribute__((aligned(2)));

static inline vf all(float x) { return (vf){0} + x; }

static inline vf choose(vi where, vf x, vf y) { return (vf)(((vi)x & where) | ((vi)y & ~where)); }

/* Numbers in memory are fp32, or bf16: the upper halves of fp32, rounded to the nearest, or the even one of two. */
static inline int64_t size_of(int bf16) { return bf16 ? 2 : 4; }

static inline vf to_fp32(vh x) { return (vf)(__builtin_convertvector(x, vu) << 16); }

static inline vh to_bf16(vf x) {
    vu whole = (vu)x;
    return __builtin_convertvector((whole + 0x7fffu + (whole >> 16 & 1u)) >> 16, vh);
}

/* Load and store the vector at `i` of n numbers, or what there is of it. */
static inline vf load(const void *from, int bf16, int64_t i, int64_t n) {
    const char *at = (const char *)from + i * size_of(bf16);
    vh half = {0};
    vf whole = {0};
    if (i + W <= n) return bf16 ? to_fp32(*(const unaligned_h *)at) : *(const unaligned *)at;
    memcpy(bf16 ? (void *)&half : (void *)&whole, at, (size_t)((n - i) * size_of(bf16)));
    return bf16 ? to_fp32(half) : whole;
}

static inline void store(void *to, vf x, int bf16, int64_t i, int64_t n) {
    char *at = (char *)to + i * size_of(bf16);
    vh half = to_bf16(x);
    if (i + W > n)
        memcpy(at, bf16 ? (void *)&half : (void *)&x, (size_t)((n - i) * size_of(bf16)));
    else if (bf16)
        *(unaligned_h *)at = half;
    else
        *(unaligned *)at = x;
}

/* exp(x) for x <= 0 to within 2 units in the last place, by the polynomial of Cephes' expf; below -87 that of -87. */
static inline vf exp_of(vf x) {
    x = choose(x < all(-87.f), all(-87.f), x);
    vf shifted = x * 1.44269504f + 12582912.f; /* + 1.5 * 2^23: rounds, and leaves the whole number in the last bits */
    vf n = shifted - 12582912.f;
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    return p * (vf)(((vi)shifted << 23) + (127 << 23));
}

/* By four at once, as compilers take single floats out of a vector one after the other. */
typedef float four __attribute__((vector_size(16)));
typedef int32_t four_i __attribute__((vector_size(16)));
typedef union {
    vf all;
    four by[W / 4];
} fours;

static inline float sum_of(vf x) {
    fours of = {x};
    four sums = of.by[0];
    for (int i = 1; i < W / 4; i++) sums += of.by[i];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

static inline float larger_of(float x, float y) { return x > y ? x : y; }

static inline float largest_of(vf x) {
    fours of = {x};
    four most = of.by[0];
    for (int i = 1; i < W / 4; i++) {
        four_i where = of.by[i] > most;
        most = (four)(((four_i)of.by[i] & where) | ((four_i)most & ~where));
    }
    return larger_of(larger_of(most[0], most[1]), larger_of(most[2], most[3]));
}

/* Chris Doty-Humphrey's SFC32, one in each lane. Lanes are as many on every processor, so that masks are the same. */
#define LANES 8
#if W == 16
#define TIMES 2 /* each lane twice, so that a vector's upper half need not be put together with its lower one */
#else
#define TIMES 1
#endif
typedef uint32_t lanes __attribute__((vector_size(4 * LANES * TIMES)));

typedef struct {
    lanes a, b, c, counter, word;
    uint32_t dropped;
    float kept;
} dropout;

static inline lanes next_word(dropout *drop) {
    lanes word = drop->a + drop->b + drop->counter;
    drop->counter += 1;
    drop->a = drop->b ^ (drop->b >> 9);
    drop->b = drop->c + (drop->c << 3);
    drop->c = ((drop->c << 21) | (drop->c >> 11)) + word;
    return word;
}

static inline uint64_t splitmix(uint64_t *state) { /* Steele, Lea & Flood 2014 */
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* The masks of part `number` of what has this seed, whichever thread computes it. */
static inline dropout dropout_of(uint64_t seed, int64_t number, uint32_t dropped) {
    dropout drop = {.dropped = dropped, .kept = 65536.f / (65536.f - (float)dropped)};
    uint64_t place = (uint64_t)number, state = seed ^ splitmix(&place);
    for (int i = 0; i < LANES; i++) {
        uint64_t one = splitmix(&state), two = splitmix(&state);
        for (int j = i; j < LANES * TIMES; j += LANES) {
            drop.a[j] = (uint32_t)one, drop.b[j] = (uint32_t)(one >> 32);
            drop.c[j] = (uint32_t)two, drop.counter[j] = (uint32_t)(two >> 32);
        }
    }
    for (int i = 0; i < 12; i++) next_word(&drop);
    return drop;
}

/* 16 bits for each number of a vector: the lower halves of a word's lanes, then the upper ones. masks.py draws the same. */
static inline vu bits(dropout *drop, int64_t number) {
#if W == 16
    const vu halves = {0, 0, 0, 0, 0, 0, 0, 0, 16, 16, 16, 16, 16, 16, 16, 16};
    (void)number;
    return next_word(drop) >> halves & 0xffffu;
#elif W == 8
    drop->word = number % 2 ? drop->word >> 16 : next_word(drop);
    return drop->word & 0xffffu;
#else
    union {
        lanes all;
        vu parts[LANES / W];
    } words;
    int64_t part = number % (2 * LANES / W);
    if (!part) drop->word = next_word(drop);
    words.all = part < LANES / W ? drop->word & 0xffffu : drop->word >> 16;
    return words.parts[part % (LANES / W)];
#endif
}

/* The masks of one vector: 0 for what is dropped, else what keeps the mean. */
static inline vf mask(dropout *drop, int64_t number) {
    if (!drop->dropped) return all(1.f);
    return choose((vi)bits(drop, number) >= (vi){0} + (int32_t)drop->dropped, all(drop->kept), all(0.f));
}

/* Does every `step`-th part of a task from `first` on; returns 0, or 1 where there is no memory. */
typedef int (*portion)(const void *task, int64_t first, int64_t step);

typedef struct {
    portion work;
    const void *task;
    int64_t first, step;
    pthread_t thread;
    int started, failed;
} share;

static void *do_share(void *given) {
    share *mine = given;
    mine->failed = mine->work(mine->task, mine->first, mine->step);
    return NULL;
}

/* Return 0, or 1 where there is no memory. What no thread can be started for is done here. */
static int in_threads(portion work, const void *task, int64_t parts, int64_t threads) {
    int failed = 0;
    if (threads > parts) threads = parts;
    if (threads < 2) return work(task, 0, 1);
    share *shares = calloc((size_t)threads, sizeof(share));
    if (!shares) return 1;
    for (int64_t i = 0; i < threads; i++) {
        shares[i] = (share){.work = work, .task = task, .first = i, .step = threads};
        if (i) shares[i].started = !pthread_create(&shares[i].thread, NULL, do_share, &shares[i]);
    }
    for (int64_t i = 0; i < threads; i++) {
        if (shares[i].started)
            pthread_join(shares[i].thread, NULL);
        else
            do_share(&shares[i]);
        failed |= shares[i].failed;
    }
    free(shares);
    return failed;
}

#endif
