#!/usr/bin/env bash
# Makes the two speech samples (16-bit mono 8 kHz) that the SIP applications play when no --play is given.
# Needs the Debian packages espeak-ng and sox. The samples are committed, so nobody needs this to build.
set -euo pipefail
cd "$(dirname "$0")"
raw=$(mktemp --suffix=.wav)
trap 'rm -f "$raw"' EXIT

# speak NAME VOICE WORDS-PER-MINUTE TEXT: exactly five seconds; what the words leave over is silence.
speak() {
    espeak-ng -v "$2" -s "$3" -w "$raw" "$4"
    sox -V1 -D "$raw" -b 16 -r 8000 -c 1 "$1" gain -n -3 pad 0.1 5 trim 0 5
}

speak speech.wav en-us 175 "Hello. This call goes through a tunnel. One, two, three."
speak reply.wav en-gb 170 "Good morning. I hear you well. Four, five, six. Good bye."
