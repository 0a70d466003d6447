/* host_ends.c - a program that ends in the way its argument names, with the library in use; test_process.c builds and runs it.
 * SPDX-License-Identifier: MIT */
#include <kd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 64, CLASSES = 2000 };
static float logits[ROWS * CLASSES], out[2][ROWS * CLASSES];
static kd_context *ctx;
static kd_loader *loader;
static kd_dataset *data;
static const char *way;

static void need(int good, const char *what)
{
    if (good) return;
    fprintf(stderr, "%s: %s failed: %s\n", way, what, kd_last_error());
    _exit(3);
}

static void work(float *to)
{
    need(kd_softmax_rows(ctx, ROWS, CLASSES, logits, CLASSES, 2, to, CLASSES) == KD_OK, "kd_softmax_rows");
    need(to[0] > 0, "the result");
}

static void start_loader(void)
{
    static const float items[40][3];
    kd_tensor *x, *y;
    kd_loader_desc desc;
    kd_loader_desc_init(&desc, sizeof desc);
    desc.batch = 4;
    need(kd_dataset_wrap(&data, ctx, KD_F32, 40, 1, (const size_t[]){ 3 }, items, NULL) == KD_OK, "kd_dataset_wrap");
    need(kd_loader_create(&loader, ctx, data, &desc) == KD_OK, "kd_loader_create");
    need(kd_loader_next(loader, &x, &y) == KD_OK, "kd_loader_next");
}

static void release(void)
{
    kd_loader_free(loader);
    kd_dataset_free(data);
    kd_context_free(ctx);
    kd_shutdown();
    kd_shutdown();
}

static void at_exit(void)
{
    work(out[0]);
    release();
}

__attribute__((destructor)) static void at_the_very_end(void)
{
    if (way && strcmp(way, "destructor") == 0) at_exit();
}

static void *forever(void *arg)
{
    (void)arg;
    for (;;) work(out[1]);
    return NULL;
}

static void *last_one(void *arg)
{
    pthread_join(*(pthread_t *)arg, NULL);   /* the main thread is gone */
    at_exit();
    exit(0);
}

int main(int argc, char **argv)
{
    static pthread_t main_thread;
    pthread_t id;
    kd_context_desc desc;
    if (argc != 2) return 2;
    way = argv[1];
    main_thread = pthread_self();
    if (strcmp(way, "atexit") == 0) atexit(at_exit);   /* before the library did anything */
    kd_context_desc_init(&desc, sizeof desc);
    desc.threads = 3;
    need(kd_context_create(&ctx, &desc) == KD_OK, "kd_context_create");
    work(out[0]);
    start_loader();
    if (strcmp(way, "other-threads") == 0) {
        for (int i = 0; i < 2; i++) need(pthread_create(&id, NULL, forever, NULL) == 0, "pthread_create");
        usleep(3000);
        exit(0);
    }
    if (strcmp(way, "main-first") == 0) {
        need(pthread_create(&id, NULL, last_one, &main_thread) == 0, "pthread_create");
        pthread_exit(NULL);
    }
    if (strcmp(way, "quick") == 0) quick_exit(0);
    if (strcmp(way, "tidy") == 0) release();
    return 0;   /* "return": everything left as it is; "atexit", "destructor": see there */
}
