#include "common/clock.h"

#include <errno.h>
#include <math.h>
#include <time.h>

#include "common/str.h"

int64_t clock_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * CLOCK_S + t.tv_nsec / 1000;
}

int64_t clock_wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void clock_sleep_us(int64_t us)
{
    if (us <= 0)
        return;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += us / CLOCK_S;
    t.tv_nsec += us % CLOCK_S * 1000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        continue;
}

const char *clock_format(char *dst, size_t size, int64_t wall_ms)
{
    time_t s = (time_t)(wall_ms / 1000);
    struct tm tm;
    if (!gmtime_r(&s, &tm)) {
        str_copy(dst, size, "?");
        return dst;
    }
    str_format(dst, size, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
               tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(wall_ms % 1000));
    return dst;
}

const char *clock_duration(char *dst, size_t size, double seconds)
{
    if (!(seconds >= 0) || seconds > 1e15)
        str_copy(dst, size, "?");
    else if (seconds < 10)
        str_format(dst, size, "%.1f s", seconds);
    else if (seconds < 60)
        str_format(dst, size, "%.0f s", seconds);
    else if (seconds < 3600)
        str_format(dst, size, "%d min %d s", (int)seconds / 60, (int)seconds % 60);
    else
        str_format(dst, size, "%lld h %d min", (long long)(seconds / 3600), (int)(fmod(seconds, 3600) / 60));
    return dst;
}
