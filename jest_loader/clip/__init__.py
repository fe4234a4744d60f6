"""The bundled CLIP trainer: the reference consumer of ``JestDataset``.

    commands       what is typed: train, evaluate, cache, verify-cache, export-open-clip
    train          the loop; start, how a run begins or goes on
    run            what changes from step to step, and what a checkpoint holds of it
    cost           what a run costs, by the cost model
    journal        logs and progress
    evaluation     zero-shot accuracy and retrieval on held-out data
    loading        from shards to the JestDataset that is trained on
    saving         checkpoints
    step           loss, gradients and optimizer of one training step
    models         the bundled model and those of open_clip
    config         the options, plain data
    processes      devices and processes; stop, when to save and end

Read ``train`` first. Users touch the commands; everything here may change.
"""
