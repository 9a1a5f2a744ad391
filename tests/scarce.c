// Makes one of the large allocations of worker threads fail, or counts them.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

static size_t least;
static long at = -1, count;

void scarce(size_t size, long n) { least = size, at = n, count = 0; }
long scarce_counted(void) { return count; }

static int hit(size_t size) {
  char name[16];
  if (!least || size < least || pthread_getname_np(pthread_self(), name, sizeof name)) return 0;
  if (strncmp(name, "submerge-", 9)) return 0;
  return __atomic_fetch_add(&count, 1, __ATOMIC_SEQ_CST) == at ? errno = ENOMEM, 1 : 0;
}

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *malloc(size_t size) { return hit(size) ? NULL : __libc_malloc(size); }
void *calloc(size_t n, size_t size) { return hit(n * size) ? NULL : __libc_calloc(n, size); }
void *realloc(void *old, size_t size) { return hit(size) ? NULL : __libc_realloc(old, size); }
