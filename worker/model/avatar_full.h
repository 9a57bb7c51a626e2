/* avatar_full.h -- the published model's names, types, shapes and configurations, without its weights: for
 * planning and for the test that all of them bind. The bytes are made from full/ at build time.
 */
#ifndef WORKER_MODEL_AVATAR_FULL_H
#define WORKER_MODEL_AVATAR_FULL_H

#include <stddef.h>

#define AVATAR_FULL_FILES(X)                                                                                 \
    X(dit_tsv)                                                                                               \
    X(vae_tsv)                                                                                               \
    X(vae_json)                                                                                              \
    X(llava_tsv)                                                                                             \
    X(llava_json)                                                                                            \
    X(clip_tsv)                                                                                              \
    X(clip_json)                                                                                             \
    X(whisper_tsv)                                                                                           \
    X(whisper_json)

#define X(name)                                                                                              \
    extern const unsigned char avatar_full_##name[];                                                         \
    extern const size_t avatar_full_##name##_len;
AVATAR_FULL_FILES(X)
#undef X

#endif
