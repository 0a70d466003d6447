/* format.c - a tensor as text.
 * SPDX-License-Identifier: MIT */
#include "tensor/tensor.h"

enum { EDGE = 3 };   /* entries shown at each end of a long axis */

typedef struct text {
    char  *out;
    size_t cap, len;
} text;

static void put(text *t, const char *s)
{
    for (; *s; s++, t->len++)
        if (t->len + 1 < t->cap) t->out[t->len] = *s;
}

static void put_value(text *t, kd_dtype dtype, const void *at)
{
    char s[32];
    switch (dtype) {
    case KD_F32: kd__format(s, sizeof s, "%.4g", (double)*(const float *)at); break;
    case KD_F64: kd__format(s, sizeof s, "%.4g", *(const double *)at); break;
    case KD_I32: kd__format(s, sizeof s, "%d", (int)*(const int32_t *)at); break;
    case KD_I64: kd__format(s, sizeof s, "%lld", (long long)*(const int64_t *)at); break;
    default: kd__format(s, sizeof s, "%u", (unsigned)*(const uint8_t *)at);
    }
    put(t, s);
}

/* The axes from `axis` on, at `at`.  Recursion is as deep as the rank, at most 8. */
static void put_axis(text *t, const kd_tensor *x, size_t axis, const unsigned char *at)
{
    if (axis == x->rank) {
        put_value(t, x->dtype, at);
        return;
    }
    const size_t n = x->shape[axis];
    const bool cut = n > 2 * EDGE;
    put(t, "[");
    for (size_t i = 0; i < n; i++) {
        if (i) {
            put(t, ",");
            if (axis + 1 == x->rank) put(t, " ");
            else put(t, "\n");
            for (size_t k = 0; axis + 1 < x->rank && k <= axis; k++) put(t, " ");
        }
        if (cut && i == EDGE) {
            put(t, "...");
            i = n - EDGE - 1;
            continue;
        }
        put_axis(t, x, axis + 1, at + (ptrdiff_t)i * x->stride[axis] * (ptrdiff_t)kd_dtype_size(x->dtype));
    }
    put(t, "]");
}

size_t kd_tensor_format(const kd_tensor *x, char *out, size_t cap)
{
    text t = { out, out ? cap : 0, 0 };
    if (kd__tensor_check(x, __func__, "x") == KD_OK) {
        char head[256];
        kd__format(head, sizeof head, "%s %S\n", kd_dtype_name(x->dtype), (size_t)x->rank, x->shape);
        put(&t, head);
        if (x->count) put_axis(&t, x, 0, x->data);
        else put(&t, "[]");
    }
    if (t.cap) out[t.len < t.cap ? t.len : t.cap - 1] = 0;
    return t.len;
}
