/* kdtest_tools.c - files, lines, commands.
 * SPDX-License-Identifier: MIT */
#include "kdtest_tools.h"
#include <dirent.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const char *variable(const char *name, const char *standard)
{
    const char *text = getenv(name);
    return text && *text ? text : standard;
}

const char *kdtest_root(void) { return KD_TEST_ROOT; }
const char *kdtest_cc(void) { return variable("KD_CC", "cc"); }
const char *kdtest_nm(void) { return variable("KD_NM", "nm"); }
const char *kdtest_obj(void) { return variable("KD_OBJ", "lib/obj/release"); }
const char *kdtest_out(void) { return variable("KD_OUT", "lib"); }

static int ends_in_one_of(const char *name, const char *suffixes)
{
    if (!suffixes) return 1;
    size_t n = strlen(name);
    while (*suffixes) {
        size_t k = strcspn(suffixes, " ");
        if (k && k < n && strncmp(name + n - k, suffixes, k) == 0) return 1;
        suffixes += k + (suffixes[k] == ' ');
    }
    return 0;
}

size_t kdtest_walk(const char *dir, const char *suffixes, void (*fn)(const char *path, void *user), void *user)
{
    char full[1200];
    snprintf(full, sizeof full, "%s/%s", kdtest_root(), dir);
    struct dirent **entry;
    int n = scandir(full, &entry, NULL, alphasort);
    size_t count = 0;
    for (int i = 0; i < n; i++) {
        struct stat st;
        char path[1000];
        snprintf(path, sizeof path, "%s/%s", dir, entry[i]->d_name);
        snprintf(full, sizeof full, "%s/%s", kdtest_root(), path);
        if (entry[i]->d_name[0] != '.' && lstat(full, &st) == 0) {
            if (S_ISDIR(st.st_mode)) {
                count += kdtest_walk(path, suffixes, fn, user);
            } else if (S_ISREG(st.st_mode) && ends_in_one_of(path, suffixes)) {
                fn(path, user);
                count++;
            }
        }
        free(entry[i]);
    }
    if (n >= 0) free(entry);
    return count;
}

static char *read_all(FILE *f, size_t *bytes)
{
    size_t n = 0, cap = 1 << 16;
    char *text = malloc(cap);
    for (size_t k; text && (k = fread(text + n, 1, cap - 1 - n, f)) > 0;) {
        n += k;
        if (n == cap - 1) text = realloc(text, cap *= 2);
    }
    if (!text) exit(1);
    text[n] = 0;
    if (bytes) *bytes = n;
    return text;
}

char *kdtest_read(const char *path, size_t *bytes)
{
    char full[1200];
    snprintf(full, sizeof full, "%s/%s", kdtest_root(), path);
    FILE *f = fopen(full, "rb");
    if (!CHECK_MSG(f != NULL, "%s cannot be read", path)) return NULL;
    char *text = read_all(f, bytes);
    fclose(f);
    return text;
}

char *kdtest_run(int *status, const char *format, ...)
{
    char command[8000];
    int n = snprintf(command, sizeof command, "cd '%s' && exec 2>&1 && ", kdtest_root());
    va_list args;
    va_start(args, format);
    n += vsnprintf(command + n, sizeof command - (size_t)n, format, args);
    va_end(args);
    if (!CHECK_MSG((size_t)n < sizeof command, "a command of %d bytes", n)) exit(1);
    FILE *f = popen(command, "r");
    if (!f) exit(1);
    char *text = read_all(f, NULL);
    int code = pclose(f);
    *status = WIFEXITED(code) ? WEXITSTATUS(code) : -1;
    return text;
}

int kdtest_have(const char *program)
{
    int status;
    free(kdtest_run(&status, "command -v %s", program));
    return status == 0;
}

char *kdtest_line(char **text)
{
    char *line = *text;
    if (!line || !*line) return NULL;
    char *end = strchr(line, '\n');
    if (end) *end++ = 0;
    *text = end;
    return line;
}
