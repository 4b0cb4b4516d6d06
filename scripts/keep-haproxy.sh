#!/bin/sh
# Keep HAProxy running: its master ends when its worker is killed, and supervisord looks only once a second.
# SIGUSR2 (reload) and SIGTERM go on to the master. A HAProxy that ends within its first second is started again after a
# pause: a wrong configuration must not spin.
# Usage: keep-haproxy.sh COMMAND…
is_asked_to_stop=
trap 'is_asked_to_stop=yes; kill -TERM "$child" 2>/dev/null' TERM INT
trap 'kill -USR2 "$child" 2>/dev/null' USR2

while :; do
	started=$(cut -d. -f1 /proc/uptime)
	"$@" &
	child=$!
	code=
	# `wait` also returns when a signal was handled; only a child that is gone ends it.
	while kill -0 "$child" 2>/dev/null; do
		wait "$child"
		code=$?
	done
	[ -n "$is_asked_to_stop" ] && exit 0
	echo "HAProxy ended with code ${code:-1}; it is started again" >&2
	[ $(($(cut -d. -f1 /proc/uptime) - started)) -ge 2 ] && continue
	sleep 3 &
	wait $!
	[ -n "$is_asked_to_stop" ] && exit 0
done
