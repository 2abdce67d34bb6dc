/* Numbers in memory: pieces of a frame, in the data type of the tensors there and in float32 here. */

#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

enum { FLOAT32, FLOAT16, BFLOAT16 };

static const int64_t BYTES[] = {[FLOAT32] = 4, [FLOAT16] = 2, [BFLOAT16] = 2};

/* Ask for n elements from `at` on: a block is too short a stretch of a frame for the processor to guess what is next. */
static inline void fetch(const void *array, int64_t at, int64_t n, int32_t dtype) {
    const char *next = (const char *)array + at * BYTES[dtype];
    for (int64_t i = 0; i < n * BYTES[dtype]; i += 64) __builtin_prefetch(next + i, 1);
}

/* Where a walk over the T steps of a block, then of the next, is a few steps after its i-th. A whole block ahead would
   be too soon: frames are so far apart that the T pieces of a block compete for the same few places in the cache. */
static inline int64_t soon(int64_t i, int64_t T, int64_t step, int64_t at, int64_t n) {
    const int64_t ahead = i + (T > 8 ? 6 : T > 2 ? T - 2 : 1);
    return ahead % T * step + ahead / T * n + at;
}

static void load(float *to, const void *from, int64_t at, int64_t n, int32_t dtype, int64_t next) {
    fetch(from, next, n, dtype);
    if (dtype == FLOAT32) {
        memcpy(to, (const float *)from + at, n * 4);
    } else if (dtype == BFLOAT16) {
        const uint16_t *half = (const uint16_t *)from + at;
        for (int64_t i = 0; i < n; i++) {
            uint32_t bits = (uint32_t)half[i] << 16;
            memcpy(to + i, &bits, 4);
        }
    } else {
        const _Float16 *half = (const _Float16 *)from + at;
        for (int64_t i = 0; i < n; i++) to[i] = (float)half[i];
    }
}

/* Where an output is larger than this, none of it is in a cache by the time it is read: it is written past them, which
   saves reading what is there before. (64 MB: larger than what a core has, and than its share of what cores share.) */
enum { LARGE = 1 << 26, PAST_CACHE = -1 };

static inline void put(void *to, const void *from, int64_t bytes, int64_t next) {
#ifdef __SSE2__
    if (next == PAST_CACHE && ((uintptr_t)to | (uintptr_t)bytes) % 16 == 0) {
        for (int64_t i = 0; i < bytes; i += 16)
            _mm_stream_si128((__m128i *)((char *)to + i), _mm_loadu_si128((const __m128i *)((const char *)from + i)));
        return;
    }
#endif
    memcpy(to, from, bytes);
}

/* What was written past the cache is there for other threads. */
static inline void settle(void) {
#ifdef __SSE2__
    _mm_sfence();
#endif
}

/* next: which elements will be written soon, or PAST_CACHE. */
static void store(void *to, const float *from, int64_t at, int64_t n, int32_t dtype, int64_t next) {
    char *place = (char *)to + at * BYTES[dtype];
    if (next != PAST_CACHE) fetch(to, next, n, dtype);
    if (dtype == FLOAT32) {
        put(place, from, n * 4, next);
        return;
    }
    uint16_t halves[64];
    for (int64_t first = 0; first < n; first += 64) {
        const int64_t count = n - first < 64 ? n - first : 64;
        const float *some = from + first;
        if (dtype == BFLOAT16) {
            for (int64_t i = 0; i < count; i++) { /* round to nearest, ties to even; a NaN stays one */
                uint32_t bits;
                memcpy(&bits, some + i, 4);
                uint16_t rounded = (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
                halves[i] = some[i] != some[i] ? 0x7fc0 : rounded;
            }
        } else {
            for (int64_t i = 0; i < count; i++) {
                const _Float16 half = (_Float16)some[i];
                memcpy(halves + i, &half, 2);
            }
        }
        put(place + 2 * first, halves, 2 * count, next);
    }
}

static void fill(float *to, const float *from, int64_t at, int64_t n, float otherwise) {
    if (from) memcpy(to, from + at, n * 4);
    else for (int64_t i = 0; i < n; i++) to[i] = otherwise;
}

static void keep(float *to, const float *from, int64_t at, int64_t n) {
    if (to) memcpy(to + at, from, n * 4);
}
