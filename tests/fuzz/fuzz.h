/* fuzz.h -- the entry of a fuzz target, in libFuzzer's form.
 *
 * A target is one file with this function. With clang it becomes a libFuzzer program; everywhere it is also
 * linked with fuzz_main.c, which runs the seeds and a few seconds of simple mutations, always the same ones
 * in the same order.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
