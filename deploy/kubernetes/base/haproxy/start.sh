#!/bin/sh
# start.sh CONFIGURATION FOLDER...: runs HAProxy until it is stopped, by SIGUSR1 or SIGTERM: calls that run may end.
#
# HAProxy reads certificates only when it starts. When the files in a FOLDER change and can be used, its worker is replaced by a
# new one: no connection is refused, and calls that run have `hard-stop-after` to end.
set -eu

configuration=$1
shift

contents() {
    for folder in "$@"; do
        cat "$folder"/* 2>/dev/null || true
    done | cksum
}

follow() {
    while sleep "${LOOK_SECONDS:-30}"; do
        now=$(contents "$@")
        if [ "$now" = "$used" ]; then
            continue
        elif haproxy -c -q -f "$configuration"; then
            used=$now
            kill -USR2 "$haproxy"
        else
            echo "start.sh: what is new in $* cannot be used, so what was read before stays" >&2
        fi
    done
}

used=$(contents "$@")
haproxy -W -db -f "$configuration" &
haproxy=$!

stop() {
    # More than once: HAProxy loses a signal that comes while it replaces its worker.
    while kill -USR1 "$haproxy" 2>/dev/null; do
        sleep 1
    done &
}

trap stop USR1 TERM
follow "$@" &
follower=$!
# A signal ends `wait`, with a number of its own, before HAProxy ends.
while kill -0 "$haproxy" 2>/dev/null; do
    wait "$haproxy" || true
done
code=0
wait "$haproxy" || code=$?
kill "$follower"
exit "$code"
