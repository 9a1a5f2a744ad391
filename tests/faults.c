// Counts what a process does to files below a folder, and makes one operation fail, or the process
// die or stop before it. Calls that old systems and network filesystems lack can be taken away.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char under[4096], only[32];
static long at = -1, count;
static int action, plain;

// `act`: an errno, or a signal below zero. `old`: no files without a name, no renames with flags.
void faults(const char *folder, const char *name, long n, int act, int old) {
  snprintf(under, sizeof under, "%s", folder);
  snprintf(only, sizeof only, "%s", name);
  at = n, count = 0, action = act, plain = old;
}
long faults_counted(void) { return count; }

long syscall(long number, ...) {
  static long (*real)(long, ...);
  if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
  va_list list;
  va_start(list, number);
  long a[6];
  for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
  va_end(list);
  if (number == SYS_renameat2) {
    const char *to = (const char *)a[3];
    if (plain && a[4] && *under && strncmp(to, under, strlen(under)) == 0) return errno = EINVAL, -1;
    extern int faults_hit(const char *, const char *);
    if (faults_hit("rename", to)) return -1;
  }
  return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int faults_hit(const char *name, const char *path) {
  if (!*under || strncmp(path, under, strlen(under)) || (*only && strcmp(only, name))) return 0;
  if (count++ != at) return 0;
  if (action >= 0) return errno = action, 1;
  syscall(SYS_kill, syscall(SYS_getpid), -action);
  return 0;
}

static int hit_fd(const char *name, int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  return n > 0 && (path[n] = 0, faults_hit(name, path));
}

static int open_at(int folder, const char *path, int flags, mode_t mode) {
  int unnamed = (flags & O_TMPFILE) == O_TMPFILE, under_it = strncmp(path, under, strlen(under)) == 0;
  if (plain && unnamed && *under && under_it) return errno = EOPNOTSUPP, -1;
  if (folder == AT_FDCWD ? faults_hit("open", path) : hit_fd("open", folder)) return -1;
  return syscall(SYS_openat, folder, path, flags, mode);
}
#define MODE va_list l; va_start(l, flags); mode_t mode = va_arg(l, mode_t); va_end(l)
int open(const char *path, int flags, ...) { MODE; return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE; return open_at(AT_FDCWD, path, flags, mode); }
int openat(int d, const char *path, int flags, ...) { MODE; return open_at(d, path, flags, mode); }
int openat64(int d, const char *path, int flags, ...) { MODE; return open_at(d, path, flags, mode); }

int rename(const char *from, const char *to) {
  return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
int linkat(int d, const char *from, int e, const char *to, int flags) {
  return faults_hit("link", to) ? -1 : syscall(SYS_linkat, d, from, e, to, flags);
}
int mkdir(const char *path, mode_t mode) {
  return faults_hit("mkdir", path) ? -1 : syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}
int unlinkat(int d, const char *path, int flags) {
  int hit = d == AT_FDCWD ? faults_hit("unlink", path) : hit_fd("unlink", d);
  return hit ? -1 : syscall(SYS_unlinkat, d, path, flags);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int fsync(int fd) { return hit_fd("fsync", fd) ? -1 : syscall(SYS_fsync, fd); }
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t offset) {
  return hit_fd("write", fd) ? -1 : syscall(SYS_pwrite64, fd, bytes, n, offset);
}
