"""What comes after training: predictions in words, new lines, generated text, and texts on the results page."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.text import readers
from model.text.params import Params
from utils import InputError, read_bytes

if TYPE_CHECKING:
    from torch import Tensor

READS = ("target", "text_column", "label_column")  # the hyperparameters that `fetch_inputs` depends on
READS_STDIN = True
SHOWN = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"})  # a space separates tokens


def predictions(outputs: Tensor, labels: Tensor | None, params: Params) -> list[dict[str, Any]]:
    """Return one dict a text or window: prediction, confidence, and, unless labels is None, label and loss.

    For `next`, prediction and label are tokens that are separated by spaces, and the numbers are means over them.
    `worst` is the least expected token in its context: the text before it, the token, and the token that was predicted.
    """
    import torch.nn.functional as F

    names = params.facts["classes"] if params.target == "label" else shown_tokens(params)
    confidences, predicted = outputs.softmax(-1).max(-1)  # (B,) or (B, L)
    known = predicted if labels is None else labels
    losses = F.cross_entropy(outputs.movedim(-1, 1), known, reduction="none")  # 0 where the label is -100
    rows: list[dict[str, Any]] = []
    for i, is_scored in enumerate(known >= 0):
        found, true = ([names[n] for n in each[i][is_scored].flatten().tolist()] for each in (predicted, known))
        row = {"prediction": " ".join(found), "confidence": float(confidences[i][is_scored].mean())}
        if labels is not None:
            row |= {"label": " ".join(true), "loss": float(losses[i][is_scored].mean())}
            if params.target == "next":
                t = int(losses[i].argmax())
                row["worst"] = f"{''.join(true[max(0, t - 30) : t])}[{true[t]}], not [{found[t]}]"
        rows.append(row)
    return rows


def shown_tokens(params: Params) -> list[str]:
    """Return each token as a text without spaces."""
    if params.tokens == "bytes":
        names = [chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in range(256)]
    elif params.tokens == "characters":
        names = list(params.facts["characters"])
    else:
        tokenizer = readers.fetch_tokenizer(params)
        names = [tokenizer.decode([number]) for number in range(tokenizer.get_vocab_size())]
    return [name.translate(SHOWN) if name.strip() or name.translate(SHOWN) != name else repr(name) for name in names]


def probabilities(outputs: Tensor, _: Tensor | None, params: Params) -> list[dict[str, float]]:
    """Return the probability of each class, one dict a text; raise InputError for target=next."""
    if params.target == "next":
        raise InputError("--probabilities: this run predicts next tokens, not classes; leave the flag out")
    return [dict(zip(params.facts["classes"], row, strict=True)) for row in outputs.softmax(-1).tolist()]


def fetch_unlabelled(paths: Sequence[Path], params: Params) -> Iterator[tuple[str, str | InputError]]:
    """Yield the texts of UTF-8 files (`-`: standard input) with their names, or an InputError for a broken one.

    A .csv or .jsonl file has a text in the column text_column; any other file has a text in each line, in which \\n
    stands for the end of a line.
    """
    for path in paths:
        try:
            if path.suffix in (".csv", ".jsonl"):
                for line, row in readers.read_rows(path):
                    yield f"{path}:{line}", readers.cell(row, params.text_column, f"{path}:{line}")
                continue
            lines = sys.stdin.buffer if str(path) == "-" else read_bytes(path).splitlines(keepends=True)
            for number, line in enumerate(lines, start=1):
                yield f"{path}:{number}", _line(line, f"{path}:{number}")
        except InputError as error:
            yield str(path), error
        except OSError as error:
            yield str(path), InputError(f"{path}: cannot be read ({error.strerror})")


def _line(line: bytes, where: str) -> str | InputError:
    try:
        return line.decode().rstrip("\r\n").replace("\\n", "\n") or InputError(f"{where}: is an empty line")
    except UnicodeDecodeError as error:
        return InputError(f"{where}: is not UTF-8 ({error.reason})")


def show_unlabelled(example: str) -> dict[str, str]:
    """Return the column that shows a new text beside its prediction."""
    return {"text": example}


def collate_unlabelled(examples: Sequence[str], params: Params) -> tuple[Tensor, None]:
    """Return the tokens of texts to label, (B, L)."""
    from model.text.data_loader import encode_texts, pad

    return pad(encode_texts(examples, params), params), None


def fetch_generator(model: Any, params: Params) -> Callable[..., Iterator[str]] | None:
    """Return a function that continues a prompt; None for target=label."""
    from model.text.generate import generate

    encode = readers.fetch_encoder(params)

    def continued(prompt: str, max_new_tokens: int = 200, **settings: Any) -> Iterator[str]:
        if not prompt:
            raise InputError("the prompt is empty; expected at least one token, for example a line end")
        tokens = generate(model.eval(), [*map(int, encode(prompt))], **{"seed": params.seed, **settings})
        return decoded(islice(tokens, max_new_tokens), params)

    return continued if params.target == "next" else None


def decoded(tokens: Iterable[int], params: Params) -> Iterator[str]:
    """Yield the text of tokens as it comes; a character of several tokens comes with its last one."""
    if params.tokens == "characters":
        yield from (params.facts["characters"][token] for token in tokens)
    elif params.tokens == "bytes":
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        yield from (decoder.decode(bytes([token])) for token in tokens)
        yield decoder.decode(b"", final=True)
    else:
        tokenizer, known, text = readers.fetch_tokenizer(params), list[int](), ""
        for token in tokens:
            known.append(token)
            if not (longer := tokenizer.decode(known)).endswith(readers.UNKNOWN):
                yield longer[len(text) :]
                text = longer


def describe_inputs(params: Params) -> dict[str, Any]:
    """Return how text becomes inputs and outputs become answers, for code outside this project."""
    how = {
        "bytes": "the bytes of the text in UTF-8",
        "characters": "each character's position in `characters`; 0 if it is not there",
        "pieces": "the ids that the `tokenizers` library gives with the tokenizer in `tokenizer`, no special tokens",
    }
    if params.target == "label":
        ending = f"cut each text after {params.context_length - 1} tokens, add `end`, and pad shorter ones with `pad`"
        outputs = "logits of `classes` for each text; softmax over the last axis gives probabilities"
    else:
        ending = f"give {params.context_length} tokens; fill up a shorter text at its end with any token"
        outputs = "logits of the token that follows each token; read them at the last token of the text"
    facts = {name: fact for name, fact in params.facts.items() if name != "token_bytes"}
    axes = {"inputs": ["batch_size", "length"]}
    return {"steps": [how[params.tokens], ending], "axes": axes, "outputs": outputs, **facts}


def fetch_inputs(ids: Collection[str], split: str, data_dir: Path, params: Params) -> dict[str, dict[str, Any]]:
    """Return id -> {"row": {"text": ...}} of labelled texts. (The labels of windows are their text.)"""
    if params.target == "next":
        return {}
    names, texts, _ = readers.read_labelled(split, data_dir, params)
    wanted = set(ids)
    return {name: {"row": {"text": text}} for name, text in zip(names, texts, strict=True) if name in wanted}
