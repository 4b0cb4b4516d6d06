#!/bin/sh
# Keep HAProxy running: its master ends when its worker is killed, and supervisord looks only once a second.
# SIGUSR2 (reload) and SIGTERM go on to the master. SIGUSR1 has HAProxy end without haste: it takes nothing new, WAIT
# returns when nothing is in flight or the time for that is over, and then HAProxy is ended. A HAProxy that ends within
# its first second is started again after a pause: a wrong configuration must not spin.
#
# With --pid-file, HAProxy serves on when its keeper is killed, and the next keeper takes it over instead of starting
# another one; it has it reload if the configuration, COMMAND's last word, is newer than what it runs with. --end takes
# over one that runs only to have it end, as SIGUSR1 does. COMMAND's first and last words tell HAProxy from another
# process.
# Usage: keep-haproxy.sh [--pid-file FILE] [--end] [--at-stop WAIT] COMMAND…
# WAIT: a command for the shell, as one word
is_asked_to_stop=
child=
is_taken_over=
ending=
trap 'is_asked_to_stop=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT
trap 'is_asked_to_stop=yes; [ -z "$child" ] || [ -n "$ending" ] || { drain & ending=$!; }' USR1
trap '[ -z "$child" ] || reload' USR2
at_stop=
pid_file=
is_to_end=
while :; do
	case $1 in
	--at-stop) at_stop=$2 && shift 2 ;;
	--pid-file) pid_file=$2 && shift 2 ;;
	--end) is_to_end=yes && shift ;;
	*) break ;;
	esac
done
for last in "$@"; do :; done
name=${1##*/}

# Return whether the process is there and has not ended: who is not its parent cannot take it off the list.
runs() { read -r stat 2>/dev/null <"/proc/$1/stat" && case ${stat##*) } in Z*) false ;; esac }

# Return whether a HAProxy runs that an earlier keeper has started; it is the child then.
take_over() {
	[ -n "$pid_file" ] && read -r found 2>/dev/null <"$pid_file" && runs "$found" &&
		[ "$(cat "/proc/$found/comm")" = "$name" ] && grep -qzxF -- "$last" "/proc/$found/cmdline" && child=$found
} 2>/dev/null

# Become HAProxy. It writes its own number before: a keeper that is killed meanwhile leaves none that nobody knows of.
start() {
	[ -n "$pid_file" ] || exec "$@"
	# shellcheck disable=SC2016 # the inner shell is to expand it
	exec sh -c 'echo $$ >"$0.new" && mv "$0.new" "$0" && exec "$@"' "$pid_file" "$@"
}

# The file tells since when it runs with what.
reload() {
	[ -z "$pid_file" ] || touch -c "$pid_file"
	kill -USR2 "$child" 2>/dev/null
}

# Return when the child has ended or a signal was handled; whether it goes on.
await() {
	if [ -n "$is_taken_over" ]; then
		timeout 1 tail --pid="$child" -s 0.1 -f /dev/null &
		wait $!
	else
		wait "$child"
		code=$?
	fi
	runs "$child"
}

finish() {
	[ -z "$pid_file" ] || rm -f "$pid_file"
	exit 0
}

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
	is_taken_over=
	if take_over; then
		is_taken_over=yes
		[ -n "$is_to_end" ] || [ -z "$(find "$last" -newer "$pid_file")" ] || reload
	elif [ -n "$is_to_end" ]; then
		finish
	else
		start "$@" &
		child=$!
	fi
	[ -z "$is_asked_to_stop" ] || kill -TERM "$child" 2>/dev/null # the signal came just before
	[ -z "$is_to_end" ] || kill -USR1 $$
	code=
	while await; do :; done
	child=
	[ -z "$ending" ] || while runs "$ending"; do wait "$ending"; done
	[ -n "$is_asked_to_stop" ] && finish
	echo "HAProxy ended${code:+ with code $code}; it is started again" >&2
	[ $(($(cut -d. -f1 /proc/uptime) - started)) -ge 2 ] && continue
	sleep 3 &
	wait $!
	[ -n "$is_asked_to_stop" ] && finish
done
