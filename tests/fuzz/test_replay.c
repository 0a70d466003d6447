/* test_replay.c - the fuzz targets without a fuzzer: every file of the corpus, then seeded mutations of them.
 * SPDX-License-Identifier: MIT */
#include "fuzz.h"
#include "kdtest_file.h"
#include <dirent.h>
#include <stdlib.h>

enum { MOST = 1 << 16 };

/* One mutation of `data` in place: flip, set, insert, remove, repeat or copy in a piece of `other`. */
static size_t mutate(kdtest_rand *r, uint8_t *data, size_t n, const uint8_t *other, size_t m)
{
    static const uint8_t odd[] = { 0, 1, 0x7f, 0x80, 0xff, '"', '\\', '{', '}', '[', ']', ',', '0', '9', '-', '\n' };
    size_t at = n ? kdtest_size(r, 0, n - 1) : 0, length = kdtest_size(r, 1, 8);
    switch (kdtest_size(r, 0, 5)) {
    case 0:
        if (n) data[at] ^= (uint8_t)(1u << kdtest_size(r, 0, 7));
        break;
    case 1:
        if (n) data[at] = odd[kdtest_size(r, 0, sizeof odd - 1)];
        break;
    case 2:
        if (n + length > MOST) break;
        memmove(data + at + length, data + at, n - at);
        for (size_t i = 0; i < length; i++) data[at + i] = odd[kdtest_size(r, 0, sizeof odd - 1)];
        return n + length;
    case 3:
        if (n < length || at + length > n) break;
        memmove(data + at, data + at + length, n - at - length);
        return n - length;
    case 4:
        if (n + length > MOST || at + length > n) break;
        memmove(data + at + length, data + at, n - at);
        return n + length;
    default:
        if (m < length || at + length > n) break;
        memcpy(data + at, other + kdtest_size(r, 0, m - length), length);
    }
    return n;
}

typedef struct input { uint8_t *data; size_t size; } input;

static void replay(const char *name, int (*target)(const uint8_t *, size_t), size_t rounds)
{
    input inputs[512];
    size_t count = 0;
    char dir[512];
    snprintf(dir, sizeof dir, "%s/tests/fuzz/corpus/%s", KD_TEST_ROOT, name);
    DIR *d = opendir(dir);
    if (!CHECK_MSG(d != NULL, "no corpus at %s", dir)) return;
    for (struct dirent *e; (e = readdir(d)) != NULL && count < 512;) {
        char path[1024];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        inputs[count].data = kdtest_slurp(path, &inputs[count].size);
        if (inputs[count].data) target(inputs[count].data, inputs[count].size);
        count += inputs[count].data != NULL;
    }
    closedir(d);
    CHECK_MSG(count > 0, "the corpus of %s is empty", name);
    kdtest_rand r = { kdtest_hash(name, strlen(name)) };
    uint8_t *work = malloc(MOST + 16);
    for (size_t i = 0; work && count && i < rounds; i++) {
        const input *from = &inputs[kdtest_size(&r, 0, count - 1)], *other = &inputs[kdtest_size(&r, 0, count - 1)];
        if (from->size > MOST) continue;
        memcpy(work, from->data, from->size);
        size_t n = from->size;
        for (size_t k = kdtest_size(&r, 1, 4); k > 0; k--) n = mutate(&r, work, n, other->data, other->size);
        uint8_t *exact = malloc(n ? n : 1);
        if (exact && n) memcpy(exact, work, n);
        if (exact) target(exact, n);
        free(exact);
    }
    free(work);
    for (size_t i = 0; i < count; i++) free(inputs[i].data);
}

#define X(name) TEST(name) { replay(#name, kdfuzz_##name, kdtest_full() ? 200000 : 10000); }
KD_FUZZ_TARGETS(X)
#undef X
