"""PESQ (ITU-T P.862, narrow band, as MOS-LQO by P.862.1) of pieces of recordings.

Reads lines of JSON {"reference": FILE, "heard": FILE, "first": SAMPLE, "count": SAMPLES}, both files 16-bit mono 8 kHz WAV, and
writes a line with the score for each, in their order: null where the model finds no speech.
"""

import json
import os
import sys
import wave
from multiprocessing import Pool

import numpy
from pesq import PesqError, pesq

RATE = 8000


def samples(path, first=0, count=None):
    with wave.open(path) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2), path
        data = numpy.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    return data[first:] if count is None else data[first : first + count]


def score(line):
    task = json.loads(line)
    reference = samples(task["reference"])
    heard = samples(task["heard"], task["first"], task["count"])
    if not heard.any():
        return None
    value = float(pesq(RATE, reference, heard, "nb", on_error=PesqError.RETURN_VALUES))
    return value if value >= 1.0 else None


if __name__ == "__main__":
    with Pool(os.cpu_count()) as pool:
        for value in pool.imap(score, sys.stdin, chunksize=4):
            print(json.dumps(value), flush=True)
