/* fuzz_checkpoint.c - any bytes as a checkpoint, as they are and once more with every checksum made right, which lets the
 * fuzzer past them.
 * SPDX-License-Identifier: MIT */
#include "fuzz.h"
#include "io/io_internal.h"
#include <stdlib.h>

enum { HEADER = 40, ENTRY = 16 };

typedef struct run {
    kd_model      *model;
    kd_optimizer  *opt;
    kd_ema        *ema;
    kd_tape       *tape;
    kd_checkpoint *cp;
    uint8_t        bytes[5];
} run;

static run *start(void)
{
    static run r;
    if (r.cp) return &r;
    kd_optimizer_desc desc;
    size_t sizes[] = { 2, 3, 1 };
    FUZZ_MUST(kd_zoo_mlp(&r.model, NULL, sizes, 3, KD_ACT_RELU, 1) == KD_OK);
    kd_optimizer_desc_init(&desc, sizeof desc);
    desc.method = KD_OPT_ADAM;
    FUZZ_MUST(kd_optimizer_create(&r.opt, NULL, &desc) == KD_OK && kd_optimizer_add(r.opt, r.model) == KD_OK);
    FUZZ_MUST(kd_ema_create(&r.ema, r.model, 0.9) == KD_OK && kd_tape_create(&r.tape, NULL, KD_TAPE_TRAIN) == KD_OK);
    FUZZ_MUST(kd_checkpoint_create(&r.cp, NULL) == KD_OK && kd_checkpoint_add_model(r.cp, "m", r.model) == KD_OK);
    FUZZ_MUST(kd_checkpoint_add_optimizer(r.cp, "o", r.opt) == KD_OK &&
              kd_checkpoint_add_ema(r.cp, "e", r.ema) == KD_OK);
    FUZZ_MUST(kd_checkpoint_add_tape(r.cp, "t", r.tape) == KD_OK);
    FUZZ_MUST(kd_checkpoint_add_bytes(r.cp, "b", r.bytes, sizeof r.bytes) == KD_OK);
    return &r;
}

/* What is in memory, as one hash: the state that a failed load may not change. */
static uint32_t state(run *r)
{
    static uint8_t buffer[1 << 16];
    size_t n;
    fuzz_begin(NULL, 0);
    FUZZ_MUST(kd_checkpoint_save(r->cp, "mem") == KD_OK);
    const uint8_t *p = fuzz_bytes(&n);
    FUZZ_MUST(n <= sizeof buffer);
    uint32_t crc = kd__crc32c(0, p, n);
    fuzz_end();
    return crc;
}

static void load(run *r, const uint8_t *data, size_t size)
{
    uint32_t before = state(r);
    fuzz_begin(data, size);
    kd_status s = kd_checkpoint_load(r->cp, "mem");
    fuzz_end();
    if (s != KD_OK) FUZZ_MUST(state(r) == before);
}

/* Make lengths and checksums agree with what is there, as far as that can be done. */
static void mend(uint8_t *p, size_t size)
{
    if (size < HEADER) return;
    kd__put_le64(p + 16, size);
    uint64_t table = kd__le64(p + 24), sections = kd__le32(p + 12);
    if (table <= size - HEADER) {
        kd__put_le32(p + 32, kd__crc32c(0, p + HEADER, (size_t)table));
        size_t at = HEADER, end = HEADER + (size_t)table, place = end;
        for (uint64_t i = 0; i < sections && end - at >= ENTRY; i++) {
            size_t n = kd__le32(p + at + 4);
            uint64_t bytes = kd__le64(p + at + 8);
            if (n > end - at - ENTRY || size - place < 4 || bytes > size - place - 4) break;
            uint32_t crc = kd__crc32c(kd__crc32c(0, p + at, ENTRY + n), p + place, (size_t)bytes);
            kd__put_le32(p + place + bytes, crc);
            place += (size_t)bytes + 4;
            at += ENTRY + n;
        }
    }
    kd__put_le32(p + 36, kd__crc32c(0, p, 36));
}

int kdfuzz_checkpoint(const uint8_t *data, size_t size)
{
    run *r = start();
    load(r, data, size);
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy) return 0;
    if (size) memcpy(copy, data, size);
    mend(copy, size);
    load(r, copy, size);
    free(copy);
    return 0;
}
