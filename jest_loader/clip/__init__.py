"""The bundled CLIP trainer: the reference consumer of ``JestDataset``.

``train`` is the training loop, ``run`` its state, ``start`` makes a run or continues one. The rooms
are ``config`` for options, ``loading`` for data and selection, ``models`` for the two towers,
``step`` for the parts of a training step, ``evaluation`` for held-out metrics, ``journal`` for logs
and progress, ``saving`` for checkpoints, and ``commands`` for what ``jest-loader`` runs. ``cost``
counts a run's operations, ``processes`` and ``stop`` handle ranks and signals.
Users call the command; ``train.train`` is the same from Python. All else may change.
"""
