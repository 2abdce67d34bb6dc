#include <stdlib.h>

/* A neuron over a whole sequence on the CPU: what goes around its step, forward and back.

   The text before this one says what a step is: STATES, LEARNED, SAVED, START and, on a block of elements, step(),
   step_saving() and step_back(). A frame is `size` elements in memory order; with channels they are [rows, channels]. A
   call works on its share of every frame's elements, block by block: a block's states stay in the first-level cache
   while time passes over it. The way back runs the states forward again from x, keeps what the derivation chose, then
   walks back.

   Tables (the norm's scale and shift, learned parameters) and sums have `width` columns: a block's elements, or all
   channels where a block is a part of them. */

/* Where a block begins in a table, and how many elements it has. */
static inline int64_t column_of(const Job *job, int64_t at) { return job->channels > BLOCK ? at % job->channels : 0; }

static inline int64_t length_of(const Job *job, int64_t at, int64_t last) {
    int64_t n = BLOCK;
    if (job->channels > BLOCK) n = job->channels - at % job->channels < BLOCK ? job->channels - at % job->channels : BLOCK;
    else if (job->channels) n = job->width;
    return last - at < n ? last - at : n;
}

static const char *place(const void *array, int64_t at) { return array ? (const char *)array + at * BYTES[DTYPE] : NULL; }

/* Whether an output is larger than any cache, and this block of it can be written past them in whole registers. */
static inline int past_cache(const Job *job, const char *to, int64_t n) {
    const int whole = (uintptr_t)to % (16 * BYTES[DTYPE]) == 0 && n % 16 == 0;
    return job->T * job->size * BYTES[DTYPE] >= LARGE && (whole || !TENSORS);
}

/* x or g as a step reads it: where it lies, or in a buffer. */
static inline const void *read_block(float *buffer, const void *array, int64_t at, int64_t n, int64_t next) {
    if (!TENSORS) return load(buffer, array, at, n, DTYPE, next), buffer;
    fetch(array, next, n, DTYPE);
    return place(array, at);
}

/* A NaN potential does not fire, and nothing above would know of it: a sequence that ends with a potential that is not
   finite ends with a spike that is NaN. */
static void show_not_finite(const Job *job, const float *state, int64_t at, int64_t n) {
    const float nan = NAN;
    unsigned found = 0; /* among lanes that are not live, too */
    for (int k = 0; k < STATES; k++)
        for (int64_t i = 0; i < n; i += LANES) found |= NOT_FINITE(LOAD(state + k * BLOCK + i));
    if (!found) return;
    for (int k = 0; k < STATES; k++) {
        for (int64_t i = 0; i < n; i++) {
            const int64_t spike = (job->T - 1) * job->size + at + i;
            if (!isfinite(state[k * BLOCK + i])) store(job->out, &nan, spike, 1, DTYPE, spike);
        }
    }
}

int fire_forward(const Job *job, const Share *share) {
    const int64_t T = job->T, size = job->size, first = share->first, last = share->last;
    float x[BLOCK], s[BLOCK], state[(STATES + 1) * BLOCK] = {0};
    for (int64_t at = first, n; at < last; at += n) {
        n = length_of(job, at, last);
        const int64_t column = column_of(job, at);
        for (int k = 0; k < STATES; k++) fill(state + k * BLOCK, job->state[k], at, n, START[k]);
        for (int64_t t = 0; t < T; t++) {
            const int64_t now = t * size + at, next = soon(t, T, size, at, n);
            char *to = (char *)place(job->out, now);
            const int past = past_cache(job, to, n);
            const void *from = read_block(x, job->x, t * job->x_step + at, n, soon(t, T, job->x_step, at, n));
            if (TENSORS && !past) fetch(job->out, next, n, DTYPE);
            if (job->scale) step(job, t, column, n, 1, from, state, TENSORS ? (void *)to : s, past);
            else step(job, t, column, n, 0, from, state, TENSORS ? (void *)to : s, past);
            if (!TENSORS) store(job->out, s, now, n, DTYPE, past ? PAST_CACHE : next);
        }
        show_not_finite(job, state, at, n);
        for (int k = 0; k < STATES; k++) keep(job->last[k], state + k * BLOCK, at, n);
    }
    settle();
    return 0;
}

/* Add sums of a few blocks in float32 to those in double. */
static void flush(double *sums, float *parts, int64_t count) {
    for (int64_t i = 0; i < count; i++) sums[i] += parts[i];
    memset(parts, 0, count * sizeof(float));
}

/* out: gradient of the current. The share's sums: Σ g_c, then Σ g_c·x, [T, width] each, for a norm; and more of them:
   [LEARNED, table_steps, width]. Both are added to, and NULL where there are none. */
int fire_backward(const Job *job, const Share *share) {
    const int64_t T = job->T, size = job->size, W = job->width, first = share->first, last = share->last;
    double *norm_sums = share->sums, *learned_sums = share->more;
    const int64_t of_norm = norm_sums ? 2 * T * W : 0, of_learned = LEARNED * job->table_steps * W;
    const int64_t of_x = TENSORS ? 0 : norm_sums ? T * BLOCK : BLOCK;
    float *room = calloc(T * SAVED * BLOCK + of_x + of_norm + of_learned + 1, sizeof(float));
    if (!room) return 1;
    float *saved = room, *xs = saved + T * SAVED * BLOCK, *norm_part = xs + of_x, *learned_part = norm_part + of_norm;
    float g[BLOCK], g_c[BLOCK], state[(STATES + 1) * BLOCK] = {0}, g_state[(STATES + 1) * BLOCK] = {0};
    int64_t blocks = 0;
    for (int64_t at = first, n; at < last; at += n) {
        n = length_of(job, at, last);
        const int64_t column = column_of(job, at);
        for (int k = 0; k < STATES; k++) fill(state + k * BLOCK, job->state[k], at, n, START[k]);
        for (int64_t t = 0; t < T; t++) {
            float *x = norm_sums ? xs + t * BLOCK : xs, *kept = saved + t * SAVED * BLOCK;
            const void *from = read_block(x, job->x, t * job->x_step + at, n, soon(t, T, job->x_step, at, n));
            if (job->scale) step_saving(job, t, column, n, 1, from, state, kept);
            else step_saving(job, t, column, n, 0, from, state, kept);
        }
        for (int k = 0; k < STATES; k++) fill(g_state + k * BLOCK, job->g_last[k], at, n, 0.0f);
        for (int64_t t = T - 1; t >= 0; t--) {
            const int64_t now = t * size + at, next = soon(T - 1 - t, T, -size, (T - 1) * size + at, n);
            const int64_t row = job->table_steps > 1 ? t : 0;
            const float *kept = saved + t * SAVED * BLOCK;
            const void *x = TENSORS ? (const void *)place(job->x, t * job->x_step + at) : xs + t * BLOCK;
            float *sum = norm_part + t * W + column, *learned = learned_part + row * W + column;
            char *to = (char *)place(job->out, now);
            const int past = past_cache(job, to, n);
            const void *from = read_block(g, job->g_s, now, n, next);
            void *out = TENSORS ? (void *)to : g_c;
            if (TENSORS && !past) fetch(job->out, next, n, DTYPE);
            if (norm_sums) step_back(job, t, column, n, 1, from, g_state, kept, x, sum, sum + T * W, learned, out, past);
            else step_back(job, t, column, n, 0, from, g_state, kept, NULL, NULL, NULL, learned, out, past);
            if (!TENSORS) store(job->out, g_c, now, n, DTYPE, past ? PAST_CACHE : next);
        }
        for (int k = 0; k < STATES; k++) keep(job->g_state[k], g_state + k * BLOCK, at, n);
        if (++blocks % 32 == 0 || at + n >= last) {
            if (norm_sums) flush(norm_sums, norm_part, of_norm);
            if (learned_sums) flush(learned_sums, learned_part, of_learned);
        }
    }
    settle();
    free(room);
    return 0;
}
