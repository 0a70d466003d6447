/* error.c - statuses, the error text of each thread, descriptors of callers older and newer than us.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include <stdarg.h>

/* A plain array: no key, no destructor, nothing to crash when a thread ends after dlclose. */
static KD_THREAD_LOCAL char error_text[512];

const char *kd_last_error(void) { return error_text; }

kd_status kd__vfail(kd_status status, const char *format, __builtin_va_list args)
{
    char text[sizeof error_text];   /* an argument may be the current text itself */
    kd__vformat(text, sizeof text, format, args);
    memcpy(error_text, text, strlen(text) + 1);
    return status;
}

kd_status kd__fail(kd_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    kd__vfail(status, format, args);
    va_end(args);
    return status;
}

kd_status kd__fail_prefix(kd_status status, const char *format, ...)
{
    char prefix[sizeof error_text];
    va_list args;
    va_start(args, format);
    kd__vformat(prefix, sizeof prefix, format, args);
    va_end(args);
    return kd__fail(status, "%s%s", prefix, error_text);
}

const char *kd_status_name(kd_status status)
{
    switch (status) {
    case KD_OK: return "KD_OK";
    case KD_END: return "KD_END";
    case KD_ERR_ARG: return "KD_ERR_ARG";
    case KD_ERR_SHAPE: return "KD_ERR_SHAPE";
    case KD_ERR_DTYPE: return "KD_ERR_DTYPE";
    case KD_ERR_RANGE: return "KD_ERR_RANGE";
    case KD_ERR_NOMEM: return "KD_ERR_NOMEM";
    case KD_ERR_IO: return "KD_ERR_IO";
    case KD_ERR_TRUNCATED: return "KD_ERR_TRUNCATED";
    case KD_ERR_FORMAT: return "KD_ERR_FORMAT";
    case KD_ERR_UNSUPPORTED: return "KD_ERR_UNSUPPORTED";
    case KD_ERR_OVERFLOW: return "KD_ERR_OVERFLOW";
    case KD_ERR_LIMIT: return "KD_ERR_LIMIT";
    case KD_ERR_NUMERIC: return "KD_ERR_NUMERIC";
    case KD_ERR_VERSION: return "KD_ERR_VERSION";
    case KD_ERR_CHECKSUM: return "KD_ERR_CHECKSUM";
    case KD_ERR_CANCELLED: return "KD_ERR_CANCELLED";
    case KD_ERR_STATE: return "KD_ERR_STATE";
    }
    return "unknown status";
}

/* A struct_size beyond this much growth is memory nobody initialised, not a newer libkd. */
enum { DESC_GROWTH = 4096 };

kd_status kd__desc_read(void *own, size_t own_size, const void *desc, const char *what)
{
    if (!desc) return KD_OK;
    size_t size;
    memcpy(&size, desc, sizeof size);
    if (size < sizeof size || size > own_size + DESC_GROWTH) {
        size_t n = strlen(what);
        bool has_init = n > 5 && !strcmp(what + n - 5, "_desc");
        return kd__fail(KD_ERR_ARG, "%s: struct_size is %zu: %s%s", what, size, has_init ? what : "set it to sizeof",
                        has_init ? "_init() sets it" : "");
    }
    for (size_t i = own_size; i < size; i++)
        if (((const unsigned char *)desc)[i])
            return kd__fail(KD_ERR_VERSION, "%s: a field at byte %zu is set, this libkd (%s) knows %zu bytes",
                            what, i, kd_version_string(), own_size);
    memcpy(own, desc, KD_MIN(size, own_size));
    memcpy(own, &own_size, sizeof own_size);
    return KD_OK;
}

kd_status kd__info_check(const void *out, size_t own_size, const char *what)
{
    size_t size;
    memcpy(&size, out, sizeof size);
    if (size < sizeof size || size > own_size + DESC_GROWTH)
        return kd__fail(KD_ERR_ARG, "%s->struct_size is %zu: set it to sizeof", what, size);
    return KD_OK;
}

void kd__info_write(void *out, const void *info, size_t own_size)
{
    size_t size;
    memcpy(&size, out, sizeof size);
    kd__desc_write(out, size, info, own_size);
}

void kd__desc_write(void *desc, size_t size, const void *defaults, size_t own_size)
{
    if (!desc || size < sizeof size) return;
    memset(desc, 0, size);
    memcpy(desc, defaults, KD_MIN(size, own_size));
    memcpy(desc, &size, sizeof size);
}
