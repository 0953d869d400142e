"""Empty stand-ins for the CUDA libraries that PyPI's torch is linked with, for a machine without a GPU.

torch for CUDA cannot be imported without these libraries, and they are 2 GB of packages. Each stand-in has the soname that
torch asks for, the symbol versions, and every symbol that torch takes from it; each symbol is one function that returns 1,
an error in all of these libraries. The bytes are written here, not compiled: they are the same on every machine, and no
compiler is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_NEEDED, _HASH, _STRTAB, _SYMTAB, _STRSZ, _SYMENT, _SONAME = 1, 4, 5, 6, 10, 11, 14
_VERSYM, _VERDEF, _VERDEFNUM = 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD
_SHT_DYNAMIC, _SHT_DYNSYM, _SHT_VERNEED, _SHT_VERSYM = 6, 11, 0x6FFFFFFE, 0x6FFFFFFF
_PAGE = 0x1000
_ERROR = b"\xb8\x01\x00\x00\x00\xc3"  # mov eax, 1; ret

# PyPI's torch 2.11.0 and 2.13.0: a library, and how the names of those of its symbols begin that have no version.
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "libcublas.so.13": (),
    "libcublasLt.so.13": (),
    "libcudnn.so.9": (),
    "libcufft.so.12": (),
    "libcufile.so.0": ("cuFile",),
    "libcupti.so.13": (),
    "libcurand.so.10": ("curand",),
    "libcusolver.so.12": (),
    "libcusparse.so.12": (),
    "libcusparseLt.so.0": ("cusparseLt",),
    "libnccl.so.2": ("nccl",),
    "libnvrtc.so.13": ("nvrtc",),
    "libnvshmem_host.so.3": ("nvshmem",),
}


@dataclass(frozen=True, order=True)
class Symbol:
    """A symbol that a library takes from others; `library` and `version` where it says from which."""

    name: str
    version: str = ""
    library: str = ""


def undefined(path: Path) -> tuple[list[str], list[Symbol]]:
    """(libraries that it needs, symbols that it takes from others) of a 64-bit little-endian ELF library."""
    with path.open("rb") as stream:

        def read(offset: int, length: int) -> bytes:
            stream.seek(offset)
            return stream.read(length)

        header = read(0, 64)
        if header[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path.name} is not a 64-bit little-endian ELF file")
        (start,) = struct.unpack_from("<Q", header, 40)
        size, count = struct.unpack_from("<HH", header, 58)
        sections = [struct.unpack("<IIQQQQIIQQ", read(start + size * n, 64)) for n in range(count)]
        data = {section[1]: read(section[4], section[5]) for section in sections if section[1] in _TABLES}
        strings = {s[1]: read(sections[s[6]][4], sections[s[6]][5]) for s in sections if s[1] in _TABLES[:3]}
    needed = [
        _text(strings[_SHT_DYNAMIC], value)
        for tag, value in struct.iter_unpack("<QQ", data[_SHT_DYNAMIC])
        if tag == _NEEDED
    ]
    versions = _needed_versions(data.get(_SHT_VERNEED, b""), strings.get(_SHT_VERNEED, b""))
    indices = [each[0] for each in struct.iter_unpack("<H", data.get(_SHT_VERSYM, b""))]
    symbols = []
    for number, (name, _, _, section, _, _) in enumerate(struct.iter_unpack("<IBBHQQ", data[_SHT_DYNSYM])):
        if section == 0 and name:
            library, version = versions.get(indices[number] & 0x7FFF, ("", "")) if indices else ("", "")
            symbols.append(Symbol(_text(strings[_SHT_DYNSYM], name), version, library))
    return needed, symbols


_TABLES = (_SHT_DYNAMIC, _SHT_DYNSYM, _SHT_VERNEED, _SHT_VERSYM)


def _text(table: bytes, start: int) -> str:
    return table[start : table.index(b"\0", start)].decode()


def _needed_versions(data: bytes, strings: bytes) -> dict[int, tuple[str, str]]:
    """Index of a version -> (library, version), of a section .gnu.version_r."""
    found: dict[int, tuple[str, str]] = {}
    at = 0
    while data:
        _, count, file, first, following = struct.unpack_from("<HHIII", data, at)
        place = at + first
        for _ in range(count):
            _, _, index, name, step = struct.unpack_from("<IHHII", data, place)
            found[index] = (_text(strings, file), _text(strings, name))
            place += step
        if following == 0:
            break
        at += following
    return found


def stub(soname: str, symbols: Iterable[Symbol]) -> bytes:
    """A shared library for x86-64 Linux that has `symbols`, all of them the same function."""
    known = sorted({(each.name, each.version) for each in symbols})
    versions = sorted({version for _, version in known if version})
    strings = _Strings()
    names = [strings.add(name) for name, _ in known]
    own, places = strings.add(soname), [strings.add(version) for version in versions]

    image = _Image(64 + 56 * 3)
    code = image.add(_ERROR)
    # STB_GLOBAL and STT_FUNC; the section's number only has to be a defined one.
    entries = [bytes(24), *(struct.pack("<IBBHQQ", name, 0x12, 0, 1, code, len(_ERROR)) for name in names)]
    tags = [(_SONAME, own), (_HASH, image.add(_hash_table([name for name, _ in known])))]
    tags += [(_SYMTAB, image.add(b"".join(entries))), (_SYMENT, 24)]
    if versions:
        definitions = [(soname, own, 1), *((name, places[n], 0) for n, name in enumerate(versions))]
        tags += [(_VERDEF, image.add(_definitions(definitions))), (_VERDEFNUM, len(definitions))]
        indices = [0, *(versions.index(version) + 2 if version else 1 for _, version in known)]
        tags += [(_VERSYM, image.add(struct.pack(f"<{len(indices)}H", *indices)))]
    tags += [(_STRTAB, image.add(bytes(strings.data))), (_STRSZ, len(strings.data)), (0, 0)]
    read_only = len(image.data)
    # The loader writes into the dynamic section: it has a page of its own.
    dynamic = image.add(b"".join(struct.pack("<QQ", tag, value) for tag, value in tags), align=_PAGE)
    length = len(image.data) - dynamic
    headers = _segment(1, 5, 0, read_only) + _segment(1, 6, dynamic, length) + _segment(2, 6, dynamic, length)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0)
    image.data[: len(header + headers)] = header + headers
    return bytes(image.data)


class _Strings:
    def __init__(self) -> None:
        self.data = bytearray(b"\0")

    def add(self, text: str) -> int:
        place = len(self.data)
        self.data += text.encode() + b"\0"
        return place


class _Image:
    def __init__(self, head: int) -> None:
        self.data = bytearray(head)

    def add(self, data: bytes, *, align: int = 8) -> int:
        self.data += bytes(-len(self.data) % align)
        place = len(self.data)
        self.data += data
        return place


def _segment(kind: int, flags: int, offset: int, size: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, flags, offset, offset, offset, size, size, _PAGE)


def _definitions(versions: list[tuple[str, int, int]]) -> bytes:
    """A section .gnu.version_d of (name, its place among the strings, flags); the first one is the file's own."""
    parts = []
    for index, (name, place, flags) in enumerate(versions, 1):
        following = 28 if index < len(versions) else 0
        parts.append(struct.pack("<HHHHIIIII", 1, flags, index, 1, _hash(name), 20, following, place, 0))
    return b"".join(parts)


def _hash(name: str) -> int:
    """The hash function of System V's ABI."""
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high & 0xFFFFFFFF
    return value


def _hash_table(names: list[str]) -> bytes:
    """The hash table of symbols 1 to n."""
    buckets, chains = [0] * max(1, len(names) // 2), [0] * (len(names) + 1)
    for number, name in enumerate(names, 1):
        bucket = _hash(name) % len(buckets)
        chains[number], buckets[bucket] = buckets[bucket], number
    return struct.pack(f"<{2 + len(buckets) + len(chains)}I", len(buckets), len(chains), *buckets, *chains)


def write_stubs(folder: Path) -> list[str]:
    """Write a stub beside torch's libraries in `folder` for each CUDA library that they need.

    Returns the sonames. A build of torch without CUDA needs none.
    """
    wanted: set[str] = set()
    taken: set[Symbol] = set()
    for path in sorted(folder.glob("lib*.so*")):
        if path.name not in LIBRARIES:
            needed, symbols = undefined(path)
            wanted.update(set(needed) & set(LIBRARIES))
            taken.update(symbols)
    for soname in wanted:
        mine = {s for s in taken if s.library == soname}
        mine |= {s for s in taken if not s.version and LIBRARIES[soname] and s.name.startswith(LIBRARIES[soname])}
        (folder / soname).write_bytes(stub(soname, mine))
    return sorted(wanted)
