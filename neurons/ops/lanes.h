/* A step's arithmetic: on sixteen numbers at a time where there is AVX-512, else on one, for the compiler to vectorise.

   σ needs a reciprocal. AVX-512 estimates it to 14 bits, and one Newton step makes it whole; a division takes three times
   as long. Both are within 1.2e-7 of σ. LOAD and STORE are of buffers, which have room for whole registers; ADD touches
   live lanes alone. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#include <immintrin.h>
enum { LANES = 16 };
typedef __m512 num;
typedef __mmask16 mask;
#define NUM(k) _mm512_set1_ps(k)
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, x) _mm512_storeu_ps(p, x)
#define ADD(p, x, left) add_to(p, x, left)
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

static inline void add_to(float *to, num x, int64_t left) {
    const mask live = left >= LANES ? 0xffff : (mask)((1u << left) - 1);
    _mm512_mask_storeu_ps(to, live, _mm512_maskz_loadu_ps(live, to) + x);
}

static inline num reciprocal(num a) { /* of an a that is neither 0 nor infinite */
    num r = _mm512_rcp14_ps(a);
    return r + r * (1.0f - a * r);
}

static inline num power_of_2(num z) { /* within 8e-8, |z| < 126: 2^n·2^f with n whole and |f| ≤ ½ */
    num n = _mm512_roundscale_ps(z, 8), f = z - n;
    num p = (1.327646109e-3f * f + 9.675541721e-3f) * f + 5.550713311e-2f;
    p = ((p * f + 2.402211972e-1f) * f + 6.931469670e-1f) * f + 1.0f;
    return _mm512_scalef_ps(p, n);
}

#else
enum { LANES = 1 };
typedef float num;
typedef _Bool mask;
#define NUM(k) (k)
#define LOAD(p) (*(p))
#define STORE(p, x) (*(p) = (x))
#define ADD(p, x, left) (*(p) += (x))
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

static inline num reciprocal(num a) { return 1.0f / a; }

static inline num power_of_2(num z) { /* as above; a sum with 1.5·2^23 is rounded to a whole number, in its low bits */
    const float magic = 12582912.0f;
    float shifted = z + magic, f = z - (shifted - magic);
    float p = (1.327646109e-3f * f + 9.675541721e-3f) * f + 5.550713311e-2f;
    p = ((p * f + 2.402211972e-1f) * f + 6.931469670e-1f) * f + 1.0f;
    uint32_t bits, n;
    memcpy(&bits, &p, 4), memcpy(&n, &shifted, 4);
    bits += n << 23;
    memcpy(&p, &bits, 4);
    return p;
}
#endif

/* In this order a comparison and a choice are one instruction, and a NaN stays one. */
static inline num bounded(num z) { return MAX(NUM(-125.0f), MIN(NUM(125.0f), z)); }

static inline num sigmoid_of(num z) { return reciprocal(1.0f + power_of_2(bounded(z))); } /* 1 / (1 + 2^z) */
