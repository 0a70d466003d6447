/* checkpoint.c - one file with everything a run needs.  The layout is described in docs/design/checkpoint.md.
 * SPDX-License-Identifier: MIT */
#include "io/checkpoint.h"
#include "data/data_internal.h"
#include "distill/feature.h"
#include "distill/loss.h"
#include "nn/nn.h"
#include "optim/optim.h"

enum { VERSION = 1, HEADER_BYTES = 40, ENTRY_BYTES = 16, CRC_BYTES = 4, NAME_LIMIT = 200 };
static const char magic[8] = { '\x89', 'K', 'D', 'C', 'P', '\r', '\n', '\x1a' };

enum { MODEL = 1, OPTIMIZER, EMA, LOADER, TAPE, LOSS, BYTES, FEATURE_LOSS };   /* kinds of sections */

static const char *kind_name(uint32_t kind)
{
    static const char names[][16] = { "?", "model", "optimizer", "ema", "loader", "tape", "loss", "bytes", "feature loss" };
    return names[kind < KD_COUNT(names) ? kind : 0];
}

typedef struct section {
    uint32_t kind;
    char     name[NAME_LIMIT + 1];
    union {
        void            *any;
        kd_model        *model;
        kd_optimizer    *optimizer;
        kd_ema          *ema;
        kd_loader       *loader;
        kd_tape         *tape;
        kd_loss_feature *feature;
        kd_loss_distill *loss;
    } object;
    size_t   bytes;      /* of its state: BYTES: always; else while saving or loading */
    uint64_t offset;     /* while loading: where the state lies in the file */
    uint8_t *state;      /* while loading: what was read */
} section;

struct kd_checkpoint {
    kd_context *ctx;
    section    *sections;
    size_t      count, capacity;
};

/* ---- the state of one object ------------------------------------------------------------------------ */

static size_t state_size(const section *s)
{
    switch (s->kind) {
    case MODEL: return kd__model_state_size(s->object.model);
    case OPTIMIZER: return kd__optimizer_state_size(s->object.optimizer);
    case EMA: return kd__ema_state_size(s->object.ema);
    case LOADER: return kd__loader_state_size(s->object.loader);
    case TAPE: return 16;
    case FEATURE_LOSS: return kd__feature_state_size(s->object.feature);
    case LOSS: return kd__loss_state_size(s->object.loss);
    default: return s->bytes;
    }
}

static void loss_write(const kd_loss_distill *loss, uint8_t *out)
{
    if (!kd__loss_state_size(loss)) return;
    kd__put_le64(out, loss->advances);
    for (size_t i = 0; i < loss->method->state; i++) {
        uint64_t bits;
        memcpy(&bits, &loss->state[i], sizeof bits);
        kd__put_le64(out + 8 + 8 * i, bits);
    }
}

static void loss_read(kd_loss_distill *loss, const uint8_t *in)
{
    if (!kd__loss_state_size(loss)) return;
    loss->advances = kd__le64(in);
    for (size_t i = 0; i < loss->method->state; i++) {
        uint64_t bits = kd__le64(in + 8 + 8 * i);
        memcpy(&loss->state[i], &bits, sizeof bits);
    }
}

static void state_write(const section *s, uint8_t *out)
{
    switch (s->kind) {
    case MODEL: kd__model_state_write(s->object.model, out); break;
    case OPTIMIZER: kd__optimizer_state_write(s->object.optimizer, out); break;
    case EMA: kd__ema_state_write(s->object.ema, out); break;
    case LOADER: kd__loader_state_write(s->object.loader, out); break;
    case FEATURE_LOSS: kd__feature_state_write(s->object.feature, out); break;
    case TAPE: {
        kd_rng rng = kd_tape_rng(s->object.tape);
        kd__put_le64(out, rng.key);
        kd__put_le64(out + 8, rng.index);
        break;
    }
    case LOSS: loss_write(s->object.loss, out); break;
    case BYTES:
        if (s->bytes) memcpy(out, s->object.any, s->bytes);
        break;
    default: break;
    }
}

static kd_status state_check(const section *s)
{
    switch (s->kind) {
    case MODEL: return kd__model_state_check(s->object.model, s->state, s->bytes);
    case OPTIMIZER: return kd__optimizer_state_check(s->object.optimizer, s->state, s->bytes);
    case EMA: return kd__ema_state_check(s->object.ema, s->state, s->bytes);
    case LOADER: return kd__loader_state_check(s->object.loader, s->state, s->bytes);
    case FEATURE_LOSS: return kd__feature_state_check(s->object.feature, s->state);
    default: return KD_OK;   /* of a fixed size, compared when the section was found */
    }
}

static void state_read(const section *s)
{
    switch (s->kind) {
    case MODEL: kd__model_state_read(s->object.model, s->state); break;
    case OPTIMIZER: kd__optimizer_state_read(s->object.optimizer, s->state); break;
    case EMA: kd__ema_state_read(s->object.ema, s->state); break;
    case LOADER: kd__loader_state_read(s->object.loader, s->state); break;
    case FEATURE_LOSS: kd__feature_state_read(s->object.feature, s->state); break;
    case TAPE:
        kd_tape_set_rng(s->object.tape, (kd_rng){ kd__le64(s->state), kd__le64(s->state + 8) });
        break;
    case LOSS: loss_read(s->object.loss, s->state); break;
    case BYTES:
        if (s->bytes) memcpy(s->object.any, s->state, s->bytes);
        break;
    default: break;
    }
}

/* ---- what the run consists of ----------------------------------------------------------------------- */

kd_status kd_checkpoint_create(kd_checkpoint **out, kd_context *ctx)
{
    KD_NEED(out);
    *out = kd__alloc(ctx, sizeof **out);
    if (!*out) return KD_ERR_NOMEM;
    (*out)->ctx = kd__context_retain(ctx);
    return KD_OK;
}

void kd_checkpoint_free(kd_checkpoint *cp)
{
    if (!cp) return;
    kd_context *ctx = cp->ctx;
    kd__free(ctx, cp->sections);
    kd__free(ctx, cp);
    kd__context_release(ctx);
}

static kd_status add(kd_checkpoint *cp, const char *function, uint32_t kind, const char *name, void *object,
                     size_t bytes)
{
    if (!cp) return kd__fail(KD_ERR_ARG, "%s: cp is NULL", function);
    if (!name || !*name) return kd__fail(KD_ERR_ARG, "%s: name is %s", function, name ? "empty" : "NULL");
    if (strlen(name) > NAME_LIMIT)
        return kd__fail(KD_ERR_ARG, "%s: name is %zu bytes: the limit is %d", function, strlen(name), NAME_LIMIT);
    if (!object && (kind != BYTES || bytes))
        return kd__fail(KD_ERR_ARG, "%s: %s \"%s\" is NULL", function, kind_name(kind), kd__show(name).text);
    for (size_t i = 0; i < cp->count; i++)
        if (strcmp(cp->sections[i].name, name) == 0)
            return kd__fail(KD_ERR_ARG, "%s: name \"%s\" is taken already", function, kd__show(name).text);
    KD_TRY(kd__grow(cp->ctx, &cp->sections, &cp->capacity, cp->count + 1, sizeof *cp->sections));
    section *s = &cp->sections[cp->count++];
    s->kind = kind;
    s->object.any = object;
    s->bytes = bytes;
    memcpy(s->name, name, strlen(name) + 1);
    return KD_OK;
}

kd_status kd_checkpoint_add_model(kd_checkpoint *cp, const char *name, kd_model *model)
{
    if (model && !model->finished)
        return kd__fail(KD_ERR_STATE, "kd_checkpoint_add_model: the model is not finished (kd_model_finish)");
    return add(cp, __func__, MODEL, name, model, 0);
}

kd_status kd_checkpoint_add_optimizer(kd_checkpoint *cp, const char *name, kd_optimizer *opt)
{
    return add(cp, __func__, OPTIMIZER, name, opt, 0);
}

kd_status kd_checkpoint_add_ema(kd_checkpoint *cp, const char *name, kd_ema *ema)
{
    return add(cp, __func__, EMA, name, ema, 0);
}

kd_status kd_checkpoint_add_loader(kd_checkpoint *cp, const char *name, kd_loader *loader)
{
    return add(cp, __func__, LOADER, name, loader, 0);
}

kd_status kd_checkpoint_add_tape(kd_checkpoint *cp, const char *name, kd_tape *tape)
{
    return add(cp, __func__, TAPE, name, tape, 0);
}

kd_status kd_checkpoint_add_loss(kd_checkpoint *cp, const char *name, kd_loss_distill *loss)
{
    return add(cp, __func__, LOSS, name, loss, 0);
}

kd_status kd_checkpoint_add_feature_loss(kd_checkpoint *cp, const char *name, kd_loss_feature *loss)
{
    return add(cp, __func__, FEATURE_LOSS, name, loss, 0);
}

kd_status kd_checkpoint_add_bytes(kd_checkpoint *cp, const char *name, void *data, size_t bytes)
{
    return add(cp, __func__, BYTES, name, data, bytes);
}

/* ---- saving ----------------------------------------------------------------------------------------- */

static void put_entry(const section *s, uint8_t *out)
{
    kd__put_le32(out, s->kind);
    kd__put_le32(out + 4, (uint32_t)strlen(s->name));
    kd__put_le64(out + 8, s->bytes);
}

/* Of a section's entry in the table and its state: a state cannot pass for another section's. */
static uint32_t section_crc(const section *s, const uint8_t *state)
{
    uint8_t entry[ENTRY_BYTES];
    put_entry(s, entry);
    uint32_t crc = kd__crc32c(0, entry, sizeof entry);
    crc = kd__crc32c(crc, s->name, strlen(s->name));
    return kd__crc32c(crc, state, s->bytes);
}

/* Header and table in one piece. */
static kd_status build_front(kd_checkpoint *cp, kd__text *front, size_t *largest)
{
    uint8_t header[HEADER_BYTES] = { 0 }, entry[ENTRY_BYTES];
    uint64_t total = HEADER_BYTES;
    kd__text_put(front, (char *)header, sizeof header);
    *largest = 0;
    for (size_t i = 0; i < cp->count; i++) {
        section *s = &cp->sections[i];
        s->bytes = state_size(s);
        *largest = KD_MAX(*largest, s->bytes);
        put_entry(s, entry);
        kd__text_put(front, (char *)entry, sizeof entry);
        kd__text_put(front, s->name, strlen(s->name));
        total += ENTRY_BYTES + strlen(s->name) + s->bytes + CRC_BYTES;
    }
    if (front->failed) return KD_ERR_NOMEM;
    memcpy(header, magic, sizeof magic);
    kd__put_le32(header + 8, VERSION);
    kd__put_le32(header + 12, (uint32_t)cp->count);
    kd__put_le64(header + 16, total);
    kd__put_le64(header + 24, front->size - HEADER_BYTES);
    kd__put_le32(header + 32, kd__crc32c(0, front->data + HEADER_BYTES, front->size - HEADER_BYTES));
    kd__put_le32(header + 36, kd__crc32c(0, header, 36));
    memcpy(front->data, header, sizeof header);
    return KD_OK;
}

static kd_status write_file(kd_checkpoint *cp, const char *path, const kd__text *front, uint8_t *state)
{
    kd__writer writer;
    KD_TRY(kd__writer_open(&writer, cp->ctx, path));
    kd_status status = kd__writer_put(&writer, front->data, front->size);
    for (size_t i = 0; i < cp->count && status == KD_OK; i++) {
        const section *s = &cp->sections[i];
        uint8_t crc[CRC_BYTES];
        state_write(s, state);
        kd__put_le32(crc, section_crc(s, state));
        status = kd__writer_put(&writer, state, s->bytes);
        if (status == KD_OK) status = kd__writer_put(&writer, crc, sizeof crc);
    }
    if (status == KD_OK) status = kd__writer_commit(&writer);
    kd__writer_abort(&writer);
    return status;
}

kd_status kd_checkpoint_save(kd_checkpoint *cp, const char *path)
{
    KD_NEED(cp);
    KD_NEED(path);
    kd__text front = { .ctx = cp->ctx };
    size_t largest;
    kd_status status = build_front(cp, &front, &largest);
    uint8_t *state = status == KD_OK ? kd__alloc_raw(cp->ctx, largest) : NULL;
    if (status == KD_OK) status = state ? write_file(cp, path, &front, state) : KD_ERR_NOMEM;
    kd__free(cp->ctx, state);
    kd__free(cp->ctx, front.data);
    return status == KD_OK ? KD_OK : kd__fail_prefix(status, "kd_checkpoint_save: ");
}

/* ---- loading ---------------------------------------------------------------------------------------- */

static kd_status read_header(kd__file *file, uint8_t header[HEADER_BYTES])
{
    size_t have = (size_t)KD_MIN(file->size, (uint64_t)HEADER_BYTES);
    KD_TRY(kd__file_read(file, header, have, 0));
    if (memcmp(header, magic, KD_MIN(have, sizeof magic)) != 0) {
        const char *foreign = kd__foreign_file(header, have);
        return kd__fail(KD_ERR_FORMAT, "%s: offset 0: this is %s", file->path,
                        foreign ? foreign : "not a checkpoint");
    }
    if (have < HEADER_BYTES)
        return kd__fail(KD_ERR_TRUNCATED, "%s: %zu bytes: a checkpoint begins with %d", file->path, have,
                        HEADER_BYTES);
    if (kd__crc32c(0, header, 36) != kd__le32(header + 36))
        return kd__fail(KD_ERR_CHECKSUM, "%s: offset 0: the header is damaged", file->path);
    uint32_t version = kd__le32(header + 8);
    if (version > VERSION)
        return kd__fail(KD_ERR_VERSION, "%s: offset 8: version %u, this libkd reads up to %d", file->path, version,
                        VERSION);
    uint64_t total = kd__le64(header + 16);
    if (file->size < total)
        return kd__fail(KD_ERR_TRUNCATED, "%s: %llu bytes, the header says %llu: it was cut short", file->path,
                        (unsigned long long)file->size, (unsigned long long)total);
    if (version < 1 || file->size > total || kd__le64(header + 24) > total - HEADER_BYTES)
        return kd__fail(KD_ERR_FORMAT, "%s: offset 8: version %u, %llu bytes (the file has %llu), a table of %llu",
                        file->path, version, (unsigned long long)total, (unsigned long long)file->size,
                        (unsigned long long)kd__le64(header + 24));
    return KD_OK;
}

static section *find(kd_checkpoint *cp, const uint8_t *name, size_t n)
{
    for (size_t i = 0; i < cp->count; i++)
        if (strlen(cp->sections[i].name) == n && memcmp(cp->sections[i].name, name, n) == 0) return &cp->sections[i];
    return NULL;
}

/* One entry of the table, `left` bytes of which remain: find the section it is of.  *place moves behind its state. */
static kd_status match_entry(kd_checkpoint *cp, const kd__file *file, const uint8_t *entry, size_t left,
                             uint64_t *place, size_t *used)
{
    uint32_t n = left < ENTRY_BYTES ? 0 : kd__le32(entry + 4);
    if (left < ENTRY_BYTES || n > left - ENTRY_BYTES || n > NAME_LIMIT || n == 0)
        return kd__fail(KD_ERR_FORMAT, "%s: the table of sections is broken", file->path);
    uint32_t kind = kd__le32(entry);
    uint64_t bytes = kd__le64(entry + 8), rest = file->size - *place;
    char name[NAME_LIMIT + 1] = { 0 };
    memcpy(name, entry + ENTRY_BYTES, n);
    if (rest < CRC_BYTES || bytes > rest - CRC_BYTES)
        return kd__fail(KD_ERR_FORMAT, "%s: section \"%s\": %llu bytes at offset %llu reach past the end", file->path,
                        kd__show(name).text, (unsigned long long)bytes, (unsigned long long)*place);
    section *s = find(cp, entry + ENTRY_BYTES, n);
    if (!s)
        return kd__fail(KD_ERR_SHAPE, "%s: the file has a section \"%s\" (%s) that was not added", file->path,
                        kd__show(name).text, kind_name(kind));
    if (s->offset)
        return kd__fail(KD_ERR_FORMAT, "%s: section \"%s\" is there twice", file->path, kd__show(name).text);
    if (s->kind != kind)
        return kd__fail(KD_ERR_SHAPE, "%s: section \"%s\" is of kind %s in the file, %s was added", file->path,
                        kd__show(name).text, kind_name(kind), kind_name(s->kind));
    bool fixed = kind == TAPE || kind == LOSS || kind == BYTES || kind == FEATURE_LOSS;
    if (fixed && bytes != state_size(s))
        return kd__fail(KD_ERR_SHAPE, "%s: section \"%s\" has %llu bytes in the file, %zu were added", file->path,
                        kd__show(name).text, (unsigned long long)bytes, state_size(s));
    if (bytes > SIZE_MAX)
        return kd__fail(KD_ERR_OVERFLOW, "%s: section \"%s\" does not fit", file->path, kd__show(name).text);
    s->offset = *place;
    s->bytes = (size_t)bytes;
    *place += bytes + CRC_BYTES;
    *used = ENTRY_BYTES + n;
    return KD_OK;
}

static kd_status read_table(kd_checkpoint *cp, kd__file *file, const uint8_t *header, uint8_t *table, size_t bytes)
{
    KD_TRY(kd__file_read(file, table, bytes, HEADER_BYTES));
    if (kd__crc32c(0, table, bytes) != kd__le32(header + 32))
        return kd__fail(KD_ERR_CHECKSUM, "%s: offset %d: the table of sections is damaged", file->path, HEADER_BYTES);
    uint32_t count = kd__le32(header + 12);
    uint64_t place = HEADER_BYTES + (uint64_t)bytes;
    size_t at = 0, used = 0;
    for (uint32_t i = 0; i < count; i++, at += used)
        KD_TRY(match_entry(cp, file, table + at, bytes - at, &place, &used));
    for (size_t i = 0; i < cp->count; i++)
        if (!cp->sections[i].offset)
            return kd__fail(KD_ERR_SHAPE, "%s: section \"%s\" (%s) is not in the file", file->path,
                            kd__show(cp->sections[i].name).text, kind_name(cp->sections[i].kind));
    if (at != bytes || place != file->size)
        return kd__fail(KD_ERR_FORMAT, "%s: offset %llu: bytes that belong to no section", file->path,
                        (unsigned long long)(at != bytes ? HEADER_BYTES + at : place));
    return KD_OK;
}

static kd_status read_section(kd_checkpoint *cp, kd__file *file, section *s)
{
    uint8_t crc[CRC_BYTES];
    s->state = kd__alloc_raw(cp->ctx, s->bytes);
    if (!s->state) return KD_ERR_NOMEM;
    KD_TRY(kd__file_read(file, s->state, s->bytes, s->offset));
    KD_TRY(kd__file_read(file, crc, sizeof crc, s->offset + s->bytes));
    if (section_crc(s, s->state) != kd__le32(crc))
        return kd__fail(KD_ERR_CHECKSUM, "%s: section \"%s\" (offset %llu, %zu bytes) is damaged", file->path,
                        kd__show(s->name).text, (unsigned long long)s->offset, s->bytes);
    kd_status status = state_check(s);
    if (status != KD_OK)
        return kd__fail_prefix(status, "%s: section \"%s\": ", file->path, kd__show(s->name).text);
    return KD_OK;
}

/* Everything is read and checked before anything changes. */
static kd_status load(kd_checkpoint *cp, kd__file *file)
{
    uint8_t header[HEADER_BYTES];
    KD_TRY(read_header(file, header));
    if (kd__le64(header + 24) > SIZE_MAX) return kd__fail(KD_ERR_OVERFLOW, "%s: the table does not fit", file->path);
    size_t bytes = (size_t)kd__le64(header + 24);
    uint8_t *table = kd__alloc_raw(cp->ctx, bytes);
    if (!table) return KD_ERR_NOMEM;
    kd_status status = read_table(cp, file, header, table, bytes);
    kd__free(cp->ctx, table);
    for (size_t i = 0; i < cp->count && status == KD_OK; i++) status = read_section(cp, file, &cp->sections[i]);
    if (status != KD_OK) return status;
    for (size_t i = 0; i < cp->count; i++) state_read(&cp->sections[i]);
    return KD_OK;
}

kd_status kd_checkpoint_load(kd_checkpoint *cp, const char *path)
{
    KD_NEED(cp);
    KD_NEED(path);
    for (size_t i = 0; i < cp->count; i++) cp->sections[i].offset = 0;
    kd__file file;
    kd_status status = kd__file_open(&file, path);
    if (status == KD_OK) {
        status = load(cp, &file);
        kd__file_close(&file);
    }
    for (size_t i = 0; i < cp->count; i++) {
        kd__free(cp->ctx, cp->sections[i].state);
        cp->sections[i].state = NULL;
    }
    return status == KD_OK ? KD_OK : kd__fail_prefix(status, "kd_checkpoint_load: ");
}
