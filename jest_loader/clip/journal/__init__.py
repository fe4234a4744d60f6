"""What a run logs and shows while it trains.

``records`` makes the record of a step, ``logs`` writes records to JSON lines and to the logs that
were asked for, ``tensorboard_log`` and ``wandb_log``, which take their ``numbers``; ``progress`` is
the bar on the screen. All of it may change, except the names in log.jsonl, which docs/training.md
describes.
"""
