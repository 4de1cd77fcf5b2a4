"""Training: the parts of the loop in train.py.

- `run` sets them up from the arguments.
- `state` and `progress` are what training changes; `checkpoints` saves it and `resume` reads it back.
- `data` and `sampler` load batches; `steps` and `losses` compute gradients.
- `distributed` connects several processes.
- `reporter`, `log` and `run_folder` print and record.
- `checks` refuses what cannot work.
"""
