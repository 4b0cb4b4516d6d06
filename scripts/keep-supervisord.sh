#!/bin/sh
# Keep supervisord running: one that is killed is started again a second later, and takes over HAProxy, which has served
# on, and the services, which have ended with it. One that ends by itself, because it was asked to or cannot start, stays
# ended. FILE has this keeper's number, so that whoever stops everything stops it first.
# Usage: keep-supervisord.sh FILE COMMAND…   (COMMAND stays in the foreground)
echo $$ >"$1" || exit
shift
while :; do
	"$@"
	code=$?
	[ $code -gt 128 ] || exit $code
	echo "supervisord was ended by signal $((code - 128)); it is started again" >&2
	sleep 1
done
