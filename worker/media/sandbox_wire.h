/* sandbox_wire.h -- what parent and child of sandbox.h say to each other: two structs, both of the same
 * program. */
#ifndef WORKER_MEDIA_SANDBOX_WIRE_H
#define WORKER_MEDIA_SANDBOX_WIRE_H

#include <stdint.h>

#include "common/err.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANDBOX_WIRE_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANDBOX_WIRE_SANITIZED 1
#endif
#endif
#if !defined(SANDBOX_WIRE_SANITIZED)
#define SANDBOX_WIRE_SANITIZED 0 /* 1: the sanitizer needs address space and system calls of its own */
#endif

#define SANDBOX_WIRE_SOCKET 3 /* the child's descriptor */
#define SANDBOX_WIRE_MAGIC 0x31646d74u

enum sandbox_wire_kind { SANDBOX_WIRE_IMAGE, SANDBOX_WIRE_AUDIO };

/* Sent with two descriptors: the file and the memory file. */
struct sandbox_wire_request {
    int32_t kind, turn;
    int32_t parent; /* process id */
    double min_s, max_s;
};

/* At the start of the memory file; pixels or samples follow when code is 0. */
struct sandbox_wire_reply {
    uint32_t magic;
    int32_t code;
    int32_t width, height, channels, rate;
    int64_t n;
    char text[sizeof((struct err *)0)->text];
};

#endif
