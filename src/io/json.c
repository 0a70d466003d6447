/* json.c - JSON read token by token: no recursion, no copy, nothing accepted that RFC 8259 does not allow.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"

enum { VALUE, VALUE_OR_END, KEY, KEY_OR_END, COMMA_OR_END, DONE };   /* kd__json.expect */

void kd__json_begin(kd__json *j, char *text, size_t size)
{
    *j = (kd__json){ .text = text, .size = size, .expect = VALUE };
}

static kd__json_token fail(kd__json *j, size_t at, const char *why)
{
    j->at = at;
    j->error = why;
    return KD__JSON_ERROR;
}

/* ---- UTF-8 (Unicode, table 3-7): shortest forms, no surrogates, nothing above U+10FFFF -------------------- */

/* Length of the sequence at p, 1 to 4; 0 if it is not valid. */
static size_t utf8_length(const unsigned char *p, size_t left)
{
    unsigned char a = p[0], low = 0x80, high = 0xbf;
    if (a < 0x80) return 1;
    size_t n = a >= 0xf0 ? 4 : a >= 0xe0 ? 3 : 2;
    if (a < 0xc2 || a > 0xf4 || left < n) return 0;
    if (a == 0xe0) low = 0xa0;
    if (a == 0xed) high = 0x9f;
    if (a == 0xf0) low = 0x90;
    if (a == 0xf4) high = 0x8f;
    if (p[1] < low || p[1] > high) return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return n;
}

bool kd__utf8_valid(const char *text, size_t bytes)
{
    for (size_t i = 0, n; i < bytes; i += n)
        if ((n = utf8_length((const unsigned char *)text + i, bytes - i)) == 0) return false;
    return true;
}

static size_t utf8_write(char *out, uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n; --i > 0; c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((0xf00u >> n & 0xff) | c);
    return n;
}

/* ---- strings ---------------------------------------------------------------------------------------- */

/* Eight bytes at once: is any of them a quote, a backslash, a control character or not ASCII? */
static bool plain8(const char *p)
{
    const uint64_t one = 0x0101010101010101u, high = one << 7;
    uint64_t x, quote, slash;
    memcpy(&x, p, 8);
    quote = x ^ one * '"';
    slash = x ^ one * '\\';
    uint64_t odd = x | (x - one * 0x20) | (quote - one) | (slash - one);
    return (odd & high) == 0;   /* may say no to a plain byte after a borrow: the slow way decides */
}

static bool hex4(const char *p, uint32_t *out)
{
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        uint32_t d = c >= '0' && c <= '9' ? (uint32_t)(c - '0')
                   : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                   : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10) : 16u;
        if (d > 15) return false;
        v = v << 4 | d;
    }
    *out = v;
    return true;
}

/* The escape at text[*in] ('\\'): its code point, with *in moved behind it. */
static const char *escape(const kd__json *j, size_t *in, uint32_t *out)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    size_t at = *in;
    if (j->size - at < 2) return "the string does not end";
    char c = j->text[at + 1];
    const char *known = c ? strchr(names, c) : NULL;
    if (known) {
        *out = (unsigned char)values[known - names];
        *in = at + 2;
        return NULL;
    }
    if (c != 'u' || j->size - at < 6 || !hex4(j->text + at + 2, out)) return "an escape that JSON does not know";
    at += 6;
    if (*out == 0) return "a zero character in a string";
    if (*out >= 0xdc00 && *out <= 0xdfff) return "half a surrogate pair";
    if (*out >= 0xd800 && *out <= 0xdbff) {
        uint32_t low;
        if (j->size - at < 6 || j->text[at] != '\\' || j->text[at + 1] != 'u' || !hex4(j->text + at + 2, &low) ||
            low < 0xdc00 || low > 0xdfff)
            return "half a surrogate pair";
        *out = 0x10000 + ((*out - 0xd800) << 10) + (low - 0xdc00);
        at += 6;
    }
    *in = at;
    return NULL;
}

/* The string whose opening quote is at j->at; decoding never makes it longer. */
static bool read_string(kd__json *j)
{
    char *text = j->text;
    size_t in = j->at + 1, out = in;
    j->string = text + in;
    for (;;) {
        while (j->size - in >= 8 && plain8(text + in)) {
            if (out != in) memmove(text + out, text + in, 8);
            in += 8;
            out += 8;
        }
        if (in == j->size) return fail(j, in, "the string does not end"), false;
        unsigned char c = (unsigned char)text[in];
        if (c == '"') break;
        if (c < 0x20) return fail(j, in, "a control character in a string"), false;
        if (c == '\\') {
            uint32_t point;
            const char *why = escape(j, &in, &point);
            if (why) return fail(j, in, why), false;
            out += utf8_write(text + out, point);
            continue;
        }
        size_t n = utf8_length((const unsigned char *)text + in, j->size - in);
        if (n == 0) return fail(j, in, "not valid UTF-8"), false;
        while (n--) text[out++] = text[in++];
    }
    text[out] = 0;   /* at the closing quote, or before it */
    j->length = out - (j->at + 1);
    j->at = in + 1;
    return true;
}

/* ---- numbers and words ------------------------------------------------------------------------------ */

static size_t digits(const kd__json *j, size_t at)
{
    while (at < j->size && j->text[at] >= '0' && j->text[at] <= '9') at++;
    return at;
}

static bool read_number(kd__json *j)
{
    size_t at = j->at, next;
    if (j->text[at] == '-') at++;
    next = digits(j, at);
    if (next == at || (j->text[at] == '0' && next > at + 1)) return false;
    at = next;
    if (at < j->size && j->text[at] == '.') {
        next = digits(j, at + 1);
        if (next == at + 1) return false;
        at = next;
    }
    if (at < j->size && (j->text[at] == 'e' || j->text[at] == 'E')) {
        at++;
        if (at < j->size && (j->text[at] == '+' || j->text[at] == '-')) at++;
        next = digits(j, at);
        if (next == at) return false;
        at = next;
    }
    j->string = j->text + j->at;
    j->length = at - j->at;
    j->at = at;
    return true;
}

static bool read_word(kd__json *j)
{
    static const char words[3][6] = { "true", "false", "null" };
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if (j->size - j->at >= n && memcmp(j->text + j->at, words[i], n) == 0) {
            j->string = j->text + j->at;
            j->length = n;
            j->at += n;
            return true;
        }
    }
    return false;
}

/* ---- the grammar ------------------------------------------------------------------------------------ */

static void skip_space(kd__json *j)
{
    while (j->at < j->size) {
        char c = j->text[j->at];
        if (c != ' ' && c != '\n' && c != '\t' && c != '\r') return;
        j->at++;
    }
}

static kd__json_token open_container(kd__json *j, bool array)
{
    if (j->depth == KD__JSON_DEPTH) return fail(j, j->at, "nested too deeply");
    j->arrays = (j->arrays & ~(1u << j->depth)) | (uint32_t)array << j->depth;
    j->depth++;
    j->at++;
    j->expect = array ? VALUE_OR_END : KEY_OR_END;
    return array ? KD__JSON_ARRAY : KD__JSON_OBJECT;
}

static void after_value(kd__json *j) { j->expect = j->depth ? COMMA_OR_END : DONE; }

static kd__json_token close_container(kd__json *j)
{
    bool array = j->arrays >> (j->depth - 1) & 1;
    j->depth--;
    j->at++;
    after_value(j);
    return array ? KD__JSON_ARRAY_END : KD__JSON_OBJECT_END;
}

static kd__json_token read_key(kd__json *j)
{
    if (j->text[j->at] != '"') return fail(j, j->at, "a key in quotes is missing");
    if (!read_string(j)) return KD__JSON_ERROR;
    skip_space(j);
    if (j->at == j->size || j->text[j->at] != ':') return fail(j, j->at, "a ':' after the key is missing");
    j->at++;
    j->expect = VALUE;
    return KD__JSON_KEY;
}

static kd__json_token read_value(kd__json *j)
{
    kd__json_token token;
    switch (j->text[j->at]) {
    case '{': return open_container(j, false);
    case '[': return open_container(j, true);
    case '"':
        if (!read_string(j)) return KD__JSON_ERROR;
        token = KD__JSON_STRING;
        break;
    case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
        if (!read_number(j)) return fail(j, j->at, "a number that JSON does not allow");
        token = KD__JSON_NUMBER;
        break;
    default:
        if (!read_word(j)) return fail(j, j->at, "a value is missing");
        token = KD__JSON_LITERAL;
    }
    after_value(j);
    return token;
}

kd__json_token kd__json_next(kd__json *j)
{
    if (j->error) return KD__JSON_ERROR;
    if (j->expect == DONE) return KD__JSON_END;
    skip_space(j);
    if (j->at == j->size) return fail(j, j->at, "the text ends in the middle");
    char c = j->text[j->at];
    bool array = j->depth && (j->arrays >> (j->depth - 1) & 1);
    if (j->expect == COMMA_OR_END) {
        if (c == (array ? ']' : '}')) return close_container(j);
        if (c != ',') return fail(j, j->at, "a ',' is missing");
        j->at++;
        j->expect = array ? VALUE : KEY;
        skip_space(j);
        if (j->at == j->size) return fail(j, j->at, "the text ends in the middle");
    } else if ((j->expect == VALUE_OR_END && c == ']') || (j->expect == KEY_OR_END && c == '}')) {
        return close_container(j);
    }
    j->start = j->at;
    return j->expect == KEY || j->expect == KEY_OR_END ? read_key(j) : read_value(j);
}
