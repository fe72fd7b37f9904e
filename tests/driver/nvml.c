/* A driver library for the real pynvml to load: the machine it shows is a text file.
 *
 * FAKE_NVML names the file. One fact a line; GPUs are numbered in the order of their lines, from 0:
 *
 *     gpu PCI UUID DEVICE_ID NAME     gpu 00000000:1b:00.0 GPU-8f2c… 0x2330 NVIDIA H100
 *     memory GPU LIST                 nodes of its memory affinity: memory 0 0,2-9
 *     cpu GPU LIST                    CPUs of its node;  socket GPU LIST: of its socket
 *     node GPU NUMBER                 its own memory's node
 *     mig GPU UUID                    one of its MIG devices
 *     compute GPU PID                 a process in its compute list;  graphics GPU PID: in its graphics list
 *     compute-mig0 GPU PID            the same of its first MIG device (mig1: its second one)
 *     late GPU PID                    a compute process that starts between the first two calls for the list
 *     wide 0 1                        version 3 of the lists has the records of drivers 530 and 535
 *     error FUNCTION GPU CODE         the function fails with that NVML code for that GPU; -1: for all, and without one
 *
 * FAKE_NVML_LOG, where set, gets the name of every function called, one a line. What no line tells is not supported.
 * Built with -DOLD, functions newer than driver 460 are missing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND = 6, TOO_SMALL = 7, GPUS = 32, LINES = 512, WIDTH = 512 };

static char lines[LINES][WIDTH];
static int line_count, gpu_count, initialised, gpu_line[GPUS];

static void load(void)
{
    FILE *file = fopen(getenv("FAKE_NVML") ? getenv("FAKE_NVML") : "", "r");
    line_count = gpu_count = 0;
    while (file && line_count < LINES && fgets(lines[line_count], WIDTH, file)) {
        lines[line_count][strcspn(lines[line_count], "\n")] = 0;
        if (!strncmp(lines[line_count], "gpu ", 4) && gpu_count < GPUS)
            gpu_line[gpu_count++] = line_count;
        line_count++;
    }
    if (file)
        fclose(file);
}

/* The text behind "WORD GPU " on the nth such line, or NULL. */
static const char *fact(const char *word, long gpu, int nth)
{
    char start[64];
    int length = snprintf(start, sizeof start, "%s %ld ", word, gpu);
    for (int i = 0; i < line_count; i++)
        if (!strncmp(lines[i], start, length) && nth-- == 0)
            return lines[i] + length;
    return NULL;
}

/* The error that the file wants of this function for this GPU; logs the call. */
static int enter(const char *function, long gpu)
{
    const char *log = getenv("FAKE_NVML_LOG");
    FILE *file = log ? fopen(log, "a") : NULL;
    if (file && fprintf(file, "%s\n", function))
        fclose(file);
    for (int i = 0; i < line_count; i++) {
        char name[64];
        long which;
        int code;
        if (sscanf(lines[i], "error %63s %ld %d", name, &which, &code) == 3 && !strcmp(name, function)
            && (which == gpu || which == -1))
            return code;
    }
    return initialised || !strcmp(function, "nvmlInitWithFlags") ? OK : UNINITIALIZED;
}

#define ENTER(gpu) do { int refused = enter(__func__, gpu); if (refused) return refused; } while (0)

/* A handle is the GPU's number plus one; a MIG device's has the GPU's number below 1000. */
static long gpu_of(void *handle) { return ((long)handle - 1) % 1000; }
static long mig_of(void *handle) { return ((long)handle - 1) / 1000 - 1; }

static int put(char *to, unsigned size, const char *text)
{
    return (unsigned)snprintf(to, size, "%s", text) < size ? OK : TOO_SMALL;
}

/* A list such as 0,2-9 as bits; TOO_SMALL where one does not fit. */
static int bits(const char *list, unsigned words, unsigned long long *to)
{
    if (!list)
        return NOT_SUPPORTED;
    memset(to, 0, words * sizeof *to);
    while (*list) {
        char *end;
        unsigned long first = strtoul(list, &end, 10), last = first;
        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        if (last / 64 >= words)
            return TOO_SMALL;
        for (; first <= last; first++)
            to[first / 64] |= 1ULL << first % 64;
        list = *end ? end + 1 : end;
    }
    return OK;
}

int nvmlInitWithFlags(unsigned flags)
{
    load();
    (void)flags;
    ENTER(-1);
    initialised++;
    return OK;
}

int nvmlShutdown(void) { ENTER(-1); initialised--; return OK; }

const char *nvmlErrorString(int code)
{
    static char text[32];
    snprintf(text, sizeof text, "NVML error %d", code);
    return text;
}

int nvmlDeviceGetCount_v2(unsigned *count) { ENTER(-1); *count = gpu_count; return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle)
{
    ENTER(index);
    *handle = (void *)(long)(index + 1);
    return (int)index < gpu_count ? OK : INVALID_ARGUMENT;
}

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };

int nvmlDeviceGetPciInfo_v3(void *handle, struct pci *info)
{
    ENTER(gpu_of(handle));
    unsigned function, id;
    memset(info, 0, sizeof *info);
    sscanf(lines[gpu_line[gpu_of(handle)]], "gpu %31s %*s %x", info->bus_id, &id);
    sscanf(info->bus_id, "%x:%x:%x.%x", &info->domain, &info->bus, &info->device, &function);
    info->id = id << 16 | 0x10de;
    return OK;
}

int nvmlDeviceGetUUID(void *handle, char *to, unsigned size)
{
    char uuid[96];
    ENTER(gpu_of(handle));
    if (mig_of(handle) >= 0)
        return put(to, size, fact("mig", gpu_of(handle), mig_of(handle)));
    sscanf(lines[gpu_line[gpu_of(handle)]], "gpu %*s %95s", uuid);
    return put(to, size, uuid);
}

int nvmlDeviceGetName(void *handle, char *to, unsigned size)
{
    ENTER(gpu_of(handle));
    int name = 0;
    sscanf(lines[gpu_line[gpu_of(handle)]], "gpu %*s %*s %*s %n", &name);
    return put(to, size, lines[gpu_line[gpu_of(handle)]] + name);
}

int nvmlDeviceGetCpuAffinity(void *handle, unsigned words, unsigned long long *to)
{
    ENTER(gpu_of(handle));
    return bits(fact("cpu", gpu_of(handle), 0), words, to);
}

#ifndef OLD
int nvmlDeviceGetCpuAffinityWithinScope(void *handle, unsigned words, unsigned long long *to, unsigned scope)
{
    ENTER(gpu_of(handle));
    return bits(fact(scope ? "socket" : "cpu", gpu_of(handle), 0), words, to);
}

int nvmlDeviceGetMemoryAffinity(void *handle, unsigned words, unsigned long long *to, unsigned scope)
{
    ENTER(gpu_of(handle));
    return scope ? NOT_SUPPORTED : bits(fact("memory", gpu_of(handle), 0), words, to);
}

int nvmlDeviceGetNumaNodeId(void *handle, int *node)
{
    ENTER(gpu_of(handle));
    const char *told = fact("node", gpu_of(handle), 0);
    return told ? (*node = atoi(told), OK) : NOT_SUPPORTED;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *now, unsigned *pending)
{
    ENTER(gpu_of(handle));
    *now = *pending = fact("mig", gpu_of(handle), 0) != NULL;
    return *now ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) { ENTER(gpu_of(handle)); *count = 7; return OK; }

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **mig)
{
    ENTER(gpu_of(handle));
    *mig = (void *)(1000L * (index + 1) + (long)handle);
    return fact("mig", gpu_of(handle), index) ? OK : NOT_FOUND;
}

/* Records of a process list. Source: nvmlProcessInfo_v2_t of nvml.h; CUDA 12.2's nvmlProcessInfo_t has one field more. */
struct narrow { unsigned pid; unsigned long long memory; unsigned instance, part; };
struct wide { struct narrow common; unsigned long long protected_memory; };

static int list(void *handle, const char *kind, unsigned *count, char *to, size_t width)
{
    static int asked[GPUS];
    char word[64];
    unsigned room = *count, found = 0;
    const char *pid;
    long gpu = gpu_of(handle);
    if (mig_of(handle) >= 0)
        snprintf(word, sizeof word, "%s-mig%ld", kind, mig_of(handle));
    else
        snprintf(word, sizeof word, "%s", kind);
    for (int late = 0; late < 2; late++) {
        if (late && (strcmp(word, "compute") || !asked[gpu]++))
            break;
        for (int i = 0; (pid = fact(late ? "late" : word, gpu, i)); i++, found++) {
            struct wide record = { .common = { strtoul(pid, NULL, 10), 1 << 20, -1, -1 }, .protected_memory = 0 };
            if (found < room && to)
                memcpy(to + found * width, &record, width);
        }
    }
    *count = found;
    return found > room || (found && !to) ? TOO_SMALL : OK;
}

static size_t third(void) { return fact("wide", 0, 0) ? sizeof(struct wide) : sizeof(struct narrow); }

int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count, char *to)
{
    ENTER(gpu_of(handle));
    return list(handle, "compute", count, to, sizeof(struct narrow));
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, char *to)
{
    ENTER(gpu_of(handle));
    return list(handle, "compute", count, to, third());
}

int nvmlDeviceGetGraphicsRunningProcesses_v2(void *handle, unsigned *count, char *to)
{
    ENTER(gpu_of(handle));
    return list(handle, "graphics", count, to, sizeof(struct narrow));
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, char *to)
{
    ENTER(gpu_of(handle));
    return list(handle, "graphics", count, to, third());
}
#endif
