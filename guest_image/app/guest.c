#include "guest.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/input.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <netinet/if_ether.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "log.h"

#define INTERFACE "eth0"
#define MAX_BUTTONS 4
#define LEASED_NAME "/run/leased-name" /* written by /bin/dhcp-bound */

static struct pollfd buttons[MAX_BUTTONS];
static nfds_t button_count;

void guest_begin(struct settings *settings)
{
    static char line[4096];
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    mount("proc", "/proc", "proc", 0, NULL);
    int fd = open("/proc/cmdline", O_RDONLY);
    ssize_t length = fd < 0 ? 0 : read(fd, line, sizeof line - 1);
    close(fd);
    line[length < 0 ? 0 : length] = '\0';
    settings_read_line(settings, line);
}

static int load_module(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    long result = syscall(SYS_finit_module, fd, "", 0);
    int error = result < 0 ? errno : 0;
    close(fd);
    return error == EEXIST ? 0 : error;
}

void guest_load_modules(const char *stage)
{
    char directory[64], path[512];
    struct dirent **entries;
    snprintf(directory, sizeof directory, "/modules/%s", stage);
    int count = scandir(directory, &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        if (entries[i]->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", directory, entries[i]->d_name);
        int error = load_module(path);
        if (error != 0)
            log_line("module %s: %s", path, strerror(error));
    }
}

static bool set_up_interface(int fd, const char *name, const char *address, int prefix_length)
{
    struct ifreq request = {0};
    struct sockaddr_in *internet = (struct sockaddr_in *)&request.ifr_addr;
    strcpy(request.ifr_name, name);
    if (address != NULL) {
        internet->sin_family = AF_INET;
        if (inet_pton(AF_INET, address, &internet->sin_addr) != 1 || ioctl(fd, SIOCSIFADDR, &request) < 0)
            return false;
        internet->sin_addr.s_addr = prefix_length == 0 ? 0 : htonl(~0U << (32 - prefix_length));
        if (ioctl(fd, SIOCSIFNETMASK, &request) < 0)
            return false;
    }
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    return ioctl(fd, SIOCSIFFLAGS, &request) == 0;
}

static bool add_default_route(int fd, const char *gateway)
{
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
    struct sockaddr_in *address = (struct sockaddr_in *)&route.rt_gateway;
    route.rt_dst.sa_family = route.rt_genmask.sa_family = address->sin_family = AF_INET;
    return inet_pton(AF_INET, gateway, &address->sin_addr) == 1 && ioctl(fd, SIOCADDRT, &route) == 0;
}

static void use_static_address(int fd, const struct settings *settings)
{
    char address[32];
    strcpy(address, settings->address);
    char *slash = strchr(address, '/');
    int prefix_length = slash == NULL ? 24 : atoi(slash + 1);
    if (slash != NULL)
        *slash = '\0';
    if (prefix_length < 0 || prefix_length > 32 || !set_up_interface(fd, INTERFACE, address, prefix_length))
        log_line("address %s: %s", settings->address, strerror(errno));
    if (settings->gateway[0] != '\0' && !add_default_route(fd, settings->gateway))
        log_line("gateway %s: %s", settings->gateway, strerror(errno));
}

/* Leave udhcpc running, for it renews the lease; return once it has one. */
static void use_dhcp(int fd, struct settings *settings)
{
    char name[sizeof settings->name] = "";
    set_up_interface(fd, INTERFACE, NULL, 0);
    mkdir("/run", 0755);
    if (fork() == 0) {
        execl("/bin/busybox", "udhcpc", "-f", "-t", "100", "-T", "1", "-i", INTERFACE, "-s", "/bin/dhcp-bound", NULL);
        _exit(127);
    }
    while (access(LEASED_NAME, R_OK) != 0)
        usleep(20000);
    FILE *file = fopen(LEASED_NAME, "r");
    if (settings->name[0] == '\0' && fscanf(file, "%63s", name) == 1) {
        char word[sizeof name + 16];
        snprintf(word, sizeof word, "autoscaler.name=%s", name);
        settings_read_word(settings, word);
    }
    fclose(file);
}

void guest_configure_network(struct settings *settings)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    signal(SIGCHLD, SIG_IGN); /* the first process inherits orphans: let the kernel reap them */
    set_up_interface(fd, "lo", "127.0.0.1", 8);
    while (if_nametoindex(INTERFACE) == 0)
        usleep(10000); /* the driver probes in the background, or the device is plugged in later */
    if (settings->address[0] != '\0')
        use_static_address(fd, settings);
    else
        use_dhcp(fd, settings);
    close(fd);
    if (settings->name[0] == '\0')
        strcpy(settings->name, "unnamed");
    sethostname(settings->name, strlen(settings->name));
}

static bool ask_interface(unsigned long what, struct ifreq *request)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    strcpy(request->ifr_name, INTERFACE);
    bool is_answered = ioctl(fd, what, request) == 0;
    close(fd);
    return is_answered;
}

bool guest_has_link(void)
{
    /* The flag IFF_RUNNING follows the carrier up to a second later. */
    struct ethtool_value carrier = {.cmd = ETHTOOL_GLINK};
    struct ifreq request = {.ifr_data = (char *)&carrier};
    return ask_interface(SIOCETHTOOL, &request) && carrier.data != 0;
}

void guest_announce(void)
{
    struct ifreq mac = {0}, address = {0}, number = {0};
    struct ether_arp message = {
        .ea_hdr = {htons(ARPHRD_ETHER), htons(ETHERTYPE_IP), ETHER_ADDR_LEN, sizeof(struct in_addr),
                   htons(ARPOP_REQUEST)},
    };
    struct sockaddr_ll everybody = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETHERTYPE_ARP), .sll_halen = ETHER_ADDR_LEN};
    if (!ask_interface(SIOCGIFHWADDR, &mac) || !ask_interface(SIOCGIFADDR, &address) ||
        !ask_interface(SIOCGIFINDEX, &number))
        return; /* no address: nobody waits for us */
    memcpy(message.arp_sha, mac.ifr_hwaddr.sa_data, sizeof message.arp_sha);
    memcpy(message.arp_spa, &((struct sockaddr_in *)&address.ifr_addr)->sin_addr, sizeof message.arp_spa);
    memcpy(message.arp_tpa, message.arp_spa, sizeof message.arp_tpa);
    memset(everybody.sll_addr, 0xff, ETHER_ADDR_LEN);
    everybody.sll_ifindex = number.ifr_ifindex;
    int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sendto(fd, &message, sizeof message, MSG_DONTWAIT, (struct sockaddr *)&everybody, sizeof everybody);
    close(fd);
}

void guest_forget_address(const struct settings *settings)
{
    struct ifreq request = {0};
    request.ifr_addr.sa_family = AF_INET; /* 0.0.0.0: removes the address and the routes through it */
    if (settings->address[0] != '\0' && !ask_interface(SIOCSIFADDR, &request))
        log_line("address %s stays: %s", settings->address, strerror(errno));
}

static void use_mac(const char *text)
{
    struct ifreq request = {.ifr_hwaddr.sa_family = ARPHRD_ETHER};
    unsigned char *mac = (unsigned char *)request.ifr_hwaddr.sa_data;
    if (sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4],
               &mac[5]) != 6 ||
        !ask_interface(SIOCSIFHWADDR, &request))
        log_line("MAC %s: %s", text, strerror(errno));
}

void guest_use_address(const struct settings *settings)
{
    if (settings->mac[0] != '\0')
        use_mac(settings->mac);
    if (settings->address[0] != '\0') {
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        use_static_address(fd, settings);
        close(fd);
    }
    sethostname(settings->name, strlen(settings->name));
}

void guest_describe_interface(char *mac, size_t mac_size, char *address, size_t address_size)
{
    struct ifreq request = {0};
    mac[0] = address[0] = '\0';
    if (ask_interface(SIOCGIFHWADDR, &request)) {
        const unsigned char *found = (const unsigned char *)request.ifr_hwaddr.sa_data;
        snprintf(mac, mac_size, "%02x:%02x:%02x:%02x:%02x:%02x", found[0], found[1], found[2], found[3], found[4],
                 found[5]);
    }
    if (ask_interface(SIOCGIFADDR, &request))
        inet_ntop(AF_INET, &((struct sockaddr_in *)&request.ifr_addr)->sin_addr, address, (socklen_t)address_size);
}

void guest_watch_power_button(void)
{
    char path[32];
    for (int i = 0; i < MAX_BUTTONS; i++) {
        snprintf(path, sizeof path, "/dev/input/event%d", i);
        int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0)
            buttons[button_count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    if (button_count == 0)
        log_line("no power button: an ACPI shutdown will not be seen");
}

bool guest_power_button(int timeout_ms)
{
    struct input_event event;
    poll(buttons, button_count, timeout_ms);
    for (nfds_t i = 0; i < button_count; i++)
        while (read(buttons[i].fd, &event, sizeof event) == (ssize_t)sizeof event)
            if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
                return true;
    return false;
}

void guest_power_off(void)
{
    reboot(RB_POWER_OFF);
    for (;;) /* the first process must not end */
        pause();
}
