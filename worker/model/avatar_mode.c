#include "worker/model/avatar_mode.h"

#include <string.h>

static const struct avatar_mode fastest_first[AVATAR_MODES] = {
    {AVATAR_RESIDENT, false, false}, {AVATAR_STAGED, false, false},  {AVATAR_STAGED, true, false},
    {AVATAR_STREAMED, false, false}, {AVATAR_STREAMED, true, false},
};
static const char *const names[][2] = {[AVATAR_RESIDENT] = {"resident", "resident, compact"},
                                       [AVATAR_STAGED] = {"staged", "staged, compact"},
                                       [AVATAR_STREAMED] = {"streamed", "streamed, compact"}};
enum { N_WEIGHTS = sizeof(names) / sizeof(names[0]) };

int avatar_mode_ladder(const char *weights, bool is_host, bool pin, struct avatar_mode ret[AVATAR_MODES], struct err *err)
{
    const bool is_auto = strcmp(weights, "auto") == 0;
    int n = 0, one = 0;
    while (!is_auto && one < N_WEIGHTS && strcmp(weights, names[one][0]) != 0)
        one++;
    if (one == N_WEIGHTS)
        return err_set(err, ERR_INVALID, "weights: %s is not allowed; auto, resident, staged or streamed is", weights);
    if (is_host && one != AVATAR_RESIDENT)
        return err_set(err, ERR_INVALID, "weights: %s is for GPUs; on a CPU weights stay where they are: use auto", weights);
    for (int i = 0; i < AVATAR_MODES && (is_auto || n < 2); i++) {
        struct avatar_mode m = fastest_first[i];
        if (!is_auto)
            m = (struct avatar_mode){(enum avatar_weights)one, i == 1, false};
        if (is_host && m.weights != AVATAR_RESIDENT)
            continue;
        m.pin = pin && m.weights != AVATAR_RESIDENT;
        ret[n++] = m;
    }
    return n;
}

const char *avatar_mode_text(const struct avatar_mode *m)
{
    return names[m->weights][m->compact];
}
