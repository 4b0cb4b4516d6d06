#!/bin/sh
# Remove from the root file system what no service uses. dpkg's list of packages stays: scanners read it.
set -eu
cd /
rm -rf usr/share/doc usr/share/man usr/share/info usr/share/locale usr/share/lintian usr/share/bug usr/share/pixmaps
rm -rf usr/share/i18n usr/share/perl usr/share/perl5 usr/share/zoneinfo # Python has its own zones: tzdata
rm -rf usr/lib/x86_64-linux-gnu/gconv usr/lib/x86_64-linux-gnu/perl* usr/bin/perl*
rm -rf usr/lib/python3.*/test usr/lib/python3.*/pydoc_data usr/lib/python3.*/idlelib usr/lib/python3.*/lib2to3
rm -rf usr/lib/python3.*/ensurepip
rm -rf usr/lib/apt usr/lib/x86_64-linux-gnu/libapt* var/lib/apt var/lib/dpkg/info var/cache/* var/log/*
# Nothing here may become another user.
find . -xdev -type f -perm /6000 -exec chmod a-s {} +
