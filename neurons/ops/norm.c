/* Batch norm's own passes over x [T, rows, channels]: statistics of each (t, c), and the gradient of x. */

#include <stdlib.h>



enum { BLOCK = 128 };

typedef struct {
    int64_t T, size, x_step, channels; /* x_step: elements from x[t] to x[t + 1] */
    int32_t dtype;
    const void *x, *g_y;            /* [T, size] */
    void *out;                      /* [T, size] */
    const float *scale, *A, *B;     /* [T, channels] */
} NormJob;

/* Elements of a block: whole rows. */
static int64_t block_length(const NormJob *job) {
    int64_t rows = BLOCK / job->channels;
    return (rows ? rows : 1) * job->channels;
}

/* sums: Σ (x − x₀) [T, channels], then Σ (x − x₀)²; x₀, the first row of each step, keeps the squares small. */
int norm_statistics(const NormJob *job, int64_t first, int64_t last, double *sums) {
    const int64_t T = job->T, C = job->channels, length = block_length(job);
    float *room = malloc((length + 3 * C) * sizeof(float));
    if (!room) return 1;
    float *x = room, *restrict origin = x + length, *restrict one = origin + C, *restrict two = one + C;
    for (int64_t t = 0; t < T; t++) {
        int64_t blocks = 0;
        load(origin, job->x, t * job->x_step, C, job->dtype, t * job->x_step);
        memset(one, 0, 2 * C * 4);
        for (int64_t at = first; at < last; at += length) {
            const int64_t n = last - at < length ? last - at : length;
            load(x, job->x, t * job->x_step + at, n, job->dtype, t * job->x_step + at + n);
            for (int64_t row = 0; row < n; row += C)
                for (int64_t i = 0; i < C; i++) {
                    float d = x[row + i] - origin[i];
                    one[i] += d, two[i] += d * d;
                }
            if (++blocks % 32 == 0 || at + length >= last) {
                for (int64_t i = 0; i < C; i++) sums[t * C + i] += one[i], sums[(T + t) * C + i] += two[i];
                memset(one, 0, 2 * C * 4);
            }
        }
    }
    free(room);
    return 0;
}

/* out = scale·g_y + A·x + B, */
int norm_combine(const NormJob *job, int64_t first, int64_t last) {
    const int64_t C = job->channels, length = block_length(job);
    float *room = malloc(2 * length * sizeof(float));
    if (!room) return 1;
    float *g = room, *x = g + length;
    for (int64_t t = 0; t < job->T; t++) {
        const float *a = job->scale + t * C, *A = job->A + t * C, *B = job->B + t * C;
        for (int64_t at = first; at < last; at += length) {
            const int64_t n = last - at < length ? last - at : length;
            const int64_t now = t * job->size + at, x_now = t * job->x_step + at;
            load(g, job->g_y, now, n, job->dtype, now + n);
            load(x, job->x, x_now, n, job->dtype, x_now + n);
            for (int64_t row = 0; row < n; row += C)
                for (int64_t i = 0; i < C; i++) g[row + i] = g[row + i] * a[i] + x[row + i] * A[i] + B[i];
            store(job->out, g, now, n, job->dtype, now + n);
        }
    }
    free(room);
    return 0;
}
