/* Bytes of blocks of at least a page that are alive in this process, by kind, and the most there were.
   Loaded before libc with LD_PRELOAD; torch's CPU tensors come from posix_memalign. A block's kind is
   what its thread allocated then, and is kept behind what was asked for. What gloo's own threads
   allocate, copies of what they send and receive, is counted apart. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>

#define KINDS 4
#define GLOO (KINDS - 1)
#define PAGE 4096
#define MARK 0x616c697665000000u

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static _Atomic long alive, peak, of_kind[KINDS], at_peak[KINDS];
static _Thread_local int kind __attribute__((tls_model("initial-exec"))) = -1;

static char *tail(void *block, long size) { return (char *)block + size - sizeof(uint64_t); }

static int kind_now(void) {
    if (kind >= 0) return kind;
    char name[16] = "";
    prctl(PR_GET_NAME, name);
    return kind = strncmp(name, "pt_gloo", 7) ? 0 : GLOO;
}

static void *came(void *block) {
    long size = block ? (long)malloc_usable_size(block) : 0;
    if (size < PAGE) return block;
    int mine = kind_now();
    uint64_t mark = MARK + (uint64_t)mine;
    memcpy(tail(block, size), &mark, sizeof mark);
    atomic_fetch_add(&of_kind[mine], size);
    if (mine == GLOO) return block;
    long now = atomic_fetch_add(&alive, size) + size, most = atomic_load(&peak);
    while (now > most && !atomic_compare_exchange_weak(&peak, &most, now)) {}
    for (int k = 0; now > most && k < KINDS; k++) atomic_store(&at_peak[k], atomic_load(&of_kind[k]));
    return block;
}

static void *gone(void *block) {
    long size = block ? (long)malloc_usable_size(block) : 0;
    if (size < PAGE) return block;
    uint64_t mark;
    memcpy(&mark, tail(block, size), sizeof mark);
    uint64_t its = mark - MARK < KINDS ? mark - MARK : 0;
    atomic_fetch_sub(&of_kind[its], size);
    if (its != GLOO) atomic_fetch_sub(&alive, size);
    return block;
}

static size_t more(size_t size) { return size + sizeof(uint64_t); }

void *malloc(size_t size) { return came(__libc_malloc(more(size))); }
void *realloc(void *block, size_t size) { return came(__libc_realloc(gone(block), more(size))); }
void *memalign(size_t bound, size_t size) { return came(__libc_memalign(bound, more(size))); }
void *aligned_alloc(size_t bound, size_t size) { return came(__libc_memalign(bound, more(size))); }
void free(void *block) { __libc_free(gone(block)); }

void *calloc(size_t count, size_t size) {
    size_t all;
    if (__builtin_mul_overflow(count, size, &all)) return errno = ENOMEM, NULL;
    return came(__libc_calloc(1, more(all)));
}

int posix_memalign(void **block, size_t bound, size_t size) {
    *block = came(__libc_memalign(bound, more(size)));
    return *block ? 0 : ENOMEM;
}

int allocate(int next) {
    int before = kind_now();
    kind = next;
    return before;
}
long alive_bytes(void) { return atomic_load(&alive); }
long peak_bytes(void) { return atomic_load(&peak); }
long bytes_at_peak(int of) { return atomic_load(&at_peak[of]); }
void forget_peak(void) {
    atomic_store(&peak, atomic_load(&alive));
    for (int k = 0; k < KINDS; k++) atomic_store(&at_peak[k], atomic_load(&of_kind[k]));
}
