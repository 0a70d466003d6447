/* rooms.h - the order of the rooms of src/.
 * SPDX-License-Identifier: MIT */
#ifndef KDTEST_ROOMS_H
#define KDTEST_ROOMS_H
#include <string.h>

/* base <- cpu, simd <- kernels <- tensor <- autograd <- nn <- distill, optim, zoo <- data, io: a room knows itself and
 * rooms of a lower level; data and io, which only users stand on, know each other. */
static const struct { const char *name; int level; } rooms[] = {
    { "base", 0 },     { "cpu", 1 }, { "simd", 1 },    { "kernels", 2 }, { "tensor", 3 }, { "autograd", 4 },
    { "nn", 5 },       { "distill", 6 }, { "optim", 6 }, { "zoo", 6 },     { "io", 7 },     { "data", 7 },
};
enum { ROOMS = sizeof rooms / sizeof *rooms, TOP_LEVEL = 7 };

/* The room whose name is the first directory of `path`; -1 if there is none. */
static inline int room_of(const char *path)
{
    size_t n = strcspn(path, "/");
    for (int i = 0; i < ROOMS; i++)
        if (strlen(rooms[i].name) == n && strncmp(rooms[i].name, path, n) == 0) return i;
    return -1;
}

static inline int may_know(int room, int other)
{
    return room == other || rooms[other].level < rooms[room].level ||
           (rooms[other].level == TOP_LEVEL && rooms[room].level == TOP_LEVEL);
}
#endif
