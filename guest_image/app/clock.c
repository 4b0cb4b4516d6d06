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
#define COARSE_MS 2000
#define TRIES 8
#define TRY_MS 40 /* the first frames of a new link may be lost */

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

/* Return whether the answer to `id` came; `of_day_ms` is then the time of day where it was written. */
static bool receive_answer(int fd, uint16_t id, int64_t *of_day_ms)
{
    char packet[256];
    struct timestamp_message answer;
    ssize_t length;
    while ((length = recv(fd, packet, sizeof packet, 0)) > 0) {
        size_t head = (size_t)((struct iphdr *)packet)->ihl * 4;
        if ((size_t)length < head + sizeof answer)
            continue;
        memcpy(&answer, packet + head, sizeof answer);
        uint32_t ms = ntohl(answer.transmit);
        if (answer.header.type != ICMP_TIMESTAMPREPLY || answer.header.un.echo.id != id || ms >= DAY_MS)
            continue; /* somebody else's, or a host that keeps no time */
        *of_day_ms = ms;
        return true;
    }
    return false;
}

static bool ask(const char *gateway, int64_t *of_day_ms)
{
    struct sockaddr_in host = {.sin_family = AF_INET};
    struct timestamp_message request = {.header = {.type = ICMP_TIMESTAMP}};
    struct timeval patience = {.tv_usec = TRY_MS * 1000};
    bool is_answered = false;
    uint16_t id;
    int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
    if (fd < 0 || inet_pton(AF_INET, gateway, &host.sin_addr) != 1 || getrandom(&id, sizeof id, 0) != sizeof id) {
        close(fd);
        return false;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    request.header.un.echo.id = id;
    request.header.checksum = checksum(&request);
    for (int i = 0; i < TRIES && !is_answered; i++)
        if (sendto(fd, &request, sizeof request, 0, (struct sockaddr *)&host, sizeof host) < 0)
            usleep(TRY_MS * 1000);
        else
            is_answered = receive_answer(fd, id, of_day_ms);
    close(fd);
    return is_answered;
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

void clock_set(const char *gateway, int64_t known_ms)
{
    int64_t base_ms = hardware_clock_ms(), of_day_ms, now_ms = clock_now_ms();
    if (known_ms > base_ms)
        base_ms = known_ms;
    if (gateway[0] != '\0' && ask(gateway, &of_day_ms)) {
        if (base_ms == 0)
            base_ms = now_ms;
        /* The day is that of the base, or a neighbour of it around midnight. */
        int64_t difference_ms = of_day_ms - base_ms % DAY_MS;
        difference_ms += difference_ms > DAY_MS / 2 ? -DAY_MS : difference_ms < -DAY_MS / 2 ? DAY_MS : 0;
        base_ms += difference_ms;
    } else if (base_ms == 0 || (base_ms - now_ms < COARSE_MS && now_ms - base_ms < COARSE_MS)) {
        return; /* the hardware's clock has whole seconds, and is no better */
    }
    struct timeval now = {.tv_sec = base_ms / 1000, .tv_usec = base_ms % 1000 * 1000};
    if (settimeofday(&now, NULL) != 0)
        log_line("the clock cannot be set");
}
