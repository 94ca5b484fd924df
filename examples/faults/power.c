// A power cut, for tests: everything below $POWER_LIVE is shadowed in $POWER_KEPT, which holds what a disk that lost
// its power would hold: of each file what it was at its last fsync or fdatasync, of each directory the names it had
// at its last fsync. A file that was synced before its directory was has the ending `.unnamed` there: its name may be lost.
// Renames and removals are kept at once, as a journaling file system orders them.
// sync_file_range counts for nothing: it writes neither the file's size nor the disk's cache. After a power cut the machine
// boots anew: the id of its boot is what the file $POWER_BOOT says.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *live, *kept;
static size_t live_len;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    live = getenv("POWER_LIVE");
    kept = getenv("POWER_KEPT");
    live_len = live ? strlen(live) : 0;
}

static int shadow(const char *path, char *out) {
    if (!live || !kept || strncmp(path, live, live_len) != 0) return 0;
    return snprintf(out, PATH_MAX, "%s%s", kept, path + live_len) < PATH_MAX;
}

static void make_parents(const char *path) {
    char part[PATH_MAX];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = part + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(part, 0755);
        *slash = '/';
    }
}

static const char *unnamed(const char *path, char *out) {
    snprintf(out, PATH_MAX + 16, "%s.unnamed", path);
    return out;
}

static void keep_file(const char *from, const char *to) {
    static char buffer[1 << 16];
    char fresh[PATH_MAX + 32], other[PATH_MAX + 16];
    make_parents(to);
    if (access(to, F_OK) != 0) to = unnamed(to, other);
    snprintf(fresh, sizeof fresh, "%s.fresh", to);
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    ssize_t got = 0;
    while (in >= 0 && out >= 0 && (got = read(in, buffer, sizeof buffer)) > 0)
        if (write(out, buffer, got) != got) _exit(99);
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    rename(fresh, to);
}

static void keep_names(const char *from, const char *to) {
    char path[PATH_MAX], twin[PATH_MAX], other[PATH_MAX + 16];
    struct dirent *entry;
    make_parents(to);
    mkdir(to, 0755);
    DIR *folder = opendir(from);
    while (folder && (entry = readdir(folder))) {
        if (entry->d_name[0] == '.') continue;
        snprintf(twin, sizeof twin, "%s/%s", to, entry->d_name);
        if (access(twin, F_OK) == 0) continue;
        if (access(unnamed(twin, other), F_OK) == 0) rename(other, twin);
        else if (entry->d_type == DT_DIR) mkdir(twin, 0755);
        else close(open(twin, O_WRONLY | O_CREAT, 0644));
    }
    if (folder) closedir(folder);
    folder = opendir(to);
    while (folder && (entry = readdir(folder))) {
        if (entry->d_name[0] == '.' || entry->d_type == DT_DIR) continue;
        snprintf(path, sizeof path, "%s/%s", from, entry->d_name);
        snprintf(twin, sizeof twin, "%s/%s", to, entry->d_name);
        if (access(path, F_OK) != 0) unlink(twin);
    }
    if (folder) closedir(folder);
}

static void keep(int fd) {
    char link[64], path[PATH_MAX], twin[PATH_MAX];
    struct stat about;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    if (!shadow(path, twin) || fstat(fd, &about) != 0) return;
    pthread_mutex_lock(&lock);
    if (S_ISDIR(about.st_mode)) keep_names(path, twin);
    else keep_file(path, twin);
    pthread_mutex_unlock(&lock);
}

int fsync(int fd) {
    keep(fd);
    return 0;
}

int fdatasync(int fd) {
    keep(fd);
    return 0;
}

int rename(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    char kept_from[PATH_MAX], kept_to[PATH_MAX], other[PATH_MAX + 16];
    if (!real) real = dlsym(RTLD_NEXT, "rename");
    int result = real(from, to);
    if (result == 0 && shadow(from, kept_from) && shadow(to, kept_to) && real(kept_from, kept_to) != 0)
        real(unnamed(kept_from, other), kept_to);
    return result;
}

int unlink(const char *path) {
    static int (*real)(const char *);
    char twin[PATH_MAX], other[PATH_MAX + 16];
    if (!real) real = dlsym(RTLD_NEXT, "unlink");
    int result = real(path);
    if (result == 0 && shadow(path, twin)) {
        real(twin);
        real(unnamed(twin, other));
    }
    return result;
}

int open64(const char *path, int flags, ...) {
    static int (*real)(const char *, int, ...);
    const char *boot = getenv("POWER_BOOT");
    if (!real) real = dlsym(RTLD_NEXT, "open64");
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    return real(boot && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0 ? boot : path, flags, mode);
}
