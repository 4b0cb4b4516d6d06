#!/bin/sh
# Keep HAProxy running: its master ends when its worker is killed, and supervisord looks only once a second.
# SIGUSR2 (reload) and SIGTERM go on to the master. SIGUSR1 has HAProxy end without haste: it takes nothing new, WAIT
# returns when nothing is in flight or the time for that is over, and then HAProxy is ended. A HAProxy that ends within
# its first second is started again after a pause: a wrong configuration must not spin.
# Usage: keep-haproxy.sh [--at-stop WAIT] COMMAND…   (WAIT: a command for the shell, as one word)
is_asked_to_stop=
child=
ending=
trap 'is_asked_to_stop=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT
trap 'is_asked_to_stop=yes; [ -z "$child" ] || [ -n "$ending" ] || { drain & ending=$!; }' USR1
trap '[ -z "$child" ] || kill -USR2 "$child" 2>/dev/null' USR2
at_stop=
if [ "$1" = --at-stop ]; then
	at_stop=$2
	shift 2
fi

runs() { kill -0 "$1" 2>/dev/null; }

# Runs beside the loop below. What does not end within 8 s of its SIGTERM hangs.
drain() {
	kill -USR1 "$child"
	sh -c "exec $at_stop" &
	while runs "$child" && runs $!; do sleep 0.05; done
	kill -TERM $! "$child" 2>/dev/null
	tenths=80
	while runs "$child" && [ $tenths -gt 0 ]; do
		sleep 0.1
		tenths=$((tenths - 1))
	done
	! runs "$child" || kill -KILL "$child"
}

while :; do
	started=$(cut -d. -f1 /proc/uptime)
	"$@" &
	child=$!
	[ -z "$is_asked_to_stop" ] || kill -TERM "$child" 2>/dev/null # the signal came just before
	code=
	# `wait` also returns when a signal was handled; only a child that is gone ends it.
	while runs "$child"; do
		wait "$child"
		code=$?
	done
	child=
	[ -z "$ending" ] || while runs "$ending"; do wait "$ending"; done
	[ -n "$is_asked_to_stop" ] && exit 0
	echo "HAProxy ended with code ${code:-1}; it is started again" >&2
	[ $(($(cut -d. -f1 /proc/uptime) - started)) -ge 2 ] && continue
	sleep 3 &
	wait $!
	[ -n "$is_asked_to_stop" ] && exit 0
done
