/* file_win32.c - what the library asks of a file system, from Windows.  Paths are UTF-8.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#if !defined KD_NO_IO && defined _WIN32
#include <windows.h>
#include <errno.h>
#include <fcntl.h>
#include <io.h>

enum { PATH_CHARS = 4096, SLOTS = 8 };
#define SHARE (FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)

/* The entries of the table: thin, errno tells why. */

static int refuse(int error)
{
    errno = error;
    return -1;
}

static int refuse_last(void)
{
    switch (GetLastError()) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
    case ERROR_INVALID_NAME:
    case ERROR_INVALID_DRIVE:
    case ERROR_BAD_NETPATH: return refuse(ENOENT);
    case ERROR_TOO_MANY_OPEN_FILES: return refuse(EMFILE);
    case ERROR_ACCESS_DENIED: return refuse(EACCES);
    case ERROR_SHARING_VIOLATION:
    case ERROR_LOCK_VIOLATION: return refuse(EBUSY);
    case ERROR_FILE_EXISTS:
    case ERROR_ALREADY_EXISTS: return refuse(EEXIST);
    case ERROR_NOT_ENOUGH_MEMORY:
    case ERROR_OUTOFMEMORY: return refuse(ENOMEM);
    case ERROR_WRITE_PROTECT: return refuse(EROFS);
    case ERROR_DISK_FULL:
    case ERROR_HANDLE_DISK_FULL: return refuse(ENOSPC);
    case ERROR_FILENAME_EXCED_RANGE: return refuse(ENAMETOOLONG);
    case ERROR_DIRECTORY: return refuse(ENOTDIR);
    case ERROR_NOT_SAME_DEVICE: return refuse(EXDEV);
    default: return refuse(EIO);
    }
}

static int widen(const char *path, wchar_t out[PATH_CHARS])
{
    if (MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, out, PATH_CHARS)) return 0;
    return refuse(GetLastError() == ERROR_INSUFFICIENT_BUFFER ? ENAMETOOLONG : EILSEQ);
}

static HANDLE handle_of(int fd) { return (HANDLE)_get_osfhandle(fd); }

static int fd_of(HANDLE handle, int flags)
{
    int fd = _open_osfhandle((intptr_t)handle, flags | _O_BINARY | _O_NOINHERIT);
    if (fd < 0) CloseHandle(handle);
    return fd;
}

/* Of what exists, a regular file only. */
static int kind_error(const wchar_t *name)
{
    DWORD attributes = GetFileAttributesW(name);
    if (attributes == INVALID_FILE_ATTRIBUTES) return 0;
    return attributes & FILE_ATTRIBUTE_DIRECTORY ? EISDIR : attributes & FILE_ATTRIBUTE_DEVICE ? EINVAL : 0;
}

/* Saving through a link keeps the link. */
static int resolve_link(const wchar_t *name, char *out, size_t cap)
{
    wchar_t end[PATH_CHARS];
    HANDLE handle = CreateFileW(name, 0, SHARE, NULL, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL);
    if (handle == INVALID_HANDLE_VALUE) return refuse_last();
    DWORD n = GetFinalPathNameByHandleW(handle, end, PATH_CHARS, FILE_NAME_NORMALIZED);
    CloseHandle(handle);
    if (!n) return refuse_last();
    if (n >= PATH_CHARS || !WideCharToMultiByte(CP_UTF8, 0, end, -1, out, (int)cap, NULL, NULL)) return refuse(ENAMETOOLONG);
    return 0;
}

static int io_resolve(const char *path, char *out, size_t cap)
{
    wchar_t name[PATH_CHARS];
    size_t n = strlen(path) + 1;
    if (widen(path, name) != 0) return -1;
    int error = kind_error(name);
    if (error) return refuse(error);
    DWORD attributes = GetFileAttributesW(name);
    if (attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_REPARSE_POINT)) return resolve_link(name, out, cap);
    if (n > cap) return refuse(ENAMETOOLONG);
    memcpy(out, path, n);
    return 0;
}

static int io_open_read(const char *path, uint64_t *size)
{
    wchar_t name[PATH_CHARS];
    LARGE_INTEGER bytes;
    if (widen(path, name) != 0) return -1;
    int error = kind_error(name);
    if (error) return refuse(error);
    HANDLE handle = CreateFileW(name, GENERIC_READ, SHARE, NULL, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    if (handle == INVALID_HANDLE_VALUE) return refuse_last();
    if (GetFileType(handle) != FILE_TYPE_DISK || !GetFileSizeEx(handle, &bytes)) {
        CloseHandle(handle);
        return refuse(EINVAL);
    }
    *size = (uint64_t)bytes.QuadPart;
    return fd_of(handle, _O_RDONLY);
}

/* One byte, far behind the end of any file, is the lock of a temporary. */
static bool lock(HANDLE handle)
{
    OVERLAPPED at = { .Offset = 0, .OffsetHigh = 0x40000000 };
    return LockFileEx(handle, LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at);
}

/* Remove it if its writer is dead: a living one holds the lock from creation until after the rename. */
static void remove_stale(const wchar_t *name)
{
    HANDLE handle = CreateFileW(name, GENERIC_READ | GENERIC_WRITE | DELETE, SHARE, NULL, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    if (handle == INVALID_HANDLE_VALUE) return;
    FILE_DISPOSITION_INFO gone = { TRUE };
    if (lock(handle)) SetFileInformationByHandle(handle, FileDispositionInfo, &gone, sizeof gone);   /* by handle: no other of that name */
    CloseHandle(handle);
}

/* Temporaries of TARGET are TARGET.kdtmp0 to TARGET.kdtmp7: eight writers at once.  What a killed writer left is removed by the
 * next one. */
static int io_open_temp(char *path, size_t cap, const char *target)
{
    char text[PATH_CHARS + 64];
    wchar_t name[PATH_CHARS];
    int fd = -1, error = EBUSY;
    size_t n = strlen(target);
    if (n + sizeof ".kdtmp0" > KD_MIN(cap, sizeof text)) return refuse(ENAMETOOLONG);
    for (int slot = 0; slot < SLOTS; slot++) {
        kd__format(text, sizeof text, "%s.kdtmp%d", target, slot);
        if (widen(text, name) != 0) return -1;
        remove_stale(name);
        if (fd >= 0 || error != EBUSY) continue;
        HANDLE handle = CreateFileW(name, GENERIC_READ | GENERIC_WRITE | DELETE, SHARE, NULL, CREATE_NEW, FILE_ATTRIBUTE_NORMAL, NULL);
        if (handle == INVALID_HANDLE_VALUE) {
            refuse_last();
            if (errno != EEXIST && errno != EBUSY && errno != EACCES) error = errno;   /* EACCES: being removed */
            continue;
        }
        if (!lock(handle)) {   /* taken for stale before we held the lock */
            CloseHandle(handle);
            continue;
        }
        fd = fd_of(handle, _O_RDWR);
        if (fd < 0) error = errno;
        else memcpy(path, text, strlen(text) + 1);
    }
    return fd < 0 ? refuse(error) : fd;
}

static int64_t io_read_at(int fd, void *out, size_t bytes, uint64_t offset)
{
    OVERLAPPED at = { .Offset = (DWORD)offset, .OffsetHigh = (DWORD)(offset >> 32) };
    DWORD n = 0;
    if (ReadFile(handle_of(fd), out, (DWORD)bytes, &n, &at)) return n;
    return GetLastError() == ERROR_HANDLE_EOF ? 0 : refuse_last();
}

static int64_t io_write(int fd, const void *data, size_t bytes)
{
    DWORD n = 0;
    return WriteFile(handle_of(fd), data, (DWORD)bytes, &n, NULL) ? (int64_t)n : refuse_last();
}

static int io_sync(int fd) { return FlushFileBuffers(handle_of(fd)) ? 0 : refuse_last(); }

static int io_close(int fd) { return _close(fd); }

static int io_rename(const char *from, const char *to)
{
    wchar_t old[PATH_CHARS], new[PATH_CHARS];
    if (widen(from, old) != 0 || widen(to, new) != 0) return -1;
    return MoveFileExW(old, new, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH) ? 0 : refuse_last();
}

static int io_unlink(const char *path)
{
    wchar_t name[PATH_CHARS];
    if (widen(path, name) != 0) return -1;
    return DeleteFileW(name) ? 0 : refuse_last();
}

/* MOVEFILE_WRITE_THROUGH has seen to it. */
static int io_sync_dir(const char *path_inside)
{
    (void)path_inside;
    return 0;
}

static int io_hold(int fd) { return _dup(fd); }

static void io_release(int hold)
{
    if (hold >= 0) _close(hold);
}

static int io_list(const char *path, bool (*each)(void *user, const char *name, bool folder), void *user)
{
    char text[PATH_CHARS];
    wchar_t pattern[PATH_CHARS];
    WIN32_FIND_DATAW found;
    if (kd__format(text, sizeof text, "%s/*", path) >= sizeof text) return refuse(ENAMETOOLONG);
    if (widen(text, pattern) != 0) return -1;
    HANDLE handle = FindFirstFileW(pattern, &found);
    if (handle == INVALID_HANDLE_VALUE) return refuse_last();
    bool more = true;
    do {
        more = WideCharToMultiByte(CP_UTF8, 0, found.cFileName, -1, text, sizeof text, NULL, NULL) &&
               each(user, text, (found.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0);
    } while (more && FindNextFileW(handle, &found));
    int end = more ? GetLastError() == ERROR_NO_MORE_FILES ? 0 : refuse_last() : refuse(ENOMEM);
    FindClose(handle);
    return end;
}

kd__io kd__io_table = {
    .resolve = io_resolve,
    .open_read = io_open_read,
    .open_temp = io_open_temp,
    .read_at = io_read_at,
    .write = io_write,
    .sync = io_sync,
    .close = io_close,
    .rename = io_rename,
    .unlink = io_unlink,
    .sync_dir = io_sync_dir,
    .hold = io_hold,
    .release = io_release,
    .list = io_list,
};
#endif
