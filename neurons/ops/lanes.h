/* A step's arithmetic: on sixteen numbers at a time where there is AVX-512, else on one, for the compiler to vectorise.

   σ needs a reciprocal. AVX-512 estimates it to 14 bits, and one Newton step makes it whole; a division takes longer. Both
   are within 1.2e-7 of σ.

   LOAD and STORE are of float buffers with room for whole registers. READ and WRITE are of tensors in memory, of data type
   DTYPE, where there is AVX-512 (TENSORS), and of float buffers that the frame fills and empties where there is not; like
   ADD, they touch live lanes alone. */

#include <float.h>
#include <math.h>

/* 2^f of an f of ±½. */
#define FRACTION(f) \
    (((((1.327646109e-3f * f + 9.675541721e-3f) * f + 5.550713311e-2f) * f + 2.402211972e-1f) * f + 6.931469670e-1f) * f + 1.0f)

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
enum { LANES = 16, TENSORS = 1 };
typedef __m512 num;
typedef __mmask16 mask;
#define LIVE(left) ((mask)((left) >= LANES ? 0xffff : (1u << (left)) - 1))
#define NUM(k) _mm512_set1_ps(k)
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, x) _mm512_storeu_ps(p, x)
#define ADD(p, x, live) _mm512_mask_storeu_ps(p, live, _mm512_maskz_loadu_ps(live, p) + (x))
#define READ(p, i, live) read_from(p, i, live)
#define WRITE(p, i, x, live, past) write_to(p, i, x, live, past)
#define CHOOSE(b, x, y) _mm512_mask_blend_ps(b, y, x)
#define ABS(x) _mm512_abs_ps(x)
#define SQRT(x) _mm512_sqrt_ps(x)
#define MAX(a, b) _mm512_max_ps(a, b)
#define MIN(a, b) _mm512_min_ps(a, b)
#define GE(a, b) _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ)
#define GT(a, b) _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ)
#define LE(a, b) _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ)
#define LT(a, b) _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ)
#define EQ(a, b) _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ)
#define WHOLE(x) _mm512_roundscale_ps(x, 0)
#define SCALE(x, n) _mm512_scalef_ps(x, n)
#define NOT_FINITE(x) _mm512_fpclass_ps_mask(x, 0x99) /* NaNs of both kinds, infinities of both signs */

static inline num read_from(const void *array, int64_t i, mask live) {
    if (DTYPE == FLOAT32) return _mm512_maskz_loadu_ps(live, (const float *)array + i);
    const __m256i halves = _mm256_maskz_loadu_epi16(live, (const uint16_t *)array + i);
    if (DTYPE == FLOAT16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

static inline __m256i rounded(num x) { /* to nearest, ties to even; a NaN stays one */
    if (DTYPE == FLOAT16) return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const mask nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_set1_epi32(_mm512_srli_epi32(up, 16), nan, 0x7fc0));
}

/* past: past the caches; then p + i is aligned and all lanes are live. */
static inline void write_to(void *array, int64_t i, num x, mask live, int past) {
    if (DTYPE == FLOAT32) {
        float *to = (float *)array + i;
        if (past) _mm512_stream_ps(to, x);
        else if (live == 0xffff) _mm512_storeu_ps(to, x);
        else _mm512_mask_storeu_ps(to, live, x);
        return;
    }
    uint16_t *to = (uint16_t *)array + i;
    const __m256i halves = rounded(x);
    if (past) _mm256_stream_si256((__m256i *)to, halves);
    else if (live == 0xffff) _mm256_storeu_si256((__m256i *)to, halves);
    else _mm256_mask_storeu_epi16(to, live, halves);
}

static inline num reciprocal(num a) { /* of an a that is neither 0 nor infinite */
    num r = _mm512_rcp14_ps(a);
    return r + r * (1.0f - a * r);
}

static inline num power_of_2(num z) { /* within 8e-8: 2^n·2^f with n whole and |f| ≤ ½ */
    const num f = _mm512_reduce_ps(z, 0);
    return SCALE(FRACTION(f), z - f);
}

/* What σ's reciprocal can take; 2^z may be 0. A NaN stays one. */
static inline num bounded(num z) { return MIN(NUM(125.0f), z); }

#else
enum { LANES = 1, TENSORS = 0 };
typedef float num;
typedef _Bool mask;
#define NUM(k) (k)
#define LOAD(p) (*(p))
#define STORE(p, x) (*(p) = (x))
#define LIVE(left) 1
#define ADD(p, x, live) (*(p) += (x))
#define READ(p, i, live) (((const float *)(p))[i])
#define WRITE(p, i, x, live, past) (((float *)(p))[i] = (x))
#define CHOOSE(b, x, y) ((b) ? (x) : (y))
#define ABS(x) fabsf(x)
#define SQRT(x) sqrtf(x)
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define GE(a, b) ((a) >= (b))
#define GT(a, b) ((a) > (b))
#define LE(a, b) ((a) <= (b))
#define LT(a, b) ((a) < (b))
#define EQ(a, b) ((a) == (b))
#define WHOLE(x) ((x) + 12582912.0f - 12582912.0f)
#define SCALE(x, n) ((x) * power_of_2(WHOLE(0.5f * (n))) * power_of_2((n) - WHOLE(0.5f * (n)))) /* it may leave float */
#define NOT_FINITE(x) !(fabsf(x) <= FLT_MAX)

static inline num reciprocal(num a) { return 1.0f / a; }

static inline num power_of_2(num z) { /* as above; a sum with 1.5·2^23 is rounded to a whole number, in its low bits */
    const float magic = 12582912.0f;
    float shifted = z + magic, f = z - (shifted - magic);
    float p = FRACTION(f);
    uint32_t bits, n;
    memcpy(&bits, &p, 4), memcpy(&n, &shifted, 4);
    bits += n << 23;
    memcpy(&p, &bits, 4);
    return p;
}

/* In this order a comparison and a choice are one instruction, and a NaN stays one. */
static inline num bounded(num z) { return MAX(NUM(-125.0f), MIN(NUM(125.0f), z)); }
#endif

static inline num sigmoid_of(num z) { return reciprocal(1.0f + power_of_2(bounded(z))); } /* 1 / (1 + 2^z) */

/* exp(x); beyond these bounds it is 0 and infinite, and a NaN stays one. n·ln 2 is taken in two parts, the first exact. */
static inline num exp_of(num x) {
    x = MAX(NUM(-104.0f), MIN(NUM(89.0f), x));
    const num n = WHOLE(x * 1.44269504f), f = (x - n * 0.693359375f + n * 2.12194440e-4f) * 1.44269504f;
    return SCALE(FRACTION(f), n);
}
