/* A CUDA driver for the real cuda-bindings to load: GPUs at the PCI addresses of FAKE_CUDA, whose memory is the host's.
 *
 *     FAKE_CUDA="0000:1b:00.0 0000:3d:00.0"
 *     FAKE_CUDA_ERROR="cuMemHostRegister 2"     that function fails with that CUresult
 *
 * A process with a context is in the list of FAKE_NVML (nvml.c) from then on. The driver keeps the rules that a program may break without a GPU to notice: no call without a context, no copy to or from
 * memory that is not pinned, no free of what is in use.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK, INVALID_VALUE, NOT_INITIALIZED = 3, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT, NOT_FOUND = 500 };

static int initialised, device, context, kernel;
static void *current;
static char *pinned;
static size_t pinned_size;

/* The error that FAKE_CUDA_ERROR wants of this function. */
static int enter(const char *function)
{
    const char *wanted = getenv("FAKE_CUDA_ERROR");
    size_t length = strlen(function);
    if (wanted && !strncmp(wanted, function, length) && wanted[length] == ' ')
        return atoi(wanted + length);
    return initialised || !strcmp(function, "cuInit") ? OK : NOT_INITIALIZED;
}

#define ENTER() do { int failed = enter(__func__); if (failed) return failed; } while (0)
#define IN_CONTEXT() do { ENTER(); if (current != &context) return INVALID_CONTEXT; } while (0)

int cuInit(unsigned flags) { ENTER(); initialised = 1; return flags ? INVALID_VALUE : OK; }

int cuDriverGetVersion(int *version) { *version = 12080; return OK; }

int cuDeviceGetByPCIBusId(int *found, const char *address)
{
    ENTER();
    const char *there = getenv("FAKE_CUDA");
    *found = device;
    return there && strstr(there, address) ? OK : INVALID_DEVICE;
}

int cuDevicePrimaryCtxRetain(void **found, int which)
{
    ENTER();
    const char *list = getenv("FAKE_NVML");
    FILE *file = list ? fopen(list, "a") : NULL;
    if (file && fprintf(file, "compute %d %d\n", which, getpid()))
        fclose(file);
    *found = &context;
    return which == device ? OK : INVALID_DEVICE;
}

int cuDevicePrimaryCtxRelease(int which) { ENTER(); current = NULL; return which == device ? OK : INVALID_DEVICE; }

int cuCtxSetCurrent(void *wanted) { ENTER(); current = wanted; return OK; }

int cuStreamCreate(void **stream, unsigned flags) { IN_CONTEXT(); *stream = &kernel; return flags ? INVALID_VALUE : OK; }

int cuStreamSynchronize(void *stream) { IN_CONTEXT(); return stream == &kernel ? OK : INVALID_VALUE; }

int cuMemHostRegister(char *address, size_t size, unsigned flags)
{
    IN_CONTEXT();
    pinned = address;
    pinned_size = size;
    return flags ? INVALID_VALUE : OK;
}

int cuMemHostUnregister(char *address) { IN_CONTEXT(); int known = address == pinned; pinned = NULL; return known ? OK : INVALID_VALUE; }

int cuMemHostAlloc(void **address, size_t size, unsigned flags)
{
    IN_CONTEXT();
    pinned_size = size;
    *address = pinned = malloc(size);
    return flags ? INVALID_VALUE : OK;
}

int cuMemAlloc(uintptr_t *memory, size_t size) { IN_CONTEXT(); *memory = (uintptr_t)malloc(size); return OK; }

int cuMemFree(uintptr_t memory) { IN_CONTEXT(); free((void *)memory); return OK; }

static int is_pinned(const char *address, size_t size)
{
    return pinned && address >= pinned && address + size <= pinned + pinned_size;
}

int cuMemcpyHtoDAsync(uintptr_t to, const char *from, size_t size, void *stream)
{
    IN_CONTEXT();
    if (!is_pinned(from, size) || stream != &kernel)
        return INVALID_VALUE;
    memcpy((void *)to, from, size);
    return OK;
}

int cuMemcpyDtoHAsync(char *to, uintptr_t from, size_t size, void *stream)
{
    IN_CONTEXT();
    if (!is_pinned(to, size) || stream != &kernel)
        return INVALID_VALUE;
    memcpy(to, (void *)from, size);
    return OK;
}

int cuModuleLoadData(void **module, const char *image)
{
    IN_CONTEXT();
    *module = &kernel;
    return strstr(image, ".version") == image ? OK : INVALID_IMAGE;
}

int cuModuleGetFunction(void **function, void *module, const char *name)
{
    IN_CONTEXT();
    *function = &kernel;
    return module == &kernel && !strcmp(name, "empty") ? OK : NOT_FOUND;
}

int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **arguments, void **extra)
{
    IN_CONTEXT();
    (void)arguments;
    return function == &kernel && stream == &kernel && gx * gy * gz * bx * by * bz == 1 && !shared && !extra ? OK : INVALID_VALUE;
}

int cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags, int *status)
{
    (void)version;
    (void)flags;
    *function = !strcmp(symbol, "cuGetProcAddress") ? (void *)cuGetProcAddress : dlsym(RTLD_DEFAULT, symbol);
    if (status)
        *status = *function ? 0 : 1;
    return *function ? OK : NOT_FOUND;
}

int cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status)
{
    return cuGetProcAddress(symbol, function, version, flags, status);
}
