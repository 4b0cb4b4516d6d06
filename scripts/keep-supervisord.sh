#!/bin/sh
# Keep supervisord running: one that is killed, or fails, is started again a second later, and takes over HAProxy, which
# has served on, and the services, which have ended with it. One that was asked to end stays ended, and one that ends at
# its very start too. FILE has this keeper's number, so that whoever stops everything stops it first.
# Usage: keep-supervisord.sh FILE COMMAND…   (COMMAND stays in the foreground)
echo $$ >"$1" || exit
shift
while :; do
	started=$(cut -d. -f1 /proc/uptime)
	"$@"
	code=$?
	lived=$(($(cut -d. -f1 /proc/uptime) - started))
	[ $code -gt 128 ] || { [ $code -ne 0 ] && [ $lived -ge 2 ]; } || exit $code
	echo "supervisord ended with code $code; it is started again" >&2
	sleep 1
done
