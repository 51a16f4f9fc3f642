"""All checks, in the order in which a person would make them: data, settings, first steps, evaluation, time."""

from __future__ import annotations

from collections.abc import Callable

from fiveline.sanity.context import Context, Finding
from fiveline.sanity.data import augmentation, input_scale, label_counts
from fiveline.sanity.evaluation import batch_size, eval_mode, own_example, repeatable
from fiveline.sanity.fit import baseline, labels_fit
from fiveline.sanity.leaks import leaks, visible_answers
from fiveline.sanity.learning import gradients, initial_loss, logits, overfit_batch, zero_grad
from fiveline.sanity.rate import learning_rate
from fiveline.sanity.settings import hyperparameters
from fiveline.sanity.speed import duration, memory, step_time

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
