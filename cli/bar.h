/* bar.h -- one line on stderr that says where a job is: "denoise 4/10 [######------] 62 %  ETA 3 s". On a
 * terminal the line is redrawn in place; elsewhere a line is written when the stage changes, and every tenth
 * of a stage. */
#ifndef CLI_BAR_H
#define CLI_BAR_H

#include <stdbool.h>
#include <stdint.h>

struct bar {
    bool terminal, off;
    char last[64]; /* stage and tenth that were written last */
    int64_t start_us;
};

struct bar_state {
    const char *what;    /* "queued", "denoise" */
    int64_t position;    /* jobs before it; < 0: not waiting */
    int64_t step, total; /* total 0: no steps */
    double eta_s;        /* until it ends, or starts when it waits; < 0: not known */
};

void bar_init(struct bar *b, bool off);
void bar_show(struct bar *b, const struct bar_state *s);
/* Ends the line with a last word ("done", "cancelled"). */
void bar_end(struct bar *b, const char *word);

#endif
