#include "cli/filter.h"

#include "cli/http.h"

bool filter_any(const struct filter *f)
{
    return f->state || f->tenant || f->generator || f->code || f->worker;
}

int filter_add(const struct filter *f, char *path, size_t size, struct err *err)
{
    const char *const named[][2] = {{"state", f->state},         {"tenant", f->tenant}, {"generator", f->generator},
                                    {"code", f->code}, {"worker", f->worker}};
    for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
        if (http_query(path, size, named[i][0], named[i][1]) < 0)
            return err_set(err, ERR_INVALID, "--%s: too long", named[i][0]);
    }
    return 0;
}
