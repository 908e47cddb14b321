/* Attention, forward and backward, over packed tokens; see varlen_attention.py.
 *
 * One head of one row at a time, so that all it needs stays in a core's own cache. Of its weights nothing is kept for the
 * backward pass but their normalisers: they are computed again from these (Dao et al. 2022, FlashAttention), and masks of
 * dropout are drawn again from the same seed.
 */

#include <math.h>

#include "vectors.h"

#define LINE 64 /* bytes of a line of the cache */

/* [tokens][heads][width], the last contiguous */
typedef struct {
    char *data;
    int64_t token, head; /* numbers from one to the next */
} states;

typedef struct {
    int64_t rows, heads, width;
    const int64_t *cu_seqlens; /* of each row its first token, and one past the last row's last */
    float scale;
    uint32_t dropped; /* of 65536 weights */
    uint64_t seed;
    int32_t bf16; /* whether states and their gradients are bf16, not fp32; what is computed here is fp32 */
} shape;

typedef struct {
    const shape *of;
    states query, key, value, output;
    float *normaliser; /* [heads][tokens], the logarithms of sums */
    states to_output, to_query, to_key, to_value; /* gradients */
} task;

static int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

static int64_t tokens(const shape *s, int64_t row) { return s->cu_seqlens[row + 1] - s->cu_seqlens[row]; }

/* A head of a row's first token. */
static char *find(states of, const shape *s, int64_t row, int64_t head) {
    return of.data + (s->cu_seqlens[row] * of.token + head * of.head) * size_of(s->bf16);
}

/* to[padded][wide] = factor * a head of a row, with zeros beyond its n tokens and its width */
static void take(float *to, states from, const shape *s, int64_t row, int64_t head, int64_t padded, float factor) {
    int64_t n = tokens(s, row), width = s->width, wide = up(width, PAD), size = size_of(s->bf16);
    const char *at = find(from, s, row, head);
    for (int64_t i = 0; i < n; i++, at += from.token * size, to += wide) {
        const char *next = at + from.head * size; /* the next head's */
        for (int64_t byte = 0; byte < width * size; byte += LINE) __builtin_prefetch(next + byte, 0, 2);
        int64_t d = 0;
        for (; d + W <= width; d += W) *(vf *)(to + d) = load(at, s->bf16, d, width) * factor;
        if (d < width) *(vf *)(to + d) = load(at, s->bf16, d, width) * factor, d += W;
        for (; d < wide; d += W) *(vf *)(to + d) = all(0);
    }
    memset(to, 0, sizeof(float) * (size_t)((padded - n) * wide));
}

static void put(states to, const float *from, const shape *s, int64_t row, int64_t head, float factor) {
    int64_t n = tokens(s, row), width = s->width, wide = up(width, PAD), size = size_of(s->bf16);
    char *at = find(to, s, row, head);
    for (int64_t i = 0; i < n; i++, at += to.token * size, from += wide) {
        const char *next = at + to.head * size;
        for (int64_t byte = 0; byte < width * size; byte += LINE) __builtin_prefetch(next + byte, 1, 2);
        int64_t d = 0;
        for (; d + W <= width; d += W) store(at, *(const vf *)(from + d) * factor, s->bf16, d, width);
        if (d < width) store(at, *(const vf *)(from + d) * factor, s->bf16, d, width);
    }
}

/* to[wide][n] = from[n][wide], both multiples of 4; compilers turn blocks of this size in registers */
static void turn(float *restrict to, const float *restrict from, int64_t n, int64_t wide) {
    for (int64_t i = 0; i < n; i += 4)
        for (int64_t d = 0; d < wide; d += 4) {
            float block[4][4];
            for (int x = 0; x < 4; x++)
                for (int y = 0; y < 4; y++) block[x][y] = from[(i + x) * wide + d + y];
            for (int y = 0; y < 4; y++)
                for (int x = 0; x < 4; x++) to[(d + y) * n + i + x] = block[x][y];
        }
}

/* out[R][columns] = a[R][n] by b[n][columns]; rows of a are `stride` apart */
static inline void product(float *out, const float *a, int64_t stride, const float *b, int64_t n, int64_t columns) {
    int64_t j = 0;
    for (; j + 2 * W <= columns; j += 2 * W) {
        vf left[R] = {0}, right[R] = {0};
        for (int64_t x = 0; x < n; x++) {
            vf one = *(const vf *)(b + x * columns + j), two = *(const vf *)(b + x * columns + j + W);
            for (int i = 0; i < R; i++) left[i] += one * a[i * stride + x], right[i] += two * a[i * stride + x];
        }
        for (int i = 0; i < R; i++)
            *(vf *)(out + i * columns + j) = left[i], *(vf *)(out + i * columns + j + W) = right[i];
    }
    if (j < columns) {
        vf sum[R] = {0};
        for (int64_t x = 0; x < n; x++)
            for (int i = 0; i < R; i++) sum[i] += *(const vf *)(b + x * columns + j) * a[i * stride + x];
        for (int i = 0; i < R; i++) *(vf *)(out + i * columns + j) = sum[i];
    }
}

/* out[n][columns] += a[R][n] turned, by b[R][columns]; rows of a are `stride` apart */
static inline void spread(float *out, const float *a, int64_t stride, const float *b, int64_t n, int64_t columns) {
    int64_t j = 0;
    for (; j + 2 * W <= columns; j += 2 * W) {
        vf left[R], right[R];
        for (int i = 0; i < R; i++)
            left[i] = *(const vf *)(b + i * columns + j), right[i] = *(const vf *)(b + i * columns + j + W);
        for (int64_t x = 0; x < n; x++) {
            vf one = *(vf *)(out + x * columns + j), two = *(vf *)(out + x * columns + j + W);
            for (int i = 0; i < R; i++) one += left[i] * a[i * stride + x], two += right[i] * a[i * stride + x];
            *(vf *)(out + x * columns + j) = one, *(vf *)(out + x * columns + j + W) = two;
        }
    }
    for (; j < columns; j += W) {
        vf given[R];
        for (int i = 0; i < R; i++) given[i] = *(const vf *)(b + i * columns + j);
        for (int64_t x = 0; x < n; x++) {
            vf sum = *(vf *)(out + x * columns + j);
            for (int i = 0; i < R; i++) sum += given[i] * a[i * stride + x];
            *(vf *)(out + x * columns + j) = sum;
        }
    }
}

/* Room for matrices [padded tokens][wide], and for rows of weights. */
static float *room_for(const shape *s, int64_t matrices, int64_t rows, int64_t *size, int64_t *keys) {
    int64_t longest = 0;
    for (int64_t row = 0; row < s->rows; row++)
        if (tokens(s, row) > longest) longest = tokens(s, row);
    *keys = up(longest, PAD);
    *size = *keys * up(s->width, PAD);
    return aligned_alloc(64, sizeof(float) * (size_t)(matrices * *size + rows * *keys));
}

/* Heads of rows from `first` on, every `step`-th of them: those of a row together, as they share pages of memory. */
static int forward(const void *given, int64_t first, int64_t step) {
    const task *t = given;
    const shape *s = t->of;
    int64_t wide = up(s->width, PAD), size, most;
    float *q = room_for(s, 5, R, &size, &most);
    if (!q) return 1;
    float *k = q + size, *turned = k + size, *v = turned + size, *o = v + size, *weights = o + size;
    for (int64_t part = first; part < s->rows * s->heads; part += step) {
        int64_t row = part / s->heads, head = part % s->heads, n = tokens(s, row), keys = up(n, PAD);
        float *normaliser = t->normaliser + head * s->cu_seqlens[s->rows] + s->cu_seqlens[row], shift[R], sum[R];
        dropout drop = dropout_of(s->seed, part, s->dropped);
        take(q, t->query, s, row, head, keys, s->scale);
        take(k, t->key, s, row, head, keys, 1);
        take(v, t->value, s, row, head, n, 1);
        turn(turned, k, keys, wide);
        for (int64_t i = 0; i < n; i += R) {
            product(weights, q + i * wide, wide, turned, wide, keys);
            for (int64_t l = 0; l < R; l++) {
                float *at = weights + l * keys;
                for (int64_t j = n; j < keys; j++) at[j] = -INFINITY;
                vf largest = all(-INFINITY);
                for (int64_t j = 0; j < keys; j += W) {
                    vf score = *(vf *)(at + j);
                    largest = choose(score > largest, score, largest);
                }
                shift[l] = largest_of(largest);
            }
            for (int64_t l = 0; l < R; l++) {
                float *at = weights + l * keys;
                vf total = all(0);
                for (int64_t j = 0; j < keys; j += W) total += *(vf *)(at + j) = exp_of(*(vf *)(at + j) - shift[l]);
                sum[l] = sum_of(total);
            }
            for (int64_t j = 0; s->dropped && j < R * keys; j += W) *(vf *)(weights + j) *= mask(&drop, j / W);
            product(o + i * wide, weights, keys, v, n, wide);
            for (int64_t l = 0; l < R; l++) {
                for (int64_t d = 0; d < wide; d += W) *(vf *)(o + (i + l) * wide + d) *= 1 / sum[l];
                if (i + l < n) normaliser[i + l] = shift[l] + logf(sum[l]);
            }
        }
        put(t->output, o, s, row, head, 1);
    }
    free(q);
    return 0;
}

/* The same parts. */
static int backward(const void *given, int64_t first, int64_t step) {
    const task *t = given;
    const shape *s = t->of;
    int64_t wide = up(s->width, PAD), size, most;
    float *q = room_for(s, 10, 2 * R, &size, &most);
    if (!q) return 1;
    float *k = q + size, *k_turned = k + size, *v = k_turned + size, *v_turned = v + size, *o = v_turned + size;
    float *to_o = o + size, *to_q = to_o + size, *to_k = to_q + size, *to_v = to_k + size;
    float *weights = to_v + size, *slopes = weights + R * most;
    for (int64_t part = first; part < s->rows * s->heads; part += step) {
        int64_t row = part / s->heads, head = part % s->heads, n = tokens(s, row), keys = up(n, PAD);
        const float *normaliser = t->normaliser + head * s->cu_seqlens[s->rows] + s->cu_seqlens[row];
        dropout drop = dropout_of(s->seed, part, s->dropped);
        take(q, t->query, s, row, head, keys, s->scale);
        take(k, t->key, s, row, head, keys, 1);
        take(v, t->value, s, row, head, keys, 1);
        take(o, t->output, s, row, head, keys, 1);
        take(to_o, t->to_output, s, row, head, keys, 1);
        turn(k_turned, k, keys, wide);
        turn(v_turned, v, keys, wide);
        memset(to_k, 0, sizeof(float) * (size_t)(n * wide));
        memset(to_v, 0, sizeof(float) * (size_t)(n * wide));
        for (int64_t i = 0; i < n; i += R) {
            product(weights, q + i * wide, wide, k_turned, wide, keys);
            product(slopes, to_o + i * wide, wide, v_turned, wide, keys);
            for (int64_t l = 0; l < R; l++) {
                float *at = weights + l * keys, *slope = slopes + l * keys;
                float shift = i + l < n ? normaliser[i + l] : INFINITY; /* no such query: no weights */
                vf total = all(0);
                for (int64_t d = 0; d < wide; d += W)
                    total += *(vf *)(o + (i + l) * wide + d) * *(vf *)(to_o + (i + l) * wide + d);
                float mean = sum_of(total); /* of the slopes by the weights, as FlashAttention has it */
                for (int64_t j = 0; j < keys; j += W) {
                    vf weight = exp_of(*(vf *)(at + j) - shift), stays = mask(&drop, (l * keys + j) / W);
                    *(vf *)(slope + j) = weight * (*(vf *)(slope + j) * stays - mean);
                    *(vf *)(at + j) = weight * stays;
                }
            }
            product(to_q + i * wide, slopes, keys, k, n, wide);
            spread(to_k, slopes, keys, q + i * wide, n, wide);
            spread(to_v, weights, keys, to_o + i * wide, n, wide);
        }
        put(t->to_query, to_q, s, row, head, s->scale);
        put(t->to_key, to_k, s, row, head, 1);
        put(t->to_value, to_v, s, row, head, 1);
    }
    free(q);
    return 0;
}

int attend(const shape *of, states query, states key, states value, states output, float *normaliser, int64_t threads) {
    task t = {.of = of, .query = query, .key = key, .value = value, .output = output, .normaliser = normaliser};
    return in_threads(forward, &t, of->rows * of->heads, threads);
}

int attend_backward(const shape *of, states query, states key, states value, states output, float *normaliser,
                    states to_output, states to_query, states to_key, states to_value, int64_t threads) {
    task t = {.of = of, .query = query, .key = key, .value = value, .output = output, .normaliser = normaliser,
              .to_output = to_output, .to_query = to_query, .to_key = to_key, .to_value = to_value};
    return in_threads(backward, &t, of->rows * of->heads, threads);
}
