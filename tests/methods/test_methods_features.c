/* test_methods_features.c - every method of kd_loss_feature, from methods.def: value and gradients of taps, logits and adapters
 * against its reference, hard places, invariances, bits, memory.  tests/ref/method_ref.h says what is checked;
 * `test_methods_features NAME` runs one method.
 * SPDX-License-Identifier: MIT */
#include "distill/feature.h"
#include "methods_check.h"

typedef struct method { const char *name; uint32_t number; const method_feature *ref; } method;
static const method methods[] = {
    { NULL, 0, NULL },
#define DISTILL(id, name, source)
#define FEATURE(id, name, source) { name, KD_FEATURE_##id, &method_feature_##id },
#include "distill/methods.def"
#undef DISTILL
#undef FEATURE
};
enum { METHODS = sizeof methods / sizeof *methods };

/* ---- a problem ---------------------------------------------------------------------------------------------------- */
typedef struct problem {
    const method *m;
    char      what[200];
    kd_loss_feature_desc desc;
    kd_feature_shape student[METHOD_TAPS], teacher[METHOD_TAPS];
    float    *s[METHOD_TAPS], *t[METHOD_TAPS], *mask, *logits[2];   /* student's, teacher's */
    size_t    tokens;
    float    *classifier, *bias, *bn[METHOD_TAPS];
    const float *bn_weight[METHOD_TAPS], *bn_bias[METHOD_TAPS];
    method_in x;
    kd_loss_feature *names;   /* keeps the names of x.param alive */
    int       masked;
    uint32_t  mode;           /* of the tape */
} problem;

static void problem_free(problem *p)
{
    method_in *x = &p->x;
    for (size_t k = 0; k < METHOD_TAPS; k++)
        free(p->s[k]), free(p->t[k]), free(x->s[k].data), free(x->t[k].data), free(x->s_fixed[k].data), free(p->bn[k]);
    for (size_t i = 0; i < x->params; i++) free(x->param[i].data), free(x->param[i].fixed);
    free(p->mask), free(x->mask), free(p->logits[0]), free(p->logits[1]), free(x->student_logits), free(x->teacher_logits);
    free(p->classifier), free(p->bias), free(x->labels), free(x->indices);
    kd_loss_feature_free(p->names);
    memset(p, 0, sizeof *p);
}

static void fix(void *user)
{
    problem *p = user;
    for (size_t k = 0; k < p->x.taps; k++)
        memcpy(p->x.s_fixed[k].data, p->x.s[k].data, p->x.rows * p->x.s[k].each * sizeof(double));
    for (size_t i = 0; i < p->x.params; i++)
        memcpy(p->x.param[i].fixed, p->x.param[i].data, p->x.param[i].count * sizeof(double));
}

static void widen(double *to, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i++) to[i] = (double)from[i];
}

static void to_double(problem *p)
{
    method_in *x = &p->x;
    for (size_t k = 0; k < x->taps; k++) widen(x->s[k].data, p->s[k], x->rows * x->s[k].each);
    for (size_t k = 0; k < x->teacher_taps; k++) widen(x->t[k].data, p->t[k], x->rows * x->t[k].each);
    if (p->logits[0]) widen(x->student_logits, p->logits[0], x->rows * x->classes);
    if (p->logits[1]) widen(x->teacher_logits, p->logits[1], x->rows * x->classes);
    if (x->mask) widen(x->mask, p->mask, x->rows * p->tokens);
    fix(p);
}

static int largest;   /* shapes as large as they get: for what memory they take */
static size_t draw(void *rand, size_t low, size_t high) { return largest ? high : kdtest_size(rand, low, high); }

static method_tap tap(size_t rank, size_t a, size_t b, size_t c)
{
    return (method_tap){ .rank = rank, .size = { a, rank > 1 ? b : 0, rank > 2 ? c : 0 } };
}

static void draw_shapes(method_in *x, const method_feature *f, size_t small, kdtest_rand *r)
{
    size_t low = f->taps_low ? f->taps_low : 1, high = f->taps_high ? f->taps_high : low;
    x->taps = draw(r, low, high);
    x->teacher_taps = f->teacher_taps ? f->teacher_taps : x->taps;
    size_t h = draw(r, 1, small), w = f->kind == METHOD_MAPS ? h : draw(r, 1, small), th = h, tw = w;
    if (!(f->same & METHOD_SAME_SIZE)) th = draw(r, 1, small), tw = f->kind == METHOD_MAPS ? th : draw(r, 1, small);
    size_t c = 1, tc = 1;
    size_t most = x->taps > x->teacher_taps ? x->taps : x->teacher_taps;
    for (size_t k = 0; k < most && k < METHOD_TAPS; k++) {
        if (k == 0 || !(f->same & METHOD_ONE_SHAPE)) {
            size_t least_width = f->width_low ? f->width_low : 1;
            c = draw(r, least_width, least_width + 2 * small + 2);
            tc = draw(r, f->same & METHOD_TEACHER_WIDER ? c : least_width, c + least_width + small);
            if (f->same & METHOD_SAME_WIDTH) tc = c;
        }
        size_t scale = f->same & METHOD_HALVING ? (size_t)1 << (most - 1 - k) : 1;
        method_tap s = f->kind == METHOD_VECTORS ? tap(1, c, 0, 0) : f->kind == METHOD_TOKENS ? tap(2, h, c, 0)
                     : f->kind == METHOD_ATTENTION ? tap(3, w, h, h) : tap(3, h * scale, w * scale, c);
        method_tap t = f->kind == METHOD_VECTORS ? tap(1, tc, 0, 0) : f->kind == METHOD_TOKENS ? tap(2, th, tc, 0)
                     : f->kind == METHOD_ATTENTION ? tap(3, tw, th, th) : tap(3, th * scale, tw * scale, tc);
        if (k < x->taps) x->s[k] = s;
        if (k < x->teacher_taps) x->t[k] = t;
    }
}

static kd_feature_shape shape_of(method_tap *t)
{
    kd_feature_shape s = { .rank = t->rank };
    t->each = 1;
    for (size_t d = 0; d < t->rank; d++) s.size[d] = t->size[d], t->each *= t->size[d];
    return s;
}

/* The adapters' numbers as the loss begins. */
static void take_adapters(problem *p)
{
    method_in *x = &p->x;
    if (!MC_CHECK(kd_loss_feature_create(&p->names, NULL, &p->desc) == KD_OK, "%s: %s", p->what, kd_last_error())) return;
    kd_model *model = kd_loss_feature_adapters(p->names);
    for (size_t i = 0; model && i < kd_model_parameter_count(model); i++) {
        kd_param_info info = { .struct_size = sizeof info };
        if (!CHECK(x->params + 1 < METHOD_PARAMS) || !CHECK_OK(kd_model_parameter_at(model, i, &info))) break;
        method_param *q = &x->param[x->params++];
        *q = (method_param){ .name = info.name, .rank = kd_tensor_rank(info.tensor), .count = kd_tensor_count(info.tensor) };
        for (size_t d = 0; d < q->rank && d < 4; d++) q->size[d] = kd_tensor_size(info.tensor, d);
        q->data = malloc((q->count + 1) * sizeof(double)), q->fixed = malloc((q->count + 1) * sizeof(double));
        widen(q->data, kd_tensor_f32(info.tensor), q->count);
    }
    if (p->names->state_floats) {
        method_param *q = &x->param[x->params++];
        *q = (method_param){ .name = "state", .rank = 1, .size = { p->names->state_floats }, .count = p->names->state_floats };
        q->data = malloc((q->count + 1) * sizeof(double)), q->fixed = malloc((q->count + 1) * sizeof(double));
        widen(q->data, p->names->state, q->count);
    }
}

static float *numbers(kdtest_rand *r, size_t n, double scale)
{
    float *x = malloc((n + 1) * sizeof *x);
    kdtest_fill(r, x, n, scale);
    return x;
}

static void problem_make(problem *p, const method *m, const method_feature_option *option, float T, size_t rows, size_t small,
                         int masked, double scale, kdtest_rand *r)
{
    const method_feature *f = m->ref;
    method_in *x = &p->x;
    memset(p, 0, sizeof *p);
    p->m = m, p->mode = KD_TAPE_TRAIN, p->masked = masked && f->needs & METHOD_MASK;
    CHECK_OK(kd_loss_feature_desc_for(&p->desc, sizeof p->desc, m->number));
    if (option->set) option->set(&p->desc);
    p->desc.weight = 1, p->desc.warmup = 0, p->desc.seed = 5;
    if (T > 0 && !(f->but & METHOD_NO_TEMPERATURE)) p->desc.temperature = T;
    x->feature = &p->desc;
    if (f->shapes) x->taps = x->teacher_taps = 0, f->shapes(x, draw, r);
    else draw_shapes(x, f, small, r);
    x->rows = rows, x->train = 1, x->form = p->desc.form, x->T = (double)p->desc.temperature;
    for (size_t k = 0; k < x->taps; k++) {
        p->student[k] = shape_of(&x->s[k]);
        size_t n = rows * x->s[k].each;
        p->s[k] = numbers(r, n, scale);
        x->s_fixed[k] = x->s[k];
        x->s[k].data = calloc(n + 1, sizeof(double)), x->s_fixed[k].data = calloc(n + 1, sizeof(double));
    }
    for (size_t k = 0; k < x->teacher_taps; k++) {
        p->teacher[k] = shape_of(&x->t[k]);
        p->t[k] = numbers(r, rows * x->t[k].each, scale);
        x->t[k].data = calloc(rows * x->t[k].each + 1, sizeof(double));
    }
    p->desc.student = p->student, p->desc.student_count = x->taps;
    p->desc.teacher = p->teacher, p->desc.teacher_count = x->teacher_taps;
    x->classes = f->needs & (METHOD_LOGITS | METHOD_CLASSIFIER | METHOD_LABELS) ? kdtest_size(r, 2, 9) : 0;
    if (x->classes) p->desc.classes = x->classes;
    if (f->needs & METHOD_INDICES) p->desc.samples = rows + 40;
    if (f->needs & METHOD_BATCH) p->desc.samples = rows ? rows : 1;
    x->labels = calloc(rows + 1, sizeof(int32_t)), x->indices = calloc(rows + 1, sizeof(int32_t));
    for (size_t i = 0; i < rows; i++) {
        x->labels[i] = x->classes ? (int32_t)kdtest_size(r, 0, x->classes - 1) : 0;
        x->indices[i] = (int32_t)(i * 7 % (rows + 40));
    }
    if (f->needs & METHOD_LOGITS)
        for (int k = 0; k < 2; k++) {
            p->logits[k] = numbers(r, rows * x->classes, 1);
            *(k ? &x->teacher_logits : &x->student_logits) = calloc(rows * x->classes + 1, sizeof(double));
        }
    if (f->needs & METHOD_CLASSIFIER) {
        const method_tap *last = &x->t[x->teacher_taps - 1];
        p->classifier = numbers(r, last->size[last->rank - 1] * x->classes, .5), p->bias = numbers(r, x->classes, .5);
        p->desc.teacher_weight = p->classifier, p->desc.teacher_bias = p->bias;
    }
    for (size_t k = 0; f->needs & METHOD_BN && k < x->teacher_taps; k++) {
        size_t c = x->t[k].size[x->t[k].rank - 1];
        p->bn[k] = numbers(r, 2 * c, 1);
        for (size_t i = 0; i < c; i++) p->bn[k][i] = .5f + (p->bn[k][i] < 0 ? -p->bn[k][i] : p->bn[k][i]);
        p->bn_weight[k] = p->bn[k], p->bn_bias[k] = p->bn[k] + c;
        p->desc.teacher_bn_weight = p->bn_weight, p->desc.teacher_bn_bias = p->bn_bias;
    }
    if (p->masked) {
        const kd__feature_method *own = kd__feature_find(m->number, NULL);
        p->tokens = own->mask_width ? own->mask_width(&p->desc) : x->s[0].rank == 3 ? x->s[0].size[1] : x->s[0].size[0];
        p->mask = malloc((rows * p->tokens + 1) * sizeof(float)), x->mask = calloc(rows * p->tokens + 1, sizeof(double));
        for (size_t i = 0; i < rows * p->tokens; i++) p->mask[i] = i % p->tokens == 0 || i % 5 != 3 ? 1 : 0;
    }
    snprintf(p->what, sizeof p->what, "%s (%s), T %g, %zu rows, %zu taps [%zu, %zu, %zu] and [%zu, %zu, %zu]%s", m->name,
             option->name, x->T, rows, x->taps, x->s[0].size[0], x->s[0].size[1], x->s[0].size[2], x->t[0].size[0],
             x->t[0].size[1], x->t[0].size[2], p->masked ? ", masked" : "");
    take_adapters(p);
    const kd_loss_feature_desc *d = p->names ? &p->names->desc : &p->desc;   /* what a method fills in */
    x->alpha = (double)d->alpha, x->beta = (double)d->beta, x->gamma = (double)d->gamma;
    to_double(p);
}

/* ---- the library ------------------------------------------------------------------------------------------------------ */
typedef struct result {
    kd_status status;
    double    value;
    float    *grad[METHOD_TAPS], *logits, *param[METHOD_PARAMS];
} result;

static void result_make(result *o, const problem *p)
{
    memset(o, 0, sizeof *o);
    for (size_t k = 0; k < p->x.taps; k++) o->grad[k] = calloc(p->x.rows * p->x.s[k].each + 1, sizeof(float));
    o->logits = calloc(p->x.rows * p->x.classes + 1, sizeof(float));
    for (size_t i = 0; i < p->x.params; i++) o->param[i] = calloc(p->x.param[i].count + 1, sizeof(float));
}
static void result_free(result *o)
{
    for (size_t k = 0; k < METHOD_TAPS; k++) free(o->grad[k]);
    for (size_t i = 0; i < METHOD_PARAMS; i++) free(o->param[i]);
    free(o->logits);
}

static void adapter_gradients(const problem *p, kd_loss_feature *loss, result *o)
{
    kd_model *model = kd_loss_feature_adapters(loss);
    for (size_t i = 0; model && i < kd_model_parameter_count(model) && i < p->x.params; i++) {
        kd_param_info info = { .struct_size = sizeof info };
        if (kd_model_parameter_at(model, i, &info) == KD_OK && info.grad)
            memcpy(o->param[i], info.grad, p->x.param[i].count * sizeof(float));
    }
}

static void run_pointers(const problem *p, kd_loss_feature *loss, result *o)
{
    const method_feature *f = p->m->ref;
    kd_feature_batch b;
    memset(&b, 0, sizeof b);
    b.struct_size = sizeof b, b.rows = p->x.rows;
    b.student = (const float *const *)p->s, b.teacher = (const float *const *)p->t, b.grad = o->grad;
    if (f->needs & METHOD_LABELS) b.labels = p->x.labels;
    if (f->needs & METHOD_INDICES) b.indices = p->x.indices;
    if (p->masked) b.mask = p->mask;
    if (f->needs & METHOD_LOGITS) b.student_logits = p->logits[0], b.teacher_logits = p->logits[1], b.grad_logits = o->logits;
    b.train = p->mode == KD_TAPE_TRAIN;
    if (kd_loss_feature_adapters(loss)) kd_model_zero_grads(kd_loss_feature_adapters(loss));
    o->status = kd_loss_feature_eval(loss, &b, &o->value);
    if (o->status == KD_OK) adapter_gradients(p, loss, o);
}

static void run_tape(const problem *p, kd_loss_feature *loss, kd_context *ctx, kd_tape *tape, result *o)
{
    const method_in *x = &p->x;
    kd_tensor *s[METHOD_TAPS] = { NULL }, *t[METHOD_TAPS] = { NULL }, *more[5] = { NULL };
    size_t shape[5] = { x->rows };
    for (size_t k = 0; k < x->taps + x->teacher_taps; k++) {
        size_t i = k < x->taps ? k : k - x->taps;
        const method_tap *at = k < x->taps ? &x->s[i] : &x->t[i];
        memcpy(shape + 1, at->size, at->rank * sizeof *shape);
        kd_tensor **to = k < x->taps ? &s[i] : &t[i];
        o->status = kd_tensor_wrap(to, ctx, KD_F32, at->rank + 1, shape, NULL, k < x->taps ? p->s[i] : p->t[i]);
        if (o->status != KD_OK) goto done;
    }
    const struct { kd_dtype type; size_t width; void *data; } extra[5] = {
        { KD_I32, 0, p->m->ref->needs & METHOD_LABELS ? x->labels : NULL },
        { KD_I32, 0, p->m->ref->needs & METHOD_INDICES ? x->indices : NULL },
        { KD_F32, p->tokens, p->mask }, { KD_F32, x->classes, p->logits[0] }, { KD_F32, x->classes, p->logits[1] } };
    for (size_t k = 0; k < 5; k++) {
        if (!extra[k].data) continue;
        shape[1] = extra[k].width;
        o->status = kd_tensor_wrap(&more[k], ctx, extra[k].type, extra[k].width ? 2 : 1, shape, NULL, extra[k].data);
        if (o->status != KD_OK) goto done;
    }
    for (size_t k = 0; k < x->taps; k++) kd_requires_grad(tape, s[k]);
    if (more[3]) kd_requires_grad(tape, more[3]);
    kd_feature_inputs in = { .struct_size = sizeof in, .student = s, .student_count = x->taps, .teacher = t,
                             .teacher_count = x->teacher_taps, .labels = more[0], .indices = more[1], .mask = more[2],
                             .student_logits = more[3], .teacher_logits = more[4] };
    if (kd_loss_feature_adapters(loss)) kd_model_zero_grads(kd_loss_feature_adapters(loss));
    kd_tensor *y = kd_loss_feature_apply(loss, tape, &in);
    o->status = kd_backward(tape, y);
    if (o->status != KD_OK) goto done;
    o->value = kd_tensor_item(y);
    for (size_t k = 0; k < x->taps; k++) {
        const float *g = kd_grad(tape, s[k]);
        if (g) memcpy(o->grad[k], g, x->rows * x->s[k].each * sizeof *g);
    }
    const float *g = more[3] ? kd_grad(tape, more[3]) : NULL;
    if (g) memcpy(o->logits, g, x->rows * x->classes * sizeof *g);
    adapter_gradients(p, loss, o);
done:
    for (size_t k = 0; k < METHOD_TAPS; k++) kd_tensor_free(s[k]), kd_tensor_free(t[k]);
    for (size_t k = 0; k < 5; k++) kd_tensor_free(more[k]);
}

static kd_status hold(kd_loss_feature *loss, kd_context *ctx, kd_optimizer **opt)
{
    *opt = NULL;
    if (!kd_loss_feature_adapters(loss)) return KD_OK;
    kd_optimizer_desc desc;
    kd_optimizer_desc_init(&desc, sizeof desc);
    kd_status status = kd_optimizer_create(opt, ctx, &desc);
    return status == KD_OK ? kd_optimizer_add(*opt, kd_loss_feature_adapters(loss)) : status;
}

static void run_once(const problem *p, kd_context *ctx, int on_tape, result *o)
{
    kd_loss_feature *loss = NULL;
    kd_optimizer *opt = NULL;
    kd_tape *tape = NULL;
    o->status = kd_loss_feature_create(&loss, ctx, &p->desc);
    if (o->status == KD_OK) o->status = hold(loss, ctx, &opt);
    if (o->status == KD_OK && !on_tape) run_pointers(p, loss, o);
    else if (o->status == KD_OK) {
        o->status = kd_tape_create(&tape, ctx, p->mode);
        if (o->status == KD_OK) run_tape(p, loss, ctx, tape, o);
    }
    kd_tape_free(tape);
    kd_optimizer_free(opt);
    kd_loss_feature_free(loss);
}

static uint64_t bits(const problem *p, const result *o)
{
    float value = (float)o->value;
    uint64_t h = kdtest_hash(&value, sizeof value) * 3 + kdtest_hash(o->logits, p->x.rows * p->x.classes * sizeof(float));
    for (size_t k = 0; k < p->x.taps; k++) h = h * 5 + kdtest_hash(o->grad[k], p->x.rows * p->x.s[k].each * sizeof(float));
    for (size_t i = 0; i < p->x.params; i++) h = h * 5 + kdtest_hash(o->param[i], p->x.param[i].count * sizeof(float));
    return h;
}

static int equal(const problem *p, const result *a, const result *b)
{
    int same = (float)a->value == (float)b->value && mc_equal(a->logits, b->logits, p->x.rows * p->x.classes);
    for (size_t k = 0; k < p->x.taps; k++) same &= mc_equal(a->grad[k], b->grad[k], p->x.rows * p->x.s[k].each);
    /* without `train` pointers leave the adapters alone */
    for (size_t i = 0; p->mode == KD_TAPE_TRAIN && i < p->x.params; i++)
        same &= mc_equal(a->param[i], b->param[i], p->x.param[i].count);
    return same;
}

static int all_finite(const problem *p, const result *o)
{
    int fine = isfinite(o->value) && mc_finite(o->logits, p->x.rows * p->x.classes);
    for (size_t k = 0; k < p->x.taps; k++) fine &= mc_finite(o->grad[k], p->x.rows * p->x.s[k].each);
    for (size_t i = 0; i < p->x.params; i++) fine &= mc_finite(o->param[i], p->x.param[i].count);
    return fine;
}

/* ---- against the reference -------------------------------------------------------------------------------------------- */
static double reference(void *user)
{
    problem *p = user;
    return p->x.rows ? p->m->ref->loss(&p->x) : 0;
}

static double spread(const double *x, size_t n) { return n ? mr_norm2(x, n) / sqrt((double)n) + 1e-12 : 1; }

static void point(problem *p, const result *o, mc_point *at)
{
    const method_feature *f = p->m->ref;
    method_in *x = &p->x;
    memset(at, 0, sizeof *at);
    at->what = p->what, at->value = reference, at->fix = fix, at->user = p;
    double v = reference(p);
    at->size = f->size ? f->size(x) : fabs(v) + 1e-12;
    at->grad_size = f->grad_size ? f->grad_size(x) : at->size / (double)(x->rows ? x->rows : 1);
    mr_release();
    at->kinks = (f->but & METHOD_KINKS) != 0;
    at->seed = x->rows * 1000 + x->s[0].each;
    for (size_t k = 0; k < x->taps; k++) {
        size_t n = x->rows * x->s[k].each;
        at->longest = n > at->longest ? n : at->longest;
        double *data = x->s[k].data;
        at->array[at->arrays++] = (mc_array){ "a student tap", data, n, o ? o->grad[k] : NULL, 1, spread(data, n), 0 };
    }
    for (size_t k = 0; k < x->teacher_taps; k++) {
        size_t n = x->rows * x->t[k].each;
        at->longest = n > at->longest ? n : at->longest;
        at->array[at->arrays++] = (mc_array){ "a teacher tap", x->t[k].data, n, NULL, 1, spread(x->t[k].data, n), 0 };
    }
    if (x->student_logits)
        at->array[at->arrays++] = (mc_array){ "the student's logits", x->student_logits, x->rows * x->classes,
                                              o ? o->logits : NULL, 1, 1, 0 };
    for (size_t i = 0; i < x->params; i++) {
        double factor = f->adapter ? f->adapter(x, x->param[i].name) : 1;
        kd_param_info info = { .struct_size = sizeof info };
        kd_model *model = kd_loss_feature_adapters(p->names);
        int trained = model && kd_model_find(model, x->param[i].name, &info) == KD_OK && info.grad;
        if (trained) at->array[at->arrays++] = (mc_array){ x->param[i].name, x->param[i].data, x->param[i].count, o
                                                           ? o->param[i] : NULL, factor,
                                                          spread(x->param[i].data, x->param[i].count) + .05, at->size };
    }
}

static double compare(problem *p, int values)
{
    result a, b;
    static mc_point at;
    double tol = 0;
    result_make(&a, p), result_make(&b, p);
    run_once(p, NULL, 0, &a);
    MC_CHECK(a.status == KD_OK, "%s: %s: %s", p->what, kd_status_name(a.status), kd_last_error());
    run_once(p, NULL, 1, &b);
    MC_CHECK(b.status == KD_OK, "%s: on a tape %s: %s", p->what, kd_status_name(b.status), kd_last_error());
    MC_CHECK(equal(p, &a, &b), "%s: pointers give %.9g, a tape %.9g, or their gradients differ", p->what,
             a.value, b.value);
    MC_CHECK(all_finite(p, &a) && all_finite(p, &b), "%s: value %g or a gradient is not finite", p->what, a.value);
    if (values && a.status == KD_OK && b.status == KD_OK && !(p->m->ref->but & METHOD_RANDOM)) {
        point(p, &b, &at);
        tol = mc_compare(&at, b.value);
    }
    result_free(&a), result_free(&b);
    return tol;
}

static size_t least(const method *m) { return m->ref->rows_low ? m->ref->rows_low : m->ref->but & METHOD_ROWS_1 ? 2 : 1; }
static const float temperatures[] = { .05f, 1, 4, 20 };

static void values(const method *m, const method_feature_option *option)
{
    size_t count = kdtest_full() ? 200 : 6;
    kdtest_rand r = { 31 + m->number };
    for (size_t i = 0; i < count; i++) {
        problem p;
        size_t low = least(m), rows = kdtest_size(&r, low > 2 ? low : 2, low + 5);
        problem_make(&p, m, option, temperatures[i % 4], rows, i % 7 == 6 ? 6 : 4, i % 2 == 1, i % 4 ? 1 : .1, &r);
        if (i % 5 == 4) p.mode = KD_TAPE_EVAL, p.x.train = 0;
        compare(&p, 1);
        problem_free(&p);
    }
}

/* ---- hard places -------------------------------------------------------------------------------------------------------- */
static void hard_place(const method *m, const method_feature_option *option, int place)
{
    static const char *const names[] = { "zeros", "rows twice", "all equal", "to 1e4", "one row", "tiny", "student is teacher",
                                         "a zero row", "a constant channel", "nearly equal rows", "no rows" };
    kdtest_rand r = { 131 + m->number };
    size_t low = least(m);
    if (place == 4 && low > 1) return;
    problem p;
    problem_make(&p, m, option, place == 3 ? .05f : 1, place == 4 ? 1 : place == 10 ? 0 : low + 4, 4, 0, 1, &r);
    int same = 1;
    for (size_t side = 0; side < 2; side++)
        for (size_t k = 0; k < (side ? p.x.teacher_taps : p.x.taps); k++) {
            float *x = side ? p.t[k] : p.s[k];
            size_t each = side ? p.x.t[k].each : p.x.s[k].each;
            int paired = k < p.x.taps && k < p.x.teacher_taps;
            if (place == 6 && !(paired && !memcmp(&p.student[k], &p.teacher[k], sizeof p.student[k]))) same = 0;
            for (size_t i = 0; i < p.x.rows * each; i++) {
                if (place == 0) x[i] = 0;
                if (place == 1 && i >= each) x[i] = x[i % each];
                if (place == 2) x[i] = 1;
                if (place == 3) x[i] *= 5000;
                if (place == 5) x[i] *= 1e-20f;
                if (place == 6 && same && side) x[i] = p.s[k][i];
                if (place == 7 && i < each && !side) x[i] = 0;
                if (place == 8 && i % 2) x[i] = .5f;
                if (place == 9 && i >= each) x[i] = x[i % each] * (1 + 1e-7f * (float)(i / each));
            }
        }
    to_double(&p);
    size_t length = strlen(p.what);
    snprintf(p.what + length, sizeof p.what - length, ", %s", names[place]);
    if (place == 10) {   /* an error or 0, not a crash; the driver's tests say which */
        result o;
        result_make(&o, &p);
        run_once(&p, NULL, 1, &o);
        MC_CHECK(o.status != KD_OK || isfinite(o.value), "%s: value %g", p.what, o.value);
        result_free(&o);
    } else {
        compare(&p, 0);
    }
    if (place == 6 && same && m->ref->holds & METHOD_ZERO_AT_TEACHER) {
        result o;
        static mc_point at;
        result_make(&o, &p);
        run_once(&p, NULL, 1, &o);
        point(&p, NULL, &at);
        double tol = mc_tolerance(&at, NULL);
        MC_CHECK(fabs(o.value) <= tol, "%s: value %g, not 0 within %.2g", p.what, o.value, tol);
        result_free(&o);
    }
    problem_free(&p);
}

static void row_order(const method *m, const method_feature_option *option)
{
    if (!(m->ref->holds & METHOD_ROW_ORDER) || m->ref->but & METHOD_RANDOM) return;
    kdtest_rand r = { 7 + m->number };
    problem p;
    result o;
    static mc_point at;
    size_t rows = 6;
    problem_make(&p, m, option, 2, rows, 4, 0, 1, &r);
    result_make(&o, &p);
    run_once(&p, NULL, 1, &o);
    double before = o.value;
    for (size_t side = 0; side < 3; side++)
        for (size_t k = 0; k < (side == 2 ? 2 : side ? p.x.teacher_taps : p.x.taps); k++) {
            float *x = side == 2 ? p.logits[k] : side ? p.t[k] : p.s[k];
            size_t each = side == 2 ? p.x.classes : side ? p.x.t[k].each : p.x.s[k].each;
            if (!x) continue;
            float *copy = malloc((rows * each + 1) * sizeof *copy);
            memcpy(copy, x, rows * each * sizeof *copy);
            for (size_t i = 0; i < rows * each; i++) x[i] = copy[(i / each * 5 + 1) % rows * each + i % each];
            free(copy);
        }
    int32_t copy[6];
    memcpy(copy, p.x.labels, sizeof copy);
    for (size_t i = 0; i < rows; i++) p.x.labels[i] = copy[(i * 5 + 1) % rows];
    memcpy(copy, p.x.indices, sizeof copy);
    for (size_t i = 0; i < rows; i++) p.x.indices[i] = copy[(i * 5 + 1) % rows];
    to_double(&p);
    run_once(&p, NULL, 1, &o);
    point(&p, NULL, &at);
    double tol = 2 * mc_tolerance(&at, NULL);
    MC_CHECK(fabs(o.value - before) <= tol, "%s, rows permuted: %.9g became %.9g, more than %.2g apart", p.what, before,
             o.value, tol);
    result_free(&o), problem_free(&p);
}

/* ---- the same bits, memory ------------------------------------------------------------------------------------------------- */
static void same_bits(const method *m, const method_feature_option *option)
{
    kd_context *ctx[MC_CONTEXTS];
    size_t contexts = mc_contexts(ctx);
    for (size_t s = 0; s < 2; s++) {
        kdtest_rand r = { 3 + m->number };
        problem p;
        problem_make(&p, m, option, 2, s ? 37 : least(m) + 5, s ? 6 : 4, 0, 1, &r);
        uint64_t want = 0;
        for (size_t i = 0; i < contexts; i++) {
            result o;
            result_make(&o, &p);
            run_once(&p, ctx[i], 1, &o);
            if (i == 0) want = bits(&p, &o);
            MC_CHECK(o.status == KD_OK && bits(&p, &o) == want, "%s: %s with %u threads gives other bits than %s with 1", p.what,
                     kd_context_isa(ctx[i]), (unsigned)kd_context_threads(ctx[i]), kd_context_isa(ctx[0]));
            result_free(&o);
        }
        problem_free(&p);
    }
}

static void memory(const method *m, const method_feature_option *option)
{
    kdtest_rand r = { 21 + m->number };
    kdtest_alloc a;
    problem p;
    result o, first;
    problem_make(&p, m, option, 2, least(m) + 2, 3, 1, 1, &r);
    result_make(&o, &p), result_make(&first, &p);
    kdtest_alloc_begin(&a, 2, KD_ISA_AUTO);
    for (int on_tape = 0; on_tape < 2; on_tape++) {
        run_once(&p, a.ctx, on_tape, &first);
        uint64_t want = bits(&p, &first);
        size_t before = a.calls;
        run_once(&p, a.ctx, on_tape, &o);
        /* adapters of many layers allocate for each */
        size_t calls = a.calls - before, step = kdtest_full() ? 1 : 1 + calls / 60;
        for (size_t i = 1; i <= calls; i += step) {
            a.fail_at = a.calls + i;
            run_once(&p, a.ctx, on_tape, &o);
            MC_CHECK(o.status == KD_ERR_NOMEM || (o.status == KD_OK && bits(&p, &o) == want),
                     "%s: allocation %zu of %zu fails: %s", p.what, i, calls,
                     kd_status_name(o.status));
            a.fail_at = 0;
        }
        run_once(&p, a.ctx, on_tape, &o);
        MC_CHECK(o.status == KD_OK && bits(&p, &o) == want, "%s: other bits after allocations failed", p.what);
    }
    kdtest_alloc_end(&a);
    result_free(&o), result_free(&first), problem_free(&p);

    largest = 1;   /* maps [8, 8, 19] and [8, 8, 28]: B C^2 HW would be 17 MB, B^3 8 MB */
    problem_make(&p, m, option, 2, 128, 8, 0, 1, &r);
    largest = 0;
    result_make(&o, &p);
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    kd_loss_feature *loss = NULL;
    kd_optimizer *opt = NULL;
    kd_tape *tape = NULL;
    if (CHECK_OK(kd_loss_feature_create(&loss, a.ctx, &p.desc)) && CHECK_OK(hold(loss, a.ctx, &opt)) &&
        CHECK_OK(kd_tape_create(&tape, a.ctx, KD_TAPE_TRAIN))) {
        size_t before = a.live_bytes, third = 0, inputs = 0, wrapped = p.x.taps + p.x.teacher_taps;
        for (size_t k = 0; k < p.x.taps; k++) inputs += 128 * p.x.s[k].each * sizeof(float);
        for (size_t k = 0; k < p.x.teacher_taps; k++) inputs += 128 * p.x.t[k].each * sizeof(float);
        wrapped += (p.m->ref->needs & METHOD_LABELS ? 1u : 0u) + (p.m->ref->needs & METHOD_INDICES ? 1u : 0u);
        wrapped += p.logits[0] ? 2u : 0u;
        a.peak_bytes = a.live_bytes;
        for (int step = 0; step < 4; step++) {
            size_t calls = a.calls;
            run_tape(&p, loss, a.ctx, tape, &o);
            MC_CHECK(o.status == KD_OK, "%s: step %d: %s", p.what, step, kd_last_error());
            kd_tape_reset(tape);
            if (step == 2) third = a.calls - calls;
        }
        MC_CHECK(third <= wrapped, "%s: the third step allocates %zu times", p.what, third - wrapped);
        size_t limit = ((m->ref->memory ? m->ref->memory : 4) << 20) + 4 * inputs;
        MC_CHECK(a.peak_bytes - before <= limit, "%s: a step takes %zu bytes, more than %zu", p.what, a.peak_bytes - before,
                 limit);
    }
    kd_tape_free(tape);
    kd_optimizer_free(opt);
    kd_loss_feature_free(loss);
    kdtest_alloc_end(&a);
    result_free(&o), problem_free(&p);
}

/* ---- a test a method ----------------------------------------------------------------------------------------------- */
static void check_method(const method *m)
{
    static const method_feature_option plain[] = { { "default", NULL }, { NULL, NULL } };
    const method_feature_option *options = m->ref->options[0].name ? m->ref->options : plain;
    mc_checks();
    double start = kdtest_seconds();
    for (size_t i = 0; i < METHOD_OPTIONS && options[i].name; i++) {
        values(m, &options[i]);
        for (int place = 0; place < 11; place++) hard_place(m, &options[i], place);
        row_order(m, &options[i]);
        if (i == 0 || kdtest_full()) same_bits(m, &options[i]), memory(m, &options[i]);
    }
    size_t checks = mc_checks();
    CHECK_MSG(checks > 100, "%s: only %zu checks", m->name, checks);
    if (kdtest_full() || getenv("KD_TEST_VERBOSE"))
        printf("%-20s %8zu checks %6.2f s\n", m->name, checks, kdtest_seconds() - start);
}

static void check_number(uint32_t number)
{
    for (size_t i = 1; i < METHODS; i++)
        if (methods[i].number == number) check_method(&methods[i]);
}
#define DISTILL(id, name, source)
#define FEATURE(id, name, source) TEST(id) { check_number(KD_FEATURE_##id); }
#include "distill/methods.def"
#undef DISTILL
#undef FEATURE

TEST(contexts_are_freed) { mc_contexts_free(); }
