/* doctor: looks at this machine and says what would stop a job here, and what to do about it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/cluster.h"
#include "cli/http.h"
#include "common/str.h"

struct finding {
    json_t *list; /* owned: [{what, ok, text}] */
    int n_bad;
};

static void note(struct finding *f, const char *what, bool ok, const char *text)
{
    json_array_append_new(f->list, json_pack("{s:s, s:b, s:s}", "what", what, "ok", ok, "text", text));
    f->n_bad += !ok;
}

static void look_program(struct finding *f, const char *name, const char *package)
{
    char path[1024];
    struct err err = {0};
    bool ok = cluster_find(name, package, path, sizeof path, &err) == 0;
    note(f, name, ok, ok ? path : err.text);
}

static void look_ckpts(struct finding *f, const struct cli *c)
{
    static const char *const parts[] = {
        "hunyuan-video-t2v-720p/transformers", "hunyuan-video-t2v-720p/vae/config.json",
        "llava_llama_image/config.json", "text_encoder_2/config.json", "whisper-tiny/config.json"};
    char path[1200], text[1400];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (str_path(path, sizeof path, c->conf.ckpts, parts[i]) == 0 && access(path, R_OK) == 0)
            continue;
        str_format(text, sizeof text, "%s is missing: --ckpts names the folder of the weights", path);
        note(f, "weights", false, text);
        return;
    }
    note(f, "weights", true, c->conf.ckpts);
}

static void look_volume(struct finding *f, const struct cli *c)
{
    struct statvfs s;
    char text[700], size[32];
    if (statvfs(c->conf.volume, &s) != 0) {
        str_format(text, sizeof text, "%s: %s: it is made by `troupe up`, or name another with --volume",
                   c->conf.volume, strerror(errno));
        note(f, "volume", errno == ENOENT, text);
        return;
    }
    uint64_t left = (uint64_t)s.f_bavail * s.f_frsize;
    bool writable = access(c->conf.volume, W_OK) == 0;
    str_format(text, sizeof text, "%s: %s free%s", c->conf.volume, str_bytes(size, sizeof size, left),
               writable ? "" : ", but it cannot be written");
    note(f, "volume", writable && left > (uint64_t)256 << 20, text);
}

static void look_server(struct finding *f, const struct cli *c)
{
    struct err err = {0};
    json_t *v = NULL;
    int rc = http_json(c, "GET", "/readyz", NULL, 5, &v, &err);
    note(f, "dispatcher", true, rc == 0 ? c->server : "none runs here now (troupe up starts one)");
    json_decref(v);
}

static void print(const struct cli *c, struct finding *f)
{
    size_t i;
    json_t *v;
    if (c->json) {
        cli_print_json(json_pack("{s:b, s:O}", "ok", f->n_bad == 0, "findings", f->list));
        return;
    }
    json_array_foreach(f->list, i, v)
        printf("%-4s %-18s %s\n", json_is_true(json_object_get(v, "ok")) ? "ok" : "BAD",
               json_string_value(json_object_get(v, "what")), json_string_value(json_object_get(v, "text")));
}

int doctor_command(struct cli *c, int argc, char **argv)
{
    static const struct arg own[] = {{0}};
    struct args_rest r = {0};
    struct err err = {0};
    struct finding f = {.list = json_array()};
    int rc = args_read(c, argc, argv, own, false, 0, &r, &err);
    if (rc == 0 && r.help) {
        args_help(c, "[options]", "Looks at this machine and says what would stop a job.", own, false);
    } else if (rc == 0) {
        look_program(&f, "redis-server", "apt-get install redis-server");
        look_program(&f, "troupe-dispatcher", "build it: ninja -C build");
        look_program(&f, "troupe-worker", "build it: ninja -C build");
        look_ckpts(&f, c);
        look_volume(&f, c);
        look_server(&f, c);
        print(c, &f);
    }
    json_decref(f.list);
    return rc < 0 ? cli_fail(c, &err) : f.n_bad ? CLI_FAILED : CLI_OK;
}
