/* The neurons over a whole sequence on the CPU; equations and symbols are those of equations.py.

   A frame is `size` elements in memory order; with a norm they are [rows, channels]. A call works on elements
   [first, last) of every frame, block by block: a block's states stay in cache while time passes over it. */

#include <math.h>
#include <stdlib.h>

#include "elements.h"

enum { RECTANGLE, TRIANGLE, SIGMOID };
enum { BLOCK = 128 }; /* a backward block's states, T = 6, fit the first-level cache */

typedef struct {
    int64_t T, size, x_step, channels; /* x_step: elements from x[t] to x[t + 1]; channels: 0 without a norm */
    int32_t dtype, clif, hard, surrogate;
    float gamma, tau, theta, v_reset, alpha;
    const void *x, *g_s;                  /* [T, size] */
    void *out;                            /* [T, size]: spikes, g_x or g_y */
    const float *v, *m, *g_v_last, *g_m_last; /* [size], or NULL: afresh, no gradient */
    float *v_last, *m_last, *g_v, *g_m;   /* [size], or NULL: not wanted */
    const float *scale, *shift, *A, *B;   /* [T, channels]: the norm's */
} Job;

/* 1 / (1 + exp(−x)) in a form that compilers vectorise: exp(−x) = 2^n·2^f with n whole and |f| ≤ ½. The polynomial is
   2^f within 8e-8; the whole is within 1.2e-7 of σ, and within 7e-7 of it relative where |x| < 8. A NaN stays one. */
static inline float sigmoid(float x) {
    const float magic = 12582912.0f; /* 1.5·2^23: the sum of it and z is rounded to a whole number, n in its low bits */
    float z = x * -1.44269504f;
    z = 125.0f < z ? 125.0f : z; /* in this order a comparison and a choice are one instruction */
    z = -125.0f > z ? -125.0f : z;
    float shifted = z + magic, f = z - (shifted - magic);
    float p = (1.327646109e-3f * f + 9.675541721e-3f) * f + 5.550713311e-2f;
    p = ((p * f + 2.402211972e-1f) * f + 6.931469670e-1f) * f + 1.0f;
    uint32_t bits, n;
    memcpy(&bits, &p, 4);
    memcpy(&n, &shifted, 4);
    bits += n << 23; /* p·2^n */
    memcpy(&p, &bits, 4);
    return 1.0f / (1.0f + p);
}

/* Elements of a block: whole rows where there are channels. */
static int64_t block_length(const Job *job) {
    if (!job->channels) return BLOCK;
    int64_t rows = BLOCK / job->channels;
    return (rows ? rows : 1) * job->channels;
}

static int is_large(const Job *job) { return job->T * job->size * BYTES[job->dtype] >= LARGE; }

/* Input current of step t: x, or y = scale·x + shift of its channel. raw keeps x itself if wanted. */
static void current(const Job *job, int64_t t, int64_t at, int64_t n, float *restrict c, float *restrict raw) {
    load(c, job->x, t * job->x_step + at, n, job->dtype, soon(t, job->T, job->x_step, at, n));
    if (raw) memcpy(raw, c, n * 4);
    for (int64_t row = 0; job->channels && row < n; row += job->channels) {
        const float *a = job->scale + t * job->channels, *b = job->shift + t * job->channels;
        for (int64_t i = 0; i < job->channels; i++) c[row + i] = c[row + i] * a[i] + b[i];
    }
}

/* One step over a block: v and m move on to v_next and m_next. c becomes s (forward), or u, with p = σ(u/τ) and
   q = σ(m) of CLIF (backward); which of the two is a constant where this is called. */
static inline __attribute__((always_inline)) void charge_and_fire(
    const Job *job, int64_t n, int backward, float *restrict c, const float *v, const float *m, float *v_next,
    float *m_next, float *restrict p, float *restrict q) {
    const float gamma = job->gamma, theta = job->theta, rest = job->v_reset, per_tau = 1.0f / job->tau;
    if (job->clif) {
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
            float u = gamma * v[i] + c[i], s = u >= theta ? 1.0f : 0.0f;
            float pi = sigmoid(u * per_tau), mi = m[i] * pi + s, qi = sigmoid(mi);
            c[i] = backward ? u : s, m_next[i] = mi, v_next[i] = u - s * (theta + qi);
            if (backward) p[i] = pi, q[i] = qi;
        }
    } else if (job->hard) {
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
            float u = rest + gamma * (v[i] - rest) + c[i], s = u >= theta ? 1.0f : 0.0f;
            c[i] = backward ? u : s, v_next[i] = u >= theta ? rest : u;
        }
    } else {
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
            float u = gamma * v[i] + c[i], s = u >= theta ? 1.0f : 0.0f;
            c[i] = backward ? u : s, v_next[i] = u - theta * s;
        }
    }
}

/* H = ∂s/∂u at x = u − θ. */
static inline float derivative(float x, int32_t surrogate, float width) {
    const float high = 1.0f / width;
    if (surrogate == RECTANGLE) return fabsf(x) <= width / 2 ? high : 0.0f;
    if (surrogate == TRIANGLE) {
        float height = 1.0f - fabsf(x) * high;
        return height > 0.0f ? height * high : 0.0f;
    }
    float y = sigmoid(4.0f * high * x);
    return y * (1.0f - y) * 4.0f * high;
}

/* One step back over a block: g_s[t] becomes g_u[t]; g_v and g_m move from t to t − 1. m is m[t−1]. */
static inline void step_back(const Job *job, int64_t n, int32_t surrogate, float *restrict g, const float *restrict u,
                             const float *restrict m, const float *restrict p, const float *restrict q,
                             float *restrict g_v, float *restrict g_m) {
    const float gamma = job->gamma, theta = job->theta, rest = job->v_reset, width = job->alpha;
    const float per_tau = 1.0f / job->tau;
    if (job->clif) {
        for (int64_t i = 0; i < n; i++) {
            float s = u[i] >= theta ? 1.0f : 0.0f, h = derivative(u[i] - theta, surrogate, width);
            float gm = g_m[i] - g_v[i] * s * q[i] * (1.0f - q[i]);
            float gs = g[i] - g_v[i] * (theta + q[i]) + gm;
            float gu = g_v[i] + gs * h + gm * m[i] * p[i] * (1.0f - p[i]) * per_tau;
            g[i] = gu, g_v[i] = gamma * gu, g_m[i] = gm * p[i];
        }
    } else if (job->hard) {
        for (int64_t i = 0; i < n; i++) {
            float h = derivative(u[i] - theta, surrogate, width);
            float at = u[i] > 1e18f ? 1e18f : u[i]; /* where H is 0, and 0·∞ would be no number */
            float gu = (u[i] >= theta ? 0.0f : g_v[i]) + (g[i] + g_v[i] * (rest - at)) * h;
            g[i] = gu, g_v[i] = gamma * gu;
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            float gu = g_v[i] + (g[i] - theta * g_v[i]) * derivative(u[i] - theta, surrogate, width);
            g[i] = gu, g_v[i] = gamma * gu;
        }
    }
}

int fire_forward(const Job *job, int64_t first, int64_t last) {
    const int64_t length = block_length(job), large = is_large(job);
    float *room = malloc(3 * length * sizeof(float));
    if (!room) return 1;
    float *c = room, *v = c + length, *m = v + length;
    for (int64_t at = first; at < last; at += length) {
        const int64_t n = last - at < length ? last - at : length;
        fill(v, job->v, at, n, job->v_reset), fill(m, job->m, at, n, 0.0f);
        for (int64_t t = 0; t < job->T; t++) {
            current(job, t, at, n, c, NULL);
            charge_and_fire(job, n, 0, c, v, m, v, m, NULL, NULL);
            const int64_t next = large ? PAST_CACHE : soon(t, job->T, job->size, at, n);
            store(job->out, c, t * job->size + at, n, job->dtype, next);
        }
        keep(job->v_last, v, at, n), keep(job->m_last, m, at, n);
    }
    settle();
    free(room);
    return 0;
}

/* sums: Σ g_y [T, channels], then Σ g_y·x [T, channels]; g_gamma: Σ g_u·(v[t−1] − v_rest); NULL: not wanted. */
int fire_backward(const Job *job, int64_t first, int64_t last, double *sums, double *g_gamma) {
    const int64_t T = job->T, C = job->channels, length = block_length(job), large = is_large(job);
    float *room = malloc(((6 * T + 5) * length + 2 * T * C) * sizeof(float));
    if (!room) return 1;
    /* of each step: u, x, p, q, and v and m before it (so T + 1 of these) */
    float *us = room, *xs = us + T * length, *ps = xs + T * length, *qs = ps + T * length, *vs = qs + T * length;
    float *ms = vs + (T + 1) * length, *g_v = ms + (T + 1) * length, *g_m = g_v + length, *g = g_m + length;
    float *parts = g + length; /* sums of a few blocks in float32: they go on in double */
    memset(parts, 0, 2 * T * C * 4);
    const int64_t v_step = g_gamma ? length : 0; /* only γ's gradient asks for v again */
    int64_t blocks = 0;
    for (int64_t at = first; at < last; at += length) {
        const int64_t n = last - at < length ? last - at : length;
        fill(vs, job->v, at, n, job->v_reset), fill(ms, job->m, at, n, 0.0f);
        for (int64_t t = 0; t < T; t++) {
            const int64_t here = t * length, next = here + length;
            current(job, t, at, n, us + here, C ? xs + here : NULL);
            float *v = vs + t * v_step;
            charge_and_fire(job, n, 1, us + here, v, ms + here, v + v_step, ms + next, ps + here, qs + here);
        }
        fill(g_v, job->g_v_last, at, n, 0.0f), fill(g_m, job->g_m_last, at, n, 0.0f);
        for (int64_t t = T - 1; t >= 0; t--) {
            const int64_t here = t * length;
            const int64_t now = t * job->size + at, later = soon(T - 1 - t, T, -job->size, (T - 1) * job->size + at, n);
            load(g, job->g_s, now, n, job->dtype, later);
            if (job->surrogate == RECTANGLE) /* each its own loop, with the surrogate a constant in it */
                step_back(job, n, RECTANGLE, g, us + here, ms + here, ps + here, qs + here, g_v, g_m);
            else if (job->surrogate == TRIANGLE)
                step_back(job, n, TRIANGLE, g, us + here, ms + here, ps + here, qs + here, g_v, g_m);
            else
                step_back(job, n, SIGMOID, g, us + here, ms + here, ps + here, qs + here, g_v, g_m);
            store(job->out, g, now, n, job->dtype, large ? PAST_CACHE : later);
            if (g_gamma) {
                float sum = 0.0f;
                for (int64_t i = 0; i < n; i++) sum += g[i] * (vs[here + i] - job->v_reset);
                *g_gamma += sum;
            }
            float *restrict part = parts + t * C, *restrict part_x = parts + (T + t) * C;
            for (int64_t row = 0; sums && row < n; row += C)
                for (int64_t i = 0; i < C; i++)
                    part[i] += g[row + i], part_x[i] += g[row + i] * xs[here + row + i];
        }
        if (sums && (++blocks % 32 == 0 || at + length >= last)) {
            for (int64_t i = 0; i < 2 * T * C; i++) sums[i] += parts[i];
            memset(parts, 0, 2 * T * C * 4);
        }
        keep(job->g_v, g_v, at, n), keep(job->g_m, g_m, at, n);
    }
    settle();
    free(room);
    return 0;
}

/* sums: Σ (x − x₀) [T, channels], then Σ (x − x₀)²; x₀, the first row of each step, keeps the squares small. */
int norm_statistics(const Job *job, int64_t first, int64_t last, double *sums) {
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

/* out = scale·g_y + A·x + B, g_y in g_s. */
int norm_combine(const Job *job, int64_t first, int64_t last) {
    const int64_t C = job->channels, length = block_length(job);
    float *room = malloc(2 * length * sizeof(float));
    if (!room) return 1;
    float *g = room, *x = g + length;
    for (int64_t t = 0; t < job->T; t++) {
        const float *a = job->scale + t * C, *A = job->A + t * C, *B = job->B + t * C;
        for (int64_t at = first; at < last; at += length) {
            const int64_t n = last - at < length ? last - at : length;
            const int64_t now = t * job->size + at, x_now = t * job->x_step + at;
            load(g, job->g_s, now, n, job->dtype, now + n);
            load(x, job->x, x_now, n, job->dtype, x_now + n);
            for (int64_t row = 0; row < n; row += C)
                for (int64_t i = 0; i < C; i++) g[row + i] = g[row + i] * a[i] + x[row + i] * A[i] + B[i];
            store(job->out, g, now, n, job->dtype, now + n);
        }
    }
    free(room);
    return 0;
}
