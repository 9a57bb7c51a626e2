/* report.h -- what one golden case has shown so far; between golden.c and main.c only. */
#ifndef TESTS_GOLDEN_REPORT_H
#define TESTS_GOLDEN_REPORT_H

#include <stdbool.h>

#include "worker/model/ckpt.h"

#define GOLDEN_MAX_OTHERS 8

enum { GOLDEN_MAX_KEPT = 64 };

/* What a case made on one rank, by name. */
struct golden_kept {
    int n;
    struct golden_kept_one {
        char name[64];
        double *value; /* owned */
        int64_t n;
    } one[GOLDEN_MAX_KEPT];
};

struct golden_report {
    bool verbose;
    double rms;                     /* the bound of tensors as a whole; 0: each element has the twin's */
    struct golden_kept *keep;       /* borrowed: to be filled; NULL: not wanted */
    const struct golden_kept *kept; /* borrowed: to be compared with; NULL: nothing */
    double apart;                   /* largest difference to it */
    char apart_name[128];
    unsigned char *checked; /* owned by main: one byte a stored tensor */
    int n_checks;
    double worst; /* largest error as a share of its bound */
    char worst_name[128];
    bool bound_set; /* golden_bound */
    double atol, rtol;
    struct ckpt *others[GOLDEN_MAX_OTHERS]; /* owned */
    int n_others;
};

#endif
