/* log.c - one callback, four levels, silent unless asked.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include <stdarg.h>

void kd__log(kd_context *ctx, uint32_t level, const char *format, ...)
{
    ctx = kd__context(ctx);
    if (!ctx->log || level > ctx->log_level) return;
    char text[512];
    va_list args;
    va_start(args, format);
    kd__vformat(text, sizeof text, format, args);
    va_end(args);
    ctx->log(level, text, ctx->log_user);
}
