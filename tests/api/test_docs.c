/* test_docs.c - what the documents quote exists: every C block is a program that runs, or stands line for line in a source file; every
 * make target and example that a shell block names is there; every relative link leads somewhere.
 * SPDX-License-Identifier: MIT */
#include <glob.h>
#include <stdlib.h>
#include <unistd.h>
#include "kdtest.h"

enum { MAX_LINES = 400 };

static char *slurp(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    if (n >= 0 && (text = malloc((size_t)n + 1)) != NULL) text[fread(text, 1, (size_t)n, f)] = 0;
    fclose(f);
    return text;
}

/* The lines of text without indentation, trailing blanks and empty lines; cuts text up. */
static size_t trimmed_lines(char *text, char **lines, size_t cap)
{
    size_t count = 0;
    for (char *p = text; p && *p && count < cap;) {
        char *end = strchr(p, '\n'), *next = end ? end + 1 : NULL;
        if (end) *end = 0;
        while (*p == ' ') p++;
        size_t n = strlen(p);
        while (n && (p[n - 1] == ' ' || p[n - 1] == '\r')) p[--n] = 0;
        if (n) lines[count++] = p;
        p = next;
    }
    return count;
}

static int quoted_in(const char *path, char *const *block, size_t block_count)
{
    enum { CAP = 20000 };
    char *text = slurp(path), **lines = malloc(CAP * sizeof *lines);
    int found = 0;
    if (text && lines) {
        size_t count = trimmed_lines(text, lines, CAP);
        for (size_t i = 0; !found && i + block_count <= count; i++) {
            size_t k = 0;
            while (k < block_count && !strcmp(lines[i + k], block[k])) k++;
            found = k == block_count;
        }
    }
    free(text);
    free(lines);
    return found;
}

static int quoted_somewhere(char *const *block, size_t count)
{
    static const char *const places[] = { "examples/*.[ch]", "examples/*/*.[ch]", "include/*.h", "include/*/*.h", "src/*/*.[ch]",
                                          "src/*/*.def", "tests/*/*.[ch]" };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char pattern[512];
        glob_t g;
        int found = 0;
        snprintf(pattern, sizeof pattern, "%s/%s", KD_TEST_ROOT, places[i]);
        if (glob(pattern, 0, NULL, &g) == 0) {
            for (size_t k = 0; !found && k < g.gl_pathc; k++) found = quoted_in(g.gl_pathv[k], block, count);
            globfree(&g);
        }
        if (found) return 1;
    }
    return 0;
}

static void run_program(const char *doc, const char *text)
{
    char source[600], command[2400];
    const char *cc = getenv("KD_CC"), *out = getenv("KD_OUT");
    snprintf(source, sizeof source, "%s/snippet.c", kdtest_tmp());
    FILE *f = fopen(source, "w");
    if (!CHECK(f != NULL)) return;
    fputs(text, f);
    fclose(f);
    snprintf(command, sizeof command,
             "cd %s && %s -std=c11 -Wall -Werror -I%s/include snippet.c %s/%s/libkd.a -lm -pthread -o snippet && ./snippet >/dev/null",
             kdtest_tmp(), cc ? cc : "cc", KD_TEST_ROOT, KD_TEST_ROOT, out ? out : "lib");
    CHECK_MSG(system(command) == 0, "%s: a program in it does not compile or run", doc);
}

static void check_c_block(const char *doc, char *text)
{
    char *lines[MAX_LINES];
    if (strstr(text, "int main(")) {
        run_program(doc, text);
        return;
    }
    size_t count = trimmed_lines(text, lines, MAX_LINES);
    CHECK_MSG(count && quoted_somewhere(lines, count), "%s: the block beginning \"%s\" is in no source file", doc, count ? lines[0] : "");
}

static void check_sh_block(const char *doc, char *text)
{
    static char *makefile;
    char *lines[MAX_LINES], word[128], needle[160];
    if (!makefile) makefile = slurp(KD_TEST_ROOT "/Makefile");
    size_t count = trimmed_lines(text, lines, MAX_LINES);
    for (size_t i = 0; makefile && i < count; i++) {
        if (sscanf(lines[i], "make %127[a-z-]", word) == 1 && strcmp(word, "-") != 0 && word[0] != '-') {
            snprintf(needle, sizeof needle, "\n%s:", word);
            CHECK_MSG(strstr(makefile, needle) != NULL, "%s: \"%s\": no such target", doc, lines[i]);
        }
        if (sscanf(lines[i], "lib/examples/%127[a-z_0-9]", word) == 1) {
            char path[512];
            snprintf(path, sizeof path, "%s/examples/%s.c", KD_TEST_ROOT, word);
            CHECK_MSG(access(path, R_OK) == 0, "%s: \"%s\": no such example", doc, lines[i]);
        }
    }
}

/* [text](target): a relative target exists. */
static void check_links(const char *doc, const char *text)
{
    char dir[512];
    snprintf(dir, sizeof dir, "%s", doc);
    *strrchr(dir, '/') = 0;
    for (const char *p = text; (p = strstr(p, "](")) != NULL; p += 2) {
        char target[256], path[800];
        if (sscanf(p + 2, "%255[^)# \n]", target) != 1 || strstr(target, "://")) continue;
        snprintf(path, sizeof path, "%s/%s", dir, target);
        CHECK_MSG(access(path, F_OK) == 0, "%s: the link to %s leads nowhere", doc, target);
    }
}

static void check_document(const char *doc)
{
    char *text = slurp(doc);
    if (!CHECK(text != NULL)) return;
    check_links(doc, text);
    for (char *p = text; (p = strstr(p, "\n```")) != NULL;) {
        char *language = p + 4, *body = strchr(language, '\n'), *end = body ? strstr(body, "\n```") : NULL;
        if (!CHECK_MSG(end != NULL, "%s: a block without an end", doc)) break;
        *end = 0;
        if (!strncmp(language, "c\n", 2)) check_c_block(doc, body + 1);
        else if (!strncmp(language, "sh\n", 3)) check_sh_block(doc, body + 1);
        p = end + 4;
    }
    free(text);
}

TEST(documents)
{
    static const char *const places[] = { "README.md", "docs/*.md", "docs/*/*.md", "examples/*/*.md" };
    size_t documents = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char pattern[512];
        glob_t g;
        snprintf(pattern, sizeof pattern, "%s/%s", KD_TEST_ROOT, places[i]);
        if (glob(pattern, 0, NULL, &g) != 0) continue;
        for (size_t k = 0; k < g.gl_pathc; k++, documents++) check_document(g.gl_pathv[k]);
        globfree(&g);
    }
    CHECK(documents > 3);
}
