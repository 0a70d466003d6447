/* amalgamate.c - make kd.c, kd.h and kd_single.h: the whole library in one file.   amalgamate FOLDER   (from the top of the tree)
 *
 * Files are joined in the order of the rooms; headers come once, lists (.def) at each place.  What makes one file of many:
 *   - a name that a .c file keeps to itself (static, typedef, tag, enumerator) becomes kd__FILE_name, wherever that file says it; a
 *     member after '.' or '->', or declared in a struct, stays.  Of names that are pasted together, the head counts: tile_ ## n.
 *   - a macro of a .c file is undefined at its end, one of a header at the end of all;
 *   - functions and tables that cross files become static: KD_PRIVATE stands before what inner headers declare;
 *   - kernels are written once per instruction set, under that set's target; their names carry it: kd__avx2_v_load;
 *   - contraction is off by pragma, for every function.
 * Only the tokens are looked at, so the sources keep to plain C: what cannot be told apart here, does not compile.
 * SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("amalgamate: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void *need(void *ptr)
{
    if (!ptr) die("out of memory");
    return ptr;
}

/* ---- text, and lists of names -------------------------------------------------------------------------------- */

typedef struct text { char *s; size_t n, cap; } text;

static void add_n(text *t, const char *s, size_t n)
{
    if (t->n + n + 1 > t->cap) t->s = need(realloc(t->s, t->cap = (t->n + n + 1) * 2));
    memcpy(t->s + t->n, s, n);
    t->s[t->n += n] = 0;
}
static void add(text *t, const char *s) { add_n(t, s, strlen(s)); }

typedef struct names { char **s; size_t n; } names;

static bool has(const names *list, const char *s, size_t n)
{
    for (size_t i = 0; i < list->n; i++)
        if (strncmp(list->s[i], s, n) == 0 && !list->s[i][n]) return true;
    return false;
}
static void put(names *list, const char *s, size_t n)
{
    if (has(list, s, n)) return;
    list->s = need(realloc(list->s, (list->n + 1) * sizeof *list->s));
    char *copy = need(malloc(n + 1));
    memcpy(copy, s, n);
    copy[n] = 0;
    list->s[list->n++] = copy;
}
static bool has_text(const names *list, const char *s) { return has(list, s, strlen(s)); }
static void put_text(names *list, const char *s) { put(list, s, strlen(s)); }

static void read_file(text *t, const char *path)
{
    char block[4096];
    FILE *f = fopen(path, "rb");
    if (!f) die("%s: %s", path, strerror(errno));
    for (size_t n; (n = fread(block, 1, sizeof block, f));) add_n(t, block, n);
    if (ferror(f)) die("%s: cannot read", path);
    fclose(f);
    if (!t->n || t->s[t->n - 1] != '\n') die("%s: does not end with a newline", path);
}

/* ---- tokens -------------------------------------------------------------------------------------------------- */

typedef enum kind { SPACE, NEWLINE, COMMENT, NAME, NUMBER, STRING, PUNCT } kind;
typedef struct token {
    const char *s;
    size_t      n;
    kind        kind;
    int         directive;   /* 0, or the number of the directive that it is part of */
    bool        member;      /* names a member of a struct */
} token;
typedef struct file {
    const char *path, *stem;
    text        body;
    token      *t;
    size_t      n;
    bool        vector;      /* a header that comes once per instruction set */
    names       own, heads;  /* names to rename; heads of pasted names */
    names       macros;
} file;

static bool is(const token *t, const char *s) { return strlen(s) == t->n && memcmp(t->s, s, t->n) == 0; }
/* static, or a macro that says so */
static bool is_static_word(const token *t) { return is(t, "static") || (t->n > 2 && memcmp(t->s, "V_", 2) == 0); }
static bool solid(const token *t) { return t->kind > COMMENT; }

static void split(file *f)
{
    const char *p = f->body.s, *start = p;
    int directives = 0, inside = 0;
    bool fresh = true;   /* nothing but blanks on this line so far */
    f->t = need(malloc((f->body.n + 1) * sizeof *f->t));
    while (*p) {
        start = p;
        kind k = PUNCT;
        if (*p == '\n') {
            k = NEWLINE, p++;
        } else if (isspace((unsigned char)*p) || (*p == '\\' && p[1] == '\n')) {
            k = SPACE, p += *p == '\\' ? 2 : 1;
        } else if (*p == '/' && p[1] == '*') {
            p = strstr(p + 2, "*/");
            if (!p) die("%s: a comment without an end", f->path);
            k = COMMENT, p += 2;
        } else if (*p == '/' && p[1] == '/') {
            die("%s: a comment with //", f->path);
        } else if (isalpha((unsigned char)*p) || *p == '_') {
            k = NAME;
            while (isalnum((unsigned char)*p) || *p == '_') p++;
        } else if (isdigit((unsigned char)*p) || (*p == '.' && isdigit((unsigned char)p[1]))) {
            k = NUMBER;
            for (p++; isalnum((unsigned char)*p) || *p == '_' || *p == '.' || ((*p == '+' || *p == '-') && strchr("eEpP", p[-1])); p++)
                continue;
        } else if (*p == '"' || *p == '\'') {
            k = STRING;
            for (p++; *p && *p != *start; p++)
                if (*p == '\\') p++;
            if (!*p++) die("%s: a string without an end", f->path);
        } else if ((*p == '-' && p[1] == '>') || (*p == '#' && p[1] == '#')) {
            p += 2;
        } else {
            p++;
        }
        if (k == NEWLINE) inside = 0, fresh = true;
        if (fresh && *start == '#' && k == PUNCT) inside = ++directives;
        if (k > COMMENT) fresh = false;
        f->t[f->n++] = (token){ start, (size_t)(p - start), k, inside, false };
    }
}

/* The next solid token of code from i on; f->n at the end. */
static size_t code_at(const file *f, size_t i)
{
    while (i < f->n && (!solid(&f->t[i]) || f->t[i].directive)) i++;
    return i;
}
static size_t next(const file *f, size_t i) { return code_at(f, i + 1); }

/* The next solid token of the same directive; f->n at its end. */
static size_t next_in(const file *f, size_t i)
{
    int d = f->t[i].directive;
    for (i++; i < f->n && f->t[i].directive == d; i++)
        if (solid(&f->t[i])) return i;
    return f->n;
}

static size_t closing(const file *f, size_t i)   /* of the bracket at i */
{
    int depth = 0;
    for (; i < f->n; i = next(f, i)) {
        if (strchr("({[", *f->t[i].s) && f->t[i].kind == PUNCT) depth++;
        if (strchr(")}]", *f->t[i].s) && f->t[i].kind == PUNCT && --depth == 0) return i;
    }
    die("%s: a bracket without an end", f->path);
    return 0;
}

/* ---- the names of a file ------------------------------------------------------------------------------------- */

static bool prefixed(const token *t) { return t->n >= 3 && (memcmp(t->s, "kd_", 3) == 0 || memcmp(t->s, "KD_", 3) == 0); }

static void own(file *f, size_t i)
{
    if (f->t[i].kind == NAME && (f->vector || !prefixed(&f->t[i]))) put(&f->own, f->t[i].s, f->t[i].n);
}

/* Members keep their names: those declared in [begin, end), the body of a struct. */
static void mark_members(file *f, size_t begin, size_t end)
{
    size_t before = begin;
    int parens = 0;
    for (size_t i = next(f, begin); i < end; before = i, i = next(f, i)) {
        size_t after = next(f, i);
        if (*f->t[i].s == '(') parens++;
        if (*f->t[i].s == ')') parens--;
        if (f->t[i].kind != NAME) continue;
        if (is(&f->t[after], ")")) f->t[i].member = parens == 1 && is(&f->t[before], "*");
        else if (!parens && f->t[after].n == 1 && strchr(";,[:", *f->t[after].s)) f->t[i].member = !is(&f->t[before], "[");
    }
}

/* Every struct, also those inside functions; and what follows '.' and '->'. */
static void find_members(file *f)
{
    for (size_t i = code_at(f, 0), before = f->n; i < f->n; before = i, i = next(f, i)) {
        if (f->t[i].kind == NAME && before < f->n && (is(&f->t[before], ".") || is(&f->t[before], "->"))) f->t[i].member = true;
        if (!is(&f->t[i], "struct") && !is(&f->t[i], "union")) continue;
        size_t body = next(f, i);
        if (body < f->n && f->t[body].kind == NAME) body = next(f, body);
        if (body < f->n && is(&f->t[body], "{")) mark_members(f, body, closing(f, body));
    }
    for (size_t i = 0, before = f->n; i < f->n; i++) {
        if (!f->t[i].directive || !solid(&f->t[i])) continue;
        if (before < f->n && (is(&f->t[before], ".") || is(&f->t[before], "->"))) f->t[i].member = f->t[i].kind == NAME;
        before = i;
    }
}

/* One declaration at file scope from i on; returns the token behind it. */
static size_t find_declared(file *f, size_t i)
{
    bool is_static = false, is_typedef = false, value = false, named = false;
    size_t function = f->n, last = f->n;
    for (; i < f->n; i = next(f, i)) {
        token *t = &f->t[i];
        if (is_static_word(t)) is_static = true;
        if (is(t, "typedef")) is_typedef = true;
        if (is(t, "struct") || is(t, "union") || is(t, "enum")) {
            bool is_enum = is(t, "enum");
            size_t body = next(f, i);
            if (body < f->n && f->t[body].kind == NAME) body = next(f, body);
            if (body >= f->n || !is(&f->t[body], "{")) continue;
            if (next(f, i) != body) own(f, next(f, i));
            size_t end = closing(f, body);
            if (is_enum)
                for (size_t k = body; k < end; k = next(f, k))
                    if (is(&f->t[k], "{") || is(&f->t[k], ",")) own(f, next(f, k));
            i = end;
            last = f->n;
            continue;
        }
        if (is(t, "(")) {
            size_t star = next(f, i), end = closing(f, i);
            if (!value && is(&f->t[star], "*") && (is_typedef || is_static) && function == f->n) {   /* (*name)(...) */
                own(f, next(f, star));
                named = true;
            } else if (!value && last < f->n && !is(&f->t[last], "__attribute__") && !is(&f->t[last], "_Alignas") &&
                       !is(&f->t[last], "_Atomic")) {
                function = last;
            }
            i = end;
            continue;
        }
        if (is(t, "[")) {
            if (!named && !value && (is_static || is_typedef) && last < f->n) own(f, last);
            named = true;
            i = closing(f, i);
            continue;
        }
        if (is(t, "=")) {
            if (!named && is_static && last < f->n) own(f, last);
            value = named = true;
        } else if (is(t, ",")) {
            if (!named && (is_static || is_typedef) && last < f->n) own(f, last);
            value = named = false;
        } else if (is(t, "{")) {
            i = closing(f, i);
            if (value) continue;
            if (is_static && function < f->n) own(f, function);
            return next(f, i);
        } else if (is(t, ";")) {
            if (!named && is_typedef && last < f->n) own(f, last);
            else if (!named && is_static && !value) own(f, function < f->n ? function : last);
            return next(f, i);
        } else if (t->kind == NAME) {
            last = i;
        }
    }
    return f->n;
}

static void find_names(file *f)
{
    for (size_t i = code_at(f, 0); i < f->n;) i = find_declared(f, i);
    /* macros, and in them heads of pasted names: a ## b, a no parameter */
    for (size_t i = 0; i < f->n; i++) {
        if (!f->t[i].directive || !is(&f->t[i], "#") || (i && f->t[i - 1].directive == f->t[i].directive)) continue;
        size_t word = next_in(f, i);
        if (word == f->n || !is(&f->t[word], "define")) continue;
        size_t name = next_in(f, word), k = name + 1;
        put(&f->macros, f->t[name].s, f->t[name].n);
        names params = { 0 };
        if (is(&f->t[k], "("))
            for (; !is(&f->t[k], ")"); k++)
                if (f->t[k].kind == NAME) put(&params, f->t[k].s, f->t[k].n);
        for (size_t before = f->n; k < f->n; before = k, k = next_in(f, k)) {
            size_t after = next_in(f, k);
            if (f->t[k].kind != NAME || after == f->n || !is(&f->t[after], "##")) continue;
            if (before < f->n && is(&f->t[before], "##")) continue;
            if (!prefixed(&f->t[k]) && !has(&params, f->t[k].s, f->t[k].n) && islower((unsigned char)*f->t[k].s))
                put(&f->heads, f->t[k].s, f->t[k].n);
        }
    }
}

/* ---- the files ----------------------------------------------------------------------------------------------- */

static file files[1000];
static size_t file_count;

static file *open_file(const char *path)
{
    for (size_t i = 0; i < file_count; i++)
        if (strcmp(files[i].path, path) == 0) return &files[i];
    if (file_count == sizeof files / sizeof *files) die("too many files");
    file *f = &files[file_count++];
    char *copy = need(malloc(2 * strlen(path) + 2)), *stem = copy + strlen(path) + 1;
    strcpy(copy, path);
    strcpy(stem, strrchr(path, '/') + 1);
    stem[strcspn(stem, ".")] = 0;
    f->path = copy;
    f->vector = strncmp(path, "src/simd/", 9) == 0;
    f->stem = stem;
    read_file(&f->body, path);
    split(f);
    find_members(f);
    find_names(f);
    return f;
}

/* What a file includes: the path in the tree, or NULL with the system's name in out. */
static const char *included(const file *f, size_t hash, char *out, size_t cap, bool *system)
{
    size_t word = next_in(f, hash);
    if (word == f->n || !is(&f->t[word], "include")) return NULL;
    size_t what = next_in(f, word);
    *system = *f->t[what].s == '<';
    if (*system) {
        size_t n = (size_t)(strchr(f->t[what].s, '>') - f->t[what].s) + 1;
        snprintf(out, cap, "%.*s", (int)n, f->t[what].s);
    } else {
        int n = (int)f->t[what].n - 2;
        snprintf(out, cap, "%s/%.*s", strncmp(f->t[what].s + 1, "kd/", 3) == 0 ? "include" : "src", n, f->t[what].s + 1);
    }
    return out;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* A header over the vector alphabet: it comes once per instruction set. */
static bool is_vector(const char *path)
{
    if (strncmp(path, "src/simd/", 9) == 0) return true;
    return ends_with(path, ".h") && strstr(open_file(path)->body.s, "#include \"simd/simd.h\"");
}

/* ---- writing ------------------------------------------------------------------------------------------------- */

typedef struct writer {
    text        out;
    names       done;        /* headers written */
    names       macros;      /* of inner headers, to be undefined at the end */
    names       system;      /* headers of the system at the top */
    const char *isa;         /* NULL outside kernels */
    names       shared;      /* names of this set's headers */
    names       shared_heads;
    bool        brief;       /* no comments: the second copy of a kernel */
} writer;

static bool has_head(const names *heads, const token *t)
{
    for (size_t i = 0; i < heads->n; i++) {
        size_t n = strlen(heads->s[i]);
        if (t->n >= n && memcmp(t->s, heads->s[i], n) == 0) return true;
    }
    return false;
}

static void write_name(writer *w, const file *f, const token *t, bool inner)
{
    if (inner && !t->member && t->kind == NAME) {
        bool shared = has(&w->shared, t->s, t->n) || has_head(&w->shared_heads, t);
        if (w->isa && shared) {
            add(&w->out, "kd__");
            add(&w->out, w->isa);
            add(&w->out, "__");
        } else if (has(&f->own, t->s, t->n) || has_head(&f->heads, t)) {
            add(&w->out, "kd__");
            add(&w->out, f->stem);
            if (w->isa) add(&w->out, "_"), add(&w->out, w->isa);
            add(&w->out, "__");
        }
    }
    add_n(&w->out, t->s, t->n);
}

static void write_file(writer *w, const char *path);

/* Headers first, each behind those it includes. */
static void write_headers(writer *w, const char *path, bool vector)
{
    file *f = open_file(path);
    char name[300];
    bool system;
    int depth = 0;
    bool guarded = ends_with(path, ".h");
    for (size_t i = 0; i < f->n; i++) {
        if (!is(&f->t[i], "#") || !f->t[i].directive || (i && f->t[i - 1].directive == f->t[i].directive)) continue;
        size_t word = next_in(f, i);
        if (word < f->n && strncmp(f->t[word].s, "if", 2) == 0) depth++;
        if (word < f->n && is(&f->t[word], "endif")) depth--;
        if (!included(f, i, name, sizeof name, &system)) continue;
        if (system) {
            if (depth <= guarded && !strstr(name, "intrin.h") && !strstr(name, "arm_neon.h")) put_text(&w->system, name);
        } else if (ends_with(name, ".h") && strncmp(name, "include/", 8) != 0 && is_vector(name) == vector) {
            if (vector && strncmp(name, "src/simd/simd_", 14) == 0) continue;   /* in place: which one depends on the set */
            if (has_text(&w->done, name)) continue;
            put_text(&w->done, name);
            write_headers(w, name, vector);
            write_file(w, name);
        } else if (ends_with(name, ".h") && strncmp(name, "include/", 8) != 0 && is_vector(name)) {
            write_headers(w, name, vector);   /* plain headers behind a vector header */
        }
    }
}

/* #include in a body: lists, and the header of an instruction set, stand in place; the rest is written already. */
static void write_include(writer *w, const char *name, bool system, int depth)
{
    if (system) {
        if (depth > 0 && !strstr(name, "intrin.h")) {
            add(&w->out, "#include ");
            add(&w->out, name);
        }
        return;
    }
    if (ends_with(name, ".def")) write_file(w, name);
    char wanted[60];
    snprintf(wanted, sizeof wanted, "src/simd/simd_%s.h", w->isa ? w->isa : "");
    bool here = strcmp(name, wanted) == 0 || strcmp(name, "src/simd/simd_math.h") == 0 ||
                (strcmp(name, "src/simd/simd_x86.h") == 0 && w->isa && strncmp(w->isa, "avx", 3) == 0);
    if (here) write_file(w, name);
}

static void write_file(writer *w, const char *path)
{
    file *f = open_file(path);
    const bool header = ends_with(path, ".h"), source = ends_with(path, ".c"), public = strncmp(path, "include/", 8) == 0;
    const bool inner = !public;
    int depth = 0;
    char name[300];
    add(&w->out, "\n/* ---- ");
    add(&w->out, path);
    if (w->isa) add(&w->out, ": "), add(&w->out, w->isa);
    add(&w->out, " ---- */\n");
    size_t skip = 0;     /* up to here, the first comment: the licence is at the top */
    if (!public && f->n && f->t[0].kind == COMMENT) skip = 1;
    size_t declaration = code_at(f, 0);   /* where the next one begins, at file scope */
    for (size_t i = skip; i < f->n; i++) {
        const token *t = &f->t[i];
        if (t->kind == COMMENT && w->brief) continue;
        if (t->directive) {
            size_t end = i;
            while (end < f->n && f->t[end].directive == t->directive) end++;
            size_t word = next_in(f, i);
            bool system = false;
            if (word < f->n && strncmp(f->t[word].s, "if", 2) == 0) depth++;
            if (word < f->n && is(&f->t[word], "endif")) depth--;
            if (included(f, i, name, sizeof name, &system)) {
                write_include(w, name, system, depth - header);
                i = end - 1;
                continue;
            }
            bool define = word < f->n && is(&f->t[word], "define");
            /* a macro that declares functions or tables of other files */
            bool prototype = false;
            size_t body = 0;
            if (define && inner) {
                size_t k = word + 2;
                while (k < end && f->t[k].kind == SPACE) k++;
                k++;   /* behind the macro's name */
                if (k < end && is(&f->t[k], "(")) {
                    while (!is(&f->t[k], ")")) k++;
                    body = next_in(f, k);
                    size_t last = body;
                    bool kd = false;
                    for (size_t m = body; m < end; m = next_in(f, m)) {
                        last = m;
                        if (is(&f->t[m], "(") && !prototype && !kd) break;
                        if (is(&f->t[m], "KD_K") || (f->t[m].n > 4 && memcmp(f->t[m].s, "kd__", 4) == 0)) kd = true;
                    }
                    prototype = kd && body < end && is(&f->t[last], ";") && !is(&f->t[body], "extern") && !is(&f->t[body], "{") &&
                                !is(&f->t[body], "case");
                }
            }
            for (; i < end; i++) {
                if (f->t[i].kind == COMMENT && w->brief) continue;
                if (prototype && i == body) add(&w->out, "KD_PRIVATE ");
                if (inner && is(&f->t[i], "extern")) add(&w->out, "KD_PRIVATE");
                else write_name(w, f, &f->t[i], inner);
            }
            i--;
            continue;
        }
        if (inner && i == declaration) {
            declaration = find_declared(f, i);
            if (is(t, "extern")) {
                add(&w->out, "KD_PRIVATE");
                continue;
            }
            static const char *const others[] = { "typedef", "_Static_assert", "struct", "enum", "union" };
            bool other = t->kind != NAME || is_static_word(t);
            for (size_t k = 0; k < sizeof others / sizeof *others; k++) other |= is(t, others[k]);
            if (!other) {   /* a prototype in a header, a table in a source: it crosses files */
                size_t k = i;
                bool call = false;
                for (; k < f->n && !is(&f->t[k], ";") && !is(&f->t[k], "{") && !is(&f->t[k], "="); k = next(f, k))
                    if (is(&f->t[k], "(")) call = true, k = closing(f, k);
                if (k < f->n && ((header && call && is(&f->t[k], ";")) || (source && is(&f->t[k], "=")))) add(&w->out, "KD_PRIVATE ");
            }
        }
        write_name(w, f, t, inner);
    }
    if (header && inner && !w->isa)
        for (size_t i = 0; i < f->macros.n; i++) put_text(&w->macros, f->macros.s[i]);
}

static void undefine(writer *w, const names *list)
{
    for (size_t i = 0; i < list->n; i++) {
        if (list->s[i][0] == '_') continue;   /* _GNU_SOURCE: the headers of the files behind this one need it, too */
        add(&w->out, "#undef ");
        add(&w->out, list->s[i]);
        add(&w->out, "\n");
    }
}

/* ---- the library --------------------------------------------------------------------------------------------- */

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* The sources of a room, in order. */
static void list_room(names *out, const char *room, bool kernels)
{
    char path[300];
    names found = { 0 };
    snprintf(path, sizeof path, "src/%s", room);
    DIR *dir = opendir(path);
    if (!dir) die("%s: %s", path, strerror(errno));
    for (struct dirent *e; (e = readdir(dir));) {
        if (!ends_with(e->d_name, ".c") || (strncmp(e->d_name, "kern_", 5) == 0) != kernels) continue;
        snprintf(path, sizeof path, "src/%s/%.200s", room, e->d_name);
        put_text(&found, path);
    }
    closedir(dir);
    if (found.n) qsort(found.s, found.n, sizeof *found.s, by_text);
    for (size_t i = 0; i < found.n; i++) put_text(out, found.s[i]);
}

typedef struct set { const char *name, *when, *target, *gcc; } set;
#define AVX2 "avx2,fma,f16c,bmi2"
static const set sets[] = {
    { "scalar", "defined KD_BUILD_scalar", NULL, "#pragma GCC optimize(\"Os\")\n" },
    { "avx2", "defined KD_BUILD_avx2", AVX2, "" },
    { "avx512", "defined KD_BUILD_avx512", AVX2 ",avx512f,avx512bw,avx512dq,avx512vl,avx512cd",
      "#pragma GCC target(\"prefer-vector-width=512\")\n" },
    { "neon", "defined KD_BUILD_neon", NULL, "" },
};

static void format(text *out, const char *f, ...)
{
    char line[2000];
    va_list args;
    va_start(args, f);
    int n = vsnprintf(line, sizeof line, f, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof line) die("a line is too long");
    add(out, line);
}

static void write_kernels(writer *w, const names *sources, const set *s)
{
    format(&w->out, "\n/* ==== kernels: %s ==== */\n#if %s\n", s->name, s->when);
    if (s->target)
        format(&w->out, "#ifdef __clang__\n#pragma clang attribute push(__attribute__((target(\"%s\"))), apply_to = function)\n#endif\n",
               s->target);
    format(&w->out, "#ifndef __clang__\n#pragma GCC push_options\n%s", s->gcc);
    if (s->target) format(&w->out, "#pragma GCC target(\"%s\")\n", s->target);
    add(&w->out, "#endif\n");
    format(&w->out, "#define KD_ISA %s\n#define KD_ISA_%s 1\n", s->name, s->name);

    w->isa = s->name;
    w->shared = (names){ 0 };
    w->shared_heads = (names){ 0 };
    names macros = { 0 };
    /* the names of the vector alphabet, by its own rule and as found */
    static const char *const heads[] = { "v_", "vi_", "vm_", "vd_" };
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) put_text(&w->shared_heads, heads[i]);
    for (size_t i = 0; i < file_count; i++) {
        file *f = &files[i];
        if (!ends_with(f->path, ".h") || !is_vector(f->path)) continue;
        for (size_t k = 0; k < f->own.n; k++) put_text(&w->shared, f->own.s[k]);
        for (size_t k = 0; k < f->heads.n; k++) put_text(&w->shared_heads, f->heads.s[k]);
        for (size_t k = 0; k < f->macros.n; k++) put_text(&macros, f->macros.s[k]);
    }
    names kept = w->done;
    size_t kept_n = kept.n;
    for (size_t i = 0; i < sources->n; i++) write_headers(w, sources->s[i], true);
    add(&w->out, "\n#define KERNEL(name, args) KD_PRIVATE void KD_K(name) args;\n");
    add(&w->out, strcmp(s->name, "avx512") == 0 ? "#define SHARED(name, args)   /* AVX2's */\n" : "#define SHARED KERNEL\n");
    write_file(w, "src/kernels/kernels.def");
    add(&w->out, "#undef KERNEL\n#undef SHARED\n");
    for (size_t i = 0; i < sources->n; i++) {
        write_file(w, sources->s[i]);
        undefine(w, &open_file(sources->s[i])->macros);
    }
    undefine(w, &macros);
    format(&w->out, "#undef KD_ISA\n#undef KD_ISA_%s\n", s->name);
    w->done.n = kept_n;   /* the next set writes them again */
    w->isa = NULL;
    if (s->target) add(&w->out, "#ifdef __clang__\n#pragma clang attribute pop\n#endif\n");
    add(&w->out, "#ifndef __clang__\n#pragma GCC pop_options\n#endif\n");
    add(&w->out, "#endif\n");
}

/* The kernels, once per set. */
static void write_sets(writer *w, const names *kernels)
{
    char name[300];
    /* their names are wanted before the first set is written */
    static const char *const alphabet[] = { "simd", "simd_math", "simd_x86", "simd_scalar", "simd_avx2", "simd_avx512", "simd_neon" };
    for (size_t i = 0; i < sizeof alphabet / sizeof *alphabet; i++) {
        snprintf(name, sizeof name, "src/simd/%s.h", alphabet[i]);
        open_file(name);
    }
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        write_kernels(w, kernels, &sets[i]);
        w->brief = true;
    }
    w->brief = false;
}

static const char *const rooms[] = { "base", "cpu", "kernels", "tensor", "autograd", "nn", "distill", "optim", "zoo", "data", "io" };

static const char prologue[] =
    "/* Nothing here needs a compiler flag:  cc -O2 app.c kd.c -lm -pthread */\n"
    "#if defined __cplusplus\n"
    "#error \"libkd is implemented in C: compile this file as C11; its declarations are for C++, too\"\n"
    "#endif\n"
    "#if !defined __GNUC__\n"
    "#error \"libkd needs gcc 9 or clang 11, or newer\"\n"
    "#endif\n"
    "#ifndef KD_PRIVATE   /* what crosses files inside the library */\n"
    "#define KD_PRIVATE static __attribute__((unused))\n"
    "#endif\n"
    "#define KD_AMALGAMATION 1   /* targets are set by pragmas, which clang has no macros for */\n"
    "#define KD_BUILD_scalar 1\n"
    "/* the plain C kernels alone, where asked, and where gcc would spill ymm registers to a stack that Windows does not align */\n"
    "#if defined KD_NO_SIMD || (defined _WIN32 && !defined __clang__ && !defined KD_UNALIGNED_VECTOR_MOVES)\n"
    "#elif defined __x86_64__\n"
    "#define KD_BUILD_avx2 1\n"
    "#define KD_BUILD_avx512 1\n"
    "#elif defined __aarch64__\n"
    "#define KD_BUILD_neon 1\n"
    "#endif\n"
    "/* a * b + c is two roundings unless the source says fma: the promise of equal bits stands on it */\n"
    "#ifdef __clang__\n"
    "#pragma clang diagnostic push\n"
    "#pragma clang diagnostic ignored \"-Wunused-function\"\n"
    "#pragma STDC FP_CONTRACT OFF\n"
    "#else\n"
    "#pragma GCC push_options\n"
    "#pragma GCC optimize(\"fp-contract=off\", \"no-math-errno\", \"no-trapping-math\")\n"
    "#endif\n";
static const char epilogue[] =
    "#ifdef __clang__\n"
    "#pragma STDC FP_CONTRACT DEFAULT\n"
    "#pragma clang diagnostic pop\n"
    "#else\n"
    "#pragma GCC pop_options\n"
    "#endif\n";
static const char features[] =
    "/* Before the first header of the system: what POSIX and Linux have. */\n"
    "#ifndef _FILE_OFFSET_BITS\n"
    "#define _FILE_OFFSET_BITS 64\n"
    "#endif\n"
    "#ifndef _GNU_SOURCE\n"
    "#define _GNU_SOURCE 1\n"
    "#endif\n";

static void save(const char *folder, const char *name, const text *t)
{
    char path[1000];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(t->s, 1, t->n, f) != t->n || fclose(f) != 0) die("%s: %s", path, strerror(errno));
}

/* Several empty lines become one. */
static void squeeze(text *t)
{
    size_t n = 0, blank = 0;
    for (size_t i = 0; i < t->n; i++) {
        size_t line = i;
        while (t->s[i] != '\n') i++;
        size_t end = i;
        while (end > line && t->s[end - 1] == ' ') end--;
        blank = end == line ? blank + 1 : 0;
        if (blank > 1) continue;
        memmove(t->s + n, t->s + line, end - line);
        n += end - line;
        t->s[n++] = '\n';
    }
    t->s[t->n = n] = 0;
}

static void comment(text *out, const char *what, const char *version)
{
    format(out, "/* %s\n * Made by \"make amalgamation\" from libkd %s.  Do not edit.\n", what, version);
    text licence = { 0 };
    read_file(&licence, "LICENSE");
    add(out, " *\n");
    for (char *line = licence.s, *end; (end = strchr(line, '\n')); line = end + 1)
        format(out, " *%s%.*s\n", end == line ? "" : " ", (int)(end - line), line);
    add(out, " * SPDX-License-Identifier: MIT */\n");
}

static int number(const char *name)
{
    const char *at = strstr(open_file("include/kd/base.h")->body.s, name);
    if (!at) die("include/kd/base.h: no %s", name);
    return atoi(at + strlen(name));
}

int main(int argc, char **argv)
{
    if (argc != 2) die("usage: amalgamate FOLDER");
    char version[40];
    snprintf(version, sizeof version, "%d.%d.%d", number("KD_VERSION_MAJOR"), number("KD_VERSION_MINOR"), number("KD_VERSION_PATCH"));

    /* the public headers, in the order of kd.h */
    writer api = { 0 };
    file *umbrella = open_file("include/kd.h");
    char name[300];
    bool system;
    add(&api.out, "#ifndef KD_H\n#define KD_H\n#include <stddef.h>\n#include <stdint.h>\n");
    for (size_t i = 0; i < umbrella->n; i++)
        if (is(&umbrella->t[i], "#") && included(umbrella, i, name, sizeof name, &system)) write_file(&api, name);
    add(&api.out, "\n#endif\n");

    names sources = { 0 }, kernels = { 0 };
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) list_room(&sources, rooms[i], false);
    list_room(&kernels, "kernels", true);
    for (size_t i = 0; i < kernels.n; i++) open_file(kernels.s[i]);

    writer w = { 0 };
    text head = { 0 };
    for (size_t i = 0; i < sources.n; i++) write_headers(&w, sources.s[i], false);
    for (size_t i = 0; i < kernels.n; i++) write_headers(&w, kernels.s[i], false);
    for (int windows = 0; windows <= 1; windows++) {
        for (size_t i = 0; i < sources.n; i++) {
            if (ends_with(sources.s[i], "_win32.c") != windows) continue;
            write_file(&w, sources.s[i]);
            undefine(&w, &open_file(sources.s[i])->macros);
        }
        if (!windows) write_sets(&w, &kernels);   /* <windows.h> defines what it likes: what needs it comes last */
    }
    undefine(&w, &w.macros);

    add(&head, prologue);
    if (w.system.n) qsort(w.system.s, w.system.n, sizeof *w.system.s, by_text);
    for (size_t i = 0; i < w.system.n; i++) format(&head, "#include %s\n", w.system.s[i]);
    add(&head, "#if defined KD_BUILD_avx2\n#include <immintrin.h>\n#elif defined KD_BUILD_neon\n#include <arm_neon.h>\n#endif\n");

    text c = { 0 }, h = { 0 }, single = { 0 };
    comment(&h, "kd.h - libkd, knowledge distillation in C: all that is public.", version);
    add(&h, api.out.s);
    comment(&c, "kd.c - libkd, knowledge distillation in C, in one file.", version);
    add(&c, features);
    add(&c, "#include \"kd.h\"\n");
    add(&c, head.s);
    add(&c, w.out.s);
    add(&c, epilogue);
    comment(&single, "kd_single.h - libkd, knowledge distillation in C, in one header.\n"
                     " * In one C file of yours, before any other #include:\n"
                     " *     #define KD_IMPLEMENTATION\n *     #include \"kd_single.h\"\n"
                     " * and in all others just the #include.  With KD_STATIC defined too, in that one file, all functions are static.",
            version);
    add(&single, "#ifdef KD_IMPLEMENTATION\n");
    add(&single, features);
    add(&single, "#endif\n#if defined KD_STATIC && !defined KD_API\n#define KD_API static __attribute__((unused))\n#endif\n");
    add(&single, api.out.s);
    add(&single, "\n#if defined KD_IMPLEMENTATION && !defined KD_IMPLEMENTED\n#define KD_IMPLEMENTED\n");
    add(&single, head.s);
    add(&single, w.out.s);
    add(&single, epilogue);
    add(&single, "#endif\n");

    mkdir(argv[1], 0777);
    squeeze(&h), squeeze(&c), squeeze(&single);
    save(argv[1], "kd.h", &h);
    save(argv[1], "kd.c", &c);
    save(argv[1], "kd_single.h", &single);
    return 0;
}
