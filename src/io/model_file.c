/* model_file.c - kd_model_save and kd_model_load: safetensors with the names and layouts that PyTorch uses.
 * SPDX-License-Identifier: MIT */
#include "base/platform.h"
#include "io/io_internal.h"
#include "nn/nn.h"

static const char key_mean[] = "kd.input_mean", key_std[] = "kd.input_std";

/* Axes of the file's tensor in the model's: linear [in, out], conv [k.., in, out]; NULL: the same. */
static const size_t *file_axes(const kd_param_info *p)
{
    static const size_t linear[] = { 1, 0 }, conv1[] = { 2, 1, 0 }, conv2[] = { 3, 2, 0, 1 };
    uint32_t kind = p->kind & ~KD_PARAM_BUFFER;
    if (kind == KD_PARAM_LINEAR) return linear;
    if (kind == KD_PARAM_CONV) return kd_tensor_rank(p->tensor) == 3 ? conv1 : conv2;
    return NULL;
}

/* `x`, which has the model's layout, seen in the file's. */
static kd_status file_view(kd_tensor **out, const kd_tensor *x, const kd_param_info *p)
{
    const size_t *axes = file_axes(p);
    return axes ? kd_tensor_transpose(out, x, axes) : kd_tensor_view(out, x);
}

static kd_status check_model(const kd_model *model, const char *function)
{
    if (!model) return kd__fail(KD_ERR_ARG, "%s: model is NULL", function);
    if (!model->finished) return kd__fail(KD_ERR_STATE, "%s: the model is not finished (kd_model_finish)", function);
    return KD_OK;
}

/* ---- saving ----------------------------------------------------------------------------------------- */

/* "0.485,0.456,0.406": as few digits as give the same float back. */
static void put_floats(kd__text *text, const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char number[40];
        double back = 0;
        for (int digits = 1; digits <= 17; digits++) {
            size_t n = kd__format(number, sizeof number, "%.*g", digits, (double)values[i]);
            if (kd__parse_double(number, number + n, &back) && (float)back == values[i]) break;
        }
        if (i) kd__text_put(text, ",", 1);
        kd__text_string(text, number);
    }
    kd__text_put(text, "", 1);
}

static kd_status save_views(const kd_model *model, const char *path, kd_tensor **views, const char **names,
                            size_t count)
{
    for (size_t i = 0; i < count; i++) {
        kd_param_info p = { .struct_size = sizeof p };
        KD_TRY(kd_model_parameter_at(model, i, &p));
        names[i] = p.name;
        KD_TRY(file_view(&views[i], p.tensor, &p));
    }
    kd__text mean = { .ctx = model->ctx }, std = { .ctx = model->ctx };
    const char *metadata[8] = { "format", "pt", "libkd", kd_version_string() };
    size_t strings = 4, channels;
    const float *mean_of, *std_of;
    if (kd__model_input_norm(model, &channels, &mean_of, &std_of)) {
        put_floats(&mean, mean_of, channels);
        put_floats(&std, std_of, channels);
        metadata[strings++] = key_mean;
        metadata[strings++] = mean.data;
        metadata[strings++] = key_std;
        metadata[strings++] = std.data;
    }
    kd_status status = mean.failed || std.failed ? KD_ERR_NOMEM : KD_OK;
    if (status == KD_OK)
        status = kd_safetensors_save(model->ctx, path, names, (const kd_tensor *const *)views, count, metadata,
                                     strings);
    kd__free(model->ctx, mean.data);
    kd__free(model->ctx, std.data);
    return status;
}

kd_status kd_model_save(const kd_model *model, const char *path)
{
    KD__FP_SCOPE;
    KD_TRY(check_model(model, "kd_model_save"));
    KD_NEED(path);
    size_t count = kd_model_parameter_count(model);
    kd_tensor **views = kd__alloc_array(model->ctx, count, sizeof *views);
    const char **names = kd__alloc_array(model->ctx, count, sizeof *names);
    kd_status status = views && names ? save_views(model, path, views, names, count) : KD_ERR_NOMEM;
    for (size_t i = 0; views && i < count; i++) kd_tensor_free(views[i]);
    kd__free(model->ctx, names);
    kd__free(model->ctx, views);
    return status == KD_OK ? KD_OK : kd__fail_prefix(status, "kd_model_save: ");
}

/* ---- loading: what differs -------------------------------------------------------------------------- */

/* What may differ, in the order of the text. */
enum { OTHER_SHAPES, NOT_FLOATS, MISSING_NAMES, UNEXPECTED_NAMES, TROUBLES };
static const char troubles[TROUBLES][13] = { "other shapes", "not floats", "missing", "unexpected" };

/* Names of one trouble: the first few, and how many there are; the log has all. */
typedef struct list {
    char   text[120];
    size_t used, count, shown;
} list;

typedef struct loading {
    kd_model             *model;
    const kd_safetensors *file;
    const char           *path;
    uint32_t              flags;
    size_t                count;      /* parameters and buffers */
    size_t               *entry;      /* of each: its tensor in the file, or (size_t)-1 */
    float                *weights, *buffers;   /* the new blocks */
    list                  lists[TROUBLES];
} loading;

static void add(loading *to, size_t trouble, const char *text)
{
    list *l = &to->lists[trouble];
    size_t n = strlen(text), room = sizeof l->text - l->used;
    kd__log(to->model->ctx, KD_LOG_INFO, "kd_model_load: %s: %s", troubles[trouble], text);
    l->count++;
    if (l->shown + 1 < l->count || n + 3 > room) return;
    l->used += kd__format(l->text + l->used, room, "%s%s", l->shown ? ", " : "", text);
    l->shown++;
}

/* "; missing: a, b and 3 more" of each. */
static void report(char *out, size_t cap, const loading *of)
{
    for (size_t i = 0, n = 0; i < TROUBLES; i++) {
        const list *l = &of->lists[i];
        if (l->count && n < cap) n += kd__format(out + n, cap - n, "; %s: %s", troubles[i], l->text);
        if (l->count > l->shown && n < cap)
            n += kd__format(out + n, cap - n, "%s%zu%s", l->shown ? " and " : "", l->count - l->shown, l->shown ? " more" : "");
    }
}

/* Of the names in kd__safetensors_dtypes: F16, BF16, F32, F64, not F4, F6_.., F8_... */
static bool is_float(const char *dtype)
{
    dtype += dtype[0] == 'B';
    return dtype[0] == 'F' && dtype[2] && dtype[2] != '_';
}

/* A vision transformer's positions, which may be those of another grid. */
static bool resizable(const loading *l, const kd_param_info *p, const kd_safetensors_info *found)
{
    size_t side, special, other_side, other;
    const char *name = strrchr(p->name, '.');
    const size_t rank = kd_tensor_rank(p->tensor);
    return l->flags & KD_LOAD_RESIZE_POSITIONS && strcmp(name ? name + 1 : p->name, "pos_embed") == 0 && rank == 3 && found->rank == 3 &&
           found->shape[2] == kd_tensor_size(p->tensor, 2) && kd__positions_grid(p->tensor->shape, rank, &side, &special) &&
           kd__positions_grid(found->shape, rank, &other_side, &other) && other == special;
}

/* Compare one parameter with the file's tensor of its name. */
static void compare(loading *l, const kd_param_info *p, const kd_safetensors_info *found)
{
    size_t want[KD_MAX_RANK], rank = kd_tensor_rank(p->tensor);
    const size_t *axes = file_axes(p);
    char text[120];
    bool same = found->rank == rank;
    for (size_t i = 0; i < rank; i++) {
        want[i] = kd_tensor_size(p->tensor, axes ? axes[i] : i);
        same = same && found->shape[i] == want[i];
    }
    if (!same && !resizable(l, p, found)) {
        kd__format(text, sizeof text, "%s is %S in the file, %S in the model", kd__show(p->name).text, found->rank,
                   found->shape, rank, want);
        add(l, OTHER_SHAPES, text);
    } else if (!is_float(found->dtype)) {
        kd__format(text, sizeof text, "%s is %s", kd__show(p->name).text, found->dtype);
        add(l, NOT_FLOATS, text);
    }
}

static bool passed_over(const char *name)
{
    static const char counter[] = "num_batches_tracked";
    size_t n = strlen(name), c = sizeof counter - 1;
    return n >= c && strcmp(name + n - c, counter) == 0 && (n == c || name[n - c - 1] == '.');
}

static kd_status match(loading *l)
{
    size_t in_file = kd_safetensors_count(l->file);
    uint8_t *used = kd__scratch_get(l->model->ctx, in_file + 1);
    if (!used) return KD_ERR_NOMEM;
    memset(used, 0, in_file);
    for (size_t i = 0; i < l->count; i++) {
        kd_param_info p = { .struct_size = sizeof p };
        kd_safetensors_info found = { .struct_size = sizeof found };
        (void)!kd_model_parameter_at(l->model, i, &p);
        l->entry[i] = kd_safetensors_find(l->file, p.name);
        if (l->entry[i] == (size_t)-1) {
            if (!(l->flags & KD_LOAD_MISSING_OK)) add(l, MISSING_NAMES, kd__show(p.name).text);
            continue;
        }
        used[l->entry[i]] = 1;
        (void)!kd_safetensors_at(l->file, l->entry[i], &found);
        compare(l, &p, &found);
    }
    for (size_t i = 0; i < in_file && !(l->flags & KD_LOAD_EXTRA_OK); i++) {
        kd_safetensors_info extra = { .struct_size = sizeof extra };
        (void)!kd_safetensors_at(l->file, i, &extra);
        if (!used[i] && !passed_over(extra.name)) add(l, UNEXPECTED_NAMES, kd__show(extra.name).text);
    }
    kd__scratch_put(l->model->ctx, used);
    char text[512] = "";
    report(text, sizeof text, l);
    if (!text[0]) return KD_OK;
    kd_status status = l->lists[OTHER_SHAPES].count ? KD_ERR_SHAPE : l->lists[NOT_FLOATS].count ? KD_ERR_DTYPE : KD_ERR_FORMAT;
    return kd__fail(status, "%s: not this model's weights%s", l->path, text);
}

/* ---- loading: the numbers --------------------------------------------------------------------------- */

/* The file's positions at another size, into `out`. */
static kd_status read_positions(loading *l, const kd_param_info *p, const kd_tensor *from, float *out)
{
    size_t from_side = 0, to_side = 0, special = 0;   /* of grids, as `resizable` saw */
    kd_tensor *plain = NULL;
    (void)kd__positions_grid(p->tensor->shape, 3, &to_side, &special);
    (void)kd__positions_grid(from->shape, 3, &from_side, &special);
    KD_TRY(kd_tensor_create(&plain, l->model->ctx, KD_F32, 3, from->shape));
    kd_status status = kd_tensor_copy(plain, from);
    if (status == KD_OK)
        status = kd__positions_resize(l->model->ctx, plain->data, from_side, special, from->shape[2], out, to_side);
    kd_tensor_free(plain);
    return status;
}

static kd_status read_one(loading *l, size_t i)
{
    kd_param_info p = { .struct_size = sizeof p };
    KD_TRY(kd_model_parameter_at(l->model, i, &p));
    float *block = p.kind & KD_PARAM_BUFFER ? l->buffers : l->weights;
    size_t shape[KD_MAX_RANK], rank = kd_tensor_rank(p.tensor);
    for (size_t a = 0; a < KD_MIN(rank, (size_t)KD_MAX_RANK); a++) shape[a] = kd_tensor_size(p.tensor, a);
    kd_tensor *from = NULL, *to = NULL, *view = NULL;
    kd_status status = kd_safetensors_read(l->file, l->entry[i], &from);
    if (status == KD_OK && from->rank == 3 && rank == 3 && from->shape[1] != shape[1] && l->flags & KD_LOAD_RESIZE_POSITIONS &&
        !file_axes(&p)) {
        status = read_positions(l, &p, from, block + p.offset);
        kd_tensor_free(from);
        return status;
    }
    if (status == KD_OK) status = kd_tensor_wrap(&to, l->model->ctx, KD_F32, rank, shape, NULL, block + p.offset);
    if (status == KD_OK) status = file_view(&view, to, &p);
    if (status == KD_OK) status = kd_tensor_copy(view, from);
    kd_tensor_free(view);
    kd_tensor_free(to);
    kd_tensor_free(from);
    return status;
}

/* "0.5,0.25" into floats; *count says how many there is room for, then how many there were. */
static bool parse_floats(const char *text, float *out, size_t *count)
{
    size_t n = 0;
    for (const char *p = text;; p++) {
        const char *end = p + strcspn(p, ",");
        double value;
        if (n == *count || !kd__parse_double(p, end, &value)) return false;
        out[n++] = (float)value;
        p = end;
        if (!*p) break;
    }
    *count = n;
    return true;
}

static kd_status read_norm(loading *l)
{
    const char *mean = kd_safetensors_metadata(l->file, key_mean), *std = kd_safetensors_metadata(l->file, key_std);
    if (!mean && !std) return KD_OK;
    size_t room = KD_MAX(mean ? strlen(mean) : 0, std ? strlen(std) : 0) / 2 + 1, channels = room, other = room;
    float *values = kd__alloc_array(l->model->ctx, room, 2 * sizeof *values);
    if (!values) return KD_ERR_NOMEM;
    kd_status status = KD_OK;
    if (!mean || !std || !parse_floats(mean, values, &channels) || !parse_floats(std, values + room, &other) ||
        channels != other)
        status = kd__fail(KD_ERR_FORMAT, "%s: metadata %s and %s are not two lists of as many numbers", l->path,
                          key_mean, key_std);
    else if ((status = kd_model_set_input_norm(l->model, channels, values, values + room)) == KD_ERR_ARG)
        status = kd__fail_prefix(KD_ERR_FORMAT, "%s: metadata %s, %s: ", l->path, key_mean, key_std);
    kd__free(l->model->ctx, values);
    return status;
}

/* Into blocks of their own; the model changes only when nothing can fail any more. */
static kd_status load(loading *l)
{
    size_t weights, buffers;
    float *old_weights = kd_model_weights(l->model, &weights), *old_buffers = kd_model_buffers(l->model, &buffers);
    l->count = kd_model_parameter_count(l->model);
    l->entry = kd__alloc_array(l->model->ctx, l->count, sizeof *l->entry);
    if (!l->entry) return KD_ERR_NOMEM;
    KD_TRY(match(l));
    l->weights = kd__alloc_array(l->model->ctx, weights, sizeof(float));
    l->buffers = kd__alloc_array(l->model->ctx, buffers, sizeof(float));
    if (!l->weights || !l->buffers) return KD_ERR_NOMEM;
    if (weights) memcpy(l->weights, old_weights, weights * sizeof(float));
    if (buffers) memcpy(l->buffers, old_buffers, buffers * sizeof(float));
    for (size_t i = 0; i < l->count; i++)
        if (l->entry[i] != (size_t)-1) KD_TRY(read_one(l, i));
    KD_TRY(read_norm(l));
    if (weights) memcpy(old_weights, l->weights, weights * sizeof(float));
    if (buffers) memcpy(old_buffers, l->buffers, buffers * sizeof(float));
    kd_model_touch(l->model);
    return KD_OK;
}

kd_status kd_model_load(kd_model *model, const char *path, uint32_t flags)
{
    KD__FP_SCOPE;
    KD_TRY(check_model(model, "kd_model_load"));
    KD_NEED(path);
    if (flags & ~(KD_LOAD_MISSING_OK | KD_LOAD_EXTRA_OK | KD_LOAD_RESIZE_POSITIONS))
        return kd__fail(KD_ERR_ARG, "kd_model_load: flags 0x%x: unknown", flags);
    kd_safetensors *file;
    kd_status status = kd_safetensors_open(&file, model->ctx, path, 0);
    if (status == KD_OK) {
        loading l = { .model = model, .file = file, .path = path, .flags = flags };
        status = load(&l);
        kd__free(model->ctx, l.entry);
        kd__free(model->ctx, l.weights);
        kd__free(model->ctx, l.buffers);
        kd_safetensors_close(file);
    }
    return status == KD_OK ? KD_OK : kd__fail_prefix(status, "kd_model_load: ");
}
