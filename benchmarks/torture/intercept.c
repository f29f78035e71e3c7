/* Counts what a process does to regular files and folders, and at the n-th such call kills it or lets the call fail.
 *
 *     cc -shared -fPIC -O1 -o intercept.so intercept.c -ldl        LD_PRELOAD=./intercept.so python ...
 *
 * Nothing is counted before torture_arm(); torture_count() says how far it has come. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { KILL_BEFORE = 1, KILL_HALFWAY, KILL_AFTER, FAIL_ONCE, FAIL_FROM_HERE, SHORT_WRITE };

static int mode, fault;
static long nth, count;

void torture_arm(long at, int how, int error) { count = 0, nth = at, fault = error, mode = how; }
long torture_count(void) { return count; }

/* What is to happen at this call: 0 nothing, else the mode. */
static int due(void) {
    if (!mode) return 0;
    count++;
    if (count == nth || (mode == FAIL_FROM_HERE && count > nth)) {
        if (mode == KILL_BEFORE) kill(getpid(), SIGKILL);
        return mode;
    }
    return 0;
}

static int is_file(int fd) {
    struct stat found;
    return mode && fd > 2 && !fstat(fd, &found) && S_ISREG(found.st_mode);
}

#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define FAILS(what) ((what) == FAIL_ONCE || (what) == FAIL_FROM_HERE)

/* Calls that do one thing, or do not. */
#define WHOLE(name, parameters, arguments, counted) \
    int name parameters { \
        NEXT(name); \
        int what = (counted) ? due() : 0; \
        if (FAILS(what)) { errno = fault; return -1; } \
        int result = next arguments; \
        if (what == KILL_AFTER || what == KILL_HALFWAY) kill(getpid(), SIGKILL); \
        return result; \
    }

WHOLE(rename, (const char *from, const char *to), (from, to), 1)
WHOLE(unlink, (const char *path), (path), 1)
WHOLE(rmdir, (const char *path), (path), 1)
WHOLE(mkdir, (const char *path, mode_t bits), (path, bits), 1)
WHOLE(fsync, (int fd), (fd), 1)
WHOLE(ftruncate64, (int fd, off64_t size), (fd, size), is_file(fd))
WHOLE(truncate64, (const char *path, off64_t size), (path, size), 1)

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        NEXT(name); \
        va_list rest; \
        va_start(rest, flags); \
        int bits = (flags & O_CREAT) ? va_arg(rest, int) : 0; \
        va_end(rest); \
        int what = (flags & (O_CREAT | O_WRONLY | O_RDWR)) ? due() : 0; \
        if (FAILS(what)) { errno = fault; return -1; } \
        int result = next(path, flags, bits); \
        if (what == KILL_AFTER || what == KILL_HALFWAY) kill(getpid(), SIGKILL); \
        return result; \
    }

OPENS(open)
OPENS(open64)

/* Calls that can do a part. */
#define WRITES(name, parameters, counted, whole, half) \
    ssize_t name parameters { \
        NEXT(name); \
        int what = (counted) ? due() : 0; \
        if (FAILS(what)) { errno = fault; return -1; } \
        ssize_t result = (what == SHORT_WRITE || what == KILL_HALFWAY) && size > 1 ? half : whole; \
        if (what == KILL_AFTER || what == KILL_HALFWAY) kill(getpid(), SIGKILL); \
        return result; \
    }

WRITES(write, (int fd, const void *data, size_t size), is_file(fd), next(fd, data, size), next(fd, data, size / 2))
WRITES(pwrite64, (int fd, const void *data, size_t size, off64_t at), is_file(fd), next(fd, data, size, at),
       next(fd, data, size / 2, at))
