"""All checks, in the order in which a person would make them: data, settings, first steps, evaluation, time."""

from __future__ import annotations

from collections.abc import Callable

from sanity.context import Context, Finding
from sanity.data import augmentation, input_scale, label_counts
from sanity.evaluation import batch_size, eval_mode, own_example, repeatable
from sanity.fit import baseline, labels_fit
from sanity.leaks import leaks, visible_answers
from sanity.learning import gradients, initial_loss, logits, overfit_batch, zero_grad
from sanity.rate import learning_rate
from sanity.settings import hyperparameters
from sanity.speed import duration, memory, step_time

CHECKS: list[Callable[[Context], Finding]] = [
    input_scale,
    label_counts,
    leaks,
    visible_answers,
    augmentation,
    hyperparameters,
    initial_loss,
    logits,
    gradients,
    zero_grad,
    overfit_batch,
    baseline,
    learning_rate,
    labels_fit,
    eval_mode,
    own_example,
    repeatable,
    batch_size,
    step_time,
    memory,
    duration,
]
