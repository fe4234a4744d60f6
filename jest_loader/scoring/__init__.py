"""From a super-batch to scores: scorers, the embedders that they are made of, and the scores.

    learnability        Learnability, EasyReference, HardLearner: scores of embeddings
    per_example         PerExample: scores of one loss per example
      groups              ids of examples that are not each other's negatives
    models              LiveLearner, FrozenReference: embedders that run a model
    online_proxy        OnlineProxy: an embedder that trains its model
      runner              runs a model on candidates, in micro-batches, without skipped rows
      memory              finds the micro-batch that fits into a memory budget
      wrappers            models in DDP, in FSDP or compiled
      shrink              makes images smaller for scoring
    calibration         a model's scale and bias at another batch size
    cross_fitted        CrossFitted: references of which one scores each super-batch, in turn
      turns               what is another one from step to step
    column_reference    ColumnReference: an embedder that reads columns of the batch
    scores              FactoredScores, ExampleScores: the scores that run
    dense               DenseScores, DenseSoftmaxScores: their specification, with all pairs
      embedding_checks    what scores require of embeddings

Users import from ``jest_loader``; a new scorer belongs here.
"""
