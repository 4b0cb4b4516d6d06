#include "settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

#define PREFIX "autoscaler."

void settings_init(struct settings *settings)
{
    /* 700 ms: with checks each 500 ms, then 100 ms, two in a row see the 503 before the port closes. */
    *settings = (struct settings){.port = 8080, .linger_ms = 700};
}

static const char *copy_text(char *to, size_t size, const char *value)
{
    if (strlen(value) >= size)
        return "is too long";
    strcpy(to, value);
    return NULL;
}

static const char *copy_name(struct settings *settings, const char *value)
{
    /* The name becomes a header and a host name: the characters of a domain name, nothing else. */
    const char *allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    if (value[strspn(value, allowed)] != '\0')
        return "may hold letters, digits, '_', '.' and '-' only";
    return copy_text(settings->name, sizeof settings->name, value);
}

static const char *read_number(int *to, const char *value, long max)
{
    char *end;
    long number = strtol(value, &end, 10);
    if (end == value || *end != '\0' || number < 0 || number > max)
        return "is not a number in the allowed range";
    *to = (int)number;
    return NULL;
}

const char *settings_read_word(struct settings *settings, const char *word)
{
    if (strncmp(word, PREFIX, strlen(PREFIX)) != 0)
        return NULL;
    const char *key = word + strlen(PREFIX), *value = strchr(key, '=');
    if (value == NULL)
        return "has no value";
    size_t length = (size_t)(value++ - key);
#define IS(text) (length == strlen(text) && memcmp(key, text, length) == 0)
    if (IS("name"))
        return copy_name(settings, value);
    if (IS("address"))
        return copy_text(settings->address, sizeof settings->address, value);
    if (IS("gateway"))
        return copy_text(settings->gateway, sizeof settings->gateway, value);
    if (IS("mac"))
        return copy_text(settings->mac, sizeof settings->mac, value);
    if (IS("epoch_ms"))
        settings->epoch_ms = strtoll(value, NULL, 10);
    if (IS("template"))
        settings->is_template = strcmp(value, "1") == 0;
    if (IS("port"))
        return read_number(&settings->port, value, 65535);
    if (IS("linger_ms"))
        return read_number(&settings->linger_ms, value, 60000);
    if (IS("probe"))
        settings->probe = strcmp(value, "1") == 0;
#undef IS
    return NULL; /* an unknown key may be a newer actuator's */
}

void settings_read_line(struct settings *settings, char *line)
{
    for (char *rest = line, *word; (word = strtok_r(rest, " \t\n", &rest)) != NULL;) {
        const char *reason = settings_read_word(settings, word);
        if (reason != NULL)
            log_line("ignored %s: %s", word, reason);
    }
}
