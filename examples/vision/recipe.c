/* recipe.c - recipes: files of "key = value".
 * SPDX-License-Identifier: MIT */
#include "vision.h"
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char said[1024];
kd_status complain(kd_status st, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(said, sizeof said, format, args);
    va_end(args);
    return st;
}
const char *complaint(void)
{
    return said[0] ? said : kd_last_error();
}

typedef struct key {
    const char *name;
    enum { IS_NUMBER, IS_COUNT, IS_WORD } kind;
    size_t      offset;
    double      fallback, least, most;
    const char *word, *words, *what;
} key;
static const key keys[] = {
#define NUMBER(key, fallback, least, most, what) { #key, IS_NUMBER, offsetof(recipe, key), fallback, least, most, NULL, NULL, what },
#define COUNT(key, fallback, least, most, what)  { #key, IS_COUNT, offsetof(recipe, key), fallback, least, most, NULL, NULL, what },
#define WORD(key, fallback, words, what)         { #key, IS_WORD, offsetof(recipe, key), 0, 0, 0, fallback, words, what },
    RECIPE(NUMBER, COUNT, WORD)
#undef NUMBER
#undef COUNT
#undef WORD
};
enum { KEYS = sizeof keys / sizeof *keys };

static double *number_at(recipe *r, const key *k) { return (double *)(void *)((char *)r + k->offset); }
static char *word_at(recipe *r, const key *k) { return (char *)r + k->offset; }

void recipe_defaults(recipe *r)
{
    for (size_t i = 0; i < KEYS; i++)
        if (keys[i].kind != IS_WORD) *number_at(r, &keys[i]) = keys[i].fallback;
        else snprintf(word_at(r, &keys[i]), 64, "%s", keys[i].word);
}

/* `word` is one of the words of `list`. */
static int listed(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = list; n && (at = strstr(at, word)); at += n)
        if ((at == list || at[-1] == ' ') && (at[n] == ' ' || !at[n])) return 1;
    return 0;
}

kd_status recipe_set(recipe *r, const char *assignment, const char *where)
{
    char name[64], value[64], *end;
    int read = 0;
    if (sscanf(assignment, " %63[a-z0-9_] = %63s %n", name, value, &read) != 2 || assignment[read])
        return complain(KD_ERR_ARG, "%s: \"%s\" is not \"key = value\"", where, assignment);
    for (size_t i = 0; i < KEYS; i++) {
        const key *k = &keys[i];
        if (strcmp(k->name, name)) continue;
        if (k->kind == IS_WORD) {
            if (k->words && !listed(k->words, value))
                return complain(KD_ERR_ARG, "%s: %s is \"%s\", which is none of: %s", where, name, value, k->words);
            snprintf(word_at(r, k), 64, "%s", value);
            return KD_OK;
        }
        double v = strtod(value, &end);
        if (*end || !(v >= k->least && v <= k->most))
            return complain(KD_ERR_ARG, "%s: %s is \"%s\"; it takes a number from %g to %g", where, name, value, k->least, k->most);
        if (k->kind == IS_COUNT && v != floor(v)) return complain(KD_ERR_ARG, "%s: %s is %s, not a whole number", where, name, value);
        *number_at(r, k) = v;
        return KD_OK;
    }
    return complain(KD_ERR_ARG, "%s: there is no key \"%s\" (distill_vision --keys lists them)", where, name);
}

kd_status recipe_read(recipe *student, recipe *teacher, const char *path)
{
    char line[256], where[TEXT];
    int teacher_only = 0;
    kd_status st = KD_OK;
    FILE *f = fopen(path, "r");
    if (!f) return complain(KD_ERR_IO, "%s: %s", path, strerror(errno));
    for (size_t number = 1; st == KD_OK && fgets(line, sizeof line, f); number++) {
        snprintf(where, sizeof where, "%s, line %zu", path, number);
        if (!strchr(line, '\n') && !feof(f)) {
            st = complain(KD_ERR_FORMAT, "%s: longer than %zu bytes", where, sizeof line - 2);
            break;
        }
        line[strcspn(line, "#\r\n")] = 0;
        char *at = line + strspn(line, " \t");
        if (!*at) continue;
        for (char *e = at + strlen(at); e > at && (e[-1] == ' ' || e[-1] == '\t');) *--e = 0;
        if (!strcmp(at, "[teacher]")) teacher_only = 1;
        else if (*at == '[') st = complain(KD_ERR_FORMAT, "%s: \"%s\"; the one section is [teacher]", where, at);
        else {
            if (!teacher_only) st = recipe_set(student, at, where);
            if (st == KD_OK) st = recipe_set(teacher, at, where);
        }
    }
    fclose(f);
    return st;
}

void recipe_format(const recipe *r, char *out, size_t cap)
{
    size_t n = 0;
    *out = 0;
    for (size_t i = 0; i < KEYS && n < cap; i++) {
        const key *k = &keys[i];
        const double *v = (const double *)(const void *)((const char *)r + k->offset);
        if (!strcmp(k->name, "checkpoint_seconds")) continue;   /* changes nothing */
        if (k->kind == IS_WORD && strcmp((const char *)r + k->offset, k->word))
            n += (size_t)snprintf(out + n, cap - n, "%s = %s\n", k->name, (const char *)r + k->offset);
        if (k->kind != IS_WORD && !isnan(*v) && *v != k->fallback)
            n += (size_t)snprintf(out + n, cap - n, "%s = %.9g\n", k->name, *v);
    }
}

void recipe_explain(void)
{
    for (size_t i = 0; i < KEYS; i++) {
        const key *k = &keys[i];
        char value[80];
        if (k->kind == IS_WORD) snprintf(value, sizeof value, "%s", k->word);
        else if (isnan(k->fallback)) snprintf(value, sizeof value, "the method's");
        else snprintf(value, sizeof value, "%g", k->fallback);
        printf("  %-20s %-14s %s%s%s%s\n", k->name, value, k->what, k->words ? " (" : "", k->words ? k->words : "", k->words ? ")" : "");
    }
}
