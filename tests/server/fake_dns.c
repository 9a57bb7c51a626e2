/* fake_dns.c -- preloaded into a dispatcher: names that lead where a test wants them, and a name server that is silent.
 *
 *     inside.test     127.0.0.1
 *     both.test       first 127.0.0.1, then 192.0.2.1 (both closed)
 *     silent.test     no answer for 8 s
 */
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

typedef int (*real_fn)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **ret)
{
    real_fn real;
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo"); /* as dlsym(3) has it: ISO C knows no such cast */
    if (!node || !strstr(node, ".test"))
        return real(node, service, hints, ret);
    if (hints && hints->ai_flags & AI_NUMERICHOST)
        return EAI_NONAME;
    if (strcmp(node, "silent.test") == 0) {
        sleep(8);
        return EAI_AGAIN;
    }
    int rc = real("127.0.0.1", service, hints, ret);
    if (rc == 0 && strcmp(node, "both.test") == 0)
        return real("192.0.2.1", service, hints, &(*ret)->ai_next);
    return rc;
}
