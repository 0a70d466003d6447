/* test_docs.c - the documents are true: every C block is a program that runs, or stands line for line in a source file; what a shell
 * block names is there, and what is cheap of it runs; every relative link leads somewhere.
 * SPDX-License-Identifier: MIT */
#include <glob.h>
#include <stdlib.h>
#include <unistd.h>
#include "kdtest_tools.h"

enum { MAX_LINES = 400, MAX_PROGRAMS = 100 };

/* The lines of text without indentation, trailing blanks and empty lines; cuts text up. */
static size_t trimmed_lines(char *text, char **lines, size_t cap)
{
    size_t count = 0;
    for (char *line; count < cap && (line = kdtest_line(&text));) {
        line += strspn(line, " ");
        size_t n = strlen(line);
        while (n && (line[n - 1] == ' ' || line[n - 1] == '\r')) line[--n] = 0;
        if (n) lines[count++] = line;
    }
    return count;
}

/* NULL where a program can be linked against the library under test and run, else why not. */
static const char *no_programs(void)
{
#ifdef KDTEST_SANITIZED
    return "a sanitized library needs the flags it was built with";
#else
    return kdtest_emulated() ? "not this machine's code" : NULL;
#endif
}

/* ---- programs: compiled together, as functions of one program, and run one by one ------------------------------------------ */

typedef struct program {
    char place[300];   /* document:line */
    char args[300];
    int  takes_void, support;
} program;

static program programs[MAX_PROGRAMS];
static size_t program_count;

static FILE *tmp_file(const char *name)
{
    char path[800];
    snprintf(path, sizeof path, "%s/%s", kdtest_tmp(), name);
    FILE *f = fopen(path, "w");
    if (!f) exit(1);
    return f;
}

/* A program of a document, or with source one of the tree that a shell block runs. */
static void add_program(const char *doc, size_t line, const char *text, const char *source, const char *args)
{
    if (!CHECK(program_count < MAX_PROGRAMS)) return;
    program *p = &programs[program_count];
    char name[40];
    snprintf(p->place, sizeof p->place, "%s:%zu", doc, line);
    snprintf(p->args, sizeof p->args, "%s", args);
    p->takes_void = strstr(text, "int main(void)") != NULL;
    p->support = strstr(text, "\"support/") != NULL;
    snprintf(name, sizeof name, "program%zu.c", program_count);
    FILE *f = tmp_file(name);
    fprintf(f, "#define main program%zu\n%s\n", program_count, p->takes_void ? "" : "int main(int argc, char **argv);");
    if (source) fprintf(f, "#include \"%s/%s\"\n", kdtest_root(), source);
    else fprintf(f, "#line %zu \"%s\"\n%s\n", line + 1, doc, text);
    fclose(f);
    program_count++;
}

static int compile_programs(void)
{
    int support = 0, status;
    FILE *f = tmp_file("runner.c");
    fprintf(f, "#include <stdlib.h>\n");
    for (size_t i = 0; i < program_count; i++) {
        fprintf(f, "int program%zu(%s);\n", i, programs[i].takes_void ? "void" : "int argc, char **argv");
        support |= programs[i].support;
    }
    fprintf(f, "int main(int argc, char **argv)\n{\n    switch (atoi(argv[1])) {\n");
    for (size_t i = 0; i < program_count; i++)
        fprintf(f, "    case %zu: return program%zu(%s);\n", i, i, programs[i].takes_void ? "" : "argc - 1, argv + 1");
    fprintf(f, "    }\n    return argc < 0;\n}\n");
    fclose(f);
    char *output = kdtest_run(&status, "%s -std=c11 -D_DEFAULT_SOURCE -O1 -Wall -Werror -Iinclude -Iexamples %s/program*.c"
                              " %s/runner.c %s '%s/libkd.a' %s -lm -pthread -o %s/runner", kdtest_cc(), kdtest_tmp(), kdtest_tmp(),
                              support ? "examples/support/*.c" : "", kdtest_out(), strstr(kd_build_info(), "with BLIS") ? "-lblis" : "",
                              kdtest_tmp());
    CHECK_MSG(status == 0, "a program of the documents does not compile:\n%s", output);
    free(output);
    return status == 0;
}

/* ---- C blocks --------------------------------------------------------------------------------------------------------------- */

static int quoted_in(const char *path, char *const *block, size_t block_count)
{
    enum { CAP = 20000 };
    char *text = kdtest_read(path, NULL), **lines = malloc(CAP * sizeof *lines);
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

static void for_each(const char *const *places, size_t count, void (*fn)(const char *path, void *user), void *user)
{
    for (size_t i = 0; i < count; i++) {
        char pattern[800];
        glob_t g;
        snprintf(pattern, sizeof pattern, "%s/%s", kdtest_root(), places[i]);
        if (glob(pattern, 0, NULL, &g) != 0) continue;
        for (size_t k = 0; k < g.gl_pathc; k++) fn(g.gl_pathv[k] + strlen(kdtest_root()) + 1, user);
        globfree(&g);
    }
}

typedef struct quotation {
    char *const *block;
    size_t count;
    int found;
} quotation;

static void look_in(const char *path, void *user)
{
    quotation *q = user;
    if (!q->found) q->found = quoted_in(path, q->block, q->count);
}

static void check_c_block(const char *doc, size_t line, char *text)
{
    static const char *const places[] = { "examples/*.[ch]", "examples/*/*.[ch]", "include/*.h", "include/*/*.h", "src/*/*.[ch]",
                                          "src/*/*.def", "tests/*/*.[ch]" };
    char *lines[MAX_LINES];
    if (strstr(text, "int main(")) {
        add_program(doc, line, text, NULL, "");
        return;
    }
    quotation q = { lines, trimmed_lines(text, lines, MAX_LINES), 0 };
    if (q.count) for_each(places, sizeof places / sizeof *places, look_in, &q);
    CHECK_MSG(q.found, "%s:%zu: this block is neither a program with a main nor lines of a source file", doc, line);
}

/* ---- shell blocks ------------------------------------------------------------------------------------------------------------ */

/* make TARGET VARIABLE=..: the Makefile has both. */
static void check_make(const char *doc, size_t line, char *words)
{
    static char *makefile;
    char needle[300];
    if (!makefile) makefile = kdtest_read("Makefile", NULL);
    for (char *w = strtok(words, " "); w && *w != '#'; w = strtok(NULL, " ")) {
        char *value = strchr(w, '=');
        if (*w == '-') continue;
        if (value) snprintf(needle, sizeof needle, "$(%.*s)", (int)(value - w), w);
        else snprintf(needle, sizeof needle, "\n%s:", w);
        CHECK_MSG(strstr(makefile, needle) != NULL, "%s:%zu: the Makefile knows no %s", doc, line, w);
        if (value && (value[1] == '"' || value[1] == '\'')) {   /* a value with blanks */
            char quote = value[1];
            while (w && w[strlen(w) - 1] != quote) w = strtok(NULL, " ");
            if (!w) break;
        }
    }
}

/* A line that links the library as it lies in the tree, run beside an app.c. */
static void run_compiler(const char *doc, size_t line, const char *command)
{
    int status;
    if (no_programs() || strstr(kd_build_info(), "with BLIS")) return;
    if (!strstr(command, " lib/libkd.a") || !strstr(command, "app.c")) return;
    FILE *f = tmp_file("app.c");
    fprintf(f, "#include <kd.h>\nint main(void) { return kd_version() != KD_VERSION; }\n");
    fclose(f);
    char *output = kdtest_run(&status, "cd %s && ln -sf '%s/include' . && mkdir -p lib && ln -sf '%s/%s/libkd.a' lib/ && %s", kdtest_tmp(),
                              kdtest_root(), kdtest_root(), kdtest_out(), command);
    CHECK_MSG(status == 0, "%s:%zu: %s\n%s", doc, line, command, output);
    free(output);
}

static void check_sh_block(const char *doc, size_t line, char *text)
{
    char word[128], path[300], *rest = text;
    for (char *s; (s = kdtest_line(&rest));) {
        line++;
        s += strspn(s, " ");
        if (!strncmp(s, "make help", 9) || !strncmp(s, "make info", 9)) {
            int status;
            char *output = kdtest_run(&status, "MAKEFLAGS= %.9s", s);
            CHECK_MSG(status == 0, "%s:%zu: %s\n%s", doc, line, s, output);
            free(output);
        }
        if (!strncmp(s, "make", 4) && (s[4] == ' ' || !s[4])) check_make(doc, line, s + 4);
        else if (!strncmp(s, "cc ", 3)) run_compiler(doc, line, s);
        else if (sscanf(s, "sh %127[^ ]", word) == 1) {
            CHECK_MSG(access(word, R_OK) == 0, "%s:%zu: there is no %s", doc, line, word);
        } else if (sscanf(s, "lib/examples/%127[a-z_0-9]", word) == 1) {
            snprintf(path, sizeof path, "examples/%s.c", word);
            char *source = access(path, R_OK) == 0 ? kdtest_read(path, NULL) : NULL;
            CHECK_MSG(source != NULL, "%s:%zu: there is no %s", doc, line, path);
            if (source) add_program(doc, line, source, path, s + strcspn(s, " "));
            free(source);
        }
    }
}

/* ---- links --------------------------------------------------------------------------------------------------------------------- */

/* [text](target#part): a relative target exists, and in a page of the reference the part. */
static void check_links(const char *doc, const char *text)
{
    char dir[512];
    snprintf(dir, sizeof dir, "%s", doc);
    if (strrchr(dir, '/')) *strrchr(dir, '/') = 0;
    else strcpy(dir, ".");
    for (const char *p = text; (p = strstr(p, "](")) != NULL; p += 2) {
        char target[256], part[128] = "", path[800], needle[160];
        if (sscanf(p + 2, "%255[^)# \n]#%127[^) \n]", target, part) < 1 || strstr(target, "://")) continue;
        snprintf(path, sizeof path, "%s/%s", dir, target);
        if (!CHECK_MSG(access(path, F_OK) == 0, "%s: the link to %s leads nowhere", doc, target)) continue;
        if (strncmp(part, "kd_", 3) != 0 && strncmp(part, "KD_", 3) != 0) continue;
        static char cached[800], *page;
        if (strcmp(cached, path) != 0) {
            free(page);
            page = kdtest_read(path, NULL);
            snprintf(cached, sizeof cached, "%s", path);
        }
        snprintf(needle, sizeof needle, "<a id=\"%s\">", part);
        CHECK_MSG(page && strstr(page, needle), "%s: %s has no %s", doc, target, part);
    }
}

static size_t lines_before(const char *text, const char *end)
{
    size_t n = 1;
    for (; text < end; text++) n += *text == '\n';
    return n;
}

static void check_document(const char *doc, void *user)
{
    char *text = kdtest_read(doc, NULL), *from = text;
    ++*(size_t *)user;
    if (!text) return;
    check_links(doc, text);
    size_t line = 1;
    int made = strncmp(text, "<!-- made by", 12) == 0;   /* what it shows are prototypes, compared with the headers: test_reference.c */
    for (char *p = text; !made && (p = strstr(p, "\n```")) != NULL;) {
        char *language = p + 4, *body = strchr(language, '\n'), *end = body ? strstr(body, "\n```") : NULL;
        line += lines_before(from, language) - 1;
        if (!CHECK_MSG(end != NULL, "%s:%zu: a block without an end", doc, line)) break;
        size_t block = lines_before(language, end + 1) - 1;
        *end = 0;
        if (!strncmp(language, "c\n", 2)) check_c_block(doc, line, body + 1);
        else if (!strncmp(language, "sh\n", 3)) check_sh_block(doc, line, body + 1);
        line += block;
        p = from = end + 4;
    }
    free(text);
}

TEST(documents)
{
    static const char *const places[] = { "README.md", "docs/*.md", "docs/*/*.md", "examples/*/*.md" };
    size_t documents = 0;
    if (!CHECK(chdir(kdtest_root()) == 0)) return;
    for_each(places, sizeof places / sizeof *places, check_document, &documents);
    CHECK(documents > 3);
}

TEST(programs)
{
    CHECK(program_count > 1);
    if (no_programs()) {
        kdtest_skip(no_programs());
        return;
    }
    if (!compile_programs()) return;
    for (size_t i = 0; i < program_count; i++) {
        int status;
        char *output = kdtest_run(&status, "cd %s && ln -sfn '%s/examples' examples && ./runner %zu %s", kdtest_tmp(), kdtest_root(), i,
                                  programs[i].args);
        CHECK_MSG(status == 0, "%s: this program ends with %d:\n%s", programs[i].place, status, output);
        free(output);
    }
}
