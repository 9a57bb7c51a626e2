/* avatar_impl.h -- the inside of struct avatar, for avatar.c and avatar_plan.c only. */
#ifndef WORKER_MODEL_AVATAR_IMPL_H
#define WORKER_MODEL_AVATAR_IMPL_H

#include "worker/model/avatar.h"
#include "worker/model/avatar_parts.h"
#include "worker/model/avatar_stage.h"

struct avatar {
    struct avatar_parts parts;
    struct avatar_parts plan; /* the same shapes without data; opened by the first plan */
    bool can_plan;
    char digest[65]; /* "" until the first job */
};

#endif
