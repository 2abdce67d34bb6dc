/* Batch norm's own passes over x [T, rows, channels]: statistics of each (t, c), the gradient of x, and the few numbers
   that come out of each. The pass behind is the neuron's: y = scale·x + shift is charged as it is read. */

#include <math.h>
#include <stdlib.h>

enum { BLOCK = 128 };

typedef struct {
    int64_t T, size, x_step, channels; /* x_step: elements from x[t] to x[t + 1] */
    int64_t width, terms, shares;      /* columns of scale, shift and of the gradients' sums; T, or 1 if merged; threads */
    int32_t dtype;
    float eps;
    const void *x, *g_y;               /* [T, size] */
    void *out;                         /* [T, size] */
    const double *sums;                /* [shares, 2, T, channels], on the way back [shares, 2, T, width] */
    const float *weight, *bias;        /* [channels] */
    float *mean, *var;                 /* [terms, channels]; the biased variance */
    float *scale, *shift;              /* [T, width], a row of channels as often as it fits */
    float *A, *B;                      /* [T, channels] */
    float *g_weight, *g_bias;          /* [channels] */
} NormJob;

/* Elements of a block: whole rows. */
static int64_t block_length(const NormJob *job) {
    int64_t rows = BLOCK / job->channels;
    return (rows ? rows : 1) * job->channels;
}

/* sums: Σ (x − x₀) [T, channels], then Σ (x − x₀)²; x₀, the first row of each step, keeps the squares small. */
int norm_statistics(const NormJob *job, const Share *share) {
    const int64_t T = job->T, C = job->channels, length = block_length(job), first = share->first, last = share->last;
    double *sums = share->sums;
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

/* scale and shift of every step, from mean and var. */
void norm_scale(const NormJob *job) {
    const int64_t C = job->channels, steps = job->T / job->terms;
    for (int64_t t = 0; t < job->T; t++)
        for (int64_t i = 0; i < job->width; i++) {
            const int64_t c = i % C, at = t / steps * C + c;
            const float scale = job->weight[c] * (1.0f / sqrtf(job->var[at] + job->eps));
            job->scale[t * job->width + i] = scale;
            job->shift[t * job->width + i] = job->bias[c] - job->mean[at] * scale;
        }
}

/* mean, var, scale and shift, from the sums of norm_statistics. */
int norm_moments(const NormJob *job) {
    const int64_t T = job->T, C = job->channels, steps = T / job->terms;
    const double n = (double)(job->size / C);
    double *means = malloc(2 * T * C * sizeof(double)), *vars = means + T * C; /* of each (t, c) */
    float *origin = malloc(C * sizeof(float));
    if (!means || !origin) return free(means), free(origin), 1;
    for (int64_t t = 0; t < T; t++) {
        load(origin, job->x, t * job->x_step, C, job->dtype, t * job->x_step);
        for (int64_t c = 0; c < C; c++) {
            double one = 0, two = 0;
            for (int64_t share = 0; share < job->shares; share++) {
                const double *sums = job->sums + (2 * share * T + t) * C + c;
                one += sums[0], two += sums[T * C];
            }
            means[t * C + c] = one / n + origin[c];
            vars[t * C + c] = fmax(two / n - one / n * (one / n), 0);
        }
    }
    for (int64_t at = 0; at < job->terms * C; at++) {
        const int64_t first = at / C * steps * C + at % C;
        double mean = 0, var = 0;
        for (int64_t k = 0; k < steps; k++) mean += means[first + k * C] / steps;
        for (int64_t k = 0; k < steps; k++) {
            const double off = means[first + k * C] - mean;
            var += (vars[first + k * C] + off * off) / steps;
        }
        job->mean[at] = (float)mean, job->var[at] = (float)var;
    }
    free(means), free(origin);
    norm_scale(job);
    return 0;
}

/* A, B and the gradients of weight and bias, from Σ g_y and Σ g_y·x of the neuron's way back. */
void norm_gradients(const NormJob *job) {
    const int64_t T = job->T, C = job->channels, W = job->width, steps = T / job->terms;
    const double n = (double)(job->size / C * steps);
    for (int64_t c = 0; c < C; c++) {
        double g_weight = 0, g_bias = 0;
        for (int64_t term = 0; term < job->terms; term++) {
            double g = 0, g_x = 0;
            for (int64_t t = term * steps; t < (term + 1) * steps; t++)
                for (int64_t share = 0; share < job->shares; share++) {
                    const double *sums = job->sums + (2 * share * T + t) * W;
                    for (int64_t i = c; i < W; i += C) g += sums[i], g_x += sums[T * W + i];
                }
            const double mean = job->mean[term * C + c], rstd = 1 / sqrt((double)job->var[term * C + c] + job->eps);
            const double scale = job->weight[c] * rstd, g_xhat = (g_x - mean * g) * rstd;
            const double A = -scale * rstd * g_xhat / n, B = -scale * g / n - A * mean;
            for (int64_t t = term * steps; t < (term + 1) * steps; t++)
                job->A[t * C + c] = (float)A, job->B[t * C + c] = (float)B;
            g_weight += g_xhat, g_bias += g;
        }
        job->g_weight[c] = (float)g_weight, job->g_bias[c] = (float)g_bias;
    }
}

/* out = scale·g_y + A·x + B, the gradient of x. */
int norm_combine(const NormJob *job, const Share *share) {
    const int64_t C = job->channels, length = block_length(job), first = share->first, last = share->last;
    float *room = malloc(2 * length * sizeof(float));
    if (!room) return 1;
    float *g = room, *x = g + length;
    for (int64_t t = 0; t < job->T; t++) {
        const float *a = job->scale + t * job->width, *A = job->A + t * C, *B = job->B + t * C;
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
