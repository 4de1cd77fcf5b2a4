"""General tools of all rooms: errors, options, files, environment, devices, processes, metrics, results, plots.

Nothing here knows a model, a data set or a codec.
"""
