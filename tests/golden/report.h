/* report.h -- what one golden case has shown so far; between golden.c and main.c only. */
#ifndef TESTS_GOLDEN_REPORT_H
#define TESTS_GOLDEN_REPORT_H

#include <stdbool.h>

#include "worker/model/ckpt.h"

#define GOLDEN_MAX_OTHERS 8

struct golden_report {
    bool verbose;
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
