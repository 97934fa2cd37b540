#!/usr/bin/env bash
# OHIF as npm has it, built, pinned by hash, for tests/viewers alone.
set -euo pipefail
cd "$(dirname "$0")"
version=3.12.10
archive=ohif-app-$version.tgz
folder=node_modules/@ohif/app
[ -f "$folder/dist/index.html" ] && exit 0
npm pack --silent "@ohif/app@$version" >/dev/null
sha512sum --check --quiet - <<EOF
d24b85eba32af5cf5d303fbe6d4b138ccac9a57270699873f41e2e4b6e380dac008d2913c0860553dde9c4fb915108b16918bb4001e517715ed6ab9d06566b98  $archive
EOF
mkdir -p "$folder"
tar -xzf "$archive" --strip-components=1 -C "$folder"
rm "$archive"
