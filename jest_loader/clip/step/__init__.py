"""The parts of a training step, in the order in which the loop calls them.

``generators`` seeds what is random, ``watched`` sums columns of the sub-batch, ``gradients`` runs
the model forward and backward with ``global_loss`` over all ranks, ``optimizer`` is the update with
its learning rate and the average of the weights, ``finite_check`` stops a run that has diverged.
All of it may change.
"""
