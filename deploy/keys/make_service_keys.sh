#!/bin/sh
# The API keys with which the services of one deployment call each other, and the secret of their tickets. Callers' keys are added
# with `lipsync key create`, to known/keys.json.
set -eu

if [ $# -ne 1 ]; then
    cat >&2 <<'TEXT'
usage: make_service_keys.sh DIRECTORY

Writes into DIRECTORY, which must not be there:
  known/keys.json         digests of all keys, for every service
  compositing/api.key     of the compositing service, for inference
  gateway/api.key         of the gateway, for compositing
  gateway/tickets.secret  of all gateways
Whoever reads api.key or tickets.secret can call; known/keys.json lets nobody call. LIPSYNC names the program (lipsync).
TEXT
    exit 2
fi
directory=$1
lipsync=${LIPSYNC:-lipsync}
umask 077
mkdir "$directory" "$directory/known" "$directory/compositing" "$directory/gateway"
"$lipsync" key create compositing --file "$directory/known/keys.json" --out "$directory/compositing/api.key" --scope infer --scope admin
"$lipsync" key create gateway --file "$directory/known/keys.json" --out "$directory/gateway/api.key" \
    --scope infer --scope read --scope delegate
head -c 32 /dev/urandom > "$directory/gateway/tickets.secret"
