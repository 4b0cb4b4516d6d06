#include "fwcfg.h"

#include <stdint.h>
#include <string.h>
#include <sys/io.h>

#define SELECTOR 0x510 /* 16 bits wide; reads of DATA then go through the chosen item byte by byte */
#define DATA 0x511
#define KEY_SIGNATURE 0x00
#define KEY_UUID 0x02
#define KEY_DIRECTORY 0x19
#define NAME_BYTES 56
#define MAX_FILES 256

static void select_item(uint16_t key)
{
    outw(key, SELECTOR);
}

static void read_bytes(void *to, size_t count)
{
    for (unsigned char *byte = to; count > 0; count--)
        *byte++ = inb(DATA);
}

static uint32_t read_big_endian(size_t count)
{
    uint32_t number = 0;
    while (count-- > 0)
        number = number << 8 | inb(DATA);
    return number;
}

static bool is_there(void)
{
    char signature[4];
    if (ioperm(SELECTOR, 2, 1) != 0)
        return false;
    select_item(KEY_SIGNATURE);
    read_bytes(signature, sizeof signature);
    return memcmp(signature, "QEMU", sizeof signature) == 0;
}

bool fwcfg_uuid(unsigned char uuid[FWCFG_UUID_BYTES])
{
    static const unsigned char none[FWCFG_UUID_BYTES];
    if (!is_there())
        return false;
    select_item(KEY_UUID);
    read_bytes(uuid, FWCFG_UUID_BYTES);
    return memcmp(uuid, none, sizeof none) != 0;
}

size_t fwcfg_text(const char *name, char *text, size_t size)
{
    if (!is_there())
        return 0;
    select_item(KEY_DIRECTORY);
    uint32_t count = read_big_endian(4);
    for (uint32_t i = 0; i < count && i < MAX_FILES; i++) {
        char found[NAME_BYTES];
        uint32_t length = read_big_endian(4), key = read_big_endian(2);
        read_big_endian(2);
        read_bytes(found, sizeof found);
        if (strncmp(found, name, sizeof found) != 0)
            continue;
        if (length >= size)
            return 0;
        select_item((uint16_t)key);
        read_bytes(text, length);
        text[length] = '\0';
        return length;
    }
    return 0;
}
