/* tag.c - what the rooms above leave on a tape: named tensors, where an error happened, an observer.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"

struct kd__tag {
    kd__tag    *next;
    const void *key;
    kd_tensor  *x;
};

static kd__tag *find(const kd_tape *tape, const void *key)
{
    kd__tag *tag = tape->tags;
    while (tag && tag->key != key) tag = tag->next;
    return tag;
}

void kd__tape_set_tag(kd_tape *tape, const void *key, kd_tensor *x)
{
    kd__tag *tag = find(tape, key);
    if (!tag) {
        tag = kd__tape_alloc(tape, sizeof *tag);
        if (!tag) return;
        *tag = (kd__tag){ .next = tape->tags, .key = key };
        tape->tags = tag;
    }
    tag->x = x;
}

kd_tensor *kd__tape_tag(const kd_tape *tape, const void *key)
{
    const kd__tag *tag = find(tape, key);
    return tag ? tag->x : NULL;
}

kd_tensor *kd__tape_fail_in(kd_tape *tape, const char *function, kd_status status)
{
    tape->op_name = function;
    tape->op_number = 0;
    return kd__tape_fail(tape, status);
}

void kd__tape_place_error(kd_tape *tape, const char *place)
{
    if (kd__tape_ok(tape) || tape->error_placed) return;
    tape->error_placed = true;
    char text[sizeof tape->state.text];
    kd__format(text, sizeof text, "%s: %s", place, tape->state.text);
    memcpy(tape->state.text, text, sizeof text);
    kd__fail(tape->state.status, "%s", text);
}

void kd__tape_observe(kd_tape *tape, const void *what, const kd_tensor *y, uint64_t multiply_adds)
{
    if (KD_UNLIKELY(tape->observer != NULL)) tape->observer(tape->observer_arg, what, y, multiply_adds);
}
