"""The trainer's options as they are typed."""

import re
from collections import Counter

from jest_loader.clip.config.options import default_options


def with_flags(message: str) -> str:
    """The message with ``--data.batch-size`` in place of ``data.batch_size``, and so on.

    Of a name without its group, like ``batch_size``, the group is added if there is but one. Names
    that are plain words, like ``steps``, are left as they are.
    """
    fields = list(default_options())
    groups = Counter(field.rpartition(".")[2] for field in fields)
    flags = {field: f"--{field.replace('_', '-')}" for field in fields}
    for field, flag in list(flags.items()):
        word = field.rpartition(".")[2]
        if groups[word] == 1:
            flags[word] = flag
    named = sorted((name for name in flags if "." in name or "_" in name), key=len, reverse=True)
    # Not in quotes, nor within a path or a longer name; a full stop after it is one.
    pattern = rf"(?<![\w./'\"-])({'|'.join(map(re.escape, named))})(?![\w/]|\.\w)"
    return re.sub(pattern, lambda found: flags[found[1]], message)
