#!/usr/bin/env bash
# A headless Chromium for tests/test_report_screenshot.py: setup_chromium.sh VENV [PYTHON]. Needs node and npm.
# The npm package carries the browser itself, so nothing but the two registries is asked.
set -euo pipefail
venv=$(cd "$1" && pwd)
"${2:-$venv/bin/python}" -m pip install --quiet --disable-pip-version-check "playwright>=1.40,<2"
mkdir -p "$venv/chromium"
cd "$venv/chromium"
npm install --no-save --no-audit --no-fund --silent "@sparticuz/chromium@^153"
cat > unpack.mjs <<'EOF'
import chromium from '@sparticuz/chromium';
console.log(await chromium.executablePath());
EOF
TMPDIR="$venv/chromium" node unpack.mjs
