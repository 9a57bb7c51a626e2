/* avatar_impl.h -- the inside of struct avatar, for avatar.c and avatar_plan.c only. */
#ifndef WORKER_MODEL_AVATAR_IMPL_H
#define WORKER_MODEL_AVATAR_IMPL_H

#include "worker/model/avatar.h"
#include "worker/model/avatar_parts.h"
#include "worker/model/avatar_stage.h"

struct avatar {
    struct avatar_parts parts;
    struct avatar_parts plan[AVATAR_STREAMED + 1]; /* the same shapes without data, by mode.weights; opened by the first plan */
    bool can_plan[AVATAR_STREAMED + 1];
    char digest[65]; /* "" until the first job */
};

/* The components of a mode without data, for plans. */
int avatar_plan_parts(struct avatar *a, const struct avatar_mode *mode, struct avatar_parts **ret, struct err *err);

#endif
