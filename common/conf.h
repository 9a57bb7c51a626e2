/* conf.h -- every setting, once: environment variable, configuration file, --flag, --help text and the
 * README's table.
 *
 * Setting `web_port` is TROUPE_WEB_PORT in the environment, `web_port = 7860` in the file (--config FILE or
 * TROUPE_CONFIG; '#' starts a comment), and --web-port 7860 or --web-port=7860 as a flag. Flags win over the
 * environment, the environment over the file, the file over the defaults. A yes/no setting's flag may stand
 * alone;
 * --no-NAME is its opposite.
 *
 *     struct conf conf;
 *     enum conf_action todo;
 *     if ((rc = conf_load(&conf, CONF_WORKER, argc, argv, &todo, &err)) < 0) ...       the sentence names the
 * flag if (todo == CONF_HELP) conf_help(CONF_WORKER, "troupe-worker", "runs jobs", &buf) ...
 */
#ifndef COMMON_CONF_H
#define COMMON_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/json.h"

enum { CONF_DISPATCHER = 1, CONF_WORKER = 2, CONF_CLI = 4, CONF_ALL = 7 };

#define CONF_TEXT_MAX 512

/* type, name, default (text), min, max, other environment names (by spaces), programs, help */
#define CONF_MAP(X)                                                                                          \
    X(STR, redis, "redis://127.0.0.1:6379/0", 0, 0, "", CONF_ALL,                                            \
      "where Redis is: redis://[user:password@]host[:port][,...][/db], rediss:// with TLS, "                 \
      "redis+sentinel://host[,...]/master, unix:///path/to/socket")                                          \
    X(STR, queue, "avatar", 0, 0, "", CONF_ALL, "name of the queue; its keys in Redis begin with {name}")    \
    X(STR, volume, "./volume", 0, 0, "", CONF_ALL, "folder for inputs and results, shared by all programs")  \
    X(STR, ckpts, "./ckpts", 0, 0, "", CONF_WORKER | CONF_CLI,                                               \
      "folder of the weights, in the published layout")                                                      \
    X(INT, port, "8000", 0, 65535, "FASTAPI_PORT PORT", CONF_DISPATCHER | CONF_CLI,                          \
      "HTTP port; 0: any free one")                                                                          \
    X(INT, web_port, "7860", -1, 65535, "", CONF_DISPATCHER | CONF_CLI,                                      \
      "second port, for the page; -1: none")                                                                 \
    X(STR, bind, "127.0.0.1", 0, 0, "", CONF_DISPATCHER | CONF_CLI, "address to listen on")                  \
    X(STR, port_file, "", 0, 0, "", CONF_DISPATCHER, "file that gets the port's number, once listening")     \
    X(INT, max_connections, "4096", 1, 1000000, "", CONF_DISPATCHER,                                         \
      "open connections; more wait to be accepted")                                                          \
    X(INT, max_header_bytes, "5120", 4096, 262144, "", CONF_DISPATCHER,                                      \
      "a request's line and headers together; an open connection takes about as much memory (bytes)")        \
    X(INT, idle_s, "75", 1, 3600, "", CONF_DISPATCHER,                                                       \
      "a silent connection is closed after so long (seconds)")                                               \
    X(NUM, redis_wait_s, "5", 0.1, 3600, "", CONF_DISPATCHER | CONF_WORKER,                                  \
      "at the start, how long to wait for Redis (seconds)")                                                  \
    X(BOOL, insecure, "no", 0, 1, "", CONF_DISPATCHER | CONF_CLI,                                            \
      "serve without keys on an address that others can reach")                                              \
    X(STR, api_key, "", 0, 0, "", CONF_DISPATCHER | CONF_CLI,                                                \
      "keys that clients must show, separated by commas")                                                    \
    X(STR, keys, "", 0, 0, "", CONF_DISPATCHER,                                                              \
      "file of tenants and their keys (JSON, see README); read again when it changes")                       \
    X(NUM, rate_reads_per_s, "0", 0, 1000000, "", CONF_DISPATCHER,                                           \
      "calls a second that one key may make here, submits apart; more get 429; 0: no limit")                 \
    X(INT, rate_reads_burst, "100", 1, 1000000, "", CONF_DISPATCHER,                                         \
      "and how many at once, with --rate-reads-per-s")                                                       \
    X(STR, cors, "", 0, 0, "", CONF_DISPATCHER, "origin that browsers may call from; * for any")             \
    X(INT, lease_s, "15", 1, 600, "", CONF_WORKER,                                                           \
      "a worker not heard of for so long has lost its job (seconds)")                                        \
    X(NUM, renew_s, "4", 0.1, 200, "", CONF_WORKER, "how often a worker renews its lease (seconds)")         \
    X(NUM, drain_s, "5", 0, 3600, "", CONF_WORKER,                                                           \
      "a stopping worker finishes its job if it needs no longer than this, else gives it back (seconds)")    \
    X(INT, max_fails, "3", 1, 100, "", CONF_WORKER,                                                          \
      "attempts of a job that fails for a reason that may pass")                                             \
    X(NUM, backoff_s, "2", 0, 3600, "", CONF_WORKER,                                                         \
      "wait before the second attempt; doubles each time (seconds)")                                         \
    X(STR, worker_name, "", 0, 0, "", CONF_WORKER,                                                           \
      "name in the list of workers; default: host and process number")                                       \
    X(STR, labels, "", 0, 0, "", CONF_WORKER | CONF_CLI,                                                     \
      "words that jobs may ask for in a worker, separated by commas: h100,eu")                               \
    X(STR, device, "cpu", 0, 0, "", CONF_WORKER | CONF_CLI, "cpu, cpu_ref or cuda[:N]")                      \
    X(STR, round, "bf16", 0, 0, "", CONF_WORKER | CONF_CLI,                                                  \
      "latents after each step: bf16, as the reference rounds them, or f32 for tight comparisons")           \
    X(STR, precision, "auto", 0, 0, "", CONF_WORKER | CONF_CLI,                                              \
      "what is multiplied: f32, bf16, or fp8 (GPUs from compute capability 8.9 on); auto: bf16 on cuda, f32 on a CPU") \
    X(BOOL, fp8, "no", 0, 1, "", CONF_WORKER | CONF_CLI, "use the fp8 transformer of the checkpoint folder") \
    X(BOOL, gang, "no", 0, 1, "", CONF_WORKER, "take part in jobs that several devices of this host share")  \
    X(STR, noise, "", 0, 0, "", CONF_WORKER,                                                                 \
      "every job takes its noise from this safetensors file (comparisons)")                                  \
    X(STR, dump, "", 0, 0, "", CONF_WORKER,                                                                  \
      "every job writes its intermediate tensors to this safetensors file")                                  \
    X(BOOL, shadow, "no", 0, 1, "", CONF_WORKER,                                                             \
      "check every op against the CPU and stop at the first that differs: slow")                             \
    X(INT, max_memory_mib, "0", 0, 1073741824.0, "", CONF_WORKER,                                            \
      "memory that a job may take; on a GPU all that the worker may; 0: what is free (MiB)")                \
    X(STR, weights, "auto", 0, 0, "", CONF_WORKER | CONF_CLI,                                                \
      "on a GPU: resident, there for good; staged, a stage's at a time; streamed, a few layers at a time; auto: what fits") \
    X(BOOL, pin_weights, "no", 0, 1, "", CONF_WORKER | CONF_CLI,                                             \
      "keep pinned copies of staged or streamed weights in host memory: faster, as much memory more")        \
    X(INT, threads, "0", 0, 1024, "", CONF_WORKER | CONF_CLI,                                                \
      "CPU threads; 0: all cores this process may use")                                                      \
    X(STR, durability, "default", 0, 0, "", CONF_DISPATCHER,                                                 \
      "a submit is answered: default, once Redis has it; disk, once on its disk; replica, once a replica has it") \
    X(INT, max_queue, "1000", 1, 1000000, "", CONF_DISPATCHER,                                               \
      "jobs that may wait; more are refused with 429")                                                       \
    X(NUM, ttl_s, "604800", 1, 315360000, "", CONF_DISPATCHER,                                               \
      "how long ended jobs and results are kept (seconds)")                                                  \
    X(INT, max_image_bytes, "33554432", 1024, 4294967296.0, "", CONF_DISPATCHER | CONF_CLI,                  \
      "largest image (bytes)")                                                                               \
    X(INT, max_audio_bytes, "209715200", 1024, 4294967296.0, "", CONF_DISPATCHER | CONF_CLI,                 \
      "largest audio (bytes)")                                                                               \
    X(INT, max_json_bytes, "352321536", 1024, 4294967296.0, "", CONF_DISPATCHER,                             \
      "largest JSON body (bytes)")                                                                           \
    X(NUM, max_audio_s, "600", 1, 86400, "", CONF_WORKER, "longest audio (seconds)")                         \
    X(STR, default_size, "704", 0, 0, "", CONF_DISPATCHER | CONF_CLI,                                        \
      "size when a job names none: 704, or WxH")                                                             \
    X(INT, default_steps, "50", 1, 100, "", CONF_DISPATCHER | CONF_CLI,                                      \
      "num_inference_steps when a job names none")                                                           \
    X(INT, default_frames, "0", 0, 100000, "", CONF_DISPATCHER | CONF_CLI,                                   \
      "num_frames when a job names none; 0: as long as the audio")                                           \
    X(NUM, default_guidance, "7.5", 0, 20, "", CONF_DISPATCHER | CONF_CLI,                                   \
      "guidance_scale when a job names none")                                                                \
    X(NUM, default_shift, "5", 0.1, 20, "", CONF_DISPATCHER | CONF_CLI, "flow_shift when a job names none")  \
    X(INT, default_seed, "-1", -1, 9007199254740992.0, "", CONF_DISPATCHER | CONF_CLI,                       \
      "seed when a job names none; -1: drawn, and told with the result")                                     \
    X(STR, default_prompt, "", 0, 0, "", CONF_DISPATCHER | CONF_CLI, "prompt when a job names none")         \
    X(STR, public_url, "", 0, 0, "", CONF_DISPATCHER,                                                        \
      "where clients reach the dispatchers, as https://video.example; makes the links in webhooks whole")    \
    X(STR, webhook_secret, "", 0, 0, "", CONF_DISPATCHER,                                                    \
      "what signs webhooks: whsec_ and base64, several separated by commas, the newest first")               \
    X(BOOL, webhook_unsigned, "no", 0, 1, "", CONF_DISPATCHER,                                               \
      "send webhooks without a signature where there is no secret")                                          \
    X(STR, webhook_allow, "", 0, 0, "", CONF_DISPATCHER,                                                     \
      "addresses, ranges (10.1.0.0/16) and host names that webhooks may go to though they are not public")   \
    X(NUM, webhook_timeout_s, "15", 0.1, 300, "", CONF_DISPATCHER,                                           \
      "a webhook's receiver must have answered after so long (seconds)")                                     \
    X(INT, webhook_parallel, "64", 1, 1000, "", CONF_DISPATCHER, "webhooks on their way at once")            \
    X(STR, log_format, "kv", 0, 0, "", CONF_ALL, "log lines as kv (key=value) or json")                      \
    X(STR, log_level, "info", 0, 0, "", CONF_ALL, "debug, info, warn or error")

#define CONF_C_STR(name) char name[CONF_TEXT_MAX];
#define CONF_C_INT(name) int64_t name;
#define CONF_C_NUM(name) double name;
#define CONF_C_BOOL(name) bool name;

struct conf {
#define X(type, name, initial, min, max, env, programs, help) CONF_C_##type(name)
    CONF_MAP(X)
#undef X
};

enum conf_action { CONF_RUN, CONF_HELP, CONF_HELP_TABLE, CONF_VERSION };

void conf_init(struct conf *c); /* defaults */
/* All four sources. Positional words and unknown flags are errors (the nearest known flag is named).
 * ERR_INVALID. */
int conf_load(struct conf *c, unsigned program, int argc, char **argv, enum conf_action *ret,
              struct err *err);

/* The steps of conf_load, for a program with its own flags besides (cli). file NULL: TROUPE_CONFIG, or none.
 */
int conf_environment(struct conf *c, unsigned program, const char *file, struct err *err);
/* Takes argv[*i] (and its value) if it is a setting's flag: 1 and *i stands on the next word; 0: not ours. */
int conf_flag(struct conf *c, unsigned program, int argc, char **argv, int *i, struct err *err);
/* One setting by name ("web_port" or "web-port"). ERR_INVALID names it, the value, and what is allowed. */
int conf_set(struct conf *c, const char *name, const char *value, struct err *err);
/* The setting of these programs that was most likely meant ("web_port"); NULL when none is close. */
const char *conf_nearest(unsigned programs, const char *name);
/* A setting's value as text, for handing on to a child program's environment. ERR_NOTFOUND. */
int conf_get(const struct conf *c, const char *name, char *ret, size_t size);
/* Calls fn for each setting whose value differs from its default, as ("TROUPE_PORT", "8000"). */
void conf_each(const struct conf *c, unsigned programs,
               void (*fn)(void *arg, const char *env, const char *value), void *arg);

/* {"size": ..., "num_inference_steps": ..., ...} from the default_* settings, for schema_apply. Owned by the
 * caller. */
json_t *conf_defaults(const struct conf *c);

/* "  --port N    HTTP port ... [8000; TROUPE_PORT, FASTAPI_PORT, PORT]" for each setting of the program. */
int conf_help(unsigned program, const char *name, const char *what, struct buf *out);
int conf_help_table(unsigned programs, struct buf *out); /* the README's Markdown table */

#endif
