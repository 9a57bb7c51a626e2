/* app.h -- what the dispatcher's parts share: one of these, made by main.c, alive until the loop ends. */
#ifndef DISPATCHER_APP_H
#define DISPATCHER_APP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/conf.h"
#include "common/json.h"
#include "common/queue.h"

struct backend;
struct events;
struct models;
struct server;
struct streams;
struct tenants;
struct webhook;

struct app {
    uv_loop_t *loop;
    struct conf conf;
    json_t *defaults; /* owned: what a job gets where it says nothing */
    struct queue queue;
    struct backend *backend; /* owned, as the next three */
    struct events *events;
    struct streams *streams;
    struct server *server;
    struct tenants *tenants; /* owned, as the next */
    struct models *models;
    struct webhook *webhook; /* owned */
    bool local_only; /* no keys and a loopback address: only pages of this machine may call */
    int64_t started_us;
};

#endif
