/* The yardstick of reading at random: threads that pread rows into a ring, and nothing else.

   bare PATH ROWS SIZE SLOTS THREADS DIRECT
   ROWS: a file of pairs of int64, the offset of a row and its position, in the order of reading.
   Prints seconds, and seconds of CPU. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int fd, direct;
static long n, next_, size, slots;
static long long *rows;
static char *ring;

static void *work(void *unused) {
    char *bounce = NULL;
    if (direct && posix_memalign((void **)&bounce, 4096, size + 8192)) abort();
    for (;;) {
        long i = __sync_fetch_and_add(&next_, 1);
        if (i >= n) return unused;
        long long at = rows[2 * i];
        char *out = ring + rows[2 * i + 1] % slots * size;
        if (!direct) {
            if (pread(fd, out, size, at) != size) abort();
            continue;
        }
        long long low = at & ~511LL, high = (at + size + 511) & ~511LL;
        if (pread(fd, bounce, high - low, low) < at + size - low) abort();
        memcpy(out, bounce + (at - low), size);
    }
}

static double cpu(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

int main(int count, char **args) {
    if (count != 7) return 2;
    size = atol(args[3]), slots = atol(args[4]), direct = atoi(args[6]);
    int threads = atoi(args[5]);
    struct stat info;
    FILE *file = fopen(args[2], "rb");
    if (!file || fstat(fileno(file), &info)) return 2;
    n = info.st_size / 16;
    rows = malloc(info.st_size), ring = malloc(slots * size);
    memset(ring, 1, slots * size);
    if (fread(rows, 16, n, file) != (size_t)n) return 2;
    fd = open(args[1], O_RDONLY | (direct ? O_DIRECT : 0));
    if (fd < 0) return 3;
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    struct timespec a, b;
    double used = cpu();
    pthread_t thread[256];
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < threads; i++)
        if (pthread_create(thread + i, 0, work, 0)) abort();
    for (int i = 0; i < threads; i++) pthread_join(thread[i], 0);
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%f %f\n", b.tv_sec - a.tv_sec + (b.tv_nsec - a.tv_nsec) / 1e9, cpu() - used);
    return 0;
}
