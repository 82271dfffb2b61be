#!/usr/bin/env bash
# Installs the Chromium that the browser tests look through, from Debian's packages, where apt and root are at hand.
# Elsewhere it says so and goes on: the tests are skipped then, but in CI they fail.
set -euo pipefail
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    command -v "$name" >/dev/null && exit 0
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "chromium: none here, and it cannot be installed without apt and root; tests that need it are skipped" >&2
    exit 0
fi
echo "chromium: installing it for the browser tests" >&2
export DEBIAN_FRONTEND=noninteractive
{ apt-get update -q && apt-get install -qy --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1 \
    || echo "chromium: it could not be installed; tests that need it are skipped" >&2
