/* number.c - decimal text to numbers, correctly rounded, without the locale.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "base/platform.h"

/* A double, and the middle between two, has at most 767 significant digits: of a longer number the first
 * 768 and "something follows" decide. */
enum { MAX_DIGITS = 768, BIG_WORDS = 132 };

typedef struct decimal_text {
    char    digits[MAX_DIGITS + 1];
    int     count;
    int64_t exponent;   /* value = digits 10^exponent */
    bool    negative;
} decimal_text;

static bool is_digit(const char *p, const char *end) { return p < end && *p >= '0' && *p <= '9'; }

static bool scan(decimal_text *d, const char *p, const char *end)
{
    d->count = 0;
    d->exponent = 0;
    d->negative = p < end && *p == '-';
    if (p < end && (*p == '-' || *p == '+')) p++;
    bool any = false, fraction = false, more = false;
    for (;; p++) {
        if (p < end && *p == '.' && !fraction) {
            fraction = true;
            continue;
        }
        if (!is_digit(p, end)) break;
        any = true;
        if (d->count == MAX_DIGITS) {
            more |= *p != '0';
            if (!fraction) d->exponent++;
            continue;
        }
        if (d->count || *p != '0') d->digits[d->count++] = *p;
        if (fraction) d->exponent--;
    }
    if (!any) return false;
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        bool down = p < end && *p == '-';
        if (p < end && (*p == '-' || *p == '+')) p++;
        if (!is_digit(p, end)) return false;
        int64_t e = 0;
        for (; is_digit(p, end); p++)
            if (e < INT64_MAX / 100) e = e * 10 + (*p - '0');
        d->exponent += down ? -e : e;
    }
    while (d->count && !more && d->digits[d->count - 1] == '0') {
        d->count--;
        d->exponent++;
    }
    if (more) {
        d->digits[d->count++] = '1';
        d->exponent--;
    }
    return p == end;
}

/* ---- the exact way: bits of (digits 10^exponent) by long division ------------------------------------ */

typedef struct big {
    uint32_t w[BIG_WORDS];   /* lowest first, no leading zeros */
    int      n;
} big;

static void big_mul_add(big *a, uint32_t factor, uint32_t add)
{
    uint64_t carry = add;
    for (int i = 0; i < a->n; i++) {
        carry += (uint64_t)a->w[i] * factor;
        a->w[i] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry) a->w[a->n++] = (uint32_t)carry;
}

static void big_pow10(big *a, int64_t e)
{
    for (; e >= 9; e -= 9) big_mul_add(a, 1000000000u, 0);
    for (; e > 0; e--) big_mul_add(a, 10, 0);
}

static int big_bits(const big *a) { return a->n * 32 - __builtin_clz(a->w[a->n - 1]); }

static void big_shift(big *a, int by)
{
    int words = by / 32, bits = by % 32;
    if (bits) big_mul_add(a, 1u << bits, 0);
    if (!words) return;
    memmove(a->w + words, a->w, (size_t)a->n * sizeof *a->w);
    memset(a->w, 0, (size_t)words * sizeof *a->w);
    a->n += words;
}

static int big_compare(const big *a, const big *b)
{
    if (a->n != b->n) return a->n < b->n ? -1 : 1;
    for (int i = a->n; i-- > 0;)
        if (a->w[i] != b->w[i]) return a->w[i] < b->w[i] ? -1 : 1;
    return 0;
}

static void big_subtract(big *a, const big *b)   /* a >= b */
{
    uint64_t borrow = 0;
    for (int i = 0; i < a->n; i++) {
        uint64_t take = (i < b->n ? b->w[i] : 0) + borrow;
        borrow = a->w[i] < take;
        a->w[i] = (uint32_t)(a->w[i] - take);
    }
    while (a->n && !a->w[a->n - 1]) a->n--;
}

static uint64_t exact_bits(const decimal_text *d)
{
    big a = { .n = 0 }, b = { .w = { 1 }, .n = 1 };
    for (int i = 0; i < d->count; i++) big_mul_add(&a, 10, (uint32_t)(d->digits[i] - '0'));
    big_pow10(d->exponent >= 0 ? &a : &b, d->exponent >= 0 ? d->exponent : -d->exponent);

    /* value = a/b 2^e with a/b in [1, 2) */
    int e = big_bits(&a) - big_bits(&b);
    if (e > 0) big_shift(&b, e);
    if (e < 0) big_shift(&a, -e);
    if (big_compare(&a, &b) < 0) {
        big_shift(&a, 1);
        e--;
    }
    uint64_t q = 0;   /* its first 64 bits */
    for (int i = 0; i < 64; i++) {
        bool bit = big_compare(&a, &b) >= 0;
        if (bit) big_subtract(&a, &b);
        q = q << 1 | bit;
        if (a.n) big_mul_add(&a, 2, 0);
    }
    bool more = a.n != 0;

    if (e > 1023) return 0x7ffull << 52;
    int drop = e >= -1022 ? 11 : 11 - 1022 - e;   /* bits that do not fit */
    if (drop > 64) return 0;
    uint64_t kept = drop < 64 ? q >> drop : 0;
    uint64_t half = 1ull << (drop - 1), rest = q & (half | (half - 1));
    if (rest > half || (rest == half && (more || (kept & 1)))) kept++;
    return e >= -1022 ? ((uint64_t)(e + 1022) << 52) + kept : kept;   /* a carry moves into the exponent */
}

bool kd__parse_double(const char *text, const char *end, double *out)
{
    KD__FP_SCOPE;
    static const double pow10[] = { 1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22 };
    decimal_text d;
    if (!scan(&d, text, end)) return false;
    double value;
    if (d.count == 0 || d.count + d.exponent < -330) {
        value = 0;
    } else if (d.count + d.exponent > 310) {
        value = __builtin_inf();
    } else if (d.count <= 15 && d.exponent >= -22 && d.exponent <= 22) {   /* both exact: one rounding */
        int64_t m = 0;
        for (int i = 0; i < d.count; i++) m = m * 10 + (d.digits[i] - '0');
        value = d.exponent < 0 ? (double)m / pow10[-d.exponent] : (double)m * pow10[d.exponent];
    } else {
        uint64_t bits = exact_bits(&d);
        memcpy(&value, &bits, sizeof value);
    }
    *out = d.negative ? -value : value;
    return true;
}

bool kd__parse_u64(const char *text, const char *end, uint64_t *out)
{
    if (!is_digit(text, end) || (*text == '0' && end - text > 1)) return false;
    uint64_t value = 0;
    for (; text < end; text++) {
        if (!is_digit(text, end) || __builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
            return false;
    }
    *out = value;
    return true;
}
