/* crc32c.c - CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), eight bytes at a time.
 *
 * table[k][byte] is the register after `byte` and k more zero bytes.  The CRC is linear, so an entry is the
 * exclusive or of those of the byte's bits: the compiler makes the first from eight numbers, and a long call the others from it.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"

#define BIT(i, b, value) (((i) >> (b)) & 1 ? value : 0u)
#define E1(i)                                                                                                          \
    BIT(i, 0, 0xf26b8303) ^ BIT(i, 1, 0xe13b70f7) ^ BIT(i, 2, 0xc79a971f) ^ BIT(i, 3, 0x8ad958cf) ^ BIT(i, 4, 0x105ec76f) ^ \
        BIT(i, 5, 0x20bd8ede) ^ BIT(i, 6, 0x417b1dbc) ^ BIT(i, 7, 0x82f63b78)
#define E4(i)  E1(i), E1((i) + 1), E1((i) + 2), E1((i) + 3)
#define E16(i) E4(i), E4((i) + 4), E4((i) + 8), E4((i) + 12)
#define E64(i) E16(i), E16((i) + 16), E16((i) + 32), E16((i) + 48)
static const uint32_t one[256] = { E64(0), E64(64), E64(128), E64(192) };

enum { WORTH = 16384 };   /* bytes from which on eight tables pay: making them takes about as long as 4000 bytes with them */

static uint32_t load_le32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

uint32_t kd__crc32c(uint32_t crc, const void *data, size_t bytes)
{
    const unsigned char *p = data;
    uint32_t c = ~crc;
    uint32_t table[8][256];   /* no state of the process, and a seventh of their size in the library */
    const int long_call = bytes >= WORTH;
    if (long_call)
        for (size_t i = 0; i < 256; i++) {
            table[0][i] = one[i];
            for (size_t k = 1; k < 8; k++) table[k][i] = one[table[k - 1][i] & 255] ^ table[k - 1][i] >> 8;
        }
    for (; long_call && bytes >= 8; bytes -= 8, p += 8) {
        uint32_t lo = load_le32(p) ^ c, hi = load_le32(p + 4);
        c = table[7][lo & 255] ^ table[6][lo >> 8 & 255] ^ table[5][lo >> 16 & 255] ^ table[4][lo >> 24] ^
            table[3][hi & 255] ^ table[2][hi >> 8 & 255] ^ table[1][hi >> 16 & 255] ^ table[0][hi >> 24];
    }
    for (; bytes; bytes--) c = one[(c ^ *p++) & 255] ^ c >> 8;
    return ~c;
}
