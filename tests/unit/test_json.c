/* test_json.c - the JSON reader: what RFC 8259 allows, what it does not, and where the error is.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"
#include "kdtest.h"
#include <stdlib.h>

/* Tokens as text: "{k:a n:1 [ ] }"; ends with "." at the end of the value or "!" at an error. */
static void tokens(const char *text, size_t size, char *out, kd__json *j)
{
    static const char marks[][4] = { "!", ".", "{", "}", "[", "]", "k:", "s:", "n:", "w:" };
    char *copy = kdtest_guard(size, 1);   /* reading past the end faults */
    memcpy(copy, text, size);
    kd__json_begin(j, copy, size);
    size_t n = 0;
    for (kd__json_token t = KD__JSON_OBJECT; t > KD__JSON_END;) {
        t = kd__json_next(j);
        n += (size_t)sprintf(out + n, "%s", marks[t]);
        if (t >= KD__JSON_KEY) n += (size_t)sprintf(out + n, "%.*s ", (int)j->length, j->string);
    }
    kdtest_guard_free(copy, size, 1);
}

static void reads(const char *text, const char *want)
{
    char got[4096];
    kd__json j;
    tokens(text, strlen(text), got, &j);
    CHECK_MSG(strcmp(got, want) == 0, "%s: read as %s, wanted %s", text, got, want);
}

TEST(values)
{
    reads("1", "n:1 .");
    reads("-0", "n:-0 .");
    reads("  [ ]  ", "[].");
    reads("{}", "{}.");
    reads("\"\"", "s: .");
    reads("true", "w:true .");
    reads("[true,false,null]", "[w:true w:false w:null ].");
    reads("[1, -2.5e+3 ,0.1E-2\t,\r\n0]", "[n:1 n:-2.5e+3 n:0.1E-2 n:0 ].");
    reads("{\"a\" : {\"b\":[1,[2,{}]]}, \"c\":\"d\"}", "{k:a {k:b [n:1 [n:2 {}]]}k:c s:d }.");
    reads("[[[[[[[[]]]]]]]]", "[[[[[[[[]]]]]]]].");
}

TEST(strings)
{
    reads("\"a long string without anything special in it\"", "s:a long string without anything special in it .");
    reads("\"\\\"\\\\\\/ \\u0041\\u00e9\\u20AC\\ud83d\\ude00 end of it\"",
          "s:\"\\/ A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 end of it .");
    reads("\"\\b\\f\\n\\r\\t\"", "s:\b\f\n\r\t .");
    reads("\"\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"",
          "s:\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf .");
    reads("\"12345678\\n12345678\\t123456789\\u00ff\"", "s:12345678\n12345678\t123456789\xc3\xbf .");
    reads("{\"\\u0061\":1}", "{k:a n:1 }.");
    /* decoding in place never touches what follows */
    reads("[\"\\u0041\",\"b\",\"\\u0043\"]", "[s:A s:b s:C ].");
}

TEST(errors)
{
    static const struct { const char *text; size_t size, at; const char *error;
    } cases[] = {
#define CASE(text, at, error) { text, sizeof(text) - 1, at, error }
        CASE("", 0, "ends"),
        CASE("  ", 2, "ends"),
        CASE("{", 1, "ends"),
        CASE("[1", 2, "ends"),
        CASE("[1,", 3, "ends"),
        CASE("{\"a\"", 4, "':'"),
        CASE("{\"a\":", 5, "ends"),
        CASE("{\"a\" 1}", 5, "':'"),
        CASE("{1:2}", 1, "key"),
        CASE("{\"a\":1,}", 7, "key"),
        CASE("{,}", 1, "key"),
        CASE("[,]", 1, "value"),
        CASE("[1,]", 3, "value"),
        CASE("[1 2]", 3, "','"),
        CASE("[1}", 2, "','"),
        CASE("{\"a\":1]", 6, "','"),
        CASE("]", 0, "value"),
        CASE("'a'", 0, "value"),
        CASE("nul", 0, "value"),
        CASE("True", 0, "value"),
        CASE("NaN", 0, "value"),
        CASE("+1", 0, "value"),
        CASE(".5", 0, "value"),
        CASE("-", 0, "number"),
        CASE("01", 0, "number"),
        CASE("1.", 0, "number"),
        CASE("1.e3", 0, "number"),
        CASE("1e", 0, "number"),
        CASE("1e+", 0, "number"),
        CASE("-a", 0, "number"),
        CASE("\xef\xbb\xbf{}", 0, "value"),
        CASE("/* */1", 0, "value"),
        CASE("\"a", 2, "end"),
        CASE("\"a\\", 2, "end"),
        CASE("\"\\\"", 3, "end"),
        CASE("\"\\x41\"", 1, "escape"),
        CASE("\"\\u12\"", 1, "escape"),
        CASE("\"\\u12g4\"", 1, "escape"),
        CASE("\"\\u0000\"", 1, "zero"),
        CASE("\"\0\"", 1, "control"),
        CASE("\"a\nb\"", 2, "control"),
        CASE("\"\x1f\"", 1, "control"),
        CASE("\"\\ud800\"", 1, "surrogate"),
        CASE("\"\\ud800\\n\"", 1, "surrogate"),
        CASE("\"\\ud800\\u0041\"", 1, "surrogate"),
        CASE("\"\\udc00\"", 1, "surrogate"),
        CASE("\"\xff\"", 1, "UTF-8"),
        CASE("\"\xc0\x80\"", 1, "UTF-8"),
        CASE("\"\xc1\xbf\"", 1, "UTF-8"),
        CASE("\"\xe0\x9f\xbf\"", 1, "UTF-8"),
        CASE("\"\xed\xa0\x80\"", 1, "UTF-8"),
        CASE("\"\xf0\x8f\xbf\xbf\"", 1, "UTF-8"),
        CASE("\"\xf4\x90\x80\x80\"", 1, "UTF-8"),
        CASE("\"\xf5\x80\x80\x80\"", 1, "UTF-8"),
        CASE("\"\x80\"", 1, "UTF-8"),
        CASE("\"\xe2\x82\"", 1, "UTF-8"),
        CASE("\"\xc3", 1, "UTF-8"),
        CASE("[[[[[[[[[1]]]]]]]]]", 8, "deeply"),
#undef CASE
    };
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        char got[4096];
        kd__json j;
        tokens(cases[i].text, cases[i].size, got, &j);
        CHECK_MSG(got[strlen(got) - 1] == '!', "case %zu: %s was accepted: %s", i, cases[i].text, got);
        CHECK_MSG(j.error && strstr(j.error, cases[i].error), "case %zu: %s: \"%s\" lacks \"%s\"", i, cases[i].text,
                  j.error, cases[i].error);
        CHECK_MSG(j.at == cases[i].at, "case %zu: %s: at %zu, wanted %zu", i, cases[i].text, j.at, cases[i].at);
        CHECK_MSG(kd__json_next(&j) == KD__JSON_ERROR, "case %zu: an error does not last", i);
    }
}

TEST(stops_behind_the_value)
{
    char text[] = "{\"a\":1}  x", out[64];
    kd__json j;
    tokens(text, sizeof text - 1, out, &j);
    CHECK_STR(out, "{k:a n:1 }.");
    CHECK(j.at == 7);
}

TEST(depth_is_bounded_not_recursive)
{
    size_t n = 10u << 20;
    char *text = malloc(n);
    if (!CHECK(text != NULL)) return;
    for (size_t i = 0; i < n; i++) text[i] = "[{"[i % 3 == 0];
    memset(text, '[', n);
    kd__json j;
    kd__json_begin(&j, text, n);
    kd__json_token t;
    while ((t = kd__json_next(&j)) > KD__JSON_END) {}
    CHECK(t == KD__JSON_ERROR && strstr(j.error, "deeply") && j.at == KD__JSON_DEPTH);
    free(text);
}

/* Every string of up to four bytes against a table-free definition of UTF-8: decode, encode, compare. */
TEST(utf8_agrees_with_its_definition)
{
    kdtest_rand r = { 7 };
    size_t accepted = 0;
    for (int round = 0; round < 300000; round++) {
        unsigned char s[4];
        size_t n = kdtest_size(&r, 1, 4), i = 0;
        for (size_t k = 0; k < n; k++)   /* mostly lead and continuation bytes */
            s[k] = (unsigned char)(kdtest_size(&r, 0, 3) ? 0x80 | kdtest_size(&r, 0, 127) : kdtest_size(&r, 0, 127));
        int valid = 1;
        while (valid && i < n) {
            unsigned char a = s[i];
            size_t need = a < 0x80 ? 0 : (a & 0xe0) == 0xc0 ? 1 : (a & 0xf0) == 0xe0 ? 2 : (a & 0xf8) == 0xf0 ? 3 : 9;
            uint32_t c = need == 0 ? a : a & (0x3fu >> need);
            valid = need < 4 && i + need < n;
            for (size_t k = 1; valid && k <= need; k++) {
                valid = (s[i + k] & 0xc0) == 0x80;
                c = c << 6 | (s[i + k] & 0x3fu);
            }
            static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };
            valid = valid && c >= least[need] && c <= 0x10ffff && !(c >= 0xd800 && c <= 0xdfff);
            i += need + 1;
        }
        accepted += (size_t)valid;
        if (!CHECK_MSG(kd__utf8_valid((char *)s, n) == valid, "%02x %02x %02x %02x (%zu): wanted %d", s[0], s[1],
                       s[2], s[3], n, valid))
            return;
    }
    CHECK(accepted > 1000);
}
