/* os_text.c - the operating system's errors in words: strerror() follows the locale and may share a buffer.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include <errno.h>

const char *kd__os_text(int error)
{
    switch (error) {
    case EPERM: return "operation not permitted";
    case ENOENT: return "no such file or directory";
    case EINTR: return "interrupted";
    case EIO: return "input/output error";
    case ENXIO: return "no such device";
    case EBADF: return "bad file descriptor";
    case EAGAIN: return "resource temporarily unavailable";
    case ENOMEM: return "out of memory";
    case EACCES: return "permission denied";
    case EBUSY: return "being written by others";
    case EEXIST: return "file exists";
    case EXDEV: return "on another file system";
    case ENOTDIR: return "part of the path is not a directory";
    case EISDIR: return "is a directory";
    case EINVAL: return "not a regular file";
    case ENFILE: return "too many open files in the system";
    case EMFILE: return "too many open files";
    case EFBIG: return "file too large";
    case ENOSPC: return "no space left on device";
    case EROFS: return "read-only file system";
    case ENAMETOOLONG: return "name too long";
    case ENOLCK: return "no locks available";
    case ELOOP: return "too many symbolic links";
    case EOVERFLOW: return "value too large";
#ifdef EDQUOT
    case EDQUOT: return "disk quota exceeded";
#endif
#ifdef ESTALE
    case ESTALE: return "stale file handle";
#endif
    case EILSEQ: return "the name is not UTF-8";
    default: return "unknown system error";
    }
}
