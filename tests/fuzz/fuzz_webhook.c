/* fuzz_webhook.c -- any bytes as a webhook's URL, as the setting webhook_allow, as secrets, and as an address. A URL that is
 * accepted leads nowhere that the guard would close; an IPv4 address is judged alike inside and outside of IPv6. */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dispatcher/webhook_guard.h"
#include "dispatcher/webhook_sign.h"
#include "tests/fuzz/fuzz.h"

static void must(bool good, const char *what)
{
    if (!good) {
        fprintf(stderr, "fuzz_webhook: %s\n", what);
        abort();
    }
}

/* What stands between "://" and the next of "/?#:", if that is an address in itself: read without libcurl. */
static void check_accepted(const struct webhook_guard *g, const char *url)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST}, *found = NULL;
    char host[128];
    const char *at = strstr(url, "://");
    must(at != NULL && at - url <= 5, "a scheme that is none");
    size_t n = strcspn(at + 3, "/?#:\\");
    if (n == 0 || n >= sizeof host)
        return;
    memcpy(host, at + 3, n);
    host[n] = 0;
    if (getaddrinfo(host, NULL, &hints, &found) != 0)
        return;
    bool open = webhook_guard_address(g, found->ai_addr);
    freeaddrinfo(found);
    must(open, "a private address was accepted");
}

static void url(const struct webhook_guard *g, const char *text)
{
    struct err err = {0};
    bool named = false;
    int rc = webhook_guard_url(g, text, &named, &err);
    must(rc == 0 || err.text[0], "refused without a sentence");
    must(!named, "named without names");
    if (rc == 0)
        check_accepted(g, text);
}

static void allow(const char *text)
{
    struct webhook_guard g;
    struct err err = {0};
    bool named;
    int rc = webhook_guard_init(&g, text, &err);
    must(rc == 0 || err.text[0], "refused without a sentence");
    if (rc == 0)
        webhook_guard_url(&g, "http://a.example/", &named, NULL);
    webhook_guard_done(&g);
}

static void secrets(const char *text)
{
    char out[WEBHOOK_SIGN_TEXT];
    struct err err = {0};
    int rc = webhook_sign_check(text, &err);
    must(rc == 0 || err.text[0], "refused without a sentence");
    if (rc == 0 && *text)
        must(webhook_sign(text, "id", 1, "body", 4, out, NULL) == 0 && strncmp(out, "v1,", 3) == 0, "good secrets do not sign");
}

static void address(const struct webhook_guard *g, const uint8_t *data)
{
    struct sockaddr_in four = {.sin_family = AF_INET};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    memcpy(&four.sin_addr, data, 4);
    six.sin6_addr.s6_addr[10] = six.sin6_addr.s6_addr[11] = 0xff;
    memcpy(six.sin6_addr.s6_addr + 12, data, 4);
    bool open = webhook_guard_address(g, (const struct sockaddr *)&four);
    must(open == webhook_guard_address(g, (const struct sockaddr *)&six), "a mapped address is judged differently");
    must(!open || (data[0] != 127 && data[0] != 10 && data[0] != 0 && data[0] < 224), "open");
    memcpy(&six.sin6_addr, data, 16);
    webhook_guard_address(g, (const struct sockaddr *)&six);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct webhook_guard g;
    char *text = malloc(size + 1);
    must(text != NULL && webhook_guard_init(&g, "", NULL) == 0, "memory");
    memcpy(text, data, size);
    text[size] = 0;
    url(&g, text);
    allow(text);
    secrets(text);
    if (size >= 16)
        address(&g, data);
    webhook_guard_done(&g);
    free(text);
    return 0;
}
