/* The least server: one thread, a fixed time for each request, the same answer to all. What latency does a driver see of
 * it, and what does it owe to the order in which a server looks at its sockets?
 *
 *     gcc -O2 -o edge tools/epoll_yardstick.c
 *     gcc -O2 -DTRIGGER=0 -o level tools/epoll_yardstick.c
 *     python3 tools/server_cost.py ./edge ./level ECHO --latency --doors binary --concurrency 60
 *
 * It takes a request for complete as soon as something of it is there, which holds for small ones on one machine. */

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Edge-triggered, the system's list of sockets with something to read is in the order of arrival. Level-triggered, a socket
 * keeps its place there from one look to the next. */
#ifndef TRIGGER
#define TRIGGER EPOLLET
#endif
/* Sockets that are asked about at once: all. */
#define EVENTS 1024
/* What a request takes. */
#define MICROSECONDS 10
/* As long as a binary answer with 1,152 floats. */
#define BODY 4700

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static int listen_on(int port) {
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1000)) {
        perror("cannot listen");
        exit(1);
    }
    return listener;
}

static void watch(int epoll, int socket) {
    struct epoll_event event = {.events = EPOLLIN | TRIGGER, .data.fd = socket};
    epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &event);
}

int main(int argc, char **argv) {
    static char answer[BODY + 256], request[1 << 16];
    int length = snprintf(answer, 256, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", BODY) + BODY;
    int listener = listen_on(argc > 1 ? atoi(argv[1]) : 8000), epoll = epoll_create1(0), on = 1;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int socket = events[i].data.fd;
            if (socket == listener) {
                socket = accept(listener, NULL, NULL);
                setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                watch(epoll, socket);
            } else if (read(socket, request, sizeof request) <= 0) {
                close(socket);
            } else {
                for (double end = now() + MICROSECONDS; now() < end;) {
                }
                if (write(socket, answer, length) != length) close(socket);
            }
        }
    }
}
