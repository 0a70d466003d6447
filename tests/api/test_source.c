/* test_source.c - rules of the source tree: which room may include which, unique names, plain text.
 * SPDX-License-Identifier: MIT */
#include "kdtest_tools.h"
#include "rooms.h"
#include <stdlib.h>
#include <unistd.h>

/* The file named by an #include "..." line, terminated in place; NULL for any other line.  kind: " or <. */
static char *included(char *line, char *kind)
{
    line += strspn(line, " ");
    if (*line++ != '#') return NULL;
    line += strspn(line, " ");
    if (strncmp(line, "include", 7) != 0) return NULL;
    line += 7;
    line += strspn(line, " ");
    *kind = *line;
    if (*kind != '"' && *kind != '<') return NULL;
    line++;
    line[strcspn(line, "\">")] = 0;
    return line;
}

/* Inner headers; the constants and types of a public header may be used anywhere (whose functions are called is
 * looked up in the objects: test_symbols.c). */
static void check_room(const char *path, void *user)
{
    (void)user;
    int room = room_of(path + strlen("src/"));
    if (room < 0) return;   /* not a room of C: the Python package */
    char *text = kdtest_read(path, NULL), *rest = text, kind;
    for (char *line; (line = kdtest_line(&rest));) {
        char *file = included(line, &kind);
        if (!file || kind != '"' || strncmp(file, "kd/", 3) == 0) continue;
        int other = room_of(file);
        if (!CHECK_MSG(other >= 0, "%s includes \"%s\", which is in no room", path, file)) continue;
        CHECK_MSG(may_know(room, other), "%s includes \"%s\": %s must not know %s", path, file, rooms[room].name, rooms[other].name);
    }
    free(text);
}

TEST(includes_point_one_way)
{
    CHECK(kdtest_walk("src", ".c .h .def", check_room, NULL) > 20);
}

static void check_public(const char *path, void *user)
{
    (void)user;
    char *text = kdtest_read(path, NULL), *rest = text, kind;
    for (char *line; (line = kdtest_line(&rest));) {
        char *file = included(line, &kind);
        if (!file) continue;
        if (kind == '<') {
            CHECK_MSG(strcmp(file, "stddef.h") == 0 || strcmp(file, "stdint.h") == 0, "%s includes <%s>", path, file);
            continue;
        }
        char other[1200];   /* beside itself, as a quoted name is looked up first */
        snprintf(other, sizeof other, "%s/%.*s/%s", kdtest_root(), (int)(strrchr(path, '/') - path), path, file);
        CHECK_MSG(access(other, R_OK) == 0, "%s includes \"%s\"", path, file);
    }
    free(text);
}

TEST(public_headers_include_public_headers)
{
    CHECK(kdtest_walk("include", ".h", check_public, NULL) >= 2);
}

/* ---- names ------------------------------------------------------------------------------------------------ */

typedef struct name_list {
    char  *path[4000];
    size_t n;
} name_list;

static const char *base_name(const char *path) { return strrchr(path, '/') + 1; }

static void collect(const char *path, void *user)
{
    name_list *list = user;
    if (!CHECK(list->n < sizeof list->path / sizeof *list->path)) return;
    size_t n = strlen(path) + 1;
    list->path[list->n] = malloc(n);
    memcpy(list->path[list->n++], path, n);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(base_name(*(char *const *)a), base_name(*(char *const *)b));
}

/* base.h is both the public header and the inner one, by the same right as kd/x.h and room/x.h everywhere. */
TEST(file_names_are_unique)
{
    static name_list list;
    kdtest_walk("src", ".c .def", collect, &list);
    kdtest_walk("tests", ".c .sh", collect, &list);
    kdtest_walk("examples", ".c", collect, &list);
    size_t headers = list.n;
    kdtest_walk("src", ".h", collect, &list);
    kdtest_walk("tests", ".h", collect, &list);
    qsort(list.path, headers, sizeof *list.path, by_name);
    qsort(list.path + headers, list.n - headers, sizeof *list.path, by_name);
    for (size_t i = 1; i < list.n; i++)
        CHECK_MSG(strcmp(base_name(list.path[i - 1]), base_name(list.path[i])) != 0, "%s and %s", list.path[i - 1], list.path[i]);
    for (size_t i = 0; i < list.n; i++) free(list.path[i]);
}

/* ---- text ------------------------------------------------------------------------------------------------- */

static void check_text(const char *path, void *user)
{
    const char *what = user;   /* "code", or "text" where lines may be long */
    size_t bytes;
    char *text = kdtest_read(path, &bytes);
    if (!text) return;
    int code = strcmp(what, "code") == 0, spdx = 0;
    size_t number = 0;
    CHECK_MSG(bytes > 0 && text[bytes - 1] == '\n', "%s does not end with a newline", path);
    CHECK_MSG(bytes < 2 || text[bytes - 2] != '\n', "%s ends with an empty line", path);
    CHECK_MSG(strlen(text) == bytes, "%s holds a NUL", path);
    char *rest = text;
    for (char *line; (line = kdtest_line(&rest));) {
        size_t n = strlen(line);
        number++;
        for (size_t i = 0; i < n; i++) {
            unsigned char c = (unsigned char)line[i];
            if (!CHECK_MSG(c >= 32 && c < 127, "%s:%zu: byte 0x%02x", path, number, c)) break;
        }
        CHECK_MSG(n == 0 || line[n - 1] != ' ', "%s:%zu: blanks at the end", path, number);
        if (number <= 20 && strstr(line, "SPDX-License-Identifier: MIT")) spdx = 1;
        if (!code) continue;
        CHECK_MSG(n <= 140 || strstr(path, "/golden/"), "%s:%zu: %zu columns", path, number, n);
        CHECK_MSG(!strstr(line, "TO" "DO") && !strstr(line, "FIX" "ME") && !strstr(line, "XX" "X:"), "%s:%zu: unfinished: %s", path,
                  number, line);
    }
    CHECK_MSG(!code || spdx, "%s: no SPDX line", path);
    free(text);
}

TEST(plain_text)
{
    char code[] = "code", prose[] = "text";
    const char *sources = ".c .h .def .sh .awk .py .cpp";
    CHECK(kdtest_walk("src", sources, check_text, code) > 20);
    CHECK(kdtest_walk("include", sources, check_text, code) > 1);
    CHECK(kdtest_walk("tests", sources, check_text, code) > 10);
    kdtest_walk("examples", sources, check_text, code);
    kdtest_walk("docs", ".md .txt", check_text, prose);
    kdtest_walk("src", ".map", check_text, prose);
    kdtest_walk("pkgconfig", NULL, check_text, prose);
}
