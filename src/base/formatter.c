/* formatter.c - the formatter behind every error and log text: no locale, no allocation, exact decimals.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include <stdarg.h>

typedef struct sink {
    char  *out;
    size_t cap, len;
} sink;

typedef struct spec {
    bool left, zero, plus;
    int  width, precision;   /* precision -1: not given */
} spec;

static void put(sink *s, char c)
{
    if (s->len + 1 < s->cap) s->out[s->len] = c;
    s->len++;
}

static void put_repeat(sink *s, char c, size_t n)
{
    while (n--) put(s, c);
}

static void put_text(sink *s, const char *text, size_t n)
{
    while (n--) put(s, *text++);
}

/* sign and body, padded to the width: zeros go between the two. */
static void put_field(sink *s, const spec *sp, char sign, const char *body, size_t n)
{
    size_t used = n + (sign ? 1 : 0);
    size_t pad = sp->width > 0 && (size_t)sp->width > used ? (size_t)sp->width - used : 0;
    if (!sp->left && !sp->zero) put_repeat(s, ' ', pad);
    if (sign) put(s, sign);
    if (!sp->left && sp->zero) put_repeat(s, '0', pad);
    put_text(s, body, n);
    if (sp->left) put_repeat(s, ' ', pad);
}

static void put_integer(sink *s, const spec *sp, char sign, uint64_t value, unsigned base)
{
    char buffer[24], *end = buffer + sizeof buffer, *p = end;
    do *--p = "0123456789abcdef"[value % base];
    while (value /= base);
    put_field(s, sp, sign, p, (size_t)(end - p));
}

/* ---- exact decimal digits of a double ------------------------------------------------------------
 * x = m 2^e.  For e >= 0 the digits are those of the integer m 2^e; for e < 0, those of m 5^-e with
 * the point moved by -e.  Big integers are words of nine decimal digits, lowest first. */
enum { WORDS = 90, DIGITS = WORDS * 9 };   /* m 5^1074 has 767 digits */

typedef struct decimal {
    char digits[DIGITS + 1];   /* [0] is room for a carry; the first digit is digits[1] */
    int  first, count, point;  /* value = 0.d1d2... 10^point */
} decimal;

static size_t big_mul(uint32_t *w, size_t n, uint32_t factor)
{
    uint64_t carry = 0;
    for (size_t i = 0; i < n; i++) {
        carry += (uint64_t)w[i] * factor;
        w[i] = (uint32_t)(carry % 1000000000u);
        carry /= 1000000000u;
    }
    while (carry && n < WORDS) {
        w[n++] = (uint32_t)(carry % 1000000000u);
        carry /= 1000000000u;
    }
    return n;
}

static void decimal_from(decimal *d, double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint64_t m = bits & ((1ull << 52) - 1);
    int e = (int)((bits >> 52) & 0x7ff);
    if (e) m |= 1ull << 52;
    else e = 1;
    e -= 1075;
    while (m && !(m & 1)) {
        m >>= 1;
        e++;
    }
    uint32_t w[WORDS] = { (uint32_t)(m % 1000000000u), (uint32_t)(m / 1000000000u) };
    size_t n = 2;
    int shift = e < 0 ? -e : 0;
    for (; e >= 29; e -= 29) n = big_mul(w, n, 1u << 29);
    if (e > 0) n = big_mul(w, n, 1u << e);
    for (; e <= -13; e += 13) n = big_mul(w, n, 1220703125u);   /* 5^13 */
    for (; e < 0; e++) n = big_mul(w, n, 5);

    d->first = 1;
    char *p = d->digits + 1;
    for (size_t i = n; i-- > 0;)
        for (uint32_t place = 100000000u; place; place /= 10) *p++ = (char)('0' + w[i] / place % 10);
    d->count = (int)(n * 9);
    while (d->count > 1 && d->digits[d->first] == '0') {
        d->first++;
        d->count--;
    }
    d->point = d->count - shift;
    if (!m) d->point = 1;
}

/* Keep `keep` digits: nearest, ties to even. */
static void decimal_round(decimal *d, int keep)
{
    if (keep >= d->count) return;
    char *digits = d->digits + d->first;
    bool up = false;
    if (keep >= 0) {
        bool tie = digits[keep] == '5';
        for (int i = keep + 1; tie && i < d->count; i++) tie = digits[i] == '0';
        up = tie ? keep > 0 && (digits[keep - 1] & 1) : digits[keep] >= '5';
    }
    d->count = keep > 0 ? keep : 0;
    int i = d->count;
    while (up && i > 0) {
        up = digits[--i] == '9';
        digits[i] = (char)(up ? '0' : digits[i] + 1);
    }
    if (up) {   /* carried out of the first digit: 999 -> 1000, or 0.6 -> 1 */
        d->first--;
        d->digits[d->first] = '1';
        d->count++;
        d->point++;
    }
}

static char digit_at(const decimal *d, int i)
{
    return i >= 0 && i < d->count ? d->digits[d->first + i] : '0';
}

/* The two passes of put_double: the length for the padding, then the characters. */
static size_t emit_double(sink *s, const decimal *d, bool scientific, int precision)
{
    size_t n = 0;
#define OUT(c) do { if (s) put(s, (c)); n++; } while (0)
    if (scientific) {
        OUT(digit_at(d, 0));
        if (precision > 0) OUT('.');
        for (int i = 1; i <= precision; i++) OUT(digit_at(d, i));
        int e = d->count ? d->point - 1 : 0;
        OUT('e');
        OUT(e < 0 ? '-' : '+');
        if (e < 0) e = -e;
        if (e >= 100) OUT((char)('0' + e / 100));
        OUT((char)('0' + e / 10 % 10));
        OUT((char)('0' + e % 10));
    } else {
        if (d->point <= 0) OUT('0');
        for (int i = 0; i < d->point; i++) OUT(digit_at(d, i));
        if (precision > 0) OUT('.');
        for (int i = 0; i < precision; i++) OUT(digit_at(d, d->point + i));
    }
#undef OUT
    return n;
}

static void put_double(sink *s, const spec *given, char conversion, double x)
{
    spec sp = *given;
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    char sign = bits >> 63 ? '-' : sp.plus ? '+' : 0;
    bits &= ~(1ull << 63);
    if (bits >= 0x7ff0000000000000ull) {
        sp.zero = false;
        put_field(s, &sp, sign, bits == 0x7ff0000000000000ull ? "inf" : "nan", 3);
        return;
    }
    memcpy(&x, &bits, sizeof x);
    decimal d;
    decimal_from(&d, x);
    int precision = sp.precision < 0 ? 6 : sp.precision;
    bool scientific = conversion == 'e';
    if (conversion == 'g') {
        if (precision == 0) precision = 1;
        decimal_round(&d, precision);
        int e = bits ? d.point - 1 : 0;
        scientific = e < -4 || e >= precision;
        precision = scientific ? precision - 1 : precision - 1 - e;
        while (precision > 0 && digit_at(&d, scientific ? precision : d.point + precision - 1) == '0')
            precision--;
    } else if (scientific) {
        decimal_round(&d, precision + 1);
    } else {
        decimal_round(&d, d.point + precision);
    }
    size_t n = emit_double(NULL, &d, scientific, precision) + (sign ? 1 : 0);
    size_t pad = sp.width > 0 && (size_t)sp.width > n ? (size_t)sp.width - n : 0;
    if (!sp.left && !sp.zero) put_repeat(s, ' ', pad);
    if (sign) put(s, sign);
    if (!sp.left && sp.zero) put_repeat(s, '0', pad);
    emit_double(s, &d, scientific, precision);
    if (sp.left) put_repeat(s, ' ', pad);
}

static void put_shape(sink *s, size_t rank, const size_t *shape)
{
    const spec plain = { .precision = -1 };
    put(s, '[');
    for (size_t i = 0; i < rank; i++) {
        if (i) put_text(s, ", ", 2);
        if (shape) put_integer(s, &plain, 0, shape[i], 10);
        else put(s, '?');
    }
    put(s, ']');
}

static const char *read_spec(const char *f, spec *sp)
{
    *sp = (spec){ .precision = -1 };
    for (;; f++) {
        if (*f == '-') sp->left = true;
        else if (*f == '0') sp->zero = true;
        else if (*f == '+') sp->plus = true;
        else break;
    }
    return f;
}

static const char *read_number(const char *f, int *out)
{
    int n = 0;
    while (*f >= '0' && *f <= '9') {
        if (n < 100000) n = n * 10 + (*f - '0');
        f++;
    }
    *out = n;
    return f;
}

size_t kd__vformat(char *out, size_t cap, const char *format, __builtin_va_list args)
{
    sink s = { out, cap, 0 };
    for (const char *f = format; *f; f++) {
        if (*f != '%') {
            put(&s, *f);
            continue;
        }
        spec sp;
        f = read_spec(f + 1, &sp);
        if (*f == '*') {
            sp.width = va_arg(args, int);
            f++;
        } else {
            f = read_number(f, &sp.width);
        }
        if (*f == '.') {
            if (*++f == '*') {
                sp.precision = va_arg(args, int);
                f++;
            } else {
                f = read_number(f, &sp.precision);
            }
        }
        int longs = 0;
        bool size = false;
        for (; *f == 'l' || *f == 'z'; f++) {
            if (*f == 'l') longs++;
            else size = true;
        }
        switch (*f) {
        case 'd':
        case 'i': {
            int64_t v = size ? (int64_t)va_arg(args, ptrdiff_t)
                      : longs > 1 ? (int64_t)va_arg(args, long long)
                      : longs ? (int64_t)va_arg(args, long)
                              : (int64_t)va_arg(args, int);
            put_integer(&s, &sp, v < 0 ? '-' : sp.plus ? '+' : 0, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, 10);
            break;
        }
        case 'u':
        case 'x': {
            uint64_t v = size ? (uint64_t)va_arg(args, size_t)
                       : longs > 1 ? (uint64_t)va_arg(args, unsigned long long)
                       : longs ? (uint64_t)va_arg(args, unsigned long)
                               : (uint64_t)va_arg(args, unsigned);
            put_integer(&s, &sp, 0, v, *f == 'x' ? 16 : 10);
            break;
        }
        case 'c': {
            char c = (char)va_arg(args, int);
            put_field(&s, &sp, 0, &c, 1);
            break;
        }
        case 's': {
            const char *text = va_arg(args, const char *);
            if (!text) text = "(null)";
            size_t n = 0;
            while ((sp.precision < 0 || n < (size_t)sp.precision) && text[n]) n++;
            put_field(&s, &sp, 0, text, n);
            break;
        }
        case 'S': {
            size_t rank = va_arg(args, size_t);
            put_shape(&s, rank, va_arg(args, const size_t *));
            break;
        }
        case 'e':
        case 'f':
        case 'g':
            put_double(&s, &sp, *f, va_arg(args, double));
            break;
        case '%':
            put(&s, '%');
            break;
        case 0:   /* a lone '%' at the end */
            put(&s, '%');
            f--;
            break;
        default:
            put(&s, '%');
            put(&s, *f);
        }
    }
    if (cap) out[s.len < cap ? s.len : cap - 1] = 0;
    return s.len;
}

size_t kd__format(char *out, size_t cap, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    size_t n = kd__vformat(out, cap, format, args);
    va_end(args);
    return n;
}
