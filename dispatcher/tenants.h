/* tenants.h -- the dispatcher's tenants and their keys while it runs: the settings `keys` (a file, keys.h says what is in
 * it) and `api_key` together. The file is read again when it changes (looked at every second) and at SIGHUP; one that is
 * broken leaves the old keys in force and says in the log what is wrong with it. Limits go to Redis at the start, after
 * each reload and when Redis was away; a tenant that left the file is without limits again.
 *
 *     tenants_new(app, &app->tenants, err)               at the start; a broken file is then an error
 *     tenants_push(app->tenants)                         Redis is ready
 *     struct keys_key *who = tenants_find(app->tenants, shown);
 *
 * Lent pointers are good until the loop's next turn: a reload replaces the table.
 */
#ifndef DISPATCHER_TENANTS_H
#define DISPATCHER_TENANTS_H

#include <stdbool.h>
#include <stddef.h>

#include "dispatcher/app.h"
#include "dispatcher/keys.h"

struct tenants;

int tenants_new(struct app *app, struct tenants **ret, struct err *err);
void tenants_free(struct tenants *t); /* after backend_free; the loop must turn once more. NULL is fine */

bool tenants_need_key(const struct tenants *t); /* false: no keys are set, everybody may */
struct keys_key *tenants_find(const struct tenants *t, const char *shown); /* NULL: unknown; may be expired */
/* Limits and webhook secrets; NULL when the file does not have it (or there is no file). */
const struct keys_tenant *tenants_get(const struct tenants *t, const char *name);

void tenants_push(struct tenants *t);

#endif
