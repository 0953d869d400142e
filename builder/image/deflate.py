"""gzip whose bytes depend on what it is given and on nothing else.

zlib, zlib-ng, isal and Python's versions compress the same text to different bytes, and a layer is known by its bytes. So
this is DEFLATE (RFC 1951) in a gzip member (RFC 1952) with every choice written down here: which matches are taken, where
a block ends, how long its codes are. Integers and bytes only; nothing asks the machine. It is made for RECORD and source
code: 40 % of their size is left (zlib: 34 %), at about 8 MB a second.

- A match starts at a word of four characters or more that was seen in the last 32 KiB; the nearest place counts, and it is
  extended as far as it goes, forwards and backwards.
- A block ends after 64 KiB of literals and matches, a match counted as eight bytes, and has its own Huffman codes.
- Of two symbols that are equally rare the smaller one is taken first. Codes that come out too long are made again from
  halved frequencies.
"""

from __future__ import annotations

import heapq
import re
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

_WORD = re.compile(rb"[A-Za-z0-9_]{4,}")
_WINDOW = 1 << 15
_LONGEST = 258
_STEP = 8
_BLOCK = 1 << 16
_MATCH_WEIGHT = 8
_END = 256
_DYNAMIC = "01"
# RFC 1951, 3.2.5: the least length and distance of each symbol, and how many bits follow it.
_LENGTHS = (3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258)  # fmt: skip
_LENGTH_BITS = (*[0] * 8, *[1] * 4, *[2] * 4, *[3] * 4, *[4] * 4, *[5] * 4, 0)
_DISTANCES = (1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577)  # fmt: skip
_DISTANCE_BITS = (0, 0, 0, 0, *(bits for bits in range(1, 14) for _ in range(2)))
# 3.2.7: the order in which the lengths of the lengths' own codes are written.
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
# RFC 1952, 2.3: DEFLATE, no flags, no time, no extra flags, no operating system.
_HEADER = b"\x1f\x8b\x08\x00" + bytes(5) + b"\xff"

Match = tuple[int, int]
"""Length (3 to 258) and distance (1 to 32,768) in bytes."""


def gzip(data: bytes) -> bytes:
    """One gzip member that holds `data`."""
    bits = "".join(_block(tokens, last) for tokens, last in _blocks(_tokens(data)))
    length = (len(bits) + 7) // 8
    body = int(bits[::-1], 2).to_bytes(length, "little")
    return _HEADER + body + zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")


def _tokens(data: bytes) -> Iterator[bytes | Match]:
    """`data` as literals, which are never empty, and matches."""
    places: dict[bytes, int] = {}
    size, done = len(data), 0
    for found in _WORD.finditer(data):
        start, word = found.start(), found[0]
        if start < done:
            continue
        seen = places.get(word)
        places[word] = start
        if seen is None or start - seen > _WINDOW:
            continue
        limit = min(_LONGEST, size - start)
        length = min(len(word), limit)
        while length < limit and data[seen + length : seen + length + _STEP] == data[start + length : start + length + _STEP]:  # fmt: skip
            length += _STEP
        length = min(length, limit)
        while length < limit and data[seen + length] == data[start + length]:
            length += 1
        while start > done and seen > 0 and length < _LONGEST and data[seen - 1] == data[start - 1]:
            start, seen, length = start - 1, seen - 1, length + 1
        if done < start:
            yield data[done:start]
        yield length, start - seen
        done = start + length
    if done < size:
        yield data[done:]


def _blocks(tokens: Iterator[bytes | Match]) -> Iterator[tuple[list[bytes | Match], bool]]:
    """The tokens of each block, and whether it is the last one. There is always one."""
    block: list[bytes | Match] = []
    weight = 0
    for token in tokens:
        own = len(token) if isinstance(token, bytes) else _MATCH_WEIGHT
        if block and weight + own > _BLOCK:
            yield block, False
            block, weight = [], 0
        block.append(token)
        weight += own
    yield block, True


def _block(tokens: Sequence[bytes | Match], last: bool) -> str:
    """A block as a text of 0 and 1, in the order in which its bits are written."""
    literals = Counter(b"".join(each for each in tokens if isinstance(each, bytes)))
    distances: Counter[int] = Counter()
    matches: dict[Match, tuple[int, str, int, str]] = {}
    for match, count in Counter(each for each in tokens if not isinstance(each, bytes)).items():
        length, distance = match
        first = bisect_right(_LENGTHS, length) - 1
        second = bisect_right(_DISTANCES, distance) - 1
        literals[_END + 1 + first] += count
        distances[second] += count
        matches[match] = (
            _END + 1 + first,
            _bits(length - _LENGTHS[first], _LENGTH_BITS[first]),
            second,
            _bits(distance - _DISTANCES[second], _DISTANCE_BITS[second]),
        )
    literals[_END] += 1
    if not distances:
        distances[0] += 1
    literal_lengths, distance_lengths = _code_lengths(literals, 15), _code_lengths(distances, 15)
    literal_codes, distance_codes = _codes(literal_lengths), _codes(distance_lengths)
    words = {
        match: literal_codes[symbol] + extra + distance_codes[second] + rest
        for match, (symbol, extra, second, rest) in matches.items()
    }
    character = [literal_codes.get(symbol, "") for symbol in range(_END)].__getitem__
    return "".join((
        "1" if last else "0",
        _DYNAMIC,
        _header(literal_lengths, distance_lengths),
        *("".join(map(character, each)) if isinstance(each, bytes) else words[each] for each in tokens),
        literal_codes[_END],
    ))  # fmt: skip


def _header(literals: Mapping[int, int], distances: Mapping[int, int]) -> str:
    """The code lengths of a block (RFC 1951, 3.2.7)."""
    literal_count, distance_count = max(literals) + 1, max(distances) + 1
    lengths = [literals.get(symbol, 0) for symbol in range(literal_count)]
    lengths += [distances.get(symbol, 0) for symbol in range(distance_count)]
    runs = [each for length, run in groupby(lengths) for each in _runs(length, len(list(run)))]
    own = _code_lengths(Counter(symbol for symbol, _ in runs), 7)
    codes = _codes(own)
    order = [own.get(symbol, 0) for symbol in _ORDER]
    while len(order) > 4 and order[-1] == 0:
        order.pop()
    return "".join((
        _bits(literal_count - 257, 5), _bits(distance_count - 1, 5), _bits(len(order) - 4, 4),
        *(_bits(length, 3) for length in order), *(codes[symbol] + extra for symbol, extra in runs),
    ))  # fmt: skip


def _runs(length: int, count: int) -> Iterator[tuple[int, str]]:
    """`count` equal code lengths as symbols, with the bits that follow each."""
    if length:
        yield length, ""
        count -= 1
    most = 138 if length == 0 else 6
    while count >= 3:
        run = min(count, most)
        if length:
            yield 16, _bits(run - 3, 2)
        elif run <= 10:
            yield 17, _bits(run - 3, 3)
        else:
            yield 18, _bits(run - 11, 7)
        count -= run
    for _ in range(count):
        yield length, ""


def _code_lengths(frequencies: Mapping[int, int], longest: int) -> dict[int, int]:
    """Symbol -> length in bits of its Huffman code, none above `longest`. A symbol that is alone gets one bit."""
    counts = dict(sorted(frequencies.items()))
    if len(counts) == 1:
        return dict.fromkeys(counts, 1)
    while True:
        lengths = dict.fromkeys(counts, 0)
        heap: list[tuple[int, int, tuple[int, ...]]] = [(count, symbol, (symbol,)) for symbol, count in counts.items()]
        heapq.heapify(heap)
        while len(heap) > 1:
            count, least, symbols = heapq.heappop(heap)
            other, second, others = heapq.heappop(heap)
            for symbol in (*symbols, *others):
                lengths[symbol] += 1
            heapq.heappush(heap, (count + other, min(least, second), (*symbols, *others)))
        if max(lengths.values()) <= longest:
            return lengths
        counts = {symbol: (count + 1) // 2 for symbol, count in counts.items()}


def _codes(lengths: Mapping[int, int]) -> dict[int, str]:
    """The canonical codes of `lengths` (RFC 1951, 3.2.2)."""
    codes: dict[int, str] = {}
    code = before = 0
    for length, symbol in sorted((length, symbol) for symbol, length in lengths.items()):
        code <<= length - before
        codes[symbol] = f"{code:0{length}b}"
        code, before = code + 1, length
    return codes


def _bits(number: int, count: int) -> str:
    """A number of `count` bits, the least significant one first."""
    return f"{number:0{count}b}"[::-1] if count else ""
