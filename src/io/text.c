/* text.c - a text buffer that grows, for headers about to be written.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"

void kd__text_put(kd__text *text, const char *data, size_t bytes)
{
    size_t need;
    if (text->failed) return;
    if (!kd__add(text->size, bytes, &need) || kd__grow(text->ctx, &text->data, &text->capacity, need, 1) != KD_OK) {
        text->failed = true;
        return;
    }
    memcpy(text->data + text->size, data, bytes);
    text->size = need;
}

void kd__text_string(kd__text *text, const char *string) { kd__text_put(text, string, strlen(string)); }

void kd__text_u64(kd__text *text, uint64_t value)
{
    char digits[24];
    kd__text_put(text, digits, kd__format(digits, sizeof digits, "%llu", (unsigned long long)value));
}

void kd__text_json(kd__text *text, const char *string)
{
    kd__text_put(text, "\"", 1);
    for (const char *p = string; *p;) {
        size_t plain = 0;
        while ((unsigned char)p[plain] >= 0x20 && p[plain] != '"' && p[plain] != '\\') plain++;
        kd__text_put(text, p, plain);
        p += plain;
        if (!*p) break;
        static const char letters[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
        const char *known = strchr(letters, *p);
        char escape[8];
        if (known) kd__format(escape, sizeof escape, "\\%c", names[known - letters]);
        else kd__format(escape, sizeof escape, "\\u%04x", (unsigned)(unsigned char)*p);
        kd__text_string(text, escape);
        p++;
    }
    kd__text_put(text, "\"", 1);
}
