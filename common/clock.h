/* clock.h -- two clocks and a text form: monotonic time for waits and durations, wall time for people. What
 * decides about jobs is neither of them but Redis' own TIME (PROTOCOL.md).
 *
 *     int64_t deadline = clock_us() + 2 * CLOCK_S;
 *     while (clock_us() < deadline) ...
 */
#ifndef COMMON_CLOCK_H
#define COMMON_CLOCK_H

#include <stddef.h>
#include <stdint.h>

#define CLOCK_MS INT64_C(1000)
#define CLOCK_S INT64_C(1000000)

int64_t clock_us(void);          /* monotonic, microseconds; never goes back */
int64_t clock_wall_ms(void);     /* since 1970, UTC */
void clock_sleep_us(int64_t us); /* sleeps through signals until the time is over; <= 0 returns at once */

/* RFC 3339 in UTC: "2026-11-25T17:53:19.042Z". size >= 25; returns dst. */
const char *clock_format(char *dst, size_t size, int64_t wall_ms);
/* For people: "4 min 2 s", "0.8 s". Returns dst. */
const char *clock_duration(char *dst, size_t size, double seconds);

#endif
