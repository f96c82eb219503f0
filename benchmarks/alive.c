/* Bytes of blocks of at least a page that are alive in this process, and the most there were.
   Loaded before libc with LD_PRELOAD; torch's CPU tensors come from posix_memalign. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static _Atomic long alive, peak;

static void *came(void *block) {
    long size = block ? (long)malloc_usable_size(block) : 0;
    if (size < 4096) return block;
    long now = atomic_fetch_add(&alive, size) + size, most = atomic_load(&peak);
    while (now > most && !atomic_compare_exchange_weak(&peak, &most, now)) {}
    return block;
}

static void *gone(void *block) {
    long size = block ? (long)malloc_usable_size(block) : 0;
    if (size >= 4096) atomic_fetch_sub(&alive, size);
    return block;
}

void *malloc(size_t size) { return came(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return came(__libc_calloc(count, size)); }
void *realloc(void *block, size_t size) { return came(__libc_realloc(gone(block), size)); }
void *memalign(size_t bound, size_t size) { return came(__libc_memalign(bound, size)); }
void *aligned_alloc(size_t bound, size_t size) { return came(__libc_memalign(bound, size)); }
void free(void *block) { __libc_free(gone(block)); }

int posix_memalign(void **block, size_t bound, size_t size) {
    *block = came(__libc_memalign(bound, size));
    return *block || !size ? 0 : ENOMEM;
}

long alive_bytes(void) { return atomic_load(&alive); }
long peak_bytes(void) { return atomic_load(&peak); }
void forget_peak(void) { atomic_store(&peak, atomic_load(&alive)); }
