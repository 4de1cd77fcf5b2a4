"""Training: the parts of the loop in train.py.

- `run` sets them up from the arguments.
- `state` and `progress` hold what training changes; `checkpoints` saves them and `resume` reads them back.
- `data` and `sampler` load batches; `stepper` takes steps; `steps` and `losses` compute gradients.
- `distributed` connects several processes.
- `reporter`, `log` and `run_folder` print and record.
- `checks` refuses settings that cannot work.
"""
