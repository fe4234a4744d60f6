"""The models that are trained: the bundled two towers, and those of open_clip.

``inputs`` says what is known of a model before it is built, ``architecture`` what builds it,
``model`` what the trainer calls. ``towers`` is the bundled model, with ``blocks``, ``conv``,
``flexi`` (FlexiViT's resizing) and ``tokenizer``; the ``open_clip_*`` files wrap models of
open_clip. ``trained`` chooses between the two. All of it may change, but names of weights are in
checkpoints.
"""
