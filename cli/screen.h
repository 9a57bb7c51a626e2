/* screen.h -- a terminal that is drawn over in place: the alternate screen, single keys, its size of the moment.
 *
 *     if (screen_open(&s)) {                     false: no terminal (or TERM=dumb): print once instead
 *         while (screen_key(1000) != 'q') {  waits at most so long for a key; 0: none came
 *             screen_size(&s);                   s.width, s.height now
 *             screen_show(&text);                lines ended by '\n', already cut to the width
 *         }
 *         screen_close(&s);
 *     }
 *
 * ECMA-48 sequences that every terminal of the last forty years knows. A stop by a signal (cli_catch_signals) comes out of
 * screen_key as SCREEN_STOP; a change of the window's size as SCREEN_SIZE. Ctrl-Z is off while it is open.
 */
#ifndef CLI_SCREEN_H
#define CLI_SCREEN_H

#include <stdbool.h>
#include <termios.h>

#include "common/buf.h"

enum { SCREEN_STOP = -1, SCREEN_SIZE = -2 };

struct screen {
    struct termios before;
    int width, height;
    bool colors; /* NO_COLOR is not set */
};

bool screen_open(struct screen *s);
void screen_close(struct screen *s);
void screen_size(struct screen *s);
int screen_key(int timeout_ms);
void screen_show(const struct buf *text);

#endif
