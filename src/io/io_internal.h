/* io_internal.h - what the readers and writers of files share: byte order, JSON, sorting, loading.
 * SPDX-License-Identifier: MIT */
#ifndef KD__IO_INTERNAL_H
#define KD__IO_INTERNAL_H
#include "base/base.h"
#include "kd/io.h"

/* ---- bytes.c: files have an order of their own ------------------------------------------------------ */
static inline uint32_t kd__le32(const void *p)
{
    const uint8_t *b = p;
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
static inline uint64_t kd__le64(const void *p)
{
    return kd__le32(p) | (uint64_t)kd__le32((const uint8_t *)p + 4) << 32;
}
static inline uint32_t kd__be32(const void *p) { return __builtin_bswap32(kd__le32(p)); }
static inline void kd__put_le32(void *p, uint32_t v)
{
    uint8_t *b = p;
    for (int i = 0; i < 4; i++) b[i] = (uint8_t)(v >> 8 * i);
}
static inline void kd__put_le64(void *p, uint64_t v)
{
    kd__put_le32(p, (uint32_t)v);
    kd__put_le32((uint8_t *)p + 4, (uint32_t)(v >> 32));
}
static inline bool kd__host_is_big(void) { return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__; }
/* Reverse the bytes of each of `count` elements of `width` bytes (1, 2, 4 or 8). */
void kd__swap_bytes(void *data, size_t count, size_t width);
/* Exact: every f16 and bf16 is a float.  `in` may be the upper half of the memory of `out`; host order. */
void kd__f16_widen(float *out, const uint16_t *in, size_t count);
void kd__bf16_widen(float *out, const uint16_t *in, size_t count);
/* Write elements with their bytes reversed; in little-endian order. */
kd_status kd__writer_put_swapped(kd__writer *writer, const void *data, size_t count, size_t width);
static inline kd_status kd__writer_put_le(kd__writer *writer, const void *data, size_t count, size_t width)
{
    return kd__host_is_big() ? kd__writer_put_swapped(writer, data, count, width)
                             : kd__writer_put(writer, data, count * width);
}

/* What a file of another kind is, from its first bytes: "a gzip file: decompress it first"; NULL if unknown. */
const char *kd__foreign_file(const void *head, size_t bytes);
/* A name from a file for an error text: control characters become '?', long ones are cut. */
typedef struct kd__shown { char text[84]; } kd__shown;
kd__shown kd__show(const char *name);

/* A new tensor with the elements at `offset` to the end of the file: KD_ERR_TRUNCATED when they are not all
 * there (before anything is allocated), KD_ERR_FORMAT when more follows. */
kd_status kd__load_rest(kd_tensor **out, kd_context *ctx, kd__file *file, kd_dtype dtype, size_t rank,
                        const size_t *shape, uint64_t offset, bool big_endian);
/* Product of the sizes that are not 0, times `unit`; *empty tells whether one was 0.  False if it wraps, so a zero
 * cannot hide an absurd size. */
bool kd__shape_units(size_t rank, const size_t *shape, uint64_t unit, uint64_t *units, bool *empty);

/* ---- json.c: a strict, bounded, iterative reader of RFC 8259 text ----------------------------------- */
#define KD__JSON_DEPTH 8u
typedef enum kd__json_token {
    KD__JSON_ERROR, KD__JSON_END, KD__JSON_OBJECT, KD__JSON_OBJECT_END, KD__JSON_ARRAY, KD__JSON_ARRAY_END,
    KD__JSON_KEY, KD__JSON_STRING, KD__JSON_NUMBER, KD__JSON_LITERAL   /* true, false, null */
} kd__json_token;
typedef struct kd__json {
    char       *text;          /* changed: strings are decoded where they stand and end in a 0 */
    size_t      size, at;      /* `at`: the next byte to read; after an error, the offending byte */
    size_t      start;         /* of the last token */
    char       *string;        /* KEY, STRING: decoded, UTF-8 without zeros; NUMBER, LITERAL: as it stands */
    size_t      length;
    const char *error;
    uint8_t     depth, expect;
    uint32_t    arrays;        /* bit d: container d is an array */
} kd__json;
void kd__json_begin(kd__json *j, char *text, size_t size);
/* The next token of one value; KD__JSON_END after it, with `at` behind the value (what follows is the caller's to
 * judge).  A ':' after a key and commas are checked and passed over. */
kd__json_token kd__json_next(kd__json *j);
bool kd__utf8_valid(const char *text, size_t bytes);

/* ---- name_sort.c: order and duplicates without a hash that a file could be built against ------------------ */
typedef struct kd__sort_item { uint64_t key; uint32_t index, place; } kd__sort_item;
/* By key, stable; spare holds `count` too. */
void kd__sort_items(kd__sort_item *items, kd__sort_item *spare, size_t count);
typedef const char *(*kd__name_fn)(const void *arg, const kd__sort_item *item);
/* Into the order of name(arg, item) (bytes, as strcmp); key is used up.  Time grows with the total length of the
 * names whatever they are.  *twice is an item whose name another one has too, or NULL.  KD_ERR_NOMEM. */
kd_status kd__sort_names(kd_context *ctx, kd__sort_item *items, kd__sort_item *spare, size_t count, kd__name_fn name,
                         const void *arg, const kd__sort_item **twice);

/* ---- safetensors ------------------------------------------------------------------------------------ */
typedef struct kd__safetensors_dtype {
    char     name[16];
    uint8_t  bits;
    uint8_t  served;    /* the kd_dtype it is read as; 0: not served */
} kd__safetensors_dtype;
/* In the order of the format's own list: by alignment. */
extern const kd__safetensors_dtype kd__safetensors_dtypes[22];

/* ---- text.c: a buffer that grows -------------------------------------------------------------------- */
typedef struct kd__text {
    kd_context *ctx;
    char       *data;
    size_t      size, capacity;
    bool        failed;    /* out of memory: everything after is ignored */
} kd__text;
void kd__text_put(kd__text *text, const char *data, size_t bytes);
void kd__text_string(kd__text *text, const char *string);
void kd__text_u64(kd__text *text, uint64_t value);
void kd__text_json(kd__text *text, const char *string);   /* quoted and escaped */
/* ---- positions.c: a pos_embed [1, special + side^2, width] for a grid of another side ------------------------------ */
/* Its sizes; false: `shape` is none with 1 or 2 special tokens. */
bool      kd__positions_grid(const size_t *shape, size_t rank, size_t *side, size_t *special);
/* Bicubic, stretched where the grid shrinks, as timm does it; the special tokens stay. */
kd_status kd__positions_resize(kd_context *ctx, const float *in, size_t from, size_t special, size_t width, float *out, size_t to);
#endif
