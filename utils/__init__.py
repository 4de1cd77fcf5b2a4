"""General tools of all rooms: errors, options, files, environment, devices, processes, metrics, results, plots.

Nothing here knows a model, a data set or a codec.
"""

import warnings

# torch_geometric, which CompressAI imports, uses a deprecated part of torch.
warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
