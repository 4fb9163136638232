/* A stand-in for NVIDIA's libnvidia-ml.so.1. What it says is in the file "state" beside it, read again at every call;
 * every call leaves a line "PID FUNCTION GPU" in the file "calls" there.
 *
 *   driver 560.35.03                 cuda 12060
 *   gpu INDEX UUID TOTAL USED RESERVED UTILISATION TEMPERATURE POWER MIG NAME     sizes in MiB, power in milliwatts
 *   process INDEX compute|graphics|mps PID BYTES                                  BYTES -1: not available
 *   fail FUNCTION INDEX|* CODE       hang FUNCTION INDEX|*      crash FUNCTION INDEX|*      slow FUNCTION INDEX|* MS
 *   short INDEX TIMES                its next lists of processes are too short for those that are there by then
 *   accounting INDEX MODE            0 off, 1 on; without: not supported
 *   account INDEX PID RUNNING GPU% MEMORY% PEAK MS STARTED     PEAK in bytes, -1: not available; STARTED in microseconds
 *   overwritten INDEX PID            it is listed, and its account is gone before it is asked for
 *   print WORD                       the library writes to the standard output of whoever called it
 *
 * -DWITHOUT_MEMORY_V2, -DWITHOUT_PROCESSES_V3, -DWITHOUT_MIG: a library of an older driver.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, VERSION_MISMATCH = 25, GPUS = 16, MIB = 1 << 20 };
#define NOT_AVAILABLE 0xFFFFFFFFFFFFFFFFull

struct gpu {
    char uuid[96], name[96];
    unsigned long long total, used, reserved;
    unsigned utilisation, temperature, power, mig, there;
};
struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };
struct account {
    unsigned gpu, memory;
    unsigned long long peak, time, started;
    unsigned running, reserved[5];
};
struct process { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };

static char state[1 << 16];
static char handles[GPUS];
static int shorts[GPUS];

static const char *beside(const char *name) {
    static char path[4096];
    Dl_info here;
    dladdr(&state, &here);
    snprintf(path, sizeof path, "%s", here.dli_fname);
    char *slash = strrchr(path, '/');
    snprintf(slash + 1, sizeof path - (slash + 1 - path), "%s", name);
    return path;
}

static void load(void) {
    int file = open(beside("state"), O_RDONLY);
    ssize_t length = file < 0 ? 0 : read(file, state, sizeof state - 1);
    state[length < 0 ? 0 : length] = 0;
    if (file >= 0) close(file);
}

/* The next line of the state after `from` that begins with `word`, or NULL. */
static const char *line_of(const char *from, const char *word) {
    for (const char *line = from; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
        if (!strncmp(line, word, strlen(word)) && line[strlen(word)] == ' ') return line;
    return NULL;
}
#define EACH(line, word) \
    for (const char *line = line_of(state, word); line; line = strchr(line, '\n') ? line_of(strchr(line, '\n') + 1, word) : NULL)

/* Begin a call: note it, then do what the state says happens to it. Returns its error, or 0. */
static int begin(const char *function, int gpu) {
    char name[96], which[16], note[160];
    int code;
    load();
    int calls = open(beside("calls"), O_WRONLY | O_CREAT | O_APPEND, 0644);
    int length = snprintf(note, sizeof note, "%d %s %d\n", getpid(), function, gpu);
    if (calls >= 0 && write(calls, note, length) == length) close(calls);
#define MINE (!strcmp(name, function) && (which[0] == '*' || atoi(which) == gpu))
    EACH(line, "print") if (sscanf(line, "print %95s", name) == 1) puts(name), fflush(stdout);
    EACH(line, "slow") if (sscanf(line, "slow %95s %15s %d", name, which, &code) == 3 && MINE) usleep(code * 1000);
    EACH(line, "crash") if (sscanf(line, "crash %95s %15s", name, which) == 2 && MINE) abort();
    EACH(line, "hang") if (sscanf(line, "hang %95s %15s", name, which) == 2 && MINE) for (;;) pause();
    EACH(line, "fail") if (sscanf(line, "fail %95s %15s %d", name, which, &code) == 3 && MINE) return code;
    return OK;
}

static struct gpu find(int index) {
    struct gpu gpu;
    EACH(line, "gpu") {
        int at;
        memset(&gpu, 0, sizeof gpu);
        if (sscanf(line, "gpu %d %95s %llu %llu %llu %u %u %u %u %95[^\n]", &at, gpu.uuid, &gpu.total, &gpu.used,
                   &gpu.reserved, &gpu.utilisation, &gpu.temperature, &gpu.power, &gpu.mig, gpu.name) == 10 && at == index) {
            gpu.there = 1;
            return gpu;
        }
    }
    memset(&gpu, 0, sizeof gpu);
    return gpu;
}

static int index_of(void *handle) { return (int)((char *)handle - handles); }
#define BEGIN(gpu) do { int code = begin(__func__, gpu); if (code) return code; } while (0)

int nvmlInitWithFlags(unsigned flags) { (void)flags; BEGIN(-1); return OK; }
int nvmlShutdown(void) { BEGIN(-1); return OK; }
const char *nvmlErrorString(int code) { static char text[64]; snprintf(text, sizeof text, "the stub's error %d", code); return text; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    char value[64] = "";
    BEGIN(-1);
    EACH(line, "driver") sscanf(line, "driver %63s", value);
    snprintf(version, length, "%s", value);
    return OK;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    BEGIN(-1);
    EACH(line, "cuda") sscanf(line, "cuda %d", version);
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    BEGIN(-1);
    *count = 0;
    EACH(line, "gpu") ++*count;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    BEGIN(index);
    if (index >= GPUS) return INVALID_ARGUMENT;
    *handle = &handles[index];
    return OK;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    BEGIN(index_of(handle));
    snprintf(uuid, length, "%s", find(index_of(handle)).uuid);
    return OK;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    BEGIN(index_of(handle));
    snprintf(name, length, "%s", find(index_of(handle)).name);
    return OK;
}

int nvmlDeviceGetMemoryInfo(void *handle, struct memory *memory) {
    BEGIN(index_of(handle));
    struct gpu gpu = find(index_of(handle));
    memory->total = gpu.total * MIB;
    memory->used = (gpu.used + gpu.reserved) * MIB;
    memory->free = memory->total - memory->used;
    return OK;
}

#ifndef WITHOUT_MEMORY_V2
int nvmlDeviceGetMemoryInfo_v2(void *handle, struct memory_v2 *memory) {
    BEGIN(index_of(handle));
    struct gpu gpu = find(index_of(handle));
    if (memory->version != (sizeof *memory | 2 << 24)) return VERSION_MISMATCH;
    memory->total = gpu.total * MIB;
    memory->used = gpu.used * MIB;
    memory->reserved = gpu.reserved * MIB;
    memory->free = memory->total - memory->used - memory->reserved;
    return OK;
}
#endif

int nvmlDeviceGetUtilizationRates(void *handle, unsigned *rates) {
    BEGIN(index_of(handle));
    rates[0] = find(index_of(handle)).utilisation;
    rates[1] = 0;
    return OK;
}

int nvmlDeviceGetTemperature(void *handle, unsigned sensor, unsigned *degrees) {
    BEGIN(index_of(handle));
    if (sensor) return INVALID_ARGUMENT;
    *degrees = find(index_of(handle)).temperature;
    return OK;
}

int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) {
    BEGIN(index_of(handle));
    *milliwatts = find(index_of(handle)).power;
    return OK;
}

#ifndef WITHOUT_MIG
int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    BEGIN(index_of(handle));
    *current = *pending = find(index_of(handle)).mig;
    return OK;
}
#endif

static int accounting(int gpu) {
    int at, mode;
    EACH(line, "accounting") if (sscanf(line, "accounting %d %d", &at, &mode) == 2 && at == gpu) return mode;
    return -1;
}

int nvmlDeviceGetAccountingMode(void *handle, unsigned *mode) {
    BEGIN(index_of(handle));
    int now = accounting(index_of(handle));
    if (now < 0) return NOT_SUPPORTED;
    *mode = now;
    return OK;
}

int nvmlDeviceGetAccountingBufferSize(void *handle, unsigned *size) {
    BEGIN(index_of(handle));
    if (accounting(index_of(handle)) < 0) return NOT_SUPPORTED;
    *size = 4000;
    return OK;
}

int nvmlDeviceGetAccountingPids(void *handle, unsigned *count, unsigned *pids) {
    int at;
    unsigned pid, room = *count;
    BEGIN(index_of(handle));
    *count = 0;
    EACH(line, "account") if (sscanf(line, "account %d %u", &at, &pid) == 2 && at == index_of(handle)) {
        if (*count < room) pids[*count] = pid;
        ++*count;
    }
    EACH(line, "overwritten") if (sscanf(line, "overwritten %d %u", &at, &pid) == 2 && at == index_of(handle)) {
        if (*count < room) pids[*count] = pid;
        ++*count;
    }
    return *count > room ? INSUFFICIENT_SIZE : OK;
}

/* Of several accounts of one pid the first: the driver looks among those that have ended first. */
int nvmlDeviceGetAccountingStats(void *handle, unsigned pid, struct account *account) {
    int at;
    unsigned of, running, gpu, memory;
    long long peak;
    unsigned long long time, started;
    BEGIN(index_of(handle));
    EACH(line, "account")
        if (sscanf(line, "account %d %u %u %u %u %lld %llu %llu", &at, &of, &running, &gpu, &memory, &peak, &time, &started) == 8
            && at == index_of(handle) && of == pid) {
            struct account one = {gpu, memory, peak < 0 ? NOT_AVAILABLE : (unsigned long long)peak, time, started, running, {0}};
            *account = one;
            return OK;
        }
    return NOT_FOUND;
}

static int list(void *handle, const char *kind, unsigned *count, struct process *processes) {
    int gpu = index_of(handle), at, times;
    unsigned room = *count, found = 0, pid;
    long long bytes;
    char word[16];
    EACH(line, "process") {
        if (sscanf(line, "process %d %15s %u %lld", &at, word, &pid, &bytes) != 4 || at != gpu || strcmp(word, kind)) continue;
        if (processes && found < room) {
            struct process one = {pid, bytes < 0 ? NOT_AVAILABLE : (unsigned long long)bytes, ~0u, ~0u};
            processes[found] = one;
        }
        ++found;
    }
    EACH(line, "short")
        if (processes && sscanf(line, "short %d %d", &at, &times) == 2 && at == gpu && shorts[gpu] < times) {
            ++shorts[gpu];
            found = room + 1;
        }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}

#define LIST(function, kind) \
    int function(void *handle, unsigned *count, struct process *processes) { \
        BEGIN(index_of(handle)); \
        return list(handle, kind, count, processes); \
    }
LIST(nvmlDeviceGetComputeRunningProcesses_v2, "compute")
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics")
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, "mps")
#ifndef WITHOUT_PROCESSES_V3
LIST(nvmlDeviceGetComputeRunningProcesses_v3, "compute")
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics")
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, "mps")
#endif
