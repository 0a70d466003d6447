/* name_sort.c - names put in order, so that equal ones meet: time is bounded by their length, not by luck.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"

enum { FEW = 12 };

static void merge(const kd__sort_item *a, size_t na, const kd__sort_item *b, size_t nb, kd__sort_item *out)
{
    while (na && nb) {
        bool right = b->key < a->key;
        *out++ = *(right ? b : a);
        a += !right;
        na -= !right;
        b += right;
        nb -= right;
    }
    memcpy(out, na ? a : b, (na + nb) * sizeof *out);
}

void kd__sort_items(kd__sort_item *items, kd__sort_item *spare, size_t count)
{
    size_t ordered = 1;
    while (ordered < count && items[ordered - 1].key <= items[ordered].key) ordered++;
    if (ordered >= count) return;
    kd__sort_item *from = items, *to = spare;
    for (size_t run = 1; run < count; run *= 2) {
        for (size_t i = 0; i < count; i += 2 * run) {
            size_t na = KD_MIN(run, count - i), nb = KD_MIN(run, count - i - na);
            merge(from + i, na, from + i + na, nb, to + i);
        }
        kd__sort_item *swap = from;
        from = to;
        to = swap;
    }
    if (from != items) memcpy(items, from, count * sizeof *items);
}

/* Eight bytes of the name as a big-endian number; zeros after its end. */
static uint64_t chunk(const char *p)
{
    uint64_t key = 0;
    for (int i = 0; i < 8 && p[i]; i++) key |= (uint64_t)(unsigned char)p[i] << (56 - 8 * i);
    return key;
}

typedef struct range { size_t begin, end, depth; } range;

/* Few names: by insertion. */
static void sort_few(kd__sort_item *items, const range *r, kd__name_fn name, const void *arg,
                     const kd__sort_item **twice)
{
    for (size_t i = r->begin + 1; i < r->end; i++) {
        kd__sort_item item = items[i];
        const char *text = name(arg, &item) + r->depth;
        size_t k = i;
        int order = 1;
        while (k > r->begin && (order = strcmp(name(arg, &items[k - 1]) + r->depth, text)) > 0) {
            items[k] = items[k - 1];
            k--;
        }
        items[k] = item;
        if (order == 0) {
            *twice = &items[k];
            return;
        }
    }
}

/* A range holds names that agree in their first `depth` bytes.  Eight more bytes order it and cut it into ranges. */
kd_status kd__sort_names(kd_context *ctx, kd__sort_item *items, kd__sort_item *spare, size_t count, kd__name_fn name,
                         const void *arg, const kd__sort_item **twice)
{
    range *stack = NULL;
    size_t capacity = 0, top = 0;
    range r = { 0, count, 0 };
    kd_status status = KD_OK;
    *twice = NULL;
    for (;;) {
        if (r.end - r.begin <= FEW) {
            sort_few(items, &r, name, arg, twice);
        } else {
            for (size_t i = r.begin; i < r.end; i++) items[i].key = chunk(name(arg, &items[i]) + r.depth);
            kd__sort_items(items + r.begin, spare, r.end - r.begin);
            for (size_t i = r.begin, next; i < r.end && status == KD_OK; i = next) {
                for (next = i + 1; next < r.end && items[next].key == items[i].key;) next++;
                if (next - i < 2) continue;
                if ((items[i].key & 0xff) == 0) *twice = &items[i];   /* they have ended, and are equal */
                status = kd__grow(ctx, &stack, &capacity, top + 1, sizeof *stack);
                if (status == KD_OK) stack[top++] = (range){ i, next, r.depth + 8 };
            }
        }
        if (!top || *twice || status != KD_OK) break;
        r = stack[--top];
    }
    kd__free(ctx, stack);
    return status;
}
