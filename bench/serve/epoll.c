/* The least that a server can do: read a request whole, write the same reply, keep the connection. One thread.
 *
 *     epoll PORT REPLY        REPLY is a file with the bytes of one reply
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROOM 65536
#define MOST 4096

struct client { char bytes[ROOM]; size_t have; };
static struct client *clients[MOST];

/* The length of the first whole request, or 0. */
static size_t whole(char *bytes, size_t have) {
    char *end = memmem(bytes, have, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t length = 0;
    for (char *line = bytes; line && line < end;) {
        line = memmem(line, end + 2 - line, "\r\n", 2);
        if (!line) break;
        line += 2;
        if (!strncasecmp(line, "content-length:", 15)) length = strtoul(line + 15, NULL, 10);
    }
    size_t all = end + 4 - bytes + length;
    return all <= have ? all : 0;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    char reply[4096];
    FILE *file = fopen(argv[2], "rb");
    if (!file) { perror(argv[2]); return 2; }
    size_t reply_length = fread(reply, 1, sizeof reply, file);
    int one = 1, listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poller = epoll_create1(0);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) || listen(listening, 2048)) { perror("listen"); return 1; }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listening}, events[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listening, &event);
    for (;;) {
        int n = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listening) {
                int came = accept4(listening, NULL, NULL, SOCK_NONBLOCK);
                if (came < 0) continue;
                if (came >= MOST) { close(came); continue; }
                setsockopt(came, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                clients[came] = clients[came] ? clients[came] : malloc(sizeof(struct client));
                clients[came]->have = 0;
                event.events = EPOLLIN, event.data.fd = came;
                epoll_ctl(poller, EPOLL_CTL_ADD, came, &event);
                continue;
            }
            struct client *c = clients[fd];
            ssize_t got = read(fd, c->bytes + c->have, ROOM - c->have);
            if (got <= 0) {
                if (got < 0 && errno == EAGAIN) continue;
                close(fd);
                continue;
            }
            c->have += got;
            for (size_t length; (length = whole(c->bytes, c->have));) {
                if (write(fd, reply, reply_length) != (ssize_t)reply_length) { close(fd); break; }
                memmove(c->bytes, c->bytes + length, c->have - length);
                c->have -= length;
            }
        }
    }
}
