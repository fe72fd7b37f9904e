/* A server that does not use the package: obeys one line of its input after another, answers each with a line.

   thread               a thread that waits; its id
   chain N              a thread that starts the next and ends, N times, one each millisecond; the last waits
   storm                threads that start threads without end, each of which ends soon
   resist               the same, and each takes back the CPUs that the program had at its start
   touch BYTES          new private memory, written by the main thread
   touch-in-thread BYTES  the same, written by a new thread that goes on to wait
   share PATH           maps a file shared and writes to it
   policy MODE NODE     of the main thread: 1 preferred, 2 bind
   pin CPU              the newest thread pins itself
   pin-pages            the newest memory, as a fixed buffer of io_uring
   undumpable           prctl(2)
   pages                its private pages by node, "node:pages ..."
   stall SECONDS BYTES  the longest mmap, write and munmap of BYTES within that time, in microseconds
   user ID              setresgid(2), setresuid(2) */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define KEPT 64
static char *kept[KEPT];
static size_t sizes[KEPT];
static int count;
static volatile int newest;

static void *wait_for_ever(void *size) {
    if (size) {
        size_t bytes = (size_t)size;
        char *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(block, 1, bytes);
        kept[count] = block, sizes[count++] = bytes;
    }
    newest = gettid();
    for (;;) pause();
    return NULL;
}

static void start(void *(*what)(void *), void *with) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_create(&thread, &attributes, what, with);
}

static void *link_of_chain(void *left) {
    usleep(1000);
    if (!left) return wait_for_ever(NULL);
    start(link_of_chain, (void *)((long)left - 1));
    return NULL;
}

static cpu_set_t cpus_at_start;

static void *end_soon(void *resists) {
    if (resists) sched_setaffinity(0, sizeof cpus_at_start, &cpus_at_start);
    usleep(20000);
    return NULL;
}

static void *storm(void *resists) {
    for (;; usleep(100))
        for (int i = 0; i < 20; i++) start(end_soon, resists);
    return NULL;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double longest_call(double seconds, size_t size) {
    double worst = 0;
    for (double end = now() + seconds; now() < end; usleep(200)) {
        double began = now();
        char *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        block[0] = 1;
        munmap(block, size);
        double spent = now() - began;
        if (spent > worst) worst = spent;
    }
    return worst * 1e6;
}

static long pin_pages(void) {
    struct io_uring_params parameters = {0};
    struct iovec newest_block = {kept[count - 1], sizes[count - 1]};
    long ring = syscall(SYS_io_uring_setup, 1, &parameters);
    return ring < 0 ? ring : syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &newest_block, 1);
}

static void print_pages(void) {
    long by_node[64] = {0}, size = sysconf(_SC_PAGESIZE);
    for (int i = 0; i < count; i++)
        for (size_t offset = 0; offset < sizes[i]; offset += size) {
            void *page = kept[i] + offset;
            int node = -1;
            *(volatile char *)page;
            syscall(SYS_move_pages, 0, 1L, &page, NULL, &node, 0);
            if (node >= 0 && node < 64) by_node[node]++;
        }
    for (int node = 0; node < 64; node++)
        if (by_node[node]) printf("%d:%ld ", node, by_node[node]);
    printf("\n");
}

int main(void) {
    char line[512], text[400];
    unsigned long value, node;
    double seconds;
    sched_getaffinity(0, sizeof cpus_at_start, &cpus_at_start);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("%d\n", getpid());
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "thread", 6)) {
            newest = 0;
            start(wait_for_ever, NULL);
            while (!newest) usleep(100);
            printf("%d\n", newest);
        } else if (sscanf(line, "chain %lu", &value) == 1) {
            start(link_of_chain, (void *)value);
            puts("");
        } else if (!strncmp(line, "storm", 5) || !strncmp(line, "resist", 6)) {
            start(storm, *line == 'r' ? line : NULL);
            puts("");
        } else if (sscanf(line, "touch-in-thread %lu", &value) == 1) {
            newest = 0;
            start(wait_for_ever, (void *)value);
            while (!newest) usleep(100);
            printf("%d\n", newest);
        } else if (sscanf(line, "touch %lu", &value) == 1) {
            char *block = mmap(NULL, value, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            madvise(block, value, MADV_NOHUGEPAGE);
            memset(block, 1, value);
            kept[count] = block, sizes[count++] = value;
            puts("");
        } else if (sscanf(line, "share %399s", text) == 1) {
            int file = open(text, O_RDWR);
            off_t end = lseek(file, 0, SEEK_END);
            char *block = mmap(NULL, end, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
            memset(block, 2, end);
            puts("");
        } else if (sscanf(line, "policy %lu %lu", &value, &node) == 2) {
            unsigned long mask = 1UL << node;
            printf("%ld\n", syscall(SYS_set_mempolicy, (int)value, &mask, 64UL));
        } else if (!strncmp(line, "pin-pages", 9)) {
            printf("%ld\n", pin_pages());
        } else if (sscanf(line, "pin %lu", &value) == 1) {
            cpu_set_t cpus;
            CPU_ZERO(&cpus);
            CPU_SET(value, &cpus);
            printf("%d\n", sched_setaffinity(newest, sizeof cpus, &cpus));
        } else if (!strncmp(line, "undumpable", 10)) {
            printf("%d\n", prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
        } else if (!strncmp(line, "pages", 5)) {
            print_pages();
        } else if (sscanf(line, "stall %lf %lu", &seconds, &value) == 2) {
            printf("%.0f\n", longest_call(seconds, value));
        } else if (sscanf(line, "user %lu", &value) == 1) {
            printf("%d\n", setresgid(value, value, value) | setresuid(value, value, value) | prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
        } else
            printf("unknown order: %s", line);
    }
    return 0;
}
