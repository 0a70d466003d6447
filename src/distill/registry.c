/* registry.c - the list of methods: methods.def, to be asked.
 * SPDX-License-Identifier: MIT */
#include "distill/feature.h"
#include "distill/loss.h"
#include "nn/nn.h"

typedef struct listed {
    const char *name;
    uint32_t    kind, method;
    const char *source;
    const char *const *formula;   /* in the method's own file */
} listed;

static const listed list[] = {
#define DISTILL(id, name, source) { name, KD_METHOD_DISTILL, KD_DISTILL_##id, source, &kd__method_##id.formula },
#define FEATURE(id, name, source) { name, KD_METHOD_FEATURE, KD_FEATURE_##id, source, &kd__feature_##id.formula },
#include "distill/methods.def"
#undef DISTILL
#undef FEATURE
};

size_t kd_method_count(void) { return KD_COUNT(list); }

static void describe(const listed *m, kd_method_info *out)
{
    const kd_method_info info = { .struct_size = sizeof info, .name = m->name, .kind = m->kind, .method = m->method,
                                  .source = m->source, .formula = *m->formula };
    kd__info_write(out, &info, sizeof info);
}

kd_status kd_method_at(size_t i, kd_method_info *out)
{
    KD_NEED(out);
    KD_TRY(kd__info_check(out, sizeof *out, "kd_method_at: out"));
    if (i >= KD_COUNT(list)) return kd__fail(KD_ERR_ARG, "%s: i %zu is not below %zu, the number of methods", __func__, i,
                                             KD_COUNT(list));
    describe(&list[i], out);
    return KD_OK;
}

kd_status kd_method_find(const char *name, kd_method_info *out)
{
    KD_NEED(name);
    KD_NEED(out);
    KD_TRY(kd__info_check(out, sizeof *out, "kd_method_find: out"));
    size_t best = SIZE_MAX;
    const listed *nearest = &list[0];
    for (size_t i = 0; i < KD_COUNT(list); i++) {
        size_t distance = kd__edit_distance(list[i].name, name);
        if (distance < best) best = distance, nearest = &list[i];
    }
    if (best) return kd__fail(KD_ERR_ARG, "%s: no method \"%s\" (the nearest is \"%s\")", __func__, name, nearest->name);
    describe(nearest, out);
    return KD_OK;
}
