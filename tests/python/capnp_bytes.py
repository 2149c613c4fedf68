"""Cap'n Proto messages by hand: enough of the encoding to write and read package files.

Written from the published encoding rules, not with a Cap'n Proto library, so that the packages made
with it prove something about ours. Writes any number of segments with near, far and double-far
pointers; reads hostile bytes with bounds checked and every word counted.
"""

import struct

WORD = 8


class Malformed(Exception):
    """Not a message, or not one that this module reads."""


class Writer:
    """A message under construction. Places are (segment, word) pairs."""

    def __init__(self, segment_words=1 << 20):
        # Room in a segment; larger objects get a segment to themselves, without room for a landing
        # pad, which makes pointers to them double-far.
        self.segment_words = max(segment_words, 2)
        self.segments = [bytearray()]
        self.root = self.allocate(1)

    def allocate(self, words):
        """Zeroed words, all in one segment."""
        if not self.has_room(len(self.segments) - 1, words):
            self.segments.append(bytearray())
        segment = self.segments[-1]
        place = (len(self.segments) - 1, len(segment) // WORD)
        segment.extend(bytes(words * WORD))
        return place

    def has_room(self, segment, words):
        used = len(self.segments[segment]) // WORD
        # An empty segment takes anything, once.
        return used == 0 or used + words <= self.segment_words

    def put(self, place, data):
        segment, word = place
        self.segments[segment][word * WORD : word * WORD + len(data)] = data

    def point(self, at, to, low, high):
        """Writes at `at` a pointer to the object at `to`. `low` is the kind (0 struct, 1 list),
        `high` the pointer's upper half."""
        if at[0] == to[0]:
            self.put(at, struct.pack("<II", ((to[1] - at[1] - 1) << 2 | low) & 0xFFFFFFFF, high))
        elif self.has_room(to[0], 1):
            # The landing pad lies in the object's own segment.
            pad = (to[0], len(self.segments[to[0]]) // WORD)
            self.segments[to[0]].extend(bytes(WORD))
            self.put(pad, struct.pack("<II", ((to[1] - pad[1] - 1) << 2 | low) & 0xFFFFFFFF, high))
            self.put(at, struct.pack("<II", pad[1] << 3 | 2, pad[0]))
        else:
            pad = self.allocate(2)
            self.put(pad, struct.pack("<IIII", to[1] << 3 | 2, to[0], low, high))
            self.put(at, struct.pack("<II", pad[1] << 3 | 2 | 4, pad[0]))

    def new_struct(self, at, data_words, pointers):
        """A struct; returns the places of its data and of its first pointer."""
        place = self.allocate(data_words + pointers)
        if data_words + pointers == 0:
            self.put(at, struct.pack("<II", 0xFFFFFFFC, 0))
        else:
            self.point(at, place, 0, data_words | pointers << 16)
        return place, (place[0], place[1] + data_words)

    def new_bytes(self, at, data):
        """A Data, or a Text if the caller added the NUL."""
        words = (len(data) + WORD - 1) // WORD
        if words == 0:
            # Of no size: anywhere will do, so it lies right behind its pointer.
            self.put(at, struct.pack("<II", 1, 2))
            return
        place = self.allocate(words)
        self.put(place, data)
        self.point(at, place, 1, 2 | len(data) << 3)

    def new_list(self, at, count, data_words, pointers):
        """A list of structs; returns the elements' places, as `new_struct` does."""
        size = data_words + pointers
        tag = self.allocate(1 + count * size)
        self.put(tag, struct.pack("<II", count << 2, data_words | pointers << 16))
        self.point(at, tag, 1, 7 | count * size << 3)
        first = tag[1] + 1
        starts = [(tag[0], first + index * size) for index in range(count)]
        return [(start, (start[0], start[1] + data_words)) for start in starts]

    def finish(self):
        """The framed message."""
        head = struct.pack("<I", len(self.segments) - 1)
        head += b"".join(struct.pack("<I", len(s) // WORD) for s in self.segments)
        return head + bytes(-len(head) % WORD) + b"".join(self.segments)


class Struct:
    def __init__(self, reader, segment, word, data_words, pointers, depth):
        self.reader, self.segment, self.word = reader, segment, word
        self.data_words, self.pointers, self.depth = data_words, pointers, depth

    def number(self, byte, form):
        """A number of the data section; what lies beyond it reads as zero."""
        if byte + struct.calcsize(form) > self.data_words * WORD:
            return 0
        return struct.unpack_from(form, self.reader.segments[self.segment], self.word * WORD + byte)[0]

    def pointer(self, index):
        if index >= self.pointers:
            return None
        return self.reader.follow(self.segment, self.word + self.data_words + index, self.depth + 1)

    def data(self, index):
        found = self.pointer(index)
        if found is None:
            return b""
        if not isinstance(found, (bytes, memoryview)):
            raise Malformed("not a list of bytes")
        return bytes(found)

    def text(self, index):
        """A Text as bytes, which need not be UTF-8; null is empty."""
        data = self.data(index)
        if data and data[-1] != 0:
            raise Malformed("a text without its NUL")
        return data[:-1]

    def structs(self, index):
        found = self.pointer(index)
        if found is None:
            return []
        if not isinstance(found, list):
            raise Malformed("not a list of structs")
        return found


class Reader:
    """Reads one framed message from the start of `data`; `size` is how many bytes it took."""

    def __init__(self, data, nesting=128):
        if len(data) < 4:
            raise Malformed("no message")
        count = struct.unpack_from("<I", data)[0] + 1
        if count > 512:
            raise Malformed("more than 512 segments")
        head = (4 + 4 * count + WORD - 1) // WORD * WORD
        if len(data) < head:
            raise Malformed("cut in its head")
        sizes = struct.unpack_from(f"<{count}I", data, 4)
        self.size = head + sum(sizes) * WORD
        if len(data) < self.size:
            raise Malformed("cut")
        self.segments, at = [], head
        for words in sizes:
            self.segments.append(memoryview(data)[at : at + words * WORD])
            at += words * WORD
        self.words_left, self.nesting = sum(sizes), nesting

    def root(self):
        found = self.follow(0, 0, 0)
        if not isinstance(found, Struct):
            raise Malformed("no root struct")
        return found

    def word(self, segment, word):
        if segment >= len(self.segments) or not 0 <= word < len(self.segments[segment]) // WORD:
            raise Malformed("a pointer out of bounds")
        return struct.unpack_from("<II", self.segments[segment], word * WORD)

    def span(self, segment, word, words):
        if segment >= len(self.segments) or word < 0 \
                or word + words > len(self.segments[segment]) // WORD:
            raise Malformed("an object out of bounds")
        # So that many pointers to one large object cannot blow up.
        self.words_left -= words
        if self.words_left < 0:
            raise Malformed("more words used than it has")
        return self.segments[segment][word * WORD : (word + words) * WORD]

    def follow(self, segment, word, depth):
        """What the pointer at this place points to: a Struct, a list of them, bytes, or None."""
        if depth > self.nesting:
            raise Malformed("nested too deeply")
        low, high = self.word(segment, word)
        if low == high == 0:
            return None
        base = word + 1
        if low & 3 == 2:
            pad_segment, pad, double = high, low >> 3, low & 4
            low, high = self.word(pad_segment, pad)
            if double:
                if low & 7 != 2:
                    raise Malformed("a double-far pointer that leads to no far pointer")
                segment, base = high, low >> 3
                low, high = self.word(pad_segment, pad + 1)
            else:
                segment, base = pad_segment, pad + 1
        if low & 3 == 0:
            return self.read_struct(segment, base, low, high, depth)
        if low & 3 == 1:
            return self.read_list(segment, base, low, high, depth)
        raise Malformed("a pointer of a kind that has no place here")

    @staticmethod
    def offset(low):
        return (low >> 2) - (1 << 30 if low & 1 << 31 else 0)

    def read_struct(self, segment, base, low, high, depth):
        start, data_words, pointers = base + self.offset(low), high & 0xFFFF, high >> 16
        self.span(segment, start, data_words + pointers)
        return Struct(self, segment, start, data_words, pointers, depth)

    def read_list(self, segment, base, low, high, depth):
        start, kind, count = base + self.offset(low), high & 7, high >> 3
        if kind == 2:
            return self.span(segment, start, (count + WORD - 1) // WORD)[:count]
        if kind != 7:
            raise Malformed("a list of a kind that packages have not")
        self.span(segment, start, 1 + count)
        low, high = self.word(segment, start)
        elements, data_words, pointers = low >> 2, high & 0xFFFF, high >> 16
        if elements * (data_words + pointers) > count:
            raise Malformed("a list longer than itself")
        if data_words + pointers == 0:
            # Elements without a size cost nothing in the message, and something here.
            self.words_left -= elements
            if self.words_left < 0:
                raise Malformed("more words used than it has")
        return [
            Struct(self, segment, start + 1 + index * (data_words + pointers), data_words, pointers,
                   depth + 1)
            for index in range(elements)
        ]
