/* A host whose clock was put and whose disk is slow, for one process: preloaded, and steered by a file of two numbers
   (seconds by which the clock is off, seconds that a write-through takes) that FAULTY_HOST names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static void faults(double *off, double *slow) {
    *off = *slow = 0;
    const char *path = getenv("FAULTY_HOST");
    FILE *file = path ? fopen(path, "re") : NULL;
    if (file) {
        if (fscanf(file, "%lf %lf", off, slow) < 1) *off = *slow = 0;
        fclose(file);
    }
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME && !result) {
        double off, slow;
        faults(&off, &slow);
        now->tv_sec += (time_t)off;
    }
    return result;
}

static int late(const char *name, int descriptor) {
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    double off, slow;
    faults(&off, &slow);
    usleep((useconds_t)(slow * 1e6));
    return real(descriptor);
}

int fsync(int descriptor) { return late("fsync", descriptor); }
int fdatasync(int descriptor) { return late("fdatasync", descriptor); }
