"""The net that tags tokens, its loss, and the metrics."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fiveline.metrics import IGNORED_LABEL
from model.ner.entities import EntityCounter
from model.ner.params import Params
from model.ner.schemes import scheme_of
from utils import InputError

Metric = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class CharacterFeatures(nn.Module):
    """Reads a word's characters: a convolution over three at a time, and the largest value of each channel.

    Source: Ma and Hovy, End-to-end Sequence Labeling via Bi-directional LSTM-CNNs-CRF (2016).
    """

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(params.facts["characters"]), params.char_embedding_dim, padding_idx=0)
        self.conv = nn.Conv1d(params.char_embedding_dim, params.char_channels, 3, padding=1)

    def forward(self, chars: Tensor) -> Tensor:
        """Return features, (batch_size, max_len, char_channels), of numbers, (batch_size, max_len, max_word_len)."""
        words = chars.flatten(0, 1)  # (batch_size * max_len, max_word_len)
        s = self.embedding(words).transpose(1, 2)  # (batch_size * max_len, char_embedding_dim, max_word_len)
        s = F.relu(self.conv(s))  # (batch_size * max_len, char_channels, max_word_len)
        s = s * (words != 0).unsqueeze(1)  # nothing after the word's end, whatever the longest word of the batch
        return s.amax(dim=2).unflatten(0, chars.shape[:2])  # (batch_size, max_len, char_channels)


class Net(nn.Module):
    """CS230's net: an embedding, an LSTM, a linear layer; optionally characters and a second direction.

    Parameter names are CS230's, so its checkpoints load. A sentence's outputs do not depend on the rest of its batch.
    """

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.params = params
        self.pad = params.words.index(params.facts["pad_word"])
        self.dropout_rate = params.dropout_rate
        self.named_by = {"embedding.weight": "words", "characters.embedding.weight": "characters", "outputs": "tags"}
        self.embedding = nn.Embedding(len(params.words), params.embedding_dim)
        self.characters = CharacterFeatures(params) if params.char_channels else None

        def lstm() -> nn.LSTM:
            dropout = params.dropout_rate if params.num_layers > 1 else 0.0  # between the layers
            width = params.embedding_dim + params.char_channels
            return nn.LSTM(width, params.lstm_hidden_dim, params.num_layers, batch_first=True, dropout=dropout)

        self.lstm = lstm()
        self.lstm_reverse = lstm() if params.bidirectional else None
        self.fc = nn.Linear(params.lstm_hidden_dim * (2 if params.bidirectional else 1), len(params.tags))

    @torch.no_grad()
    def initialize(self) -> None:
        """Copy the word vectors of params.embedding_file; words that it lacks keep their random vectors."""
        if self.params.embedding_file is None:
            return
        words, dim = self.params.words, self.params.embedding_dim
        vectors = read_vectors(Path(self.params.embedding_file), words, dim)
        found = f"{self.params.embedding_file} has vectors for {len(vectors)} of {len(words)} words"
        if not vectors:
            raise InputError(f"embedding_file {found}; expected a word and embedding_dim={dim} numbers in each line")
        logging.info(f"- {found}")
        for row, word in enumerate(words):
            if word in vectors:
                self.embedding.weight[row] = torch.tensor(vectors[word])

    def forward(self, s: dict[str, Tensor]) -> Tensor:
        """Return logits, (batch_size, max_len, num_tags).

        `s` has `words`, (batch_size, max_len), and, with char_channels, `chars`, (batch_size, max_len, max_word_len).
        """
        words = s["words"]
        features = self.embedding(words)  # (batch_size, max_len, embedding_dim)
        if self.characters is not None:
            features = torch.cat([features, self.characters(s["chars"])], dim=2)  # (..., embedding_dim + char_channels)
        features = F.dropout(features, self.dropout_rate, self.training)
        hidden, _ = self.lstm(features)  # (batch_size, max_len, lstm_hidden_dim)
        if self.lstm_reverse is not None:
            order = reversal(words != self.pad).unsqueeze(2)  # (batch_size, max_len, 1)
            turned, _ = self.lstm_reverse(features.gather(1, order.expand_as(features)))
            turned = turned.gather(1, order.expand_as(turned))  # (batch_size, max_len, lstm_hidden_dim)
            hidden = torch.cat([hidden, turned], dim=2)  # (batch_size, max_len, lstm_hidden_dim * 2)
        hidden = F.dropout(hidden, self.dropout_rate, self.training)
        return self.fc(hidden)  # (batch_size, max_len, num_tags)


def read_vectors(path: Path, words: Sequence[str], embedding_dim: int) -> dict[str, list[float]]:
    """Return the words' vectors from a file in GloVe's text format; a word that it lacks may get its lower case's."""
    wanted = {*words, *(word.lower() for word in words)}
    found: dict[str, list[float]] = {}
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                word, *texts = line.rstrip().rsplit(" ", embedding_dim)  # a few of GloVe's words have spaces
                is_header = number == 1 and len(line.split()) == 2  # word2vec's number and length of the vectors
                if word not in wanted or (is_header and line.replace(" ", "").rstrip().isdigit()):
                    continue
                vector: list[float] = []
                with contextlib.suppress(ValueError):
                    vector = [value for value in map(float, texts) if math.isfinite(value)]
                if len(vector) != embedding_dim:
                    where = f"embedding_file {path}:{number}"
                    raise InputError(f"{where}: expected {embedding_dim} finite numbers after {word!r}: {line[:60]!r}")
                found[word] = vector
    except OSError as error:
        raise InputError(f"embedding_file {path}: cannot be read ({error.strerror})") from None
    return {word: found[key] for word in words for key in (word.lower(), word) if key in found}


def reversal(is_token: Tensor) -> Tensor:
    """Return positions, (batch_size, max_len), that reverse each sentence and leave its padding at the end.

    Gathering with them twice restores the order. pack_padded_sequence would be several times slower on a CPU, and would
    wait for a GPU.
    """
    places = torch.arange(is_token.shape[1], device=is_token.device)
    return torch.where(is_token, is_token.sum(dim=1, keepdim=True) - 1 - places, places)


def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over the tokens; torch.nn.functional.cross_entropy does the same.

    Outputs are logits, (batch_size, max_len, num_tags); labels, (batch_size, max_len), are -100 at padding.
    """
    mask = labels != IGNORED_LABEL  # (batch_size, max_len)
    weights = mask / mask.sum()  # (batch_size, max_len)
    log_probabilities = F.log_softmax(outputs, dim=2)  # (batch_size, max_len, num_tags)
    # at padding any tag will do, because its weight is 0
    chosen = log_probabilities.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)  # (batch_size, max_len)
    return -(chosen * weights).sum()


def metrics(params: Params) -> dict[str, Metric]:
    """Return the metrics: accuracy over tokens; precision, recall and f1 over entities, as CoNLL counts them."""
    # cached: all four metrics need the counts of the same batch
    count = functools.lru_cache(maxsize=1)(EntityCounter(params.tags, scheme_of(params.facts)).count)

    def ratio(choose: Callable[..., tuple[Tensor, Tensor]]) -> Metric:
        # vectors of one entry, because a scalar 0 / 0 is NaN: a net that finds nothing has precision 0
        return lambda outputs, labels: choose(*count(outputs, labels).split(1))

    return {
        "accuracy": ratio(lambda tokens, right, *_: (right, tokens)),
        "precision": ratio(lambda tokens, right, true, predicted, found: (found, predicted)),
        "recall": ratio(lambda tokens, right, true, predicted, found: (found, true)),
        "f1": ratio(lambda tokens, right, true, predicted, found: (2 * found, true + predicted)),
    }
