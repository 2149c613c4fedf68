#!/usr/bin/env python3
"""Makes and reads .spk files without a line of ours, from the description of the format alone.

    spk_interop.py keygen KEYFILE
    spk_interop.py make [options] DIR KEYFILE OUT     prints the app id
    spk_interop.py read [--extract DIR] FILE          prints JSON: ids and every entry

Options of `make` write the same content in another of the ways that the format allows, or with one
fault that readers must refuse. Exit status 1 and one line on stderr for a file that is refused.

Runs in the environment of requirements.txt.
"""

import argparse
import hashlib
import json
import lzma
import os
import pathlib
import stat
import struct
import sys

import nacl.bindings
import nacl.exceptions

from capnp_bytes import Malformed, Reader, Writer

MAGIC = bytes.fromhex("8fc6cdef451aea96")
BASE32 = "0123456789acdefghjkmnpqrstuvwxyz"
MAX_ARCHIVE = 1 << 30
REGULAR, EXECUTABLE, SYMLINK, DIRECTORY = range(4)
KINDS = ["regular", "executable", "symlink", "directory"]
CHECKS = {"none": lzma.CHECK_NONE, "crc32": lzma.CHECK_CRC32, "crc64": lzma.CHECK_CRC64,
          "sha256": lzma.CHECK_SHA256}
FAULTS = ["magic", "hash", "signature", "short-signature", "trailing", "padding", "cut",
          "name-empty", "name-dot", "name-dotdot", "name-slash", "name-nul", "duplicate", "kind"]


class Refused(Exception):
    pass


def app_id(key):
    bits = "".join(f"{byte:08b}" for byte in key) + "0000"
    return "".join(BASE32[int(bits[at : at + 5], 2)] for at in range(0, len(bits), 5))


# Keys.


def keygen(path):
    seed = os.urandom(32)
    public, private = nacl.bindings.crypto_sign_seed_keypair(seed)
    message = Writer()
    _, pointers = message.new_struct(message.root, 0, 2)
    message.new_bytes(pointers, public)
    message.new_bytes((pointers[0], pointers[1] + 1), private)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(message.finish())
    return public


def read_key(path):
    """The first key of a key file: public part, private part."""
    root = Reader(pathlib.Path(path).read_bytes()).root()
    public, private = root.data(0), root.data(1)
    if len(public) != 32 or len(private) != 64:
        raise Refused(f"{path}: not a key file")
    return public, private


# Making.


def tree(path):
    """The entries of a directory: (name, kind, content, mtime in ns); names are bytes."""
    entries = []
    for name in sorted(os.listdir(os.fsencode(path))):
        entry = os.path.join(os.fsencode(path), name)
        info = os.lstat(entry)
        if stat.S_ISLNK(info.st_mode):
            kind, content = SYMLINK, os.readlink(entry)
        elif stat.S_ISDIR(info.st_mode):
            kind, content = DIRECTORY, tree(entry)
        elif stat.S_ISREG(info.st_mode):
            kind = EXECUTABLE if info.st_mode & stat.S_IXUSR else REGULAR
            content = pathlib.Path(os.fsdecode(entry)).read_bytes()
        else:
            raise Refused(f"{os.fsdecode(entry)}: not a file, link or directory")
        entries.append((name, kind, content, info.st_mtime_ns))
    return entries


def write_directory(message, at, entries, args):
    data_words = 1 if args.form == "2014" else 2
    for (data, pointers), (name, kind, content, mtime) in zip(
            message.new_list(at, len(entries), data_words, 2), entries):
        message.put(data, struct.pack("<H", kind))
        if data_words == 2:
            message.put((data[0], data[1] + 1), struct.pack("<q", mtime))
        message.new_bytes(pointers, name + b"\0")
        second = (pointers[0], pointers[1] + 1)
        if kind == SYMLINK:
            message.new_bytes(second, content + b"\0")
        elif kind != DIRECTORY:
            message.new_bytes(second, content)
        elif content or not args.null_directories:
            write_directory(message, second, content, args)


def with_fault(entries, fault):
    """The root directory with one bad entry more."""
    bad = {"name-empty": b"", "name-dot": b".", "name-dotdot": b"..", "name-slash": b"a/b",
           "name-nul": b"a\0b", "kind": b"odd"}.get(fault)
    if fault == "duplicate":
        return entries + [entries[0]]
    if bad is None:
        return entries
    return entries + [(bad, 4 if fault == "kind" else REGULAR, b"x", 0)]


def compress(data, args):
    pieces = [data[: len(data) // 2], data[len(data) // 2 :]] if args.streams else [data]
    packed = b""
    for piece in pieces:
        packed += lzma.compress(piece, format=lzma.FORMAT_XZ, check=CHECKS[args.check],
                                preset=args.preset)
        packed += bytes(args.padding)
    return packed


def make(args):
    public, private = read_key(args.key)
    entries = with_fault(tree(args.dir), args.fault)
    if args.reverse:
        entries = entries[::-1]
    message = Writer(args.segment_words)
    _, pointers = message.new_struct(message.root, 0, 1)
    write_directory(message, pointers, entries, args)
    archive = message.finish() + args.after.encode()
    if len(archive) > MAX_ARCHIVE:
        raise Refused("the archive is too large")

    hashed = hashlib.sha512(archive).digest()
    if args.fault == "hash":
        hashed = bytes([hashed[0] ^ 1]) + hashed[1:]
    # libsodium's combined form: 64 bytes of signature, then what was signed.
    signed = nacl.bindings.crypto_sign(hashed, private)
    if args.fault == "signature":
        signed = bytes([signed[0] ^ 1]) + signed[1:]
    if args.fault == "short-signature":
        signed = signed[:64]
    message = Writer()
    _, pointers = message.new_struct(message.root, 0, 2)
    message.new_bytes(pointers, public)
    message.new_bytes((pointers[0], pointers[1] + 1), signed)

    package = MAGIC + compress(message.finish() + archive, args)
    if args.fault == "magic":
        package = bytes([package[0] ^ 1]) + package[1:]
    if args.fault == "trailing":
        package += b"more"
    if args.fault == "padding":
        package += bytes(3)
    if args.fault == "cut":
        package = package[:-1]
    pathlib.Path(args.out).write_bytes(package)
    return public


# Reading.


def decompress(data):
    """What an .xz file of several streams holds; padding between and after them comes in fours."""
    whole = b""
    while data:
        if not data.strip(b"\0"):
            if len(data) % 4:
                raise Refused("padding that does not come in fours")
            break
        while data.startswith(bytes(4)):
            data = data[4:]
        decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
        try:
            whole += decoder.decompress(data)
        except lzma.LZMAError as error:
            raise Refused(f"not an xz stream: {error}") from error
        if not decoder.eof:
            raise Refused("the xz stream is cut")
        data = decoder.unused_data
    return whole


def check_name(name, path, seen):
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise Refused(f"a bad name in {path or 'the root'!r}: {name!r}")
    if name in seen:
        raise Refused(f"a name twice in {path or 'the root'!r}: {name!r}")
    seen.add(name)


def walk(files, path):
    """Every entry below, as (path, kind, content, mtime), a directory before what is in it."""
    seen = set()
    for file in files:
        name, kind = file.text(0), file.number(0, "<H")
        check_name(name, path, seen)
        if kind > DIRECTORY:
            raise Refused(f"an entry of unknown kind {kind}: {name!r}")
        full = os.path.join(path, name)
        mtime = file.number(8, "<q")
        if kind == DIRECTORY:
            yield full, kind, None, mtime
            yield from walk(file.structs(1), full)
        else:
            yield full, kind, file.text(1) if kind == SYMLINK else file.data(1), mtime


def read(path):
    package = pathlib.Path(path).read_bytes()
    if not package.startswith(MAGIC):
        raise Refused("no package: the magic number is missing")
    stream = decompress(package[len(MAGIC) :])
    head = Reader(stream)
    signature = head.root()
    public, signed = signature.data(0), signature.data(1)
    if len(public) != 32 or len(signed) != 128:
        raise Refused("key or signature of a wrong size")
    try:
        hashed = nacl.bindings.crypto_sign_open(signed, public)
    except nacl.exceptions.BadSignatureError as error:
        raise Refused("the signature does not hold") from error
    archive = stream[head.size :]
    if len(archive) > MAX_ARCHIVE:
        raise Refused("the archive is too large")
    if hashlib.sha512(archive).digest() != hashed:
        raise Refused("the signature is for another archive")
    entries = list(walk(Reader(archive).root().structs(0), b""))
    return public, hashlib.sha256(package).hexdigest()[:32], entries


def extract(entries, target):
    os.mkdir(target)
    for path, kind, content, mtime in entries:
        place = os.path.join(os.fsencode(target), path)
        if kind == DIRECTORY:
            os.mkdir(place)
        elif kind == SYMLINK:
            os.symlink(content, place)
        else:
            mode = 0o777 if kind == EXECUTABLE else 0o666
            with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
    # Times last, and inner ones first, since making an entry changes its directory's.
    for path, _, _, mtime in reversed(entries):
        os.utime(os.path.join(os.fsencode(target), path), ns=(mtime, mtime), follow_symlinks=False)


def printable(name):
    """A name as text; bytes that are no UTF-8 come out as a backslash, x and two digits."""
    return name.decode("utf-8", "backslashreplace")


def describe(entry):
    path, kind, content, mtime = entry
    said = {"path": printable(path), "kind": KINDS[kind], "mtimeNs": mtime}
    if kind == SYMLINK:
        said["target"] = printable(content)
    elif kind != DIRECTORY:
        said["size"], said["sha256"] = len(content), hashlib.sha256(content).hexdigest()
    return said


# Command line.


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    keygen = commands.add_parser("keygen")
    keygen.add_argument("key")
    make = commands.add_parser("make")
    make.add_argument("dir")
    make.add_argument("key")
    make.add_argument("out")
    make.add_argument("--segment-words", type=int, default=1 << 20)
    make.add_argument("--form", choices=["today", "2014"], default="today",
                      help="2014: entries without a time")
    make.add_argument("--null-directories", action="store_true",
                      help="an empty directory is a null pointer")
    make.add_argument("--reverse", action="store_true", help="the root's entries in reverse order")
    make.add_argument("--after", default="", help="bytes behind the archive's message")
    make.add_argument("--streams", action="store_true", help="two xz streams")
    make.add_argument("--padding", type=int, default=0, help="zero bytes behind each xz stream")
    make.add_argument("--check", choices=CHECKS, default="crc64")
    make.add_argument("--preset", type=int, default=6)
    make.add_argument("--fault", choices=FAULTS)
    read = commands.add_parser("read")
    read.add_argument("--extract", metavar="DIR")
    read.add_argument("file")
    return parser.parse_args()


def main():
    args = arguments()
    try:
        if args.command == "keygen":
            print(app_id(keygen(args.key)))
        elif args.command == "make":
            print(app_id(make(args)))
        else:
            public, package_id, entries = read(args.file)
            if args.extract:
                extract(entries, args.extract)
            print(json.dumps({"appId": app_id(public), "packageId": package_id,
                              "entries": [describe(entry) for entry in entries]}))
    except (Refused, Malformed, OSError) as error:
        print(f"{args.command}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.setrecursionlimit(10_000)
    sys.exit(main())
