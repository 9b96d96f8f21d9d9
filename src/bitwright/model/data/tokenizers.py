"""Text to token ids: BERT's WordPiece and the byte-pair merges of llama2.c."""

import re
import struct
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import final

BEGIN_OF_STORY = 1
FIRST_BYTE_TOKEN = 3  # ids below are <unk>, <s> and </s>
LONGEST_WORD = 100  # characters; BERT maps longer words to [UNK]


@final
@dataclass(frozen=True)
class WordPiece:
    """Uncased BERT tokens: longest pieces first, `##` before a piece inside a word. Devlin et al., arXiv:1810.04805."""

    ids: dict[str, int]

    @classmethod
    def load(cls, file: Path) -> "WordPiece":
        """One piece a line, numbered from 0."""
        return cls({piece: index for index, piece in enumerate(file.read_text(encoding="utf-8").splitlines())})

    def encode(self, text: str, *, longest: int) -> list[int]:
        """[CLS] pieces [SEP], cut to `longest` ids."""
        pieces = [piece for word in split_words(text) for piece in self.pieces(word)]
        return [self.ids["[CLS]"], *pieces[: longest - 2], self.ids["[SEP]"]]

    def pieces(self, word: str) -> list[int]:
        unknown = [self.ids["[UNK]"]]
        if len(word) > LONGEST_WORD:
            return unknown
        found, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            stop = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in self.ids), None)
            if stop is None:
                return unknown
            found.append(self.ids[prefix + word[start:stop]])
            start = stop
        return found


def split_words(text: str) -> Iterator[str]:
    """Words in lower case without accents; every punctuation mark and every CJK character is a word."""
    kept = (character for character in text if not is_control(character))
    plain = "".join(f" {character} " if is_cjk(character) else character for character in kept).lower()
    for word in unicodedata.normalize("NFD", plain).split():
        letters = ""
        for character in word:
            if is_punctuation(character):
                yield from (part for part in (letters, character) if part)
                letters = ""
            elif unicodedata.category(character) != "Mn":
                letters += character
        if letters:
            yield letters


def is_control(character: str) -> bool:
    is_replaced = character in "\x00\ufffd"
    return is_replaced or (unicodedata.category(character).startswith("C") and character not in "\t\n\r")


def is_punctuation(character: str) -> bool:
    """Unicode's punctuation, and ASCII's symbols too."""
    is_ascii_symbol = character.isascii() and character.isprintable() and not character.isalnum() and character != " "
    return is_ascii_symbol or unicodedata.category(character).startswith("P")


def is_cjk(character: str) -> bool:
    blocks = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))
    return any(first <= ord(character) <= last for first, last in blocks)


@final
@dataclass(frozen=True)
class StoryTokenizer:
    """Merges adjacent pieces, best score first, as SentencePiece's BPE does; unknown characters become bytes.

    Merges never cross the blank that starts a word, because no piece has a blank inside; words are merged once.
    """

    ids: dict[bytes, int]
    scores: tuple[float, ...]
    known: dict[bytes, list[int]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(cls, file: Path) -> "StoryTokenizer":
        """llama2.c: the longest length, then score, length and bytes of every piece."""
        content, position = file.read_bytes(), 4
        pieces: list[bytes] = []
        scores: list[float] = []
        while position < len(content):
            score, length = struct.unpack_from("<fi", content, position)
            position += 8
            scores.append(score)
            pieces.append(content[position : position + length])
            position += length
        if any(b" " in piece[1:] for piece in pieces):
            raise ValueError(f"{file}: a piece has a blank inside; words cannot be merged one by one")
        return cls({piece: index for index, piece in enumerate(pieces)}, tuple(scores))

    def encode(self, text: str, *, longest: int) -> list[int]:
        """Begin token and the pieces of the text after a blank, cut to `longest` ids."""
        ids = [BEGIN_OF_STORY]
        for word in re.findall(" [^ ]*", f" {text}"):
            ids += self.encode_word(word)
            if len(ids) >= longest:
                break
        return ids[:longest]

    def encode_word(self, word: str) -> list[int]:
        stored = word.encode()
        if stored not in self.known:
            self.known[stored] = self.merge(word)
        return self.known[stored]

    def merge(self, word: str) -> list[int]:
        pieces = [piece for character in word for piece in self.start(character)]
        while True:
            joined = [first + second for first, second in pairwise(pieces)]
            known = [index for index, piece in enumerate(joined) if piece in self.ids]
            if not known:
                return [self.id_of(piece) for piece in pieces]
            best = max(known, key=lambda index: self.scores[self.ids[joined[index]]])
            pieces[best : best + 2] = [joined[best]]

    def start(self, character: str) -> list[bytes]:
        content = character.encode()
        return [content] if content in self.ids else [bytes((byte,)) for byte in content]

    def id_of(self, piece: bytes) -> int:
        return self.ids[piece] if piece in self.ids else FIRST_BYTE_TOKEN + piece[0]
