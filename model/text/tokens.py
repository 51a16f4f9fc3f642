"""Tokens: the bytes of a text, its characters, or the pieces of a tokenizer file. A token's id is its position."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from model.text.params import Params
from utils import InputError

UNKNOWN = "\ufffd"  # stands for each character that train lacks


def fetch_encoder(params: Params) -> Callable[[Any], list[int] | np.ndarray]:
    """Return the function that turns a piece of text into the ids of its tokens; params has the facts."""
    if params.tokens == "bytes":
        return lambda piece: np.frombuffer(piece if isinstance(piece, bytes) else piece.encode(), np.uint8)
    if params.tokens == "pieces":
        tokenizer = fetch_tokenizer(params)
        return lambda piece: tokenizer.encode(piece, add_special_tokens=False).ids
    characters = params.facts["characters"]
    table = np.full(0x110000, characters.index(UNKNOWN), np.uint32)  # code point -> number
    table[[ord(character) for character in characters]] = range(len(characters))
    return lambda piece: table[np.frombuffer(piece.encode("utf-32-le"), np.uint32)]


def fetch_tokenizer(params: Params) -> Any:
    """Return the tokenizer of the facts, or else of params.tokenizer_file; InputError if it cannot be read."""
    try:
        from tokenizers import Tokenizer

        held = params.facts.get("tokenizer")  # stored in a checkpoint
        tokenizer = Tokenizer.from_str(held) if held else Tokenizer.from_file(str(params.tokenizer_file))
    except ImportError:
        raise InputError("tokens=pieces needs the tokenizers library: pip install tokenizers") from None
    except Exception as error:  # the library raises Exception itself
        raise InputError(f"tokenizer_file {params.tokenizer_file}: cannot be read ({error})") from None
    tokenizer.no_truncation()  # a tokenizer file may set both
    tokenizer.no_padding()
    return tokenizer


def fetch_vocabulary(params: Params) -> list[bytes]:
    """Return each token in UTF-8, which may be a part of a character; a special piece stands for itself."""
    if params.tokens == "bytes":
        return [bytes([byte]) for byte in range(256)]
    if params.tokens == "characters":
        return [character.encode() for character in params.facts["characters"]]
    tokenizer = fetch_tokenizer(params)
    pieces = [tokenizer.id_to_token(i) or "" for i in range(max(tokenizer.get_vocab().values(), default=-1) + 1)]
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2 writes each of these bytes as itself
    hidden = [byte for byte in range(256) if byte not in shown]
    byte_of = {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
    if type(tokenizer.decoder).__name__ != "ByteLevel" or byte_of.keys() - set(pieces):
        expected = "a byte-level tokenizer that has all 256 bytes, see docs/text.md"
        raise InputError(f"tokenizer_file {params.tokenizer_file}: expected {expected}")
    return [piece.encode() if set(piece) - byte_of.keys() else bytes(byte_of[c] for c in piece) for piece in pieces]


def decoded(tokens: Iterable[int], params: Params) -> Iterator[str]:
    """Return an iterator over the text of tokens; a character of several tokens comes with the last of them."""
    vocabulary = fetch_vocabulary(params)
    return codecs.iterdecode((vocabulary[token] for token in tokens), "utf-8", "replace")


def shown_tokens(params: Params) -> list[str]:
    """Return a visible name of each token, without spaces, because a space separates two tokens."""
    visible = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"})
    names = [token.decode("utf-8", "backslashreplace").translate(visible) or "∅" for token in fetch_vocabulary(params)]
    return ["".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in name) for name in names]
