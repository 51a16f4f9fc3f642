"""The net that tags tokens, its loss, and the metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.ner.embeddings import load_vectors
from model.ner.entities import IGNORED_LABEL, EntityCounter
from model.ner.params import Params
from model.ner.schemes import scheme_of


class CharacterFeatures(nn.Module):
    """Reads a word's characters: a convolution over three at a time, and the largest value of each channel.

    Args:
        params: char_embedding_dim, char_channels, and the characters in its facts

    Source: Ma and Hovy, End-to-end Sequence Labeling via Bi-directional LSTM-CNNs-CRF (2016).
    """

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(params.facts["characters"]), params.char_embedding_dim, padding_idx=0)
        self.conv = nn.Conv1d(params.char_embedding_dim, params.char_channels, 3, padding=1)

    def forward(self, chars: Tensor) -> Tensor:
        """Return features, (batch_size, max_len, char_channels).

        Args:
            chars: character numbers, (batch_size, max_len, max_word_len), int64; 0 is padding
        """
        words = chars.flatten(0, 1)  # (batch_size * max_len, max_word_len)
        s = self.embedding(words).transpose(1, 2)  # (batch_size * max_len, char_embedding_dim, max_word_len)
        s = F.relu(self.conv(s))  # (batch_size * max_len, char_channels, max_word_len)
        s = s * (words != 0).unsqueeze(1)  # nothing after the word's end, whatever the longest word of the batch
        return s.amax(dim=2).unflatten(0, chars.shape[:2])  # (batch_size, max_len, char_channels)


class Net(nn.Module):
    """CS230's net: an embedding, an LSTM, a linear layer; where asked for, characters and a second direction.

    Parameter names are CS230's, so its checkpoints load. A sentence's outputs do not depend on the rest of its batch.

    Args:
        params: sizes, dropout_rate, bidirectional, and the vocabulary in its facts
    """

    def __init__(self, params: Params) -> None:
        super().__init__()
        self._embedding_file, self._words = params.embedding_file, params.words
        self.pad = params.words.index(params.facts["pad_word"])
        self.dropout_rate = params.dropout_rate
        self.embedding = nn.Embedding(len(params.words), params.embedding_dim)
        self.characters = CharacterFeatures(params) if params.char_channels else None

        def lstm() -> nn.LSTM:
            dropout = params.dropout_rate if params.num_layers > 1 else 0.0  # between the layers
            width = params.embedding_dim + params.char_channels
            return nn.LSTM(width, params.lstm_hidden_dim, params.num_layers, batch_first=True, dropout=dropout)

        self.lstm = lstm()
        self.lstm_reverse = lstm() if params.bidirectional else None
        self.fc = nn.Linear(params.lstm_hidden_dim * (2 if params.bidirectional else 1), len(params.tags))

    def forward(self, s: dict[str, Tensor]) -> Tensor:
        """Return logits, (batch_size, max_len, num_tags).

        Args:
            s: `words`, (batch_size, max_len), int64, and with char_channels `chars`,
                (batch_size, max_len, max_word_len), int64
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

    def initialize(self) -> None:
        """Start from the word vectors of params.embedding_file, if there is one.

        Raises:
            InputError: the file is missing, broken, or has vectors of another size
        """
        if self._embedding_file is not None:
            load_vectors(self.embedding.weight, self._words, Path(self._embedding_file))


def reversal(is_token: Tensor) -> Tensor:
    """Return the positions that turn each sentence around and leave its padding at the end; applied twice, nothing.

    The same as pack_padded_sequence does for an LSTM of two directions, but without waiting for the device, and
    several times as fast on a CPU.

    Args:
        is_token: (batch_size, max_len), bool

    Returns:
        (batch_size, max_len), int64
    """
    places = torch.arange(is_token.shape[1], device=is_token.device)
    return torch.where(is_token, is_token.sum(dim=1, keepdim=True) - 1 - places, places)


def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy, written out; torch.nn.functional.cross_entropy does the same.

    Args:
        outputs: logits, (batch_size, max_len, num_tags)
        labels: tag numbers, (batch_size, max_len), int64; -100 at padding, which does not count

    Returns:
        scalar, the mean over the tokens of the batch
    """
    mask = labels != IGNORED_LABEL  # (batch_size, max_len)
    weights = mask / mask.sum()  # (batch_size, max_len)
    log_probabilities = F.log_softmax(outputs, dim=2)  # (batch_size, max_len, num_tags)
    # at padding any tag will do, because its weight is 0
    chosen = log_probabilities.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)  # (batch_size, max_len)
    return -(chosen * weights).sum()


def metrics(params: Params) -> dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Return the metrics: accuracy over tokens; precision, recall and f1 over entities, as CoNLL counts them."""
    counter = EntityCounter(params.tags, scheme_of(params.facts))

    def accuracy(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Count the tokens whose largest logit is the label's; of all tokens."""
        return (counter.predict(outputs) == labels).sum(), (labels != IGNORED_LABEL).sum()

    def precision(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Count the entities rightly found; of those found."""
        _, num_predicted, hits = counter.count(outputs, labels)
        return hits, num_predicted

    def recall(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Count the entities rightly found; of those that are there."""
        num_true, _, hits = counter.count(outputs, labels)
        return hits, num_true

    def f1(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Count twice the entities rightly found; of those found plus those that are there."""
        num_true, num_predicted, hits = counter.count(outputs, labels)
        return 2 * hits, num_true + num_predicted

    return {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1}


def predictions(outputs: Tensor, labels: Tensor | None, params: Params) -> list[dict[str, Any]]:
    """Return one dict a sentence: the predicted tags and their mean probability, and, where known, tags and mean loss.

    Args:
        outputs: logits, (batch_size, max_len, num_tags), on the CPU
        labels: (batch_size, max_len), -100 at padding; None for sentences without, all of max_len tokens
        params: for the tags' names
    """
    confidences, predicted = outputs.softmax(dim=2).max(dim=2)  # both (batch_size, max_len)
    known = torch.zeros_like(predicted) if labels is None else labels
    losses = F.cross_entropy(outputs.transpose(1, 2), known, reduction="none")  # (batch_size, max_len)
    rows = []
    for i, mask in enumerate(known != IGNORED_LABEL):
        row = {"prediction": _names(predicted[i][mask], params), "confidence": float(confidences[i][mask].mean())}
        if labels is not None:
            row |= {"label": _names(labels[i][mask], params), "loss": float(losses[i][mask].mean())}
        rows.append(row)
    return rows


def probabilities(outputs: Tensor, labels: Tensor | None, params: Params) -> list[dict[str, list[float]]]:
    """Return one dict a sentence: for each tag, its probability for each token.

    Args:
        outputs: logits, (batch_size, max_len, num_tags), on the CPU
        labels: (batch_size, max_len), -100 at padding; None for sentences without padding
        params: for the tags' names
    """
    masks = torch.ones(outputs.shape[:2], dtype=torch.bool) if labels is None else labels != IGNORED_LABEL
    every = zip(outputs.softmax(dim=2), masks, strict=True)
    return [dict(zip(params.tags, each[mask].T.tolist(), strict=True)) for each, mask in every]


def _names(numbers: Tensor, params: Params) -> str:
    return " ".join(params.tags[number] for number in numbers.tolist())
