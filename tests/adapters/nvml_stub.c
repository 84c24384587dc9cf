/* A pretended libnvidia-ml.so.1, for tests. What it answers stands in the file that NVML_STUB_WORLD names, one
 * "key value" a line, read again whenever it changes; "!N" is the error N of nvml.h, and a key that is not there
 * is NOT_SUPPORTED. It looks for events each NVML_STUB_STEP_MS (20); the real driver sleeps until one comes, and
 * takes no time. Signatures and structures are those of NVIDIA's public nvml.h, as nvidia-ml-py calls them.
 *
 *   count 2            driver !9          init !18           hang 1
 *   0.uuid GPU-...     0.name L20         0.pci 0 65 0       0.handle !15
 *   0.memory TOTAL USED                   0.processes PID:BYTES,PID:-      0.grows 2
 *   0.mig 1            0.migmax 7         0.mig.0 UUID GI CI TOTAL USED
 *   0.link.0 1         0.ecc.1.0 5        0.events 8         xids 0:79,1:31:5       wait !15
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <pthread.h>

enum { OK, UNINITIALIZED, INVALID, NOT_SUPPORTED, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10 };
enum { CARDS = 16, PARTS = 8, KEPT = 65536 };
typedef unsigned int u32;
typedef unsigned long long u64;
typedef struct { int index, part, epoch; } Device;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char world[KEPT];
static struct stat seen;
static int begun, epoch, grown[CARDS];
static Device devices[64][CARDS][PARTS + 1];
static struct { char name[64]; int count; } calls[128];

static void count_call(const char *name) {
    for (int i = 0; i < 128; i++) {
        if (!calls[i].name[0]) snprintf(calls[i].name, sizeof calls[i].name, "%s", name);
        if (!strcmp(calls[i].name, name)) { calls[i].count++; return; }
    }
}

int stub_calls(const char *name) {
    for (int i = 0; i < 128; i++) if (!strcmp(calls[i].name, name)) return calls[i].count;
    return 0;
}

static int look(const char *key, char *out, size_t size) {
    int found = 0;
    pthread_mutex_lock(&lock);
    struct stat now;
    const char *path = getenv("NVML_STUB_WORLD");
    if (path && !stat(path, &now) && (now.st_ino != seen.st_ino || now.st_mtim.tv_nsec != seen.st_mtim.tv_nsec)) {
        FILE *file = fopen(path, "r");
        if (file) { world[fread(world, 1, KEPT - 1, file)] = 0; fclose(file); seen = now; }
    }
    size_t length = strlen(key);
    for (char *line = world; line && *line && !found; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        if (!strncmp(line, key, length) && line[length] == ' ') {
            size_t end = strcspn(line + length + 1, "\n");
            snprintf(out, size, "%.*s", (int)end, line + length + 1);
            found = 1;
        }
    }
    pthread_mutex_unlock(&lock);
    return found;
}

/* The value of a key, or the error that stands there. */
static int ask(const char *key, char *out, size_t size) {
    if (!look(key, out, size)) return NOT_SUPPORTED;
    return out[0] == '!' ? atoi(out + 1) : OK;
}

static int ready(const char *name) {
    char value[64];
    count_call(name);
    while (look("hang", value, sizeof value) && atoi(value)) usleep(5000);
    if (look("driver", value, sizeof value) && value[0] == '!') return atoi(value + 1);
    return begun ? OK : UNINITIALIZED;
}

static int card_asked(const char *name, const Device *device, const char *field, char *out, size_t size) {
    char key[128];
    int code = ready(name);
    if (code) return code;
    if (device->epoch != epoch) return INVALID;
    snprintf(key, sizeof key, "%d.lost", device->index);
    if (look(key, out, size)) return 15;
    snprintf(key, sizeof key, "%d.%s", device->index, field);
    return ask(key, out, size);
}

static int number(const char *name, const Device *device, const char *field, u32 *out) {
    char value[64];
    int code = card_asked(name, device, field, value, sizeof value);
    if (!code) *out = (u32)strtoul(value, NULL, 0);
    return code;
}

static int number64(const char *name, const Device *device, const char *field, u64 *out) {
    char value[64];
    int code = card_asked(name, device, field, value, sizeof value);
    if (!code) *out = strtoull(value, NULL, 0);
    return code;
}

/* --- the library */

int nvmlInitWithFlags(u32 flags) {
    char value[64];
    (void)flags;
    count_call("nvmlInit");
    if (look("init", value, sizeof value) && value[0] == '!') return atoi(value + 1);
    if (!begun++) epoch = (epoch + 1) % 64;
    return OK;
}

int nvmlShutdown(void) {
    count_call("nvmlShutdown");
    if (!begun) return UNINITIALIZED;
    begun--;
    return OK;
}

const char *nvmlErrorString(int code) {
    static char text[32];
    snprintf(text, sizeof text, "stub error %d", code);
    return text;
}

int nvmlDeviceGetCount_v2(u32 *count) {
    char value[64];
    int code = ready("nvmlDeviceGetCount");
    if (!code) code = ask("count", value, sizeof value);
    if (!code) *count = (u32)atoi(value);
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(u32 index, Device **device) {
    char key[64], value[64];
    int code = ready("nvmlDeviceGetHandleByIndex");
    if (code) return code;
    snprintf(key, sizeof key, "%u.handle", index);
    if (look(key, value, sizeof value)) return atoi(value + 1);
    *device = &devices[epoch][index % CARDS][PARTS];
    **device = (Device){(int)index, -1, epoch};
    return OK;
}

static int part_of(const Device *device, char *uuid, u32 *gi, u32 *ci, u64 *total, u64 *used) {
    char field[64], value[256];
    snprintf(field, sizeof field, "mig.%d", device->part);
    int code = card_asked("part", device, field, value, sizeof value);
    if (code == NOT_SUPPORTED) return NOT_FOUND;
    if (!code) sscanf(value, "%95s %u %u %llu %llu", uuid, gi, ci, total, used);
    return code;
}

int nvmlDeviceGetUUID(const Device *device, char *out, u32 size) {
    u32 gi, ci;
    u64 total, used;
    if (device->part >= 0) return part_of(device, out, &gi, &ci, &total, &used);
    return card_asked("nvmlDeviceGetUUID", device, "uuid", out, size);
}

int nvmlDeviceGetName(const Device *device, char *out, u32 size) {
    return card_asked("nvmlDeviceGetName", device, "name", out, size);
}

typedef struct { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; } Pci;

int nvmlDeviceGetPciInfo_v3(const Device *device, Pci *out) {
    char value[64];
    int code = card_asked("nvmlDeviceGetPciInfo", device, "pci", value, sizeof value);
    memset(out, 0, sizeof *out);
    if (!code) sscanf(value, "%u %u %u", &out->domain, &out->bus, &out->device);
    return code;
}

typedef struct { u64 total, free, used; } Memory;

int nvmlDeviceGetMemoryInfo(const Device *device, Memory *out) {
    char value[128], uuid[96];
    u32 gi, ci;
    int code;
    if (device->part >= 0) code = part_of(device, uuid, &gi, &ci, &out->total, &out->used);
    else {
        code = card_asked("nvmlDeviceGetMemoryInfo", device, "memory", value, sizeof value);
        if (!code) sscanf(value, "%llu %llu", &out->total, &out->used);
    }
    out->free = code ? 0 : out->total - out->used;
    return code;
}

typedef struct { u32 pid; u64 used; u32 gi, ci; } Process;

static int processes(const char *name, const Device *device, u32 *count, Process *out) {
    char value[4096], grows[64], key[64];
    int code = card_asked(name, device, "processes", value, sizeof value);
    if (code) return code;
    u32 there = 0, room = *count;
    int index = device->index % CARDS;
    snprintf(key, sizeof key, "%d.grows", device->index);
    if (out && look(key, grows, sizeof grows) && grown[index] < atoi(grows)) {
        grown[index]++;
        return INSUFFICIENT_SIZE;
    }
    char *rest;
    for (char *one = value[0] == '-' ? NULL : strtok_r(value, ",", &rest); one; one = strtok_r(NULL, ",", &rest)) {
        if (out && there < room) {
            char *size = strchr(one, ':') + 1;
            u64 used = *size == '-' ? ~0ULL : strtoull(size, NULL, 10);
            out[there] = (Process){(u32)atoi(one), used, ~0U, ~0U};
        }
        there++;
    }
    *count = there;
    return there > room ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetComputeRunningProcesses_v2(const Device *device, u32 *count, Process *out) {
    return processes("nvmlDeviceGetComputeRunningProcesses_v2", device, count, out);
}

typedef struct { u32 gpu, memory; } Utilization;

int nvmlDeviceGetUtilizationRates(const Device *device, Utilization *out) {
    return number("nvmlDeviceGetUtilizationRates", device, "busy", &out->gpu);
}

int nvmlDeviceGetTemperature(const Device *device, u32 sensor, u32 *out) {
    (void)sensor;
    return number("nvmlDeviceGetTemperature", device, "celsius", out);
}

int nvmlDeviceGetTemperatureThreshold(const Device *device, u32 which, u32 *out) {
    return which == 1 ? number("nvmlDeviceGetTemperatureThreshold", device, "slowdown", out) : NOT_SUPPORTED;
}

int nvmlDeviceGetPowerUsage(const Device *device, u32 *out) {
    return number("nvmlDeviceGetPowerUsage", device, "milliwatts", out);
}

int nvmlDeviceGetEnforcedPowerLimit(const Device *device, u32 *out) {
    return number("nvmlDeviceGetEnforcedPowerLimit", device, "limit", out);
}

int nvmlDeviceGetClockInfo(const Device *device, u32 kind, u32 *out) {
    return number("nvmlDeviceGetClockInfo", device, kind == 1 ? "sm" : "memclock", out);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(const Device *device, u64 *out) {
    return number64("nvmlDeviceGetCurrentClocksThrottleReasons", device, "reasons", out);
}

#ifndef OLD_DRIVER
int nvmlDeviceGetCurrentClocksEventReasons(const Device *device, u64 *out) {
    return number64("nvmlDeviceGetCurrentClocksEventReasons", device, "reasons", out);
}

int nvmlDeviceGetComputeRunningProcesses_v3(const Device *device, u32 *count, Process *out) {
    return processes("nvmlDeviceGetComputeRunningProcesses_v3", device, count, out);
}
#endif

int nvmlDeviceGetTotalEccErrors(const Device *device, u32 kind, u32 counter, u64 *out) {
    char field[32];
    snprintf(field, sizeof field, "ecc.%u.%u", kind, counter);
    return number64("nvmlDeviceGetTotalEccErrors", device, field, out);
}

int nvmlDeviceGetRetiredPages(const Device *device, u32 cause, u32 *count, u64 *out) {
    char field[32];
    u32 there, room = *count;
    snprintf(field, sizeof field, "retired.%u", cause);
    int code = number("nvmlDeviceGetRetiredPages", device, field, &there);
    if (code) return code;
    *count = there;
    if (!out || there > room) return there ? INSUFFICIENT_SIZE : OK;
    for (u32 i = 0; i < there; i++) out[i] = 4096ULL * i;
    return OK;
}

int nvmlDeviceGetRetiredPagesPendingStatus(const Device *device, u32 *out) {
    return number("nvmlDeviceGetRetiredPagesPendingStatus", device, "retired.pending", out);
}

int nvmlDeviceGetRemappedRows(const Device *device, u32 *correctable, u32 *uncorrectable, u32 *pending, u32 *failed) {
    char value[64];
    int code = card_asked("nvmlDeviceGetRemappedRows", device, "remapped", value, sizeof value);
    if (!code) sscanf(value, "%u %u %u %u", correctable, uncorrectable, pending, failed);
    return code;
}

int nvmlDeviceGetCurrPcieLinkGeneration(const Device *d, u32 *out) { return number("pcie", d, "pcie.gen", out); }
int nvmlDeviceGetCurrPcieLinkWidth(const Device *d, u32 *out) { return number("pcie", d, "pcie.width", out); }
int nvmlDeviceGetMaxPcieLinkGeneration(const Device *d, u32 *out) { return number("pcie", d, "pcie.maxgen", out); }
int nvmlDeviceGetMaxPcieLinkWidth(const Device *d, u32 *out) { return number("pcie", d, "pcie.maxwidth", out); }
int nvmlDeviceGetPcieReplayCounter(const Device *d, u32 *out) { return number("pcie", d, "pcie.replays", out); }

int nvmlDeviceGetNvLinkState(const Device *device, u32 link, u32 *out) {
    char field[32];
    snprintf(field, sizeof field, "link.%u", link);
    int code = number("nvmlDeviceGetNvLinkState", device, field, out);
    return code == NOT_SUPPORTED && link ? INVALID : code;
}

/* --- slices */

int nvmlDeviceGetMigMode(const Device *device, u32 *current, u32 *pending) {
    *pending = 0;
    return number("nvmlDeviceGetMigMode", device, "mig", current);
}

int nvmlDeviceGetMaxMigDeviceCount(const Device *device, u32 *out) {
    return number("nvmlDeviceGetMaxMigDeviceCount", device, "migmax", out);
}

int nvmlDeviceGetMigDeviceHandleByIndex(const Device *device, u32 place, Device **out) {
    char uuid[96];
    u32 gi, ci;
    u64 total, used;
    *out = &devices[epoch][device->index % CARDS][place % PARTS];
    **out = (Device){device->index, (int)place, device->epoch};
    return part_of(*out, uuid, &gi, &ci, &total, &used);
}

int nvmlDeviceGetGpuInstanceId(const Device *device, u32 *out) {
    char uuid[96];
    u32 ci;
    u64 total, used;
    return part_of(device, uuid, out, &ci, &total, &used);
}

int nvmlDeviceGetComputeInstanceId(const Device *device, u32 *out) {
    char uuid[96];
    u32 gi;
    u64 total, used;
    return part_of(device, uuid, &gi, out, &total, &used);
}

/* --- events */

typedef struct { int taken, registered[CARDS]; } Set;
typedef struct { Device *device; u64 kind, data; u32 gi, ci; } Event;

static int next_event(int place, int *index, u64 *code, u32 *gi) {
    char value[4096];
    if (!look("xids", value, sizeof value)) return 0;
    char *rest, *one = strtok_r(value, ",", &rest);
    for (int i = 0; one && i < place; i++) one = strtok_r(NULL, ",", &rest);
    *gi = ~0U;
    return one && sscanf(one, "%d:%llu:%u", index, code, gi) >= 2;
}

int nvmlEventSetCreate(Set **out) {
    int index, code = ready("nvmlEventSetCreate");
    u64 xid;
    u32 gi;
    if (code) return code;
    Set *set = calloc(1, sizeof(Set));
    while (next_event(set->taken, &index, &xid, &gi)) set->taken++;
    *out = set;
    return OK;
}

int nvmlEventSetFree(Set *set) {
    count_call("nvmlEventSetFree");
    free(set);
    return OK;
}

int nvmlDeviceGetSupportedEventTypes(const Device *device, u64 *out) {
    return number64("nvmlDeviceGetSupportedEventTypes", device, "events", out);
}

int nvmlDeviceRegisterEvents(const Device *device, u64 kinds, Set *set) {
    int code = ready("nvmlDeviceRegisterEvents");
    if (!code) set->registered[device->index % CARDS] = (kinds & 8) != 0;
    return code;
}

int nvmlEventSetWait_v2(Set *set, Event *out, u32 milliseconds) {
    char value[64];
    int index;
    u64 xid;
    u32 gi;
    const char *told = getenv("NVML_STUB_STEP_MS");
    u32 step = told ? atoi(told) : 20;
    for (u32 waited = 0; waited <= milliseconds; waited += step) {
        int code = ready("nvmlEventSetWait");
        if (!code && look("wait", value, sizeof value) && value[0] == '!') code = atoi(value + 1);
        if (code) return code;
        while (next_event(set->taken, &index, &xid, &gi)) {
            set->taken++;
            if (!set->registered[index % CARDS]) continue;
            *out = (Event){&devices[epoch][index % CARDS][PARTS], 8, xid, gi, ~0U};
            return OK;
        }
        usleep(step * 1000);
    }
    return TIMEOUT;
}
