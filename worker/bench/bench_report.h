/* bench_report.h -- what was measured, for people, for a page, for programs.
 *
 * The JSON:
 *
 *     {"device": "NVIDIA H100 80GB HBM3", "table": "cuda", "precision": "bf16", "threads": 1, "memory_bytes": ...,
 *      "driver": "580.65", "build": "3f2a91c", "time": "2026-01-01T00:00:00.000Z",
 *      "peak": {"source": "NVIDIA's datasheet: H100 SXM", "measured": false, "tflops": 989.5, "gbytes_s": 3350,
 *               "linear_tflops": what a large linear layer reached here, "copy_gbytes_s": and a large copy},
 *      "rows": [{"op": "linear", "where": "dit qkv", "shape": "72639 x 3072 -> 9216", "halved": 0, "ms": 5.9,
 *                "spread": 0.01, "samples": 9, "gflop": 4114, "tflops": 697, "compute_share": 0.70,
 *                "gbytes": 3.6, "gbytes_s": 610, "memory_share": 0.18, "bound": "compute", "goal": null,
 *                "skipped": null}, ...],
 *      "step": {"dims": "full", "width": 704, "height": 768, "frames": 129, "tokens": 72639,
 *               "weights": "streamed, compact", "budget_mib": 0, "plan_bytes": ..., "peak_bytes": ...,
 *               "used_bytes": ..., "by_nvml": true, "within_plan": true, "slow_down": null, "note": "",
 *               "rows": as above, with "of": how many of this row a video of these sizes has}}
 *
 * halved: how often sizes were halved so that a call fits the time or the memory. spread: the middle half of the samples
 * lies within (1 +- spread) of the median. bound: by arithmetic intensity against the peak. goal: the share of the peak that
 * is aimed at. A skipped row has its reason and no figures. "step" is there with --step, "rows" is empty without --ops.
 */
#ifndef WORKER_BENCH_BENCH_REPORT_H
#define WORKER_BENCH_BENCH_REPORT_H

#include <stdbool.h>
#include <stdio.h>

#include "common/json.h"
#include "kernels/device.h"
#include "worker/bench/bench_peak.h"
#include "worker/bench/bench_time.h"

struct bench_row {
    char op[24], where[32], shape[64];
    int halved;
    double goal;   /* share of the compute peak; 0: none */
    int of;        /* of the step: times a video has it; 0: not said */
    bool is_heavy; /* multiplies in the device's precision; else f32 */
    struct bench_time time;
    char skipped[160]; /* why; "": it was measured */
};

struct bench_step_result {
    char dims[64];
    int width, height;
    int64_t frames, tokens;
    char weights[48]; /* the transformer's: "streamed, compact" */
    size_t budget, plan_bytes, peak_bytes, used_bytes;
    bool by_nvml, within_plan;
    double slow_down; /* against resident weights; 0: not measured */
    char note[160];   /* what was not measured, and why */
    struct bench_row row[8];
    int n_rows;
};

struct bench_report {
    const struct device *device;
    struct bench_peak peak;
    const struct bench_row *rows;
    int n_rows;
    const struct bench_step_result *step; /* NULL: none */
};

void bench_report_text(const struct bench_report *b, FILE *to);
void bench_report_table(const struct bench_report *b, FILE *to); /* Markdown, as kernels/SPEED.md has it */
json_t *bench_report_json(const struct bench_report *b);         /* owned by the caller; NULL: no memory */

#endif
