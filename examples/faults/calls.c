// I/O that fails, for tests: call number $FAULT_AT (from 1) of those below $FAULT_FOLDER to which it can happen, and with
// $FAULT_EVER every later one too. $FAULT_KIND says what becomes of it: the number of an error; "short": half of what was
// asked for is read or written; "exit": the process dies before the call; "torn": it dies with half of it written.
// $FAULT_LOG gets the name of the call, and at the end the number of calls. An interrupted call succeeds when it is tried again.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ASK = 1, OPEN = 2, MAKE = 4, READ = 8, WRITE = 16, SYNC = 32, REMOVE = 64, LOCK = 128 };
enum { SHORT = -1, EXIT = -2, TORN = -3 };

static const char *folder, *note;
static size_t folder_len;
static long at;
static int kind, ever, mask;
static atomic_long calls;

static void say(const char *what, long number) {
    char line[96];
    int fd = open(note, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    int len = snprintf(line, sizeof line, "%s %ld\n", what, number);
    if (fd >= 0 && write(fd, line, len) == len) close(fd);
}

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("FAULT_KIND");
    folder = getenv("FAULT_FOLDER");
    note = getenv("FAULT_LOG");
    if (!folder || !note || !text) {
        folder = NULL;
        return;
    }
    folder_len = strlen(folder);
    at = getenv("FAULT_AT") ? atol(getenv("FAULT_AT")) : 0;
    ever = getenv("FAULT_EVER") != NULL;
    kind = !strcmp(text, "short") ? SHORT : !strcmp(text, "exit") ? EXIT : !strcmp(text, "torn") ? TORN : atoi(text);
    mask = kind == SHORT                        ? READ | WRITE
           : kind == TORN                       ? WRITE
           : kind == EMFILE                     ? OPEN | MAKE
           : kind == ENOSPC || kind == EDQUOT   ? MAKE | WRITE | SYNC
           : kind == EINTR                      ? OPEN | MAKE | READ | WRITE | SYNC | LOCK
                                                : ~0;
}

__attribute__((destructor)) static void end(void) {
    if (folder) say("calls", calls);
}

// What becomes of this call: 0, or the kind of fault.
static int fate(int class, const char *name, const char *path) {
    if (!folder || !(class & mask) || !path || strncmp(path, folder, folder_len) != 0) return 0;
    long number = ++calls;
    if (!at || number < at || (number > at && !ever)) return 0;
    if (kind == EINTR && (number - at) % 2) return 0;
    if (number == at) say(name, number);
    if (kind == EXIT) _exit(9);
    if (kind > 0) errno = kind;
    return kind;
}

static int fate_of(int class, const char *name, int fd) {
    char link[64], path[PATH_MAX];
    if (!folder) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fate(class, name, path);
}

#define REAL(type, name, ...)                                                                                          \
    static type (*real)(__VA_ARGS__);                                                                                  \
    if (!real) real = dlsym(RTLD_NEXT, #name);

#define SIMPLE(type, name, params, args, fails, bad)                                                                   \
    type name params {                                                                                                 \
        static type(*real) params;                                                                                     \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                                                     \
        return (fails) ? bad : real args;                                                                              \
    }

#define TRANSFER(name, class, params, all, half)                                                                       \
    ssize_t name params {                                                                                              \
        static ssize_t(*real) params;                                                                                  \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                                                     \
        int fault = fate_of(class, #name, fd);                                                                         \
        if (fault == TORN) {                                                                                           \
            real half;                                                                                                 \
            _exit(9);                                                                                                  \
        }                                                                                                              \
        return fault > 0 ? -1 : fault == SHORT ? real half : real all;                                                 \
    }

TRANSFER(read, READ, (int fd, void *to, size_t n), (fd, to, n), (fd, to, (n + 1) / 2))
TRANSFER(pread64, READ, (int fd, void *to, size_t n, off64_t o), (fd, to, n, o), (fd, to, (n + 1) / 2, o))
TRANSFER(write, WRITE, (int fd, const void *from, size_t n), (fd, from, n), (fd, from, (n + 1) / 2))
TRANSFER(pwrite64, WRITE, (int fd, const void *from, size_t n, off64_t o), (fd, from, n, o), (fd, from, (n + 1) / 2, o))

SIMPLE(int, fsync, (int fd), (fd), fate_of(SYNC, "fsync", fd), -1)
SIMPLE(int, fdatasync, (int fd), (fd), fate_of(SYNC, "fdatasync", fd), -1)
SIMPLE(int, sync_file_range, (int fd, off64_t o, off64_t n, unsigned how), (fd, o, n, how),
       fate_of(SYNC, "sync_file_range", fd), -1)
SIMPLE(int, ftruncate64, (int fd, off64_t n), (fd, n), fate_of(MAKE, "ftruncate", fd), -1)
SIMPLE(off64_t, lseek64, (int fd, off64_t o, int from), (fd, o, from), fate_of(ASK, "lseek", fd), -1)
SIMPLE(int, flock, (int fd, int how), (fd, how), fate_of(LOCK, "flock", fd), -1)
SIMPLE(int, mkdir, (const char *path, mode_t mode), (path, mode), fate(MAKE, "mkdir", path), -1)
SIMPLE(int, unlink, (const char *path), (path), fate(REMOVE, "unlink", path), -1)
SIMPLE(int, rename, (const char *from, const char *to), (from, to), fate(MAKE, "rename", from), -1)
SIMPLE(DIR *, opendir, (const char *path), (path), fate(OPEN, "opendir", path), NULL)

int statx(int dir, const char *restrict path, int flags, unsigned what, struct statx *restrict about) {
    REAL(int, statx, int, const char *, int, unsigned, struct statx *)
    // It may be null, whatever the header says.
    const char *volatile name = path;
    int fault = name && *name ? fate(ASK, "stat", name) : fate_of(ASK, "stat", dir);
    return fault ? -1 : real(dir, path, flags, what, about);
}

int open64(const char *path, int flags, ...) {
    REAL(int, open64, const char *, int, ...)
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    return fate(flags & O_CREAT ? MAKE : OPEN, "open", path) ? -1 : real(path, flags, mode);
}
