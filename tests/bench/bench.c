/* bench.c - `make bench`: the limits of this machine, and how near to them libkd comes.
 * SPDX-License-Identifier: MIT
 *
 * bench [libkd.so, stripped [part ..]], parts: kernels, ops, steps, loader, start. */
#include "bench.h"
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void print_machine(void)
{
    char line[256] = "", date[32] = "", *name = NULL;
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && !name && fgets(line, sizeof line, f))
        if (!strncmp(line, "model name", 10)) name = strchr(line, ':');
    if (f) fclose(f);
    if (name) name[strcspn(name, "\n")] = 0;
    const time_t t = time(NULL);
    strftime(date, sizeof date, "%Y-%m-%d", localtime(&t));
    printf("%s; %s; %s; %s\n\n", name ? name + 2 : "unknown CPU", kd_context_isa(NULL), kd_build_info(), date);
}

/* ---- from the start of a process to the end of its first training step ------------------------------------------------------- */
static int first_step(void)
{
    bench b;
    bench_open(&b, bench_find("digits_mlp_step"), 0);
    bench_run(&b);
    printf("%.9f\n", bench_now());
    return 0;
}

static void show_start(const char *program, const char *library)
{
    double times[15];
    char command[1200];
    struct stat info;
    snprintf(command, sizeof command, "exec '%s' first-step", program);
    for (size_t i = 0; i < KD_COUNT(times); i++) {
        double end = 0, start = bench_now();   /* the shell that starts it is counted */
        FILE *f = popen(command, "r");
        if (!f || fscanf(f, "%lf", &end) != 1) bench_die("the first step failed");
        pclose(f);
        times[i] = end - start;
    }
    printf("\nfirst digits_mlp_step, from the start of the process  %.2f ms\n", bench_middle(times, KD_COUNT(times)) * 1e3);
    if (library && !stat(library, &info)) printf("libkd.so, stripped  %.0f KB\n", (double)info.st_size / 1024);
}

/* Seconds of processor time since boot, on all CPUs, that were not ours. */
static double others(void)
{
    unsigned long long v[8] = { 0 };
    struct rusage self, children;
    FILE *f = fopen("/proc/stat", "r");
    if (!f) return 0;
    if (fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", v, v + 1, v + 2, v + 3, v + 4, v + 5, v + 6, v + 7) != 8) v[0] = 0;
    fclose(f);
    getrusage(RUSAGE_SELF, &self);
    getrusage(RUSAGE_CHILDREN, &children);
    const struct timeval own[] = { self.ru_utime, self.ru_stime, children.ru_utime, children.ru_stime };
    double seconds = (double)(v[0] + v[1] + v[2] + v[5] + v[6] + v[7]) / (double)sysconf(_SC_CLK_TCK);
    for (size_t i = 0; i < KD_COUNT(own); i++) seconds -= (double)own[i].tv_sec + 1e-6 * (double)own[i].tv_usec;
    return seconds;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "first-step")) return first_step();
    bool all = argc <= 2, kernels = all, ops = all, steps = all, loader = all, start = all;
    for (int i = 2; i < argc; i++) {
        kernels |= !strcmp(argv[i], "kernels");
        ops |= !strcmp(argv[i], "ops");
        steps |= !strcmp(argv[i], "steps");
        loader |= !strcmp(argv[i], "loader");
        start |= !strcmp(argv[i], "start");
    }
    const double clock = bench_now(), before = others();
    setvbuf(stdout, NULL, _IOLBF, 0);
    print_machine();
    const bench_limits limits = bench_show_limits();
    if (kernels) bench_show_kernels(&limits);
    if (ops) bench_show_ops();
    if (steps) bench_show_steps();
    if (loader) bench_show_loader();
    if (start) show_start(argv[0], argc > 1 ? argv[1] : NULL);
    const double share = (others() - before) / (bench_now() - clock);
    if (share > 0.15) printf("\nother processes took %.0f %% of a CPU meanwhile: measure again\n", 100 * share);
    return 0;
}
