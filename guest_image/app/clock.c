#include "clock.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/rtc.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

#define DAY_MS 86400000LL
#define SECOND_MS 1000
#define TRIES 5
#define FIRST_TRY_MS 40 /* the first frames of a new link may be lost; each try waits twice as long as the last */
#define GOOD_TRIP_MS 100 /* the answer was written somewhere within the trip: a longer one is asked for again */

struct timestamp_message {
    struct icmphdr header;
    uint32_t originate, receive, transmit; /* ms since midnight UTC */
};

int64_t clock_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static uint16_t checksum(const struct timestamp_message *message)
{
    uint16_t words[sizeof *message / 2];
    uint32_t sum = 0;
    memcpy(words, message, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        sum += words[i];
    sum = (sum >> 16) + (sum & 0xffff);
    return (uint16_t)~(sum + (sum >> 16));
}

static int64_t uptime_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* What is known of the host's clock: it showed `of_day_ms` at `at_ms` of our uptime, to half of `trip_ms`. */
struct sighting {
    int64_t of_day_ms, at_ms, trip_ms;
};

/* Take in the answers that come until the socket's patience ends, and keep the best; `sent_ms` is by sequence. */
static void receive_answers(int fd, uint16_t id, const int64_t *sent_ms, struct sighting *best)
{
    char packet[256];
    struct timestamp_message answer;
    ssize_t length;
    while (best->trip_ms > GOOD_TRIP_MS && (length = recv(fd, packet, sizeof packet, 0)) > 0) {
        size_t head = (size_t)((struct iphdr *)packet)->ihl * 4;
        if ((size_t)length < head + sizeof answer)
            continue;
        memcpy(&answer, packet + head, sizeof answer);
        uint32_t ms = ntohl(answer.transmit);
        uint16_t number = ntohs(answer.header.un.echo.sequence);
        if (answer.header.type != ICMP_TIMESTAMPREPLY || answer.header.un.echo.id != id || number >= TRIES ||
            ms >= DAY_MS)
            continue; /* somebody else's, or a host that keeps no time */
        int64_t trip_ms = uptime_ms() - sent_ms[number];
        if (trip_ms < best->trip_ms)
            *best = (struct sighting){ms, sent_ms[number] + trip_ms / 2, trip_ms};
    }
}

/* Return whether the host at `gateway` told the time. */
static bool ask(const char *gateway, struct sighting *best)
{
    struct sockaddr_in host = {.sin_family = AF_INET};
    int64_t sent_ms[TRIES];
    uint16_t id;
    int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
    *best = (struct sighting){.trip_ms = INT64_MAX};
    if (fd < 0 || inet_pton(AF_INET, gateway, &host.sin_addr) != 1 || getrandom(&id, sizeof id, 0) != sizeof id) {
        close(fd);
        return false;
    }
    for (int i = 0; i < TRIES && best->trip_ms > GOOD_TRIP_MS; i++) {
        int patience_ms = FIRST_TRY_MS << i;
        struct timeval patience = {.tv_sec = patience_ms / 1000, .tv_usec = patience_ms % 1000 * 1000};
        struct timestamp_message request = {.header = {.type = ICMP_TIMESTAMP}};
        request.header.un.echo.id = id;
        request.header.un.echo.sequence = htons((uint16_t)i);
        request.header.checksum = checksum(&request);
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        sent_ms[i] = uptime_ms();
        if (sendto(fd, &request, sizeof request, 0, (struct sockaddr *)&host, sizeof host) < 0)
            usleep((useconds_t)patience_ms * 1000);
        else
            receive_answers(fd, id, sent_ms, best);
    }
    close(fd);
    return best->trip_ms != INT64_MAX;
}

static int64_t hardware_clock_ms(void)
{
    struct rtc_time found;
    int fd = open("/dev/rtc0", O_RDONLY | O_CLOEXEC);
    bool is_read = fd >= 0 && ioctl(fd, RTC_RD_TIME, &found) == 0;
    close(fd);
    if (!is_read)
        return 0;
    struct tm utc = {.tm_year = found.tm_year, .tm_mon = found.tm_mon, .tm_mday = found.tm_mday,
                     .tm_hour = found.tm_hour, .tm_min = found.tm_min, .tm_sec = found.tm_sec};
    return (int64_t)timegm(&utc) * 1000;
}

/* The hardware's clock shows whole seconds: at the moment in which it goes on, it is exact. */
static int64_t exact_hardware_clock_ms(void)
{
    int64_t first_ms = hardware_clock_ms(), now_ms = first_ms, until_ms = uptime_ms() + SECOND_MS + 100;
    while (now_ms == first_ms && first_ms != 0 && uptime_ms() < until_ms) {
        usleep(5000);
        now_ms = hardware_clock_ms();
    }
    return now_ms;
}

void clock_set(const char *gateway, int64_t known_ms)
{
    struct sighting seen;
    int64_t base_ms = hardware_clock_ms(), begin_ms = uptime_ms();
    if (gateway[0] != '\0' && ask(gateway, &seen)) {
        if (known_ms > base_ms)
            base_ms = known_ms;
        if (base_ms == 0)
            base_ms = clock_now_ms();
        /* The day is that of the base, or a neighbour of it around midnight. */
        int64_t difference_ms = seen.of_day_ms - base_ms % DAY_MS;
        difference_ms += difference_ms > DAY_MS / 2 ? -DAY_MS : difference_ms < -DAY_MS / 2 ? DAY_MS : 0;
        base_ms += difference_ms + uptime_ms() - seen.at_ms; /* this guest may have waited for a CPU since */
    } else {
        base_ms = exact_hardware_clock_ms();
        if (known_ms != 0 && known_ms + uptime_ms() - begin_ms > base_ms)
            base_ms = known_ms + uptime_ms() - begin_ms;
        if (base_ms == 0)
            return;
    }
    struct timeval now = {.tv_sec = base_ms / 1000, .tv_usec = base_ms % 1000 * 1000};
    if (settimeofday(&now, NULL) != 0)
        log_line("the clock cannot be set");
}
