#!/usr/bin/env bash
# Lays the extension's files out for an image volume, as CloudNativePG mounts it: lib,
# share/extension and licenses.
#   image-layout.sh LIBRARY MAJOR FOLDER
# A server of 18 or newer loads the extension from that folder, by its settings
# extension_control_path and dynamic_library_path.
source "$(dirname "$0")/common.sh"

usage="usage: image-layout.sh LIBRARY MAJOR FOLDER"
LIBRARY=${1:?$usage} MAJOR=${2:?$usage} FOLDER=${3:?$usage}
is_supported "$MAJOR" || die "PostgreSQL $MAJOR is not supported: $(supported | paste -sd' ')"

# Ours alone: what an earlier version left there must not get into the image.
rm -rf "$FOLDER"/{lib,share,licenses}
mkdir -p "$FOLDER"/{lib,share/extension,licenses/keysmith}
install -m 755 "$LIBRARY" "$FOLDER/lib/keysmith.so"
install -m 644 keysmith.control sql/keysmith--*.sql "$FOLDER/share/extension/"
install -m 644 LICENSE "$FOLDER/licenses/keysmith/"
scripts/licenses.py "pg$MAJOR" >"$FOLDER/licenses/keysmith/LIBRARIES"
