#include "worker/model/vae_config.h"

#include "common/json.h"

static int vae_config_int(json_t *o, const char *key, int64_t otherwise, int64_t min, int64_t max,
                          int64_t *ret, struct err *err)
{
    json_t *v = json_object_get(o, key);
    if (json_is_array(v)) /* sample_size may be a list of equal numbers */
        v = json_array_get(v, 0);
    if (v == NULL && otherwise >= min) {
        *ret = otherwise;
        return 0;
    }
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
        return err_set(err, ERR_FORMAT, "VAE config: %s must be a whole number between %lld and %lld", key,
                       (long long)min, (long long)max);
    *ret = json_integer_value(v);
    return 0;
}

static int vae_config_channels(json_t *o, struct vae_config *c, struct err *err)
{
    json_t *list = json_object_get(o, "block_out_channels");
    size_t n = json_array_size(list);

    if (n < 2 || n > VAE_CONFIG_MAX_LEVELS)
        return err_set(err, ERR_FORMAT, "VAE config: block_out_channels must be a list of 2 to %d numbers",
                       VAE_CONFIG_MAX_LEVELS);
    c->n_levels = (int)n;
    for (size_t i = 0; i < n; i++) {
        json_int_t v = json_integer_value(json_array_get(list, i));
        if (v < 1 || v > 1024 || v % c->groups != 0)
            return err_set(err, ERR_FORMAT,
                           "VAE config: block_out_channels[%zu] is %lld: 1 to 1024, a multiple of "
                           "norm_num_groups %d",
                           i, (long long)v, c->groups);
        c->channels[i] = v;
    }
    return 0;
}

static int vae_config_scaling(json_t *o, struct vae_config *c, struct err *err)
{
    json_t *v = json_object_get(o, "scaling_factor");

    if (!json_is_number(v) || !(json_number_value(v) > 0) || json_number_value(v) > 1e6)
        return err_set(err, ERR_FORMAT, "VAE config: scaling_factor must be a number above 0");
    c->scaling = json_number_value(v);
    return 0;
}

static int vae_config_bools(json_t *o, struct vae_config *c, struct err *err)
{
    json_t *act = json_object_get(o, "act_fn");

    if (act != NULL && (!json_is_string(act) || json_string_value(act)[0] != 's'))
        return err_set(err, ERR_FORMAT, "VAE config: act_fn must be silu");
    if (json_is_false(json_object_get(o, "mid_block_add_attention")))
        return err_set(err, ERR_FORMAT, "VAE config: mid_block_add_attention false is not supported");
    if (json_is_true(json_object_get(o, "disable_causal_conv")))
        return err_set(err, ERR_FORMAT, "VAE config: disable_causal_conv true is not supported");
    c->mid_causal = json_is_true(json_object_get(o, "mid_block_causal_attn"));
    return 0;
}

static int vae_config_fill(json_t *o, struct vae_config *c, struct err *err)
{
    int64_t layers = 0, groups = 0, space = 0, time = 0;
    const struct {
        const char *key;
        int64_t otherwise, min, max, *ret;
    } list[] = {
        {"layers_per_block", -1, 1, VAE_CONFIG_MAX_LAYERS - 1, &layers},
        {"norm_num_groups", 32, 1, 1024, &groups},
        {"in_channels", 3, 3, 3, &c->in_channels},
        {"latent_channels", -1, 1, 64, &c->latent_channels},
        {"spatial_compression_ratio", 8, 8, 8, &space},
        {"time_compression_ratio", 4, 4, 4, &time},
        {"sample_size", -1, 32, 8192, &c->tile_size},
        {"sample_tsize", 64, 16, 8192, &c->tile_frames},
    };
    int rc;

    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
        rc = vae_config_int(o, list[i].key, list[i].otherwise, list[i].min, list[i].max, list[i].ret, err);
        if (rc < 0)
            return rc;
    }
    c->layers = (int)layers;
    c->groups = (int)groups;
    c->space_ratio = (int)space;
    c->time_ratio = (int)time;
    if ((rc = vae_config_channels(o, c, err)) < 0 || (rc = vae_config_scaling(o, c, err)) < 0)
        return rc;
    return vae_config_bools(o, c, err);
}

static int vae_config_from(json_t *o, struct vae_config *ret, struct err *err)
{
    struct vae_config c = {0};
    int rc = json_is_object(o) ? vae_config_fill(o, &c, err)
                               : err_set(err, ERR_FORMAT, "VAE config: not an object");

    if (rc == 0)
        *ret = c;
    return rc;
}

int vae_config_parse(const char *text, size_t len, struct vae_config *ret, struct err *err)
{
    json_t *o = NULL;
    int rc = json_parse(text, len, 8, &o, err);

    if (rc == 0)
        rc = vae_config_from(o, ret, err);
    json_decref(o);
    return rc;
}

int vae_config_read(const char *path, struct vae_config *ret, struct err *err)
{
    json_t *o = NULL;
    int rc = json_read_file(path, 1 << 20, &o, err);

    if (rc == 0)
        rc = vae_config_from(o, ret, err);
    json_decref(o);
    return rc;
}

static int vae_config_log2(int n)
{
    int k = 0;
    while (n > 1) {
        n /= 2;
        k++;
    }
    return k;
}

bool vae_config_strides(const struct vae_config *c, int level, int ret_strides[3])
{
    bool last = level == c->n_levels - 1;
    bool space = level < vae_config_log2(c->space_ratio);
    bool time = !last && level >= c->n_levels - 1 - vae_config_log2(c->time_ratio);

    ret_strides[0] = time ? 2 : 1;
    ret_strides[1] = ret_strides[2] = space ? 2 : 1;
    return space || time;
}
