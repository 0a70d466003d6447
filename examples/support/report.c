/* report.c - see report.h.
 * SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "report.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef _WIN32
#include <direct.h>
#define mkdir(path, mode) _mkdir(path)
#endif

double seconds(void)
{
#ifdef _WIN32
    return (double)clock() / CLOCKS_PER_SEC;   /* of the wall, there */
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#endif
}

/* ---- progress ------------------------------------------------------------------------------------ */
static void show(progress *p, const char *note)
{
    double now = seconds(), rate = (double)(p->done - p->from) / (now - p->start + 1e-9);
    double left = rate > 0 ? (double)(p->total - p->done) / rate : 0;
    if (p->terminal) {
        char bar[31];
        for (size_t i = 0; i < 30; i++) bar[i] = i < 30 * p->done / p->total ? '#' : '.';
        bar[30] = 0;
        fprintf(stderr, "\r%s [%s] %3zu%%  %.0f steps/s  %.0f s left  %-28s", p->what, bar, 100 * p->done / p->total, rate, left,
                note ? note : "");
    } else {
        fprintf(stderr, "%s %3zu%%  %.0f steps/s  %.0f s left  %s\n", p->what, 100 * p->done / p->total, rate, left,
                note ? note : "");
    }
    fflush(stderr);
    p->last = now;
    p->shown = p->done;
}

void progress_begin(progress *p, const char *what, size_t total)
{
    *p = (progress){ .what = what, .total = total ? total : 1, .start = seconds(), .terminal = isatty(2) };
    p->last = p->start;
}

void progress_add(progress *p, size_t steps, const char *note)
{
    p->done = p->done + steps < p->total ? p->done + steps : p->total;
    if (p->terminal ? seconds() - p->last > 0.1 : 10 * p->done / p->total != 10 * p->shown / p->total) show(p, note);
}

void progress_skip(progress *p, size_t steps)
{
    p->done = p->shown = p->from = p->done + steps < p->total ? p->done + steps : p->total;
    p->start = p->last = seconds();
}

void progress_end(progress *p)
{
    p->done = p->total;
    if (p->terminal || p->shown < p->total) show(p, "done");
    if (p->terminal) fputc('\n', stderr);
}

/* ---- statistics ------------------------------------------------------------------------------------ */
double mean(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    return n ? sum / (double)n : 0;
}

double deviation(const double *x, size_t n)
{
    double m = mean(x, n), sum = 0;
    for (size_t i = 0; i < n; i++) sum += (x[i] - m) * (x[i] - m);
    return n > 1 ? sqrt(sum / (double)(n - 1)) : 0;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median(double *x, size_t n)
{
    qsort(x, n, sizeof *x, ascending);
    return n ? (x[(n - 1) / 2] + x[n / 2]) / 2 : 0;
}

double paired_difference(const double *x, const double *y, size_t n, double *standard_error)
{
    double m = 0, squares = 0;
    for (size_t i = 0; i < n; i++) m += (x[i] - y[i]) / (double)n;
    for (size_t i = 0; i < n; i++) squares += (x[i] - y[i] - m) * (x[i] - y[i] - m);
    *standard_error = n > 1 ? sqrt(squares / (double)(n - 1) / (double)n) : 0;
    return m;
}

/* ---- files ----------------------------------------------------------------------------------------- */
int write_svg(const char *path, const char *title, const char *x_label, double x_step, const curve *curves, size_t count)
{
    static const char *const colour[] = { "#444444", "#c0392b", "#e08e0b", "#1f77b4", "#2e8b57", "#8e44ad" };
    enum { W = 760, H = 440, LEFT = 60, RIGHT = 250, TOP = 40, BOTTOM = 50 };
    double low = 100, high = 0;
    size_t longest = 1;
    FILE *f = fopen(path, "w");
    if (!f) return -1;
    for (size_t k = 0; k < count; k++)
        for (size_t i = 0; i < curves[k].count; i++) {
            if (curves[k].y[i] < low) low = curves[k].y[i];
            if (curves[k].y[i] > high) high = curves[k].y[i];
            if (i + 1 > longest) longest = i + 1;
        }
    low = 10 * floor(low / 10), high = 10 * ceil(high / 10);
    if (high <= low) high = low + 10;
#define X(i) (LEFT + (W - LEFT - RIGHT) * (longest > 1 ? (double)(i) / (double)(longest - 1) : 0))
#define Y(v) (H - BOTTOM - (H - TOP - BOTTOM) * ((v) - low) / (high - low))
    fprintf(f, "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' font-family='sans-serif' font-size='12'>\n", W, H);
    fprintf(f, "<rect width='%d' height='%d' fill='white'/>\n<text x='%d' y='24' font-size='15'>%s</text>\n", W, H, LEFT, title);
    for (double v = low; v <= high + 1e-9; v += high - low > 40 ? 20 : 10)
        fprintf(f, "<path d='M%d %.1fH%d' stroke='#dddddd'/><text x='%d' y='%.1f' text-anchor='end'>%.0f%%</text>\n", LEFT, Y(v),
                W - RIGHT, LEFT - 6, Y(v) + 4, v);
    fprintf(f, "<text x='%d' y='%d' text-anchor='end'>%s %.0f</text>\n", W - RIGHT, H - BOTTOM + 20, x_label,
            x_step * (double)longest);
    fprintf(f, "<text x='%d' y='%d'>%.0f</text>\n", LEFT, H - BOTTOM + 20, x_step);
    for (size_t k = 0; k < count; k++) {
        const char *c = colour[k % (sizeof colour / sizeof *colour)];
        fprintf(f, "<polyline fill='none' stroke='%s' stroke-width='2' points='", c);
        for (size_t i = 0; i < curves[k].count; i++) fprintf(f, "%.1f,%.1f ", X(i), Y(curves[k].y[i]));
        fprintf(f, "'/>\n<path d='M%d %zuh18' stroke='%s' stroke-width='3'/><text x='%d' y='%zu'>%s</text>\n", W - RIGHT + 14,
                TOP + 20 * k + 6, c, W - RIGHT + 38, TOP + 20 * k + 10, curves[k].name);
    }
#undef X
#undef Y
    fputs("</svg>\n", f);
    return fclose(f) ? -1 : 0;
}

int make_directory(const char *path)
{
    char part[512];
    size_t n = strlen(path);
    if (n >= sizeof part) return errno = ENAMETOOLONG, -1;
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++)
        if (part[i] == '/' || part[i] == 0) {
            char c = part[i];
            part[i] = 0;
            if (mkdir(part, 0777) != 0 && errno != EEXIST) return -1;
            part[i] = c;
        }
    return 0;
}

long file_bytes(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 ? (long)s.st_size : -1;
}

const char *thousands(size_t n, char text[32])
{
    char digits[32];
    int count = snprintf(digits, sizeof digits, "%zu", n), at = 0;
    for (int i = 0; i < count; i++) {
        if (i && (count - i) % 3 == 0) text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = 0;
    return text;
}
