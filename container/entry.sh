#!/bin/sh
# What every container runs: wait for the shared directories, then become the service.
# Usage: entry.sh SERVICE|haproxy|window, or any other command, which is run as it is
set -u
umask 007 # the group is what the containers share; see cli/shared_dirs.py
here=/opt/libvirt-autoscaler
run=${LIBVIRT_AUTOSCALER_RUN_DIR:-/run/libvirt-autoscaler}
state=${LIBVIRT_AUTOSCALER_STATE_DIR:-/var/lib/libvirt-autoscaler}

# The actuator's user owns the directories and opens them to the group, also after the machine's boot emptied /run.
wait_for_directories() {
	[ "$1" = actuator ] && { python3 -m cli.shared_dirs || exit; }
	tries=0
	until [ -w "$run" ] && { [ ! -d "$state" ] || [ -w "$state" ]; }; do
		[ $tries -ne 5 ] || echo "waiting until the actuator's container has opened $run and $state" >&2
		[ $tries -lt 300 ] || { echo "$run or $state cannot be written by $(id -u):$(id -G)" >&2; exit 1; }
		tries=$((tries + 1))
		sleep 0.1
	done
}

case ${1:-} in
haproxy)
	trap 'exit 0' USR1 TERM # the first process of a container ignores what it does not ask for
	wait_for_directories haproxy
	python3 -m services.balancer --write-config || exit
	at_stop="python3 -m services.balancer.ending '$run'"
	exec "$here/scripts/keep-haproxy.sh" --at-stop "$at_stop" haproxy -W -S "$run/haproxy-master.sock,mode,600" -f "$run/haproxy.cfg"
	;;
window) exec python3 -m services.plotter --window ;;
*)
	[ -d "$here/services/${1:-}" ] && [ -n "${1:-}" ] || exec "$@"
	wait_for_directories "$1"
	exec python3 -m "services.$1"
	;;
esac
