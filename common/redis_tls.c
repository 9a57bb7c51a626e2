/* redis_tls.c -- `redis_tls_thread` from top to bottom is one connection's life: accept, dial, shake hands, carry. The
 * struct has two owners, the caller and the thread; the last one frees it. Under the lock: state, why, refs, users. */
#include "common/redis_tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/redis_net.h"
#include "common/str.h"

#define CHUNK 16384                /* one TLS record */
#define STUCK_US (30 * CLOCK_S)    /* a side that takes nothing for so long is gone */
#define IDLE_MS 60000              /* only how often an idle connection is looked at */

enum state { OPENING, OPEN, ENDED };

struct redis_tls {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int refs;
    enum state state;
    char why[256]; /* "" until something went wrong */
    /* the thread's */
    char ca[256], cert[256], key[256];
    bool insecure;
    char host[256];
    int port;
    int64_t until_us;
    int listener;
    int users; /* of the listener: the thread until it has accepted, the caller until redis_tls_taken */
    bool heard; /* bytes came from the server */
    /* the caller's */
    char folder[80];
    struct sockaddr_un address;
    bool taken;
};

/* ---- the end of the program ---- */

#define EXIT_WAIT_MS 200

static atomic_int n_threads;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* libcrypto takes its tables down in an exit handler: threads that were let go must be out of it by then. Those of
 * connections that nobody closed sleep in poll and touch nothing. */
static void wait_for_threads(void)
{
    for (int i = 0; i < EXIT_WAIT_MS && atomic_load(&n_threads) > 0; i++)
        clock_sleep_us(CLOCK_MS);
}

static void prepare(void)
{
    OPENSSL_init_ssl(0, NULL); /* registers its handler first: ours runs before it */
    atexit(wait_for_threads);
}

/* ---- settings ---- */

static int text_of_password(char *buf, int size, int rwflag, void *arg)
{
    (void)buf, (void)size, (void)rwflag, (void)arg;
    return 0; /* nobody is there to type one: a locked key file is refused */
}

static int use_files(SSL_CTX *ctx, const char *ca, const char *cert, const char *key, struct err *err)
{
    if (*ca && SSL_CTX_load_verify_file(ctx, ca) != 1)
        return err_set(err, ERR_INVALID, "redis: ca: %s cannot be read, or holds no certificate (PEM)", ca);
    if (!*ca)
        SSL_CTX_set_default_verify_paths(ctx);
    if (!*cert)
        return 0;
    if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
        return err_set(err, ERR_INVALID, "redis: cert: %s cannot be read, or holds no certificate (PEM)", cert);
    if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) == 1)
        return 0;
    if (ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH)
        return err_set(err, ERR_INVALID, "redis: key: %s does not belong to the certificate %s", key, cert);
    return err_set(err, ERR_INVALID, "redis: key: %s cannot be read, is locked by a password, or holds no key (PEM)", key);
}

/* NULL with err set. */
static SSL_CTX *make_ctx(const char *ca, const char *cert, const char *key, bool insecure, struct err *err)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (!ctx) {
        err_set(err, ERR_NOMEM, "no memory for TLS");
        return NULL;
    }
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_default_passwd_cb(ctx, text_of_password);
    SSL_CTX_set_verify(ctx, insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    int rc = use_files(ctx, ca, cert, key, err);
    ERR_clear_error();
    if (rc == 0)
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

int redis_tls_check(const struct redis_url *url, struct err *err)
{
    struct err why = {0};
    pthread_once(&once, prepare);
    SSL_CTX *ctx = url->tls ? make_ctx(url->ca, url->cert, url->key, url->insecure, &why) : NULL;
    SSL_CTX_free(ctx);
    return url->tls && !ctx ? err_set(err, why.code, "%s", why.text) : 0;
}

/* ---- what both sides touch ---- */

static void unref(struct redis_tls *t)
{
    pthread_mutex_lock(&t->lock);
    bool last = --t->refs == 0;
    pthread_mutex_unlock(&t->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->changed);
    mem_free(t);
}

/* The listener goes with its last user: newer hiredis connects a second time, to see whether the first has worked. */
static void leave_listener(struct redis_tls *t)
{
    pthread_mutex_lock(&t->lock);
    bool last = --t->users == 0;
    pthread_mutex_unlock(&t->lock);
    if (last && t->listener >= 0)
        close(t->listener);
}

static void set_state(struct redis_tls *t, enum state state)
{
    pthread_mutex_lock(&t->lock);
    t->state = state;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
}

/* The first reason is kept. */
static void set_why(struct redis_tls *t, const char *text)
{
    pthread_mutex_lock(&t->lock);
    if (!t->why[0])
        str_copy(t->why, sizeof(t->why), text);
    pthread_mutex_unlock(&t->lock);
}

/* ---- reasons ---- */

static void why_certificate(struct redis_tls *t, long verdict)
{
    char text[256];
    switch (verdict) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        str_copy(text, sizeof(text), "the server's certificate has expired: renew it");
        break;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        str_copy(text, sizeof(text), "the server's certificate is not valid yet: look at both clocks");
        break;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        str_format(text, sizeof(text), "the server's certificate is not for '%.100s': use the name that it is for", t->host);
        break;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        str_copy(text, sizeof(text),
                 "the server's certificate is of an authority that is not known here: name its file with ?ca=FILE");
        break;
    default:
        str_format(text, sizeof(text), "the server's certificate is refused: %s", X509_verify_cert_error_string(verdict));
    }
    set_why(t, text);
}

/* From libssl's own reason, or "". */
static const char *sentence_of(int reason)
{
    switch (reason) {
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
    case SSL_R_RECORD_LENGTH_MISMATCH:
        return "the server does not speak TLS on this port: use its tls-port, or redis:// for a connection without TLS";
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
        return "the server knows only old versions of TLS: 1.2 or newer is needed";
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
        return "the server wants a certificate of ours: name it with ?cert=FILE&key=FILE";
    case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE:
        return "the server refuses the handshake; it may want a certificate of ours (?cert=FILE&key=FILE)";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
        return "the server refuses our certificate (?cert=FILE): it has expired, or is of an authority it does not know";
    case SSL_R_UNEXPECTED_EOF_WHILE_READING:
        return "the server closed the connection in the middle";
    default:
        return "";
    }
}

/* After an SSL call failed for good. */
static void why_ssl(struct redis_tls *t, SSL *ssl, int kind)
{
    unsigned long e = ERR_peek_last_error();
    long verdict = SSL_get_verify_result(ssl);
    const char *sentence = e && ERR_GET_LIB(e) == ERR_LIB_SSL ? sentence_of(ERR_GET_REASON(e)) : "";
    char text[256];
    if (e && ERR_GET_REASON(e) == SSL_R_CERTIFICATE_VERIFY_FAILED) {
        why_certificate(t, verdict);
    } else if (*sentence) {
        set_why(t, sentence);
    } else if (e) {
        const char *said = ERR_reason_error_string(e);
        str_format(text, sizeof(text), "TLS failed: %s", said ? said : "of a reason unknown");
        set_why(t, text);
    } else if (kind == SSL_ERROR_SYSCALL && errno && !t->heard && !*t->cert) { /* its alert may be lost with the line */
        set_why(t, "the server closed the connection after the handshake; perhaps it wants a certificate of ours: name it "
                   "with ?cert=FILE&key=FILE");
    } else if (kind == SSL_ERROR_SYSCALL && errno) {
        str_format(text, sizeof(text), "the connection was lost: %s", strerror(errno));
        set_why(t, text);
    }
    ERR_clear_error();
}

/* ---- the thread ---- */

/* The caller's end, or -1: it let go, or did not come. */
static int accept_caller(struct redis_tls *t)
{
    for (;;) {
        struct pollfd p = {.fd = t->listener, .events = POLLIN};
        int64_t left = t->until_us - clock_us();
        int n = left > 0 ? poll(&p, 1, (int)(left / 1000 + 1)) : 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        int fd = accept4(t->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        struct ucred who = {0};
        socklen_t len = sizeof(who);
        if (fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 && who.pid == getpid())
            return fd;
        if (fd >= 0)
            close(fd);
        else if (errno != EINTR && errno != EAGAIN && errno != ECONNABORTED)
            return -1;
    }
}

static bool set_name(SSL *ssl, const char *host)
{
    struct redis_net number;
    if (redis_net_numeric(host, &number))
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set_tlsext_host_name(ssl, host) == 1 && SSL_set1_host(ssl, host) == 1;
}

static bool shake_hands(struct redis_tls *t, SSL *ssl, int fd)
{
    for (;;) {
        ERR_clear_error();
        errno = 0;
        int n = SSL_connect(ssl);
        if (n == 1)
            return true;
        int kind = SSL_get_error(ssl, n);
        if (kind != SSL_ERROR_WANT_READ && kind != SSL_ERROR_WANT_WRITE) {
            why_ssl(t, ssl, kind);
            set_why(t, "the server closed the connection in the TLS handshake; does it speak TLS on this port?");
            return false;
        }
        int64_t left = t->until_us - clock_us();
        struct pollfd p = {.fd = fd, .events = kind == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT};
        if (left <= 0) {
            set_why(t, "no answer to the TLS handshake in time; does the server speak TLS on this port?");
            return false;
        }
        poll(&p, 1, (int)(left / 1000 + 1));
    }
}

struct half { /* bytes on their way in one direction */
    char bytes[CHUNK];
    size_t begin, end;
};

struct carry {
    struct redis_tls *t;
    SSL *ssl;
    int local, remote;
    struct half up, down;
    bool local_ended, remote_ended; /* no more bytes come from there */
    bool wants_write;               /* libssl must write before it can go on */
};

/* The result of an SSL call; false: the remote side is over. */
static bool ssl_ok(struct carry *c, int n, bool *moved)
{
    int kind = n > 0 ? SSL_ERROR_NONE : SSL_get_error(c->ssl, n);
    switch (kind) {
    case SSL_ERROR_NONE:
        *moved = true;
        return true;
    case SSL_ERROR_WANT_READ:
        return true;
    case SSL_ERROR_WANT_WRITE:
        c->wants_write = true;
        return true;
    case SSL_ERROR_ZERO_RETURN: /* an orderly end */
        return false;
    default:
        why_ssl(c->t, c->ssl, kind);
        return false;
    }
}

static bool move_up(struct carry *c, bool *moved)
{
    struct half *h = &c->up;
    if (h->begin == h->end && !c->local_ended) {
        ssize_t n = recv(c->local, h->bytes, sizeof(h->bytes), MSG_DONTWAIT);
        c->local_ended = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
        h->begin = 0;
        h->end = n > 0 ? (size_t)n : 0;
    }
    if (h->begin == h->end)
        return true;
    ERR_clear_error();
    errno = 0;
    int n = SSL_write(c->ssl, h->bytes + h->begin, (int)(h->end - h->begin));
    h->begin += n > 0 ? (size_t)n : 0;
    return ssl_ok(c, n, moved);
}

static bool move_down(struct carry *c, bool *moved)
{
    struct half *h = &c->down;
    if (h->begin == h->end && !c->remote_ended) {
        ERR_clear_error();
        errno = 0;
        int n = SSL_read(c->ssl, h->bytes, sizeof(h->bytes));
        h->begin = 0;
        h->end = n > 0 ? (size_t)n : 0;
        c->t->heard |= n > 0;
        c->remote_ended = !ssl_ok(c, n, moved);
    }
    if (h->begin == h->end)
        return !c->remote_ended;
    ssize_t n = send(c->local, h->bytes + h->begin, h->end - h->begin, MSG_DONTWAIT | MSG_NOSIGNAL);
    h->begin += n > 0 ? (size_t)n : 0;
    *moved |= n > 0;
    return n > 0 || errno == EAGAIN || errno == EINTR;
}

/* Sleeps until a side can go on; false: bytes wait that nobody took for too long. */
static bool carry_wait(const struct carry *c, int64_t *stuck_since)
{
    bool up = c->up.begin < c->up.end, down = c->down.begin < c->down.end;
    struct pollfd p[2] = {
        {.fd = c->local, .events = (short)((up ? 0 : POLLIN) | (down ? POLLOUT : 0))},
        {.fd = c->remote, .events = (short)((down ? 0 : POLLIN) | (up || c->wants_write ? POLLOUT : 0))},
    };
    if (up && !c->wants_write) /* libssl waits for bytes before it can write */
        p[1].events |= POLLIN;
    if (!up && !down) {
        *stuck_since = 0;
    } else if (!*stuck_since) {
        *stuck_since = clock_us();
    } else if (clock_us() - *stuck_since > STUCK_US) {
        set_why(c->t, "the server takes no more bytes");
        return false;
    }
    poll(p, 2, up || down ? 1000 : IDLE_MS);
    return true;
}

static void carry(struct carry *c)
{
    int64_t stuck_since = 0;
    for (;;) {
        bool moved = false;
        c->wants_write = false;
        if (!move_up(c, &moved) || !move_down(c, &moved))
            return;
        if (c->local_ended && c->up.begin == c->up.end)
            return;
        if (moved)
            stuck_since = 0;
        else if (!carry_wait(c, &stuck_since))
            return;
    }
}

static void converse(struct redis_tls *t, SSL *ssl, int local, int remote)
{
    struct carry *c = mem_zalloc(sizeof(*c));
    if (!c || !SSL_set_fd(ssl, remote) || !set_name(ssl, t->host)) {
        set_why(t, "no memory for TLS");
    } else if (shake_hands(t, ssl, remote)) {
        set_state(t, OPEN);
        *c = (struct carry){.t = t, .ssl = ssl, .local = local, .remote = remote};
        carry(c);
        if (!c->remote_ended)
            SSL_shutdown(ssl);
    }
    mem_free(c);
}

static void *redis_tls_thread(void *arg)
{
    struct redis_tls *t = arg;
    struct err err = {0};
    int local = accept_caller(t), remote = -1;
    leave_listener(t);
    SSL_CTX *ctx = local >= 0 ? make_ctx(t->ca, t->cert, t->key, t->insecure, &err) : NULL;
    SSL *ssl = ctx ? SSL_new(ctx) : NULL;
    if (ssl && redis_net_dial(t->host, t->port, t->until_us, &remote, &err) == 0)
        converse(t, ssl, local, remote);
    else
        set_why(t, *err.text ? err.text : "no memory for TLS");
    set_state(t, ENDED); /* before the local end is closed: who sees that asks why */
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    if (remote >= 0)
        close(remote);
    if (local >= 0)
        close(local);
    ERR_clear_error();
    unref(t);
    OPENSSL_thread_stop(); /* what libcrypto keeps for this thread */
    atomic_fetch_sub(&n_threads, 1);
    return NULL;
}

/* ---- the caller ---- */

static int make_listener(struct redis_tls *t, struct err *err)
{
    const char *places[] = {getenv("TMPDIR"), "/tmp", "/dev/shm", "/var/tmp"};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        if (!places[i] || str_format(t->folder, sizeof(t->folder), "%s/troupe-tls-XXXXXX", places[i]) < 0)
            continue;
        if (mkdtemp(t->folder)) /* mode 0700 */
            break;
        t->folder[0] = 0;
    }
    t->address.sun_family = AF_UNIX;
    str_path(t->address.sun_path, sizeof(t->address.sun_path), t->folder, "redis");
    t->listener = t->folder[0] ? socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) : -1;
    /* bind(2) by its number: the worker's model code has a function of that name, which the linker would take */
    if (t->listener < 0 || syscall(SYS_bind, t->listener, &t->address, sizeof(t->address)) < 0 ||
        listen(t->listener, 2) < 0)
        return err_set(err, ERR_IO, "redis: TLS needs a temporary folder (TMPDIR or /tmp) for its own socket: %s",
                       strerror(errno));
    return 0;
}

static int start(struct redis_tls *t, struct err *err)
{
    sigset_t all, before;
    pthread_attr_t attr;
    pthread_t thread;
    sigfillset(&all); /* signals are the business of the program's own threads; SIGPIPE is nobody's */
    if (pthread_attr_init(&attr) != 0)
        return err_set(err, ERR_NOMEM, "redis: no memory for TLS");
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    atomic_fetch_add(&n_threads, 1);
    int failed = pthread_create(&thread, &attr, redis_tls_thread, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (failed)
        atomic_fetch_sub(&n_threads, 1);
    return failed ? err_set(err, ERR_NOMEM, "redis: no thread for TLS: %s", strerror(failed)) : 0;
}

int redis_tls_dial(const struct redis_url *url, const char *host, int port, int64_t timeout_ms, struct redis_tls **ret,
                   struct err *err)
{
    struct redis_tls *t = mem_zalloc(sizeof(*t));
    pthread_condattr_t attr;
    pthread_once(&once, prepare);
    if (!t)
        return err_set(err, ERR_NOMEM, "redis: no memory for TLS");
    t->listener = -1;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->changed, &attr);
    pthread_condattr_destroy(&attr);
    str_copy(t->ca, sizeof(t->ca), url->ca);
    str_copy(t->cert, sizeof(t->cert), url->cert);
    str_copy(t->key, sizeof(t->key), url->key);
    str_copy(t->host, sizeof(t->host), host);
    t->insecure = url->insecure;
    t->port = port;
    t->until_us = clock_us() + timeout_ms * CLOCK_MS;
    t->refs = t->users = 2;
    int rc = make_listener(t, err);
    if (rc == 0)
        rc = start(t, err);
    if (rc < 0) {
        t->refs = t->users = 1;
        redis_tls_close(t);
        return rc;
    }
    *ret = t;
    return 0;
}

const char *redis_tls_path(const struct redis_tls *t)
{
    return t->address.sun_path;
}

void redis_tls_taken(struct redis_tls *t)
{
    if (t->taken)
        return;
    t->taken = true;
    if (t->folder[0]) {
        unlink(t->address.sun_path);
        rmdir(t->folder);
    }
    leave_listener(t);
}

int redis_tls_wait(struct redis_tls *t, int64_t timeout_ms, struct err *err)
{
    int64_t until_us = clock_us() + timeout_ms * CLOCK_MS;
    struct timespec until = {.tv_sec = until_us / CLOCK_S, .tv_nsec = until_us % CLOCK_S * 1000};
    int late = 0, rc = 0;
    pthread_mutex_lock(&t->lock);
    while (t->state == OPENING && late != ETIMEDOUT)
        late = pthread_cond_timedwait(&t->changed, &t->lock, &until);
    if (t->state == OPENING)
        rc = err_set(err, ERR_REDIS, "no TLS handshake in time");
    else if (t->state == ENDED)
        rc = err_set(err, ERR_REDIS, "%s", t->why[0] ? t->why : "the connection ended");
    pthread_mutex_unlock(&t->lock);
    return rc;
}

bool redis_tls_why(struct redis_tls *t, char *dst, size_t size)
{
    pthread_mutex_lock(&t->lock);
    bool known = t->why[0];
    if (known)
        str_copy(dst, size, t->why);
    pthread_mutex_unlock(&t->lock);
    return known;
}

void redis_tls_close(struct redis_tls *t)
{
    if (!t)
        return;
    redis_tls_taken(t);
    unref(t);
}
