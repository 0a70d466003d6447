/* kdtest_tools.h - for tests about the source and the build: files, lines, commands.
 * SPDX-License-Identifier: MIT */
#ifndef KDTEST_TOOLS_H
#define KDTEST_TOOLS_H
#include "kdtest.h"

/* The top of the source tree. */
const char *kdtest_root(void);
/* What the runner was told, or what `make check` would say: the compiler, nm, the objects' directory and the
 * library's, both from the top or absolute. */
const char *kdtest_cc(void);
const char *kdtest_nm(void);
const char *kdtest_obj(void);
const char *kdtest_out(void);

/* Call fn for each regular file under root/dir whose name ends in one of the suffixes (separated by blanks; NULL:
 * all), with its path from the root; in the order of the names.  Returns how many there were. */
size_t kdtest_walk(const char *dir, const char *suffixes, void (*fn)(const char *path, void *user), void *user);
/* The whole file, terminated, to be freed; NULL (a failed check) when it cannot be read.  path from the root. */
char *kdtest_read(const char *path, size_t *bytes);

/* Run a shell command from the root; its output (both streams), to be freed; *status is its exit status. */
char *kdtest_run(int *status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Is there such a program? */
int kdtest_have(const char *program);
/* The next line of *text, terminated in place; NULL at the end. */
char *kdtest_line(char **text);
#endif
