#include "identity.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/random.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "clock.h"
#include "fwcfg.h"
#include "guest.h"
#include "log.h"
#include "server.h"

#define WORDS "opt/libvirt-autoscaler" /* the name of QEMU's entry */
#define NOBODY "unidentified"
#define MACHINE_ID "/etc/machine-id"
#define FRESH_BYTES 128 /* more than the driver may have fetched before the snapshot */
#define ANSWERED_US 30000 /* whoever waits is answered first: to announce takes 10 ms of an emulated CPU */

static unsigned char own_uuid[FWCFG_UUID_BYTES];
static int machine_id_file; /* stays open: a clone that makes the file anew loses 10 ms */

static void write_machine_id(const unsigned char *uuid)
{
    char text[2 * FWCFG_UUID_BYTES + 2];
    for (size_t i = 0; i < FWCFG_UUID_BYTES; i++)
        snprintf(text + 2 * i, 3, "%02x", uuid[i]);
    text[2 * FWCFG_UUID_BYTES] = '\n';
    if (pwrite(machine_id_file, text, sizeof text - 1, 0) < 0)
        log_line("machine-id cannot be written");
}

void identity_begin(void)
{
    mkdir("/etc", 0755);
    machine_id_file = open(MACHINE_ID, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0444);
    if (fwcfg_uuid(own_uuid))
        write_machine_id(own_uuid);
}

/* Give the kernel's random number generator what no other clone of the same memory has. */
static void reseed(const char *words)
{
    struct {
        struct rand_pool_info info;
        unsigned char bytes[FRESH_BYTES + 1024];
    } pool = {0};
    int hardware = open("/dev/hwrng", O_RDONLY | O_CLOEXEC);
    ssize_t count = hardware < 0 ? 0 : read(hardware, pool.bytes, FRESH_BYTES);
    size_t length = count < 0 ? 0 : (size_t)count;
    close(hardware);
    memcpy(pool.bytes + length, own_uuid, sizeof own_uuid);
    length += sizeof own_uuid;
    length += (size_t)snprintf((char *)pool.bytes + length, 800, "%s", words);
    pool.info.entropy_count = 256;
    pool.info.buf_size = (int)length;
    int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
    if (ioctl(fd, RNDADDENTROPY, &pool.info) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
        log_line("the random number generator cannot be reseeded");
    close(fd);
}

/* Fill the free memory with zeros, which a snapshot does not have to hold. */
static void clear_free_memory(void)
{
    struct sysinfo memory;
    sysinfo(&memory);
    size_t bytes = memory.freeram / 10 * 9;
    void *area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (area != MAP_FAILED)
        munmap(area, bytes);
}

static void wait_for_identity(struct settings *settings)
{
    server_close_to(NOBODY);
    guest_forget_address(settings);
    if (settings->is_template)
        clear_free_memory();
    log_line("no link: waiting for an identity");
}

static bool is_another(void)
{
    unsigned char uuid[FWCFG_UUID_BYTES];
    return fwcfg_uuid(uuid) && memcmp(uuid, own_uuid, sizeof uuid) != 0;
}

static void take_identity(struct settings *settings)
{
    static char words[800], line[sizeof words];
    if (is_another() && fwcfg_uuid(own_uuid)) {
        settings->epoch_ms = 0;
        words[0] = '\0';
        fwcfg_text(WORDS, words, sizeof words);
        memcpy(line, words, sizeof line);
        settings_read_line(settings, line); /* takes the line apart */
        write_machine_id(own_uuid);
        reseed(words);
        server_forget();
        settings->is_template = false;
    }
    guest_use_address(settings);
    clock_set(settings->gateway, settings->epoch_ms);
    settings->epoch_ms = 0; /* true for one moment only */
    server_open_as(settings->name);
    usleep(ANSWERED_US);
    guest_announce();
    log_line("serving as %s", settings->name);
}

static void *follow_link(void *argument)
{
    struct settings *settings = argument;
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
    char message[8192];
    bool had_link = true;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        log_line("changes of the link will not be seen");
    guest_announce(); /* once more: a new link may lose its first frames */
    clock_set(settings->gateway, 0); /* here, and not where the power button is watched: a gateway may be silent */
    do { /* whatever the message says: the link is looked at as it is now */
        bool has_link = guest_has_link(), was_away = !had_link;
        if (had_link && (!has_link || is_another())) {
            wait_for_identity(settings);
            was_away = true;
        }
        if (was_away && has_link)
            take_identity(settings);
        had_link = has_link;
    } while (recv(fd, message, sizeof message, 0) > 0);
    return NULL;
}

void identity_follow_link(struct settings *settings)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, follow_link, settings) != 0)
        log_line("changes of the link will not be seen");
}

static void read_machine_id(char *text, size_t size)
{
    FILE *file = fopen(MACHINE_ID, "r");
    text[0] = '\0';
    if (file == NULL)
        return;
    if (fgets(text, (int)size, file) != NULL)
        text[strcspn(text, "\n")] = '\0';
    fclose(file);
}

void identity_describe(const char *name, char *out, size_t size)
{
    char machine_id[40], host[65] = "", mac[18], address[INET_ADDRSTRLEN], random[33];
    unsigned char bytes[16] = {0};
    read_machine_id(machine_id, sizeof machine_id);
    gethostname(host, sizeof host - 1);
    guest_describe_interface(mac, sizeof mac, address, sizeof address);
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
        bytes[0] = 0;
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(random + 2 * i, 3, "%02x", bytes[i]);
    int64_t now_ms = clock_now_ms();
    snprintf(out, size,
             "{\"name\": \"%s\", \"machine_id\": \"%s\", \"hostname\": \"%s\", \"mac\": \"%s\", \"address\": \"%s\", "
             "\"epoch_s\": %lld.%03d, \"random\": \"%s\"}\n",
             name, machine_id, host, mac, address, (long long)(now_ms / 1000), (int)(now_ms % 1000), random);
}
