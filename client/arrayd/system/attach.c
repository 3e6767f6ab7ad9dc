/* To map a segment, to unmap it, and to look whether a file is as it was, in one call each: what
   `mapping.py` and `file_state.py` do in Python as well.

   An attach is eight system calls, which take some 10 microseconds together, and as many lines of
   Python around them, which take five times that. And what one call in C has done no Ctrl-C can cut
   in two: `mapping.py` gives the record below to a finalizer first, and lets it be filled then.

   Here nothing is explained, worded or waited for. What is not as it should be is undone, and the
   record stays empty: then `mapping.py` goes the way in Python, which finds out what is wrong, and it,
   not this file, decides which error it is. So everything here may be too strict, and nothing may be
   too lenient. `arrayd/wire/layout.py` has the layout of the footer.

   No Python in here: it is called through ctypes, which lets go of the interpreter's lock. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHM "/dev/shm/"
#define FOOTER_BYTES 4096
#define LONGEST_NAME 128

/* The footer, of any version; little-endian, as the machine is. */
struct footer {
    uint8_t magic[8];
    uint32_t version;
    uint8_t others[32];
    uint32_t name_bytes;
    uint8_t name[LONGEST_NAME];
    uint32_t crc;
};

_Static_assert(sizeof(struct footer) == 180, "the footer has no padding");

/* What was mapped; all zero: nothing. */
struct mapped {
    void *address;
    uint64_t size;
    uint64_t inode;
};

/* CRC-32 as zlib has it (polynomial 0xEDB88320), by half bytes. */
static uint32_t crc32_of(const uint8_t *at, size_t length) {
    static const uint32_t table[16] = {
        0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4,
        0x4DB26158, 0x5005713C, 0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C,
        0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C};
    uint32_t crc = ~0u;
    while (length--) {
        crc ^= *at++;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

static bool names(const struct footer *footer, const char *name, size_t length) {
    return memcmp(footer->magic, "arrayd\r\n", sizeof footer->magic) == 0 && footer->version >= 1 &&
           footer->crc == crc32_of((const uint8_t *)footer, offsetof(struct footer, crc)) &&
           footer->name_bytes == length && memcmp(footer->name, name, length) == 0;
}

/* Map an open segment whose footer names it. */
static void map(int fd, const char *name, size_t length, int protection, int flags,
                struct mapped *out) {
    struct stat info;
    struct footer footer;
    if (fstat(fd, &info) != 0 || info.st_size < FOOTER_BYTES)
        return;
    if (pread(fd, &footer, sizeof footer, info.st_size - FOOTER_BYTES) != (ssize_t)sizeof footer ||
        !names(&footer, name, length))
        return;
    void *address = mmap(NULL, (size_t)info.st_size, protection, flags, fd, 0);
    if (address == MAP_FAILED)
        return;
    madvise(address, (size_t)info.st_size, MADV_DONTDUMP);
    out->size = (uint64_t)info.st_size;
    out->inode = info.st_ino;
    out->address = address;
}

/* Map the segment of that name, in the mode 'r', 'c' or 'w' of a `SegmentMapping`. */
void arrayd_attach(const char *name, int32_t length, int32_t mode, struct mapped *out) {
    char path[sizeof SHM + LONGEST_NAME] = SHM;
    if (length > LONGEST_NAME || strlen(name) != (size_t)length || strchr(name, '/') != NULL)
        return;
    memcpy(path + sizeof SHM - 1, name, (size_t)length + 1);
    int access = mode == 'w' ? O_RDWR : O_RDONLY;
    int fd = open(path, access | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return;
    int protection = mode == 'r' ? PROT_READ : PROT_READ | PROT_WRITE;
    map(fd, name, (size_t)length, protection, mode == 'c' ? MAP_PRIVATE : MAP_SHARED, out);
    close(fd);
}

/* Unmap it. */
void arrayd_detach(struct mapped *it) {
    if (it->address != NULL)
        munmap(it->address, it->size);
    it->address = NULL;
}

/* Say whether a file has this device, inode, size, and times in nanoseconds, modulo 2^64. */
int32_t arrayd_unchanged(const char *path, const uint64_t *known) {
    const uint64_t second = 1000000000;
    struct stat now;
    return stat(path, &now) == 0 && now.st_dev == known[0] && now.st_ino == known[1] &&
           (uint64_t)now.st_size == known[2] &&
           (uint64_t)now.st_mtim.tv_sec * second + (uint64_t)now.st_mtim.tv_nsec == known[3] &&
           (uint64_t)now.st_ctim.tv_sec * second + (uint64_t)now.st_ctim.tv_nsec == known[4];
}
