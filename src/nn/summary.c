/* summary.c - a model as a table.
 * SPDX-License-Identifier: MIT */
#include "base/platform.h"
#include "nn/nn.h"

/* What one forward showed of a layer. */
typedef struct seen {
    bool     ran;
    size_t   rank, shape[KD_MAX_RANK];
    uint64_t multiply_adds;   /* children included */
} seen;

typedef struct summary {
    const kd_model *model;
    seen    *layers;          /* by kd_layer.index */
    uint64_t multiply_adds;
    char    *out;
    size_t   cap, length;
} summary;

enum { COLUMNS = 5, FIRST_NUMBER = 3, CELL = 160 };   /* columns from FIRST_NUMBER on are numbers, aligned right */

static void observe(void *arg, const void *what, const kd_tensor *y, uint64_t multiply_adds)
{
    summary *s = arg;
    const kd_layer *layer = what;
    if (layer->model != s->model) return;   /* a block may run a model of its own */
    seen *at = &s->layers[layer->index];
    at->ran = true;
    at->rank = y->rank;
    memcpy(at->shape, y->shape, sizeof at->shape);
    at->multiply_adds += multiply_adds;
}

/* One forward on zeros; integers where the model wants indices. */
static kd_status run(summary *s, kd_model *model, kd_dtype dtype, size_t rank, const size_t *shape)
{
    kd_tape *tape = NULL;
    kd_tensor *x = NULL;
    kd_status status = kd_tensor_create(&x, model->ctx, dtype, rank, shape);
    if (status == KD_OK) status = kd_tape_create(&tape, model->ctx, KD_TAPE_INFER);
    if (status == KD_OK) {
        tape->observer = observe;
        tape->observer_arg = s;
        kd_model_forward(model, tape, x);
        status = kd_tape_status(tape);
        s->multiply_adds = kd_tape_multiply_adds(tape);
    }
    kd_tape_free(tape);
    kd_tensor_free(x);
    return status;
}

/* ---- text ------------------------------------------------------------------------------------------------------- */

static void put(summary *s, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++, s->length++)
        if (s->length + 1 < s->cap) s->out[s->length] = text[i];
}

static void put_spaces(summary *s, size_t n)
{
    while (n--) put(s, " ", 1);
}

/* 1234567 as "1,234,567". */
static void with_commas(char out[CELL], uint64_t number)
{
    char digits[24];
    size_t n = kd__format(digits, sizeof digits, "%llu", (unsigned long long)number);
    for (size_t i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0) *out++ = ',';
        *out++ = digits[i];
    }
    *out = 0;
}

static uint64_t own_multiply_adds(const summary *s, const kd_layer *layer)
{
    uint64_t own = s->layers[layer->index].multiply_adds;
    for (const kd_layer *c = layer->first; c; c = c->next) own -= KD_MIN(own, s->layers[c->index].multiply_adds);
    return own;
}

static uint64_t own_parameters(const kd_layer *layer)
{
    uint64_t own = 0;
    for (const kd__param *p = layer->first_param; p; p = p->next)
        if (!(p->kind & KD_PARAM_BUFFER)) own += p->tensor.count;
    return own;
}

/* Cell `column` of the row of `layer`; the root's row holds the totals, NULL's the headings. */
static void cell(char out[CELL], const summary *s, const kd_layer *layer, size_t column)
{
    static const char *const headings[COLUMNS] = { "layer", "type", "output", "parameters", "multiply-adds" };
    *out = 0;
    if (!layer) {
        kd__format(out, CELL, "%s", headings[column]);
        return;
    }
    const bool total = layer == s->model->root;
    const seen *at = &s->layers[layer->index];
    switch (column) {
    case 0: kd__format(out, CELL, "%s", total ? "total" : layer->path); break;
    case 1:
        if (!total) kd__format(out, CELL, "%s", kd__layer_type_name(layer));
        break;
    case 2:
        if (at->ran) kd__format(out, CELL, "%S", at->rank, at->shape);
        else kd__format(out, CELL, "(not run)");
        break;
    default: {
        uint64_t parameters = total ? s->model->size : own_parameters(layer);
        uint64_t work = total ? s->multiply_adds : own_multiply_adds(s, layer);
        uint64_t number = column == FIRST_NUMBER ? parameters : work;
        if (number || total) with_commas(out, number);
    }
    }
}

static void put_row(summary *s, const kd_layer *layer, const size_t width[COLUMNS])
{
    char text[CELL];
    size_t owed = 0;   /* spaces that only appear when something follows */
    for (size_t column = 0; column < COLUMNS; column++) {
        cell(text, s, layer, column);
        size_t n = strlen(text), fill = width[column] - n;
        if (column >= FIRST_NUMBER) owed += fill;
        if (n) {
            put_spaces(s, owed);
            put(s, text, n);
            owed = 0;
        }
        owed += 2 + (column < FIRST_NUMBER ? fill : 0);
    }
    put(s, "\n", 1);
}

static void write_table(summary *s)
{
    size_t width[COLUMNS] = { 0 };
    char text[CELL];
    kd_layer *root = s->model->root;
    for (size_t column = 0; column < COLUMNS; column++) {
        cell(text, s, NULL, column);
        width[column] = strlen(text);
        for (kd_layer *l = root; l; l = kd__layer_next(root, l)) {
            cell(text, s, l, column);
            width[column] = KD_MAX(width[column], strlen(text));
        }
    }
    put_row(s, NULL, width);
    for (kd_layer *l = kd__layer_next(root, root); l; l = kd__layer_next(root, l)) put_row(s, l, width);
    put_row(s, root, width);
    if (s->cap) s->out[KD_MIN(s->length, s->cap - 1)] = 0;
}

size_t kd_model_summary(kd_model *model, size_t rank, const size_t *input_shape, char *out, size_t cap)
{
    KD__FP_SCOPE;
    summary s = { .model = model, .out = out, .cap = out ? cap : 0 };
    if (s.cap) *out = 0;
    if (!model || (rank && !input_shape)) {
        kd__fail(KD_ERR_ARG, "%s: %s is NULL", __func__, model ? "input_shape" : "model");
        return 0;
    }
    s.layers = kd__alloc_array(model->ctx, model->layer_count, sizeof *s.layers);
    if (!s.layers) return 0;
    kd_status status = run(&s, model, KD_F32, rank, input_shape);
    if (status == KD_ERR_DTYPE) {
        memset(s.layers, 0, model->layer_count * sizeof *s.layers);
        status = run(&s, model, KD_I32, rank, input_shape);
    }
    if (status == KD_OK) write_table(&s);
    kd__free(model->ctx, s.layers);
    return status == KD_OK ? s.length : 0;
}
