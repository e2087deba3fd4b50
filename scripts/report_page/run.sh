#!/usr/bin/env bash
# Creates a small report and opens it in headless Chromium (check.mjs); screenshots are saved to
# target/report_page. Requires Chromium, Node and npm; prints "skipped" if one is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."

browser="${BROWSER:-$(command -v chromium chromium-browser google-chrome google-chrome-stable | head -1 || true)}"
for missing in node npm; do
    command -v "$missing" >/dev/null || { echo "skipped: no $missing"; exit 0; }
done
if [[ -z "$browser" ]]; then
    echo "skipped: no Chromium in PATH, and BROWSER is not set"
    exit 0
fi
npm ci --prefix scripts/report_page --silent --no-fund --no-audit

out=target/report_page
rm -rf "$out"
mkdir -p "$out"
# Uses an existing program if SCENERANK names one.
if [[ -z "${SCENERANK:-}" ]]; then
    cargo build --quiet
    SCENERANK=target/debug/scenerank
fi
scenerank() { "$SCENERANK" "$@"; }
scenerank synth "$out/raw" --images 600 >/dev/null
scenerank prepare --scene-graphs "$out/raw/scene_graphs.json" --image-data "$out/raw/image_data.json" \
    --captions "$out/raw/captions.json" --glove "$out/raw/glove.txt" --out "$out/data" >/dev/null
scenerank reproduce "$out/data" --out "$out/report" --epochs 2 --seeds 2 --layers 2 --state-width 32 --hidden-width 48 \
    --ablations layers --device cpu >/dev/null
BROWSER="$browser" node scripts/report_page/check.mjs "$out/report" "$out/screenshots"
