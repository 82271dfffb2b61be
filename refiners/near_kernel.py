"""How `near` compares, in machine code: a sample is made ready, looked for, compared, and added.

Candidates share lowest shingles; the exact Jaccard similarity of all shingles decides. Then the words that
only one of the two says are looked at: which of them tell of another fact (`refiners.near` says it in words).
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from refiners.near_known import (
    MANY,
    SEEN,
    Batch,
    Known,
    Mine,
    count,
    count_common,
    distinct,
    half_have,
    insert,
    note_varied,
    place,
    shared,
)
from refiners.near_words import (
    ANSWER,
    FLAG_BITS,
    GOLDEN,
    NUMBER,
    QUESTION,
    TELLING,
    TEMPLATE,
    TURN,
    Array,
    Tokens,
    compiled,
    inner,
    mix,
)

MAX_COMPARED = 24  # samples, for one: those that share most, first by what not many have
RARELY, REFUSED = 1 << 7, 1 << 15  # in a mark: one more of what not many have; no duplicate
DIFFERENT, VARIED, SAME = range(3)


@inner
def run(tokens: Array, num: int, size: int, out: Array) -> int:
    """Writes the hash of each run of `size` tokens, of fewer in short texts, to `out`; returns how many."""
    size = max(1, min(size, num // 3))
    count = max(0, num - size + 1)
    for i in range(count):
        value = uint64(size)
        for j in range(i, i + size):
            value = mix(value + GOLDEN * (uint64(tokens[j]) + uint64(1)))
        out[i] = max(np.uint32(1), np.uint32(value >> uint64(32)))
    return count


@inner
def words_of(tokens: Array, flags: Array, num: int) -> tuple[Array, int]:
    """The distinct words with their flags, sorted, and a hash of the numbers in the answers."""
    marked = np.empty(num, np.uint64)
    for i in range(num):
        marked[i] = (uint64(tokens[i]) << uint64(8)) | uint64(flags[i])
    marked.sort()
    out, count, numbers, last = np.empty(num, np.uint32), 0, uint64(0), np.uint32(1)
    for i in range(num):
        token, flag = np.uint32(marked[i] >> uint64(8)), np.uint32(marked[i] & uint64(255))
        if flag & NUMBER and flag & ANSWER and token != last:  # once, in a template and outside it
            numbers += mix(marked[i] >> uint64(8))
            last = token
        if token == TURN:
            continue
        if count == 0 or out[count - 1] >> FLAG_BITS != token >> FLAG_BITS:
            out[count] = token
            count += 1
        out[count - 1] |= flag & np.uint32(15)
    return out[:count], numbers


@inner
def prepare(known: Known, tokens: Array, flags: Array, size: int, sketch: int, at: int) -> Mine:
    """What one sample is compared by."""
    num = tokens.size
    runs, common = np.empty(num, np.uint32), np.empty(num, np.int32)
    end = run(tokens, num, size, runs)
    most = half_have(common[:end]) if count_common(known, runs[:end], common) else 0
    for i in range(end if most >= MANY else 0):  # by then it has been filled in several ways
        if shared(common[i], most):
            for j in range(i, i + num - end + 1):
                flags[j] |= TEMPLATE
    words, numbers = words_of(tokens, flags, num)
    end = distinct(runs, end)
    count_common(known, runs[:end], common)
    walk = runs[:end].copy()
    if most and (common[:end] == 0).sum() < sketch:
        walk = np.append(walk, pairs_of_fillings(runs[:end], common, most))
    return Mine(runs[:end], common[:end], most, words, numbers, walk, at)


@inner
def pairs_of_fillings(shingles: Array, common: Array, most: int) -> Array:
    """Hashes of pairs of shingles that many samples have each, but not the whole template."""
    out, num, before = np.empty(shingles.size, np.uint32), 0, uint64(0)
    for i in range(shingles.size):
        if common[i] and not shared(common[i], most):
            if before:
                out[num] = max(
                    np.uint32(1), np.uint32(mix(before << uint64(32) | uint64(shingles[i])) >> uint64(32))
                )
                num += 1
            before = uint64(shingles[i])
    return out[:num]


@inner
def agree(known: Known, other: int, mine: Mine, batch: Batch) -> bool:
    """Whether numbers and sections are the same and the other is not spared."""
    if known.numbers[other] != mine.numbers:
        return False
    for i in range(batch.spared_ends[mine.place], batch.spared_ends[mine.place + 1]):
        if batch.spared[i] == known.ids[other]:
            return False
    begin, end = known.source_ends[other], known.source_ends[other + 1]
    first, last = batch.source_ends[mine.place], batch.source_ends[mine.place + 1]
    if begin == end or first == last:
        return True
    for i in range(first, last):
        for j in range(begin, end):
            if batch.sources[i] == known.sources[j]:
                return True
    return False


@inner
def overlap(known: Known, other: int, mine: Mine) -> tuple[float, float]:
    """Jaccard similarity of the shingles, and of those that are no template's; 1 where one side has none.

    One has none of its own, that is.
    """
    theirs = known.shingles[known.shingle_ends[other] : known.shingle_ends[other + 1]]
    ours = mine.shingles
    i = j = both = both_rest = ours_rest = theirs_rest = 0
    while i < ours.size or j < theirs.size:
        if j == theirs.size or (i < ours.size and ours[i] < theirs[j]):
            ours_rest += not shared(mine.common[i], mine.most)
            i += 1
        elif i == ours.size or theirs[j] < ours[i]:
            if mine.most:
                at = place(known.common_keys, theirs[j])
                known_count = known.common_counts[at] if known.common_keys[at] else 0
                theirs_rest += not shared(known_count, mine.most)
            j += 1
        else:
            both += 1
            both_rest += not shared(mine.common[i], mine.most)
            i += 1
            j += 1
    similarity = both / max(1, ours.size + theirs.size - both)
    if ours_rest == 0 or theirs_rest == 0:
        return similarity, 1.0
    return similarity, both_rest / (both_rest + ours_rest + theirs_rest)


@inner
def words_agree(known: Known, other: int, mine: Mine, is_family: bool, rest: float, threshold: float) -> int:
    """DIFFERENT where the answers' words are (the questions' too, in a family), or each side tells a fact.

    VARIED where each says a word of its own that is no template's, SAME else.
    """
    theirs = known.words[known.word_ends[other] : known.word_ends[other + 1]]
    ours = mine.words
    answers = all_answers = questions = all_questions = 0
    we_tell = they_tell = we_fill = they_fill = False
    i = j = 0
    while i < ours.size or j < theirs.size:
        left = ours[i] >> FLAG_BITS if i < ours.size else np.uint32(0xFFFFFFFF)
        right = theirs[j] >> FLAG_BITS if j < theirs.size else np.uint32(0xFFFFFFFF)
        a, b = np.uint32(0), np.uint32(0)
        if left <= right:
            a = ours[i]
            i += 1
        if right <= left:
            b = theirs[j]
            j += 1
        answers += a & b & ANSWER != 0
        all_answers += (a | b) & ANSWER != 0
        questions += a & b & QUESTION != 0
        all_questions += (a | b) & QUESTION != 0
        if left < right:
            we_tell |= a & TELLING != 0 or known.seen[left & SEEN] == 0
            we_fill |= a & TEMPLATE == 0
        elif right < left:
            they_tell |= b & TELLING != 0 or known.seen[right & SEEN] <= 1
            they_fill |= b & TEMPLATE == 0
    if answers < threshold * all_answers or (is_family and questions < threshold * all_questions):
        return DIFFERENT
    varies = we_fill and they_fill
    if (we_tell and they_tell) or (varies and mine.most and rest < threshold):
        return DIFFERENT
    return VARIED if varies else SAME


@inner
def collect(known: Known, batch: Batch, mine: Mine, sketch: int, near: Array) -> int:
    """Writes the samples that share lowest shingles to `near`, marks how many, and returns their number."""
    num, taken = 0, 0
    for key in mine.walk:
        at = place(known.keys, key)
        is_rare = known.keys[at] == 0 or known.listed[at] < MANY
        entry = known.heads[at] if known.keys[at] else -1
        while entry >= 0:
            other = known.sketch_samples[entry]
            if known.marks[other] == 0:
                near[num] = other
                num += 1
                if not agree(known, other, mine, batch):
                    known.marks[other] = REFUSED
            if known.marks[other] < REFUSED:
                known.marks[other] += RARELY + 1 if is_rare else 1
            entry = known.sketch_next[entry]
        taken += is_rare
        if taken == sketch:
            break
    return num


@inner
def search(
    known: Known, batch: Batch, mine: Mine, sketch: int, threshold: float, near: Array
) -> tuple[int, float, bool]:
    """The nearest of the samples that this one repeats, the first of equally near ones, or -1; how near.

    Also whether it varies that one.
    """
    num = collect(known, batch, mine, sketch, near)
    least = 2 if mine.shingles.size >= sketch else 1
    best, most, varied = -1, 0.0, False
    for _ in range(MAX_COMPARED):
        other, mark = -1, 0
        for i in range(num):
            found = known.marks[near[i]]
            if found > mark and found < REFUSED and found & (RARELY - 1) >= least:
                other, mark = near[i], found
        if other < 0:
            break
        known.marks[other] = REFUSED
        similarity, rest = overlap(known, other, mine)
        if similarity < threshold or similarity < most or (similarity == most and other > best):
            continue
        is_family = batch.families[mine.place] == known.families[other]
        judged = words_agree(known, other, mine, is_family, rest, threshold)
        if judged != DIFFERENT:
            best, most, varied = other, similarity, judged == VARIED
    for i in range(num):
        known.marks[near[i]] = 0
    return best, most, varied


@compiled
def settle(
    known: Known,
    tokens: Tokens,
    batch: Batch,
    options: tuple[float, int, int],
    passed: bool,
    found: Array,
    similarities: Array,
) -> None:
    """Looks for each sample among those before it, unless all `passed`; adds what is found nowhere.

    `options` are threshold, words in a shingle and size of the sketch. `found` gets the number of the sample
    that is repeated, or -1.
    """
    threshold, size, sketch = options
    near = np.empty(min(known.marks.size, 2 * MANY * tokens.words.size), np.int32)
    for at in range(found.size):
        begin, end = tokens.ends[at], tokens.ends[at + 1]
        mine = prepare(known, tokens.words[begin:end], tokens.flags[begin:end], size, sketch, at)
        best, similarity, varied = -1, 0.0, False
        if not passed and mine.shingles.size:
            best, similarity, varied = search(known, batch, mine, sketch, threshold, near)
        found[at], similarities[at] = best, similarity
        count(known, mine)
        if best < 0:
            insert(known, batch, mine, sketch)
        elif varied:
            note_varied(known, best)
