#!/bin/sh
# Certificates for trying TLS out: a certificate authority of its own, one certificate for each service and for the load balancer,
# and one for a client outside. Not for production: the authority's key is beside them.
set -eu

usage() {
    cat <<'TEXT'
usage: make_test_certificates.sh [--days N] [--host NAME-OR-ADDRESS]... [--shared-keys] [--force] DIRECTORY

Writes into DIRECTORY:
  ca.crt  ca.key                    the authority, which all sides trust
  inference.crt  inference.key      for the inference service
  compositing.crt  compositing.key  for the compositing service, also as the inference service's client
  gateway.crt  gateway.key          for the gateway, also as the load balancer's client
  haproxy.crt  haproxy.key          for the load balancer, also as the services' client
  haproxy.pem                       the two in one file, as HAProxy reads them
  client.crt  client.key            for a client outside
Each carries its own name, and those of servers also localhost, 127.0.0.1, ::1 and every --host. Only the owner may read
the keys and haproxy.pem.

  --days N       how long they are valid (30)
  --host NAME    a further name or address by which clients reach the services
  --shared-keys  let every user of this machine read the keys, the authority's apart: containers run as users of their own
  --force        replace the certificates that are there
TEXT
}

fail() {
    echo "make_test_certificates.sh: $1" >&2
    exit 2
}

days=30
force=no
key_mode=600
directory=
more_names=
while [ $# -gt 0 ]; do
    case $1 in
    --days)
        [ $# -gt 1 ] || fail "--days needs a number"
        days=$2
        shift
        ;;
    --host)
        [ $# -gt 1 ] || fail "--host needs a name or an address"
        case $2 in
        "" | *[!A-Za-z0-9.:_-]*) fail "--host $2: neither a host name nor an address" ;;
        *:* | *[0-9].[0-9]*.[0-9]*.[0-9]*) more_names="$more_names,IP:$2" ;;
        *) more_names="$more_names,DNS:$2" ;;
        esac
        shift
        ;;
    --shared-keys) key_mode=644 ;;
    --force) force=yes ;;
    -h | --help)
        usage
        exit 0
        ;;
    -*) fail "unknown option $1 (--help lists them)" ;;
    *)
        [ -z "$directory" ] || fail "one directory, not several"
        directory=$1
        ;;
    esac
    shift
done
[ -n "$directory" ] || fail "which directory? (--help tells more)"
case $days in
"" | *[!0-9]* | 0*) fail "--days $days: not a number of days" ;;
esac
command -v openssl >/dev/null || fail "needs the openssl command, which is not installed"

files="ca.crt ca.key haproxy.pem"
for name in inference compositing gateway haproxy client; do
    files="$files $name.crt $name.key"
done
if [ "$force" = no ]; then
    for file in $files; do
        [ ! -e "$directory/$file" ] || fail "$directory/$file is there already; --force replaces all of them"
    done
fi

[ -d "$directory" ] || mkdir -p "$directory"
umask 077
# Made beside their place and moved there, so that readers never see half a file.
work=$(mktemp -d "$directory/.making.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

new_key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/$1.key" 2>"$work/said" || quit "$1"
}

quit() {
    cat "$work/said" >&2
    echo "make_test_certificates.sh: openssl could not make $1" >&2
    exit 1
}

cat >"$work/ca.cnf" <<'TEXT'
[req]
distinguished_name = name
prompt = no
x509_extensions = authority
[name]
CN = lipsync test authority
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
TEXT
new_key ca
openssl req -x509 -new -sha256 -key "$work/ca.key" -days "$days" -config "$work/ca.cnf" -out "$work/ca.crt" 2>"$work/said" ||
    quit ca

for name in inference compositing gateway haproxy client; do
    case $name in
    client) names=DNS:client ;;
    *) names=DNS:$name,DNS:localhost,IP:127.0.0.1,IP:::1$more_names ;;
    esac
    cat >"$work/$name.cnf" <<TEXT
[req]
distinguished_name = name
prompt = no
[name]
CN = $name
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = $names
TEXT
    new_key "$name"
    openssl req -new -sha256 -key "$work/$name.key" -config "$work/$name.cnf" -out "$work/$name.csr" 2>"$work/said" || quit "$name"
    # A number of 127 bits: two authorities of the same name shall not give the same one twice.
    openssl x509 -req -sha256 -in "$work/$name.csr" -CA "$work/ca.crt" -CAkey "$work/ca.key" -days "$days" \
        -set_serial "0x4$(openssl rand -hex 15)" -extfile "$work/$name.cnf" -extensions leaf -out "$work/$name.crt" \
        2>"$work/said" || quit "$name"
done
cat "$work/haproxy.crt" "$work/haproxy.key" >"$work/haproxy.pem"

for file in $files; do
    case $file in
    *.crt) mode=644 ;;
    ca.key) mode=600 ;;
    *) mode=$key_mode ;;
    esac
    chmod "$mode" "$work/$file"
    mv -f "$work/$file" "$directory/$file"
done
