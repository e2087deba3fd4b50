// Lets every write to a file fail from a given one on, as on a full disk. FAIL_FROM is the number of the first call that fails,
// from 1. Calls on anything but regular files work, and so does everything else. With COUNT_TO, the number of calls is written
// to that file when the program ends.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long calls;
static long fail_from;

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("FAIL_FROM");
    fail_from = text == NULL ? 0 : atol(text);
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("COUNT_TO");
    if (path != NULL) {
        FILE *file = fopen(path, "w");
        fail_from = 0;
        fprintf(file, "%ld", (long)calls);
        fclose(file);
    }
}

// Whether this call fails.
static int fails(int descriptor) {
    struct stat of;
    if (fstat(descriptor, &of) != 0 || !S_ISREG(of.st_mode)) {
        return 0;
    }
    long number = ++calls;
    if (fail_from == 0 || number < fail_from) {
        return 0;
    }
    errno = ENOSPC;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int descriptor, const void *bytes, size_t count) {
    return fails(descriptor) ? -1 : REAL(write)(descriptor, bytes, count);
}
ssize_t pwrite64(int descriptor, const void *bytes, size_t count, off64_t at) {
    return fails(descriptor) ? -1 : REAL(pwrite64)(descriptor, bytes, count, at);
}
ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    return fails(descriptor) ? -1 : REAL(writev)(descriptor, parts, count);
}
int fsync(int descriptor) { return fails(descriptor) ? -1 : REAL(fsync)(descriptor); }
int fdatasync(int descriptor) { return fails(descriptor) ? -1 : REAL(fdatasync)(descriptor); }
int ftruncate64(int descriptor, off64_t length) { return fails(descriptor) ? -1 : REAL(ftruncate64)(descriptor, length); }
