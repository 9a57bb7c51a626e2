/* webhook_guard.h -- where webhooks may go: http and https to public addresses, and what the setting webhook_allow opens.
 *
 * A webhook's URL comes from a client, and the dispatcher stands inside the operator's network: without a guard a client
 * could have it call the cloud's metadata service or a neighbour (SSRF, CWE-918). Two checks:
 *
 *     webhook_guard_url       the text: at the submit, so that the client hears of it, and before each try
 *     webhook_guard_address   each address that a socket is about to be connected to: whatever a name resolves to at that
 *                             moment, this is the address itself, so a name that changes its mind gains nothing
 *
 * Public is what the IANA special-purpose registries (RFC 6890 and its updates) call globally reachable; an IPv4 address
 * inside an IPv6 one (mapped, NAT64, 6to4) counts as itself.
 *
 *     struct webhook_guard g = {0};
 *     rc = webhook_guard_init(&g, "10.1.0.0/16,fd00::/8,hooks.intern", &err);
 *     rc = webhook_guard_url(&g, url, &named, &err);
 *     if (!named && !webhook_guard_address(&g, addr)) ...
 *     webhook_guard_done(&g);
 */
#ifndef DISPATCHER_WEBHOOK_GUARD_H
#define DISPATCHER_WEBHOOK_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "common/err.h"

struct webhook_guard_rule;

struct webhook_guard {
    struct webhook_guard_rule *rules; /* owned */
    size_t n_rules;
};

/* allow: addresses, CIDR ranges and host names, separated by commas; a name that begins with a dot means all names below
 * it. "": public addresses only. ERR_INVALID names the word. */
int webhook_guard_init(struct webhook_guard *g, const char *allow, struct err *err);
void webhook_guard_done(struct webhook_guard *g); /* zeroed or done already: fine */

/* ERR_INVALID: not a URL, another scheme, a user or password in it, or the address in it is not allowed. *ret_named: the
 * host is allowed by its name, wherever that leads. */
int webhook_guard_url(const struct webhook_guard *g, const char *url, bool *ret_named, struct err *err);
bool webhook_guard_address(const struct webhook_guard *g, const struct sockaddr *a);

#endif
