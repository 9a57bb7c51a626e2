#include "cli/screen.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"

enum { SMALL_WIDTH = 20, SMALL_HEIGHT = 4, BIG = 1000 };

static volatile sig_atomic_t resized;

static void on_resize(int sig)
{
    (void)sig;
    resized = 1;
}

/* All of it, unless the terminal is gone. */
static void put(const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t k = write(1, bytes, n);
        if (k < 0 && errno != EINTR)
            return;
        bytes += k > 0 ? k : 0;
        n -= k > 0 ? (size_t)k : 0;
    }
}

static void say(const char *sequence)
{
    put(sequence, strlen(sequence));
}

static int within(int n, int low)
{
    return n < low ? low : n > BIG ? BIG : n;
}

void screen_size(struct screen *s)
{
    struct winsize w = {0};
    resized = 0;
    if (ioctl(1, TIOCGWINSZ, &w) < 0 || !w.ws_col || !w.ws_row)
        w = (struct winsize){.ws_col = 80, .ws_row = 24};
    s->width = within(w.ws_col, SMALL_WIDTH);
    s->height = within(w.ws_row, SMALL_HEIGHT);
}

bool screen_open(struct screen *s)
{
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    struct sigaction a = {.sa_handler = on_resize};
    if (!isatty(0) || !isatty(1) || !term || strcmp(term, "dumb") == 0 || tcgetattr(0, &s->before) < 0)
        return false;
    struct termios raw = s->before;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    raw.c_cc[VSUSP] = _POSIX_VDISABLE;
    sigaction(SIGWINCH, &a, NULL);
    tcsetattr(0, TCSAFLUSH, &raw);
    s->colors = !no_color || !*no_color;
    screen_size(s);
    say("\033[?1049h\033[?25l\033[2J"); /* the other screen, no cursor, empty */
    return true;
}

void screen_close(struct screen *s)
{
    say("\033[0m\033[?25h\033[?1049l");
    tcsetattr(0, TCSAFLUSH, &s->before);
}

int screen_key(int timeout_ms)
{
    struct pollfd p = {.fd = 0, .events = POLLIN};
    unsigned char byte = 0;
    if (cli_stopped)
        return SCREEN_STOP;
    int n = resized ? 0 : poll(&p, 1, timeout_ms);
    if (cli_stopped || (n > 0 && read(0, &byte, 1) != 1)) /* the terminal hung up, and nohup kept the signal away */
        return SCREEN_STOP;
    if (resized)
        return SCREEN_SIZE;
    return byte;
}

/* Line by line over what stood there: nothing flickers. */
void screen_show(const struct buf *text)
{
    struct buf out;
    const char *line = text->data ? text->data : "";
    buf_init(&out, 1 << 20);
    buf_puts(&out, "\033[H");
    while (*line) {
        size_t n = strcspn(line, "\n");
        buf_add(&out, line, n);
        buf_puts(&out, "\033[K");
        line += n + (line[n] == '\n');
        if (*line)
            buf_puts(&out, "\r\n");
    }
    buf_puts(&out, "\033[J");
    if (out.data)
        put(out.data, out.len);
    buf_done(&out);
}
