"""What the scripts share: checkpoints, distribution, metrics, losses, logs, results, plots.

Nothing here knows a model, a data set or a codec, `models.zoo` excepted: a script of its own.
"""
