"""The task contract: what a folder in `model/` defines so that every script works on it.

    params.py        imports no torch
        class Params(utils.Params)       the task's own hyperparameters: typed, bounded, each with a default and a
                                         one-line description; `task` defaults to the folder's name, `data_dir` to
                                         the data that ships with it
    net.py
        Net(params)                      an nn.Module, called with the inputs of a batch; it returns the outputs. It may
                                         have a method `initialize()`, called for new runs without --restore_file,
                                         and what `pretrained` needs, as fiveline/options/pretrained.py describes it
        loss_fn(outputs, labels)         a scalar: the mean over the scored labels of the batch
        metrics                          dict of name -> fn(outputs, labels) -> (numerator, denominator), or a function
                                         of params that returns it
        train_loss_fn(params)  optional  returns the loss to train on, if it has hyperparameters; default: loss_fn
    data_loader.py
        fetch_dataset(split, data_dir, params)   a map-style Dataset of (inputs, labels): 'train', 'val' or 'test'
        collate_fn             optional  as in torch.utils.data.DataLoader
        fetch_facts(data_dir, params)  optional  dict of facts about the data (class names, vocabulary), plain values
                                         only. It is read once, stored in the checkpoint, and found in `params.facts`.
                                         `classes`, a list of names, gives the report its classes
    serve.py         optional: what comes after training; imports no torch at import; each name is optional
        predictions(outputs, labels, params)     a list with one dict per example: `prediction`, `confidence`, and,
                                         unless labels is None, `label` and `loss`; lists for a mask or several tags
        probabilities(outputs, labels, params)   a list with one dict per example: class -> probability
        fetch_unlabelled(paths, params)  yields (id, example) of new inputs, or (id, InputError); READS_STDIN = True
                                         if it takes the path `-`
        collate_unlabelled(examples, params)     their batch: (inputs, labels), -100 at padding; or (inputs, None)
        show_unlabelled(example)         columns that show a new input beside its prediction
        fetch_generator(model, params)   returns a function (prompt, max_new_tokens, temperature, top_k, seed), all but
                                         the prompt by name, which yields the text that follows; None if it labels
        describe_inputs(params)          what a user of an exported program must know: `steps`, `outputs`, `axes`, ...
        fetch_inputs(ids, split, data_dir, params)   id -> {"image": ...}, {"tokens": ...} or {"row": ...} for the page
        READS                            the hyperparameters that fetch_inputs depends on
        suggest(data_dir, params)        before training, for train.py --init: the number of train examples, and a dict
                                         of hyperparameter -> (value, reason); InputError for data of another kind

A dataset may also have: `__getitems__(indices)`, which returns a list of examples, or a tuple, the finished batch;
`set_epoch(epoch)`, called before each training epoch: only a dataset that got this call augments; `lengths`, to train
on batches of similar length; `ids`, a name (str or int) for each example.

Inputs and outputs are a tensor, or a tuple or dict of tensors, batch first. Labels are a tensor, batch first; -100 is
not scored, except in a regression (one float per example). Numerators and denominators are added up over the split and
divided once. They may be vectors, an entry per class; their ratios are averaged over the classes that a metric of this
length counts, so define macro recall beside macro precision. A metric may have attributes: `finish`, applied to the
ratio (`rmse.finish = torch.sqrt`), and `lower_is_better = True`.

A task imports `utils`, `fiveline.device`, `fiveline.metrics` and `fiveline.loading`; never a script or another task.
"""
