#!/bin/sh
# Makes what the compose files mount: settings, secrets, and a certificate to begin with. What is there stays as it is.
#
#   sudo deploy/compose/prepare.sh [--host NAME] [FOLDER]
#
# FOLDER is deploy/compose/site, or LIMEN_SITE of the file .env. NAME is how people reach the results server.
set -eu
umask 077

LIMEN=10001:10001 # the account of Limen's images, and of the proxy
PROMETHEUS=65534:65534
here=$(cd "$(dirname "$0")" && pwd)
host=localhost
if [ "${1:-}" = --host ]; then host=$2; shift 2; fi
site=${1:-$here/site}

[ "$(id -u)" = 0 ] || { echo "prepare.sh: only root can give secrets to the accounts of containers; call it with sudo" >&2; exit 2; }
command -v openssl >/dev/null || { echo "prepare.sh: openssl is missing; on Debian: apt-get install openssl" >&2; exit 2; }

secrets=$site/secrets
mkdir -p "$secrets"
chmod 0755 "$site"
chmod 0711 "$secrets"

# put NAME OWNER: standard input becomes a secret that its owner alone reads, unless it is there.
put() {
  if [ -e "$secrets/$1" ]; then cat >/dev/null; return; fi
  cat >"$secrets/.$1"
  chown "$2" "$secrets/.$1"
  chmod 0400 "$secrets/.$1"
  mv "$secrets/.$1" "$secrets/$1"
  echo "made $secrets/$1"
}
random() { openssl rand -hex 32; }

random | tr -d '\n' | put postgres-password "$LIMEN"
random | tr -d '\n' | put rabbitmq-password "$LIMEN"
random | put web-token "$LIMEN"
random | put web-secret-key "$LIMEN"

postgres=$(cat "$secrets/postgres-password")
rabbitmq=$(cat "$secrets/rabbitmq-password")
printf 'postgresql://limen:%s@postgres/limen\n' "$postgres" | put journal-url "$LIMEN"
printf 'postgresql://limen:%s@postgres/limen_web\n' "$postgres" | put web-database-url "$LIMEN"
printf 'amqp://limen:%s@rabbitmq:5672/limen\n' "$rabbitmq" | put broker-url "$LIMEN"

# RabbitMQ makes its users from hashes: a salt of four bytes, then SHA-256 of salt and password.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
openssl rand 4 >"$work/salt"
{ cat "$work/salt"; printf %s "$rabbitmq"; } | openssl dgst -sha256 -binary >"$work/digest"
hash=$(cat "$work/salt" "$work/digest" | openssl base64 -A)
put rabbitmq-user.json "$LIMEN" <<JSON
{
  "users": [
    {"name": "limen", "password_hash": "$hash", "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": [], "limits": {}}
  ],
  "permissions": [
    {"user": "limen", "vhost": "limen", "configure": "^limen(\\\\.|\$)", "write": "^(limen(\\\\..*)?|amq\\\\.default)\$", "read": "^limen(\\\\.|\$)"}
  ]
}
JSON
# RabbitMQ reads it as an account of its own, which differs between its images: a hash of 256 random bits tells nobody anything.
chmod 0444 "$secrets/rabbitmq-user.json"

if [ ! -e "$secrets/tls-certificate" ] && [ ! -e "$secrets/tls-key" ]; then
  case $host in *[!0-9.]*) name=DNS:$host ;; *) name=IP:$host ;; esac
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=$host" \
    -addext "subjectAltName=$name" -keyout "$work/key" -out "$work/certificate" 2>/dev/null
  put tls-certificate "$LIMEN" <"$work/certificate"
  put tls-key "$LIMEN" <"$work/key"
  echo "the certificate signs itself: put one of your authority in its place"
fi
# Filled when the results server runs: limen web token new prometheus --scope metrics
put prometheus-token "$PROMETHEUS" </dev/null

if [ ! -e "$site/limen.toml" ]; then
  port=:8643
  [ "$host" = localhost ] || port=
  sed "s|https://localhost:8643|https://$host$port|" "$here/limen.toml" >"$site/limen.toml"
  chmod 0644 "$site/limen.toml"
  echo "made $site/limen.toml: list in it who may send"
fi
