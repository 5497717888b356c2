#!/bin/sh
# The API keys with which the services of one deployment call each other, and the secret of their tickets: makes those that are not
# there yet. Callers' keys are in the same file as these, and what follows the directory is for `lipsync key`.
set -eu

if [ $# -eq 0 ]; then
    cat >&2 <<'TEXT'
usage: make_service_keys.sh DIRECTORY [create CALLER | list | revoke ID ...]

Has in DIRECTORY:
  known/keys.json         digests of all keys, for every service
  compositing/api.key     of the compositing service, for inference
  gateway/api.key         of the gateway, for compositing
  gateway/tickets.secret  of all gateways
and, where DIRECTORY/store is there and may be written, for a Valkey server with shared limits:
  compositing/store.password  of the compositing services
  store/users.acl             its users, with a hash of the password
Whoever reads api.key or tickets.secret can call; known/keys.json lets nobody call. LIPSYNC names the program (lipsync).
TEXT
    exit 2
fi
directory=$1
shift
lipsync=${LIPSYNC:-lipsync}
known=$directory/known/keys.json
umask 077
mkdir -p "$directory/known" "$directory/compositing" "$directory/gateway"

make_key() {
    service=$1
    shift
    [ -s "$directory/$service/api.key" ] || "$lipsync" key create "$service" --file "$known" --out "$directory/$service/api.key" "$@"
}

make_key compositing --scope infer --scope admin
make_key gateway --scope infer --scope read --scope delegate
[ -s "$directory/gateway/tickets.secret" ] || head -c 32 /dev/urandom > "$directory/gateway/tickets.secret"
if [ -w "$directory/store" ]; then
    password=$directory/compositing/store.password
    [ -s "$password" ] || head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$password"
    commands="+evalsha +script|load +time +get +set +zadd +zrem +zcard +zrange +zremrangebyscore +pexpire"
    printf 'user default off\nuser lipsync on #%s ~lipsync:* %s\n' "$(sha256sum < "$password" | cut -c 1-64)" "$commands" \
        > "$directory/store/users.acl"
fi
[ $# -eq 0 ] || exec "$lipsync" key "$@" --file "$known"
