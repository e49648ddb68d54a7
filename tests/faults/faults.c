/* Loaded before the C library: at the n-th call that changes a folder, the process is killed, the disk fails, or the
   clock jumps.

   A write is killed, or runs out of space, when half of it is done. Build: cc -shared -fPIC -o faults.so faults.c -ldl */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT, KILL, FULL, BROKEN, GONE, READ_ONLY, DENIED, CLOCK }; /* what happens at the n-th call */

#define TEN_YEARS (10L * 365 * 24 * 3600)

static char folder[PATH_MAX];
static size_t length;
static volatile long left, seen;
static int action, failing; /* errno of every later write, once it has happened */
static volatile long ahead;  /* seconds by which the clock is wrong */

void faults_arm(long n, int what, const char *where)
{
    snprintf(folder, sizeof folder, "%s", where);
    length = strlen(folder);
    left = n;
    action = what;
    seen = 0;
    failing = 0;
    ahead = 0;
}

long faults_seen(void) { return seen; }

static int within(const char *path) { return length && strncmp(path, folder, length) == 0; }

static int fd_within(int fd)
{
    char link[64], path[PATH_MAX];
    if (!length)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0)
        return 0;
    path[n] = 0;
    return within(path);
}

static int path_within(int dir, const char *path)
{
    char here[PATH_MAX];
    if (!length || !path)
        return 0;
    if (path[0] == '/')
        return within(path);
    if (dir != AT_FDCWD)
        return fd_within(dir);
    if (!getcwd(here, sizeof here) || strlen(here) + strlen(path) + 2 > sizeof here)
        return 0;
    strcat(strcat(here, "/"), path);
    return within(here);
}

/* Count a call; return 1 if it is the one, 2 if the disk has failed already. */
static int due(void)
{
    seen++;
    if (ahead)
        ahead = -ahead;
    if (failing)
        return 2;
    if (!left || seen != left)
        return 0;
    if (action == FULL)
        failing = ENOSPC;
    if (action == BROKEN)
        failing = EIO;
    if (action == READ_ONLY)
        failing = EROFS;
    if (action == DENIED)
        failing = EACCES;
    if (action == CLOCK)
        ahead = TEN_YEARS;
    if (action == GONE) {
        char away[PATH_MAX + 8];
        int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
        snprintf(away, sizeof away, "%s.gone", folder);
        real(folder, away);
    }
    return 1;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    pause();
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)

static int refused(int needs_room) { return failing && (needs_room || failing == EROFS || failing == EACCES); }

/* One call that is not a write: killed before it happens; a failing disk refuses it where it needs room, and a folder
   that may not be written to always. */
#define CHANGE(inside, needs_room) \
    if (inside) { \
        int now = due(); \
        if (now == 1 && action == KILL) die(); \
        if (now && refused(needs_room)) { errno = failing; return -1; } \
    }

#define WRITE(fd, half, whole) \
    if (fd_within(fd)) { \
        int now = due(); \
        if (now == 1 && action == KILL) { half; die(); } \
        if (now == 1 && failing == ENOSPC && size > 1) return half; \
        if (now && failing && failing != EACCES) { errno = failing; return -1; } \
    } \
    return whole

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(write);
    WRITE(fd, real(fd, data, size / 2), real(fd, data, size));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    REAL(pwrite64);
    WRITE(fd, real(fd, data, size / 2, at), real(fd, data, size, at));
}

ssize_t writev(int fd, const struct iovec *parts, int n)
{
    REAL(writev);
    size_t size = 0;
    for (int i = 0; i < n; i++)
        size += parts[i].iov_len;
    WRITE(fd, real(fd, parts, n / 2), real(fd, parts, n));
}

ssize_t sendfile64(int fd, int from, off64_t *at, size_t size)
{
    REAL(sendfile64);
    WRITE(fd, real(fd, from, at, size / 2), real(fd, from, at, size));
}

ssize_t sendfile(int fd, int from, off_t *at, size_t size)
{
    REAL(sendfile);
    WRITE(fd, real(fd, from, at, size / 2), real(fd, from, at, size));
}

ssize_t copy_file_range(int from, off64_t *at, int fd, off64_t *to, size_t size, unsigned flags)
{
    REAL(copy_file_range);
    WRITE(fd, real(from, at, fd, to, size / 2, flags), real(from, at, fd, to, size, flags));
}

int fsync(int fd)
{
    REAL(fsync);
    CHANGE(fd_within(fd), 1);
    return real(fd);
}

int rename(const char *a, const char *b)
{
    REAL(rename);
    CHANGE(path_within(AT_FDCWD, b), 1);
    return real(a, b);
}

int link(const char *a, const char *b)
{
    REAL(link);
    CHANGE(path_within(AT_FDCWD, b), 1);
    return real(a, b);
}

int unlink(const char *path)
{
    REAL(unlink);
    CHANGE(path_within(AT_FDCWD, path), 0);
    return real(path);
}

int unlinkat(int dir, const char *path, int flags)
{
    REAL(unlinkat);
    CHANGE(path_within(dir, path), 0);
    return real(dir, path, flags);
}

int rmdir(const char *path)
{
    REAL(rmdir);
    CHANGE(path_within(AT_FDCWD, path), 0);
    return real(path);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(mkdir);
    CHANGE(path_within(AT_FDCWD, path), 1);
    return real(path, mode);
}

int chmod(const char *path, mode_t mode)
{
    REAL(chmod);
    CHANGE(path_within(AT_FDCWD, path), 0);
    return real(path, mode);
}

int ftruncate64(int fd, off64_t size)
{
    REAL(ftruncate64);
    CHANGE(fd_within(fd), 0);
    return real(fd, size);
}

#define OPEN(name, dir, call) \
    REAL(name); \
    mode_t mode = 0; \
    if (flags & O_CREAT) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
        CHANGE(path_within(dir, path), 1); \
    } \
    return call

int open(const char *path, int flags, ...) { OPEN(open, AT_FDCWD, real(path, flags, mode)); }
int open64(const char *path, int flags, ...) { OPEN(open64, AT_FDCWD, real(path, flags, mode)); }
int openat(int dir, const char *path, int flags, ...) { OPEN(openat, dir, real(dir, path, flags, mode)); }
int openat64(int dir, const char *path, int flags, ...) { OPEN(openat64, dir, real(dir, path, flags, mode)); }

int clock_gettime(clockid_t clock, struct timespec *now)
{
    REAL(clock_gettime);
    int code = real(clock, now);
    if (code == 0 && clock == CLOCK_REALTIME)
        now->tv_sec += ahead;
    return code;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    REAL(gettimeofday);
    int code = real(now, zone);
    if (code == 0)
        now->tv_sec += ahead;
    return code;
}

time_t time(time_t *where)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where)
        *where = now.tv_sec;
    return now.tv_sec;
}
