"""The trainer's options: frozen dataclasses, parsed by tyro and written into each checkpoint.

    train             TrainConfig, which holds all others, and DataConfig
    model             sizes of the bundled model; open_clip, a model of open_clip in its place
    selection         how sub-batches are chosen, with schedule and proxy
    selection_checks  which options of selection have an effect under which choice
    optimizer         AdamW, its learning rate and the average of the weights
    held_out          what is measured on held-out data
    log               what is written down
    presets           configurations to start from
    options           a configuration as plain values

Nothing here imports the rest of the trainer: a configuration is data, and others build from it. A
new option is a field with a docstring, which is its help.
"""
