// What the stub libraries share: results from the environment, and the log of calls.
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;

// Value of an environment variable.
static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text == NULL ? otherwise : atoi(text);
}

// Number of a stream or event. It is never 0.
static int name(const void *handle) { return (int)((size_t)handle >> 4); }

// Writes a call as a line to the file STUB_LOG, if that is set.
static void say(const char *call, int first, int second) {
    const char *path = getenv("STUB_LOG");
    FILE *file = path == NULL ? NULL : fopen(path, "a");
    if (file != NULL) {
        fprintf(file, "%s %d %d\n", call, first, second);
        fclose(file);
    }
}
