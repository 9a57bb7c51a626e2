#include "worker/model/llava.h"

#include "common/mem.h"
#include "worker/model/model_config.h"
#include "worker/model/tokenizer_llama.h"

enum { MAX = TOKENIZER_LLAMA_MAX, CROP = TOKENIZER_LLAMA_CROP, N_UNUSED = 2, PIXELS = 336 };

/* field, name, dimensions */
#define LLAVA_PROJECTOR(W)                                                                                   \
    W(linear1_w, "multi_modal_projector.linear_1.weight", 2, H, C)                                           \
    W(linear1_b, "multi_modal_projector.linear_1.bias", 1, H)                                                \
    W(linear2_w, "multi_modal_projector.linear_2.weight", 2, H, H)                                           \
    W(linear2_b, "multi_modal_projector.linear_2.bias", 1, H)

struct llava {
    struct llava_config config;
    struct clip_vision vision;
    struct llama text;
    int64_t n_image; /* rows that stand for <image> */
    struct pool *pool; /* borrowed; NULL: all weights are there */
    int place;         /* block of vision tower and projector */
#define W(field, ...) struct tensor field;
    LLAVA_PROJECTOR(W)
#undef W
};

/* ---- opening ---- */

static int fill(struct model_config *c, struct llava_config *ret)
{
    struct llava_config config = {.act = model_config_act(c, "projector_hidden_act", ACT_GELU_ERF),
                                  .image_id = model_config_int(c, "image_token_index", -1, 0, INT32_MAX)};
    model_config_enter(c, "text_config");
    config.text = (struct llama_config){
        .layers = model_config_int(c, "num_hidden_layers", 32, N_UNUSED + 1, 1000),
        .heads = model_config_int(c, "num_attention_heads", 32, 1, 1024),
        .key_heads = model_config_int(c, "num_key_value_heads", 0, 1, 1024),
        .eps = model_config_real(c, "rms_norm_eps", 1e-6, 0, 1),
        .theta = model_config_real(c, "rope_theta", 10000, 1, 1e9),
    };
    model_config_leave(c);
    model_config_enter(c, "vision_config");
    config.vision = (struct clip_vision_config){
        .size = model_config_int(c, "image_size", PIXELS, PIXELS, PIXELS),
        .layers = model_config_int(c, "num_hidden_layers", 24, 2, 1000),
        .heads = model_config_int(c, "num_attention_heads", 16, 1, 1024),
        .eps = model_config_real(c, "layer_norm_eps", 1e-5, 0, 1),
        .act = model_config_act(c, "hidden_act", ACT_QUICK_GELU),
    };
    int rc = model_config_done(c);
    if (rc == 0)
        *ret = config;
    return rc;
}

int llava_config_read(struct llava_config *ret, const char *path, struct err *err)
{
    struct model_config c;
    model_config_read(&c, path, err);
    return fill(&c, ret);
}

int llava_config_parse(struct llava_config *ret, const char *text, size_t len, struct err *err)
{
    struct model_config c;
    model_config_parse(&c, text, len, err);
    return fill(&c, ret);
}

static int bind_all(struct llava *l, struct binder *b, struct err *err)
{
    int rc = clip_vision_bind(&l->vision, b, &l->config.vision, "vision_tower.vision_model", err);
    if (rc == 0)
        rc = llama_bind(&l->text, b, &l->config.text, "language_model.model", N_UNUSED, err);
    if (rc < 0)
        return rc;
    const int64_t H = l->text.H, C = l->vision.C;
#define W(field, name, n_dims, ...) binder_bind(b, &l->field, name, n_dims, SHAPE(__VA_ARGS__));
    LLAVA_PROJECTOR(W)
#undef W
    bind_ignore(b, "language_model.lm_head.");
    l->n_image = l->vision.side * l->vision.side;
    return 0;
}

int llava_open(struct llava **ret, const struct llava_config *config, struct ckpt *c, struct device *device,
               struct err *err)
{
    struct llava *l = mem_zalloc(sizeof *l);
    if (!l)
        return err_set(err, ERR_NOMEM, "llava: no memory");
    struct binder b;
    l->config = *config;
    binder_init(&b, c, device, "llava");
    l->pool = ckpt_place(c)->pool;
    l->place = b.block;
    int rc = bind_all(l, &b, err);
    int finished = binder_finish(&b, true, err);
    rc = rc < 0 ? rc : finished;
    if (rc < 0)
        llava_close(l);
    else
        *ret = l;
    return rc;
}

void llava_close(struct llava *l)
{
    if (!l)
        return;
    clip_vision_done(&l->vision);
    llama_done(&l->text);
    mem_free(l);
}

int64_t llava_rows(const struct llava *l)
{
    return MAX - CROP + l->n_image - 1;
}

int64_t llava_width(const struct llava *l)
{
    return l->text.H;
}

/* ---- forward ---- */

struct tensor llava_vision(struct run *r, const struct llava *l, struct tensor pixels,
                           struct tensor *ret_vision)
{
    run_push(r, "llava");
    pool_take(r, l->pool, l->place);
    struct tensor y = run_new(r, DTYPE_F32, 2, SHAPE(l->n_image, l->text.H));
    size_t mark = run_mark(r);
    struct tensor x = clip_vision_forward(r, &l->vision, pixels);
    struct tensor h = op_linear(r, x, l->linear1_w, l->linear1_b, l->config.act);
    op_linear_into(r, y, h, l->linear2_w, l->linear2_b, ACT_NONE);
    pool_next(r, l->pool, l->place, -1);
    if (ret_vision)
        *ret_vision = x;
    else
        run_rewind(r, mark);
    run_pop(r);
    return y;
}

/* The ids must be usable, and exactly the last one <image>. */
static bool check_ids(struct run *r, const struct llava *l, const int32_t *ids, int n)
{
    if (n <= CROP || n > MAX) {
        run_fail(r, ERR_SHAPE, "a prompt of %d tokens with its template; %d to %d are allowed", n, CROP + 1,
                 MAX);
        return false;
    }
    for (int i = 0; ids && i < n; i++) {
        bool is_image = l->config.image_id < 0 ? i + 1 == n : ids[i] == l->config.image_id;
        if (is_image != (i + 1 == n)) {
            run_fail(r, ERR_INVALID, "token %d of %d %s the image token: the last one alone must be it", i, n,
                     is_image ? "is" : "is not");
            return false;
        }
    }
    return true;
}

/* Text, image and, if there is padding, one row of zeros -> [S, H] */
static struct tensor merge(struct run *r, const struct llava *l, const int32_t *ids, int n,
                           struct tensor image)
{
    struct tensor zero = run_new(r, DTYPE_F32, 2, SHAPE(1, l->text.H));
    op_fill(r, zero, 0);
    struct tensor part[3] = {llama_embed(r, &l->text, ids, n - 1), image, zero};
    return op_concat(r, part, n < MAX ? 3 : 2, 0);
}

/* The rows of a whole padded prompt out of the computed ones: real rows, then the last one again and again.
 */
static struct tensor spread(struct run *r, const struct llava *l, int64_t n_real)
{
    const int64_t rows = llava_rows(l);
    int32_t *at = mem_alloc((size_t)rows * sizeof *at);
    if (!at)
        run_fail(r, ERR_NOMEM, "no memory for %lld rows", (long long)rows);
    for (int64_t i = 0; at && i < rows; i++)
        at[i] = (int32_t)(i < n_real ? i : n_real);
    struct tensor idx = run_write(r, at, DTYPE_I32, 1, SHAPE(rows));
    mem_free(at);
    return idx;
}

struct tensor llava_text(struct run *r, const struct llava *l, const int32_t *ids, int n, struct tensor image)
{
    const int64_t real = n - 1 + l->n_image; /* rows that are no padding */
    struct tensor states = run_new(r, DTYPE_F32, 2, SHAPE(llava_rows(l), l->text.H));
    if (!check_ids(r, l, ids, n))
        return states;
    size_t mark = run_mark(r);
    run_push(r, "llava");
    struct tensor x = llama_forward(r, &l->text, merge(r, l, ids, n, image), real, CROP);
    op_copy_into(r, states, op_gather(r, x, 0, spread(r, l, real - CROP)));
    run_pop(r);
    run_rewind(r, mark);
    return states;
}

void llava_mask(const struct llava *l, int n, uint8_t *ret)
{
    const int64_t rows = llava_rows(l);
    for (int64_t i = 0; i < rows; i++)
        ret[i] = i < n - CROP || i >= MAX - CROP;
}
