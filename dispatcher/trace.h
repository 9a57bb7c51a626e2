/* trace.h -- the header traceparent of the W3C's Trace Context (Recommendation, 2021): checked, not interpreted. */
#ifndef DISPATCHER_TRACE_H
#define DISPATCHER_TRACE_H

#include <stdbool.h>

/* "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01": lower-case hex, ids not all zero; later versions may go on
 * behind a '-', version ff does not exist. At most 60 characters. */
bool trace_ok(const char *text);

#endif
