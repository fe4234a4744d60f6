"""What selection costs in floating-point operations, before a run and after it.

``flops`` is the cost model, ``shapes`` the sizes of well-known models, ``estimate`` the command
``jest-loader cost``. ``flops.ExampleCost`` and ``estimate`` are for users, as docs/cost.md shows.
"""
