/* train.c - training that may be killed at any moment and goes on in the same bits.
 * SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "vision.h"
#include "../support/report.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- testing --------------------------------------------------------------------------------------------------------- */
/* The place of the label among the logits: 0 is the largest.  A NaN is never right. */
static size_t place(const float *z, size_t classes, int32_t label)
{
    size_t larger = 0;
    if (isnan(z[label])) return classes;
    for (size_t c = 0; c < classes; c++) larger += z[c] > z[label] || (z[c] == z[label] && c < (size_t)label) || isnan(z[c]);
    return larger;
}
static size_t highest(const float *z, size_t classes)
{
    size_t best = 0;
    for (size_t c = 1; c < classes; c++)
        if (z[c] > z[best]) best = c;
    return best;
}

kd_status answers_of(size_t **out, kd_context *ctx, const images *d, kd_model *model)
{
    kd_loader *batches = NULL;
    kd_tape *tape = NULL;
    kd_tensor *x, *y;
    size_t seen = 0;
    kd_status st = KD_ERR_NOMEM;
    if (!(*out = malloc((kd_dataset_count(d->test) + 1) * sizeof **out))) return complain(st, "no memory for the teacher's answers");
    TRY(images_test(&batches, ctx, d));
    TRY(kd_tape_create(&tape, ctx, KD_TAPE_INFER));
    while ((st = kd_loader_next(batches, &x, &y)) == KD_OK) {
        kd_tensor *z = kd_model_forward(model, tape, x);
        TRY(kd_tape_status(tape));
        for (size_t i = 0; i < kd_tensor_size(x, 0); i++) (*out)[seen++] = highest(kd_tensor_f32(z) + i * d->classes, d->classes);
        kd_tape_reset(tape);
    }
    if (st == KD_END) st = KD_OK;
done:
    kd_tape_free(tape);
    kd_loader_free(batches);
    return st;
}

kd_status score_of(score *out, kd_context *ctx, const images *d, method *m, kd_model *model, const size_t *teacher)
{
    kd_loader *batches = NULL;
    kd_tape *tape = NULL;
    kd_tensor *x, *y;
    size_t first = 0, five = 0, agree = 0, seen = 0;
    double loss = 0;
    kd_status st;
    TRY(images_test(&batches, ctx, d));
    TRY(kd_tape_create(&tape, ctx, KD_TAPE_INFER));
    while ((st = kd_loader_next(batches, &x, &y)) == KD_OK) {
        kd_tensor *z = m ? method_logits(m, tape, x) : kd_model_forward(model, tape, x);
        kd_tensor *ce = kd_cross_entropy(tape, z, y, -100, 0, KD_REDUCE_MEAN_ROWS);
        TRY(kd_tape_status(tape));
        size_t rows = kd_tensor_size(x, 0);
        const int32_t *label = kd_tensor_data(y);
        for (size_t i = 0; i < rows; i++) {
            const float *row = kd_tensor_f32(z) + i * d->classes;
            size_t p = place(row, d->classes, label[i]);
            first += p == 0, five += p < 5;
            agree += teacher && highest(row, d->classes) == teacher[seen + i];
        }
        loss += kd_tensor_f32(ce)[0] * (double)rows;
        seen += rows;
        kd_tape_reset(tape);
    }
    if (st == KD_END) st = KD_OK;
    out->top1 = 100.0 * (double)first / (double)seen, out->top5 = 100.0 * (double)five / (double)seen;
    out->agreement = teacher ? 100.0 * (double)agree / (double)seen : NAN;
    out->loss = loss / (double)seen;
done:
    kd_tape_free(tape);
    kd_loader_free(batches);
    return st;
}

/* ---- what a run is in the middle of ---------------------------------------------------------------------------------- */
enum { MAX_EPOCHS = 1000 };
typedef struct epoch { double loss, lr, seconds; score test; } epoch;   /* loss: mean over the epoch's steps */
typedef struct state {
    uint64_t step, epochs;           /* of this phase; epochs of all phases so far are the rows of `history` */
    double   loss_sum, spent, best;  /* of the running epoch; seconds of all phases; top-1 */
    epoch    history[MAX_EPOCHS];
} state;

static void path_of(char out[TEXT], const training *t, const char *name) { snprintf(out, TEXT, "%s/%s", t->folder, name); }

static kd_status write_text(const char *path, const char *text)
{
    char part[TEXT + 8];
    snprintf(part, sizeof part, "%s.part", path);
    FILE *f = fopen(part, "w");
    int bad = !f || fputs(text, f) < 0;
    if (f && fclose(f)) bad = 1;
    if (bad || rename(part, path)) return complain(KD_ERR_IO, "%s: %s", path, strerror(errno));
    return KD_OK;
}

/* A folder belongs to one run; another one's is refused. */
static kd_status claim(const training *t)
{
    char path[TEXT], line[256];
    const char *at = t->settings;
    if (make_directory(t->folder)) return complain(KD_ERR_IO, "%s: %s", t->folder, strerror(errno));
    path_of(path, t, "settings.txt");
    FILE *f = fopen(path, "r");
    if (!f) return write_text(path, t->settings);
    kd_status st = KD_OK;
    while (st == KD_OK && fgets(line, sizeof line, f)) {
        size_t n = strlen(line);
        if (!strncmp(at, line, n)) at += n;
        else {
            line[strcspn(line, "\n")] = 0;
            st = complain(KD_ERR_STATE, "%s holds another run: there \"%s\", here \"%.*s\"; give another --out, or remove it", t->folder,
                          line, (int)strcspn(at, "\n"), at);
        }
    }
    fclose(f);
    if (st == KD_OK && *at)
        st = complain(KD_ERR_STATE, "%s holds another run, which lacks \"%.*s\"; give another --out, or remove it", t->folder,
                      (int)strcspn(at, "\n"), at);
    return st;
}

/* ---- curves ---------------------------------------------------------------------------------------------------------- */
static kd_status curves(const training *t, const state *s, size_t rows)
{
    size_t cap = 256 + 160 * rows, n;
    char *text = malloc(cap), path[TEXT];
    double *first = malloc((rows + 1) * sizeof *first), *five = malloc((rows + 1) * sizeof *five);
    double *agree = malloc((rows + 1) * sizeof *agree);
    kd_status st = KD_ERR_NOMEM;
    if (!text || !first || !five || !agree) goto done;
    n = (size_t)snprintf(text, cap, "epoch,lr,train_loss,test_loss,top1,top5,agreement,seconds\n");
    for (size_t i = 0; i < rows; i++) {
        const epoch *e = &s->history[i];
        n += (size_t)snprintf(text + n, cap - n, "%zu,%.6g,%.6f,%.6f,%.2f,%.2f,", i + 1, e->lr, e->loss, e->test.loss, e->test.top1,
                              e->test.top5);
        if (!isnan(e->test.agreement)) n += (size_t)snprintf(text + n, cap - n, "%.2f", e->test.agreement);
        n += (size_t)snprintf(text + n, cap - n, ",%.1f\n", e->seconds);
        first[i] = e->test.top1, five[i] = e->test.top5, agree[i] = e->test.agreement;
    }
    path_of(path, t, "curves.csv");
    TRY(write_text(path, text));
    path_of(path, t, "curves.svg");
    curve lines[] = { { "top-1", first, rows }, { "top-5", five, rows }, { "agreement with the teacher", agree, rows } };
    if (write_svg(path, t->label, "epoch", 1, lines, t->teacher ? 3 : 2)) st = complain(KD_ERR_IO, "%s: %s", path, strerror(errno));
done:
    free(text);
    free(first);
    free(five);
    free(agree);
    return st;
}

/* ---- one phase ------------------------------------------------------------------------------------------------------- */
static kd_status make_optimizer(kd_optimizer **out, const training *t, size_t epochs, size_t batches)
{
    const recipe *r = t->recipe;
    kd_model *models[6];
    kd_optimizer_desc how;
    kd_schedule_desc when;
    uint64_t milestones[MAX_MILESTONES];
    kd_status st;
    kd_optimizer_desc_init(&how, sizeof how);
    how.method = strcmp(r->optimizer, "adamw") ? KD_OPT_SGD : KD_OPT_ADAMW;
    how.lr = (float)(r->lr_batch > 0 ? r->lr * r->batch / r->lr_batch : r->lr);
    how.momentum = (float)r->momentum;
    how.nesterov = how.method == KD_OPT_SGD && r->nesterov != 0;
    how.weight_decay = (float)r->weight_decay;
    how.max_grad_norm = (float)r->clip;
    kd_schedule_desc_init(&when, sizeof when);
    double warmup = r->warmup_epochs < (double)epochs / 2 ? r->warmup_epochs : (double)epochs / 2;   /* short phases */
    when.warmup_steps = (uint64_t)(warmup * (double)batches);
    when.warmup_start = (float)r->warmup_start;
    if (!strcmp(r->schedule, "cosine")) {
        when.kind = KD_SCHEDULE_COSINE;
        when.total_steps = (uint64_t)epochs * batches - when.warmup_steps;
        when.final_factor = (float)r->final_factor;
    } else if (!strcmp(r->schedule, "multi_step")) {
        when.kind = KD_SCHEDULE_MULTI_STEP;
        when.gamma = (float)r->gamma_step;
        when.milestones = milestones;
        for (const char *at = r->milestones; *at;) {
            char *end;
            if (when.milestone_count == MAX_MILESTONES) return complain(KD_ERR_ARG, "milestones: more than %d", MAX_MILESTONES);
            unsigned long e = strtoul(at, &end, 10);
            if (end == at || (*end && *end != ','))
                return complain(KD_ERR_ARG, "milestones \"%s\" are not epochs with commas between",
                                r->milestones);
            milestones[when.milestone_count++] = e * batches > when.warmup_steps ? e * batches - when.warmup_steps : 0;
            at = *end ? end + 1 : end;
        }
    }
    TRY(kd_optimizer_create(out, t->ctx, &how));
    size_t count = method_trains(t->method, models);
    for (size_t i = 0; i < count; i++) TRY(kd_optimizer_add(*out, models[i]));
    if (r->decay_vectors == 0) {
        static const char *const vectors[] = { "*bias", "*norm*.weight", "*bn*.weight", "*_token", "pos_embed" };
        for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
            if (kd_optimizer_group(*out, vectors[i], 1, 0) != KD_OK) continue;   /* none of that name */
    }
    const char *kept = method_no_decay(t->method);
    if (kept) TRY(kd_optimizer_group(*out, kept, 1, 0));
    TRY(kd_optimizer_set_schedule(*out, &when));
done:
    return st;
}

/* Averaged weights of all that is tested; none: count 0. */
typedef struct averages { kd_ema *of[6]; size_t count; } averages;

static kd_status averages_begin(averages *a, const training *t)
{
    kd_model *models[6];
    const char *parts[6];
    size_t count = t->recipe->ema > 0 ? method_tested(t->method, models, parts) : 0;
    kd_status st = KD_OK;
    for (a->count = 0; a->count < count; a->count++) TRY(kd_ema_create(&a->of[a->count], models[a->count], t->recipe->ema));
done:
    return st;
}
static kd_status averages_checkpoint(averages *a, kd_checkpoint *cp)
{
    char name[32] = "average";
    kd_status st = KD_OK;
    for (size_t i = 0; i < a->count; i++) {
        if (i) snprintf(name, sizeof name, "average.%zu", i);
        TRY(kd_checkpoint_add_ema(cp, name, a->of[i]));
    }
done:
    return st;
}
static kd_status averages_update(averages *a)
{
    kd_status st = KD_OK;
    for (size_t i = 0; i < a->count; i++) TRY(kd_ema_update(a->of[i]));
done:
    return st;
}
static kd_status averages_swap(averages *a)
{
    kd_status st = KD_OK;
    for (size_t i = 0; i < a->count; i++) TRY(kd_ema_swap(a->of[i]));
done:
    return st;
}
static void averages_free(averages *a)
{
    for (size_t i = 0; i < a->count; i++) kd_ema_free(a->of[i]);
    a->count = 0;
}

/* How long the steps of this process took, and how much of that they waited for images. */
typedef struct waiting { double steps, waited; } waiting;

/* The student as NAME.safetensors, and what it is tested with besides as NAME.PART.safetensors. */
static kd_status save_weights(const training *t, averages *average, const char *name)
{
    kd_model *models[6];
    const char *parts[6];
    char file[64], path[TEXT];
    kd_status st;
    const size_t count = method_tested(t->method, models, parts);
    TRY(averages_swap(average));
    for (size_t i = 0; st == KD_OK && i < count; i++) {
        snprintf(file, sizeof file, "%s%s%s.safetensors", name, i ? "." : "", parts[i]);
        path_of(path, t, file);
        st = kd_model_save(i ? models[i] : t->student, path);
    }
    if (averages_swap(average) != KD_OK) st = KD_ERR_STATE;
done:
    return st;
}

/* `teacher`: its answers to the test images, or NULL. */
static kd_status phase(const training *t, size_t number, state *s, const size_t *teacher, progress *bar,
                       waiting *wait)
{
    kd_optimizer *opt = NULL;
    kd_loader *batches = NULL;
    kd_tape *learn = NULL, *look = NULL;
    averages average = { .count = 0 };
    kd_checkpoint *cp = NULL;
    kd_tensor *x, *y, *logits;
    char path[TEXT], name[40];
    size_t epochs = method_epochs(t->method, number), before = 0;
    double begun, saved;
    kd_status st;
    for (size_t p = 0; p < number; p++) before += method_epochs(t->method, p);
    TRY(method_begin(t->method, number));
    TRY(images_train(&batches, t->ctx, t->data, t->recipe, t->seed + 1000 * (uint64_t)number));
    size_t steps = kd_loader_batches(batches);
    TRY(make_optimizer(&opt, t, epochs, steps));
    TRY(averages_begin(&average, t));
    TRY(kd_tape_create(&learn, t->ctx, KD_TAPE_TRAIN));
    TRY(kd_tape_create(&look, t->ctx, KD_TAPE_INFER));
    TRY(kd_checkpoint_create(&cp, t->ctx));
    TRY(kd_checkpoint_add_model(cp, "student", t->student));
    TRY(kd_checkpoint_add_optimizer(cp, "optimizer", opt));
    TRY(kd_checkpoint_add_loader(cp, "loader", batches));
    TRY(kd_checkpoint_add_tape(cp, "tape", learn));
    TRY(averages_checkpoint(&average, cp));
    TRY(kd_checkpoint_add_bytes(cp, "state", s, sizeof *s));
    TRY(method_checkpoint(t->method, cp));
    snprintf(name, sizeof name, "checkpoint-%zu.kd", number);
    path_of(path, t, name);
    if (file_bytes(path) >= 0) TRY(kd_checkpoint_load(cp, path));
    else {
        s->step = s->epochs = 0, s->loss_sum = 0;
        TRY(kd_checkpoint_save(cp, path));
    }
    if (before * steps + s->step > bar->done) progress_skip(bar, before * steps + s->step - bar->done);
    begun = saved = seconds();
    while (s->epochs < epochs) {
        const double from = seconds();
        st = kd_loader_next(batches, &x, &y);
        if (st == KD_OK) {
            kd_tensor *loss = method_loss(t->method, learn, look, x, y, kd_loader_indices(batches), &logits);
            TRY(kd_backward(learn, loss));
            double value = kd_tensor_f32(loss)[0];
            if (!isfinite(value)) {
                st = complain(KD_ERR_NUMERIC, "%s: the loss is %g in step %llu of epoch %llu: a smaller lr, or a clip", t->label, value,
                              (unsigned long long)s->step, (unsigned long long)s->epochs + 1);
                goto done;
            }
            TRY(kd_optimizer_step(opt));
            TRY(averages_update(&average));
            kd_tape_reset(learn);
            kd_tape_reset(look);
            s->loss_sum += value;
            s->step++;
            progress_add(bar, 1, t->label);
            wait->steps += seconds() - from;
        } else if (st == KD_END) {
            epoch *e = &s->history[before + s->epochs];
            TRY(method_advance(t->method));
            TRY(averages_swap(&average));
            TRY(score_of(&e->test, t->ctx, t->data, t->method, NULL, teacher));
            TRY(averages_swap(&average));
            double now = seconds();
            s->spent += now - begun, begun = now;
            e->loss = s->loss_sum / (double)steps, e->lr = kd_optimizer_lr(opt), e->seconds = s->spent;
            s->loss_sum = 0;
            s->epochs++;
            if (number + 1 == method_phases(t->method) && e->test.top1 > s->best) {
                s->best = e->test.top1;
                TRY(save_weights(t, &average, "best"));
            }
            TRY(curves(t, s, before + s->epochs));
        } else goto done;
        if (s->epochs == epochs || seconds() - saved >= t->recipe->checkpoint_seconds) {
            double now = seconds();
            s->spent += now - begun, begun = saved = now;
            TRY(kd_checkpoint_save(cp, path));
        }
    }
    wait->waited += 1e-9 * (double)kd_loader_waited(batches);
    TRY(save_weights(t, &average, "last"));
    TRY(averages_swap(&average));   /* what is tested and handed on */
    st = KD_OK;
done:
    kd_checkpoint_free(cp);
    kd_tape_free(learn);
    kd_tape_free(look);
    averages_free(&average);
    kd_loader_free(batches);
    kd_optimizer_free(opt);
    return st;
}

kd_status train(const training *t, score *last, double *best, double *spent)
{
    state *s = calloc(1, sizeof *s);
    progress bar;
    waiting wait = { 0, 0 };
    size_t phases = method_phases(t->method), epochs = 0, first = 0, *teacher = NULL;
    char path[TEXT], name[40];
    kd_status st = KD_ERR_NOMEM;
    if (!s) goto done;
    for (size_t p = 0; p < phases; p++) epochs += method_epochs(t->method, p);
    if (epochs > MAX_EPOCHS) {
        st = complain(KD_ERR_ARG, "epochs: %zu in all; the most is %d", epochs, MAX_EPOCHS);
        goto done;
    }
    TRY(claim(t));
    for (size_t p = 0; p < phases; p++) {
        snprintf(name, sizeof name, "checkpoint-%zu.kd", p);
        path_of(path, t, name);
        if (file_bytes(path) >= 0) first = p;
    }
    size_t batch = (size_t)t->recipe->batch, items = kd_dataset_count(t->data->train);
    progress_begin(&bar, "steps", epochs * (items >= batch ? items / batch : 1));
    if (t->teacher) TRY(answers_of(&teacher, t->ctx, t->data, t->teacher));
    for (size_t p = first; p < phases; p++) TRY(phase(t, p, s, teacher, &bar, &wait));
    progress_end(&bar);
    if (wait.steps > 0)
        fprintf(stderr, "%s: steps waited %.2f of %.1f s for images (%.2f %%)\n", t->label, wait.waited, wait.steps,
                100 * wait.waited / wait.steps);
    *last = s->history[epochs - 1].test;
    if (best) *best = s->best;
    if (spent) *spent = s->spent;
done:
    free(teacher);
    free(s);
    return st;
}
