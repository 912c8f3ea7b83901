/* An open-loop HTTP client: requests begin at fixed times, whether or not those before were answered.
 *
 *     openloop HOST PORT RATE SECONDS CONNECTIONS REQUEST [GRACE [LIMIT]]
 *
 * REQUEST is a file with the bytes of one request. Request i is due at i / RATE; it is sent when a connection is free,
 * and its latency is measured from when it was due (nothing is left out by a server that makes its clients wait) and
 * also from when it was sent. After the last one is due, replies are awaited for GRACE seconds; good ones that came
 * within LIMIT seconds of being due are counted as in time. Replies must have a Content-Length. A reply may come before
 * the request is sent: the rest of it is sent, unless the reply closes the connection. Prints one JSON object; times in
 * microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD 65536

struct connection {
    int fd, connected, busy, status, closing; /* busy: 1 until the reply is there, 2 until the request is sent */
    double due, began;
    size_t sent, have, left; /* left: bytes of the body still to come; SIZE_MAX while the head is read */
    char head[HEAD];
};

struct sample { double *values; size_t count, room; };

static struct sockaddr_in address;
static int poller;
static char *request;
static size_t request_length;
static struct connection *all;
static int connections, *idle, idle_count;
static size_t lost, by_status[600];
static struct sample good_due, good_sent, refused_due, refused_sent;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void keep(struct sample *to, double value) {
    if (to->count == to->room) {
        to->room = to->room ? 2 * to->room : 65536;
        to->values = realloc(to->values, to->room * sizeof(double));
    }
    to->values[to->count++] = value;
}

static void await_events(struct connection *c, unsigned events, int how) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(poller, how, c->fd, &event);
}

static void open_connection(struct connection *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) { perror("socket"); exit(2); }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->connected = c->busy = c->closing = 0;
    connect(c->fd, (struct sockaddr *)&address, sizeof address);
    await_events(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_ADD);
}

static void reopen(struct connection *c) {
    if (c->busy == 1) lost++;
    for (int i = 0; i < idle_count; i++)
        if (idle[i] == (int)(c - all)) { idle[i] = idle[--idle_count]; break; }
    close(c->fd);
    open_connection(c);
}

static void push(struct connection *c) {
    while (c->sent < request_length) {
        ssize_t n = write(c->fd, request + c->sent, request_length - c->sent);
        if (n < 0) {
            if (errno != EAGAIN) { reopen(c); return; }
            await_events(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
            return;
        }
        c->sent += n;
    }
    await_events(c, EPOLLIN, EPOLL_CTL_MOD);
    if (c->busy == 2) {
        c->busy = 0;
        idle[idle_count++] = c - all;
    }
}

static void begin(struct connection *c, double due) {
    c->busy = 1;
    c->due = due;
    c->began = now();
    c->sent = c->have = 0;
    c->left = (size_t)-1;
    ssize_t n = write(c->fd, request, request_length);
    if (n == (ssize_t)request_length) { c->sent = n; return; }
    c->sent = n > 0 ? n : 0;
    push(c);
}

static void settle(struct connection *c) {
    double end = now();
    int good = c->status >= 200 && c->status < 300;
    by_status[c->status < 600 ? c->status : 0]++;
    keep(good ? &good_due : &refused_due, (end - c->due) * 1e6);
    keep(good ? &good_sent : &refused_sent, (end - c->began) * 1e6);
    c->busy = 0;
    if (c->closing) reopen(c);
    else if (c->sent < request_length) c->busy = 2;
    else idle[idle_count++] = c - all;
}

static int read_head(struct connection *c) {
    c->head[c->have] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) return 0;
    size_t length = (size_t)-1;
    c->status = atoi(c->head + 9);
    c->closing = 0;
    for (char *line = strstr(c->head, "\r\n"); line && line < end; line = strstr(line + 2, "\r\n")) {
        if (!strncasecmp(line + 2, "content-length:", 15)) length = strtoul(line + 17, NULL, 10);
        if (!strncasecmp(line + 2, "connection: close", 17)) c->closing = 1;
    }
    if (length == (size_t)-1) { fprintf(stderr, "a reply without Content-Length:\n%s\n", c->head); exit(3); }
    size_t body = c->have - (end + 4 - c->head);
    c->left = length > body ? length - body : 0;
    return 1;
}

static void readable(struct connection *c) {
    static char rest[1 << 18];
    for (;;) {
        int in_head = c->left == (size_t)-1;
        char *to = in_head ? c->head + c->have : rest;
        ssize_t n = read(c->fd, to, in_head ? HEAD - 1 - c->have : sizeof rest);
        if (n <= 0) {
            if (n < 0 && errno == EAGAIN) return;
            reopen(c);
            return;
        }
        if (c->busy != 1) continue;
        if (in_head) {
            c->have += n;
            if (!read_head(c)) continue;
        } else c->left -= (size_t)n > c->left ? c->left : (size_t)n;
        if (c->left == 0) { settle(c); return; }
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void told(const char *name, struct sample *s) {
    printf(", \"%s\": {\"count\": %zu", name, s->count);
    if (s->count) {
        qsort(s->values, s->count, sizeof(double), ascending);
        const double at[] = {0.5, 0.9, 0.99, 0.999};
        const char *names[] = {"p50", "p90", "p99", "p999"};
        for (int i = 0; i < 4; i++) printf(", \"%s\": %.1f", names[i], s->values[(size_t)(at[i] * (s->count - 1))]);
        printf(", \"max\": %.1f", s->values[s->count - 1]);
    }
    printf("}");
}

int main(int argc, char **argv) {
    if (argc < 7) { fprintf(stderr, "openloop HOST PORT RATE SECONDS CONNECTIONS REQUEST [GRACE [LIMIT]]\n"); return 2; }
    double rate = atof(argv[3]), seconds = atof(argv[4]), grace = argc > 7 ? atof(argv[7]) : 5.0;
    double limit = argc > 8 ? atof(argv[8]) : 1.0;
    connections = atoi(argv[5]);
    address.sin_family = AF_INET;
    address.sin_port = htons(atoi(argv[2]));
    inet_pton(AF_INET, argv[1], &address.sin_addr);
    FILE *file = fopen(argv[6], "rb");
    if (!file) { perror(argv[6]); return 2; }
    request = malloc(1 << 28);
    request_length = fread(request, 1, 1 << 28, file);
    poller = epoll_create1(0);
    all = calloc(connections, sizeof *all);
    idle = calloc(connections, sizeof *idle);
    for (int i = 0; i < connections; i++) open_connection(&all[i]);

    size_t total = rate * seconds, next = 0;
    double start = now() + 0.2, end = start + seconds;
    struct epoll_event events[256];
    for (;;) {
        double t = now();
        while (next < total && start + next / rate <= t && idle_count) {
            struct connection *c = &all[idle[--idle_count]];
            begin(c, start + next++ / rate);
        }
        if (t > end + grace || (next == total && good_due.count + refused_due.count + lost >= total)) break;
        double wait = next < total && idle_count ? start + next / rate - now() : 0.01;
        struct timespec timeout = {0, wait <= 0 ? 0 : (long)((wait < 0.01 ? wait : 0.01) * 1e9)};
        int n = epoll_pwait2(poller, events, 256, &timeout, NULL);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c->connected) {
                if (events[i].events & (EPOLLERR | EPOLLHUP)) { close(c->fd); usleep(1000); open_connection(c); continue; }
                if (!(events[i].events & EPOLLOUT)) continue;
                c->connected = 1;
                idle[idle_count++] = c - all;
                await_events(c, EPOLLIN, EPOLL_CTL_MOD);
                continue;
            }
            if (c->busy && events[i].events & EPOLLOUT && c->sent < request_length) push(c);
            if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) readable(c);
        }
    }
    size_t answered = good_due.count + refused_due.count;
    printf("{\"due\": %zu, \"sent\": %zu, \"answered\": %zu, \"lost\": %zu, \"seconds\": %.3f", total, next, answered, lost,
           now() - start);
    printf(", \"status\": {");
    for (int i = 0, first = 1; i < 600; i++)
        if (by_status[i]) { printf("%s\"%d\": %zu", first ? "" : ", ", i, by_status[i]); first = 0; }
    printf("}");
    size_t in_time = 0;
    for (size_t i = 0; i < good_due.count; i++) in_time += good_due.values[i] <= limit * 1e6;
    printf(", \"in_time\": %zu", in_time);
    in_time = 0;
    for (size_t i = 0; i < good_sent.count; i++) in_time += good_sent.values[i] <= limit * 1e6;
    printf(", \"in_time_from_sent\": %zu", in_time);
    told("good", &good_due);
    told("good_from_sent", &good_sent);
    told("other", &refused_due);
    told("other_from_sent", &refused_sent);
    printf("}\n");
    return 0;
}
