"""Tools that all other packages share.

Nothing here depends on a model, a data set or a codec of this project.
"""

import warnings

# torch_geometric, which CompressAI imports, uses a deprecated part of torch.
warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
