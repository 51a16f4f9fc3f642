"""The task contract: what a folder in `model/` defines so that every script works on it.

    model/<task>/params.py
        class Params(utils.Params)          the task's own hyperparameters: typed, bounded, each with a default and a
                                            one-line description; `task` defaults to the folder's name and `data_dir`
                                            to the data that ships with it. Imports no torch.

    model/<task>/net.py
        Net(params)                         an nn.Module; called with the inputs of a batch, it returns outputs
        loss_fn(outputs, labels)            a scalar: the mean over the scored labels of the batch
        metrics                             dict of name -> fn(outputs, labels) -> (numerator, denominator)
        predictions(outputs, labels, params)   a list with one dict an example (never `id` or `error`, which are columns
                                            of the table already): `prediction`, `confidence` where there
                                            is one, and, unless labels is None, `label` and `loss`. Of a mask or a
                                            set of tags, lists; of large ones (all rows are kept until they are
                                            written), what there is to say in a few numbers, and no `label`
        probabilities(outputs, labels, params) (optional)   for predict.py --probabilities: a list with one dict an
                                            example: class -> probability, or a list of them, one for each tag
        fetch_metrics(params) (optional)    in the place of `metrics`, where they need hyperparameters or facts
        lower_is_better      (optional)     set of the names of metrics that are errors; the others are scores
        initialize(model, params) (optional)   give a new run its first weights, where they are not random: pretrained
                                            ones; not called where a checkpoint follows
        train_loss_fn(params) (optional)    the loss to train on, where it has hyperparameters of its own
                                            (label smoothing, class weights); the default is loss_fn

    model/<task>/data_loader.py
        fetch_facts(data_dir, params)       dict of what the data decides: class names, vocabulary, sizes. Plain values
                                            only. Read once, at the start of training, from the train split (the names
                                            of labels from the others too, if need be); stored in the checkpoint; found
                                            in `params.facts` by everything below and by Net.
                                            `classes`, a list of names, if it is there, is what evaluate.py reports by:
                                            labels and predictions in the rows of `predictions` are then among them,
                                            or lists, or left out: then there is no confusion matrix
        fetch_dataset(split, data_dir, params)   a map-style Dataset of (inputs, labels) for 'train', 'val' or 'test'
        collate_fn           (optional)     as in torch.utils.data.DataLoader
        fetch_unlabelled(paths, params) (optional)   for predict.py: yields (id, example) of new inputs in the files and
                                            folders that the user named, reading no more than it is asked for; in the
                                            place of one that cannot be read, the InputError that says why
        READS_STDIN          (optional)     True where fetch_unlabelled takes the path `-` for standard input; else
                                            predict.py refuses it
        collate_unlabelled(examples, params) (optional)   makes a batch of these examples, as the dataset does of its
                                            own: (inputs, labels), where labels are -100 at padding and anything
                                            elsewhere, or None if there is no padding; may raise InputError, too.
                                            Without it, they are stacked: examples are inputs of the net already
        show_unlabelled(example) (optional)   for predict.py: columns that show a new input beside its prediction
        describe_inputs(params) (optional)  for export.py: a dict of plain values, all that code without ours has to
                                            know: `steps` from a file to the inputs, in words, and what they need (mean,
                                            vocabulary); what `outputs` mean; `classes`; `axes`: input -> their names

    model/<task>/show.py     (optional)
        fetch_inputs(ids, split, data_dir, params)   what the examples of these ids look like, for a page of results:
                                            id -> {"image": a PIL image}, {"tokens": [...]} or {"row": {name: cell}};
                                            where the example has a file of its own, with its path as "source": the
                                            page is for those only who may read it. Imports no torch.
        READS                               the names of the hyperparameters that it looks at

A dataset may have, besides `__len__` and `__getitem__` (an attribute of such a name that is something else is refused):

        __getitems__(indices)               the whole batch at once, where that is faster: a tuple is taken for the
                                            finished batch, a list for examples that are still to be collated
        fetch_raw(indices), finish(raw)     the same in two halves, for GPUs: (raw, labels), which is small and quick to
                                            fetch, and the inputs, which the GPU makes of `raw`, a tuple of tensors
        move_to(device), nbytes             besides those two: a GPU keeps the split where that takes little of its
                                            memory, and `fetch_raw` then returns what is there. For `in_memory` ones
                                            without `lengths`, whose inputs are one tensor. `finish` may then be given
                                            several batches at once: what it makes of an example, random numbers too,
                                            is to depend on its `raw` alone
        set_epoch(epoch)                    called before each fetch, for augmentation keyed by `runtime.example_draws`
        augment                             whether it augments; set to False where the train split is only evaluated
        in_memory                           True if loading costs nothing, so that worker processes would not help
        lengths                             of each example, to train on batches of similar length
        ids                                 a name for each example (a file, a line), str or int, for the predictions'
                                            table

One that is a torch.utils.data.TensorDataset (inputs, labels), and adds no way of its own to fetch an example, is the
fastest there is: batches are cut from its tensors.

A metric is a ratio of sums: numerators and denominators are added up over the split and divided once, so it is exact
for any batch size and any number of processes. They may be vectors, one entry a class. The ratios are then averaged
over the classes that occur in labels or predictions (macro average, as in scikit-learn): over the entries where any
metric of the same length has a numerator or denominator other than 0. So define macro recall or macro F1 beside a macro
precision, which alone cannot tell a class that is never predicted from one that is not there. Of a class that occurs,
0 / 0 counts as 0. A metric that is a function of the ratio carries it as its attribute `finish`
(`rmse.finish = torch.sqrt`). Labels of -100 are not scored, but for a regression's (floats, one an example), where it
is a number as any other. Inputs and outputs are a tensor, or a tuple or dict of tensors, each of them batch first (an
auxiliary loss too: one number an example); labels are a tensor, batch first.

A task imports `utils` and `runtime`, never a script, another task, or the files beside this one.
"""
