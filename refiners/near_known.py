"""The samples that `near` has let pass, packed in arrays, and the tables to find them by.

Of each sample the distinct shingles and the distinct words are kept, both sorted: some 350 bytes where it
has fifty words, and as much again in the tables. It is listed under its lowest shingles, a bottom-k sketch
(Broder 1997). A shingle that MANY samples are listed under lists no more, so that no search grows with the
number of samples; how many have it is counted on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refiners.near_words import FLAG_BITS, Array, compiled, inner

MANY = 16  # samples that share a shingle: text of a template, perhaps
FEW = 4  # samples that vary another: its text is a template's, perhaps
SEEN = np.uint32((1 << 22) - 1)  # words are counted under so many numbers


class Known(NamedTuple):
    """What is kept of the samples that passed; all arrays have room for more."""

    shingles: Array  # uint32
    shingle_ends: Array  # int64
    words: Array  # uint32
    word_ends: Array  # int64
    numbers: Array  # uint64: of all numbers in the answers
    ids: Array  # int64
    families: Array  # int64
    sources: Array  # int32
    source_ends: Array  # int64
    keys: Array  # uint32, the table of shingles; 0: free
    heads: Array  # int32, the last of the sketches with this shingle
    listed: Array  # uint8, how many there are
    sketch_samples: Array  # int32
    sketch_next: Array  # int32
    common_keys: Array  # uint32, the table of shingles that MANY have, or FEW that look filled in
    common_counts: Array  # int32
    varied: Array  # uint8: how many that repeat this sample put other words for some of its own
    seen: Array  # uint8: how many samples have a word, at most 2
    marks: Array  # uint16, scratch
    sizes: Array  # int64: samples, shingles, words, sources, sketches, keys, common keys


class Batch(NamedTuple):
    """Samples that come, beside their words; `ends` begin with 0."""

    ids: Array  # int64
    families: Array  # int64
    sources: Array  # int32
    source_ends: Array  # int64
    spared: Array  # int64: ids that a sample may repeat
    spared_ends: Array  # int64


class Mine(NamedTuple):
    """One sample of a batch, made ready."""

    shingles: Array  # uint32, sorted
    common: Array  # int32: how many samples have each of them, where that is many
    most: int  # half of the shingles are in so many samples, 0 where that is not many: a template
    words: Array  # uint32, sorted
    numbers: int
    walk: Array  # uint32, where to look for it
    place: int  # in the batch


SAMPLES, SHINGLES, WORDS, SOURCES, SKETCHES, KEYS, COMMON = range(7)


@inner
def distinct(values: Array, num: int) -> int:
    """Sorts the first `num` values and moves the distinct ones to the front; returns how many there are."""
    values[:num].sort()
    end = 0
    for i in range(num):
        if end == 0 or values[i] != values[end - 1]:
            values[end] = values[i]
            end += 1
    return end


@inner
def place(keys: Array, key: int) -> Any:
    """Where `key` is in an open table, or where it would be put."""
    mask = keys.size - 1
    at = (np.int64(key) * 0x9E3779B1 >> 7) & mask
    while keys[at] != 0 and keys[at] != key:
        at = (at + 1) & mask
    return at


@inner
def count_common(known: Known, shingles: Array, out: Array) -> bool:
    """Writes how many samples have each shingle, 0 where that is not many; whether many have half of them."""
    num = 0
    for i in range(shingles.size):
        out[i] = 0
        if known.sizes[COMMON]:
            at = place(known.common_keys, shingles[i])
            out[i] = known.common_counts[at] if known.common_keys[at] else 0
            num += out[i] > 0
    return num > 0 and 2 * num >= shingles.size


@inner
def half_have(counts: Array) -> int:
    """The largest number of samples that half of the shingles have."""
    ordered = np.sort(counts)
    return int(ordered[ordered.size // 2])


@inner
def shared(count: int, most: int) -> bool:
    """Whether text that `count` samples have is a template's that `most` have, and no filling of it."""
    return most > 0 and 2 * count > most


@inner
def note_common(known: Known, key: int, count: int) -> None:
    """Begins to count how many samples have a shingle."""
    at = place(known.common_keys, key)
    if known.common_keys[at] == 0:
        known.common_keys[at] = key
        known.sizes[COMMON] += 1
    known.common_counts[at] = max(known.common_counts[at], count)


@inner
def count(known: Known, mine: Mine) -> None:
    """Counts a sample for each of its shingles that is counted."""
    for i in range(mine.shingles.size):
        if mine.common[i]:
            known.common_counts[place(known.common_keys, mine.shingles[i])] += 1


@inner
def note_varied(known: Known, sample: int) -> None:
    """A sample that passed was repeated in other words; where FEW did so its text may be a template's."""
    known.varied[sample] = min(255, known.varied[sample] + 1)
    if known.varied[sample] == FEW:
        for at in range(known.shingle_ends[sample], known.shingle_ends[sample + 1]):
            note_common(known, known.shingles[at], FEW)


@inner
def enlist(known: Known, mine: Mine, sketch: int, sample: int) -> None:
    """Lists a sample under its lowest shingles that not yet many have.

    Where many have most of the lowest it is of a template, and all its shingles are counted from here on.
    """
    sizes, taken, skipped = known.sizes, 0, 0
    for key in mine.walk:
        at = place(known.keys, key)
        if known.keys[at] and known.listed[at] >= MANY:
            skipped += 1
            continue
        if known.keys[at] == 0:
            known.keys[at], known.heads[at], known.listed[at] = key, -1, 0
            sizes[KEYS] += 1
        entry = sizes[SKETCHES]
        known.sketch_samples[entry], known.sketch_next[entry] = sample, known.heads[at]
        known.heads[at] = entry
        known.listed[at] += 1
        sizes[SKETCHES] += 1
        if known.listed[at] == MANY:
            note_common(known, key, MANY)
        taken += 1
        if taken == sketch:
            break
    if skipped > taken:
        for shingle in mine.shingles:
            note_common(known, shingle, FEW)


@inner
def insert(known: Known, batch: Batch, mine: Mine, sketch: int) -> None:
    """Adds a sample that passed."""
    sizes, at = known.sizes, known.sizes[SAMPLES]
    for i in range(mine.shingles.size):
        known.shingles[sizes[SHINGLES] + i] = mine.shingles[i]
    for i in range(mine.words.size):
        known.words[sizes[WORDS] + i] = mine.words[i]
        slot = (mine.words[i] >> FLAG_BITS) & SEEN
        known.seen[slot] = min(2, known.seen[slot] + 1)
    for i in range(batch.source_ends[mine.place], batch.source_ends[mine.place + 1]):
        known.sources[sizes[SOURCES]] = batch.sources[i]
        sizes[SOURCES] += 1
    sizes[SHINGLES] += mine.shingles.size
    sizes[WORDS] += mine.words.size
    known.shingle_ends[at + 1], known.word_ends[at + 1] = sizes[SHINGLES], sizes[WORDS]
    known.source_ends[at + 1], known.numbers[at] = sizes[SOURCES], mine.numbers
    known.ids[at], known.families[at] = batch.ids[mine.place], batch.families[mine.place]
    enlist(known, mine, sketch, at)
    sizes[SAMPLES] += 1


@compiled
def rehash(keys: Array, values: Array, more: Array, to_keys: Array, to_values: Array, to_more: Array) -> None:
    """Moves a table into a larger one."""
    for i in range(keys.size):
        if keys[i]:
            at = place(to_keys, keys[i])
            to_keys[at], to_values[at], to_more[at] = keys[i], values[i], more[i]
