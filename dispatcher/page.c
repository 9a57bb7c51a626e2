#include "dispatcher/page.h"

#include <stddef.h>

#include "common/sha256.h"
#include "common/str.h"
#include "dispatcher/reply.h"

/* Made by the build from web/ (common/embed.c). */
extern const unsigned char page_index_html[], page_style_css[], page_page_js[], page_board_js[];
extern const size_t page_index_html_len, page_style_css_len, page_page_js_len, page_board_js_len;

static const char policy[] = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
                             "base-uri 'none'; frame-ancestors 'none'; form-action 'self'";

static void send_page(struct request *r, const char *type, const unsigned char *bytes, size_t n)
{
    char hex[SHA256_HEX] = "", etag[20];
    sha256_bytes(bytes, n, hex);
    str_format(etag, sizeof etag, "%.16s", hex);
    request_set_header(r, "Content-Security-Policy", policy);
    request_set_header(r, "Referrer-Policy", "no-referrer");
    reply_static(r, type, (const char *)bytes, n, etag);
}

void page_index(struct request *r)
{
    send_page(r, "text/html; charset=utf-8", page_index_html, page_index_html_len);
}

void page_style(struct request *r)
{
    send_page(r, "text/css; charset=utf-8", page_style_css, page_style_css_len);
}

void page_script(struct request *r)
{
    send_page(r, "text/javascript; charset=utf-8", page_page_js, page_page_js_len);
}

void page_board(struct request *r)
{
    send_page(r, "text/javascript; charset=utf-8", page_board_js, page_board_js_len);
}
