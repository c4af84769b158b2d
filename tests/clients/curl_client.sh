#!/usr/bin/env bash
# curl_client.sh URL PICTURE: curl --http2, which offers HTTP/2 in each request (Upgrade: h2c).
set -euo pipefail
url=$1 picture=$2
whole='"prompt": "a red apple", "size": "96x64", "seed": 5'
turbo='"model": "z-image-turbo"'
generate=("$url/images/generations" -H "Content-Type: application/json" -d)
edit=("$url/images/edits" -F model=z-image-edit -F "prompt=make the background red" -F seed=5
    -F "image=@$picture;type=image/png")
curl=(curl --http2 --silent --show-error)

# The answer's body is JSON; its status follows on a line of its own.
tell() {
    local answer
    answer=$("${curl[@]}" --write-out '\n%{http_code}' "${@:2}")
    printf '{"case": "%s", "status": %s, "body": %s}\n' "$1" "${answer##*$'\n'}" "${answer%$'\n'*}"
}

tell_events() {
    local events
    events=$("${curl[@]}" --no-buffer "${@:2}" | sed -n 's/^data: //p' | paste -sd,)
    printf '{"case": "%s", "events": [%s]}\n' "$1" "$events"
}

tell generate "${generate[@]}" "{$turbo, $whole}"
tell several "${generate[@]}" "{$turbo, $whole, \"n\": 2}"
# As curl itself asks before it sends a large body.
tell edit "${edit[@]}" -H "Expect: 100-continue"
tell two_pictures "${edit[@]}" -F "image=@$picture;type=image/png"
tell json_edit "$url/images/edits" -H "Content-Type: application/json" -d @- <<EDIT
{"model": "z-image-edit", "prompt": "make the background red", "seed": 5,
 "images": [{"image_url": "data:image/png;base64,$(base64 -w0 "$picture")"}]}
EDIT
tell_events stream "${generate[@]}" "{$turbo, $whole, \"stream\": true, \"partial_images\": 2}"
tell_events edit_stream "${edit[@]}" -F stream=true -F partial_images=1
tell refused "${generate[@]}" "{$turbo, ${whole/96x64/65x64}}"
tell unknown_model "${generate[@]}" "{\"model\": \"no-such-model\", $whole}"
