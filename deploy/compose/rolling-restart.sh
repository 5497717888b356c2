#!/bin/sh
# Replaces the containers of a service, compositing or gateway, one after the other, by new ones of the image and the settings as they are now, and loses no
# call: a new one is ready before an old one is asked to go. Takes the options that docker-compose was started with:
#
#   deploy/compose/rolling-restart.sh -f docker-compose.yml -f deploy/compose/cpu.yml
#
# SERVICE says which service (compositing); COMPOSE which docker-compose ("docker compose"); HEALTHY_SECONDS how long a new one may take (300), STOP_SECONDS how long an
# old one may (60).
set -eu

compose=${COMPOSE:-docker-compose}
service=${SERVICE:-compositing}

running() {
    $compose "$@" ps -q "$service"
}

health() {
    docker inspect --format '{{.State.Health.Status}}' "$1"
}

old=$(running "$@")
[ -n "$old" ] || { echo "rolling-restart.sh: no $service container runs; start with: $compose $* up -d" >&2; exit 1; }
count=$(echo "$old" | wc -l)

for container in $old; do
    $compose "$@" up -d --no-deps --no-build --no-recreate --scale "$service=$((count + 1))" "$service"
    for new in $(running "$@"); do
        waited=0
        until [ "$(health "$new")" = healthy ]; do
            if [ "$waited" -ge "${HEALTHY_SECONDS:-300}" ]; then
                echo "rolling-restart.sh: container $new did not become healthy; the old ones that are left go on" >&2
                exit 1
            fi
            sleep 1
            waited=$((waited + 1))
        done
    done
    # Longer than HAProxy needs to find the new one in Docker's DNS and to check it.
    sleep 2
    docker stop -t "${STOP_SECONDS:-60}" "$container" >/dev/null
    docker rm "$container" >/dev/null
done
