/* Where the queue is: what error replies say about the way, seeds, names, and a name server that does not answer (this
 * program has a getaddrinfo of its own). */
#include <netdb.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/redis_find.h"
#include "common/str.h"

static struct err err;

/* slow.test takes a second; two.test is first an address where nobody listens, then 127.0.0.1; others are unknown. */
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **ret)
{
    static const char *const addresses[] = {"127.0.0.2", "127.0.0.1"};
    static struct sockaddr_in to[2];
    static struct addrinfo list[2];
    (void)service, (void)hints;
    if (strcmp(name, "slow.test") == 0)
        clock_sleep_us(CLOCK_S);
    else if (strcmp(name, "two.test") != 0)
        return EAI_NONAME;
    for (int i = 0; i < 2; i++) {
        to[i] = (struct sockaddr_in){.sin_family = AF_INET};
        inet_pton(AF_INET, addresses[i], &to[i].sin_addr);
        list[i] = (struct addrinfo){.ai_family = AF_INET, .ai_addr = (void *)&to[i], .ai_addrlen = sizeof to[i],
                                    .ai_next = i ? NULL : &list[1]};
    }
    *ret = list;
    return 0;
}

void freeaddrinfo(struct addrinfo *list)
{
    (void)list;
}

static void test_names(void **state)
{
    (void)state;
    struct redis_net net = {.n = 0};
    int64_t began = clock_us();
    assert_int_equal(redis_net_look_up("slow.test", began + 100 * CLOCK_MS, &net, &err), ERR_REDIS);
    assert_in_range(clock_us() - began, 90 * CLOCK_MS, 600 * CLOCK_MS);
    assert_non_null(strstr(err.text, "the name server does not answer"));
    assert_int_equal(net.n, 0);
    assert_int_equal(redis_net_look_up("slow.test", clock_us() + 10 * CLOCK_S, &net, NULL), 0);
    assert_int_equal(net.n, 2);
    err_clear(&err);
    assert_int_equal(redis_net_look_up("none.test", clock_us() + CLOCK_S, &net, &err), ERR_REDIS);
    assert_non_null(strstr(err.text, "'none.test' does not resolve"));
    assert_true(redis_net_numeric("::1", &net));
    assert_string_equal(net.address[0], "::1");
    assert_false(redis_net_numeric("127.0.0.1.example.org", &net));
    assert_false(redis_net_numeric("", &net));
}

static void test_dial(void **state)
{
    (void)state;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int server = socket(AF_INET, SOCK_STREAM, 0), fd = -1;
    assert_int_equal(bind(server, (void *)&at, sizeof at), 0);
    assert_int_equal(listen(server, 1), 0);
    assert_int_equal(getsockname(server, (void *)&at, &len), 0);
    /* the first address refuses, the second is taken */
    assert_int_equal(redis_net_dial("two.test", ntohs(at.sin_port), clock_us() + 2 * CLOCK_S, &fd, &err), 0);
    assert_true(fd >= 0);
    close(fd);
    close(server);
    err_clear(&err);
    assert_int_equal(redis_net_dial("two.test", ntohs(at.sin_port), clock_us() + 2 * CLOCK_S, &fd, &err), ERR_REDIS);
    assert_string_equal(err.text, "Connection refused");
    /* nobody answers there (a net for documents, RFC 5737), or there is no way to it */
    int64_t began = clock_us();
    err_clear(&err);
    assert_int_equal(redis_net_dial("192.0.2.1", 6379, began + 200 * CLOCK_MS, &fd, &err), ERR_REDIS);
    assert_true(clock_us() - began < 2 * CLOCK_S);
}

static void test_turns(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum redis_turn turn;
        const char *host; /* of MOVED */
        int port;
    } cases[] = {
        {"MOVED 3999 127.0.0.1:6381", REDIS_TURN_GO, "127.0.0.1", 6381},
        {"MOVED 3999 ::1:6381", REDIS_TURN_GO, "::1", 6381},
        {"MOVED 3999 node-2.example.org:1", REDIS_TURN_GO, "node-2.example.org", 1},
        {"MOVED 3999 :7000", REDIS_TURN_GO, "asked", 7000},
        {"MOVED 3999 ?:7000", REDIS_TURN_GO, "asked", 7000},
        {"MOVED 3999 h:0", REDIS_TURN_NONE, NULL, 0},
        {"MOVED 3999 h:65536", REDIS_TURN_NONE, NULL, 0},
        {"MOVED 3999 h", REDIS_TURN_NONE, NULL, 0},
        {"MOVED 3999", REDIS_TURN_NONE, NULL, 0},
        {"MOVED ", REDIS_TURN_NONE, NULL, 0},
        {"MOVED", REDIS_TURN_NONE, NULL, 0},
        {"MOVEDx 1 h:1", REDIS_TURN_NONE, NULL, 0},
        {"ASK 3999 127.0.0.1:6381", REDIS_TURN_PAUSE, NULL, 0},
        {"TRYAGAIN Multiple keys request during rehashing of slot", REDIS_TURN_PAUSE, NULL, 0},
        {"CLUSTERDOWN The cluster is down", REDIS_TURN_PAUSE, NULL, 0},
        {"LOADING Redis is loading the dataset in memory", REDIS_TURN_PAUSE, NULL, 0},
        {"READONLY You can't write against a read only replica.", REDIS_TURN_GO, NULL, 0},
        {"NOREPLICAS Not enough good replicas to write.", REDIS_TURN_GO, NULL, 0},
        {"ERR MOVED 3999 127.0.0.1:6381", REDIS_TURN_NONE, NULL, 0},
        {"", REDIS_TURN_NONE, NULL, 0},
    };
    struct redis_place asked = {.host = {"asked", 6379}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct redis_route route = {.seed = 4};
        size_t n = strlen(cases[i].text);
        char *exact = mem_dup(cases[i].text, n ? n : 1); /* no NUL behind it */
        assert_int_equal(redis_find_turn(exact, n, &asked, &route), cases[i].turn);
        err_clear(&err);
        assert_true(redis_find_error(exact, n, &err) < 0 && err.text[0]);
        mem_free(exact);
        assert_int_equal(route.moved, cases[i].host != NULL);
        if (cases[i].host) {
            assert_string_equal(route.to.name, cases[i].host);
            assert_int_equal(route.to.port, cases[i].port);
        }
    }
    char longer[600];
    memset(longer, 'a', sizeof longer);
    memcpy(longer, "MOVED 1 ", 8);
    memcpy(longer + 500, ":1", 2);
    struct redis_route route = {0};
    assert_int_equal(redis_find_turn(longer, 502, &asked, &route), REDIS_TURN_NONE);
}

static void test_seeds(void **state)
{
    (void)state;
    struct redis_url u;
    struct redis_route route = {0};
    struct redis_place p = {.must_be_master = true};
    char t[300];
    assert_int_equal(redis_url_parse("redis://127.0.0.1:1,two.test:2,[::1]:3", &u, &err), 0);
    static const char *const order[] = {"127.0.0.1:1", "two.test:2", "[::1]:3", "127.0.0.1:1"};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(redis_find_is_quick(&u, &route), i != 1);
        assert_int_equal(redis_find(&u, &route, true, clock_us() + CLOCK_S, &p, &err), 0);
        assert_string_equal(redis_find_show(&p, t, sizeof t), order[i]);
        assert_int_equal(p.net.n, i == 1 ? 2 : 1);
        assert_false(p.must_be_master);
        redis_find_lost(&route);
    }
    /* a node that a cluster named comes first, and once it is lost the seeds again */
    assert_int_equal(redis_find_turn("MOVED 1 9.9.9.9:9", 17, &p, &route), REDIS_TURN_GO);
    redis_find(&u, &route, true, clock_us() + CLOCK_S, &p, &err);
    assert_string_equal(redis_find_show(&p, t, sizeof t), "9.9.9.9:9");
    redis_find_lost(&route);
    redis_find(&u, &route, true, clock_us() + CLOCK_S, &p, &err);
    assert_string_equal(redis_find_show(&p, t, sizeof t), "two.test:2");
    assert_int_equal(redis_url_parse("/tmp/x.sock", &u, &err), 0);
    assert_true(redis_find_is_quick(&u, &route));
    redis_find(&u, &route, true, clock_us() + CLOCK_S, &p, &err);
    assert_string_equal(redis_find_show(&p, t, sizeof t), "/tmp/x.sock");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names), cmocka_unit_test(test_dial),
                                       cmocka_unit_test(test_turns), cmocka_unit_test(test_seeds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
