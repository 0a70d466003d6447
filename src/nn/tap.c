/* tap.c - outputs of inner layers, kept for whoever asked.
 *
 * What was asked is two flags in the layer; what came of it is a note on the tape under the flag's address.  So a
 * forward writes nothing to the model, and two tapes never see each other's tensors.
 * SPDX-License-Identifier: MIT */
#include "nn/nn.h"

size_t kd__edit_distance(const char *a, const char *b)
{
    enum { LONGEST = 256 };
    size_t row[LONGEST + 1], n = strlen(b);
    if (n > LONGEST) n = LONGEST;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 1; *a; a++, i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t change = diagonal + (*a != b[j - 1]);
            diagonal = row[j];
            row[j] = KD_MIN(change, KD_MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[n];
}

/* A sequence ends in its last child; so does what is in front of its activation. */
static kd_layer *residual_of(kd_layer *layer)
{
    while (layer && layer->type == KD__LAYER_sequence) layer = layer->last;
    return layer && layer->type == KD__LAYER_residual ? layer : NULL;
}

static kd_status no_layer(const kd_model *model, const char *path, size_t length, const char *function)
{
    char wanted[256];
    kd__format(wanted, KD_MIN(sizeof wanted, length + 1), "%s", path);
    const kd_layer *nearest = NULL;
    size_t best = SIZE_MAX;
    for (kd_layer *l = model->root; l; l = kd__layer_next(model->root, l)) {
        if (l == model->root) continue;
        size_t distance = kd__edit_distance(l->path, wanted);
        if (distance < best) {
            best = distance;
            nearest = l;
        }
    }
    if (!nearest) return kd__fail(KD_ERR_ARG, "%s: no layer \"%s\": the model has none", function, wanted);
    return kd__fail(KD_ERR_ARG, "%s: no layer \"%s\" (the nearest is \"%s\")", function, wanted, nearest->path);
}

/* The flag of a tap, "layer3" or "layer3:pre". */
static kd_status flag_of(const kd_model *model, const char *path, const char *function, bool **out)
{
    const char *colon = strchr(path, ':');
    size_t length = colon ? (size_t)(colon - path) : strlen(path);
    kd_layer *layer = kd__layer_at(model->root, path, length);
    if (!layer) return no_layer(model, path, length, function);
    if (!colon) {
        *out = &layer->tap_out;
        return KD_OK;
    }
    if (strcmp(colon, ":pre")) return kd__fail(KD_ERR_ARG, "%s: path \"%s\": only \":pre\" may follow a layer", function, path);
    kd_layer *residual = residual_of(layer);
    if (!residual)
        return kd__fail(KD_ERR_ARG, "%s: path \"%s\": neither a residual nor a sequence that ends in one", function, path);
    *out = &residual->tap_pre;
    return KD_OK;
}

kd_status kd_model_tap(kd_model *model, const char *path)
{
    KD_NEED(model);
    KD_NEED(path);
    bool *flag;
    KD_TRY(flag_of(model, path, __func__, &flag));
    *flag = true;
    return KD_OK;
}

kd_tensor *kd_model_tapped(const kd_model *model, kd_tape *tape, const char *path)
{
    if (!tape) kd__fail(KD_ERR_ARG, "%s: tape is NULL", __func__);
    if (!kd__tape_ok(tape)) return kd__poison(tape);
    bool *flag = NULL;
    kd_tensor *y = NULL;
    kd_status status;
    if (!model || !path) status = kd__fail(KD_ERR_ARG, "%s: %s is NULL", __func__, model ? "path" : "model");
    else if ((status = flag_of(model, path, __func__, &flag)) == KD_OK) {
        y = kd__tape_tag(tape, flag);
        if (!*flag) status = kd__fail(KD_ERR_STATE, "%s: \"%s\" was not tapped (kd_model_tap)", __func__, path);
        else if (!y) status = kd__fail(KD_ERR_STATE, "%s: \"%s\": no forward of this model on this tape", __func__, path);
    }
    return status == KD_OK ? y : kd__tape_fail_in(tape, __func__, status);
}
